"""What the hosts of a job left, made into the two archives that the cloud makes, and put where the user wants them."""
from __future__ import annotations

import contextlib
import gzip
import logging
import os
import stat
import tarfile
from pathlib import Path
from typing import IO, Dict, Iterator, List, Tuple, cast

from ymir_exc import _files
from ymir_exc.ti._record import Folder, Spec
from ymir_exc.ti._stores import COS, open_store

REASON_LIMIT = 1024
_LOG = logging.getLogger(__name__)


def merged(tops: List[Path]) -> Dict[str, Path]:
    """Name in the archive to file, of all hosts; where two have left the same name, the host that comes first wins.

    Args:
        tops: The same folder of each host, the master's first.
    """
    found: Dict[str, Path] = {}
    for top in tops:
        for name, path in _below(top):
            parents = [name[:at] for at, c in enumerate(name) if c == "/"]
            if name not in found and all(parent not in found or _is_folder(found[parent]) for parent in parents):
                found[name] = path
    return dict(sorted(found.items()))


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _below(top: Path) -> Iterator[Tuple[str, Path]]:
    for folder, folders, files in os.walk(top, onerror=lambda error: _LOG.warning("not collected: %s", error)):
        for name in (*folders, *files):
            path = Path(folder) / name
            yield path.relative_to(top).as_posix(), path


def write_archive(target: Path, members: Dict[str, Path]) -> None:
    """Write a `.tar.gz`: the same content gives the same order, and belongs to nobody in particular. It appears whole.

    Raises:
        StorageError: There is no room, or no right to.
    """
    _files.make_folder(target.parent)
    with _files.open_atomic(target) as sink, gzip.GzipFile(filename="", mode="wb", fileobj=sink, compresslevel=1, mtime=0) as packed, \
            tarfile.open(fileobj=cast(IO[bytes], packed), mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in members.items():
            _add(archive, name, path)


def _add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    try:
        one = archive.gettarinfo(str(path), name)
    except OSError as e:
        _LOG.warning("not collected: %s", e)
        return
    if one is None or not (one.isreg() or one.isdir() or one.issym() or one.islnk()):
        _LOG.warning("not collected: %s is no file", path)
        return
    one.uid = one.gid = 0
    one.uname = one.gname = ""
    if not one.isreg():
        archive.addfile(one)
        return
    with _opened(path) as source:
        archive.addfile(one, source)


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except PermissionError:    # the caller's own by now, and still unreadable
        path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IRUSR)
        return path.open("rb")


def collect(spec: Spec, folder: Folder, *, all_of_it: bool) -> Tuple[str, str]:
    """Make the archives at `<output>/<job>/output/`.

    Args:
        spec: The job.
        folder: Its folder.
        all_of_it: Make them though nothing was left, as for a job that has succeeded.

    Returns:
        Where the model is and where the rest is; '' for one that was not made.

    Raises:
        StorageError: It cannot be written.
        NetworkError: It cannot be sent.
    """
    placed = []
    for part in ("model", "output"):
        members = merged([folder.hosts / host / part for host in spec.hosts])
        something = any(not _is_folder(path) for path in members.values())
        placed.append(_place(spec, folder, f"{part}.tar.gz", members) if something or all_of_it else "")
    return placed[0], placed[1]


def _place(spec: Spec, folder: Folder, name: str, members: Dict[str, Path]) -> str:
    place = f"{spec.name}/output/{name}"
    if not spec.output.startswith(COS):
        target = Path(spec.output) / place
        write_archive(target, members)
        return str(target)
    local = folder.path / name
    write_archive(local, members)
    store, prefix = open_store(spec.output)
    key = f"{prefix}/{place}" if prefix else place
    store.put(local, key)
    local.unlink()
    return store.uri(key)


def failure(folder: Folder, host: str) -> str:
    """The beginning of the failure file that a host left; '' without one."""
    with contextlib.suppress(OSError):
        path = folder.hosts / host / "output" / "failure"
        if stat.S_ISREG(path.lstat().st_mode):
            with _opened(path) as f:
                return f.read(4 * REASON_LIMIT).decode("utf-8", "replace").strip()[:REASON_LIMIT]
    return ""
