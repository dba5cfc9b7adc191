"""monitor.txt and the progress formulas, as images call them (B.2, B.3, B.8)."""
from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from tests.replay import Tensor, on_platform
from ymir_exc import monitor, util
from ymir_exc.code import ExecutorReturnCode, ExecutorState
from ymir_exc.errors import ArgumentError, UnknownStageError, YmirError
from ymir_exc.executor import Executor
from ymir_exc.monitor import YmirTask, write_monitor_logger, write_monitor_logger_for_multiple_tasks
from ymir_exc.util import YmirStage, YmirStageWeight, get_ymir_process, write_ymir_monitor_process


@pytest.fixture(autouse=True)
def fresh_writer():
    """Each test is a new process as far as the throttle is concerned."""
    monitor._writer.reset()
    yield
    monitor._writer.flush()


def written(platform):
    """The file, with NOW for the time."""
    monitor._writer.flush()
    return re.sub(r"\t\d{10}\.\d{6}\t", "\tNOW\t", platform.monitor())


class Index:
    """An enumeration of an image's own."""

    def __index__(self):
        return 4

    __int__ = __index__


MONITOR = [
    pytest.param(lambda: write_monitor_logger(percent=0.256), "t0\tNOW\t0.26\t2\t0\n", id="B.2.1-keyword-P"),
    pytest.param(lambda: write_monitor_logger(0.5), "t0\tNOW\t0.50\t2\t0\n", id="B.2.1-positional-2"),
    pytest.param(lambda: write_monitor_logger(percent=1), "t0\tNOW\t1.00\t2\t0\n", id="B.2.1-int-1.0"),
    pytest.param(lambda: write_monitor_logger(percent=np.float32(0.25)), "t0\tNOW\t0.25\t2\t0\n", id="B.2.3-numpy-2"),
    pytest.param(lambda: write_monitor_logger(percent=Tensor(0.25)), "t0\tNOW\t0.25\t2\t0\n", id="B.2.3-tensor-2"),
    pytest.param(lambda: write_monitor_logger(percent=1.5), "t0\tNOW\t1.00\t2\t0\n", id="B.2.3-beyond-corrected"),
    pytest.param(lambda: write_monitor_logger(percent=-0.004), "t0\tNOW\t0.00\t2\t0\n", id="B.2.3-minus-0-corrected"),
    pytest.param(lambda: write_monitor_logger(percent=0.5, state=ExecutorState.ES_ERROR, return_code=ExecutorReturnCode.RC_EXEC_OOM),
                 "t0\tNOW\t0.50\t4\t300103\n", id="B.2.1-keyword-error-2"),
    pytest.param(lambda: write_monitor_logger(1.0, ExecutorState.ES_ERROR, ExecutorReturnCode.RC_EXEC_NO_GPU),
                 "t0\tNOW\t1.00\t4\t300102\n", id="B.2.1-positional-error-I"),
    pytest.param(lambda: write_monitor_logger(1.0, 4, 300102), "t0\tNOW\t1.00\t4\t300102\n", id="B.2.3-plain-ints-2"),
    pytest.param(lambda: write_monitor_logger(1.0, Index(), 0), "t0\tNOW\t1.00\t4\t0\n", id="B.2.1-enum-of-its-own-dev"),
    pytest.param(lambda: write_monitor_logger(0.5, return_code=ExecutorReturnCode.RC_EXEC_OOM), "t0\tNOW\t0.50\t2\t0\n",
                 id="B.2.4-no-code-while-it-runs-I-corrected"),
]


@pytest.mark.parametrize("on", ["old", "new"])
@pytest.mark.parametrize(("call", "expected"), MONITOR)
def test_monitor(platform, monkeypatch, on, call, expected):
    """B.2.1: five columns for every platform; up to 2.2 they read the first four."""
    on_platform(platform, monkeypatch, on)
    call()
    assert written(platform) == expected


def test_enumerations_format_as_digits():
    """B.2.1: on every Python; images format them by hand."""
    assert f"{ExecutorState.ES_RUNNING} {ExecutorReturnCode.RC_EXEC_OOM:d} {ExecutorState.ES_ERROR}" == "2 300103 4"
    assert str(ExecutorState.ES_ERROR) == "4"


def stages(task="mining", percent=0.5, stage="task", **more):
    return lambda cfg: write_ymir_monitor_process(cfg, task=task, naive_stage_percent=percent, stage=stage, **more)


