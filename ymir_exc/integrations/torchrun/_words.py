"""What ranks write to stderr: passed on, and its end kept, because a program that is no `Executor` tells its reason nowhere else."""
from __future__ import annotations

import contextlib
import os
import re
import selectors
import threading
from typing import Any, Dict

_KEPT_BYTES = 1 << 16
_TICK_SECONDS = 0.2


class Words:
    """A named pipe for each rank of this host, which torch opens as it would a log file, and a thread that reads them.

    Args:
        folder: Where the pipes are made.
        processes: How many ranks.
    """

    def __init__(self, folder: str, processes: int) -> None:
        self.paths = {rank: os.path.join(folder, f"stderr.{rank}") for rank in range(processes)}
        self._tails: Dict[int, bytes] = dict.fromkeys(range(processes), b"")
        self._unfinished: Dict[int, bytes] = dict.fromkeys(range(processes), b"")
        self._thread = threading.Thread(target=self._copy, name="ymir-exc-stderr", daemon=True)
        self._stopping = False

    def __enter__(self) -> Words:
        self._pipes = {}
        for rank, path in self.paths.items():
            os.mkfifo(path, 0o600)
            self._pipes[rank] = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)    # for writing too: so it has no end
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()
        for fd in self._pipes.values():
            os.close(fd)

    def settle(self) -> None:
        """Read the rest: the ranks have ended."""
        self._stopping = True
        self._thread.join()

    def of_ended(self, local_rank: int) -> str:
        """The same, once all ranks have ended."""
        self.settle()
        return self.of(local_rank)

    def of(self, local_rank: int) -> str:
        """The end of what a rank has written, without what torch puts before each line of a traceback."""
        return re.sub(r"(?m)^\[rank\d+\]: ?", "", self._tails[local_rank].decode("utf-8", "replace"))

    def specs(self, folder: str) -> Any:
        """What tells torch's launcher of the pipes."""
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs

        paths = self.paths

        class Specs(DefaultLogsSpecs):
            def reify(self, envs: Any) -> Any:
                made = super().reify(envs)
                made.stderrs.update(paths)
                return made

        return Specs(log_dir=folder)

    def _copy(self) -> None:
        with selectors.DefaultSelector() as ready:
            for rank, fd in self._pipes.items():
                ready.register(fd, selectors.EVENT_READ, rank)
            while True:
                stopping = self._stopping    # before looking: what was written until then is there
                found = ready.select(0 if stopping else _TICK_SECONDS)
                for key, _ in found:
                    self._pass_on(key.data, key.fd)
                if not found:
                    for rank in self._pipes:
                        self._put(self._unfinished[rank])
                        self._unfinished[rank] = b""
                    if stopping:
                        return

    def _pass_on(self, rank: int, fd: int) -> None:
        """Whole lines, so that those of two ranks do not mix; an unfinished one after a while."""
        try:
            data = os.read(fd, 1 << 16)
        except OSError:
            return
        self._tails[rank] = (self._tails[rank] + data)[-_KEPT_BYTES:]
        data = self._unfinished[rank] + data
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        self._unfinished[rank] = data[end:]
        self._put(data[:end])

    @staticmethod
    def _put(data: bytes) -> None:
        with contextlib.suppress(OSError):    # nobody reads our stderr any more
            while data:
                data = data[os.write(2, data):]
