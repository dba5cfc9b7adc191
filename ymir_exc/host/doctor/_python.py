"""Python, this package and what it needs, the locale."""
from __future__ import annotations

import importlib.metadata
import locale
import os
import re
import sys
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from ymir_exc._version import __version__
from ymir_exc.host.doctor._probe import Line, Question, Status, probe

_NAME = "ymir-exc"
_EXTRAS = {"host": "the commands that draw, show and write", "coco": "mean average precision", "demo": "the demo detector"}
_FALLBACK = {"": ["easydict>=1.4", "pyyaml>=5.1", "pydantic>=2.0,<3", "tensorboard>=2.2"]}
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(?:;.*extra == ['\"]([^'\"]+)['\"].*)?$")


class Need(NamedTuple):
    """A package that is needed, such as `numpy`, and which versions will do: `>=1.20,<3`."""

    name: str
    versions: str


@probe("python", "Python")
def _python(_: Question) -> Iterator[Line]:
    version = ".".join(map(str, sys.version_info[:3]))
    place = "a virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"
    is_known = (3, 8) <= sys.version_info[:2] <= (3, 13)
    yield Line(Status.OK if is_known else Status.WARNING, f"Python {version}, {sys.executable}, {place}",
               "" if is_known else "use Python 3.8 to 3.13: others are not tested",
               {"version": version, "executable": sys.executable, "prefix": sys.prefix})


@probe("packages", "the installed packages")
def _packages(_: Question) -> Iterator[Line]:
    yield Line(Status.OK, f"ymir-exc {__version__}", "", {"name": _NAME, "version": __version__})
    needs = _needs()
    missing, told = _compare(needs.pop("", []))
    yield Line(Status.PROBLEM if missing else Status.OK, f"the runtime: {told}", f"pip install {' '.join(missing)}" if missing else "",
               {"extra": "", "missing": missing})
    for extra, what in _EXTRAS.items():
        if extra in needs:
            missing, told = _compare(needs[extra])
            yield Line(Status.WARNING if missing and extra == "host" else Status.OK, f"extra {extra}, for {what}: {told}",
                       f'pip install "{_NAME}[{extra}]"' if missing else "", {"extra": extra, "missing": missing})


def _needs() -> Dict[str, List[Need]]:
    """Extra ('' for none) to what it needs, as the installed package declares it."""
    try:
        declared = importlib.metadata.requires(_NAME) or []
    except importlib.metadata.PackageNotFoundError:    # run from its source
        declared = _FALLBACK[""]
    found: Dict[str, List[Need]] = {}
    for text in declared:
        match = _REQUIREMENT.match(text.strip())
        if match and match[1].lower() != _NAME:
            found.setdefault(match[3] or "", []).append(Need(match[1], match[2].strip()))
    return found


def _compare(needs: List[Need]) -> Tuple[List[str], str]:
    """What would have to be installed, and a text on all."""
    missing, told = [], []
    for need in needs:
        version = _installed(need.name)
        if version is None or not fits(version, need.versions):
            missing.append(f"'{need.name}{need.versions}'")
        told.append(f"{need.name} {'is not installed' if version is None else version}"
                    + ("" if version is None or fits(version, need.versions) else f", {need.versions} is needed"))
    return missing, "; ".join(told)


def _installed(name: str) -> Optional[str]:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> Tuple[int, ...]:
    """The leading numbers of a version; those at its end that are 0 are left out, so that 2.0 is 2."""
    found = [int(part) for part in re.findall(r"\d+", re.split(r"[^0-9.]", version.strip())[0])]
    while found and not found[-1]:
        found.pop()
    return tuple(found)


def fits(version: str, wanted: str) -> bool:
    """Whether a version is one of those wanted: conditions with >=, >, <=, <, ==, != and commas between them; others hold."""
    have = numbers(version)
    for operator, number in re.findall(r"(>=|<=|==|!=|>|<)\s*([0-9][0-9.]*)", wanted):
        bound = numbers(number)
        holds = {">=": have >= bound, "<=": have <= bound, "==": have == bound, "!=": have != bound, ">": have > bound, "<": have < bound}
        if not holds[operator]:
            return False
    return True


@probe("locale", "the locale")
def _locale(_: Question) -> Iterator[Line]:
    file_system, text = sys.getfilesystemencoding(), locale.getpreferredencoding(False)
    is_utf8 = all(name.lower().replace("-", "") == "utf8" for name in (file_system, text))
    yield Line(Status.OK if is_utf8 else Status.WARNING, f"file names are {file_system}, text is {text}",
               "" if is_utf8 else "export LC_ALL=C.UTF-8: names of images and classes may be in any language",
               {"file_system": file_system, "text": text})
    home = os.path.expanduser("~")
    if not os.access(home, os.W_OK):
        yield Line(Status.WARNING, f"this user's home, {home}, cannot be written", "export HOME=/tmp: caches of torch and others go there",
                   {"home": home})
