"""Launchers for `Executor`: how many processes a task is for."""
from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Callable, List, Union

from ymir_exc import dataset_reader, hosts, smoke, util
from ymir_exc.env import DatasetType
from ymir_exc.errors import ConfigError
from ymir_exc.executor import FAILURES_VARIABLE
from ymir_exc.integrations.torchrun._ranks import check_gpus

if TYPE_CHECKING:
    from easydict import EasyDict as edict

IMAGES_WORTH_A_PROCESS = 1000
"""Another process takes some two seconds to start, which is what a small model takes for that many images."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""

_PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h."""


def per_gpu(cfg: edict) -> bool:
    """A launcher for `Executor`: one process for each GPU of `gpu_id`; with several hosts at least one on each.

    Args:
        cfg: What `util.get_merged_config()` returned.

    Returns:
        Whether ranks were started, and all of them succeeded; False when this process is to do the task itself.

    Raises:
        NoGpuError: gpu_id names a GPU that torch does not see.
        ConfigError: There are several hosts, and the task is not training; or a variable that names them is wrong.
        ProgramError: As `launch`.
        Stopped: As `launch`.
    """
    return processes(lambda cfg: len(util.get_gpu_ids(cfg)))(cfg)


def per_device(cfg: edict) -> bool:
    """A launcher for `Executor`, as `per_gpu`; without GPUs, several processes share the CPU.

    Then there are as many as the hyper-parameter `cpu_processes` says, one if there is none, but not more than cores. For mining and
    inference another one starts for each thousand candidates only: fewer are done before it is ready.

    Raises:
        ConfigError: `cpu_processes` is no number, or below 1.
        Exception: As `per_gpu`.
    """
    return processes(lambda cfg: len(util.get_gpu_ids(cfg)) or _worth_starting(cfg))(cfg)


def _worth_starting(cfg: edict) -> int:
    from pydantic import Field, create_model
    wanted: Any = util.get_parameters(cfg, create_model("CpuProcesses", cpu_processes=(int, Field(1, ge=1))))
    most = len(os.sched_getaffinity(0))
    if not cfg.ymir.run_training:
        most = min(most, 1 + dataset_reader.items_count(DatasetType.CANDIDATE) // IMAGES_WORTH_A_PROCESS)
    return int(min(wanted.cpu_processes, most))


def processes(count: Union[int, Callable[[edict], int]]) -> Callable[[edict], bool]:
    """A launcher for `Executor`, as `per_gpu`, with another number of processes: so several can share the CPU.

    Args:
        count: The number, or a function of the configuration that returns it. Below 2 nothing is started, unless there are several hosts.
    """
    def launcher(cfg: edict) -> bool:
        from ymir_exc.integrations import torchrun
        if not util.get_gpu_ids(cfg):
            tune_cpu()
        is_rank = hosts.is_rank()
        if is_rank and FAILURES_VARIABLE in os.environ:
            _end_with_parent()
        if is_rank or smoke.is_wanted(cfg):
            return False
        several = len(hosts.read().hosts)
        if several > 1 and not cfg.ymir.run_training:
            raise ConfigError(f"mining and inference run on one host, and this job has {several}", hint="start it with one instance")
        number = int(count(cfg) if callable(count) else count)
        if number < 2 and several == 1:
            return False
        check_gpus(util.get_gpu_ids(cfg))
        torchrun.launch(own_command(), max(1, number))
        return True

    return launcher


def _end_with_parent() -> None:
    """Have this rank asked to stop when the process that started it is killed, which could not end it any more."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def tune_cpu() -> None:
    """Set what makes torch faster on CPUs; the launchers of this module do it for a task without GPUs, before torch is loaded.

    Threads that wait sleep, so that another process does not slow each operation down (OMP_WAIT_POLICY). Memory that tensors have freed
    is kept for the next ones: the C library would give large pieces back to the system, and get each back empty, page by page. That may
    keep half a GiB more. What the user has set in the environment stays; where the C library is not GNU's there is nothing to set.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ):
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_THRESHOLD, 32 << 20)    # the most that it takes
            mallopt(_M_TRIM_THRESHOLD, 512 << 20)


def own_command() -> List[str]:
    """How this program was started: interpreter, its options, script, arguments."""
    if hasattr(sys, "orig_argv"):
        return [sys.executable, *sys.orig_argv[1:]]
    with open("/proc/self/cmdline", "rb") as f:
        return [sys.executable, *map(os.fsdecode, f.read().split(b"\0")[1:-1])]
