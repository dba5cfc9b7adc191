"""Programs run over a dataset folder with no container."""
from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.host.test_show import read_all
from tests.supervised import PATIENCE, ROOT, is_running, wait_for
from ymir_exc import cli
from ymir_exc.errors import ConfigError, WeightsError
from ymir_exc.host import runner, sample, show, watching
from ymir_exc.host.findings import Severity
from ymir_exc.monitor import Record

pytest.importorskip("rich", reason="needs the extra `host`, by which `ymir-exc run` shows progress")

PROGRAM = """
import os, sys
from pathlib import Path
from ymir_exc import dataset_reader, monitor, result_writer, util
from ymir_exc.env import DatasetType
from ymir_exc.executor import Executor

def train(cfg):
    print("学习 with lr", cfg.param.get("lr"), flush=True)
    for epoch in monitor.track(range(4), "training"):
        model = Path(cfg.ymir.output.models_dir, f"epoch_{epoch}", "best.pt")
        model.parent.mkdir(exist_ok=True)
        model.write_bytes(b"weights")
        result_writer.write_model_stage(f"epoch_{epoch}", ["best.pt"], {"mAP": epoch / 10})
    monitor.write_tensorboard_text("done")

def mine(cfg):
    util.pick_weight_file(cfg)
    result_writer.write_mining_result([(path, 0.5) for path, _ in dataset_reader.item_paths(DatasetType.CANDIDATE)])

def infer(cfg):
    found = {path: [] for path, _ in dataset_reader.item_paths(DatasetType.CANDIDATE)}
    result_writer.write_infer_result(found)

sys.exit(Executor({"training": train, "mining": mine, "infer": infer}).main())
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    pytest.importorskip("PIL")
    root = tmp_path_factory.mktemp("data") / "a dataset 数据"
    sample.write_sample(root, images=4, candidates=3, size=64)
    return root


@pytest.fixture
def project(tmp_path):
    """A program and its templates, in a folder whose name has a space and Chinese letters."""
    folder = tmp_path / "a project 项目"
    (folder / "app").mkdir(parents=True)
    (folder / "app" / "start.py").write_text(PROGRAM, encoding="utf-8")
    (folder / "img-man").mkdir()
    (folder / "img-man" / "manifest.yaml").write_text("object_type: 2\n")
    for task in ("training", "mining", "infer"):
        (folder / "img-man" / f"{task}-template.yaml").write_text("lr: 0.1\n")
    return folder


def program(project):
    return (sys.executable, str(project / "app" / "start.py"))


def job(project, data, out, *tasks, **options):
    return runner.Job(data, tasks or ("training",), program(project), out, project / "img-man", **options)


def words(project, data, *more, task="training"):
    return ["run", "--data", str(data), "--task", task, *more, "--", *program(project)]


def config(space):
    return yaml.safe_load((space.input / "config.yaml").read_text(encoding="utf-8"))


# -------------------------------------------------------------------------------------------------------------- words

@pytest.mark.parametrize("pair,expected", [
    ("lr=0.1", ("lr", 0.1)), ("a=b=c", ("a", "b=c")), ("n='3'", ("n", "3")), ("l=[1, 2]", ("l", [1, 2])), ("e=", ("e", None)),
    ("名字=猫", ("名字", "猫")), ("b=false", ("b", False))])
def test_parameters(pair, expected):
    assert runner.parameter(pair) == expected


@pytest.mark.parametrize("pair", ["lr", "=3", " =3", "a=[1", "a=*.jpg", "a={", "a=" + "[" * 1500])
def test_words_that_are_no_parameter(pair):
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not KEY=VALUE .* quotes"):
        runner.parameter(pair)


def test_the_program_s_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("start.py", "data.json", "run"):
        (tmp_path / name).touch()
    assert runner.program_file(["python", "-u", "start.py", "data.json"]) == Path("start.py")
    assert runner.program_file([sys.executable, "start.py"]) == Path("start.py")
    assert runner.program_file(["./run", "data.json"]) == Path("run")
    assert runner.program_file(["python", "-c", "pass"]) is None


def test_where_templates_are_looked_for(tmp_path, project, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runner.find_templates(None, program(project)) == (project / "img-man").resolve()
    assert runner.find_templates(None, ["python", "-c", "pass"]) is None
    monkeypatch.chdir(project)
    assert runner.find_templates(None, ["python", "-c", "pass"]) == Path.cwd() / "img-man"
    assert runner.find_templates(project / "img-man", ["x"]) == project / "img-man"
    with pytest.raises(ConfigError, match="is no template folder"):
        runner.find_templates(project / "app", ["x"])


def test_each_run_has_a_folder_of_its_own(tmp_path):
    made = []
    for _ in range(3):
        made.append(runner.new_folder(("mining", "infer"), tmp_path))
        made[-1].mkdir()
    assert len(set(made)) == 3 and all(path.name.startswith("mining+infer-") for path in made)


# --------------------------------------------------------------------------------------------------------------- runs

def test_a_training_and_what_it_left(tmp_path, project, data):
    seen = []
    result = runner.run(job(project, data, tmp_path / "运行 1", params={"lr": 0.5}), lambda record, seconds: seen.append(record))
    assert result.run.status == 0 and result.run.record.percent == 1.0 and seen
    assert [str(one) for one in result.findings if one.rule.severity != Severity.NOTE] == []
    assert config(result.space)["lr"] == 0.5
    found = runner.figures(result)
    assert found["training"]["best"] == "epoch_3"
    assert found["training"]["stages"]["epoch_1"] == {"mAP": 0.1}
    assert [Path(file).read_bytes() for file in found["training"]["files"]] == [b"weights"]


def test_the_model_goes_on_to_mining_and_inference(tmp_path, project, data):
    trained = runner.run(job(project, data, tmp_path / "training"))
    for model in (trained.space.output, tmp_path / "training"):    # the out folder, or the run's own
        result = runner.run(job(project, data, tmp_path / f"both of {model.name}", "mining", "infer", model=model))
        assert result.run.status == 0, runner.reason(result.run)
        assert config(result.space)["model_params_path"] == [str(result.space.input / "models/epoch_3/best.pt")]
        found = runner.figures(result)
        assert (found["mining"]["images"], found["infer"]["images"], found["infer"]["objects"]) == (3, 3, 0)
        assert [len(row) for row in found["mining"]["top"]] == [2, 2, 2]


def test_the_kind_of_the_image_counts(tmp_path, project, data):
    (project / "img-man" / "manifest.yaml").write_text("object_type: [4, 3]\n")
    result = runner.run(job(project, data, tmp_path / "run")._replace(program=("true",)))
    assert config(result.space)["object_type"] == 4
    (project / "img-man" / "manifest.yaml").write_text("object_type: [4, 2]\n")
    result = runner.run(job(project, data, tmp_path / "other")._replace(program=("true",)))
    assert config(result.space)["object_type"] == 2


def test_an_output_that_the_platform_refuses(tmp_path, project, data, capsys):
    bad = "import os, pathlib; pathlib.Path({!r}, 'out', 'models', 'result.yaml').write_text('best_stage_name: gone')"
    out = tmp_path / "run"
    argv = ["run", "--data", str(data), "--task", "training", "--out", str(out), "-q", "--", sys.executable, "-c", bad.format(str(out))]
    status = cli.main(argv)
    said = capsys.readouterr()
    assert status == 4
    assert "error T1" in said.out and "the checks found" in said.out and said.err == ""


def test_a_program_that_fails(tmp_path, project, data, capsys):
    out = tmp_path / "run"
    code = "print('the last words'); raise MemoryError('too much')"
    assert cli.main(["run", "--data", str(data), "--task", "training", "--out", str(out), "--", sys.executable, "-c", code]) == 1
    err = capsys.readouterr().err
    assert "  | the last words" in err
    assert "training failed with status 1: MemoryError: too much" in err
    assert str(out / "out" / "ymir-executor-out.log") in err


def test_what_a_terminal_would_obey_is_not_passed_on(tmp_path, data, capsys):
    code = r"print('\33[31mred\33[0m \33[2J \7\33]0;title'); raise SystemExit('\33[1mno\33[0m 猫')"
    argv = ["run", "--data", str(data), "--task", "training", "--out", str(tmp_path / "run"), "-q", "--", sys.executable, "-c", code]
    assert cli.main(argv) == 1
    err = capsys.readouterr().err
    assert "  | red  ]0;title\n  | no 猫\n" in err
    assert all(c.isprintable() or c == "\n" for c in err)


def test_a_program_that_is_not_there(tmp_path, data, capsys):
    assert cli.main(["run", "--data", str(data), "--task", "training", "--out", str(tmp_path / "run"), "-q", "--", "no-such-program"]) == 1
    assert "cannot start no-such-program" in capsys.readouterr().err


def test_json_is_all_there_is_on_stdout(tmp_path, project, data, capsys):
    assert cli.main(words(project, data, "--out", str(tmp_path / "run"), "--json", "--param", "lr=7")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["task"], told["exit"], told["status"], told["reason"]) == ("training", 0, 0, "")
    assert told["training"]["best"] == "epoch_3" and Path(told["log"]).is_file()
    code = ["--", sys.executable, "-c", "raise SystemExit('no luck')"]
    assert cli.main(["run", "--data", str(data), "--task", "infer", "--json", "--out", str(tmp_path / "two"), *code]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["exit"], told["status"], told["reason"], told["findings"]) == (1, 1, "no luck", [])


def test_what_is_needed_at_the_end_is_asked_for_before(tmp_path, project, data, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.box", None)
    assert cli.main(words(project, data, "--out", str(tmp_path / "run"))) == 4
    err = capsys.readouterr().err
    assert 'pip install "ymir-exc[host]"' in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text,expected", [
    ('{"detection": {"a.jpg": {"boxes": [{}, {}]}, "b.jpg": {"annotations": [{}]}, "c.jpg": {"boxes": []}}, "more": [1]}', (3, 3)),
    ('{"images": [{"id": 1}, {"id": 2}], "categories": [], "annotations": [{"id": 1}]}', (2, 1)), ('{"detection": {"a', None), ("[]", None),
    ('{"detection": {"a.jpg": 3}}', None), ("", None)])
def test_results_are_counted(tmp_path, project, data, text, expected):
    result = runner.run(job(project, data, tmp_path / "run", "infer")._replace(program=("true",)))
    (result.space.output / "infer-result.json").write_text(text)
    (result.space.output / "result.tsv").write_bytes(b"\xff\n")
    (result.space.output / "models" / "result.yaml").write_text("model_stages: 3")
    found = runner.figures(result)
    assert set(found) == ({"infer"} if expected else set())
    assert not expected or (found["infer"]["images"], found["infer"]["objects"]) == expected


def test_what_is_shown(tmp_path, project, data, capsys):
    assert cli.main(words(project, data, "--out", str(tmp_path / "run"))) == 0
    said = capsys.readouterr()
    assert "epoch_3" in said.out and "best" in said.out and "the checks found" in said.out and "学习" not in said.out
    assert "training: 100 %" in said.err and "学习" not in said.err
    assert cli.main(words(project, data, "--out", str(tmp_path / "run"), "--overwrite", "-v")) == 0
    assert "学习 with lr 0.1\n" in capsys.readouterr().err


@pytest.mark.parametrize("on_terminal", [False, True])
def test_a_log_that_grows(tmp_path, on_terminal):
    """Each line is shown once, whole, and what a terminal would obey is not passed to it."""
    log = tmp_path / "log"
    parent, child = pty.openpty() if on_terminal else (None, None)
    opened = os.fdopen(child, "w") if on_terminal else (tmp_path / "shown").open("w", encoding="utf-8")
    with opened as stream, show.live("task", stream, log=log, pass_log=True) as update:
        update(None, 0.0)    # there is no log yet
        for part in ("first li", "ne\nsecond 图\nthi", "rd\n", "last, without an end"):
            with log.open("a", encoding="utf-8") as f:
                f.write(part)
            update(None, 0.1)
    shown = read_all(parent).decode() if on_terminal else (tmp_path / "shown").read_text(encoding="utf-8")
    assert [shown.count(line) for line in ("first line", "second 图", "third", "last, without an end")] == [1] * 4
    assert on_terminal or shown.splitlines() == ["first line", "second 图", "third", "last, without an end"]


def test_the_end_of_the_log_under_the_bar(tmp_path):
    log = tmp_path / "log"
    log.write_text("".join(f"line {n}\x1b[2J\n" for n in range(20)), encoding="utf-8")
    parent, child = pty.openpty()
    os.set_blocking(parent, False)
    parts = []

    def is_drawn():    # by a thread, eight times a second
        with contextlib.suppress(BlockingIOError):
            parts.append(os.read(parent, 1 << 16))
        return b"line 19" in b"".join(parts)

    with os.fdopen(child, "w") as stream, show.live("task", stream, log=log) as update:
        update(Record("t0", 0.0, 0.5, 2), 1.0)
        wait_for(is_drawn)
    os.set_blocking(parent, True)
    shown = (b"".join(parts) + read_all(parent)).decode()
    assert "line 19" in shown and "line 15" in shown and "line 14" not in shown and "50%" in shown
    assert "\x1b[2J" not in shown


@pytest.mark.parametrize("given,said", [
    (["--task", "training"], "--data is missing"), (["--watch"], "--data is missing"), (["--json"], "--data is missing"),
    (["--data", "x"], "--data needs --task"), (["--data", "x", "--task", "label"], "invalid choice"),
    (["--data", "x", "--task", "infer", "--platform", "local"], "--platform does not go with --data"),
    (["--data", "x", "--task", "infer", "--json", "--watch"], "--json does not go with --watch"),
    (["--data", "x", "--task", "infer", "--param", "lr"], "is not KEY=VALUE")])
def test_usage(capsys, given, said):
    assert cli.main(["run", *given, "--", "true"]) == 2
    assert said in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- the folder

def test_an_earlier_run_is_kept_unless_it_is_to_be_replaced(tmp_path, project, data):
    out = tmp_path / "run"
    runner.run(job(project, data, out))
    with pytest.raises(ConfigError, match=r"holds an earlier run.*--overwrite"):
        runner.run(job(project, data, out))
    (out / "out" / "left over").touch()
    runner.run(job(project, data, out, overwrite=True))
    assert not (out / "out" / "left over").exists()
    assert data.joinpath("in", "assets").is_dir() and any(data.joinpath("in", "assets").iterdir()), "the link goes, not the images"


@pytest.mark.parametrize("spoil", [
    lambda out: (out / "notes.txt").write_text("mine"), lambda out: (out / runner.MARK_NAME).unlink(),
    lambda out: (out / runner.MARK_NAME).write_text("something else")])
def test_what_is_not_surely_ours_is_not_deleted(tmp_path, project, data, spoil):
    out = tmp_path / "run"
    runner.run(job(project, data, out))
    spoil(out)
    before = sorted(out.rglob("*"))
    with pytest.raises(ConfigError, match="holds no earlier run alone"):
        runner.run(job(project, data, out, overwrite=True))
    assert sorted(out.rglob("*")) == before


def test_a_folder_in_which_another_run_goes_on(tmp_path, project, data):
    out = tmp_path / "run"
    out.mkdir()
    fd = os.open(out, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match="another run is going on"):
        runner.run(job(project, data, out, overwrite=True))
    os.close(fd)
    assert runner.run(job(project, data, out)).run.status == 0


def test_what_is_read_is_not_replaced(tmp_path, project, data):
    runner.run(job(project, data, tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"the model .* lies in"):
        runner.run(job(project, data, tmp_path / "run", "infer", model=tmp_path / "run" / "out", overwrite=True))
    with pytest.raises(ConfigError, match=r"the dataset .* lies in"):
        runner.run(job(project, data, data.parent, overwrite=True))
    assert (tmp_path / "run" / "out" / "models" / "result.yaml").is_file()


def test_nothing_is_left_of_a_run_that_cannot_begin(tmp_path, project, data):
    (project / "img-man" / "training-template.yaml").write_text("lr: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        runner.run(job(project, data, tmp_path / "run"))
    with pytest.raises(WeightsError, match="no usable model"):
        runner.run(job(project, data, tmp_path / "run", "infer", model=tmp_path))
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a folder"):
        runner.run(job(project, data, tmp_path / "file"))


def test_a_disk_without_room(tmp_path, project, data):
    """Files of a few bytes only: as a full disk, and for every uid."""
    program = ("import resource, signal, sys; from ymir_exc import cli; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
               "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)); sys.exit(cli.main(sys.argv[1:]))")
    argv = [sys.executable, "-c", program, *words(project, data, "--out", str(tmp_path / "run"))]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("ymir-exc: cannot write") and "File too large" in done.stderr
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------------- stops, and changes

WAITS = """
import os, pathlib, signal, sys, time
from ymir_exc import monitor
IGNORE
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
while True:
    time.sleep(0.01)
