"""What the platform says about the task: env.yaml, config.yaml and the image's manifest.

Files are parsed once and again only when they change; every call returns an object of its own, so a caller may alter what it got.
"""
from __future__ import annotations

import os
import time
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, NamedTuple, Tuple, TypeVar, cast

from ymir_exc import settings
from ymir_exc._models import INPUT_DEFAULTS as INPUT_DEFAULTS
from ymir_exc._models import OUTPUT_DEFAULTS as OUTPUT_DEFAULTS
from ymir_exc._models import TASK_DEFAULTS as TASK_DEFAULTS
from ymir_exc._models import EnvConfig as EnvConfig
from ymir_exc._models import EnvInputConfig as EnvInputConfig
from ymir_exc._models import EnvOutputConfig as EnvOutputConfig
from ymir_exc._models import made_of
from ymir_exc._yaml import load_mapping, nearest
from ymir_exc.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from pydantic import ValidationError

_T = TypeVar("_T")
NO_TASK_VARIABLE = "YMIR_EXC_NO_TASK"
"""Set for a program on a platform whose files are no task for this package: why. Only a program that asks for the task hears of it."""

DEFAULT_OBJECT_TYPE = 2
_SETTLED_NS = 50_000_000
"""A file changed less than this time ago may change again under the same time stamp: kernels count in steps of some milliseconds."""


class DatasetType(IntEnum):
    """Which index file."""

    UNKNOWN = 1
    TRAINING = 2
    VALIDATION = 3
    CANDIDATE = 4


class TaskFiles(NamedTuple):
    """The few facts of env.yaml that a supervisor needs."""

    env_file: str
    task_id: str
    config_file: str
    output_dir: str
    models_dir: str
    monitor_file: str
    training_result_file: str


def get_current_env() -> EnvConfig:
    """Read the env.yaml named by `settings.DEFAULT_ENV_FILE_PATH`.

    Returns:
        A fresh object: changing it changes nothing else.

    Raises:
        ConfigError: The file is missing, unreadable, no YAML mapping, or a value has the wrong type; or the platform's files, which are
            not YMIR's, are no task for this package.
        WeightsError: The same, because a model's archive is broken.
    """
    return fresh(current_env())


def current_env() -> EnvConfig:
    """The same without the copy, for readers inside the package; not to be altered."""
    return _cached(settings.DEFAULT_ENV_FILE_PATH, _read_task)


def fresh(shared: EnvConfig) -> EnvConfig:
    """A copy that shares nothing."""
    made = made_of(EnvConfig, shared.__dict__)
    made.__dict__["input"] = made_of(EnvInputConfig, shared.input.__dict__)
    made.__dict__["output"] = made_of(EnvOutputConfig, shared.output.__dict__)
    return made


def get_executor_config() -> Dict[str, Any]:
    """Read the config.yaml that env.yaml names.

    Returns:
        A fresh plain dict.

    Raises:
        ConfigError: env.yaml or config.yaml is missing, unreadable or no YAML mapping.
    """
    import pickle
    return cast(Dict[str, Any], pickle.loads(current_config(current_env())))


def current_config(current: EnvConfig) -> bytes:
    """The config.yaml that env.yaml names, as `pickled` has it."""
    return config_at(current.input.config_file, settings.DEFAULT_ENV_FILE_PATH)


def config_at(path: str, env_file: str) -> bytes:
    """The same; an error names the env.yaml where that has a wrong path."""
    try:
        return pickled(path)
    except ConfigError as e:
        if os.path.lexists(path):
            raise
        raise ConfigError(f"{env_file}: input.config_file: {path or repr(path)} does not exist",
                          hint=misspelt_as("input.config_file") or e.hint) from None


def pickled(path: str) -> bytes:
    """A YAML mapping, pickled, because loading that is the fastest deep copy; the same object until the file changes.

    Raises:
        ConfigError: Missing, unreadable or no YAML mapping.
    """
    return _cached(path, _read_config)


def get_manifest_object_type() -> int:
    """`object_type` of the image's manifest: 2 (detection) when the manifest or the key is missing, the first one of a list.

    Raises:
        ConfigError: The manifest is no YAML mapping, or its object_type no number.
    """
    path = current_env().manifest_file
    if not os.path.exists(path):
        return DEFAULT_OBJECT_TYPE
    value = load_mapping(path, "the image's manifest").get("object_type", DEFAULT_OBJECT_TYPE)
    first = value[0] if isinstance(value, list) and value else value
    try:
        return int(first)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{path}: object_type: {value!r} is not a number", hint="2 detection, 3 semantic, 4 instance") from None


