"""Tasks started as local processes; with an engine they are in tests/docker."""
from __future__ import annotations

import os
import sys

import pytest

from tests.contract import platform_rules
from ymir_exc.errors import EXIT_ENVIRONMENT
from ymir_exc.host import launch, sample, workspace


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "a dataset 数据"
    pytest.importorskip("PIL")
    sample.write_sample(root, images=4, candidates=2, size=64)
    return root


@pytest.fixture
def space(tmp_path, data):
    return workspace.prepare(tmp_path / "a task 任务", data, ["training"])


def test_a_program_runs_under_the_supervisor(space):
    program = "from ymir_exc import monitor; monitor.write_monitor_logger(0.5); print('输出', flush=True)"
    seen = []
    run = launch.run_local(space, [sys.executable, "-c", program], on_progress=lambda record, seconds: seen.append((record, seconds)))
    assert run.status == 0
    assert run.record.percent == 1.0
    assert launch.tail(run.log) == ["输出"]
    assert seen[-1][0] == run.record
    platform_rules.accept_monitor(space.output, final="done")


def test_a_failure_has_its_status_and_its_reason(space):
    run = launch.run_local(space, [sys.executable, "-c", "raise MemoryError"])
    assert (run.status, run.record.state, run.record.return_code) == (1, 4, 300103)
    assert launch.tail(run.log, 1) == ["ymir-exc: 300103 OOM: MemoryError"]


def test_an_interrupt_stops_the_task_and_waits_for_it(space):
    program = ("import pathlib, time\nfrom ymir_exc import monitor\n"
               "monitor.should_stop(); monitor.write_monitor_logger(0.25)\n"
               "while not monitor.should_stop(): time.sleep(0.01)\n"
               "print('saved', flush=True)")

    def interrupt(record, seconds):
        if record and record.percent == 0.25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch.run_local(space, [sys.executable, "-c", program], on_progress=interrupt)
    assert "saved" in launch.tail(space.output / "ymir-executor-out.log")
    assert "stopped by SIGTERM" in (space.output / "monitor.txt").read_text()


def test_the_platform_s_command_line(space, data):
    argv = launch.container_argv(space, "image:tag", user="1:2", shm_size="32G", gpus="0,1", network="none")
    assert argv == ["docker", "run", "--rm", f"-v{space.input}:/in:ro", f"-v{space.output}:/out",
                    f"-v{data / 'in' / 'assets'}:{data / 'in' / 'assets'}", "--user", "1:2", "--gpus", '"device=0,1"', "--shm-size=32G",
                    "--name", space.task_id, "--network", "none", "image:tag"]
    assert "a task" in launch.quoted(argv)
    assert f"{os.getuid()}:{os.getgid()}" in launch.container_argv(space, "image")


def test_engines_that_do_not_answer(space, tmp_path, monkeypatch):
    with pytest.raises(launch.EngineError, match="no-such-engine is not installed") as caught:
        launch.run_container(space, "image", engine="no-such-engine")
    assert caught.value.exit_code == EXIT_ENVIRONMENT
    silent = tmp_path / "bin" / "silent-engine"
    silent.parent.mkdir()
    silent.write_text("#!/bin/sh\necho cannot connect to the daemon >&2\nexit 1\n")
    silent.chmod(0o755)
    monkeypatch.setenv("PATH", f"{silent.parent}:{os.environ['PATH']}")
    with pytest.raises(launch.EngineError, match="cannot connect to the daemon"):
        launch.run_container(space, "image", engine="silent-engine")
