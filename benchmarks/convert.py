"""YMIR to COCO and to YOLO: this package against the plainest correct way, and against what the disk alone costs.

    python benchmarks/convert.py [--images 20000] [--boxes 10] [--rounds 3] [--markdown]

Each line is the median of the rounds, each run a process of its own, after one that warmed the page cache. The plain way is what a person
writes: a line at a time, `PIL.Image.open(...).size` for the image (a header, not decoded), a dict an object and `json.dump` at the end, or
one `open(..., "w")` a label. "plain, fast sizes" is the same with this package's header reader instead of Pillow, so that the rest can be
told apart. The limit does no work on the data: it reads the bytes of every annotation and the head of every image, and writes as many
bytes into as many files as the result has.
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Tuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WIDTH, HEIGHT = 640, 480
Size = Tuple[int, int]
RESULT_BYTES: Dict[str, int] = {}    # of the COCO file and of the largest label, for the limits


# ------------------------------------------------------------------------------------------------------------------- the dataset

def jpeg() -> bytes:
    """A small JPEG file that Pillow made, or, without Pillow, the segments that tell its size."""
    try:
        import io

        from PIL import Image
    except ModuleNotFoundError:
        return b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(10) + b"\xff\xc0\0\x11\x08" + struct.pack(">HH", HEIGHT, WIDTH) + bytes(900)
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(buffer, "JPEG", quality=30)
    return buffer.getvalue()


def make(root: Path, images: int, boxes: int) -> None:
    """`/in` as the platform lays it out: hashed names in 256 folders."""
    import hashlib
    assets, annotations, picture = root / "in/assets", root / "in/annotations", jpeg()
    for folder in (assets, annotations):
        for number in range(256):
            (folder / f"{number:02x}").mkdir(parents=True)
    lines = []
    for number in range(images):
        name = hashlib.sha1(str(number).encode()).hexdigest()
        name = f"{name[-2:]}/{name}"
        (assets / f"{name}.jpg").write_bytes(picture)
        rows = ((i % 3, (number + 37 * i) % 500, 20 * i, (number + 37 * i) % 500 + 80 + i, 20 * i + 90) for i in range(boxes))
        (annotations / f"{name}.txt").write_text("".join(f"{c}, {x}, {y}, {X}, {Y}, -1.0, 0.0\n" for c, x, y, X, Y in rows))
        lines.append(f"{assets}/{name}.jpg\t{annotations}/{name}.txt\n")
    (root / "in/train-index.tsv").write_text("".join(lines[:-1]))
    (root / "in/val-index.tsv").write_text(lines[-1])
    (root / "in/config.yaml").write_text("class_names: [gear, fish, mug]\nexport_format: ark:raw\n")
    inside = {"assets_dir": "assets", "config_file": "config.yaml", "training_index_file": "train-index.tsv",
              "val_index_file": "val-index.tsv"}
    (root / "in/env.yaml").write_text(json.dumps({
        "task_id": "t0", "run_training": True, "input": {key: f"{root}/in/{name}" for key, name in inside.items()},
        "output": {"root_dir": f"{root}/out"}}))


def index(root: Path) -> Iterator[List[str]]:
    """Image and annotation path of each training line."""
    with open(root / "in/train-index.tsv", encoding="utf-8") as f:
        for line in f:
            yield line.rstrip("\n").split("\t")


# ----------------------------------------------------------------------------------------------------------------- the contenders

def pillow_size(path: str) -> Size:
    """What everybody writes."""
    from PIL import Image
    with Image.open(path) as image:
        return image.size


def header_size(path: str) -> Size:
    """What this package does."""
    from ymir_exc.dataset_convert._image_size import image_size
    return image_size(path)


def coco_plain(root: Path, size: Callable[[str], Size] = pillow_size) -> None:
    """A line at a time into dicts, then `json.dump`."""
    data = {"images": [], "annotations": [], "categories": [{"id": i + 1, "name": n} for i, n in enumerate(("gear", "fish", "mug"))]}
    for asset, annotation in index(root):
        width, height = size(asset)
        image_id = len(data["images"])
        data["images"].append({"id": image_id, "file_name": asset, "width": width, "height": height})
        with open(annotation, encoding="utf-8") as f:
            for line in f:
                if not line.strip():
                    continue
                fields = line.split(",")
                class_id, xmin, ymin, xmax, ymax = (int(field) for field in fields[:5])
                quality = float(fields[5]) if len(fields) > 5 else -1.0
                w, h = xmax - xmin + 1, ymax - ymin + 1
                data["annotations"].append({
                    "id": len(data["annotations"]) + 1, "image_id": image_id, "category_id": class_id + 1, "bbox": [xmin, ymin, w, h],
                    "area": w * h, "segmentation": [[xmin, ymin, xmin, ymin + h, xmin + w, ymin + h, xmin + w, ymin]], "iscrowd": 0,
                    "score": 1.0, "bbox_quality": quality if quality >= 0 else 1})
    with open(root / "out/plain.json", "w", encoding="utf-8") as f:
        json.dump(data, f)


def yolo_plain(root: Path, size: Callable[[str], Size] = pillow_size) -> None:
    """A line at a time, a file at a time."""
    labels = root / "out/plain-labels"
    with open(root / "out/plain-index.txt", "w", encoding="utf-8") as images:
        for asset, annotation in index(root):
            width, height = size(asset)
            lines = []
            with open(annotation, encoding="utf-8") as f:
                for line in f:
                    if not line.strip():
                        continue
                    class_id, xmin, ymin, xmax, ymax = (int(field) for field in line.split(",")[:5])
                    xmin, ymin, xmax, ymax = max(xmin, 0), max(ymin, 0), min(xmax + 1, width), min(ymax + 1, height)
                    lines.append(f"{class_id} {(xmin + xmax) / 2 / width} {(ymin + ymax) / 2 / height} "
                                 f"{(xmax - xmin) / width} {(ymax - ymin) / height}")
            target = labels / os.path.relpath(annotation, root / "in/annotations")
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "w", encoding="utf-8") as f:
                f.write("\n".join(lines))
            images.write(f"{asset}\n")


def coco_fast_sizes(root: Path) -> None:
    """The plain way, with sizes from this package."""
    coco_plain(root, header_size)


def yolo_fast_sizes(root: Path) -> None:
    """The plain way, with sizes from this package."""
    yolo_plain(root, header_size)


def coco_ours(_: Path) -> None:
    """This package; both splits."""
    from ymir_exc.dataset_convert import convert_ymir_to_coco
    convert_ymir_to_coco()


def yolo_ours(_: Path) -> None:
    """This package; both splits."""
    from ymir_exc import util
    from ymir_exc.dataset_convert import convert_ymir_to_yolov5
    convert_ymir_to_yolov5(util.get_merged_config())


def read_all(root: Path) -> None:
    """The bytes that any converter must read."""
    for asset, annotation in index(root):
        for path, most in ((asset, 1024), (annotation, 1 << 20)):
            fd = os.open(path, os.O_RDONLY)
            os.read(fd, most)
            os.close(fd)


def coco_limit(root: Path) -> None:
    """Read, and write one file of the same size."""
    read_all(root)
    with open(root / "out/limit.json", "wb") as f:
        f.write(bytes(os.path.getsize(root / "out/size-of-coco")))
        os.fsync(f.fileno())


def yolo_limit(root: Path) -> None:
    """Read, and create as many files."""
    read_all(root)
    for number in range(256):
        os.makedirs(root / f"out/limit/{number:02x}")
    text = bytes((root / "out/size-of-label").stat().st_size)
    for position, _ in enumerate(index(root)):
        fd = os.open(f"{root}/out/limit/{position % 256:02x}/{position}.txt", os.O_WRONLY | os.O_CREAT)
        os.write(fd, text)
        os.close(fd)


def coco_again(root: Path) -> None:
    """The second rank, or the second call: find out that nothing has to be done."""
    coco_ours(root)


CONTENDERS = {f.__name__: f for f in (
    coco_plain, coco_fast_sizes, coco_ours, coco_again, coco_limit, yolo_plain, yolo_fast_sizes, yolo_ours, yolo_limit)}


# --------------------------------------------------------------------------------------------------------------------- measuring

def run_one(name: str, root: Path) -> None:
    """In a process of its own: print wall and CPU seconds and peak memory."""
    import PIL.Image

    from ymir_exc import dataset_convert, util
    assert PIL.Image and dataset_convert    # loaded before the clock starts
    util.get_merged_config()
    wall, cpu = time.perf_counter(), time.process_time()
    CONTENDERS[name](root)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps([wall, cpu, int(peak.split()[1]) / 1024]))


def measure(name: str, root: Path) -> List[float]:
    """Wall and CPU seconds and peak MiB of one run."""
    if name != "coco_again":
        shutil.rmtree(root / "out", ignore_errors=True)
    (root / "out").mkdir(exist_ok=True)
    for mark, size in (("size-of-coco", RESULT_BYTES.get("coco", 0)), ("size-of-label", RESULT_BYTES.get("label", 0))):
        with open(root / "out" / mark, "wb") as f:
            f.truncate(size)
    environment = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(root / "in/env.yaml")}
    done = subprocess.run([sys.executable, __file__, "--one", name, str(root)], check=True, stdout=subprocess.PIPE, env=environment)
    return [float(value) for value in json.loads(done.stdout)]


def warm_up(root: Path) -> None:
    """Also checks that both ways give the same boxes, and notes how large the results are."""
    measure("coco_ours", root)
    ours = json.loads((root / "out/ymir_dataset/ymir_train.json").read_text())
    RESULT_BYTES["coco"] = (root / "out/ymir_dataset/ymir_train.json").stat().st_size
    measure("coco_plain", root)
    plain = json.loads((root / "out/plain.json").read_text())
    assert ours["images"] == plain["images"] and ours["annotations"] == plain["annotations"]
    measure("yolo_ours", root)
    labels = {path.relative_to(root / "out/labels"): path.read_bytes() for path in (root / "out/labels").rglob("*.txt")}
    RESULT_BYTES["label"] = max(map(len, labels.values()))
    measure("yolo_plain", root)
    plain_labels = {path.relative_to(root / "out/plain-labels"): path.read_bytes() for path in (root / "out/plain-labels").rglob("*.txt")}
    assert all(labels[path] == content for path, content in plain_labels.items()) and len(plain_labels) == len(labels) - 1


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--boxes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", action="store_true", help="write the table into RESULTS.md")
    parser.add_argument("--one", nargs=2)
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments.one[0], Path(arguments.one[1]))
        return
    with tempfile.TemporaryDirectory(prefix="ymir-bench-") as folder:
        root = Path(folder)
        make(root, arguments.images, arguments.boxes)
        warm_up(root)
        rounds = [{name: measure(name, root) for name in CONTENDERS} for _ in range(arguments.rounds)]
    lines = ["| way | wall | CPU | peak memory | wall, ours = 1 | CPU, ours = 1 |", "|---|---|---|---|---|---|"]
    for name in CONTENDERS:
        wall, cpu, memory = (statistics.median(done[name][i] for done in rounds) for i in range(3))
        ours = name.split("_")[0] + "_ours"
        ratios = [statistics.median(done[name][i] / done[ours][i] for done in rounds) for i in range(2)]
        lines.append(f"| {name:15} | {wall:5.2f} s | {cpu:5.2f} s | {memory:4.0f} MiB | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    text = "\n".join([f"{arguments.images} images x {arguments.boxes} boxes, median of {arguments.rounds}", "", *lines])
    print(text)
    if arguments.markdown:
        from core import write_section  # beside this program
        write_section("benchmarks/convert.py", f"{__doc__.split(chr(10) * 2)[2].strip()}\n\n{text}")


if __name__ == "__main__":
    main()
