"""A training task with a small dataset in any of the platform's formats, and many processes that convert it at once."""
from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ymir_exc import _files


def png_head(width, height):
    """The first bytes of a PNG: enough to tell its size."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\x08\x02\0\0\0"


class Dataset:
    """Images with boxes `(class, xmin, ymin, xmax, ymax)`, written below the platform's `/in`."""

    def __init__(self, platform):
        self.platform = platform
        self.assets, self.annotations = platform.input / "assets", platform.input / "annotations"
        self.splits = {"train": [], "val": []}

    def add(self, split, name, size, *boxes, text=None):
        asset = self.assets / f"{name}.png"
        asset.parent.mkdir(parents=True, exist_ok=True)
        asset.write_bytes(png_head(*size))
        self.splits[split].append((asset, size, boxes, text))
        return asset

    def write(self, export_format="ark"):
        self.platform.config["export_format"] = f"{export_format}:raw"
        self.platform.write()
        for split, items in self.splits.items():
            self.platform.index(split, *(f"{item[0]}\t{self.annotation(item, export_format)}" for item in items))
        if export_format == "coco":
            self.write_coco()
        return self

    def annotation(self, item, export_format):
        asset, _, boxes, text = item
        if export_format == "coco":
            return self.annotations / "coco-annotations.json"
        path = self.annotations / asset.relative_to(self.assets).with_suffix({"ark": ".txt", "voc": ".xml"}[export_format])
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            text = self.ark(boxes) if export_format == "ark" else self.voc(boxes)
        path.write_text(text, encoding="utf-8")
        return path

    @staticmethod
    def ark(boxes):
        return "".join(", ".join(map(str, box)) + ", -1.0, 0.0\n" for box in boxes)

    def voc(self, boxes):
        names = self.platform.config["class_names"]
        return "<annotation>" + "".join(
            f"<object><name>{names[c]}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{X}</xmax><ymax>{Y}</ymax></bndbox></object>"
            for c, x, y, X, Y in boxes) + "</annotation>"

    def write_coco(self, segmentations=None):
        items = sorted(item for split in self.splits.values() for item in split)
        images, annotations = [], []
        for number, (asset, (width, height), boxes, _) in enumerate(items, 1):
            images.append({"id": number, "file_name": asset.name, "width": width, "height": height})
            for position, (c, x, y, X, Y) in enumerate(boxes):
                annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": c, "iscrowd": 0,
                                    "bbox": [x, y, X - x + 1, Y - y + 1], "area": 1, "confidence": -1,
                                    "segmentation": (segmentations or {}).get((asset.name, position), {})})
        (self.annotations / "coco-annotations.json").write_text(
            json.dumps({"images": images, "licenses": [], "categories": [], "annotations": annotations}), encoding="utf-8")


@pytest.fixture
def dataset(platform):
    """Two training images, one of them empty, and one for validation."""
    made = Dataset(platform)
    made.add("train", "ab/1 张", (64, 48), (0, 10, 20, 29, 27), (1, 0, 0, 63, 47))
    made.add("train", "cd/2", (100, 200))
    made.add("val", "ab/3", (10, 20), (1, 5, 5, 5, 5))
    return made.write()


@pytest.fixture
def overtaken(platform, monkeypatch):
    """Convert while another rank does it first: the lock is ours when its work is done. The result, whose files are the other's."""
    def files():
        return {path: path.lstat().st_ino for path in platform.out.rglob("*")}

    def run(convert):
        real, made = _files.lock, []

        @contextlib.contextmanager
        def lock(folder):
            monkeypatch.setattr(_files, "lock", real)
            made.append(convert())
            made.append(files())
            with real(folder):
                yield

        monkeypatch.setattr(_files, "lock", lock)
        assert convert() == made[0]
        assert files() == made[1]

    return run


@pytest.fixture
def at_once(platform):
    """Run a program in several processes that start together; returns what each printed."""
    def run(program, count=4, **environment):
        root = str(Path(__file__).resolve().parents[2])
        settings = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file), "PYTHONPATH": root, "PYTHONIOENCODING": "utf-8",
                    "WORLD_SIZE": str(count), **environment}
        waiting = f"import sys\nfrom ymir_exc import dataset_convert, util\nsys.stdin.read()\n{program}"
        ranks = [subprocess.Popen([sys.executable, "-c", waiting], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                  encoding="utf-8", env={**settings, "RANK": str(rank)}) for rank in range(count)]
        for rank in ranks:
            rank.stdin.close()
            rank.stdin = None
        printed = [rank.communicate(timeout=120)[0] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0] * count
        return printed

    return run
