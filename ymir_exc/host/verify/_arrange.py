"""Changes a prepared task to what is met in the field: one function a row, each from a workspace to a workspace."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, List

import yaml

from ymir_exc import _files
from ymir_exc._yaml import load_mapping
from ymir_exc.host.verify._layout import open_to_all
from ymir_exc.host.workspace import Workspace

Arrange = Callable[[Workspace], Workspace]

BROKEN_NAME = "broken-image.jpg"
UNSEEN_CLASS = "never seen"
_CANDIDATES = 20    # copied, at most, where a row needs pictures of its own
RESERVED = {"class_names", "gpu_id", "gpu_count", "object_type", "task_id", "model_params_path", "pretrained_model_params", "run_mining",
             "run_infer", "export_format", "shm_size"}
_ODD_NAMES = ("图 片 {}{}", "two  blanks {}{}", "it's 100% #{}{}", "(é) [{}] & {{1}}{}", "-dash {}{}")


def nothing(space: Workspace) -> Workspace:
    """Leave the task as the platform prepares it."""
    return space


def as_strings(space: Workspace) -> Workspace:
    """Every number and truth value of the hyper-parameters as text, as the web form sends edited values."""
    def change(config: Dict[str, Any]) -> None:
        for key, value in config.items():
            if key not in RESERVED and isinstance(value, (bool, int, float)):
                config[key] = json.dumps(value)

    return _edit_config(space, change)


def without_falsy(space: Workspace) -> Workspace:
    """No hyper-parameter that is 0, false or empty, and no truth value: a user unticks it, and the web form drops it."""
    def change(config: Dict[str, Any]) -> None:
        for key in [key for key, value in config.items() if key not in RESERVED and (not value or isinstance(value, bool))]:
            del config[key]

    return _edit_config(space, change)


def unseen_class(space: Workspace) -> Workspace:
    """One more class, of which no image shows an object."""
    return _edit_config(space, lambda config: config.update(class_names=[*config["class_names"], UNSEEN_CLASS]))


def a_gpu(space: Workspace) -> Workspace:
    """A GPU is asked for."""
    return _edit_config(space, lambda config: config.update(gpu_id="0", gpu_count=1))


def no_candidates(space: Workspace) -> Workspace:
    """An empty candidate list."""
    _files.write_bytes(space.input / "candidate-index.tsv", b"", sync=False)
    return space


def broken_image(space: Workspace) -> Workspace:
    """One candidate more, which is no image."""
    def change(assets: Path) -> List[str]:
        names = _copy_candidates(space, assets, lambda _, name: name)
        _files.write_bytes(assets / BROKEN_NAME, b"this is no image", sync=False)
        return [BROKEN_NAME, *names]

    return _own_assets(space, "assets", change)


def odd_names(space: Workspace) -> Workspace:
    """Candidates whose names have blanks, quotes, brackets and Chinese letters, in such a folder."""
    def rename(n: int, name: str) -> str:
        return _ODD_NAMES[n % len(_ODD_NAMES)].format(n, os.path.splitext(name)[1])

    return _own_assets(space, "图 片 assets", lambda assets: _copy_candidates(space, assets, rename))


def odd_folder(space: Workspace) -> Workspace:
    """The same images through a folder of the host whose name has blanks and Chinese letters."""
    return _own_assets(space, "数据 assets (1)", lambda _: [])


def _edit_config(space: Workspace, change: Callable[[Dict[str, Any]], None]) -> Workspace:
    path = space.input / "config.yaml"
    config = load_mapping(str(path))
    change(config)
    _files.write_bytes(path, yaml.safe_dump(config, allow_unicode=True, default_flow_style=False).encode("utf-8"), sync=False)
    return space


def _own_assets(space: Workspace, folder: str, fill: Callable[[Path], List[str]]) -> Workspace:
    """Put a folder of the task's own in the place of the dataset's assets, where nothing may be written.

    Args:
        space: The task.
        folder: Its name.
        fill: Fills it and returns the candidates' names; with none, the folder gets links to all of the dataset's files.
    """
    assets = space.root / folder
    _files.make_folder(assets)
    names = fill(assets)
    if names:
        lines = "".join(f"{space.seen_input}/assets/{name}\n" for name in names)
        _files.write_bytes(space.input / "candidate-index.tsv", lines.encode("utf-8"), sync=False)
    else:
        _mirror(Path(os.path.realpath(space.input / "assets")), assets)
    open_to_all(assets)
    (space.input / "assets").unlink()
    (space.input / "assets").symlink_to(assets, target_is_directory=True)
    return space._replace(shared=(assets, *space.shared[1:]))


def _copy_candidates(space: Workspace, assets: Path, rename: Callable[[int, str], str]) -> List[str]:
    seen = f"{space.seen_input}/assets/"
    names = []
    for n, line in enumerate((space.input / "candidate-index.tsv").read_text(encoding="utf-8").split("\n")[:_CANDIDATES]):
        if line.startswith(seen):
            names.append(rename(n, os.path.basename(line)))
            _files.copy_file(space.input / "assets" / line[len(seen):], assets / names[-1])
    return names


def _mirror(source: Path, target: Path) -> None:
    """The same tree again; a file is a second name of the same one where the file system allows it, else a copy."""
    for root, _, files in os.walk(source):
        folder = target / os.path.relpath(root, source)
        _files.make_folder(folder)
        for name in files:
            try:
                os.link(os.path.join(root, name), folder / name)
            except OSError:
                _files.copy_file(os.path.join(root, name), folder / name)