"""


@pytest.fixture
def started(tmp_path, project, data):
    """Starts the command in a process of its own."""
    processes = []

    def start(*options, env=None):
        argv = [sys.executable, "-m", "ymir_exc", "run", "--data", str(data), "--task", "training", "--out", str(tmp_path / "run"),
                *options, "--", *program(project), str(tmp_path / "pid")]
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})}
        with (tmp_path / "said").open("wb") as said:
            processes.append(subprocess.Popen(argv, stdout=said, stderr=subprocess.STDOUT, env=environ, cwd=tmp_path))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def running_program(tmp_path):
    return wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text() and int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("number,status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_stop_ends_the_program_too(tmp_path, project, started, number, status):
    (project / "app" / "start.py").write_text(WAITS.replace("IGNORE", ""))
    process = started()
    pid = running_program(tmp_path)
    process.send_signal(number)
    assert process.wait(PATIENCE) == status
    assert not is_running(pid)
    assert "stopped by SIGTERM" in (tmp_path / "run" / "out" / "monitor.txt").read_text()


def test_a_second_interrupt_does_not_wait(tmp_path, project, started):
    (project / "app" / "start.py").write_text(WAITS.replace("IGNORE", "signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))"))
    process = started(env={"YMIR_EXC_GRACE": "100000"})
    pid = running_program(tmp_path)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: "no" in (tmp_path / "run" / "out" / "ymir-executor-out.log").read_text().splitlines())
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    wait_for(lambda: not is_running(pid))


def test_watching(tmp_path, project, started):
    said = tmp_path / "said"
    process = started("--watch")
    wait_for(lambda: "waiting for a change" in said.read_text())
    (project / "app" / "__pycache__").mkdir(exist_ok=True)
    (project / "app" / "__pycache__" / "x.pyc").touch()
    (project / "app" / "start.py").write_text(WAITS.replace("IGNORE", ""))    # this one does not end by itself
    first = running_program(tmp_path)
    (tmp_path / "pid").unlink()
    (project / "img-man" / "training-template.yaml").write_text("lr: 9\n")
    second = running_program(tmp_path)
    assert first != second and not is_running(first)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert not is_running(second)
    told = [line for line in said.read_text().splitlines() if "changed" in line]
    assert told == ["ymir-exc: start.py changed: it is run again", "ymir-exc: training-template.yaml changed: it is run again"]
    assert "lr: 9" in (tmp_path / "run" / "in" / "config.yaml").read_text()


def test_watching_goes_on_after_a_mistake(tmp_path, project, started):
    said = tmp_path / "said"
    process = started("--watch")
    wait_for(lambda: said.read_text().count("waiting for a change") == 1)
    (project / "img-man" / "training-template.yaml").write_text("lr: [\n")
    wait_for(lambda: said.read_text().count("waiting for a change") == 2)
    assert "not valid YAML" in said.read_text()
    (project / "img-man" / "training-template.yaml").write_text("lr: 3\n")
    wait_for(lambda: said.read_text().count("waiting for a change") == 3)
    assert (tmp_path / "run" / "out" / "models" / "result.yaml").is_file()
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130


@pytest.mark.parametrize("name", ["#start.py#", ".start.py.swp", "start.py~"])
def test_what_an_editor_keeps_beside_a_file_is_no_change(tmp_path, name):
    (tmp_path / "start.py").touch()
    files = watching.Files([tmp_path], [])
    (tmp_path / name).touch()
    files.check()


def test_a_file_that_an_editor_replaces_is_a_change(tmp_path):
    (tmp_path / "start.py").write_text("a = 1")
    files = watching.Files([tmp_path], [])
    (tmp_path / "new").write_text("a = 2")
    os.utime(tmp_path / "new", ns=(0, 0))
    (tmp_path / "new").replace(tmp_path / "start.py")
    with pytest.raises(watching.Changed, match=r"^start\.py changed"):
        files.check()


def test_a_reader_that_goes_away(project, data, tmp_path):
    argv = [sys.executable, "-m", "ymir_exc", *words(project, data, "-q", "--json", "--out", str(tmp_path / "run"))]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
