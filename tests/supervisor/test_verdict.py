"""What the platform is told about each way to end."""
from __future__ import annotations

import pytest

from ymir_exc.code import ExecutorReturnCode as RC
from ymir_exc.monitor import Record
from ymir_exc.supervisor._verdict import Ended, judge, memory_text, of_error

OOM = memory_text(16 << 30)
TORCHRUN = "torch.distributed.elastic... failed (exitcode: -9) local_rank: 0 (pid: 77) of binary: python\n"


@pytest.mark.parametrize("ended,status,code,words", [
    (Ended(-9, memory=OOM), 137, RC.RC_EXEC_OOM, "16 GiB"),
    (Ended(-9, err="Epoch 3"), 137, RC.RC_CMD_CONTAINER_ERROR, "killed by SIGKILL, possibly out of memory"),
    (Ended(137, memory=OOM), 137, RC.RC_EXEC_OOM, "out of memory"),
    (Ended(1, memory=OOM, err=TORCHRUN), 1, RC.RC_EXEC_OOM, "out of memory"),
    (Ended(1, memory=OOM, err="RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed. \n"), 1, RC.RC_EXEC_OOM, "out of"),
    (Ended(1, memory=OOM, err="subprocess.CalledProcessError: Command 'x' died with <Signals.SIGKILL: 9>.\n"), 1, RC.RC_EXEC_OOM, ""),
    (Ended(1, memory=OOM, err="start.sh: line 3:    12 Killed    python train.py\n"), 1, RC.RC_EXEC_OOM, "out of memory"),
    (Ended(1, memory=OOM, err="KeyError: 'exit'\n"), 1, RC.RC_CMD_CONTAINER_ERROR, "KeyError"),
    (Ended(1, err=TORCHRUN), 1, RC.RC_CMD_CONTAINER_ERROR, "exitcode: -9"),
    (Ended(-9, memory=memory_text(None)), 137, RC.RC_EXEC_OOM, "the machine's memory ran out"),
    (Ended(-6, err="terminate called\n  what():  CUDA error: device-side assert triggered\n"), 134, RC.RC_EXEC_CUDA_GPU_ERROR,
     "killed by SIGABRT, abort: what(): CUDA error"),
    (Ended(-6, err="Assertion x > 0 failed\n"), 134, RC.RC_CMD_CONTAINER_ERROR, "abort: Assertion x > 0 failed"),
    (Ended(-7, err="insufficient shared memory (shm)\n"), 135, RC.RC_EXEC_OOM, "insufficient shared memory"),
    (Ended(-40), 168, RC.RC_CMD_CONTAINER_ERROR, "killed by signal 40"),
    (Ended(139, err="Traceback (most recent call last):\n  x\nValueError: y\n"), 139, RC.RC_CMD_CONTAINER_ERROR, "ValueError: y"),
    (Ended(200, err="x"), 200, RC.RC_CMD_CONTAINER_ERROR, "x"),
    (Ended(1, err="noise", out="CUDA out of memory"), 1, RC.RC_EXEC_OOM, "CUDA out of memory"),
    (Ended(-15, stop=15), 143, RC.RC_CMD_CONTAINER_ERROR, "stopped by SIGTERM"),
    (Ended(0, stop=15, out="saved"), 143, RC.RC_CMD_CONTAINER_ERROR, "stopped by SIGTERM: saved"),
    (Ended(1, stop=15, err="stopped by SIGTERM: at epoch 3\n"), 143, RC.RC_CMD_CONTAINER_ERROR, "stopped by SIGTERM: at epoch 3"),
    (Ended(-9, stop=15, grace=8.0), 143, RC.RC_CMD_CONTAINER_ERROR, "stopped by SIGTERM; it did not end within 8 s and was killed"),
])
def test_verdicts(ended, status, code, words):
    outcome = judge(ended)
    assert (outcome.status, outcome.failure.code) == (status, code)
    assert words in outcome.failure.reason and not outcome.recorded


@pytest.mark.parametrize("own,memory,expected", [
    ((300002, "no images", ("x",)), None, (RC.RC_EXEC_DATASET_ERROR, "no images", ("x",), True)),
    ((300002, "", ("a", "b", "")), None, (RC.RC_EXEC_DATASET_ERROR, "b", ("a", "b", ""), False)),
    ((300002, "", ()), None, (RC.RC_EXEC_DATASET_ERROR, "words", ("words",), False)),
    ((0, "my reason", ()), None, (RC.RC_CMD_CONTAINER_ERROR, "my reason", ("words",), False)),
    ((180001, "", ()), None, (RC.RC_CMD_CONTAINER_ERROR, "words", (), True)),
    ((160004, "child exit status -9", ("t",)), OOM, (RC.RC_EXEC_OOM, OOM, ("t",), False)),
    ((300201, "child exit status -9", ("t",)), OOM, (RC.RC_EXEC_NAN_ERROR, "child exit status -9", ("t",), True)),
])
def test_the_programs_record_and_ours(own, memory, expected):
    outcome = judge(Ended(1, "words", record=Record("t0", 1.0, 0.5, 4, *own), memory=memory))
    assert (outcome.failure.code, outcome.failure.reason, outcome.lines, outcome.recorded) == expected


def test_an_error_that_is_not_ours_shows_where(platform):
    try:
        raise KeyError("x")
    except KeyError as e:
        outcome = of_error(e, 4)
    assert outcome.status == 4 and outcome.failure.reason == "KeyError: 'x'" and "KeyError: 'x'" in outcome.lines


def test_the_limit_is_told_in_a_fitting_unit():
    assert "limit of 16 GiB;" in memory_text(16 << 30) and "limit of 512 MiB;" in memory_text(512 << 20)
    assert "limit" not in memory_text(None)
