"""result.tsv: images, the most worth labelling first (contract 7.1)."""
from __future__ import annotations

import contextlib
import json
import os
import sys
from math import isfinite
from typing import IO, TYPE_CHECKING, Any, Callable, Iterable, Iterator, List, Optional, Sequence, Tuple

from ymir_exc import _files
from ymir_exc.env import current_env, is_main_rank
from ymir_exc.errors import ArgumentError, ResultError, StorageError
from ymir_exc.result_writer._sharing import Part, Sharing
from ymir_exc.result_writer._values import (
    OneBlock,
    as_list,
    as_path,
    is_masked,
    is_single,
    joined_numbers,
    nine_digits,
    to_float,
)

if TYPE_CHECKING:
    import numpy as np

_ROWS_AT_ONCE = 5000    # they stay in the processor's cache
_WORTH_NUMPY = 20_000
_SCORE = [("value", float), ("is_whole", bool)]
_LONG = 256    # bytes of a path; a longer one, which would make every row of an array as wide, lies in a file


def write_mining_result(mining_result: Iterable[Tuple[str, float]]) -> None:
    """Write the ranking: one line an image, the most informative first; of equals the one given first.

    Args:
        mining_result: Image path as in the candidate index, and its score; higher is more worth labelling. Finite. An image that is given
            twice stands in the ranking twice.

    Raises:
        ResultError: A score is NaN or infinite, or a path holds a tab or a line break; the earlier file stays.
        StorageError: It cannot be written; the earlier file stays.
    """
    if not is_main_rank():
        return
    try:
        rows = mining_result if isinstance(mining_result, (list, tuple)) else list(mining_result)
        paths = [path for path, _ in rows]
        scores = _checked(paths, [score for _, score in rows])
    except (TypeError, ValueError) as e:
        raise e if isinstance(e, ResultError) else ResultError(f"each row must be a path and a score: {e}") from None
    if len(paths) > _WORTH_NUMPY and set(map(type, scores)) == {float}:
        with MiningResultWriter(len(paths)) as ranking:
            ranking.add_batch(paths, scores)
        return
    with _open_result() as f:
        f.write(_in_order(_encoded(paths), scores))


