"""``models/result.yaml`` and the files it lists, as the platform reads and packs them: contract 6.1 to 6.4."""

from __future__ import annotations

import filecmp
import io
import os
import shutil
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

import yaml

from .reading import At, as_integer, as_list, as_mapping, as_number, as_number_or_string, as_text, load_yaml

METRICS = ("mAP", "mAR", "mIoU", "mAcc", "maskAP", "boxAP")
COUNTS = ("tp", "fp", "fn")
MAX_STAGES = 11
MAX_STAGE_NAME = 100
OBJECT_TYPES = (2, 3, 4, 50)
DEFAULT_STAGE = "default_best_stage"
RESERVED_ROOT_FILES = ("ymir-info.yaml", "model.tar.gz")
RESULT_FILE = "result.yaml"


@dataclass(frozen=True)
class Stage:
    """One model stage as the platform stores it; `paths` maps each listed file to where it was found."""

    name: str
    files: List[str]
    timestamp: int
    metrics: Dict[str, float]
    counts: Dict[str, int]
    paths: Dict[str, Path]


@dataclass(frozen=True)
class TrainingResult:
    """An accepted ``models/result.yaml``.

    Attributes:
        layout: ``stages``, or ``legacy`` for the old ``model`` + ``map``.
        package: names of the members of the simulated archive, in order.
        unlisted: files under ``models/`` that nothing lists, so that the platform deletes them unpacked.
        notices: what the platform accepts and quietly changes, without loss.
    """

    layout: str
    best_stage_name: str
    stages: Dict[str, Stage]
    attachments: Dict[str, List[str]]
    evaluate_config: Dict[str, float]
    object_type: Optional[int]
    package: List[str]
    unlisted: List[str]
    notices: List[str] = field(default_factory=list)

    @property
    def best(self) -> Stage:
        return self.stages[self.best_stage_name]


def accept_training(out: Path, *, primary: str = "mAP") -> TrainingResult:
    """Read ``out/models`` as the platform does after a training task, pack it, and unpack the best stage again.

    Args:
        out: the task's ``out`` folder.
        primary: the metric that ranks stages: ``mAP`` (detection), ``mIoU`` (semantic), ``maskAP`` (instance).

    Raises:
        ContractViolation: a rule of contract 6.1 to 6.4 is broken.
    """
    if primary not in METRICS:
        raise ValueError(f"primary must be one of {METRICS}")
    models = Path(out) / "models"
    at = At("6.1", f"models/{RESULT_FILE}")
    document = load_yaml(at, models / RESULT_FILE)
    notices: List[str] = []
    if "model" in document:
        stages = {DEFAULT_STAGE: _legacy_stage(at, document, models, notices)}
        layout, best = "legacy", DEFAULT_STAGE
    else:
        stages = _stages(at, document, models, primary, notices)
        layout, best = "stages", _best_stage_name(at, document, stages, primary)
    attachments, attached = _attachments(at, document, models)
    evaluate_config = _evaluate_config(at, document, notices)
    object_type = None
    if "object_type" in document:
        object_type = as_integer(at.item("object_type"), document["object_type"])
        at.item("object_type").require(object_type in OBJECT_TYPES, f"{object_type} is none of {OBJECT_TYPES}")

    sources = {f"{stage.name}/{name}": path for stage in stages.values() for name, path in stage.paths.items()}
    sources.update(attached)
    info = {
        "executor_config": {},
        "task_context": {},
        "stages": {name: {"files": stage.files, **stage.metrics} for name, stage in stages.items()},
        "best_stage_name": best,
        "attachments": attachments,
        "evaluate_config": evaluate_config,
        "package_version": "2.0.0",
    }
    package = _pack_and_unpack(sources, info, best)
    _note_shared_files(models, stages, notices)
    return TrainingResult(
        layout=layout,
        best_stage_name=best,
        stages=stages,
        attachments=attachments,
        evaluate_config=evaluate_config,
        object_type=object_type,
        package=package,
        unlisted=_unlisted(models, set(sources.values())),
        notices=notices,
    )


def _legacy_stage(at: At, document: Mapping[Any, Any], models: Path, notices: List[str]) -> Stage:
    at.item("model_stages").require(
        "model_stages" not in document, "is ignored because `model` is there too; its stages are lost"
    )
    at.item("map").require("map" in document, "is mandatory beside `model`")
    score = as_number_or_string(at.item("map"), document["map"], notices, highest=1)
    names, paths = _files(at.item("model"), document["model"], DEFAULT_STAGE, models, notices)
    return Stage(DEFAULT_STAGE, names, int(time.time()), {"mAP": score}, {}, paths)


