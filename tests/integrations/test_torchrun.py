"""Several processes for one task: real ones, on the CPU."""
from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.contract import platform_rules
from tests.supervised import PATIENCE, ROOT, last_line, measured, record, wait_for
from ymir_exc import errors, monitor, util
from ymir_exc.executor import FAILURES_VARIABLE
from ymir_exc.integrations import torchrun
from ymir_exc.integrations.torchrun import _ending, _first, _launch, _launchers, _ranks
from ymir_exc.supervisor import _processes


@pytest.fixture
def program(platform, supervised, tmp_path, monkeypatch):
    """The words that start program.py, from a path with a space and Chinese letters, for two processes."""
    for name in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    supervised.is_measured = False
    path = tmp_path / "an image 镜像" / "start.py"
    path.parent.mkdir()
    shutil.copy(Path(__file__).with_name("program.py"), path)
    platform.config["processes"] = "2"
    platform.write()
    return [sys.executable, *(["-m", *measured()[:-1]] if measured() else []), str(path)]


def test_ranks_compute_together(platform, supervised, program):
    done = supervised.run(*program, "add", "$$HOME ${local_rank}", "两 个", "")
    assert done.returncode == 0, done.stderr.decode()
    told = [ast.literal_eval((platform.root / f"sum {rank}").read_text(encoding="utf-8")) for rank in (0, 1)]
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert told == [[3, "cpu", str(rank), "2", "127.0.0.1", threads, ["$$HOME ${local_rank}", "两 个", ""]] for rank in (0, 1)]
    platform_rules.accept_monitor(platform.out, final="done")


def test_the_reason_is_that_of_the_rank_that_failed_first(platform, supervised, program):
    done = supervised.run(*program, "fail_in_all_reduce")
    found = record(platform)
    assert (done.returncode, found.state, found.return_code) == (1, 4, 300103)
    assert found.message == "rank 1: RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert "in fail_in_all_reduce" in "\n".join(found.lines)
    assert last_line(done.stderr) == f"ymir-exc: 300103 OOM: {found.message}"
    assert b"ChildFailedError" not in done.stderr
    assert b"of binary" not in done.stdout + done.stderr    # the launcher's own log
    platform_rules.accept_monitor(platform.out, final="error")


def test_a_stop_reaches_all_ranks_at_the_same_step(platform, supervised, program):
    process = supervised.start(*program, "stop_together", env={"YMIR_EXC_GRACE": "60"})
    wait_for((platform.root / "rank 0").exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    rounds = [(platform.root / f"saved {rank}").read_text(encoding="utf-8") for rank in (0, 1)]
    assert rounds[0] == rounds[1]
    assert (record(platform).state, record(platform).message) == (4, "stopped by SIGTERM: rank 0 saved")


def test_a_killed_rank_is_named_and_takes_the_deaf_one_along(platform, supervised, program):
    done = supervised.run(*program, "killed", env={"YMIR_EXC_GRACE": "1"})
    assert done.returncode == 137
    assert record(platform).message == "rank 1: killed by SIGKILL, possibly out of memory"


def test_a_rank_may_end_early_and_another_in_sys_exit(platform, supervised, program):
    done = supervised.run(*program, "exit_late")
    assert done.returncode == 3
    found = record(platform)
    assert (found.return_code, found.message, found.percent) == (160004, "rank 1: SystemExit: 3", 1.0)


def test_what_no_rank_has_told_is_the_supervisor_s_to_find(platform, supervised, program):
    done = supervised.run(*program, "command_fails")
    assert (done.returncode, record(platform).message) == (1, "ValueError: no such layer")


@pytest.mark.parametrize(("how", "number", "status"), [("wait", signal.SIGINT, 130), ("deaf", signal.SIGTERM, 143)])
def test_a_stop_without_a_supervisor_ends_deaf_ranks_too(platform, supervised, program, how, number, status):
    process = subprocess.Popen([*program, how], cwd=platform.root, env=supervised.environment(YMIR_EXC_GRACE="2"), stderr=subprocess.PIPE,
                               start_new_session=True)
    supervised.started.append(process)
    wait_for(lambda: (platform.root / "rank 0").exists() and (platform.root / "rank 1").exists())
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == status
    assert last_line(err) == f"ymir-exc: 160004 CONTAINER_ERROR: stopped by {number.name}"
    assert (record(platform).state, record(platform).message) == (4, f"stopped by {number.name}")


def test_ranks_stop_when_the_one_that_started_them_is_killed(platform, supervised, program):
    process = subprocess.Popen([*program, "stop_together"], cwd=platform.root, env=supervised.environment(), start_new_session=True)
    supervised.started.append(process)
    wait_for(lambda: (platform.root / "rank 0").exists() and (platform.root / "rank 1").exists())
    process.kill()
    process.wait(PATIENCE)
    wait_for(lambda: (platform.root / "saved 0").exists() and (platform.root / "saved 1").exists())


def test_the_program_in_the_readme_needs_no_second_process_without_gpus(platform, supervised, program):
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "torchrun" in block)
    Path(program[-1]).write_text(code, encoding="utf-8")
    done = supervised.run(*program)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.count(b"training is done") == 1


