"""`ymir-exc run`, tested from outside: a real process that runs real programs, which are killed, hang and leave others behind."""
from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.supervised import PATIENCE, ROOT, is_running, last_line, record, wait_for
from ymir_exc.monitor import parse_record
from ymir_exc.platforms.base import SUPERVISED_VARIABLE
from ymir_exc.supervisor._run import GRACE_SECONDS, KILL_SECONDS

IS_ROOT = os.geteuid() == 0


# ------------------------------------------------------------------------------------------------- how a program ends


def test_success_is_the_final_percent(supervised, platform):
    done = supervised.run("sh", "-c", "cat out/monitor.txt; echo to stderr >&2")
    first = parse_record(done.stdout.decode())
    assert (done.returncode, done.stderr) == (0, b"to stderr\n")
    assert first[:1] + first[2:] == ("t0", 0.0, 2, 0, "", ())
    final = record(platform)
    assert final[:1] + final[2:] == ("t0", 1.0, 2, 0, "", ()) and final.timestamp > first.timestamp


def test_the_status_and_the_last_words_of_a_failure(supervised, platform):
    done = supervised.run("sh", "-c", "echo fine; echo the disk is on fire >&2; exit 7")
    assert done.returncode == 7
    assert done.stderr == b"the disk is on fire\nymir-exc: 160004 CONTAINER_ERROR: the disk is on fire\n"
    assert record(platform)[2:] == (0.0, 4, 160004, "the disk is on fire", ("the disk is on fire",))


def test_progress_stays_at_a_failure(supervised, platform):
    supervised.python("from ymir_exc import monitor; monitor.write_monitor_logger(0.42); raise SystemExit(1)")
    assert record(platform).percent == 0.42


def test_an_error_of_ours_keeps_its_code(supervised, platform):
    done = supervised.python("from ymir_exc.errors import NoGpuError\nraise NoGpuError('gpu_id is 0, but there is none')")
    assert done.returncode == 1
    assert last_line(done.stderr) == "ymir-exc: 300102 NO_GPU: gpu_id is 0, but there is none"
    found = record(platform)
    assert (found.return_code, found.message) == (300102, "gpu_id is 0, but there is none")
    assert found.lines[0] == "Traceback (most recent call last):"
    assert found.lines[-1] == "ymir_exc.errors.NoGpuError: gpu_id is 0, but there is none"


def test_the_reason_is_the_inner_error_and_not_its_wrapper(supervised, platform):
    inner = "raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')"
    done = supervised.python("import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)", inner)
    assert b"CalledProcessError" in done.stderr
    assert last_line(done.stderr) == "ymir-exc: 300103 OOM: RuntimeError: CUDA out of memory. Tried to allocate 2 GiB"
    assert record(platform).return_code == 300103
    assert any("Tried to allocate" in line for line in record(platform).lines)


def test_a_traceback_on_stdout_counts_more_than_chatter_on_stderr(supervised):
    done = supervised.run("sh", "-c", "echo 'Traceback (most recent call last):\n  File\nKeyError: 3'; echo a warning >&2; exit 1")
    assert last_line(done.stderr) == "ymir-exc: 160004 CONTAINER_ERROR: KeyError: 3"


def test_nothing_printed(supervised, platform):
    done = supervised.run("sh", "-c", "exit 5")
    assert done.stderr == b"ymir-exc: 160004 CONTAINER_ERROR: exited with status 5 and printed nothing\n"
    assert record(platform).message == "exited with status 5 and printed nothing"


@pytest.mark.parametrize("name,words", [
    ("KILL", "killed by SIGKILL, possibly out of memory"), ("SEGV", "killed by SIGSEGV, segmentation fault"),
    ("BUS", "shm_size"), ("FPE", "killed by SIGFPE"), ("TERM", "killed by SIGTERM")])
def test_killed_by_a_signal(supervised, platform, name, words):
    done = supervised.run("sh", "-c", f"echo working; kill -{name} $$")
    assert done.returncode == 128 + getattr(signal, f"SIG{name}")
    assert words in last_line(done.stderr)
    found = record(platform)
    assert found.state == 4 and found.return_code == 160004 and words in found.message and found.lines == ("working",)


