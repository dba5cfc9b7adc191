"""What is looked at in an image that was built, and in the folder it was built from: rules B6xx, and what breaks them."""
from __future__ import annotations

import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any, Iterator, List, Mapping, Optional, Sequence, Tuple

from ymir_exc.host import _build_context
from ymir_exc.host.engine import Answer, Engine
from ymir_exc.host.findings import Finding, Severity, rule
from ymir_exc.host.verify import _img_man
from ymir_exc.host.workspace import TASKS

START = "/usr/bin/start.sh"
LARGE_IMAGE_BYTES = 15 << 30

_SHELLS = {"sh", "bash", "dash", "python", "python3", "/bin/sh", "/bin/bash", "/usr/bin/python3", "/usr/bin/bash"}
_SECRET_KEY = re.compile(r"(?:^|_)(?:TOKEN|PASSWORD|PASSWD|SECRET|API_?KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIALS?)(?:$|_)", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"://[^/\s:@]+:[^/\s:@]+@")
# Of the distribution, and of tools that come with certificates for their tests.
_SYSTEM = ("/proc", "/sys", "/dev", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share", "/usr/include", "/usr/local/lib",
           "/usr/local/share", "/usr/local/cuda*", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/var/lib", "/opt/conda", "/opt/nvidia")

_AS_ROOT = ("--user", "0:0", "--network", "none", "--entrypoint")    # every file can be read then

_E, _W = Severity.ERROR, Severity.WARNING
_NO_TEMPLATES = rule("B601", _E, "The platform can read a template through `docker run IMAGE cat`",
                     "It refuses an image without any, and offers only the tasks whose template it can read",
                     "Put manifest.yaml and TASK-template.yaml into /img-man, in UTF-8, each a mapping of keys to values")
_BANNER = rule("B602", _E, "Nothing but the file comes on stdout when the platform reads a template",
               "A banner makes the YAML unreadable, and the file counts as missing",
               "Print nothing on stdout in the ENTRYPOINT; banners go to stderr, or away")
_NO_START = rule("B603", _W, f"{START} is there and can be run by every uid", "Tools around the platform start it by this path",
                 f"COPY start.sh {START}, and chmod 755 it")
_NO_CMD = rule("B604", _E, "The image's CMD or ENTRYPOINT starts the program", "The platform names no command: without one, nothing runs",
               f'End the Dockerfile with CMD ["{START}"]')
_ENTRYPOINT = rule("B605", _E, "The ENTRYPOINT passes on the command that is given",
                   "The platform reads the templates by `cat` as the command",
                   'Write ENTRYPOINT [] and start the program by CMD, or end the entry point\'s script with exec "$@"')
_UID = rule("B606", _E, "A shell, and Python where there is one, run under a uid without an entry in /etc/passwd",
            "The platform starts the image under its own uid",
            "Install nothing that is needed under /root, and chmod -R a+rX what is copied in")
_LARGE = rule("B607", _W, "The image has less than 15 GiB", "Each machine pulls it before its first task",
              "Use a base for running, not for developing, and remove caches in the layer that makes them")
_BAD_TEMPLATE = rule("B608", _E, "Each file in /img-man is as the platform takes it",
                     "It refuses the image, or takes the file for missing",
                     "Mend the file; `ymir-exc check img-man` tells more")
_NO_TRAIN = rule("B609", Severity.NOTE, "An executable `train` is on the PATH",
                 "Tencent TI starts an image by that word: `docker run IMAGE train`",
                 "Where the image is to serve TI too, COPY one to /usr/local/bin/train and chmod 755 it; an image FROM ymir-exc has one")
_SECRET_SENT = rule("B610", _W, "No secret is in the folder that is sent to the engine", "One COPY of the folder puts it into the image",
                    "Name it in .dockerignore")
_SECRET_IN = rule("B611", _E, "No secret is in the image", "Who can pull the image can read it, also when a later layer removes it",
                  "Name it in .dockerignore, build anew, and change the secret: it may have been seen")
_SECRET_ENV = rule("B612", _E, "No secret is in the image's environment or history",
                   "`docker history` and `docker inspect` show it to everybody",
                   "Give it to the build as a secret mount, never by ENV or --build-arg, and change it")
_GIT = rule("B613", _W, "No .git folder is sent to the engine", "It makes the build slow, and holds all that was ever deleted",
            "Write .git into .dockerignore")
_WEIGHTS = rule("B614", _W, "No large weights lie in the folder that is sent to the engine",
                "Each build sends them, and a COPY keeps them",
                "Name them in .dockerignore, or keep them out of the project's folder where the image does not need them")
_IMAGES = rule("B615", _W, "No dataset lies in the folder that is sent to the engine",
               "Images belong to the platform, which hands them in at /in; in an image of the program they are given away with it",
               "Name the folder in .dockerignore")
_GIT_IN = rule("B616", _W, "No .git folder is in the image", "It holds all that was ever deleted", "Write .git into .dockerignore")
_IMAGES_IN = rule("B617", _W, "No dataset is in the image", "The platform hands images in at /in; who can pull this one has them",
                  "Name the folder in .dockerignore")
_MET = {"secret": _SECRET_SENT, "git": _GIT, "weights": _WEIGHTS, "images": _IMAGES}


def findings(engine: Engine, tag: str, config: Mapping[str, Any], img_man: _img_man.ImgMan) -> Iterator[Finding]:
    """What is wrong with an image.

    Args:
        engine: Runs the short containers that look at it.
        tag: The image.
        config: Its configuration, as the engine tells it.
        img_man: Its templates, as the platform reads them.
    """
    yield from _template_findings(engine, tag, img_man)
    python, paths = _look_around(engine, tag)
    yield from _start_findings(engine, tag, config, python)
    yield from _history_findings(engine, tag, config)
    yield from _file_findings(engine, tag, paths)


def size_findings(tag: str, size: int, largest: str) -> Iterator[Finding]:
    """Whether an image of `size` bytes is large; `largest` is the line of the Dockerfile that made its largest layer."""
    if size > LARGE_IMAGE_BYTES:
        yield Finding(_LARGE, f"the image has {size / (1 << 30):.1f} GiB; the largest layer is of {largest!r}", tag)


def context_findings(folder: Path, context: _build_context.Context) -> Iterator[Finding]:
    """What should not be among the files that a build of a folder sends."""
    for one in context.met:
        path = str(folder / one.path)
        if one.kind == "images":
            yield Finding(_IMAGES, f"{one.size} images are sent to the engine", path)
        elif one.kind == "weights":
            yield Finding(_WEIGHTS, f"{one.size / (1 << 20):.0f} MiB are sent to the engine", path)
        else:
            yield Finding(_MET[one.kind], "it is sent to the engine", path)


def _template_findings(engine: Engine, tag: str, img_man: _img_man.ImgMan) -> Iterator[Finding]:
    """What the platform reads, beside what is in the image: the difference is the entry point's."""
    if engine.dry_run:
        return
    if not img_man.templates or img_man.faults:
        for name in ("manifest.yaml", *(f"{task}-template.yaml" for task in TASKS)):
            plain = engine.run(["--entrypoint", "cat"], tag, [f"/img-man/{name}"])
            if plain.status == 0:
                found = _entry_finding(tag, f"/img-man/{name}", plain.stdout, _img_man.cat(engine, tag, f"/img-man/{name}"))
                if found is not None:
                    yield found
                    return
                break
    if not img_man.templates:
        yield Finding(_NO_TEMPLATES, "; ".join(img_man.faults), f"{tag}:/img-man")
        return
    for fault in img_man.faults:
        yield Finding(_BAD_TEMPLATE, fault, f"{tag}:/img-man")
    from ymir_exc.host.check._templates import check_templates
    for one in check_templates(img_man.folder):
        yield one._replace(path=one.path.replace(str(img_man.folder), f"{tag}:/img-man"))


def _entry_finding(tag: str, path: str, content: bytes, read: Answer) -> Optional[Finding]:
    """What the entry point did to the platform's `cat` of a file with this content; None when it did nothing."""
    if read.stdout == content:
        return None
    if content and content in read.stdout:
        extra = read.stdout.replace(content, b"", 1).decode("utf-8", "replace").strip()
        return Finding(_BANNER, f"`cat {path}` also gave {extra[:80]!r}", tag, key="ENTRYPOINT")
    return Finding(_ENTRYPOINT, f"`cat {path}` did not give the file but: {read.reason[:120]}", tag, key="ENTRYPOINT")


def _look_around(engine: Engine, tag: str) -> Tuple[str, List[str]]:
    """Where Python is, and the files and folders by whose names they may not belong there, as root sees them; none without sh or find."""
    names = (*_build_context.SECRET_NAMES, *_build_context.KEY_NAMES, *(f"*{suffix}" for suffix in _build_context.IMAGE_SUFFIXES))
    prune = [word for path in _SYSTEM for word in ("-path", path, "-o")][:-1]
    wanted = [word for name in names for word in ("-name", name, "-o")][:-1]
    script = 'for name in python3 python; do command -v $name && break; done; echo; exec find "$@"'
    words = ["-c", script, "find", "/", "-xdev", "(", *prune, ")", "-prune", "-o", "-type", "f", "(", *wanted, ")", "-print",
             "-o", "-type", "d", "-name", ".git", "-print"]
    said = engine.run([*_AS_ROOT, "sh"], tag, words).stdout.decode("utf-8", "replace")
    python, _, found = said.partition("\n\n") if not said.startswith("\n") else ("", "", said)
    return python.strip(), [path for path in found.splitlines() if path.startswith("/")]


def _start_findings(engine: Engine, tag: str, config: Mapping[str, Any], python: str) -> Iterator[Finding]:
    """What starts, and whether it does under the platform's uid."""
    starts = [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]
    uid = random.randint(10_000, 60_000)
    script = ('echo shell; test -x "$1" || echo no start; command -v train > /dev/null || echo no train; '
              'test -z "$2" || "$2" -c "import json, tempfile; tempfile.TemporaryFile().close()"')
    said = engine.run(["--user", f"{uid}:{uid}", "--entrypoint", "sh"], tag, ["-c", script, "sh", START, python])
    if engine.dry_run:
        return
    if not starts or (len(starts) == 1 and starts[0] in _SHELLS):
        message = f"it starts {' '.join(starts)!r} and no program" if starts else "it has neither CMD nor ENTRYPOINT"
        yield Finding(_NO_CMD, message, tag, key="CMD")
    if b"no start" in said.stdout:
        yield Finding(_NO_START, "it is missing, or not executable for every uid", f"{tag}:{START}")
    if b"no train" in said.stdout and not config.get("Entrypoint"):
        yield Finding(_NO_TRAIN, "there is none", tag, key="train")
    if said.status:
        what = python if b"shell" in said.stdout else "sh"
        yield Finding(_UID, f"{what} does not run as {uid}: {said.reason}", tag)


def _history_findings(engine: Engine, tag: str, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Secrets that everybody sees who asks the engine."""
    names = set()
    for pair in config.get("Env") or []:
        name, _, value = pair.partition("=")
        names.add(name)
        if (_SECRET_KEY.search(name) and value) or _URL_PASSWORD.search(value):
            yield Finding(_SECRET_ENV, f"{name} holds a secret", tag, key=f"ENV {name}")
    history = engine.call("history", "--no-trunc", "--format", "{{.CreatedBy}}", tag).stdout.decode("utf-8", "replace")
    for name in sorted(set(re.findall(r"(?:^|\s)(\w+)=\S", history, re.MULTILINE)) - names):
        if _SECRET_KEY.search(name):
            yield Finding(_SECRET_ENV, f"the image's history holds {name}", tag, key=f"ARG {name}")
    if _URL_PASSWORD.search("\n".join(line for line in history.splitlines() if "  ENV " not in line and not line.startswith("ENV "))):
        yield Finding(_SECRET_ENV, "the image's history holds an address with a password", tag, key="history")


def _file_findings(engine: Engine, tag: str, paths: Sequence[str]) -> Iterator[Finding]:
    """Of what was found in the image, what does not belong there."""
    images = Counter(os.path.dirname(path) for path in paths if path.lower().endswith(_build_context.IMAGE_SUFFIXES))
    keys = [path for path in paths if _build_context.is_key(os.path.basename(path)) and "-packages/" not in path]
    held = engine.run([*_AS_ROOT, "grep"], tag, ["-l", "-e", "PRIVATE KEY-----", "--", *keys]).stdout if keys else b""
    sure = {path for path in paths if _build_context.is_secret(os.path.basename(path))}
    for path in sorted(sure | set(held.decode("utf-8", "replace").splitlines())):
        yield Finding(_SECRET_IN, "it is in the image", f"{tag}:{path}")
    for path in paths:
        if path.endswith("/.git"):
            yield Finding(_GIT_IN, "it is in the image", f"{tag}:{path}")
    for folder, count in sorted(images.items()):
        if count > _build_context.MANY_IMAGES and "-packages/" not in folder:
            yield Finding(_IMAGES_IN, f"{count} images or more are in the image", f"{tag}:{folder}")
