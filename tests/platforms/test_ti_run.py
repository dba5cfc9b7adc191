"""`ymir-exc run` over an /opt/ml, from outside: real programs, real processes."""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import yaml

from tests.supervised import last_line
from ymir_exc import monitor, platforms
from ymir_exc.code import ExecutorReturnCode as RC
from ymir_exc.errors import ConfigError, Failure
from ymir_exc.platforms.base import Outcome
from ymir_exc.platforms.ti import TiPlatform, _config, _report

SHOW = ("import argparse, json, os, sys\np = argparse.ArgumentParser()\np.add_argument('--lr', type=float)\n"
        "p.add_argument('--train', default=os.environ['TM_CHANNEL_TRAIN'])\np.add_argument('--model', default=os.environ['TM_MODEL_DIR'])\n"
        "a = p.parse_args()\nopen(a.model + '/m.json', 'w').write(json.dumps([a.lr, open(a.train + '/t.csv').read(), os.getcwd()]))\n")
TASK = ("from ymir_exc import util, dataset_reader, monitor, result_writer\nfrom ymir_exc.env import DatasetType\n"
        "cfg = util.get_merged_config()\nmonitor.write_monitor_logger(0.5)\n"
        "print(cfg.param.class_names, len(list(dataset_reader.items(DatasetType.TRAINING))))\n"
        "from pathlib import Path\nPath(cfg.ymir.output.models_dir, 'w.pt').write_text('w')\n"
        "result_writer.write_model_stage('last', ['w.pt'], mAP=0.5)\n")


def plain(job, name="train.py", content=SHOW):
    job.file(f"code/{name}", content)
    job.channel("train", **{"t.csv": "1,2"})
    return job.hyper(ti_program=name, lr="0.1")


def unused(*words):
    """The image's own program, which a script of the job's replaces."""
    return ["sh", "-c", "echo the image\\'s own program; exit 9", *words]


# ------------------------------------------------------------------------------------------------- a plain script


def test_a_plain_script(job, train):
    plain(job)
    done = train.run(*unused())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert json.loads((job.model / "m.json").read_text()) == [0.1, "1,2", str(job.code)]
    assert (job.output / "success").read_text() == "success\n" and not (job.output / "failure").exists()
    assert monitor.read_record(job.output / "data/monitor.txt").percent == 1.0


def test_a_shell_script_by_the_variable(job, train):
    job.file("code/sub/go.sh", 'printf "%s|" "$@" "$PWD" "$TM_HP_X" "$TM_USER_ENTRY_POINT"')
    job.hyper(x="a b")
    done = train.run(*unused(), env={"TI_PROGRAM": "sub/go.sh"})
    assert done.stdout.decode() == f"--x|a b|{job.code}|a b|sub/go.sh|"


def test_the_hyper_parameter_counts_more_than_the_variable(job, train):
    job.file("code/a.sh", "echo a")
    job.hyper(ti_program="a.sh")
    assert train.run(*unused(), env={"TI_PROGRAM": "b.sh"}).stdout == b"a\n"


def test_a_script_of_the_image(job, train, tmp_path):
    (tmp_path / "x.py").write_text("import os; print(os.getcwd())")
    job.hyper(ti_program=str(tmp_path / "x.py"))
    assert train.run(*unused()).stdout.decode() == f"{job.root}\n"


def test_a_program_that_is_no_script(job, train):
    job.file("code/tool", "#!/bin/sh\necho tool").chmod(0o755)
    job.hyper(ti_program="tool")
    assert train.run(*unused()).stdout == b"tool\n"


@pytest.mark.parametrize("name,words", [
    ("../../../bin/sh", "leads out of"), ("a/../../x.py", "leads out of"), (".", "leads out of"), ("none.py", "does not exist"),
    ("/none.py", "does not exist"), ("sub", "is a folder"), ("data.bin", "not executable"), ("a\0.py", "no file's name")])
def test_a_script_that_cannot_be(job, train, name, words):
    job.file("code/sub/x.py"), job.file("code/data.bin")
    job.hyper(ti_program=name)
    done = train.run(*unused())
    assert (done.returncode, done.stdout) == (4, b"") and words in last_line(done.stderr)
    assert job.failure().startswith("300001 CONFIG_ERROR: ") and words in job.failure() and "ti_program" in job.failure()


