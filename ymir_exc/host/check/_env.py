"""Judges env.yaml: what the task is, and where its files are (contract 2)."""
from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from ymir_exc._yaml import load_mapping, nearest
from ymir_exc.env import INPUT_DEFAULTS, OUTPUT_DEFAULTS, TASK_DEFAULTS, task_files
from ymir_exc.errors import ConfigError
from ymir_exc.host.findings import Finding, Severity, rule

THERE = rule(
    "E101", Severity.ERROR, "A task's input has an env.yaml", "A program learns from it which task it is, and fails without",
    "Write it as the platform does; `ymir-exc sample` makes one to copy")
READABLE = rule(
    "E102", Severity.ERROR, "env.yaml is a YAML mapping in UTF-8, with no key twice", "A program fails when it reads it",
    "Mend the line that is named")
TYPES = rule(
    "E103", Severity.ERROR, "The values of env.yaml have their types", "A program fails when it reads it",
    "Write true or false for run_*, text for paths, and mappings for input and output")
RUN = rule(
    "E104", Severity.ERROR, "env.yaml asks for a task", "A program has nothing to do, and what it does not write is missing later",
    "Set run_training, run_mining or run_infer to true")
ALONE = rule(
    "E105", Severity.ERROR, "A training runs alone",
    "The platform never asks for both; programs do one of them and leave the other's result out",
    "Set either run_training, or run_mining and run_infer")
TASK_ID = rule(
    "E106", Severity.ERROR, "task_id is letters, digits, underscores, dots and hyphens",
    "It is the first column of monitor.txt: a TAB or a line end in it fails the task", "Choose another id")
NO_TASK_ID = rule(
    "E107", Severity.WARNING, "env.yaml has a task_id", "Progress is reported for 'default-task'", "Add task_id")
VERSION = rule(
    "E108", Severity.WARNING, "protocol_version is 1.0.0 or later",
    "Programs take an old platform for granted and write results in its layout",
    "Write protocol_version: '1.1.0', as every release since 2.0.0 does")
VERSION_TEXT = rule(
    "E109", Severity.WARNING, "protocol_version is text", "YAML reads a version without quotes as a number: 1.10 becomes 1.1",
    "Put it in quotes")
ABSOLUTE = rule(
    "E110", Severity.ERROR, "The paths of env.yaml are absolute", "They are resolved against wherever the program was started",
    "Write the whole path")
INDEX_SET = rule(
    "E111", Severity.ERROR, "env.yaml names the index files of its task", "A program finds no data",
    "Set input.training_index_file and input.val_index_file for a training, input.candidate_index_file for mining and inference")
SPELLING = rule(
    "E112", Severity.WARNING, "No key of env.yaml is nearly one that is known", "Nobody reads it, and a default counts in its place",
    "Mend the key")
KEYS = rule(
    "E113", Severity.WARNING, "env.yaml has all keys that the platform writes", "A default of the reader counts in its place",
    "Add the key")
FOLDERS = rule(
    "E114", Severity.WARNING, "The input folders that env.yaml names are there", "A program that lists one fails",
    "Make the folder; it may be empty")
ROOT = rule(
    "E115", Severity.ERROR, "The input paths of env.yaml lie in input.root_dir", "Nothing else is mounted into the container",
    "Move the file there, or mend root_dir")

TASKS = ("training", "mining", "infer")
INDEX_KEYS = {"train": "training_index_file", "val": "val_index_file", "candidate": "candidate_index_file"}
_NOT_ALWAYS = ("manifest_file", "executor_log_file", "protocol_version", "task_id")    # platforms before 2.1 and 1.3 had none
_TASK_ID = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class Task(NamedTuple):
    """What env.yaml says, as far as it can be read.

    Attributes:
        folder: The `in` folder on this machine.
        root: What the task calls it.
        tasks: Those of `TASKS` that run.
        inside: The section `input`.
        task_id: '' where it is missing.
        manifest: Where the image's manifest lies, '' where it is missing.
    """

    folder: Path
    root: str
    tasks: Tuple[str, ...]
    inside: Mapping[str, str]
    task_id: str
    manifest: str

    def here(self, path: str) -> Optional[str]:
        """Where a path of the task lies on this machine; None where the task cannot see it."""
        if ".." in path:
            path = os.path.normpath(path)
        if path.startswith(self.root) and path[len(self.root):len(self.root) + 1] in ("/", ""):
            return f"{self.folder}{path[len(self.root):]}"
        return None


def absence(path: str) -> str:
    """A sentence that there is no such file; '' where there is one. A pipe in its place is never opened: it would be waited for."""
    try:
        return "" if stat.S_ISREG(os.stat(path).st_mode) else f"{path} is no file"
    except (FileNotFoundError, NotADirectoryError):
        return f"{path} does not exist"
    except (OSError, ValueError) as e:    # a NUL character is a ValueError
        return f"{path} cannot be read: {getattr(e, 'strerror', None) or e}"


def read_mapping(path: str, what: str = "this file") -> Dict[str, Any]:
    """As `_yaml.load_mapping`, which would wait for a pipe.

    Raises:
        ConfigError: As there; and what lies there is no file.
    """
    if os.path.exists(path) and absence(path):
        raise ConfigError(absence(path))
    return load_mapping(path, what)


