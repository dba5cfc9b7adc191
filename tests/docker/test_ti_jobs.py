"""Jobs of `ymir_exc.ti` in real containers, of an image that knows nothing of this package."""
from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.docker.conftest import DEMO, engine
from ymir_exc.errors import ArgumentError
from ymir_exc.ti import _plan
from ymir_exc.ti.errors import JobFailedError, UnknownJobError
from ymir_exc.ti.estimator import Estimator
from ymir_exc.ti.pytorch import PyTorch
from ymir_exc.ti.session import Session
from ymir_exc.ti.tensorflow import TensorFlow

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = Path(__file__).with_name("ti_examples")
IMAGE = "ymir-exc-test-ti"
BASES = ("local/python:3.11", "python:3.11-slim-bookworm", "ymir-exc")


@pytest.fixture(scope="session")
def images():
    """Of these tests alone; the images of the package have no part in them."""
    base = next(name for name in BASES if engine("image", "inspect", name).returncode == 0)
    done = engine("build", "-q", "-t", IMAGE, "--build-arg", f"BASE_IMAGE={base}", str(Path(__file__).with_name("ti_image")))
    assert done.returncode == 0, done.stderr


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory of its own, with data, and jobs kept beside it."""
    monkeypatch.setenv("YMIR_EXC_TI_HOME", str(tmp_path / "jobs of 我"))
    made = tmp_path / "a place, with: 中文"
    (made / "data 数据" / "deep").mkdir(parents=True)
    (made / "data 数据" / "a.txt").write_text("a")
    (made / "data 数据" / "deep" / "b.txt").write_text("b")
    for folder in (tmp_path, made):
        folder.chmod(0o755)
    monkeypatch.chdir(made)
    yield made
    for job in Session().list_training_jobs():
        job.stop(at_once=True)


def estimator(hosts=1, session=None, **hyperparameters):
    return Estimator(IMAGE, "a role", hosts, "local", hyperparameters, ti_session=session or Session(stop_timeout=5))


def of(text, host):
    return [line.partition(" | ")[2] for line in text.splitlines() if line.startswith(host)]


def left_behind(job):
    unique = job.spec().unique
    return (engine("ps", "-aq", "--filter", f"label={_plan.LABEL}={unique}").stdout
            + engine("network", "ls", "-q", "--filter", f"label={_plan.LABEL}={unique}").stdout).split()


def until(what, seconds=60):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def printed(job):
    out = io.StringIO()
    job.logs(out)
    return out.getvalue()


def members(path):
    with tarfile.open(path) as archive:
        return {one.name: (archive.extractfile(one).read().decode() if one.isreg() else one.linkname) for one in archive if not one.isdir()}


# --------------------------------------------------------------------------------------------------------------------- success

def test_one_host(place, capsys):
    values = {"rate": 0.1, "name": "adam", "on": True, "text": "True", "layers": [1, {"k": None}], "none": None, "中文": "字"}
    kept = json.loads(json.dumps(values))
    one = Estimator(IMAGE, "role", 1, "local", values, envs={"EXTRA": "two words = ü"},
                    ti_session=Session(shm_size="96m", docker_args=["--label", "mine=1"]))
    one.fit({"training": "data 数据", "val": f"file://{place}/data%20数据/a.txt"}, job_name="训练-1")
    seen = json.loads(of(capsys.readouterr().out, "algo-1")[0])
    assert values == kept == one.hyperparameters()
    assert seen["raw"] == {key: json.dumps(value) for key, value in kept.items()}
    assert seen["argv"] == [] and seen["hosts"] == ["algo-1"] and seen["name"] == "训练-1" and seen["extra"] == "two words = ü"
    assert seen["files"] == ["training/a.txt", "training/deep/b.txt", "val/a.txt"]
    assert set(seen["channels"]) == {"training", "val"}
    assert seen["shm"] == 96 << 20 and seen["input"] != "writable"
    output = place / "ti-output" / "训练-1" / "output"
    assert one.model_data == str(output / "model.tar.gz")
    assert members(output / "model.tar.gz") == {"best.pt": "model.pt", "model.pt": "of algo-1", "of-algo-1/权重.txt": "algo-1"}
    assert members(output / "output.tar.gz") == {"data/result.txt": "of algo-1", "checkpoints/last.ckpt": "1"}
    assert {path.stat().st_uid for path in (place / "ti-output").rglob("*")} == {os.getuid()}
    assert not list((place / "ti-output").rglob(".*"))
    told = one.latest_training_job.describe()
    assert told["TrainingJobStatus"] == told["SecondaryStatus"] == "Completed" and told["RoleName"] == "role"
    assert [one["Status"] for one in told["SecondaryStatusTransitions"]] == ["Starting", "Training", "Uploading", "Completed"]
    assert all(one["EndTime"] >= one["StartTime"] for one in told["SecondaryStatusTransitions"])
    assert left_behind(one.latest_training_job) == []
    assert not one.latest_training_job.folder.hosts.exists()

    one.fit("data 数据", logs=False)    # again
    assert capsys.readouterr().out == ""
    again = one.latest_training_job
    assert again.name != "训练-1" and again.spec().hyperparameters == {key: json.dumps(value) for key, value in kept.items()}
    assert re.fullmatch(rf"{IMAGE}-\d{{4}}(-\d\d){{5}}-\d{{3}}", again.name)
    # The same content in the same order: nothing of the job is in it but the times of the files.
    assert list(members(one.model_data)) == list(members(output / "model.tar.gz"))
    with tarfile.open(one.model_data) as archive:
        assert {(row.uid, row.gid, row.uname, row.gname) for row in archive} == {(0, 0, "", "")}
    again.stop()    # has ended long ago
    assert again.status == "Completed"
    with pytest.raises(ArgumentError, match="there is a job"):
        one.fit(job_name="训练-1")


def test_two_hosts_reach_each_other_and_the_first_ones_files_win(place, capsys):
    one = estimator(2)
    one.fit()
    out = capsys.readouterr().out
    for host in ("algo-1", "algo-2"):
        seen = json.loads(of(out, host)[0])
        assert seen["hosts"] == ["algo-1", "algo-2"] and seen["host"] == host
    assert members(one.model_data) == {"best.pt": "model.pt", "model.pt": "of algo-1", "of-algo-1/权重.txt": "algo-1",
                                       "of-algo-2/权重.txt": "algo-2"}


def test_two_jobs_at_once(place):
    jobs = [estimator(2) for _ in range(2)]
    threads = [threading.Thread(target=one.fit, kwargs={"logs": False}) for one in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.latest_training_job.status for one in jobs] == ["Completed"] * 2
    assert len({one.model_data for one in jobs}) == 2


# --------------------------------------------------------------------------------------------------------------------- failure

def test_a_host_fails_and_the_others_are_stopped(place):
    one = estimator(2, mode="fail")
    begun = time.monotonic()
    with pytest.raises(JobFailedError, match="no data in channel 训练") as failed:
        one.fit()
    assert time.monotonic() - begun < 60    # the other one would sleep on
    assert isinstance(failed.value, ValueError)
    assert failed.value.exit_codes["algo-2"] == 7 and failed.value.exit_codes["algo-1"] in (137, 143)
    assert len(failed.value.reason) == 1024 and failed.value.status == "Failed"
    assert members(one.model_data) == {"half.pt": "half"}
    assert left_behind(one.latest_training_job) == []


def test_one_that_lost_its_peer_ends_first_and_the_peer_is_believed(place):
    with pytest.raises(JobFailedError, match="host algo-2 ended with status 1: ValueError: the culprit") as failed:
        estimator(2, mode="lost-peer").fit()
    assert failed.value.exit_codes == {"algo-1": 1, "algo-2": 1}


def test_without_a_failure_file_the_last_words_tell(place):
    with pytest.raises(JobFailedError, match="host algo-1 ended with status 1: ValueError: the learning rate is too large"):
        estimator(mode="fail-silently").fit()


def test_an_image_without_train(place):
    base = next(name for name in BASES if engine("image", "inspect", name).returncode == 0)
    if base == "ymir-exc":
        pytest.skip("it has a train")
    one = Estimator(base, "role", 1, "local", ti_session=Session())
    with pytest.raises(JobFailedError, match="train") as failed:
        one.fit()
    assert failed.value.exit_codes == {"algo-1": 127}
    assert left_behind(one.latest_training_job) == []


@pytest.mark.parametrize("words,reason", [(["--nonsense"], "unknown flag: --nonsense"), (["--device", "/dev/none"], "no such file")])
def test_an_engine_that_refuses_says_why(place, words, reason):
    with pytest.raises(JobFailedError, match=reason) as failed:
        estimator(session=Session(docker_args=words)).fit()
    assert "--help" not in failed.value.reason


def test_an_image_that_nobody_has(place):
    with pytest.raises(JobFailedError, match="has no image 'localhost:1/none:1', and pulling it failed"):
        Estimator("localhost:1/none:1", "role", 1, "local").fit()


# ------------------------------------------------------------------------------------------------------------------------ logs

def test_no_line_is_lost(place, capfdbinary):
    estimator(2, mode="lines", lines=20000).fit()
    out = capfdbinary.readouterr().out
    for host in (b"algo-1 | ", b"algo-2 | "):
        mine = [line[len(host):] for line in out.split(b"\n") if line.startswith(host)]
        assert mine[:20000] == [b"line %d" % n for n in range(20000)]
        assert mine[20000:] == [b"\xff\x00\xfe no UTF-8", b"L" * 200000, b"the last without an end"]


def test_a_bar_is_overwritten_on_a_terminal(place):
    ours, theirs = pty.openpty()
    program = "from tests.docker.test_ti_jobs import estimator; estimator(mode='progress').fit(); import sys; sys.exit()"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)})
    os.close(theirs)
    out = b""
    with contextlib.suppress(OSError):
        while data := os.read(ours, 4096):
            out += data
    assert process.wait() == 0
    os.close(ours)
    assert b"\x1b[36malgo-1 |\x1b[0m " in out and b"\r\x1b[K" in out and out.count(b"\n") < 5
    assert b"100 %" in out and b"done\r\n" in out


# ----------------------------------------------------------------------------------------------------------------------- a stop

def began(program, place):
    """A process in a group of its own, as one on a terminal, that is past `ready`."""
    return subprocess.Popen([sys.executable, "-c", f"from tests.docker.test_ti_jobs import *\n{program}"], cwd=place, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
                            start_new_session=True)


@pytest.mark.parametrize("mode,times", [("sleep", 1), ("deaf", 2)])
def test_ctrl_c_stops_the_containers_and_collects(place, mode, times):
    process = began(f"estimator(2, Session(stop_timeout=40), mode={mode!r}).fit(job_name='j')", place)
    assert [process.stdout.readline(), process.stdout.readline()] != ["", ""]
    begun = time.monotonic()
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(1)
    _, err = process.communicate(timeout=90)
    assert "KeyboardInterrupt" in err and process.returncode != 0
    assert time.monotonic() - begun < 35    # the second one gave no time
    job = Session().training_job("j")
    assert job.status == "Stopped" and left_behind(job) == []
    model = place / "ti-output" / "j" / "output" / "model.tar.gz"
    assert (members(model) == {"stopped.txt": "saved at the stop"}) if mode == "sleep" else not model.exists()


@pytest.mark.parametrize("after", [0.05, 0.3, 0.5, 0.7, 0.9, 1.2])
def test_ctrl_c_at_any_moment_leaves_nothing(place, after):
    process = began("print('go', flush=True); estimator(2, mode='sleep').fit(job_name='j')", place)
    assert process.stdout.readline() == "go\n"
    time.sleep(after)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    for job in Session().list_training_jobs():
        assert job.state().is_over and left_behind(job) == []
    assert not list((Session().home.path / "jobs").glob(".new-*"))


def test_train_max_run(place):
    one = Estimator(IMAGE, "role", 1, "local", {"mode": "sleep"}, train_max_run=3, ti_session=Session(stop_timeout=5))
    one.fit()
    told = one.latest_training_job.describe()
    assert told["TrainingJobStatus"] == "Stopped" and "train_max_run" in told["FailureReason"]
    assert members(one.model_data) == {"stopped.txt": "saved at the stop"}


# ------------------------------------------------------------------------------------------------------------ other processes

def test_a_job_goes_on_and_another_process_attaches(place):
    process = began("e = estimator(2, mode='sleep'); e.fit('data 数据', wait=False); print(e.latest_training_job.name)", place)
    name, err = process.communicate(timeout=30)
    name = name.strip()
    assert process.returncode == 0, err
    job = Session().training_job(name)
    assert job.status == "InProgress"
    until(lambda: printed(job).count("ready") == 2)
    looking = began(f"Estimator.attach({name!r})", place)
    seen = {looking.stdout.readline(), looking.stdout.readline()}    # from the start
    assert seen == {"algo-1 | ready\n", "algo-2 | ready\n"}
    os.killpg(looking.pid, signal.SIGINT)    # ends the looking, not the job
    looking.communicate(timeout=30)
    assert job.status == "InProgress"
    watching = began(f"e = Estimator.attach({name!r}); print(e.latest_training_job.status, e.hyperparameters(), e.role)", place)
    until(lambda: Session().training_job(name).status == "InProgress")
    estimator_of = Estimator.attach(name, wait=False, logs=False)
    estimator_of.stop()
    out, err = watching.communicate(timeout=60)
    assert out.splitlines()[-1] == "Stopped {'mode': 'sleep'} a role", (out, err)
    assert out.count("ready") == out.count("stopping") == 2
    assert left_behind(job) == []
    assert members(estimator_of.model_data) == {"stopped.txt": "saved at the stop"}
    assert "ready" in printed(Estimator.attach(name).latest_training_job)    # of one that has ended


def test_the_runner_outlives_who_began_the_job(place):
    process = began("estimator(mode='sleep').fit(job_name='j')", place)
    assert process.stdout.readline() == "algo-1 | ready\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    job = Session().training_job("j")
    assert job.status == "InProgress"
    job.stop()
    assert job.status == "Stopped" and members(job.state().model) == {"stopped.txt": "saved at the stop"}


def test_a_runner_that_was_killed(place):
    one = estimator(2, mode="half")
    one.fit(wait=False)
    job = one.latest_training_job
    until(lambda: printed(job).count("ready") == 2)
    os.kill(job.state().pid, signal.SIGKILL)
    assert len(left_behind(job)) == 3
    until(lambda: not job.folder.is_held())
    listed = next(found for found in Session().list_training_jobs() if found.name == job.name)
    told = listed.describe()
    assert listed.status == "Failed" and "was killed" in told["FailureReason"]
    assert [row["Status"] for row in told["SecondaryStatusTransitions"]] == ["Starting", "Training", "Uploading", "Failed"]
    assert left_behind(job) == [] and not job.folder.hosts.exists()
    collected = {"algo-1.pt": "of algo-1", "algo-2.pt": "of algo-2", "half.pt": "half of algo-1"}
    assert members(one.model_data) == collected    # by the one who looked
    with pytest.raises(JobFailedError, match="was killed"):
        job.wait()
    assert "ready" in printed(Estimator.attach(job.name).latest_training_job)
    job.stop()


def test_an_unknown_job(place):
    with pytest.raises(UnknownJobError, match="there is no job 'nobody'"):
        Estimator.attach("nobody")


# -------------------------------------------------------------------------------------------------------------- script mode

@pytest.fixture
def source(place) -> Path:
    folder = place / "程序 src"
    (folder / "包").mkdir(parents=True)
    (folder / "helper.py").write_text("WORD = 'from a neighbour'\n")
    (folder / "包" / "训练.py").write_text("import json, os, sys\nsys.path.insert(0, os.getcwd())\nimport helper\n"
                                         "print(os.getcwd(), sys.argv[0], helper.WORD)\nopen('scratch', 'w').close()\n"
                                         "open('/opt/ml/model/m', 'w').write('1')\n")
    (folder / "alone.py").write_text("import os; print(sorted(os.listdir('.')))\n")
    return folder


def test_script_mode(place, source, capsys):
    one = PyTorch("包/训练.py", "role", 2, "local", "1.4.0", "程序 src", {"epochs": 1}, image_name=IMAGE)
    one.fit("data 数据")
    out = capsys.readouterr().out
    for host in ("algo-1", "algo-2"):
        assert of(out, host) == ["/opt/ml/code 包/训练.py from a neighbour"]
    sent = one.latest_training_job.spec().hyperparameters
    assert {key: json.loads(value) for key, value in sent.items()} == {
        "epochs": 1, "ti_program": "包/训练.py", "ti_submit_directory": "/opt/ml/code", "ti_container_log_level": 20,
        "ti_job_name": one.latest_training_job.name}
    assert not (source / "scratch").exists() and not (source / "包" / "scratch").exists()    # of the copy alone
    found = PyTorch.attach(one.latest_training_job.name, logs=False)
    assert type(found) is PyTorch and found.model_data == one.model_data and found.framework_version == "1.4.0"


def test_a_single_file(place, source, capsys):
    TensorFlow(str(source / "alone.py"), "role", 1, "local", image_name=IMAGE).fit()
    assert of(capsys.readouterr().out, "algo-1") == ["['alone.py']"]


# ---------------------------------------------------------------------------------------------------------------- the examples

def build(name, folder, base):
    done = engine("build", "-q", "-t", name, "--build-arg", f"BASE_IMAGE={base}", str(folder))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("example,image,out", [
    ("custom_image", "my-training", "algo-1 | epoch 1 of 2: 3 lines\nalgo-1 | epoch 2 of 2: 3 lines\n"),
    ("pytorch", "my-pytorch", "algo-1 | epoch 3: loss "), ("tensorflow", "my-tensorflow", "algo-2 | train: ['numbers.txt']\n")])
def test_the_examples(place, example, image, out):
    name = f"{IMAGE}:{example.replace('_', '-')}"
    own = EXAMPLES / example if example == "custom_image" else Path(__file__).with_name("ti_image")
    if example == "pytorch" and engine("image", "inspect", DEMO).returncode:
        pytest.skip("no image here has torch")
    build(name, own, DEMO if example == "pytorch" else next(one for one in BASES if engine("image", "inspect", one).returncode == 0))
    if (EXAMPLES / example / "src").is_dir():
        shutil.copytree(EXAMPLES / example / "src", place / "src")
    (place / "data").mkdir()
    (place / "data" / "numbers.txt").write_text("1\n2\n6\n")
    program = (EXAMPLES / example / "launch.py").read_text(encoding="utf-8")
    assert image in program
    done = subprocess.run([sys.executable, "-c", program.replace(image, name)], cwd=place, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert out in done.stdout
    model = members(done.stdout.splitlines()[-1]) if example != "pytorch" else {"model.pt": ""}
    assert Path(done.stdout.splitlines()[-1]).is_file()
    assert set(model) == {"custom_image": {"model.json"}, "pytorch": {"model.pt"}, "tensorflow": {"model.json"}}[example]


# ------------------------------------------------------------------------------------------------------------- owners, tensorboard

@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_outputs_belong_to_a_caller_who_is_not_root(place, request):
    mine = Path(tempfile.mkdtemp(prefix="test-ti-"))    # pytest's own is for its user alone
    request.addfinalizer(lambda: shutil.rmtree(mine))
    shutil.copytree(place / "data 数据", mine / "data 数据")
    for path in (mine, *mine.rglob("*")):
        os.chown(path, 1234, 1235)
    socket = Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")[len("unix://"):])
    if not all(os.stat(folder).st_mode & 0o001 for folder in socket.parents) or not os.access(socket, os.W_OK):
        pytest.skip("the engine is for root alone")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")]),
               "YMIR_EXC_TI_HOME": str(mine / "home"), "HOME": "/nowhere", "DOCKER_CONFIG": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}

    def as_somebody(python, program):
        start = f"import os; os.setgroups([]); os.setgid(1235); os.setuid(1234); os.execv({python!r}, [{python!r}, '-c', {program!r}])"
        return subprocess.run([sys.executable, "-c", start], cwd=mine, text=True, capture_output=True, env=environ)

    works = "import ymir_exc.ti.estimator, yaml"
    python = next((path for path in (sys.executable, "/usr/bin/python3") if as_somebody(path, works).returncode == 0), None)
    if python is None:
        pytest.skip("no Python here is for everybody")
    before = socket.stat()
    os.chown(socket, before.st_uid, 1235)
    os.chmod(socket, before.st_mode | 0o060)
    try:
        done = as_somebody(python, "from ymir_exc.ti.estimator import Estimator\n"
                                   f"Estimator({IMAGE!r}, 'role', 2, 'local').fit('data 数据')")
    finally:
        os.chown(socket, before.st_uid, before.st_gid)
        os.chmod(socket, before.st_mode & 0o7777)
    assert done.returncode == 0, done.stderr
    assert '"uid": 1234' in done.stdout
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in mine.rglob("*")} == {(1234, 1235)}


def test_tensorboard_runs_as_long_as_fit(place):
    told = []
    Estimator(IMAGE, "role", 1, "local", {"mode": "sleep"}, train_max_run=15,
              ti_session=Session(tell=told.append, stop_timeout=5)).fit(run_tensorboard_locally=True)
    assert len(told) == 1 and re.fullmatch(r"TensorBoard: http://127\.0\.0\.1:\d+/?", told[0])
    with pytest.raises(OSError):
        __import__("urllib.request").request.urlopen(told[0].split()[1], timeout=5)


@pytest.mark.filterwarnings("default")
def test_data_and_outputs_in_the_object_store(place, monkeypatch, capsys):
    pytest.importorskip("qcloud_cos")
    pytest.importorskip("flask_cors")
    from tests.ti import s3
    from ymir_exc.ti._cos import CosStore
    with s3.serving() as server:
        for name, value in s3.variables(server).items():
            monkeypatch.setenv(name, value)
        store = CosStore("bucket-125")
        store._client.create_bucket(Bucket="bucket-125")
        session = Session()
        data = session.upload_data("data 数据", "bucket-125", "/data/")
        one = Estimator(IMAGE, "role", 1, "local", output_path="cos://bucket-125/out", ti_session=session)
        one.fit({"training": data, "one": f"{data}/a.txt"}, job_name="j")
        assert json.loads(of(capsys.readouterr().out, "algo-1")[0])["files"] == ["one/a.txt", "training/a.txt", "training/deep/b.txt"]
        assert one.model_data == "cos://bucket-125/out/j/output/model.tar.gz"
        store.get("out/j/output/model.tar.gz", place / "model.tar.gz")
        assert members(place / "model.tar.gz")["model.pt"] == "of algo-1"
        assert "Downloading" in [row["Status"] for row in one.latest_training_job.describe()["SecondaryStatusTransitions"]]
        with pytest.raises(JobFailedError, match="there is nothing at cos://bucket-125/none"):
            one.fit("cos://bucket-125/none")


def test_a_dry_run_starts_nothing(place, tmp_path, capsys):
    estimator(2, Session(dry_run=True)).fit("data 数据")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["docker", "network"], ["docker", "run"], ["docker", "run"], ["docker", "rm"],
                                                    ["docker", "network"]]
    assert all(line.endswith(f"{IMAGE} train") for line in lines[1:3])
    assert not (tmp_path / "jobs of 我").exists() and not (place / "ti-output").exists()
