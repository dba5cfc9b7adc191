"""result.yaml: the stages of a trained model (contract section 6)."""
from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import os
import re
import time
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, TypeVar, cast

from ymir_exc import _files
from ymir_exc.env import current_env, is_main_rank
from ymir_exc.errors import ResultError, deprecated
from ymir_exc.result_writer._values import INT32, knows_stages, plain, to_float

_log = logging.getLogger(__name__)
_F = TypeVar("_F", bound=Callable[..., Any])

_MAX_MODEL_STAGES_COUNT_ = 11    # ten latest and the best
_PRIMARY_METRICS = ("maskAP", "mIoU", "mAP")
_FRACTIONS = ("mAP", "mAR", "mIoU", "mAcc", "maskAP", "boxAP")
_COUNTS = ("tp", "fp", "fn")
_OWN_KEYS = ("stage_name", "files", "timestamp")
_RESERVED_STAGES = ("attachments",)
_MAX_NAME = 100


class _Stage(NamedTuple):
    """A checked stage, ready to be written."""

    name: str
    files: List[str]
    timestamp: int
    metrics: Dict[str, Any]
    given_name: str    # with the hyphens that the platform does not take

    @property
    def primary(self) -> str:
        """The metric that decides which stage is best."""
        return next(key for key in _PRIMARY_METRICS if key in self.metrics)

    def entry(self) -> Dict[str, Any]:
        return {"stage_name": self.name, "files": self.files, "timestamp": self.timestamp, **self.metrics}


def multiple_model_stages_supportable() -> bool:
    """Whether the platform understands stages: protocol 1.0.0 and later, or YMIR_VERSION 1.2.0 and later when the protocol is older."""
    return knows_stages(current_env())


def _accept_older_order(function: _F) -> _F:
    """Take the order of the lines without `mAP` in the fourth place as well: `(name, files, metrics, timestamp, attachments, ...)`."""
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if len(args) > 3 and (not isinstance(args[2], (Mapping, type(None))) or _lacks_m_ap(args[3:])):
            args = (*args[:3], None, *args[3:])
        return function(*args, **kwargs)

    return cast(_F, wrapper)


def _lacks_m_ap(rest: Tuple[Any, ...]) -> bool:
    """Whether what follows the metrics begins with the timestamp: more than any mAP, or None before the mappings."""
    if rest[0] is not None:
        number = to_float(rest[0])
        return number is not None and number > 1
    if len(rest) > 1 and isinstance(rest[1], Mapping):
        return True
    config = rest[2] if len(rest) == 3 and rest[1] is None else None    # else the attachments, which are lists of names
    return isinstance(config, Mapping) and any(to_float(value) is not None for value in config.values())


@_accept_older_order
def write_model_stage(stage_name: str, files: Sequence[str], evaluation_result: Optional[Mapping[str, Any]] = None,
                      mAP: Optional[float] = None,
                      timestamp: Optional[int] = None, attachments: Optional[Mapping[str, Sequence[str]]] = None,
                      evaluate_config: Optional[Mapping[str, float]] = None) -> None:
    """Add a stage of the model to result.yaml, or replace the one of that name, and name the best one.

    Eleven stages are kept: the best and the ten latest, the one just written among them. The best has the highest maskAP, mIoU or mAP,
    the first of these that any stage has; of equals the later one. Files of a stage that is dropped are deleted, unless another stage
    lists them.

    A file straight in `models_dir` whose name does not tell the stage (`best.pt` for the stage `epoch_10`) is copied to
    `models_dir/<stage_name>/`, because the next stage is about to overwrite it. Links become files: the platform packs them as links.

    Args:
        stage_name: A Python identifier; a '-' becomes '_'.
        files: Model files relative to `models_dir/<stage_name>/` or to `models_dir/`, where the platform looks for them when the task
            ends. Write the file first, then the stage.
        evaluation_result: Metrics, with one of mAP, mIoU, maskAP; fractions in 0..1. COCO's -1 (nothing to find) becomes 0.
        mAP: The older way to give one metric; used when evaluation_result is not given.
        timestamp: Seconds since 1970; now when None.
        attachments: Section to file names in `models_dir/attachments/<section>/`; merged with those of earlier calls.
        evaluate_config: How it was evaluated: `iou_thr`, `conf_thr`, ...

    Raises:
        ResultError: A name, file or metric that the platform would refuse; nothing is changed.
        StorageError: result.yaml cannot be written; the earlier one stays.
    """
    if not is_main_rank():
        return
    current = current_env()
    path = current.output.training_result_file
    stage = _checked_stage(stage_name, files, evaluation_result, mAP, timestamp, current.output.models_dir, path)
    extras = _attachments(attachments, current.output.models_dir), _evaluate_config(evaluate_config)
    _files.make_folder(os.path.dirname(path), shared=True)
    if not knows_stages(current):
        flat = _flat(stage)
        _publish(path, _yaml_bytes(path, flat), flat)
        return
    with _files.lock(os.path.dirname(path)):
        result = _read_result(path)
        if timestamp is None:
            stage = stage._replace(timestamp=max([stage.timestamp, *map(_seconds, result.get("model_stages", {}).values())]))
        is_known = stage.name in result.get("model_stages", {})
        dropped = _merge_stage(result, stage)
        _merge_extras(result, *extras)
        data = _yaml_bytes(path, result)    # what it refuses, it refuses before any weights change
        made = _own_files(stage, current.output.models_dir, is_known)
        try:
            _publish(path, data, result)
        except OSError:    # a StorageError
            for copy in [] if _holds(path, data) else made:    # a later try would take them for the stage's own
                with contextlib.suppress(OSError):
                    os.unlink(copy)
            raise
        _delete_files(dropped, result, current.output.models_dir, path)


