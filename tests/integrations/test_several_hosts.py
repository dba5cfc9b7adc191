"""A job on several hosts: launchers as processes on this machine, each of which takes itself for a host."""
from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integrations.several import NAMES, free_ports
from tests.supervised import PATIENCE, Supervised, is_running, last_line, measured, record, wait_for
from ymir_exc import errors, sharding, util
from ymir_exc.hosts import Layout
from ymir_exc.integrations import torchrun
from ymir_exc.integrations.torchrun import _launch, _several, _words
from ymir_exc.integrations.torchrun.__main__ import main
from ymir_exc.result_writer import MiningResultWriter

HERE = Path(__file__).parent


class Job:
    """Starts one launcher a host."""

    def __init__(self, supervised: Supervised, folder: Path, count: int = 2) -> None:
        self.supervised, self.folder, self.count = supervised, folder, count
        self.port = free_ports()
        self.program = folder / "rank.py"
        shutil.copy(HERE / "rank.py", self.program)

    def environment(self, rank: int, **more: str):
        given = {"TM_HOSTS": json.dumps(NAMES[:self.count]), "TM_CURRENT_HOST": NAMES[rank], "YMIR_EXC_MASTER_PORT": str(self.port),
                 "OMP_NUM_THREADS": "1", "YMIR_EXC_GRACE": "5"}
        return self.supervised.environment(**{**given, **more})

    def start(self, rank: int, *words: str, nproc: str = "1", platform=("--platform", "local"), **more: str) -> subprocess.Popen:
        """Under the supervisor, as in a container."""
        command = [sys.executable, "-m", "ymir_exc", "run", *platform, "--nproc", nproc, "--", sys.executable, str(self.program), *words]
        return self.popen(command, self.environment(rank, **more))

    def launch(self, rank: int, *words: str, **more: str) -> subprocess.Popen:
        """The launcher alone."""
        command = [sys.executable, "-m", *measured(), "ymir_exc.integrations.torchrun", "--nproc", "1", "--", sys.executable,
                   str(self.program), *words]
        return self.popen(command, self.environment(rank, **more))

    def popen(self, command, environment) -> subprocess.Popen:
        made = subprocess.Popen(command, env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, start_new_session=True)
        self.supervised.started.append(made)
        return made

    def wait_for_ranks(self) -> None:
        wait_for(lambda: all((self.folder / f"at.{rank}").exists() and (self.folder / f"at.{rank}").read_text()
                             for rank in range(self.count)))

    def rank_ids(self):
        return [int(path.read_text()) for path in sorted(self.folder.glob("at.*"))]


def ends(processes):
    """Status and last line of each."""
    found = []
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE)
        found.append((process.returncode, last_line(err) if err else "", out.decode() + err.decode()))
    return found