def test_a_real_segmentation_fault(local):
    done = local.python("import ctypes; ctypes.string_at(0)")
    assert done.returncode == 128 + signal.SIGSEGV
    assert "SIGSEGV" in last_line(done.stderr)


def test_killed_child_of_a_shell(local):
    done = local.run("bash", "-c", "sh -c 'kill -9 $$'; exit $?")
    assert done.returncode == 137
    assert "something in it was killed by SIGKILL, possibly out of memory" in last_line(done.stderr)


# ------------------------------------------------------------------------------------------------- what the program recorded itself


def writes(percent, state, code, message, status, lines=()):
    """A program that leaves its own final word, as an executor does."""
    return ("from ymir_exc import env, monitor; from ymir_exc.monitor import Record; import sys, time\n"
            f"r = Record('t0', time.time(), {percent}, {state}, {code}, {message!r}, {tuple(lines)!r})\n"
            "monitor.write_record(env.current_env().output.monitor_file, r)\n"
            f"print('chatter', file=sys.stderr)\nsys.exit({status})")


def test_the_programs_own_record_stays(supervised, platform):
    done = supervised.python("import sys; exec(sys.argv[1])", writes(0.3, 4, 300201, "loss is nan", 3, ["line 1", "line 2"]))
    assert done.returncode == 3 and last_line(done.stderr) == "ymir-exc: 300201 NAN_ERROR: loss is nan"
    assert record(platform)[2:] == (0.3, 4, 300201, "loss is nan", ("line 1", "line 2"))


def test_the_programs_own_record_is_completed(supervised, platform):
    done = supervised.python(writes(0.3, 4, 300002, "", 3))
    assert last_line(done.stderr) == "ymir-exc: 300002 DATASET_ERROR: chatter"
    assert record(platform)[2:] == (0.3, 4, 300002, "chatter", ("chatter",))


def test_state_4_with_status_0_stays_and_is_warned_of(supervised, platform):
    done = supervised.python(writes(0.3, 4, 300002, "no images", 0))
    assert done.returncode == 0 and b"left an error in the monitor file" in done.stderr
    assert record(platform).state == 4 and record(platform).message == "no images"


def test_state_4_of_an_earlier_run_does_not_count(supervised, platform):
    (platform.out / "monitor.txt").write_text("t0\t1.0\t0.30\t4\t300002\told\n", encoding="utf-8")
    assert supervised.run("true").returncode == 0
    assert record(platform).state == 2 and record(platform).percent == 1.0


def test_a_broken_monitor_file_is_mended(supervised, platform):
    assert supervised.run("sh", "-c", "echo rubbish > out/monitor.txt").returncode == 0
    assert record(platform).percent == 1.0


def test_an_empty_task_id_breaks_nothing(supervised, platform):
    """The platform strips the line before it splits it: an empty first column would shift the others."""
    platform.env["task_id"] = ""
    platform.write()
    assert supervised.run("true").returncode == 0
    assert (record(platform).percent, record(platform).state) == (1.0, 2)


def test_leftovers_of_killed_writers_are_swept(supervised, platform):
    stage = platform.out / "models" / "epoch_1"
    stage.mkdir()
    left = [platform.out / ".result.tsv.ymir-tmp-1-a-b", stage / ".best.pt.ymir-tmp-1-a-b"]
    for path in left:
        path.write_bytes(b"half")
    (stage / "best.pt").write_bytes(b"whole")
    assert supervised.run("true").returncode == 0
    assert not any(path.exists() for path in left) and (stage / "best.pt").exists()


# ------------------------------------------------------------------------------------------------- programs that cannot be started


def test_program_not_found(supervised, platform):
    done = supervised.run("no-such-program-任务", "x")
    assert done.returncode == 127
    assert last_line(done.stderr) == "ymir-exc: 160004 CONTAINER_ERROR: cannot start no-such-program-任务: no such program in this image"
    assert record(platform).state == 4 and "no such program" in record(platform).message


@pytest.mark.parametrize("content,mode,words", [
    ("#!/bin/sh\n", 0o644, "Permission denied"), ("#!/no/such/sh\n", 0o755, "interpreter"), ("echo hi\n", 0o755, "Exec format error")])
def test_program_not_executable(supervised, platform, content, mode, words):
    path = platform.root / "start it.sh"
    path.write_text(content, encoding="utf-8")
    path.chmod(mode)
    done = supervised.run(str(path))
    assert done.returncode == 126 and words in last_line(done.stderr)
    assert record(platform).state == 4 and words in record(platform).message