def _stages(at: At, document: Mapping[Any, Any], models: Path, primary: str, notices: List[str]) -> Dict[str, Stage]:
    at = at.item("model_stages")
    at.require("model_stages" in document, "neither `model_stages` nor `model` is there")
    table = as_mapping(at, document["model_stages"])
    at.require(table, "is empty")
    at.rule("6.2").require(len(table) <= MAX_STAGES, f"has {len(table)} stages, the most is {MAX_STAGES}")
    stages: Dict[str, Stage] = {}
    for key, value in table.items():
        _stage_name(at.item(key).rule("6.2"), key)
        stages[key] = _stage(at.item(key), key, value, models, primary, notices)
    return stages


def _stage_name(at: At, key: object) -> None:
    name = as_text(at, key)
    at.require("@" not in name, "the stage name has an '@', which breaks model_hash@stage")
    at.require(name.isidentifier(), "the stage name is not an identifier (error 112002)")
    at.require(len(name) <= MAX_STAGE_NAME, f"the stage name is longer than {MAX_STAGE_NAME} characters")
    at.rule("6.3").require(name != "attachments", "a stage may not be called `attachments`")


def _stage(at: At, key: str, value: object, models: Path, primary: str, notices: List[str]) -> Stage:
    table = as_mapping(at, value)
    for name in ("stage_name", "files", "timestamp"):
        at.item(name).require(name in table, "is missing")
    stage_name = as_text(at.item("stage_name"), table["stage_name"])
    at.item("stage_name").require(stage_name == key, f"is {stage_name!r}, but the key of the stage is {key!r}")
    metrics = {
        name: as_number_or_string(at.item(name), table[name], notices, highest=1) for name in METRICS if name in table
    }
    at.item(primary).rule("10.3").require(primary in metrics, "the primary metric is missing in this stage")
    counts = {name: as_integer(at.item(name), table[name], lowest=0) for name in COUNTS if name in table}
    _refuse_wrong_case(at, table, notices)
    names, paths = _files(at.item("files"), table["files"], key, models, notices)
    timestamp = _timestamp(at.item("timestamp"), table["timestamp"], notices)
    return Stage(key, names, timestamp, metrics, counts, paths)


def _timestamp(at: At, value: object, notices: List[str]) -> int:
    if isinstance(value, float):
        as_number(at, value)
        notices.append(f"{at.key}: {value} is truncated to whole seconds")
        value = int(value)
    return as_integer(at, value)


def _refuse_wrong_case(at: At, table: Mapping[Any, Any], notices: List[str]) -> None:
    """``TP`` for ``tp`` is silently ignored; harmless only beside the right spelling with the same value."""
    proper = {name.lower(): name for name in METRICS + COUNTS}
    for key in table:
        right = proper.get(str(key).lower())
        if right is None or right == key:
            continue
        at.item(key).require(right in table, f"is ignored by the platform, which reads `{right}`")
        at.item(key).require(table[right] == table[key], f"differs from `{right}`, which alone is read")
        notices.append(f"{at.key}.{key}: ignored, `{right}` is read")


def _best_stage_name(at: At, document: Mapping[Any, Any], stages: Mapping[str, Stage], primary: str) -> str:
    at = at.item("best_stage_name")
    at.require("best_stage_name" in document, "is missing")
    name = as_text(at, document["best_stage_name"])
    at.require(name in stages, f"{name!r} is not a key of model_stages")

    def rank(stage: Stage) -> Tuple[float, int]:
        return stage.metrics[primary], stage.timestamp

    best = max(stages.values(), key=rank)
    at.require(
        rank(stages[name]) == rank(best),
        f"{name!r} has {primary}, timestamp {rank(stages[name])}, but {best.name!r} has {rank(best)}",
    )
    return name


def _files(at: At, value: object, stage: str, models: Path, notices: List[str]) -> Tuple[List[str], Dict[str, Path]]:
    """Each listed file: first ``models/<stage>/<file>``, else ``models/<file>``, contract 6.3."""
    names: List[str] = []
    paths: Dict[str, Path] = {}
    entries = as_list(at, value)
    at.require(entries, "lists no file, so the stage has no weights")
    for position, entry in enumerate(entries):
        here = at.index(position)
        if isinstance(entry, (int, float)) and not isinstance(entry, bool):
            notices.append(f"{here.key}: the number {entry} is read as a file name")
            entry = str(entry)
        name = _file_name(here, entry)
        if name in paths:
            notices.append(f"{here.key}: {name!r} is listed twice")
        paths[name] = _find(here.rule("6.3"), name, models, (PurePosixPath(stage), PurePosixPath()))
        names.append(name)
    return names, paths


def _file_name(at: At, value: object) -> str:
    name = as_text(at, value)
    at = at.rule("6.3")
    at.require(not name.startswith("/"), f"{name!r} is absolute, so it is looked up on the host")
    at.require(".." not in PurePosixPath(name).parts, f"{name!r} leaves its folder")
    at.require("\x00" not in name, "has a NUL character")
    return name


