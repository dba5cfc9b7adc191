"""``monitor.txt`` as the platform polls it: contract 8.1, 8.2 and 9."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from .reading import At, as_decimal, as_integer, read_text

STATE_UNKNOWN, STATE_PENDING, STATE_RUNNING, STATE_DONE, STATE_ERROR = range(5)
MAX_MONITOR_LINES = 100
EXECUTOR_CODES: Dict[int, str] = {  # contract 9; the older 1800xx numbers have no text on the web
    300001: "CONFIG_ERROR",
    300002: "DATASET_ERROR",
    300003: "UNKNOWN_IMAGE_FORMAT",
    300004: "MODEL_ERROR",
    300005: "OBJECT_TYPE_ERROR",
    300101: "CUDA_GPU_ERROR",
    300102: "NO_GPU",
    300103: "OOM",
    300201: "NAN_ERROR",
    300301: "NETWORK_ERROR",
    160004: "CONTAINER_ERROR",
}

LATEST_SECONDS = 1e11  # the year 5138; a time in milliseconds is above it
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


@dataclass(frozen=True)
class MonitorRecord:
    """The current record of ``monitor.txt``; `details` holds lines 2 to 100."""

    task_id: str
    timestamp: float
    percent: float
    state: int
    return_code: int
    message: str
    details: Tuple[str, ...]


def parse_monitor(text: str, *, allow_pending: bool = False) -> MonitorRecord:
    """Read the text of ``monitor.txt``: contract 8.1 and 8.2.

    Args:
        allow_pending: take the record that the platform writes before the start.
    """
    at = At("8.1", "monitor.txt")
    at.rule("8.2").require(text, "is empty")
    at.rule("8.2").require(not text.startswith("\ufeff"), "starts with a byte order mark")
    lines = re.split("\r\n|\n|\r", text)
    first = lines[0].strip()
    at.rule("8.2").item("line 1").require(first, "is blank")
    at.item("line 1").require(len(lines) > 1, "has no line end, so it may be torn")
    at.item("task_id").require(lines[0].startswith(first), "is blank or starts with one; stripped, the columns shift")
    fields = first.split("\t")
    at.rule("8.2").item("line 1").require(len(fields) >= 4, f"has {len(fields)} fields, must be 4 or more")
    at.item("line 1").require(len(fields) <= 6, f"has {len(fields)} fields, must be 6 or fewer")
    timestamp = as_decimal(at.item("timestamp"), fields[1])
    at.item("timestamp").require(0 <= timestamp < LATEST_SECONDS, f"{fields[1]} is not a time in seconds")
    percent = as_decimal(at.item("percent"), fields[2])
    at.item("percent").require(0 <= percent <= 1, f"{fields[2]} is outside [0, 1]")
    state = _integer_field(at.item("state"), fields[3])
    at.item("state").rule("8.2").require(STATE_UNKNOWN <= state <= STATE_ERROR, f"{state} is outside 0 to 4")
    allowed = (STATE_RUNNING, STATE_ERROR) + ((STATE_PENDING,) if allow_pending else ())
    at.item("state").require(state in allowed, f"{state} is not for executors, which use 2 (running) and 4 (error)")
    code = _integer_field(at.item("return_code"), fields[4]) if len(fields) > 4 else 0
    at.item("return_code").rule("8.2").require(
        code == 0 or state == STATE_ERROR, f"{code} with state {state} is stored as an error while running"
    )
    while lines and not lines[-1].strip():
        lines.pop()
    at.rule("8.2").require(
        len(lines) <= MAX_MONITOR_LINES, f"has {len(lines)} lines; those past {MAX_MONITOR_LINES} are not read"
    )
    message = fields[5].strip() if len(fields) > 5 else ""
    return MonitorRecord(fields[0], timestamp, percent, state, code, message, tuple(lines[1:]))


def _integer_field(at: At, text: str) -> int:
    at.require(_INTEGER.fullmatch(text), f"{text!r} is not an integer")
    return as_integer(at, int(text))


def accept_monitor(out: Path, *, final: str, allow_pending: bool = False, shared: bool = True) -> MonitorRecord:
    """Read ``out/monitor.txt`` while the executor runs or after it has ended.

    Args:
        final: ``running`` and ``done`` want state 2 without a code (exit status 0 says done, not the file);
            ``error`` wants state 4 with an executor's code of contract 9, a message in column 6 and a reason below.
        allow_pending: take the platform's own first record for ``running`` and ``done``.
        shared: the file must be writable by every user, because the platform rewrites it after the end.
    """
    if final not in ("done", "error", "running"):
        raise ValueError("final must be done, error or running")
    at = At("8.2", "monitor.txt")
    path = Path(out) / "monitor.txt"
    record = parse_monitor(read_text(at, path), allow_pending=allow_pending and final != "error")
    mode = stat.S_IMODE(path.stat().st_mode)
    at.require(not shared or mode & 0o666 == 0o666, f"has mode {mode:04o}; the platform must rewrite it, keep it 0666")
    if final == "error":
        _accept_failure(record)
    else:
        at.item("state").require(record.state != STATE_ERROR, f"4 (error) is terminal, but the task is {final}")
    return record


def _accept_failure(record: MonitorRecord) -> None:
    at = At("9", "monitor.txt")
    at.item("state").require(record.state == STATE_ERROR, f"is {record.state}, but a failed task ends with 4")
    at.item("return_code").require(
        record.return_code in EXECUTOR_CODES, f"{record.return_code} is not an executor's code"
    )
    at.item("message").require(record.message, "column 6 is empty")
    at.item("line 2").require(any(line.strip() for line in record.details), "no reason is given below line 1")


def accept_monitor_updates(texts: Sequence[str]) -> List[MonitorRecord]:
    """Judge what a poller saw, oldest first: a change needs a new timestamp, and state 4 is the end."""
    at = At("8.1", "monitor.txt")
    records: List[MonitorRecord] = []
    for text in texts:
        record = parse_monitor(text, allow_pending=not records)
        if records and record != records[-1]:
            before = records[-1]
            at.rule("8.2").item("state").require(
                before.state != STATE_ERROR or record.state == STATE_ERROR, f"{record.state} after 4, which is terminal"
            )
            at.item("timestamp").require(
                record.timestamp != before.timestamp, f"{record.timestamp} is as before, so the update is not noticed"
            )
        records.append(record)
    return records
