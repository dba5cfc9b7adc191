"""What the launchers of one job say to each other: lines of JSON over TCP, on the port after the job's.

Each launcher has a connection to the board on the first host. Every line is an object with one key:

    to the board                                 from the board
    hello     who it is; opens every connection  welcome   it is one of ours
                                                 refused   it is not, and why
    ready     I know the names of all
    beat      nothing new                        beat      nothing new
                                                 waiting   names of hosts that are not here yet
                                                 go        all are here and ready
    failing   a rank of mine has failed          ending    why all are to end their ranks
    stopping  I was asked to stop: a signal
    broken    I cannot take part: a verdict
    report    mine are ended; the failure that
              came first here, if one did        verdict   what the job failed of, the same words for everyone
    done      all of mine have succeeded         over      all of all have

A connection that ends, or is silent for `SILENCE_SECONDS`, before its launcher has heard `over` or `verdict` is a lost host.
"""
from __future__ import annotations

import hashlib
import json
import socket
import threading
from typing import Any, Dict, Iterator, NamedTuple, Sequence, Tuple

from ymir_exc.hosts import Layout

BEAT_SECONDS = 2.0
SILENCE_SECONDS = 10.0
"""After which a host is taken for lost: its power or its network has failed. A killed one is missed at once, by its closed connection."""

SEND_SECONDS = 5.0
LINE_BYTES = 1 << 20
HELLO_BYTES = 1 << 12
"""The longest line, and that of one who has not introduced himself: anybody may connect."""


class Verdict(NamedTuple):
    """How a job failed.

    Attributes:
        kind: 'failed' of a rank, 'stopped' by a signal, 'lost' of a host, 'broken' of what came before the ranks.
        text: The reason, in one line; it names the rank and the host.
        code: The platform's.
        status: The exit status.
        lines: The traceback.
    """

    kind: str
    text: str
    code: int
    status: int
    lines: Sequence[str] = ()


class Connection:
    """One end of a connection. Any thread may send; one receives.

    Args:
        stream: The socket.
        most: The length of a line, in bytes.
    """

    def __init__(self, stream: socket.socket, most: int = LINE_BYTES) -> None:
        self.stream = stream
        self.most = most
        self._pending = b""
        self._sending = threading.Lock()
        stream.settimeout(SEND_SECONDS)
        if stream.family != socket.AF_UNIX:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, key: str, value: Any = None) -> bool:
        """Whether the other end could be sent this."""
        line = json.dumps({key: value}).encode("ascii") + b"\n"
        try:
            with self._sending:
                self.stream.sendall(line)
        except OSError:
            return False
        return True

    def receive(self) -> Iterator[Tuple[str, Any]]:
        """What has arrived; waits for it.

        Raises:
            ConnectionError: The other end has gone.
            ValueError: It does not speak our language.
            OSError: The time-out of the stream is over, or it is broken.
        """
        data = self.stream.recv(1 << 16)
        if not data:
            raise ConnectionError("closed")
        *lines, self._pending = (self._pending + data).split(b"\n")
        if len(self._pending) > self.most:
            raise ValueError("a line without an end")
        for line in lines:
            try:
                message: Dict[str, Any] = json.loads(line)
            except RecursionError:
                raise ValueError("nested too deeply") from None
            if not isinstance(message, dict) or len(message) != 1:
                raise ValueError("no message")
            yield from message.items()

    def close(self) -> None:
        """End it."""
        self.stream.close()


def token_of(layout: Layout) -> str:
    """What all launchers of a job know, and those of another one hardly."""
    return hashlib.sha256(json.dumps([layout.hosts, layout.master, layout.port]).encode()).hexdigest()
