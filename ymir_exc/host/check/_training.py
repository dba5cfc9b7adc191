"""models/result.yaml: the layout, the stages and which of them is best (contract 6.1 and 6.2)."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Set, Tuple

from ymir_exc import _yaml
from ymir_exc.errors import ConfigError
from ymir_exc.host.check import _context, _stage_files
from ymir_exc.host.check._context import Task, kind_of, number, shown
from ymir_exc.host.check._yaml_places import Document
from ymir_exc.host.findings import Finding, Severity, rule

_E, _W = Severity.ERROR, Severity.WARNING
_VOID = "The platform refuses the whole result, and the trained model is lost (160011)"

T101 = rule("T101", _E, "A training leaves models/result.yaml", _VOID,
            "Call result_writer.write_model_stage() once a stage's weights are saved")
T102 = rule("T102", _E, "result.yaml is plain YAML that gives no key twice", _VOID, "Let result_writer write it, not print or json")
T103 = rule("T103", _E, "result.yaml is a mapping that is not empty", _VOID,
            "Let result_writer write it; an interrupted writer of its own left this")
T104 = rule("T104", _E, "model_stages is a mapping with at least one stage", _VOID, "Call result_writer.write_model_stage() for each stage")
T105 = rule("T105", _E, "The old layout has both model, a list, and map, a fraction", _VOID,
            "Write model_stages and best_stage_name, or give model and map both")
T106 = rule("T106", _E, "The old keys model and map do not stand beside model_stages",
            "The platform then reads the old keys alone; all stages are lost", "Delete model and map")
T107 = rule("T107", _E, "A stage is a mapping with stage_name, files and timestamp", _VOID, "Give all three; write_model_stage() does")
T108 = rule("T108", _E, "stage_name is the key of its stage", "The platform takes folders from the key, and shows the name",
            "Give both the same name")
T109 = rule("T109", _E, "A stage's name is an identifier: letters, digits and '_', no digit first",
            "The platform packs it, but can never use it: opening the stage fails (112002)", "Name it as epoch_10: '_' for '-' and '.'")
T110 = rule("T110", _E, "A stage's name has no '@'", "The platform splits model@stage there, and finds neither",
            "Take the '@' out of the name")
T111 = rule("T111", _E, "A stage's name has at most 100 characters", "The platform's database holds no more", "Shorten the name")
T112 = rule("T112", _E, "No stage is called attachments", "Its files and the attachments would share a folder of the archive",
            "Give it another name")
T121 = rule("T121", _E, "A stage's timestamp is whole seconds since 1970, in 32 bits", _VOID,
            "Write int(time.time()); milliseconds are too large")
T122 = rule("T122", _E, "A metric is a number from 0 to 1", _VOID,
            "Write a fraction, 0.852 for 85.2 %, and 0 where nothing could be measured")
T124 = rule("T124", _E, "tp, fp and fn are whole numbers of 0 or more, in 32 bits", _VOID, "Write int(value)")
T125 = rule("T125", _E, "Metrics and counts are spelt as the platform reads them",
            "It ignores any other spelling without a word, and shows 0",
            "Write tp, fp, fn in lower case, and mAP, mAR, mIoU, mAcc, maskAP, boxAP so")
T126 = rule("T126", _E, "best_stage_name is there", _VOID, "Name the stage with the highest metric; write_model_stage() does")
T127 = rule("T127", _E, "The best stage is one of the stages", _VOID, "Name a key of model_stages")
T128 = rule("T128", _E, "The best stage is the one with the highest metric, the later one of equals",
            "The platform offers this stage first, and the better one is overlooked", "Let write_model_stage() choose it")
T129 = rule("T129", _E, "Every stage has the metric of its kind: mAP, mIoU (semantic) or maskAP (instance)",
            "The platform shows 0 for it, and stages cannot be compared", "Pass it in evaluation_result of write_model_stage()")
T130 = rule("T130", _E, "There are at most 11 stages", "Tools of the platform keep the 10 latest and the best",
            "Let write_model_stage() drop the oldest, or list fewer")
T133 = rule("T133", _E, "evaluate_config is a flat mapping of text to numbers", _VOID,
            "Give numbers only: iou_thr: 0.5; leave the key out for none")
T134 = rule("T134", _E, "object_type is 2, 3, 4 or 50", "Some releases of the platform take the model's kind from it",
            "2 detection, 3 semantic, 4 instance segmentation, 50 multi-modal; or leave it out")

METRICS = ("mAP", "mAR", "mIoU", "mAcc", "maskAP", "boxAP")
COUNTS = ("tp", "fp", "fn")
_DEFAULT_STAGE = "default_best_stage"
_MAX_STAGES, _MAX_NAME = 11, 100
INT32_MIN, INT32_MAX = -(2 ** 31), 2 ** 31 - 1


class _Stage(NamedTuple):
    """What is compared of a stage."""

    name: str
    metrics: Mapping[str, float]
    timestamp: int


def check_training(models: Path, task: Task, counts: Dict[str, int]) -> Iterator[Finding]:
    """Judge models/result.yaml, and the files it lists.

    Args:
        models: The folder `models` of the task's `out` folder.
        task: What is known of the task.
        counts: Is given the number of stages.
    """
    path = models / "result.yaml"
    found: List[Finding] = []
    document = _read(path, found)
    yield from found
    if document is None:
        return
    value = document.value
    if "model" in value:
        yield from _old_layout(document, models)
        counts["stages"] = 1
    else:
        yield from _stages(document, models, task, counts)
    yield from _stage_files.check_attachments(document, models)
    yield from _evaluate_config(document)
    if "object_type" in value and not (type(value["object_type"]) is int and value["object_type"] in _context.OBJECT_TYPES):
        yield document.found(T134, f"object_type is {shown(value['object_type'])}", "object_type")
    yield from _stage_files.check_rest(document, models)


def _read(path: Path, found: List[Finding]) -> Optional[Document]:
    if not _context.is_sound(path, found, T101):
        return None
    bad = _context.first_bad_line(path)
    if bad is not None:
        found.append(_context.X005.found("holds bytes that are not UTF-8", str(path), line=bad))
        return None
    try:
        value = _yaml.load(str(path), "the training's result")
    except ConfigError as e:
        found.append(T102.found(e.message.replace(f"{path}, ", "").replace(f"{path}: ", ""), str(path), line=_line_in(e.message)))
        return None
    if not isinstance(value, dict) or not value:
        found.append(T103.found("is empty" if value is None or value == {} else f"is {kind_of(value)}", str(path), line=1))
        return None
    return Document(path, value)


def _line_in(message: str) -> Optional[int]:
    """The line that the YAML reader names: `path, line 3: ...`."""
    _, mark, rest = message.rpartition(", line ")
    digits = rest.split(":")[0]
    return int(digits) if mark and digits.isdigit() else None


def _old_layout(document: Document, models: Path) -> Iterator[Finding]:
    value = document.value
    if "model_stages" in value:
        yield document.found(T106, "model is there too", "model_stages")
    if "map" not in value:
        yield document.found(T105, "model is there without map", "model")
    elif _fraction(value["map"]) is None:
        yield document.found(T105, f"map is {shown(value['map'])}, no number from 0 to 1", "map")
    if isinstance(value["model"], list):
        yield from _stage_files.check_files(document, "model", value["model"], _DEFAULT_STAGE, models)
    else:
        yield document.found(T105, f"model is {kind_of(value['model'])}, no list", "model")


def _stages(document: Document, models: Path, task: Task, counts: Dict[str, int]) -> Iterator[Finding]:
    stages = document.value.get("model_stages")
    if not isinstance(stages, dict) or not stages:
        said = "is empty" if stages == {} else f"is {kind_of(stages)}" if "model_stages" in document.value else "is missing, and model too"
        yield document.found(T104, f"model_stages {said}", "model_stages")
        return
    counts["stages"] = len(stages)
    if len(stages) > _MAX_STAGES:
        yield document.found(T130, f"there are {len(stages)}", "model_stages")
    compared: List[_Stage] = []
    for name, stage in stages.items():
        key = f"model_stages.{name}"
        yield from _name(document, key, name)
        if not isinstance(stage, dict):
            yield document.found(T107, f"the stage is {kind_of(stage)}", key)
            continue
        yield from _stage(document, key, name, stage, models)
        compared.append(_Stage(str(name), _metrics(stage), _seconds(stage.get("timestamp")) or 0))
    yield from _compare(document, compared, _primary(task, document.value, stages), set(map(str, stages)))


def _name(document: Document, key: str, name: Any) -> Iterator[Finding]:
    text = str(name)
    if "@" in text:
        yield document.found(T110, f"the stage is called {shown(name)}", key)
    elif not isinstance(name, str) or not name.isidentifier():
        kind = "" if isinstance(name, str) else f", which is {kind_of(name)}"
        yield document.found(T109, f"the stage is called {shown(name)}{kind}", key)
    elif text == "attachments":
        yield document.found(T112, "a stage is called attachments", key)
    if len(text) > _MAX_NAME:
        yield document.found(T111, f"the name has {len(text)} characters", key)


def _stage(document: Document, key: str, name: Any, stage: Mapping[Any, Any], models: Path) -> Iterator[Finding]:
    missing = [needed for needed in ("stage_name", "files", "timestamp") if needed not in stage]
    if missing:
        yield document.found(T107, f"the stage lacks {', '.join(missing)}", key)
    if "stage_name" in stage and (not isinstance(stage["stage_name"], str) or stage["stage_name"] != name):
        yield document.found(T108, f"stage_name is {shown(stage['stage_name'])}, the key {shown(name)}", f"{key}.stage_name")
    if "timestamp" in stage and _seconds(stage["timestamp"]) is None:
        hint = ": milliseconds?" if (number(stage["timestamp"]) or 0) > INT32_MAX else ""
        yield document.found(T121, f"timestamp is {shown(stage['timestamp'])}{hint}", f"{key}.timestamp")
    yield from _values(document, key, stage)
    if "files" in stage:
        yield from _stage_files.check_files(document, f"{key}.files", stage["files"], name, models)


def _values(document: Document, key: str, stage: Mapping[Any, Any]) -> Iterator[Finding]:
    """Metrics, counts, and what is meant to be one."""
    for metric in METRICS:
        if metric in stage and _fraction(stage[metric]) is None:
            value = number(stage[metric])
            hint = f": percent? The platform takes {value / 100:g}" if value is not None and 1 < value <= 100 else ""
            yield document.found(T122, f"{metric} is {shown(stage[metric])}{hint}", f"{key}.{metric}")
    for count in COUNTS:
        if count in stage and not (type(stage[count]) is int and 0 <= stage[count] <= INT32_MAX):
            yield document.found(T124, f"{count} is {shown(stage[count])}", f"{key}.{count}")
    proper = {right.lower(): right for right in METRICS + COUNTS}
    for given in stage:
        right = proper.get(str(given).lower(), given)
        if right != given and (right not in stage or stage[right] != stage[given]):
            yield document.found(T125, f"{given} is ignored; the platform reads {right}", f"{key}.{given}")


def _metrics(stage: Mapping[Any, Any]) -> Dict[str, float]:
    made = {metric: _fraction(stage[metric]) for metric in METRICS if metric in stage}
    return {metric: value for metric, value in made.items() if value is not None}


def _fraction(value: Any) -> Optional[float]:
    """As the platform reads a metric: numbers, also as text, from 0 to 1."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    made = number(value)
    return made if made is not None and 0 <= made <= 1 else None


