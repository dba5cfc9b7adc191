"""What a build sends to the engine, read from the folder and its .dockerignore: secrets and data that should not be among it."""
from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Pattern, Tuple

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
WEIGHT_SUFFIXES = (".pt", ".pth", ".onnx", ".weights", ".ckpt", ".h5", ".pb", ".safetensors", ".tar", ".zip")
LARGE_BYTES = 200 << 20
MANY_IMAGES = 500

SECRET_NAMES = (".env", ".env.*", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", ".netrc", ".pypirc", ".git-credentials", ".htpasswd",
                "credentials", "credentials.json", "kubeconfig", "*.p12", "*.pfx", "*.jks")
"""As `find -name` takes them: whatever is in such a file is a secret."""

KEY_NAMES = ("*.pem", "*.key")
"""A secret where a private key is in it; else a certificate, which is none."""

HARMLESS = re.compile(r"(^|/)\.env\.(example|sample|template|dist)$")
_KEY_MARK = b"PRIVATE KEY-----"
_KEY_BYTES = 1 << 16


class Met(NamedTuple):
    """Something that is sent and should not be.

    Attributes:
        kind: 'secret', 'git', 'weights' or 'images'.
        path: Relative to the folder, with slashes.
        size: Bytes of the file; number of images of a folder.
    """

    kind: str
    path: str
    size: int = 0


class Context(NamedTuple):
    """A build's context.

    Attributes:
        files: How many files are sent.
        size: Their bytes.
        met: What should not be among them.
    """

    files: int
    size: int
    met: Tuple[Met, ...]


def scan(folder: Path) -> Context:
    """Look at every file that a build of this folder sends."""
    ignored = ignore_rules(folder)
    met: List[Met] = []
    images: Dict[str, int] = {}
    count = size = 0
    for path, name in _sent(folder, ignored):
        relative = path.relative_to(folder).as_posix()
        length = path.lstat().st_size
        count, size = count + 1, size + length
        if is_secret(name) or (is_key(name) and _holds_key(path)):
            met.append(Met("secret", relative, length))
        if name.lower().endswith(WEIGHT_SUFFIXES) and length > LARGE_BYTES:
            met.append(Met("weights", relative, length))
        if name.lower().endswith(IMAGE_SUFFIXES):
            parent = os.path.dirname(relative) or "."
            images[parent] = images.get(parent, 0) + 1
        if relative == ".git/HEAD":
            met.append(Met("git", ".git"))
    met += [Met("images", parent, number) for parent, number in sorted(images.items()) if number > MANY_IMAGES]
    return Context(count, size, tuple(met))


def is_secret(name: str) -> bool:
    """Whether a file of this name is a secret, whatever is in it."""
    import fnmatch
    return any(fnmatch.fnmatchcase(name, one) for one in SECRET_NAMES) and not HARMLESS.search(name)


def is_key(name: str) -> bool:
    """Whether a file of this name may hold a private key."""
    return name.endswith(tuple(one[1:] for one in KEY_NAMES))


def _holds_key(path: Path) -> bool:
    try:
        with path.open("rb") as f:
            return _KEY_MARK in f.read(_KEY_BYTES)
    except OSError:
        return False


def _sent(folder: Path, ignored: Callable[[str], bool]) -> Iterator[Tuple[Path, str]]:
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(root, name)
            if not ignored(path.relative_to(folder).as_posix()):
                yield path, name


# ------------------------------------------------------------------------------------------------------ .dockerignore


def ignore_rules(folder: Path) -> Callable[[str], bool]:
    """Read .dockerignore; returns whether a path, relative and with slashes, is left out of the context.

    A line is a pattern of Go's `filepath.Match`, with `**` for any number of folders and `!` for an exception; the last one that matches
    a path, or a folder above it, decides. The Dockerfile and the file itself are always sent, and carry no secret by their names.
    """
    try:
        text = (folder / ".dockerignore").read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return lambda _: False
    rules: List[Tuple[Pattern[str], bool]] = []
    for line in text.splitlines():
        pattern = "" if line.startswith("#") else line.strip()
        keeps = pattern.startswith("!")
        pattern = os.path.normpath(pattern[keeps:].strip().lstrip("/")) if pattern[keeps:].strip() else ""
        made = _pattern(pattern) if pattern not in ("", ".") else None
        if made is not None:
            rules.append((made, keeps))

    def is_ignored(path: str) -> bool:
        parts = path.split("/")
        above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        result = False
        for pattern, keeps in rules:
            if result == keeps and any(pattern.fullmatch(one) for one in above):
                result = not keeps
        return result

    return is_ignored


def _pattern(text: str) -> Optional[Pattern[str]]:
    """A pattern as a regular expression; None for one that is malformed, which the engine refuses by itself."""
    out, n = "", 0
    while n < len(text):
        if text.startswith("**", n):
            n += 2
            if text.startswith("/", n):
                n += 1
                out += "(?:.*/)?"
            else:
                out += ".*"
            continue
        c = text[n]
        n += 1
        if c == "*":
            out += "[^/]*"
        elif c == "?":
            out += "[^/]"
        elif c == "[":
            end = text.find("]", n)
            if end < 0:
                return None
            out += f"[{text[n:end]}]"
            n = end + 1
        elif c == "\\" and n < len(text):
            out += re.escape(text[n])
            n += 1
        else:
            out += re.escape(c)
    try:
        return re.compile(out, re.DOTALL)
    except re.error:
        return None
