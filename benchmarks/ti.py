"""What a job of Tencent TI costs: the time until the user's program runs, on one host and on two.

    python benchmarks/ti.py [--rounds 11] [--processes] [--quick] [--markdown]

One host: milliseconds from the start of `train` to the program's first line, against the same program started plainly in the same image;
for a job with a table, which is no task, and for one whose thousand images become index files. Two hosts: from the start of the
launchers, the later one, to the first line of the rank that is the last to have one, against torchrun's own command for the same. The
rounds of all cases are mixed; medians.
"""
from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parent.parent
BASE, DEMO = "ymir-exc", "ymir-exc-det-demo"
FIRST_LINE = "import time; print(time.time_ns(), flush=True)\n"
IMAGES = 1000
STAMPED = 'date +%s%N; exec "$@"'
"""A shell's script: when, and then what."""

Measure = Callable[[], float]


class Case(NamedTuple):
    """One way to start the program; `measure` returns seconds."""

    name: str
    measure: Measure


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--processes", action="store_true", help="no containers, though an engine answers")
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--markdown", action="store_true", help="write the tables into RESULTS.md")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))    # so that no container stays
    rounds = 3 if arguments.quick else arguments.rounds
    in_containers = not arguments.processes and has_images()
    where = "containers" if in_containers else "processes on this machine"
    fewer = max(rounds // 2, 3)
    tables = [f"Measured with {where}: {rounds} rounds on one host, {fewer} on two."]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)
        (place / "first.py").write_text(FIRST_LINE, encoding="utf-8")
        one = one_in_containers(place) if in_containers else one_in_processes(place)
        tables.append(show("one host", run(one, rounds)))
        print(tables[-1], end="\n\n", flush=True)
        if in_containers or importlib.util.find_spec("torch") is not None:
            with two_in_containers(place) if in_containers else two_in_processes(place) as two:
                tables.append(show("two hosts", run(two, fewer)))
                print(tables[-1])
        else:
            print("two hosts: torch is not installed here")
    if arguments.markdown:
        from core import write_section  # beside this program
        name = "benchmarks/ti.py" + (" --quick" if arguments.quick else "")
        write_section(name, "\n\n".join([__doc__.split("\n\n", 2)[2].strip(), *tables]))


def has_images() -> bool:
    """Whether an engine answers, and has what the measurements run."""
    try:
        return all(docker("image", "inspect", name).returncode == 0 for name in (BASE, DEMO))
    except OSError:
        return False


def docker(*words: str) -> subprocess.CompletedProcess[str]:
    """The engine's answer."""
    return subprocess.run(["docker", *words], capture_output=True, text=True)


def run(cases: Sequence[Case], rounds: int) -> Dict[str, List[float]]:
    """All cases in turn, so many times; a round before that fills the caches."""
    found: Dict[str, List[float]] = {case.name: [] for case in cases}
    for number in range(rounds + 1):
        for case in cases:
            seconds = case.measure()
            if number:
                found[case.name].append(seconds)
    return found


def show(title: str, found: Dict[str, List[float]]) -> str:
    """The medians, against the first case."""
    middle = {name: 1000 * statistics.median(samples) for name, samples in found.items()}
    alone = next(iter(middle.values()))
    lines = [f"| {title} | ms to the first line | added | ratio |", "|---|---|---|---|"]
    lines += [f"| {name:30} | {ms:7.1f} | {ms - alone:7.1f} | {ms / alone:5.2f} |" for name, ms in middle.items()]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------------------- jobs

