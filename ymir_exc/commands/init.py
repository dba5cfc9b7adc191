"""`ymir-exc init`."""
from __future__ import annotations

import argparse

from ymir_exc.commands import add_common

DESCRIPTION = "Write a new project: a small program that learns, its templates, Dockerfile and test. It builds and passes at once."
EXAMPLES = """\
  ymir-exc init my-detector --task det --framework torch
  ymir-exc init my-segmenter --task semantic-seg --framework none --tasks training,infer
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    from ymir_exc.host import project
    parser.add_argument("folder", metavar="DIR", help="the folder to write; must not exist, or be empty")
    parser.add_argument("--task", type=lambda name: project.SHORT.get(name, name), choices=tuple(project.KINDS), default="det",
                        help="what is to be found on images (det); seg and ins are short names of the two kinds of masks")
    parser.add_argument("--framework", choices=project.FRAMEWORKS, default="torch", help="what the model is made with; none: numpy (torch)")
    parser.add_argument("--tasks", default=",".join(project.TASKS), metavar="TASK,...",
                        help="what the image supports: training, and of mining and infer those wanted (all)")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write it, and say what to do next."""
    import json
    from pathlib import Path

    from ymir_exc.host import project
    made = project.write(Path(arguments.folder), kind=arguments.task, framework=arguments.framework,
                         tasks=[task.strip() for task in arguments.tasks.split(",") if task.strip()])
    if arguments.json:
        print(json.dumps({"folder": str(made.folder), "name": made.name, "files": made.files,
                          "commands": [command for command, _ in made.commands]}, ensure_ascii=False, indent=2))
        return 0
    print(f"{made.folder}: {len(made.files)} files; begin with README.md and app/start.py")
    if not arguments.quiet:
        print("\nnext:")
        for command, what in made.commands:
            print(*([f"  # {what}"] if what else []), f"  {command}", sep="\n")
    return 0
