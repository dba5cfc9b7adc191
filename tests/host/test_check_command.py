"""`ymir-exc check`: what it takes for what, what it prints, and its exit status."""
from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.host import check_cases
from tests.supervised import ROOT
from ymir_exc import cli, monitor, result_writer, settings
from ymir_exc.host import check, sample, workspace
from ymir_exc.host.check import NothingToCheckError, _dataset, _show
from ymir_exc.host.findings import Severity


@pytest.fixture
def clean(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    return check_cases.make("infer", tmp_path / "a run 任务", monkeypatch)


@pytest.fixture
def broken(clean):
    check_cases.box(lambda one: one.update(score=97.5))(clean)
    check_cases.column(0, "t1")(clean)
    return clean


def test_a_clean_output(clean, capsys):
    assert cli.main(["check", str(clean.out)]) == 0
    said = capsys.readouterr()
    assert said.out == "nothing found: 4 images, 5 boxes\n" and said.err == ""


def test_a_broken_one(broken, capsys):
    assert cli.main(["check", str(broken.root), "--kind", "out"]) == 4
    out = capsys.readouterr().out
    assert out.startswith(f"{broken.predictions}:") and "error D312: score is 97.5" in out
    assert out.splitlines()[-1] == "1 error, 1 warning in 4 images, 5 boxes"
    assert "\033" not in out


def test_a_warning_fails_where_that_is_wanted(clean, capsys):
    check_cases.column(0, "t1")(clean)
    words = ["check", str(clean.root), "--kind", "out"]
    assert (cli.main(words), cli.main([*words, "--strict"])) == (0, 4)
    assert "warning M519" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--json"], ["--format", "json"], ["--format=json", "--json", "-q"]])
def test_json(broken, capsys, words):
    assert cli.main(["check", str(broken.root), "--kind", "out", *words]) == 4
    said = capsys.readouterr()
    made = json.loads(said.out)
    assert made["counts"] == {"error": 1, "warning": 1, "note": 0} and made["looked_at"] == {"images": 4, "boxes": 5}
    assert [(one["code"], one["severity"], one["key"]) for one in made["findings"]] == [
        ("D312", "error", "detection.dd.png.boxes[0].score"), ("M519", "warning", "task_id")]
    assert all(one["remedy"] and one["path"].startswith(str(broken.root)) for one in made["findings"])


def test_sarif(broken, capsys):
    assert cli.main(["check", str(broken.root), "--kind", "out", "--format", "sarif"]) == 4
    made = json.loads(capsys.readouterr().out)
    results = made["runs"][0]["results"]
    assert made["version"] == "2.1.0" and [one["ruleId"] for one in results] == ["D312", "M519"]
    assert all(" " not in one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in results)


def test_junit(broken, capsys):
    assert cli.main(["check", str(broken.root), "--kind", "out", "--format", "junit"]) == 4
    root = ET.fromstring(capsys.readouterr().out.encode("utf-8"))
    failed = [case.get("name").split()[0] for case in root if case.find("failure") is not None]
    assert failed == ["D312", "M519"] and root.get("failures") == "2"
    assert {case.get("name").split()[0][0] for case in root} == set("XTRDSM")


def test_the_list_names_every_rule(capsys):
    assert cli.main(["check", "--list"]) == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()] == list(check.all_rules())
    assert cli.main(["check", "--list", "--json"]) == 0
    assert [one["code"] for one in json.loads(capsys.readouterr().out)] == list(check.all_rules())
    assert cli.main(["check", "--list", "-v"]) == 0
    assert capsys.readouterr().out == check.describe_rules()


@pytest.mark.parametrize(("words", "said"), [
    ([], "a PATH to check is missing"), (["x", "--json", "--format", "sarif"], "contradict"),
    (["--list", "--format", "junit"], "no form junit"),
    (["x", "--format", "xml"], "invalid choice"), (["x", "--kind", "dataset"], "invalid choice")])
