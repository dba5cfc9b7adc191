"""The command `ymir-exc`: finds the command, parses, prints what went wrong, and returns the exit status."""
from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, List, NoReturn, Optional, Sequence, Tuple

from ymir_exc.errors import EXIT_INTERRUPTED, EXIT_USAGE, Stopped, YmirError

if TYPE_CHECKING:
    import argparse

_EXAMPLES = """\
examples:
  ymir-exc init my-detector                 a project of your own
  ymir-exc sample my-data --images 40       a dataset to try it on
  ymir-exc run --data my-data --task training -- python my-detector/app/start.py
  ymir-exc run -- python /app/start.py      in /usr/bin/start.sh of an image, after `exec`
"""
_NPROC_VARIABLE = "YMIR_EXC_NPROC"    # of `commands`, which is not loaded here
_EXIT_NO_READER = 141    # as a shell tells of SIGPIPE
_FLAGS = {"-h", "--help", "-q", "--quiet", "-v", "--verbose", "--json", "--overwrite", "--watch"}    # of `run`: its others take a value


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
        return _run(words)
    except YmirError as e:
        if argv is None and isinstance(e, Stopped):
            _ignore_stops()
        print(f"ymir-exc: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        if argv is None:
            _ignore_stops()
        return EXIT_INTERRUPTED
    except BrokenPipeError:    # who read our output has gone, as `head` does: nothing is wrong, and nothing more is to be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _EXIT_NO_READER
    except SystemExit as e:    # argparse, after it has said what is wrong
        return e.code if isinstance(e.code, int) else EXIT_USAGE


def _run(words: List[str]) -> int:
    program: List[str] = []
    if words[:1] == ["run"]:
        options, program = _split(words[1:])
        # As in an image: argparse is not to be paid for before the program starts.
        if program and not options and not os.environ.get(_NPROC_VARIABLE):
            from ymir_exc import supervisor
            return supervisor.run(program, None)
        words = ["run", *options]
    arguments = _parsers(words[0] if words else "")[0].parse_args(words)
    arguments.program = program
    _log(arguments)
    status = int(arguments.command(arguments))
    sys.stdout.flush()
    return status


def _ignore_stops() -> None:
    """This process is about to end with the status that tells of the stop; one more of them is not to replace it."""
    import signal
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _split(words: List[str]) -> Tuple[List[str], List[str]]:
    """The options of `run`, and the program: everything from `--`, or from the first word that is no option."""
    end = 0
    while end < len(words) and words[end].startswith("-") and words[end] != "--":
        end += 1 if words[end] in _FLAGS or "=" in words[end] or words[end].startswith("-v") else 2
    return words[:end], words[end + 1:] if words[end:end + 1] == ["--"] else words[end:]


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of one command's words, without the command itself."""
    return _parsers(command)[1]


def _parsers(wanted: str) -> Tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """The whole program's, and that of the command that is wanted."""
    import argparse

    from ymir_exc._version import __version__
    from ymir_exc.commands import COMMANDS, add

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:    # one line, as all errors are
            self.exit(EXIT_USAGE, f"{self.prog}: {message}; see '{self.prog} --help'\n")

    parser = Parser(prog="ymir-exc", epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
                    description="The runtime inside AI training images: it keeps YMIR's contract on disk.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"ymir-exc {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        add(commands, name, name == wanted)
    return parser, commands.choices.get(wanted, parser)


def _log(arguments: argparse.Namespace) -> None:
    """What modules log goes to stderr, from warnings on unless more or less is asked for."""
    import logging
    asked = logging.ERROR if getattr(arguments, "quiet", False) else logging.WARNING - 10 * min(2, getattr(arguments, "verbose", 0))
    logging.basicConfig(level=asked, format="%(levelname)s: %(message)s", stream=sys.stderr)
