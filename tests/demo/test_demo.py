"""`make demo` without the training: what it prints, what it leaves, and what it makes of mistakes."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.demo.conftest import DEMO

PRETEND = ("--images", "12", "--param", "expected_map=0.5")


def command(out, *options):
    return [sys.executable, str(DEMO / "demo.py"), "--out", str(out), *options]


def demo(out, *options):
    return subprocess.run(command(out, *options), capture_output=True, text=True)


def test_the_tables_and_the_paths_twice_in_a_row(tmp_path):
    out = tmp_path / "a demo 演示"
    for _ in range(2):
        done = demo(out, *PRETEND)
        assert done.returncode == 0, done.stderr
        assert next(line.split()[:3] for line in done.stdout.splitlines() if "smoke " in line) == ["smoke", "-", "0.500"]
        for name in ("model", "ranking", "detections", "picture", "log"):
            path = next(line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.split()[:1] == [name])
            assert os.path.getsize(path) > 0, name
        assert "tensorboard --logdir" in done.stdout


@pytest.mark.parametrize("option", ["epochs", "epochs=[1"])
def test_a_mistyped_option_costs_nothing(tmp_path, option):
    assert demo(tmp_path, *PRETEND).returncode == 0
    done = demo(tmp_path, "--param", option)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "KEY=VALUE" in done.stderr
    assert (tmp_path / "training/out/models/result.yaml").exists()


def test_a_failed_task_says_why(tmp_path):
    done = demo(tmp_path, "--images", "12", "--param", "expected_map=2")
    assert done.returncode == 1
    assert "expected_map is 2: " in done.stderr


def test_interrupted_from_the_keyboard(tmp_path):
    process = subprocess.Popen(command(tmp_path, *PRETEND, "--param", "idle_seconds=600"), stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.DEVNULL, start_new_session=True)
    monitor = tmp_path / "training/out/monitor.txt"
    deadline = time.monotonic() + 60
    while not monitor.exists() or "\t2\t" not in monitor.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in said) == (130, False), said
