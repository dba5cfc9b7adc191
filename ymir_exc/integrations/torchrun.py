"""A task in several processes, one a GPU, by torch's own elastic launcher.

    sys.exit(Executor({"training": train}, launcher=torchrun.per_gpu).main())

With `gpu_id: '0,1'` the program is started again in two processes, its ranks, each with RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT in its environment; with one GPU or none the function is called in this process. A rank then does

    device = torchrun.device(cfg)
    with torchrun.process_group(device), torchrun.mixed_precision(device):
        ...

The process that started the ranks does not train: it waits for them, ends them when one has failed or a stop is asked for, and says how
the task ended. The platform hears of a failure once, in the words of the rank that failed first. Rank 0 writes results and progress.
A rank that ends early with status 0 has done its part; the others go on.

Nothing but this machine's loopback interface is used. torch is loaded by the calls that need it, never by an import of this module.
"""
from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    NoReturn,
    Optional,
    Sequence,
    Set,
    Union,
)

from ymir_exc import dataset_reader, monitor, smoke, util
from ymir_exc.code import ExecutorReturnCode as RC
from ymir_exc.env import DatasetType
from ymir_exc.errors import ArgumentError, NoGpuError, ProgramError, Stopped, classify_text, is_lost_peer, one_line, traceback_lines
from ymir_exc.executor import FAILURES_VARIABLE
from ymir_exc.supervisor import _processes
from ymir_exc.supervisor._run import GRACE_SECONDS, GRACE_VARIABLE
from ymir_exc.supervisor._verdict import describe_signal

if TYPE_CHECKING:
    import torch
    from easydict import EasyDict as edict

GROUP_TIMEOUT_SECONDS = 2 * 3600.0
"""How long a rank waits for the others. It has to outlast the longest thing that one rank does alone, such as an evaluation on rank 0.
A task whose rank died does not wait for it: the launcher ends the others within seconds."""

IMAGES_WORTH_A_PROCESS = 1000
"""Another process takes some two seconds to start, which is what a small model takes for that many images."""

_WRITE_SECONDS = 2.0
"""What is left of the time after a stop for the last words of this process."""

_ADDRESS = "127.0.0.1"
_LOGGERS = ("torch.distributed.elastic", "torch.distributed.launcher")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""

_PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h."""

_BY_ITSELF = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
"""Signals that end a rank whatever the others do; SIGABRT may be NCCL's answer to a lost peer."""


def per_gpu(cfg: edict) -> bool:
    """A launcher for `Executor`: one process for each GPU of `gpu_id`.

    Args:
        cfg: What `util.get_merged_config()` returned.

    Returns:
        Whether ranks were started, and all of them succeeded; False when this process is to do the task itself.

    Raises:
        NoGpuError: gpu_id names a GPU that torch does not see.
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
        count: The number, or a function of the configuration that returns it. Below 2 nothing is started.
    """
    def launcher(cfg: edict) -> bool:
        if not util.get_gpu_ids(cfg):
            tune_cpu()
        is_rank = os.environ.get("RANK", "").strip() not in ("", "-1")
        if is_rank and FAILURES_VARIABLE in os.environ:
            _end_with_parent()
        if is_rank or smoke.is_wanted(cfg):
            return False
        number = int(count(cfg) if callable(count) else count)
        if number < 2:
            return False
        _check_gpus(util.get_gpu_ids(cfg))
        launch(_own_command(), number)
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


def _own_command() -> List[str]:
    """How this program was started: interpreter, its options, script, arguments."""
    if hasattr(sys, "orig_argv"):
        return [sys.executable, *sys.orig_argv[1:]]
    with open("/proc/self/cmdline", "rb") as f:
        return [sys.executable, *map(os.fsdecode, f.read().split(b"\0")[1:-1])]


# ----------------------------------------------------------------------------------------------------------------------- launching

