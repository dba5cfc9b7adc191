"""What the demo detector learns in which time, how fast it is, and where the time goes.

    python benchmarks/detector.py                 # some ten minutes, most of them training
    python benchmarks/detector.py --quick         # one short training
    python benchmarks/detector.py --device cuda   # on a GPU
    python benchmarks/detector.py --markdown      # and write the tables into RESULTS.md

The curve: trainings from scratch on the sample dataset, as tasks of the platform, each given so many seconds; evaluated on the validation
split. The parts: medians of wall seconds over batches of the same images, everything else at rest.
"""
from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "det-demo-tmi/app")]
from ymir_exc.integrations import torchrun  # noqa: E402

torchrun.tune_cpu()    # before torch is loaded, as in the demo
import numpy as np  # noqa: E402
import torch  # noqa: E402
from core import write_section  # noqa: E402

import checkpoint  # noqa: E402
import hyper  # noqa: E402
import predict  # noqa: E402
from augment import augment  # noqa: E402
from data import Batch, DetectionDataset, collate, read_truths  # noqa: E402
from loss import detection_loss  # noqa: E402
from model import Detector, centres  # noqa: E402
from optim import make_optimisers  # noqa: E402
from ymir_exc import dataset_reader, images, settings  # noqa: E402
from ymir_exc.env import DatasetType  # noqa: E402
from ymir_exc.host import launch, sample, workspace  # noqa: E402

SIZE, BATCH = 192, 16
SECONDS = (30, 60, 110, 300)
FEW, MANY = 1000, 9000    # images of two inferences, whose difference in time is that of the images alone


def curve(root: Path, data: Path, seconds: List[int], gpu_id: str) -> Tuple[List[str], Path]:
    """A line for each training, and the last one's results."""
    lines = ["| `max_seconds` | seconds in all | epochs | mAP50 | mAP | forward alone before it, and after, images/s |",
             "|---|---|---|---|---|---|"]
    for limit in seconds:
        params = {"max_seconds": limit, "epochs": 10_000, "evaluations": 1, "gpu_id": gpu_id}
        space = workspace.prepare(root / str(limit), data, ["training"], params=params, templates=ROOT / "det-demo-tmi/img-man")
        speeds = [forward_speed(gpu_id)]
        done = launch.run_local(space, [sys.executable, str(ROOT / "det-demo-tmi/app/start.py")])
        if done.status:
            raise SystemExit("\n".join(launch.tail(done.log, 20)))
        speeds.append(forward_speed(gpu_id))
        name, stage, _ = workspace.best_stage(space.output)
        lines.append(f"| {limit} | {done.seconds:.0f} | {name.partition('_')[2]} | {stage['mAP50']:.3f} | {stage['mAP']:.3f} | "
                     f"{speeds[0]:.0f}, {speeds[1]:.0f} |")
        print(lines[-1], flush=True)
    return lines, space.output


def forward_speed(gpu_id: str) -> float:
    """Images/s of a second of nothing but forward passes: a machine that others share is not always as quick."""
    device = torch.device("cuda" if gpu_id else "cpu")
    model, batch, seconds = Detector(3).eval().to(device), torch.rand(BATCH, 3, SIZE, SIZE, device=device), []
    end = time.perf_counter() + 1
    with torch.no_grad(), torchrun.mixed_precision(device):
        while (start := time.perf_counter()) < end:
            model(batch).logits.sum().item()
            seconds.append(time.perf_counter() - start)
    return BATCH / statistics.median(seconds)