def write_training_result(stage_name: Optional[str] = None, files: Optional[Sequence[str]] = None,
                          evaluation_result: Optional[Mapping[str, Any]] = None, timestamp: Optional[int] = None,
                          attachments: Optional[Mapping[str, Sequence[str]]] = None,
                          evaluate_config: Optional[Mapping[str, float]] = None, **legacy: Any) -> None:
    """The older name of `write_model_stage`, which also takes the oldest keywords `model_names=, mAP=, classAPs=`."""
    if "model_names" in legacy or isinstance(stage_name, (list, tuple)):
        _write_legacy_result(stage_name, files, evaluation_result, legacy)
        return
    if stage_name is None or files is None:
        raise TypeError("write_training_result() needs stage_name and files")
    value = legacy.pop("mAP", None)
    if legacy:
        raise TypeError(f"write_training_result() got unexpected arguments {', '.join(legacy)}")
    write_model_stage(stage_name, files, evaluation_result, value, timestamp=timestamp, attachments=attachments,
                      evaluate_config=evaluate_config)


def _write_legacy_result(first: Any, second: Any, third: Any, legacy: Dict[str, Any]) -> None:
    """`(model_names, mAP, classAPs, **more)`: one nameless stage."""
    deprecated("write_training_result(model_names, mAP, classAPs)", "call write_model_stage", stacklevel=4)
    names, value = legacy.pop("model_names", first), legacy.pop("mAP", second)
    per_class = legacy.pop("classAPs", third)
    more = {**legacy, **({"class_aps": per_class} if per_class is not None else {})}
    write_model_stage("default_best_stage", names, {"mAP": value, **more})


# ------------------------------------------------------------------------------------------------------------------------- files

def _own_files(stage: _Stage, models_dir: str, is_known: bool) -> List[str]:
    """Give the stage files of its own, so that what is written next does not change it.

    Returns:
        The files that were not there before.
    """
    made: List[str] = []
    copies: Dict[str, str] = {}
    for name in stage.files:
        own = os.path.join(models_dir, stage.name, name)
        with contextlib.suppress(OSError):    # the file vanished meanwhile
            source = _to_copy(stage, name, own, models_dir, is_known)
            if source is not None:
                check_inside(stage.name, own, models_dir)
                copies[own] = source
    for own, source in copies.items():
        is_new = not os.path.lexists(own)
        try:
            _files.copy_file(source, own, shared=True)
        except OSError as e:    # a full disk
            _log.warning("stage %s keeps no %s of its own, a later stage may overwrite it: %s", stage.name, os.path.basename(own), e)
        else:
            made += [own] if is_new else []
    return made


def check_inside(stage: str, target: str, models_dir: str) -> None:
    """Refuse to write a stage's file through a link.

    Raises:
        ResultError: Its folder leads out of models_dir.
    """
    if not _is_inside(os.path.dirname(target), models_dir):
        raise ResultError(f"stage {stage}: the folder of {target} is a link that leads out of {models_dir}",
                          hint="the platform sees what is inside only")


