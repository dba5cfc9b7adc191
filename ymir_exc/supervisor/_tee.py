"""Passes a program's output on unchanged while keeping its end.

Each of our stdout and stderr gets a pipe, or a pseudo-terminal where ours is a terminal, and a thread that copies bytes as they come.
When both of ours are the same open file they share one, so that the order between them is kept.
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import threading
from typing import Callable, List, Optional, Tuple

TAIL_BYTES = 64 << 10
CHUNK_BYTES = 64 << 10    # what a pipe holds; larger ones were measured to be no faster
_MAX_PIPE_BYTES = 1 << 20
_GONE = frozenset({errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO, errno.ECONNRESET})


def open_standard_streams() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed, so that no file of ours gets number 0, 1 or 2."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)    # it gets the lowest free number, which is this one


def put(fd: int, data: memoryview, seconds: Optional[float] = None) -> Optional[OSError]:
    """Write everything, whether or not the file blocks.

    Args:
        fd: The file.
        data: What to write.
        seconds: How long a reader that takes nothing is waited for; None for ever.

    Returns:
        Why not everything was written, or None.
    """
    try:
        while data:
            if seconds is not None and not _writable(fd, seconds):
                return OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            try:
                data = data[os.write(fd, data):]
            except BlockingIOError:
                _writable(fd, seconds)
    except OSError as e:
        return e
    return None


def _writable(fd: int, seconds: Optional[float]) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(None if seconds is None else int(seconds * 1000)))


class Tail:
    """The last `TAIL_BYTES` of a stream."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def add(self, data: memoryview) -> None:
        """Append what came, and forget the oldest."""
        self._kept += data[-TAIL_BYTES:]
        if len(self._kept) > 4 * TAIL_BYTES:
            del self._kept[:-TAIL_BYTES]

    def text(self) -> str:
        """The end as text; what is no UTF-8 shows as replacement characters."""
        return bytes(self._kept[-TAIL_BYTES:]).decode("utf-8", "replace")

    def ends_line(self) -> bool:
        """Whether the next byte begins a line."""
        return not self._kept or self._kept.endswith(b"\n")


class Stream:
    """One copying thread.

    Args:
        sink: Our own file that the bytes go to: 1 or 2.
        wake: A file that reaches its end when `stopping` is set.
        on_end: Called from the thread when it has copied its last byte.
    """

    def __init__(self, sink: int, wake: int, on_end: Callable[[], None]) -> None:
        self.sink = sink
        self.stopping = False    # set by another thread: no more than what is in the pipe by now is to be copied
        self.tail = Tail()
        self.done = False
        self.error: Optional[OSError] = None
        self.is_terminal = False
        self.source, self.child_end = self._open()
        os.set_blocking(self.source, False)    # this end only, which is ours alone
        self._wake = wake
        self._on_end = on_end
        self._sink_gone = False
        self._thread = threading.Thread(target=self._run, name=f"ymir-tee-{sink}", daemon=True)

    def _open(self) -> Tuple[int, int]:
        if os.isatty(self.sink):
            with contextlib.suppress(OSError):    # no /dev/pts in this container: a pipe it is
                ends = _open_terminal(self.sink)
                self.is_terminal = True
                return ends
        return os.pipe()

    def start(self) -> None:
        """Begin to copy."""
        self._thread.start()

    def close_child_end(self) -> None:
        """Once the program has it, or will never."""
        if self.child_end >= 0:
            os.close(self.child_end)
            self.child_end = -1

    def close(self) -> None:
        """Give the thread and the file back. A thread that is stuck in a write to our reader keeps them until the process ends."""
        self.close_child_end()
        if self._thread.ident is not None:
            if not self.done:
                return
            self._thread.join()
        os.close(self.source)

    def resize(self) -> None:
        """Give the program's terminal the size of ours."""
        if self.is_terminal:
            with contextlib.suppress(OSError):
                _copy_window_size(self.sink, self.source)

    def _run(self) -> None:
        try:
            self._copy()
        finally:
            self.done = True
            self._on_end()

    def _copy(self) -> None:
        buffer = bytearray(CHUNK_BYTES)
        left = _MAX_PIPE_BYTES    # once stopping: what a pipe can hold, and no more if somebody still writes
        while left > 0:
            stopping = self.stopping    # looked at before the pipe: what was written before the request is to be found there
            count = self._read(buffer)
            if count is not None and count > 0:
                self._pass_on(memoryview(buffer)[:count])
                left -= count if stopping else 0
            elif count == 0 or stopping:
                return
            else:
                self._wait()

    def _read(self, buffer: bytearray) -> Optional[int]:
        """How many bytes came; 0 at the end, None when there is nothing now."""
        try:
            return os.readv(self.source, [buffer])
        except BlockingIOError:
            return None
        except OSError:    # EIO: the last one who had the pseudo-terminal open is gone
            return 0

    def _wait(self) -> None:
        poller = select.poll()
        poller.register(self.source, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        poller.poll()

    def _pass_on(self, data: memoryview) -> None:
        self.tail.add(data)
        if self._sink_gone:
            return
        error = put(self.sink, data)
        if error is not None:
            self.error = error
            self._sink_gone = error.errno in _GONE    # a full disk may have room again


class Tee:
    """Both streams of one program.

    Args:
        on_end: Called, from another thread, each time a stream has ended.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._wake_reader, self._wake_writer = os.pipe()
        self.out = self.err = Stream(1, self._wake_reader, on_end)
        if not _same_file(1, 2):
            self.err = Stream(2, self._wake_reader, on_end)

    @property
    def streams(self) -> List[Stream]:
        """One or two."""
        return [self.out] if self.out is self.err else [self.out, self.err]

    @property
    def has_terminal(self) -> bool:
        """Whether a change of the window's size concerns the program."""
        return any(stream.is_terminal for stream in self.streams)

    @property
    def busy(self) -> bool:
        """Whether anything is still being copied."""
        return not all(stream.done for stream in self.streams)

    def start(self) -> None:
        """Begin to copy; the program has its ends now."""
        for stream in self.streams:
            stream.close_child_end()
            stream.start()

    def resize(self) -> None:
        """Follow the size of our window."""
        for stream in self.streams:
            stream.resize()

    def stop(self) -> None:
        """Copy what is in the pipes, then end, whoever may still hold them open."""
        for stream in self.streams:
            stream.stopping = True
        if self._wake_writer >= 0:
            os.close(self._wake_writer)
            self._wake_writer = -1

    def close(self) -> None:
        """Give back the files and the threads."""
        self.stop()
        for stream in self.streams:
            stream.close()
        if not self.busy:
            os.close(self._wake_reader)


def _same_file(first: int, second: int) -> bool:
    a, b = os.fstat(first), os.fstat(second)
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def _open_terminal(like: int) -> Tuple[int, int]:
    """A pseudo-terminal that changes no byte, as large as the given one."""
    import termios
    import tty
    source, child_end = os.openpty()
    try:
        tty.setraw(child_end)
        _copy_window_size(like, source)
    except (OSError, termios.error) as e:    # the latter is no OSError
        os.close(source)
        os.close(child_end)
        raise OSError(*e.args) from e
    return source, child_end


def _copy_window_size(source: int, target: int) -> None:
    import termios
    size = fcntl.ioctl(source, termios.TIOCGWINSZ, b"\0" * 8)
    fcntl.ioctl(target, termios.TIOCSWINSZ, size)