def write_job(root: Path, hosts: Sequence[str] = ("localhost",), host: str = "localhost", images: int = 0) -> Path:
    """An /opt/ml: with a table, or with so many images and their annotations."""
    for name in ("input/config", "input/data/training", "model", "output", "code"):
        (root / name).mkdir(parents=True)
    values: Dict[str, str] = {f"key_{number}": json.dumps(number) for number in range(20)}
    data = root / "input" / "data" / "training"
    if images:
        values["class_names"] = json.dumps(["a", "b"])
        for number in range(images):
            (data / f"{number:04}.jpg").write_bytes(b"")
            (data / f"{number:04}.txt").write_text("0,1,1,9,9\n", encoding="utf-8")
    else:
        (data / "table.csv").write_text("1,2\n", encoding="utf-8")
    resources = {"current_host": host, "hosts": list(hosts)}
    for name, content in (("hyperparameters", values), ("resourceconfig", resources)):
        (root / "input" / "config" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def seconds_between(process: subprocess.CompletedProcess[str]) -> float:
    """From the time stamp of the shell to that of the program."""
    stamps = process.stdout.split()
    if process.returncode or len(stamps) != 2:
        raise SystemExit(f"{process.args} ended with {process.returncode}: {process.stdout}{process.stderr}")
    return (int(stamps[1]) - int(stamps[0])) / 1e9


def seconds_of_all(processes: Sequence[subprocess.Popen[str]]) -> float:
    """From the latest start to the latest first line."""
    stamps = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        words = out.split()
        if process.returncode or len(words) != 2:
            raise SystemExit(f"{process.args} ended with {process.returncode}: {out}{err}")
        stamps.append([int(word) for word in words])
    return (max(stamp[1] for stamp in stamps) - max(stamp[0] for stamp in stamps)) / 1e9


# ------------------------------------------------------------------------------------------------------------------- in containers

def one_in_containers(place: Path) -> List[Case]:
    """`docker run IMAGE train`, each time a new container."""
    table, task = write_job(place / "table"), write_job(place / "task", images=IMAGES)

    def measure(root: Path, *words: str) -> Measure:
        mounts = [f"-v{root}:/opt/ml", f"-v{place}/first.py:/first.py:ro"]
        argv = ["docker", "run", "--rm", "--network", "none", *mounts, "-eTI_PROGRAM=/first.py", BASE, "sh", "-c", STAMPED, "sh", *words]
        return lambda: seconds_between(subprocess.run(argv, capture_output=True, text=True))

    return [Case("the program alone", measure(table, "python", "/first.py")), Case("train, a table", measure(table, "train")),
            Case(f"train, {IMAGES} images", measure(task, "train"))]


@contextlib.contextmanager
def two_in_containers(place: Path) -> Iterator[List[Case]]:
    """Two containers on a network of their own, which stay; in both, the launchers are started at the same time."""
    network, hosts = f"ymir-exc-bench-{uuid.uuid4().hex[:8]}", ["algo-1", "algo-2"]
    names = [f"{network}-{host}" for host in hosts]

    def measure(words: Callable[[int], Sequence[str]]) -> Measure:
        argvs = [["docker", "exec", name, "sh", "-c", STAMPED, "sh", *words(number)] for number, name in enumerate(names)]
        return lambda: seconds_of_all([popen(argv, os.environ) for argv in argvs])

    docker("network", "create", network)
    try:
        for name, host in zip(names, hosts):
            root = write_job(place / host, hosts, host)
            docker("run", "--detach", "--init", "--name", name, "--network", network, "--network-alias", host, "--hostname", host,
                   "-eOMP_NUM_THREADS=1", f"-v{root}:/opt/ml", f"-v{place}/first.py:/first.py:ro", DEMO, "sleep", "3600")
        yield [Case("torchrun", measure(lambda number: torchrun(number, hosts[0], 29610, "/first.py"))),
               Case("ymir-exc run --nproc", measure(lambda _: ours("/first.py")))]
    finally:
        docker("rm", "--force", *names)
        docker("network", "rm", network)


# ------------------------------------------------------------------------------------------------------------------- in processes

def one_in_processes(place: Path) -> List[Case]:
    """The base layer's `train`, with the job elsewhere than in /opt/ml."""
    table, task = write_job(place / "table"), write_job(place / "task", images=IMAGES)
    program = str(place / "first.py")

    def measure(root: Path, *words: str) -> Measure:
        environ = {**environment(), "YMIR_EXC_TI_ROOT": str(root), "TI_PROGRAM": program}
        argv = ["sh", "-c", STAMPED, "sh", *words]
        return lambda: seconds_between(subprocess.run(argv, env=environ, capture_output=True, text=True))

    train = ("sh", str(ROOT / "docker" / "train"))
    return [Case("the program alone", measure(table, sys.executable, program)), Case("train, a table", measure(table, *train)),
            Case(f"train, {IMAGES} images", measure(task, *train))]


@contextlib.contextmanager
def two_in_processes(place: Path) -> Iterator[List[Case]]:
    """Launchers on this machine, each of which takes itself for a host."""
    hosts, program, port = ["localhost", "127.0.0.2"], str(place / "first.py"), free_port()
    roots = [write_job(place / host, hosts, host) for host in hosts]

    def measure(words: Callable[[int], Sequence[str]]) -> Measure:
        starts = [(["sh", "-c", STAMPED, "sh", *words(number)],
                   {**environment(), "YMIR_EXC_TI_ROOT": str(root), "YMIR_EXC_MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"})
                  for number, root in enumerate(roots)]
        return lambda: seconds_of_all([popen(argv, environ) for argv, environ in starts])

    yield [Case("torchrun", measure(lambda number: torchrun(number, hosts[0], port, program, "--local_addr", hosts[number]))),
           Case("ymir-exc run --nproc", measure(lambda _: ours(program)))]


def environment() -> Dict[str, str]:
    """Of programs that this Python is to run."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}


def free_port() -> int:
    """A port that is free, as the next one nearly always is."""
    with socket.create_server(("", 0)) as found:
        return int(found.getsockname()[1])


# ------------------------------------------------------------------------------------------------------------------ the launchers

def torchrun(rank: int, master: str, port: int, program: str, *more: str) -> List[str]:
    """What torch itself has for it, on one of two hosts."""
    return ["torchrun", "--nnodes", "2", "--node_rank", str(rank), "--nproc_per_node", "1", "--master_addr", master,
            "--master_port", str(port), *more, program]


def ours(program: str) -> List[str]:
    """The same: who the hosts are is told by the job."""
    return ["ymir-exc", "run", "--platform", "ti", "--nproc", "1", "--", "python", program]


def popen(argv: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[str]:
    """Started, not waited for."""
    return subprocess.Popen(argv, env=dict(environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


if __name__ == "__main__":
    main()
