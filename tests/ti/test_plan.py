"""The user's program, as it is handed in."""
from __future__ import annotations

import logging
import os
import socket

import pytest

from ymir_exc.errors import StorageError
from ymir_exc.ti import _plan
from ymir_exc.ti.pytorch import PyTorch


@pytest.fixture
def source(place):
    folder = place / "程序 src"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "a.py").write_text("1")
    (folder / "__pycache__" / "a.pyc").write_text("")
    return folder


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_sockets_and_pipes_are_left_out_and_links_that_lead_nowhere_are_told(place, source, caplog):
    os.mkfifo(source / "pipe")
    (source / "inside").symlink_to("a.py")
    (source / "outside").symlink_to("/etc/passwd")
    (source / "absolute").symlink_to(source / "a.py")    # the folder has another name in the container
    (source / "up").symlink_to("../data")
    with socket.socket(socket.AF_UNIX) as one, caplog.at_level(logging.WARNING):
        os.chdir(source)    # the address of a socket is short
        one.bind("socket")
        _plan.copy_code(source, place / "copy")
    assert names(place / "copy") == ["a.py", "absolute", "inside", "outside", "up"]
    assert os.readlink(place / "copy" / "outside") == "/etc/passwd"
    told = caplog.text
    assert all(f"{source}/{name} " in told for name in ("pipe", "socket", "absolute", "outside", "up")) and "inside" not in told


def test_a_file_that_cannot_be_read(place, source, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.copyfile", refuse)    # nothing is unreadable to root
    with pytest.raises(StorageError, match=r"cannot be copied: .*Permission denied"):
        _plan.copy_code(source, place / "copy")


def test_jobs_kept_in_the_program_s_folder_are_no_part_of_it(place, monkeypatch, tools):
    """`source_dir='.'` with what earlier jobs have left there; a home in it would be copied into itself without end."""
    tools("docker", 'case "$1" in info|version) exit 0;; image) echo "[{}]";; *) exit 125;; esac')
    monkeypatch.setenv("YMIR_EXC_TI_HOME", str(place / "home"))
    (place / "a.py").write_text("1")
    for name in ("ti-output/old/output/model.tar.gz", "ti-output/mine/weights.pt"):
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text("x")
    seen = []
    copy_code = _plan.copy_code
    monkeypatch.setattr(_plan, "copy_code", lambda source, target, *more: (copy_code(source, target, *more), seen.extend(names(target))))
    PyTorch("a.py", source_dir=".", image_name="i").fit(wait=False)
    assert seen == ["a.py", "data", "data/a.txt", "data/deep", "data/deep/b.txt", "ti-output", "ti-output/mine",
                    "ti-output/mine/weights.pt"]
