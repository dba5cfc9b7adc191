"""One job, as any process of this user sees it: the one that began it, and those that attach."""
from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from typing import Any, Callable, Dict, List, Optional

from ymir_exc.errors import StorageError
from ymir_exc.host.engine import Engine
from ymir_exc.host.launch import quoted
from ymir_exc.ti import _log, _plan, _record, _runner
from ymir_exc.ti._record import Folder, Home, Spec, State
from ymir_exc.ti.errors import JobFailedError, UnknownJobError

POLL_SECONDS = 0.1
_LOG = logging.getLogger(__name__)
_NO_WORD = "the process that ran the job ended without a word: it was killed, or the machine went down"


class TrainingJob:
    """A job by its name.

    Args:
        name: The job.
        folder: Its folder; None for one that was only planned, by a session with `dry_run`.
    """

    def __init__(self, name: str, folder: Optional[Folder] = None) -> None:
        self.name = name
        self._folder = folder
        if folder is not None:
            reap(folder)

    @classmethod
    def find(cls, name: str, home: Home) -> TrainingJob:
        """A job that any process of this user has begun.

        Raises:
            UnknownJobError: There is none of this name.
        """
        return cls(name, home.find(name))

    @property
    def folder(self) -> Folder:
        """Its folder.

        Raises:
            UnknownJobError: It was only planned.
        """
        if self._folder is None:
            raise UnknownJobError(f"job {self.name} was not started: its session is a dry run", hint="Session(dry_run=False)")
        return self._folder

    def spec(self) -> Spec:
        """What was asked for."""
        return self.folder.spec()

    def state(self) -> State:
        """Where it stands now."""
        return reap(self.folder)

    @property
    def status(self) -> str:
        """`InProgress`, `Completed`, `Failed` or `Stopped`."""
        return self.state().status

    def describe(self) -> Dict[str, Any]:
        """The job in the words of the API; times are seconds since 1970."""
        spec, state = self.spec(), self.state()
        return {
            "TrainingJobName": spec.name, "TrainingJobStatus": state.status, "SecondaryStatus": state.secondary,
            "SecondaryStatusTransitions": state.transitions, "FailureReason": state.reason if state.status != _record.COMPLETED else "",
            "ExitCodes": state.exit_codes, "AlgorithmSpecification": {"TrainingImageName": spec.image, "TrainingInputMode": "File"},
            "HyperParameters": spec.hyperparameters, "RoleName": spec.arguments.get("role"),
            "InputDataConfig": [{"ChannelName": name, "Uri": channel["uri"]} for name, channel in spec.channels.items()],
            "OutputDataConfig": {"Path": spec.output}, "StoppingCondition": {"MaxRuntimeInSeconds": spec.max_run},
            "ResourceConfig": {"InstanceCount": len(spec.hosts), "InstanceType": spec.arguments.get("train_instance_type"),
                               "Gpus": spec.gpus},
            "ModelArtifacts": {"Model": state.model or None, "Output": state.output or None},
            "CreationTime": spec.created, "TrainingStartTime": state.started or None, "TrainingEndTime": state.ended or None,
        }

    def follow(self, *, logs: bool = True, stream: Optional[Any] = None, until_now: bool = False) -> State:
        """Wait for the end, and show what the containers print from its beginning.

        Args:
            logs: Whether to show it.
            stream: Where to; stdout by default.
            until_now: Show what there is, and do not wait.
        """
        reader, painter = _log.Reader(self.folder.log), _log.Painter(self.spec().hosts, stream)
        try:
            while True:
                state = self.state()    # before the log is read: what a job prints comes before its end
                came = False
                for host, data in (reader.new() if logs else ()):
                    came = True
                    painter.feed(host, data)
                if state.is_over or until_now:
                    return state
                if not came:
                    painter.idle()
                    time.sleep(POLL_SECONDS)
        finally:
            painter.close()

    def logs(self, stream: Optional[Any] = None) -> None:
        """Show what the containers have printed, from the beginning; does not wait for more."""
        self.follow(stream=stream, until_now=True)

    def wait(self, *, logs: bool = True) -> None:
        """Wait for the end.

        Raises:
            JobFailedError: It ended as Failed.
        """
        state = self.follow(logs=logs)
        if state.status == _record.FAILED:
            raise JobFailedError(self.name, state.status, state.reason, state.exit_codes,
                                 hint=f"its outputs: {state.output}" if state.output else f"more may be in {self.folder.runner_log}")

    def stop(self, *, wait: bool = True, at_once: bool = False) -> None:
        """Stop it in order; what it has left by then is collected. One that has ended stays as it is.

        Args:
            wait: Return when it has ended.
            at_once: Give the containers no time.
        """
        state = self.state()
        if not state.is_over:
            with contextlib.suppress(ProcessLookupError):
                os.kill(_pid(self.folder, state), signal.SIGINT if at_once else signal.SIGTERM)
        if wait:
            self.follow(logs=False)

    def interrupted(self) -> None:
        """After Ctrl-C: stop it and wait for its end; a further Ctrl-C gives the containers no more time."""
        at_once = False
        _LOG.warning("stopping job %s; Ctrl-C once more ends it at once", self.name)
        while True:
            try:
                self.stop(wait=False, at_once=at_once)
                self.follow(logs=False)
                return
            except KeyboardInterrupt:
                at_once = True


