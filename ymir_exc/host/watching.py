"""Runs something again whenever one of its files changes."""
from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional, Sequence, Tuple

from ymir_exc.errors import Stopped, YmirError
from ymir_exc.host import launch, runner
from ymir_exc.monitor import Record

POLL_SECONDS = 0.5
_SETTLED_SECONDS = 0.2
_PASSED_OVER = frozenset({"__pycache__", ".git", ".hg", ".svn", ".venv", "venv", "node_modules", ".mypy_cache", ".pytest_cache",
                          ".ruff_cache", ".ipynb_checkpoints", ".idea", ".vscode"})
_SIDE_FILES = (".pyc", ".pyo", ".swp", ".swx", "~", "#")
_NAMED = 3

Stamp = Tuple[int, int]


class Changed(Exception):
    """Files changed; the text names them."""


class Files:
    """The files of some folders, and which of them have changed.

    Args:
        folders: What is watched, with all below it.
        ignored: Folders below it that are not.
    """

    def __init__(self, folders: Sequence[Path], ignored: Sequence[Path]) -> None:
        self._folders = [str(folder.resolve()) for folder in folders]
        self._ignored = {str(folder.resolve()) for folder in ignored}
        self._seen = self._stamps()
        self._next = 0.0

    def check(self) -> None:
        """Look, at most every `POLL_SECONDS`.

        Raises:
            Changed: Something is not as it was when this was raised last, or at the beginning.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + POLL_SECONDS
        now = self._stamps()
        names = sorted(path for path in {*now, *self._seen} if now.get(path) != self._seen.get(path))
        if names:
            raise Changed(self._told(names))

    def settle(self) -> None:
        """Take what is there as known, once nothing moves any more: an editor writes several files."""
        now = self._stamps()
        while now != self._seen:
            self._seen = now
            time.sleep(_SETTLED_SECONDS)
            now = self._stamps()

    def _told(self, paths: Sequence[str]) -> str:
        names = [os.path.relpath(path, max((f for f in self._folders if path.startswith(f)), key=len)) for path in paths[:_NAMED]]
        more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
        return f"{', '.join(names)}{more} changed"

    def _stamps(self) -> Dict[str, Stamp]:
        return {path: stamp for folder in self._folders for path, stamp in self._below(folder)}

    def _below(self, folder: str) -> Iterator[Tuple[str, Stamp]]:
        for place, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if name not in _PASSED_OVER and os.path.join(place, name) not in self._ignored]
            for name in names:
                if not name.endswith(_SIDE_FILES):
                    path = os.path.join(place, name)
                    try:
                        seen = os.stat(path)
                    except OSError:    # gone meanwhile, or a link to nowhere
                        continue
                    yield path, (seen.st_mtime_ns, seen.st_size)


def forever(files: Files, once: Callable[[Callable[[], None]], None], say: Callable[[str], None]) -> None:
    """Run, and again after each change, until Ctrl-C.

    Args:
        files: What is watched.
        once: Runs it; calls what it is given a few times a second, which raises `Changed` to end it early. An error of its first run is
            the caller's; one of a later run is told, and the next change waited for.
        say: Tells the user a line.

    Raises:
        KeyboardInterrupt: The way out.
    """
    for number in _count():
        try:
            try:
                once(files.check)
            except Stopped:
                raise
            except YmirError as e:
                if number == 0:
                    raise
                say(str(e))
            say("waiting for a change; Ctrl-C ends")
            while True:
                files.check()
                time.sleep(POLL_SECONDS)
        except Changed as change:
            say(f"{change}: it is run again")
            files.settle()


def _count() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def files_of(job: runner.Job) -> Files:
    """What decides how a job goes: the files beside its program, and the templates; not what it reads and makes."""
    file = runner.program_file(job.program)
    folders = [file.resolve().parent if file is not None else Path.cwd()]
    if job.templates is not None and folders[0] not in job.templates.resolve().parents:
        folders.append(job.templates)
    return Files(folders, [job.out, job.data, Path(runner.RUNS)])


def with_check(update: Optional[launch.OnProgress], check: Optional[Callable[[], None]]) -> launch.OnProgress:
    """One function for `launch.run_local` that shows progress, and then looks for changes."""
    def on_progress(record: Optional[Record], seconds: float) -> None:
        if update is not None:
            update(record, seconds)
        if check is not None:
            check()

    return on_progress
