"""monitor.txt, by which the platform follows a task (contract 8.1, 8.2 and 9)."""
from __future__ import annotations

import codecs
import math
import os
import re
import stat
from pathlib import Path
from typing import Iterator, List, Optional

from ymir_exc import monitor
from ymir_exc.code import ExecutorReturnCode
from ymir_exc.host.check import _context
from ymir_exc.host.check._context import Task, shown
from ymir_exc.host.check._env import absence
from ymir_exc.host.findings import Finding, Rule, Severity, rule

_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_FINAL = "The platform shows the task as failed for good (150404), while it may still run"

M501 = rule("M501", _E, "There is monitor.txt", _FINAL, "Never delete it; replace it by rename, or let ymir_exc.monitor write it")
M502 = rule("M502", _E, "monitor.txt has a first line", "After the end the platform fails on it, and models are lost (169999)",
            "Write a new file and rename it; cutting the old one first leaves it empty when the program is killed")
M503 = rule("M503", _E, "The first line has an end", "It may be half a line: the platform may have read a wrong number",
            "Write the line with its LF in one step")
M504 = rule("M504", _E, "The first line has 4 to 6 fields, separated by TABs", _FINAL,
            "Write task id, timestamp, percent, state, code and message, as monitor.write_monitor_logger() does")
M505 = rule("M505", _E, "The first field, the task id, is not blank", "The platform strips the line, and reads every field one place off",
            "Write the task_id of env.yaml")
M506 = rule("M506", _E, "The timestamp is seconds since 1970", _FINAL, "Write time.time(), not milliseconds or a date")
M507 = rule("M507", _E, "The percent is a number from 0 to 1", "A word fails the task (150404); 50 is shown as 5000 %", "Write a fraction")
M508 = rule("M508", _E, "The state is an integer from 0 to 4", _FINAL, "Write 2 while running, and 4 after a failure")
M509 = rule("M509", _W, "The state is one that a program uses: 2 running, or 4 failed",
            "0 and 3 are the platform's own words, and end nothing; exit status 0 says that a task is done", "Write 2, and exit with 0")
M510 = rule("M510", _W, "The program told its progress", "The task shows 0 % until it ends",
            "Call monitor.write_monitor_logger() now and then")
M511 = rule("M511", _E, "The task did not fail: the state is not 4", "State 4 is final the moment it is seen, whatever results there are",
            "Mend what the message names; write 4 for nothing from which the program recovers")
M512 = rule("M512", _E, "The return code is an integer", _FINAL, "Write 0 while running")
M513 = rule("M513", _E, "The return code is 0 while the state is not 4", "It is stored as the task's error while that runs",
            "Write 0 while running")
M514 = rule("M514", _E, "A failure's code is one that the platform has a text for", "The user sees a number, or nothing",
            "Use ymir_exc.code.ExecutorReturnCode, such as 300103; 160004 for all others")
M515 = rule("M515", _E, "A failure has a message in the sixth field, and a reason below", "The user does not learn why",
            "Let the supervisor write it: ymir-exc run -- PROGRAM")
M516 = rule("M516", _E, "monitor.txt has at most 100 lines", "Those after them are not read", "Write the end of the traceback only")
M517 = rule("M517", _W, "Every user may write monitor.txt", "A platform that runs under another uid cannot rewrite it after the end",
            "Give it the permissions 0666")
M518 = rule("M518", _N, "The progress ended near 1", "The bar jumps to its end", "Write 1.0 after the last step")
M519 = rule("M519", _W, "The task id is that of env.yaml", "It may be the file of another task", "Write the task_id of env.yaml")

_MOST_BYTES, _MOST_LINES = 1 << 20, 100
_LATEST = 1e11    # the year 5138; a time in milliseconds is above it
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_LINE_END = re.compile("\r\n|\n|\r")
_PENDING, _RUNNING, _FAILED = 1, 2, 4
_NEARLY_DONE = 0.99
_INT32 = 2 ** 31


def has_failed(out: Path) -> bool:
    """Whether the task said that it failed: what it did not write is then no fault of its own."""
    record = record_of(out)
    return record is not None and record.state == _FAILED


def record_of(out: Path) -> Optional[monitor.Record]:
    """What monitor.txt says; None where it says nothing. A pipe in its place is not opened."""
    path = out / "monitor.txt"
    return None if absence(str(path)) else monitor.read_record(path)