@pytest.fixture
def job(tmp_path, monkeypatch):
    for name in ("TM_HOSTS", "TM_CURRENT_HOST", "NODE_LIST", "LOCAL_RANK", "WORLD_SIZE", "GLOO_SOCKET_IFNAME", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    supervised = Supervised(None, tmp_path)
    made = Job(supervised, tmp_path)
    yield made
    try:
        for pid in made.rank_ids():
            wait_for(lambda pid=pid: not is_running(pid), 20)    # nothing is left behind
    finally:
        supervised.close()


def test_all_ranks_are_one_group(job):
    """Two processes on the first host, one on the second, which names a network interface that does not exist."""
    first = job.start(0, "tell", "$$HOME ${local_rank}", "两 个", nproc="2")
    second = job.start(1, "tell", "", TM_NETWORK_INTERFACE_NAME="ethwe")
    found = ends([first, second])
    assert [status for status, _, _ in found] == [0, 0], found
    told = {path.name: ast.literal_eval(path.read_text()) for path in job.folder.glob("told.*")}
    shared = ["localhost", str(job.port), "lo"]
    assert told == {"told.0": ["0", "0", "3", "2", *shared, "localhost", "$$HOME ${local_rank}", "两 个"],
                    "told.1": ["1", "1", "3", "2", *shared, "localhost", "$$HOME ${local_rank}", "两 个"],
                    "told.2": ["2", "0", "3", "1", *shared, "127.0.0.2", ""]}
    assert "the network interface ethwe is none of" in found[1][2]


@pytest.mark.parametrize(("words", "status", "line"), [
    (["raise"], 1, "300103 OOM: rank 1 on 127.0.0.2: RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"),
    (["exit"], 7, "160004 CONTAINER_ERROR: rank 1 on 127.0.0.2: exited with status 7"),
    (["exit", "saying why"], 1, "160004 CONTAINER_ERROR: rank 1 on 127.0.0.2: exited with status 1: the last words"),
    (["killed"], 137, "160004 CONTAINER_ERROR: rank 1 on 127.0.0.2: killed by SIGKILL, possibly out of memory")])
def test_a_rank_that_fails_on_one_host_is_the_reason_on_both(job, words, status, line):
    found = ends([job.start(rank, *words) for rank in (0, 1)])
    assert [(code, last) for code, last, _ in found] == [(status, f"ymir-exc: {line}")] * 2, found


def test_a_host_that_has_finished_hears_of_a_failure_on_another(job):
    processes = [job.launch(rank, "late") for rank in (0, 1)]
    job.wait_for_ranks()
    wait_for(lambda: not is_running(job.rank_ids()[0]))
    time.sleep(1)
    assert processes[0].poll() is None    # it waits for the other one
    (job.folder / "go").touch()
    found = ends(processes)
    line = "ymir_exc.errors.ProgramError: rank 1 on 127.0.0.2: ValueError: no such layer"
    assert [(code, last) for code, last, _ in found] == [(1, line)] * 2
    assert all("in <module>" in text for _, _, text in found)    # where it was raised


@pytest.mark.parametrize(("killed", "left"), [(0, 1), (1, 0)])
def test_a_killed_launcher_is_named_by_the_other(job, killed, left):
    processes = [job.launch(rank, "wait") for rank in (0, 1)]
    job.wait_for_ranks()
    ranks = job.rank_ids()
    begun = time.monotonic()
    processes[killed].kill()
    (status, line, _), = ends([processes[left]])
    assert time.monotonic() - begun < 20
    assert status == 1
    assert f"NetworkError: {NAMES[killed]} is lost" in line
    assert not is_running(ranks[left])
    os.kill(ranks[killed], signal.SIGKILL)    # a supervisor, or the end of the container, does that


def test_a_late_second_host(job):
    first = job.launch(0, "tell")
    time.sleep(5)
    assert first.poll() is None
    assert [status for status, _, _ in ends([first, job.launch(1, "tell")])] == [0, 0]


@pytest.mark.parametrize(("host", "seconds"), [(0, "0"), (1, "7")])
def test_a_stop_on_one_host_stops_both(job, host, seconds):
    """With as much time to save as the supervisor grants, on each."""
    processes = [job.start(rank, "save", seconds, YMIR_EXC_GRACE="60") for rank in (0, 1)]
    wait_for(lambda: all((job.folder / f"heed.{rank}").exists() for rank in (0, 1)))
    processes[host].send_signal(signal.SIGTERM)
    found = ends(processes)
    assert [status for status, _, _ in found] == [143, 143], found
    assert found[host][1] == "ymir-exc: 160004 CONTAINER_ERROR: stopped by SIGTERM"
    assert found[1 - host][1] == f"ymir-exc: 160004 CONTAINER_ERROR: stopped by SIGTERM on {NAMES[host]}"
    assert all((job.folder / f"saved.{rank}").exists() for rank in (0, 1))


def test_ranks_that_wait_for_a_lost_peer_are_not_waited_for_as_after_a_stop(job):
    found = ends([job.start(rank, "exit", "deaf", YMIR_EXC_GRACE="600") for rank in (0, 1)])
    assert [status for status, _, _ in found] == [1, 1], found


def test_a_stop_while_a_host_is_waited_for(job):
    first = job.launch(0, "tell", YMIR_EXC_NAMES_SECONDS="600")
    def is_listening():
        try:
            socket.create_connection(("127.0.0.1", job.port + 1), 1).close()
        except OSError:
            return False
        return True
    wait_for(is_listening)
    time.sleep(0.5)
    first.send_signal(signal.SIGTERM)
    (status, line, _), = ends([first])
    assert (status, line) == (143, "ymir_exc.errors.Stopped: stopped by SIGTERM")


def test_a_program_that_does_not_exist_is_told_on_both(job):
    job.program.unlink()
    commands = [[sys.executable, "-m", "ymir_exc.integrations.torchrun", "--nproc", "1", "--", word]
                for word in (sys.executable, "/no such")]
    shutil.copy(HERE / "rank.py", job.program)
    commands[0] += [str(job.program), "wait"]
    found = ends([job.popen(command, job.environment(rank)) for rank, command in enumerate(commands)])
    assert [status for status, _, _ in found] == [1, 1]
    assert "/no such" in found[1][1]
    assert "127.0.0.2: " in found[0][1]
    assert "/no such" in found[0][1]


def test_wrong_variables_and_hosts_nobody_knows(job):
    found = ends([job.launch(0, "tell", TM_CURRENT_HOST="algo-7"), job.launch(1, "tell", YMIR_EXC_MASTER_PORT="http"),
                  job.launch(0, "tell", TM_HOSTS='["no-such-host.invalid", "localhost"]', TM_CURRENT_HOST="localhost",
                             YMIR_EXC_NAMES_SECONDS="2")])
    assert [status for status, _, _ in found] == [4, 4, 1]
    assert "ConfigError: TM_CURRENT_HOST='algo-7' is none of TM_HOSTS" in found[0][1]
    assert "ConfigError: YMIR_EXC_MASTER_PORT='http' is no port" in found[1][1]
    assert "NetworkError: no-such-host.invalid cannot be resolved, after 2 s" in found[2][1]


def test_without_nproc_a_program_runs_once_a_host_and_has_the_layout(job):
    code = "import os; print(os.environ['TM_HOSTS'], os.environ['TM_CURRENT_HOST'], 'RANK' in os.environ)"
    for rank in (0, 1):
        done = subprocess.run([sys.executable, "-m", "ymir_exc", "run", "--", sys.executable, "-c", code], env=job.environment(rank),
                              stdout=subprocess.PIPE, check=True, cwd=job.folder)
        assert done.stdout.decode().strip() == f'["localhost", "127.0.0.2"] {NAMES[rank]} False'


@pytest.mark.parametrize("which", [0, 1])
def test_a_busy_port_is_told_on_both(job, which):
    """At once: the port of the ranks, which both hear of, or that of the launchers, at which the other one finds a stranger."""
    busy = job.port + which
    with socket.create_server(("", busy)):
        begun = time.monotonic()
        found = ends([job.launch(rank, "tell") for rank in (0, 1)])
        assert time.monotonic() - begun < PATIENCE / 1.5
    assert [status for status, _, _ in found] == [1, 1], found
    assert all("NetworkError" in line and str(busy) in line and "YMIR_EXC_MASTER_PORT" in line for _, line, _ in found), found
    assert f"port {busy} of this host, which the job needs, cannot be had: Address already in use" in found[0][1]
    assert "localhost" in found[1][1], found    # on the other it is not "this host"


# ------------------------------------------------------------------------------------------------------------- with an Executor, and a task

def test_an_executor_trains_on_two_hosts_and_the_first_writes(job, platform):
    """On TI-ONE, whose RANK is the host's; each host has one rank, though `gpu_id` names no GPU."""
    shutil.copy(HERE / "program.py", job.program)
    platform.config["processes"] = "1"
    platform.write()
    processes = []
    for rank in (0, 1):
        more = {"NODE_LIST": "localhost:1,127.0.0.2:1", "INDEX": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": str(job.port),
                "RANK": str(rank), "WORLD_SIZE": "2", "DEFAULT_ENV_FILE_PATH": str(platform.env_file)}
        environment = job.environment(rank, **more)
        for name in ("TM_HOSTS", "TM_CURRENT_HOST", "YMIR_EXC_MASTER_PORT"):
            del environment[name]
        processes.append(job.popen([sys.executable, "-m", "ymir_exc", "run", "--", sys.executable, str(job.program), "fail_in_all_reduce"],
                                   environment))
    found = ends(processes)
    line = "rank 1 on 127.0.0.2: RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert [(code, last) for code, last, _ in found] == [(1, f"ymir-exc: 300103 OOM: {line}")] * 2, found
    assert (record(platform).state, record(platform).message) == (4, line)


@pytest.fixture
def two_hosts(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TM_HOSTS", json.dumps(NAMES[:2]))
    monkeypatch.setenv("TM_CURRENT_HOST", NAMES[1])
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    calls = []
    monkeypatch.setattr(torchrun, "launch", lambda argv, processes: calls.append(processes))
    return calls


def test_each_host_has_a_rank_at_least(platform, two_hosts, monkeypatch):
    platform.config["gpu_id"] = ""
    platform.write()
    assert torchrun.per_gpu(util.get_merged_config())
    assert torchrun.processes(3)(util.get_merged_config())
    assert two_hosts == [1, 3]
    monkeypatch.setenv("RANK", "1")    # torchrun's, started by the user on each host
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert not torchrun.per_gpu(util.get_merged_config())
    assert two_hosts == [1, 3]


@pytest.mark.parametrize("task", ["mining", "infer"])
def test_mining_and_inference_are_for_one_host(platform, two_hosts, task):
    platform.run(task).index("candidate", "/in/assets/1.jpg")
    platform.config["gpu_id"] = ""
    platform.write()
    with pytest.raises(errors.ConfigError, match="mining and inference run on one host, and this job has 2"):
        torchrun.per_device(util.get_merged_config())
    assert two_hosts == []


@pytest.mark.parametrize("variables", [{}, {"TM_HOSTS": "", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}])
def test_candidates_are_shared_on_one_host_only(platform, two_hosts, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(errors.ConfigError, match=r"among the processes of one host, and this job has (2|several)"):
        sharding.candidates(MiningResultWriter())


# ------------------------------------------------------------------------------------------------------------------------- run --nproc

def test_nproc_on_one_host_tells_what_the_program_said(local, tmp_path):
    shutil.copy(HERE / "rank.py", tmp_path)
    done = local.run(sys.executable, str(tmp_path / "rank.py"), "raise", options=("--nproc", "2"))
    assert done.returncode == 1
    assert last_line(done.stderr) == "ymir-exc: 300103 OOM: rank 1: RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"


def test_nproc_auto_is_a_process_without_gpus(local, tmp_path):
    shutil.copy(HERE / "rank.py", tmp_path)
    done = local.run(sys.executable, str(tmp_path / "rank.py"), "tell", options=("--nproc", "auto"), env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval((tmp_path / "told.0").read_text())[:3] == ["0", "0", "1"]


@pytest.mark.parametrize("options", [(), ("--platform", "local")])
def test_nproc_by_a_variable(local, tmp_path, options):
    shutil.copy(HERE / "rank.py", tmp_path)
    done = local.run(sys.executable, str(tmp_path / "rank.py"), "tell", options=options, env={"YMIR_EXC_NPROC": "2"})
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval((tmp_path / "told.1").read_text())[:3] == ["1", "1", "2"]


def test_nproc_by_a_variable_that_makes_no_sense(local):
    done = local.run("true", env={"YMIR_EXC_NPROC": "many"})
    assert done.returncode == 2 and b"YMIR_EXC_NPROC: 'many' is neither a number" in done.stderr


def test_nproc_without_torch(tmp_path, local):
    """As in an image without it: a module of this name that cannot be found."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['torch'] = None")
    paths = os.pathsep.join([str(tmp_path), str(HERE.parents[1])])
    done = local.run("true", options=("--nproc", "2"), env={"PYTHONPATH": paths})
    assert done.returncode == 3
    assert "--nproc needs torch, and" in last_line(done.stderr)


@pytest.mark.parametrize("options", [("--nproc", "0"), ("--nproc", "many"), ("--nproc", "2", "--data", ".", "--task", "training")])
def test_nproc_that_makes_no_sense(local, options):
    done = local.run("true", options=options)
    assert done.returncode == 2
    assert b"--nproc" in done.stderr


@pytest.mark.parametrize("words", [[], ["--nproc"], ["--nproc", "0", "--", "true"], ["--nproc", "2", "true"], ["--nproc", "2", "--"]])
def test_the_launcher_s_own_words(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("usage: ")


def test_a_stop_while_the_launchers_part_changes_nothing(monkeypatch, tmp_path):
    """All have succeeded, and the first host waits until the others have heard it."""
    from torch.distributed.launcher import api

    class Parting:
        verdict = None

        def __init__(self, *_):
            self.join = lambda: None

        def leave(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)

    monkeypatch.setattr(_several, "Member", Parting)
    monkeypatch.setattr(api, "elastic_launch", lambda *_: lambda *_: None)
    monkeypatch.setattr("ymir_exc.hosts.socket_variables", lambda _: {})
    with _launch._signal_handlers_kept():
        _several.run(["true"], None, Layout(), _several.Place(str(tmp_path), _several.Closing(None), None))


def test_stderr_passes_unchanged_and_its_end_is_kept(tmp_path, capfd):
    with _words.Words(str(tmp_path), 2) as words:
        for rank in (0, 1):
            with open(words.paths[rank], "w", encoding="utf-8") as f:
                f.write(f"[rank{rank}]: Traceback\n" + "progress\r" * 20_000 + f"the end of {rank}")
        assert words.of_ended(0).endswith("the end of 0")
    told = capfd.readouterr().err
    assert told.count("progress\r") == 40_000
    assert "[rank0]: Traceback\n" in told
    assert len(words.of(1)) == 1 << 16
