"""Signals while a command works: the first stop ends the work in order, and nothing interrupts the clearing up."""
from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any, Iterator

from ymir_exc.errors import Stopped

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stoppable(*, insist: bool = False) -> Iterator[None]:
    """SIGTERM and a closed terminal raise `Stopped` in the block, so that it clears up as after Ctrl-C. Later ones do nothing there.

    Args:
        insist: A second Ctrl-C interrupts the clearing up as well, which knows what to make of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: Any) -> None:
        for one in _STOPS:
            if one != signal.SIGINT or not insist:
                signal.signal(one, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    # One that whoever started us ignores or handles stays as it is.
    earlier = {number: signal.signal(number, stop) for number in _STOPS
               if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """No stop ends the block before it has removed what it must."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, signal.SIG_IGN) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
