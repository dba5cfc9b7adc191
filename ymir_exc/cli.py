"""The command `ymir-exc`: finds the command, parses, prints what went wrong, and returns the exit status."""
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

from ymir_exc.errors import EXIT_INTERRUPTED, EXIT_USAGE, YmirError

if TYPE_CHECKING:
    import argparse

_EXAMPLES = """\
examples:
  ymir-exc run -- python /app/start.py      in /usr/bin/start.sh of an image, after `exec`
  ymir-exc sample demo-run --images 40      a dataset to try an image on
"""
_FLAGS = {"-h", "--help", "-q", "--quiet", "-v", "--verbose", "--json"}    # of `run`: its other options take a value


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command.

    Args:
        argv: Without the program's name; of the process when None.

    Returns:
        The exit status: 0, 1 the task failed, 2 usage, 3 environment, 4 contract or configuration, 130 Ctrl-C, 143 stopped. `run` gives the
        program's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        program: List[str] = []
        if words[:1] == ["run"]:
            options, program = _split(words[1:])
            if program and not options:    # as in an image: argparse is not to pay for before the program starts
                from ymir_exc import supervisor
                return supervisor.run(program, None)
            words = ["run", *options]
        arguments = _parser(words[0] if words else "").parse_args(words)
        arguments.program = program
        _log(arguments)
        return int(arguments.command(arguments))
    except YmirError as e:
        print(f"ymir-exc: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as e:    # argparse, after it has said what is wrong
        return e.code if isinstance(e.code, int) else EXIT_USAGE


def _split(words: List[str]) -> Tuple[List[str], List[str]]:
    """The options of `run`, and the program: everything from `--`, or from the first word that is no option."""
    end = 0
    while end < len(words) and words[end].startswith("-") and words[end] != "--":
        end += 1 if words[end] in _FLAGS or "=" in words[end] or words[end].startswith("-v") else 2
    return words[:end], words[end + 1:] if words[end:end + 1] == ["--"] else words[end:]


def _parser(wanted: str) -> argparse.ArgumentParser:
    import argparse

    from ymir_exc._version import __version__
    from ymir_exc.commands import COMMANDS, add
    parser = argparse.ArgumentParser(prog="ymir-exc", epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False,
                                     description="The runtime inside AI training images: it keeps YMIR's contract on disk.")
    parser.add_argument("--version", action="version", version=f"ymir-exc {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        add(commands, name, name == wanted)
    return parser


def _log(arguments: argparse.Namespace) -> None:
    """What modules log goes to stderr, from warnings on unless more or less is asked for."""
    import logging
    asked = logging.ERROR if getattr(arguments, "quiet", False) else logging.WARNING - 10 * min(2, getattr(arguments, "verbose", 0))
    logging.basicConfig(level=asked, format="%(levelname)s: %(message)s", stream=sys.stderr)
