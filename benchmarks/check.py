"""Judging a dataset: `ymir-exc check` against the plain way, and against what the disk alone costs.

    python benchmarks/check.py [--images 100000] [--boxes 5] [--rounds 3] [--markdown]

Each line is the median of the rounds, each run a process of its own, after one that warmed the page cache. Ours judges index files,
annotations and pictures, by all rules. "one process" is the same without the others that it starts. The plain way judges no label: it is
`PIL.Image.open(path).verify()` for each picture, one by one, as datasets are often cleaned. The limit does no work on the data: it reads
the bytes of every annotation and every picture.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, Iterator, List

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SIDE = 64
_MOST_LINKS = 10_000    # of a file; file systems allow some tens of thousands


def jpeg(number: int) -> bytes:
    """A picture of `SIDE` x `SIDE` pixels; each of another grey."""
    import io

    from PIL import Image
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (number % 256,) * 3).save(buffer, "JPEG", quality=30)
    return buffer.getvalue()


def make(root: Path, images: int, boxes: int) -> None:
    """`/in` as the platform lays it out: hashed names in 256 folders. Pictures are links to a few files."""
    from ymir_exc.host import sample
    sample.write_sample(root, images=0)    # for env.yaml, config.yaml and the folders
    assets, annotations = root / "in/assets", root / "in/annotations"
    for folder in (assets, annotations):
        for number in range(256):
            (folder / f"{number:02x}").mkdir()
    lines: List[str] = []
    for number in range(images):
        name = hashlib.sha1(str(number).encode()).hexdigest()
        name = f"{name[-2:]}/{name}"
        if number % _MOST_LINKS == 0:
            original = assets / f"{name}.jpg"
            original.write_bytes(jpeg(number // _MOST_LINKS))
        else:
            os.link(original, assets / f"{name}.jpg")
        rows = ((i % 3, (number + 7 * i) % 32, 5 * i, (number + 7 * i) % 32 + 20 + i, 5 * i + 9) for i in range(boxes))
        (annotations / f"{name}.txt").write_text("".join(f"{c}, {x}, {y}, {X}, {Y}, -1.0, 0.0\n" for c, x, y, X, Y in rows))
        lines.append(f"/in/assets/{name}.jpg\t/in/annotations/{name}.txt\n")
    (root / "in/train-index.tsv").write_text("".join(lines[:-images // 10]))
    (root / "in/val-index.tsv").write_text("".join(lines[-images // 10:]))
    (root / "in/candidate-index.tsv").unlink()


def index(root: Path) -> Iterator[List[str]]:
    """Image and annotation path of each line, on this machine."""
    for name in ("train", "val"):
        with open(root / f"in/{name}-index.tsv", encoding="utf-8") as f:
            for line in f:
                yield [f"{root}{path}" for path in line.rstrip("\n").split("\t")]


def ours(root: Path) -> int:
    """All rules, in a process for each core."""
    from ymir_exc.host.check._dataset import check_input
    return len(list(check_input(root / "in")))


def one_process(root: Path) -> int:
    """All rules, in this process."""
    from ymir_exc.host.check import _dataset
    _dataset._POOL_FROM = sys.maxsize
    return ours(root)


def plain(root: Path) -> int:
    """What everybody writes."""
    from PIL import Image
    broken = 0
    for asset, _ in index(root):
        try:
            with Image.open(asset) as image:
                image.verify()
        except Exception:
            broken += 1
    return broken


def limit(root: Path) -> int:
    """Read all bytes."""
    for paths in index(root):
        for path in paths:
            fd = os.open(path, os.O_RDONLY)
            while os.read(fd, 1 << 20):
                pass
            os.close(fd)
    return 0


CONTENDERS = {f.__name__: f for f in (ours, one_process, plain, limit)}


def run_one(name: str, root: Path) -> None:
    """In a process of its own: print wall seconds, CPU seconds of it and its children, and peak memory."""
    import PIL.JpegImagePlugin

    from ymir_exc.host.check import _dataset
    assert PIL.JpegImagePlugin and _dataset    # loaded before the clock starts
    wall, before = time.perf_counter(), os.times()
    found = CONTENDERS[name](root)
    wall, after = time.perf_counter() - wall, os.times()
    assert found == 0, f"{name} found {found} faults in an intact dataset"
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps([wall, sum(after[:4]) - sum(before[:4]), int(peak.split()[1]) / 1024]))


def measure(name: str, root: Path) -> List[float]:
    """Wall and CPU seconds and peak MiB of one run."""
    done = subprocess.run([sys.executable, __file__, "--one", name, str(root)], check=True, stdout=subprocess.PIPE)
    return [float(value) for value in json.loads(done.stdout)]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--boxes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", action="store_true", help="write the table into RESULTS.md")
    parser.add_argument("--one", nargs=2)
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments.one[0], Path(arguments.one[1]))
        return
    with tempfile.TemporaryDirectory(prefix="ymir-bench-") as folder:
        root = Path(folder) / "data"
        make(root, arguments.images, arguments.boxes)
        measure("limit", root)    # warms the page cache
        rounds: List[Dict[str, List[float]]] = [{name: measure(name, root) for name in CONTENDERS} for _ in range(arguments.rounds)]
    lines = ["| way | wall | CPU | peak memory | wall, ours = 1 | CPU, ours = 1 |", "|---|---|---|---|---|---|"]
    for name in CONTENDERS:
        wall, cpu, memory = (statistics.median(done[name][i] for done in rounds) for i in range(3))
        ratios = [statistics.median(done[name][i] / done["ours"][i] for done in rounds) for i in range(2)]
        lines.append(f"| {name:12} | {wall:5.2f} s | {cpu:5.2f} s | {memory:4.0f} MiB | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    title = f"{arguments.images} images of {SIDE} x {SIDE} pixels x {arguments.boxes} boxes, median of {arguments.rounds}"
    text = "\n".join([title, "", *lines])
    print(text)
    if arguments.markdown:
        from core import write_section  # beside this program
        write_section("benchmarks/check.py", f"{__doc__.split(chr(10) * 2)[2].strip()}\n\n{text}")


if __name__ == "__main__":
    main()
