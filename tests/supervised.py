"""Runs real programs under `ymir-exc run` in a process of its own, for tests."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Union

from ymir_exc.monitor import Record, parse_record

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 90.0
"""Seconds after which something hangs, on the slowest machine."""

Word = Union[str, bytes]


def wait_for(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What `what()` returns, once that is true."""
    end = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def last_line(stderr: bytes) -> str:
    assert stderr.endswith(b"\n")
    return stderr.decode("utf-8").splitlines()[-1]


def record(platform: Any) -> Record:
    """What monitor.txt says, as the platform reads it."""
    found = parse_record(platform.monitor())
    assert found is not None
    return found


def measured() -> List[str]:
    """The words that let `python -m` count what a process reaches, when coverage is measured; of a killed one nothing is counted."""
    coverage = sys.modules.get("coverage")
    current = coverage.Coverage.current() if coverage is not None else None
    if current is None:
        return []
    return ["coverage", "run", "--parallel-mode", f"--rcfile={ROOT / 'pyproject.toml'}",
            f"--data-file={os.path.abspath(current.get_option('run:data_file'))}", "-m"]


class Supervised:
    """Starts `ymir-exc run`, and leaves nothing behind."""

    def __init__(self, env_file: Optional[Path], folder: Path) -> None:
        self.env_file = env_file
        self.folder = folder
        self.is_measured = True
        """Whether coverage may be counted: not where imports, limits, the environment or the folder matter, which that would disturb."""
        self.started: List[subprocess.Popen] = []

    def environment(self, **more: str) -> Dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("YMIR_") and k not in ("DEFAULT_ENV_FILE_PATH", "RANK")}
        kept["PYTHONPATH"] = str(ROOT)
        if self.env_file is not None:
            kept["DEFAULT_ENV_FILE_PATH"] = str(self.env_file)
        return {**kept, **more}

    def command(self, *program: Word, options: Any = ()) -> List[Word]:
        return [sys.executable, "-m", *(measured() if self.is_measured else ()), "ymir_exc", "run", *options, "--", *program]

    def start(self, *program: Word, options: Any = (), before: Any = (), env: Optional[Dict[str, str]] = None,
              **kwargs: Any) -> subprocess.Popen:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([*before, *self.command(*program, options=options)], start_new_session=True,
                                   cwd=kwargs.pop("cwd", self.folder),
                                   env=self.environment(**(env or {})), **{**pipes, **kwargs})
        self.started.append(process)
        return process

    def run(self, *program: Word, **kwargs: Any) -> subprocess.CompletedProcess:
        data = kwargs.pop("data", None)
        if data is not None:
            kwargs["stdin"] = subprocess.PIPE
        process = self.start(*program, **kwargs)
        out, err = process.communicate(data, timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def python(self, code: str, *words: Word, **kwargs: Any) -> subprocess.CompletedProcess:
        return self.run(sys.executable, "-c", code, *words, **kwargs)

    def start_python(self, code: str, *words: Word, **kwargs: Any) -> subprocess.Popen:
        return self.start(sys.executable, "-uc", code, *words, **kwargs)

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
