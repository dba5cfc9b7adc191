"""Says what a row's task did wrong: a function for each kind of expectation, from what was left to a fault, or to none."""
from __future__ import annotations

import os
import re
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from ymir_exc.code import ExecutorReturnCode as RC
from ymir_exc.errors import one_line
from ymir_exc.host import launch
from ymir_exc.host.check._opt_ml import is_empty
from ymir_exc.host.engine import last_word
from ymir_exc.host.findings import Finding, Severity
from ymir_exc.host.verify._arrange import BROKEN_NAME
from ymir_exc.host.verify._container import MODEL_SECONDS, Ended, record_of
from ymir_exc.host.workspace import Workspace

STOP_STATUS, KILLED = 143, 137
_REFUSED, _NOT_STARTED = 125, (126, 127)
_ERROR_STATE = 4
_NO_TRAIN = ("TI starts the image as `docker run IMAGE train`: put an executable file `train` into /usr/local/bin, its first line `#!` and "
             "an interpreter that the image has, and chmod 755 it; an image FROM ymir-exc has one")
_NO_EXEC = re.compile(r"^exec (\S*/)?train: ", re.MULTILINE)    # its interpreter is missing; the status differs between engines
_TAIL = 5    # lines of the log that the platform shows (contract 8.4)


class Case(NamedTuple):
    """What a row's task left.

    Attributes:
        ended: How its container ended.
        space: Its folders.
        findings: What the checks found in its output.
        failure: What the file `failure` says, on TI; '' where it says nothing.
        is_ti: Whether it ran as Tencent TI runs it.
    """

    ended: Ended
    space: Workspace
    findings: Sequence[Finding]
    failure: str = ""
    is_ti: bool = False

    @property
    def told(self) -> str:
        """All that the platform's user gets to read: the monitor's message or the file `failure`, and the log's end."""
        if self.is_ti:
            return "\n".join([self.failure, *self.tail])
        record = self.ended.record
        lines = [] if record is None else [record.message, *record.lines]
        return "\n".join([*lines, *self.tail])

    @property
    def tail(self) -> List[str]:
        """The end of the log; nothing when the program has removed it, which the platform does not see either."""
        return launch.tail(self.ended.log, _TAIL) if self.ended.log.is_file() else []

    @property
    def reason(self) -> str:
        """The same in one line."""
        if self.is_ti and self.failure.strip():
            return one_line(self.failure.strip().splitlines()[0], 200)
        record = self.ended.record
        if record is not None and record.state == _ERROR_STATE and (record.message or record.lines):
            return one_line(record.message or record.lines[0], 200)
        silent = "it said nothing" if self.ended.log.is_file() else f"it has removed its log, /out/{self.ended.log.name}"
        return one_line(last_word(self.tail) or silent, 200)

    @property
    def errors(self) -> List[Finding]:
        """The findings that are errors."""
        return [one for one in self.findings if one.rule.severity is Severity.ERROR]

    @property
    def has_result(self) -> bool:
        """Whether there is a training result, whole or torn."""
        return (self.space.output / "models" / "result.yaml").exists()

    @property
    def has_model(self) -> bool:
        """Whether there is anything in the folder of the models."""
        return not is_empty(self.space.output / "models")


class Fault(NamedTuple):
    """Why a row failed, and how to mend it; '' where the row itself knows."""

    why: str
    remedy: str = ""


Judge = Callable[[Case], Optional[Fault]]


def not_judgeable(case: Case, acts: bool, is_small: bool = False) -> Optional[str]:
    """Why nothing can be said of the row: its container was to be stopped, and ended before; the disk was to be full, and nobody saw it."""
    if is_small and case.ended.status == 0 and case.ended.in_time and not case.errors:
        return "it ended with 0, as if all that it writes had fitted into what was left of /out"
    if acts and case.ended.acted is None and case.ended.in_time:
        return f"it ended with {case.ended.status} before it could be stopped: {case.reason}"
    if case.is_ti and case.ended.acted is not None and case.ended.seconds - case.ended.acted >= MODEL_SECONDS and not case.has_model:
        return f"it had saved no model when it was stopped after {MODEL_SECONDS:.0f} s, and saved none then"
    return None


def always(case: Case) -> Optional[Fault]:
    """What no task may do, whatever is expected of it."""
    ended = case.ended
    if not ended.in_time:
        return Fault(f"it did not end within {ended.seconds:.0f} s", "end in every case; or give it more --timeout")
    if ended.status == _REFUSED:
        return Fault(f"the engine refused: {case.reason}", "mend what it names, such as shm_size in the template, or a CMD that is missing")
    if case.is_ti and ended.status and (ended.status in _NOT_STARTED or _NO_EXEC.search("\n".join(case.tail))):
        is_missing = "executable file not found" in case.told
        what = "there is no executable `train` on the PATH" if is_missing else "`train` cannot be started"
        return Fault(f"{what}: {case.reason}", _NO_TRAIN)
    if case.is_ti and ended.status == 0 and case.failure.strip():
        return Fault(f"it ended with 0 and left output/failure: {case.reason}", "end with a status that is not 0, or do not write the file")
    if ended.status in _NOT_STARTED:
        return Fault(f"the image's command cannot be started: {case.reason}", "its CMD must name a program that every uid may run")
    return None