class Parts:
    """Seconds an image of each part, measured in turn."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seen: Dict[str, List[float]] = {}

    def measure(self, name: str, count: int, work: Callable[[], Any]) -> Any:
        """Do it, and keep the seconds an image."""
        self._wait()
        start = time.perf_counter()
        made = work()
        self._wait()
        self.seen.setdefault(name, []).append((time.perf_counter() - start) / count)
        return made

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def __getitem__(self, name: str) -> float:
        return statistics.median(self.seen[name])


def of_training(parts: Parts, rounds: int) -> None:
    """A step at full size, part by part, and as one."""
    truths = read_truths(DatasetType.TRAINING)
    dataset = DetectionDataset(truths, SIZE, 1024, images.BrokenImages(len(truths), 0))
    model = Detector(3).to(parts.device).train()
    optimisers = make_optimisers(model, 0.01)
    for number in range(rounds):
        chosen = range(number * BATCH % (len(truths) - BATCH), len(truths))[:BATCH]
        parts.measure("decode", BATCH, lambda chosen=chosen: [images.load_image(truths[n].path, SIZE) for n in chosen])
        samples = parts.measure("decode, resize", BATCH, lambda chosen=chosen: [dataset[n] for n in chosen])
        batch = Batch(*(part.to(parts.device) for part in collate(samples)))    # type: ignore[union-attr]
        ready = parts.measure("augment", BATCH, lambda batch=batch: augment(batch, SIZE))
        with torchrun.mixed_precision(parts.device):
            found = parts.measure("forward", BATCH, lambda ready=ready: model(ready.images))
        loss = parts.measure("loss", BATCH, lambda found=found, ready=ready: detection_loss(model, found, centres(ready.images), ready))
        parts.measure("backward", BATCH, lambda loss=loss: loss.total.backward())
        parts.measure("optimiser", BATCH, lambda: [optimiser.step() for optimiser in optimisers])
        model.zero_grad()


def of_inference(parts: Parts, rounds: int, weights: Path) -> None:
    """The pipeline as it runs, with a model that has learned something, and what bounds it."""
    paths = [path for path, _ in dataset_reader.item_paths(DatasetType.VALIDATION)]
    model = checkpoint.load(str(weights)).model.to(parts.device).eval()
    wanted = hyper.PredictHyper()
    squares, places = zip(*(images.load_square(path, SIZE) for path in paths[:BATCH]))
    batch = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).to(parts.device)

    def refuse(_: str, error: Exception) -> None:
        raise error

    with ThreadPoolExecutor() as pool:
        for _ in range(rounds):
            parts.measure("pipeline", len(paths), lambda: list(predict.predict(model, paths, SIZE, wanted, refuse)))
            parts.measure("decode alone", len(paths), lambda: list(pool.map(lambda path: images.load_square(path, SIZE), paths)))
            for _ in range(len(paths) // BATCH):
                with torch.no_grad(), torchrun.mixed_precision(parts.device):
                    parts.measure("forward alone", BATCH, lambda: model(batch))
                parts.measure("forward, post-process", BATCH, lambda: predict.detect(model, batch, places, wanted))


FORWARD = f"""
import os, statistics, sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "det-demo-tmi/app")!r}]
from ymir_exc.integrations import torchrun
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
if sys.argv[1] == "tuned":
    torchrun.tune_cpu()
import torch
from model import Detector
model, images, seconds = Detector(3).eval(), torch.rand({BATCH}, 3, {SIZE}, {SIZE}), []
with torch.no_grad():
    for _ in range(50):
        start = time.perf_counter()
        model(images)
        seconds.append(time.perf_counter() - start)
