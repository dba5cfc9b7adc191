"""Estimators and the session, with no engine."""
from __future__ import annotations

import inspect
import json
import shlex
from pathlib import Path

import pytest

from ymir_exc.errors import ArgumentError, DatasetError, NoGpuError
from ymir_exc.host.launch import EngineError
from ymir_exc.ti import estimator, pytorch, session, tensorflow
from ymir_exc.ti.errors import JobFailedError, UnknownJobError
from ymir_exc.ti.estimator import Estimator
from ymir_exc.ti.pytorch import PyTorch
from ymir_exc.ti.session import Session
from ymir_exc.ti.tensorflow import TensorFlow

COMMON = {"role", "train_instance_count", "train_instance_type", "hyperparameters", "envs", "train_volume_size", "train_max_run",
          "train_max_wait", "input_mode", "output_path", "subnet_id", "security_group_ids", "base_job_name",
          "train_retry_when_resource_insufficient", "ti_session"}
SCRIPT = {"framework_version", "py_version", "source_dir", "distributions", "image_name", "container_log_level"}


def runs(told):
    return [words for words in map(shlex.split, told) if words[1] == "run"]


def values_of(words, option):
    return [after for word, after in zip(words, words[1:]) if word == option]


def test_the_names_and_the_order_of_arguments():
    assert (pytorch.Pytorch, tensorflow.Tensorflow) == (PyTorch, TensorFlow)
    assert set(inspect.signature(estimator.EstimatorBase.__init__).parameters) - {"self"} == COMMON
    assert set(inspect.signature(estimator.Framework.__init__).parameters) >= SCRIPT
    first = {kind: list(inspect.signature(kind).parameters)[:4] for kind in (Estimator, PyTorch, TensorFlow)}
    rest = ["role", "train_instance_count", "train_instance_type"]
    assert first == {Estimator: ["image_name", *rest], PyTorch: ["entry_point", *rest], TensorFlow: ["entry_point", *rest]}
    assert list(inspect.signature(Estimator.fit).parameters)[1:] == ["inputs", "wait", "logs", "job_name", "run_tensorboard_locally"]


def test_every_argument_is_kept_for_those_who_attach(place):
    given = {"role": "r", "train_instance_count": 2, "train_instance_type": "local", "hyperparameters": {"a": 1}, "envs": {"A": "1"},
             "train_volume_size": 3, "train_max_run": 4, "train_max_wait": 5, "input_mode": "File", "output_path": str(place / "o"),
             "subnet_id": "s", "security_group_ids": ["g"], "base_job_name": "b", "train_retry_when_resource_insufficient": True}
    script = {"framework_version": "1.2", "py_version": "py2", "source_dir": str(place), "distributions": {"mpi": {"enabled": True}},
              "image_name": "i", "container_log_level": 10}
    for made, expected in ((Estimator("i", **given), {**given, "image_name": "i"}),
                           (PyTorch("e", **given, **script), {**given, **script, "entry_point": "e"}),
                           (TensorFlow("e", **given, **script), {**given, **script, "entry_point": "e", "script_mode": True})):
        assert made._arguments() == expected
        assert type(made)(**json.loads(json.dumps(made._arguments())))._arguments() == expected


@pytest.mark.parametrize("kind,version,image", [
    (PyTorch, "1.1.0", "pytorch:1.1.0-py3"), (PyTorch, "1.3.0", "pytorch:1.3.0-gpu-cu100-py3"),
    (PyTorch, "1.10.0", "pytorch:1.10.0-gpu-cu101-py3"), (TensorFlow, "1.14.0", "tensorflow:1.14.0-py3"),
    (TensorFlow, "1.15.0", "tensorflow:1.15.0-gpu-cu100-py3"), (TensorFlow, "2.0.0", "tensorflow:2.0.0-gpu-cu100-py3"),
    (TensorFlow, "2.1.0", "tensorflow:2.1.0-gpu-cu101-py3")])
def test_the_clouds_images(place, kind, version, image):
    assert kind("e", framework_version=version).train_image() == f"ccr.ccs.tencentyun.com/ti_containers/{image}"


@pytest.mark.parametrize("changed", [{"train_instance_count": 0}, {"train_instance_count": True}, {"train_instance_count": "1"},
                                     {"train_instance_type": ""}, {"train_max_run": 0}, {"input_mode": "Pipe"}, {"image_name": ""}])
def test_arguments_that_mean_nothing(place, changed):
    with pytest.raises(ArgumentError):
        Estimator(**{"image_name": "i", **changed})