def _seconds(value: Any) -> Optional[int]:
    made = number(value)
    return int(made) if made is not None and INT32_MIN <= int(made) <= INT32_MAX else None


def _primary(task: Task, value: Mapping[Any, Any], stages: Mapping[Any, Any]) -> str:
    """The metric that ranks the stages: by the task's kind; where that is not known, the first that every stage has."""
    kind = task.object_type or value.get("object_type")
    if isinstance(kind, int) and kind in _context.PRIMARY:
        return _context.PRIMARY[kind]
    tables = [stage for stage in stages.values() if isinstance(stage, dict)]
    return next((metric for metric in _context.PRIMARY.values() if all(metric in stage for stage in tables)), "mAP")


def _compare(document: Document, stages: List[_Stage], primary: str, names: Set[str]) -> Iterator[Finding]:
    for stage in stages:
        given = document.value["model_stages"].get(stage.name, {})
        if primary not in given:
            yield document.found(T129, f"{primary} is missing", f"model_stages.{stage.name}")
    best = document.value.get("best_stage_name")
    if best is None or not str(best).strip():
        said = "is empty" if "best_stage_name" in document.value else "is missing"
        yield document.found(T126, f"best_stage_name {said}", "best_stage_name")
        return
    if not isinstance(best, str) or best not in names:
        near = _yaml.nearest(str(best), names)
        yield document.found(T127, f"best_stage_name is {shown(best)}" + (f"; is {near} meant?" if near else ""), "best_stage_name")
        return

    def rank(stage: _Stage) -> Tuple[float, int]:
        return stage.metrics[primary], stage.timestamp

    ranked = [stage for stage in stages if primary in stage.metrics]
    chosen = next((stage for stage in ranked if stage.name == best), None)
    top = max(ranked, key=rank, default=None)
    if chosen is not None and top is not None and rank(top) > rank(chosen):
        yield document.found(T128, f"{best} has {primary} {chosen.metrics[primary]:g}, but {top.name} has {top.metrics[primary]:g}"
                             + ("" if top.metrics[primary] > chosen.metrics[primary] else " and is later"), "best_stage_name")


def _evaluate_config(document: Document) -> Iterator[Finding]:
    if "evaluate_config" not in document.value:
        return
    given = document.value["evaluate_config"]
    if not isinstance(given, dict):
        yield document.found(T133, f"evaluate_config is {kind_of(given)}", "evaluate_config")
        return
    for key, value in given.items():
        if not isinstance(key, str) or not key.strip():
            yield document.found(T133, f"the key {shown(key)} is no text", f"evaluate_config.{key}")
        elif _number_or_text(value) is None:
            yield document.found(T133, f"{key} is {shown(value)}", f"evaluate_config.{key}")


def _number_or_text(value: Any) -> Optional[float]:
    try:
        return number(float(value)) if isinstance(value, str) else number(value)
    except ValueError:
        return None