def is_main_rank() -> bool:
    """False in a worker of a distributed program other than rank 0: those write no results and no progress."""
    rank = os.environ.get("RANK")
    return rank is None or rank.strip() in ("", "0", "-1")


def task_files(path: str) -> TaskFiles:
    """Check an env.yaml as `get_current_env` does and return what a supervisor needs of it.

    Raises:
        ConfigError: As `get_current_env`.
    """
    env = _read_env(path)
    return TaskFiles(path, env.task_id, env.input.config_file, env.output.root_dir, env.output.models_dir,
                     env.output.monitor_file, env.output.training_result_file)


def _read_task(path: str) -> EnvConfig:
    reason = os.environ.get(NO_TASK_VARIABLE)
    if reason and not os.path.lexists(path):
        kind, _, text = reason.partition(": ")
        raise WeightsError(text) if kind == WeightsError.__name__ else ConfigError(reason)
    return _read_env(path)


def _read_env(path: str) -> EnvConfig:
    raw = load_mapping(path, "the task's description")
    try:
        return EnvConfig.parse_obj(raw)
    except ValueError as e:
        raise ConfigError(f"{path}: {_first_problem(cast('ValidationError', e))}",
                          hint=next(iter(_near_misses(raw).values()), "")) from None


_KINDS = {"model": "must be a mapping of keys to values", "bool": "must be true or false", "string": "must be text"}
"""What pydantic's kinds of errors mean to the one who wrote the file."""


def misspelt_as(key: str) -> str:
    """A hint that names the key of env.yaml which seems to be meant for a missing one, such as 'input.val_index_file'; '' without one.

    Only what comes of a missing key is an error: a key that nobody knows may be a later platform's.
    """
    try:
        raw = load_mapping(settings.DEFAULT_ENV_FILE_PATH)
    except ConfigError:
        return ""
    prefix, _, name = key.rpartition(".")
    given = raw.get(prefix) if prefix else raw
    return "" if not isinstance(given, dict) or name in given else _near_misses(raw).get(key, "")


def _first_problem(error: ValidationError) -> str:
    problems = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        what = next((words for kind, words in _KINDS.items() if item["type"].startswith(kind)), item["msg"].replace("Value error, ", ""))
        problems.append(f"{where}: {what}, got {item['input']!r:.80}")
    return "; ".join(problems)


def _near_misses(raw: Mapping[str, Any]) -> Dict[str, str]:
    """Known keys for which another one seems to be meant, and hints that say so."""
    known: Dict[str, Tuple[Mapping[str, Any], Any]] = {
        "": ({**TASK_DEFAULTS, "input": 0, "output": 0}, raw),
        "input.": (INPUT_DEFAULTS, raw.get("input")),
        "output.": (OUTPUT_DEFAULTS, raw.get("output")),
    }
    found: Dict[str, str] = {}
    for prefix, (names, part) in known.items():
        for key in part if isinstance(part, dict) else ():
            close = nearest(str(key), names)
            if key not in names and close:
                found[f"{prefix}{close}"] = f"is {prefix}{key} meant to be {prefix}{close}?"
    return found


def _read_config(path: str) -> bytes:
    import pickle
    return pickle.dumps(load_mapping(path, "the hyper-parameters"), pickle.HIGHEST_PROTOCOL)


_cache: Dict[str, Tuple[Tuple[int, ...], Any]] = {}


def _cached(path: str, read: Callable[[str], _T]) -> _T:
    """What `read(path)` made of the file, read again when the file changed."""
    try:
        info = os.stat(path)
    except OSError:
        return read(path)    # which says what is wrong with it
    stamp = (info.st_mtime_ns, info.st_size, info.st_ino, info.st_ctime_ns)
    known = _cache.get(path)
    if known is None or known[0] != stamp:
        is_settled = abs(time.time_ns() - info.st_ctime_ns) > _SETTLED_NS
        known = _cache[path] = (stamp if is_settled else (), read(path))
    return cast(_T, known[1])