class MiningResultWriter(OneBlock, Sharing):
    """Collects scores as they arrive and writes the ranking at the end of the block; nothing when the block raises.

        with MiningResultWriter() as ranking:
            for paths, scores in batches:
                ranking.add_batch(paths, scores)

    Scores of 32-bit floats are written with the nine digits that tell each of them, all others in full. An image that is added twice
    stands in the ranking twice: to know all paths would take several times the memory.

    An algorithm that compares images with each other, such as core-set, has to see all of them, also those of other processes:

        scorer = mining.scorer("core_set")
        with MiningResultWriter(rank=lambda scores, embeddings: scorer.rank(scores, embeddings, budget).scores) as ranking:
            for path in sharding.candidates(ranking):
                ranking.add(path, score, embedding)

    Args:
        rows_in_memory: More rows than this are put into a temporary file beside the result; then a row takes some thirty bytes of memory,
            whatever its path.
        rank: Called at the end with the scores (N,) and embeddings (N, D), 32-bit floats, of all images in the order of the candidates or
            as they were added; returns the scores (N,) to rank them by. Embeddings are in memory then, twice for a moment.

    Raises:
        ArgumentError: `rows_in_memory` is no positive number.
        ResultError: A score is NaN or infinite, or a path holds a tab or a line break: at once, and nothing of it is added. Something is
            added outside of the block.
        StorageError: The result cannot be written; the earlier file stays.
    """

    task = "mining"

    def __init__(self, rows_in_memory: int = 500_000, *, rank: Optional[Callable[[Any, Any], Any]] = None) -> None:
        super().__init__()
        self._rank = rank
        self._together: List[Tuple[List[str], List[Any], np.ndarray[Any, Any]]] = []    # for it: paths, scores, embeddings
        self._dimensions: Optional[int] = None
        self._limit = to_float(rows_in_memory) or 0.0
        if not self._limit >= 1:
            raise ArgumentError(f"rows_in_memory is {rows_in_memory!r:.80}: must be 1 or more")
        self._enough = min(self._limit, _WORTH_NUMPY)    # from there on they are put into arrays
        self._paths: List[str] = []    # those that came one by one, after the batches
        self._batches: List[Tuple[int, bytes]] = []    # how many paths, a line break after each
        self._scores: List[Any] = []
        self._packed: Optional[_Packed] = None
        self._is_main = is_main_rank()
        self.count = 0

    def __enter__(self) -> MiningResultWriter:
        self._begin_block()
        return self

    def _end(self, error: Optional[BaseException], parts: Iterable[Part]) -> None:
        try:
            if error is None:
                for paths, content in parts:
                    self._take(paths, content)
                if self._is_main:
                    self._rank_together()
                    self._finish()
        finally:
            self._is_inside = False
            self._paths, self._batches, self._scores, self._together = [], [], [], []
            if self._packed is not None:
                self._packed.close()

    def add(self, path: str, score: float, embedding: Any = None) -> None:
        """Add one image; where all are ranked together, with its embedding (D,)."""
        if embedding is not None or self._rank is not None:
            self.add_batch([path], [score], None if embedding is None else [embedding])
            return
        if self._share is None:
            if self._is_inside and self._is_main and type(score) is float and isfinite(score) and type(path) is str and path.isascii() \
                    and not ("\t" in path or "\n" in path or "\r" in path or "\0" in path):
                self._paths.append(path)
                self._scores.append(score)
                self.count += 1
                if len(self._scores) >= self._enough:
                    self._pack()
                return
        elif self._is_inside and type(path) is str and type(score) is float and isfinite(score):
            self._share.put(self._column, path, score)
            self.count += 1
            return
        self.add_batch([path], [score])

    def add_batch(self, paths: Sequence[str], scores: Any, embeddings: Any = None) -> None:
        """Add some images.

        Args:
            paths: Their paths.
            scores: `(N,)`, or `(N, 1)`: a list, an array or a tensor.
            embeddings: `(N, D)`, where all are ranked together.
        """
        self._check_inside()
        paths = paths if isinstance(paths, list) else _listed("paths", paths)
        values = scores if isinstance(scores, list) else _listed("mining scores", scores)
        if len(values) != len(paths):
            raise ResultError(f"{len(paths)} images and {len(values)} mining scores")
        vectors = self._checked_embeddings(embeddings, len(paths))
        if self._is_main or self._share is not None:
            numbers = values if _are_finite(scores) else _checked(paths, values)
            if is_single(scores):
                numbers = nine_digits(numbers)
            elif numbers is not values:
                numbers = [float(f"{number:.9g}") if is_single(value) else number for value, number in zip(values, numbers)]
            if self._share is not None:
                for path, number in zip(map(as_path, paths), numbers if vectors is None else zip(numbers, map(bytes, vectors))):
                    self._share.put(self._column, path, number)
            elif vectors is not None and len(vectors):
                _encoded(paths)
                self._together.append((list(map(as_path, paths)), list(numbers), vectors))
            else:
                self._keep(paths, numbers)
        self.count += len(values)

    def _checked_embeddings(self, embeddings: Any, count: int) -> Optional[np.ndarray[Any, Any]]:
        """(count, D) of 32-bit floats; None where there is nothing to rank together."""
        if self._rank is None:
            if embeddings is not None:
                raise ArgumentError("this MiningResultWriter has no use for embeddings", hint="give it a function as rank=")
            return None
        import numpy as np
        try:
            vectors = np.array(list(map(as_list, embeddings)) if isinstance(embeddings, list) else as_list(embeddings), np.float32)
        except (TypeError, ValueError) as e:
            raise ResultError(f"embeddings must be numbers (N, D), all of one length: {e}") from None
        if not count and not vectors.size:
            return np.empty((0, self._dimensions or 0), np.float32)
        if vectors.ndim != 2 or len(vectors) != count or vectors.shape[1] != (self._dimensions or vectors.shape[1]):
            raise ResultError(f"embeddings must be ({count}, {self._dimensions or 'D'}), are {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ResultError("an embedding holds NaN or infinite values")
        self._dimensions = vectors.shape[1]
        return vectors

    def _rank_together(self) -> None:
        """Put the scores in the place of those that were added."""
        if self._rank is None or not self._together:
            return
        import numpy as np
        paths = [path for some, _, _ in self._together for path in some]
        scores = np.array([score for _, some, _ in self._together for score in some], float)
        if len({vectors.shape[1] for _, _, vectors in self._together}) > 1:
            raise ResultError("processes have added embeddings of different lengths")
        embeddings = np.concatenate([vectors for _, _, vectors in self._together])
        self._together = []
        made = _listed("mining scores", self._rank(scores, embeddings))
        if len(made) != len(paths):
            raise ResultError(f"{len(paths)} images and {len(made)} mining scores of the function that ranks them")
        self._keep(paths, _checked(paths, made))

    def _skip(self, path: str) -> None:
        self._check_inside()
        if self._share is not None:
            self._share.put(self._column, as_path(path), None)

    def _part_of(self, paths: Sequence[str], values: Sequence[Any]) -> bytes:
        _encoded(paths)    # a path that the file cannot carry is to be known before the end
        if self._rank is not None:
            found = [value for value in values if value is not None]
            scores = json.dumps([None if value is None else value[0] for value in values])
            return scores.encode("ascii") + b"\n" + b"".join(vector for _, vector in found)
        return json.dumps(values).encode("ascii") if None in values else b"[" + joined_numbers(values) + b"]"

    def _take(self, paths: List[str], content: bytes) -> None:
        """Add what a part holds."""
        text, _, vectors = content.partition(b"\n")
        scores = json.loads(text)
        if None in scores:
            paths = [path for path, score in zip(paths, scores) if score is not None]
            scores = [score for score in scores if score is not None]
        if self._rank is None:
            self._keep(paths, scores)
        elif scores:
            import numpy as np
            self._together.append((paths, scores, np.frombuffer(vectors, np.float32).reshape(len(scores), -1)))

    def _identity(self) -> List[Any]:
        return [self.task, "together"] if self._rank is not None else [self.task]

    def _keep(self, paths: Sequence[str], scores: Sequence[Any]) -> None:
        chunks = (paths[start:start + _ROWS_AT_ONCE] for start in range(0, len(paths), _ROWS_AT_ONCE))
        batches = [(len(chunk), _encoded(chunk)) for chunk in chunks]    # a path that the file cannot carry is known now
        self._join()
        self._batches += batches
        self._scores += scores
        if len(self._scores) >= self._enough:
            self._pack()

    def _join(self) -> None:
        """Make a batch of those that came one by one."""
        if self._paths:
            self._batches.append((len(self._paths), _encoded(self._paths)))
            self._paths = []

    def _pack(self) -> None:
        """Put what has come into arrays, which are quick to sort and small."""
        if self._packed is None:
            self._packed, self._enough = _Packed(self._limit), min(self._limit, _ROWS_AT_ONCE)
        self._join()
        batches, scores = self._batches, self._scores
        self._batches, self._scores = [], []
        end, contents, start = 0, [], 0
        for rows, content in batches:
            contents.append(content)
            end += rows
            if end - start >= _ROWS_AT_ONCE or end == len(scores):
                self._packed.add(b"".join(contents), scores[start:end])
                contents, start = [], end

    def _finish(self) -> None:
        self._join()
        if self._packed is None:
            with _open_result() as f:
                f.write(_in_order(b"".join(content for _, content in self._batches), self._scores))
            return
        self._pack()
        chunks = self._packed.ranked()
        with _open_result() as f:
            for paths, scores in chunks:
                f.write(_lines(paths, scores))


class _Packed:
    """Paths as arrays of bytes of one width, the largest; each `limit` of them in order, in a temporary file. Of a long path the array has
    the place in a file of such: a line break, which no path has, the offset and the length.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._pieces: List[np.ndarray[Any, Any]] = []
        self._scores: List[np.ndarray[Any, Any]] = []    # of _SCORE
        self._rows = 0
        self._parts: List[Any] = []    # arrays, or such as lie in a file
        self._part_scores: List[np.ndarray[Any, Any]] = []
        self._files: List[IO[bytes]] = []
        self._long: Optional[IO[bytes]] = None
        self._long_size = 0

    def add(self, content: bytes, scores: Sequence[float]) -> None:
        """Add some thousand rows: the paths, a line break after each."""
        import numpy as np
        if self._rows + len(scores) > self._limit and self._rows:
            self._spill()
        self._pieces.append(self._as_bytes(content, len(scores)))
        made = np.zeros(len(scores), _SCORE)
        made["value"] = scores
        if int in set(map(type, scores)):
            made["is_whole"] = [type(score) is int for score in scores]
        self._scores.append(made)
        self._rows += len(scores)

    def close(self) -> None:
        self._parts = []
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()

    def _sorted_part(self) -> Tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        import numpy as np
        names, scores = np.concatenate(self._pieces), np.concatenate(self._scores)
        self._pieces, self._scores, self._rows = [], [], 0
        return names, scores, _descending(scores["value"])

    def _spill(self) -> None:
        """Put the rows in memory, in order, into a file."""
        import numpy as np
        names, scores, order = self._sorted_part()
        with _storage_errors():
            file = self._new_file()
            for start in range(0, len(order), _ROWS_AT_ONCE):
                _files._write_all(file.fileno(), names[order[start:start + _ROWS_AT_ONCE]].view(np.uint8).data)
            self._parts.append(np.memmap(file, names.dtype, "r", shape=len(names)))
        self._part_scores.append(scores[order])

    def _new_file(self) -> IO[bytes]:
        import tempfile
        folder = os.path.dirname(current_env().output.mining_result_file)
        _files.make_folder(folder)
        file = tempfile.TemporaryFile("w+b", 0, dir=folder)    # noqa: SIM115 - closed at the end of the block
        self._files.append(file)
        return file

    def _as_bytes(self, content: bytes, rows: int) -> np.ndarray[Any, Any]:
        """Each path and a tab, as an array of bytes, one width for all."""
        import numpy as np
        width = content.index(b"\n") + 1
        if width * rows == len(content) and width <= _LONG:
            table = np.frombuffer(content, np.uint8).reshape(-1, width).copy()
            if (table[:, -1] == ord("\n")).all():
                table[:, -1] = ord("\t")
                return table.view(f"S{width}")[:, 0]
        names = content.replace(b"\n", b"\t\n").split(b"\n")[:-1]
        return np.array(names if max(map(len, names)) <= _LONG else self._without_long(names))

    def _without_long(self, names: Sequence[bytes]) -> List[bytes]:
        """Put the long ones into their file."""
        made = []
        with _storage_errors():
            if self._long is None:
                self._long = self._new_file()
            for name in names:
                if len(name) > _LONG:
                    made.append(b"\n%d %d" % (self._long_size, len(name)))
                    self._long_size += len(name)
                else:
                    made.append(name)
            _files._write_all(self._long.fileno(), b"".join(name for name in names if len(name) > _LONG))
        return made

    def _whole(self, name: bytes) -> bytes:
        """What stands for a path, or that."""
        if self._long is None or not name.startswith(b"\n"):
            return name
        offset, length = map(int, name.split())
        return os.pread(self._long.fileno(), length, offset)

    def ranked(self) -> Iterator[Tuple[List[bytes], List[float]]]:
        """All rows, the highest score first, some thousand at a time."""
        import numpy as np
        if self._parts:
            self._spill()
            scores = np.concatenate(self._part_scores)
            self._part_scores = []
            order = _descending(scores["value"])
        else:
            names, scores, order = self._sorted_part()
            self._parts = [names]
        ends = np.cumsum([len(part) for part in self._parts])
        width = max(part.dtype.itemsize for part in self._parts)
        for start in range(0, len(order), _ROWS_AT_ONCE):
            rows = order[start:start + _ROWS_AT_ONCE]
            chunk = self._parts[0][rows] if len(self._parts) == 1 else np.empty(len(rows), f"S{width}")
            if len(self._parts) > 1:
                owners = np.searchsorted(ends, rows, side="right")
                for owner in np.unique(owners).tolist():
                    mine = owners == owner
                    chunk[mine] = self._parts[owner][rows[mine] - (ends[owner] - len(self._parts[owner]))]
            found, values = chunk.tolist(), scores["value"][rows].tolist()
            if scores["is_whole"][rows].any():    # written as they are, 3 and not 3.0
                values = [int(value) if is_whole else value for value, is_whole in scores[rows].tolist()]
            yield found if self._long is None else list(map(self._whole, found)), values


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    """Tell of the result what goes wrong with a file beside it."""
    try:
        yield
    except StorageError:
        raise
    except OSError as e:
        raise _files.storage_error(current_env().output.mining_result_file, e) from e


def _descending(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The order of falling scores, of equals the first one first."""
    import numpy as np
    keys = -scores
    order = np.argsort(keys)    # several times as quick as the stable way, on processors with wide registers
    ranked = keys[order]
    return np.argsort(keys, kind="stable") if (ranked[1:] == ranked[:-1]).any() else order


def _in_order(content: bytes, scores: Sequence[Any]) -> bytes:
    """The lines of a ranking that fits into memory several times."""
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    names = content.replace(b"\n", b"\t\n").split(b"\n")
    return _lines([names[n] for n in order], [scores[n] for n in order])


def _lines(names: Sequence[bytes], scores: Sequence[Any]) -> bytes:
    """The lines of paths, which have their tabs, and scores."""
    if not names:
        return b""
    parts = [b"\n"] * (3 * len(names))
    parts[::3], parts[1::3] = names, joined_numbers(scores).split(b",")
    return b"".join(parts)


def _encoded(paths: Sequence[Any]) -> bytes:
    """The paths, a line break after each."""
    try:
        text = "\n".join([*paths, ""])
    except TypeError:
        paths = list(map(as_path, paths))
        text = "\n".join([*paths, ""])
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as e:
        raise ResultError(f"the path {text[max(0, e.start - 40): e.end + 40]!r} is no text") from None
    if content.count(b"\n") != len(paths) or any(mark in content for mark in (b"\t", b"\r", b"\0")):
        bad = next(path for path in paths if any(mark in path for mark in "\t\n\r\0"))
        raise ResultError(f"the path {bad!r} holds a tab or a line break, which result.tsv cannot carry")
    return content


def _are_finite(scores: Any) -> bool:
    """Whether they are an array of finite floats, such as builtin ones can be."""
    np = sys.modules.get("numpy")
    return (np is not None and isinstance(scores, np.ndarray) and scores.dtype.kind == "f" and scores.dtype.itemsize <= 8
            and not is_masked(scores) and bool(np.isfinite(scores).all()))


def _checked(paths: Sequence[Any], scores: Sequence[Any]) -> Sequence[Any]:
    """Builtin finite numbers."""
    try:
        # The usual case is checked at the speed of C; a sum that is too large has them looked at one by one.
        is_usual = set(map(type, scores)) <= {float, int} and isfinite(sum(scores))
    except OverflowError:    # a whole number that is no float
        is_usual = False
    return scores if is_usual else [_number(path, score) for path, score in zip(paths, scores)]


def _number(path: Any, score: Any) -> Any:
    number = to_float(score)
    if number is None or not isfinite(number):
        raise ResultError(f"the mining score of {path!r} is {score!r}", hint="scores must be finite numbers")
    is_whole = isinstance(score, int) or getattr(getattr(score, "dtype", None), "kind", "f") in "iu"
    return int(score) if is_whole else number


def _listed(what: str, values: Any) -> List[Any]:
    """A list of as many.

    Raises:
        ResultError: They are none, or have more dimensions than one.
    """
    shape = tuple(getattr(values, "shape", ()))
    if len(shape) == 2 and shape[1] == 1 and hasattr(values, "reshape"):
        values = values.reshape(-1)
    elif len(shape) > 1:
        raise ResultError(f"{what} must be (N,), are {shape}")
    try:
        if isinstance(values, (str, bytes)):
            raise TypeError
        return list(values) if isinstance(values, tuple) else as_list(values)
    except TypeError:
        raise ResultError(f"{what} must be a list, not {values!r:.80}") from None


@contextlib.contextmanager
def _open_result() -> Iterator[IO[bytes]]:
    path = current_env().output.mining_result_file
    _files.make_folder(os.path.dirname(path))
    with _files.open_atomic(path, shared=True) as f:
        yield f
