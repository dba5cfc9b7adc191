"""`ymir-exc doctor`."""
from __future__ import annotations

import argparse
import sys

from ymir_exc.commands import add_common

DESCRIPTION = "Tell what this machine and this environment have, and what to do about what they lack."
EXAMPLES = """\
  ymir-exc doctor
  ymir-exc doctor my-detector --engine docker     is the driver new enough for the CUDA in this image?
  ymir-exc doctor --json

The exit status is 3 when there is a problem, else 0.
"""
_COLOURS = {"ok": "32", "warning": "33", "problem": "31", "unknown": "35"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="an image that is to run here")
    parser.add_argument("--engine", choices=("docker", "podman"), help="the container engine to look at; else the first that is there")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask every probe, and show the answers as they come."""
    import json
    import os

    from ymir_exc.host import doctor
    is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    lines = []
    for line in doctor.examine(arguments.image, arguments.engine):
        lines.append(line)
        if arguments.json or (arguments.quiet and line.status == doctor.Status.OK):
            continue
        word = f"{line.status.value:<8}"
        print(f"\033[{_COLOURS[line.status.value]}m{word}\033[0m" if is_coloured else word, line.text)
        if line.remedy:
            print(f"{'':<8} -> {line.remedy}")
    if arguments.json:
        print(json.dumps(doctor.as_json(lines), ensure_ascii=False, indent=2))
    elif not arguments.quiet:
        counts = doctor.as_json(lines)
        print("\n" + ", ".join(f"{status}: {counts[status]}" for status in _COLOURS))
    return doctor.exit_status(lines)
