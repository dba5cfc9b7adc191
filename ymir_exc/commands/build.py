"""`ymir-exc build`."""
from __future__ import annotations

import argparse
import sys

from ymir_exc.commands import add_common

DESCRIPTION = "Build the image of a project, label it, and check what the platform will meet in it."
EXAMPLES = """\
  ymir-exc build my-project
  ymir-exc build my-project -t registry.example/my-project:1 --build-arg BASE_IMAGE=ymir-exc
  ymir-exc build my-project --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument("folder", metavar="DIR", help="the project: a folder with a Dockerfile")
    parser.add_argument("-t", "--tag", default="", metavar="TAG", help="the image's name (the folder's)")
    parser.add_argument("--build-arg", action="append", default=[], metavar="K=V", help="an argument of the Dockerfile")
    parser.add_argument("--network", default="", metavar="NAME", help="of the build's steps, such as host (the engine's default)")
    parser.add_argument("--engine", choices=("docker", "podman"), default="", help="the one that is installed, if not given")
    parser.add_argument("--strict", action="store_true", help="warnings fail too")
    parser.add_argument("--dry-run", action="store_true", help="print every command, run none")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Build, check, show."""
    import json
    from pathlib import Path

    from ymir_exc.host import build, findings
    from ymir_exc.host.engine import Engine
    shown = sys.stdout if arguments.dry_run else None if arguments.quiet else sys.stderr
    engine = Engine(arguments.engine, dry_run=arguments.dry_run, tell=None if shown is None else lambda line: print(line, file=shown))
    built = build.build(engine, Path(arguments.folder), tag=arguments.tag, build_args=arguments.build_arg, network=arguments.network,
                        quiet=arguments.quiet or arguments.json)
    if arguments.dry_run:
        return 0
    if arguments.json:
        print(json.dumps({**built._asdict(), "layers": [one._asdict() for one in built.layers],
                          "findings": findings.as_json(built.findings)}, ensure_ascii=False, indent=2))
    else:
        print("\n".join(build.describe(built)))
    return findings.exit_code(built.findings, strict=arguments.strict)
