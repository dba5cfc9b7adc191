"""Unpacks a model.tar.gz that nobody vouches for.

Nothing is written outside of the target, no link is ever made, and what is read is bounded before it is kept: so `tarfile`'s own filters,
which older Pythons lack, are not needed.
"""
from __future__ import annotations

import gzip
import os
import posixpath
import shutil
import tarfile
import zlib
from typing import IO, Any, Dict, List, Mapping

from ymir_exc.errors import WeightsError

MAX_ENTRIES = 100_000
MIN_BOUND_BYTES = 4 << 30
MAX_RATIO = 50
"""An archive may grow to MIN_BOUND_BYTES, or to so many times its own size. Weights hardly shrink at all; a bomb shrinks a thousandfold."""

_CHUNK_BYTES = 1 << 20
_MAX_READ_BYTES = 16 << 20    # tarfile reads a file in our pieces, but an extended header, which names things, in one


def unpack(path: str, target: str) -> List[str]:
    """Unpack a tar archive, compressed by gzip or not.

    Args:
        path: The archive.
        target: An empty folder.

    Returns:
        The files, relative to the target, in the order of the archive.

    Raises:
        WeightsError: It is broken; or an entry would lie outside, is a link to something outside or a device; or it has too many entries,
            grows to a size out of proportion, or does not fit onto the disk.
    """
    try:
        with open(path, "rb") as raw:
            is_gzip = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            bound = max(MIN_BOUND_BYTES, MAX_RATIO * os.fstat(raw.fileno()).st_size)
            stream: Any = gzip.GzipFile(fileobj=raw) if is_gzip else raw
            with tarfile.open(fileobj=_Bounded(path, stream, bound), mode="r:") as archive:    # type: ignore[call-overload]
                found = _Unpacking(path, target, bound).run(archive)
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError) as e:
        if isinstance(e, WeightsError):
            raise
        raise WeightsError(f"{path} is no tar archive that can be read to its end: {e}",
                           hint="was it uploaded whole? tar -czf model.tar.gz -C MODEL_FOLDER . makes one") from None
    except OSError as e:    # a broken gzip stream is one too, without a number
        raise WeightsError(f"{path} cannot be unpacked: {e.strerror or e}") from None
    if not found:
        raise WeightsError(f"{path} holds no file")
    return found


class _Bounded:
    """The tar stream, which refuses to be read too far, or too much at once."""

    def __init__(self, path: str, stream: IO[bytes], bound: int) -> None:
        self.path, self.stream, self.bound = path, stream, bound

    def read(self, size: int) -> bytes:
        if size > _MAX_READ_BYTES:
            raise WeightsError(f"{self.path}: a header of {size} bytes", hint="no archive of a model has one")
        data = self.stream.read(size)
        self._check(self.stream.tell())
        return data

    def seek(self, position: int) -> int:
        self._check(position)
        return self.stream.seek(position)

    def tell(self) -> int:
        return self.stream.tell()

    def _check(self, position: int) -> None:
        if position > self.bound:
            raise _too_large(self.path, self.bound)


def _too_large(path: str, bound: int) -> WeightsError:
    return WeightsError(f"{path} unpacks to more than {bound / 2**30:.3g} GiB", hint="is it a model?")


class _Unpacking:
    """One archive."""

    def __init__(self, path: str, target: str, bound: int) -> None:
        self.path, self.target, self.bound = path, target, bound
        self.written = 0
        self.files: Dict[str, None] = {}    # in order
        self.links: Dict[str, str] = {}
        self.left = 0

    def run(self, archive: tarfile.TarFile) -> List[str]:
        space = os.statvfs(self.target)
        self.left = space.f_bavail * space.f_frsize
        for number, member in enumerate(archive):
            if number >= MAX_ENTRIES:
                raise WeightsError(f"{self.path} has more than {MAX_ENTRIES} entries", hint="is it a model?")
            self._unpack(archive, member)
        self._resolve_links()
        return list(self.files)

    def _unpack(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = self._inside(member.name, "", member.name)
        if member.isdir():
            os.makedirs(os.path.join(self.target, name), exist_ok=True)
        elif member.issym():
            self.links[name] = self._inside(member.linkname, posixpath.dirname(name), member.name)
        elif member.islnk():
            self.links[name] = self._inside(member.linkname, "", member.name)
        elif member.isreg() and name:
            self._write(archive.extractfile(member), name, member.size)
        else:
            raise WeightsError(f"{self.path}: the entry {member.name!r:.80} is no file, folder or link")

    def _inside(self, name: str, folder: str, entry: str) -> str:
        """Where a name leads to, relative to the target; '' for the target itself."""
        place = posixpath.normpath(posixpath.join(folder, name))
        if name.startswith("/") or place.startswith("../") or place == ".." or "\0" in name:
            raise WeightsError(f"{self.path}: the entry {entry!r:.80} leads outside of the archive", hint="nothing of it was used")
        return "" if place == "." else place

    def _write(self, source: Any, name: str, size: int) -> None:
        self._claim(name, size)
        path = os.path.join(self.target, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if name in self.files:    # of two entries of a name the later one counts
            os.unlink(path)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)    # whatever the archive says of its rights
        with os.fdopen(fd, "wb") as sink:
            while True:
                data = source.read(_CHUNK_BYTES)
                if not data:
                    break
                sink.write(data)
            if sink.tell() != size:
                raise WeightsError(f"{self.path} ends in the middle of {name!r:.80}", hint="was it uploaded whole?")
        self.files[name] = None
        self.links.pop(name, None)

    def _claim(self, name: str, size: int) -> None:
        """Holes, and links that become files, take more room than they have in the archive."""
        if size > self.left:
            raise WeightsError(f"{self.path} does not fit onto the disk: {name!r:.80} has {size} bytes, {self.left} are free",
                               hint="TMPDIR may name a larger one")
        self.left -= size
        self.written += size
        if self.written > self.bound:
            raise _too_large(self.path, self.bound)

    def _resolve_links(self) -> None:
        """A link to a file of the archive becomes that file once more; one that leads nowhere is left out."""
        for name in self.links:
            source = _end_of(self.links, name)
            if source in self.files and name not in self.files:
                path = os.path.join(self.target, name)
                self._claim(name, os.path.getsize(os.path.join(self.target, source)))
                os.makedirs(os.path.dirname(path), exist_ok=True)
                shutil.copyfile(os.path.join(self.target, source), path)
                self.files[name] = None


def _end_of(links: Mapping[str, str], name: str) -> str:
    for _ in range(len(links) + 1):
        if name not in links:
            return name
        name = links[name]
    return ""    # they go round in a circle
