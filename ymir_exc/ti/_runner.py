"""The process that runs one job: `python -m ymir_exc.ti._runner JOBFOLDER`. It outlives whoever began the job.

SIGTERM stops the job in order: the containers are asked to end, have their time to do so, and what they left is collected. SIGINT ends
them at once. A closed terminal means nothing to it.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

from ymir_exc.errors import Stopped, YmirError, classify_text, is_lost_peer, one_line
from ymir_exc.host.engine import Engine
from ymir_exc.host.launch import EngineError, tail
from ymir_exc.ti import _log, _outputs, _plan, _record, _stores
from ymir_exc.ti._record import Folder, Spec, State

PEER_SECONDS = 5
"""What the other hosts are given to end when one has failed."""

SETTLE_SECONDS = 1.0
"""What they are given before that, because one that has lost its peer may end a moment before the peer does."""

_BEFORE = re.compile(r"^(?:host \S+ ended with status \S+ |\d{6} \w+: |rank \d+(?: on \S+)?: )*")
_HELP = re.compile(r"\s*(?:^Usage: .*\s*)?^(?:Run|See) '.* --help'.*\s*\Z", re.MULTILINE)    # after what the engine itself has to say
_PATIENCE = 30.0    # beyond a container's own time, before it is ended by force
_TAIL = 1 << 14
_LOG = logging.getLogger(__name__)


class _Signals:
    """What was asked for. Before the containers run a stop interrupts what goes on; later it is only noted."""

    def __init__(self) -> None:
        self.stop = self.at_once = False
        self.interrupts = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})    # held back while we started

    def _take(self, number: int, _: Any) -> None:
        self.stop = True
        self.at_once = self.at_once or number == signal.SIGINT
        if self.interrupts:
            self.interrupts = False
            raise Stopped("stopped before the containers ran")

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """In the block a stop is an exception."""
        self.interrupts = True
        try:
            if self.stop:
                raise Stopped("stopped before the containers ran")
            yield
        finally:
            self.interrupts = False


class End(NamedTuple):
    """What the engine knows of a container's end: exit status, whether the kernel killed it, and when, in an order as of numbers."""

    code: Optional[int] = None
    killed: bool = False
    moment: str = ""    # one that never ran failed before all others


def inspect(engine: Engine, container: str) -> End:
    """Of a container that has ended; nothing is known of one that runs, or that there is not."""
    said = engine.call("container", "inspect", "--format", "{{json .State}}", container)
    with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
        found = json.loads(said.stdout)
        if not said.status and not found["Running"]:
            seconds, _, fraction = re.sub(r"(Z|[+-]\d\d:\d\d)$", "", str(found["FinishedAt"])).partition(".")
            return End(int(found["ExitCode"]), bool(found["OOMKilled"]), f"{seconds}.{fraction:<09}")    # the year 1 when it never ran
    return End()


def says_lost_peer(reason: str) -> bool:
    """Whether it complains of a lost peer, after what launchers, supervisors and this runner put before."""
    return is_lost_peer(_BEFORE.sub("", reason))


class _Host:
    """One container, through the engine's client that is attached to it."""

    def __init__(self, number: int, name: str, container: str, process: subprocess.Popen[bytes]) -> None:
        self.number, self.name, self.container, self.process = number, name, container, process
        self.tail = b""
        self.at_end = False

    @property
    def is_over(self) -> bool:
        """Whether it has ended and all that it printed is read."""
        return self.at_end and self.process.poll() is not None