print(statistics.median(seconds))
"""


def of_memory(rounds: int) -> float:
    """How many times as fast the forward pass is where `torchrun.tune_cpu` has the C library keep memory: processes taken in turn."""
    seen: Dict[str, List[float]] = {"tuned": [], "as it is": []}
    for _ in range(rounds):
        for name, seconds in seen.items():
            made = subprocess.run([sys.executable, "-c", FORWARD, name], stdout=subprocess.PIPE, text=True, check=True)
            seconds.append(float(made.stdout))
    return statistics.median(seen["as it is"]) / statistics.median(seen["tuned"])


def of_the_task(root: Path, data: Path, trained: Path, gpu_id: str) -> Tuple[float, float, float]:
    """Of inference as a task of the platform, results written: seconds to start and end, and seconds an image.

    The third are those of the forward pass alone, measured before, between and after.
    """
    images_in = [path for path, _ in dataset_reader.item_paths(DatasetType.TRAINING)]
    seconds, forward = [], [1 / forward_speed(gpu_id)]
    for count in (FEW, MANY):
        listed = data / "in/candidate-index.tsv"
        kept, links = listed.read_bytes(), root / f"links-{count}"
        links.mkdir()
        for number in range(count):
            (links / f"{number}.jpg").symlink_to(images_in[number % len(images_in)])
        listed.write_text("".join(f"{links}/{number}.jpg\n" for number in range(count)), encoding="utf-8")
        space = workspace.prepare(root / f"infer-{count}", data, ["infer"], model=trained, params={"gpu_id": gpu_id},
                                  templates=ROOT / "det-demo-tmi/img-man")
        done = launch.run_local(space, [sys.executable, str(ROOT / "det-demo-tmi/app/start.py")])
        listed.write_bytes(kept)
        if done.status:
            raise SystemExit("\n".join(launch.tail(done.log, 20)))
        seconds.append(done.seconds)
        forward.append(1 / forward_speed(gpu_id))
    each = (seconds[1] - seconds[0]) / (MANY - FEW)
    return seconds[0] - FEW * each, each, statistics.mean(forward)


def tables(parts: Parts, start: float, each: float, forward: float) -> List[str]:
    """Where the time goes; of an inference as a task, what `of_the_task` returns."""
    step = [("augment", "flips, turns, colours"), ("forward", ""), ("loss", ""), ("backward", ""), ("optimiser", "Muon, AdamW")]
    total = sum(parts[name] for name, _ in step)
    lines = [f"Training, a step of {BATCH} images of {SIZE} pixels: {1 / total:.0f} images/s; forward alone would be "
             f"{1 / parts['forward']:.0f}.", "", "| part | ms an image | share |", "|---|---|---|"]
    lines += [f"| {name}{f' ({note})' if note else ''} | {1e3 * parts[name]:.2f} | {parts[name] / total:.0%} |" for name, note in step]
    lines += [f"| once, into memory: decode | {1e3 * parts['decode']:.2f} | - |",
              f"| once: resize | {1e3 * (parts['decode, resize'] - parts['decode']):.2f} | - |", ""]
    post = parts["forward, post-process"] - parts["forward alone"]
    times = each / forward
    return [*lines, f"Inference as a task of {MANY} images, results written: {1 / each:.0f} images/s, {times:.2f} times the forward pass; "
            f"its start and end take {start:.1f} s more.", "",
            "| what | images/s |", "|---|---|", f"| the task | {1 / each:.0f} |",
            f"| beside it: forward alone, all cores | {1 / forward:.0f} |",
            f"| within one process, decoding beside the model | {1 / parts['pipeline']:.0f} |",
            f"| limit: forward alone, all cores | {1 / parts['forward alone']:.0f} |",
            f"| limit: decode and resize alone, all cores | {1 / parts['decode alone']:.0f} |", f"| post-process alone | {1 / post:.0f} |"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short training, few rounds")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--seconds", type=int, nargs="+", default=list(SECONDS), help="lengths of the trainings")
    parser.add_argument("--markdown", action="store_true", help="write the tables into RESULTS.md")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(prefix="ymir-detector-") as folder:
        root = Path(folder)
        sample.write_sample(root / "data", images=400, in_root=str(root / "data/in"))
        settings.DEFAULT_ENV_FILE_PATH = str(root / "data/in/env.yaml")
        parts = Parts(torch.device(arguments.device))
        of_training(parts, 10 if arguments.quick else 60)
        gpu_id = "0" if arguments.device == "cuda" else ""
        trainings, trained = curve(root, root / "data", [20] if arguments.quick else arguments.seconds, gpu_id)
        of_inference(parts, 2 if arguments.quick else 10, workspace.best_stage(trained)[2][0])
        lines = [*trainings, "", *tables(parts, *of_the_task(root, root / "data", trained, gpu_id))]
        if not gpu_id:
            times = of_memory(1 if arguments.quick else 5)
            lines += ["", f"With memory kept by `torchrun.tune_cpu` the forward pass is {times:.2f} times as fast as without."]
        print("\n".join(["", *lines]))
    if arguments.markdown and not arguments.quick:
        where = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
        what = " ".join(__doc__.partition("The curve: ")[2].split())
        write_section("benchmarks/detector.py" + ("" if where == "CPU" else f" --device {arguments.device}"),
                      "\n".join([f"On the {where}, torch {torch.__version__}. The curve: {what}", "", *lines]))


if __name__ == "__main__":
    main()
