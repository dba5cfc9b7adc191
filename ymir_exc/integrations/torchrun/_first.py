"""Which rank failed first, and of what."""
from __future__ import annotations

import json
import math
import os
import signal
import subprocess
from typing import Any, Callable, List, Mapping, NamedTuple, NoReturn, Optional, Sequence, Tuple

from ymir_exc.code import ExecutorReturnCode as RC
from ymir_exc.errors import ProgramError, Stopped, classify_text, is_lost_peer, one_line, traceback_lines
from ymir_exc.integrations.torchrun._ending import Closing
from ymir_exc.supervisor._verdict import describe_signal

_BY_ITSELF = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
"""Signals that end a rank whatever the others do; SIGABRT may be NCCL's answer to a lost peer."""


class Told(NamedTuple):
    """How a rank failed.

    Attributes:
        rank: Its number.
        code: The platform's.
        reason: In one line.
        lines: The traceback.
        time: Seconds since 1970; infinite when nobody knows, 0 of a signal that no other rank's end explains.
        status: The exit status.
    """

    rank: int
    code: int
    reason: str
    lines: Sequence[str]
    time: float
    status: int


def raise_stopped(number: signal.Signals, records: Sequence[Optional[Told]]) -> NoReturn:
    """Raise what the ranks make of the stop: a failure to save is worth more than the word that all is saved."""
    told = [record for record in records if record is not None]
    told.sort(key=lambda record: (is_lost_peer(record.reason), record.status in (130, 143), record.rank))
    text = f"stopped by {number.name}"
    words = told[0].reason if told else ""
    error = Stopped(words if words.startswith(text) else f"{text}: {words}" if words else text)
    error.exit_code, error.lines = 128 + number, told[0].lines if told else [error.message]
    raise error from None


def raise_first(failures: Mapping[int, Any], folder: str, closing: Closing, argv: Sequence[str],
                words: Callable[[int], str] = lambda _: "") -> NoReturn:
    """Raise the failure that the others follow from.

    Args:
        failures: torch's, by rank.
        folder: Where ranks leave what they know.
        closing: Who had ended by itself.
        argv: The program.
        words: The end of what a rank wrote to stderr.
    """
    first, first_hand = first_of(failures, folder, closing, words)
    error = ProgramError(f"rank {first.rank}: {first.reason}")
    error.return_code, error.exit_code, error.lines = RC(first.code), first.status, first.lines or [error.message]
    tells_reasons = any(0 < record.time < math.inf for record in first_hand)    # then to say nothing is not a command's silence
    if tells_reasons or failures[first.rank].exitcode < 0:
        raise error from None
    raise error from subprocess.CalledProcessError(first.status, list(argv))


def first_of(failures: Mapping[int, Any], folder: str, closing: Closing, words: Callable[[int], str]) -> Tuple[Told, List[Told]]:
    """The failure that came before the launcher ended the rest, and is no complaint about a lost peer; and all that came before."""
    told = [_recorded(folder, rank) or _recorded_by_torch(rank, failure) or _untold(rank, failure.exitcode, words(rank))
            for rank, failure in failures.items()]
    first_hand = [record for record in told if record.rank in closing.ended or 0 < record.time <= closing.time] or told
    return min(first_hand, key=_is_later), first_hand


def _is_later(record: Told) -> Tuple[bool, float]:
    return is_lost_peer(record.reason), record.time


def records(folder: str) -> List[Told]:
    """What ranks have left, each in its `Executor`."""
    ranks = (name[:-len(".json")] for name in os.listdir(folder) if name.endswith(".json"))
    found = (_recorded(folder, int(rank)) for rank in ranks if rank.isdigit())
    return [record for record in found if record is not None]


def first_recorded(folder: str, closing: Closing) -> Optional[Told]:
    """As `first_of`, of what ranks have left before they were ended for another host's failure."""
    return min((record for record in records(folder) if 0 < record.time <= closing.time), key=_is_later, default=None)


def _recorded(folder: str, rank: int) -> Optional[Told]:
    """What the rank's `Executor` has left."""
    try:
        with open(os.path.join(folder, f"{rank}.json"), encoding="utf-8") as f:
            return Told(rank=rank, **json.load(f))
    except FileNotFoundError:
        return None


def _recorded_by_torch(rank: int, failure: Any) -> Optional[Told]:
    """What torch's decorator `record` has left."""
    message = failure.error_file_data.get("message")
    if not isinstance(message, dict):
        return None
    text = str(message.get("extraInfo", {}).get("py_callstack", ""))
    words = classify_text(text)
    return Told(rank, words.code if words else RC.RC_CMD_CONTAINER_ERROR, one_line(str(message.get("message", ""))), traceback_lines(text),
                 float(failure.timestamp), _status(failure.exitcode))


def _untold(rank: int, status: int, words: str = "") -> Told:
    """Of a rank that has left nothing but words on stderr; `status` is negative for a signal."""
    reason = describe_signal(status, -status) if status < 0 else f"exited with status {status}"
    said, code, lines = classify_text(words), RC.RC_CMD_CONTAINER_ERROR, traceback_lines(words) if words else ()
    if said is not None and (status > 0 or said.code != code):
        explained = status > 0 and (said.code != code or "Traceback (most recent call last):" in words)
        code, reason = said.code, said.reason if explained else one_line(f"{reason}: {said.reason}")
    return Told(rank, code, reason, lines, 0.0 if -status in _BY_ITSELF else math.inf, _status(status))


def _status(exitcode: int) -> int:
    return exitcode if exitcode >= 0 else 128 - exitcode