# ------------------------------------------------------------------------------------------------- wrong files of the platform


def test_config_missing(supervised, platform):
    (platform.input / "config.yaml").unlink()
    done = supervised.run("touch", "started")
    assert done.returncode == 4 and not (platform.root / "started").exists()
    assert last_line(done.stderr).startswith("ymir-exc: 300001 CONFIG_ERROR: ") and "config.yaml does not exist" in last_line(done.stderr)
    found = record(platform)
    assert (found.task_id, found.state, found.return_code) == ("t0", 4, 300001) and "config.yaml" in found.message


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "a: [", "a: 1\na: 2\n", b"\xff\xfe"])
def test_config_no_mapping(supervised, platform, content):
    (platform.input / "config.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    done = supervised.run("true")
    assert done.returncode == 4 and "300001" in last_line(done.stderr)
    assert record(platform).return_code == 300001


def test_env_with_a_wrong_type_is_told_where_it_says(supervised, platform):
    platform.env["run_training"] = "perhaps"
    platform.write()
    done = supervised.run("true")
    assert done.returncode == 4 and "run_training" in last_line(done.stderr)
    assert record(platform)[0] == "t0" and record(platform).return_code == 300001


def test_env_that_is_no_yaml(supervised, platform):
    platform.env_file.write_text("task_id: [", encoding="utf-8")
    done = supervised.run("true")
    assert done.returncode == 4 and "300001 CONFIG_ERROR" in last_line(done.stderr)


def test_env_missing(supervised, platform):
    platform.env_file.unlink()
    done = supervised.run("true")
    assert done.returncode == 4 and "env.yaml does not exist" in last_line(done.stderr)


def test_unknown_platform_in_the_environment(local):
    done = local.run("true", env={"YMIR_EXC_PLATFORM": "yimr"})
    assert done.returncode == 4 and "unknown platform 'yimr'" in last_line(done.stderr)


# ------------------------------------------------------------------------------------------------- stopping


# They wait for signals with `sigwait`: a handler may run late when the signal comes just before a call that sleeps.
SAVER = """
import signal
stops = [signal.SIGTERM, signal.SIGINT]
signal.pthread_sigmask(signal.SIG_BLOCK, stops)
print("ready", flush=True)
signal.sigwait(stops)
print("saved", flush=True)
"""
STUBBORN = """
import signal
stops = [signal.SIGTERM, signal.SIGINT]
signal.pthread_sigmask(signal.SIG_BLOCK, stops)
print("ready", flush=True)
while signal.sigwait(stops): print("no", flush=True)
"""


@pytest.mark.parametrize("name,status", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_stop_of_a_program_that_saves_and_exits_0(supervised, platform, name, status):
    process = supervised.start_python(SAVER)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (status, b"saved\n")
    assert last_line(err) == f"ymir-exc: 160004 CONTAINER_ERROR: stopped by {name}: saved"
    found = record(platform)
    assert (found.state, found.return_code, found.message) == (4, 160004, f"stopped by {name}: saved")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT"])
def test_a_stop_of_a_program_that_does_not_care(supervised, platform, name):
    process = supervised.start("sh", "-c", "echo ready; exec sleep 1000")
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(getattr(signal, name))
    assert process.wait(PATIENCE) == 128 + getattr(signal, name)
    assert record(platform).message == f"stopped by {name}: ready"


def test_a_program_that_ignores_the_stop_is_killed_after_the_grace(supervised, platform):
    process = supervised.start_python(STUBBORN, env={"YMIR_EXC_GRACE": "0.7"})
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (143, b"no\n")
    assert "stopped by SIGTERM; it did not end within 0.7 s and was killed" in record(platform).message


def test_the_second_request_kills(supervised, platform):
    process = supervised.start_python(STUBBORN, env={"YMIR_EXC_GRACE": "100000"})
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"no\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert record(platform).message.startswith("stopped by SIGINT")


def test_another_signal_is_passed_on_and_does_not_kill(supervised):
    process = supervised.start_python(STUBBORN, env={"YMIR_EXC_GRACE": "100000"})
    assert process.stdout.readline() == b"ready\n"
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
        assert process.stdout.readline() == b"no\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 130


def test_a_grandchild_may_go_on_saving_after_a_stop(supervised, platform):
    trainer = """
import signal, sys, time
seen = []
signal.signal(signal.SIGTERM, lambda n, f: seen.append(n))
print("ready", flush=True)
while not seen: time.sleep(0.01)
end = time.monotonic() + 3
while time.monotonic() < end: time.sleep(0.05)
open("saved", "w").write(str(len(seen)))
"""
    launcher = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(1000)"
    process = supervised.start_python(launcher, trainer, env={"YMIR_EXC_GRACE": "60"})
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143
    assert (platform.root / "saved").read_text() == "1"    # once, and it was let finish


def test_a_stop_before_the_program_starts(supervised, platform):
    content = platform.env_file.read_bytes()
    platform.env_file.unlink()
    os.mkfifo(platform.env_file)
    process = supervised.start("touch", "started")
    with open(platform.env_file, "wb") as f:    # opens once env.yaml is being read
        process.send_signal(signal.SIGTERM)
        f.write(content)
    assert process.wait(PATIENCE) == 143
    assert not (platform.root / "started").exists()
    assert record(platform).message == "stopped by SIGTERM"


def test_what_went_wrong_before_the_stop_is_the_reason(supervised, platform):
    code = writes(0.3, 4, 300201, "loss is nan", 1).replace("sys.exit(1)", "print('ready'); sys.stdout.flush(); time.sleep(1000)")
    process = supervised.start_python(code)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143
    assert record(platform).return_code == 300201 and record(platform).message == "loss is nan"


def test_what_the_program_records_while_it_stops_is_told(supervised, platform):
    code = ("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\nprint('ready', flush=True)\n"
            "signal.sigwait([signal.SIGTERM])\n" + writes(0.3, 4, 160004, "epoch 7 is saved", 0))
    process = supervised.start_python(code)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143
    assert record(platform)[2:] == (0.3, 4, 160004, "stopped by SIGTERM: epoch 7 is saved", ("epoch 7 is saved",))


def children_of(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_stop_after_success_does_not_undo_it(supervised, platform):
    """The program has ended with 0; a grandchild keeps us here while the signal comes."""
    code = "trap '' TERM; echo $$ > pid; echo ready; exec sleep 1000"
    process = supervised.start("sh", "-c", 'sh -c "$0" & while ! [ -s pid ]; do :; done; exit 0', code)
    assert process.stdout.readline() == b"ready\n"
    pid = int((platform.root / "pid").read_text())
    wait_for(lambda: pid in children_of(process.pid))    # adopted: the program itself is gone
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert not is_running(pid) and record(platform).percent == 1.0


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2"])
def test_user_signals_are_passed_on(local, name):
    code = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.{name}]); print('ready', flush=True); " \
           f"print(signal.sigwait([signal.{name}]).name)"
    process = local.start_python(code)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(getattr(signal, name))
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, f"{name}\n".encode())


