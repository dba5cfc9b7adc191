"""`ymir-exc check`."""
from __future__ import annotations

import argparse
import os
import sys
from typing import Dict

from ymir_exc.commands import add_common

DESCRIPTION = """Judge what a run left (out/), a dataset (in/), an image's templates (img-man/), one config.yaml, or /opt/ml.

Nothing is run. A folder that holds in/ and out/ is judged as a whole: the output by what the task asked for.
So is out/ alone, where in/ lies beside it, and each run in a folder of runs."""
EXAMPLES = """\
  ymir-exc check demo-run/training           in/ and out/ of a run; demo-run for all of them
  ymir-exc check out --strict                warnings fail too
  ymir-exc check img-man --format sarif      for a code host; junit for a build server
  ymir-exc check job/opt-ml                  what Tencent TI has as /opt/ml
  ymir-exc check --list                      every rule; with -v as a page of Markdown

The exit status is 4 when an error was found, and 0 otherwise.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument("path", metavar="PATH", nargs="?", help="a folder, or a config.yaml or env.yaml")
    parser.add_argument("--kind", choices=("out", "in", "img-man", "config", "ti"),
                        help="what PATH is; recognised from what lies there if not given")
    parser.add_argument("--strict", action="store_true", help="exit with 4 for a warning too")
    parser.add_argument("--format", choices=("text", "json", "sarif", "junit"), help="of what is printed on stdout (text); json is --json")
    parser.add_argument("--list", action="store_true", help="print every rule instead, as text or as json")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Judge, and print what is wrong."""
    import contextlib
    from pathlib import Path

    from ymir_exc.host import check, findings
    from ymir_exc.host.check import _show, _text
    form = arguments.format or ("json" if arguments.json else "text")
    if arguments.json and form != "json":
        arguments.usage_error("--json and --format contradict each other")
    if arguments.list and form not in ("text", "json"):
        arguments.usage_error(f"--list has no form {form}")
    if arguments.list:
        _show.write(_show.listed(form, in_full=arguments.verbose > 0))
        return 0
    if arguments.path is None:
        arguments.usage_error("a PATH to check is missing")
    path = Path(arguments.path)
    counts: Dict[str, int] = {}
    kinds = check.kinds_at(path, arguments.kind)
    with contextlib.nullcontext() if arguments.quiet else _show.progress() as on_progress:
        found = _text.gather(check.check(path, kind=arguments.kind, on_progress=on_progress, counts=counts))
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    _show.write(_show.printed(found, counts, form, kinds, colour=colour))
    return findings.exit_code(found.findings, strict=arguments.strict)
