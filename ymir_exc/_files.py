"""The only place that opens an output for writing.

A write goes to a temporary file beside the target, is flushed to the disk, and takes the target's name in one step: whoever reads, and
whatever kills the writer, sees the old content or the new, never a part. Values are converted and checked before anything is opened.
"""
from __future__ import annotations

import contextlib
import errno
import os
import stat
from _thread import get_ident
from typing import IO, Iterator, Optional, Union, cast

from ymir_exc.errors import StorageError, YmirError

PathLike = Union[str, "os.PathLike[str]"]

_TEMP_MARK = ".ymir-tmp-"
_WRITE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EBUSY,
                           errno.ENOENT, errno.EISDIR, errno.ESTALE})
_READABLE_ERRORS = {
    errno.ENOSPC: "free some space, or give /out a larger volume",
    errno.EDQUOT: "the quota of this user is used up",
    errno.EROFS: "mount the output folder read-write",
    errno.EACCES: "the folder must be writable by this uid",
    errno.EPERM: "the folder must be writable by this uid",
    errno.ENOENT: "the folder does not exist",
    errno.EISDIR: "a folder stands where the file should be",
}


def storage_error(path: PathLike, error: OSError) -> StorageError:
    """Say which file could not be written, why, and what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    made = StorageError(f"cannot write {os.fspath(path)}: {reason}", hint=_READABLE_ERRORS.get(error.errno or 0, ""))
    made.errno, made.filename = error.errno, os.fspath(path)
    return made


def write_bytes(path: PathLike, data: bytes, *, sync: bool = True, shared: bool = False) -> None:
    """Replace the content of a file in one step.

    Args:
        path: The target; a link is followed. Its folder must exist.
        data: The whole new content.
        sync: Flush to the disk before and after the rename. Progress files pass False: after a power cut they mean nothing.
        shared: Let every uid write the file, whatever the umask: the platform rewrites it under a uid of its own.

    Raises:
        StorageError: The file could not be written; the earlier content is intact.
    """
    try:
        _replace(os.fspath(path), data, sync, 0o666 if shared else 0)
    except OSError as e:
        raise storage_error(path, e) from e


def overwrite_bytes(path: PathLike, data: bytes) -> None:
    """Overwrite a small file where it lies: a full disk has room for what fits into the blocks that the file has already.

    A kill meanwhile may leave a mixture, so this is only for last words that could not be written in any other way.

    Raises:
        StorageError: There was no room for that either.
    """
    try:
        _write_in_place(os.path.realpath(path), data, sync=False)
    except OSError as e:
        raise storage_error(path, e) from e


def _replace(target: str, data: bytes, sync: bool, allow: int) -> None:
    try:
        mode = os.lstat(target).st_mode
        if stat.S_ISLNK(mode):    # looked for first, because to follow each folder of the path would take longer than the rest
            target = os.path.realpath(target)
            mode = os.stat(target).st_mode
    except FileNotFoundError:
        mode = 0
    if mode and not stat.S_ISREG(mode):
        _write_in_place(target, data, sync=False)    # a device or a pipe has no other way; a folder says EISDIR
        return
    temp = _temp_name(target)
    try:
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as e:
        if mode and e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            _write_in_place(target, data, sync)    # a writable file, mounted alone into a folder that is not
            return
        raise
    try:
        try:
            _write_all(fd, data)
            _widen(fd, mode | allow)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        _publish(temp, target, data, sync)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temp)
        raise


def _publish(temp: str, target: str, data: Optional[bytes], sync: bool) -> None:
    """Give the temporary file the target's name.

    A target that is a mount point of its own (EBUSY), or another uid's file in a sticky folder (EPERM), is rewritten in place.
    """
    try:
        os.replace(temp, target)
    except OSError as e:
        if e.errno not in (errno.EBUSY, errno.EPERM, errno.EACCES):
            raise
        if data is None:
            import shutil
            with open(temp, "rb") as source, open(target, "r+b") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
                sink.truncate()
                sink.flush()
                os.fsync(sink.fileno())
        else:
            _write_in_place(target, data, sync)
        os.unlink(temp)
        return
    if sync:
        sync_folder(os.path.dirname(target))


def _write_in_place(target: str, data: bytes, sync: bool) -> None:
    """Overwrite, then cut: a reader never meets an empty file."""
    fd = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _write_all(fd, data)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.ftruncate(fd, len(data))
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def _widen(fd: int, old_mode: int) -> None:
    """Keep what the earlier file allowed to others: the platform's uid may be another one."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    wanted = mode | (old_mode & 0o666)
    if wanted != mode:
        with contextlib.suppress(OSError):
            os.fchmod(fd, wanted)


