"""monitor.txt as the platform polls it."""
from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.contract import platform_rules
from ymir_exc import env, monitor, util
from ymir_exc.code import ExecutorReturnCode, ExecutorState
from ymir_exc.errors import ArgumentError, Failure, StorageError


@pytest.fixture(autouse=True)
def fresh_writer():
    """Each test is a new process as far as the throttle is concerned."""
    monitor._writer.reset()
    yield
    monitor._writer.flush()


def columns(platform):
    return platform.monitor().split("\n")[0].split("\t")


def wait_for(what, seconds=20.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_one_line_of_five_columns(platform):
    before = time.time()
    monitor.write_monitor_logger(percent=0.256)
    task_id, timestamp, percent, state, code = platform.monitor().rstrip("\n").split("\t")
    assert (task_id, percent, state, code) == ("t0", "0.26", "2", "0")
    assert before - 1 < float(timestamp) < time.time() + 1
    platform_rules.accept_monitor(platform.out, final="running")


def test_the_file_can_be_rewritten_by_another_uid(platform):
    old = os.umask(0o077)
    try:
        monitor.write_monitor_logger(0.1)
    finally:
        os.umask(old)
    assert stat.S_IMODE((platform.out / "monitor.txt").stat().st_mode) == 0o666


@pytest.mark.parametrize(("given", "written"), [(1.5, "1.00"), (-0.004, "0.00"), (np.float32(0.5), "0.50"),
                                              (1, "1.00")])
def test_percent_is_clamped(platform, given, written):
    monitor.write_monitor_logger(given)
    assert columns(platform)[2] == written


def test_progress_never_goes_back(platform):
    for value in (0.5, 0.3, 0.7, 0.0):
        monitor.write_monitor_logger(value)
    monitor._writer.flush()
    assert columns(platform)[2] == "0.70"
    monitor._writer.next_write = 0.0
    monitor.write_monitor_logger(0.1)
    assert columns(platform)[2] == "0.70"


def test_a_full_disk_ends_no_training(platform, monkeypatch, caplog):
    (platform.out / "monitor.txt").mkdir()
    for n in range(3):
        monitor._writer.next_write = 0.0
        monitor.write_monitor_logger(n / 10)
    assert caplog.text.count("progress was not written") == 1
    with pytest.raises(StorageError):
        monitor.write_monitor_logger(0.5, state=ExecutorState.ES_ERROR)
    (platform.out / "monitor.txt").rmdir()


def test_the_last_value_lands_when_the_disk_has_room_again(platform):
    monitor.write_monitor_logger(0.1)
    (platform.out / "monitor.txt").unlink()
    (platform.out / "monitor.txt").mkdir()
    for value, is_at_once in ((0.2, False), (0.3, True), (0.25, False)):
        monitor._writer.next_write = 0.0 if is_at_once else time.monotonic() + 0.5
        monitor.write_monitor_logger(value)
        assert monitor._writer.pending is not None
        monitor._writer.next_warning = 0.0
        wait_for(lambda: monitor._writer.next_warning > 0)    # the thread tried, in vain
    time.sleep(0.6)    # a thread that had been woken for an earlier test has gone to sleep by then
    (platform.out / "monitor.txt").rmdir()
    wait_for(lambda: (platform.out / "monitor.txt").exists())
    assert columns(platform)[2] == "0.30"


def test_the_last_value_of_a_worker_lands(platform):
    program = ("import multiprocessing\nfrom ymir_exc import monitor\n"
               "def work():\n    for n in range(51): monitor.write_monitor_logger(n / 100)\n"
               "process = multiprocessing.get_context('fork').Process(target=work)\nprocess.start()\nprocess.join()")
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], env=environ, check=True)
    assert columns(platform)[2] == "0.50"


def test_nan_is_refused(platform):
    monitor.write_monitor_logger(0.5)
    with pytest.raises(ValueError, match="NaN"):
        monitor.write_monitor_logger(float("nan"))
    assert columns(platform)[2] == "0.50"


@pytest.mark.parametrize("state", [5, -1, "running", None])
def test_a_state_that_the_platform_would_refuse_is_not_written(platform, state):
    monitor.write_monitor_logger(0.5)
    with pytest.raises(ArgumentError, match="nothing was written"):
        monitor.write_monitor_logger(0.6, state=state)
    with pytest.raises(ArgumentError, match="return_code"):
        monitor.write_monitor_logger(0.6, state=ExecutorState.ES_ERROR, return_code="out of memory")
    assert columns(platform)[2:4] == ["0.50", "2"]
    monitor._writer.reset()
    monitor.write_monitor_logger(0.6, state=3)
    assert columns(platform)[2:4] == ["0.60", "3"]