def test_arguments_for_the_image_s_own_program(job, train):
    job.hyper(a="1")
    assert train.run("printf", "%s|", "x").stdout == b"x|"
    assert train.run("printf", "%s|", "x", env={"YMIR_EXC_TI_ARGUMENTS": "json"}).stdout == b"x|--a|1|"


def test_requirements_are_installed_only_when_asked(job, train, tmp_path):
    (tmp_path / "pip.py").write_text("import sys; print('pip', *sys.argv[1:3]); sys.exit('no' in open(sys.argv[-1]).read())")
    plain(job, "x.py", "import sys; print('runs', *sys.argv[1:])").file("code/requirements.txt", "yes")
    done = train.run(*unused())
    assert done.stdout == b"runs --lr 0.1\n" and b"requirements.txt is not installed" in done.stderr
    asked = {"YMIR_EXC_TI_INSTALL": "1", "PYTHONPATH": f"{tmp_path}:{train.environment()['PYTHONPATH']}"}
    assert train.run(*unused(), env=asked).stdout == b"pip install --no-input\nruns --lr 0.1\n"
    job.file("code/requirements.txt", "no")
    done = train.run(*unused(), env=asked)
    assert (done.returncode, done.stdout) == (1, b"pip install --no-input\n")


def test_requirements_are_installed_once_for_several_processes(job, train, tmp_path):
    (tmp_path / "pip.py").write_text("print('installs')")
    job.file("code/requirements.txt", "x")
    job.file("code/a.sh", "echo a $*")
    job.hyper(ti_program="a.sh", b="1")
    code = "import sys; from ymir_exc import supervisor; sys.exit(supervisor.run(['true'], before=['echo', 'launched:']))"
    environment = {**train.environment(), "YMIR_EXC_TI_INSTALL": "1", "PYTHONPATH": f"{tmp_path}:{train.environment()['PYTHONPATH']}"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=90).stdout.splitlines()
    assert found[0] == b"installs" and found[1].startswith(b"launched: ") and found[1].endswith(b"/a.sh --b 1")


def test_words_before_the_program_stay_before_it(job, train):
    """A launcher, say, whichever program it is."""
    job.file("code/a.sh", "echo a $*")
    job.hyper(ti_program="a.sh", b="1")
    code = "import sys; from ymir_exc import supervisor; sys.exit(supervisor.run(['true'], before=['echo', 'launched:']))"
    found = subprocess.run([sys.executable, "-c", code], env=train.environment(), capture_output=True, timeout=90)
    assert found.stdout.startswith(b"launched: ") and found.stdout.endswith(b"/a.sh --b 1\n")


# ------------------------------------------------------------------------------------------------- a task, or none


def detection(job):
    job.channel("train", "a.jpg", **{"a.txt": "0, 1, 1, 2, 2\n", "classes.txt": "cat\n"})
    return job.hyper()


def test_a_task_of_this_package(job, train):
    detection(job)
    done = train.python(TASK)
    assert (done.returncode, done.stdout) == (0, b"['cat'] 1\n")
    assert b"no channel gives the val split" in done.stderr
    assert yaml.safe_load((job.model / "result.yaml").read_text())["best_stage_name"] == "last"
    assert (job.model / "last/w.pt").read_text() == "w"
    assert sorted(p.name for p in job.output.iterdir()) == ["checkpoints", "data", "success"]


def test_what_was_translated_goes_at_the_end(job, train, tmp_path):
    detection(job)
    (tmp_path / "t").mkdir()
    done = train.python("import os; print(os.environ['DEFAULT_ENV_FILE_PATH'])", env={"TMPDIR": str(tmp_path / "t")})
    assert done.stdout.decode().startswith(str(tmp_path / "t/ymir-ti-")) and list((tmp_path / "t").iterdir()) == []


def test_the_input_is_only_read(job, train):
    detection(job)
    before = sorted((str(p), p.stat().st_mtime_ns) for p in (job.root / "input").rglob("*"))
    train.python(TASK)
    assert sorted((str(p), p.stat().st_mtime_ns) for p in (job.root / "input").rglob("*")) == before


@pytest.mark.parametrize("break_it,words", [
    (lambda job: (job.data / "train/classes.txt").unlink(), "300001 CONFIG_ERROR: there are no class names"),
    (lambda job: job.hyper(lr="NaN"), "300001 CONFIG_ERROR: .*lr: nan"),
    (lambda job: (job.data / "train/a.jpg").unlink(), "300001 CONFIG_ERROR: channel train: no images"),
    (lambda job: job.channel("model", **{"model.tar.gz": "x"}), r"300004 MODEL_ERROR: .*model/model\.tar\.gz is no tar archive")])
