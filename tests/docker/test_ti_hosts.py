"""A job on two hosts: two containers on a network of their own, which know each other by name, as platforms start them."""
from __future__ import annotations

import json
import time
import uuid

import pytest

from tests.docker.conftest import DEMO, engine

HOSTS = ["algo-1", "algo-2"]
PROGRAM = """
import os, signal, sys, time
from datetime import timedelta
import torch
import torch.distributed as dist
dist.init_process_group("gloo", timeout=timedelta(minutes=10))
number = torch.tensor([dist.get_rank() + 1])
dist.all_reduce(number)
print("the sum is", number.item(), "over", os.environ["GLOO_SOCKET_IFNAME"], flush=True)
if sys.argv[1] == "add":
    dist.destroy_process_group()    # gloo's threads abort a process that ends under them, now and then
    sys.exit(0)
if sys.argv[1] == "raise" and dist.get_rank() == 1:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
if sys.argv[1] == "killed" and dist.get_rank() == 1:
    os.kill(os.getpid(), signal.SIGKILL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)    # as one that waits for a lost peer, and hears nothing
"""
SOON = 20.0
"""Seconds in which all hosts are to fail after one has."""


class Job:
    """The containers, gone at the end with their network."""

    def __init__(self, folder) -> None:
        self.name = f"ymir-exc-{uuid.uuid4().hex[:12]}"
        self.program = folder / "prog.py"
        self.program.write_text(PROGRAM)
        for place in (self.program, folder):
            place.chmod(0o755)
        assert engine("network", "create", self.name).returncode == 0

    def container(self, host: str) -> str:
        return f"{self.name}-{host}"

    def start(self, host: str, how: str, hosts=HOSTS, **variables: str) -> None:
        given = {"TM_HOSTS": json.dumps(hosts), "TM_CURRENT_HOST": host, "OMP_NUM_THREADS": "1", **variables}
        words = [word for item in given.items() for word in ("-e", "=".join(item))]
        done = engine("run", "--detach", "--cpus", "1", "--name", self.container(host), "--hostname", host, "--network", self.name,
                      "--network-alias", host, "-v", f"{self.program}:/prog.py:ro", *words, DEMO,
                      "ymir-exc", "run", "--platform", "local", "--nproc", "1", "--", "python", "/prog.py", how)
        assert done.returncode == 0, done.stderr

    def log(self, host: str) -> str:
        done = engine("logs", self.container(host))
        return done.stdout + done.stderr

    def wait_for_words(self, words: str) -> None:
        deadline = time.monotonic() + 120
        while not all(words in self.log(host) for host in HOSTS):
            assert time.monotonic() < deadline, "\n".join(map(self.log, HOSTS))
            time.sleep(0.2)

    def ended(self, host: str, seconds: float = 120.0):
        """Status and last line, once the container has ended."""
        deadline = time.monotonic() + seconds
        while True:
            state = json.loads(engine("inspect", "--format", "{{json .State}}", self.container(host), check=True).stdout)
            if not state["Running"]:
                break
            assert time.monotonic() < deadline, self.log(host)
            time.sleep(0.2)
        return state["ExitCode"], engine("logs", self.container(host)).stderr.splitlines()[-1:]

    def close(self) -> None:
        for host in HOSTS:
            engine("rm", "--force", self.container(host))
        engine("network", "rm", self.name)


@pytest.fixture
def job(tmp_path):
    made = Job(tmp_path)
    yield made
    made.close()


def both(job, how, **variables):
    for host in HOSTS:
        job.start(host, how, **variables)


def test_two_containers_compute_together(job):
    both(job, "add", TM_NETWORK_INTERFACE_NAME="ethwe")    # which no container has
    for host in HOSTS:
        assert job.ended(host)[0] == 0, job.log(host)
        assert "the sum is 3 over eth0" in job.log(host)
        assert "the network interface ethwe is none of" in job.log(host)


@pytest.mark.parametrize(("how", "status", "line"), [
    ("raise", 1, "300103 OOM: rank 1 on algo-2: RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"),
    ("killed", 137, "160004 CONTAINER_ERROR: rank 1 on algo-2: killed by SIGKILL, possibly out of memory")])
def test_both_tell_what_failed_on_one(job, how, status, line):
    both(job, how)
    job.wait_for_words("the sum is 3")
    begun = time.monotonic()
    assert [job.ended(host, SOON) for host in HOSTS] == [(status, [f"ymir-exc: {line}"])] * 2
    assert time.monotonic() - begun < SOON


@pytest.mark.parametrize(("lost", "left"), [HOSTS, HOSTS[::-1]])
def test_a_container_that_is_killed_is_named_by_the_other(job, lost, left):
    both(job, "wait")
    job.wait_for_words("the sum is 3")
    engine("kill", job.container(lost), check=True)
    status, (line,) = job.ended(left, SOON)
    assert status == 1
    assert line == f"ymir-exc: 300301 NETWORK_ERROR: {lost} is lost: its launcher was killed, or its container or machine or network failed"


def test_a_host_without_a_network_is_missed(job):
    both(job, "wait")
    job.wait_for_words("the sum is 3")
    engine("network", "disconnect", "--force", job.name, job.container("algo-2"), check=True)
    assert job.ended("algo-1", 2 * SOON)[0] == 1
    assert "algo-2 is lost" in job.log("algo-1")
    assert job.ended("algo-2", 2 * SOON)[0] == 1
    assert "algo-1 is lost" in job.log("algo-2")


def test_docker_stop_on_one_host_ends_both_as_stopped(job):
    both(job, "wait")
    job.wait_for_words("the sum is 3")
    engine("stop", job.container("algo-2"), check=True)
    assert job.ended("algo-2", 1)[0] == 143
    assert job.ended("algo-1", SOON) == (143, ["ymir-exc: 160004 CONTAINER_ERROR: stopped by SIGTERM on algo-2"])


def test_a_host_that_nobody_knows(job):
    job.start("algo-1", "add", ["algo-1", "algo-9"], YMIR_EXC_NAMES_SECONDS="3")
    status, (line,) = job.ended("algo-1")
    assert status == 1
    assert line.startswith("ymir-exc: 300301 NETWORK_ERROR: algo-9 cannot be resolved, after ")


def test_one_host_is_enough(job):
    job.start("algo-1", "add", ["algo-1"])
    assert job.ended("algo-1")[0] == 0, job.log("algo-1")
    assert "the sum is 1 over lo" in job.log("algo-1")
