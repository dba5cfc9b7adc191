"""The hyper-parameters of each task, with types.

What passed through a web form may arrive as text ("0.001"), and the platform adds keys of its own: known keys are read as the type of
their default, unknown ones are left alone. The defaults equal those of /img-man, where the user reads what they mean.
"""
from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

from easydict import EasyDict

from ymir_exc.errors import ConfigError


class TrainingHyper(NamedTuple):
    """What a user may change about training."""

    epochs: int = 200
    max_seconds: float = 110.0
    batch_size: int = 16
    input_size: int = 192
    learning_rate: float = 0.03
    evaluations: int = 3
    cache_mb: int = 1024
    seed: int = 0


class PredictHyper(NamedTuple):
    """What a user may change about mining and inference."""

    batch_size: int = 16
    conf_threshold: float = 0.05
    iou_threshold: float = 0.6
    max_detections: int = 100


Hyper = TypeVar("Hyper", TrainingHyper, PredictHyper)
Number = TypeVar("Number", int, float)
_LOWEST = {"seed": -math.inf, "expected_map": -math.inf, "batch_size": 1, "epochs": 1, "max_detections": 1, "evaluations": 1,
           "input_size": 32, "learning_rate": 1e-9}    # 0 for all others
_HIGHEST = {"conf_threshold": 1, "iou_threshold": 1, "expected_map": 1}


def read(kind: type[Hyper], cfg: EasyDict) -> Hyper:
    """The hyper-parameters of a task; raises ConfigError for a value of another kind, or out of range."""
    return kind(**{key: number(cfg, key, default) for key, default in kind._field_defaults.items()})


def number(cfg: EasyDict, key: str, default: Number) -> Number:
    """One hyper-parameter, as the type of its default."""
    given = cfg.param.get(key)
    if given is None or given == "":
        return default
    low, high, step = _LOWEST.get(key, 0), _HIGHEST.get(key, math.inf), 32 if key == "input_size" else 1
    try:
        value = float(given)
        if low <= value <= high and (isinstance(default, float) or value % step == 0):
            return type(default)(value)
    except (TypeError, ValueError, OverflowError):
        pass
    kind = "a number" if isinstance(default, float) else f"a multiple of {step}" if step > 1 else "a whole number"
    raise ConfigError(f"{cfg.ymir.input.config_file}: {key} is {given!r}, but must be {kind} from {low:g} to {high:g}")


def class_names(cfg: EasyDict) -> list[str]:
    """The classes, in the order in which annotations number them; raises ConfigError when there are none."""
    names = cfg.param.get("class_names")
    if not isinstance(names, (list, tuple)) or not names:
        raise ConfigError(f"{cfg.ymir.input.config_file}: class_names is {names!r}", hint="name at least one class")
    return [str(name) for name in names]
