"""Tencent TI: `docker run IMAGE train` with the job below `/opt/ml`.

The job is translated to a task of YMIR before the program starts, and the outcome back after it ended. A program that knows nothing of
this package is told the same by TM_* variables and arguments, and runs also where a job is no task: with a table as its data, say.

    _config     what the platform has written: hyper-parameters, hosts, channels
    _variables  what a program is told by variables and arguments
    _program    the user's script
    _task       env.yaml, config.yaml, weights
    _dataset    channels to index files; _pairing, images and annotations
    _archive    unpacks a model that nobody vouches for
    _report     how it ended
"""
from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Mapping, Optional, Tuple

from ymir_exc import settings
from ymir_exc.errors import YmirError, one_line
from ymir_exc.platforms.base import Outcome, Prepared

if TYPE_CHECKING:
    from ymir_exc.platforms.ti._config import Job, Layout

ROOT_VARIABLE = "YMIR_EXC_TI_ROOT"
ROOT = "/opt/ml"
_ASK_SECONDS = 10.0
_MAX_REASON = 2000


class TiPlatform:
    """`/opt/ml`, or wherever `YMIR_EXC_TI_ROOT` says."""

    name = "ti"

    def __init__(self) -> None:
        self.root = os.environ.get(ROOT_VARIABLE) or ROOT
        self._task_id = ""
        self._work: Optional[str] = None

    def detect(self) -> bool:
        """Whether the platform's configuration is there."""
        return os.path.lexists(os.path.join(self.root, "input", "config"))

    def prepare(self) -> Prepared:
        """Read the job, translate it as far as it is a task, and find the program.

        Raises:
            ConfigError: The platform's files are not as they should be, or the job's script does not exist.
        """
        from ymir_exc.platforms.ti import _config, _program, _report, _task, _variables
        layout, environ = _config.Layout(self.root), os.environ
        problems = _report.open_output(layout)
        job = _config.read(layout, environ)
        self._task_id = _task.task_id(job, environ)
        script = _program.find(layout, job, environ)
        gpus = visible_gpus(environ)
        told = _variables.tell(layout, job, environ, script.name, gpus)
        env_file, variables, warnings = self._translate(layout, job, gpus)
        return Prepared(env_file, {**told.variables, **variables}, layout.monitor, self._task_id,
                        (layout.results, layout.model, layout.output), script.argv, told.arguments, script.setup, script.cwd,
                        (*problems, *job.warnings, *script.warnings, *told.warnings, *warnings))

    def finish(self, outcome: Outcome) -> None:
        """Leave `failure` or `success`, unless the program has told of a failure itself.

        Raises:
            StorageError: It could not be written.
        """
        from ymir_exc.platforms.ti import _config, _report, _task
        if self._work is not None:
            import shutil
            shutil.rmtree(self._work, ignore_errors=True)
        task_id = self._task_id or os.environ.get(_task.JOB_NAME_VARIABLE) or _task.NO_NAME
        _report.close_output(_config.Layout(self.root), task_id, outcome)

    def _translate(self, layout: Layout, job: Job, gpus: int) -> Tuple[Optional[str], Mapping[str, str], Tuple[str, ...]]:
        """env.yaml, the variables that lead a program to it, and warnings; or why there is no task."""
        from ymir_exc.env import NO_TASK_VARIABLE
        from ymir_exc.errors import WeightsError
        from ymir_exc.platforms.ti import _task
        try:
            work = os.path.join(os.environ.get("TMPDIR") or "/tmp", f"ymir-ti-{os.getpid()}-{os.urandom(4).hex()}")    # noqa: S108
            os.mkdir(work, 0o700)    # refuses what is there; `tempfile` takes longer to load than all of this
            self._work = work
            task = _task.translate(layout, job, work, self._task_id, gpus)
        except (YmirError, OSError) as e:
            kind = f"{WeightsError.__name__}: " if isinstance(e, WeightsError) else ""
            variables = {NO_TASK_VARIABLE: one_line(f"{kind}{e}", _MAX_REASON)}
            if os.path.lexists(settings.DEFAULT_ENV_FILE_PATH):    # of another platform, or of a task that this one is not
                variables["DEFAULT_ENV_FILE_PATH"] = os.path.join(self._work or layout.root, "env.yaml")
            return None, variables, ()
        return task.env_file, {"DEFAULT_ENV_FILE_PATH": task.env_file}, task.warnings


def visible_gpus(environ: Mapping[str, str]) -> int:
    """How many GPUs a program in this container sees: what CUDA_VISIBLE_DEVICES leaves, else what the driver's tool lists."""
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        count = 0
        for item in named.split(","):
            if not (item.strip().isdecimal() or item.strip().startswith(("GPU-", "MIG-"))):    # CUDA looks no further
                break
            count += 1
        return count
    try:
        done = subprocess.run(["nvidia-smi", "--list-gpus"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              timeout=_ASK_SECONDS)
    except (OSError, subprocess.SubprocessError):    # there is none
        return 0
    return sum(line.startswith(b"GPU ") for line in done.stdout.splitlines()) if done.returncode == 0 else 0
