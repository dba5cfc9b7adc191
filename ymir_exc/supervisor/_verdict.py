"""From how a program ended to what the platform is told."""
from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Dict, NamedTuple, Optional, Tuple

from ymir_exc.code import ExecutorReturnCode as RC
from ymir_exc.errors import Failure, YmirError, classify, classify_text, one_line, traceback_lines
from ymir_exc.platforms.base import Outcome
from ymir_exc.supervisor._processes import signal_name

if TYPE_CHECKING:
    from ymir_exc.monitor import Record

_MEANINGS: Dict[int, str] = {
    signal.SIGSEGV: "segmentation fault in native code",
    signal.SIGBUS: "bus error, mostly because /dev/shm is full: raise shm_size or use fewer data loading workers",
    signal.SIGABRT: "abort",
    signal.SIGILL: "illegal instruction: a library was built for another CPU",
    signal.SIGFPE: "arithmetic fault in native code",
    signal.SIGKILL: "possibly out of memory",
    signal.SIGPIPE: "its output was closed",
    signal.SIGXCPU: "the CPU time limit was reached",
    signal.SIGXFSZ: "the file size limit was reached",
}
_CHILD_SIGKILLED = (
    r"(?im)SIGKILL|\bsignal:? (?:9|Killed)\b|exit ?code:? -9\b|exit status (?:-9|137)\b|^\S*:? ?line \d+: +\d+ Killed\b|^Killed$")
_TRACEBACK = "Traceback (most recent call last):"


class Ended(NamedTuple):
    """How the program ended.

    Attributes:
        status: Its exit status, or the negative number of the signal that killed it.
        err: The end of its stderr.
        out: The end of its stdout; equal to `err` where both are one file.
        stop: The signal that asked us to stop while it ran, if one did.
        grace: Seconds after which it was killed because it had not stopped; None when it stopped by itself.
        memory: What to say about memory, when the kernel's counter says that it ran out.
        record: The final word that the program itself left in the monitor file.
        recorded_first: That word came before the stop.
    """

    status: int
    err: str = ""
    out: str = ""
    stop: Optional[int] = None
    grace: Optional[float] = None
    memory: Optional[str] = None
    record: Optional[Record] = None
    recorded_first: bool = False


def of_error(error: BaseException, status: int) -> Outcome:
    """The outcome when something was raised in this process; an error that is not of our making shows where."""
    lines: Tuple[str, ...] = ()
    if not isinstance(error, YmirError):
        import traceback
        lines = tuple(traceback_lines("".join(traceback.format_exception(type(error), error, error.__traceback__))))
    return Outcome(status, classify(error), lines)


def not_started(status: int, reason: str) -> Outcome:
    """The outcome of a program that could not be started."""
    return Outcome(status, Failure(RC.RC_CMD_CONTAINER_ERROR, one_line(reason)))


def memory_text(limit_bytes: Optional[int]) -> str:
    """What to say when the kernel killed something for want of memory."""
    where = "because the machine's memory ran out"
    if limit_bytes is not None:
        size = f"{limit_bytes / 2**30:.3g} GiB" if limit_bytes >= 2**30 else f"{limit_bytes / 2**20:.3g} MiB"
        where = f"at the container's limit of {size}"
    return f"out of memory: the kernel killed a process {where}; use a smaller batch or fewer workers"


def judge(ended: Ended) -> Outcome:
    """Decide the exit status, the platform's code, the reason, and the lines that explain it."""
    if ended.stop is not None:
        return _judge_stopped(ended)
    if ended.status == 0:
        return Outcome(0, recorded=ended.record is not None)
    status = ended.status if ended.status > 0 else 128 - ended.status
    return _judge_failed(ended, status)


def _judge_stopped(ended: Ended) -> Outcome:
    """A stop is never a success: the task did not run to its end."""
    number, record = ended.stop or 0, ended.record
    if ended.recorded_first:
        return _judge_failed(ended, 128 + number)
    reason = f"stopped by {signal_name(number)}"
    if ended.grace is not None:
        reason += f"; it did not end within {ended.grace:g} s and was killed"
    said, lines = _said(ended)
    words = said.reason if said is not None else ""
    if record is not None:
        words, lines = record.message or words, record.lines or lines
    if words:
        reason = words if words.startswith(reason) else f"{reason}: {words}"
    return Outcome(128 + number, Failure(RC.RC_CMD_CONTAINER_ERROR, one_line(reason)), lines, stopped=True)