def test_without_a_terminal_a_new_window_size_is_nobodys_business(local):
    code = """
import signal
heard = []
signal.signal(signal.SIGWINCH, lambda number, frame: heard.append(number))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
print("ready", flush=True)
signal.sigwait([signal.SIGUSR2])
print(heard)
"""
    process = local.start_python(code)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGWINCH)
    process.send_signal(signal.SIGUSR2)
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, b"[]\n")


def test_a_stop_does_not_wait_for_a_reader_that_takes_nothing(supervised, platform):
    process = supervised.start("sh", "-c", "echo $$ > pid; head -c 1000000 /dev/zero", env={"YMIR_EXC_GRACE": "0.5"})
    pid_in(platform.root / "pid")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143    # nobody has read a byte
    assert record(platform).message.startswith("stopped by SIGTERM")


def test_an_ignored_hangup_stays_ignored(local):
    code = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
print("ready", signal.getsignal(signal.SIGHUP).name, flush=True)
signal.sigwait([signal.SIGUSR2])
"""
    process = local.start_python(code, before=["nohup"])
    assert process.stdout.readline() == b"ready SIG_IGN\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGUSR2)    # comes after the other
    assert process.wait(PATIENCE) == 0


def test_a_bad_grace_is_warned_of(local):
    done = local.run("true", env={"YMIR_EXC_GRACE": "soon"})
    assert (done.returncode, done.stderr) == (0, b"ymir-exc: warning: YMIR_EXC_GRACE=soon is not a number of seconds; 8 it is\n")


# ------------------------------------------------------------------------------------------------- what a program leaves behind


def pid_in(path: Path) -> int:
    return int(wait_for(lambda: path.exists() and path.read_text().strip()))


LEAVERS = {
    "in the group": "sh -c 'echo $$ > pid; exec sleep 1000' &",
    "deaf": "sh -c 'trap \"\" TERM; echo $$ > pid; exec sleep 1000' &",
    "in a session of its own": "setsid sh -c 'echo $$ > pid; exec sleep 1000' &",
    "a daemon": "(setsid sh -c 'sh -c \"echo \\$\\$ > pid; exec sleep 1000\" & exit 0' &);",
    "deaf, with all files closed": "(setsid sh -c 'trap \"\" TERM; echo $$ > pid; exec sleep 1000' <&- >&- 2>&- &);",
}


@pytest.mark.parametrize("kind", LEAVERS)
def test_grandchildren_are_ended_and_hold_nothing_up(supervised, platform, kind):
    done = supervised.run("sh", "-c", f"{LEAVERS[kind]} while ! [ -s pid ]; do :; done; echo done; exit 3")
    assert (done.returncode, done.stdout) == (3, b"done\n")
    assert not is_running(pid_in(platform.root / "pid"))


def test_without_ctypes_the_programs_own_session_is_still_ended(supervised, platform):
    """Then orphans cannot be adopted: some Pythons were built without it."""
    stub = platform.root / "stub"
    stub.mkdir()
    (stub / "ctypes.py").write_text("raise ImportError('no _ctypes')")
    done = supervised.run("sh", "-c", f"{LEAVERS['in the group']} while ! [ -s pid ]; do :; done; exit 3",
                          env={"PYTHONPATH": f"{stub}{os.pathsep}{ROOT}"})
    assert done.returncode == 3 and not is_running(pid_in(platform.root / "pid"))


def test_a_failing_program_leaves_nothing(supervised, platform):
    done = supervised.run("sh", "-c", f"{LEAVERS['a daemon']} while ! [ -s pid ]; do :; done; kill -9 $$")
    assert done.returncode == 137 and not is_running(pid_in(platform.root / "pid"))


def test_what_a_grandchild_still_says_is_passed_on(local):
    child = "trap 'echo goodbye; exit' TERM; echo $$ > pid; while :; do sleep 0.05; done"
    done = local.run("sh", "-c", 'sh -c "$0" & while ! [ -s pid ]; do :; done', child)
    assert (done.returncode, done.stdout) == (0, b"goodbye\n")


def test_children_that_were_ours_before_are_left_alone(local, tmp_path):
    started = local.run("sh", "-c", "ls /proc/self/fd >/dev/null; exit 0",
                        before=["sh", "-c", 'sleep 1000 >/dev/null 2>&1 & echo $! > earlier; exec "$@"', "sh"])
    pid = pid_in(tmp_path / "earlier")
    try:
        assert started.returncode == 0 and is_running(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_someone_outside_who_holds_the_pipe_does_not_hold_us(local, tmp_path):
    """A process that is none of our descendants got the pipe by another way."""
    holder = subprocess.Popen(["sh", "-c", "while ! [ -s pid ]; do sleep 0.01; done; exec sleep 1000 >/proc/$(cat pid)/fd/1"],
                              cwd=tmp_path, stdin=subprocess.DEVNULL)
    try:
        code = f"echo $$ > pid; while ! [ /proc/{holder.pid}/fd/1 -ef /proc/self/fd/1 ]; do :; done; echo done"
        done = local.run("sh", "-c", code)
        assert (done.returncode, done.stdout) == (0, b"done\n")
    finally:
        holder.kill()
        holder.wait()


ORPHANS = """
import os, sys, time
pids = []
for _ in range(20):
    reader, writer = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.write(writer, b"%d" % os.getpid())
            os._exit(0)
        os._exit(0)
    os.wait()
    os.close(writer)
    pids.append(int(os.read(reader, 99)))
