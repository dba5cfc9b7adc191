"""What a machine is found to have: real probes here, and programs that answer as engines and drivers do."""
from __future__ import annotations

import json
import os
import sys
import threading

import pytest

from ymir_exc import cli
from ymir_exc.host import doctor
from ymir_exc.host.doctor import _engine, _gpu, _image, _machine, _probe, _python
from ymir_exc.host.doctor._probe import Line, Probe, Question, Status

INFO = {"ServerVersion": "27.1.0", "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"], "DockerRootDir": "/",
        "Runtimes": {"runc": {}, "nvidia": {}}}
PODMAN = {"host": {"security": {"rootless": True}, "ociRuntime": {"name": "crun"}}, "store": {"graphRoot": "/no/such"},
          "version": {"Version": "5.0.1"}}
SMI = """Sat Jan  1 00:00:00 2022
| NVIDIA-SMI 535.104.05    Driver Version: 535.104.05    CUDA Version: 12.2     |
"""
ROWS = "0, NVIDIA A100, 81920, 80000, 535.104.05\n1, NVIDIA A100, 81920, 100, 535.104.05\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Only the programs that a test puts there; each prints what it is given, and fails if that is to be."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name, **answers):
        cases = "".join(f"  *{words.replace('_', ' ')}*) /bin/cat '{folder / name}.{n}'; exit {status} ;;\n"
                        for n, (words, (_, status)) in enumerate(answers.items()))
        for n, (text, _) in enumerate(answers.values()):
            (folder / f"{name}.{n}").write_text(text)
        (folder / name).write_text(f'#!/bin/sh\ncase " $* " in\n{cases}esac\nexit 1\n')
        (folder / name).chmod(0o755)

    return put


def asked(name, image=None, engine=None):
    probes = [probe for probe in doctor.PROBES if probe.name == name]
    assert len(probes) == 1
    return list(doctor.examine(image, engine, probes))


def told(lines):
    return [(line.status.value, line.text) for line in lines]


# ------------------------------------------------------------------------------------------------------------- the frame

def test_this_machine_is_described(capsys):
    status = cli.main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert status == found["exit"] == (3 if found["problem"] else 0)
    always = {"system", "cpu", "memory", "disk", "limits", "python", "packages", "locale", "engine", "gpu"}
    assert {line["probe"] for line in found["lines"]} >= always
    assert len(found["lines"]) == found["ok"] + found["warning"] + found["problem"] + found["unknown"]
    by_probe = {line["probe"]: line for line in found["lines"]}
    assert by_probe["cpu"]["facts"]["usable"] == len(os.sched_getaffinity(0))
    assert by_probe["python"]["facts"]["executable"] == sys.executable
    assert all(line["remedy"] for line in found["lines"] if line["status"] in ("warning", "problem"))


def test_names_are_told_apart():
    names = [probe.name for probe in doctor.PROBES]
    assert len(set(names)) == len(names) > 10


def probe(look, seconds=20.0):
    return Probe("some", "the weather", look, seconds)


def test_a_probe_that_fails_is_no_answer():
    def breaks(_):
        yield Line(Status.OK, "first")
        raise ValueError("it rains")

    lines = list(doctor.examine(probes=[probe(breaks), probe(lambda _: [Line(Status.OK, "next")])]))
    assert told(lines) == [("ok", "first"), ("unknown", "the weather could not be found out: ValueError: it rains"), ("ok", "next")]
    assert lines[1].probe == "some" and doctor.exit_status(lines) == 0


def test_a_probe_that_hangs_is_left():
    end = threading.Event()
    lines = list(doctor.examine(probes=[probe(lambda _: [Line(Status.OK, str(end.wait()))], 0.05)]))
    end.set()
    assert told(lines) == [("unknown", "the weather could not be found out: no answer within 0.05 s")]


def test_a_problem_is_a_status():
    lines = [Line(Status.WARNING, "a", "b"), Line(Status.PROBLEM, "c", "d")]
    assert (doctor.exit_status(lines), doctor.exit_status(lines[:1])) == (3, 0)


def test_what_a_person_sees(monkeypatch, capsys):
    made = [Line(Status.OK, "all well"), Line(Status.PROBLEM, "no disk", "buy one"), Line(Status.UNKNOWN, "who knows")]
    monkeypatch.setattr(doctor, "examine", lambda image, engine: iter(made))
    assert cli.main(["doctor"]) == 3
    assert capsys.readouterr().out == ("ok       all well\nproblem  no disk\n         -> buy one\nunknown  who knows\n\n"
                                       "ok: 1, warning: 0, problem: 1, unknown: 1\n")
    assert cli.main(["doctor", "-q"]) == 3
    assert capsys.readouterr().out == "problem  no disk\n         -> buy one\nunknown  who knows\n"


