"""What active learning is worth on the demo: whether labels that a score asks for teach more than labels at random.

    python benchmarks/mining.py                       # five seeds, some forty minutes on two cores
    python benchmarks/mining.py --seeds 1 --quick     # a look, which tells nothing
    python benchmarks/mining.py --markdown            # and write the table into RESULTS.md

For each seed: a pool in which most images show nothing and two of three classes are rare. The demo trains on LABELLED images drawn at
random, mines the rest of the pool, and trains anew on those and the BUDGET images that rank first. All as tasks of the platform, with the
demo's own start.py. mAP is that of the last training on images that are none of the pool's and show the classes evenly. Differences are
paired: of each seed's two trainings, which begin with the same images.
"""
from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from core import write_section  # noqa: E402

from ymir_exc import mining  # noqa: E402
from ymir_exc.host import launch, sample, workspace  # noqa: E402

DEMO = ROOT / "det-demo-tmi"
LABELLED, BUDGET = 40, 60
POOL = {"empty": 150, "only the frequent class": 70, "rare classes": 40}
STEPS, BATCH, SIZE = 500, 16, 128
Row = Tuple[str, str]    # image and annotation


class World:
    """One seed's images and their labels."""

    def __init__(self, root: Path, seed: int, candidates: int) -> None:
        self.root, self.seed = root / str(seed), seed
        sample.write_sample(self.root, images=400, candidates=candidates, seed=seed, in_root=str(self.root / "in"))
        tests = [self._rows(self.root / "in" / f"{split}-index.tsv") for split in ("train", "val")]
        self.test = tests[0] + tests[1]
        self.pool = self._pool(self._rows(next((self.root / "truth").glob("*index.tsv"))))
        self.known = self.pool[:LABELLED]
        self.rest = self.pool[LABELLED:]
        self.label = dict(self.pool)

    def _rows(self, path: Path) -> List[Row]:
        return [(line.split("\t")[0], line.split("\t")[1]) for line in path.read_text(encoding="utf-8").splitlines()]

    def _pool(self, rows: Sequence[Row]) -> List[Row]:
        """So many of each kind, in random order."""
        kinds: Dict[str, List[Row]] = {kind: [] for kind in POOL}
        for image, annotation in rows:
            classes = {line.split(",")[0] for line in Path(annotation).read_text(encoding="utf-8").splitlines()}
            kinds["empty" if not classes else "only the frequent class" if classes == {"0"} else "rare classes"].append((image, annotation))
        short = [kind for kind, count in POOL.items() if len(kinds[kind]) < count]
        if short:
            raise SystemExit(f"too few candidates: {', '.join(short)}")
        made = [row for kind, count in POOL.items() for row in kinds[kind][:count]]
        random.Random(self.seed).shuffle(made)
        return made

    def dataset(self, name: str, train: Sequence[Row] = (), candidates: Sequence[Row] = ()) -> Path:
        """A folder with these index files, over the same images."""
        made = self.root / "datasets" / name
        (made / "in").mkdir(parents=True)
        for folder in ("assets", "annotations"):
            (made / "in" / folder).symlink_to(self.root / "in" / folder)
        for split, rows in (("train", train), ("val", self.test)):
            (made / f"in/{split}-index.tsv").write_text("".join(f"{image}\t{label}\n" for image, label in rows), encoding="utf-8")
        (made / "in/candidate-index.tsv").write_text("".join(f"{image}\n" for image, _ in candidates), encoding="utf-8")
        for document in ("config.yaml", "env.yaml"):
            shutil.copy(self.root / "in" / document, made / "in" / document)
        env = yaml.safe_load((made / "in/env.yaml").read_text(encoding="utf-8"))
        env["input"]["root_dir"] = "/nowhere"    # so that paths stay as they are: the labels of the pool lie outside
        (made / "in/env.yaml").write_text(yaml.safe_dump(env), encoding="utf-8")
        return made

    def run(self, name: str, data: Path, task: str, model: Optional[Path] = None, **params: object) -> Path:
        """One task of the platform; its out folder."""
        space = workspace.prepare(self.root / "runs" / name, data, [task], model=model, params=params, templates=DEMO / "img-man")
        done = launch.run_local(space, [sys.executable, str(DEMO / "app/start.py")])
        if done.status:
            raise SystemExit(f"{name} failed:\n" + "\n".join(launch.tail(done.log, 20)))
        return space.output

    def train(self, name: str, rows: Sequence[Row], steps: int) -> Path:
        """Train for so many steps; the out folder."""
        epochs = max(1, steps // max(1, len(rows) // BATCH))
        return self.run(name, self.dataset(name, rows), "training", epochs=epochs, max_seconds=0, evaluations=1, batch_size=BATCH,
                        input_size=SIZE, seed=self.seed, cpu_processes=1)

    def score(self, algorithm: str, first: Path, steps: int) -> float:
        """The mAP after labelling what the algorithm puts first."""
        data = self.dataset(f"mine-{algorithm}", candidates=self.rest)
        out = self.run(f"mine-{algorithm}", data, "mining", first, mining_algorithm=algorithm)
        ranked = [line.split("\t")[0] for line in (out / "result.tsv").read_text(encoding="utf-8").splitlines()]
        chosen = [(image, self.label[image]) for image in ranked[:BUDGET]]
        return m_ap(self.train(f"train-{algorithm}", [*self.known, *chosen], steps))


def m_ap(out: Path) -> float:
    """The mAP of a training's best stage."""
    return float(workspace.best_stage(out)[1]["mAP"])


def table(found: Dict[str, List[float]], first: List[float]) -> List[str]:
    """A line for each algorithm, the best first."""
    lines = [f"| {LABELLED} images, before mining | {statistics.mean(first):.3f} | {spread(first):.3f} | - | - | - |"]
    chance = found["random"]
    for name in sorted(found, key=lambda name: -statistics.mean(found[name])):
        gains = [value - base for value, base in zip(found[name], chance)]
        mean, width = statistics.mean(gains), spread(gains) / len(gains) ** 0.5
        verdict = "-" if name == "random" else "yes" if mean > 2 * width and len(gains) > 1 else "no" if mean > -2 * width else "worse"
        gain = "-" if name == "random" else f"{mean:+.3f} ± {width:.3f}"
        lines.append(f"| {name} | {statistics.mean(found[name]):.3f} | {spread(found[name]):.3f} | {gain} | "
                     f"{sum(gain > 0 for gain in gains)} of {len(gains)} | {verdict} |")
    return lines


def spread(values: Sequence[float]) -> float:
    """Standard deviation over the seeds."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many pools and first draws (5)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    parser.add_argument("--algorithms", nargs="+", default=list(mining.scorers()), help="some of them; random is always among them")
    parser.add_argument("--jobs", type=int, default=max(1, len(os.sched_getaffinity(0))), help="trainings at once, one thread each")
    parser.add_argument("--markdown", action="store_true", help="write the table into RESULTS.md")
    arguments = parser.parse_args()
    steps = STEPS // 10 if arguments.quick else STEPS
    os.environ["OMP_NUM_THREADS"] = "1"
    names = list(dict.fromkeys(["random", *arguments.algorithms]))
    with tempfile.TemporaryDirectory(prefix="ymir-mining-") as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        worlds = list(pool.map(lambda seed: World(Path(folder), seed, 900), range(arguments.seeds)))
        firsts = list(pool.map(lambda world: world.train("first", world.known, steps), worlds))
        waiting = {(name, world.seed): pool.submit(world.score, name, firsts[world.seed], steps) for world in worlds for name in names}
        found: Dict[str, List[float]] = {name: [] for name in names}
        for world, out in zip(worlds, firsts):
            print(f"seed {world.seed}, before mining: mAP {m_ap(out):.3f}", flush=True)
        for (name, seed), future in waiting.items():
            found[name].append(future.result())
            print(f"seed {seed}, {name}: mAP {found[name][-1]:.3f}", flush=True)
        head = ["| chosen by | mAP | spread over seeds | above random, ± standard error | better in | by more than twice that |",
                "|---|---|---|---|---|---|"]
        lines = head + table(found, [m_ap(out) for out in firsts])
    print("\n".join(["", *lines]))
    if arguments.markdown and not arguments.quick:
        what = __doc__.partition("For each seed: ")[2].replace("LABELLED", str(LABELLED)).replace("BUDGET", str(BUDGET)).strip()
        pool_text = ", ".join(f"{count} {kind}" for kind, count in POOL.items())
        write_section("benchmarks/mining.py", "\n".join([
            f"For each of {arguments.seeds} seeds: {what}", "",
            f"Pool: {pool_text}. {STEPS} steps of {BATCH} images of {SIZE} pixels a training.", "", *lines]))


if __name__ == "__main__":
    main()