def launch(argv: Sequence[str], processes: int) -> None:
    """Run a program in several processes on this machine, and wait until all have ended.

    When a rank fails the others get SIGTERM, and SIGKILL some seconds later. A request to stop this process is passed on to each rank once,
    with the same respite. Output goes where ours goes. Ranks share the cores (OMP_NUM_THREADS) unless the user has said otherwise.

    A program whose tasks run in an `Executor` tells its reasons; so does one that uses torch's `elastic.multiprocessing.errors.record`.

    Args:
        argv: The program and its arguments.
        processes: How many, 1 or more.

    Raises:
        ProgramError: A rank failed. The error has the reason, code, traceback lines and exit status of the one that was first.
        Stopped: SIGTERM, SIGINT, SIGHUP or SIGQUIT reached this process; its exit status is 128 + the signal's number.
        OSError: The program could not be started.
    """
    if not argv or processes < 1:
        raise ArgumentError(f"a program and a number of processes are needed, not {list(argv)!r} and {processes!r}")
    from torch.distributed.elastic.multiprocessing.api import PContext, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    arguments = [word.replace("$", "$$") for word in argv[1:]]    # torch takes them for templates
    with tempfile.TemporaryDirectory(prefix="ymir-exc-") as folder, _variables(_for_ranks(processes, folder)), _quiet(), \
            _signal_handlers_kept(), _children_ended(), _Closing(PContext) as closing:
        try:
            elastic_launch(_launch_config(processes, folder), argv[0])(*arguments)
        except SignalException as e:
            _raise_stopped(e.sigval, [_recorded(folder, rank) for rank in range(processes)])
        except ChildFailedError as e:
            _raise_first(e.failures, folder, closing, argv)


def _launch_config(processes: int, folder: str) -> Any:
    """What torch's launcher is to do, in the words that its version knows."""
    from torch.distributed.elastic import multiprocessing
    from torch.distributed.launcher.api import LaunchConfig
    known = {field.name for field in dataclasses.fields(LaunchConfig)}
    heard = [number.name for number in _processes.STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]    # nohup keeps its promise
    options: Dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": f"{_ADDRESS}:0", "local_addr": _ADDRESS,
                               "signals_to_handle": ",".join(heard)}
    if "local_addr" not in known:    # older versions go by the name of the host, which a container without a network cannot look up
        options.update(rdzv_backend="static", rdzv_endpoint=f"{_ADDRESS}:{util.find_free_port()}", rdzv_configs={"rank": 0})
    options["logs_specs" if "logs_specs" in known else "log_dir"] = (
        multiprocessing.DefaultLogsSpecs(log_dir=folder) if "logs_specs" in known else folder)
    return LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id="ymir", max_restarts=0, monitor_interval=0.1,
                        **{name: value for name, value in options.items() if name in known})