def test_usage(capsys, words, said):
    assert cli.main(["check", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("name", "said"), [
    ("none", "none does not exist"), ("empty", "holds nothing that can be checked; looked for in/, out/ and img-man/"),
    ("a.txt", "is no config.yaml"), ("result.yaml", "give the folder that it lies in"), ("two\nlines", r"two\nlines does not exist"),
    ("a.txt/b", "does not exist"), ("long" * 100, "cannot be read: File name too long")])
def test_what_is_not_recognised(tmp_path, capsys, name, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "result.yaml").write_text("a: 1")
    assert cli.main(["check", str(tmp_path / name)]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and err.startswith("ymir-exc: ")


def test_each_of_several_runs(tmp_path, monkeypatch, capsys):
    names = {"training": "a run 一", "mining": "b"}
    runs = [check_cases.make(task, tmp_path / "runs" / name, monkeypatch).root for task, name in names.items()]
    (runs[0] / "out/models/result.yaml").unlink()
    (runs[1] / "out/result.tsv").unlink()
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "read.me").write_text("x")
    assert check.kinds_at(tmp_path / "runs") == ["in", "out"]
    found = list(check.check(tmp_path / "runs"))
    assert found == [one for run in runs for one in check.check(run)]
    assert {Path(one.path).relative_to(tmp_path / "runs").parts[:2] for one in found} >= {(run.name, "out") for run in runs}
    assert cli.main(["check", str(tmp_path / "runs")]) == 4
    assert cli.main(["check", str(tmp_path / "runs/notes")]) == 2
    assert "for runs with in/ and out/" in capsys.readouterr().err


@pytest.mark.parametrize(("closed", "checked", "status", "said"), [
    ("out", "", 4, ["X004"]), ("out", "out", 2, "out cannot be read: Permission denied"),
    ("out/models", "", 4, ["X004"]), ("out/models/result.yaml", "", 4, ["X004"]), ("out/models/epoch_20", "", 4, ["X004"]),
    ("in", "in", 2, "in cannot be read: Permission denied"), ("", "out", 2, "out cannot be read: Permission denied")])
def test_what_may_not_be_read(monkeypatch, closed, checked, status, said):
    """As root without its powers, who could read all; another user might not be able to run this Python."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        base = check_cases.make("training", Path(folder, "run"), monkeypatch)
        os.chmod(base.root / closed, 0)
        become = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
        kind = ["--kind", "out"] if status == 4 else []
        argv = [*become, sys.executable, "-m", "ymir_exc", "check", str(base.root / checked), "--json", *kind]
        done = subprocess.run(argv, capture_output=True, text=True, encoding="utf-8", check=False, cwd=ROOT)
        os.chmod(base.root / closed, 0o755)
    assert done.returncode == status, done.stderr
    if status == 4:
        found = json.loads(done.stdout)["findings"]
        assert sorted({one["code"] for one in found}) == said
        assert found[0]["path"].startswith(str(base.root / closed)) and "Permission denied" in found[0]["message"]
    else:
        assert said in done.stderr and done.stderr.count("\n") == 1


def test_what_a_file_says_is_shown_in_part(clean, capsys):
    check_cases.edit(check_cases.JSON, lambda value: value["detection"].update({"long" * 10_000: {"boxes": 3}}))(clean)
    assert cli.main(["check", str(clean.out)]) == 4
    shown = capsys.readouterr().out
    assert len(shown) < 5000 and "D307: boxes is an integer" in shown and "long.boxes" in shown


def test_what_is_recognised(clean, tmp_path):
    assert check.kinds_at(clean.root) == ["in", "out"]
    assert check.kinds_at(clean.given) == ["in"] and check.kinds_at(clean.out) == ["out"]
    assert check.kinds_at(clean.given / "config.yaml") == ["config"]
    folder = tmp_path / "templates" / "det"
    folder.mkdir(parents=True)
    (folder / "training-template.yaml").write_text("lr: 0.1\n")
    assert check.kinds_at(folder) == check.kinds_at(folder.parent) == ["img-man"]
    shutil.copytree(folder, clean.root / "img-man")
    assert check.kinds_at(clean.root) == ["in", "out", "img-man"]
    assert check.kinds_at(clean.root, "out") == ["out"]
    for path, kind in ((clean.root, "config"), (clean.given / "config.yaml", "out")):
        with pytest.raises(NothingToCheckError, match="config is a file"):
            list(check.check(path, kind=kind))


def test_an_output_is_judged_by_the_input_beside_it(clean):
    (clean.given / "config.yaml").write_text("class_names: [bird]\nobject_type: 2\n", encoding="utf-8")
    for path, kind in ((clean.root, "out"), (clean.out, "out"), (clean.out, None)):
        assert {one.rule.code for one in check.check(path, kind=kind)} == {"D314"}


def test_it_is_so_too_in_the_folder_itself(clean, monkeypatch):
    (clean.given / "config.yaml").write_text("class_names: [bird]\nobject_type: 2\n", encoding="utf-8")
    monkeypatch.chdir(clean.out)
    assert {one.rule.code for one in check.check(".")} == {"D314"}


def test_what_lies_beside_an_output_of_another_name_is_none_of_its_own(clean):
    (clean.given / "config.yaml").write_text("class_names: [bird]\nobject_type: 2\n", encoding="utf-8")
    clean.out.rename(clean.root / "kept")
    assert list(check.check(clean.root / "kept")) == []
    (clean.root / "kept").rename(clean.out)
    (clean.given / "env.yaml").unlink()
    assert list(check.check(clean.out)) == []


def test_an_input_that_cannot_be_checked_is_a_finding_and_the_output_is_judged(broken, monkeypatch):
    monkeypatch.setattr(_dataset, "check_input", lambda *_: iter([1 / 0]))
    codes = [one.rule.code for one in check.check(broken.root)]
    assert codes == ["X001", "D312", "M519"]


def test_images_of_an_input_are_counted(clean, monkeypatch):
    calls = []

    def check_input(path, on_progress):
        on_progress(7, 7)
        yield from ()
    monkeypatch.setattr(_dataset, "check_input", check_input)
    counts = {}
    list(check.check(clean.given, on_progress=lambda *both: calls.append(both), counts=counts))
    assert counts == {"images": 7} and calls == [(7, 7)]


def test_the_whole_of_a_clean_run(tmp_path, monkeypatch):
    pytest.importorskip("PIL")
    data = tmp_path / "data 数据"
    sample.write_sample(data, images=12, candidates=4, size=64)
    space = workspace.prepare(tmp_path / "run", data, ["training"])
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(space.env_file))
    (space.output / "models/best.pt").write_bytes(b"weights")
    result_writer.write_model_stage("epoch_1", ["best.pt"], {"mAP": 0.5})
    monitor.write_monitor_logger(1.0)
    counts = {}
    found = list(check.check(space.root, counts=counts))
    assert [one for one in found if one.rule.severity != Severity.NOTE] == []
    assert counts["images"] >= 12 and counts["stages"] == 1


# -------------------------------------------------------------------------------------------- terminal and progress

class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_a_line_for_every_five_percent():
    stream = io.StringIO()
    with _show.progress(stream, patience=0) as on_progress:
        for done in [*range(101)] * 2:    # two parts
            on_progress(done, 100)
    lines = stream.getvalue().splitlines()
    assert lines == [f"checking: {percent:3d} %" for percent in range(0, 101, 5)] * 2


def test_what_is_done_at_once_shows_none():
    stream = io.StringIO()
    with _show.progress(stream, patience=3600) as on_progress:
        on_progress(1, 1)
    assert stream.getvalue() == ""


def test_a_bar_on_a_terminal():
    pytest.importorskip("rich")
    stream = Terminal()
    with _show.progress(stream) as on_progress:
        on_progress(40, 100)
    assert "checking" in stream.getvalue() and "40%" in stream.getvalue()


@pytest.mark.parametrize(("environ", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours(broken, monkeypatch, capsys, environ, is_coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.main(["check", str(broken.root), "--kind", "out", "-q"]) == 4
    assert ("\033[31;1merror\033[0m" in capsys.readouterr().out) is is_coloured


def test_as_a_program_without_a_home(broken):
    argv = [sys.executable, "-m", "ymir_exc", "check", str(broken.root), "--kind", "out", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, encoding="utf-8", check=False,
                          env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"})
    assert done.returncode == 4 and done.stderr == ""
    assert [one["code"] for one in json.loads(done.stdout)["findings"]] == ["D312", "M519"]


@pytest.mark.parametrize("form", ["text", "json", "sarif", "junit"])
def test_a_stdout_that_holds_no_chinese(broken, form):
    argv = [sys.executable, "-m", "ymir_exc", "check", str(broken.root), "--kind", "out", "--format", form]
    done = subprocess.run(argv, capture_output=True, check=False,
                          env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 4 and done.stderr == b"" and done.stdout.isascii()
    if form == "json":
        assert "任务" in json.loads(done.stdout)["findings"][0]["path"]


def test_a_reader_that_has_seen_enough():
    with subprocess.Popen([sys.executable, "-m", "ymir_exc", "check", "--list", "-v"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_terminal_without_rich(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    stream = Terminal()
    with _show.progress(stream, patience=0) as on_progress:
        on_progress(1, 2)
    assert stream.getvalue() == "checking:  50 %\n"


def test_an_error_under_the_bar_stays_that_error():
    with pytest.raises(ModuleNotFoundError, match="nothing"), _show.progress(Terminal()):
        raise ModuleNotFoundError("nothing")


def test_ctrl_c(tmp_path):
    """The log is a pipe's worth of work: the program waits in it until it is interrupted."""
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / "ymir-executor-out.log")
    (out / "monitor.txt").write_text("t0\t1.5\t1.00\t2\t0\n")
    program = ("import sys\nfrom ymir_exc import cli\nfrom ymir_exc.host.check import _log\n"
               "def wait(*_):\n    print('waiting', flush=True)\n    open(sys.argv[1] + '/ymir-executor-out.log').read()\n    yield\n"
               "_log.check_log = wait\nsys.exit(cli.main(['check', sys.argv[1]]))\n")
    process = subprocess.Popen([sys.executable, "-c", program, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    assert (process.returncode, rest, err) == (130, "", "")
