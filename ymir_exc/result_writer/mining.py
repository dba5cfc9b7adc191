"""result.tsv: images, the most worth labelling first (contract 7.1)."""
from __future__ import annotations

import contextlib
import os
from array import array
from itertools import accumulate
from math import isfinite
from types import TracebackType
from typing import IO, Any, Iterable, Iterator, List, Optional, Sequence, Tuple, Type

from ymir_exc import _files
from ymir_exc.env import current_env, is_main_rank
from ymir_exc.errors import ResultError
from ymir_exc.result_writer._values import as_list, is_single, number_texts, to_float

_LINES_AT_ONCE = 2000    # they stay in the processor's cache until they are written
_WORTH_NUMPY = 20_000


def write_mining_result(mining_result: Iterable[Tuple[str, float]]) -> None:
    """Write the ranking: one line an image, the most informative first; of equals the one given first.

    Args:
        mining_result: Image path as in the candidate index, and its score; higher is more worth labelling. Finite.

    Raises:
        ResultError: A score is NaN or infinite, or a path holds a tab or a line break; the earlier file stays.
        StorageError: It cannot be written; the earlier file stays.
    """
    if not is_main_rank():
        return
    rows = mining_result if isinstance(mining_result, (list, tuple)) else list(mining_result)
    try:
        paths, scores = _checked([path for path, _ in rows], [score for _, score in rows])
    except (TypeError, ValueError) as e:
        raise e if isinstance(e, ResultError) else ResultError(f"each row must be a path and a score: {e}") from None
    keys = array("d", scores)
    has_whole = int in set(map(type, scores))    # written as they are, 1 and not 1.0
    with _open_result() as f:
        for chunk, values in _ranked(keys):
            texts = number_texts([scores[n] for n in chunk] if has_whole else values)
            f.write(_encoded(list(map("\t".join, zip([paths[n] for n in chunk], texts)))))


class MiningResultWriter:
    """Collects scores as they arrive and writes the ranking at the end of the block; nothing when the block raises.

        with MiningResultWriter() as ranking:
            for paths, scores in batches:
                ranking.add_batch(paths, scores)

    Scores of 32-bit floats are written with the nine digits that tell each of them, all others in full.

    Args:
        rows_in_memory: More rows than this are sorted in parts, kept in temporary files beside the result, and merged; then a row takes
            some ten bytes of memory, whatever its path.

    Raises:
        ResultError: A score is NaN or infinite, or a path holds a tab or a line break.
        StorageError: The result cannot be written; the earlier file stays.
    """

    def __init__(self, rows_in_memory: int = 200_000) -> None:
        self._limit = rows_in_memory
        self._lines: List[str] = []
        self._keys = array("d")
        self._parts: List[IO[bytes]] = []
        self._part_keys: List[array[float]] = []
        self._is_main = is_main_rank()
        self.count = 0

    def __enter__(self) -> MiningResultWriter:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        try:
            if kind is None and self._is_main:
                self._finish()
        finally:
            self._lines, self._keys = [], array("d")
            for part in self._parts:
                with contextlib.suppress(OSError):
                    part.close()

    def add(self, path: str, score: float) -> None:
        """Add one image."""
        if type(path) is str and type(score) is float and isfinite(score) and self._is_main:
            self._lines.append(f"{path}\t{score}")
            self._keys.append(score)
            self._added(1)
        else:
            self.add_batch([path], [score])

    def add_batch(self, paths: Sequence[str], scores: Any) -> None:
        """Add some images.

        Args:
            paths: Their paths.
            scores: `(N,)`: a list, an array or a tensor.
        """
        values = as_list(scores)
        if len(values) != len(paths):
            raise ResultError(f"{len(paths)} images and {len(values)} mining scores")
        if self._is_main:
            names, numbers = _checked(paths, values)
            texts = number_texts(numbers, is_single(scores))
            self._lines += map("\t".join, zip(names, texts))
            self._keys += array("d", numbers)
        self._added(len(values))

    def _added(self, count: int) -> None:
        self.count += count
        if len(self._lines) >= self._limit:
            self._spill()

    def _spill(self) -> None:
        """Put what is in memory into a file of its own, in order."""
        folder = os.path.dirname(current_env().output.mining_result_file)
        _files.make_folder(folder)
        import tempfile
        lines, keys = self._lines, self._keys
        self._lines, self._keys = [], array("d")
        in_order = array("d")
        try:
            part = tempfile.TemporaryFile("w+b", 1 << 18, dir=folder)    # noqa: SIM115 - closed at the end of the block
            self._parts.append(part)
            for chunk, values in _ranked(keys):
                part.write(_encoded([lines[n] for n in chunk]))
                in_order += array("d", values)
            part.seek(0)
        except OSError as e:
            raise _files.storage_error(folder, e) from e
        self._part_keys.append(in_order)

    def _finish(self) -> None:
        if not self._parts:
            with _open_result() as f:
                for chunk, _ in _ranked(self._keys):
                    f.write(_encoded([self._lines[n] for n in chunk]))
            return
        self._spill()
        keys = array("d")
        for part in self._part_keys:
            keys.extend(part)
        following = [part.__next__ for part in self._parts]
        part_of = _finder(list(accumulate(map(len, self._part_keys))))
        self._part_keys = []
        with _open_result() as f:
            # In this order the lines of each part come one after the other.
            for chunk, _ in _ranked(keys):
                f.write(b"".join([following[n]() for n in part_of(chunk)]))