def check_monitor(out: Path, task: Task) -> Iterator[Finding]:
    """Judge monitor.txt.

    Args:
        out: The task's `out` folder.
        task: What is known of the task.
    """
    path = out / "monitor.txt"
    found: List[Finding] = []
    is_sound = _context.is_sound(path, found, M501)
    yield from found
    if not is_sound:
        return
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o666 != 0o666:
        yield M517.found(f"its permissions are {mode:04o}", str(path))
    with open(path, "rb") as f:
        data = f.read(_MOST_BYTES)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data)    # a character may be cut in two
    except UnicodeDecodeError as e:
        yield _context.X005.found("holds bytes that are not UTF-8", str(path), line=data.count(b"\n", 0, e.start) + 1)
        return
    yield from _text(path, text.lstrip("\ufeff"), task)


def _text(path: Path, text: str, task: Task) -> Iterator[Finding]:
    lines = _LINE_END.split(text)
    if not lines[0].strip():
        yield M502.found("the file is empty" if not text else "the first line is blank", str(path), line=1)
        return
    if len(lines) == 1:
        yield M503.found("the first line has no end", str(path), line=1)
    first = lines[0].strip()
    if not lines[0].startswith(first):
        yield M505.found("the line begins with a blank or a TAB", str(path), line=1, key="task_id")
        return
    fields = first.split("\t")
    if not 4 <= len(fields) <= 6:
        yield M504.found(f"has {len(fields)} fields: {shown(first)}", str(path), line=1)
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) > _MOST_LINES:
        yield M516.found(f"has {len(lines)} lines", str(path), line=_MOST_LINES + 1)
    if len(fields) >= 4:
        yield from _fields(path, fields, task)
        yield from _state(path, fields, lines[1:])


def _decimal(text: str) -> Optional[float]:
    made = float(text) if _DECIMAL.fullmatch(text) else None
    return made if made is not None and math.isfinite(made) else None


def _integer(text: str) -> Optional[int]:
    made = int(text) if _INTEGER.fullmatch(text) else None
    return made if made is not None and -_INT32 <= made < _INT32 else None


def _fields(path: Path, fields: List[str], task: Task) -> Iterator[Finding]:
    def found(broken: Rule, message: str, key: str) -> Finding:
        return broken.found(message, str(path), 1, key)

    if task.task_id is not None and fields[0] != task.task_id:
        yield found(M519, f"is {shown(fields[0])}, in env.yaml {shown(task.task_id)}", "task_id")
    stamp, percent = _decimal(fields[1]), _decimal(fields[2])
    if stamp is None or not 0 <= stamp < _LATEST:
        yield found(M506, f"is {shown(fields[1])}" + ("" if stamp is None or stamp < 0 else ": milliseconds?"), "timestamp")
    if percent is None or not 0 <= percent <= 1:
        yield found(M507, f"is {shown(fields[2])}", "percent")
    elif percent < _NEARLY_DONE and fields[3] == str(_RUNNING):
        yield found(M518, f"is {fields[2]}", "percent")


def _state(path: Path, fields: List[str], lines: List[str]) -> Iterator[Finding]:
    def found(broken: Rule, message: str, key: str) -> Finding:
        return broken.found(message, str(path), 1, key)

    state, code = _integer(fields[3]), _integer(fields[4]) if len(fields) > 4 else 0
    message = fields[5].strip() if len(fields) > 5 else ""
    if state is None or not 0 <= state <= _FAILED:
        yield found(M508, f"is {shown(fields[3])}", "state")
    elif state == _PENDING:
        yield found(M510, "is still 1 (pending), as the platform wrote it before the start", "state")
    elif state == _FAILED:
        yield found(M511, f"is 4, code {code}: {message or 'no reason given'}", "state")
    elif state != _RUNNING:
        yield found(M509, f"is {state}", "state")
    if code is None:
        yield found(M512, f"is {shown(fields[4])}", "return_code")
    elif state != _FAILED and code:
        yield found(M513, f"is {code}, the state {fields[3]}", "return_code")
    elif state == _FAILED and (not code or code not in set(map(int, ExecutorReturnCode))):
        yield found(M514, f"is {code}", "return_code")
    if state == _FAILED:
        told = {"the sixth field": bool(message), "a line below": any(line.strip() for line in lines)}
        missing = [what for what, is_told in told.items() if not is_told]
        if missing:
            yield found(M515, f"{' and '.join(missing)} is missing", "message")