def test_programs_that_do_not_answer(machine, tmp_path):
    (tmp_path / "bin" / "slow").write_text("#!/bin/sh\nexec /bin/sleep 1000\n")
    (tmp_path / "bin" / "slow").chmod(0o755)
    with pytest.raises(_probe.NoAnswer, match=r"slow did not answer within 0\.05 s"):
        _probe.ask(["slow"], 0.05)
    machine("bad", go=("first\nthe reason\n", 3))
    with pytest.raises(_probe.NoAnswer, match="the reason"):
        _probe.ask(["bad", "go"])
    with pytest.raises(_probe.NoAnswer, match="ended with status 1"):
        _probe.ask(["bad"])
    with pytest.raises(FileNotFoundError):
        _probe.ask(["gone"])


# ------------------------------------------------------------------------------------------------------------- the engine

def test_no_engine(machine):
    lines = asked("engine")
    assert told(lines) == [("warning", "no container engine, docker or podman, is installed")]
    assert told(asked("engine", image="some:image")) == [("problem", "no container engine, docker or podman, is installed")]
    assert told(asked("engine", engine="podman")) == [("problem", "podman is not installed")]


def test_docker(machine):
    machine("docker", info=(json.dumps(INFO), 0))
    lines = asked("engine")
    assert told(lines)[0] == ("ok", "docker 27.1.0, rootless")
    assert lines[0].facts["runtimes"] == ["nvidia", "runc"]
    assert lines[1].facts["path"] == "/"


def test_podman(machine):
    machine("podman", info=(json.dumps(PODMAN), 0))
    assert told(asked("engine")) == [("ok", "podman 5.0.1, rootless")]


@pytest.mark.parametrize("answer,said", [
    (("Cannot connect to the daemon\n", 1), "Cannot connect to the daemon"),
    ((json.dumps({"ServerErrors": ["permission denied"]}), 0), "permission denied"), (("<html>", 0), "is no JSON")])
def test_an_engine_that_does_not_answer_is_a_problem(machine, answer, said):
    machine("docker", info=answer)
    (line,) = asked("engine")
    assert line.status == Status.PROBLEM and said in line.text and line.facts == {"engine": "docker", "answers": False}


def test_the_toolkit(machine):
    machine("docker", info=(json.dumps({**INFO, "Runtimes": {"runc": {}}}), 0))
    assert asked("toolkit") == [], "nothing to say where there is no GPU"
    machine("nvidia-smi")
    assert [line.status for line in asked("toolkit")] == [Status.WARNING]
    machine("nvidia-ctk")
    assert [line.status for line in asked("toolkit")] == [Status.OK]


# ------------------------------------------------------------------------------------------------------------- the GPUs

def test_gpus(machine):
    machine("nvidia-smi", query=(ROWS, 0), **{"": (SMI, 0)})
    lines = asked("gpu")
    assert told(lines) == [("ok", "NVIDIA driver 535.104.05, up to CUDA 12.2"), ("ok", "GPU 0: NVIDIA A100, 78.1 GiB of 80.0 GiB free"),
                           ("warning", "GPU 1: NVIDIA A100, 100 MiB of 80.0 GiB free")]
    assert lines[1].facts["total"] == 80 << 30


