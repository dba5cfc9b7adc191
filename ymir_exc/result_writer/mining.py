"""result.tsv: images, the most worth labelling first (contract 7.1)."""
from __future__ import annotations

import contextlib
import os
import sys
from math import isfinite
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Iterable, Iterator, List, Optional, Sequence, Tuple, Type

from ymir_exc import _files
from ymir_exc.env import current_env, is_main_rank
from ymir_exc.errors import ResultError
from ymir_exc.result_writer._values import as_list, is_single, joined_numbers, nine_digits, to_float

if TYPE_CHECKING:
    import numpy as np

_ROWS_AT_ONCE = 5000    # they stay in the processor's cache
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
        paths = [path for path, _ in rows]
        scores = _checked(paths, [score for _, score in rows])
    except (TypeError, ValueError) as e:
        raise e if isinstance(e, ResultError) else ResultError(f"each row must be a path and a score: {e}") from None
    if len(paths) > _WORTH_NUMPY and set(map(type, scores)) == {float}:
        with MiningResultWriter(len(paths)) as ranking:
            ranking.add_batch(paths, scores)
        return
    with _open_result() as f:
        f.write(_in_order(paths, scores))


class MiningResultWriter:
    """Collects scores as they arrive and writes the ranking at the end of the block; nothing when the block raises.

        with MiningResultWriter() as ranking:
            for paths, scores in batches:
                ranking.add_batch(paths, scores)

    Scores of 32-bit floats are written with the nine digits that tell each of them, all others in full.

    Args:
        rows_in_memory: More rows than this are put into a temporary file beside the result; then a row takes some thirty bytes of memory,
            whatever its path.

    Raises:
        ResultError: A score is NaN or infinite, or a path holds a tab or a line break.
        StorageError: The result cannot be written; the earlier file stays.
    """

    def __init__(self, rows_in_memory: int = 500_000) -> None:
        self._limit = rows_in_memory
        self._enough = min(rows_in_memory, _WORTH_NUMPY)    # from there on they are put into arrays
        self._paths: List[str] = []
        self._scores: List[Any] = []
        self._packed: Optional[_Packed] = None
        self._is_main = is_main_rank()
        self.count = 0

    def __enter__(self) -> MiningResultWriter:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        try:
            if kind is None and self._is_main:
                self._finish()
        finally:
            self._paths, self._scores = [], []
            if self._packed is not None:
                self._packed.close()

    def add(self, path: str, score: float) -> None:
        """Add one image."""
        if type(path) is str and type(score) is float and isfinite(score) and self._is_main:
            self._paths.append(path)
            self._scores.append(score)
            self.count += 1
            if len(self._paths) >= self._enough:
                self._pack()
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
            numbers = values if _are_finite(scores) else _checked(paths, values)
            self._paths += paths
            self._scores += nine_digits(numbers) if is_single(scores) else numbers
            if len(self._paths) >= self._enough:
                self._pack()
        self.count += len(values)

    def _pack(self) -> None:
        """Put what has come into arrays, which are quick to sort and small."""
        if self._packed is None:
            self._packed, self._enough = _Packed(self._limit), min(self._limit, _ROWS_AT_ONCE)
        paths, scores = self._paths, self._scores
        self._paths, self._scores = [], []
        for start in range(0, len(paths), _ROWS_AT_ONCE):
            self._packed.add(paths[start:start + _ROWS_AT_ONCE], scores[start:start + _ROWS_AT_ONCE])

    def _finish(self) -> None:
        if self._packed is None:
            with _open_result() as f:
                f.write(_in_order(self._paths, self._scores))
            return
        self._pack()
        chunks = self._packed.ranked()
        with _open_result() as f:
            for paths, scores in chunks:
                f.write(_lines(paths, scores))


