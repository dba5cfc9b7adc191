"""Which task runs, in which order, and what a failure leaves behind."""
from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.contract import platform_rules
from ymir_exc import errors, monitor
from ymir_exc.errors import ConfigError
from ymir_exc.executor import FAILURES_VARIABLE, Executor


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monitor._writer.reset()
    monkeypatch.delenv("YMIR_EXC_SUPERVISED", raising=False)


def record(platform):
    monitor._writer.flush()
    return monitor.read_record(platform.out / "monitor.txt")


def apps(done):
    return {task: (lambda cfg, task=task: done.append((task, cfg.ymir.task_id))) for task in ("infer", "mining", "training")}


@pytest.mark.parametrize(("tasks", "order"), [
    (["training"], ["training"]), (["mining"], ["mining"]), (["infer"], ["infer"]), (["infer", "mining"], ["mining", "infer"]),
    (["training", "mining", "infer"], ["training"]),
])
def test_functions_run_in_order(platform, tasks, order):
    platform.run(*tasks)
    done = []
    assert Executor(apps(done)).start() == 0
    assert done == [(task, "t0") for task in order]
    assert record(platform).percent == 1.0
    platform_rules.accept_monitor(platform.out, final="done")


def test_after_mining_half_the_way_is_done(platform):
    platform.run("mining", "infer")
    seen = []
    Executor({"mining": lambda cfg: None, "infer": lambda cfg: seen.append(record(platform).percent)}).start()
    assert seen == [0.5]


def test_commands_run_with_their_quotes(platform, tmp_path):
    out = tmp_path / "a b.txt"
    program = f"import sys; open({str(out)!r}, 'w').write(repr(sys.argv[1:]))"
    Executor({"training": [sys.executable, "-c", program, "1"]}).start()
    assert out.read_text() == "['1']"
    out.unlink()
    Executor(apps={"training": f"{sys.executable} -c \"{program}\" 'two words' ';' '$HOME'"}).start()
    assert out.read_text() == "['two words', ';', '$HOME']"


def test_an_apostrophe_in_a_command(platform, capfd):
    Executor({"training": "echo it's  fine"}).start()
    assert "it's fine\n" in capfd.readouterr().out


@pytest.mark.parametrize("arguments", [(), (0,), (None,)])
def test_a_function_may_end_in_sys_exit(platform, arguments):
    platform.run("mining", "infer")
    done = []
    assert Executor({"mining": lambda cfg: sys.exit(*arguments), "infer": done.append}).main() == 0
    assert len(done) == 1
    assert (record(platform).state, record(platform).percent) == (2, 1.0)


@pytest.mark.parametrize(("given", "status"), [(3, 3), ("no images", 1)])
def test_a_function_that_ends_in_sys_exit_with_a_status_failed(platform, capsys, given, status):
    assert Executor({"training": lambda cfg: sys.exit(given)}).main() == status
    found = record(platform)
    assert (found.state, found.return_code, found.message) == (4, 160004, f"SystemExit: {given}")
    assert capsys.readouterr().err.splitlines()[-1] == f"ymir-exc: 160004 CONTAINER_ERROR: SystemExit: {given}"


def test_the_default_apps():
    assert Executor().apps == {task: f"python3 ymir/ymir_{task}.py" for task in ("training", "mining", "infer")}


def test_a_failing_command_is_recorded_and_raised(platform):
    with pytest.raises(subprocess.CalledProcessError):
        Executor({"training": [sys.executable, "-c", "raise SystemExit(3)"]}).start()
    assert record(platform).state == 4
    assert "exit status 3" in record(platform).message


def test_under_the_supervisor_a_command_s_words_are_left_to_it(platform, monkeypatch):
    monkeypatch.setenv("YMIR_EXC_SUPERVISED", "1")
    with pytest.raises(subprocess.CalledProcessError):
        Executor({"training": "false"}).start()
    assert record(platform) is None


def test_under_the_supervisor_the_last_line_is_left_to_it(platform, monkeypatch, capsys):
    monkeypatch.setenv("YMIR_EXC_SUPERVISED", "1")
    assert Executor({"training": lambda cfg: 1 / 0}).main() == 1
    assert capsys.readouterr().err.splitlines()[-1] == "ZeroDivisionError: division by zero"


FAILURES = [
    (errors.NoGpuError("gpu_id is '7'"), 300102, 1), (errors.DatasetError("no images"), 300002, 4), (MemoryError(), 300103, 1),
    (RuntimeError("CUDA out of memory"), 300103, 1), (errors.Stopped("stopped by SIGTERM"), 160004, 143), (KeyError("x"), 160004, 1),
    (KeyboardInterrupt(), 160004, 130),
]


@pytest.mark.parametrize(("error", "code", "status"), FAILURES, ids=lambda value: type(value).__name__)
def test_each_failure_has_its_code_status_and_last_line(platform, capsys, error, code, status):
    def fail(cfg):
        monitor.write_monitor_logger(0.3)
        raise error

    assert Executor({"training": fail}).main() == status
    found = record(platform)
    assert (found.state, found.return_code, found.percent) == (4, code, 0.3)
    assert found.message == errors.classify(error).reason
    assert "in fail" in "\n".join(found.lines)
    platform_rules.accept_monitor(platform.out, final="error")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"ymir-exc: {code} {errors.classify(error).code.short_name}: {found.message}"


