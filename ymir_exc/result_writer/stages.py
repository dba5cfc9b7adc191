"""result.yaml: the stages of a trained model (contract section 6)."""
from __future__ import annotations

import functools
import itertools
import logging
import os
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar, cast

from ymir_exc import _files
from ymir_exc.env import current_env, is_main_rank
from ymir_exc.errors import ResultError, deprecated
from ymir_exc.result_writer._stage_checks import PRIMARY_METRICS, Stage, checked_attachments, checked_evaluate_config, checked_stage
from ymir_exc.result_writer._stage_files import StageFiles
from ymir_exc.result_writer._values import INT32, knows_stages, to_float

_log = logging.getLogger(__name__)
_F = TypeVar("_F", bound=Callable[..., Any])

_MAX_MODEL_STAGES_COUNT_ = 11    # ten latest and the best


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
    lists them: its copies, what it has no copy of, and what it was copied from if that has its number in the name
    (`model_epoch_10.pt`). Other files that were copied are the program's and stay.

    A file straight in `models_dir` is copied to `models_dir/<stage_name>/`, because the next stage may overwrite it; `epoch_10.pt` for
    the stage `epoch_10` is not, so write it once. What was saved in a folder of the name with hyphens (`epoch-10/`), where the platform
    does not look, is copied too; that folder stays as it is, also when the stage is dropped. Links become files: the platform packs
    them as links.

    A stage that is written again takes the weights that are newer than its own. If these or result.yaml cannot be written, the earlier
    metrics stay with the earlier weights. Both are replaced one right after the other; a kill in between leaves the new weights with the
    earlier metrics until the next call, which puts the earlier weights back. This holds for copies, not for what the program itself
    overwrites in `models_dir/<stage_name>/`.

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
        StorageError: result.yaml cannot be written, or a file to where the platform looks; the earlier result stays.
    """
    if not is_main_rank():
        return
    if evaluation_result is not None and not isinstance(evaluation_result, Mapping):    # the 1.3 order: name, files, mAP
        evaluation_result = {"mAP": evaluation_result}
    if not evaluation_result and mAP is not None:
        deprecated("mAP=", "use evaluation_result={'mAP': ...}", stacklevel=4)
        evaluation_result = {"mAP": mAP}
    add_stage(stage_name, files, evaluation_result, timestamp, attachments, evaluate_config, {})


def add_stage(stage_name: str, files: Sequence[str], metrics: Optional[Mapping[str, Any]], timestamp: Optional[int],
              attachments: Optional[Mapping[str, Sequence[str]]], evaluate_config: Optional[Mapping[str, float]],
              brought: Mapping[str, str]) -> None:
    """As `write_model_stage`; `brought` says of some of the files from where they come into the stage's folder."""
    current = current_env()
    path = current.output.training_result_file
    places = StageFiles(current.output.models_dir, path)
    stage = checked_stage(stage_name, files, metrics, timestamp, places, brought)
    extras = checked_attachments(attachments, current.output.models_dir), checked_evaluate_config(evaluate_config)
    _files.make_folder(os.path.dirname(path), shared=True)
    if not knows_stages(current):
        flat = _flat(stage)
        _publish(path, _yaml_bytes(path, flat), flat)
        return
    with _files.lock(os.path.dirname(path)):
        result = _read_result(path)
        places.finish_earlier(result)
        if timestamp is None:
            stage = stage._replace(timestamp=max([stage.timestamp, *map(_seconds, result.get("model_stages", {}).values())]))
        is_known = stage.name in result.get("model_stages", {})
        dropped = _merge_stage(result, stage)
        _merge_extras(result, *extras)
        data = _yaml_bytes(path, result)    # what it refuses, it refuses before any weights change
        copies = places.copies(stage.name, stage.given_name, stage.files, is_known, brought)
        spare = places.spare(dropped, result)
        try:
            places.begin(stage.name, stage.entry(), copies, spare)
            _publish(path, data, result)
        except BaseException:
            if not _holds(path, data):
                places.undo(copies)    # a later try would take them for the stage's own
            raise    # with a result.yaml that stands and could not be flushed, what it drops goes with the next write
        places.end(copies, spare)


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
    if not evaluation_result and value is not None and is_main_rank():
        deprecated("mAP=", "use evaluation_result={'mAP': ...}")
        evaluation_result = {"mAP": value}
    write_model_stage(stage_name, files, evaluation_result, timestamp=timestamp, attachments=attachments, evaluate_config=evaluate_config)


def _write_legacy_result(first: Any, second: Any, third: Any, legacy: Dict[str, Any]) -> None:
    """`(model_names, mAP, classAPs, **more)`: one nameless stage."""
    deprecated("write_training_result(model_names, mAP, classAPs)", "call write_model_stage", stacklevel=4)
    names, value = legacy.pop("model_names", first), legacy.pop("mAP", second)
    per_class = legacy.pop("classAPs", third)
    more = {**legacy, **({"class_aps": per_class} if per_class is not None else {})}
    write_model_stage("default_best_stage", names, {"mAP": value, **more})


# ----------------------------------------------------------------------------------------------------------------------- merging

def _merge_stage(result: Dict[str, Any], stage: Stage) -> Dict[str, Any]:
    """Put the stage in, name the best one, and take out what is too much.

    Returns:
        The stages that were taken out.
    """
    stages: Dict[str, Any] = result.setdefault("model_stages", {})
    stages.pop(stage.name, None)    # a stage that is written again is the latest one
    stages[stage.name] = stage.entry()
    primary = next(key for key in PRIMARY_METRICS if any(key in entry for entry in stages.values()))
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


def _flat(stage: Stage) -> Dict[str, Any]:
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
        value = load(path, most=1_000_000)    # metrics of thousands of classes, eleven times
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
