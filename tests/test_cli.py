"""The command line: what it takes, what it says, and how it ends."""
from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.supervised import ROOT, last_line
from ymir_exc import __version__, cli
from ymir_exc.errors import ConfigError, NetworkError

COMMANDS = ("init", "run", "check", "build", "verify", "report", "sample", "doctor", "completion")


def module(*words, **kwargs):
    return subprocess.run([sys.executable, "-m", "ymir_exc", *words], capture_output=True, text=True, encoding="utf-8", check=False,
                          env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, **kwargs)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ymir-exc {__version__}\n"
    assert module("--version").stdout == f"ymir-exc {__version__}\n"


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_has_an_example(capsys, words):
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert re.search(r"^examples:\n  .*ymir-exc ", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 130


def test_help_names_every_command(capsys):
    cli.main(["--help"])
    out = capsys.readouterr().out
    assert all(re.search(rf"^    {command}( |$)", out, re.MULTILINE) for command in COMMANDS)


@pytest.mark.parametrize("words,said", [
    ([], "required"), (["fly"], "invalid choice"), (["run"], "a program to run is missing"), (["run", "--"], "a program to run is missing"),
    (["run", "--platform"], "expected one argument"), (["run", "--platform", "mars", "--", "x"], "invalid choice: 'mars'"),
    (["run", "--fast", "--", "x"], "--fast"), (["sample"], "OUT"), (["sample", "x", "--images", "many"], "invalid int value"),
    (["sample", "x", "--format", "yolo"], "invalid choice"), (["sample", "x", "--over"], "--over")])
def test_usage_errors(capsys, words, said):
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert said in err and re.fullmatch(r"ymir-exc( \w+)?: .*; see 'ymir-exc( \w+)? --help'\n", err), err


@pytest.fixture
def ran(monkeypatch):
    calls = []
    monkeypatch.setattr("ymir_exc.supervisor.run", lambda argv, platform=None: calls.append((list(argv), platform)) or 7)
    return calls


@pytest.mark.parametrize("words,expected", [
    (["--", "a", "-b"], (["a", "-b"], None)),
    (["a", "-b", "--", "--platform"], (["a", "-b", "--", "--platform"], None)),
    (["--platform", "local", "--", "a", "--", "b"], (["a", "--", "b"], "local")),
    (["--platform=ymir", "a", "--platform=x", "-h"], (["a", "--platform=x", "-h"], "ymir")),
    (["--", "-a"], (["-a"], None)),
    (["--", "--", "a"], (["--", "a"], None)),
])
def test_what_belongs_to_the_program(ran, words, expected):
    assert cli.main(["run", *words]) == 7
    assert ran == [expected]


@pytest.mark.parametrize("flag", ["--overwrite", "--watch", "--json", "-q", "-vv", "--out=x"])
def test_a_flag_takes_no_word_of_the_program(flag):
    assert cli._split([flag, "a", "-b"]) == ([flag], ["a", "-b"])


def test_run_as_a_module(local):
    done = local.run("sh", "-c", "echo $0 $1; exit 3", "a", "b c")
    assert (done.returncode, done.stdout) == (3, b"a b c\n")
    assert last_line(done.stderr) == "ymir-exc: 160004 CONTAINER_ERROR: a b c"


def test_the_forced_platform_of_run(local):
    done = local.run("true", options=["--platform", "ymir"], env={"DEFAULT_ENV_FILE_PATH": "/no/such/env.yaml"})
    assert done.returncode == 4
    assert last_line(done.stderr).startswith("ymir-exc: 300001 CONFIG_ERROR: /no/such/env.yaml does not exist")


def test_local_even_if_a_task_is_there(supervised, platform):
    done = supervised.run("sh", "-c", "exit 3", options=["--platform=local"])
    assert done.returncode == 3 and not (platform.out / "monitor.txt").exists()


@pytest.mark.parametrize("error,status,line", [
    (ConfigError("OUT holds something else", hint="choose a new folder"), 4, "ymir-exc: OUT holds something else (choose a new folder)\n"),
    (NetworkError("no way"), 1, "ymir-exc: no way\n"), (KeyboardInterrupt(), 130, "")])
def test_errors_are_one_line_and_a_status(monkeypatch, capsys, error, status, line):
    def fail(*args, **kwargs):
        raise error
    monkeypatch.setattr("ymir_exc.host.sample.write_sample", fail)
    assert cli.main(["sample", "x"]) == status
    assert capsys.readouterr().err == line


def test_sample(tmp_path, capsys):
    pytest.importorskip("PIL")
    out = tmp_path / "a b"
    words = ["sample", str(out), "--images", "8", "--seed", "3", "--format", "coco", "--in-root", str(out / "in")]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{out}: coco annotations") and re.search(r"^  train +6 images   \d+ gear, ", said.out, re.MULTILINE)
    assert said.err == ""
    assert json.loads((out / "in/annotations/coco-annotations.json").read_text(encoding="utf-8"))["images"]
    assert str(out / "in") in (out / "in/train-index.tsv").read_text(encoding="utf-8")
    assert cli.main(words) == 4
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.main([*words, "--overwrite"]) == 0


def test_sample_shows_its_progress_on_a_terminal(tmp_path, capsys, monkeypatch):
    pytest.importorskip("PIL")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli.main(["sample", str(tmp_path / "x"), "--images", "4"]) == 0
    assert capsys.readouterr().err.endswith("\rdrawing 5/5\n")


def test_no_command_is_forgotten():
    from ymir_exc import commands
    assert tuple(commands.COMMANDS) == COMMANDS


def test_starting_a_program_loads_no_parser():
    program = "import sys; from ymir_exc import cli; cli.main(['run', '--', 'true']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert "ymir_exc.supervisor" in loaded
    assert not {"argparse", "ymir_exc.host", "ymir_exc.commands", "yaml", "numpy", "pydantic"} & loaded


def test_an_option_before_the_program_loads_no_tool_of_a_person_s_machine():
    program = ("import sys; from ymir_exc import cli; sys.argv = ['ymir-exc', 'run', '--platform=local', '--', 'true']; cli.main(); "
               "print(*sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "ymir_exc.commands.run" in done.stdout and "ymir_exc.host" not in done.stdout.split()


def test_nothing_is_loaded_that_the_command_does_not_need():
    for words in ("[]", "['--version']"):
        program = f"import sys; from ymir_exc import cli; cli.main({words}); print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
        assert not {"ymir_exc.host", "ymir_exc.supervisor", "yaml", "numpy", "pydantic"} & set(done.stdout.split())