def read_task(folder: Path) -> Tuple[Task, List[Finding]]:
    """Judge the env.yaml of an `in` folder, and tell what it says."""
    path = folder / "env.yaml"
    if absence(str(path)):
        return task_of(folder, {}), [Finding(THERE, absence(str(path)), str(path))]
    raw, findings = read_env(path)
    task = task_of(folder, raw)
    if raw:
        findings += [*_check_folders(task, str(path))]
    return task, findings


def read_env(path: Path) -> Tuple[Dict[str, Any], List[Finding]]:
    """Judge one env.yaml by itself; gives an empty mapping where it cannot be read."""
    try:
        raw = load_mapping(str(path), "the task's description")
    except ConfigError as e:
        return {}, [Finding(READABLE, e.message, str(path))]
    return raw, list(check_env(raw, path))


def task_of(folder: Path, raw: Mapping[str, Any]) -> Task:
    """What a mapping, of env.yaml or empty, says of the task in a folder."""
    inside, task_id = raw.get("input"), raw.get("task_id")
    inside = {key: value for key, value in inside.items() if isinstance(value, str)} if isinstance(inside, dict) else {}
    root = (inside.get("root_dir") or INPUT_DEFAULTS["root_dir"]).rstrip("/")
    manifest = raw.get("manifest_file", TASK_DEFAULTS["manifest_file"])
    return Task(folder, root, tuple(name for name in TASKS if is_set(raw, name)), inside, "" if task_id is None else str(task_id),
                manifest if isinstance(manifest, str) else "")


def is_set(raw: Mapping[str, Any], task: str) -> bool:
    """Whether an env.yaml asks for a task, in any of the words that are taken for true."""
    return str(raw.get(f"run_{task}")).strip().lower() in ("true", "1", "yes", "on", "t", "y")


def check_env(raw: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    """Judge what an env.yaml says, without looking at the files that it names."""
    place = str(path)
    try:
        task_files(place)
    except ConfigError as e:
        yield Finding(TYPES, e.message.replace(f"{place}: ", "", 1), place)
    task = task_of(path.parent, raw)
    if not task.tasks:
        yield Finding(RUN, "none of run_training, run_mining and run_infer is true", place)
    if "training" in task.tasks and len(task.tasks) > 1:
        yield Finding(ALONE, f"run_training and run_{task.tasks[1]} are both true", place, None, "run_training")
    if not task.task_id:
        yield Finding(NO_TASK_ID, "task_id is missing or empty", place, None, "task_id")
    elif not _TASK_ID.fullmatch(task.task_id):
        yield Finding(TASK_ID, f"task_id is {task.task_id!r:.120}", place, None, "task_id")
    yield from _check_version(raw.get("protocol_version"), place)
    yield from _check_keys(raw, place)
    yield from _check_paths(raw, task, place)


def _check_version(version: Any, place: str) -> Iterator[Finding]:
    key = "protocol_version"
    if isinstance(version, (int, float)) and not isinstance(version, bool):
        yield Finding(VERSION_TEXT, f"{version} is a number", place, None, key)
    if version is None:
        yield Finding(VERSION, "it is missing, which means 0.0.1", place, None, key)
    elif not re.match(r"\d*[1-9]\d*(\.|$)", str(version)):
        yield Finding(VERSION, f"it is {version!r:.40}", place, None, key)


def _check_keys(raw: Mapping[str, Any], place: str) -> Iterator[Finding]:
    """Keys that are missing, and keys that seem to be meant for one that is missing."""
    parts: Tuple[Tuple[str, Mapping[str, Any], Any], ...] = (
        ("", {**TASK_DEFAULTS, "input": 0, "output": 0}, raw), ("input.", INPUT_DEFAULTS, raw.get("input")),
        ("output.", OUTPUT_DEFAULTS, raw.get("output")))
    for prefix, known, given in parts:
        if not isinstance(given, dict):
            continue
        missing = [key for key in known if key not in given]
        for key in given:
            close = nearest(str(key), missing) if key not in known else None
            if close:
                missing.remove(close)
                yield Finding(SPELLING, f"{prefix}{key} seems to be meant for {prefix}{close}", place, None, f"{prefix}{key}")
        for key in missing:
            if key not in _NOT_ALWAYS:
                yield Finding(KEYS, f"{prefix}{key} is missing", place, None, f"{prefix}{key}")


def _check_paths(raw: Mapping[str, Any], task: Task, place: str) -> Iterator[Finding]:
    for section in ("input", "output"):
        values = raw.get(section)
        for key, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, str) and value and not value.startswith("/"):
                yield Finding(ABSOLUTE, f"{section}.{key} is {value!r:.120}", place, None, f"{section}.{key}")
            elif section == "input" and isinstance(value, str) and value and key in INPUT_DEFAULTS and task.here(value) is None:
                yield Finding(ROOT, f"input.{key} is {value}, which is not in {task.root}", place, None, f"input.{key}")
    needed = ("train", "val") if "training" in task.tasks else ("candidate",) if task.tasks else ()
    for split in needed:
        key = INDEX_KEYS[split]
        if key in task.inside and not task.inside[key]:
            yield Finding(INDEX_SET, f"input.{key} is empty", place, None, f"input.{key}")


def _check_folders(task: Task, place: str) -> Iterator[Finding]:
    for key in ("assets_dir", "annotations_dir", "models_dir"):
        here = task.here(task.inside.get(key, ""))
        if here is not None and not os.path.isdir(here):
            yield Finding(FOLDERS, f"input.{key} is {task.inside[key]}: there is no folder {here}", place, None, f"input.{key}")
