"""`ymir-exc completion`."""
from __future__ import annotations

import argparse

from ymir_exc.commands import COMMANDS, add_common

DESCRIPTION = "Print a script that completes this command's words: commands, options, their values, files."
EXAMPLES = """\
  source <(ymir-exc completion bash)
  ymir-exc completion zsh > ~/.zfunc/_ymir-exc
  ymir-exc completion fish > ~/.config/fish/completions/ymir-exc.fish
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell it is for")
    add_common(parser, json=False)


def run(arguments: argparse.Namespace) -> int:
    """Read all commands' parsers, and print the script."""
    from ymir_exc import cli
    from ymir_exc.host import completion
    known = [completion.command_of(name, about, cli.parser_of(name)) for name, about in COMMANDS.items()]
    print(completion.script(arguments.shell, known), end="")
    return 0
