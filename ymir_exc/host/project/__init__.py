"""Writes a new project: a small program that learns, its templates, Dockerfile and test, which build and pass as they are."""
from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

from ymir_exc import _files
from ymir_exc.errors import ConfigError
from ymir_exc.util import OBJECT_TYPE_FOLDERS

KINDS: Dict[str, int] = {name: number for number, name in OBJECT_TYPE_FOLDERS.items()}
"""What is to be found on images, and the platform's number of it."""
SHORT: Dict[str, str] = {"seg": "semantic-seg", "ins": "instance-seg"}
"""Other names of some of these."""
FRAMEWORKS: Tuple[str, ...] = ("torch", "none")
TASKS: Tuple[str, ...] = ("training", "mining", "infer")

_ASSETS = Path(__file__).resolve().parent / "assets"
_SUFFIX = ".j2"
_WITHOUT_DOT = ("dockerignore", "gitignore")    # stored so, as packaging tools pass over hidden files
_IN_WORDS = {"det": "object detection", "semantic-seg": "semantic segmentation", "instance-seg": "instance segmentation",
             "multi-modal": "objects that a text asks for"}


class Written(NamedTuple):
    """What `write` made.

    Attributes:
        folder: The project.
        files: Their paths relative to it.
        name: For the image: the folder's name in the letters that engines take.
        commands: What to do next, a command and what it is for.
    """

    folder: Path
    files: List[str]
    name: str
    commands: List[Tuple[str, str]]


def write(folder: Path, *, kind: str = "det", framework: str = "torch", tasks: Sequence[str] = TASKS) -> Written:
    """Write a project.

    Args:
        folder: Is made; may exist if it is empty.
        kind: One of `KINDS`, or of `SHORT`.
        framework: One of `FRAMEWORKS`.
        tasks: Of `TASKS`, training among them: the other two use the model that it leaves.

    Raises:
        ConfigError: An argument is none of these, or the folder is not empty.
        StorageError: A file cannot be written.
    """
    kind = SHORT.get(kind, kind)
    tasks = _checked(folder, kind, framework, tasks)
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "my-image"
    later = _later(tasks)
    values = {"kind": kind, "framework": framework, "tasks": tasks, "name": name, "later": later, "object_type": KINDS[kind],
              "kind_in_words": _IN_WORDS[kind], "has_masks": kind != "det"}
    made = {target: _rendered(source, values) for target, source in _sources(kind, framework, tasks)}    # all, before any is written
    for target, text in made.items():
        _files.make_folder((folder / target).parent)
        _files.write_bytes(folder / target, text.encode("utf-8"), sync=False)
    return Written(folder, sorted(made), name, _commands(folder, name, framework, later))


def _checked(folder: Path, kind: str, framework: str, tasks: Sequence[str]) -> List[str]:
    for what, value, known in (("kind of task", kind, KINDS), ("framework", framework, FRAMEWORKS)):
        if value not in known:
            raise ConfigError(f"there is no {what} {value!r}", hint=f"one of {', '.join(known)}")
    odd = [task for task in tasks if task not in TASKS]
    if odd or "training" not in tasks:
        raise ConfigError(f"a project cannot have the tasks {','.join(tasks) or 'none'!r}",
                          hint="training, and of mining and infer those that it supports: both use the model that training leaves")
    if os.path.lexists(folder) and not folder.is_dir():    # a link to nowhere too
        raise ConfigError(f"{folder} is not a folder", hint="choose a new one")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty", hint="choose a new folder")
    return [task for task in TASKS if task in tasks]


def _later(tasks: Sequence[str]) -> List[str]:
    """What is run with a trained model: both in one pass where there are both."""
    rest = [task for task in tasks if task != "training"]
    return ["+".join(rest)] if rest else []


def _sources(kind: str, framework: str, tasks: Sequence[str]) -> List[Tuple[str, Path]]:
    """Path in the project, and the template it is made from."""
    needless = {f"img-man/{task}-template.yaml" for task in TASKS if task not in tasks}
    needless |= {"app/masks.py"} if kind == "det" else set()
    needless |= {"app/regions.py"} if kind == "semantic-seg" else set()    # classes of pixels, and no objects
    needless |= {"app/predict.py"} if list(tasks) == ["training"] else set()
    found = []
    for root in (_ASSETS / "common", _ASSETS / framework):
        for path in sorted(root.rglob(f"*{_SUFFIX}")):
            target = path.relative_to(root).as_posix()[:-len(_SUFFIX)]
            target = f".{target}" if target in _WITHOUT_DOT else target
            if target not in needless:
                found.append((target, path))
    return found


def _rendered(source: Path, values: Dict[str, object]) -> str:
    try:
        import jinja2
    except ModuleNotFoundError as e:
        raise ConfigError("writing a project needs jinja2, which is not installed", hint='pip install "ymir-exc[host]"') from e
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,    # noqa: S701 - no HTML
                                     undefined=jinja2.StrictUndefined)
    return environment.from_string(source.read_text(encoding="utf-8")).render(values)


def _commands(folder: Path, name: str, framework: str, later: Sequence[str]) -> List[Tuple[str, str]]:
    from ymir_exc.host.launch import quoted
    run = "ymir-exc run --data my-data --task"
    place, needs = str(folder), "torch pytest" if framework == "torch" else "pytest"
    return [(quoted(["cd", f"./{place}" if place.startswith("-") else place]), ""),
            (f"pip install {needs}", "what it needs beside ymir-exc, and its test"),
            ("ymir-exc sample my-data --images 40", "a dataset to try it on"),
            (f"{run} training --out ymir-runs/training -- python app/start.py", "train on this machine, no container"),
            *((f"{run} {task} --model ymir-runs/training/out -- python app/start.py", "use the model") for task in later),
            ("python -m pytest", "the same, as a test"),
            (f"ymir-exc build . -t {name}", "the image, on the base layer ymir-exc"),
            (f"ymir-exc verify {name} --data my-data", "the image as the platform starts it")]
