"""Outputs of tasks to report on: real images, labels, results and event files."""
from __future__ import annotations

import json
from pathlib import Path

import yaml

EVIL = "<b>line</b></script><script>window.ran=1</script><img src=x onerror=window.ran=1>.png"
CLASSES = ["cat", "dog"]

# name: (labels, found); a label is class and inclusive corners, a found object class, score and x, y, w, h.
# At 0.5: `a` is right, `b` misses a dog and has a false cat, the last is missed; at 0.25 it gets one false more.
IMAGES = {
    "a.png": ([(0, 10, 10, 49, 49)], [("cat", 0.9, (11, 11, 40, 40)), ("cat", 0.2, (60, 10, 20, 20))]),
    "b 图.png": ([(1, 10, 10, 49, 49)], [("cat", 0.8, (10, 10, 40, 40)), ("dog", 0.3, (60, 60, 20, 20))]),
    EVIL.replace("/", "∕"): ([(1, 20, 20, 59, 59)], [("dog", 0.4, (20, 20, 40, 40))]),
}


def write_events(folder: Path, curves):
    """Scalars as `SummaryWriter` writes them: tag to values, from step 0."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    writer = EventFileWriter(str(folder))
    for tag, values in curves.items():
        for step, value in enumerate(values):
            writer.add_event(Event(wall_time=1000.0 + step, step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))
    writer.close()


def write_yaml(path: Path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")


def write_inputs(root: Path, images, **config):
    """`in` with images and their labels: candidates that are the validation set too, as nobody else knows them."""
    from PIL import Image
    inside = root / "in"
    (inside / "annotations").mkdir(parents=True, exist_ok=True)
    (inside / "assets").mkdir(exist_ok=True)
    write_yaml(inside / "config.yaml", {"class_names": CLASSES, "export_format": "ark:raw", "task_id": "t0", "lr": 0.1, **config})
    write_yaml(inside / "env.yaml", {"task_id": "t0", "run_training": True, "input": {"root_dir": "/in"}})
    lines = []
    for n, (name, (labels, _)) in enumerate(images.items()):
        Image.new("RGB", (120, 90), ("#336699", "#996633", "#339966")[n % 3]).save(inside / "assets" / name)
        text = "".join(f"{', '.join(map(str, label))}, -1.0, 0.0\n" for label in labels)
        (inside / "annotations" / f"{n}.txt").write_text(text, encoding="utf-8")
        lines.append((f"/in/assets/{name}", f"/in/annotations/{n}.txt"))
    (inside / "val-index.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in lines), encoding="utf-8")
    (inside / "train-index.tsv").write_text("", encoding="utf-8")
    (inside / "candidate-index.tsv").write_text("".join(f"{a}\n" for a, _ in lines), encoding="utf-8")


def write_outputs(root: Path, images):
    """`out` of a training, a mining and an inference at once."""
    out = root / "out"
    for stage in ("epoch_0", "epoch_1"):
        (out / "models" / stage).mkdir(parents=True)
        (out / "models" / stage / "model.pt").write_bytes(b"weights")
    entry = {"stage_name": "epoch_1", "files": ["model.pt"], "timestamp": 1000, "mAP": 0.5}
    write_yaml(out / "models" / "result.yaml", {"best_stage_name": "epoch_1", "mAP": 0.5, "model_stages": {
        "epoch_0": {**entry, "stage_name": "epoch_0", "mAP": 0.25, "timestamp": 900}, "epoch_1": entry}})
    (out / "monitor.txt").write_text("t0\t2000.000000\t1.00\t2\t0\n", encoding="utf-8")
    (out / "monitor.txt").chmod(0o666)
    (out / "ymir-executor-out.log").write_text(f"PyTorch: 2.1.0\n\x1b[31mred\x1b[0m\nthe last {EVIL}\n", encoding="utf-8")
    write_events(out / "tensorboard", {"loss": [1.0, 0.5, 0.1], "map": [0.1, float("nan"), 0.5]})
    (out / "result.tsv").write_text("".join(f"/in/assets/{name}\t{3 - n}\n" for n, name in enumerate(images)), encoding="utf-8")
    found = {name: {"boxes": [{"class_name": label, "score": score, "box": dict(zip("xywh", box))} for label, score, box in objects]}
             for name, (_, objects) in images.items()}
    (out / "infer-result.json").write_text(json.dumps({"detection": found}, ensure_ascii=False), encoding="utf-8")


def write_task(root: Path, images=None):
    """Both; returns the folder that holds them."""
    images = IMAGES if images is None else images
    write_inputs(root, images)
    write_outputs(root, images)
    return root