def _to_copy(stage: _Stage, name: str, own: str, models_dir: str, is_known: bool) -> Optional[str]:
    """The file that the stage needs a copy of, if it does."""
    if os.path.isfile(own) and _is_linked(own, models_dir):
        return own
    common = os.path.join(models_dir, name)
    if stage.given_name != stage.name and os.path.isfile(os.path.join(models_dir, stage.given_name, name)):
        common = os.path.join(models_dir, stage.given_name, name)    # where the platform does not look
    elif not os.path.isfile(common) or (_tells_stage(name, stage.name) and not _is_linked(common, models_dir)):
        return None
    # What lies in the folder of a stage that is new was saved for it; the common file may be of any epoch.
    return common if not os.path.isfile(own) or (is_known and _is_newer(common, own)) else None


def _is_linked(path: str, models_dir: str) -> bool:
    """Whether the file is a link, or lies in a folder that leads out."""
    return os.path.islink(path) or not _is_inside(path, models_dir)


def _is_inside(path: str, models_dir: str) -> bool:
    return os.path.realpath(path).startswith(os.path.realpath(models_dir) + os.sep)


def _tells_stage(name: str, stage: str) -> bool:
    """`epoch_10.pth` is of the stage `epoch_10` alone, `best.pt` may be of any."""
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(stage)}(?![A-Za-z0-9])", name) is not None


def _is_newer(common: str, own: str) -> bool:
    """Whether a stage that is written again has new weights in models_dir; else its own ones are what counts.

    By the time of the last change of the file itself: the one of its content travels with `cp -p` and `shutil.copy2`.
    """
    return os.stat(common).st_ctime_ns > os.stat(own).st_ctime_ns


def _found(models_dir: str, stage: str, name: str) -> Optional[str]:
    """The file that the platform would take: of the stage's folder, else of models_dir."""
    for path in (os.path.join(models_dir, stage, name), os.path.join(models_dir, name)):
        if os.path.isfile(path):
            return path
    return None


def _delete_files(dropped: Mapping[str, Mapping[str, Any]], result: Mapping[str, Any], models_dir: str, result_file: str) -> None:
    """Free what dropped stages held, after the new result.yaml is in place; never that file, nor what is no stage's."""
    if not dropped:
        return
    kept: Set[str] = set()
    for name, stage in result["model_stages"].items():
        # Also where it is not found now: a common file that a stage has a copy of is still its name.
        kept.update(os.path.realpath(os.path.join(models_dir, place, file)) for file in _safe_names(stage) for place in (name, ""))
    for name, stage in dropped.items():
        for path in filter(None, [_found(models_dir, name, file) for file in _safe_names(stage)]):
            if os.path.realpath(path) not in kept and _is_inside(os.path.join(os.path.dirname(path), "x"), models_dir) \
                    and not _is_result(path, result_file) and not _is_inside(path, os.path.join(models_dir, "attachments")):
                with contextlib.suppress(OSError):
                    os.unlink(path)
                _remove_empty(os.path.dirname(path), models_dir)


def _is_result(path: str, result_file: str) -> bool:
    """Whether it is result.yaml, or one that was set aside: older versions list it among the files of a stage."""
    return re.fullmatch(re.escape(os.path.realpath(result_file)) + r"(\.unreadable(\.\d+)?)?", os.path.realpath(path)) is not None


def _safe_names(entry: Mapping[str, Any]) -> List[str]:
    """The files of a stage, as result.yaml has it."""
    names = entry.get("files")
    return [name for name in names if isinstance(name, str) and not os.path.isabs(name) and ".." not in name.split("/")
            and "\0" not in name] if isinstance(names, list) else []


def _remove_empty(folder: str, models_dir: str) -> None:
    while len(folder) > len(models_dir.rstrip("/")) and folder.startswith(models_dir.rstrip("/") + "/"):
        try:
            os.rmdir(folder)
        except OSError:
            return
        folder = os.path.dirname(folder)


# ----------------------------------------------------------------------------------------------------------------------- merging

