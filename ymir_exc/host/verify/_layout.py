"""Completes a task's folders with what the platform leaves there beside what a program needs (contract 1.2)."""
from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

import yaml

from ymir_exc import _files
from ymir_exc._yaml import load_mapping
from ymir_exc.errors import ConfigError
from ymir_exc.host import workspace
from ymir_exc.host.workspace import Workspace

_SAME_FORMAT = {"": "voc", "det-voc": "voc", "det-ark": "ark", "seg-coco": "coco"}
_LOOKED_AT = 2000    # files of a dataset whose permissions are looked at
_EMPTY = ("idx-pred.tsv", "test-index.tsv", "pred-train-index.tsv", "pred-val-index.tsv", "pred-test-index.tsv")


def complete(space: Workspace, tasks: Sequence[str], model: Optional[Path]) -> Workspace:
    """Add the files that the platform adds and no program needs, and make all of it readable to any uid.

    Args:
        space: As `workspace.prepare` has made it for a container.
        tasks: Its tasks.
        model: The `out` folder of the training whose model was handed in.

    Returns:
        The workspace, with the TensorBoard folder among what is shared in a training.
    """
    if model is not None:
        _write(space.input / "models" / "ymir-info.yaml", _info(model))
    if "training" in tasks:
        pairs = [line for name in ("train", "val") for line in _lines(space.input / f"{name}-index.tsv")]
        _write_lines(space.input / "idx-gt.tsv", pairs)
        _write_lines(space.input / "idx-assets.tsv", [line.split("\t")[0] for line in pairs])
        for name in _EMPTY:
            _write_lines(space.input / name, [])
        space = _link_tensorboard(space)
    elif "mining" in tasks:
        assets = os.path.realpath(space.input / "assets")
        seen = f"{space.seen_input}/assets"
        hosts = [assets + line[len(seen):] if line.startswith(f"{seen}/") else line for line in _lines(space.input / "candidate-index.tsv")]
        _write_lines(space.input / "candidate-src-index.tsv", hosts)
    open_to_all(space.input)
    return space


def set_object_type(space: Workspace, object_type: int) -> None:
    """Write the image's object type into config.yaml, where the dataset's stands: on the platform they are the same."""
    path = space.input / "config.yaml"
    config = load_mapping(str(path))
    if config.get("object_type") != object_type:
        _write(path, {**config, "object_type": object_type})


def other_format(template: Dict[str, Any], data: Path) -> str:
    """What is to be known where a dataset's annotations are not as the platform would export them; '' where they are (contract 5.1).

    Args:
        template: Of the training.
        data: The dataset.
    """
    wanted, given = template.get("export_format"), load_mapping(str(data / "in" / "config.yaml")).get("export_format", "ark:raw")
    if _annotation_format(wanted) == _annotation_format(given):
        return ""
    asked = f"the template asks for {wanted}" if wanted else "the template has no export_format, so that the platform exports voc:raw"
    return f"{asked}, and this dataset has {given}"


def _annotation_format(export_format: Any) -> str:
    name = str(export_format or "").lower().split(":")[0]
    return _SAME_FORMAT.get(name, name)


def check_readable(data: Path) -> None:
    """Make sure that a container's uid, which is not the caller's, can read a dataset.

    Raises:
        ConfigError: It cannot.
    """
    for path in _first_files(data / "in", _LOOKED_AT):
        with contextlib.suppress(OSError):
            mode = path.stat().st_mode
            needed = 0o005 if stat.S_ISDIR(mode) else 0o004
            if mode & needed != needed:
                raise ConfigError(f"{path} is not readable for the container's uid", hint=f"chmod -R a+rX '{data}', or --user")


def open_to_all(folder: Path) -> None:
    """Let every uid read what was made below a folder, whatever the umask; files that are links to a dataset's stay as they are."""
    for path in (folder, *folder.rglob("*")):
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode):
            path.chmod(stat.S_IMODE(found.st_mode) | 0o555)
        elif stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            path.chmod(stat.S_IMODE(found.st_mode) | 0o444)


def _first_files(folder: Path, count: int) -> Iterator[Path]:
    left = count
    for root, _, files in os.walk(folder):
        yield Path(root)
        for name in files:
            yield Path(root, name)
            left -= 1
            if left <= 0:
                return


def _link_tensorboard(space: Workspace) -> Workspace:
    """The folder is a link to the host's, as for a web user's training, with a log in it that dangles inside the container."""
    target = space.root / "tensorboard"
    (space.output / "tensorboard").rmdir()
    _files.make_folder(target)
    target.chmod(0o777)
    (space.output / "tensorboard").symlink_to(target, target_is_directory=True)
    (target / "executor.log").symlink_to(space.output / "ymir-executor-out.log")
    return space._replace(shared=(*space.shared, target))


def _info(model: Path) -> Dict[str, Any]:
    """ymir-info.yaml, as the platform packs it with a model."""
    name, stage, _ = workspace.best_stage(model)
    return {"best_stage_name": name, "stages": {name: {**stage, "timestamp": int(stage.get("timestamp", time.time()))}},
            "attachments": {}, "evaluate_config": {}, "executor_config": {}, "package_version": "2.0.0",
            "task_context": {"producer": "ymir-exc", "task_type": "training"}}


def _lines(path: Path) -> List[str]:
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line]


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    _files.write_bytes(path, "".join(f"{line}\n" for line in lines).encode("utf-8"), sync=False)


def _write(path: Path, value: Dict[str, Any]) -> None:
    _files.write_bytes(path, yaml.safe_dump(value, allow_unicode=True).encode("utf-8"), sync=False)
