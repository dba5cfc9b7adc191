"""Scripts that complete the words of a command line, made from its argparse parsers: what a shell offers is what there is."""
from __future__ import annotations

import argparse
import re
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

PROGRAM = "ymir-exc"
_FILES = {"FILE", "PATH", "FILE.html"}
_FOLDERS = {"DIR", "OUT"}
_REST = "run"    # the command that takes another program's words at its end


class Option(NamedTuple):
    """An option, or with no `names` an argument in its place.

    Attributes:
        names: `--data`, or `-q` and `--quiet`.
        about: Its help.
        takes: What follows: '' nothing, 'choice', 'file', 'folder' or 'text'.
        choices: For 'choice'.
    """

    names: Tuple[str, ...]
    about: str
    takes: str
    choices: Tuple[str, ...]


class Command(NamedTuple):
    """A command with its line of help."""

    name: str
    about: str
    options: List[Option]

    @property
    def places(self) -> List[Option]:
        """The arguments without a name."""
        return [option for option in self.options if not option.names]


def command_of(name: str, about: str, parser: argparse.ArgumentParser) -> Command:
    """Read a command's parser."""
    return Command(name, about, [_option(action) for action in parser._actions if action.help != argparse.SUPPRESS])


def _option(action: argparse.Action) -> Option:
    about = re.sub(r"%\((\w+)\)s", lambda match: str(getattr(action, match[1], "")), action.help or "").replace("%%", "%")
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    kind = "choice" if action.choices else "folder" if metavar in _FOLDERS else "file" if metavar in _FILES else "text"
    takes = "" if action.nargs == 0 else kind
    return Option(tuple(action.option_strings), about, takes, tuple(map(str, action.choices or ())))


def script(shell: str, commands: Sequence[Command]) -> str:
    """The script for one of `SHELLS`.

    Args:
        shell: Its name.
        commands: All of the program's.
    """
    return SHELLS[shell](commands)


# ----------------------------------------------------------------------------------------------------------------- bash

_BASH = """\
# bash completion of {program}. For this shell: source <({program} completion bash); for all, add that line to ~/.bashrc.
_ymir_exc() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command= key word i
    COMPREPLY=()
    if [[ $current == "=" ]]; then    # readline parts --name=value into three words
        current=
    elif [[ $previous == "=" ]]; then
        previous=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        if [[ $word == "--" && $command == {rest} ]]; then    # from here on it is another program's line
            if ((i == COMP_CWORD - 1)); then
                mapfile -t COMPREPLY < <(compgen -c -- "$current"; compgen -f -- "$current")
            else
                mapfile -t COMPREPLY < <(compgen -f -- "$current")
            fi
            compopt -o filenames 2>/dev/null
            return
        fi
        [[ -z $command && $word != -* ]] && command=$word
    done
    if [[ -z $command ]]; then
        mapfile -t COMPREPLY < <(compgen -W '{commands} --help --version' -- "$current")
        return
    fi
    key="$command $previous"
    case $key in
{values}
    esac
    case $command in
{words}
    esac
}}
complete -F _ymir_exc {program}
"""


def _bash(commands: Sequence[Command]) -> str:
    values, words = [], []
    for command in commands:
        for option in command.options:
            if option.names and option.takes:
                pattern = " | ".join(f'"{command.name} {name}"' for name in option.names)
                values.append(f"        {pattern})\n            {_bash_value(option)}\n            return ;;")
        names = " ".join(name for option in command.options for name in option.names)
        free = [_bash_value(option) for option in command.places if option.takes in ("choice", "file", "folder")]
        free = [f'if [[ $current != -* ]]; then {"; ".join(free)}; return; fi'] if free else []
        lines = [*free, f"mapfile -t COMPREPLY < <(compgen -W '{names}{' --' if command.name == _REST else ''}' -- \"$current\")"]
        words.append(f"        {command.name})\n            " + "\n            ".join(lines) + " ;;")
    return _BASH.format(program=PROGRAM, rest=_REST, commands=" ".join(command.name for command in commands),
                        values="\n".join(values), words="\n".join(words))


