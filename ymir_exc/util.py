"""What an executor needs around its training loop: the merged configuration, weights, GPUs, progress, results."""
from __future__ import annotations

import functools
import importlib
import math
import os
import warnings
from enum import IntEnum
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from easydict import EasyDict as edict

from ymir_exc import env, result_writer
from ymir_exc._yaml import misspelt, nearest, value_of
from ymir_exc.errors import (
    ArgumentError,
    ConfigError,
    MissingKeyError,
    NoWeightsGivenError,
    UnknownStageError,
    WeightsError,
    deprecated,
)
from ymir_exc.monitor import YmirTask as YmirTask
from ymir_exc.monitor import task_percent, write_monitor_logger
from ymir_exc.monitor import write_monitor_logger_for_multiple_tasks as write_monitor_logger_for_multiple_tasks

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ymir_exc.dataset_convert import convert_ymir_to_coco as convert_ymir_to_coco
    from ymir_exc.result_writer.training import filter_saved_files as filter_saved_files
    from ymir_exc.result_writer.training import format_saved_files as format_saved_files
    from ymir_exc.result_writer.training import write_ymir_training_result as write_ymir_training_result

osp, rw = os.path, result_writer    # older code reaches them through this module
_P = TypeVar("_P", bound="BaseModel")

OBJECT_TYPE_FOLDERS = {2: "det", 3: "semantic-seg", 4: "instance-seg", 50: "multi-modal"}

# Written by the platform for this very task; a template's value for one of them is an example, never a default (contract 1.4, 1.5).
RESERVED_KEYS = frozenset({
    "task_id", "class_names", "gpu_id", "gpu_count", "object_type", "pretrained_model_params", "model_params_path", "run_infer",
    "run_mining", "export_format", "git_url", "git_branch", "code_config",
})


_RESULTS = ("filter_saved_files", "format_saved_files", "write_ymir_training_result")