def _pid(folder: Folder, state: State) -> int:
    """The runner's; before its first word it stands where the one who started it has put it."""
    until = time.monotonic() + 10
    while not state.pid and time.monotonic() < until and folder.is_held():
        time.sleep(0.02)
        state = folder.state()
    if not state.pid or not folder.is_held():
        raise ProcessLookupError
    return state.pid


def reap(folder: Folder) -> State:
    """Where a job stands; one whose runner is dead without having told its end is Failed.

    The first of its owner's processes that looks puts in order what the runner left: it removes the containers, collects what they wrote
    until then, and tells the end in the record.
    """
    state = folder.state()
    if state.is_over or folder.is_held():
        return state
    fd = None
    with contextlib.suppress(OSError):    # on a disk that cannot be written any more the record stays as it is
        if folder.path.stat().st_uid == os.geteuid():    # or else what is made would not be the owner's
            fd = folder.hold()
            if fd is None:
                return folder.state()
    if fd is None:
        state.status, state.reason = _record.FAILED, _NO_WORD
        return state
    try:
        state = folder.state()    # it may have ended since
        if not state.is_over:
            _put_in_order(folder, state)
    except StorageError as e:
        _LOG.warning("the end of job %s could not be noted: %s", folder.path.name, e)
        state.status = _record.FAILED
    finally:
        os.close(fd)
    return state


def _put_in_order(folder: Folder, state: State) -> None:
    spec = folder.spec()
    engine = Engine(spec.engine)
    if _answers(engine):
        for host in spec.hosts:
            state.exit_codes[host] = _runner.inspect(engine, _plan.container(spec, host)).code
        _runner.remove_all(engine, spec)
        _runner.conclude(engine, spec, folder, state, _record.FAILED, _NO_WORD)
        return
    state.status, state.ended = _record.FAILED, max(time.time(), state.started)    # its containers may be alive, and write
    state.reason = f"{_NO_WORD}; what it left is in {folder.hosts}, and {spec.engine} does not answer"
    state.enter(_record.FAILED, _NO_WORD)
    folder.write_state(state)


def _answers(engine: Engine) -> bool:
    try:
        return engine.call("version").status == 0
    except OSError:
        return False


def list_jobs(home: Home) -> List[TrainingJob]:
    """All jobs of this user, the newest first."""
    found = []
    for folder in home.all():
        with contextlib.suppress(UnknownJobError):
            found.append(TrainingJob(folder.spec().name, folder))
    return found


def show_plan(commands: List[List[str]], tell: Callable[[str], None]) -> None:
    """Tell command lines, ready for a shell."""
    for argv in commands:
        tell(quoted(argv))
