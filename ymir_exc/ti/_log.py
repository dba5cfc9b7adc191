"""What the containers of a job printed: one file that the runner writes, and any process follows and shows.

The file is a row of pieces, each after a line with the host's number and the piece's length in bytes. The bytes are the program's own, in
the order in which they came; whatever it printed, UTF-8 or not, is there to the last byte.
"""
from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from pathlib import Path
from typing import IO, Any, Iterator, Optional, Sequence, Tuple

_COLOURS = (36, 33, 32, 35, 34, 31)
_LONGEST = 1 << 20    # a longer line is not held back for its end, so that another host's may cut it in two
_PATIENCE = 0.5
_BREAK = re.compile(rb"\r?\n|\r(?=[^\n])")

Piece = Tuple[int, bytes]


class Writer:
    """Appends pieces. A disk that is full does not stop the job."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("ab", buffering=0)
        self.lost = 0

    def write(self, host: int, data: bytes) -> None:
        """Append what a host printed."""
        piece = b"%d %d\n%b\n" % (host, len(data), data)
        place = os.fstat(self._file.fileno()).st_size
        try:
            view = memoryview(piece)
            while view:
                view = view[os.write(self._file.fileno(), view):]
        except OSError:
            self.lost += len(data)
            with contextlib.suppress(OSError):    # no half piece, which would hide all that comes after
                os.ftruncate(self._file.fileno(), place)

    def close(self) -> None:
        """After the last piece."""
        self._file.close()


class Reader:
    """Reads pieces as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = 0

    def new(self) -> Iterator[Piece]:
        """The whole pieces since the last call."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as f:
            f.seek(self._place)
            while True:
                head = f.readline(64)
                words = head.split()
                if not head.endswith(b"\n") or len(words) != 2 or not all(word.isdigit() for word in words):
                    return    # not yet whole, or of a machine that went down
                length = int(words[1])
                data = f.read(length + 1)
                if len(data) <= length:
                    return
                self._place += len(head) + len(data)
                yield int(words[0]), data[:-1]


class Painter:
    """Shows pieces with the host's name before each line.

    Lines of several hosts are never mixed, and one of up to a MiB is never cut where the stream is no terminal. A line that ends in a
    carriage return, as progress bars have it, is overwritten by the next one on a terminal, and stands on a line of its own elsewhere.

    Args:
        hosts: Their names.
        stream: Where to; stdout by default. NO_COLOR and a stream that is no terminal are respected.
    """

    def __init__(self, hosts: Sequence[str], stream: Optional[Any] = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        try:
            self._live = bool(self._stream.isatty())
        except (AttributeError, ValueError):
            self._live = False
        colours = self._live and not os.environ.get("NO_COLOR")
        wide = max(map(len, hosts), default=0)
        self._heads = [f"\x1b[{_COLOURS[n % len(_COLOURS)]}m{host:<{wide}} |\x1b[0m ".encode() if colours else f"{host:<{wide}} | ".encode()
                       for n, host in enumerate(hosts)]
        self._waiting = [bytearray() for _ in hosts]
        self._since = [0.0 for _ in hosts]
        self._open: Optional[int] = None    # the host whose line the cursor is in
        self._again = False                 # that line is to be overwritten

    def feed(self, host: int, data: bytes) -> None:
        """Show what a host printed, as far as lines are whole."""
        waiting = self._waiting[host]
        begin = len(waiting) - waiting.endswith(b"\r")    # nothing ends a line before this
        was_waiting = bool(waiting)
        waiting += data
        place, shown = 0, []
        if self._open is None and waiting.find(b"\r", begin) < 0:    # nearly always, and many times faster
            end = waiting.rfind(b"\n", begin)
            if end >= 0:
                head = self._heads[host]
                place = begin = end + 1
                shown.append(head + waiting[:end].replace(b"\n", b"\n" + head) + b"\n")
        for found in _BREAK.finditer(bytes(waiting[begin:])):
            shown.append(self._line(host, waiting[place:begin + found.start()], found.group() == b"\r"))
            place = begin + found.end()
        del waiting[:place]
        if len(waiting) > _LONGEST:
            shown.append(self._part(host, waiting))
            waiting.clear()
        if not was_waiting or place:
            self._since[host] = time.monotonic()
        self._out(b"".join(shown))

    def idle(self) -> None:
        """Nothing came for a while: on a terminal a line that was begun is shown."""
        if self._live:
            now = time.monotonic()
            for host, rest in enumerate(self._waiting):
                if rest and now - self._since[host] > _PATIENCE:
                    self._out(self._line(host, rest[:-1], True) if rest.endswith(b"\r") else self._part(host, rest))
                    rest.clear()

    def close(self) -> None:
        """Show what is left, and end the last line."""
        shown = []
        for host, rest in enumerate(self._waiting):
            if rest:
                shown.append(self._line(host, rest[:-1] if rest.endswith(b"\r") else rest, False))
                rest.clear()
        if self._open is not None:
            shown.append(b"\n")
            self._open, self._again = None, False
        self._out(b"".join(shown))

    def _part(self, host: int, text: bytearray) -> bytes:
        """A piece of a line that goes on."""
        start = self._start(host)
        self._open = host
        return start + text

    def _line(self, host: int, text: bytearray, again: bool) -> bytes:
        if again and not self._live and not text and self._open is None:
            return b""    # a bar begins with a carriage return, before there is anything to overwrite
        start = self._start(host)
        if again and self._live:
            self._open, self._again = host, True
            return start + text
        self._open, self._again = None, False
        return start + text + b"\n"

    def _start(self, host: int) -> bytes:
        if self._open == host and self._again:
            self._again = False
            return b"\r\x1b[K" + self._heads[host]
        if self._open == host:
            return b""
        end = b"" if self._open is None else b"\n"
        self._again = False
        return end + self._heads[host]

    def _out(self, data: bytes) -> None:
        if not data:
            return
        raw = getattr(self._stream, "buffer", None)
        if raw is not None:
            self._stream.flush()
            raw.write(data)
            raw.flush()
        else:
            self._stream.write(data.decode("utf-8", "backslashreplace"))
            self._stream.flush()
