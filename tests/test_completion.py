"""What a shell offers: bash is run, the other shells' scripts are read, and each says what the parsers say."""
from __future__ import annotations

import argparse
import re
import shutil
import subprocess

import pytest

from ymir_exc import cli
from ymir_exc.commands import COMMANDS
from ymir_exc.host import completion


def script(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def parsers():
    return {name: cli.parser_of(name) for name in COMMANDS}


@pytest.fixture
def offered(capsys, tmp_path):
    """What bash offers for the last of some words; the last may be empty."""
    bash = shutil.which("bash")
    assert bash, "the completion of bash is tested by running bash"
    (tmp_path / "completion.bash").write_text(script("bash", capsys), encoding="utf-8")
    (tmp_path / "a folder 数据" / "below").mkdir(parents=True)
    (tmp_path / "afile.yaml").touch()

    def offer(*words):
        program = ('source ./completion.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ymir_exc; '
                   '((${#COMPREPLY[@]})) && printf "%s\\n" "${COMPREPLY[@]}"; complete -p ymir-exc >&2')
        done = subprocess.run([bash, "--norc", "--noprofile", "-c", program, "bash", "ymir-exc", *words], capture_output=True, text=True,
                              cwd=tmp_path, check=False, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
        assert done.stderr == "complete -F _ymir_exc ymir-exc\n"
        return set(done.stdout.splitlines())

    return offer


def test_commands(offered):
    assert offered("") == {*COMMANDS, "--help", "--version"}
    assert offered("--v") == {"--version"}
    assert offered("ru") == {"run"}
    assert offered("nothing") == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_every_command(offered, command):
    known = {name for action in cli.parser_of(command)._actions for name in action.option_strings}
    assert offered(command, "-") == known | ({"--"} if command == "run" else set())
    assert {"--help", "-v", "--quiet"} <= known


def test_choices(offered):
    assert offered("run", "--task", "") == {"training", "mining", "infer", "mining+infer"}
    assert offered("run", "--task", "=", "mi") == {"mining", "mining+infer"}, "bash parts --task=mi into three words"
    assert offered("run", "--task", "=") == {"training", "mining", "infer", "mining+infer"}
    assert offered("-v", "init", "p", "--framework", "") == {"torch", "none"}
    assert offered("completion", "") == {"bash", "zsh", "fish"}
    assert offered("run", "--param", "") == set()


def test_files_and_folders(offered):
    assert offered("run", "--data", "a") == {"a folder 数据"}
    assert offered("run", "--data", "a folder 数据/") == {"a folder 数据/below"}
    assert offered("init", "a") == {"a folder 数据"}


def test_another_program_s_line(offered):
    assert "bash" in offered("run", "--data", "x", "--", "bas")
    assert offered("run", "--", "python", "a") == {"a folder 数据", "afile.yaml"}
    assert offered("run", "--", "python", "--task", "") >= {"afile.yaml"}
    assert "afile.yaml" not in offered("sample", "x", "--format", "")


def test_the_model_of_a_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pick", choices=(1, 2), help="one of %(choices)s, 100%% sure")
    parser.add_argument("--secret", help=argparse.SUPPRESS)
    parser.add_argument("--yes", action="store_true")
    parser.add_argument("folder", metavar="DIR", help="where")
    made = completion.command_of("some", "does something", parser)
    assert [(option.names, option.takes) for option in made.options] == [
        (("-h", "--help"), ""), (("--pick",), "choice"), (("--yes",), ""), ((), "folder")]
    assert made.options[1].about == "one of (1, 2), 100% sure" and made.options[1].choices == ("1", "2")
    assert made.places == [made.options[3]]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_know_the_same(capsys, shell, tmp_path):
    text = script(shell, capsys)
    if shutil.which(shell):    # where it is installed, it reads the script as well
        (tmp_path / "script").write_text(text, encoding="utf-8")
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)
    for name, about in COMMANDS.items():
        assert name in text and about.split("'")[0] in text
    for command, parser in parsers().items():
        part = re.search(rf"^ +{command}\) _arguments.*?;;$", text, re.MULTILINE | re.DOTALL) if shell == "zsh" else None
        lines = part[0].splitlines() if part else [line for line in text.splitlines() if f"__fish_seen_subcommand_from {command}" in line]
        assert lines, command
        for action in parser._actions:
            for name in action.option_strings:
                wanted = rf"'\*{name}=?\[" if shell == "zsh" else rf" -{'l' if name.startswith('--') else 's'} {name.lstrip('-')} "
                assert any(re.search(wanted, line) for line in lines), (command, name)
            for choice in action.choices or ():
                assert any(str(choice) in line for line in lines), (command, choice)


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.parametrize("line,offered", [("ver", "verify"), ("run --task mining+", "mining+infer"), ("run -- mkdi", "mkdir"),
                                          ("run --data . -- cat afi", "afile.yaml")])
def test_what_fish_offers(capsys, tmp_path, line, offered):
    (tmp_path / "script").write_text(script("fish", capsys), encoding="utf-8")
    (tmp_path / "afile.yaml").touch()
    done = subprocess.run(["fish", "--no-config", "-c", f"source script; complete -C 'ymir-exc {line}'"], capture_output=True, text=True,
                          cwd=tmp_path, check=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"})
    assert offered in [said.split("\t")[0] for said in done.stdout.splitlines()]


def test_zsh_finds_programs(capsys):
    """By its table `commands`, which a variable of that name would hide from the functions that are called."""
    text = script("zsh", capsys)
    assert "_command_names" in text
    assert not re.search(r"^\s*(local .*)?\bcommands\b(=|$)", text, re.MULTILINE)


def test_quotes_are_closed(capsys):
    """Each line of zsh's and fish's is whole, whatever stands in a help text."""
    hostile = completion.Option(("--odd",), "it's [odd]: \\ 'so'", "choice", ("a", "b"))
    command = completion.Command("some", "isn't it", [hostile])
    assert r"'*--odd=[it'\''s \[odd\]\: \ '\''so'\'']:choice:(a b)'" in completion.script("zsh", [command])
    assert r"-d 'it\'s [odd]: \\ \'so\''" in completion.script("fish", [command])
    for shell in completion.SHELLS:
        for line in completion.script(shell, [command]).splitlines():
            if shell == "fish":
                assert len(re.findall(r"(?<!\\)'", line)) % 2 == 0, line


def test_an_unknown_shell(capsys):
    assert cli.main(["completion", "tcsh"]) == 2
    assert "invalid choice" in capsys.readouterr().err