def _find(at: At, name: str, models: Path, folders: Sequence[PurePosixPath]) -> Path:
    for folder in folders:
        path = models / folder / name
        if not path.is_file() and not path.is_symlink():
            continue
        _refuse_links(at, name, models, folder / name)
        root_name = str(folder / name)
        at.require(root_name not in RESERVED_ROOT_FILES, f"{name!r} at the root is overwritten by the platform")
        at.require(root_name != RESULT_FILE, f"{name!r} is the result file itself, not a part of the model")
        return path
    tried = [models / folder / name for folder in folders]
    if any(path.is_dir() for path in tried):
        problem = "is a folder; only regular files can be listed"
    elif any(path.exists() for path in tried):
        problem = "is not a regular file"
    else:
        problem = "is missing, looked for in " + " and ".join(str(folder / name) for folder in folders)
    return at.refuse(f"{name!r} {problem}")


def _refuse_links(at: At, name: str, models: Path, relative: PurePosixPath) -> None:
    path = models
    for part in relative.parts:
        path = path / part
        at.require(not path.is_symlink(), f"{name!r} is (or lies behind) a symbolic link, and is archived as one")


def _attachments(at: At, document: Mapping[Any, Any], models: Path) -> Tuple[Dict[str, List[str]], Dict[str, Path]]:
    if "attachments" not in document:
        return {}, {}
    at = at.item("attachments")
    names: Dict[str, List[str]] = {}
    paths: Dict[str, Path] = {}
    for section, value in as_mapping(at, document["attachments"]).items():
        here = at.item(section)
        _file_name(here, section)
        names[section] = []
        for position, entry in enumerate(as_list(here, value)):
            name = _file_name(here.index(position), entry)
            folder = PurePosixPath("attachments") / section
            paths[f"attachments/{section}/{name}"] = _find(here.index(position).rule("6.3"), name, models, (folder,))
            names[section].append(name)
    return names, paths


def _evaluate_config(at: At, document: Mapping[Any, Any], notices: List[str]) -> Dict[str, float]:
    if "evaluate_config" not in document:
        return {}
    at = at.item("evaluate_config")
    config: Dict[str, float] = {}
    for key, value in as_mapping(at, document["evaluate_config"]).items():
        config[as_text(at.item(key), key)] = as_number_or_string(at.item(key), value, notices)
    return config


def _pack_and_unpack(sources: Mapping[str, Path], info: Mapping[str, Any], best: str) -> List[str]:
    """Contract 6.4: one gzip tar without following links; later tasks get the files of one stage out of it."""
    at = At("6.4", "model.tar.gz")
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "model.tar.gz"
        described = yaml.safe_dump(dict(info)).encode("utf-8")
        with tarfile.open(str(package), "w:gz", compresslevel=1, dereference=False) as archive:
            for arcname, path in sources.items():
                try:
                    archive.add(str(path), arcname=arcname)
                except OSError as error:
                    at.item(arcname).refuse(f"cannot be packed: {error}")
            header = tarfile.TarInfo("ymir-info.yaml")
            header.size = len(described)
            archive.addfile(header, io.BytesIO(described))
        unpacked = Path(scratch) / "in"
        with tarfile.open(str(package), "r:gz") as archive:
            members = archive.getnames()
            for member in archive:
                if member.name.startswith(f"{best}/"):
                    _extract(at.item(member.name), archive, member, unpacked)
        for arcname, path in sources.items():
            if arcname.startswith(f"{best}/"):
                copy = unpacked / arcname
                same = copy.is_file() and filecmp.cmp(str(path), str(copy), shallow=False)
                at.item(arcname).require(same, "differs after unpacking the best stage")
        return members


def _extract(at: At, archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    stream = archive.extractfile(member) if member.isreg() or member.islnk() else None
    if stream is None:
        at.refuse("is neither a file nor a hard link in the archive")
    target = folder / member.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with stream, target.open("wb") as copy:
            shutil.copyfileobj(stream, copy)
    except OSError as error:
        at.refuse(f"cannot be unpacked: {error}")


def _note_shared_files(models: Path, stages: Mapping[str, Stage], notices: List[str]) -> None:
    owners: Dict[str, List[str]] = {}
    for stage in stages.values():
        for path in set(stage.paths.values()):
            owners.setdefault(path.relative_to(models).as_posix(), []).append(stage.name)
    for name, users in owners.items():
        if len(users) > 1:
            notices.append(f"models/{name}: one file is packed for the stages {', '.join(users)}")


def _unlisted(models: Path, listed: Set[Path]) -> List[str]:
    found = []
    for folder, _, names in os.walk(str(models)):
        for name in names:
            path = Path(folder) / name
            if path not in listed and path != models / RESULT_FILE:
                found.append(path.relative_to(models).as_posix())
    return sorted(found)
