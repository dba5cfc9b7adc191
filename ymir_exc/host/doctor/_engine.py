"""The container engine, and its way to the GPUs."""
from __future__ import annotations

import json
import os
import shutil
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

from ymir_exc.host.doctor._machine import disk_line
from ymir_exc.host.doctor._probe import Line, NoAnswer, Question, Status, ask, probe

ENGINES = ("docker", "podman")
_CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi")


class Engine(NamedTuple):
    """What an engine tells of itself: its `name`, `version`, whether it is `rootless`, its `root` folder and its `runtimes`."""

    name: str
    version: str
    rootless: bool
    root: str
    runtimes: List[str]


def chosen(question: Question) -> Optional[str]:
    """The engine asked for, or the first one that is installed."""
    return question.engine or next((name for name in ENGINES if shutil.which(name)), None)


def describe(name: str) -> Engine:
    """Ask an engine.

    Raises:
        NoAnswer: It fails or does not answer.
        FileNotFoundError: It is not installed.
    """
    try:
        info: Dict[str, Any] = json.loads(ask([name, "info", "--format", "{{json .}}"]))
    except json.JSONDecodeError as e:
        raise NoAnswer(f"{name} info is no JSON: {e}") from None
    if "store" in info:    # podman
        host = info.get("host", {})
        return Engine(name, str(info.get("version", {}).get("Version", "?")), bool(host.get("security", {}).get("rootless")),
                      str(info["store"].get("graphRoot", "")), [str(host.get("ociRuntime", {}).get("name", ""))])
    if info.get("ServerErrors"):
        raise NoAnswer(str(info["ServerErrors"][0]))
    return Engine(name, str(info.get("ServerVersion", "?")), any("rootless" in option for option in info.get("SecurityOptions") or ()),
                  str(info.get("DockerRootDir", "")), sorted(info.get("Runtimes") or ()))


@probe("engine", "the container engine")
def _engine(question: Question) -> Iterator[Line]:
    name = chosen(question)
    if name is None or shutil.which(name) is None:
        yield Line(Status.PROBLEM if question.engine or question.image else Status.WARNING,
                   f"{question.engine or 'no container engine, docker or podman,'} is {'not ' if question.engine else ''}installed",
                   "install one to build and verify images; init, run, check and report need none", {"engine": None})
        return
    try:
        engine = describe(name)
    except NoAnswer as e:
        yield Line(Status.PROBLEM, f"{name} is installed, but does not answer: {e}",
                   f"start it, or let this user use it; `{name} info` must succeed", {"engine": name, "answers": False})
        return
    yield Line(Status.OK, f"{name} {engine.version}{', rootless' if engine.rootless else ''}", "",
               {"engine": name, "answers": True, "version": engine.version, "rootless": engine.rootless, "runtimes": engine.runtimes})
    if engine.root and os.path.isdir(engine.root) and os.access(engine.root, os.X_OK):
        yield disk_line("images", engine.root)


@probe("toolkit", "the NVIDIA container toolkit")
def _toolkit(question: Question) -> Iterator[Line]:
    if shutil.which("nvidia-smi") is None:
        return
    name = chosen(question)
    if name is None or shutil.which(name) is None:
        return
    tool = shutil.which("nvidia-ctk") or shutil.which("nvidia-container-cli")
    specs = [os.path.join(folder, file) for folder in _CDI_FOLDERS if os.path.isdir(folder) for file in sorted(os.listdir(folder))]
    runtimes = describe(name).runtimes
    facts = {"tool": tool, "cdi": specs, "runtimes": runtimes}
    if tool is None and "nvidia" not in runtimes and not specs:
        yield Line(Status.WARNING, "the NVIDIA container toolkit is not installed: containers get no GPU",
                   "install nvidia-container-toolkit, then: nvidia-ctk runtime configure --runtime=docker", facts)
        return
    has_way = "nvidia" in runtimes or bool(specs) or name == "docker"
    yield Line(Status.OK if has_way else Status.WARNING, "the NVIDIA container toolkit is installed"
               + (f"; the runtimes of {name}: {', '.join(runtimes)}" if runtimes else ""),
               "" if has_way else "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml", facts)
