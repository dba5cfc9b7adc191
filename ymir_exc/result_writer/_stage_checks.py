"""What may be said of a model stage: its name, files, metrics and attachments, as the platform takes them (contract 6.1 to 6.3)."""
from __future__ import annotations

import logging
import math
import os
import time
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ymir_exc.errors import ResultError
from ymir_exc.result_writer._stage_files import StageFiles
from ymir_exc.result_writer._values import INT32, plain, to_float

_log = logging.getLogger(__name__)

PRIMARY_METRICS = ("maskAP", "mIoU", "mAP")
_FRACTIONS = ("mAP", "mAR", "mIoU", "mAcc", "maskAP", "boxAP")
_COUNTS = ("tp", "fp", "fn")
_OWN_KEYS = ("stage_name", "files", "timestamp")
_RESERVED_STAGES = ("attachments",)
_MAX_NAME = 100


class Stage(NamedTuple):
    """A checked stage, ready to be written."""

    name: str
    files: List[str]
    timestamp: int
    metrics: Dict[str, Any]
    given_name: str    # with the hyphens that the platform does not take

    @property
    def primary(self) -> str:
        """The metric that decides which stage is best."""
        return next(key for key in PRIMARY_METRICS if key in self.metrics)

    def entry(self) -> Dict[str, Any]:
        return {"stage_name": self.name, "files": self.files, "timestamp": self.timestamp, **self.metrics}


def checked_stage(stage_name: str, files: Sequence[str], metrics: Optional[Mapping[str, Any]], timestamp: Optional[int],
                   places: StageFiles, brought: Mapping[str, str]) -> Stage:
    name = checked_name(stage_name)
    checked = checked_metrics(name, metrics)
    names = _file_names(name, str(stage_name), files, places, brought)
    return Stage(name, names, _timestamp(name, timestamp), checked, str(stage_name))


def checked_name(name: str) -> str:
    """A stage's name as the platform takes it.

    Raises:
        ResultError: It is no identifier, even with '_' for '-'.
    """
    text = "" if name is None else str(name).replace("-", "_")
    if not text.isidentifier() or len(text) > _MAX_NAME or text in _RESERVED_STAGES:
        raise ResultError(f"{name!r} cannot name a model stage", hint="use letters, digits and '_', not beginning with a digit: epoch_10")
    if text != str(name):
        _log.warning("model stage %r is named %r: the platform takes identifiers only", name, text)
    return text


def _file_names(stage: str, given_stage: str, files: Sequence[str], places: StageFiles, brought: Mapping[str, str]) -> List[str]:
    """Names relative to the stage's folder or models_dir, where the platform looks, in this order."""
    models_dir = places.models_dir
    folders = [os.path.join(models_dir, stage), models_dir]
    names = [_relative(f"stage {stage}: the model file", name, folders) for name in file_names(f"stage {stage}: files", files)]
    results = {name for name in names if places.is_result(os.path.join(models_dir, name))}
    if results:
        _log.warning("stage %s: %s is no model file; it is left out", stage, ", ".join(sorted(results)))
        names = [name for name in names if name not in results]
    if not names:
        raise ResultError(f"stage {stage}: no model files are given")
    for name in names:
        places_of = [os.path.join(models_dir, folder, name) for folder in (stage, "", given_stage)]
        if name in brought or any(map(os.path.isfile, places_of)):
            continue
        if any(map(os.path.isdir, places_of)):
            raise ResultError(f"stage {stage}: {name} is a folder", hint="list its files")
        _log.warning("stage %s: the model file %s is neither in %s/%s nor in %s: the platform will refuse the model if it is not "
                     "there when the task ends", stage, name, models_dir, stage, models_dir)
    return names


def file_names(where: str, given: Any) -> List[str]:
    """File names as text.

    Raises:
        ResultError: They are no list of file names.
    """
    if hasattr(given, "tolist"):    # numpy
        given = given.tolist()
    if isinstance(given, (str, bytes, os.PathLike, Mapping)) or not isinstance(given, Iterable):
        raise ResultError(f"{where}: must be a list of file names, not {given!r:.80}")
    names = list(given)
    for name in names:
        if not isinstance(name, (str, os.PathLike)) or "\0" in os.fspath(name):
            raise ResultError(f"{where}: {name!r:.80} is no file name")
    return [os.fspath(name) for name in names]


