"""Calls a container engine, docker or podman, by its command line: every command can be shown, and a dry run runs none."""
from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import selectors
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from ymir_exc.host import launch
from ymir_exc.host.launch import EngineError

ENGINES = ("docker", "podman")
OUTPUT_LIMIT = 4 << 20
"""Bytes of an answer that are kept; a command that prints more is ended."""

_LOG = logging.getLogger(__name__)
_TIMED_OUT = 124    # as timeout(1) has it
_HELP = re.compile(r"(Run|See) '(docker|podman)[a-z ]* --help'( for more information)?\.?")


def last_word(lines: Sequence[str]) -> str:
    """The last line that says something: docker ends its own errors with a blank line and a hint at its help; '' when there is none."""
    return next((line for line in reversed(lines) if line.strip() and not _HELP.fullmatch(line.strip())), "")


class Answer(NamedTuple):
    """What a command said.

    Attributes:
        status: Its exit status; 124 when it was ended because it took too long or printed too much.
        stdout: Its output, at most `OUTPUT_LIMIT` bytes.
        stderr: Its messages.
    """

    status: int
    stdout: bytes = b""
    stderr: str = ""

    @property
    def reason(self) -> str:
        """The last line of its messages that is not blank, or of its output."""
        lines = [line.strip() for text in (self.stdout.decode("utf-8", "replace"), self.stderr) for line in text.splitlines()]
        return last_word(lines) or f"no reason given, status {self.status}"


class Engine:
    """One engine.

    Args:
        program: docker or podman; '' for the first of them that is installed.
        dry_run: Tell every command, run none. Each then answers with status 0 and nothing.
        tell: Called with each command line before it runs.
    """

    def __init__(self, program: str = "", *, dry_run: bool = False, tell: Optional[Callable[[str], None]] = None) -> None:
        self.program = program or next((name for name in ENGINES if shutil.which(name)), ENGINES[0])
        self.dry_run = dry_run
        self.commands: List[List[str]] = []
        self._tell = tell

    def check(self) -> None:
        """Make sure that it answers.

        Raises:
            EngineError: It is missing or does not answer.
        """
        if not self.dry_run:
            launch.check_engine(self.program)
        self.told([self.program, "info"])    # only now: what is wrong is said in one line

    def told(self, argv: Sequence[str]) -> List[str]:
        """Note a command that is about to run."""
        self.commands.append(list(argv))
        if self._tell is not None:
            self._tell(launch.quoted(argv))
        return list(argv)

    def call(self, *words: str, timeout: float = 120.0) -> Answer:
        """Run one command and wait for it.

        Args:
            words: What comes after the program's name.
            timeout: Seconds.
        """
        argv = self.told([self.program, *words])
        return Answer(0) if self.dry_run else _ask(argv, timeout)

    def run(self, options: Sequence[str], image: str, words: Sequence[str], timeout: float = 120.0) -> Answer:
        """Run a short container and remove it, whatever happens.

        Args:
            options: Of `run`, beside `--rm` and a name.
            image: The image.
            words: The command in it.
            timeout: Seconds.
        """
        name = f"ymir-exc-{uuid.uuid4().hex[:16]}"
        done = None
        try:
            done = self.call("run", "--rm", "--name", name, *options, image, *words, timeout=timeout)
        finally:
            if done is None or done.status == _TIMED_OUT:
                self.remove(name)
        return done

    def remove(self, *names: str) -> None:
        """Remove containers at once, running or not; one that is not there is no fault."""
        self.call("rm", "--force", *names)

    def stream(self, *words: str, quiet: bool = False) -> int:
        """Run one command whose output a person follows, on stderr; returns its status."""
        argv = self.told([self.program, *words])
        if self.dry_run:
            return 0
        sys.stderr.flush()
        kept = subprocess.PIPE if quiet else None
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=kept or sys.stderr, stderr=subprocess.STDOUT, check=False)
        if quiet and done.returncode:
            print(done.stdout.decode("utf-8", "replace"), end="", file=sys.stderr)
        return done.returncode

    def image(self, name: str) -> Dict[str, Any]:
        """What the engine knows about an image.

        Raises:
            EngineError: It has no such image.
        """
        done = self.call("image", "inspect", name)
        if self.dry_run:
            return {}
        if done.status:
            raise EngineError(f"{self.program} has no image {name!r}", hint=f"build it, or: {self.program} pull {name}")
        found: List[Dict[str, Any]] = json.loads(done.stdout)
        return found[0]

    def reclaim(self, image: str, folders: Sequence[Path], *, owner: Optional[str] = None) -> None:
        """Give every file below some folders to the caller, who could not remove what a container's uid has made there.

        Args:
            image: Any image with `chown`; it is used where the caller is not root.
            folders: Those that the container wrote to; one that does not exist is left out. A link in them is not followed.
            owner: `uid:gid`; the caller's by default.
        """
        folders = [folder for folder in folders if folder.is_dir()]
        if self.dry_run or not folders:
            return
        if owner is None and os.geteuid() == 0:
            for path in _below(folders):
                with contextlib.suppress(FileNotFoundError):
                    os.chown(path, 0, os.getegid(), follow_symlinks=False)
        elif owner or _has_strangers(folders, os.geteuid()):
            # To a rootless engine the caller is the container's root.
            target = owner or ("0:0" if self._is_rootless() else f"{os.geteuid()}:{os.getegid()}")
            options = ["--user", "0:0", *(f"-v{folder}:/reclaimed/{n}" for n, folder in enumerate(folders)), "--network", "none"]
            said = self.run([*options, "--entrypoint", "chown"], image, ["-R", "-h", target, "/reclaimed"])
            if said.status:
                _LOG.warning("files below %s belong to another uid, and could not be given back: %s (sudo chown -R %s %s)",
                             folders[0], said.reason, target, launch.quoted([str(folder) for folder in folders]))

    def _is_rootless(self) -> bool:
        form = "{{.SecurityOptions}}" if self.program == "docker" else "rootless={{.Host.Security.Rootless}}"
        said = self.call("info", "--format", form).stdout
        return b"name=rootless" in said or b"rootless=true" in said