def _finder(ends: List[int]) -> Any:
    """A function that tells of row numbers in which part they are."""
    try:
        import numpy as np
        return lambda chunk: np.searchsorted(ends, chunk, side="right").tolist()
    except ImportError:
        from bisect import bisect_right
        return lambda chunk: [bisect_right(ends, n) for n in chunk]


def _ranked(keys: array[float]) -> Iterator[Tuple[List[int], List[float]]]:
    """The numbers of rows, the highest key first, of equals in their order, and their keys; some at a time."""
    order: Any = None
    if len(keys) > _WORTH_NUMPY:
        with contextlib.suppress(ImportError):
            import numpy as np
            numbers = np.frombuffer(keys)
            order = np.argsort(-numbers, kind="stable")
    has_numpy = order is not None
    if not has_numpy:
        order = array("q", sorted(range(len(keys)), key=keys.__getitem__, reverse=True))
    for start in range(0, len(keys), _LINES_AT_ONCE):
        chunk = order[start: start + _LINES_AT_ONCE]
        yield chunk.tolist(), numbers[chunk].tolist() if has_numpy else [keys[n] for n in chunk]


def _checked(paths: Sequence[Any], scores: Sequence[Any]) -> Tuple[Sequence[str], Sequence[Any]]:
    """Text, and builtin finite numbers."""
    try:
        # The usual case is checked at the speed of C.
        is_usual = set(map(type, scores)) <= {float, int} and all(map(isfinite, scores))
    except OverflowError:    # a whole number that is no float
        is_usual = False
    if not is_usual:
        scores = [_number(path, score) for path, score in zip(paths, scores)]
    if not set(map(type, paths)) <= {str}:
        paths = [os.fspath(path) for path in paths]
    return paths, scores


def _number(path: Any, score: Any) -> Any:
    number = to_float(score)
    if number is None or not isfinite(number):
        raise ResultError(f"the mining score of {path!r} is {score!r}", hint="scores must be finite numbers")
    is_whole = isinstance(score, int) or getattr(getattr(score, "dtype", None), "kind", "f") in "iu"
    return int(score) if is_whole else number


@contextlib.contextmanager
def _open_result() -> Iterator[IO[bytes]]:
    path = current_env().output.mining_result_file
    _files.make_folder(os.path.dirname(path))
    with _files.open_atomic(path, shared=True) as f:
        yield f


def _encoded(lines: List[str]) -> bytes:
    """Refuses what would not be read back as one path and one score a line."""
    text = "\n".join(lines) + "\n"
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as e:
        raise ResultError(f"the path {text[e.start - 40: e.end + 40]!r} is no text") from None
    # Twice as quick as count().
    marks = [len(content.replace(mark, 2 * mark)) - len(content) for mark in (b"\t", b"\n")]
    if marks != [len(lines)] * 2 or b"\r" in content:
        bad = next(line for line in lines if line.count("\t") != 1 or "\n" in line or "\r" in line)
        raise ResultError(f"the path {bad.rpartition(chr(9))[0]!r} holds a tab or a line break, which result.tsv cannot carry")
    return content
