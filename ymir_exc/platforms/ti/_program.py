"""Which program to start: the image's own, or a script that the user sent along (contract 1.6)."""
from __future__ import annotations

import os
import posixpath
import shutil
import sys
from typing import List, Mapping, NamedTuple, Optional, Tuple

from ymir_exc.errors import ConfigError
from ymir_exc.platforms.ti._config import Job, Layout, is_yes

PROGRAM_KEY = "ti_program"
PROGRAM_VARIABLE = "TI_PROGRAM"
INSTALL_VARIABLE = "YMIR_EXC_TI_INSTALL"
_REQUIREMENTS = "requirements.txt"


class Script(NamedTuple):
    """The user's script.

    Attributes:
        name: As the job names it; '' for the image's own program.
        argv: How to start it; None for the image's own program.
        cwd: Where it is to run; None for wherever the image says.
        setup: What goes before it, and before a launcher of several of it.
        warnings: What the user is to hear of.
    """

    name: str = ""
    argv: Optional[Tuple[str, ...]] = None
    cwd: Optional[str] = None
    setup: Tuple[str, ...] = ()
    warnings: Tuple[str, ...] = ()


def find(layout: Layout, job: Job, environ: Mapping[str, str]) -> Script:
    """The script that the hyper-parameter `ti_program` names, or else the variable `TI_PROGRAM`.

    A relative name is looked for in the job's code folder and must not lead out of it; an absolute one may lie anywhere in the image.

    Raises:
        ConfigError: It does not exist, leads out of the code folder, or is nothing that can be started.
    """
    name = job.text(PROGRAM_KEY)
    source = f"{job.file}: {PROGRAM_KEY}" if name else f"the environment variable {PROGRAM_VARIABLE}"
    name = name or environ.get(PROGRAM_VARIABLE, "")
    if not name:
        return Script()
    path, cwd = _place(layout, name, source)
    argv, setup, warnings = [*_interpreter(path, source), path], [], []
    requirements = os.path.join(layout.code, _REQUIREMENTS)
    if cwd is not None and os.path.isfile(requirements):
        if is_yes(environ.get(INSTALL_VARIABLE)):
            setup = [sys.executable, "-m", "ymir_exc.platforms.ti._install", requirements]
        else:
            warnings.append(f"{requirements} is not installed: {INSTALL_VARIABLE}=1 asks for it; an image that has it starts sooner")
    return Script(name, tuple(argv), cwd, tuple(setup), tuple(warnings))


def _place(layout: Layout, name: str, source: str) -> Tuple[str, Optional[str]]:
    """The script's path, and the folder to run it in."""
    if "\0" in name:
        raise ConfigError(f"{source}: {name!r:.80} is no file's name")
    place = posixpath.normpath(posixpath.join(layout.code, name))
    is_inside = place.startswith(posixpath.normpath(layout.code) + "/")
    if not is_inside and not name.startswith("/"):
        raise ConfigError(f"{source}: {name!r:.80} leads out of {layout.code}", hint="name a script of the image by its absolute path")
    if not os.path.isfile(place):
        hint = _content(layout.code) if is_inside else "the image has no such file"
        raise ConfigError(f"{source}: {place} {'is a folder' if os.path.isdir(place) else 'does not exist'}", hint=hint)
    return place, layout.code if is_inside else None


def _content(folder: str) -> str:
    try:
        names = sorted(os.listdir(folder))
    except OSError as e:
        return f"{folder}: {e.strerror}"
    return f"{folder} holds {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else f"{folder} is empty"


def _interpreter(path: str, source: str) -> List[str]:
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".py":
        return [sys.executable]
    if suffix == ".sh":
        return [shutil.which("bash") or "sh"]
    if os.access(path, os.X_OK):
        return []
    raise ConfigError(f"{source}: {path} ends neither with .py nor with .sh, and is not executable")
