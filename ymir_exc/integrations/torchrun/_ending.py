"""How ranks are ended, and which of them had ended by themselves."""
from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import Any, Callable, Iterator, Optional, Set

from ymir_exc.supervisor import _processes
from ymir_exc.supervisor._run import GRACE_SECONDS, GRACE_VARIABLE

_WRITE_SECONDS = 2.0
"""What is left of the time after a stop for the last words of this process."""


@contextlib.contextmanager
def children_ended() -> Iterator[None]:
    """A signal that comes while ranks are being started makes the launcher forget those that it has: they are killed."""
    before = _processes.child_ids()
    try:
        yield
    except BaseException:
        for pid in _processes.child_ids() - before:
            _processes.send_group(pid, signal.SIGKILL)
            _processes.send(pid, signal.SIGKILL)
        raise


class Closing:
    """The launcher's way to end its ranks, at the pace of a container's stop, and who had ended by itself before that.

    It would wait 30 seconds from SIGTERM to SIGKILL, without a way in all its versions to say less. After a failure nothing is to be saved,
    and ranks that wait for a lost peer hear no SIGTERM: then they have no more time than a usual stop grants.

    Args:
        context: torch's PContext.
        before: Called with a context that is about to be closed, the first time.
    """

    def __init__(self, context: Any, before: Callable[[Any], None] = lambda _: None) -> None:
        self.context = context
        self.before = before
        self.is_stop = False
        """Whether a stop was asked for, on whatever host; `before` may say so."""

        self.first_rank = 0
        """The global rank of this host's first one."""

        self.ended: Set[int] = set()
        self.time = 0.0

    def __enter__(self) -> Closing:
        close = self.original = self.context.close
        stopped, failed = seconds_to_kill(), seconds_after_failure()

        def close_soon(context: Any, death_sig: Optional[signal.Signals] = None, timeout: float = stopped) -> None:
            if not self.time:
                from torch.distributed.elastic.multiprocessing.api import SignalException
                self.time = time.time()
                self.is_stop = isinstance(sys.exc_info()[1], SignalException)
                self.before(context)
                alive = {process.pid for process in _processes.all_processes().values() if process.alive}
                self.ended = {self.first_rank + rank for rank, pid in context.pids().items() if pid not in alive}
            close(context, death_sig, min(timeout, stopped if self.is_stop else failed))

        self.context.close = close_soon
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close = self.original


def seconds_to_kill() -> float:
    """From SIGTERM to SIGKILL: what the supervisor, or `docker stop`, grants this process, less what it needs itself."""
    try:
        grace = float(os.environ.get(GRACE_VARIABLE) or GRACE_SECONDS)
    except ValueError:
        grace = GRACE_SECONDS
    return max(grace - _WRITE_SECONDS, grace / 2)


def seconds_after_failure() -> float:
    """The same for ranks whose peer has failed."""
    return min(seconds_to_kill(), GRACE_SECONDS - _WRITE_SECONDS)