def _merge_stage(result: Dict[str, Any], stage: _Stage) -> Dict[str, Any]:
    """Put the stage in, name the best one, and take out what is too much.

    Returns:
        The stages that were taken out.
    """
    stages: Dict[str, Any] = result.setdefault("model_stages", {})
    stages.pop(stage.name, None)    # a stage that is written again is the latest one
    stages[stage.name] = stage.entry()
    primary = next(key for key in _PRIMARY_METRICS if any(key in entry for entry in stages.values()))
    by_age = sorted(stages, key=lambda key: _seconds(stages[key]))    # of equal seconds, in the order of writing
    best = max(reversed(by_age), key=lambda key: to_float(stages[key].get(primary)) or 0.0)    # of equal metrics, the latest
    spare = [key for key in by_age if key not in (best, stage.name)]    # a clock that was set back must not drop what was just written
    dropped = {key: stages.pop(key) for key in spare[: max(0, len(stages) - _MAX_MODEL_STAGES_COUNT_)]}
    result["best_stage_name"] = best
    result[primary] = stages[best].get(primary, 0.0)
    return dropped


def _seconds(entry: Mapping[str, Any]) -> int:
    number = to_float(entry.get("timestamp"))
    return int(number) if number is not None and 0 <= number <= INT32 else 0


def _merge_extras(result: Dict[str, Any], attachments: Dict[str, List[str]], evaluate_config: Dict[str, float]) -> None:
    """Add to what earlier stages brought; what is there and no list of names is left out, for the platform refuses it."""
    known = result.pop("attachments", None)
    merged = {section: names for section, names in known.items() if isinstance(names, list)} if isinstance(known, dict) else {}
    for section, names in attachments.items():
        earlier = merged.get(section, [])
        merged[section] = [*earlier, *(name for name in dict.fromkeys(names) if name not in earlier)]
    if merged:
        result["attachments"] = merged
    if evaluate_config:
        result["evaluate_config"] = evaluate_config


def _flat(stage: _Stage) -> Dict[str, Any]:
    """What platforms before 1.2.0 read: one model, its files and `map`."""
    entry = stage.entry()
    return {"model": list(dict.fromkeys(entry.pop("files"))), "map": stage.metrics[stage.primary], **entry}


_written: Tuple[bytes, Dict[str, Any]] = (b"", {})
"""The last result.yaml that this process wrote, and what it says: it is parsed again only when its bytes have changed."""


def _read_result(path: str) -> Dict[str, Any]:
    """The result.yaml as it stands; one that cannot be parsed is set aside, never silently overwritten."""
    from ymir_exc._yaml import load
    from ymir_exc.errors import ConfigError
    try:
        with open(path, "rb") as f:
            data = f.read()
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise _files.storage_error(path, e) from e
    known, value = _written
    if data == known:
        return {**value, "model_stages": dict(value.get("model_stages", {}))} if value else {}
    try:
        value = load(path)
    except ConfigError:
        value = {"model": None}    # none of ours
    if isinstance(value, dict) and _holds_stages(value):
        return value
    names = itertools.chain([f"{path}.unreadable"], (f"{path}.unreadable.{n}" for n in itertools.count(1)))
    aside = next(name for name in names if not os.path.lexists(name))
    _files.copy_file(path, aside)
    _log.warning("%s is no list of model stages; it is kept as %s and begun anew", path, aside)
    return {}


def _holds_stages(value: Mapping[str, Any]) -> bool:
    stages = value.get("model_stages", {})
    return "model" not in value and isinstance(stages, dict) and all(isinstance(stage, dict) for stage in stages.values())


def _yaml_bytes(path: str, value: Mapping[str, Any]) -> bytes:
    """Keys are sorted as ever, but the stages stand in the order of writing, which decides between equal timestamps."""
    try:
        return _yaml_text(value).encode("utf-8")
    except UnicodeEncodeError as e:    # a file name of bytes that are no UTF-8
        raise ResultError(f"{path} cannot hold the text {e.object!r:.80}: it is not Unicode", hint="rename the file") from None


def _holds(path: str, data: bytes) -> bool:
    """Whether a file that could not be written to the end stands all the same: replaced, but its folder not flushed."""
    try:
        with open(path, "rb") as f:
            return f.read() == data
    except OSError:
        return False


def _publish(path: str, data: bytes, value: Dict[str, Any]) -> None:
    global _written
    _files.write_bytes(path, data, shared=True)
    _written = data, value


_stage_texts: Dict[str, str] = {}


def _yaml_text(value: Mapping[str, Any]) -> str:
    """As `yaml.safe_dump` has it; the text of a stage is kept, because of eleven stages one is new."""
    global _stage_texts
    key = "model_stages"
    head = {name: _sorted(value[name]) for name in sorted(value, key=str) if str(name) < key}
    tail = {name: _sorted(value[name]) for name in sorted(value, key=str) if str(name) > key}
    stages = {repr((name, entry)): (name, entry) for name, entry in value.get(key, {}).items()}
    _stage_texts = {known: _stage_texts.get(known) or _dumped({key: {name: _sorted(entry)}}).partition("\n")[2]
                    for known, (name, entry) in stages.items()}
    return "".join([_dumped(head), f"{key}:\n" if stages else "", *_stage_texts.values(), _dumped(tail)])