class _Packed:
    """Paths as arrays of bytes of one width, the largest; each `limit` of them in order, in a temporary file."""

    def __init__(self, limit: int) -> None:
        self._limit = max(limit, 1)
        self._pieces: List[np.ndarray[Any, Any]] = []
        self._scores: List[np.ndarray[Any, Any]] = []
        self._rows = 0
        self._parts: List[Any] = []    # arrays, or such as lie in a file
        self._part_scores: List[np.ndarray[Any, Any]] = []
        self._files: List[IO[bytes]] = []

    def add(self, paths: Sequence[str], scores: Sequence[float]) -> None:
        """Add some thousand rows."""
        import numpy as np
        if self._rows + len(paths) > self._limit and self._rows:
            self._spill()
        self._pieces.append(_as_bytes(paths))
        self._scores.append(np.array(scores, float))
        self._rows += len(paths)

    def close(self) -> None:
        self._parts = []
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()

    def _sorted_part(self) -> Tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        import numpy as np
        names, scores = np.concatenate(self._pieces), np.concatenate(self._scores)
        self._pieces, self._scores, self._rows = [], [], 0
        return names, scores, _descending(scores)

    def _spill(self) -> None:
        """Put the rows in memory, in order, into a file."""
        import tempfile

        import numpy as np
        folder = os.path.dirname(current_env().output.mining_result_file)
        _files.make_folder(folder)
        names, scores, order = self._sorted_part()
        try:
            file = tempfile.TemporaryFile("w+b", 0, dir=folder)    # noqa: SIM115 - closed at the end of the block
            self._files.append(file)
            for start in range(0, len(order), _ROWS_AT_ONCE):
                file.write(names[order[start:start + _ROWS_AT_ONCE]].data)
            self._parts.append(np.memmap(file, names.dtype, "r", shape=len(names)))
        except OSError as e:
            raise _files.storage_error(current_env().output.mining_result_file, e) from e
        self._part_scores.append(scores[order])

    def ranked(self) -> Iterator[Tuple[List[bytes], List[float]]]:
        """All rows, the highest score first, some thousand at a time."""
        import numpy as np
        if self._parts:
            self._spill()
            scores = np.concatenate(self._part_scores)
            self._part_scores = []
            order = _descending(scores)
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
            yield chunk.tolist(), scores[rows].tolist()


def _as_bytes(paths: Sequence[str]) -> np.ndarray[Any, Any]:
    """Each path and a tab, as an array of bytes, one width for all."""
    import numpy as np
    content = _encoded(paths)
    width = content.index(b"\n") + 1
    if width * len(paths) == len(content):
        table = np.frombuffer(content, np.uint8).reshape(-1, width).copy()
        if (table[:, -1] == ord("\n")).all():
            table[:, -1] = ord("\t")
            return table.view(f"S{width}")[:, 0]
    return np.array(content.replace(b"\n", b"\t\n").split(b"\n")[:-1])


def _descending(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The order of falling scores, of equals the first one first."""
    import numpy as np
    keys = -scores
    order = np.argsort(keys)    # several times as quick as the stable way, on processors with wide registers
    ranked = keys[order]
    return np.argsort(keys, kind="stable") if (ranked[1:] == ranked[:-1]).any() else order


def _in_order(paths: Sequence[str], scores: Sequence[Any]) -> bytes:
    """The lines of a ranking that fits into memory several times."""
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    names = _encoded([paths[n] for n in order]).replace(b"\n", b"\t\n").split(b"\n")[:-1]
    return _lines(names, [scores[n] for n in order])


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
        paths = [os.fspath(path) for path in paths]
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
    """Whether they are an array of finite floats."""
    np = sys.modules.get("numpy")
    return np is not None and isinstance(scores, np.ndarray) and scores.dtype.kind == "f" and bool(np.isfinite(scores).all())


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


@contextlib.contextmanager
def _open_result() -> Iterator[IO[bytes]]:
    path = current_env().output.mining_result_file
    _files.make_folder(os.path.dirname(path))
    with _files.open_atomic(path, shared=True) as f:
        yield f
