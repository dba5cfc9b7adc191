"""All parts of TI together: the demo image and a plain one as jobs, on one host and on two, to the end, stopped and broken."""
from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
import time
import uuid
from pathlib import Path

import pytest
import yaml

from tests.contract import platform_rules
from tests.docker.conftest import DEMO, engine
from tests.docker.test_ti_image import Job, laid_out
from ymir_exc.host import check
from ymir_exc.host.findings import Severity
from ymir_exc.ti import _plan
from ymir_exc.ti.errors import JobFailedError
from ymir_exc.ti.estimator import Estimator
from ymir_exc.ti.session import Session

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ["algo-1", "algo-2"]
SOON = 20.0
"""Seconds in which a job is to fail after a process of it has."""

SHORT = {"cpu_processes": 1, "max_seconds": 0, "epochs": 1, "evaluations": 1, "input_size": 64}
ENDLESS = {**SHORT, "epochs": 100000}

PROBE = '''
"""Each process that trains tells what gradients it brings and gets, its weights at the end, and what its model folder holds then."""
import atexit, os
if "DEFAULT_ENV_FILE_PATH" in os.environ:    # that of the launcher exchanges nothing
    from ymir_exc.integrations import torchrun
    average, kept, rank = torchrun.average_gradients, [], os.environ.get("RANK", "0")

    def total(tensors):
        return sum(float(one.detach().double().sum()) for one in tensors)

    def told(parameters):
        kept[:] = [one for one in parameters if one.requires_grad]
        told.step += 1
        before = total(one.grad for one in kept if one.grad is not None)
        if os.environ.get("PROBE") == "raise" and rank == "1" and told.step == 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        average(kept)
        if told.step <= 4:
            print(f"PROBE step {told.step} rank {rank} {before!r} {total(one.grad for one in kept)!r}", flush=True)

    told.step, torchrun.average_gradients = 0, told

    @atexit.register
    def tell_end():
        if kept:
            print(f"PROBE end rank {rank} {total(kept)!r} {sorted(os.listdir('/opt/ml/model'))}", flush=True)
'''

FIND_RANK = """
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            if b"\\0LOCAL_RANK=" in f.read():
                print(pid)
    except OSError:
        pass
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Jobs are kept here, and here are their outputs."""
    monkeypatch.setenv("YMIR_EXC_TI_HOME", str(tmp_path / "jobs of 我"))
    probe = tmp_path / "probe"
    probe.mkdir()
    (probe / "sitecustomize.py").write_text(PROBE, encoding="utf-8")
    yield tmp_path
    for job in Session().list_training_jobs():
        job.stop(at_once=True)


def demo(place, hosts, hyperparameters, **envs) -> Estimator:
    session = Session(docker_args=["--mount", f"type=bind,source={place / 'probe'},target=/probe,readonly", "--cpus", "1"])
    return Estimator(DEMO, "a role", hosts, "local", hyperparameters, envs={"PYTHONPATH": "/probe", "OMP_NUM_THREADS": "1", **envs},
                     output_path=place / "outputs", ti_session=session)


def printed(job) -> str:
    import io
    out = io.StringIO()
    job.logs(out)
    return out.getvalue()


def of(text, host):
    return [line.partition(" | ")[2] for line in text.splitlines() if line.startswith(f"{host} | ")]


def until(job, *words, seconds=300.0):
    deadline = time.monotonic() + seconds
    while not all(word in printed(job) for word in words):
        assert time.monotonic() < deadline and job.status == "InProgress", printed(job)
        time.sleep(0.1)


def unpacked(path) -> set:
    """The files in an archive."""
    with tarfile.open(path) as archive:
        return {one.name for one in archive if one.isreg()}


def accept(place, told, final="done") -> platform_rules.TrainingResult:
    """What a job left, judged as YMIR judges."""
    job = Job(place / "judged")
    for folder, artifact in (("model", "Model"), ("output", "Output")):
        subprocess.run(["tar", "-xzf", told["ModelArtifacts"][artifact], "-C", job.root / folder], check=True)
    out = laid_out(job)
    errors = {finding.rule.code for finding in check.check_output(out) if finding.rule.severity is Severity.ERROR}
    assert errors == (set() if final == "done" else {"M511"})    # that it did not end well
    assert platform_rules.accept_monitor(out, final=final, shared=False).task_id == told["TrainingJobName"]
    return platform_rules.accept_training(out)


# --------------------------------------------------------------------------------------------------------- an image of somebody else's


