from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from ymir_exc.ti import _tensorboard


def wait_for(told, seconds=120):
    deadline = time.monotonic() + seconds
    while not told:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return told[0].split()[1]


def test_it_answers_as_long_as_the_block_lasts(tmp_path):
    told = []
    with _tensorboard.running(tmp_path / "not yet there", told.append):
        address = wait_for(told)
        assert b"TensorBoard" in urllib.request.urlopen(address, timeout=60).read()
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=5)


def test_it_ends_with_a_program_that_was_killed(tmp_path):
    program = (f"from pathlib import Path; import time; from ymir_exc.ti import _tensorboard\n"
               f"with _tensorboard.running(Path({str(tmp_path)!r}), lambda line: print(line, flush=True)): time.sleep(100)")
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    address = process.stdout.readline().split()[1]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            return
        assert time.monotonic() < deadline
        time.sleep(0.2)
