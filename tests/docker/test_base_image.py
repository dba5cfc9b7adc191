"""The base layer: process 1, any uid, no network."""
from __future__ import annotations

import subprocess
import time
import uuid

import pytest

from tests.docker.conftest import BASE, DEMO, UID, engine


def run(*args: str, image: str = BASE, options=()):
    return engine("run", "--rm", "--network", "none", "--user", UID, *options, image, *args)


def supervise(program: str, **more):
    return run("ymir-exc", "run", "--", "python", "-c", program, **more)


@pytest.mark.parametrize("image", [BASE, DEMO])
def test_no_entrypoint_and_a_command(image):
    done = engine("image", "inspect", "--format", "{{json .Config.Entrypoint}} {{json .Config.Cmd}}", image, check=True)
    assert done.stdout.split() == ["null", '["/usr/bin/start.sh"]']


def test_any_uid_has_a_place_to_write_and_a_name():
    program = "import getpass, os, pathlib; (pathlib.Path.home() / 'x').write_text('x'); print(os.getuid(), getpass.getuser())"
    done = run("python", "-c", program)
    assert (done.stdout, done.stderr) == ("1234 ymir\n", "")


def test_the_supervisor_is_process_1_and_says_why():
    done = supervise("import os; print(os.getppid()); 1 / 0")
    assert done.returncode == 1
    assert done.stdout == "1\n"
    assert done.stderr.splitlines()[-1] == "ymir-exc: 160004 CONTAINER_ERROR: ZeroDivisionError: division by zero"


def test_a_missing_env_file_is_said_when_the_platform_is_certain():
    done = run("ymir-exc", "run", "--platform", "ymir", "--", "true")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("ymir-exc: 300001 CONFIG_ERROR: /in/env.yaml does not exist")


def test_out_of_memory_is_proved_by_the_kernel_s_counter():
    done = supervise("x = bytearray(300 << 20)", options=["--memory", "100m", "--memory-swap", "100m"])
    assert done.returncode == 137
    assert done.stderr.splitlines()[-1].startswith("ymir-exc: 300103 OOM: ")


def test_a_worker_that_runs_out_of_memory_is_found_too():
    program = ("import subprocess, sys\n"
               "subprocess.run([sys.executable, '-c', 'x = bytearray(300 << 20)'], check=True)")
    done = supervise(program, options=["--memory", "100m", "--memory-swap", "100m"])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ymir-exc: 300103 OOM: ")


def test_killed_without_proof_is_only_possibly_out_of_memory():
    done = supervise("import os; os.kill(os.getpid(), 9)")
    assert done.returncode == 137
    assert "160004" in done.stderr.splitlines()[-1]
    assert "possibly out of memory" in done.stderr.splitlines()[-1]


def test_orphans_are_reaped_by_process_1():
    program = ("import os, subprocess, time\n"
               "for _ in range(20): subprocess.run(['sh', '-c', '(exit 0) & exec true'])\n"
               "end = time.monotonic() + 20\n"
               "def state(p):\n"
               "    try: return open(f'/proc/{p}/stat').read().rpartition(')')[2].split()[0]\n"
               "    except OSError: return ''\n"    # it was reaped between the listing and the look
               "def zombies(): return [p for p in os.listdir('/proc') if p.isdigit() and state(p) == 'Z']\n"
               "while zombies() and time.monotonic() < end: time.sleep(0.05)\n"
               "print(zombies())")
    done = supervise(program)
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_stop_reaches_the_program_at_once():
    name = f"t{uuid.uuid4().hex[:29]}"
    program = ("import signal, sys, time\n"
               "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(0)))\n"
               "print('ready', flush=True)\ntime.sleep(300)")
    argv = ["docker", "run", "--name", name, "--network", "none", "--user", UID, BASE, "ymir-exc", "run", "--", "python", "-c", program]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        started = time.monotonic()
        engine("stop", "--time", "60", name, check=True)
        assert process.wait(60) == 143
        assert time.monotonic() - started < 50, "the program was not killed at the end of the grace"
        assert process.stdout.read() == "saved\n"
        assert process.stderr.read().splitlines()[-1] == "ymir-exc: 160004 CONTAINER_ERROR: stopped by SIGTERM: saved"
    finally:
        process.stdout.close()
        process.stderr.close()
        engine("rm", "--force", name)


def test_train_is_on_the_path():
    assert run("which", "train").stdout == "/usr/local/bin/train\n"
