"""A launcher's part in a job on several hosts."""
from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from typing import Any, List, Optional

from ymir_exc import errors, hosts
from ymir_exc.code import ExecutorReturnCode as RC
from ymir_exc.hosts import Layout
from ymir_exc.integrations.torchrun._board import Board, loss
from ymir_exc.integrations.torchrun._protocol import BEAT_SECONDS, SILENCE_SECONDS, Connection, Verdict, token_of

_log = logging.getLogger(__name__)

_FOREIGN_SECONDS = 15.0
"""How long a port may be answered by something else: a proxy before a host that is not ready, or the end of an earlier job."""

_SETTLE_SECONDS = 1.0
"""What ranks get to tell of a failure of their own, or to end by themselves, before they are ended for another host's."""

_TICK_SECONDS = 0.1
_CONNECT_SECONDS = 5.0
_LEAVE_SECONDS = 2.0


class JobEnded(Exception):
    """Another host, or the board, says that the job has failed."""


class Member:
    """This host among the others.

    Args:
        layout: The hosts.
        kill_seconds: What a launcher needs to end its ranks, at most.
    """

    def __init__(self, layout: Layout, kill_seconds: float) -> None:
        self.layout = layout
        self.gather_seconds = kill_seconds + 3 * _SETTLE_SECONDS
        self.cause: Optional[str] = None
        self.verdict: Optional[Verdict] = None
        self._board: Optional[Board] = None
        self._connection: Optional[Connection] = None
        self._reader: Optional[threading.Thread] = None
        self._news = threading.Condition()
        self._may_begin = self._is_over = self._is_leaving = self._board_is_lost = False
        self._heard_cause_at = 0.0

    # ------------------------------------------------------------------------------------------------------------------- beginning

    def join(self) -> None:
        """Wait until all hosts are here.

        Raises:
            NetworkError: A host cannot be found, or does not come; a port is taken, here or on the first host.
            ConfigError: A variable is wrong.
            JobEnded: Another host cannot take part.
        """
        seconds = hosts.seconds_of(hosts.JOIN_VARIABLE)
        if self.layout.rank == 0:
            self._board = Board(self.layout, seconds, self.gather_seconds)
            self._board.start()
            if self._board.broken is not None:
                _log.error("%s", self._board.broken)    # at once: the others, if they come within seconds, are told before this ends
                raise self._board.broken
            self._introduce(self._board.connect())
        else:
            hosts.wait_for_names(self.layout._replace(hosts=(self.layout.master,), rank=0))
            self._reach(seconds)
        hosts.wait_for_names(self.layout, check=self.check)
        self.tell("ready")
        while not self._may_begin:
            self.check()
            self._wait()

    def _reach(self, seconds: float) -> None:
        """Connect to the board; a host that is not up yet refuses, or does not answer."""
        address = (self.layout.master, self.layout.port + 1)
        where = f"{self.layout.hosts[0]}, port {address[1]},"
        start = told = time.monotonic()
        foreign_since, problem = 0.0, ""
        while True:
            try:
                self._introduce(socket.create_connection(address, _CONNECT_SECONDS))
                return
            except _ForeignError as e:
                foreign_since, problem = foreign_since or time.monotonic(), str(e)
            except OSError as e:
                foreign_since, problem = 0.0, e.strerror or str(e)
            now = time.monotonic()
            if foreign_since and now - foreign_since > _FOREIGN_SECONDS:
                raise errors.NetworkError(f"{where} is not answered by the launcher of this job: {problem}",
                                          hint=f"another program has the port: set {hosts.PORT_VARIABLE} on each host")
            if now - start > seconds:
                raise errors.NetworkError(f"{where} did not answer for {now - start:.0f} s: {problem}",
                                          hint=f"has that host started? {hosts.JOIN_VARIABLE} says how many seconds to wait")
            if now - told > hosts.TOLD_SECONDS:
                told = now
                _log.info("waiting for %s %.0f of %.0f s", where, now - start, seconds)
            time.sleep(min(0.5, _TICK_SECONDS + (now - start) / 10))

    def _introduce(self, stream: socket.socket) -> None:
        connection = Connection(stream)
        connection.send("hello", {"token": token_of(self.layout), "rank": self.layout.rank})
        stream.settimeout(_CONNECT_SECONDS)
        pending: List[Any] = []
        problem = "it does not answer as one"
        try:
            while not pending:
                pending += connection.receive()
            key, value = pending[0]
            problem = "" if key == "welcome" else value if key == "refused" else problem
        except socket.timeout:
            problem = "it says nothing"
        except (OSError, ValueError):
            pass
        if problem:
            connection.close()
            raise _ForeignError(problem)
        self._connection = connection
        for key, value in pending[1:]:
            self._take(key, value)
        self._reader = threading.Thread(target=self._listen, args=(connection,), name="ymir-exc-member", daemon=True)
        self._reader.start()

    # ---------------------------------------------------------------------------------------------------------------------- listening

    def _listen(self, connection: Connection) -> None:
        heard = beaten = time.monotonic()
        connection.stream.settimeout(BEAT_SECONDS)
        while not self._is_leaving:
            now = time.monotonic()
            if now - beaten >= BEAT_SECONDS:
                beaten = now
                connection.send("beat")
            try:
                for key, value in connection.receive():
                    self._take(key, value)
                heard = time.monotonic()
            except socket.timeout:
                if time.monotonic() - heard <= SILENCE_SECONDS:
                    continue
                self._lose()
                return
            except (OSError, ValueError, TypeError):
                self._lose()
                return

    def _lose(self) -> None:
        if self.verdict is None and not self._is_over and not self._is_leaving:
            self._board_is_lost = True
            self._take("verdict", loss(self.layout.hosts[0]))

    def _take(self, key: str, value: Any) -> None:
        with self._news:
            if key == "go":
                self._may_begin = True
            elif key == "over":
                self._is_over = True
            elif key == "waiting":
                _log.info("waiting for %s", ", ".join(value))
            elif key in ("ending", "verdict"):
                if key == "verdict" and self.verdict is None:
                    self.verdict = Verdict(*value)
                self.cause = self.cause or (value if key == "ending" else Verdict(*value).text)
                self._heard_cause_at = self._heard_cause_at or time.monotonic()
            self._news.notify_all()

    def _wait(self) -> None:
        with self._news:
            self._news.wait(_TICK_SECONDS)

    # ------------------------------------------------------------------------------------------------------------------- while it runs

    def check(self, *, settle: bool = False) -> None:
        """Raise when the job has failed elsewhere.

        Args:
            settle: A second later only.

        Raises:
            JobEnded: It has.
        """
        if self.cause is not None and not (settle and time.monotonic() - self._heard_cause_at < _SETTLE_SECONDS):
            raise JobEnded(self.cause)

    def tell(self, key: str, value: Any = None) -> None:
        """Say something to the board: 'ready', 'failing', 'stopping' or 'broken'."""
        if self._connection is not None:
            self._connection.send(key, value)

    def finish(self) -> None:
        """This host's ranks have succeeded: wait for the others, as long as they live.

        Raises:
            JobEnded: They have not.
        """
        self.tell("done")
        while not self._is_over:
            self.check()
            self._wait()

    def conclude(self, report: Any) -> Verdict:
        """Tell what failed here, and hear what the job failed of.

        Args:
            report: Of the failure that came first here: rank, code, reason, lines, status, seconds ago; or None.
        """
        self.tell("report", report)
        deadline = time.monotonic() + self.gather_seconds + 2 * _SETTLE_SECONDS
        while self.verdict is None and time.monotonic() < deadline and self._connection is not None:
            self._wait()
        if self.verdict is not None and not (self._board_is_lost and self.cause != self.verdict.text and report is not None):
            return self.verdict
        if report is not None:    # something had failed before the board went, and nobody has judged
            rank, code, reason, lines, status, _ = report
            return Verdict("failed", f"rank {rank} on {self.layout.current}: {reason}", code, status, lines)
        return Verdict("failed", self.cause or "the job has failed", int(RC.RC_CMD_CONTAINER_ERROR), errors.EXIT_FAILED)

    def leave(self) -> None:
        """End the connection; the board stays for a moment, until all have heard it."""
        self._is_leaving = True
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.stream.shutdown(socket.SHUT_RDWR)
        if self._reader is not None:
            self._reader.join(_LEAVE_SECONDS)
        if self._connection is not None:
            self._connection.close()
        if self._board is not None and self._board.is_alive():
            self._board.join(self._board.seconds_left())


class _ForeignError(Exception):
    """What answers is no board of this job."""


def as_error(verdict: Verdict) -> errors.YmirError:
    """What this launcher raises."""
    error: errors.YmirError
    if verdict.kind == "stopped":
        error = errors.Stopped(verdict.text)
    elif verdict.kind == "broken" and verdict.code == RC.RC_EXEC_NETWORK_ERROR:
        error = errors.NetworkError(verdict.text)
    else:
        error = errors.ProgramError(verdict.text)
    error.return_code, error.exit_code, error.lines = RC(verdict.code), verdict.status, list(verdict.lines) or [verdict.text]
    return error
