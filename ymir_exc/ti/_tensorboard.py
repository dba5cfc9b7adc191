"""TensorBoard over a job's live checkpoints, for as long as a block lasts."""
from __future__ import annotations

import contextlib
import logging
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Callable, Iterator, List, Optional

_LOG = logging.getLogger(__name__)
# It ends when its input does, that is with us, however we end.
_PROGRAM = """if True:
    import os, sys, threading
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    from tensorboard.main import run_main
    run_main()
"""
_ADDRESS = re.compile(r"https?://\S+")


@contextlib.contextmanager
def running(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Serve the event files below a folder on a free port of this machine alone.

    Args:
        folder: May be empty, and fill.
        tell: Called with the address once it answers.
    """
    # Port 0: the system chooses, so that no other program can have it.
    argv = [sys.executable, "-c", _PROGRAM, "--logdir", str(folder), "--port", "0", "--host", "127.0.0.1",
            "--reload_interval", "5"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               encoding="utf-8", errors="replace", start_new_session=True)
    reader = threading.Thread(target=_read, args=(process, tell), daemon=True)
    reader.start()
    try:
        yield
    finally:
        process.kill()    # it writes nothing
        process.wait()
        reader.join()
        for pipe in (process.stdin, process.stderr):
            if pipe is not None:
                pipe.close()


def _read(process: subprocess.Popen[str], tell: Callable[[str], None]) -> None:
    """Find the address, and keep reading, because a full pipe would stop it."""
    address: Optional[str] = None
    last: List[str] = []
    for line in process.stderr or ():
        found = _ADDRESS.search(line) if address is None and "TensorBoard" in line else None
        if found:
            address = found.group()
            tell(f"TensorBoard: {address}")
        last = [*last[-4:], line.rstrip()]
    if address is None and process.wait() > 0:
        _LOG.warning("TensorBoard did not start: %s", " ".join(last))