def test_script_mode_arguments(place):
    for wrong in ({"distributions": {"ring": {}}}, {"distributions": {"mpi": True}}):
        with pytest.raises(ArgumentError):
            PyTorch("e", **wrong)
    with pytest.raises(ArgumentError):
        PyTorch("e", framework_version="new").train_image()
    with pytest.raises(ArgumentError):
        TensorFlow("e", script_mode=False)
    mpi = {"mpi": {"enabled": True, "processes_per_host": 2, "custom_mpi_options": "-v"}}
    assert estimator._distribution(mpi) == {"ti_mpi_enabled": True, "ti_mpi_num_of_processes_per_host": 2,
                                            "ti_mpi_custom_mpi_options": "-v"}
    assert estimator._distribution({"parameter_server": {"enabled": True}}) == {"ti_parameter_server_enabled": True}


def test_the_command_lines(place, dry, tools):
    tools("nvidia-smi", "printf '0\\n1\\n2\\n3\\n'")
    dry.docker_args, dry.shm_size = ["--ipc", "host"], "1g"
    Estimator("r.io/net:1", "role", 2, "local_gpu", {"a": 1}, envs={"A": "b c"}, ti_session=dry).fit({"c": "data", "f": "data/a.txt"})
    both = runs(dry.told)
    assert [words[-2:] for words in both] == [["r.io/net:1", "train"]] * 2
    assert [values_of(words, "--gpus") for words in both] == [['"device=0,1"'], ['"device=2,3"']]
    assert [values_of(words, "--network-alias") for words in both] == [["algo-1"], ["algo-2"]]
    names = [values_of(words, "--name")[0] for words in both]
    assert len(set(names)) == 2 and all("net-20" in name for name in names)
    one = both[0]
    assert "A=b c" in values_of(one, "--env") and {"--ipc", "host", "--shm-size=1g", "--stop-timeout=120"} <= set(one)
    assert any(value.startswith("TRAINING_JOB_NAME=net-") for value in values_of(one, "--env"))
    mounts = values_of(one, "--mount")
    assert f"type=bind,source={place}/data,target=/opt/ml/input/data/c,readonly" in mounts
    assert f"type=bind,source={place}/data/a.txt,target=/opt/ml/input/data/f/a.txt,readonly" in mounts
    assert dry.told[0].startswith("docker network create") and dry.told[-1].startswith("docker network rm")


def test_the_name_of_a_container_fits_into_a_domain_name(place, dry):
    """An engine that cannot tell it lets whoever asks for it, as torch does, wait for ten seconds."""
    Estimator("i", "role", 12, "local", ti_session=dry).fit(job_name="j" * 60)
    names = [values_of(words, "--name")[0] for words in runs(dry.told)]
    assert len(set(names)) == 12 and max(map(len, names)) == 63 and all(name.endswith(f"-algo-{n + 1}") for n, name in enumerate(names))


@pytest.mark.parametrize(("seconds", "grace"), [(120, "118"), (3, "1.5")])
def test_a_supervisor_in_the_container_grants_what_the_session_does(place, dry, seconds, grace):
    dry.stop_timeout = seconds
    Estimator("i", ti_session=dry).fit()
    Estimator("i", envs={"YMIR_EXC_GRACE": 7}, ti_session=dry).fit()
    told = [[value for value in values_of(words, "--env") if "GRACE" in value] for words in runs(dry.told)]
    assert told == [[f"YMIR_EXC_GRACE={grace}"], ["YMIR_EXC_GRACE=7"]]


def test_a_mount_of_any_name(place, dry):
    (place / 'a, "b":c').mkdir()
    Estimator("i", ti_session=dry).fit('a, "b":c')
    assert f'type=bind,"source={place}/a, ""b"":c",target=/opt/ml/input/data/training,readonly' in values_of(runs(dry.told)[0], "--mount")


def test_the_caller_owns_what_is_written(place, dry, monkeypatch):
    for uid, user, home in ((1234, ["1234:55"], True), (0, [], False)):
        monkeypatch.setattr("os.geteuid", lambda uid=uid: uid)
        monkeypatch.setattr("os.getegid", lambda: 55)
        dry.told.clear()
        Estimator("i", ti_session=dry).fit()
        words = runs(dry.told)[0]
        assert values_of(words, "--user") == user and ("HOME=/tmp" in words) is home
    monkeypatch.setattr("os.geteuid", lambda: 1234)
    podman = Session(engine="podman", dry_run=True, tell=dry.told.append, gpus="0,1")
    dry.told.clear()
    Estimator("i", "r", 2, "local_gpu", ti_session=podman).fit()
    assert "--userns=keep-id" in runs(dry.told)[0] and values_of(runs(dry.told)[1], "--device") == ["nvidia.com/gpu=1"]


def test_a_dry_run_is_no_job(place, dry):
    one = Estimator("i", ti_session=dry)
    one.fit(job_name="j")
    assert one.latest_training_job.name == "j"
    with pytest.raises(UnknownJobError, match="dry run"):
        one.logs()
    assert not (place.parent / "home").exists() and not (place / "ti-output").exists()


