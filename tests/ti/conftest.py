"""A working directory of its own, a session that starts nothing, and an engine that tells what it was asked."""
from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ymir_exc.ti.session import Session

CLOUD = ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY", "TENCENTCLOUD_TOKEN", "TENCENTCLOUD_REGION", "TENCENTCLOUD_APP_ID",
         "YMIR_EXC_COS_ENDPOINT")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Data below names with blanks and Chinese letters; neither an account nor GPUs."""
    made = tmp_path / "a place 中文"
    (made / "data" / "deep").mkdir(parents=True)
    (made / "data" / "a.txt").write_text("a")
    (made / "data" / "deep" / "b.txt").write_text("b")
    monkeypatch.chdir(made)
    monkeypatch.setenv("YMIR_EXC_TI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    for name in (*CLOUD, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.fixture
def dry(place):
    """A session that tells its commands into a list."""
    told = []
    session = Session(dry_run=True, tell=told.append)
    session.told = told
    return session


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Programs of this machine, replaced by scripts: `tools("docker", "exit 0")`."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin:/bin")

    def make(name: str, text: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make
