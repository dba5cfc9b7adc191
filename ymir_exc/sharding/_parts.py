"""The files of blocks, and the name of the folder that they lie in."""
from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import zlib
from typing import AbstractSet, Any, List, NamedTuple, Optional, Sequence, Set

from ymir_exc import _files, dataset_reader
from ymir_exc.env import DatasetType, current_env
from ymir_exc.sharding._ranks import is_held

_log = logging.getLogger(__name__)

_FOLDER = ".ymir-parts"
_MAGIC = b"ymir-part-2"
_ENDS_BYTES = 1 << 16


class Kept(NamedTuple):
    """What a part holds.

    Attributes:
        skipped: How many of its images were skipped.
        sections: What each writer made of them.
    """

    skipped: int
    sections: List[bytes]


class Parts:
    """The hidden folder of one task and its writers.

    Its name tells the task, the index, config.yaml, the weights and the writers: parts of others are never taken for ours. In it lie:

        00000012.part   the results of block 12: a line with a checksum, how many were skipped and sizes, then what
                        each writer made of them
        rank-1          how far rank 1 is, see `Record`
        finished-1      the result stands: for rank 1, should it be so late that it would begin anew

    Raises:
        DatasetError: There is no candidate index.
        StorageError: The folder cannot be made.
    """

    def __init__(self, task: str, name: str) -> None:
        self._task = task
        self._root = os.path.join(current_env().output.root_dir, _FOLDER)
        self.folder = os.path.join(self._root, name)
        _files.make_folder(self.folder, shared=True)

    def path(self, name: str) -> str:
        """A file's path."""
        return os.path.join(self.folder, name)

    def part(self, number: int) -> str:
        """The file of a block."""
        return self.path(f"{number:08d}.part")

    def present(self) -> Set[int]:
        """The blocks that have their parts."""
        names = (name.partition(".") for name in _listed(self.folder))
        return {int(name) for name, _, kind in names if kind == "part" and name.isdigit()}

    def stamp(self, number: int) -> List[int]:
        """Another one when the part has been written again; empty where there is none."""
        return _stamp(self.part(number))

    def write(self, number: int, paths: Sequence[str], kept: Kept) -> None:
        """Make a part.

        Raises:
            StorageError: It cannot be written.
        """
        body = b"".join(kept.sections)
        numbers = [b"%d" % value for value in (kept.skipped, *map(len, kept.sections))]
        fields = [_MAGIC, _checksum(paths, numbers, body), *numbers]
        # Not flushed to the disk: a part that a power cut has spoilt is told by its checksum, and made again.
        _files.write_bytes(self.part(number), b" ".join(fields) + b"\n" + body, sync=False)

    def read(self, number: int, paths: Sequence[str]) -> Optional[Kept]:
        """The part of a block; None when there is none of these very paths, or a spoilt one."""
        try:
            with open(self.part(number), "rb") as f:
                magic, checksum, *numbers = [*f.readline(1 << 10).split(), b"", b""]
                body = f.read()
        except OSError:
            return None
        numbers = [value for value in numbers if value.isdigit()]
        if magic != _MAGIC or checksum != _checksum(paths, numbers, body):
            return None
        skipped, *lengths = map(int, numbers)
        ends = [sum(lengths[:n]) for n in range(len(lengths) + 1)]
        return Kept(skipped, [body[start:end] for start, end in zip(ends, ends[1:])])

    def remove(self, names: Optional[AbstractSet[str]] = None, *, but: AbstractSet[int] = frozenset()) -> None:
        """Remove files, and the folders that are then empty.

        Args:
            names: Which ones; by default all.
            but: Ranks whose own files stay.
        """
        kept = tuple(f"{kind}-{rank}" for rank in but for kind in ("rank", "finished"))
        _remove(self.folder, {name for name in _listed(self.folder) if name.partition(".")[0] not in kept} if names is None else names)
        with contextlib.suppress(OSError):
            os.rmdir(self._root)    # unless it holds others

    def remove_strangers(self) -> None:
        """Remove the parts of an earlier task, or of this one with another configuration, unless somebody is at work there."""
        for name in _listed(self._root):
            folder = os.path.join(self._root, name)
            files = _listed(folder)
            if not name.startswith(self._task) and not any(is_held(os.path.join(folder, file)) for file in files if file[:5] == "rank-"):
                _remove(folder, set(files))


def _remove(folder: str, names: AbstractSet[str]) -> None:
    """What cannot be removed stays, and is said."""
    try:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))
        os.rmdir(folder)
    except OSError as e:
        if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):    # a late rank's files are there, or it has removed the folder
            _log.warning("%s cannot be removed: %s", folder, e)


def task_key() -> str:
    """Of all that the results depend on but the writers: the task, its candidates, its configuration and its weights."""
    current = current_env()
    index = dataset_reader.index_file(DatasetType.CANDIDATE)
    weights = []
    for folder, folders, names in os.walk(current.input.models_dir):
        folders.sort()
        weights += [[path, _stamp(path)] for path in (os.path.join(folder, name) for name in sorted(names))]
    return digest([current.task_id, _stamp(index), _ends(index), _ends(current.input.config_file), weights])


def _stamp(path: str) -> List[int]:
    try:
        info = os.stat(path)
    except OSError:
        return []
    return [info.st_size, info.st_mtime_ns]


def _ends(path: str) -> List[int]:
    """Checksums of a file's beginning and end, of a short one of the whole."""
    try:
        with open(path, "rb") as f:
            head = f.read(_ENDS_BYTES)
            f.seek(max(len(head), os.path.getsize(path) - _ENDS_BYTES))
            return [zlib.crc32(head), zlib.crc32(f.read(_ENDS_BYTES))]
    except OSError:
        return []


def digest(content: Any) -> str:
    """A name for builtin values."""
    import hashlib
    return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()[:16]


def _checksum(paths: Sequence[str], numbers: Sequence[bytes], body: bytes) -> bytes:
    head = "\n".join(paths).encode("utf-8", "surrogateescape") + b"\n" + b" ".join(numbers)
    return b"%08x" % zlib.crc32(body, zlib.crc32(head))


def _listed(folder: str) -> List[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
