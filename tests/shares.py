"""An image's program that shares its candidates; one process of it: `python -m tests.shares OPTIONS` in the environment of a rank."""
from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any, Dict, List, Tuple, Union

from ymir_exc import errors, result_writer, sharding
from ymir_exc.executor import Executor

CLASSES = ["cat", "狗"]


def score_of(path: str) -> Union[int, float]:
    """Some equal ones, whole ones, and such as have more than one text."""
    key = zlib.crc32(path.encode("utf-8", "surrogateescape"))
    return [key % 7, 1e-07 * (key % 3), key / 2 ** 32][key % 3]


def boxes_of(path: str) -> Tuple[List[List[float]], List[float], List[int]]:
    key = zlib.crc32(path.encode("utf-8", "surrogateescape"))
    count = key % 4
    return ([[key % 50 + n, n, key % 90 + 60 + n, n + 5] for n in range(count)], [(key % 1000 + n) * 1e-06 for n in range(count)],
            [(key + n) % 2 for n in range(count)])


class Program:
    """What to do, as options.

    Keys: kinds, the writers; passes, one after the other; block_size; seconds, an image; window, so many results at a time, in any order;
    log, a folder for the paths that were handed out; at, the number of an image, and act, what to do then; child, a file for the number
    of a process that lives on; wait, a file to wait for before the candidates.
    """

    def __init__(self, options: Dict[str, Any]) -> None:
        self.options = options
        self.count = 0
        self.pending: List[str] = []
        self.random = random.Random(options.get("seed", 0))

    def run(self, cfg: Any = None) -> None:
        for _ in range(self.options.get("passes", 1)):
            self.go_through()

    def go_through(self) -> None:
        options = self.options
        while "wait" in options and not os.path.exists(options["wait"]):
            time.sleep(0.01)
        with contextlib.ExitStack() as stack:
            writers = {}
            for kind in options.get("kinds", ["mining", "infer"]):
                made = result_writer.MiningResultWriter() if kind == "mining" else result_writer.InferResultWriter(CLASSES)
                writers[kind] = stack.enter_context(made)
            log = None
            if "log" in options:
                log = stack.enter_context(open(f"{options['log']}/{os.environ.get('RANK', '0')}-{os.getpid()}", "a", buffering=1))
            for path in sharding.candidates(*writers.values(), block_size=options.get("block_size", 5)):
                if log is not None:
                    log.write(path + "\n")
                time.sleep(options.get("seconds", 0))
                self.count += 1
                if self.count == options.get("at") and not self.act(options["act"]):
                    continue
                self.pending.append(path)
                if len(self.pending) >= options.get("window", 1):
                    self.add_all(writers)
            self.add_all(writers)
            if options.get("act") == "after":
                raise errors.OutOfMemoryError("CUDA out of memory, so it said")

    def add_all(self, writers: Dict[str, Any]) -> None:
        for kind, writer in writers.items():
            self.random.shuffle(self.pending)
            for path in self.pending:
                if kind == "mining":
                    writer.add(path, score_of(path))
                else:
                    writer.add(path, *boxes_of(path))
        self.pending = []

    def act(self, what: str) -> bool:
        """False: this image gets no result."""
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "kill, a child lives on":
            child = os.fork()
            if child == 0:
                os.closerange(0, 3)
                time.sleep(30)
                os._exit(0)
            Path(self.options["child"]).write_text(str(child))
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "raise":
            raise errors.OutOfMemoryError("CUDA out of memory, so it said")
        elif what == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        elif what == "full":
            import resource
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))    # a record has room, a part has not
        return what != "forget"


class Started:
    """A process of the program."""

    def __init__(self, platform: Any, rank: int, world_size: int, **options: Any) -> None:
        environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file), "RANK": str(rank), "WORLD_SIZE": str(world_size)}
        argv = [sys.executable, "-m", "tests.shares", json.dumps(options)]
        self.process = subprocess.Popen(argv, env=environ, cwd=Path(__file__).resolve().parent.parent, text=True,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def end(self, seconds: float = 60.0) -> Tuple[int, str]:
        """Exit status and stderr."""
        try:
            _, err = self.process.communicate(timeout=seconds)
        finally:
            self.kill()
        return self.process.returncode, err

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


if __name__ == "__main__":
    program = Program(json.loads(sys.argv[1]))
    sys.exit(Executor({"training": program.run, "mining": program.run, "infer": program.run, "mining+infer": program.run}).main())