def test_a_decision_tree(place, plain_image, capsys):
    (place / "a table").mkdir()
    (place / "a table" / "iris.csv").write_text("".join(f"{'big' if i > 9 else 'small'},{i},{i % 3}\n" for i in range(20)))
    one = Estimator(image_name=plain_image, hyperparameters={"max_leaf_nodes": 5}, output_path=f"file://{place}/out")
    one.fit({"training": str(place / "a table")}, job_name="tree")
    assert capsys.readouterr().out == 'algo-1 | hosts ["algo-1"]\n'
    assert one.model_data == str(place / "out" / "tree" / "output" / "model.tar.gz")
    with tarfile.open(one.model_data) as archive:
        model = archive.extractfile("model.pkl").read()
    assert b"DecisionTreeClassifier" in model and unpacked(one.model_data) == {"model.pkl"} and pickle.PROTO in model[:1]
    with tarfile.open(place / "out" / "tree" / "output" / "output.tar.gz") as archive:
        assert json.load(archive.extractfile("data/score.json")) == {"accuracy": 1.0, "leaves": 2}


# ------------------------------------------------------------------------------------------------------------------ several hosts


def test_two_hosts_train_one_model(place, data, capsys):
    one = demo(place, 2, SHORT)
    one.fit({"training": str(data)})
    out = capsys.readouterr().out
    steps = {(int(step), int(rank)): (float(before), float(after))
             for step, rank, before, after in re.findall(r"PROBE step (\d+) rank (\d+) (\S+) (\S+)", out)}
    assert len(steps) == 8
    for step in range(1, 5):
        (first, mean), (second, same) = steps[step, 0], steps[step, 1]
        assert first != second and same == mean == pytest.approx((first + second) / 2, rel=1e-3, abs=1e-3)
    ends = {int(rank): (host, *rest) for host, rank, *rest in re.findall(r"(\S+) \| PROBE end rank (\d+) (\S+) (.*)", out)}
    assert ends[0][1] == ends[1][1]
    assert (ends[0][0], ends[1][0], ends[1][2]) == (*HOSTS, "[]") and "result.yaml" in ends[0][2]
    job = one.latest_training_job
    told = job.describe()
    assert told["TrainingJobStatus"] == "Completed" and told["ExitCodes"] == {"algo-1": 0, "algo-2": 0}
    assert list(accept(place, told).stages) == ["epoch_1"]


@pytest.mark.parametrize(("host", "rank"), [("algo-2", 1), ("algo-1", 0)])
def test_a_rank_that_is_killed_fails_the_job(place, data, host, rank):
    one = demo(place, 2, ENDLESS)
    one.fit({"training": str(data)}, wait=False)
    job = one.latest_training_job
    until(job, "PROBE step 4 rank 0", "PROBE step 4 rank 1")
    container = _plan.container(job.spec(), host)
    (pid,) = engine("exec", container, "python", "-c", FIND_RANK, check=True).stdout.split()
    engine("exec", container, "sh", "-c", f"kill -9 {pid}", check=True)
    begun = time.monotonic()
    with pytest.raises(JobFailedError) as failed:
        job.wait(logs=False)
    assert time.monotonic() - begun < SOON
    reason = f"rank {rank} on {host}: killed by SIGKILL, possibly out of memory"
    assert failed.value.reason.splitlines()[0] == f"160004 CONTAINER_ERROR: {reason}"
    assert failed.value.exit_codes == {"algo-1": 137, "algo-2": 137}
    for name in HOSTS:
        assert of(printed(job), name)[-1] == f"ymir-exc: 160004 CONTAINER_ERROR: {reason}"


def test_an_error_of_a_rank_is_the_reason(place, data):
    one = demo(place, 2, ENDLESS, PROBE="raise")
    with pytest.raises(JobFailedError) as failed:
        one.fit({"training": str(data)}, logs=False)
    words = "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"
    lines = failed.value.reason.splitlines()
    assert lines[0].startswith("300103 OOM: rank 1 on algo-2: ") and "CUDA out of memory" in lines[0]
    assert lines[-1] == words and "in _train_step" in failed.value.reason
    assert failed.value.exit_codes == {"algo-1": 1, "algo-2": 1}


# ------------------------------------------------------------------------------------------------------------------------- a stop


def accept_stopped(place, job, hosts):
    told = job.describe()
    assert told["TrainingJobStatus"] == told["SecondaryStatus"] == "Stopped", (told["FailureReason"], printed(job))
    assert told["ExitCodes"] == dict.fromkeys(hosts, 143)
    result = accept(place, told, final="error")
    assert len(result.stages) == 1
    with tarfile.open(told["ModelArtifacts"]["Model"]) as archive:
        assert yaml.safe_load(archive.extractfile("result.yaml"))["best_stage_name"] == next(iter(result.stages))
    assert not {"failure", "success"} & unpacked(told["ModelArtifacts"]["Output"])