def test_fewer_gpus_than_hosts(place, dry):
    dry.gpus = "0"
    with pytest.raises(NoGpuError):
        Estimator("i", "r", 2, "local_gpu", ti_session=dry).fit()


def test_a_second_job_gets_the_gpus_that_are_left(place, tools, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tools("nvidia-smi", "printf '0\\n1\\n'")
    tools("docker", 'case "$1" in info|version) exit 0;; image) echo "[{}]";; network) sleep 4; exit 1;; *) exit 1;; esac')
    first = Estimator("i", "r", 1, "local_gpu", ti_session=Session(gpus="1"))
    first.fit(job_name="first", wait=False)
    second = Estimator("i", "r", 1, "local_gpu")
    second.fit(job_name="second", wait=False)
    assert second.latest_training_job.spec().gpus == [["0"]]
    with pytest.raises(NoGpuError, match="GPU 0, 1 in use by job first, second"):
        second.fit(job_name="third", wait=False)
    Estimator("i").fit(job_name="fourth", wait=False)    # without GPUs
    assert sorted(job.name for job in Session().list_training_jobs()) == ["first", "fourth", "second"]
    for job in Session().list_training_jobs():
        job.follow(logs=False)
    assert Session().home.gpus_in_use() == {}


def test_mistakes_are_told_before_anything_is_made(place, tools):
    tools("docker", "exit 0")
    for call in (lambda: Estimator("i", hyperparameters={"a": object()}).fit(), lambda: Estimator("i").fit("nothing"),
                 lambda: Estimator("i").fit(job_name="a b"), lambda: PyTorch("none.py").fit()):
        with pytest.raises((ArgumentError, DatasetError)):
            call()
    assert not (place.parent / "home").exists()


def test_no_engine(place, tools, monkeypatch):
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(EngineError, match="docker is not installed"):
        Estimator("i").fit()
    tools("docker", "echo 'Cannot connect to the daemon' >&2; exit 1")
    monkeypatch.setenv("PATH", str(place.parent / "tools"))
    with pytest.raises(EngineError, match="docker does not answer: Cannot connect"):
        Estimator("i").fit()
    assert not list((place.parent / "home").glob("jobs/*"))


def test_before_any_job(place):
    one = Estimator("i")
    for call in (one.logs, one.stop, lambda: one.model_data):
        with pytest.raises(ArgumentError, match="no job yet"):
            call()
    for name in ("none", "", "../x", ".new-1", None):
        with pytest.raises(UnknownJobError):
            Estimator.attach(name)
    assert Session().list_training_jobs() == []


def test_an_engine_that_refuses_everything(place, tools, capsys):
    """The whole way without an engine: the runner, its record, and the error."""
    tools("docker", 'case "$1" in info|version) exit 0;; image) echo "[{}]";; *) echo "no room for $1" >&2; exit 125;; esac')
    one = PyTorch("data/a.txt", image_name="r.io/net", hyperparameters={"x": 1})
    with pytest.raises(JobFailedError, match="no network could be made: no room for network") as failed:
        one.fit()
    assert isinstance(failed.value, ValueError)
    assert one.model_data is None
    one.logs()
    one.stop()
    assert capsys.readouterr().out == ""
    found = PyTorch.attach(one.latest_training_job.name)
    assert found.latest_training_job.status == "Failed" and found.hyperparameters() == {"x": 1}
    with pytest.raises(ArgumentError, match=r"was begun by PyTorch"):
        TensorFlow.attach(found.latest_training_job.name)
    assert type(Estimator.attach(found.latest_training_job.name)) is PyTorch
    with pytest.raises(ArgumentError, match="there is a job"):
        one.fit(job_name=found.latest_training_job.name)


def test_upload_to_a_folder_of_this_machine(place):
    made = Session()
    home = place.parent / "home" / "data"
    assert made.upload_data("data", key_prefix="/set//1/") == f"file://{home}/set/1"
    assert made.upload_data(Path("data/a.txt")) == f"file://{home}/data/a.txt"
    assert made.upload_data("data/", key_prefix="") == f"file://{home}"
    (place / "data" / "empty").mkdir()
    assert (home / "set" / "1" / "deep" / "b.txt").read_text() == "b" and not (home / "set" / "1" / "empty").exists()
    with pytest.raises(DatasetError, match="does not exist"):
        made.upload_data("nothing")


def test_output_path(place):
    assert session.output_of(None) == str(place / "ti-output")
    assert session.output_of("out/x") == session.output_of("file://out/x") == str(place / "out" / "x")
    with pytest.raises(ArgumentError, match="no folder"):
        session.output_of("data/a.txt")