class Runner:
    """Runs one job from its record."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.spec: Spec = folder.spec()
        self.state: State = folder.state()
        self.engine = Engine(self.spec.engine, tell=lambda line: _LOG.info("%s", line))
        self.signals = _Signals()
        self.first_failed: Optional[_Host] = None
        self.out_of_time = False
        self._hosts: List[_Host] = []
        self._failed: List[_Host] = []    # those that were not stopped
        self._end: Tuple[str, str] = (_record.FAILED, "it was not begun")

    def run(self) -> None:
        """From the beginning to the end; whatever happens, the state tells it and no container stays."""
        self.state.pid = os.getpid()
        try:
            self._go(_record.STARTING)
            with self.signals.interrupting():
                self._fetch()
                self._have_image()
            self._train()
        except Stopped as e:
            self._decide(_record.STOPPED, e.message)
        except YmirError as e:
            self._decide(_record.FAILED, str(e))
        except Exception as e:    # the user must learn of it: nobody watches this process
            _LOG.exception("the job failed")
            self._decide(_record.FAILED, f"{type(e).__name__}: {e}")
        finally:
            self._clear()
        conclude(self.engine, self.spec, self.folder, self.state, *self._end)

    def _go(self, secondary: str, message: str = "") -> None:
        self.state.enter(secondary, message)
        self.folder.write_state(self.state)

    # ------------------------------------------------------------------------------------------------- before the containers

    def _fetch(self) -> None:
        channels = dict(self.spec.channels)
        for name, channel in channels.items():
            if not channel["path"]:
                if self.state.secondary != _record.DOWNLOADING:
                    self._go(_record.DOWNLOADING)
                channels[name] = {**channel, "path": str(_stores.fetch(channel["uri"], self.folder.downloads / name))}
        self.spec = dataclasses.replace(self.spec, channels=channels)
        _plan.prepare_mounts(self.spec, self.folder)

    def _have_image(self) -> None:
        try:
            self.engine.image(self.spec.image)
        except EngineError as missing:
            argv = self.engine.told([self.engine.program, "pull", self.spec.image])
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=subprocess.STDOUT)
            try:
                status = process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            if status:
                raise EngineError(f"{missing.message}, and pulling it failed: {' '.join(tail(self.folder.runner_log, 1))}",
                                  hint=missing.hint) from None

    # ------------------------------------------------------------------------------------------------------ while they run

    def _train(self) -> None:
        make, runs, _ = _plan.commands(self.spec, self.folder)
        said = self.engine.call(*make)
        if said.status:
            raise EngineError(f"no network could be made: {said.reason}", hint=f"{self.engine.program} network prune removes unused ones")
        self.state.started = time.time()
        self._go(_record.TRAINING)
        log = _log.Writer(self.folder.log)
        with selectors.DefaultSelector() as ready:
            for number, (name, words) in enumerate(zip(self.spec.hosts, runs)):
                argv = self.engine.told([self.engine.program, *words])
                # In a session of its own: what stops this process must not cut the containers' output off.
                process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                           start_new_session=True)
                host = _Host(number, name, _plan.container(self.spec, name), process)
                self._hosts.append(host)
                if process.stdout is not None:
                    ready.register(process.stdout, selectors.EVENT_READ, host)
            try:
                self._watch(ready, log)
            finally:
                log.close()
        if log.lost:
            _LOG.warning("%d bytes of the log could not be written", log.lost)
        self._judge()

    def _watch(self, ready: selectors.BaseSelector, log: _log.Writer) -> None:
        ends, settled = time.monotonic() + self.spec.max_run, 0.0
        stopper: Optional[_Stopper] = None
        while not all(host.is_over for host in self._hosts):
            if ready.get_map():
                for key, _ in ready.select(0.2):
                    self._read(ready, key, log)
            else:
                time.sleep(0.05)
            for host in self._hosts:
                if host.is_over and host.process.returncode and self.first_failed is None and stopper is None:
                    self.first_failed, settled = host, time.monotonic() + SETTLE_SECONDS
            grace = None
            if self.signals.stop:
                grace = self.spec.stop_timeout
            elif time.monotonic() > ends:
                self.out_of_time = True
                grace = self.spec.stop_timeout
            elif self.first_failed is not None and time.monotonic() > settled:
                grace = min(PEER_SECONDS, self.spec.stop_timeout)
            if grace is not None:
                if stopper is None:
                    self._failed = [host for host in self._hosts if host.is_over and host.process.returncode]
                    stopper = _Stopper(self.engine, grace)
                stopper.go_on([host for host in self._hosts if host.process.poll() is None], self.signals.at_once)
        if stopper is not None:
            stopper.close()
        else:
            self._failed = [host for host in self._hosts if host.process.returncode]

    @staticmethod
    def _read(ready: selectors.BaseSelector, key: selectors.SelectorKey, log: _log.Writer) -> None:
        host: _Host = key.data
        data = os.read(key.fd, 1 << 16)
        if data:
            log.write(host.number, data)
            host.tail = (host.tail + data)[-_TAIL:]
        else:
            ready.unregister(key.fileobj)
            host.at_end = True

    # --------------------------------------------------------------------------------------------------------- after them

    def _judge(self) -> None:
        """What became of the job; the exit codes are the engine's own record, because 125 may be the client's or the program's."""
        ends = {host.name: inspect(self.engine, host.container) for host in self._hosts}
        for host in self._hosts:
            # A container that could not be started may have 0 in its record.
            self.state.exit_codes[host.name] = ends[host.name].code or host.process.returncode
        if self.signals.stop:
            self._decide(_record.STOPPED, "stopped by the user")
        elif self.out_of_time:
            self._decide(_record.STOPPED, f"it ran longer than train_max_run, {self.spec.max_run:g} s")
        elif self._failed and all(ends[host.name].code == 128 + signal.SIGTERM for host in self._failed) \
                and not any(_outputs.failure(self.folder, host.name) for host in self._failed):
            self._decide(_record.STOPPED, f"host {self._failed[0].name} was stopped, by somebody else than this job")
        elif self.first_failed is not None:
            told = [self._reason(host, ends[host.name].killed) for host in sorted(self._failed, key=lambda host: ends[host.name].moment)]
            # One that has lost its peer may end before the peer does, which has more to say.
            self._decide(_record.FAILED, next((reason for reason in told if not says_lost_peer(reason)), told[0]))
        else:
            self._decide(_record.COMPLETED, "")

    def _reason(self, host: _Host, killed: bool) -> str:
        told = _outputs.failure(self.folder, host.name)
        if told:
            return told
        code = self.state.exit_codes[host.name]
        why = classify_text(_HELP.sub("", host.tail.decode("utf-8", "replace")))
        words = f": {why.reason}" if why is not None else ""
        if killed:
            words = f": the kernel killed it, because memory ran out{words}"
        elif code == 137:
            words = f": killed, possibly out of memory{words}"
        return one_line(f"host {host.name} ended with status {code}{words}", _outputs.REASON_LIMIT)

    def _decide(self, status: str, reason: str) -> None:
        """Note how the job ends; it is told when all is collected."""
        self._end = (status, reason[:_outputs.REASON_LIMIT])

    def _clear(self) -> None:
        """Remove containers and network. A client that still makes a container is waited for, so that none comes after us."""
        for host in self._hosts:
            host.process.kill()
        for host in self._hosts:
            host.process.wait()
            if host.process.stdout is not None:
                host.process.stdout.close()
        for words in _plan.commands(self.spec, self.folder)[2]:
            self.engine.call(*words)
        remove_all(self.engine, self.spec)