def test_no_gpu_and_one_that_fails_are_different(machine):
    assert [line.status for line in asked("gpu")] == [Status.WARNING]
    machine("nvidia-smi", query=("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9))
    (line,) = asked("gpu")
    assert line.status == Status.PROBLEM and "couldn't communicate" in line.text
    machine("nvidia-smi", query=("", 0))
    assert "lists no GPU" in asked("gpu")[0].text and "--gpus all" in asked("gpu")[0].remedy
    machine("nvidia-smi", query=("No devices were found\n", 6))
    assert told(asked("gpu")) == [("problem", "nvidia-smi is installed, but finds no GPU: No devices were found")]
    machine("nvidia-smi", query=("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.183\n", 18))
    (line,) = asked("gpu")
    assert "version mismatch; NVML library version: 535.183" in line.text and "reboot" in line.remedy


def test_memory_that_a_driver_does_not_tell(machine):
    machine("nvidia-smi", query=("0, NVIDIA GB10, [N/A], [N/A], 580.95.05\n", 0), **{"": ("CUDA Version: 13.0", 0)})
    lines = asked("gpu")
    assert [line.status for line in lines] == [Status.OK, Status.OK]
    assert lines[1].text == "GPU 0: NVIDIA GB10, which does not tell its memory"


@pytest.mark.parametrize("text,version", [(SMI, "12.2"), ("CUDA UMD Version: 13.1", "13.1"), ("CUDA Version: N/A", ""), ("", "")])
def test_the_driver_s_cuda(text, version):
    assert _gpu.cuda_of(text) == version


# ------------------------------------------------------------------------------------------------------------- an image

def image(arch="amd64", **env):
    return json.dumps([{"Architecture": arch, "Size": 3 << 30, "Config": {"Env": [f"{key}={value}" for key, value in env.items()]}}])


def test_an_image_that_is_not_there(machine):
    machine("docker", inspect=("Error response from daemon: No such image: gone\n", 1))
    (line,) = asked("image", "gone")
    assert line.status == Status.PROBLEM and line.remedy.startswith("docker pull gone")
    machine("docker", inspect=("Cannot connect\n", 1))
    assert told(asked("image", "gone")) == [("unknown", "the image could not be found out: NoAnswer: Cannot connect")]


def test_an_image_against_the_driver(machine, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    machine("docker", inspect=(image(CUDA_VERSION="12.4.1"), 0))
    assert told(asked("image", "x"))[1] == ("warning", "x is made for CUDA 12.4; no GPU can be used here")
    machine("nvidia-smi", query=(ROWS, 0), **{"": (SMI, 0)})
    lines = asked("image", "x")
    assert told(lines)[0] == ("ok", "x is for amd64, 3.0 GiB")
    assert lines[1].status == Status.WARNING and "the driver 535.104.05 knows CUDA 12.2" in lines[1].text
    machine("docker", inspect=(image("arm64"), 0))
    assert told(asked("image", "x")) == [("problem", "x is for arm64, 3.0 GiB; this machine is amd64"),
                                         ("ok", "x does not say that it needs CUDA")]


@pytest.mark.parametrize("said,expected", [
    (("13.0\n", 0), ("problem", "x is made for CUDA 13.0; the driver 535.104.05 knows CUDA 12.2: its programs will find no GPU")),
    (("\n", 0), ("ok", "x does not say that it needs CUDA")), (("no python3\n", 127), ("ok", "x does not say that it needs CUDA"))])
def test_an_image_whose_torch_brings_cuda(machine, said, expected):
    machine("docker", inspect=(image(), 0), run=said)
    assert told(asked("image", "x"))[1] == ("ok", "x does not say that it needs CUDA"), "without a GPU nothing is started"
    machine("nvidia-smi", query=(ROWS, 0), **{"": (SMI, 0)})
    assert told(asked("image", "x"))[1] == expected


@pytest.mark.parametrize("line,said", [
    ("cuda: Optional[str] = '13.0'", "13.0"), ("cuda = '11.8'", "11.8"), ("cuda: Optional[str] = None", "")])
def test_the_cuda_of_torch_without_importing_it(tmp_path, line, said):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '2.0'\n{line}\nhip = '6.0'\n")
    done = _probe.ask([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{_image._TORCH_CUDA}"])
    assert done.strip() == said


@pytest.mark.parametrize("settings,driver_cuda,driver_version,status", [
    ({"CUDA_VERSION": "12.2"}, "12.2", "535", "ok"),
    ({"CUDA_VERSION": "11.8.0"}, "12.2", "535", "ok"),
    ({"CUDA_VERSION": "12.4"}, "12.2", "535", "warning"),
    ({"CUDA_VERSION": "13.0"}, "12.2", "535", "problem"),
    ({"CUDA_VERSION": "12.4"}, "", "390", "unknown"),
    ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.4 brand=tesla,driver>=470,driver<471"}, "12.2", "535", "problem"),
    ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.4 brand=tesla,driver>=535,driver<536"}, "12.2", "535.104.05", "warning"),
    ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.4"}, "12.4", "550", "ok")])
def test_cuda_of_image_and_driver(settings, driver_cuda, driver_version, status):
    wanted = _image.cuda_wanted(settings)
    line = _image.cuda_line("x", settings, wanted, _gpu.Driver(driver_version, driver_cuda, []))
    assert line.status.value == status
    assert bool(line.remedy) == (status != "ok")


@pytest.mark.parametrize("settings,wanted", [
    ({}, None), ({"CUDA_VERSION": ""}, None), ({"CUDA_VERSION": "12.4.1"}, "12.4"), ({"CUDA_VERSION": "12"}, "12.0"),
    ({"NVIDIA_REQUIRE_CUDA": "cuda>=11.8 brand=tesla"}, "11.8"), ({"NVIDIA_REQUIRE_CUDA": "brand=tesla"}, None)])
def test_what_an_image_wants(settings, wanted):
    assert _image.cuda_wanted(settings) == wanted


# ----------------------------------------------------------------------------------------------------- Python, the machine

@pytest.mark.parametrize("version,wanted,does", [
    ("1.20", ">=1.20", True), ("1.9.3", ">=1.20", False), ("2.0.0", ">=2.0,<3", True), ("3.0", ">=2,<3", False),
    ("2.13.0+cpu", ">=2.4", True), ("1.0", "", True), ("6.0", "!=6", False), ("6.0.0", "==6", True), ("7", ">6", True),
    ("7rc1", "<=7", True)])
def test_versions(version, wanted, does):
    assert _python.fits(version, wanted) is does


def test_what_is_missing_is_named(monkeypatch):
    declared = ["pyyaml>=5.1", "pydantic<3,>=2.0", 'no-such-thing>=1; extra == "host"', "numpy (>=999) ; extra == 'host'",
                'ymir-exc[coco]; extra == "demo"']
    monkeypatch.setattr(_python.importlib.metadata, "requires", lambda name: declared)
    lines = asked("packages")
    assert [line.status for line in lines] == [Status.OK, Status.OK, Status.WARNING]
    assert lines[2].remedy == 'pip install "ymir-exc[host]"'
    assert lines[2].facts["missing"] == ["'no-such-thing>=1'", "'numpy>=999'"]
    monkeypatch.setattr(_python.importlib.metadata, "requires", lambda name: ["no-such-thing"])
    assert [line.status for line in asked("packages")] == [Status.OK, Status.PROBLEM]


def test_a_locale_that_is_not_utf8(monkeypatch, tmp_path):
    monkeypatch.setattr("locale.getpreferredencoding", lambda _: "ANSI_X3.4-1968")
    monkeypatch.setenv("HOME", str(tmp_path / "gone"))
    assert [line.status for line in asked("locale")] == [Status.WARNING, Status.WARNING]


@pytest.mark.parametrize("free,status", [(100 << 20, "problem"), (5 << 30, "warning"), (50 << 30, "ok")])
def test_free_space(monkeypatch, tmp_path, free, status):
    monkeypatch.setattr(_machine, "_space", lambda place: (100 << 30, free))
    line = _machine.disk_line("things", str(tmp_path))
    assert (line.status.value, bool(line.remedy)) == (status, status != "ok")


def test_a_cgroup_s_share_of_the_cores(monkeypatch):
    files = {"/sys/fs/cgroup/cpu.max": "150000 100000"}
    monkeypatch.setattr(_machine, "read", lambda path: files.get(path, ""))
    assert _machine._quota() == 1.5
    assert asked("cpu")[0].status == Status.WARNING
    files["/sys/fs/cgroup/cpu.max"] = "max 100000"
    assert _machine._quota() is None
    files.clear()
    files.update({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"})
    assert _machine._quota() == 4
    files["/sys/fs/cgroup/cpu/cpu.cfs_quota_us"] = "-1"
    assert _machine._quota() is None


def test_shared_memory(monkeypatch):
    monkeypatch.setattr(_machine, "_space", lambda place: (64 << 20, 64 << 20))
    assert [line.status for line in asked("shm")] == [Status.WARNING]
    monkeypatch.setattr(_machine, "_SHM", "/no/such/folder")
    assert told(asked("shm")) == [("warning", "there is no /dev/shm")]


def test_limits(monkeypatch):
    monkeypatch.setattr(_machine.resource, "getrlimit", lambda number: (64, 64))
    assert [line.status for line in asked("limits")] == [Status.WARNING] * 3
    monkeypatch.setattr(_machine.resource, "getrlimit", lambda number: (_machine.resource.RLIM_INFINITY,) * 2)
    assert [line.text for line in asked("limits")] == ["open files: unlimited", "processes: unlimited", "file size: unlimited"]


def test_the_engine_chosen(machine):
    assert _engine.chosen(Question()) is None
    machine("podman")
    assert _engine.chosen(Question()) == "podman"
    machine("docker")
    assert _engine.chosen(Question()) == "docker"
    assert _engine.chosen(Question(engine="podman")) == "podman"
