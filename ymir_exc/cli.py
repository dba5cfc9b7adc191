"""The command `ymir-exc`. Each function parses, calls, prints and returns the exit status; what it calls is loaded when it runs."""
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, List, Optional, Sequence

from ymir_exc.errors import EXIT_INTERRUPTED, EXIT_USAGE, YmirError

if TYPE_CHECKING:
    import argparse

_EXAMPLES = """\
examples:
  ymir-exc run -- python /app/start.py      in /usr/bin/start.sh of an image, after `exec`
  ymir-exc sample demo-run --images 40      a dataset to try an image on
"""
_RUN_EXAMPLES = """\
examples:
  exec ymir-exc run -- python /app/start.py
  ymir-exc run --platform local -- ./train.sh --epochs 3

The program gets its own arguments, everything after `--`, and its output passes unchanged. It may be stopped by SIGTERM
or Ctrl-C and has YMIR_EXC_GRACE seconds (8) to save. The exit status is its own; 143 after SIGTERM, 130 after Ctrl-C,
127 and 126 when it cannot be started, 4 when the platform's files are wrong.
"""
_SAMPLE_EXAMPLES = """\
examples:
  ymir-exc sample demo-run --images 400 --seed 0
  ymir-exc sample /tmp/voc --images 40 --format voc --in-root /tmp/voc/in
"""


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
        if words[:1] == ["run"]:
            return _run(words[1:])
        arguments = _parser().parse_args(words)
        return int(arguments.command(arguments))
    except YmirError as e:
        print(f"ymir-exc: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as e:    # argparse, after it has said what is wrong
        return e.code if isinstance(e.code, int) else EXIT_USAGE


def _run(words: List[str]) -> int:
    """Everything from `--`, or from the first word that is no option, is the program's; argparse is not to pay for before it starts."""
    end = 0
    while end < len(words) and words[end].startswith("-") and words[end] != "--":
        end += 2 if words[end] == "--platform" else 1
    program = words[end + 1:] if words[end:end + 1] == ["--"] else words[end:]
    platform = None
    if end or not program:
        arguments = _parser().parse_args(["run", *words[:end]])
        platform = arguments.platform
        if not program:
            arguments.usage_error("a program to run is missing")
    from ymir_exc import supervisor
    return supervisor.run(program, platform)


def _parser() -> argparse.ArgumentParser:
    import argparse

    from ymir_exc import platforms
    from ymir_exc._version import __version__
    parser = _new(argparse.ArgumentParser, prog="ymir-exc", epilog=_EXAMPLES,
                  description="The runtime inside AI training images: it keeps YMIR's contract on disk.")
    parser.add_argument("--version", action="version", version=f"ymir-exc {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = _new(commands.add_parser, "run", epilog=_RUN_EXAMPLES, usage="ymir-exc run [--platform NAME] -- PROGRAM [ARGUMENT ...]",
               help="run a program as the platform's task, as the first process of a container",
               description="Prepare the platform's files, run a program, tell the platform how it ended.")
    run.add_argument("--platform", choices=platforms.NAMES, help="do not detect the platform (also: YMIR_EXC_PLATFORM)")
    run.set_defaults(usage_error=run.error)

    sample = _new(commands.add_parser, "sample", epilog=_SAMPLE_EXAMPLES, help="write a small dataset in the platform's layout",
                  description="Write a small object detection dataset in the platform's layout, always the same for the same seed.")
    sample.add_argument("out", metavar="OUT", help="the folder to write")
    sample.add_argument("--images", type=int, default=400, metavar="N", help="labelled pictures, train and val together (400)")
    sample.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, another dataset (0)")
    sample.add_argument("--format", choices=("ark", "voc", "coco"), default="ark", help="of the annotations (ark)")
    sample.add_argument("--in-root", metavar="PATH", help="what the index files call OUT/in: /in, as in a container, if not given")
    sample.add_argument("--overwrite", action="store_true", help="replace an earlier sample in OUT")
    sample.set_defaults(command=_sample)
    return parser


def _new(make: Any, *args: Any, **kwargs: Any) -> argparse.ArgumentParser:
    import argparse
    parser: argparse.ArgumentParser = make(*args, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)
    return parser


def _sample(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from ymir_exc.host import sample
    made = sample.write_sample(Path(arguments.out), images=arguments.images, seed=arguments.seed, export_format=arguments.format,
                               in_root=arguments.in_root, overwrite=arguments.overwrite,
                               on_progress=_show_progress if sys.stderr.isatty() else None)
    print(f"{made.out}: {made.export_format} annotations, to be mounted at {made.in_root}")
    for split, count in made.images.items():
        objects = ", ".join(f"{number} {name}" for name, number in made.objects[split].items())
        print(f"  {split:10} {count:5} images   {objects}")
    print(f"  what is on the candidates, to judge by, is in {made.out / 'truth'}: no program sees it")
    return 0


def _show_progress(done: int, total: int) -> None:
    print(f"\rdrawing {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
