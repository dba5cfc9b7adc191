"""Whether the kernel killed something in this container because memory ran out, by its own counter."""
from __future__ import annotations

import contextlib
import os
from typing import Iterator, NamedTuple, Optional

_ROOT = "/sys/fs/cgroup"
_OWN = "/proc/self/cgroup"
_NO_LIMIT = 1 << 60    # version 1 writes a number of this size for "none"


class _Files(NamedTuple):
    """Where one version of cgroups keeps what we ask for."""

    folder: str
    counter: str
    limit: str


class MemoryWatch:
    """The counter of kills at the moment this object was made, and what became of it.

    Args:
        root: Where the cgroups are mounted.
        own: The file that names this process's groups.
    """

    def __init__(self, root: str = _ROOT, own: str = _OWN) -> None:
        self._files = next((f for f in _places(root, own) if _read_kills(f) is not None), None)
        self._before = self._kills()

    def _kills(self) -> int:
        return (_read_kills(self._files) if self._files else None) or 0

    def has_risen(self) -> bool:
        """Whether something was killed for want of memory since."""
        return self._kills() > self._before

    def limit_bytes(self) -> Optional[int]:
        """The memory that the container may use; None without a limit."""
        if self._files is None:
            return None
        text = _read(os.path.join(self._files.folder, self._files.limit)).strip()
        return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None


def _places(root: str, own: str) -> Iterator[_Files]:
    """The group of this process as the host names it, then the mount's root, which is that group as seen from inside a container."""
    for line in _read(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        mounts = [os.path.join(root, "memory")] if controllers else [root, os.path.join(root, "unified")]
        for mount in mounts:
            for folder in (mount + group.rstrip("/"), mount):
                yield (_Files(folder, "memory.oom_control", "memory.limit_in_bytes") if controllers
                       else _Files(folder, "memory.events", "memory.max"))


def _read_kills(files: _Files) -> Optional[int]:
    for line in _read(os.path.join(files.folder, files.counter)).splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdigit():
            return int(value)
    return None


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as f:
        return f.read(1 << 16)
    return ""