RECORD = """
import json, os, sys, time
if os.environ["RANK"] == "0":
    time.sleep(600)
text = "Traceback (most recent call last):\\n  File 'x', line 1\\nMemoryError: batch too large\\n"
extra = {"py_callstack": text, "timestamp": str(int(time.time()))}
with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as f:
    json.dump({"message": {"message": "MemoryError: batch too large", "extraInfo": extra}}, f)
sys.exit(5)
"""


def test_launch_takes_any_program_and_leaves_nothing_behind(platform, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = dict(os.environ), [signal.getsignal(number) for number in _processes.STOP_SIGNALS], _processes.child_ids()
    with pytest.raises(errors.ProgramError) as caught:
        torchrun.launch([sys.executable, "-c", RECORD], 2)
    assert errors.classify(caught.value) == (300103, "rank 1: MemoryError: batch too large")
    assert errors.exit_status(caught.value) == 5
    assert list(caught.value.lines)[-1] == "MemoryError: batch too large"
    assert (dict(os.environ), [signal.getsignal(number) for number in _processes.STOP_SIGNALS], _processes.child_ids()) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("ymir-exc-", "torchelastic_"))]


def test_a_program_that_does_not_exist(platform):
    with pytest.raises(FileNotFoundError):
        torchrun.launch(["/no such/program"], 2)
    with pytest.raises(errors.ArgumentError):
        torchrun.launch([], 2)
    with pytest.raises(errors.ArgumentError):
        torchrun.launch(["true"], 0)


# ------------------------------------------------------------------------------------------------------------- whether to launch

@pytest.fixture
def launched(monkeypatch):
    calls = []
    monkeypatch.setattr(torchrun, "launch", lambda argv, processes: calls.append((argv, processes)))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")    # which a launcher would set for good
    return calls


def configured(platform, gpu_id):
    platform.config["gpu_id"] = gpu_id
    platform.write()
    return util.get_merged_config()


@pytest.mark.parametrize("gpu_id", ["", None, "0", 1, "GPU-1"])
def test_one_gpu_or_none_needs_no_ranks(platform, launched, gpu_id):
    assert not torchrun.per_gpu(configured(platform, gpu_id))
    assert launched == []


def test_a_process_for_each_gpu(platform, launched, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert torchrun.per_gpu(configured(platform, "1, 3"))
    assert torchrun.per_gpu(configured(platform, ["GPU-1", "GPU-2", "MIG-3"]))
    assert [processes for _, processes in launched] == [2, 3]
    assert all(argv == [sys.executable, *sys.orig_argv[1:]] for argv, _ in launched)


def test_before_python_3_10_the_kernel_tells_the_command(monkeypatch):
    assert _launchers.own_command() == [sys.executable, *sys.orig_argv[1:]]
    expected = _launchers.own_command()
    monkeypatch.delattr(sys, "orig_argv")
    assert _launchers.own_command() == expected


@pytest.mark.parametrize(("rank", "count"), [(None, 2), ("", 2), ("-1", 2), ("0", 0), ("1", 0)])
def test_a_rank_starts_no_ranks(platform, launched, monkeypatch, rank, count):
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert torchrun.processes(2)(configured(platform, "")) is (count > 0)
    assert [processes for _, processes in launched] == [2] * (count > 0)


@pytest.mark.parametrize(("task", "cpu_processes", "candidates", "count"), [
    ("training", "3", 0, 3), ("training", "9", 0, 4), ("training", None, 0, 0), ("training", 1, 0, 0),
    ("infer", 3, 999, 0), ("infer", 3, 1000, 2), ("mining", 3, 50_000, 3), ("infer", 9, 50_000, 4), ("mining", "", 50_000, 0)])
def test_processes_that_share_the_cpu(platform, launched, monkeypatch, task, cpu_processes, candidates, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 5})
    platform.run(task).index("candidate", *["/in/assets/1.jpg"] * candidates)
    platform.config["cpu_processes"] = cpu_processes
    assert torchrun.per_device(configured(platform, "")) is (count > 1)
    assert [processes for _, processes in launched] == [count] * (count > 1)


