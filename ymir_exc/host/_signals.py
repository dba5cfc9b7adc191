"""Signals while containers run: a stop ends the work in order, and nothing interrupts the clearing up."""
from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any, Iterator

from ymir_exc.errors import Stopped


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and a closed terminal raise `Stopped` in the block, so that it clears up as after Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: Any) -> None:
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)
               if signal.getsignal(number) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """A second Ctrl-C, of a person who is impatient, does not end the block before it has removed what it must."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
