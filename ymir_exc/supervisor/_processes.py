"""Signals as a queue, and the processes below this one."""
from __future__ import annotations

import contextlib
import math
import os
import select
import signal
from types import FrameType, TracebackType
from typing import Dict, Iterable, List, NamedTuple, Optional, Set, Type

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
PASSED_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
WAKE = 0
"""What `SignalQueue.wait` tells when a thread called `wake`; no signal has this number."""

_PR_SET_CHILD_SUBREAPER = 36


class SignalQueue:
    """The signals that this process gets, in their order.

    The kernel's handler does no more than put the number into a pipe, so nothing is interrupted and nothing is lost, as process 1 too.
    A signal that was ignored when we were started (nohup, a background job of a script) stays so, except SIGTERM. The signals are not
    given back at the end: what arrives between the last line and the end of the process is to disturb neither.
    """

    def __enter__(self) -> SignalQueue:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._taken = [n for n in (*STOP_SIGNALS, *PASSED_SIGNALS) if n == signal.SIGTERM or signal.getsignal(n) != signal.SIG_IGN]
        for number in (*self._taken, signal.SIGCHLD, signal.SIGWINCH):
            signal.signal(number, _do_nothing)
        self._poller = select.poll()
        self._poller.register(self._reader, select.POLLIN)
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        for number in self._taken:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, seconds: Optional[float]) -> List[int]:
        """What has arrived; sleeps until something does, or the time is over."""
        self._poller.poll(None if seconds is None else math.ceil(min(max(seconds, 0.0), 3600.0) * 1000))
        with contextlib.suppress(BlockingIOError):
            return list(os.read(self._reader, 4096))
        return []

    def wake(self) -> None:
        """End a `wait`, from any thread."""
        with contextlib.suppress(OSError):
            os.write(self._writer, bytes([WAKE]))


def _do_nothing(number: int, frame: Optional[FrameType]) -> None:
    """The number is in the pipe already."""


def signal_name(number: int) -> str:
    """`SIGTERM` for 15."""
    try:
        return signal.Signals(number).name
    except ValueError:    # a real-time signal has no name of its own
        return f"signal {number}"


def adopt_orphans() -> bool:
    """Become the parent of every process below this one that loses its own, as process 1 is anyway.

    Returns:
        False where the system refuses.
    """
    if os.getpid() == 1:
        return True
    try:
        import ctypes
        zero = ctypes.c_ulong(0)
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), zero, zero, zero) == 0)
    except (ImportError, OSError, AttributeError):
        return False


class Process(NamedTuple):
    """A line of /proc."""

    pid: int
    parent: int
    group: int
    session: int
    alive: bool


def _read_process(pid: str) -> Optional[Process]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            fields = f.read().rpartition(b")")[2].split()
        return Process(int(pid), int(fields[1]), int(fields[2]), int(fields[3]), fields[0] not in (b"Z", b"X"))
    except (OSError, IndexError, ValueError):    # ended meanwhile
        return None


def all_processes() -> Dict[int, Process]:
    """Every process that can be seen, by its id."""
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return {}
    return {process.pid: process for process in map(_read_process, names) if process is not None}


def descendants(skip: Iterable[int] = ()) -> List[Process]:
    """The living processes below this one, without those in `skip` and below them."""
    children: Dict[int, List[Process]] = {}
    for process in all_processes().values():
        children.setdefault(process.parent, []).append(process)
    pending, passed, found = [os.getpid()], set(skip), []
    while pending:
        for process in children.get(pending.pop(), ()):
            if process.pid not in passed:
                pending.append(process.pid)
                found.append(process)
    return [process for process in found if process.alive]


def child_ids() -> Set[int]:
    """The children that this process has now, zombies among them."""
    me = os.getpid()
    return {process.pid for process in all_processes().values() if process.parent == me} if has_children() else set()


def has_children() -> bool:
    """Whether there is any child, running or not yet waited for. Costs one system call."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def send(pid: int, number: int) -> None:
    """Signal one process, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def send_group(group: int, number: int) -> None:
    """Signal a process group, if anything of it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
