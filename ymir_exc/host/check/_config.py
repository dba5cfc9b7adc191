"""Judges config.yaml: the classes, the GPUs, the weights and the hyper-parameters of a task (contract 1.4, 1.5, 3)."""
from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ymir_exc._annotations import annotation_format
from ymir_exc._yaml import misspelt, nearest
from ymir_exc.errors import ConfigError
from ymir_exc.host.check import _env
from ymir_exc.host.check._env import Task
from ymir_exc.host.findings import Finding, Severity, rule
from ymir_exc.util import OBJECT_TYPE_FOLDERS, RESERVED_KEYS

THERE = rule(
    "C101", Severity.ERROR, "A task's input has the config.yaml that env.yaml names",
    "A program learns from it what to do, and fails without", "Write it, or mend input.config_file")
READABLE = rule(
    "C102", Severity.ERROR, "config.yaml is a YAML mapping in UTF-8, with no key twice", "A program fails when it reads it",
    "Mend the line that is named")
KEYS = rule(
    "C103", Severity.ERROR, "The keys of config.yaml are text", "get_merged_config() refuses it: such a key cannot be an attribute",
    "Put the key in quotes")
NESTED = rule(
    "C104", Severity.WARNING, "Hyper-parameters are flat", "The web form of the platform knows no nested values, so none arrives like that",
    "Give each value a key of its own")
CLASSES = rule(
    "C110", Severity.ERROR, "class_names is a list of names", "Annotations and results cannot be numbered",
    "Write a list with a name for each class")
CLASS_TEXT = rule(
    "C111", Severity.ERROR, "Class names are text",
    "YAML reads no, on or 1.0 as values; what is detected then bears a name that no label has", "Put the name in quotes")
CLASS_TWICE = rule(
    "C112", Severity.ERROR, "No class name is there twice", "The platform's labels know no case and no outer blanks: both are one class",
    "Remove one of them, and count annotations anew")
CLASS_FORM = rule(
    "C113", Severity.WARNING, "Class names are in lower case and without outer blanks",
    "The platform's labels are, so results come back under another name", "Write the name as the label is")
CLASS_MARKS = rule(
    "C114", Severity.WARNING, "Class names hold no comma, semicolon, TAB or line end",
    "Label files and prompts separate names by them: the name falls into two", "Rename the label")
GPU_ID = rule(
    "C120", Severity.ERROR, "gpu_id is a list of different GPU indices, or empty", "A program cannot tell which devices to use",
    "Write '0,1' for two GPUs, '' for none")
GPU_LOCAL = rule(
    "C121", Severity.WARNING, "gpu_id counts from 0 without a gap",
    "Indices are those in the container, where the first GPU is 0 whatever it is on the host",
    "Write as many indices as there are GPUs: 0,1,2")
GPU_COUNT = rule(
    "C122", Severity.WARNING, "gpu_count is the number of GPUs in gpu_id",
    "Programs that read one of the two use other devices than those that read the other", "Mend one of them")
NO_FORMAT = rule(
    "C130", Severity.WARNING, "A training has an export_format", "The platform then exports voc, whatever the program reads",
    "Set it in the training template, such as ark:raw")
FORMAT_PARTS = rule(
    "C131", Severity.ERROR, "export_format has one colon, and raw after it", "The export fails before the container starts",
    "Write the format of the annotations, a colon, and raw: ark:raw")
FORMAT_NAME = rule(
    "C132", Severity.ERROR, "export_format names annotations that the platform exports", "For an unknown name the index files are empty",
    "Use ark, voc or coco, such as ark:raw")
NO_LABELS = rule(
    "C133", Severity.WARNING, "A training asks for annotations", "With none the index files are empty",
    "Use ark, voc or coco, such as ark:raw")
SHM = rule(
    "C140", Severity.ERROR, "shm_size is a size as docker reads it", "The container does not start", "Write a number and a unit: 16G")
PATTERNS = rule(
    "C141", Severity.WARNING, "ymir_saved_file_patterns are regular expressions",
    "One that is none is ignored, and more files or none are saved", r"Write .*\.yaml for what a shell writes as *.yaml")
LIVE_CODE = rule(
    "C142", Severity.ERROR, "A task with a git_url has a git_branch", "Live code cannot be checked out",
    "Add git_branch: a branch, a tag or a commit")
WEIGHTS = rule(
    "C150", Severity.ERROR, "Mining and inference are given a model", "A program has no weights to detect with",
    "Set model_params_path to the files of a model stage")