def test_nan_is_refused_as_a_part_of_a_stage_too(platform):
    cfg = util.get_merged_config()
    util.write_ymir_monitor_process(cfg, "training", 0.5, "task")
    for value in (float("nan"), np.float32("nan")):
        with pytest.raises(ArgumentError, match="NaN"):
            util.write_ymir_monitor_process(cfg, "training", value, "task")
    assert columns(platform)[2] == "0.50"


def test_an_error_is_written_at_once_with_its_code_and_message(platform):
    monitor.write_monitor_logger(0.5)
    monitor.write_monitor_logger(0.6, state=ExecutorState.ES_ERROR, return_code=ExecutorReturnCode.RC_EXEC_OOM, message="no\tmemory\n")
    assert columns(platform)[2:] == ["0.60", "4", "300103", "no memory"]
    platform_rules.accept_monitor(platform.out, final="error")


def test_many_calls_are_few_writes_and_the_last_value_lands(platform):
    for n in range(5000):
        monitor.write_monitor_logger(n / 5000)
    wait_for(lambda: columns(platform)[2] == "1.00")


def test_the_last_value_is_on_disk_when_the_process_is_killed(platform):
    program = ("import time\nfrom ymir_exc import monitor\n"
               "for n in range(51): monitor.write_monitor_logger(n / 100)\n"
               "print('said', flush=True)\ntime.sleep(60)")
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environ, stdout=subprocess.PIPE)
    process.stdout.readline()
    wait_for(lambda: columns(platform)[2] == "0.50")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert columns(platform)[2] == "0.50"


def test_the_last_value_is_on_disk_when_the_process_ends(platform):
    program = "from ymir_exc import monitor\nfor n in range(51): monitor.write_monitor_logger(n / 100)\n"
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file)}
    subprocess.run([sys.executable, "-c", program], env=environ, check=True)
    assert columns(platform)[2] == "0.50"


FORKS = """
import os, signal, sys, threading, time
from ymir_exc import monitor
for n in range(9):
    monitor.write_monitor_logger(n / 100)    # the thread is at work
held, over = threading.Event(), threading.Event()
def hold():
    with monitor._writer.lock:
        held.set()
        over.wait()
threading.Thread(target=hold).start()
held.wait()
pid = os.fork()
if not pid:
    signal.alarm(30)
    for n in range(51):
        monitor.write_monitor_logger(n / 100)
    while monitor.read_record(sys.argv[1]).percent != 0.5:    # of a thread of the child's own
        time.sleep(0.01)
    os._exit(0)
status = os.waitpid(pid, 0)[1]
over.set()
assert status == 0, status
"""


def test_a_fork_in_the_midst_does_not_hang(platform):
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS, str(platform.out / "monitor.txt")], env=environ, check=True, timeout=120)