def _below(folders: Sequence[Path], onerror: Optional[Callable[[OSError], None]] = None) -> Iterator[str]:
    """All files and folders below some folders."""
    for folder in folders:
        for root, below, files in os.walk(folder, onerror=onerror):
            yield from (os.path.join(root, name) for name in (*below, *files))


def _has_strangers(folders: Sequence[Path], uid: int) -> bool:
    """Whether anything below some folders belongs to another uid; a folder that cannot be looked into does."""
    failed: List[OSError] = []
    return any(os.lstat(path).st_uid != uid for path in _below(folders, failed.append)) or bool(failed)


def _ask(argv: Sequence[str], timeout: float) -> Answer:
    """Run a command, keep what it says up to the limit, and end it at the time-out or beyond the limit."""
    # A group of its own: Ctrl-C reaches us alone, and we end it and what it started in the engine.
    process = subprocess.Popen(list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    said: Dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}
    ends = time.monotonic() + timeout
    in_time = True
    with process, selectors.DefaultSelector() as ready:
        try:
            for name, pipe in (("out", process.stdout), ("err", process.stderr)):
                if pipe is not None:
                    ready.register(pipe, selectors.EVENT_READ, said[name])
            while ready.get_map() and in_time:
                for key, _ in ready.select(max(0.0, min(1.0, ends - time.monotonic()))):
                    data = os.read(key.fd, 1 << 16)
                    key.data.extend(data)
                    if not data:
                        ready.unregister(key.fileobj)
                in_time = time.monotonic() < ends and all(len(text) <= OUTPUT_LIMIT for text in said.values())
            if in_time:
                process.wait(max(0.1, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            in_time = False
        finally:
            if process.poll() is None:
                process.kill()
    status = process.returncode if in_time else _TIMED_OUT
    return Answer(status, bytes(said["out"][:OUTPUT_LIMIT]), said["err"].decode("utf-8", "replace")[:OUTPUT_LIMIT])
