"""Container contracts, in the order in which they are detected. Adding one is a line in `_REGISTRY` and a file beside this one."""
from __future__ import annotations

import os
from importlib import import_module
from typing import Mapping, Optional, Tuple

from ymir_exc.errors import ConfigError
from ymir_exc.platforms.base import Platform

PLATFORM_VARIABLE = "YMIR_EXC_PLATFORM"

# Loaded only when asked for: name -> (module, class). `local` takes whatever the others left.
_REGISTRY: Mapping[str, Tuple[str, str]] = {
    "ymir": ("ymir_exc.platforms.ymir", "YmirPlatform"),
    "ti": ("ymir_exc.platforms.ti", "TiPlatform"),
    "local": ("ymir_exc.platforms.local", "LocalPlatform"),
}
NAMES: Tuple[str, ...] = tuple(_REGISTRY)


def load(name: str) -> Platform:
    """A fresh object for one run on the named platform.

    Raises:
        ConfigError: There is no platform of this name.
    """
    if name not in _REGISTRY:
        raise ConfigError(f"unknown platform {name!r}", hint=f"one of {', '.join(NAMES)}; see --platform and {PLATFORM_VARIABLE}")
    module, kind = _REGISTRY[name]
    platform: Platform = getattr(import_module(module), kind)()
    return platform


def choose(name: Optional[str] = None, environ: Optional[Mapping[str, str]] = None) -> Platform:
    """The platform that started this process.

    Args:
        name: Forces one; without it the variable `YMIR_EXC_PLATFORM` does, and without that each is asked in turn.
        environ: The environment variables; the process's own when None.

    Raises:
        ConfigError: The forced name is unknown; or the files of two platforms are there, and nothing says which one counts.
    """
    given = os.environ if environ is None else environ
    forced = name or given.get(PLATFORM_VARIABLE)
    if forced:
        return load(forced)
    candidates = map(load, NAMES)
    first = next(platform for platform in candidates if platform.detect())
    if given.get("DEFAULT_ENV_FILE_PATH") or first.name == "local":
        return first
    others = [platform.name for platform in candidates if platform.name != "local" and platform.detect()]
    if others:
        raise ConfigError(f"this container has the files of the platforms {' and '.join([first.name, *others])}",
                          hint=f"set {PLATFORM_VARIABLE} to the one that started it, or mount only its files")
    return first