def _for_ranks(processes: int, folder: str) -> Dict[str, str]:
    """Environment variables of the ranks; what the user has set stays."""
    cores = max(1, len(os.sched_getaffinity(0)) // processes)
    defaults = {"OMP_NUM_THREADS": str(cores), "GLOO_SOCKET_IFNAME": "lo"}
    return {FAILURES_VARIABLE: folder, **{name: value for name, value in defaults.items() if not os.environ.get(name)}}


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables set for a while; torch's launcher sets one of its own."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the launcher says of its own doing, which would bury the reason; the variable LOGLEVEL brings it back."""
    loggers = [] if os.environ.get("LOGLEVEL") else [logging.getLogger(name) for name in _LOGGERS]
    silent = logging.NullHandler()
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(silent)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before):
            logger.removeHandler(silent)
            logger.propagate = propagate


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """The launcher sets handlers, in the main thread, and leaves them behind."""
    before = {number: signal.getsignal(number) for number in _processes.STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextlib.contextmanager
def _children_ended() -> Iterator[None]:
    """A signal that comes while ranks are being started makes the launcher forget those that it has: they are killed."""
    before = _processes.child_ids()
    try:
        yield
    except BaseException:
        for pid in _processes.child_ids() - before:
            _processes.send_group(pid, signal.SIGKILL)
            _processes.send(pid, signal.SIGKILL)
        raise


class _Closing:
    """The launcher's way to end its ranks, at the pace of a container's stop, and who had ended by itself before that.

    It would wait 30 seconds from SIGTERM to SIGKILL, without a way in all its versions to say less.

    Args:
        context: torch's PContext.
    """

    def __init__(self, context: Any) -> None:
        self.context = context
        self.ended: Set[int] = set()
        self.time = 0.0

    def __enter__(self) -> _Closing:
        close = self.original = self.context.close
        seconds = _seconds_to_kill()

        def close_soon(context: Any, death_sig: Optional[signal.Signals] = None, timeout: float = seconds) -> None:
            if not self.time:
                self.time = time.time()
                alive = {process.pid for process in _processes.all_processes().values() if process.alive}
                self.ended = {rank for rank, pid in context.pids().items() if pid not in alive}
            close(context, death_sig, min(timeout, seconds))

        self.context.close = close_soon
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close = self.original


def _seconds_to_kill() -> float:
    """From SIGTERM to SIGKILL: what the supervisor, or `docker stop`, grants this process, less what it needs itself."""
    try:
        grace = float(os.environ.get(GRACE_VARIABLE) or GRACE_SECONDS)
    except ValueError:
        grace = GRACE_SECONDS
    return max(grace - _WRITE_SECONDS, grace / 2)


# ------------------------------------------------------------------------------------------------------------------ who failed first

class _Told(NamedTuple):
    """How a rank failed.

    Attributes:
        rank: Its number.
        code: The platform's.
        reason: In one line.
        lines: The traceback.
        time: Seconds since 1970; infinite when nobody knows, 0 of a signal that no other rank's end explains.
        status: The exit status.
    """

    rank: int
    code: int
    reason: str
    lines: Sequence[str]
    time: float
    status: int


def _raise_stopped(number: signal.Signals, records: Sequence[Optional[_Told]]) -> NoReturn:
    """Raise what the ranks make of the stop: a failure to save is worth more than the word that all is saved."""
    told = [record for record in records if record is not None]
    told.sort(key=lambda record: (is_lost_peer(record.reason), record.status in (130, 143), record.rank))
    text = f"stopped by {number.name}"
    words = told[0].reason if told else ""
    error = Stopped(words if words.startswith(text) else f"{text}: {words}" if words else text)
    error.exit_code, error.lines = 128 + number, told[0].lines if told else [error.message]
    raise error from None


def _raise_first(failures: Mapping[int, Any], folder: str, closing: _Closing, argv: Sequence[str]) -> NoReturn:
    """Raise the failure that the others follow from: it came before the launcher ended the rest, and is no complaint about a lost peer."""
    told = [_recorded(folder, rank) or _recorded_by_torch(rank, failure) or _untold(rank, failure.exitcode)
            for rank, failure in failures.items()]
    first_hand = [record for record in told if record.rank in closing.ended or 0 < record.time <= closing.time] or told
    first = min(first_hand, key=lambda record: (is_lost_peer(record.reason), record.time))
    error = ProgramError(f"rank {first.rank}: {first.reason}")
    error.return_code, error.exit_code, error.lines = RC(first.code), first.status, first.lines or [error.message]
    tells_reasons = any(0 < record.time < math.inf for record in first_hand)    # then to say nothing is not a command's silence
    if tells_reasons or failures[first.rank].exitcode < 0:
        raise error from None
    raise error from subprocess.CalledProcessError(first.status, list(argv))


def _recorded(folder: str, rank: int) -> Optional[_Told]:
    """What the rank's `Executor` has left."""
    try:
        with open(os.path.join(folder, f"{rank}.json"), encoding="utf-8") as f:
            return _Told(rank=rank, **json.load(f))
    except FileNotFoundError:
        return None


def _recorded_by_torch(rank: int, failure: Any) -> Optional[_Told]:
    """What torch's decorator `record` has left."""
    message = failure.error_file_data.get("message")
    if not isinstance(message, dict):
        return None
    text = str(message.get("extraInfo", {}).get("py_callstack", ""))
    words = classify_text(text)
    return _Told(rank, words.code if words else RC.RC_CMD_CONTAINER_ERROR, one_line(str(message.get("message", ""))), traceback_lines(text),
                 float(failure.timestamp), _status(failure.exitcode))


def _untold(rank: int, status: int) -> _Told:
    """Of a rank that has left nothing; `status` is negative for a signal."""
    reason = describe_signal(status, -status) if status < 0 else f"exited with status {status}"
    return _Told(rank, RC.RC_CMD_CONTAINER_ERROR, reason, (), 0.0 if -status in _BY_ITSELF else math.inf, _status(status))


def _status(exitcode: int) -> int:
    return exitcode if exitcode >= 0 else 128 - exitcode


# --------------------------------------------------------------------------------------------------------------------- in a rank

def device(cfg: edict) -> torch.device:
    """Where this rank computes: the entry of `gpu_id` with the number LOCAL_RANK, the CPU without GPUs.

    For a GPU that is given by name, CUDA_VISIBLE_DEVICES is set in this process: call this before anything else of `torch.cuda`.

    Args:
        cfg: What `util.get_merged_config()` returned.

    Raises:
        NoGpuError: There is no such GPU, or none is left for this rank.
    """
    import torch
    wanted = util.get_gpu_ids(cfg)
    if not wanted:
        return torch.device("cpu")
    rank = int(os.environ.get("LOCAL_RANK") or 0)
    if rank >= len(wanted):
        raise NoGpuError(f"rank {rank} has no GPU: gpu_id names {len(wanted)}", hint="start one process for each GPU")
    mine = wanted[rank]
    if isinstance(mine, str):    # CUDA itself finds a GPU by its name; of MIG instances, a process sees one alone
        os.environ["CUDA_VISIBLE_DEVICES"] = mine
        mine = 0
    _check_gpus([mine])
    return torch.device("cuda", mine)


def _check_gpus(wanted: Sequence[Union[int, str]]) -> None:
    """Whether torch sees what gpu_id names by index."""
    indices = [gpu for gpu in wanted if isinstance(gpu, int)]
    if not indices:
        return
    import torch
    count = torch.cuda.device_count()
    missing = [gpu for gpu in indices if gpu >= count]
    if missing:
        raise NoGpuError(f"gpu_id names GPU {', '.join(map(str, missing))}, but torch sees {count} here",
                         hint="start the container with GPUs, or set gpu_id to '' for CPU")


@contextlib.contextmanager
def process_group(device: torch.device, timeout: float = GROUP_TIMEOUT_SECONDS) -> Iterator[None]:
    """The ranks as a group of `torch.distributed`: nccl for GPUs, else gloo. A single process needs none, and a group that exists is kept.

    After an exception the group stays until the process ends: taking leave of it would wait for ranks that wait for this one, or make them
    fail before this one has said why.

    Args:
        device: What `device` returned.
        timeout: Seconds that a rank waits for the others; see `GROUP_TIMEOUT_SECONDS`.
    """
    import torch
    import torch.distributed as dist
    if int(os.environ.get("WORLD_SIZE") or 1) < 2 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout))
    yield
    dist.destroy_process_group()