def test_no_task_and_a_task_that_the_image_lacks(platform):
    platform.run()
    with pytest.raises(ConfigError, match="asks for no task"):
        Executor({}).start()
    platform.run("mining")
    with pytest.raises(ConfigError, match="does not support mining"):
        Executor({"training": lambda cfg: None}).start()
    assert record(platform).return_code == 300001


def test_a_bad_configuration_is_recorded(platform, capsys):
    (platform.input / "config.yaml").write_text("{unclosed")
    assert Executor(apps([])).main() == 4
    assert record(platform).return_code == 300001
    assert "config.yaml" in record(platform).message


def test_without_an_env_file_the_reason_is_still_said(platform, capsys):
    platform.env_file.unlink()
    assert Executor(apps([])).main() == 4
    assert "env.yaml does not exist" in capsys.readouterr().err.splitlines()[-1]


def test_debug_ends_as_failed(platform):
    platform.config["ymir_debug"] = "True"
    platform.write()
    done = []
    with pytest.raises(errors.YmirError, match="ymir_debug"):
        Executor(apps(done)).start()
    assert done
    assert record(platform).state == 4


def test_another_rank_fails_without_touching_the_record(platform, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ZeroDivisionError):
        Executor({"training": lambda cfg: 1 / 0}).start()
    assert not os.path.exists(platform.out / "monitor.txt")


# -------------------------------------------------------------------------------------------------------------- several processes

def test_a_launcher_runs_the_task_or_leaves_it_to_this_process(platform):
    done = []
    for has_run in (True, False):
        seen = []
        assert Executor({"training": done.append}, launcher=lambda cfg: seen.append(cfg.ymir.task_id) or has_run).main() == 0    # noqa: B023
        assert seen == ["t0"]
        assert len(done) == (0 if has_run else 1)


def test_what_is_wrong_is_found_before_anything_is_launched(platform):
    platform.run("mining")
    seen = []
    with pytest.raises(ConfigError, match="does not support mining"):
        Executor({"training": print}, launcher=seen.append).start()
    assert seen == []


def failed_rank(cfg):
    error = errors.ProgramError("rank 1: MemoryError: boom")
    error.return_code, error.exit_code, error.lines = errors.RC.RC_EXEC_OOM, 7, ["Traceback of rank 1", "MemoryError: boom"]
    raise error


def test_the_failure_of_another_process_is_recorded_as_that_one_told_it(platform, capsys):
    assert Executor({"training": print}, launcher=failed_rank).main() == 7
    found = record(platform)
    assert (found.state, found.return_code, found.message) == (4, 300103, "rank 1: MemoryError: boom")
    assert list(found.lines) == ["Traceback of rank 1", "MemoryError: boom"]
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "ymir-exc: 300103 OOM: rank 1: MemoryError: boom"


def test_of_another_process_that_told_nothing_the_supervisor_finds_the_words(platform, monkeypatch, capsys):
    def launcher(cfg):
        raise errors.ProgramError("rank 1: exited with status 7") from subprocess.CalledProcessError(7, ["x"])

    monkeypatch.setenv("YMIR_EXC_SUPERVISED", "1")
    assert Executor({"training": print}, launcher=launcher).main() == 1
    assert record(platform) is None
    assert capsys.readouterr().err.splitlines()[-1] == "rank 1: exited with status 7"
    monkeypatch.delenv("YMIR_EXC_SUPERVISED")
    assert Executor({"training": print}, launcher=launcher).main() == 1
    assert record(platform).message == "rank 1: exited with status 7"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_tells_the_process_that_started_it_and_nobody_else(platform, tmp_path, monkeypatch, capsys, rank):
    def fail(cfg):
        raise errors.DatasetError("no images")

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv(FAILURES_VARIABLE, str(tmp_path))
    assert Executor({"training": fail}).main() == 4
    told = json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))
    assert (told["code"], told["reason"], told["status"]) == (300002, "no images", 4)
    assert "in fail" in "\n".join(told["lines"])
    assert record(platform) is None
    assert "ymir-exc:" not in capsys.readouterr().err


def test_a_rank_leaves_a_command_s_words_and_the_debug_failure_to_the_one_that_started_it(platform, tmp_path, monkeypatch):
    platform.config["ymir_debug"] = True
    platform.write()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv(FAILURES_VARIABLE, str(tmp_path))
    assert Executor({"training": ["false"]}).main() == 1
    assert not (tmp_path / "1.json").exists()
    assert Executor({"training": ["true"]}).main() == 0


def test_a_rank_that_cannot_tell_still_fails_with_its_own_error(platform, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv(FAILURES_VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(ZeroDivisionError):
        Executor({"training": lambda cfg: 1 / 0}).start()
    assert "could not be recorded" in caplog.text


def test_the_launcher_is_loaded_without_torch():
    code = "import sys; import ymir_exc.integrations.torchrun; print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
