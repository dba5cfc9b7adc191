"""Where files of jobs lie: in a folder of this machine, or in an object store."""
from __future__ import annotations

import abc
import contextlib
import os
import posixpath
import urllib.parse
from pathlib import Path
from typing import Iterator, List, Tuple, Union

from ymir_exc import _files
from ymir_exc.errors import ArgumentError, DatasetError

COS = "cos://"
_FILE = "file://"


class Store(abc.ABC):
    """Six things that any store can do; a key has no slash at either end."""

    @abc.abstractmethod
    def put(self, source: Path, key: str) -> None:
        """Store a file's content; it appears whole."""

    @abc.abstractmethod
    def get(self, key: str, target: Path) -> None:
        """Fetch an object into a file, whose folders are made; it appears whole."""

    @abc.abstractmethod
    def list(self, prefix: str) -> Iterator[str]:
        """The keys that begin with `prefix`, in order."""

    @abc.abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is an object of exactly this key."""

    @abc.abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no fault."""

    @abc.abstractmethod
    def uri(self, key: str) -> str:
        """The key as a program may be told it."""


class FileStore(Store):
    """A folder as a store."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, source: Path, key: str) -> None:
        """As of `Store`."""
        _files.copy_file(source, self.root / key)

    def get(self, key: str, target: Path) -> None:
        """As of `Store`."""
        _files.copy_file(self.root / key, target)

    def list(self, prefix: str) -> Iterator[str]:
        """As of `Store`."""
        found = (os.path.relpath(os.path.join(folder, name), self.root) for folder, _, names in os.walk(self.root) for name in names)
        yield from sorted(key for key in found if key.startswith(prefix))

    def exists(self, key: str) -> bool:
        """As of `Store`."""
        return (self.root / key).is_file()

    def delete(self, key: str) -> None:
        """As of `Store`."""
        with contextlib.suppress(FileNotFoundError):
            (self.root / key).unlink()

    def uri(self, key: str) -> str:
        """As of `Store`."""
        return f"{_FILE}{self.root / key}" if key else f"{_FILE}{self.root}"


def open_store(uri: str) -> Tuple[Store, str]:
    """The store of a cos:// URI, and the key in it.

    Raises:
        ArgumentError: It names no bucket.
        ConfigError: The SDK is not installed, or there are no credentials.
    """
    from ymir_exc.ti._cos import CosStore
    bucket, key = split_cos(uri)
    return CosStore(bucket), key


def split_cos(uri: str) -> Tuple[str, str]:
    """Bucket and key of a cos:// URI; the key may be empty.

    Raises:
        ArgumentError: It names no bucket.
    """
    bucket, _, key = uri[len(COS):].partition("/")
    if not uri.startswith(COS) or not bucket:
        raise ArgumentError(f"{uri!r} names no bucket", hint="cos://BUCKET/KEY")
    return bucket, clean_key(key)


def clean_key(key: str) -> str:
    """A key without slashes at its ends, doubled ones, and steps to other folders."""
    return posixpath.normpath(f"/{key}").strip("/")


def local_path(place: Union[str, os.PathLike[str]]) -> Path:
    """The file or folder that a path or a file:// URI names, absolute. A URI may have its blanks as they are or as %20."""
    text = os.fspath(place)
    if text.startswith(_FILE):
        text = text[len(_FILE):]
        text = text[len("localhost"):] if text.startswith("localhost/") else text
        decoded = urllib.parse.unquote(text)
        text = decoded if not os.path.exists(text) and (os.path.exists(decoded) or "%20" in text) else text
    elif "://" in text:
        raise ArgumentError(f"{text!r} is of a kind that is not known", hint="a path, file:// or cos://")
    if not text:
        raise ArgumentError("a path is empty", hint="a path, file:// or cos://")
    try:
        return Path(os.path.abspath(os.path.expanduser(text)))
    except FileNotFoundError:
        raise ArgumentError(f"{text!r} is relative to a working directory that is gone",
                            hint="give an absolute path, or go elsewhere") from None


def files_below(path: Path) -> List[Tuple[Path, str]]:
    """Each file below a folder and its key relative to it, or a file and its name, in order; links are followed.

    Raises:
        DatasetError: There is nothing.
    """
    if path.is_file():
        return [(path, path.name)]
    if not path.is_dir():
        raise DatasetError(f"{path} does not exist", hint="give a file or a folder")
    found = []
    for folder, _, names in os.walk(path, followlinks=True):
        paths = [Path(folder) / name for name in names]
        found += [(one, one.relative_to(path).as_posix()) for one in paths if one.is_file()]
    return sorted(found, key=lambda pair: pair[1])


def fetch(uri: str, folder: Path) -> Path:
    """Fetch an object, or all that lie below a prefix.

    Args:
        uri: cos://bucket/key.
        folder: Where to; made.

    Returns:
        The file, for an object; else the folder.

    Raises:
        DatasetError: There is nothing of that name, or a key that would leave the folder.
    """
    store, key = open_store(uri)
    _files.make_folder(folder)
    if key and store.exists(key):
        target = folder / posixpath.basename(key)
        store.get(key, target)
        return target
    head, count = f"{key}/" if key else "", 0
    for found in store.list(head):
        relative = found[len(head):]
        if not relative or relative.endswith("/"):    # what a web page makes for an empty folder
            continue
        if clean_key(relative) != relative:
            raise DatasetError(f"the key {found!r} of {uri} cannot become a file", hint="rename the object")
        store.get(found, folder / relative)
        count += 1
    if not count:
        raise DatasetError(f"there is nothing at {uri}", hint="look at the bucket's name and the key")
    return folder


def put_below(store: Store, path: Path, prefix: str) -> str:
    """Store a file, or all files of a folder.

    Returns:
        The URI of the object, or of the prefix.
    """
    for file, relative in files_below(path):
        store.put(file, f"{prefix}/{relative}" if prefix else relative)
    if path.is_dir():
        return store.uri(prefix)
    return store.uri(f"{prefix}/{path.name}" if prefix else path.name)
