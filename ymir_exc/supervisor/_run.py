"""The lifecycle of `ymir-exc run`."""
from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Set, Tuple

from ymir_exc import _files, platforms
from ymir_exc.code import ExecutorState
from ymir_exc.errors import EXIT_CONTRACT, EXIT_FAILED, one_line
from ymir_exc.platforms.base import SUPERVISED_VARIABLE, Outcome, Platform, Prepared
from ymir_exc.supervisor import _processes, _verdict
from ymir_exc.supervisor._cgroup import MemoryWatch
from ymir_exc.supervisor._tee import Tee, put

if TYPE_CHECKING:
    from ymir_exc.monitor import Record

GRACE_VARIABLE = "YMIR_EXC_GRACE"
GRACE_SECONDS = 8.0
"""From a request to stop to SIGKILL. `docker stop` kills us after 10 s, and the last words have to be written before."""

AFTER_SECONDS = 2.0
"""What processes that outlive the program get to end by themselves."""

KILL_SECONDS = 1.0
"""How long a process may take to die of SIGKILL; one that hangs in a driver is left behind."""

_TICK_SECONDS = 0.1


class Run:
    """One program, from the platform's files to the last line.

    Args:
        argv: The program and its arguments.
        signals: Where our signals arrive.
        grace: Seconds from a request to stop to SIGKILL; as the environment says when None.
        before: Words that go before the program, be it `argv` or what the platform names instead.
    """

    def __init__(self, argv: List[str], signals: _processes.SignalQueue, grace: Optional[float], before: Sequence[str] = ()) -> None:
        self.argv = argv
        self.before = list(before)
        self.signals = signals
        self.platform: Optional[Platform] = None
        self.prepared = Prepared()
        self.first_record: Optional[Record] = None    # ours, or what was there when ours could not be written
        self.tee: Optional[Tee] = None
        self.group = 0    # the program's process id, group and session
        self.status: Optional[int] = None    # of the program; negative for a signal
        self.adopting = False
        self.earlier_children: Set[int] = set()
        self.stops: List[int] = []
        self.stop: Optional[int] = None    # the first request to stop that came while the program ran
        self.stop_time = 0.0
        self.kill_at: Optional[float] = None
        self.killed_at: Optional[float] = None
        self.grace_used_up = False
        self.grace = self._read_grace() if grace is None else grace

    def run(self, platform: Optional[str]) -> int:
        """Do all of it; the exit status."""
        try:
            self.platform = platforms.choose(platform)
            self.prepared = self.platform.prepare()
        except Exception as e:    # whatever is wrong, the platform is to hear of it
            return self._end(_verdict.of_error(e, EXIT_CONTRACT))
        self.argv = [*self.prepared.setup, *self.before, *(self.prepared.argv or self.argv), *self.prepared.arguments]
        for text in self.prepared.warnings:
            self._warn(text)
        try:
            self._begin_record()
            outcome = self._run_program()
        except Exception as e:    # a fault of ours must not leave a training behind that nobody watches
            self._kill()
            outcome = _verdict.of_error(e, EXIT_FAILED)
        return self._end(outcome)

    def _run_program(self) -> Outcome:
        memory = MemoryWatch()
        self._attend(0)
        if self.stop is not None:
            return _verdict.judge(_verdict.Ended(0, stop=self.stop))
        tee = self.tee = Tee(self.signals.wake)
        try:
            self._spawn(tee)
        except OSError as e:
            tee.close()
            return _verdict.not_started(*_why_not_started(self.argv[0], e))
        tee.start()
        status = self._watch()
        if not self._end_rest():
            self._sweep()
        self._drain(tee)
        return _verdict.judge(self._ended(status, tee, memory))

    # ---------------------------------------------------------------------------------------------- before

    def _read_grace(self) -> float:
        text = os.environ.get(GRACE_VARIABLE, "")
        try:
            seconds = float(text or GRACE_SECONDS)
        except ValueError:
            seconds = -1.0
        if seconds >= 0:
            return seconds
        self._warn(f"{GRACE_VARIABLE}={text} is not a number of seconds; {GRACE_SECONDS:g} it is")
        return GRACE_SECONDS

    def _begin_record(self) -> None:
        """Progress 0, best effort: a program that needs no /out may run without one."""
        if self.prepared.monitor_file is None:
            return
        from ymir_exc import monitor
        try:
            record = monitor.Record(self.prepared.task_id, time.time(), 0.0)
            self.first_record = monitor.write_record(self.prepared.monitor_file, record)
        except OSError as e:
            self._warn(str(e))
            self.first_record = monitor.read_record(self.prepared.monitor_file)

    def _spawn(self, tee: Tee) -> None:
        self.earlier_children = _processes.child_ids()
        self.adopting = _processes.adopt_orphans()
        environment = {**_environment(), SUPERVISED_VARIABLE: "1", **self.prepared.variables}
        child = subprocess.Popen(self.argv, stdout=tee.out.child_end, stderr=tee.err.child_end, close_fds=False,
                                 start_new_session=True, cwd=self.prepared.cwd, env=environment)
        self.group = child.pid
        child.returncode = 0    # so that Popen never waits for it: that is for `_reap`

    # ---------------------------------------------------------------------------------------------- while it runs

    def _watch(self) -> int:
        """Wait until the program has ended, or cannot even be killed; its status."""
        while self.status is None:
            if self.killed_at is not None and time.monotonic() > self.killed_at + KILL_SECONDS:
                self.status = -signal.SIGKILL
                break
            if self.killed_at is None and self.kill_at is not None and time.monotonic() >= self.kill_at:
                self.grace_used_up = True
                self._kill()
            until = self.kill_at if self.killed_at is None else self.killed_at + KILL_SECONDS
            self._attend(None if until is None else until - time.monotonic())
        return self.status

    def _attend(self, seconds: Optional[float]) -> None:
        """Sleep until something happens, at most so long, and see to it."""
        for number in self.signals.wait(seconds):
            if number in _processes.STOP_SIGNALS:
                self._on_stop(number)
            elif number == signal.SIGWINCH:
                self._on_resize()
            elif number in _processes.PASSED_SIGNALS:
                self._signal_group(number)
            elif number == signal.SIGCHLD:
                self._reap()

    def _on_stop(self, number: int) -> None:
        self._reap()    # a program that had ended by now was not stopped
        again = number in self.stops
        self.stops.append(number)
        now = time.monotonic()
        if self.status is not None:
            self.kill_at = now + AFTER_SECONDS if self.kill_at is None else min(self.kill_at, now + AFTER_SECONDS)
        elif self.stop is None:
            self.stop, self.stop_time, self.kill_at = number, time.time(), now + self.grace
        if again:
            self._kill()
        else:
            self._signal_group(number)

    def _on_resize(self) -> None:
        if self.tee is not None and self.tee.has_terminal:
            self.tee.resize()
            self._signal_group(signal.SIGWINCH)

    def _signal_group(self, number: int) -> None:
        """Only until the program is buried: from then on its number may be somebody else's."""
        if self.group and self.status is None:
            _processes.send_group(self.group, number)

    def _kill(self) -> None:
        if self.killed_at is None:
            self.killed_at = time.monotonic()
        self._signal_group(signal.SIGKILL)
        for process in self._rest():
            _processes.send(process.pid, signal.SIGKILL)

    def _reap(self) -> bool:
        """Bury who has died, orphans too.

        Returns:
            Whether a child is left.
        """
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                if self.group and self.status is None:    # somebody else has buried it: nobody knows how it ended
                    self.status = EXIT_FAILED
                return False
            if pid == 0:
                return True
            if pid == self.group:
                self.status = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    # ---------------------------------------------------------------------------------------------- afterwards

    def _end_rest(self) -> bool:
        """End what outlives the program: asked first, then killed. Whom a stop has reached is not asked again: it may be saving.

        Returns:
            Whether something is left nevertheless.
        """
        asked: Set[int] = set()
        if self.kill_at is None:
            self.kill_at = time.monotonic() + AFTER_SECONDS
        while self.killed_at is None and time.monotonic() < self.kill_at:
            rest = self._rest()
            if not rest:
                return False
            for process in rest:
                if process.pid not in asked and not (self.stop is not None and process.group == self.group):
                    _processes.send(process.pid, signal.SIGTERM)
                asked.add(process.pid)
            self._attend(min(_TICK_SECONDS, self.kill_at - time.monotonic()))
        return self._kill_rest()

    def _kill_rest(self) -> bool:
        self._kill()
        while self._rest() and self.killed_at is not None and time.monotonic() < self.killed_at + KILL_SECONDS:
            self._attend(_TICK_SECONDS / 10)
            self._kill()    # whoever was born meanwhile
        return bool(self._rest())

    def _rest(self) -> List[_processes.Process]:
        """The living processes that the program left, in whatever session; but not those that were ours before."""
        if not self.group or (not self._reap() and self.adopting):
            return []
        found = {process.pid: process for process in _processes.descendants(skip=self.earlier_children)}
        if not self.adopting:
            every = _processes.all_processes().values()
            found.update({process.pid: process for process in every if process.session == self.group and process.alive})
        return list(found.values())

    def _sweep(self) -> None:
        """Remove the temporary files of killed writers: there is no other writer now."""
        for folder in self.prepared.folders:
            for place in _with_subfolders(folder):
                _files.remove_leftovers(place)

    def _drain(self, tee: Tee) -> None:
        """Pass on the rest of the output. A reader that takes nothing is waited for, as with any pipe, but not for long after a stop."""
        tee.stop()
        while tee.busy:
            if self.stops and self.kill_at is not None and time.monotonic() > self.kill_at + KILL_SECONDS:
                break
            self._attend(_TICK_SECONDS if self.stops else None)
        tee.close()

    def _ended(self, status: int, tee: Tee, memory: MemoryWatch) -> _verdict.Ended:
        record = self._own_record()
        return _verdict.Ended(
            status=status, err=tee.err.tail.text(), out=tee.out.tail.text(),
            stop=self.stop, grace=self.grace if self.grace_used_up else None,
            memory=_verdict.memory_text(memory.limit_bytes()) if memory.has_risen() else None,
            record=record, recorded_first=record is not None and record.timestamp < self.stop_time)

    def _own_record(self) -> Optional[Record]:
        """What the program itself left as its final word in the monitor file."""
        if self.prepared.monitor_file is None:
            return None
        from ymir_exc import monitor
        record = monitor.read_record(self.prepared.monitor_file)
        return record if record is not None and record.state == ExecutorState.ES_ERROR and record != self.first_record else None

    # ---------------------------------------------------------------------------------------------- at the end

    def _end(self, outcome: Outcome) -> int:
        """Tell the platform; then the last line, so that the reason is what a tail of the log shows."""
        if self.platform is not None:
            try:
                self.platform.finish(outcome)
            except Exception as e:    # the program's own reason and status are what counts
                self._warn(str(e) or repr(e))
        if outcome.failure is not None:
            code, reason = outcome.failure
            self._say(f"{code} {code.short_name}: {reason}")
        elif outcome.recorded:
            self._warn("the program ended with status 0, but left an error in the monitor file; the platform takes the task as failed")
        return outcome.status

    def _warn(self, text: str) -> None:
        self._say(f"warning: {one_line(text)}")

    def _say(self, text: str) -> None:
        """A line of our own on stderr, after what the program wrote there."""
        line = f"ymir-exc: {text}\n".encode("utf-8", "replace")
        if self.tee is None:
            put(2, memoryview(line))
            return
        stream = self.tee.err
        seconds = None if stream.done and not self.stops else KILL_SECONDS / 2
        put(stream.sink, memoryview(line if stream.tail.ends_line() else b"\n" + line), seconds)
        stream.tail.add(memoryview(b"\n"))


def _with_subfolders(folder: str) -> List[str]:
    """The folder, and the folders directly in it: the stages of the models are such."""
    try:
        with os.scandir(folder) as entries:
            return [folder, *(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))]
    except OSError:
        return []


def _environment() -> Dict[str, str]:
    """Our environment as it was given to us: in the C locale Python sets LC_CTYPE for itself."""
    environment = dict(os.environ)
    if environment.get("LC_CTYPE") in ("C.UTF-8", "C.utf8", "UTF-8"):
        try:
            with open("/proc/self/environ", "rb") as f:
                if not any(item.startswith(b"LC_CTYPE=") for item in f.read().split(b"\0")):
                    del environment["LC_CTYPE"]
        except OSError:
            pass
    return environment


def _why_not_started(program: str, error: OSError) -> Tuple[int, str]:
    """The status that a shell would give, and the reason."""
    reason = os.strerror(error.errno or 0)
    if not isinstance(error, FileNotFoundError):
        return 126, f"cannot start {program}: {reason}"
    import shutil
    if shutil.which(program) is not None:
        return 126, f"cannot start {program}: the interpreter in its first line, or its loader, does not exist"
    return 127, f"cannot start {program}: no such program in this image"
