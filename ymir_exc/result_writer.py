"""What the platform takes back: model stages, a mining ranking, predictions.

A value is converted and checked before any file is opened; a file changes in one step. Whatever fails, an earlier result stays.
"""
from __future__ import annotations

import json
import logging
import math
import os
import time
import warnings
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from ymir_exc import _files
from ymir_exc.env import current_env, is_main_rank
from ymir_exc.errors import ResultError

if TYPE_CHECKING:
    from ymir_exc._models import Annotation as Annotation
    from ymir_exc._models import Box as Box
    from ymir_exc.env import EnvConfig

_log = logging.getLogger(__name__)

_MAX_MODEL_STAGES_COUNT_ = 11    # ten latest and the best
_PRIMARY_METRICS = ("maskAP", "mIoU", "mAP")
_FRACTIONS = ("mAP", "mAR", "mIoU", "mAcc", "maskAP", "boxAP")
_COUNTS = ("tp", "fp", "fn")
_RESERVED_STAGES = ("attachments",)
_MAX_NAME = 100
_INT32 = 2 ** 31 - 1


def __getattr__(name: str) -> Any:
    if name in ("Annotation", "Box"):
        from ymir_exc import _models
        value = getattr(_models, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# ---------------------------------------------------------------------------------------------------------------------- training

def multiple_model_stages_supportable() -> bool:
    """Whether the platform understands stages: protocol 1.0.0 and later, or YMIR_VERSION 1.2.0 and later when the protocol is older."""
    return _stages_supported(current_env())


def _stages_supported(current: EnvConfig) -> bool:
    return (_version(current.protocol_version) >= (1, 0, 0)
            or _version(os.environ.get("YMIR_VERSION", "1.1.0")) >= (1, 2, 0))


def _version(text: str) -> Tuple[int, ...]:
    """Leading numbers of a version; anything odd counts as 0."""
    numbers = []
    for part in str(text).strip().lstrip("v").split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple([*numbers, 0, 0, 0][:3])


def write_model_stage(stage_name: str, files: Sequence[str], evaluation_result: Optional[Mapping[str, Any]] = None,
                      mAP: Optional[float] = None,
                      timestamp: Optional[int] = None, attachments: Optional[Mapping[str, Sequence[str]]] = None,
                      evaluate_config: Optional[Mapping[str, float]] = None) -> None:
    """Add a stage of the model to result.yaml, or replace the one of that name, and name the best one.

    Eleven stages are kept: the best and the ten latest. The best has the highest maskAP, mIoU or mAP, whichever this call gives first in
    that order; of equals the later one.

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
    if isinstance(evaluation_result, (int, float)) or _is_scalar(evaluation_result):    # the 1.3 order: name, files, mAP
        evaluation_result = {"mAP": evaluation_result}
    current = current_env()
    name = _stage_name(stage_name)
    metrics = _metrics(name, evaluation_result, mAP)
    names = _file_names(name, files, current.output.models_dir)
    stage = {"stage_name": name, "files": names, "timestamp": _timestamp(name, timestamp), **metrics}
    extra = _attachments(attachments), _evaluate_config(evaluate_config)
    path = current.output.training_result_file
    _files.make_folder(os.path.dirname(path))
    if not _stages_supported(current):
        primary = next(key for key in _PRIMARY_METRICS if key in metrics)
        _write_yaml(path, {"model": list(dict.fromkeys(names)), "map": metrics[primary],
                           **{key: value for key, value in stage.items() if key != "files"}})
        return
    with _files.lock(os.path.dirname(path)):
        result = _read_result(path)
        _merge_stage(result, stage, metrics)
        _merge_extras(result, *extra)
        _write_yaml(path, result)


def write_training_result(stage_name: Optional[str] = None, files: Optional[Sequence[str]] = None,
                          evaluation_result: Optional[Mapping[str, Any]] = None, timestamp: Optional[int] = None,
                          attachments: Optional[Mapping[str, Sequence[str]]] = None,
                          evaluate_config: Optional[Mapping[str, float]] = None, **legacy: Any) -> None:
    """The older name of `write_model_stage`, which also takes the oldest keywords `model_names=, mAP=, classAPs=`."""
    if "model_names" in legacy or isinstance(stage_name, (list, tuple)):
        _write_legacy_result(stage_name, files, legacy)
        return
    if stage_name is None or files is None:
        raise TypeError("write_training_result() needs stage_name and files")
    write_model_stage(stage_name, files, evaluation_result, legacy.pop("mAP", None), timestamp, attachments, evaluate_config)


def _write_legacy_result(first: Any, second: Any, legacy: Dict[str, Any]) -> None:
    """`(model_names, mAP, classAPs, **more)`: one nameless stage."""
    warnings.warn("write_training_result(model_names, mAP, classAPs) is deprecated: call write_model_stage", DeprecationWarning,
                  stacklevel=3)
    names = legacy.pop("model_names", first)
    value = legacy.pop("mAP", second)
    legacy.pop("classAPs", None)
    write_model_stage("default_best_stage", list(names), {"mAP": value, **legacy})


def _merge_stage(result: Dict[str, Any], stage: Dict[str, Any], metrics: Dict[str, Any]) -> None:
    stages: Dict[str, Any] = result.setdefault("model_stages", {})
    primary = next(key for key in _PRIMARY_METRICS if key in metrics)
    stages.pop(stage["stage_name"], None)    # a stage that is written again is the latest one
    stages[stage["stage_name"]] = stage
    by_age = sorted(stages, key=lambda key: int(stages[key].get("timestamp", 0)))    # of equal seconds, in the order of writing
    best = max(reversed(by_age), key=lambda key: float(stages[key].get(primary, 0.0)))    # of equal metrics, the latest
    spare = [key for key in by_age if key != best]
    for key in spare[: max(0, len(stages) - _MAX_MODEL_STAGES_COUNT_)]:
        del stages[key]
    result["best_stage_name"] = best
    result[primary] = stages[best].get(primary, 0.0)


def _merge_extras(result: Dict[str, Any], attachments: Dict[str, List[str]], evaluate_config: Dict[str, float]) -> None:
    for section, names in attachments.items():
        known = result.setdefault("attachments", {}).setdefault(section, [])
        known.extend(name for name in names if name not in known)
    if evaluate_config:
        result["evaluate_config"] = evaluate_config


def _read_result(path: str) -> Dict[str, Any]:
    """The result.yaml as it stands; one that cannot be read is set aside, never silently overwritten."""
    import yaml

    from ymir_exc._yaml import load
    from ymir_exc.errors import ConfigError
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return {}
    try:
        value = load(path)
    except (ConfigError, yaml.YAMLError) as e:
        value = e
    if isinstance(value, dict) and isinstance(value.get("model_stages", {}), dict) and "model" not in value:
        return value
    aside = f"{path}.unreadable"
    _files.copy_file(path, aside)
    _log.warning("%s is no list of model stages; it is kept as %s and begun anew", path, aside)
    return {}


def _write_yaml(path: str, value: Dict[str, Any]) -> None:
    """Keys are sorted as ever, but the stages stand in the order of writing, which decides between equal timestamps."""
    import yaml
    ordered = {key: _sorted(value[key]) if key != "model_stages" else {name: _sorted(stage) for name, stage in value[key].items()}
               for key in sorted(value)}
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump(ordered, Dumper=dumper, default_flow_style=False, sort_keys=False)
    _files.write_bytes(path, text.encode("utf-8"))


def _sorted(value: Any) -> Any:
    return {key: _sorted(value[key]) for key in sorted(value, key=str)} if isinstance(value, dict) else value


def _stage_name(name: str) -> str:
    text = str(name).replace("-", "_")
    if not text.isidentifier() or len(text) > _MAX_NAME or text in _RESERVED_STAGES:
        raise ResultError(f"{name!r} cannot name a model stage", hint="use letters, digits and '_', not beginning with a digit: epoch_10")
    if text != str(name):
        _log.warning("model stage %r is named %r: the platform takes identifiers only", name, text)
    return text


def _file_names(stage: str, files: Sequence[str], models_dir: str) -> List[str]:
    """Names relative to the stage's folder or models_dir, where the platform looks, in this order."""
    if isinstance(files, (str, os.PathLike)):
        raise ResultError(f"stage {stage}: files must be a list of names, not {files!r}")
    names = [_relative(stage, os.fspath(name), models_dir) for name in files]
    if not names:
        raise ResultError(f"stage {stage}: no model files are given")
    for name in names:
        if not any(os.path.isfile(os.path.join(models_dir, folder, name)) for folder in (stage, "")):
            _log.warning("stage %s: the model file %s is neither in %s/%s nor in %s: the platform will refuse the model if it is not "
                         "there when the task ends", stage, name, models_dir, stage, models_dir)
    return names


def _relative(stage: str, name: str, models_dir: str) -> str:
    if os.path.isabs(name):
        for folder in (os.path.join(models_dir, stage), models_dir):
            if os.path.commonpath([folder, os.path.normpath(name)]) == os.path.normpath(folder):
                return os.path.relpath(name, folder)
    if not name or os.path.isabs(name) or ".." in name.split("/"):
        raise ResultError(f"stage {stage}: the model file {name!r} is not inside {models_dir}", hint="copy it there first")
    return name


def _timestamp(stage: str, value: Optional[int]) -> int:
    seconds = int(time.time() if value is None else value)
    if not 0 <= seconds <= _INT32:
        raise ResultError(f"stage {stage}: timestamp {seconds} is not in seconds since 1970")
    return seconds


def _metrics(stage: str, given: Optional[Mapping[str, Any]], m_ap: Optional[float]) -> Dict[str, Any]:
    if not given and m_ap is None:
        raise ResultError(f"stage {stage}: no metric is given", hint="evaluation_result={'mAP': ...}")
    if not given:
        warnings.warn("mAP= is deprecated: use evaluation_result={'mAP': ...}", DeprecationWarning, stacklevel=4)
    raw = dict(given) if given else {"mAP": m_ap}
    metrics: Dict[str, Any] = {}
    for key, value in raw.items():
        name = str(key)
        if name in ("stage_name", "files", "timestamp"):
            raise ResultError(f"stage {stage}: evaluation_result must not hold {name!r}")
        if name.lower() in _COUNTS:
            metrics[name.lower()] = _count(stage, name, value)
        elif name in _FRACTIONS:
            metrics[name] = _fraction(stage, name, value)
        else:
            metrics[name] = plain(value)
    if not any(key in metrics for key in _PRIMARY_METRICS):
        raise ResultError(f"stage {stage}: none of {', '.join(_PRIMARY_METRICS)} is among the metrics {sorted(metrics)}",
                          hint="mAP for detection, mIoU for semantic, maskAP for instance segmentation")
    return metrics


def _fraction(stage: str, name: str, value: Any) -> float:
    number = _float(value)
    if number == -1.0:
        _log.warning("stage %s: %s is -1 (COCO found nothing to evaluate); 0 is written", stage, name)
        return 0.0
    if number is None or not 0.0 <= number <= 1.0:
        raise ResultError(f"stage {stage}: {name} is {value!r}, which the platform refuses", hint="a fraction from 0 to 1, not percent")
    return number


def _count(stage: str, name: str, value: Any) -> int:
    number = _float(value)
    if number is None or not math.isfinite(number) or number != int(number) or not 0 <= number <= _INT32:
        raise ResultError(f"stage {stage}: {name} is {value!r}, which the platform refuses", hint="a whole number, 0 or more")
    return int(number)


def _float(value: Any) -> Optional[float]:
    """A builtin float of numpy and torch scalars, one-element arrays and numeric text; None when it is none."""
    if getattr(value, "size", 1) == 1 and hasattr(value, "item") and not isinstance(value, (int, float)):
        value = value.item()
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _is_scalar(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping) and _float(value) is not None


def plain(value: Any) -> Any:
    """Builtin numbers, text, lists and dicts of whatever numpy, torch or a framework returned; what cannot be converted becomes text.

    Args:
        value: Anything.

    Returns:
        Something that YAML and JSON can hold without knowing a framework.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):    # numpy arrays and scalars, torch tensors
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return str(value)


def _attachments(given: Optional[Mapping[str, Sequence[str]]]) -> Dict[str, List[str]]:
    made = {}
    for section, names in (given or {}).items():
        if isinstance(names, str):
            raise ResultError(f"attachments: {section}: must be a list of file names, not {names!r}")
        made[str(section)] = [os.fspath(name) for name in names]
    return made


def _evaluate_config(given: Optional[Mapping[str, float]]) -> Dict[str, float]:
    made = {}
    for key, value in (given or {}).items():
        number = _float(value)
        if number is None or not math.isfinite(number):
            raise ResultError(f"evaluate_config: {key} is {value!r}", hint="the platform takes numbers only")
        made[str(key)] = number
    return made


# ------------------------------------------------------------------------------------------------------------------------ mining

def write_mining_result(mining_result: Iterable[Tuple[str, float]]) -> None:
    """Write the ranking: one line an image, the most informative first; of equals the one given first.

    Args:
        mining_result: Image path as in the candidate index, and its score; higher is more worth labelling. Finite.

    Raises:
        ResultError: A score is NaN or infinite, or a path holds a tab or a line break; the earlier file stays.
        StorageError: It cannot be written; the earlier file stays.
    """
    if not is_main_rank():
        return
    rows = []
    for path, score in mining_result:
        text = os.fspath(path)
        number = _float(score)
        if number is None or not math.isfinite(number):
            raise ResultError(f"the mining score of {text!r} is {score!r}", hint="scores must be finite numbers")
        if "\t" in text or "\n" in text or "\r" in text:
            raise ResultError(f"the path {text!r} holds a tab or a line break, which result.tsv cannot carry")
        rows.append((text, number if not isinstance(score, int) else score))
    rows.sort(key=lambda row: row[1], reverse=True)
    path = current_env().output.mining_result_file
    _files.make_folder(os.path.dirname(path))
    with _files.open_atomic(path) as f:
        for start in range(0, len(rows), 10_000):
            f.write("".join(f"{name}\t{score}\n" for name, score in rows[start: start + 10_000]).encode("utf-8", "surrogateescape"))


# --------------------------------------------------------------------------------------------------------------------- inference

_ALGORITHMS = ("classification", "detection", "segmentation")


def write_infer_result(infer_result: Mapping[str, Any], algorithm: str = "detection") -> None:
    """Write the predictions.

    Args:
        infer_result: For detection, image path to a list of `Annotation`. For segmentation, a COCO mapping with images, categories and
            annotations (contract 7.3).
        algorithm: 'detection' or 'segmentation'.

    Raises:
        ResultError: An unknown algorithm, or a value that the platform would refuse; the earlier file stays.
        StorageError: It cannot be written; the earlier file stays.
    """
    if not is_main_rank():
        return
    if algorithm not in _ALGORITHMS:
        raise AssertionError(f"unknown algorithm {algorithm!r}: must be one of {', '.join(_ALGORITHMS)}")
    if algorithm == "classification":
        raise ResultError("the platform takes no classification results", hint="write detections or a segmentation")
    current = current_env()
    content = _detections(infer_result, _boxes_key(current)) if algorithm == "detection" else plain(infer_result)
    data = _json(content)
    path = current.output.infer_result_file
    _files.make_folder(os.path.dirname(path))
    _files.write_bytes(path, data)


def _boxes_key(current: EnvConfig) -> str:
    return "boxes" if _version(current.protocol_version) >= (1, 0, 0) else "annotations"


def _detections(infer_result: Mapping[str, Any], key: str) -> Dict[str, Any]:
    images: Dict[str, Any] = {}
    for path, objects in infer_result.items():
        name = os.path.basename(os.fspath(path))
        if name in images:
            _log.warning("two images are called %s; the platform sees the later one only", name)
        images[name] = {key: [_detection(name, annotation) for annotation in objects]}
    return {"detection": images}


def _detection(image: str, annotation: Union[Annotation, Any]) -> Dict[str, Any]:
    made: Dict[str, Any] = annotation.dict()
    if not math.isfinite(made["score"]):
        raise ResultError(f"{image}: a detection of {made['class_name']!r} has the score {made['score']}", hint="scores must be finite")
    return made


def _json(content: Any) -> bytes:
    try:
        return json.dumps(content, allow_nan=False).encode("ascii")
    except ValueError as e:
        raise ResultError(f"the predictions hold a value that JSON has no word for: {e}", hint="NaN and infinity are not allowed") from None
