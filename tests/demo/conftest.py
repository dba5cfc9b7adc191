"""The demo's modules lie beside its start.py, as in the image; and a task laid out as the platform does it, run as a process."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ymir_exc.host import launch, sample, workspace

DEMO = Path(__file__).resolve().parents[2] / "det-demo-tmi"
START = DEMO / "app" / "start.py"
sys.path.insert(0, str(START.parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")    # more threads than free CPUs make torch far slower than one


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A small dataset in a folder whose name has a space and Chinese letters."""
    root = tmp_path_factory.mktemp("demo") / "a dataset 数据"
    sample.write_sample(root, images=160, candidates=12, in_root=str(root / "in"))
    return root


@pytest.fixture
def prepare(tmp_path, data):
    """Lay out a task with the demo's templates."""
    def make(*tasks: str, root: str = "task", **options):
        return workspace.prepare(tmp_path / root, data, tasks, templates=DEMO / "img-man", **options)
    return make


def run(space, **options) -> launch.Run:
    """Run the demo over a task's folders, under the supervisor, as in the image."""
    return launch.run_local(space, [sys.executable, str(START)], **options)


class _Stop(Exception):
    """What a person's Ctrl-C is to the launcher, at a time of the test's choice."""


def stop_at(space, percent: float) -> None:
    """Run the demo, and stop it as the platform would when it has come so far."""
    def watch(record, seconds):
        assert seconds < 120, log(space)
        if record is not None and record.percent > percent:
            raise _Stop

    with pytest.raises(_Stop):
        run(space, on_progress=watch)


def log(space) -> str:
    return "\n".join(launch.tail(space.output / "ymir-executor-out.log", 30))


def python(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=START.parent, **options)
