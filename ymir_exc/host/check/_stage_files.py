"""The files under models/ that result.yaml lists, as the platform looks for them and packs them (contract 6.3 and 6.4)."""
from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from ymir_exc.host.check._context import kind_of, shown
from ymir_exc.host.check._yaml_places import Document
from ymir_exc.host.findings import Finding, Severity, rule

_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_VOID = "The platform refuses the whole result, and the trained model is lost (160011)"

T113 = rule("T113", _E, "files is a list of at least one file name", _VOID, "List the stage's weights: files: [best.pt]")
T114 = rule("T114", _E, "A listed file is in the stage's folder, or in models/", _VOID,
            "Save it to models/<stage>/ before the stage is listed; write_model_stage() copies it there")
T115 = rule("T115", _E, "A listed file is named relative to its folder, and stays in it",
            "The platform looks for the path on its own machine", "Give the name as seen from models/<stage>/: weights/best.pt")
T116 = rule("T116", _E, "What is listed is a file, no folder", _VOID, "List the files in the folder, one by one")
T117 = rule("T117", _E, "A listed file is no link, nor behind one", "It is packed as a link, and leads nowhere in the next task",
            "Copy the file, or make a hard link")
T118 = rule("T118", _E, "No weights in models/ itself are called ymir-info.yaml or model.tar.gz", "The platform overwrites them",
            "Give them another name, or put them into models/<stage>/")
T119 = rule("T119", _E, "result.yaml itself is not among the files", "It is no part of a model", "Leave it out of files")
T120 = rule("T120", _E, "No listed file has the name of a folder that holds another", "The archive cannot be unpacked",
            "Rename one of them")
T131 = rule("T131", _E, "attachments is a mapping of sections to lists of file names", _VOID,
            "Write attachments: {section: [file]}, or leave the key out for none")
T132 = rule("T132", _E, "An attached file is in models/attachments/<section>/", _VOID, "Save it there, not in models/")
T135 = rule("T135", _W, "A listed file is not empty", "The platform takes it, and the next task fails with it",
            "Save the weights before listing them")
T136 = rule("T136", _W, "Two stages do not share one file in models/", "Both stages hold the weights that were saved last",
            "Save each stage's weights into models/<stage>/")
T139 = rule("T139", _W, "A file is listed once", "It is packed twice, and the next task is handed it twice", "Leave the second one out")
T140 = rule("T140", _N, "Every file under models/ is listed", "The platform deletes what no stage lists, after the task",
            "List it in a stage's files, or attach it, if it is to be kept")

_RESERVED = ("ymir-info.yaml", "model.tar.gz")
_RESULT = "result.yaml"
_SHOWN = 3


def check_files(document: Document, key: str, given: Any, stage: Any, models: Path) -> Iterator[Finding]:
    """Judge the list of a stage's files.

    Args:
        document: result.yaml.
        key: Where the list stands.
        given: The list.
        stage: The stage's name.
        models: The folder `models`.
    """
    if not isinstance(given, list) or not given:
        yield document.found(T113, "the list is empty" if given == [] else f"files is {kind_of(given)}", key)
        return
    names: List[str] = []
    for position, entry in enumerate(given):
        here = f"{key}[{position}]"
        name = str(entry) if type(entry) in (int, float) else entry
        if not isinstance(name, str) or not name.strip():
            yield document.found(T113, f"{shown(entry)} is no file name", here)
            continue
        if name in names:
            yield document.found(T139, f"{name} is listed twice", here)
            continue
        names.append(name)
        folders = [str(stage), ""] if _is_plain(stage) else [""]
        yield from _one(document, here, name, models, folders)
    for name in names:
        inner = next((other for other in names if os.path.normpath(other).startswith(os.path.normpath(name) + "/")), None)
        if inner is not None and found_at(models, name, [str(stage), ""]) is not None:
            yield document.found(T120, f"{name} is listed, and {inner} too", key)


def _is_plain(stage: Any) -> bool:
    """Whether a stage's name can be that of a folder; what else is wrong with it is told elsewhere."""
    return str(stage) not in ("", ".", "..") and "/" not in str(stage)