def _relative(what: str, name: str, folders: Sequence[str]) -> str:
    """The name relative to the first of the folders that it is in."""
    if os.path.isabs(name):
        for folder in folders:
            if os.path.normpath(name).startswith(os.path.normpath(folder) + os.sep):
                return os.path.relpath(name, folder)
    if not name or os.path.isabs(name) or ".." in name.split("/"):
        raise ResultError(f"{what} {name!r} is not inside {folders[-1]}", hint="copy it there first")
    return os.path.normpath(name)


def _timestamp(stage: str, value: Optional[int]) -> int:
    seconds = to_float(time.time() if value is None else value)
    if seconds is None or not 0 <= seconds <= INT32:
        raise ResultError(f"stage {stage}: timestamp {value!r:.80} is not in seconds since 1970")
    return int(seconds)


def checked_metrics(stage: str, given: Optional[Mapping[str, Any]]) -> Dict[str, Any]:
    """Metrics as the platform takes them.

    Raises:
        ResultError: There are none, or one that it would refuse.
    """
    if not given:
        raise ResultError(f"stage {stage}: no metric is given", hint="evaluation_result={'mAP': ...}")
    metrics = dict(_metric(stage, str(key), value) for key, value in given.items())
    if not any(key in metrics for key in PRIMARY_METRICS):
        raise ResultError(f"stage {stage}: none of {', '.join(PRIMARY_METRICS)} is among the metrics {sorted(metrics)}",
                          hint="mAP for detection, mIoU for semantic, maskAP for instance segmentation")
    return metrics


def _metric(stage: str, name: str, value: Any) -> Tuple[str, Any]:
    if name in _OWN_KEYS:
        raise ResultError(f"stage {stage}: evaluation_result must not hold {name!r}")
    if name.lower() in _COUNTS:
        return name.lower(), _count(stage, name, value)
    return name, _fraction(stage, name, value) if name in _FRACTIONS else plain(value)


def _fraction(stage: str, name: str, value: Any) -> float:
    number = to_float(value)
    if number == -1.0:
        _log.warning("stage %s: %s is -1 (COCO found nothing to evaluate); 0 is written", stage, name)
        return 0.0
    if number is None or not 0.0 <= number <= 1.0:
        raise ResultError(f"stage {stage}: {name} is {value!r}, which the platform refuses", hint="a fraction from 0 to 1, not percent")
    return number


def _count(stage: str, name: str, value: Any) -> int:
    number = to_float(value)
    if number is None or not math.isfinite(number) or number != int(number) or not 0 <= number <= INT32:
        raise ResultError(f"stage {stage}: {name} is {value!r}, which the platform refuses", hint="a whole number, 0 or more")
    return int(number)


def checked_attachments(given: Optional[Mapping[str, Sequence[str]]], models_dir: str) -> Dict[str, List[str]]:
    """Names relative to the folder of their section, the only place where the platform looks."""
    made: Dict[str, List[str]] = {}
    for section, names in _items("attachments", given):
        where = f"attachments: {section}"
        if str(section) in ("", ".", "..") or "/" in str(section) or "\0" in str(section):
            raise ResultError(f"attachments: the section {section!r} cannot be the name of a folder")
        folder = os.path.join(models_dir, "attachments", str(section))
        made[str(section)] = [_relative(f"{where}: the file", name, [folder]) for name in file_names(where, names)]
        for name in made[str(section)]:
            if not os.path.isfile(os.path.join(folder, name)):
                _log.warning("%s: %s is not in %s: the platform will refuse the model if it is not there when the task ends",
                             where, name, folder)
    return made


def _items(what: str, given: Any) -> Iterable[Tuple[Any, Any]]:
    if given is not None and not isinstance(given, Mapping):
        raise ResultError(f"{what} must be a mapping, not {given!r:.80}")
    return (given or {}).items()


def checked_evaluate_config(given: Optional[Mapping[str, float]]) -> Dict[str, float]:
    made = {}
    for key, value in _items("evaluate_config", given):
        number = to_float(value)
        if number is None or not math.isfinite(number):
            raise ResultError(f"evaluate_config: {key} is {value!r}", hint="the platform takes numbers only")
        made[str(key)] = number
    return made