def test_timestamps_strictly_increase(platform, monkeypatch):
    path = platform.out / "monitor.txt"
    (path).write_text(f"t0\t{time.time() + 50}\t0.00\t1\t0\n")
    monkeypatch.setattr(monitor.time, "time", lambda: 1000.0)    # a clock that stands still, and was set back
    texts = []
    for n in range(3):
        monitor._writer.reset()
        monitor.write_monitor_logger(n / 10)
        texts.append(path.read_text())
    platform_rules.accept_monitor_updates(texts)
    stamps = [float(text.split("\t")[1]) for text in texts]
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize("now", [1_763_700_000.123456, 1_763_700_000.1234565, 4_000_000_000.999999, 0.5])
def test_hundreds_of_timestamps_of_one_clock_reading_differ_in_the_file(tmp_path, now):
    path, stamps = tmp_path / "monitor.txt", []
    for n in range(300):
        written = monitor.write_record(path, monitor.Record("t0", now - n // 100, 0.5))
        stamps.append(path.read_text().split("\t")[1])
        assert float(stamps[-1]) == written.timestamp
    micros = [int(stamp.replace(".", "")) for stamp in stamps]
    assert micros == list(range(micros[0], micros[0] + 300))


@pytest.mark.parametrize("is_later", [False, True], ids=["soon", "later"])
def test_nothing_comes_after_a_failure(platform, is_later):
    path = platform.out / "monitor.txt"
    for n, fail in enumerate([
        lambda: monitor.write_failure(path, "t0", Failure(ExecutorReturnCode.RC_EXEC_OOM, "no memory"), ["one", "two"]),
        lambda: monitor.write_monitor_logger(0.4, ExecutorState.ES_ERROR, ExecutorReturnCode.RC_EXEC_OOM, "no memory"),
    ]):
        monitor._writer.reset()
        monitor.write_monitor_logger(0.3)
        monitor.write_monitor_logger(0.35)    # waits for its turn
        assert monitor._writer.pending is not None
        fail()
        assert monitor._writer.pending is None
        before = path.read_text()
        if is_later:
            monitor._writer.next_write = 0.0
        monitor.write_monitor_logger(0.5)
        monitor._writer.flush()
        assert path.read_text() == before, n
    monitor.write_monitor_logger(0.5, ExecutorState.ES_ERROR, ExecutorReturnCode.RC_EXEC_NAN_ERROR, "loss is NaN")    # may follow
    assert columns(platform)[2:] == ["0.50", "4", "300201", "loss is NaN"]


@pytest.mark.parametrize("is_pending", [True, False])
def test_what_another_process_said_of_a_failure_stays(platform, is_pending):
    monitor.write_monitor_logger(0.1)
    if is_pending:
        monitor._writer.next_write = time.monotonic() + 60.0
        monitor.write_monitor_logger(0.2)
        assert monitor._writer.pending is not None
    (platform.out / "monitor.txt").write_text("t0\t99.0\t0.10\t4\t300103\tno memory\n")
    monitor._writer.flush()
    for percent in (0.3, 0.4):
        monitor._writer.next_write = 0.0
        monitor.write_monitor_logger(percent)
        assert platform.monitor() == "t0\t99.0\t0.10\t4\t300103\tno memory\n"


@pytest.mark.parametrize("part", ["task_id", "monitor_file"])
def test_a_new_task_in_the_same_process_starts_anew(platform, part):
    monitor.write_monitor_logger(0.7, ExecutorState.ES_ERROR, ExecutorReturnCode.RC_EXEC_OOM, "no memory")
    if part == "task_id":
        platform.env["task_id"] = "t1"
    else:
        platform.env["output"]["monitor_file"] = str(platform.out / "monitor2.txt")
    platform.write()
    monitor.write_monitor_logger(0.2)
    record = monitor.read_record(env.get_current_env().output.monitor_file)
    assert (record.percent, record.state) == (0.2, 2)


def test_nothing_comes_after_a_failure_that_was_the_first_word(platform):
    monitor.write_failure(platform.out / "monitor.txt", "t0", Failure(ExecutorReturnCode.RC_EXEC_OOM, "no memory"))
    before = platform.monitor()
    monitor.write_monitor_logger(0.5)
    assert platform.monitor() == before


def test_a_new_process_writes_over_an_earlier_run_s_failure(platform):
    (platform.out / "monitor.txt").write_text("t0\t99.0\t0.10\t4\t300103\tno memory\n")
    monitor.write_monitor_logger(0.2)
    assert columns(platform)[2:] == ["0.20", "2", "0"]


def test_failure_keeps_the_percent_and_carries_the_traceback(platform):
    monitor.write_monitor_logger(0.42)
    lines = [f"line {n}" for n in range(300)]
    monitor.write_failure(platform.out / "monitor.txt", "t0", Failure(ExecutorReturnCode.RC_EXEC_NAN_ERROR, "loss is\nNaN"), lines)
    record = monitor.read_record(platform.out / "monitor.txt")
    assert (record.percent, record.state, record.return_code, record.message) == (0.42, 4, 300201, "loss is NaN")
    assert record.lines == tuple(lines[:99])
    platform_rules.accept_monitor(platform.out, final="error")
    monitor.write_failure(platform.out / "monitor.txt", "t0", Failure(ExecutorReturnCode.RC_EXEC_OOM, "no memory"), percent=0.5)
    assert monitor.read_record(platform.out / "monitor.txt")[2:5] == (0.5, 4, 300103)


@pytest.mark.parametrize("text", ["", "\n", "t0\t1.0\n", "t0\tx\t0.1\t2\n", "t0\t1\t0.1\ttwo\n", "t0\t1\tnan\t2\n", "t0\tinf\t0.1\t2\n"])
def test_what_is_no_record(platform, text):
    (platform.out / "monitor.txt").write_text(text)
    assert monitor.read_record(platform.out / "monitor.txt") is None
    assert monitor.read_record(platform.out / "none") is None


def test_other_ranks_are_silent(platform, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monitor.write_monitor_logger(0.5)
    monitor.write_tensorboard_text("text")
    assert not (platform.out / "monitor.txt").exists()
    assert os.listdir(platform.out / "tensorboard") == []


@pytest.mark.parametrize(("task", "order", "percent"), [
    ("mining", "tmi", 0.2), ("infer", "tmi", 0.7), ("mining", "tim", 0.7), ("infer", "tim", 0.2), (monitor.YmirTask.MINING, "tmi", 0.2),
    (3, "tmi", 0.7), ("training", "tmi", 0.7),
])
def test_two_tasks_share_the_way(platform, task, order, percent):
    platform.run("mining", "infer")
    monitor.write_monitor_logger_for_multiple_tasks(util.get_merged_config(), task, 0.4, order)
    assert columns(platform)[2] == f"{percent:.2f}"


def test_one_task_has_the_way_for_itself_and_bad_words_are_refused(platform):
    current = env.get_current_env()
    assert monitor.task_percent(current, "training", 0.4) == 0.4
    for arguments in (("labelling", 0.4), ("mining", 1.5), ("mining", 0.4, "mti")):
        with pytest.raises(AssertionError):
            monitor.task_percent(current, *arguments)


def test_track(platform):
    platform.run("mining", "infer")
    steps = []
    assert list(monitor.track(range(4), "infer", on_step=steps.append)) == [0, 1, 2, 3]
    assert steps == [0.25, 0.5, 0.75, 1.0]
    wait_for(lambda: columns(platform)[2] == "1.00")
    monitor._writer.reset()
    assert list(monitor.track(iter("ab"), "mining", total=4, start=0.5, on_step=steps.append)) == ["a", "b"]
    assert steps[-2:] == [0.625, 0.75]
    wait_for(lambda: columns(platform)[2] == "0.50")


def test_track_of_more_items_than_it_was_told(platform):
    steps = []
    assert list(monitor.track("abc", "training", total=2, end=0.5, on_step=steps.append)) == ["a", "b", "c"]
    assert steps == [0.25, 0.5, 0.5]


def test_track_without_a_length_says_the_end(platform):
    assert list(monitor.track(iter("ab"), "training", start=0.5, end=0.75)) == ["a", "b"]
    assert columns(platform)[2] == "0.75"
    monitor._writer.reset()
    assert list(monitor.track([], "training")) == []
    assert columns(platform)[2] == "1.00"


def test_should_stop_calls_who_listened_before(monkeypatch):
    monkeypatch.setattr(monitor, "_stop_signal", [])
    monkeypatch.setattr(monitor, "_stop_handler_set", False)
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(monitor.should_stop()))    # only the main thread can listen
        thread.start()
        thread.join()
        os.kill(os.getpid(), signal.SIGTERM)
        assert (answers, heard, monitor.should_stop()) == ([False], [signal.SIGTERM], False)
        os.kill(os.getpid(), signal.SIGTERM)
        assert monitor.should_stop() and monitor.should_stop() and heard == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_should_stop(platform):
    program = ("import os, signal\nfrom ymir_exc import monitor\n"
               "assert not monitor.should_stop()\nos.kill(os.getpid(), signal.SIGTERM)\nassert monitor.should_stop()\nprint('saved')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "saved\n"


def test_tensorboard_texts(platform):
    (platform.out / "tensorboard" / "executor.log").symlink_to("/nowhere")
    monitor.write_tensorboard_text("loss is 0.1", tag="notes")
    (platform.out / "ymir-executor-out.log").write_text("the log's end")
    monitor.write_final_executor_log("log")
    _records, tags = platform_rules.accept_tensorboard(platform.out)
    assert {"notes/text_summary", "log/text_summary"} <= set(tags)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(platform.out / "tensorboard"))
    events.Reload()
    text = events.Tensors("notes/text_summary")[0].tensor_proto.string_val[0]
    assert text == b"```\nloss is 0.1\n```"
    assert events.SummaryMetadata("notes/text_summary").plugin_data.plugin_name == "text"


def test_a_tensorboard_folder_that_cannot_be_written_is_named(platform):
    platform.env["output"]["tensorboard_dir"] = str(platform.env_file)
    platform.write()
    with pytest.raises(StorageError, match=r"env\.yaml"):
        monitor.write_tensorboard_text("text")


def test_a_full_disk_is_told_of_a_tensorboard_text(platform, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = str(platform.out / "tensorboard")
    monkeypatch.setitem(monitor._tensorboard, folder, (os.getpid(), full))
    with pytest.raises(StorageError, match="tensorboard: No space left"):
        monitor.write_tensorboard_text("text")


def test_a_missing_log_is_no_error(platform):
    monitor.write_final_executor_log()
    assert os.listdir(platform.out / "tensorboard") == []
