"""Runs one task's container to its end: stopped or killed on the way where that is asked for, and removed whatever happens."""
from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ymir_exc import _files, monitor
from ymir_exc.host import _signals, launch
from ymir_exc.host.engine import Engine
from ymir_exc.host.launch import EngineError, OnProgress
from ymir_exc.host.workspace import Workspace

STOP, KILL = "stop", "kill"
FULL = "full"
"""The folder in a row's for what was in a volume with little space."""

POLL_SECONDS = 0.05
ACT_AFTER_SECONDS = 30.0
"""A task that has no result by then is stopped all the same."""

MODEL_SECONDS = 300.0
"""The same of one that is to be stopped when it has a model."""

_ACT_AT_PERCENT = 0.6
_MOST_FREE = 64 << 10
_PAGE = 4096
_RUNNING = 2
_NO_PROGRAM = (126, 127)

Ready = Callable[[], bool]
"""Whether a task is in the middle."""


class Ended(NamedTuple):
    """How a container ended.

    Attributes:
        status: Its exit status.
        seconds: From start to end.
        record: The last record of monitor.txt; None when there is no valid one.
        log: The file with all that it printed.
        acted: Seconds from the stop or the kill to the end; None when it ended before.
        in_time: Whether it ended before the time-out.
    """

    status: int
    seconds: float
    record: Optional[monitor.Record]
    log: Path
    acted: Optional[float]
    in_time: bool


class Small(NamedTuple):
    """What a volume with little space takes the place of.

    Attributes:
        folder: On this machine.
        seen: In the container.
        writable: What in it every uid may write to; '' for all.
    """

    folder: Path
    seen: str
    writable: Tuple[str, ...]


def argv(engine: Engine, space: Workspace, image: str, *, user: str, shm_size: str, network: str, gpus: str = "",
         flags: Sequence[str] = ()) -> List[str]:
    """The platform's command line (contract 1.1), with a row's own flags before the image."""
    made = launch.container_argv(space, image, engine=engine.program, user=user, shm_size=shm_size, gpus=gpus, network=network or None)
    return [*made[:-1], *flags, made[-1]]


def run(engine: Engine, command: Sequence[str], space: Workspace, *, act: str = "", limit: float = 0.0,
        on_progress: Optional[OnProgress] = None, ready: Optional[Ready] = None) -> Ended:
    """Run a container to its end.

    Args:
        engine: Whose command it is.
        command: Of `argv`.
        space: The task.
        act: `STOP` or `KILL`: done when the task is in the middle, that is when there is a result, most is done, or after
            `ACT_AFTER_SECONDS`; after `MODEL_SECONDS` with `ready`.
        limit: Seconds after which it is removed; 0: never.
        on_progress: See `launch.OnProgress`.
        ready: Tells when that is, in the place of the platform's files.
    """
    engine.told(command)
    log, name = space.output / "ymir-executor-out.log", space.task_id
    if engine.dry_run:
        if act:
            engine.call(act, name)
        return Ended(0, 0.0, None, log, 0.0 if act else None, True)
    started, acted_at, in_time = time.monotonic(), None, True
    with log.open("ab") as sink:
        # A group of its own: Ctrl-C reaches us alone, and we remove the container as the platform would.
        process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
        guard = _guard(engine, name)
        try:
            while not _ended(process):
                seconds = time.monotonic() - started
                record = record_of(space)
                if on_progress is not None:
                    on_progress(record, seconds)
                if act and acted_at is None and _is_in_the_middle(space, record, seconds, ready):
                    before, said = time.monotonic(), engine.call(act, name)    # which returns when the container is gone
                    acted_at, act = before if said.status == 0 else None, ""
                if limit and seconds > limit:
                    in_time = False
                    engine.remove(name)
        finally:
            _finish(engine, process, name)
            guard.communicate(b"over")
    ended = time.monotonic()
    acted = None if acted_at is None else ended - acted_at
    status = process.returncode if process.returncode >= 0 else 128 - process.returncode
    return Ended(status, ended - started, record_of(space), log, acted, in_time)


def record_of(space: Workspace) -> Optional[monitor.Record]:
    """What monitor.txt says; None when it cannot be read, or is no file: a pipe in its place would be waited for."""
    path = space.output / "monitor.txt"
    return monitor.read_record(path) if path.is_file() else None