def test_no_task_concerns_only_who_asks_for_it(job, train, break_it, words):
    detection(job)
    break_it(job)
    done = train.python("print('fine')")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"fine\n", b"")
    done = train.python(TASK)
    assert done.returncode == 1 and re.search(words, last_line(done.stderr)) and re.match(words, job.failure())


def test_a_reason_that_no_variable_can_hold(job, train):
    detection(job).hyper(**{"x\ud800\0": "NaN"})
    done = train.python(TASK)
    assert b"the environment variable 'TM_HP_X\\ud800\\x00' is not set" in done.stderr
    assert re.match("300001 CONFIG_ERROR: .*: nan", job.failure())


# ------------------------------------------------------------------------------------------------- how it ends


def test_a_failure_has_its_reason_first_and_then_the_last_lines(job, train):
    done = train.run("sh", "-c", "for i in $(seq 500); do echo line $i 行 >&2; done; echo the disk is on fire >&2; exit 7")
    assert done.returncode == 7
    data = (job.output / "failure").read_bytes()
    lines = data.decode().splitlines()
    assert len(data) <= 1024 and lines[0] == "160004 CONTAINER_ERROR: the disk is on fire"
    assert lines[-2:] == ["line 500 行", "the disk is on fire"] and not (job.output / "success").exists()
    assert monitor.read_record(job.output / "data/monitor.txt")[3:6] == (4, 160004, "the disk is on fire")


def test_the_code_of_an_error_of_ours(job, train):
    train.python("from ymir_exc.errors import NoGpuError\nraise NoGpuError('gpu_id is 0, but there is none')")
    assert job.failure().splitlines()[0] == "300102 NO_GPU: gpu_id is 0, but there is none"
    assert job.failure().splitlines()[-1] == "ymir_exc.errors.NoGpuError: gpu_id is 0, but there is none"


def test_what_the_program_wrote_stays(job, train):
    path = job.output / "failure"
    assert train.run("sh", "-c", f"echo my own words > '{path}'; exit 3").returncode == 3
    assert job.failure() == "my own words\n"
    path.write_text("")
    train.run("sh", "-c", "exit 3")
    assert job.failure().startswith("160004 CONTAINER_ERROR: exited with status 3")


def test_an_earlier_success_goes(job, train):
    (job.output / "success").write_text("success\n")
    train.run("false")
    assert not (job.output / "success").exists()


def test_an_earlier_failure_is_not_taken_for_this_runs(job, train):
    train.run("sh", "-c", f"echo the first > '{job.output}/failure'; exit 3")
    assert train.run("sh", "-c", "echo the second >&2; exit 4").returncode == 4
    assert job.failure().startswith("160004 CONTAINER_ERROR: the second")
    assert (job.output / "failure.previous").read_text() == "the first\n"
    assert train.run("true").returncode == 0
    assert not (job.output / "failure").exists() and (job.output / "success").exists()
    assert (job.output / "failure.previous").read_text().startswith("160004 CONTAINER_ERROR: the second")


def test_a_stop_is_neither(job, train):
    job.file("code/x.py", "import signal, sys, time, os\n"
             "def stop(*_):\n open(os.environ['TM_MODEL_DIR'] + '/saved', 'w').close()\n sys.exit(0)\n"
             "signal.signal(signal.SIGTERM, stop)\nprint('ready', flush=True)\ntime.sleep(300)")
    job.hyper(ti_program="x.py")
    process = train.start(*unused())
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 143
    assert (job.model / "saved").exists() and sorted(p.name for p in job.output.iterdir()) == ["checkpoints", "data"]
    assert "stopped by SIGTERM" in monitor.read_record(job.output / "data/monitor.txt").message


@pytest.mark.parametrize("content,words", [(b"{", "not valid JSON"), (b'{"a": "1", "a": "2"}', "twice")])
def test_a_failure_before_the_start(job, train, content, words):
    job.write("hyperparameters.json", content)
    done = train.run("echo", "started")
    assert (done.returncode, done.stdout) == (4, b"")
    assert job.failure().startswith("300001 CONFIG_ERROR: ") and words in job.failure() and "hyperparameters.json" in job.failure()
    assert monitor.read_record(job.output / "data/monitor.txt")[3:5] == (4, 300001)


