"""What the platform says about the task: env.yaml, config.yaml and the image's manifest.

Files are parsed once and again only when they change; every call returns an object of its own, so a caller may alter what it got.
pydantic is loaded with the first model, not with this module.
"""
from __future__ import annotations

import os
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, NamedTuple, Tuple, TypeVar, cast

from ymir_exc import settings
from ymir_exc._yaml import load_mapping, nearest
from ymir_exc.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from ymir_exc._models import EnvConfig as EnvConfig
    from ymir_exc._models import EnvInputConfig as EnvInputConfig
    from ymir_exc._models import EnvOutputConfig as EnvOutputConfig

_T = TypeVar("_T")
_LAZY = ("EnvConfig", "EnvInputConfig", "EnvOutputConfig")
DEFAULT_OBJECT_TYPE = 2

# What a key means when env.yaml lacks it (contract 2.1). The config file's place is taken at import, as older images expect.
INPUT_DEFAULTS: Mapping[str, str] = {
    "root_dir": "/in", "assets_dir": "/in/assets", "annotations_dir": "/in/annotations", "models_dir": "/in/models",
    "training_index_file": "", "val_index_file": "", "candidate_index_file": "",
    "config_file": settings.DEFAULT_CONFIG_FILE_PATH,
}
OUTPUT_DEFAULTS: Mapping[str, str] = {
    "root_dir": "/out", "models_dir": "/out/models", "tensorboard_dir": "/out/tensorboard",
    "training_result_file": "/out/models/result.yaml", "mining_result_file": "/out/result.tsv",
    "infer_result_file": "/out/infer-result.json", "monitor_file": "/out/monitor.txt",
    "executor_log_file": "/out/ymir-executor-out.log",
}
TASK_DEFAULTS: Mapping[str, Any] = {
    "task_id": "default-task", "protocol_version": "0.0.1", "run_training": False, "run_mining": False, "run_infer": False,
    "manifest_file": "/img-man/manifest.yaml",
}


class DatasetType(IntEnum):
    """Which index file."""

    UNKNOWN = 1
    TRAINING = 2
    VALIDATION = 3
    CANDIDATE = 4


class TaskFiles(NamedTuple):
    """The few facts of env.yaml that a supervisor needs, read without pydantic."""

    env_file: str
    task_id: str
    config_file: str
    output_dir: str
    models_dir: str
    monitor_file: str
    training_result_file: str


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from ymir_exc import _models
        value = getattr(_models, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_current_env() -> EnvConfig:
    """Read the env.yaml named by `settings.DEFAULT_ENV_FILE_PATH`.

    Returns:
        A fresh object: changing it changes nothing else.

    Raises:
        ConfigError: The file is missing, unreadable, no YAML mapping, or a value has the wrong type.
    """
    shared = current_env()
    return shared.model_copy(update={"input": shared.input.model_copy(), "output": shared.output.model_copy()})


def current_env() -> EnvConfig:
    """The same without the copy, for readers inside the package; not to be altered."""
    return _cached(settings.DEFAULT_ENV_FILE_PATH, _read_env)


def get_executor_config() -> Dict[str, Any]:
    """Read the config.yaml that env.yaml names.

    Returns:
        A fresh plain dict.

    Raises:
        ConfigError: env.yaml or config.yaml is missing, unreadable or no YAML mapping.
    """
    return load_cached(current_env().input.config_file)


def load_cached(path: str) -> Dict[str, Any]:
    """A YAML mapping, parsed again only when the file changes; a fresh dict at every call.

    Raises:
        ConfigError: Missing, unreadable or no YAML mapping.
    """
    import pickle
    return cast(Dict[str, Any], pickle.loads(_cached(path, _read_config)))


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
    except (TypeError, ValueError):
        raise ConfigError(f"{path}: object_type: {value!r} is not a number", hint="2 detection, 3 semantic, 4 instance") from None


def is_main_rank() -> bool:
    """False in a worker of a distributed program other than rank 0: those write no results and no progress."""
    return os.environ.get("RANK", "0").strip() in ("", "0", "-1")


def task_files(path: str) -> TaskFiles:
    """Check an env.yaml as `get_current_env` does and return what a supervisor needs of it.

    Raises:
        ConfigError: As `get_current_env`.
    """
    raw = load_mapping(path, "the task's description")
    if not _is_plain(raw):
        env = _validate(raw, path)
        return TaskFiles(path, env.task_id, env.input.config_file, env.output.root_dir, env.output.models_dir,
                         env.output.monitor_file, env.output.training_result_file)
    output = {**OUTPUT_DEFAULTS, **raw.get("output", {})}
    return TaskFiles(path, raw.get("task_id", TASK_DEFAULTS["task_id"]),
                     raw.get("input", {}).get("config_file", INPUT_DEFAULTS["config_file"]),
                     output["root_dir"], output["models_dir"], output["monitor_file"], output["training_result_file"])


def _is_plain(raw: Dict[str, Any]) -> bool:
    """True when each value has the very type that the platform writes, so that no model is needed to say it is right."""
    for key, default in TASK_DEFAULTS.items():
        if key in raw and type(raw[key]) is not type(default):
            return False
    return all(
        isinstance(raw.get(part, {}), dict) and all(isinstance(value, str) for value in raw.get(part, {}).values())
        for part in ("input", "output")
    )


def _read_env(path: str) -> EnvConfig:
    return _validate(load_mapping(path, "the task's description"), path)


def _validate(raw: Dict[str, Any], path: str) -> EnvConfig:
    from pydantic import ValidationError

    from ymir_exc._models import EnvConfig
    try:
        return EnvConfig.model_validate(raw)
    except ValidationError as e:
        raise ConfigError(f"{path}: {_first_problem(e)}", hint=_near_miss(raw)) from None


def _first_problem(error: ValidationError) -> str:
    problems = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        what = item["msg"].replace("Value error, ", "")
        problems.append(f"{where}: {what}, got {item['input']!r:.80}")
    return "; ".join(problems)


def _near_miss(raw: Mapping[str, Any]) -> str:
    """Name a misspelt key, if there is one."""
    known: Dict[str, Tuple[Mapping[str, Any], Any]] = {
        "": ({**TASK_DEFAULTS, "input": 0, "output": 0}, raw),
        "input.": (INPUT_DEFAULTS, raw.get("input")),
        "output.": (OUTPUT_DEFAULTS, raw.get("output")),
    }
    for prefix, (names, part) in known.items():
        for key in part if isinstance(part, dict) else ():
            close = nearest(str(key), names)
            if key not in names and close:
                return f"is {prefix}{key} meant to be {prefix}{close}?"
    return ""


def _read_config(path: str) -> bytes:
    """Pickled, because loading that is the fastest deep copy of plain data."""
    import pickle
    return pickle.dumps(load_mapping(path, "the hyper-parameters"))


_cache: Dict[str, Tuple[Tuple[int, ...], Any]] = {}


def _cached(path: str, read: Callable[[str], _T]) -> _T:
    """What `read(path)` made of the file, read again when the file changed."""
    path = os.fspath(path)
    try:
        info = os.stat(path)
        stamp: Tuple[int, ...] = (info.st_mtime_ns, info.st_size, info.st_ino, info.st_ctime_ns)
    except OSError:
        return read(path)    # which says what is wrong with it
    known = _cache.get(path)
    if known is None or known[0] != stamp:
        known = _cache[path] = (stamp, read(path))
    return cast(_T, known[1])
