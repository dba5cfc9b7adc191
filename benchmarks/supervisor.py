"""What `ymir-exc run` costs: the time until the program starts, and the speed at which its output passes.

    python benchmarks/supervisor.py [ROUNDS]

Start: milliseconds from our exec to the program's first instruction (`date`), against the program alone and against a Python that does
nothing. Output: the same bytes through `ymir-exc run` and through `cat`. The rounds of all cases are mixed; medians are printed, of wall
time and of the CPU time of all processes, which a busy machine disturbs less.
"""
from __future__ import annotations

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
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    with tempfile.TemporaryDirectory() as folder:
        local, ymir = environments(Path(folder))
        show_start(measure([
            Case("the program alone", DATE, local), Case("python -c pass", [sys.executable, "-c", ""], local),
            Case("ymir-exc run, local", [*RUN, *DATE], local), Case("ymir-exc run, ymir", [*RUN, *DATE], ymir)], rounds))
        produce = f"head -c {OUTPUT_BYTES} /dev/zero"
        ours = f"'{sys.executable}' -m ymir_exc run -- {produce} 2>/dev/null"
        show_output(measure([
            Case("through cat", ["sh", "-c", f"{produce} | cat | cat >/dev/null"], local),
            Case("through ymir-exc run", ["sh", "-c", f"{ours} | cat >/dev/null"], local)], max(rounds // 3, 3)))


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


def show_start(found: Dict[str, List[Sample]]) -> None:
    """The medians, and what each case adds to the program alone."""
    alone = statistics.median(sample.start for sample in found["the program alone"])
    print(f"{'start':24} {'ms to start':>12} {'added':>8} {'ms in all':>10} {'ms CPU':>8}")
    for name, samples in found.items():
        start, wall, cpu = (1000 * statistics.median(column) for column in zip(*samples))
        print(f"{name:24} {start:12.1f} {start - 1000 * alone:8.1f} {wall:10.1f} {cpu:8.1f}")


def show_output(found: Dict[str, List[Sample]]) -> None:
    """The medians, against `cat`."""
    reference = [statistics.median(column) for column in zip(*found["through cat"])]
    print(f"\n{'output':24} {'MB/s':>12} {'ratio':>8} {'CPU ratio':>10}")
    for name, samples in found.items():
        _, wall, cpu = (statistics.median(column) for column in zip(*samples))
        print(f"{name:24} {OUTPUT_BYTES / wall / 1e6:12.0f} {reference[1] / wall:8.2f} {cpu / reference[2]:10.2f}")


if __name__ == "__main__":
    main()