def _dumped(value: Mapping[str, Any]) -> str:
    import yaml
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(value, Dumper=dumper, default_flow_style=False, sort_keys=False) if value else ""


def _sorted(value: Any) -> Any:
    return {key: _sorted(value[key]) for key in sorted(value, key=str)} if isinstance(value, dict) else value


# ---------------------------------------------------------------------------------------------------------------------- checking

def _checked_stage(stage_name: str, files: Sequence[str], evaluation_result: Any, m_ap: Optional[float], timestamp: Optional[int],
                   models_dir: str, result_file: str) -> _Stage:
    if evaluation_result is not None and not isinstance(evaluation_result, Mapping):    # the 1.3 order: name, files, mAP
        evaluation_result = {"mAP": evaluation_result}
    name = checked_name(stage_name)
    if not evaluation_result and m_ap is not None:
        deprecated("mAP=", "use evaluation_result={'mAP': ...}", stacklevel=5)
        evaluation_result = {"mAP": m_ap}
    metrics = checked_metrics(name, evaluation_result)
    names = _file_names(name, str(stage_name), files, models_dir, result_file)
    return _Stage(name, names, _timestamp(name, timestamp), metrics, str(stage_name))


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


def _file_names(stage: str, given_stage: str, files: Sequence[str], models_dir: str, result_file: str) -> List[str]:
    """Names relative to the stage's folder or models_dir, where the platform looks, in this order."""
    folders = [os.path.join(models_dir, stage), models_dir]
    names = [_relative(f"stage {stage}: the model file", name, folders) for name in _names(f"stage {stage}: files", files)]
    results = {name for name in names if _is_result(os.path.join(models_dir, name), result_file)}
    if results:
        _log.warning("stage %s: %s is no model file; it is left out", stage, ", ".join(sorted(results)))
        names = [name for name in names if name not in results]
    if not names:
        raise ResultError(f"stage {stage}: no model files are given")
    for name in names:
        if _found(models_dir, stage, name) is None and not os.path.isfile(os.path.join(models_dir, given_stage, name)):
            _log.warning("stage %s: the model file %s is neither in %s/%s nor in %s: the platform will refuse the model if it is not "
                         "there when the task ends", stage, name, models_dir, stage, models_dir)
    return names


def _names(where: str, given: Any) -> List[str]:
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
    if not any(key in metrics for key in _PRIMARY_METRICS):
        raise ResultError(f"stage {stage}: none of {', '.join(_PRIMARY_METRICS)} is among the metrics {sorted(metrics)}",
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


def _attachments(given: Optional[Mapping[str, Sequence[str]]], models_dir: str) -> Dict[str, List[str]]:
    """Names relative to the folder of their section, the only place where the platform looks."""
    made: Dict[str, List[str]] = {}
    for section, names in _items("attachments", given):
        where = f"attachments: {section}"
        if str(section) in ("", ".", "..") or "/" in str(section) or "\0" in str(section):
            raise ResultError(f"attachments: the section {section!r} cannot be the name of a folder")
        folder = os.path.join(models_dir, "attachments", str(section))
        made[str(section)] = [_relative(f"{where}: the file", name, [folder]) for name in _names(where, names)]
        for name in made[str(section)]:
            if not os.path.isfile(os.path.join(folder, name)):
                _log.warning("%s: %s is not in %s: the platform will refuse the model if it is not there when the task ends",
                             where, name, folder)
    return made


def _items(what: str, given: Any) -> Iterable[Tuple[Any, Any]]:
    if given is not None and not isinstance(given, Mapping):
        raise ResultError(f"{what} must be a mapping, not {given!r:.80}")
    return (given or {}).items()


def _evaluate_config(given: Optional[Mapping[str, float]]) -> Dict[str, float]:
    made = {}
    for key, value in _items("evaluate_config", given):
        number = to_float(value)
        if number is None or not math.isfinite(number):
            raise ResultError(f"evaluate_config: {key} is {value!r}", hint="the platform takes numbers only")
        made[str(key)] = number
    return made
