"""What the probes share: the registry, their answers, and how they ask other programs."""
from __future__ import annotations

import enum
import os
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterable, List, Mapping, NamedTuple, Optional, Sequence, TypeVar

from ymir_exc.errors import YmirError

SECONDS = 20.0
"""What a probe may take, if it does not say otherwise; a program that it asks gets less."""
_PROGRAM_SECONDS = 15.0


class Status(str, enum.Enum):
    """`WARNING`: something will not work, or not well. `PROBLEM`: hardly anything will. `UNKNOWN`: it could not be found out."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


class Line(NamedTuple):
    """One answer.

    Attributes:
        status: How good that is.
        text: What there is.
        remedy: What to do; '' where nothing is to be done.
        facts: The same for programs; sizes in bytes.
        probe: The name of the probe, set by `examine`.
    """

    status: Status
    text: str
    remedy: str = ""
    facts: Mapping[str, Any] = {}
    probe: str = ""


class Question(NamedTuple):
    """What the user wants to know: `image` and `engine` of `examine`."""

    image: Optional[str] = None
    engine: Optional[str] = None


class Probe(NamedTuple):
    """A function that looks at one thing; `title` completes "... could not be found out"."""

    name: str
    title: str
    look: Callable[[Question], Iterable[Line]]
    seconds: float


PROBES: List[Probe] = []
_Look = TypeVar("_Look", bound=Callable[[Question], Iterable[Line]])


def probe(name: str, title: str, seconds: float = SECONDS) -> Callable[[_Look], _Look]:
    """Enter a function into the registry."""
    def enter(look: _Look) -> _Look:
        PROBES.append(Probe(name, title, look, seconds))
        return look

    return enter


class NoAnswer(YmirError):
    """A program that was asked failed or did not end in time."""


def ask(argv: Sequence[str], seconds: float = _PROGRAM_SECONDS) -> str:
    """What a program prints.

    Raises:
        FileNotFoundError: There is no such program.
        NoAnswer: It failed, or takes too long.
    """
    try:
        done = subprocess.run(list(argv), stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds,
                              encoding="utf-8", errors="replace", env={**os.environ, "LC_ALL": "C"}, check=False)
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{argv[0]} did not answer within {seconds:g} s") from None
    except PermissionError:
        raise NoAnswer(f"{argv[0]} may not be executed by this user") from None
    if done.returncode:
        said = [line.strip() for line in (done.stderr.strip() or done.stdout).splitlines() if line.strip()]
        raise NoAnswer("; ".join(said[-2:]) if said else f"{argv[0]} ended with status {done.returncode}")
    return done.stdout


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB" if count < 1024 else f"{count / 1024:.1f} TiB"


def read(path: str) -> str:
    """A small file of the kernel's, or '' where it has none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""