def should_stop() -> bool:
    """As `monitor.should_stop`, and the same answer on each rank: True once any of them was asked to stop.

    A rank that left its loop alone would leave the others waiting for it. All ranks of a `process_group` have to call this equally often;
    it costs an exchange of one number.
    """
    import torch
    import torch.distributed as dist
    asked = monitor.should_stop()
    if not (dist.is_available() and dist.is_initialized()):
        return asked
    flag = torch.tensor(int(asked), device=_exchange_device())
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag.item())


def of_rank_0(value: float) -> float:
    """The value that rank 0 has, on each rank: so that all decide alike. Of a single process its own.

    All ranks of a `process_group` have to call this equally often.
    """
    import torch
    import torch.distributed as dist
    if not (dist.is_available() and dist.is_initialized()):
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=_exchange_device())
    dist.broadcast(shared, 0)
    return float(shared.item())


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its mean over the ranks, in one exchange; nothing for a single process.

    What `DistributedDataParallel` does for models whose every use goes through `forward`, this does for all others. A parameter without a
    gradient counts as one with zeros where another rank has one.

    Args:
        parameters: `model.parameters()`, in the same order on each rank.
    """
    import torch
    import torch.distributed as dist
    if not (dist.is_available() and dist.is_initialized()):
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start:start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def _exchange_device() -> str:
    import torch.distributed as dist
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


class Budget:
    """How much of a training is done, by steps or by time, whichever is further along; on each rank the same.

        budget = torchrun.Budget(epochs * len(loader), max_seconds)
        while budget.used < 1:
            ...
            budget.advance()

    Args:
        steps: At most.
        max_seconds: From now on; 0 for as long as the steps take.
    """

    def __init__(self, steps: int, max_seconds: float = 0.0) -> None:
        self.steps = steps
        self.max_seconds = max_seconds
        self.reserve = 0.0
        """Seconds of these that are kept for what follows the last step."""

        self.step = 0
        self.used = 0.0
        """0 at the start, 1 at the end."""

        self.restart()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def restart(self, seconds: float = 0.0) -> None:
        """Let the time begin now, or so many seconds ago."""
        self._started = time.monotonic() - seconds

    def advance(self) -> None:
        """A step is done. All ranks of a `process_group` have to say so equally often."""
        self.step += 1
        by_time = self.seconds / max(self.max_seconds - self.reserve, 1e-3) if self.max_seconds else 0.0
        self.used = of_rank_0(min(1.0, max(self.used, self.step / max(self.steps, 1), by_time)))

    def state_dict(self) -> Dict[str, float]:
        """What `load_state_dict` takes, when a training goes on."""
        return {"step": self.step, "used": self.used, "seconds": self.seconds, "reserve": self.reserve}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from there."""
        self.step, self.used, self.reserve = int(state["step"]), state["used"], state["reserve"]
        self.restart(state["seconds"])


def mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the hardware computes in it; elsewhere it would be slower than float32.

    Args:
        device: What `device` returned.
    """
    import torch
    return torch.autocast(device.type, torch.bfloat16, enabled=_has_bfloat16(device))


def _has_bfloat16(device: torch.device) -> bool:
    import torch
    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device)[0] >= 8)    # Ampere; torch's own answer counts emulation
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            flags = f.read()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
