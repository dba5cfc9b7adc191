"""result.tsv: images, the most worth labelling first (contract 7.1)."""
from __future__ import annotations

import contextlib
import heapq
import math
import os
import tempfile
from operator import itemgetter
from types import TracebackType
from typing import IO, Any, Iterable, Iterator, List, Optional, Sequence, Tuple, Type, Union

from ymir_exc import _files
from ymir_exc.env import current_env, is_main_rank
from ymir_exc.errors import ResultError
from ymir_exc.result_writer._values import to_float

_Row = Tuple[str, Union[int, float]]

_LINES_AT_ONCE = 20_000
_score = itemgetter(1)


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
    rows = _checked(mining_result)
    rows.sort(key=_score, reverse=True)
    _write(rows)


class MiningResultWriter:
    """Collects scores as they arrive and writes the ranking at the end of the block; nothing when the block raises.

        with MiningResultWriter() as ranking:
            for paths, scores in batches:
                ranking.add_batch(paths, scores)

    Args:
        rows_in_memory: More rows than this are sorted in parts, kept in temporary files beside the result, and merged.

    Raises:
        ResultError: At `add`: a score is NaN or infinite, or a path holds a tab or a line break.
        StorageError: The result cannot be written; the earlier file stays.
    """

    def __init__(self, rows_in_memory: int = 1_000_000) -> None:
        self._limit = rows_in_memory
        self._rows: List[_Row] = []
        self._parts: List[IO[bytes]] = []
        self.count = 0

    def __enter__(self) -> MiningResultWriter:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        try:
            if kind is None and is_main_rank():
                self._finish()
        finally:
            for part in self._parts:
                with contextlib.suppress(OSError):
                    part.close()

    def add(self, path: str, score: float) -> None:
        """Add one image."""
        self.add_batch([path], [score])

    def add_batch(self, paths: Sequence[str], scores: Any) -> None:
        """Add some images.

        Args:
            paths: Their paths.
            scores: `(N,)`: a list, an array or a tensor.
        """
        values = scores.tolist() if hasattr(scores, "tolist") else list(scores)
        if len(values) != len(paths):
            raise ResultError(f"{len(paths)} images and {len(values)} mining scores")
        self._rows += _checked(zip(paths, values))
        self.count += len(values)
        if len(self._rows) >= self._limit:
            self._spill()

    def _spill(self) -> None:
        folder = os.path.dirname(current_env().output.mining_result_file)
        _files.make_folder(folder)
        self._rows.sort(key=_score, reverse=True)
        try:
            part = tempfile.TemporaryFile(dir=folder)    # noqa: SIM115 - closed at the end of the block
            self._parts.append(part)
            for start in range(0, len(self._rows), _LINES_AT_ONCE):
                part.write(_lines(self._rows[start: start + _LINES_AT_ONCE]))
            part.seek(0)
        except OSError as e:
            raise _files.storage_error(folder, e) from e
        self._rows = []

    def _finish(self) -> None:
        self._rows.sort(key=_score, reverse=True)
        if not self._parts:
            _write(self._rows)
            return
        # heapq.merge is stable: of equals the part that was filled first comes first.
        _write(heapq.merge(*map(_rows_of, self._parts), self._rows, key=_score, reverse=True))


def _rows_of(part: IO[bytes]) -> Iterator[_Row]:
    for line in part:
        path, _, score = line.decode("utf-8", "surrogateescape").rstrip("\n").partition("\t")
        yield path, float(score) if "." in score or "e" in score else int(score)


def _checked(given: Iterable[Tuple[str, float]]) -> List[_Row]:
    """Rows of text and builtin finite numbers."""
    rows = list(given)
    if not rows:
        return rows
    paths, scores = zip(*rows)
    # The usual case is checked at the speed of C: text and builtin numbers.
    if not (set(map(type, scores)) <= {float, int} and set(map(type, paths)) == {str} and all(map(math.isfinite, scores))):
        rows = [(os.fspath(path), _number(path, score)) for path, score in rows]
        paths = tuple(path for path, _ in rows)
    joined = "".join(paths)
    if "\t" in joined or "\n" in joined or "\r" in joined:
        bad = next(path for path in paths if "\t" in path or "\n" in path or "\r" in path)
        raise ResultError(f"the path {bad!r} holds a tab or a line break, which result.tsv cannot carry")
    return rows


def _number(path: Any, score: Any) -> Union[int, float]:
    if isinstance(score, int):
        return int(score)
    number = to_float(score)
    if number is None or not math.isfinite(number):
        raise ResultError(f"the mining score of {path!r} is {score!r}", hint="scores must be finite numbers")
    return int(score) if hasattr(score, "dtype") and getattr(score.dtype, "kind", "f") in "iu" else number


def _write(rows: Iterable[_Row]) -> None:
    path = current_env().output.mining_result_file
    _files.make_folder(os.path.dirname(path))
    with _files.open_atomic(path) as f:
        if isinstance(rows, list):
            for start in range(0, len(rows), _LINES_AT_ONCE):
                f.write(_lines(rows[start: start + _LINES_AT_ONCE]))
        else:
            for row in rows:
                f.write(_lines([row]))


def _lines(rows: Sequence[_Row]) -> bytes:
    return "".join([f"{path}\t{score}\n" for path, score in rows]).encode("utf-8", "surrogateescape")