end = time.monotonic() + 60
while any(os.path.exists(f"/proc/{pid}") for pid in pids):
    assert time.monotonic() < end, "zombies"
    time.sleep(0.01)
print("pid of the supervisor:", os.getppid())
"""


def new_pid_namespace():
    """Words that make what follows process 1; none where that is not allowed, and then the supervisor is a mere subreaper."""
    for words in (["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"],
                  ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]):
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
            return words
    return []


def test_zombies_are_reaped(local):
    done = local.python(ORPHANS)
    assert done.returncode == 0, done.stderr


def test_zombies_are_reaped_as_process_1(supervised):
    words = new_pid_namespace()
    done = supervised.python(ORPHANS, before=words)
    assert done.returncode == 0, done.stderr
    assert not words or done.stdout == b"pid of the supervisor: 1\n"


def test_a_stop_of_process_1(supervised, platform):
    """The kernel hands process 1 no signal without a handler, and kills what is left when it ends."""
    words = new_pid_namespace()
    process = supervised.start_python(SAVER, before=words)
    assert process.stdout.readline() == b"ready\n"
    os.kill(children_of(process.pid)[0] if words else process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (143, b"saved\n")
    assert record(platform).message == "stopped by SIGTERM: saved"


def test_the_daemon_of_process_1(supervised, platform):
    program = f"{LEAVERS['a daemon']} while ! [ -s pid ]; do :; done; echo done"
    done = supervised.run("sh", "-c", program, before=new_pid_namespace())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"done\n", b"")


# ------------------------------------------------------------------------------------------------- a disk that takes nothing


@contextlib.contextmanager
def mounted(path: Path, options: str):
    if not IS_ROOT:
        pytest.skip("mounting a file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_state_4_of_an_earlier_run_does_not_count_where_nothing_can_be_written(supervised, platform):
    with mounted(platform.out, "size=64k,mode=777"):
        (platform.out / "monitor.txt").write_text("t0\t1.0\t0.30\t4\t300002\told\n", encoding="utf-8")
        subprocess.run(["mount", "-o", "remount,ro", str(platform.out)], check=True)
        assert last_line(supervised.run("sh", "-c", "echo boom >&2; exit 6").stderr) == "ymir-exc: 160004 CONTAINER_ERROR: boom"


def test_a_full_disk_still_tells_the_reason(supervised, platform):
    with mounted(platform.out, "size=64k,mode=777"):
        done = supervised.run("sh", "-c", "head -c 1000000 /dev/zero > out/big; echo No space left on device >&2; exit 6")
        assert done.returncode == 6
        assert last_line(done.stderr) == "ymir-exc: 160004 CONTAINER_ERROR: No space left on device"
        assert (record(platform).state, record(platform).message) == (4, "No space left on device")


def test_a_read_only_folder(supervised, platform):
    with mounted(platform.out, "size=64k,mode=777"):
        subprocess.run(["mount", "-o", "remount,ro", str(platform.out)], check=True)
        done = supervised.run("sh", "-c", "echo boom >&2; exit 6")
        assert done.returncode == 6
        warnings = done.stderr.decode().splitlines()
        assert len(warnings) == 4 and all("cannot write" in line and "monitor.txt" in line for line in (warnings[0], warnings[2]))
        assert warnings[3] == "ymir-exc: 160004 CONTAINER_ERROR: boom"
        assert supervised.run("true").returncode == 0


@pytest.mark.parametrize("status", [0, 6])
def test_a_folder_that_vanished(supervised, platform, status):
    done = supervised.run("sh", "-c", f"rm -rf out; echo boom >&2; exit {status}")
    assert done.returncode == status
    lines = done.stderr.decode().splitlines()
    assert "cannot write" in lines[1] and "does not exist" in lines[1]
    assert lines[2:] == (["ymir-exc: 160004 CONTAINER_ERROR: boom"] if status else [])


def test_a_file_where_the_folder_should_be(supervised, platform):
    shutil.rmtree(platform.out)
    platform.out.write_text("", encoding="utf-8")
    done = supervised.run("sh", "-c", "echo boom >&2; exit 6")
    assert done.returncode == 6 and last_line(done.stderr) == "ymir-exc: 160004 CONTAINER_ERROR: boom"


def test_a_folder_where_the_file_should_be(supervised, platform):
    (platform.out / "monitor.txt").mkdir()
    done = supervised.run("sh", "-c", "exit 6")
    assert done.returncode == 6 and b"a folder stands where the file should be" in done.stderr


# ------------------------------------------------------------------------------------------------- surroundings


def test_the_environment_is_handed_on(supervised, platform):
    """In the C locale too, where Python adds a variable of its own."""
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DEFAULT_ENV_FILE_PATH": "in/env.yaml", "NAME": "a b\nc 任务"}
    supervised.is_measured = False
    done = subprocess.run(supervised.command("env", "-0"), env=given, cwd=platform.root, capture_output=True, check=True)
    got = dict(item.split("=", 1) for item in done.stdout.decode("utf-8").split("\0") if item)
    assert got == {**given, "DEFAULT_ENV_FILE_PATH": str(platform.env_file), SUPERVISED_VARIABLE: "1"}


def test_arguments_are_handed_on_byte_for_byte(supervised):
    words = [b"\xff\xfe", b"", b"a b", "任务".encode(), b"--platform", b"--", b"-h", b"$HOME;`ls`"]
    done = supervised.run("printf", "%s\\0", *words)
    assert done.stdout == b"".join(word + b"\0" for word in words)


def test_a_session_of_its_own_and_plain_signals(local):
    show = ["sh", "-c", 'grep -E "^Sig(Blk|Ign)" /proc/self/status']
    # Not zero wherever the tests run: some parents ignore a real-time signal, and that is handed on.
    assert local.run(*show).stdout == subprocess.run(show, capture_output=True, check=True).stdout
    assert local.python("import os; print(os.getpid() == os.getpgrp() == os.getsid(0))").stdout == b"True\n"


def test_a_deleted_working_directory(supervised, tmp_path):
    supervised.is_measured = False
    words = ["sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "sh"]
    done = supervised.run("sh", "-c", "echo here; exit 3", before=words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, b"here\n")


@pytest.mark.parametrize("limit", ["-n 20", "-f 0", "-c 0"])
def test_limits(supervised, limit):
    supervised.is_measured = False
    done = supervised.run("sh", "-c", "echo here; exit 3", before=["sh", "-c", f'ulimit {limit}; exec "$@"', "sh"])
    assert (done.returncode, done.stdout) == (3, b"here\n")


def test_too_few_files_to_start(supervised, platform):
    supervised.is_measured = False
    done = supervised.run("touch", "started", before=["sh", "-c", 'ulimit -n 8; exec "$@"', "sh"])
    assert done.returncode == 1 and "Too many open files" in last_line(done.stderr)
    assert not (platform.root / "started").exists()
    assert "Too many open files" in record(platform).message


def an_open_python():
    """A Python that every user may run, and not only the owner of this one."""
    for path in (Path(sys.executable), Path("/usr/bin/python3")):
        if path.exists() and all(place.stat().st_mode & 0o001 for place in (path.resolve(), *path.resolve().parents, *path.parents)):
            return str(path)
    return None


@pytest.mark.skipif(not IS_ROOT, reason="becoming another user needs root")
def test_any_uid_without_a_home():
    python = an_open_python()
    if python is None:
        pytest.skip("no Python that another user may run")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        shutil.copytree(ROOT / "ymir_exc", Path(folder) / "ymir_exc", ignore=shutil.ignore_patterns("__pycache__"))
        done = subprocess.run(["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups", python, "-m", "ymir_exc", "run", "--",
                               "sh", "-c", "id -u; exit 3"],
                              env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}, cwd=folder, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"1234\n", b"ymir-exc: 160004 CONTAINER_ERROR: 1234\n")


def test_nothing_heavy_is_loaded_before_the_start(supervised, platform):
    """The program looks at its parent: what would cost a tenth of a second is not mapped there."""
    done = supervised.run("sh", "-c", "cat /proc/$PPID/maps")
    assert b"pydantic_core" not in done.stdout
    supervised.is_measured = False
    done = supervised.run("true", env={"PYTHONPROFILEIMPORTTIME": "1"})
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines() if line.startswith("import time:")}
    assert "subprocess" in loaded
    assert not loaded & {"argparse", "asyncio", "logging", "pydantic", "easydict", "numpy", "difflib"}


def test_the_grace_ends_before_docker_kills():
    assert GRACE_SECONDS + KILL_SECONDS < 10
