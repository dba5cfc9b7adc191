"""Builds the image of a project by the engine's command line, labels it, and looks at what came out: `ymir-exc build`."""
from __future__ import annotations

import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

from ymir_exc._version import __version__
from ymir_exc.errors import ConfigError, YmirError
from ymir_exc.host import _build_checks, _build_context, _signals
from ymir_exc.host.engine import Engine
from ymir_exc.host.findings import Finding
from ymir_exc.host.verify import _img_man
from ymir_exc.host.workspace import TASKS

CONTRACT_VERSION = "1.1.0"

_LAYERS = 5    # the largest, shown
_TAG = re.compile(r"[a-z0-9]+(?:[._/:-]+[A-Za-z0-9]+)*")


class BuildError(YmirError):
    """The engine could not build the image."""


class Layer(NamedTuple):
    """One layer: its bytes, and the line of the Dockerfile that made it."""

    size: int
    made_by: str


class Built(NamedTuple):
    """What a build gave.

    Attributes:
        tag: The image's name.
        image_id: Its digest.
        size: Bytes.
        layers: The largest, largest first.
        labels: All of its labels.
        tasks: Those whose templates the platform can read.
        findings: What is wrong with the image or the folder.
        commands: All of the engine's command lines.
    """

    tag: str
    image_id: str
    size: int
    layers: Tuple[Layer, ...]
    labels: Dict[str, str]
    tasks: Tuple[str, ...]
    findings: Tuple[Finding, ...]
    commands: Tuple[Tuple[str, ...], ...]


def build(engine: Engine, folder: Path, *, tag: str = "", build_args: Sequence[str] = (), network: str = "", quiet: bool = False) -> Built:
    """Build and check.

    Args:
        engine: Builds, and runs the short containers of the checks.
        folder: The project: it has a Dockerfile.
        tag: The image's name; the folder's by default.
        build_args: Each `KEY=VALUE`, or `KEY` for the one of the environment.
        network: Of the build's steps.
        quiet: Show the engine's output only when it fails.

    Raises:
        ConfigError: The folder has no Dockerfile, or the tag is none.
        EngineError: The engine does not answer.
        BuildError: A step of the Dockerfile failed.
        Stopped: This process got SIGTERM or SIGHUP; the engine's command was ended before.
    """
    folder = folder.resolve()
    if not (folder / "Dockerfile").is_file():
        raise ConfigError(f"{folder} has no Dockerfile", hint="ymir-exc init writes a project with one")
    tag = tag or default_tag(folder)
    if not _TAG.fullmatch(tag):
        raise ConfigError(f"{tag!r} is no name of an image", hint="lower-case letters, digits and . _ - /, then perhaps :TAG")
    engine.check()
    context = _build_context.scan(folder)
    words = ["build", "--force-rm", "-t", tag, *(["--network", network] if network else [])]    # no container is left when a step fails
    words += [word for one in build_args for word in ("--build-arg", one)]
    words += [word for key, value in labels(folder, tag).items() for word in ("--label", f"{key}={value}")]
    with _signals.stoppable():
        if engine.stream(*words, str(folder), quiet=quiet):
            raise BuildError(f"{engine.program} could not build {folder}", hint="its last lines say which step failed")
        return _inspect(engine, folder, tag, context)


def describe(built: Built) -> List[str]:
    """The result as lines for a person: what is wrong, then what was built."""
    lines = []
    for rule in dict.fromkeys(one.rule for one in built.findings):
        lines += [f"{rule.severity.value}: {rule.code} {one.place}: {one.message}" for one in built.findings if one.rule == rule]
        lines += [f"    {rule.why}.", f"    {rule.remedy}."]
    lines.append(f"{built.tag}: {_human(built.size)}, {', '.join(built.tasks) or 'no task'}")
    lines += [f"  {_human(layer.size):>10}  {layer.made_by}" for layer in built.layers]
    return lines


def _human(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB" if size < 1 << 30 else f"{size / (1 << 30):.2f} GiB"


def default_tag(folder: Path) -> str:
    """A name for the image of a folder: the folder's, in the letters that a name may have."""
    return re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-") or "ymir-image"


def labels(folder: Path, tag: str) -> Dict[str, str]:
    """The OCI annotations of an image, and what it was built with."""
    made = {"org.opencontainers.image.title": folder.name, "org.opencontainers.image.ref.name": tag,
            "org.opencontainers.image.created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_now())),
            "ymir-exc.version": __version__, "ymir-exc.contract": CONTRACT_VERSION}
    revision = _revision(folder)
    return {**made, "org.opencontainers.image.revision": revision} if revision else made


def _now() -> float:
    """The time, or the one that a repeatable build gives by SOURCE_DATE_EPOCH."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    return float(given) if given.isdigit() else time.time()


def _revision(folder: Path) -> str:
    """The commit that is checked out in a folder or above it, read from .git; '' where there is none."""
    for above in (folder, *folder.parents):
        git = above / ".git"
        try:
            head = (git / "HEAD").read_text(encoding="ascii").strip()
            if not head.startswith("ref: "):
                return head
            name = head[len("ref: "):]
            if (git / name).is_file():
                return (git / name).read_text(encoding="ascii").strip()
            packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
            return next((line.split()[0] for line in packed if line.endswith(f" {name}")), "")
        except (OSError, UnicodeDecodeError):
            if git.exists():
                return ""
    return ""


def _inspect(engine: Engine, folder: Path, tag: str, context: _build_context.Context) -> Built:
    description = engine.image(tag)
    config = description.get("Config") or {}
    with tempfile.TemporaryDirectory(prefix="ymir-exc-build-") as scratch:
        img_man = _img_man.read(engine, tag, Path(scratch) / "img-man")
        found = [*_build_checks.context_findings(folder, context), *_build_checks.findings(engine, tag, config, img_man)]
    layers = _layers(engine, tag)
    size = int(description.get("Size", 0))
    found += _build_checks.size_findings(tag, size, layers[0].made_by if layers else "")
    return Built(tag, str(description.get("Id", "")), size, layers, dict(config.get("Labels") or {}),
                 tuple(task for task in TASKS if task in img_man.templates), tuple(found), tuple(tuple(one) for one in engine.commands))


def _layers(engine: Engine, tag: str) -> Tuple[Layer, ...]:
    said = engine.call("history", "--no-trunc", "--human=false", "--format", "{{json .}}", tag).stdout.decode("utf-8", "replace")
    found = []
    for line in said.splitlines():
        one = json.loads(line)
        # docker says Size and CreatedBy, podman size and CreatedBy
        made_by = re.sub(r"^/bin/sh -c (#\(nop\)\s+)?", "", str(one.get("CreatedBy", "")))
        size = str(one.get("Size", one.get("size", "")))
        found.append(Layer(int(size) if size.isdigit() else 0, re.sub(r"\s+", " ", made_by).strip()[:100] or "the base image"))
    return tuple(sorted((one for one in found if one.size), reverse=True)[:_LAYERS])
