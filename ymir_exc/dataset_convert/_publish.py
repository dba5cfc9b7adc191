"""Folders of many files that appear whole: built under another name, marked with what they were made from, then renamed.

A mark inside the folder travels with it, so a folder with a mark is complete. The files are not flushed to the disk one by one: what a
power cut leaves of them dies with the task.
"""
from __future__ import annotations

import contextlib
import os
import shutil
from typing import Iterator, Optional

from ymir_exc import _files
from ymir_exc.errors import ConfigError, DatasetError, StorageError

MARK = ".made-by-ymir-exc"
_TEMP_MARK = ".ymir-tmp-"


def key_of(folder: str) -> Optional[str]:
    """What a folder was made from; None when it is not there, or not of this package."""
    try:
        with open(os.path.join(folder, MARK), encoding="utf-8") as f:
            return f.read(1000).strip()
    except (OSError, UnicodeDecodeError):
        return None


def make_stale(folder: str) -> None:
    """Let `key_of` match nothing any more, while the folder stays one of this package."""
    if key_of(folder) is not None:
        _files.write_bytes(os.path.join(folder, MARK), b"stale\n", sync=False)


@contextlib.contextmanager
def new_folder(target: str, key: str) -> Iterator[str]:
    """Build a folder under another name; it takes the place of `target` when the block ends, or leaves it alone when it raises.

    One process at a time: hold a lock.

    Args:
        target: The folder. One that stands there already is replaced when it is empty or was made by this function.
        key: What `key_of` will return.

    Yields:
        The folder to write into.

    Raises:
        ConfigError: `target` holds something else.
        StorageError: It cannot be written.
    """
    if not _may_replace(target):
        raise ConfigError(f"{target} exists and was not made by ymir_exc", hint="remove it, or choose another output folder")
    parent, name = os.path.split(target)
    temp, old = (os.path.join(parent, f".{name}{_TEMP_MARK}{suffix}") for suffix in ("new", "old"))
    try:
        for leftover in (temp, old):    # of a builder that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        os.mkdir(temp)
        yield temp
        write_new(os.path.join(temp, MARK), f"{key}\n".encode())
        _exchange(temp, target, old)
    except OSError as e:
        raise e if isinstance(e, StorageError) else _files.storage_error(target, e) from e
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _may_replace(target: str) -> bool:
    if os.path.islink(target):
        return False
    if not os.path.isdir(target):
        return not os.path.exists(target)
    return key_of(target) is not None or not os.listdir(target)


def _exchange(new: str, target: str, old: str) -> None:
    if os.path.isdir(target):
        os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        if os.path.isdir(old):
            os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_new(path: str, data: bytes) -> None:
    """Write a file in a folder that nobody reads yet.

    Raises:
        DatasetError: It is there already, with another content: two images want the same name.
        StorageError: It cannot be written.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            while data:
                data = data[os.write(fd, data):]
        finally:
            os.close(fd)
    except FileExistsError:
        with open(path, "rb") as f:
            if f.read() != data:
                raise DatasetError(f"two images of the dataset would both get the label file {os.path.basename(path)}",
                                   hint="their names differ only in the suffix; rename one") from None
    except OSError as e:
        raise _files.storage_error(path, e) from e


def point_link(link: str, target: str) -> None:
    """Make a symbolic link, or turn one that points elsewhere, in one step.

    Raises:
        ConfigError: Something that is no link stands there.
        StorageError: It cannot be made.
    """
    if os.path.islink(link) and os.readlink(link) == target:
        return
    if os.path.lexists(link) and not os.path.islink(link):
        raise ConfigError(f"{link} exists and is no link to {target}", hint="remove it, or choose another output folder")
    temp = f"{link}{_TEMP_MARK}new"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temp)    # of a builder that was killed
        os.symlink(target, temp)
        os.replace(temp, link)
    except OSError as e:
        raise _files.storage_error(link, e) from e
