"""The commands of `ymir-exc`, a module each: what it takes, and what it calls.

A module has `DESCRIPTION` (a sentence or more), `EXAMPLES` (lines under "examples:"), `add_arguments(parser)` and `run(arguments)`, which
returns the exit status. It is imported when its command is given, and it imports what it calls when it runs.
"""
from __future__ import annotations

import argparse
import importlib
from typing import Any, Dict

COMMANDS: Dict[str, str] = {
    "init": "write a new project that builds and passes at once",
    "run": "run a program as the platform's task, in a container or over a dataset folder",
    "check": "judge an output, a dataset, templates or a configuration, without running anything",
    "build": "build a project's image, and check it",
    "verify": "start an image as the platform does, and check what it leaves",
    "report": "show what tasks left on one page that opens from disk",
    "sample": "write a small dataset in the platform's layout",
    "doctor": "tell what this machine has, and what to do about what it lacks",
    "completion": "print a script that completes this command's words in a shell",
}
"""Name, and the line in `ymir-exc --help`, in the order of use."""


NPROC_VARIABLE = "YMIR_EXC_NPROC"
"""Does what `run --nproc` does, for an image whose command line is not at hand."""


def add(commands: Any, name: str, wanted: bool) -> None:
    """Add a command to the program's subparsers; its module is imported only when it is `wanted`."""
    if not wanted:
        commands.add_parser(name, help=COMMANDS[name], add_help=False)
        return
    module = importlib.import_module(f"ymir_exc.commands.{name}")
    parser = commands.add_parser(name, help=COMMANDS[name], description=module.DESCRIPTION, epilog=f"examples:\n{module.EXAMPLES}",
                                 usage=getattr(module, "USAGE", None), formatter_class=argparse.RawDescriptionHelpFormatter,
                                 allow_abbrev=False)
    module.add_arguments(parser)
    parser.set_defaults(command=module.run, usage_error=parser.error)


def add_common(parser: argparse.ArgumentParser, *, json: bool = True) -> None:
    """The options that every command has: `--quiet`, `--verbose` and, where a command has a result to tell, `--json`."""
    common = parser.add_argument_group("what is shown")
    if json:
        common.add_argument("--json", action="store_true", help="the result as JSON on stdout, and nothing else there")
    common.add_argument("-q", "--quiet", action="store_true", help="no progress, only the result and what is wrong")
    common.add_argument("-v", "--verbose", action="count", default=0, help="also what is done; twice for every detail")