PROCESS = [
    pytest.param(stages("training", stage=YmirStage.TASK), ["training"], "0.50", id="B.3.2-training-2"),
    pytest.param(stages("training", stage=YmirStage.POSTPROCESS, percent=1.0), ["training"], "1.00", id="B.3.2-postprocess-2"),
    pytest.param(stages("training", stage="preprocess", percent=1), ["training"], "0.00", id="B.3.3-default-weights-1.3"),
    pytest.param(stages("mining"), ["mining"], "0.50", id="B.3.1-mining-alone-2"),
    pytest.param(stages("mining"), ["mining", "infer"], "0.25", id="B.3.1-mining-first-2"),
    pytest.param(stages("infer"), ["mining", "infer"], "0.75", id="B.3.1-infer-second-2"),
    pytest.param(stages("mining", task_order="tim"), ["mining", "infer"], "0.75", id="B.3.1-tim-2"),
    pytest.param(stages("infer", task_order="tim"), ["mining", "infer"], "0.25", id="B.3.1-tim-infer-2"),
    pytest.param(stages(YmirTask.INFER, stage=2), ["mining", "infer"], "0.75", id="B.3.1-enums-and-ints-2"),
    pytest.param(stages(2, percent=np.float32(0.5)), ["mining", "infer"], "0.25", id="B.3.1-int-task-2"),
    pytest.param(stages(percent=Tensor(0.5)), ["mining"], "0.50", id="B.3.2-tensor-2"),
    pytest.param(stages(stage_weights=[0.5, 0.5, 0.0]), ["mining"], "0.75", id="B.3.2-list-of-weights-2"),
    pytest.param(stages(stage_weights=YmirStageWeight([0.5, 0.5, 0.0])), ["mining"], "0.75", id="B.3.2-object-of-weights-2"),
    pytest.param(stages(stage_weights=[]), ["mining"], "0.50", id="B.3.3-empty-list-2"),
    pytest.param(stages(stage_weights=(0.5, 0.5, 0.0)), ["mining"], "0.75", id="B.3.2-tuple-of-weights-corrected"),
    pytest.param(stages(stage_weights=np.array([0.5, 0.5, 0.0])), ["mining"], "0.75", id="B.3.2-array-of-weights-corrected"),
    pytest.param(lambda cfg: write_ymir_monitor_process(cfg, "infer", 0.5, "task", None, "tim"), ["mining", "infer"], "0.25",
                 id="B.3.2-positional-1.3"),
    pytest.param(lambda cfg: write_ymir_monitor_process(cfg=cfg, task="infer", naive_stage_percent=0.5, stage=YmirStage.TASK),
                 ["infer"], "0.50", id="B.3.2-keyword-cfg-2"),
    pytest.param(lambda cfg: write_monitor_logger_for_multiple_tasks(cfg, task="infer", percent=0.5), ["mining", "infer"], "0.75",
                 id="B.3.1-multiple-tasks-1.3"),
    pytest.param(lambda cfg: write_monitor_logger_for_multiple_tasks(cfg, YmirTask.TRAINING, 0.5, "tmi"), ["mining", "infer"], "0.75",
                 id="B.3.1-any-other-task-second-1.3"),
]


@pytest.mark.parametrize(("call", "tasks", "percent"), PROCESS)
def test_process(platform, call, tasks, percent):
    call((platform.run(*tasks), util.get_merged_config())[1])
    assert written(platform) == f"t0\tNOW\t{percent}\t2\t0\n"


def test_the_flags_of_the_given_configuration_count(platform):
    """B.1.3: not those of the file."""
    cfg = (platform.run("infer"), util.get_merged_config())[1]
    cfg.ymir.run_mining = True
    stages("infer")(cfg)
    assert written(platform) == "t0\tNOW\t0.75\t2\t0\n"


def test_a_raw_index_ends_no_inference(platform):
    """B.3.5-YOLOv8-corrected: it passes the number of the image."""
    cfg = (platform.run("infer"), util.get_merged_config())[1]
    with pytest.warns(RuntimeWarning, match="fraction"):
        stages("infer", percent=10)(cfg)
    assert written(platform) == "t0\tNOW\t1.00\t2\t0\n"