def _one(document: Document, key: str, name: str, models: Path, folders: Sequence[str], missing: Any = T114) -> Iterator[Finding]:
    if name.startswith("/") or ".." in name.split("/"):
        yield document.found(T115, f"{name} " + ("is absolute" if name.startswith("/") else "leaves its folder"), key)
        return
    relative = found_at(models, name, folders)
    if relative is None:
        tried = [os.path.join(folder, name) for folder in folders]
        odd = next((place for place in tried if os.path.lexists(models / place)), None)
        if odd is None:
            yield document.found(missing, f"{name} is not there; looked for {' and '.join(f'models/{place}' for place in tried)}", key)
        else:
            yield document.found(T116, f"models/{odd} is {'a folder' if (models / odd).is_dir() else 'no regular file'}", key)
        return
    link = _link_on(models, relative)
    if link is not None:
        yield document.found(T117, f"models/{link} is a symbolic link to {os.readlink(models / link)}", key)
    elif os.path.normpath(relative) in _RESERVED:
        yield document.found(T118, f"models/{relative} is listed", key)
    elif os.path.normpath(relative) == _RESULT:
        yield document.found(T119, f"{name} is listed", key)
    elif os.path.getsize(models / relative) == 0:
        yield document.found(T135, f"models/{relative} has no byte", key)


def found_at(models: Path, name: str, folders: Sequence[str]) -> Optional[str]:
    """Where the platform finds a file: its path in `models`, in the first of the folders that has it; None where none does."""
    for folder in folders:
        place = os.path.join(folder, name)
        if _is_at(models / place):
            return place
    return None


def _is_at(path: Path) -> bool:
    try:
        return path.is_file() or path.is_symlink()
    except OSError as e:
        if e.errno == errno.ENAMETOOLONG:    # no file can have it
            return False
        raise


def _link_on(models: Path, relative: str) -> Optional[str]:
    """The first part of a path that is a link."""
    place = ""
    for part in relative.split("/"):
        place = os.path.join(place, part)
        if (models / place).is_symlink():
            return place
    return None


def check_attachments(document: Document, models: Path) -> Iterator[Finding]:
    """Judge `attachments`, and that its files are where the platform looks."""
    if "attachments" not in document.value:
        return
    given = document.value["attachments"]
    if not isinstance(given, dict):
        yield document.found(T131, f"attachments is {kind_of(given)}", "attachments")
        return
    for section, names in given.items():
        key = f"attachments.{section}"
        if not isinstance(section, str) or not section.strip() or section.startswith("/") or {".", ".."} & set(section.split("/")):
            yield document.found(T131, f"{shown(section)} cannot be the name of a section", key)
        elif not isinstance(names, list):
            yield document.found(T131, f"the section is {kind_of(names)}, no list", key)
        else:
            for position, name in enumerate(names):
                here = f"{key}[{position}]"
                if isinstance(name, str) and name.strip():
                    yield from _one(document, here, name, models, [f"attachments/{section}"], T132)
                else:
                    yield document.found(T131, f"{shown(name)} is no file name", here)


def check_rest(document: Document, models: Path) -> Iterator[Finding]:
    """Judge files that two stages share, and those that nobody lists."""
    owners: Dict[str, List[str]] = {}
    for stage, place in _listed(document.value, models):
        owners.setdefault(os.path.normpath(place), []).append(stage)
    for place, stages in owners.items():
        if len(set(stages)) > 1 and "/" not in place:
            yield document.found(T136, f"models/{place} is listed by {' and '.join(stages[:_SHOWN])}", f"model_stages.{stages[1]}.files")
    unlisted = sorted(_unlisted(models, set(owners)))
    if unlisted and any(stages != ["attachments"] for stages in owners.values()):    # a result without stages has been told of
        more = f" and {len(unlisted) - _SHOWN} more" if len(unlisted) > _SHOWN else ""
        yield T140.found(f"{', '.join(unlisted[:_SHOWN])}{more} will be deleted", str(models))


def _listed(value: Dict[Any, Any], models: Path) -> Iterator[Tuple[str, str]]:
    """Owner and path in `models` of each file that is listed and there."""
    stages = value.get("model_stages")
    tables = {"default_best_stage": {"files": value["model"]}} if "model" in value else stages if isinstance(stages, dict) else {}
    attached = value.get("attachments")
    for name, stage in tables.items():
        folders = [str(name), ""] if _is_plain(name) else [""]
        yield from ((str(name), place) for place in _found(stage.get("files") if isinstance(stage, dict) else None, models, folders))
    for section, names in (attached.items() if isinstance(attached, dict) else ()):
        yield from (("attachments", place) for place in _found(names, models, [f"attachments/{section}"]))


def _found(names: Any, models: Path, folders: Sequence[str]) -> Iterator[str]:
    for name in names if isinstance(names, list) else ():
        place = None if str(name).startswith("/") else found_at(models, str(name), folders)
        if place is not None:
            yield place


def _unlisted(models: Path, listed: Set[str]) -> Iterator[str]:
    for folder, _, names in os.walk(models):
        for name in names:
            place = os.path.relpath(os.path.join(folder, name), models)
            if place not in listed and place != _RESULT and not name.startswith("."):
                yield place