def conclude(engine: Engine, spec: Spec, folder: Folder, state: State, status: str, reason: str) -> None:
    """Make the archives, tell the end, and delete what is not needed any more. The containers are gone; the caller holds the lock."""
    kept = False
    try:
        if state.started and state.secondary != _record.UPLOADING:
            state.enter(_record.UPLOADING)
            folder.write_state(state)
        engine.reclaim(spec.image, [folder.hosts])
        if state.started:
            state.model, state.output = _outputs.collect(spec, folder, all_of_it=status == _record.COMPLETED)
    except Exception as e:    # whatever it is, the outputs stay where they are and the user is told
        _LOG.exception("what the job left could not be collected")
        kept = True
        told = f"its outputs could not be collected, and stay in {folder.hosts}: {e}"
        status, reason = _record.FAILED, f"{reason}; {told}" if reason else told
    state.ended = max(time.time(), state.started)
    state.status, state.reason = status, reason[:_outputs.REASON_LIMIT]
    state.enter(status, reason[:200])
    folder.write_state(state)
    for path in (folder.downloads, folder.code, *([] if kept else [folder.hosts])):
        shutil.rmtree(path, ignore_errors=True)


class _Stopper:
    """Asks containers to stop, without waiting: their output is to be read meanwhile. One that is only being made is asked again."""

    def __init__(self, engine: Engine, grace: int) -> None:
        self._engine, self._grace = engine, grace
        self._until = time.monotonic() + grace + _PATIENCE
        self._asking: Optional[subprocess.Popen[bytes]] = None
        self._next = 0.0
        self._force = False

    def go_on(self, hosts: List[_Host], at_once: bool) -> None:
        """Called again and again until all have ended."""
        late = time.monotonic() > self._until
        if (at_once or late) and not self._force:
            self._force = True
            self.close()
            self._next = 0.0
        if late and time.monotonic() > self._until + _PATIENCE:
            for host in hosts:    # the engine does not do as it is told
                host.process.kill()
        if not hosts or time.monotonic() < self._next or (self._asking is not None and self._asking.poll() is None):
            return
        words = ["kill"] if self._force else ["stop", "--time", str(self._grace)]
        argv = self._engine.told([self._engine.program, *words, *(host.container for host in hosts)])
        self._asking = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        start_new_session=True)
        self._next = time.monotonic() + 1.0

    def close(self) -> None:
        """End what still asks."""
        if self._asking is not None:
            if self._asking.poll() is None:
                self._asking.kill()
            self._asking.wait()
            self._asking = None


def remove_all(engine: Engine, spec: Spec) -> bool:
    """Remove whatever of a job is left in the engine, found by its label.

    Returns:
        Whether the engine answered.
    """
    label = f"label={_plan.LABEL}={spec.unique}"
    found = engine.call("ps", "--all", "--quiet", "--filter", label)
    names = found.stdout.decode().split()
    if names:
        engine.call("rm", "--force", "--volumes", *names)
    networks = engine.call("network", "ls", "--quiet", "--filter", label).stdout.decode().split()
    if networks:
        engine.call("network", "rm", *networks)
    return found.status == 0


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m ymir_exc.ti._runner")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--held", action="store_true", help="the lock was inherited")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    folder = Folder(given.folder)
    if not given.held and folder.hold() is None:
        parser.error(f"a runner of {given.folder} is alive")
    if folder.state().is_over:
        parser.error(f"the job in {given.folder} has ended")
    Runner(folder).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
