"""The folder of a job on this machine: what was asked for, where it stands, and whether its runner lives.

```
<home>/jobs/<name>/
├── job.json       what was asked for; never changes
├── gpus.json     those of each host
├── state.json     where it stands; replaced in one step
├── log            what the containers printed, see `_log`
├── lock           held by the runner as long as it lives
├── runner.log     what the runner itself has to say
├── code/          the user's program, as it was when the job began
└── hosts/<host>/  what that host sees below /opt/ml
```
A folder gets its name when it is whole, in one step, so that a name belongs to one job and no half-made job is ever seen.
"""
from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import pwd
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from ymir_exc import _files
from ymir_exc.errors import ArgumentError, StorageError
from ymir_exc.ti._stores import local_path
from ymir_exc.ti.errors import UnknownJobError

IN_PROGRESS, COMPLETED, FAILED, STOPPED = "InProgress", "Completed", "Failed", "Stopped"
STARTING, DOWNLOADING, TRAINING, UPLOADING = "Starting", "Downloading", "Training", "Uploading"
_NEW, _GPUS = ".new-", "gpus.json"
_OWN = "set YMIR_EXC_TI_HOME to a folder of your own"
_STATE_BYTES = 1 << 14    # always, so that the last state has room where the first one had


@dataclasses.dataclass(frozen=True)
class Spec:
    """What was asked for.

    Attributes:
        name: The job.
        unique: Names its containers and its network, together with the host.
        image: The image.
        engine: docker or podman.
        hosts: Their names, the master first.
        gpus: For each host, the indices that it gets.
        channels: Name to `{"uri": ..., "path": ...}`; no path where it must be fetched first.
        output: A folder of this machine or a cos:// URI; the job's name comes after it.
        max_run: Seconds.
        envs: Environment of the program.
        hyperparameters: As they stand in the file: each value is JSON.
        script: Whether `code/` is handed in.
        user: `uid:gid` of the containers, '' for the image's own.
        options: Further words for `docker run`.
        shm_size: Of /dev/shm.
        stop_timeout: Seconds between asking a container to stop and ending it.
        kind: The estimator's class.
        arguments: Its constructor's, for those who attach.
        created: Seconds since 1970.
    """

    name: str
    unique: str
    image: str
    engine: str
    hosts: List[str]
    gpus: List[List[str]]
    channels: Dict[str, Dict[str, str]]
    output: str
    max_run: float
    envs: Dict[str, str]
    hyperparameters: Dict[str, str]
    script: bool
    user: str
    options: List[str]
    shm_size: str
    stop_timeout: int
    kind: str
    arguments: Dict[str, Any]
    created: float


@dataclasses.dataclass
class State:
    """Where a job stands; `transitions` are those of the API, `pid` is the runner's."""

    status: str = IN_PROGRESS
    secondary: str = STARTING
    transitions: List[Dict[str, Any]] = dataclasses.field(default_factory=list)
    reason: str = ""
    exit_codes: Dict[str, Optional[int]] = dataclasses.field(default_factory=dict)
    model: str = ""
    output: str = ""
    started: float = 0.0
    ended: float = 0.0
    pid: int = 0

    @property
    def is_over(self) -> bool:
        """Whether it will not change any more."""
        return self.status != IN_PROGRESS

    def enter(self, secondary: str, message: str = "") -> None:
        """Go on to the next stage."""
        now = max([time.time(), *(row["StartTime"] for row in self.transitions[-1:])])    # clocks are set back at times
        if self.transitions:
            self.transitions[-1].setdefault("EndTime", now)
        self.secondary = secondary
        self.transitions.append({"StartTime": now, "Status": secondary, "StatusMessage": message})


class Folder:
    """One job's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log"
        self.hosts = path / "hosts"
        self.code = path / "code"
        self.downloads = path / "downloads"
        self.runner_log = path / "runner.log"

    def spec(self) -> Spec:
        """What was asked for.

        Raises:
            UnknownJobError: The folder is gone, or no job's.
        """
        try:
            return Spec(**json.loads((self.path / "job.json").read_bytes()))
        except (OSError, ValueError, TypeError) as e:
            raise UnknownJobError(f"{self.path} holds no job's record: {e}", hint="it was made by another version, or damaged") from None

    def state(self) -> State:
        """Where it stands, as last written."""
        try:
            return State(**json.loads((self.path / "state.json").read_bytes()))
        except (OSError, ValueError, TypeError) as e:
            raise UnknownJobError(f"{self.path} holds no job's state: {e}", hint="it was made by another version, or damaged") from None

    def write_spec(self, spec: Spec) -> None:
        """Once, at the beginning."""
        _files.write_bytes(self.path / "job.json", _json(dataclasses.asdict(spec)))

    def write_state(self, state: State) -> None:
        """Replace the state."""
        if state.is_over and state.transitions:
            state.transitions[-1].setdefault("EndTime", max(time.time(), state.transitions[-1]["StartTime"]))
        path, data = self.path / "state.json", _json(dataclasses.asdict(state)).ljust(_STATE_BYTES)
        try:
            _files.write_bytes(path, data)
        except StorageError as e:
            if e.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            _files.overwrite_bytes(path, data)    # how it ends must be told on a full disk too

    def hold(self) -> Optional[int]:
        """Take the lock; the descriptor holds it until it and all its heirs are closed. None if somebody else has it."""
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def is_held(self) -> bool:
        """Whether the runner lives. Asking never gets in anybody's way but another asker's who wants to write, and for no time."""
        try:
            fd = os.open(self.path / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def is_alive(self) -> bool:
        """Whether it is held, and has not told its end: the runner clears up after that."""
        if not self.is_held():
            return False
        with contextlib.suppress(UnknownJobError):    # no state yet
            return not self.state().is_over
        return True


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode("ascii")


def default_home() -> Path:
    """Where jobs are kept: `YMIR_EXC_TI_HOME`, else the user's folder for states, else a folder of this user alone in the temporary one."""
    given = os.environ.get("YMIR_EXC_TI_HOME")
    if given:
        return local_path(given)
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):    # a relative one counts as unset
        return Path(state) / "ymir-exc" / "ti"
    home = os.environ.get("HOME", "")
    if not os.path.isabs(home):
        with contextlib.suppress(KeyError):
            home = pwd.getpwuid(os.getuid()).pw_dir
    if os.path.isdir(home) and os.access(home, os.W_OK):
        return Path(home) / ".local" / "state" / "ymir-exc" / "ti"
    return Path(tempfile.gettempdir()) / f"ymir-exc-ti-{os.getuid()}"