REFUSED = [
    pytest.param(stages("labelling"), AssertionError, id="B.3.1-unknown-task-2"),
    pytest.param(stages(7), AssertionError, id="B.3.1-unknown-number-2"),
    pytest.param(stages(None), AssertionError, id="B.3.1-None-2"),
    pytest.param(stages(task_order="mti"), AssertionError, id="B.3.1-unknown-order-2"),
    pytest.param(lambda cfg: write_monitor_logger_for_multiple_tasks(cfg, "mining", 1.5), AssertionError, id="B.3.1-percent-1.3"),
    pytest.param(lambda cfg: write_monitor_logger_for_multiple_tasks(cfg, "mining", float("nan")), AssertionError, id="B.3.1-nan-1.3"),
    pytest.param(stages(stage="Task"), NotImplementedError, id="B.3.2-case-matters-2"),
    pytest.param(stages(stage=4), NotImplementedError, id="B.3.2-unknown-number-2"),
    pytest.param(stages(stage=None), NotImplementedError, id="B.3.2-no-stage-2"),
    pytest.param(stages(stage_weights=[0.5, 0.5]), AssertionError, id="B.3.3-two-weights-2"),
    pytest.param(stages(stage_weights=[0.5, 0.5, 0.5]), AssertionError, id="B.3.3-sum-2"),
    pytest.param(lambda cfg: write_monitor_logger(float("nan")), ValueError, id="B.2.3-nan-corrected"),
    pytest.param(lambda cfg: write_monitor_logger(None), ArgumentError, id="B.2.3-None-corrected"),
    pytest.param(lambda cfg: write_monitor_logger(np.array([0.5, 0.5])), ArgumentError, id="B.2.3-array-corrected"),
    pytest.param(lambda cfg: get_ymir_process("task", 1.5), ArgumentError, id="B.3.4-percent-1.3"),
    pytest.param(lambda cfg: get_ymir_process("tusk", 0.5), NotImplementedError, id="B.3.4-stage-1.3"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("call", "kind"), REFUSED)
def test_refused(platform, call, kind):
    """The type that older callers saw and our own; what was reported before stays."""
    write_monitor_logger(0.125)
    with pytest.raises(kind) as caught:
        call((platform.run("mining", "infer"), util.get_merged_config())[1])
    assert isinstance(caught.value, UnknownStageError if kind is NotImplementedError else ArgumentError)
    assert isinstance(caught.value, (YmirError, ValueError))
    assert written(platform) == "t0\tNOW\t0.12\t2\t0\n"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("arguments", "expected"), [
    pytest.param((YmirStage.TASK, 0.5), 0.5, id="B.3.4-one-task-1.0"),
    pytest.param((YmirStage.PREPROCESS, 1.0, 0, 2), 0.000005, id="B.3.4-preprocess-1.3"),
    pytest.param(("task", 0.5, 1, 2), 0.75, id="B.3.4-second-of-two-1.0"),
    pytest.param((YmirStage.TASK, 0.5, 0, 1, [0.1, 0.8, 0.1]), 0.5, id="B.3.4-weights-1.0"),
    pytest.param((YmirStage.POSTPROCESS, 0.5, 1, 2, [0.1, 0.8, 0.1]), 0.975, id="B.3.4-weights-of-two-1.0"),
])
def test_older_formula(arguments, expected):
    assert get_ymir_process(*arguments) == pytest.approx(expected)


def test_weights_of_the_environment(monkeypatch):
    """B.1.10: read when the object is made. B.3.3: never above 1."""
    assert YmirStageWeight().get_stage_process("postprocess", 1.0) <= 1
    before = YmirStageWeight()
    for name, value in (("PREPROCESS_WEIGHT", "0.25"), ("TASK_WEIGHT", "0.5"), ("POSTPROCESS_WEIGHT", "0.25")):
        monkeypatch.setenv(name, value)
    assert YmirStageWeight().weights == [0.25, 0.5, 0.25]
    assert before.weights == [0.00001, 0.99998, 0.00001]


def run(code):
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(("tasks", "expected"), [
    pytest.param(["training"], "t0\tNOW\t1.00\t2\t0\n", id="B.8-training-1.3"),
    pytest.param(["mining", "infer"], "t0\tNOW\t1.00\t2\t0\n", id="B.8-mining-then-infer-2"),
])
def test_executor(platform, tasks, expected):
    platform.run(*tasks)
    assert Executor(apps={task: run("pass") for task in ("training", "mining", "infer")}).start() == 0
    assert written(platform) == expected


def test_executor_of_a_failing_command(platform):
    """B.8-corrected: the older one left the record at "running"; the exception is the same."""
    executor = Executor({"training": run("raise SystemExit(7)")})
    executor.apps["training"] = run("raise SystemExit(3)")    # B.8: an attribute
    with pytest.raises(subprocess.CalledProcessError):
        executor.start()
    first, _, rest = written(platform).partition("\n")
    assert re.fullmatch(r"t0\tNOW\t0\.00\t4\t160004\tCalledProcessError: .*exit status 3\.?", first)
    assert "Traceback" in rest