WEIGHT_LIST = rule(
    "C151", Severity.ERROR, "The model's files are a list of absolute paths",
    "Programs look for them elsewhere, or take each letter for a file",
    "Write a list, a path a line, as the platform does: /in/models/<stage>/<file>")
WEIGHT_FILES = rule(
    "C152", Severity.ERROR, "The model's files are there", "A program passes over what is missing, or fails",
    "Put the file there; `ymir-exc run --model OUT` takes it from an earlier training")
NO_WEIGHTS = rule(
    "C153", Severity.NOTE, "pretrained_model_params is not empty",
    "The platform leaves the key out where no model was chosen; a program must expect both",
    "Remove the key, to try the program as the platform runs it")
OBJECT_TYPE = rule(
    "C154", Severity.WARNING, "object_type is 2, 3, 4 or 50", "Results are written in a form that the platform does not read",
    "Write 2 for boxes, 3 for semantic and 4 for instance segmentation, 50 for multi-modal")
FLAGS = rule(
    "C155", Severity.WARNING, "run_mining and run_infer are in config.yaml what they are in env.yaml", "Programs read the one or the other",
    "Mend one of them")
SAME_ID = rule(
    "C156", Severity.WARNING, "task_id is in config.yaml what it is in env.yaml", "The files may be of different tasks", "Mend one of them")
KIND = rule(
    "C160", Severity.WARNING, "A hyper-parameter has the type that it has in the template",
    "A program that expects the one fails at the other", "Write a value of that type")
UNKNOWN = rule(
    "C161", Severity.WARNING, "No hyper-parameter is nearly one of the template's", "Nothing reads it, and the template's default counts",
    "Mend the key")
ABSENT = rule(
    "C162", Severity.NOTE, "config.yaml has all hyper-parameters of the template",
    "A program that does not read with util.get_merged_config() lacks it", "Let the program fill in its template's defaults")

_SHM = re.compile(r"\d+(\.\d+)? ?([kmgtp]i?)?b?", re.IGNORECASE)
_GPU_NAMES = ("GPU-", "MIG-")
_PLATFORM_KEYS = RESERVED_KEYS | {
    "shm_size", "openpai_enable", "text_prompt", "prompt", "pypi_mirror", "ymir_saved_file_patterns", "ymir_debug"}
_ENV_KEYS = {"input", "output", "run_training", "protocol_version", "manifest_file"}


def check_config(path: Path) -> Iterator[Finding]:
    """Judge one env.yaml or config.yaml, without the files that it names; its content tells which of the two it is."""
    try:
        raw = _env.read_mapping(str(path))
    except ConfigError as e:
        yield Finding(_env.READABLE if "env" in path.name else READABLE, e.message, str(path))
        return
    if _ENV_KEYS & set(raw):
        yield from _env.check_env(raw, path)
    else:
        tasks = tuple(name for name in ("mining", "infer") if raw.get(f"run_{name}"))
        yield from _check_values(raw, tasks, str(path))


def read_config(task: Task) -> Tuple[Dict[str, Any], List[Finding]]:
    """Judge the config.yaml of a task and what it names; gives an empty mapping where it cannot be read."""
    path = task.here(task.inside.get("config_file") or f"{task.root}/config.yaml")
    if path is None:
        return {}, []    # told of env.yaml
    if _env.absence(path):
        return {}, [Finding(THERE, _env.absence(path), path)]
    try:
        raw = _env.read_mapping(path, "the hyper-parameters")
    except ConfigError as e:
        return {}, [Finding(READABLE, e.message, path)]
    return raw, [*_check_values(raw, task.tasks, path), *_check_task(raw, task, path), *_check_against_templates(raw, task, path)]


def class_names_of(raw: Mapping[str, Any]) -> Optional[List[str]]:
    """The class names as far as they can be counted; None where they cannot."""
    names = raw.get("class_names")
    return [str(name) for name in names] if isinstance(names, list) and names else None


def format_problem(value: Any) -> Tuple[str, str]:
    """What is wrong with an export_format: 'parts', 'name' or 'none', and a sentence; two empty texts where nothing is."""
    text = str(value)
    kind, _, asset = text.lower().partition(":")
    if text.count(":") != 1 or asset != "raw":
        return "parts", f"export_format is {text!r:.60}"
    try:
        found = annotation_format(kind) if kind else "voc"
    except ConfigError as e:
        return "name", f"{e.message.replace('config.yaml: ', '')}: {e.hint}"
    if kind != kind.strip():
        return "name", f"export_format is {text!r:.60}, with a blank"
    return ("none", f"export_format is {text!r:.60}") if found == "none" else ("", "")


