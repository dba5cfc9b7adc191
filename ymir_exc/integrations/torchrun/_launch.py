"""Running a program in several processes, and waiting for them."""
from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import tempfile
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence

from ymir_exc import hosts, util
from ymir_exc.errors import ArgumentError
from ymir_exc.executor import FAILURES_VARIABLE
from ymir_exc.integrations.torchrun._ending import Closing, children_ended
from ymir_exc.integrations.torchrun._first import raise_first, raise_stopped, records
from ymir_exc.integrations.torchrun._words import Words
from ymir_exc.supervisor import _processes

_ADDRESS = "127.0.0.1"
_ONE_HOST = hosts.Layout()
_MEET_SECONDS = 60
"""For what torch's launchers say to each other before they start ranks; all hosts are here by then."""

_LOGGERS = ("torch.distributed.elastic", "torch.distributed.launcher")


def launch(argv: Sequence[str], processes: int, *, keep_words: bool = False) -> None:
    """Run a program in several processes on this machine, and wait until all have ended.

    With several hosts (`ymir_exc.hosts`) each is to call this; all their processes are ranks of one group, and each call ends as the whole
    job does. The number of processes may differ from host to host.

    When a rank fails the others get SIGTERM, and SIGKILL some seconds later. A request to stop this process is passed on to each rank once,
    with the same respite. Output goes where ours goes. Ranks share the cores (OMP_NUM_THREADS) unless the user has said otherwise.

    A program whose tasks run in an `Executor` tells its reasons; so does one that uses torch's `elastic.multiprocessing.errors.record`.

    Args:
        argv: The program and its arguments.
        processes: How many on this host, 1 or more.
        keep_words: Look for the reason in what the ranks write to stderr too; with several hosts that is always so.

    Raises:
        ProgramError: A rank failed, on whatever host, or a host is lost. The error has the reason, code, traceback lines and exit status of
            the one that was first.
        NetworkError: The hosts could not be found, did not come, or a port is taken.
        ConfigError: A variable that names the hosts is wrong.
        Stopped: SIGTERM, SIGINT, SIGHUP or SIGQUIT reached this process; its exit status is 128 + the signal's number.
        OSError: The program could not be started.
    """
    if not argv or processes < 1:
        raise ArgumentError(f"a program and a number of processes are needed, not {list(argv)!r} and {processes!r}")
    from torch.distributed.elastic.multiprocessing.api import PContext, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    arguments = [word.replace("$", "$$") for word in argv[1:]]    # torch takes them for templates
    layout = hosts.read()
    if not hosts.is_rank():    # TI-ONE's, of this host: nobody is to take them for a rank's
        for name in ("RANK", "WORLD_SIZE"):
            os.environ.pop(name, None)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ymir-exc-"))
        for context in (_variables(_for_ranks(processes, folder, layout)), _quiet(), _signal_handlers_kept()):
            stack.enter_context(context)
        words = stack.enter_context(Words(folder, processes)) if keep_words or len(layout.hosts) > 1 else None
        closing = stack.enter_context(Closing(PContext))
        stack.enter_context(children_ended())
        config = _launch_config(processes, folder, layout, words)
        if words is not None and len(layout.hosts) > 1:
            from ymir_exc.integrations.torchrun import _several
            _several.run([argv[0], *arguments], config, layout, _several.Place(folder, closing, words))
            return
        try:
            elastic_launch(config, argv[0])(*arguments)
        except SignalException as e:
            raise_stopped(e.sigval, records(folder))
        except ChildFailedError as e:
            raise_first(e.failures, folder, closing, argv, words.of_ended if words else lambda _: "")


def _launch_config(processes: int, folder: str, layout: hosts.Layout = _ONE_HOST, words: Optional[Words] = None) -> Any:
    """What torch's launcher is to do, in the words that its version knows."""
    from torch.distributed.elastic import multiprocessing
    from torch.distributed.launcher.api import LaunchConfig
    known = {field.name for field in dataclasses.fields(LaunchConfig)}
    heard = [number.name for number in _processes.STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]    # nohup keeps its promise
    options: Dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": f"{_ADDRESS}:0", "local_addr": _ADDRESS,
                               "signals_to_handle": ",".join(heard)}
    if "local_addr" not in known:    # older versions go by the name of the host, which a container without a network cannot look up
        options.update(rdzv_backend="static", rdzv_endpoint=f"{_ADDRESS}:{util.find_free_port()}", rdzv_configs={"rank": 0})
    count = len(layout.hosts)
    if count > 1:
        options.update(rdzv_backend="static", rdzv_endpoint=f"{layout.master}:{layout.port}", local_addr=layout.current,
                       rdzv_configs={"rank": layout.rank, "timeout": _MEET_SECONDS})
    if "logs_specs" in known:
        options["logs_specs"] = words.specs(folder) if words else multiprocessing.DefaultLogsSpecs(log_dir=folder)
    else:
        options["log_dir"] = folder
    return LaunchConfig(min_nodes=count, max_nodes=count, nproc_per_node=processes, run_id="ymir", max_restarts=0, monitor_interval=0.1,
                        **{name: value for name, value in options.items() if name in known})


def _for_ranks(processes: int, folder: str, layout: hosts.Layout = _ONE_HOST) -> Dict[str, str]:
    """Environment variables of the ranks; what the user has set stays. The interface between hosts is known when they are."""
    cores = max(1, len(os.sched_getaffinity(0)) // processes)
    threads = {} if os.environ.get("OMP_NUM_THREADS") else {"OMP_NUM_THREADS": str(cores)}
    return {FAILURES_VARIABLE: folder, **threads, **(hosts.socket_variables(layout) if len(layout.hosts) == 1 else {})}


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
