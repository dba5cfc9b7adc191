"""Starts a task as the platform does: in a container, or as a process of this machine."""
from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, List, Mapping, NamedTuple, Optional, Sequence

from ymir_exc import monitor
from ymir_exc.errors import EXIT_ENVIRONMENT, YmirError
from ymir_exc.host.workspace import Workspace

POLL_SECONDS = 0.2
STOP_SECONDS = 20.0
_ENGINE_REFUSED = 125

OnProgress = Callable[[Optional[monitor.Record], float], None]
"""Called a few times a second with monitor.txt's record and the seconds since the start."""


class EngineError(YmirError):
    """The container engine is missing or refused."""

    exit_code = EXIT_ENVIRONMENT


class Run(NamedTuple):
    """How a task ended.

    Attributes:
        status: The program's exit status.
        seconds: From start to end.
        record: The last record of monitor.txt.
        log: The file with all that the program printed.
    """

    status: int
    seconds: float
    record: Optional[monitor.Record]
    log: Path


def run_local(workspace: Workspace, program: Sequence[str], *, cwd: Optional[Path] = None,
              on_progress: Optional[OnProgress] = None) -> Run:
    """Run a program over a workspace with no container, under the same supervisor as in an image.

    Args:
        workspace: Laid out with `in_container=False`.
        program: The program and its arguments.
        cwd: Its working directory.
        on_progress: See `OnProgress`.
    """
    argv = [sys.executable, "-m", "ymir_exc", "run", "--platform", "ymir", "--", *program]
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(workspace.env_file)}
    return _watch(argv, workspace, on_progress, lambda process: process.send_signal(signal.SIGTERM), environ, cwd)


def container_argv(workspace: Workspace, image: str, *, engine: str = "docker", user: Optional[str] = None, shm_size: str = "16G",
                   gpus: str = "", name: Optional[str] = None, network: Optional[str] = None) -> List[str]:
    """The platform's command line (contract 1.1).

    Args:
        workspace: Laid out with `in_container=True`.
        image: The image.
        engine: docker or podman.
        user: `uid:gid`; this process's by default.
        shm_size: Size of /dev/shm.
        gpus: Indices such as '0,1'; '' for none.
        name: The container's name; the task's by default.
        network: The container's network, when the engine's default will not do.
    """
    argv = [engine, "run", "--rm", f"-v{workspace.input}:/in:ro", f"-v{workspace.output}:/out"]
    argv += [f"-v{folder}:{folder}" for folder in workspace.shared]
    argv += ["--user", user or f"{os.getuid()}:{os.getgid()}"]
    argv += ["--gpus", f'"device={gpus}"'] if gpus else []
    argv += [f"--shm-size={shm_size}", "--name", name or workspace.task_id]
    argv += ["--network", network] if network else []
    return [*argv, image]


def run_container(workspace: Workspace, image: str, *, on_progress: Optional[OnProgress] = None, **options: str) -> Run:
    """Run an image over a workspace as the platform does; see `container_argv` for the options.

    Raises:
        EngineError: There is no such engine, or it does not answer.
    """
    engine = options.get("engine", "docker")
    check_engine(engine)
    argv = container_argv(workspace, image, **options)
    name = argv[argv.index("--name") + 1]

    def stop(_: subprocess.Popen[bytes]) -> None:
        subprocess.run([engine, "stop", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    done = _watch(argv, workspace, on_progress, stop)
    if done.status == _ENGINE_REFUSED:
        raise EngineError(" ".join(tail(done.log, 3)), hint=f"the command was: {quoted(argv)}")
    return done


def check_engine(engine: str) -> None:
    """Make sure that a container engine answers.

    Raises:
        EngineError: It is missing or does not answer.
    """
    if shutil.which(engine) is None:
        raise EngineError(f"{engine} is not installed", hint="install a container engine, or run without one")
    done = subprocess.run([engine, "info"], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in reversed((done.stderr or done.stdout).splitlines()) if line.strip()), "no reason given")
        raise EngineError(f"{engine} does not answer: {reason.strip()}", hint=f"start it; '{engine} info' must succeed")


def _watch(argv: Sequence[str], workspace: Workspace, on_progress: Optional[OnProgress], stop: Callable[[subprocess.Popen[bytes]], None],
           environ: Optional[Mapping[str, str]] = None, cwd: Optional[Path] = None) -> Run:
    """Run, with all output in the task's log, and report progress; Ctrl-C stops the task in order."""
    log, started = workspace.output / "ymir-executor-out.log", time.monotonic()
    with log.open("ab") as sink:
        # A group of its own: Ctrl-C reaches us alone, and we stop the task as the platform would.
        process = subprocess.Popen(list(argv), stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, cwd=cwd,
                                   env=None if environ is None else dict(environ), start_new_session=True)
        try:
            _poll(process, workspace, on_progress, started)
        except BaseException:
            _end(process, stop)
            raise
    status = process.returncode if process.returncode >= 0 else 128 - process.returncode
    record = monitor.read_record(workspace.output / "monitor.txt")
    return Run(status, time.monotonic() - started, record, log)


def _end(process: subprocess.Popen[bytes], stop: Callable[[subprocess.Popen[bytes]], None]) -> None:
    """Ask the task to stop, and wait for it. A second Ctrl-C asks once more, which the supervisor takes for "at once"."""
    until = time.monotonic() + STOP_SECONDS
    while process.poll() is None:
        try:
            stop(process)
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        except KeyboardInterrupt:
            continue


def _poll(process: subprocess.Popen[bytes], workspace: Workspace, on_progress: Optional[OnProgress], started: float) -> None:
    while True:
        try:
            process.wait(POLL_SECONDS)
            ended = True
        except subprocess.TimeoutExpired:
            ended = False
        if on_progress is not None:
            on_progress(monitor.read_record(workspace.output / "monitor.txt"), time.monotonic() - started)
        if ended:
            return


def tail(path: Path, lines: int = 10) -> List[str]:
    """The last lines of a log."""
    with path.open("rb") as f:
        f.seek(max(0, path.stat().st_size - (1 << 16)))
        return f.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()[-lines:]


def quoted(argv: Sequence[str]) -> str:
    """A command line that can be pasted into a shell."""
    return " ".join(map(shlex.quote, argv))