def shm_problem(value: Any) -> str:
    """What is wrong with a shm_size; '' where nothing is."""
    return "" if value is None or _SHM.fullmatch(str(value)) else f"shm_size is {value!r:.60}"


def pattern_problems(value: Any) -> List[str]:
    """Which parts of ymir_saved_file_patterns are no regular expressions."""
    problems = []
    for part in value if isinstance(value, list) else str(value or "").split(","):
        try:
            re.compile(str(part).strip())
        except (re.error, OverflowError, RecursionError) as e:
            problems.append(f"{str(part).strip()!r:.60} is none: {e}")
    return problems


def _check_values(raw: Mapping[str, Any], tasks: Sequence[str], path: str) -> Iterator[Finding]:
    """What can be judged without any other file."""
    for key, value in raw.items():
        if not isinstance(key, str):
            yield Finding(KEYS, f"the key {key!r} is a {type(key).__name__}", path, None, str(key))
        elif isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)):
            yield Finding(NESTED, f"{key} holds a nested {'mapping' if isinstance(value, dict) else 'list'}", path, None, key)
    yield from _check_classes(raw, path)
    yield from _check_gpus(raw, path)
    yield from _check_format(raw, tasks, path)
    problem = shm_problem(raw.get("shm_size"))
    if problem:
        yield Finding(SHM, problem, path, None, "shm_size")
    for problem in pattern_problems(raw.get("ymir_saved_file_patterns")):
        yield Finding(PATTERNS, problem, path, None, "ymir_saved_file_patterns")
    if raw.get("git_url") and not raw.get("git_branch"):
        yield Finding(LIVE_CODE, "git_branch is missing or empty", path, None, "git_branch")
    kind = raw.get("object_type")
    if kind is not None and str(kind) not in map(str, OBJECT_TYPE_FOLDERS):
        yield Finding(OBJECT_TYPE, f"object_type is {kind!r:.60}", path, None, "object_type")
    yield from _check_weights(raw, tasks, path)


def _check_classes(raw: Mapping[str, Any], path: str) -> Iterator[Finding]:
    names = raw.get("class_names")
    if not isinstance(names, list) or not names or any(name is None or name == "" or isinstance(name, (dict, list)) for name in names):
        hint = misspelt(raw, "class_names")
        yield Finding(CLASSES, f"class_names is {names!r:.80}{': ' if hint else ''}{hint}", path, None, "class_names")
        return
    seen: Dict[str, int] = {}
    for position, name in enumerate(names):
        key, text = f"class_names[{position}]", str(name)
        if not isinstance(name, str):
            yield Finding(CLASS_TEXT, f"{name!r:.60} is a {type(name).__name__}", path, None, key)
            continue
        first = seen.setdefault(text.strip().lower(), position)
        if first != position:
            yield Finding(CLASS_TWICE, f"{text!r:.60} is the same as {names[first]!r:.60} at {first}", path, None, key)
        elif re.search(r"[,;\t\r\n]", text):
            yield Finding(CLASS_MARKS, f"{text!r:.60}", path, None, key)
        elif text != text.strip().lower():
            yield Finding(CLASS_FORM, f"{text!r:.60} is {text.strip().lower()!r:.60} among the labels", path, None, key)


def _check_gpus(raw: Mapping[str, Any], path: str) -> Iterator[Finding]:
    value = raw.get("gpu_id")
    parts = value if isinstance(value, (list, tuple)) else ("" if value is None else str(value)).split(",")
    ids = [str(part).strip() for part in parts if str(part).strip()]
    if not all(one.isdecimal() or one.startswith(_GPU_NAMES) for one in ids) or len(set(ids)) != len(ids):
        yield Finding(GPU_ID, f"gpu_id is {value!r:.60}", path, None, "gpu_id")
        return
    count = raw.get("gpu_count")
    if count is not None and str(count) != str(len(ids)):
        yield Finding(GPU_COUNT, f"gpu_count is {count!r:.60}, and gpu_id is {value!r:.60}", path, None, "gpu_count")
    if all(map(str.isdecimal, ids)) and sorted(map(int, ids)) != list(range(len(ids))):
        yield Finding(GPU_LOCAL, f"gpu_id is {value!r:.60}", path, None, "gpu_id")


