"""`ymir-exc report`."""
from __future__ import annotations

import argparse
import sys

from ymir_exc.commands import add_common

DESCRIPTION = "Show what tasks left on one page that opens from disk and needs no network, and write its facts as JSON beside it."
EXAMPLES = """\
  ymir-exc report demo-run/training/out
  ymir-exc report run/training run/mining+infer --data dataset --out report.html --open

OUT is a task's out folder, a folder with in and out, or one that holds several of those; several make one page. With --data the
labels of the dataset are drawn beside what the model found, and precision, recall and confusion are told.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument("out_folders", metavar="OUT", nargs="+", help="what a task left")
    parser.add_argument("--data", metavar="DIR", help="the dataset: its in, and its truth where it has one")
    parser.add_argument("--out", metavar="FILE", default="report.html", help="the page (report.html); its facts go beside it, to FILE.json")
    parser.add_argument("--images", type=int, default=300, metavar="N", help="show N images at most (300)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write it, and say where it is."""
    import json
    from pathlib import Path

    from ymir_exc.host import report
    from ymir_exc.host.report import _progress
    with _progress.shown("report", is_quiet=arguments.quiet) as on_progress:
        made = report.write_report([Path(path) for path in arguments.out_folders], Path(arguments.out), images=arguments.images,
                                   data=Path(arguments.data) if arguments.data else None, on_progress=on_progress)
    if arguments.open:
        import webbrowser
        if not webbrowser.open(made.page.resolve().as_uri()):
            print("ymir-exc: no browser could be started", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"page": str(made.page), "facts": str(made.json), "bytes": made.size}, ensure_ascii=False, indent=2))
    else:
        gallery = made.facts["gallery"]
        print(f"{made.page}: {made.size / 1e6:.1f} MB, {gallery['shown']} of {gallery['total']} images; the facts are in {made.json}")
    return 0
