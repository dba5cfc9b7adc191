"""Reads an image's templates as the platform does: `docker run --rm IMAGE cat /img-man/...` (contract 1.3)."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ymir_exc import _files
from ymir_exc._yaml import load
from ymir_exc.errors import ConfigError
from ymir_exc.host.engine import Answer, Engine
from ymir_exc.host.workspace import TASKS

FOLDERS = {2: "det", 3: "semantic-seg", 4: "instance-seg", 50: "multi-modal"}
"""Where the templates lie below /img-man when the manifest lists several object types."""

_DEFAULT_TYPE = 2
READ_SECONDS = 60.0
_CAT_FAILED = 1    # its status; the engine has others when it cannot start it


class ImgMan(NamedTuple):
    """What an image says of itself.

    Attributes:
        folder: On this machine: manifest.yaml and the templates of the chosen object type, as `cat` gave them.
        object_type: The chosen one.
        templates: Task to template, of those that the platform can read.
        faults: What the platform could not read, and why, each a sentence.
    """

    folder: Path
    object_type: int
    templates: Dict[str, Dict[str, Any]]
    faults: Tuple[str, ...]


def read(engine: Engine, image: str, folder: Path, wanted_type: Optional[int] = None, options: Sequence[str] = ()) -> ImgMan:
    """Read the manifest and the templates.

    Args:
        engine: Runs the containers.
        image: The image.
        folder: Where to keep what was read; made where missing.
        wanted_type: The object type to choose where the manifest lists several; the first when it does not list this one.
        options: Of `run`, for what is not the platform's way.
    """
    if not engine.dry_run:
        _files.make_folder(folder)
    faults: List[str] = []
    manifest = _read_one(engine, image, "/img-man/manifest.yaml", folder / "manifest.yaml", faults, options) or {}
    given = manifest.get("object_type", _DEFAULT_TYPE)
    object_type, below = _choose_type(given, wanted_type, faults)
    templates = {}
    for task in TASKS:
        path = f"/img-man/{below}{task}-template.yaml"
        found = _read_one(engine, image, path, folder / f"{task}-template.yaml", faults, options)
        if found is not None:
            templates[task] = found
    if not templates and not engine.dry_run:
        faults.append("the platform can read no template, and refuses the image (130401)")
    return ImgMan(folder, object_type, templates, tuple(faults))


def cat(engine: Engine, image: str, path: str, *options: str) -> Answer:
    """Print a file of the image as the platform does; `options` are of `run`."""
    return engine.run(options, image, ["cat", path], timeout=READ_SECONDS)


def _read_one(engine: Engine, image: str, path: str, target: Path, faults: List[str], options: Sequence[str]) -> Optional[Dict[str, Any]]:
    """One file as a mapping; None where the platform takes it for missing."""
    said = cat(engine, image, path, *options)
    if engine.dry_run:
        return None
    if said.status:
        # `cat` itself says when there is no such file, which is an image's right, in the image's language; anything else is a fault.
        is_missing = path in said.stderr and said.status == _CAT_FAILED and "denied" not in said.stderr
        if not is_missing and not any(fault.endswith(f" failed: {said.reason}") for fault in faults):
            faults.append(f"`cat {path}` failed: {said.reason}")
        return None
    _files.write_bytes(target, said.stdout, sync=False)
    try:
        found = load(str(target), "the template")
    except ConfigError as e:
        faults.append(f"`cat {path}` gave no YAML: {e.message.replace(str(target), path)}")
        return None
    if not isinstance(found, dict):
        if found is not None or said.stdout.strip():
            faults.append(f"`cat {path}` gave no mapping of keys to values but a {type(found).__name__}")
        return None
    return found


def _choose_type(given: Any, wanted: Optional[int], faults: List[str]) -> Tuple[int, str]:
    """The object type, and the folder of its templates below /img-man/."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given, ""
    if not isinstance(given, list) or not given:
        faults.append(f"manifest.yaml: object_type is {given!r}, neither a number nor a list; the platform refuses the image (130401)")
        return _DEFAULT_TYPE, ""
    unknown = [one for one in given if one not in FOLDERS]
    if unknown:
        faults.append(f"manifest.yaml: object_type lists {unknown[0]!r}, none of {sorted(FOLDERS)}; the platform refuses the image")
    known = [one for one in given if one in FOLDERS] or [_DEFAULT_TYPE]
    chosen = int(wanted if wanted is not None and wanted in known else known[0])
    return chosen, f"{FOLDERS[chosen]}/"