def _check_format(raw: Mapping[str, Any], tasks: Sequence[str], path: str) -> Iterator[Finding]:
    value = raw.get("export_format")
    if value is None or value == "":
        if "training" in tasks:
            yield Finding(NO_FORMAT, "export_format is missing or empty", path, None, "export_format")
        return
    kind, problem = format_problem(value)
    if kind and (kind != "none" or "training" in tasks):
        yield Finding({"parts": FORMAT_PARTS, "name": FORMAT_NAME, "none": NO_LABELS}[kind], problem, path, None, "export_format")


def _check_weights(raw: Mapping[str, Any], tasks: Sequence[str], path: str) -> Iterator[Finding]:
    if raw.get("pretrained_model_params") == []:
        yield Finding(NO_WEIGHTS, "pretrained_model_params is an empty list", path, None, "pretrained_model_params")
    if {"mining", "infer"} & set(tasks) and not raw.get("model_params_path"):
        hint = misspelt(raw, "model_params_path")
        yield Finding(WEIGHTS, hint or "model_params_path is missing or empty", path, None, "model_params_path")
    for key in ("pretrained_model_params", "model_params_path"):
        value = raw.get(key)
        if value and (not isinstance(value, list) or not all(isinstance(one, str) and one.startswith("/") for one in value)):
            yield Finding(WEIGHT_LIST, f"{key} is {value!r:.120}", path, None, key)


def _check_task(raw: Mapping[str, Any], task: Task, path: str) -> Iterator[Finding]:
    """What must agree with env.yaml, and with the files."""
    if task.task_id and raw.get("task_id") is not None and str(raw["task_id"]) != task.task_id:
        yield Finding(SAME_ID, f"task_id is {raw['task_id']!r:.60}, and {task.task_id!r:.60} in env.yaml", path, None, "task_id")
    for name in ("mining", "infer"):
        told = raw.get(f"run_{name}")
        if told is not None and task.tasks and (str(told).lower() in ("true", "1", "t")) != (name in task.tasks):
            yield Finding(FLAGS, f"run_{name} is {told!r:.60}", path, None, f"run_{name}")
    key = "pretrained_model_params" if "training" in task.tasks else "model_params_path"
    files = raw.get(key)
    for one in files if isinstance(files, list) else ():
        here = task.here(one) if isinstance(one, str) and one.startswith("/") else path
        if here is None or not os.path.isfile(here):
            yield Finding(WEIGHT_FILES, f"{one} does not exist", path, None, key)


def _check_against_templates(raw: Mapping[str, Any], task: Task, path: str) -> Iterator[Finding]:
    """Types and names, where the image's templates are at hand."""
    folder = os.path.dirname(task.manifest)
    if not os.path.isdir(folder):
        folder = str(task.folder.parent / "img-man")
    template: Dict[str, Any] = {}
    for name in task.tasks:
        kind = next((name for code, name in OBJECT_TYPE_FOLDERS.items() if str(code) == str(raw.get("object_type"))), "det")
        for place in (os.path.join(folder, kind, f"{name}-template.yaml"), os.path.join(folder, f"{name}-template.yaml")):
            try:
                template = {**_env.read_mapping(place), **template}
                break
            except ConfigError:
                continue    # the templates are judged by themselves
    known = {key: value for key, value in template.items() if isinstance(key, str) and key not in RESERVED_KEYS}
    if not known:
        return
    missing = [key for key in known if key not in raw]
    for key, value in raw.items():
        if key in known:
            if not is_like(value, known[key]):
                yield Finding(KIND, f"{key} is {value!r:.60}, and {known[key]!r:.60} in the template", path, None, key)
        elif isinstance(key, str) and key not in _PLATFORM_KEYS and nearest(key, missing):
            close = str(nearest(key, missing))
            missing.remove(close)
            yield Finding(UNKNOWN, f"{key} seems to be meant for {close}", path, None, key)
    for key in missing:
        yield Finding(ABSENT, f"{key} is missing; it is {known[key]!r:.60} in the template", path, None, key)


def is_like(value: Any, default: Any) -> bool:
    """Whether a value may stand where the template has another: of its type, or text that a web form made of such a value."""
    if default is None or value is None or value == "":
        return True
    if isinstance(default, bool):
        return str(value).strip().lower() in ("true", "false", "1", "0", "t", "f", "yes", "no", "on", "off", "y", "n")
    if isinstance(default, (int, float)):
        try:
            is_whole = isinstance(default, int) and default not in (0, 1)    # 0 and 1 stand for fractions as well
            return not isinstance(value, bool) and (float(value) == int(float(value)) or not is_whole)
        except (TypeError, ValueError, OverflowError):
            return False
    return isinstance(value, (list, dict)) == isinstance(default, (list, dict)) or isinstance(value, str)