def test_each_gpu_has_a_process_whatever_there_is_to_do(platform, launched, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    platform.config["cpu_processes"] = 1
    assert torchrun.per_device(configured(platform, "1, 3"))
    assert [processes for _, processes in launched] == [2]


@pytest.mark.parametrize("value", ["many", 0, 1.5])
def test_a_number_of_processes_that_is_none(platform, launched, value):
    platform.config["cpu_processes"] = value
    with pytest.raises(errors.ConfigError, match="cpu_processes is"):
        torchrun.per_device(configured(platform, ""))


def test_a_task_that_only_pretends_needs_no_processes(platform, launched):
    platform.config.update(expected_map=0.5, cpu_processes="nobody asks")
    assert not torchrun.processes(2)(configured(platform, ""))
    assert not torchrun.per_device(configured(platform, ""))
    assert launched == []


TUNED = """
import ctypes, os
from ymir_exc.integrations import torchrun
torchrun.tune_cpu()
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
place = malloc(ctypes.c_size_t(20 << 20))
heap = next(line for line in open("/proc/self/maps") if "[heap]" in line)
start, end = (int(word, 16) for word in heap.split()[0].split("-"))
print(start <= place < end, os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("given", "said"), [({}, "True PASSIVE"), ({"MALLOC_ARENA_MAX": "2"}, "False PASSIVE"),
                                             ({"OMP_WAIT_POLICY": "ACTIVE"}, "True ACTIVE")])
def test_large_pieces_of_memory_are_used_again(given, said):
    """A piece from the heap stays there when it is freed; one that was mapped is given back. What the user has set stays."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "OMP_", "GLIBC_", "LD_PRELOAD"))}
    made = subprocess.run([sys.executable, "-c", TUNED], env={**ours, **given}, stdout=subprocess.PIPE, text=True, check=True)
    assert made.stdout.strip() == said


def test_a_gpu_that_is_not_here_is_missed_before_ranks_start(platform, launched, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(errors.NoGpuError, match="gpu_id names GPU 1, but torch sees 1 here"):
        torchrun.per_gpu(configured(platform, "0,1"))
    assert launched == []


# ---------------------------------------------------------------------------------------------------------------- ending the ranks

class Context:
    """As torch's PContext."""

    def __init__(self, pids):
        self.calls, self.known = [], pids

    def pids(self):
        return self.known

    def close(self, death_sig=None, timeout=30):
        self.calls.append((death_sig, timeout))


@pytest.mark.parametrize(("grace", "seconds"), [("", 6.0), ("5", 3.0), ("1", 0.5), ("no number", 6.0), ("120", 6.0)])
def test_ranks_are_killed_before_the_supervisor_kills_us(monkeypatch, grace, seconds):
    monkeypatch.setenv("YMIR_EXC_GRACE", grace)
    ended = subprocess.Popen(["true"])
    wait_for(lambda: ended.pid not in {process.pid for process in _processes.all_processes().values() if process.alive})
    context = Context({0: os.getpid(), 1: ended.pid})
    with _ending.Closing(Context) as closing:
        context.close()
        context.close(signal.SIGTERM, 30)
        context.close(timeout=0)
    ended.wait()
    assert context.calls == [(None, seconds), (signal.SIGTERM, seconds), (None, 0)]
    assert closing.ended == {1}
    context.close()
    assert context.calls[-1] == (None, 30)


def test_after_a_stop_ranks_have_all_the_time_there_is(monkeypatch):
    from torch.distributed.elastic.multiprocessing.api import SignalException
    monkeypatch.setenv("YMIR_EXC_GRACE", "120")
    context = Context({})
    with _ending.Closing(Context):
        try:
            raise SignalException("stop", signal.SIGTERM)
        except SignalException:
            context.close(signal.SIGTERM)
    assert context.calls == [(signal.SIGTERM, 118.0)]


def test_ranks_that_the_launcher_forgot_are_killed():
    earlier = subprocess.Popen(["sleep", "600"])
    try:
        with pytest.raises(KeyError), _ending.children_ended():
            forgotten = subprocess.Popen(["sleep", "600"], start_new_session=True)
            raise KeyError
        assert forgotten.wait(PATIENCE) == -signal.SIGKILL
        assert earlier.poll() is None
    finally:
        earlier.kill()
        earlier.wait()


def test_an_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert _launch._launch_config(2, str(tmp_path)).signals_to_handle == "SIGTERM,SIGINT,SIGQUIT"
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME"])
def test_what_the_user_has_set_stays(monkeypatch, name):
    monkeypatch.setenv(name, "")
    assert name in _launch._for_ranks(2, "folder")
    monkeypatch.setenv(name, "5")
    assert name not in _launch._for_ranks(2, "folder")


class Failed:
    """As torch's ProcessFailure."""

    def __init__(self, exitcode):
        self.exitcode = exitcode
        self.error_file_data = {"message": "<NONE>"}


def told(code, reason, time):
    return {"code": code, "reason": reason, "lines": [reason], "time": time, "status": 1}


LOST = "RuntimeError: Read error [127.0.0.1]:404: Connection reset by peer."
FIRST = [
    ({0: told(160004, LOST, 10.0), 1: told(300103, "MemoryError", 11.0)}, {0: 1, 1: 1}, {0, 1}, "rank 1: MemoryError"),
    ({0: told(160004, "KeyError: 1", 10.5), 1: told(300103, "MemoryError", 10.6)}, {0: 1, 1: 1}, {0, 1}, "rank 0: KeyError: 1"),
    ({0: told(160004, "KeyError: 1", 30.0), 1: told(300103, "MemoryError", 10.6)}, {0: 1, 1: 1}, {1}, "rank 1: MemoryError"),
    ({0: told(160004, "KeyError: 1", 10.0), 1: told(300103, "MemoryError", 10.6)}, {0: 1, 1: 1}, {1}, "rank 0: KeyError: 1"),
    ({0: told(160004, LOST, 10.0)}, {0: 1, 1: -9}, {0, 1}, "rank 1: killed by SIGKILL, possibly out of memory"),
    ({0: told(160004, LOST, 10.0)}, {0: 1, 1: -11}, {0, 1}, "rank 1: killed by SIGSEGV, segmentation fault in native code"),
    ({0: told(160004, "KeyError: 1", 10.0)}, {0: 1, 1: -6}, {0, 1}, "rank 0: KeyError: 1"),
    ({0: told(160004, "KeyError: 1", 10.0)}, {0: 1, 1: -9}, {0}, "rank 0: KeyError: 1"),
    ({}, {0: 1, 1: -9}, {0}, "rank 0: exited with status 1"),
    ({0: told(160004, LOST, 10.0)}, {0: 1, 1: 7}, {0, 1}, "rank 1: exited with status 7"),
    ({0: told(160004, "Stopped", 20.5)}, {0: 143, 1: 7}, {1}, "rank 1: exited with status 7"),
    ({0: told(160004, LOST, 10.0), 2: told(160004, LOST, 9.0)}, {0: 1, 1: -15, 2: 1}, {0, 2}, f"rank 2: {LOST}"),
    ({}, {0: -15, 1: -9}, set(), "rank 1: killed by SIGKILL, possibly out of memory"),
]


@pytest.mark.parametrize(("records", "exitcodes", "ended", "reason"), FIRST)
def test_which_failure_was_first(tmp_path, records, exitcodes, ended, reason):
    for rank, values in records.items():
        (tmp_path / f"{rank}.json").write_text(json.dumps(values), encoding="utf-8")
    closing = _ending.Closing(Context)
    closing.ended, closing.time = ended, 20.0
    with pytest.raises(errors.ProgramError) as caught:
        _first.raise_first({rank: Failed(code) for rank, code in exitcodes.items()}, str(tmp_path), closing, ["a program"])
    assert str(caught.value) == reason
    says_nothing = "exited with status" in reason and not any(record["time"] < 20.0 for record in records.values())
    assert isinstance(caught.value.__cause__, subprocess.CalledProcessError if says_nothing else type(None))


def test_a_failure_to_save_is_told_after_a_stop():
    stopped = _first.Told(0, 160004, "stopped by SIGTERM: saved", ["S"], 1.0, 143)
    failed = _first.Told(1, 160004, "OSError: No space left on device", ["F"], 2.0, 1)
    lost = _first.Told(2, 160004, LOST, ["L"], 0.5, 1)
    for records, message in (([None, None], "stopped by SIGTERM"), ([lost, stopped, None], "stopped by SIGTERM: saved"),
                             ([stopped, lost, failed], "stopped by SIGTERM: OSError: No space left on device")):
        with pytest.raises(errors.Stopped) as caught:
            _first.raise_stopped(signal.SIGTERM, records)
        assert (str(caught.value), errors.exit_status(caught.value)) == (message, 143)


# ------------------------------------------------------------------------------------------------------------------------ in a rank

@pytest.mark.parametrize(("gpu_id", "rank", "device", "visible"), [
    ("", None, "cpu", None), ("", "3", "cpu", None), ("2", None, "cuda:2", None), ("2,5", "1", "cuda:5", None),
    (["GPU-a", "GPU-b"], "1", "cuda:0", "GPU-b"), ("MIG-c", None, "cuda:0", "MIG-c"),
])
def test_the_device_of_a_rank(platform, monkeypatch, gpu_id, rank, device, visible):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("LOCAL_RANK", rank or "")
    assert torchrun.device(configured(platform, gpu_id)) == torch.device(device)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


@pytest.mark.parametrize(("gpu_id", "rank", "words"), [("0", "1", "rank 1 has no GPU"), ("0,1", "1", "names GPU 1, but torch sees 1")])
def test_a_rank_without_a_device(platform, monkeypatch, gpu_id, rank, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(errors.NoGpuError, match=words):
        torchrun.device(configured(platform, gpu_id))


def test_a_single_process_needs_no_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(monitor, "_stop_signal", [])
    with torchrun.process_group(torch.device("cpu")):
        assert not torch.distributed.is_initialized()
        assert not torchrun.should_stop()
        monitor._stop_signal.append(15)
        assert torchrun.should_stop()


@pytest.mark.parametrize(("device", "capability", "enabled"), [("cuda:1", (8, 0), True), ("cuda:1", (7, 5), False)])
def test_bfloat16_where_a_gpu_computes_in_it(monkeypatch, device, capability, enabled):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert _ranks._has_bfloat16(torch.device(device)) is enabled


def test_bfloat16_where_the_cpu_computes_in_it():
    cpu = torch.device("cpu")
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    expected = "avx512_bf16" in flags or "amx_bf16" in flags
    with torchrun.mixed_precision(cpu):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype is (torch.bfloat16 if expected else torch.float32)


def test_the_variable_is_not_left_set():
    assert FAILURES_VARIABLE not in os.environ


def test_a_budget_of_steps_or_of_time():
    budget = torchrun.Budget(steps=10)
    budget.advance()
    assert (budget.step, budget.used) == (1, 0.1)
    timed = torchrun.Budget(steps=10**9, max_seconds=10)
    timed.reserve = 2
    timed.restart(4)
    timed.advance()
    assert timed.used == pytest.approx(0.5, abs=0.1)
    again = torchrun.Budget(steps=10**9, max_seconds=10)
    again.load_state_dict(timed.state_dict())
    assert (again.step, again.used) == (1, timed.used)
    assert again.seconds >= 4
    assert again.reserve == 2
    again.restart(0)    # a clock that is behind takes nothing back
    again.advance()
    assert again.used == timed.used
    again.restart(100)
    again.advance()
    assert again.used == 1
