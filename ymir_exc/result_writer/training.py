"""A stage of the model with its files chosen and brought to where the platform finds them; public in `ymir_exc.util`."""
from __future__ import annotations

import functools
import logging
import os
import re
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar, cast

from ymir_exc import _files
from ymir_exc._yaml import value_of
from ymir_exc.env import current_env, is_main_rank
from ymir_exc.errors import ArgumentError, ResultError
from ymir_exc.result_writer._stage_checks import checked_metrics, checked_name, file_names
from ymir_exc.result_writer._values import knows_stages
from ymir_exc.result_writer.stages import add_stage

if TYPE_CHECKING:
    from easydict import EasyDict as edict

_log = logging.getLogger(__name__)
_F = TypeVar("_F", bound=Callable[..., Any])


def filter_saved_files(cfg: edict, files: Sequence[str]) -> List[str]:
    """Choose the files of a stage by the hyper-parameter `ymir_saved_file_patterns`.

    Args:
        cfg: What `get_merged_config()` returned.
        files: Paths, absolute or relative to models_dir; empty for all files in models_dir.

    Returns:
        Paths relative to models_dir of those that match one of the comma-separated regular expressions; all without patterns.
    """
    models_dir = cfg.ymir.output.models_dir
    paths = file_names("files", files) or _all_files(models_dir, os.path.basename(cfg.ymir.output.training_result_file))
    names = [os.path.relpath(p, models_dir) if os.path.isabs(p) else p for p in paths]
    patterns = _patterns(value_of(cfg.param, "ymir_saved_file_patterns"))
    return [name for name in names if any(p.search(name) for p in patterns)] if patterns else names


def _all_files(models_dir: str, result: str) -> List[str]:
    try:
        return sorted(entry.path for entry in os.scandir(models_dir)
                      if entry.is_file() and entry.name != result and not entry.name.startswith((f"{result}.unreadable", ".")))
    except FileNotFoundError:
        return []


def _patterns(value: Any) -> List[re.Pattern[str]]:
    made = []
    for text in value if isinstance(value, (list, tuple)) else str(value or "").split(","):
        if str(text).strip():
            try:
                made.append(re.compile(str(text).strip()))
            except re.error as e:
                _log.warning("ymir_saved_file_patterns: %r is no regular expression (%s); it is ignored", text, e)
    return made


def format_saved_files(cfg: edict, files: Sequence[str]) -> List[str]:
    """Copy files that lie elsewhere, or in a folder of models_dir, straight into models_dir.

    Args:
        cfg: What `get_merged_config()` returned.
        files: Paths, absolute or relative to models_dir.

    Returns:
        Their names in models_dir.

    Raises:
        ArgumentError: A file does not exist; also an AssertionError.
    """
    models_dir = cfg.ymir.output.models_dir
    names: List[str] = []
    for path in _existing(models_dir, files):
        target = os.path.join(models_dir, os.path.basename(path))
        if os.path.basename(path) in names:
            _log.warning("two model files are called %s; the later one is kept", os.path.basename(path))
        if os.path.islink(target) or not (os.path.exists(target) and os.path.samefile(path, target)):
            _files.copy_file(path, target, shared=True)
        names.append(os.path.basename(path))
    return names


def _existing(models_dir: str, files: Sequence[str]) -> List[str]:
    """Paths of files, none of which is missing."""
    paths = [os.path.join(models_dir, given) for given in files]
    for path in paths:
        if not os.path.isfile(path):
            raise ArgumentError(f"the model file {path} {'is a folder' if os.path.isdir(path) else 'does not exist'}")
    return paths


def _names_in_stage(models_dir: str, stage: str, files: Sequence[str]) -> Tuple[List[str], Dict[str, str]]:
    """Bare names of the files, and which of them are to be copied into the stage's folder; those of models_dir stay where they are."""
    at_home = [os.path.realpath(folder) for folder in (models_dir, os.path.join(models_dir, stage))]
    names: List[str] = []
    brought: Dict[str, str] = {}
    for path in dict.fromkeys(map(os.path.abspath, _existing(models_dir, files))):
        name, parents = os.path.basename(path), os.path.dirname(path)
        is_double = name in names
        while name in names:    # folders hold files of this name: keep them apart
            name, parents = os.path.join(os.path.basename(parents) or "_", name), os.path.dirname(parents)
        if is_double or os.path.realpath(os.path.dirname(path)) not in at_home:
            brought[name] = path
        names.append(name)
    return names, brought


def _accept_old_order(function: _F) -> _F:
    """Take the older orders as well: `(cfg, map50, files, id, attachments)` and `(cfg, files, id, map50, attachments)`."""
    @functools.wraps(function)
    def wrapper(cfg: edict, *args: Any, **kwargs: Any) -> Any:
        if args and _is_number(args[0]):
            names = ("map50", "files", "id", "attachments")
            kwargs.update(zip(names, args))
            args = ()
        elif len(args) == 4 and isinstance(args[3], Mapping) and all(isinstance(names, (list, tuple)) for names in args[3].values()):
            kwargs["attachments"] = args[3]
            args = args[:3]
        return function(cfg, *args, **kwargs)

    return cast(_F, wrapper)


def _is_number(value: Any) -> bool:
    return not isinstance(value, (str, bytes, list, tuple, dict, set)) and hasattr(value, "__float__")


@_accept_old_order
def write_ymir_training_result(cfg: edict, files: Sequence[str], id: str,
                               map50: Optional[float] = None, evaluation_result: Optional[Mapping[str, Any]] = None,
                               evaluate_config: Optional[Mapping[str, float]] = None,
                               attachments: Optional[Mapping[str, Sequence[str]]] = None) -> None:
    """Write a stage of the model, with the files chosen and brought to where the platform finds them.

    Files are listed by their bare names, whatever folder they come from: those from elsewhere, or from a folder of models_dir, are copied
    into the stage's folder.

    Args:
        cfg: What `get_merged_config()` returned.
        files: Model files, absolute or relative to models_dir; empty for all of models_dir.
        id: The stage's name; a number gets the prefix `stage_`.
        map50: The older way to give one metric.
        evaluation_result: Metrics, with one of mAP, mIoU, maskAP.
        evaluate_config: How it was evaluated.
        attachments: Section to file names.

    Raises:
        ArgumentError: A file does not exist; also an AssertionError.
        ResultError: No file matches, or as `result_writer.write_model_stage`.
    """
    if not is_main_rank():
        return
    name = "" if id is None else str(id)
    if name.isdigit():
        name = f"stage_{name}"
        _log.warning("the stage %s is named %s: the platform takes identifiers only", id, name)
    metrics = dict(evaluation_result) if evaluation_result else {"mAP": map50} if map50 is not None else None
    chosen = filter_saved_files(cfg, files)
    brought: Dict[str, str] = {}
    if knows_stages(current_env()):
        chosen, brought = _names_in_stage(cfg.ymir.output.models_dir, name.replace("-", "_"), chosen)
    else:
        checked_metrics(checked_name(name), metrics)    # before a weight file is touched
        chosen = format_saved_files(cfg, chosen)
    if not chosen:
        raise ResultError(f"stage {name}: no model file is left", hint="ymir_saved_file_patterns matches none of the files")
    add_stage(name, chosen, metrics, None, attachments, evaluate_config, brought)