def _temp_name(target: str) -> str:
    folder, name = os.path.split(target)
    # The thread is in the name for two threads, a random part for two containers that share a folder and a pid.
    unique = f"{os.getpid()}-{get_ident():x}-{os.urandom(3).hex()}"
    return os.path.join(folder, f".{name[:180]}{_TEMP_MARK}{unique}")


def sync_folder(folder: str) -> None:
    """Flush a folder's entries; file systems that cannot are left alone."""
    with contextlib.suppress(OSError):
        fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def open_atomic(path: PathLike, *, buffering: int = 1 << 20, follow_links: bool = True,
                shared: bool = False) -> Iterator[IO[bytes]]:
    """Write a large file piece by piece; it appears whole when the block ends, or not at all when it raises.

    Args:
        path: The target. Its folder must exist.
        buffering: Bytes held before a write.
        follow_links: Write to what a link names; otherwise the file takes the link's place.
        shared: As of `write_bytes`.

    Yields:
        A binary file.

    Raises:
        StorageError: The file could not be written; the earlier content is intact.
    """
    target = os.path.realpath(path) if follow_links else os.path.abspath(path)
    temp = _temp_name(target)
    try:
        old_mode = os.stat(target).st_mode if os.path.exists(target) else 0
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        sink = cast(IO[bytes], os.fdopen(fd, "wb", buffering))
    except OSError as e:
        raise storage_error(path, e) from e
    try:
        with sink:
            yield sink
            sink.flush()
            _widen(sink.fileno(), old_mode | (0o666 if shared else 0))
            os.fsync(sink.fileno())
        _publish(temp, target, None, True)
    except BaseException as e:
        with contextlib.suppress(OSError):
            os.unlink(temp)
        # What the caller's block raises is its own: only a failed write of this very file is told as one.
        if isinstance(e, OSError) and not isinstance(e, YmirError) and e.filename in (None, temp, target) and e.errno in _WRITE_ERRORS:
            raise storage_error(path, e) from e
        raise


@contextlib.contextmanager
def lock(folder: PathLike) -> Iterator[None]:
    """Hold an exclusive lock on a folder: one read-modify-write at a time, between threads, processes and containers.

    The folder itself is locked, so no file is left behind; where a file system refuses that, a lock file is used.

    Raises:
        StorageError: The folder is missing or cannot be opened.
    """
    import fcntl
    try:
        fd = os.open(os.fspath(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as e:
            os.close(fd)
            if e.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            fd = os.open(os.path.join(os.fspath(folder), ".ymir-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as e:
        raise storage_error(folder, e) from e
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)    # a process forked meanwhile has the same lock, and may live long
        os.close(fd)


def copy_file(source: PathLike, target: PathLike, *, shared: bool = False) -> None:
    """Copy a file's content under another name in one step; the copy is never a link, missing folders of the target are made.

    Args:
        source: An existing file.
        target: The copy.
        shared: As of `write_bytes`, for the folders too.

    Raises:
        StorageError: The target could not be written.
        FileNotFoundError: The source does not exist.
    """
    import shutil
    with open(source, "rb") as reader:
        make_folder(os.path.dirname(os.fspath(target)), shared=shared)
        with open_atomic(target, follow_links=False, shared=shared) as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)


def make_folder(folder: PathLike, *, shared: bool = False) -> None:
    """Make a folder and its parents.

    Args:
        folder: May exist.
        shared: Let every uid write into those that are made, whatever the umask.

    Raises:
        StorageError: It could not be made.
    """
    made, path = [], os.path.abspath(folder)
    while shared and not os.path.exists(path):
        made.append(path)
        path = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
        for path in made:
            with contextlib.suppress(OSError):    # another uid made it meanwhile
                os.chmod(path, 0o777)    # noqa: S103 - the platform's uid is another one
    except OSError as e:
        raise storage_error(folder, e) from e


def remove_leftovers(folder: PathLike) -> int:
    """Delete the temporary files of writers that were killed. Only for a moment when no writer lives.

    Returns:
        How many were deleted.
    """
    count = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and _TEMP_MARK in entry.name and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
                    count += 1
    return count
