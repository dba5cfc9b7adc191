"""The share of one process: its paths, and what its writers put their results into."""
from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from array import array
from collections import Counter
from itertools import count, islice, repeat
from operator import itemgetter
from typing import Any, Dict, Iterable, Iterator, List, NoReturn, Optional, Sequence, Set, Tuple

from ymir_exc import dataset_reader, monitor
from ymir_exc._files import write_bytes
from ymir_exc.code import ExecutorReturnCode as RC
from ymir_exc.env import DatasetType, current_env
from ymir_exc.errors import DatasetError, ImageError, ProgramError, ResultError, Stopped, StorageError, classify
from ymir_exc.images import are_too_many
from ymir_exc.result_writer._sharing import Part, Sharing
from ymir_exc.sharding._parts import Kept, Parts, digest, task_key
from ymir_exc.sharding._ranks import Record, Told, process_start, rank_and_world_size, told

_log = logging.getLogger(__name__)

_MOST_IN_BLOCK = 500
_LEAST_BLOCKS = 256    # of a short list, so that several processes have equal shares
_TICK_SECONDS = 0.2
_LONGEST_POLL_SECONDS = 0.5
_SAY_SECONDS = 60.0
_WORTH_NUMPY = 20_000
_NAMES_SHOWN = 3
_NOTHING = object()

_rounds: Dict[str, int] = {}
_given_up = [0.0]
"""How often this process has written the result of a folder, and when it last gave one up: what others said before that is no news."""


class _Block:
    """Images of this share that wait for results.

    Attributes:
        columns: For each writer the results, in the order of the paths.
        left: How many results are missing.
        skipped: The rows of images that were skipped.
    """

    def __init__(self, number: int, paths: List[str], writers: int) -> None:
        self.number, self.paths = number, paths
        self.columns: List[List[Any]] = [[_NOTHING] * len(paths) for _ in range(writers)]
        self.left = writers * len(paths)
        self.skipped: Set[int] = set()