def succeeds(case: Case) -> Optional[Fault]:
    """Status 0, and outputs in which the checks find no error."""
    return _failed(case) or _whole(case.errors)


def leaves_one_out(case: Case) -> Optional[Fault]:
    """Success, but for the broken image; or a failure that names it."""
    if case.ended.status:
        return _unclear(case, (RC.RC_EXEC_UNKNOWN_IMAGE_FORMAT,), re.escape(BROKEN_NAME))
    return _whole([one for one in case.errors if BROKEN_NAME not in one.message and BROKEN_NAME not in one.key])


def takes_nothing(case: Case) -> Optional[Fault]:
    """Success with empty results, or a failure that says that there is nothing to do."""
    if case.ended.status:
        return _unclear(case, (RC.RC_EXEC_DATASET_ERROR,), r"candidate|index|dataset|no (image|picture|sample)s?\b")
    return _whole(case.errors)


def refuses_gpu(case: Case) -> Optional[Fault]:
    """A failure that says that there is no GPU."""
    if case.ended.status == 0:
        return Fault("gpu_id asked for GPU 0, there was none, and it ended with 0 all the same")
    return _unclear(case, (RC.RC_EXEC_NO_GPU, RC.RC_EXEC_CUDA_GPU_ERROR), r"gpu|cuda|nvidia")


def says_full(case: Case) -> Optional[Fault]:
    """A failure that says that there is no space, and no torn result; or a result that fitted."""
    torn = _torn(case)
    if torn is not None:
        return torn
    if case.ended.status == 0:
        return _whole(case.errors)
    return _unclear(case, (), r"space|disk|quota|storage|errno 28|ENOSPC")


def stops(case: Case) -> Optional[Fault]:
    """An end of its own before the engine's ten seconds are over, no torn result, and a failure that is told, or a whole result."""
    if case.ended.status == KILLED:
        return Fault("it did not end when it was told to (SIGTERM); the engine killed it after ten seconds")
    torn = _torn(case)
    if torn is not None:
        return torn
    return _whole(case.errors) if case.ended.status == 0 else None


def stops_with_model(case: Case) -> Optional[Fault]:
    """As `stops`, with a model, and a status that is no failure's."""
    fault = stops(case)
    if fault is not None:
        return fault
    if case.ended.status not in (0, STOP_STATUS):
        return Fault(f"it was stopped, and ended with {case.ended.status} as if it had failed: {case.reason}",
                     f"end with {STOP_STATUS} after SIGTERM; `ymir-exc run` does")
    if not case.has_model:
        return Fault(f"it ended with {case.ended.status}, and model/ is empty: what it has learnt is lost")
    return None


def does_without_gpu(case: Case) -> Optional[Fault]:
    """Success on the CPU, or a failure that says that there is no GPU."""
    return refuses_gpu(case) if case.ended.status else _whole(case.errors)


def survives_kill(case: Case) -> Optional[Fault]:
    """A result that is whole or not there, and a monitor.txt that can be read."""
    return _torn(case)


def worst(found: Sequence[Finding]) -> Optional[Fault]:
    """The first finding that is an error, as a fault."""
    return _whole([one for one in found if one.rule.severity is Severity.ERROR])


def _failed(case: Case) -> Optional[Fault]:
    if case.ended.status == 0:
        return None
    code = case.ended.record.return_code if case.ended.record is not None and not case.failure else 0
    return Fault(f"it ended with {case.ended.status}{f' ({code})' if code else ''}: {case.reason}")


def _whole(errors: Sequence[Finding]) -> Optional[Fault]:
    if not errors:
        return None
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    first = errors[0]
    return Fault(f"{first.rule.code}: {os.path.basename(first.path)}: {first.message}{more}", first.rule.remedy)


def _torn(case: Case) -> Optional[Fault]:
    """What the platform cannot read of a task that did not end in order; it saves what a failed training has left (contract 9)."""
    if not case.is_ti and record_of(case.space) is None:
        return Fault("monitor.txt is torn: the platform fails the task for good at such a line (150404, 169999)")
    result = [one for one in case.errors if one.rule.code.startswith("T")] if case.has_result else []
    found = _whole(result)
    return None if found is None else Fault(f"result.yaml is torn or wrong: {found.why}")


def _unclear(case: Case, codes: Tuple[int, ...], words: str) -> Optional[Fault]:
    """A failure whose reason the user is not told: neither a code of the platform's nor a word of what is wrong."""
    record = case.ended.record
    if record is not None and record.state == _ERROR_STATE and record.return_code in codes:
        return None
    if re.search(words, case.told, re.IGNORECASE):
        return None
    return Fault(f"it ended with {case.ended.status}, and nothing that the user is shown says why: {case.reason}")
