"""Stops: the first one ends the work, later ones neither the clearing up nor the status that tells of it."""
import os
import signal
import subprocess
import sys

import pytest

from ymir_exc.errors import Stopped
from ymir_exc.host import _signals

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def as_a_program_starts():
    defaults = signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL
    earlier = [signal.signal(number, handler) for number, handler in zip(STOPS, defaults)]
    yield
    for number, handler in zip(STOPS, earlier):
        signal.signal(number, handler)


@pytest.mark.parametrize("number,error", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped), (signal.SIGHUP, Stopped)])
def test_only_the_first_stop_interrupts(number, error):
    cleared = False
    with pytest.raises(error), _signals.stoppable():
        try:
            signal.raise_signal(number)
        finally:
            for later in STOPS:
                signal.raise_signal(later)
            cleared = True
    assert cleared
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_ctrl_c_may_count():
    seen = []
    with pytest.raises(KeyboardInterrupt), _signals.stoppable(insist=True):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                seen.append("again")
    assert seen == ["again"]


def test_what_is_ignored_stays_so():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)    # nohup
    with _signals.stoppable():
        signal.raise_signal(signal.SIGHUP)


@pytest.mark.parametrize("raised,status", [("KeyboardInterrupt", 130), ("Stopped('stopped by SIGTERM')", 143)])
def test_the_status_survives_a_late_signal(raised, status):
    program = f"""
import os, signal, sys
from ymir_exc import cli
from ymir_exc.errors import Stopped
def interrupted(words): raise {raised}
cli._run = interrupted
status = cli.main()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    os.kill(os.getpid(), number)
sys.exit(status)
"""
    done = subprocess.run([sys.executable, "-c", program, "sample"], stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