class OneShare:
    """See `candidates`; `Share` is what the writers know of it."""

    def __init__(self, writers: Sequence[Sharing], block_size: Optional[int], order: str, max_skipped_ratio: float) -> None:
        # A number has always the same text only where the same function makes it, whatever this process wrote before.
        import pydantic_core    # noqa: F401, I001
        self._rank, self._world_size = rank_and_world_size()
        self._writers, self._order = list(writers), order
        self._lock = threading.RLock()
        self._total = dataset_reader.items_count(DatasetType.CANDIDATE)
        self._size = block_size or min(_MOST_IN_BLOCK, max(1, math.ceil(self._total / _LEAST_BLOCKS)))
        self._block_count = math.ceil(self._total / self._size)
        self._max_skipped_ratio = max_skipped_ratio
        self._skipped = 0    # images of this share, by this start or an earlier one
        self._with_skipped: Set[int] = set()    # the committed blocks that they are in
        self._is_skipping = False
        task = task_key()
        self._name = f"{task}-{digest([self._size, [writer._identity() for writer in writers]])}"
        self._parts = Parts(task, f"{self._name}-{_rounds.get(self._name, 0)}")
        self._since = max(process_start(), _given_up[0])
        self._record = Record(self._parts.path(f"rank-{self._rank}"))
        self._committed: Set[int] = set()    # those of this share, by this start or an earlier one
        self._earlier: Set[int] = set()
        self._open: Dict[int, _Block] = {}
        self._places: Dict[str, Tuple[_Block, int]] = {}
        self._puts = self._written = 0
        self._next_tick = 0.0
        self._is_complete = False
        self._started, self._at_first = time.monotonic(), 0    # how many images had results then
        self._done: Dict[int, int] = {}    # images, of each rank
        self._seen_alive: Set[int] = set()
        self._checked: Dict[int, Tuple[bool, List[int]]] = {}    # parts of other shares: whether they can be read, and when they were
        try:
            self._begin()
        except BaseException as e:
            self.abandon(e)
            raise
        self._mine = self._not_committed()
        for column, writer in enumerate(writers):
            writer._share, writer._column = self, column

    # ---------------------------------------------------------------------------------------------------------------- the beginning

    def _begin(self) -> None:
        monitor.should_stop()    # takes over SIGTERM
        present = self._parts.present()
        keys, is_infer = array("q"), any(writer.task == "infer" for writer in self._writers)
        for number, paths in self._blocks():
            keys.extend(map(hash, _names(paths) if is_infer else paths))
            kept = self._parts.read(number, paths) if number in present and number % self._world_size == self._rank else None
            if kept is not None:
                self._committed.add(number)
                self._count_skipped(number, kept.skipped)
        if self._are_too_many(self._skipped):    # it was killed before it said so, or more were allowed then
            self._try_again(self._with_skipped)
        self._refuse_doubles(_doubled(keys), is_infer)
        self._earlier = set(self._committed)
        for rank in range(self._world_size):
            self._done[rank] = self._lines(self._committed if rank == self._rank else present, rank)
        self._at_first = sum(self._done.values())
        self._record.write(self._done[self._rank])
        if self._rank == 0:
            self._parts.remove_strangers()
        else:
            self._look_whether_finished()
        if self._committed:
            _log.info("%d of the %d candidates of rank %d have results of an earlier start", self._done[self._rank],
                      self._lines(range(self._block_count), self._rank), self._rank)

    def _look_whether_finished(self) -> None:
        """This rank is so late that rank 0 had all parts, has written the result, and has removed them."""
        name = f"finished-{self._rank}"
        with contextlib.suppress(FileNotFoundError):
            is_news = os.stat(self._parts.path(name)).st_mtime >= self._since
            os.unlink(self._parts.path(name))
            if is_news:
                self._committed = set(range(self._rank, self._block_count, self._world_size))
                self._earlier = set(self._committed)
                self._parts.remove({f"rank-{self._rank}"})    # the last one that is left removes the folder

    def _refuse_doubles(self, suspects: Set[int], is_infer: bool) -> None:
        if not suspects:
            return
        seen: Counter[str] = Counter()
        for _, paths in self._blocks():
            seen.update(name for name in (_names(paths) if is_infer else paths) if hash(name) in suspects)
        doubles = [name for name, times in seen.items() if times > 1]
        if doubles:
            raise ResultError(f"{len(doubles)} names stand more than once in the candidate list: {_some(len(doubles), doubles)}",
                              hint="the platform knows images by their file name alone")

    # ------------------------------------------------------------------------------------------------------------------- handing out

    def paths(self) -> Iterator[str]:
        """The paths, each block made ready for its results with the first of them."""
        for number, paths in self._mine:
            with self._lock:
                block = self._open[number] = _Block(number, paths, len(self._writers))
                self._places.update(zip(paths, zip(repeat(block), range(len(paths)))))
            for path in paths:
                if time.monotonic() >= self._next_tick:
                    self._tick()
                yield path

    def _not_committed(self) -> Iterator[Tuple[int, List[str]]]:
        for number, paths in self._blocks():
            if number % self._world_size == self._rank and number not in self._committed:
                yield number, paths

    def _blocks(self) -> Iterator[Tuple[int, List[str]]]:
        """The whole list, cut.

        Raises:
            DatasetError: It is not as long as it was.
        """
        paths = map(itemgetter(0), dataset_reader.item_paths(DatasetType.CANDIDATE))
        for number in count():
            block = list(islice(paths, self._size))
            before = number * self._size
            if len(block) != max(0, min(self._size, self._total - before)):
                now = f"ends after {before + len(block)}" if before + len(block) < self._total else "has more"
                raise DatasetError(f"{dataset_reader.index_file(DatasetType.CANDIDATE)} changed while the program ran: it had "
                                   f"{self._total} images at the beginning, and now {now}", hint="start again, and let nothing write it")
            if not block:
                return
            yield number, block

    def _lines(self, numbers: Iterable[int], rank: int) -> int:
        """How many images those of the blocks have that belong to a rank."""
        of_rank = [number for number in numbers if number % self._world_size == rank and number < self._block_count]
        return sum(min(self._size, self._total - number * self._size) for number in of_rank)

    # ------------------------------------------------------------------------------------------------------------------- the results

    def put(self, column: int, path: Any, value: Any) -> None:
        """Take the result of an image, of one writer."""
        with self._lock:
            try:
                block, row = self._places[path if type(path) is str else os.fspath(path)]
            except KeyError:
                self._refuse(os.fspath(path))
            results = block.columns[column]
            if results[row] is not _NOTHING:
                raise ResultError(f"{path!r} was added before: a candidate has one result")
            results[row] = value
            if self._is_skipping and row not in block.skipped:
                block.skipped.add(row)
                self._skipped += 1
            block.left -= 1
            if not block.left:
                self._commit(block)
            self._puts += 1
        if time.monotonic() >= self._next_tick:
            self._tick()

    @contextlib.contextmanager
    def skipping(self) -> Iterator[None]:
        """What is put within it is of an image that is skipped."""
        with self._lock:    # so that no other thread's results are taken for skipped ones
            self._is_skipping = True
            try:
                yield
            finally:
                self._is_skipping = False
            self._refuse_skipped(self._skipped, self._with_skipped)

    def _count_skipped(self, number: int, skipped: int) -> None:
        if skipped:
            self._skipped += skipped
            self._with_skipped.add(number)

    def _are_too_many(self, skipped: int) -> bool:
        return are_too_many(skipped, self._total, self._max_skipped_ratio)

    def _refuse_skipped(self, skipped: int, blocks: Set[int]) -> None:
        """Raise when so many may not be skipped. The next start tries them again: a disk that was missing may be back."""
        if self._are_too_many(skipped):
            self._try_again(blocks)
            raise ImageError(f"{skipped} of {self._total} images cannot be used, more than the fraction of {self._max_skipped_ratio:g} "
                             "that is allowed", hint="repair the dataset, or allow more of them")

    def _try_again(self, blocks: Set[int]) -> None:
        """Forget the results of blocks with images that were skipped."""
        for number in blocks:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._parts.part(number))
        self._committed -= blocks
        self._skipped, self._with_skipped = 0, set()

    def _refuse(self, path: str) -> NoReturn:
        """Say what is wrong with a path that no block at work holds."""
        for number, paths in self._blocks():
            if path in paths:
                owner = number % self._world_size
                if owner != self._rank:
                    raise ResultError(f"{path!r} belongs to the share of rank {owner}, and this is rank {self._rank}")
                if number in self._earlier:
                    raise ResultError(f"{path!r} has a result of an earlier start")
                if number in self._committed:
                    raise ResultError(f"{path!r} was added before: a candidate has one result")
                raise ResultError(f"{path!r} was not handed out yet", hint="add results of what candidates() has returned")
        raise ResultError(f"{path!r} is not in the candidate list", hint="give the path as candidates() has returned it")

    def _commit(self, block: _Block) -> None:
        """Make a block's results a part."""
        sections = [writer._part_of(block.paths, column) for writer, column in zip(self._writers, block.columns)]
        self._parts.write(block.number, block.paths, Kept(len(block.skipped), sections))
        self._committed.add(block.number)
        if block.skipped:
            self._with_skipped.add(block.number)
        del self._open[block.number]
        for path in block.paths:
            del self._places[path]

    # ---------------------------------------------------------------------------------------------------------------------- progress

    def _tick(self) -> None:
        """What is done from time to time: see whether to stop, tell of progress."""
        self._next_tick = time.monotonic() + _TICK_SECONDS
        if monitor.should_stop():
            raise _stopped()
        with self._lock:
            self._tell()

    def _tell(self) -> None:
        self._done[self._rank] = self._lines(self._earlier, self._rank) + self._puts // len(self._writers)
        if self._world_size > 1:
            self._record.write(self._done[self._rank])
        if self._rank == 0:
            for rank in range(1, self._world_size):
                found = self._told(rank)
                if found is not None and self._is_news(rank, found):
                    self._done[rank] = max(self._done[rank], found.done)
            self._report(sum(self._done.values()) / self._total if self._total else 1.0)

    def _report(self, done: float) -> None:
        done = min(done, 1.0)
        if len(self._writers) == 1:
            done = monitor.task_percent(current_env(), self._writers[0].task, done, self._order)
        monitor.write_monitor_logger(done)

    def _told(self, rank: int) -> Optional[Told]:
        return told(self._parts.path(f"rank-{rank}"))

    def _is_news(self, rank: int, found: Told) -> bool:
        """Whether a rank of this program left it, and not one of an earlier start."""
        if found.is_alive:
            self._seen_alive.add(rank)
        return rank in self._seen_alive or found.when >= self._since

    # ----------------------------------------------------------------------------------------------------------------------- the end

    def parts(self, column: int) -> Iterator[Part]:
        """The parts of all ranks, in the order of the index; rank 0 waits for them, for the others there are none."""
        with self._lock:
            if not self._is_complete:
                self._complete()
        skipped = 0
        blocks: Set[int] = set()
        for number, paths in self._blocks() if self._rank == 0 else ():
            kept = self._parts.read(number, paths)
            if kept is None:
                raise StorageError(f"{self._parts.part(number)} is spoilt, or not of this list", hint="start again: only this part is lost")
            skipped += kept.skipped
            blocks.update({number} if kept.skipped else ())
            yield paths, kept.sections[column]
        self._refuse_skipped(skipped, blocks)    # the writer has not published anything yet

    def _complete(self) -> None:
        for block in [block for block in self._open.values() if not block.left]:
            self._commit(block)    # which says again what is wrong with it
        rest = [number for number in range(self._rank, self._block_count, self._world_size)
                if number not in self._committed and number not in self._open]
        first = next(self._mine, (0, []))[1] if rest else []
        for column, writer in enumerate(self._writers):
            missing = [path for number in sorted(self._open)
                       for path, value in zip(self._open[number].paths, self._open[number].columns[column]) if value is _NOTHING]
            number = len(missing) + self._lines(rest, self._rank)
            if number:
                raise ResultError(f"{number} of the {self._total} candidates have no result in the {type(writer).__name__}: "
                                  f"{_some(number, missing + first)}", hint="add each path that candidates() returns, or skip() it")
        self._tick()
        if self._rank == 0:
            self._wait()
            images, seconds = self._total - self._at_first, time.monotonic() - self._started
            _log.info("%d images in %.1f s: %.0f images/s", images, seconds, images / max(seconds, 1e-9))
        self._is_complete = True

    def _wait(self) -> None:
        """Until each rank's parts are there."""
        awaited = set(range(1, self._world_size))
        pause, said = 0.01, time.monotonic()
        while True:
            awaited = {rank for rank in awaited if not self._has_delivered(rank)}
            if not awaited:
                return
            if time.monotonic() - said > _SAY_SECONDS:
                said = time.monotonic()
                self._say(sorted(awaited))
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_POLL_SECONDS)
            if time.monotonic() >= self._next_tick:
                self._tick()

    def _say(self, awaited: Sequence[int]) -> None:
        """Which ranks are awaited, and what to do about those that may never come."""
        at_work, unseen = [], []
        for rank in awaited:
            found = self._told(rank)
            if found is not None and self._is_news(rank, found):
                at_work.append(f"{rank} ({found.done} of {self._lines(range(self._block_count), rank)} images are done)")
            else:
                unseen.append(str(rank))
        if at_work:
            _log.warning("waiting for the results of rank %s", ", ".join(at_work))
        if unseen:
            _log.warning("%s not begun: perhaps a model is being loaded there; if its process has ended, end this one too; a launcher such "
                         "as torchrun does", f"rank {unseen[0]} has" if len(unseen) == 1 else f"ranks {', '.join(unseen)} have")

    def _has_delivered(self, rank: int) -> bool:
        """Whether all parts of a rank are there.

        Raises:
            ProgramError: They will never be.
            Stopped: Because it was asked to stop.
        """
        found = self._told(rank)
        if found is not None and self._is_news(rank, found):
            if found.is_alive and not found.reason and found.done < self._lines(range(self._block_count), rank):
                return False
        else:
            found = None
        present = self._parts.present()    # looked for after the rank was, so that none is missed that it wrote last
        numbers = range(rank, self._block_count, self._world_size)
        missing = [number for number in numbers if number not in present]
        if not missing and (found is None or found.done < self._lines(numbers, rank)):
            missing = self._spoilt(numbers)    # it has not looked at them itself, or has not mended them
        if missing and found is not None and found.reason:
            if found.is_stop or monitor.should_stop():
                raise _stopped()
            raise _failure(f"rank {rank} failed: {found.reason}", found.code)
        if missing and found is not None and found.is_gone:
            first = next(paths[0] for number, paths in self._blocks() if number == missing[0])
            raise _failure(f"rank {rank} is gone without the results of {self._lines(missing, rank)} candidates, the first of which is "
                           f"{first!r}: it was killed, or ended within its with-block")
        return not missing

    def _spoilt(self, numbers: Sequence[int]) -> List[int]:
        """Those parts that cannot be read; each is read once as long as it stays as it is."""
        unsure = {}
        for number in numbers:
            is_good, stamp = self._checked.get(number, (False, None))
            if not is_good:
                now = self._parts.stamp(number)
                if stamp != now:
                    unsure[number] = now
        for number, paths in self._blocks() if unsure else ():
            if number in unsure:
                self._checked[number] = self._parts.read(number, paths) is not None, unsure[number]
        return [number for number in numbers if not self._checked[number][0]]

    def written(self, column: int) -> None:    # noqa: ARG002 - they end one after the other
        """The result file of a writer stands; after that of the last one the parts are removed."""
        self._written += 1
        if self._written < len(self._writers):
            return
        _rounds[self._name] = _rounds.get(self._name, 0) + 1
        if self._rank == 0:
            self._report(1.0)
            self._parts.remove(but=self._late_ranks())
        self._record.close()

    def _late_ranks(self) -> Set[int]:
        """Those that have yet to look for parts; each is told that the result stands, and will see that, for it looks in that order."""
        late = {rank for rank in range(1, self._world_size) if not self._has_begun(rank)}
        for rank in late:
            write_bytes(self._parts.path(f"finished-{rank}"), b"", sync=False, shared=True)
        for rank in set(filter(self._has_begun, late)):    # meanwhile, perhaps before it was told
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._parts.path(f"finished-{rank}"))
            late.discard(rank)
        return late

    def _has_begun(self, rank: int) -> bool:
        """Whether a rank knows which of its blocks have their parts, so that they may go."""
        found = self._told(rank)
        return found is not None and found.has_begun and self._is_news(rank, found)

    def abandon(self, error: BaseException) -> None:
        """Leave the reason for rank 0, and end."""
        _given_up[0] = time.time()
        failure = classify(error)
        self._record.write(self._done.get(self._rank, 0), int(failure.code), failure.reason, is_stop=isinstance(error, Stopped))
        self._record.close()


def _stopped() -> Stopped:
    return Stopped("the task was asked to stop; the next start goes on with what is left")


def _failure(message: str, code: int = int(RC.RC_CMD_CONTAINER_ERROR)) -> ProgramError:
    error = ProgramError(message, hint="what is done stays: the next start goes on from there")
    with contextlib.suppress(ValueError):
        error.return_code = RC(code)
    return error


def _names(paths: Sequence[str]) -> List[str]:
    """The file names."""
    return [path.rpartition("/")[2] for path in paths]


def _doubled(keys: array[int]) -> Set[int]:
    """Those that stand more than once."""
    if len(keys) < _WORTH_NUMPY:
        return {key for key, times in Counter(keys).items() if times > 1}
    import numpy as np
    ordered = np.sort(np.frombuffer(keys, np.int64))
    return set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


def _some(number: int, names: Sequence[str]) -> str:
    """The first names of so many."""
    return ", ".join(map(repr, names[:_NAMES_SHOWN])) + (", ..." if number > _NAMES_SHOWN else "")