def test_an_output_that_cannot_be_written(job, train):
    job.output.rmdir()
    job.file("output", "no folder")
    done = train.run("sh", "-c", "echo ran; exit 5")
    assert (done.returncode, done.stdout) == (5, b"ran\n")
    assert b"warning: cannot write" in done.stderr and last_line(done.stderr).startswith("ymir-exc: 160004")


def test_an_output_that_is_not_there_is_made(job, train):
    job.output.rmdir(), job.model.rmdir()
    assert train.run("false").returncode == 1
    assert job.failure().startswith("160004")


def test_each_host_says_how_it_ended(job, train):
    job.write("resourceconfig.json", {"hosts": ["a", "b"], "current_host": "b"})
    train.run("false")
    assert job.failure()


@pytest.mark.parametrize("reason,lines", [
    ("短" * 700, ("x",)), ("short", ("长" * 900,)), ("r", ("a" * 900, "b" * 200)), ("\ud800", ("\ud800",)), ("r", ()), ("r", ("",) * 2000)])
def test_no_character_is_cut(reason, lines):
    data = _report.failure_text(Outcome(1, Failure(RC.RC_EXEC_NAN_ERROR, reason), lines))
    text = data.decode("utf-8")
    assert len(data) <= 1024 and text.startswith(f"300201 NAN_ERROR: {reason[:1] if reason.isprintable() else '?'}") and text.endswith("\n")
    if lines and reason == "short":
        assert len(data) > 1000 and text.splitlines()[1].strip("长") == ""
    if "b" * 200 in lines:
        assert text.endswith("b" * 200 + "\n") and "a" not in text.splitlines()[1][:1]


def test_an_error_in_the_monitor_file_alone_is_no_success(job):
    ti = TiPlatform()
    ti.prepare()
    ti.finish(Outcome(0, recorded=True))
    assert not (job.output / "success").exists() and not (job.output / "failure").exists()


# ------------------------------------------------------------------------------------------------- which platform


def test_it_is_detected(job, monkeypatch):
    assert platforms.NAMES == ("ymir", "ti", "local")
    assert platforms.choose(environ={}).name == "ti"
    job.config.rmdir()
    assert platforms.choose(environ={}).name == "local"


def test_files_of_two_platforms(job, platform, monkeypatch):
    with pytest.raises(ConfigError, match=r"files of the platforms ymir and ti .*YMIR_EXC_PLATFORM"):
        platforms.choose(environ={})
    assert platforms.choose("ti").name == platforms.choose(environ={"YMIR_EXC_PLATFORM": "ti"}).name == "ti"
    assert platforms.choose(environ={"DEFAULT_ENV_FILE_PATH": str(platform.env_file)}).name == "ymir"


def test_another_platform_s_task_is_not_taken_for_this_one(job, platform):
    variables = TiPlatform().prepare().variables
    assert "no channel" in variables["YMIR_EXC_NO_TASK"] and not os.path.exists(variables["DEFAULT_ENV_FILE_PATH"])


def test_nothing_heavy_is_loaded(job):
    detection(job)
    code = ("import sys; from ymir_exc import platforms; p = platforms.load('ti'); p.prepare(); "
            "print(*{'pydantic', 'numpy', 'PIL', 'torch', 'tensorboard'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ}, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_what_train_says_without_any_program(job, train):
    done = train.run(sys.executable, "-m", "ymir_exc.platforms.ti")
    assert done.returncode == 4 and "nothing to run" in last_line(done.stderr)
    assert job.failure().startswith("300001 CONFIG_ERROR: there is nothing to run: the image has no /app/start.py")


@pytest.mark.parametrize(("status", "reason", "left"), [
    (143, "stopped by SIGTERM on algo-2", []), (143, "stopped by SIGTERM of a scheduler", ["failure"]),
    (1, "stopped by SIGTERM on algo-2", ["failure"])])
def test_a_stop_on_another_host_is_no_failure(tmp_path, status, reason, left):
    layout = _config.Layout(str(tmp_path))
    _report.close_output(layout, "t", Outcome(status, Failure(RC.RC_CMD_CONTAINER_ERROR, reason)))
    assert [path.name for path in (tmp_path / "output").iterdir() if path.is_file()] == left
