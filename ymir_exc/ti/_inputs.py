"""What a user hands to a job, checked before anything is made: channels, hyper-parameters, the program, the environment."""
from __future__ import annotations

import json
import os
import reprlib
import stat
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple, Union

from ymir_exc.errors import ArgumentError, DatasetError
from ymir_exc.ti import _names
from ymir_exc.ti._stores import COS, local_path, split_cos

Place = Union[str, "os.PathLike[str]"]
Inputs = Union[None, Place, Mapping[str, Place]]

DEFAULT_CHANNEL = "training"
_WORD_LIMIT = 1 << 17    # of one word of a command line, Linux


def channels(inputs: Inputs) -> Dict[str, Dict[str, str]]:
    """Name to `{"uri": ..., "path": ...}`; one input alone is the channel `training`, and what must be fetched has no path yet.

    Raises:
        ArgumentError: A name or a place that means nothing.
        DatasetError: A file or folder that does not exist.
        ConfigError: A cos:// URI, and no way to fetch it.
    """
    if inputs is None:
        return {}
    if isinstance(inputs, (str, os.PathLike)):
        inputs = {DEFAULT_CHANNEL: inputs}
    if not isinstance(inputs, Mapping):
        raise ArgumentError(f"inputs is of type {type(inputs).__name__}", hint="a path or a URI, or a dict of channel and path")
    return {_names.check_channel(name): _channel(name, place) for name, place in inputs.items()}


def _channel(name: str, place: Place) -> Dict[str, str]:
    if not isinstance(place, (str, os.PathLike)):
        raise ArgumentError(f"channel {name!r} is of type {type(place).__name__}", hint="a path, file:// or cos://")
    uri = os.fspath(place)
    if uri.startswith(COS):
        from ymir_exc.ti import _cos
        split_cos(uri)
        _cos.sdk()
        _cos.account()
        return {"uri": uri, "path": ""}
    path = local_path(uri)
    wrong = ""
    try:
        if not os.path.isdir(path) and not stat.S_ISREG(os.stat(path).st_mode):
            wrong = "is neither a file nor a folder"
    except FileNotFoundError:
        wrong = "does not exist"
    except OSError as e:
        wrong = f"cannot be looked at: {e.strerror}"
    if wrong:
        raise DatasetError(f"channel {name!r}: {path} {wrong}", hint="give a file or a folder of this machine")
    return {"uri": uri, "path": os.path.realpath(path)}


def encoded(values: Mapping[str, Any]) -> Dict[str, str]:
    """Hyper-parameters as they are sent: each value as JSON, one level; numbers and arrays of numpy as Python's own.

    Raises:
        ArgumentError: A name that is no text, or a value that JSON cannot say.
    """
    made = {}
    for name, value in values.items():
        if not isinstance(name, str) or not name:
            raise ArgumentError(f"{name!r} cannot be the name of a hyper-parameter", hint="names are text")
        try:
            made[name] = json.dumps(value, allow_nan=False, default=plain)
        except (TypeError, ValueError, RecursionError) as e:
            raise ArgumentError(f"hyper-parameter {name!r} is {reprlib.repr(value)}, which JSON cannot say: {e}",
                                hint="numbers (nan and inf as text), text, true, false, null, lists and dicts") from e
    return made


def plain(value: Any) -> Any:
    """What JSON does not know, as what it knows: arrays and numbers of numpy and its like.

    Raises:
        TypeError: It is nothing of that kind.
    """
    if not hasattr(value, "tolist"):
        raise TypeError(f"{type(value).__name__} is of no kind that JSON has")
    return value.tolist()


def environment(envs: Optional[Mapping[str, Any]]) -> Dict[str, str]:
    """Variables for the containers.

    Raises:
        ArgumentError: A name that no variable can have, or a value that no command line can hold.
    """
    made = {str(name): str(value) for name, value in (envs or {}).items()}
    for name, value in made.items():
        if not name or "=" in name or "\0" in name + value:
            raise ArgumentError(f"{name!r} cannot be the name of an environment variable", hint="no '=' and no NUL")
        if len(os.fsencode(f"{name}={value}")) >= _WORD_LIMIT:
            raise ArgumentError(f"the environment variable {name!r} is longer than {_WORD_LIMIT >> 10} KiB", hint="hand it in as a file")
    return made


def program(entry_point: Place, source_dir: Optional[Place]) -> Tuple[Path, str]:
    """Where a program lies, and its name there.

    Returns:
        The file alone, or the folder that it lies in; and the entry point relative to the folder.

    Raises:
        ArgumentError: There is no such file, or it does not lie in `source_dir`.
    """
    if not entry_point:
        raise ArgumentError("entry_point is empty", hint="the program's file")
    if source_dir is None:
        file = local_path(entry_point)
        if not file.is_file():
            raise ArgumentError(f"entry_point {file} does not exist", hint="give the program's file, or its folder as source_dir")
        return file, file.name
    if os.fspath(source_dir).startswith(COS):
        raise ArgumentError("source_dir is a cos:// URI", hint="give a folder of this machine")
    folder = local_path(source_dir)
    if not folder.is_dir():
        raise ArgumentError(f"source_dir {folder} is no folder", hint="the folder that the program lies in")
    file = Path(os.path.normpath(folder / os.fspath(entry_point)))
    if not file.is_file() and local_path(entry_point).is_file():
        file = local_path(entry_point)
    if folder.resolve() not in file.resolve().parents:
        raise ArgumentError(f"entry_point {entry_point} does not lie in source_dir {folder}", hint="give it relative to source_dir")
    if not file.is_file():
        raise ArgumentError(f"entry_point {entry_point} does not exist in source_dir {folder}", hint="give it relative to source_dir")
    try:
        return folder, file.relative_to(folder).as_posix()
    except ValueError:    # reached by another way
        return folder, file.resolve().relative_to(folder.resolve()).as_posix()
