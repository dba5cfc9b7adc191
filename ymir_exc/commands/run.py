"""`ymir-exc run`, with options. Without any, `cli` starts the supervisor at once."""
from __future__ import annotations

import argparse

from ymir_exc import platforms

DESCRIPTION = "Prepare the platform's files, run a program, tell the platform how it ended."
USAGE = "ymir-exc run [--platform NAME] -- PROGRAM [ARGUMENT ...]"
EXAMPLES = """\
  exec ymir-exc run -- python /app/start.py
  ymir-exc run --platform local -- ./train.sh --epochs 3

The program gets its own arguments, everything after `--`, and its output passes unchanged. It may be stopped by SIGTERM
or Ctrl-C and has YMIR_EXC_GRACE seconds (8) to save. The exit status is its own; 143 after SIGTERM, 130 after Ctrl-C,
127 and 126 when it cannot be started, 4 when the platform's files are wrong.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes before the program."""
    parser.add_argument("--platform", choices=platforms.NAMES, help="do not detect the platform (also: YMIR_EXC_PLATFORM)")


def run(arguments: argparse.Namespace) -> int:
    """Run `arguments.program`, which `cli` has set: everything from `--`, or from the first word that is no option."""
    if not arguments.program:
        arguments.usage_error("a program to run is missing")
    from ymir_exc import supervisor
    return supervisor.run(arguments.program, arguments.platform)
