"""What `ymir-exc run` costs: the time until the program starts, and the speed at which its output passes.

    python benchmarks/supervisor.py [--rounds 15] [--quick] [--markdown]

Start: milliseconds from our exec to the program's first instruction (`date`), against the program alone and against a Python that does
nothing. Output: the same bytes through `ymir-exc run` and through `cat`. The rounds of all cases are mixed; medians are printed, of wall
time and of the CPU time of all processes, which a busy machine disturbs less.
"""
from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parent.parent
RUN = [sys.executable, "-m", "ymir_exc", "run", "--"]
DATE = ["date", "+%s%N"]
OUTPUT_BYTES = 1 << 30


class Case(NamedTuple):
    """One command, and the environment it runs in."""

    name: str
    argv: Sequence[str]
    environment: Dict[str, str]


class Sample(NamedTuple):
    """Seconds of one run."""

    start: float
    wall: float
    cpu: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the output, three rounds")
    parser.add_argument("--markdown", action="store_true", help="write the tables into RESULTS.md")
    arguments = parser.parse_args()
    rounds, size = (3, OUTPUT_BYTES // 16) if arguments.quick else (arguments.rounds, OUTPUT_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        local, ymir = environments(Path(folder))
        start = show_start(measure([
            Case("the program alone", DATE, local), Case("python -c pass", [sys.executable, "-c", ""], local),
            Case("ymir-exc run, local", [*RUN, *DATE], local), Case("ymir-exc run, ymir", [*RUN, *DATE], ymir)], rounds))
        print(start, end="\n\n", flush=True)
        produce = f"head -c {size} /dev/zero"
        ours = f"'{sys.executable}' -m ymir_exc run -- {produce} 2>/dev/null"
        output = show_output(measure([
            Case("through cat", ["sh", "-c", f"{produce} | cat | cat >/dev/null"], local),
            Case("through ymir-exc run", ["sh", "-c", f"{ours} | cat >/dev/null"], local)], max(rounds // 3, 3)), size)
        print(output)
    if arguments.markdown:
        from core import write_section  # beside this program
        name = "benchmarks/supervisor.py" + (" --quick" if arguments.quick else "")
        write_section(name, "\n\n".join([__doc__.split("\n\n", 2)[2].strip(), start, output]))


def environments(folder: Path) -> List[Dict[str, str]]:
    """Without a platform, and with a task of YMIR."""
    local = {**os.environ, "PYTHONPATH": str(ROOT)}
    local.pop("DEFAULT_ENV_FILE_PATH", None)
    (folder / "config.yaml").write_text("class_names: [a, b]\n" + "".join(f"key_{i}: {i}\n" for i in range(50)), encoding="utf-8")
    (folder / "env.yaml").write_text(
        f"task_id: t0\nprotocol_version: '1.1.0'\nrun_training: true\ninput: {{config_file: {folder}/config.yaml}}\n"
        f"output: {{root_dir: {folder}, models_dir: {folder}, monitor_file: {folder}/monitor.txt}}\n", encoding="utf-8")
    return [local, {**local, "DEFAULT_ENV_FILE_PATH": str(folder / "env.yaml")}]


def measure(cases: Sequence[Case], rounds: int) -> Dict[str, List[Sample]]:
    """Run all cases in turn, so many times."""
    found: Dict[str, List[Sample]] = {case.name: [] for case in cases}
    for number in range(rounds + 1):
        for case in cases:
            sample = measure_once(case)
            if number:    # the first round fills the caches
                found[case.name].append(sample)
    return found


def measure_once(case: Case) -> Sample:
    """Run one command; `date` tells when it started."""
    before, cpu = time.time_ns(), children_seconds()
    out = subprocess.run(case.argv, env=case.environment, stdout=subprocess.PIPE, check=True).stdout
    wall = (time.time_ns() - before) / 1e9
    started = (int(out) - before) / 1e9 if out.strip() else wall
    return Sample(started, wall, children_seconds() - cpu)


def children_seconds() -> float:
    """CPU time of all ended children so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def show_start(found: Dict[str, List[Sample]]) -> str:
    """The medians, and what each case adds to the program alone."""
    alone = statistics.median(sample.start for sample in found["the program alone"])
    lines = ["| start | ms to start | added | ms in all | ms CPU |", "|---|---|---|---|---|"]
    for name, samples in found.items():
        start, wall, cpu = (1000 * statistics.median(column) for column in zip(*samples))
        lines.append(f"| {name:20} | {start:6.1f} | {start - 1000 * alone:6.1f} | {wall:6.1f} | {cpu:6.1f} |")
    return "\n".join(lines)


def show_output(found: Dict[str, List[Sample]], size: int) -> str:
    """The medians, against `cat`."""
    reference = [statistics.median(column) for column in zip(*found["through cat"])]
    lines = ["| output | MB/s | speed, cat = 1 | CPU, cat = 1 |", "|---|---|---|---|"]
    for name, samples in found.items():
        _, wall, cpu = (statistics.median(column) for column in zip(*samples))
        lines.append(f"| {name:20} | {size / wall / 1e6:6.0f} | {reference[1] / wall:5.2f} | {cpu / reference[2]:5.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