def __getattr__(name: str) -> Any:
    if name in _RESULTS:    # loaded with the first use: a mining writes no stages
        value = globals()[name] = getattr(importlib.import_module("ymir_exc.result_writer.training"), name)
        return value
    if name == "convert_ymir_to_coco":    # its home until 1.3
        from ymir_exc.dataset_convert import convert_ymir_to_coco
        return convert_ymir_to_coco
    if name in ("glob", "json", "yaml"):    # older code reaches them through this module
        return importlib.import_module(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> List[str]:
    return sorted({*globals(), *_RESULTS})


def _warn(text: str, *values: Any) -> None:
    import logging
    logging.getLogger(__name__).warning(text, *values, stacklevel=2)


# ----------------------------------------------------------------------------------------------------------------- configuration

def get_merged_config() -> edict:
    """All that the platform and the image say about this task.

    `.ymir` is the `EnvConfig`; `.param` holds the hyper-parameters: config.yaml, completed where it lacks a key by the code's own
    configuration file (live-code mode: `git_url` and `code_config`) and then by the image's template for this task, because the
    platform drops keys whose value is empty, and for mining and inference also those that are 0 or false.

    Returns:
        A fresh EasyDict.

    Raises:
        ConfigError: env.yaml or config.yaml is missing or malformed.
    """
    global _merged
    current = env.current_env()
    config = env.current_config(current)
    known = _merged
    if (known is None or known.current is not current or known.config is not config
            or known.templates != [_first_template(places) for places in known.places]):
        known = _merged = _merge(current, config)
    import pickle
    values = {"param": pickle.loads(known.param), "ymir": env.fresh(current)}
    object.__setattr__(values["param"], "__class__", _Parameters)    # past EasyDict's own, for which it would be a key
    return _new_edict(values, values)


class _Parameters(edict):    # type: ignore[misc]
    """An EasyDict that says which key is like the one it lacks; what is copied or pickled from it is an EasyDict and no more."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):    # a protocol's question, not a program's
            raise AttributeError(name)
        if name in self:    # set as a key past `__setitem__`, by `|=` or in an older EasyDict
            return self[name]
        close = nearest(name, self)
        raise MissingKeyError(f"config.yaml has no hyper-parameter {name!r}", hint=f"is {close} meant?" if close else "")

    def __reduce__(self) -> Tuple[Any, ...]:
        return _new_edict, (dict(self), vars(self))


class _Merged(NamedTuple):
    """The hyper-parameters as merged, and what they were merged from; pickled, because loading that is the fastest deep copy."""

    current: env.EnvConfig
    config: bytes
    places: Sequence[Sequence[str]]
    templates: Sequence[Optional[bytes]]
    param: bytes


_merged: Optional[_Merged] = None


def _merge(current: env.EnvConfig, config: bytes) -> _Merged:
    import pickle
    param: Dict[str, Any] = pickle.loads(config)
    is_live_code = bool(param.get("git_url"))
    if is_live_code:
        param = {**_code_config(param.get("code_config")), **param}
    places = _template_places(current, param.get("object_type"))
    templates = [_first_template(candidates) for candidates in places]
    for template in filter(None, templates):
        for key, value in pickle.loads(template).items():
            if key not in RESERVED_KEYS:
                param.setdefault(key, value)
    for key in _keys_that_are_no_text(param):
        raise ConfigError(f"{current.input.config_file}: the key {key!r} is not text", hint=f"put it in quotes: '{key}'")
    # The code's own file is not watched: in live-code mode no call is answered from what an earlier one merged.
    return _Merged(current, b"" if is_live_code else config, places, templates, _pickled(edict(param)))


def _pickled(param: edict) -> bytes:
    import io
    import pickle

    class Pickler(pickle.Pickler):
        """An EasyDict would be filled key by key, in Python."""

        def reducer_override(self, value: Any) -> Any:
            return (_new_edict, (dict(value), vars(value))) if type(value) is edict else NotImplemented

    buffer = io.BytesIO()
    Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(param)
    return buffer.getvalue()


def _new_edict(items: Mapping[str, Any], attributes: Mapping[str, Any]) -> edict:
    """An EasyDict like an earlier one, with nothing to convert."""
    made = edict.__new__(edict)
    dict.update(made, items)
    vars(made).update(attributes)
    return made


def _keys_that_are_no_text(value: Any) -> Iterator[Any]:
    """What YAML made of unquoted keys such as 1 or yes; they cannot be attributes."""
    if isinstance(value, dict):
        yield from (key for key in value if not isinstance(key, str))
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from _keys_that_are_no_text(item)


def _code_config(path: Any) -> Dict[str, Any]:
    if not path:
        return {}
    if not isinstance(path, str):
        raise ConfigError(f"config.yaml: code_config: {path!r:.80} is no file's name")
    if not os.path.isfile(path):
        return {}
    from ymir_exc._yaml import load
    value = load(str(path), "the code's configuration")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: the code's configuration must be a mapping of keys to values")
    return value


def _template_places(current: env.EnvConfig, object_type: Any) -> List[Tuple[str, str]]:
    """Where the template of each of the tasks may lie; images for several kinds of annotation keep one in a folder for each kind."""
    folder = os.path.dirname(current.manifest_file)
    kind = OBJECT_TYPE_FOLDERS.get(int(object_type) if str(object_type).isdecimal() else 0)
    kinds = (kind, "") if kind else ("", "det")    # platforms before 2.4 name no object type, and know no folders
    names = [f"{task}-template.yaml" for task in ("training", "mining", "infer") if getattr(current, f"run_{task}")]
    return [(os.path.join(folder, kinds[0], name), os.path.join(folder, kinds[1], name)) for name in names]


def _first_template(places: Sequence[str]) -> Optional[bytes]:
    for path in places:
        if not os.path.isfile(path):
            continue
        try:
            return env.pickled(path)
        except ConfigError as e:    # the platform showed it to the user already: the task has its config.yaml
            _warn("no defaults are taken from the image's template: %s", e)
    return None


def get_parameters(cfg: edict, kind: Type[_P]) -> _P:
    """The hyper-parameters that a program knows, with their types.

        class TrainingParameters(pydantic.BaseModel):
            epochs: int = Field(100, ge=1)
            learning_rate: float = Field(0.01, gt=0)

        wanted = util.get_parameters(cfg, TrainingParameters)

    What passed through a web form may be text ("0.001"): pydantic converts it. An empty value is none, and the default counts. Keys that
    `kind` does not know are left alone, because the platform adds its own; one that is like a known key is warned of.

    Args:
        cfg: What `get_merged_config()` returned.
        kind: A pydantic model.

    Raises:
        ConfigError: A value has the wrong type or is out of range, or a required key is missing; it names all such keys.
    """
    from pydantic import ValidationError
    fields = kind.model_fields
    given = {name: value for name, value in dict.items(cfg.param) if name in fields and value is not None and value != ""}
    for name in set(cfg.param) - set(fields) - RESERVED_KEYS:
        close = nearest(name, fields)
        if close and name not in _template_keys(cfg.ymir):
            _warn("%s: nothing reads %s: is %s meant?", cfg.ymir.input.config_file, name, close)
    try:
        return kind(**given)
    except ValidationError as e:
        problems = [f"{'.'.join(map(str, item['loc']))} is {item['input']!r:.80}: {item['msg'][:1].lower()}{item['msg'][1:]}"
                    if item["type"] != "missing" else f"{item['loc'][0]} is missing" for item in e.errors()]
        raise ConfigError(f"{cfg.ymir.input.config_file}: {'; '.join(problems)}") from None


def _template_keys(current: env.EnvConfig) -> Set[str]:
    """What the image's own templates show to the user is known to some task of the image."""
    import pickle
    return {key for text in filter(None, map(_first_template, _template_places(current, None))) for key in pickle.loads(text)}


def get_class_names(cfg: edict) -> List[str]:
    """The classes, in the order in which annotations and results number them.

    Raises:
        ConfigError: There are none, or it is no list of different names.
    """
    from ymir_exc._annotations import class_names_of
    return class_names_of(cfg.param)


def get_bool(cfg: edict, key: str, default_value: bool = True) -> bool:
    """A hyper-parameter that means yes or no, however a web form or a person wrote it.

    Args:
        cfg: What `get_merged_config()` returned.
        key: Its name in `cfg.param`.
        default_value: What an absent key means.

    Raises:
        ConfigError: The value is neither.
    """
    value = value_of(cfg.param, key, default_value)
    text = str(value.item() if hasattr(value, "item") else value).strip().lower()
    if text in ("1", "1.0", "t", "true", "y", "yes", "on"):
        return True
    if text in ("0", "0.0", "f", "false", "n", "no", "off"):
        return False
    raise ConfigError(f"{cfg.ymir.input.config_file}: {key}: {value!r} is neither true nor false")


def get_gpu_ids(cfg: edict) -> List[Union[int, str]]:
    """The GPUs that this task may use.

    Args:
        cfg: What `get_merged_config()` returned; `gpu_id` may be '', None, absent, 0, '0, 1' or [0, 1].

    Returns:
        Indices as this container numbers them, or names of the form 'GPU-...' and 'MIG-...'; empty for CPU.

    Raises:
        ConfigError: gpu_id is none of these.
    """
    value = value_of(cfg.param, "gpu_id")
    parts: Sequence[Any] = value if isinstance(value, (list, tuple)) else ("" if value is None else str(value)).split(",")
    ids: List[Union[int, str]] = []
    for part in parts:
        text = str(part).strip()
        if text.isdecimal():
            ids.append(int(text))
        elif text.startswith(("GPU-", "MIG-")):
            ids.append(text)
        elif text:
            raise ConfigError(f"{cfg.ymir.input.config_file}: gpu_id: {value!r} is no list of GPU indices",
                              hint="write '0,1' for two GPUs, '' for CPU")
    if len(set(ids)) != len(ids):
        raise ConfigError(f"{cfg.ymir.input.config_file}: gpu_id: {value!r} names a GPU twice")
    return ids


def find_free_port() -> int:
    """A TCP port that is free now. Another process may take it before you do: bind late, or let the launcher choose."""
    import socket
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.bind(("", 0))
        return int(s.getsockname()[1])


# ----------------------------------------------------------------------------------------------------------------------- weights

def get_weight_files(cfg: edict, suffix: Union[str, Tuple[str, ...]] = (".pt", ".pth")) -> List[str]:
    """The model files that the platform hands in.

    Args:
        cfg: What `get_merged_config()` returned.
        suffix: One ending or several.

    Returns:
        Paths of files that exist, in the order given.

    Raises:
        NoWeightsGivenError: Mining or inference without `model_params_path`; also an AttributeError.
    """
    key = "pretrained_model_params" if cfg.ymir.run_training else "model_params_path"
    if key not in cfg.param and not cfg.ymir.run_training:
        raise NoWeightsGivenError(f"{cfg.ymir.input.config_file}: {key} is missing",
                                  hint=misspelt(cfg.param, key) or "choose a model that this image trained")
    names = value_of(cfg.param, key) or []
    if not isinstance(names, (str, list, tuple)):
        raise ConfigError(f"{cfg.ymir.input.config_file}: {key}: {names!r:.80} is no list of files")
    endings = (suffix,) if isinstance(suffix, str) else tuple(suffix)
    found = []
    for name in [names] if isinstance(names, str) else names:
        if str(name).endswith(endings):
            path = _find_weights(str(name), cfg.ymir.input.models_dir)
            if path is None:
                _warn("the model file %s does not exist", name)
            else:
                found.append(path)
    return found


def _find_weights(name: str, models_dir: str) -> Optional[str]:
    """Absolute, relative to models_dir, or, of packages made by old platforms, straight in models_dir."""
    for path in (name, os.path.join(models_dir, name), os.path.join(models_dir, os.path.basename(name))):
        if os.path.isabs(path) and os.path.isfile(path):
            return path
    return os.path.abspath(name) if os.path.isfile(name) else None


def pick_weight_file(cfg: edict, prefer: Sequence[str] = ("best", "last", "latest"),
                     suffix: Union[str, Tuple[str, ...]] = (".pt", ".pth")) -> Optional[str]:
    """The one model file to load.

    Args:
        cfg: What `get_merged_config()` returned.
        prefer: Words to look for in the file names, the most wanted first; without a match the newest file wins.
        suffix: One ending or several.

    Returns:
        Its path; None when a training has no pre-trained model.

    Raises:
        WeightsError: Mining or inference without a usable model file.
    """
    files = get_weight_files(cfg, suffix) if cfg.ymir.run_training or value_of(cfg.param, "model_params_path") else []
    if not files:
        if cfg.ymir.run_training:
            return None
        given = value_of(cfg.param, "model_params_path")
        raise WeightsError(f"none of the given model files ends with {suffix!r}: model_params_path is {given!r}",
                           hint="choose a model that this image trained")
    for word in prefer:
        for path in files:
            if word in os.path.basename(path):
                return path
    return max(files, key=os.path.getmtime)


# ---------------------------------------------------------------------------------------------------------------------- progress

class YmirStage(IntEnum):
    """The three parts of a task, for progress."""

    PREPROCESS = 1
    TASK = 2
    POSTPROCESS = 3


_STAGE_NAMES = ("preprocess", "task", "postprocess")
_DEFAULT_WEIGHTS = {"PREPROCESS_WEIGHT": 0.00001, "TASK_WEIGHT": 0.99998, "POSTPROCESS_WEIGHT": 0.00001}


class YmirStageWeight:
    """How much of a task's progress each part stands for.

    Args:
        weights: Three fractions that sum to 1; by default nearly all for the task itself, or what the environment variables
            PREPROCESS_WEIGHT, TASK_WEIGHT and POSTPROCESS_WEIGHT say.
    """

    def __init__(self, weights: Optional[List[float]] = None) -> None:
        self.weights = list(weights) if weights is not None and len(weights) else [
            _weight_of_environment(name, default) for name, default in _DEFAULT_WEIGHTS.items()]
        if len(self.weights) != 3:
            raise ArgumentError(f"three stage weights are needed, not {self.weights!r}")
        if not math.isclose(sum(self.weights), 1):
            raise ArgumentError(f"stage weights must sum to 1, not {self.weights!r}")

    def get_stage_process(self, stage: Union[YmirStage, str], p: float) -> float:
        """The task's progress, 0..1, when a fraction `p` of a stage is done.

        Raises:
            UnknownStageError: An unknown stage; also a NotImplementedError.
        """
        index = _stage_index(stage)
        return min(sum(self.weights[:index]) + self.weights[index] * p, 1.0)


def _weight_of_environment(name: str, default: float) -> float:
    try:
        return float(os.environ.get(name, default))
    except ValueError:
        raise ArgumentError(f"the environment variable {name} is {os.environ[name]!r:.80}, a number is wanted") from None


@functools.lru_cache(maxsize=8)
def _weights_of_environment(_: Tuple[Optional[str], ...]) -> YmirStageWeight:
    """The default weights, checked once for each content of their environment variables."""
    return YmirStageWeight()


def _stage_index(stage: Union[YmirStage, str]) -> int:
    if isinstance(stage, str) and stage in _STAGE_NAMES:
        return _STAGE_NAMES.index(stage)
    if not isinstance(stage, str) and stage in (1, 2, 3):
        return int(stage) - 1
    raise UnknownStageError(f"unknown stage {stage!r}: must be one of {', '.join(_STAGE_NAMES)} or a YmirStage")


def write_ymir_monitor_process(cfg: edict, task: Union[YmirTask, str], naive_stage_percent: float, stage: Union[YmirStage, str],
                               stage_weights: Union[List[float], YmirStageWeight, None] = None, task_order: str = "tmi") -> None:
    """Report progress of a stage of a task; cheap enough for every step of a loop.

    Args:
        cfg: What `get_merged_config()` returned.
        task: 'training', 'mining', 'infer', or a `YmirTask`.
        naive_stage_percent: Fraction of the stage, 0..1; anything else is clamped, with a warning.
        stage: 'preprocess', 'task', 'postprocess', or a `YmirStage`.
        stage_weights: Three fractions, or a `YmirStageWeight`.
        task_order: 'tmi' (mining first) or 'tim' (inference first).

    Raises:
        UnknownStageError: An unknown stage; also a NotImplementedError.
        ArgumentError: An unknown task or order, or NaN; also an AssertionError.
    """
    p = float(naive_stage_percent)
    if p != p:
        raise ArgumentError("naive_stage_percent is NaN; nothing was written")
    if not 0 <= p <= 1:
        warnings.warn(f"naive_stage_percent is {p}: a fraction from 0 to 1 is wanted, it is clamped", RuntimeWarning, stacklevel=2)
        p = min(max(p, 0.0), 1.0)
    if stage_weights is None:
        weights = _weights_of_environment(tuple(map(os.environ.get, _DEFAULT_WEIGHTS)))
    else:
        weights = stage_weights if isinstance(stage_weights, YmirStageWeight) else YmirStageWeight(stage_weights)
    write_monitor_logger(task_percent(cfg.ymir, task, weights.get_stage_process(stage, p), task_order))


def get_ymir_process(stage: Union[YmirStage, str], p: float, task_idx: int = 0, task_num: int = 1,
                     weights: Optional[List[float]] = None) -> float:
    """The older progress formula. Deprecated: call `write_ymir_monitor_process`.

    Args:
        stage: 'preprocess', 'task', 'postprocess', or a `YmirStage`.
        p: Fraction of the stage, 0..1.
        task_idx: Which task of the container, from 0.
        task_num: How many tasks the container runs.
        weights: Three fractions that sum to 1.

    Returns:
        Fraction of the container's run, 0..1.
    """
    deprecated("get_ymir_process", "call write_ymir_monitor_process")
    if not 0 <= p <= 1:
        raise ArgumentError(f"p must be in [0, 1], not {p!r}")
    return (task_idx + YmirStageWeight(weights).get_stage_process(stage, p)) / task_num
