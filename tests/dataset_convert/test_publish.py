"""Folders that appear whole, also when the disk does not want to."""
from __future__ import annotations

import errno
import os

import pytest

from ymir_exc.dataset_convert._publish import key_of, make_stale, new_folder, point_link, write_new
from ymir_exc.errors import StorageError


@pytest.fixture
def target(tmp_path):
    made = str(tmp_path / "输出 folder")
    with new_folder(made, "one") as folder:
        write_new(os.path.join(folder, "a"), b"first")
    return made


def content(folder):
    with open(os.path.join(folder, "a"), "rb") as f:
        return f.read()


def refuse(monkeypatch, function, when=lambda *args: True, number=errno.ENOSPC):
    """Let a function of `os` fail where `when` says so."""
    real = getattr(os, function)

    def refused(*args, **options):
        if when(*args):
            raise OSError(number, os.strerror(number))
        return real(*args, **options)

    monkeypatch.setattr(os, function, refused)


def test_replaced_whole(target):
    assert (key_of(target), content(target)) == ("one", b"first")
    with new_folder(target, "two") as folder:
        write_new(os.path.join(folder, "a"), b"second")
        assert (key_of(target), content(target)) == ("one", b"first")
    assert (key_of(target), content(target)) == ("two", b"second")
    assert os.listdir(os.path.dirname(target)) == [os.path.basename(target)]


def test_a_failure_in_the_block_changes_nothing(target):
    with pytest.raises(KeyError), new_folder(target, "two"):
        raise KeyError
    assert (key_of(target), content(target)) == ("one", b"first")
    assert len(os.listdir(os.path.dirname(target))) == 1


def test_stale_is_still_ours(target):
    make_stale(target)
    assert key_of(target) == "stale"
    with new_folder(target, "two"):
        pass
    assert key_of(target) == "two"
    make_stale(target + " which is not there")


def test_a_rename_that_fails_puts_the_old_folder_back(target, monkeypatch):
    refuse(monkeypatch, "rename", lambda source, _: source.endswith("-new"))
    with pytest.raises(StorageError, match=r"cannot write .*输出 folder: No space left"), new_folder(target, "two"):
        pass
    assert (key_of(target), content(target)) == ("one", b"first")


def test_a_first_rename_that_fails_leaves_nothing(tmp_path, monkeypatch):
    refuse(monkeypatch, "rename")
    with pytest.raises(StorageError, match="cannot write"), new_folder(str(tmp_path / "made"), "one"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_full_disk(target, monkeypatch):
    refuse(monkeypatch, "write")
    with pytest.raises(StorageError, match="b: No space left on device"):
        write_new(f"{target}/b", b"text")
    refuse(monkeypatch, "symlink", number=errno.EROFS)
    with pytest.raises(StorageError, match="link: Read-only file system"):
        point_link(f"{target}/link", "/in/assets")


def test_short_writes_are_continued(target, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    write_new(f"{target}/b", b"0123456789")
    with open(f"{target}/b", "rb") as f:
        assert f.read() == b"0123456789"
