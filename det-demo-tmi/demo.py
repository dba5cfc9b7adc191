"""Runs the demo detector as the platform would: training, then mining and inference in one task with the trained model.

    python det-demo-tmi/demo.py                    # local processes
    python det-demo-tmi/demo.py --engine docker    # the image, in containers
"""
from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

import yaml

from ymir_exc.errors import EXIT_FAILED, YmirError
from ymir_exc.host import launch, runner, sample, sheet, show, workspace

HERE = Path(__file__).resolve().parent
TEMPLATES = HERE / "img-man"
EXIT_INTERRUPTED = 130    # what a shell gives for Ctrl-C


def main() -> int:
    """Make the dataset, run both tasks, show what came out; returns the exit status."""
    options = _options()
    try:
        data = options.out / f"dataset-{options.images}"
        sample.write_sample(data, images=options.images, overwrite=True)    # the same every time
        runs = {}
        for name, tasks in (("training", ["training"]), ("mining+infer", ["mining", "infer"])):
            space, run = _run(name, tasks, data, options)
            if run.status:
                return _failed(name, run)
            runs[name] = (space, run)
        _report(runs, options.out)
    except YmirError as e:
        print(f"demo: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("local", "docker", "podman"), default="local", help="where the programs run")
    parser.add_argument("--image", default="ymir-exc-det-demo", help="the demo image, for an engine")
    parser.add_argument("--out", type=Path, default=Path("demo-run"), help="folder for the dataset and the results")
    parser.add_argument("--images", type=int, default=400, help="labelled images of the dataset")
    parser.add_argument("--param", action="append", default=[], metavar="KEY=VALUE", type=runner.parameter,
                        help="a hyper-parameter of the training")
    return parser.parse_args()


def _run(name: str, tasks: Sequence[str], data: Path, options: argparse.Namespace) -> Any:
    root: Path = options.out / name
    if root.is_dir() and {path.name for path in root.iterdir()} <= {"in", "out"}:    # of an earlier demo, perhaps an interrupted one
        shutil.rmtree(root)
    in_container = options.engine != "local"
    model = None if "training" in tasks else options.out / "training" / "out"
    space = workspace.prepare(root, data, tasks, templates=TEMPLATES, model=model, in_container=in_container,
                              params=dict(options.param) if "training" in tasks else {})
    with show.live(name) as update:
        if in_container:
            return space, launch.run_container(space, options.image, engine=options.engine, on_progress=update)
        return space, launch.run_local(space, [sys.executable, str(HERE / "app" / "start.py")], on_progress=update)


def _failed(name: str, run: launch.Run) -> int:
    print("\n".join(launch.tail(run.log)), file=sys.stderr)
    print(f"demo: {name} failed with status {run.status}; all it said is in {run.log}", file=sys.stderr)
    return EXIT_FAILED


def _report(runs: Dict[str, Any], out: Path) -> None:
    (training, trained), (inference, inferred) = runs["training"], runs["mining+infer"]
    name, _, files = workspace.best_stage(training.output)
    detections = json.loads((inference.output / "infer-result.json").read_text(encoding="utf-8"))["detection"]
    ranking = [line.split("\t") for line in (inference.output / "result.tsv").read_text(encoding="utf-8").splitlines()]
    on_disk = [path.replace(inference.seen_input, str(inference.input), 1) for path, _ in ranking]
    class_names = yaml.safe_load((inference.input / "config.yaml").read_text(encoding="utf-8"))["class_names"]
    picture = out.resolve() / "detections.png"
    sheet.draw(picture, on_disk[:24], detections, class_names)
    result = yaml.safe_load((training.output / "models/result.yaml").read_text(encoding="utf-8"))
    stages = [[key, f"{one['mAP50']:.3f}" if "mAP50" in one else "-", f"{one['mAP']:.3f}", "best" if key == name else ""]
              for key, one in sorted(result["model_stages"].items(), key=lambda item: int(item[1]["timestamp"]))]
    show.table(f"Training: {trained.seconds:.0f} s, {_speed(trained)} images/s", ["stage", "mAP50", "mAP", ""], stages, numbers=(1, 2))
    algorithm = yaml.safe_load((inference.input / "config.yaml").read_text(encoding="utf-8")).get("mining_algorithm", "")
    show.table(f"Mining by {algorithm}: the images most worth labelling", ["", "image", "score"],
               [[str(n), Path(path).name, f"{float(score):.4f}"] for n, (path, score) in enumerate(ranking[:5], 1)], numbers=(0, 2))
    boxes: List[Any] = [box for image in detections.values() for box in image["boxes"]]
    show.table("Mining and inference in one pass", ["images", "detections", "images/s", "seconds with start and end"],
               [[str(len(detections)), str(len(boxes)), _speed(inferred), f"{inferred.seconds:.0f}"]], numbers=(0, 1, 2, 3))
    rows = [["model", str(files[0])], ["ranking", str(inference.output / "result.tsv")],
            ["detections", str(inference.output / "infer-result.json")], ["picture", str(picture)],
            ["curves", launch.quoted(["tensorboard", "--logdir", str(training.output / "tensorboard")])], ["log", str(trained.log)]]
    width = max(len(row[0]) for row in rows)
    print("\n".join(f"  {key:<{width}}  {value}" for key, value in rows))


def _speed(run: launch.Run) -> str:
    """What the program has said in its log, now and then or once."""
    found = re.findall(r"(\d+) images/s", run.log.read_text(encoding="utf-8", errors="replace"))
    return f"{statistics.median(map(int, found)):.0f}" if found else "?"


if __name__ == "__main__":
    sys.exit(main())
