"""`ymir-exc sample`."""
from __future__ import annotations

import argparse
import sys

from ymir_exc.commands import add_common

DESCRIPTION = "Write a small object detection dataset in the platform's layout, always the same for the same seed."
EXAMPLES = """\
  ymir-exc sample demo-run --images 400 --seed 0
  ymir-exc sample /tmp/voc --images 40 --format voc --in-root /tmp/voc/in
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("--images", type=int, default=400, metavar="N", help="labelled pictures, train and val together (400)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, another dataset (0)")
    parser.add_argument("--format", choices=("ark", "voc", "coco"), default="ark", help="of the annotations (ark)")
    parser.add_argument("--in-root", metavar="PATH", help="what the index files call OUT/in: /in, as in a container, if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier sample in OUT")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write it, and say what is in it."""
    import json
    from pathlib import Path

    from ymir_exc.host import sample
    is_shown = sys.stderr.isatty() and not arguments.quiet
    made = sample.write_sample(Path(arguments.out), images=arguments.images, seed=arguments.seed, export_format=arguments.format,
                               in_root=arguments.in_root, overwrite=arguments.overwrite, on_progress=_show_progress if is_shown else None)
    if arguments.json:
        print(json.dumps({"out": str(made.out), "format": made.export_format, "in_root": made.in_root, "images": made.images,
                          "objects": made.objects, "truth": str(made.out / "truth")}, ensure_ascii=False, indent=2))
        return 0
    print(f"{made.out}: {made.export_format} annotations, to be mounted at {made.in_root}")
    for split, count in made.images.items():
        objects = ", ".join(f"{number} {name}" for name, number in made.objects[split].items())
        print(f"  {split:10} {count:5} images   {objects}")
    print(f"  what is on the candidates, to judge by, is in {made.out / 'truth'}: no program sees it")
    return 0


def _show_progress(done: int, total: int) -> None:
    print(f"\rdrawing {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