class Home:
    """All jobs of one user."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jobs = path / "jobs"

    def create(self, names: Iterator[str], fill: Callable[[Folder, str], None],
               share: Callable[[Mapping[str, str]], List[List[str]]] = lambda _: []) -> Tuple[Folder, int]:
        """Make a new job's folder.

        Args:
            names: Tried one after the other until one is free.
            fill: Writes the records into the folder, which is told its name.
            share: Chooses the job's GPUs for each host, and is told those that others use; one job chooses at a time.

        Returns:
            The folder, and the descriptor that holds its lock.

        Raises:
            ArgumentError: None was free.
            StorageError: It cannot be written.
        """
        is_new = not self.path.exists()
        try:
            _files.make_folder(self.jobs)
        except StorageError as e:
            raise StorageError(e.message, hint=_OWN) from e
        if self.path.stat().st_uid != os.geteuid():
            raise StorageError(f"{self.path} belongs to another user", hint=_OWN)
        for folder in (self.jobs, *([self.path] if is_new else [])):    # environments hold secrets; what was there before is not ours
            with contextlib.suppress(OSError):
                folder.chmod(0o700)
        made = Folder(self.jobs / f"{_NEW}{uuid.uuid4().hex}")
        with _files.lock(self.jobs):    # nobody sweeps a folder that is not yet held, nor asks for the lock that we are about to take
            self._sweep()
            _files.make_folder(made.path)
            fd = made.hold()
            if fd is None:
                raise StorageError(f"{made.path} cannot be locked", hint="set YMIR_EXC_TI_HOME to a folder on a disk of this machine")
            try:
                _files.write_bytes(made.path / _GPUS, _json(share(self.gpus_in_use())), sync=False)
            except BaseException:
                shutil.rmtree(made.path, ignore_errors=True)
                os.close(fd)
                raise
        try:
            for name in names:
                target = self.jobs / name
                if target.exists():
                    continue
                fill(made, name)
                try:
                    made.path.rename(target)
                except OSError:
                    if target.exists():    # since we looked
                        continue
                    raise
                return Folder(target), fd
            raise ArgumentError(f"there is a job {name!r} already", hint="choose another job_name, or leave it out")
        except BaseException:
            shutil.rmtree(made.path, ignore_errors=True)
            os.close(fd)
            raise

    def gpus_in_use(self) -> Dict[str, str]:
        """GPU to the living job that has it."""
        found: Dict[str, str] = {}
        for path in self.jobs.glob("*") if self.jobs.is_dir() else ():
            with contextlib.suppress(OSError, ValueError):
                gpus = [gpu for host in json.loads((path / _GPUS).read_bytes()) for gpu in host]
                if gpus and Folder(path).is_alive():
                    found.update(dict.fromkeys(gpus, path.name))
        return found

    def find(self, name: str) -> Folder:
        """A job's folder.

        Raises:
            UnknownJobError: There is none of this name.
        """
        folder = Folder(self.jobs / name) if isinstance(name, str) and name and "/" not in name and not name.startswith(".") else None
        if folder is None or not os.path.isfile(folder.path / "job.json"):
            raise UnknownJobError(f"there is no job {name!r} in {self.jobs}", hint="Session().list_training_jobs() tells which there are")
        return folder

    def all(self) -> List[Folder]:
        """All jobs, the newest first."""
        found = []
        for path in self.jobs.glob("*"):
            with contextlib.suppress(OSError):    # forgotten since
                if not path.name.startswith("."):
                    found.append(((path / "job.json").stat().st_mtime, path))
        return [Folder(path) for _, path in sorted(found, reverse=True)]

    def _sweep(self) -> None:
        """Delete what was half made when its maker was killed."""
        for path in self.jobs.glob(f"{_NEW}*"):
            if (path / "lock").exists() and not Folder(path).is_held():
                shutil.rmtree(path, ignore_errors=True)
