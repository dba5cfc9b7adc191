"""`ymir-exc verify`."""
from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any, Tuple

from ymir_exc.commands import add_common

DESCRIPTION = "Start an image exactly as the platform does, task after task, and check what it leaves."
EXAMPLES = """\
  ymir-exc verify my-image --data demo-data
  ymir-exc verify my-image --data demo-data --tasks training,mining+infer,training --param epochs=2
  ymir-exc verify my-image --data demo-data --harsh --harsh-param epochs=1
  ymir-exc verify my-image --data demo-data --harsh --only stop,kill,no-gpu
  ymir-exc verify my-image --data demo-data --platform ti --param epochs=2
  ymir-exc verify my-image --data demo-data --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument("image", metavar="IMAGE", help="the image; it need not know this package")
    parser.add_argument("--data", required=True, metavar="DIR", help="a dataset in the platform's layout")
    parser.add_argument("--tasks", default="", metavar="CHAIN",
                        help="such as training,mining+infer,training; each gets the last training's model (all that have a template)")
    parser.add_argument("--harsh", action="store_true", help="add what happens in the field: no network, full disk, kill, odd names, ...")
    parser.add_argument("--only", default="", metavar="ROW,...", help="run these rows alone, and the training that they need")
    parser.add_argument("--param", action="append", default=[], metavar="K=V", type=_parameter, help="a hyper-parameter, its value in YAML")
    parser.add_argument("--harsh-param", action="append", default=[], metavar="K=V", type=_parameter, help="one of the harsh rows alone")
    parser.add_argument("--model", metavar="OUT", help="the out folder, or for ti the opt-ml folder, of an earlier training")
    parser.add_argument("--platform", choices=("ymir", "ti"), default="ymir",
                        help="whose way of starting: YMIR's /in and /out, or Tencent TI's `train` with /opt/ml (ymir)")
    parser.add_argument("--engine", choices=("docker", "podman"), default="", help="the one that is installed, if not given")
    parser.add_argument("--network", default="", metavar="NAME", help="of the containers (the engine's default)")
    parser.add_argument("--gpus", default="", metavar="IDS", help="GPUs of this machine for the containers, such as 0,1 (none)")
    parser.add_argument("--user", default="", metavar="UID:GID",
                        help="in the container (a random one without an entry in /etc/passwd; root for ti)")
    parser.add_argument("--timeout", type=_seconds, default=3600.0, metavar="S", help="seconds for each container, 0 for no limit (3600)")
    parser.add_argument("--out", default="", metavar="DIR", help="for what the tasks leave (ymir-verify/IMAGE-TIME)")
    parser.add_argument("--dry-run", action="store_true", help="print every command, run none")
    add_common(parser)


def _parameter(pair: str) -> Tuple[str, Any]:
    from ymir_exc.host import runner
    return runner.parameter(pair)


def run(arguments: argparse.Namespace) -> int:
    """Verify, show each row as it ends, and the table at the end."""
    from pathlib import Path

    from ymir_exc.host import verify
    from ymir_exc.host.engine import Engine
    from ymir_exc.host.verify import report
    options = verify.Options(
        image=arguments.image, data=Path(arguments.data), out=Path(arguments.out) if arguments.out else report.default_out(arguments.image),
        tasks=verify.parse_tasks(arguments.tasks), harsh=arguments.harsh,
        only=[name.strip() for name in arguments.only.split(",") if name.strip()],
        params=dict(arguments.param), harsh_params=dict(arguments.harsh_param), model=Path(arguments.model) if arguments.model else None,
        user=arguments.user, network=arguments.network, gpus=arguments.gpus, timeout=arguments.timeout,
        platform=arguments.platform)
    shown = sys.stdout if arguments.dry_run else sys.stderr if arguments.verbose else None
    engine = Engine(arguments.engine, dry_run=arguments.dry_run, tell=None if shown is None else lambda line: print(line, file=shown))
    rows = verify.verify(engine, options, **report.live(arguments.quiet or arguments.dry_run))
    if not arguments.dry_run:
        report.show(options, rows, as_json=arguments.json)
    return 0 if arguments.dry_run else verify.exit_code(rows)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if float(text) >= 0:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
