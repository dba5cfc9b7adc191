"""The entry of an executor image: which task to run, in which order, and what to say when it fails."""
from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Union

from ymir_exc import _files, env, monitor, util
from ymir_exc.errors import ConfigError, ProgramError, Stopped, YmirError, classify, exit_status, traceback_lines
from ymir_exc.platforms.base import SUPERVISED_VARIABLE

if TYPE_CHECKING:
    from easydict import EasyDict as edict

_log = logging.getLogger(__name__)

App = Union[str, Sequence[str], Callable[[Any], Any]]
"""What runs a task: a Python function that takes the merged configuration, a command line, or a list of arguments."""

Launcher = Callable[[Any], bool]
"""Takes the merged configuration and runs this program again in several processes; False when this process is to do the tasks itself."""

TASKS = ("training", "mining", "infer")

FAILURES_VARIABLE = "YMIR_EXC_FAILURES"
"""Set for the processes that a launcher starts: the folder where each leaves its failure. The one that started them tells the platform."""


class Executor:
    """Runs what the platform asks for.

        sys.exit(Executor({"training": train, "mining": mine, "infer": infer}).main())

    Args:
        apps: Task ('training', 'mining', 'infer') to what runs it. Tasks that are left out are not supported by the image. By default
            the scripts `ymir/ymir_training.py`, `ymir/ymir_mining.py` and `ymir/ymir_infer.py`. What 'mining+infer' names runs
            once, and alone, where the platform asks for both.
        launcher: What starts several processes where the task is for several, such as `integrations.torchrun.per_gpu`; by default
            this process is the only one.
    """

    def __init__(self, apps: Optional[Mapping[str, App]] = None, *, launcher: Optional[Launcher] = None) -> None:
        self.launcher = launcher
        self.apps: Dict[str, App] = dict(apps) if apps is not None else {task: f"python3 ymir/ymir_{task}.py" for task in TASKS}

    def main(self) -> int:
        """Run, and turn a failure into the process's exit status, with its reason as the last line of the output.

        Returns:
            0; 4 for a wrong configuration or dataset; 143 after a stop; what a function gave to `sys.exit`; of several processes, the
            status of the one that failed first; 1 for other failures.
        """
        try:
            return self.start()
        except (Exception, KeyboardInterrupt, SystemExit) as e:
            sys.stdout.flush()
            if isinstance(e, ProgramError):    # that program has shown its traceback
                print(e, file=sys.stderr)    # noqa: T201
            elif not isinstance(e, Stopped):
                traceback.print_exc()
            if SUPERVISED_VARIABLE not in os.environ and FAILURES_VARIABLE not in os.environ:
                failure = classify(e)
                print(f"ymir-exc: {failure.code} {failure.code.short_name}: {failure.reason}", file=sys.stderr, flush=True)    # noqa: T201
            return exit_status(e)

    def start(self) -> int:
        """Run the task that env.yaml names: training alone, or mining, then inference.

        Returns:
            0.

        Raises:
            ConfigError: No task is asked for, or one that this image does not have.
            subprocess.CalledProcessError: A command failed.
            ProgramError: One of several processes failed.
            Exception: Whatever a Python function raised. In every case monitor.txt says so before.
        """
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)-8s: [%(asctime)s] %(message)s",
                            datefmt="%Y%m%d-%H:%M:%S")
        try:
            cfg = util.get_merged_config()
            tasks = self._tasks(cfg)
            if self.launcher is None or not self.launcher(cfg):
                for task in tasks:
                    self._run(task, cfg)
            if util.get_bool(cfg, "ymir_debug", False) and FAILURES_VARIABLE not in os.environ:
                raise YmirError("ymir_debug is set: the task ends as failed so that the platform keeps its folder")
        except (Exception, KeyboardInterrupt, SystemExit) as e:
            record_failure(e)
            raise
        return 0

    def _tasks(self, cfg: edict) -> List[str]:
        wanted = ["training"] if cfg.ymir.run_training else [task for task in ("mining", "infer") if getattr(cfg.ymir, f"run_{task}")]
        if not wanted:
            hints = filter(None, (env.misspelt_as(f"run_{task}") for task in TASKS))
            raise ConfigError("env.yaml asks for no task: run_training, run_mining and run_infer are all false", hint=next(hints, ""))
        if wanted == ["mining", "infer"] and monitor.BOTH in self.apps:
            return [monitor.BOTH]
        missing = [task for task in wanted if task not in self.apps]
        if missing:
            raise ConfigError(f"this image does not support {' and '.join(missing)}", hint=f"it supports {', '.join(self.apps)}")
        return wanted

    def _run(self, task: str, cfg: edict) -> None:
        app = self.apps[task]
        _log.info("%s starts", task)
        if callable(app):
            try:
                app(cfg)
            except SystemExit as e:
                if e.code not in (None, 0):
                    raise
        else:
            argv = _arguments(app) if isinstance(app, str) else list(app)
            _log.info("run %s", " ".join(map(shlex.quote, argv)))
            subprocess.run(argv, check=True)
        monitor.write_monitor_logger(1.0 if task == monitor.BOTH else monitor.task_percent(cfg.ymir, task, 1.0))
        _log.info("%s is done", task)


def _arguments(command: str) -> List[str]:
    try:
        return shlex.split(command)
    except ValueError:    # a quote that nothing closes is an apostrophe
        return command.split()


def record_failure(error: BaseException) -> None:
    """Leave the reason in monitor.txt, as far as its place is known, or for the process that started this one.

    A command's own words are the supervisor's to find.
    """
    folder = os.environ.get(FAILURES_VARIABLE)
    is_command = isinstance(error, subprocess.CalledProcessError) or isinstance(error.__cause__, subprocess.CalledProcessError)
    if is_command and (folder or SUPERVISED_VARIABLE in os.environ):
        return
    if not folder and not env.is_main_rank():
        return
    failure, lines = classify(error), list(error.lines) if isinstance(error, YmirError) else []
    if not lines:
        lines = traceback_lines("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    try:
        if folder:
            import json
            told = {"code": failure.code, "reason": failure.reason, "lines": lines, "time": time.time(), "status": exit_status(error)}
            _files.write_bytes(os.path.join(folder, f"{os.environ.get('RANK', 0)}.json"), json.dumps(told).encode(), sync=False)
        else:
            current = env.current_env()
            monitor.write_failure(current.output.monitor_file, current.task_id, failure, lines)
    except (YmirError, OSError) as e:
        _log.warning("the failure could not be recorded: %s", e)