def test_stop_keeps_the_model_and_attach_shows_the_whole_log(place, data):
    one = demo(place, 2, ENDLESS)
    one.fit({"training": str(data)}, wait=False, job_name="j")
    job = one.latest_training_job
    until(job, "PROBE step 4 rank 0", "PROBE step 4 rank 1")
    program = "from ymir_exc.ti.estimator import Estimator; Estimator.attach('j')"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}) as looking:
        first = looking.stdout.readline()    # it is there before the stop
        one.stop()
        rest = looking.stdout.read()    # not `communicate`, which with a time-out forgets what `readline` has read ahead
    accept_stopped(place, job, HOSTS)
    shown, written = first + rest, job.folder.log.read_text(encoding="utf-8")
    for host in HOSTS:
        assert of(shown, host)[0].endswith("training starts") or "ymir-exc" in of(shown, host)[0], shown
        assert of(shown, host) == of(printed(job), host) and of(shown, host)[-1] in written
        assert of(shown, host)[-1].startswith("ymir-exc: 160004 CONTAINER_ERROR: stopped by SIGTERM")


@pytest.mark.parametrize("hosts", [["algo-1"], HOSTS])
def test_docker_stop_of_a_container_stops_the_job(place, data, hosts):
    one = demo(place, len(hosts), ENDLESS)
    one.fit({"training": str(data)}, wait=False)
    job = one.latest_training_job
    until(job, f"PROBE step 4 rank {len(hosts) - 1}")
    engine("stop", _plan.container(job.spec(), hosts[-1]), check=True)
    job.follow(logs=False)
    accept_stopped(place, job, hosts)


# ----------------------------------------------------------------------------------------------------- `docker run IMAGE train`


class Hosts:
    """An /opt/ml for each host, and their network."""

    def __init__(self, folder: Path, data: Path, names=HOSTS, **resources) -> None:
        self.name, self.data = f"ymir-exc-{uuid.uuid4().hex[:12]}", data
        self.jobs = {name: Job(folder / name) for name in HOSTS}
        for name, job in self.jobs.items():
            job.hyper(**SHORT).write("input/config/resourceconfig.json", json.dumps({"current_host": name, "hosts": names, **resources}))
            (job.root / "input/data/training").mkdir()
        engine("network", "create", self.name, check=True)

    def start(self, host: str, *options: str, place=()) -> None:
        """The engine asks nobody outside for a name: one that it does not know is unknown at once, wherever this runs."""
        job = self.jobs[host]
        place = place or ("--network", self.name, "--network-alias", host, "--hostname", host, "--dns", "127.0.0.1")
        engine(*job.argv(DEMO, f"-v{self.data}:/opt/ml/input/data/training:ro", "-eOMP_NUM_THREADS=1", "--cpus=1", *options,
                         place=("--detach", *place)), check=True)

    def ended(self, host: str) -> int:
        return int(engine("wait", self.jobs[host].name, check=True, timeout=300).stdout)

    def log(self, host: str) -> str:
        done = engine("logs", self.jobs[host].name)
        return done.stdout + done.stderr

    def close(self) -> None:
        engine("rm", "--force", *(job.name for job in self.jobs.values()), f"{self.name}-other")
        engine("network", "rm", self.name)


@pytest.fixture
def hosts(tmp_path, data):
    made = []

    def make(**resources):
        made.append(Hosts(tmp_path / "hosts 主机", data, **resources))
        return made[-1]
    yield make
    for one in made:
        one.close()


def accept_both(job: Hosts) -> None:
    for host in HOSTS:
        assert job.ended(host) == 0, job.log(host)
        assert job.jobs[host].read("output/success") == "success\n"
    assert (job.jobs["algo-1"].root / "model/result.yaml").exists()
    assert list((job.jobs["algo-2"].root / "model").iterdir()) == []


def test_a_host_that_comes_late(hosts):
    job = hosts()
    job.start("algo-1")
    time.sleep(8)
    job.start("algo-2")
    accept_both(job)


def test_an_interface_that_no_host_has(hosts):
    job = hosts(network_interface_name="ethwe")
    for host in HOSTS:
        job.start(host)
    accept_both(job)
    assert all("ethwe" in job.log(host) for host in HOSTS)


def test_a_host_that_nobody_knows(hosts):
    job = hosts(names=["algo-1", "algo-9"])
    job.start("algo-1", "-eYMIR_EXC_NAMES_SECONDS=3")
    assert job.ended("algo-1") == 1
    assert job.jobs["algo-1"].read("output/failure").startswith("300301 NETWORK_ERROR: algo-9 cannot be resolved, after ")


def test_a_port_that_is_taken(hosts):
    """By another container that has the first host's network; both hosts tell it."""
    job = hosts()
    other = f"{job.name}-other"
    engine("run", "--detach", "--name", other, "--network", job.name, "--network-alias", "algo-1", "--hostname", "algo-1", DEMO,
           "python", "-c", "import socket, time; held = socket.create_server(('', 29610)); time.sleep(600)", check=True)
    job.start("algo-1", place=("--network", f"container:{other}"))
    job.start("algo-2")
    assert [job.ended(host) for host in HOSTS] == [1, 1]
    for host, where in zip(HOSTS, ("", "algo-1: ")):
        words = f"300301 NETWORK_ERROR: {where}port 29610 of this host, which the job needs"
        assert job.jobs[host].read("output/failure").startswith(words)
