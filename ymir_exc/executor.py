"""The entry of an executor image: which task to run, in which order, and what to say when it fails."""
from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Union

from ymir_exc import env, monitor, util
from ymir_exc.errors import ConfigError, Stopped, YmirError, classify, exit_status, traceback_lines
from ymir_exc.platforms.base import SUPERVISED_VARIABLE

if TYPE_CHECKING:
    from easydict import EasyDict as edict

_log = logging.getLogger(__name__)

App = Union[str, Sequence[str], Callable[[Any], Any]]
"""What runs a task: a Python function that takes the merged configuration, a command line, or a list of arguments."""

TASKS = ("training", "mining", "infer")


class Executor:
    """Runs what the platform asks for.

        sys.exit(Executor({"training": train, "mining": mine, "infer": infer}).main())

    Args:
        apps: Task ('training', 'mining', 'infer') to what runs it. Tasks that are left out are not supported by the image. By default
            the scripts `ymir/ymir_training.py`, `ymir/ymir_mining.py` and `ymir/ymir_infer.py`.
    """

    def __init__(self, apps: Optional[Mapping[str, App]] = None) -> None:
        self.apps: Dict[str, App] = dict(apps) if apps is not None else {task: f"python3 ymir/ymir_{task}.py" for task in TASKS}

    def main(self) -> int:
        """Run, and turn a failure into the process's exit status, with its reason as the last line of the output.

        Returns:
            0; 4 for a wrong configuration or dataset; 143 after a stop; what a function gave to `sys.exit`; 1 for other failures.
        """
        try:
            return self.start()
        except (Exception, KeyboardInterrupt, SystemExit) as e:
            sys.stdout.flush()
            if not isinstance(e, Stopped):
                traceback.print_exc()
            if SUPERVISED_VARIABLE not in os.environ:
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
            Exception: Whatever a Python function raised. In every case monitor.txt says so before.
        """
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)-8s: [%(asctime)s] %(message)s",
                            datefmt="%Y%m%d-%H:%M:%S")
        try:
            cfg = util.get_merged_config()
            for task in self._tasks(cfg):
                self._run(task, cfg)
            if util.get_bool(cfg, "ymir_debug", False):
                raise YmirError("ymir_debug is set: the task ends as failed so that the platform keeps its folder")
        except (Exception, KeyboardInterrupt, SystemExit) as e:
            _record_failure(e)
            raise
        return 0

    def _tasks(self, cfg: edict) -> List[str]:
        wanted = ["training"] if cfg.ymir.run_training else [task for task in ("mining", "infer") if getattr(cfg.ymir, f"run_{task}")]
        if not wanted:
            hints = filter(None, (env.misspelt_as(f"run_{task}") for task in TASKS))
            raise ConfigError("env.yaml asks for no task: run_training, run_mining and run_infer are all false", hint=next(hints, ""))
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
        monitor.write_monitor_logger(monitor.task_percent(cfg.ymir, task, 1.0))
        _log.info("%s is done", task)


def _arguments(command: str) -> List[str]:
    try:
        return shlex.split(command)
    except ValueError:    # a quote that nothing closes is an apostrophe
        return command.split()


def _record_failure(error: BaseException) -> None:
    """Leave the reason in monitor.txt, as far as its place is known; a command's own words are the supervisor's to find."""
    if SUPERVISED_VARIABLE in os.environ and isinstance(error, subprocess.CalledProcessError):
        return
    if not env.is_main_rank():
        return
    try:
        current = env.current_env()
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        monitor.write_failure(current.output.monitor_file, current.task_id, classify(error), traceback_lines(text))
    except (YmirError, OSError) as e:
        _log.warning("the failure could not be recorded: %s", e)