def _guard(engine: Engine, name: str) -> subprocess.Popen[bytes]:
    """A process that removes a container when we are killed: its input then ends without a word."""
    words = [sys.executable, "-c", "import subprocess, sys\nsys.stdin.read() or subprocess.call(sys.argv[1:])",
             engine.program, "rm", "--force", name]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(POLL_SECONDS)
    return process.poll() is not None


def _finish(engine: Engine, process: subprocess.Popen[bytes], name: str) -> None:
    """Leave no container, also when the engine was still making it."""
    if process.poll() is not None:
        return
    with _signals.uninterrupted():
        engine.remove(name)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(launch.STOP_SECONDS)
        if process.poll() is None:
            process.kill()
            process.wait()
        engine.remove(name)


def _is_in_the_middle(space: Workspace, record: Optional[monitor.Record], seconds: float, ready: Optional[Ready]) -> bool:
    if ready is not None:
        return seconds > MODEL_SECONDS or ready()
    if (space.output / "models" / "result.yaml").exists() or seconds > ACT_AFTER_SECONDS:
        return True
    return record is not None and record.state == _RUNNING and record.percent >= _ACT_AT_PERCENT


@contextlib.contextmanager
def small_output(engine: Engine, space: Workspace, image: str, free: int = _MOST_FREE, small: Optional[Small] = None) -> Iterator[str]:
    """A volume in memory with the task's prepared output in it, and little left; its content is in `space.root/FULL` afterwards.

    Args:
        engine: Makes it.
        space: The task.
        image: Any with `cat`, `cp` and `chmod`.
        free: Bytes that are left; see `room`.
        small: Which of it; all by default.

    Yields:
        The volume's name, to be bound at `small.seen`.

    Raises:
        EngineError: It cannot be made.
    """
    small = small or Small(space.output, "/out", ("models", "monitor.txt"))
    volume, holder, after = f"{space.task_id}-out", f"{space.task_id}-holder", space.root / FULL
    holds = [engine.program, "run", "--rm", "-i", "--name", holder, "--user", "0:0", f"-v{volume}:/out", f"-v{small.folder}:/before:ro",
             f"-v{after}:/after", "--network", "none", "--entrypoint", "cat", image]
    if not engine.dry_run:
        _files.make_folder(after)
    size = free + _size(small.folder)
    _must(engine, "volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", f"o=size={size},mode=0777", volume)
    process = None
    try:
        engine.told(holds)
        if not engine.dry_run:
            # It ends with our end of the pipe, so that it does not outlive us even when we are killed.
            process = subprocess.Popen(holds, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       start_new_session=True)
        _wait_for(engine, holder, process)
        _must(engine, "exec", holder, "cp", "-RP", "/before/.", "/out/")
        _must(engine, "exec", holder, "chmod", "-R", "777", *(f"/out/{name}" for name in small.writable))
        yield volume
        _must(engine, "exec", holder, "cp", "-RP", "/out/.", "/after/")
    finally:
        with _signals.uninterrupted():
            engine.remove(holder)
            if process is not None:
                process.communicate()
            engine.call("volume", "rm", "--force", volume)


def room(trained: Optional[Path]) -> int:
    """Bytes with which a training does not get by: half of what the models of an earlier one need, and at most 64 KiB.

    Args:
        trained: The `out` folder of the earlier one, where there is one.
    """
    needed = _size(trained / "models") if trained is not None else 0
    return min(_MOST_FREE, max(_PAGE, needed // 2 // _PAGE * _PAGE)) if needed else _MOST_FREE


def _size(folder: Path) -> int:
    """Bytes of the files below a folder, in whole pages."""
    files = [] if not folder.exists() else [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    return sum(-(-p.stat().st_size // _PAGE) * _PAGE for p in files)


def _must(engine: Engine, *words: str) -> None:
    said = engine.call(*words)
    if said.status:
        raise EngineError(f"a small /out cannot be made: {said.reason}", hint=f"the command was: {launch.quoted([engine.program, *words])}")


def _wait_for(engine: Engine, holder: str, process: Optional[subprocess.Popen[bytes]]) -> None:
    ends = time.monotonic() + 60.0
    said = engine.call("exec", holder, "true")
    while said.status and process is not None:
        if process.poll() is not None or time.monotonic() > ends or said.status in _NO_PROGRAM:
            reason = said.reason if said.status in _NO_PROGRAM else "the container that holds it did not start"
            raise EngineError(f"a small /out cannot be made: {reason}", hint="the image must have `cat`, `cp`, `chmod` and `true`")
        time.sleep(0.1)
        said = engine.call("exec", holder, "true")
