"""`ymir-exc run`, with options. Without any, `cli` starts the supervisor at once."""
from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Tuple

from ymir_exc import platforms
from ymir_exc.commands import NPROC_VARIABLE, add_common

if TYPE_CHECKING:
    from ymir_exc.host.runner import Job

DESCRIPTION = """\
In a container: prepare the platform's files, run a program, tell the platform how it ended.
With --data: run it over a dataset folder on this machine, with no container, and check what it leaves."""
USAGE = """ymir-exc run [--platform NAME] -- PROGRAM [ARGUMENT ...]
       ymir-exc run [--platform NAME] --nproc N -- PROGRAM [ARGUMENT ...]
       ymir-exc run --data DIR --task TASK [OPTION ...] -- PROGRAM [ARGUMENT ...]"""
EXAMPLES = """\
  exec ymir-exc run -- python /app/start.py
  exec ymir-exc run --nproc auto -- python /app/train.py
  ymir-exc run --platform local -- ./train.sh --epochs 3
  ymir-exc run --data my-data --task training --param epochs=3 --out runs/one -- python app/start.py
  ymir-exc run --data my-data --task mining+infer --model runs/one/out -- python app/start.py
  ymir-exc run --data my-data --task training --watch -- python app/start.py

The program gets its own arguments, everything after `--`, and its output passes unchanged. It may be stopped by SIGTERM
or Ctrl-C and has YMIR_EXC_GRACE seconds (8) to save. The exit status is its own; 143 after SIGTERM, 130 after Ctrl-C,
127 and 126 when it cannot be started, 4 when the platform's files are wrong.

With --nproc the program is started in several processes, as torchrun would: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT are set. Where the platform names several hosts (TM_HOSTS, TM_CURRENT_HOST) each is to run this command: all
processes are one group, and each host ends with the status and the reason of the one that failed first. It needs torch.

With --data the exit status is 0; 1 when the program failed; 4 when the platform would refuse what it left.
"""
_TASKS = ("training", "mining", "infer", "mining+infer")
_OF_DATA = ("task", "param", "model", "img_man", "out", "overwrite", "watch", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes before the program."""
    parser.add_argument("--platform", choices=platforms.NAMES, help="do not detect the platform (also: YMIR_EXC_PLATFORM)")
    parser.add_argument("--nproc", metavar="N", type=_processes,
                        help="start the program N times on this host, as torchrun does; auto: once for each GPU that is visible"
                             f" (also: {NPROC_VARIABLE})")
    local = parser.add_argument_group("over a dataset folder, with no container")
    local.add_argument("--data", metavar="DIR", help="a dataset in the platform's layout, such as `ymir-exc sample` writes")
    local.add_argument("--task", choices=_TASKS, help="what the program is to do")
    local.add_argument("--param", action="append", metavar="KEY=VALUE", type=_parameter, help="a hyper-parameter; the value is YAML")
    local.add_argument("--model", metavar="OUT", help="the out folder of an earlier training, whose best stage is handed in")
    local.add_argument("--img-man", metavar="DIR", help="the image's templates; else img-man/ beside the program or in this folder")
    local.add_argument("--out", metavar="DIR", help="the folder to make (ymir-runs/TASK-TIME)")
    local.add_argument("--overwrite", action="store_true", help="replace an earlier run in --out")
    local.add_argument("--watch", action="store_true", help="run again whenever a file of the program's folder changes, until Ctrl-C")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run `arguments.program`, which `cli` has set: everything from `--`, or from the first word that is no option."""
    _check(arguments)
    if arguments.data is None:
        from ymir_exc import supervisor
        nproc = arguments.nproc or _asked(arguments)
        if not nproc:
            return supervisor.run(arguments.program, arguments.platform)
        return supervisor.run(arguments.program, arguments.platform, before=_launcher(nproc))
    job = _job(arguments)
    if not arguments.watch:
        return _once(job, arguments)
    import itertools

    from ymir_exc.host import watching
    number = itertools.count()

    def once(check: Callable[[], None]) -> None:
        _once(job._replace(overwrite=job.overwrite or next(number) > 0), arguments, check)

    watching.forever(watching.files_of(job), once, lambda text: print(f"ymir-exc: {text}", file=sys.stderr, flush=True))
    return 0


def _processes(text: str) -> str:
    if text != "auto" and not (text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number from 1 nor auto")
    return text


def _asked(arguments: argparse.Namespace) -> str:
    text = os.environ.get(NPROC_VARIABLE, "").strip()
    try:
        return _processes(text) if text else ""
    except argparse.ArgumentTypeError as e:
        arguments.usage_error(f"{NPROC_VARIABLE}: {e}")
        raise


def _launcher(processes: str) -> List[str]:
    """The words before a program that is to run in several processes: what needs torch is not the supervisor."""
    return [sys.executable, "-m", "ymir_exc.integrations.torchrun", "--nproc", processes, "--"]


def _parameter(pair: str) -> Tuple[str, Any]:
    from ymir_exc.host.runner import parameter
    return parameter(pair)


def _job(arguments: argparse.Namespace) -> Job:
    from pathlib import Path

    from ymir_exc.host import runner
    tasks, program, model = tuple(arguments.task.split("+")), tuple(arguments.program), arguments.model
    templates = runner.find_templates(Path(arguments.img_man) if arguments.img_man else None, program)
    out = Path(arguments.out) if arguments.out else runner.new_folder(tasks)
    return runner.Job(Path(arguments.data), tasks, program, out, templates, dict(arguments.param or ()), Path(model) if model else None,
                      arguments.overwrite)


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.program:
        arguments.usage_error("a program to run is missing")
    given = [f"--{name.replace('_', '-')}" for name in _OF_DATA if getattr(arguments, name)]
    if arguments.data is None and given:
        arguments.usage_error(f"{given[0]} is for a run over a dataset folder: --data is missing")
    if arguments.data is not None and (arguments.task is None or arguments.platform is not None):
        arguments.usage_error("--data needs --task" if arguments.task is None else "--platform does not go with --data")
    if arguments.data is not None and arguments.nproc is not None:
        arguments.usage_error("--nproc does not go with --data")
    if arguments.watch and arguments.json:
        arguments.usage_error("--json does not go with --watch, which has no one result")


def _once(job: Job, arguments: argparse.Namespace, check: Optional[Callable[[], None]] = None) -> int:
    """Run, and show what came out."""
    import contextlib
    import json

    from ymir_exc.host import outcome, runner, show, watching
    if not arguments.json:
        show.require()
    shown: Any = contextlib.nullcontext() if arguments.quiet else show.live(job.name, log=job.log, pass_log=bool(arguments.verbose))
    with shown as update:
        result = runner.run(job, watching.with_check(update, check))
    if arguments.json:
        print(json.dumps(outcome.as_json(job, result), ensure_ascii=False, indent=2))
    else:
        outcome.tell(job, result)
    return outcome.exit_status(result)
