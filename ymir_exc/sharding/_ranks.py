"""How the processes of one program see each other: a file for each, with a lock that the kernel releases when the process ends."""
from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import time
from typing import NamedTuple, Optional, Tuple

from ymir_exc import _files
from ymir_exc.errors import ConfigError, ProgramError

_RECORD_BYTES = 4096
_MOST_BYTES_OF_CHARACTER = 12    # two escapes of JSON
_HANDOVER_SECONDS = 2.0    # a process that was killed a moment ago may still be ending


def rank_and_world_size() -> Tuple[int, int]:
    """Which of how many processes this one is, of the environment's RANK and WORLD_SIZE; (0, 1) without them.

    Raises:
        ConfigError: They are no such numbers.
    """
    given = [os.environ.get(name, "").strip() for name in ("RANK", "WORLD_SIZE")]
    try:
        rank, world_size = int(given[0] or 0), int(given[1] or 1)
    except ValueError:
        rank = world_size = -2
    rank = 0 if rank == -1 and world_size in (-1, 1) else rank    # so some launchers say that there is one process only
    world_size = 1 if rank == 0 and world_size == -1 else world_size
    if not 0 <= rank < world_size:
        raise ConfigError(f"RANK={given[0]} and WORLD_SIZE={given[1]} do not fit together", hint="a launcher such as torchrun sets both")
    return rank, world_size


def process_start() -> float:
    """When this process was started, seconds since 1970: files of earlier ones are older."""
    try:
        with open("/proc/self/stat", "rb") as f:
            ticks = int(f.read().rpartition(b")")[2].split()[19])
        return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return time.time()


class Told(NamedTuple):
    """What a rank has left in its file.

    Attributes:
        done: Images of its share that have their results.
        code: The return code of its failure.
        reason: Why it failed; empty while it works, and when it has ended well.
        is_stop: It was asked to stop.
        has_begun: It knows which of its blocks have their parts.
        is_alive: It holds the lock.
        is_gone: It does not; where a file system has no locks, neither is known.
        when: When it wrote last, seconds since 1970.
    """

    done: int
    code: int
    reason: str
    is_stop: bool
    has_begun: bool
    is_alive: bool
    is_gone: bool
    when: float


class Record:
    """The file of this process.

    The lock is a POSIX one and not flock's, which a data loader forked from this process would hold on to after its death. The file
    appears under its name with the lock held, and has its whole size from the beginning, so that a full disk has room for the reason.

    Raises:
        ProgramError: Another process has this rank.
        StorageError: The file cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._pid = os.getpid()
        end = time.monotonic() + _HANDOVER_SECONDS
        while is_held(path):
            if time.monotonic() > end:
                raise ProgramError(f"another process is at work as {os.path.basename(path)} of the same task, and holds {path}",
                                   hint="was the program started twice? RANK and WORLD_SIZE tell processes apart")
            time.sleep(0.05)
        temp = f"{path}.{self._pid}.new"
        try:
            self._fd = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            _try_lock(self._fd)
            os.pwrite(self._fd, _text(0, 0, "", False, False), 0)
            os.replace(temp, path)
        except OSError as e:
            raise _files.storage_error(path, e) from e

    def write(self, done: int, code: int = 0, reason: str = "", *, is_stop: bool = False, has_begun: bool = True) -> None:
        """Tell the others."""
        if self._fd >= 0 and os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, _text(done, code, reason, is_stop, has_begun), 0)

    def close(self) -> None:
        """Give up the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _text(done: int, code: int, reason: str, is_stop: bool, has_begun: bool) -> bytes:
    """A record, always of one size: of a reason that is too long, the beginning."""
    while True:
        text = json.dumps([done, code, reason, is_stop, has_begun])
        excess = len(text) - (_RECORD_BYTES - 1)
        if excess <= 0:
            return text.ljust(_RECORD_BYTES - 1).encode("ascii") + b"\n"
        reason = reason[:-math.ceil(excess / _MOST_BYTES_OF_CHARACTER)]


def told(path: str) -> Optional[Told]:
    """What a rank has left; None when it has left nothing."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        is_free = _try_lock(fd, shared=True)    # before reading: what one that is gone wrote is its last word
        done, code, reason, is_stop, has_begun = json.loads(os.pread(fd, _RECORD_BYTES, 0))
        return Told(int(done), int(code), str(reason), bool(is_stop), bool(has_begun), is_free is False, is_free is True,
                    os.fstat(fd).st_mtime)
    except (OSError, ValueError, TypeError):    # read while it was written
        return None
    finally:
        os.close(fd)


def is_held(path: str) -> bool:
    """Whether the process lives that this file belongs to."""
    found = told(path)
    return found is not None and found.is_alive


def _try_lock(fd: int, *, shared: bool = False) -> Optional[bool]:
    """Lock a file; False when another process has it, None when this file system has no locks."""
    import fcntl
    try:
        fcntl.lockf(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as e:
        return False if e.errno in (errno.EACCES, errno.EAGAIN) else None
    return True
