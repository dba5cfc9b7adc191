"""Where the launchers of a job on several hosts meet: a thread of the first host's launcher."""
from __future__ import annotations

import contextlib
import errno
import math
import os
import selectors
import signal
import socket
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional, Set

from ymir_exc.code import ExecutorReturnCode as RC
from ymir_exc.errors import EXIT_FAILED, NetworkError, is_lost_peer
from ymir_exc.hosts import JOIN_VARIABLE, PORT_VARIABLE, TOLD_SECONDS, Layout
from ymir_exc.integrations.torchrun._protocol import BEAT_SECONDS, HELLO_BYTES, LINE_BYTES, SILENCE_SECONDS, Connection, Verdict, token_of

_TICK_SECONDS = 0.2
_LEAVE_SECONDS = 3.0
"""How long the last words may take to arrive."""

_BEFORE_LOSS_SECONDS = 3.0
"""A failure that came so shortly before a host was missed follows from that: a launcher that lives says why its ranks fail."""


class _Failure(NamedTuple):
    """The failure that came first on a host, and when, by this host's clock."""

    host: str
    rank: int
    code: int
    reason: str
    lines: List[str]
    status: int
    time: float


class _Guest:
    """A connection, and what is known of the launcher at its other end."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.rank: Optional[int] = None
        self.heard = time.monotonic()
        self.is_ready = False
        self.is_done = False
        self.has_reported = False


class Board(threading.Thread):
    """Tells all launchers when to begin, that one has failed, and of what the job failed.

    Args:
        layout: The hosts.
        join_seconds: How long to wait for all of them.
        gather_seconds: How long to wait, after a failure, for what the others know of it.

    Raises:
        NetworkError: Its port, or the one of the ranks, is taken.
    """

    def __init__(self, layout: Layout, join_seconds: float, gather_seconds: float) -> None:
        super().__init__(name="ymir-exc-board", daemon=True)
        self.layout = layout
        self.join_seconds = join_seconds
        self.gather_seconds = gather_seconds
        self.token = token_of(layout)
        self.guests: Dict[int, _Guest] = {}
        self.failures: List[_Failure] = []
        self.lost: Dict[str, float] = {}
        self.has_begun = False
        self.cause: Optional[str] = None
        self.decide_at = math.inf
        self.verdict: Optional[Verdict] = None
        self.leave_at = math.inf
        self._told_verdict: Set[int] = set()
        self._sockets = selectors.DefaultSelector()
        self._strangers: List[_Guest] = []
        self._listener = listen(layout.port + 1)
        try:
            listen(layout.port).close()
        except NetworkError as e:    # the others are to hear of it, so there is a board nevertheless
            self.broken: Optional[NetworkError] = e
            self.judge(Verdict("broken", f"{layout.hosts[0]}: {e}", int(e.return_code), e.exit_code))
        else:
            self.broken = None
        self._sockets.register(self._listener, selectors.EVENT_READ)

    def connect(self) -> socket.socket:
        """A connection for the launcher of this process."""
        ours, theirs = socket.socketpair()
        self._welcome(ours)
        return theirs

    def seconds_left(self) -> float:
        """How long it may go on, once it is known how the job ended; else 0."""
        return 0.0 if self.leave_at == math.inf else max(0.0, self.leave_at - time.monotonic()) + 2 * _TICK_SECONDS

    def run(self) -> None:
        """Until all have been told how it ended, and have gone."""
        self._begun = self._beaten = self._told = time.monotonic()
        with contextlib.closing(self._sockets), contextlib.closing(self._listener):
            while not self._is_finished():
                for key, _ in self._sockets.select(_TICK_SECONDS):
                    if key.data is None:
                        with contextlib.suppress(OSError):
                            self._welcome(self._listener.accept()[0])
                    else:
                        self._hear(key.data)
                self._look_around()
            for guest in [*self.guests.values(), *self._strangers]:
                guest.connection.close()

    def _is_finished(self) -> bool:
        if time.monotonic() > self.leave_at:
            return True
        may_come = not self.has_begun and self.verdict is not None and self.verdict.kind == "broken"
        return self.leave_at < math.inf and not self.guests and (not may_come or len(self._told_verdict) == len(self.layout.hosts))

    # ------------------------------------------------------------------------------------------------------------- the connections

    def _welcome(self, stream: socket.socket) -> None:
        guest = _Guest(Connection(stream, HELLO_BYTES))
        self._strangers.append(guest)
        self._sockets.register(stream, selectors.EVENT_READ, guest)

    def _hear(self, guest: _Guest) -> None:
        try:
            for key, value in guest.connection.receive():
                if key == "hello":
                    self._introduce(guest, value)
                elif guest.rank is not None:
                    self._take(guest, key, value)
                if guest.rank is not None:    # a stranger has so long to introduce himself, whatever else he says
                    guest.heard = time.monotonic()
        except Exception:    # gone, or none of ours: whatever somebody says, the board stays
            self._forget(guest)

    def _introduce(self, guest: _Guest, value: Any) -> None:
        rank = int(value["rank"])
        if value["token"] != self.token or not 0 <= rank < len(self.layout.hosts):
            guest.connection.send("refused", "it serves another job, or has another list of hosts")
            raise ConnectionError
        if rank in self.guests:
            guest.connection.send("refused", f"{self.layout.hosts[rank]} is there already: two hosts say that they are it")
            raise ConnectionError
        self._strangers.remove(guest)
        guest.rank = rank
        guest.connection.most = LINE_BYTES
        self.guests[rank] = guest
        guest.connection.send("welcome")
        if self.cause is not None:
            guest.connection.send("ending", self.cause)
        if self.verdict is not None:
            self._told_verdict.add(rank)
            guest.connection.send("verdict", self.verdict)

    def _take(self, guest: _Guest, key: str, value: Any) -> None:
        host = self.layout.hosts[guest.rank or 0]
        if key == "failing":
            self.end(f"a rank on {host} failed")
        elif key == "stopping":
            number = int(value)
            self.judge(Verdict("stopped", f"stopped by {signal.Signals(number).name} on {host}", RC.RC_CMD_CONTAINER_ERROR, 128 + number))
        elif key == "broken":
            kind, text, code, status, lines = value
            self.judge(Verdict(kind, f"{host}: {text}", code, status, lines))
        elif key == "report":
            guest.has_reported = True
            if value is not None:
                self.end(f"a rank on {host} failed")
                rank, code, reason, lines, status, age = value
                self.failures.append(_Failure(host, rank, code, reason, lines, status, time.monotonic() - age))
        elif key == "ready":
            guest.is_ready = True
            if self.verdict is None and not self.has_begun and len(self.guests) == len(self.layout.hosts) \
                    and all(one.is_ready for one in self.guests.values()):
                self.has_begun = True
                self._tell("go")
        elif key == "done":
            guest.is_done = True

    def _forget(self, guest: _Guest) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._sockets.unregister(guest.connection.stream)
        guest.connection.close()
        if guest.rank is None:
            if guest in self._strangers:
                self._strangers.remove(guest)
            return
        del self.guests[guest.rank]
        if self.leave_at == math.inf:
            host = self.layout.hosts[guest.rank]
            self.lost[host] = time.monotonic()
            self.end(f"{host} is lost")

    def _look_around(self) -> None:
        now = time.monotonic()
        if now - self._beaten > BEAT_SECONDS:
            self._beaten = now
            self._tell("beat")
        for guest in [*self.guests.values(), *self._strangers]:
            if now - guest.heard > SILENCE_SECONDS:
                self._forget(guest)
        if not self.has_begun and self.verdict is None:
            self._wait_for_all(now)
        everyone_reported = self.cause is not None and all(guest.has_reported for guest in self.guests.values())
        if self.verdict is None and (everyone_reported or now > self.decide_at):
            self.judge(self._decide())
        if self.verdict is None and self.has_begun and self.leave_at == math.inf and self.cause is None \
                and all(guest.is_done for guest in self.guests.values()):
            self.leave_at = now + _LEAVE_SECONDS
            self._tell("over")

    def _wait_for_all(self, now: float) -> None:
        missing = [host for rank, host in enumerate(self.layout.hosts) if rank not in self.guests]
        if not missing:    # who does not know a name says so himself, when his time is over
            return
        if now - self._begun > self.join_seconds:
            error = NetworkError(f"{', '.join(missing)} did not come, after {now - self._begun:.0f} s",
                                 hint=f"has every host of the job started? {JOIN_VARIABLE} says how many seconds to wait")
            self.judge(Verdict("broken", str(error), int(error.return_code), error.exit_code))
        elif now - self._told > TOLD_SECONDS:
            self._told = now
            self._tell("waiting", missing)

    def _tell(self, key: str, value: Any = None) -> None:
        for guest in list(self.guests.values()):
            guest.connection.send(key, value)    # that it has gone is seen when it is heard

    # ------------------------------------------------------------------------------------------------------------------- the end

    def end(self, cause: str) -> None:
        """Have all launchers end their ranks; only the first cause counts."""
        if self.cause is None and self.leave_at == math.inf:
            self.cause = cause
            self.decide_at = time.monotonic() + self.gather_seconds
            self._tell("ending", cause)

    def judge(self, verdict: Verdict) -> None:
        """Tell all how it ended; only the first verdict counts."""
        if self.verdict is None and self.leave_at == math.inf:
            self.cause = self.cause or verdict.text
            self.verdict = verdict
            # Who is not here yet is to hear of it too, and not to wait for a board that has gone.
            self.leave_at = time.monotonic() + (_LEAVE_SECONDS if self.has_begun else SILENCE_SECONDS)
            self._told_verdict.update(self.guests)
            self._tell("verdict", verdict)

    def _decide(self) -> Verdict:
        """A lost host, or the failure that came first and is no complaint about a lost peer."""
        best = min(self.failures, key=lambda failure: (is_lost_peer(failure.reason), failure.time), default=None)
        host, when = min(self.lost.items(), key=lambda item: item[1], default=("", math.inf))
        if best is None or is_lost_peer(best.reason) or best.time > when - _BEFORE_LOSS_SECONDS:
            if host:
                return loss(host)
            if best is None:
                return Verdict("failed", self.cause or "", RC.RC_CMD_CONTAINER_ERROR, EXIT_FAILED)
        return Verdict("failed", f"rank {best.rank} on {best.host}: {best.reason}", best.code, best.status, best.lines)


def loss(host: str) -> Verdict:
    """The verdict about a host that has gone without a word."""
    return Verdict("lost", f"{host} is lost: its launcher was killed, or its container or machine or network failed",
                   RC.RC_EXEC_NETWORK_ERROR, EXIT_FAILED)


def listen(port: int) -> socket.socket:
    """A socket that others can connect to.

    Raises:
        NetworkError: The port is taken.
    """
    families = [socket.AF_INET6, socket.AF_INET] if socket.has_dualstack_ipv6() else [socket.AF_INET]
    for family in families:
        try:
            return socket.create_server(("", port), family=family, dualstack_ipv6=family == socket.AF_INET6)
        except OSError as e:
            problem = e
            if e.errno == errno.EADDRINUSE:
                break
    raise NetworkError(f"port {port} of this host, which the job needs, cannot be had: {os.strerror(problem.errno or 0)}",
                       hint=f"set {PORT_VARIABLE} to another one, the same on each host; the one after it is needed too")