def _bash_value(option: Option) -> str:
    if option.takes == "choice":
        return f"mapfile -t COMPREPLY < <(compgen -W '{' '.join(option.choices)}' -- \"$current\")"
    if option.takes in ("file", "folder"):
        kind = "-d" if option.takes == "folder" else "-f"
        return f'mapfile -t COMPREPLY < <(compgen {kind} -- "$current"); compopt -o filenames 2>/dev/null'
    return ":"


# ------------------------------------------------------------------------------------------------------------------ zsh

_ZSH = """\
#compdef {program}
# zsh completion of {program}. For this shell: source <({program} completion zsh); for all, put it into a file _{program} on $fpath.
_ymir_exc() {{
    local state line
    local -a known    # not `commands`: zsh finds programs by that name
    known=(
{commands}
    )
    _arguments -C '(- *)'{{-h,--help}}'[show the help]' '(- *)--version[show the version]' '1:command:->command' '*::argument:->argument'
    case $state in
        command) _describe -t commands command known ;;
        argument)
            case $words[1] in
{cases}
            esac ;;
    esac
}}
if [[ $funcstack[1] == _ymir_exc ]]; then _ymir_exc "$@"; else compdef _ymir_exc {program}; fi
"""
_ZSH_VALUES: Dict[str, str] = {"file": "_files", "folder": "_files -/", "text": " "}


def _zsh(commands: Sequence[Command]) -> str:
    cases = []
    for command in commands:
        rest = ["'1:program:_command_names -e'", "'*::argument:_normal'"] if command.name == _REST else []
        specs = [_zsh_option(option) for option in command.options] + rest
        lines = " \\\n".join(f"                    {spec}" for spec in specs)
        cases.append(f"                {command.name}) _arguments -S \\\n{lines} ;;")
    listed = "\n".join(f"        {_quoted(f'{command.name}:{command.about}')}" for command in commands)
    return _ZSH.format(program=PROGRAM, commands=listed, cases="\n".join(cases))


def _zsh_option(option: Option) -> str:
    value = f"({' '.join(option.choices)})" if option.takes == "choice" else _ZSH_VALUES.get(option.takes, "")
    about = re.sub(r"([\[\]:])", r"\\\1", option.about)
    if not option.names:
        return _quoted(f":{about}:{value}")
    follows = f":{option.takes}:{value}" if option.takes else ""
    return " ".join(_quoted(f"*{name}{'=' if option.takes and name.startswith('--') else ''}[{about}]{follows}") for name in option.names)


# ----------------------------------------------------------------------------------------------------------------- fish

def _fish(commands: Sequence[Command]) -> str:
    lines = [f"# fish completion of {PROGRAM}. For all shells: {PROGRAM} completion fish > ~/.config/fish/completions/{PROGRAM}.fish",
             f"complete -c {PROGRAM} -f", f"complete -c {PROGRAM} -n __fish_use_subcommand -s h -l help -d 'show the help'",
             f"complete -c {PROGRAM} -n __fish_use_subcommand -l version -d 'show the version'"]
    for command in commands:
        lines.append(f"complete -c {PROGRAM} -n __fish_use_subcommand -a {command.name} -d {_fish_quoted(command.about)}")
        lines += [_fish_option(command, option) for option in command.options]
        if command.name == _REST:
            after = f"__fish_seen_subcommand_from {_REST}; and contains -- -- (commandline -opc)"
            lines += [f"complete -c {PROGRAM} -n '{after}' -F",
                      f"complete -c {PROGRAM} -n '{after}; and test (commandline -opc)[-1] = --' -a '(__fish_complete_command)'"]
    return "\n".join(lines) + "\n"


def _fish_option(command: Command, option: Option) -> str:
    parts = [f"complete -c {PROGRAM} -n '__fish_seen_subcommand_from {command.name}'"]
    parts += [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    if option.takes == "choice":
        parts.append(f"{'-x ' if option.names else ''}-a '{' '.join(option.choices)}'")
    elif option.takes == "folder":
        parts.append(f"{'-x ' if option.names else ''}-a '(__fish_complete_directories)'")
    elif option.takes == "file":
        parts.append("-r -F" if option.names else "-F")
    elif option.takes:
        parts.append("-x")
    return " ".join([*parts, f"-d {_fish_quoted(option.about)}"])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: Dict[str, Callable[[Sequence[Command]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