def _judge_failed(ended: Ended, status: int) -> Outcome:
    said, lines = _said(ended)
    failure, record = _classify(ended, said), ended.record
    if record is None:
        return Outcome(status, failure, lines)
    unspecific = record.return_code in (0, RC.RC_CMD_CONTAINER_ERROR)
    if unspecific and ended.memory is not None and failure.reason == ended.memory:
        return Outcome(status, failure, record.lines or lines)    # the kernel knows what the program could not
    return Outcome(status, *_complete(record, failure, lines))


def _complete(record: Record, failure: Failure, lines: Tuple[str, ...]) -> Tuple[Failure, Tuple[str, ...], bool]:
    """What the program recorded, its blanks filled in; and whether it left none, so that its file is to stay as it is."""
    known = _known_code(record.return_code)
    if known is None and record.return_code:
        return Failure(RC.RC_CMD_CONTAINER_ERROR, record.message or failure.reason), record.lines, True
    told = record.message or next((line for line in reversed(record.lines) if line.strip()), failure.reason)
    return Failure(known or failure.code, one_line(told)), record.lines or lines, known is not None and bool(record.message)


def _known_code(number: int) -> Optional[RC]:
    """None for 0 and for the numbers of old platforms."""
    try:
        return RC(number) if number else None
    except ValueError:
        return None


def _classify(ended: Ended, said: Optional[Failure]) -> Failure:
    number = _signal_of(ended.status)
    if ended.memory is not None and (number == signal.SIGKILL or re.search(_CHILD_SIGKILLED, _text(ended))):
        return Failure(RC.RC_EXEC_OOM, ended.memory)
    if number is None:
        return said or Failure(RC.RC_CMD_CONTAINER_ERROR, f"exited with status {ended.status} and printed nothing")
    how = describe_signal(ended.status, number)
    if said is not None and said.code != RC.RC_CMD_CONTAINER_ERROR:
        return Failure(said.code, one_line(f"{how}: {said.reason}"))
    if ended.status > 0 and said is not None and _TRACEBACK in _text(ended):
        return said    # a program that chose a high number, and says why
    if number == signal.SIGABRT and said is not None:
        return Failure(RC.RC_CMD_CONTAINER_ERROR, one_line(f"{how}: {said.reason}"))
    return Failure(RC.RC_CMD_CONTAINER_ERROR, how)


def _signal_of(status: int) -> Optional[int]:
    """The signal in a status: of the program itself, or of a child whose death a shell handed on as 128 + n."""
    if status < 0:
        return -status
    return status - 128 if status - 128 in (*_MEANINGS, signal.SIGTERM) else None


def describe_signal(status: int, number: int) -> str:
    """What killed a process, in words: with a positive status, something that the process had started."""
    what = "killed by" if status < 0 else f"exited with status {status}: something in it was killed by"
    meaning = _MEANINGS.get(number)
    return f"{what} {signal_name(number)}, {meaning}" if meaning else f"{what} {signal_name(number)}"


def _said(ended: Ended) -> Tuple[Optional[Failure], Tuple[str, ...]]:
    """The reason in the last output and the lines around it: stderr before stdout, but a traceback or known words before a last line."""
    texts = [ended.err] if ended.out == ended.err else [ended.err, ended.out]
    found = [(failure, text) for failure, text in ((classify_text(text), text) for text in texts) if failure is not None]
    if not found:
        return None, ()
    telling = (item for item in found if item[0].code != RC.RC_CMD_CONTAINER_ERROR or _TRACEBACK in item[1])
    failure, text = next(telling, found[0])
    return failure, tuple(traceback_lines(text))


def _text(ended: Ended) -> str:
    own = "\n".join((ended.record.message, *ended.record.lines)) if ended.record is not None else ""
    return f"{ended.out}\n{ended.err}\n{own}"
