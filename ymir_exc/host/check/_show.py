"""What `ymir-exc check` shows: how far it is, and what it found, in the form that was asked for."""
from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence, TextIO

from ymir_exc._version import __version__
from ymir_exc.host import check, findings
from ymir_exc.host.check import _text
from ymir_exc.host.check._text import Gathered

PATIENCE = 1.0
"""Seconds before progress is printed where there is no terminal: what is done sooner needs none."""

_STEPS = 20


@contextlib.contextmanager
def progress(stream: Optional[TextIO] = None, *, patience: float = PATIENCE) -> Iterator[check.OnProgress]:
    """Show progress while the block runs: a bar on a terminal, elsewhere a line for every 5 %.

    Args:
        stream: Where to; stderr when None.
        patience: Seconds before the first line where there is no terminal.

    Yields:
        What a check calls.
    """
    stream = stream or sys.stderr
    bars = _bars(stream) if stream.isatty() else None
    if bars is None:
        yield _lines(stream, time.monotonic() + patience)
        return
    with bars:
        bar = bars.add_task("checking", total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _bars(stream: TextIO) -> Any:
    """A bar that vanishes in the end; None without rich, which a check can do without."""
    try:
        import rich.console
        import rich.progress
    except ModuleNotFoundError:
        return None
    columns = rich.progress.Progress.get_default_columns()
    return rich.progress.Progress(*columns, console=rich.console.Console(file=stream), transient=True)


def _lines(stream: TextIO, start: float) -> check.OnProgress:
    shown = [-1]

    def update(done: int, total: int) -> None:
        step = done * _STEPS // total if total else 0
        if step < shown[0]:    # the next part of the check
            shown[0] = -1
        if step > shown[0] and time.monotonic() >= start:
            shown[0] = step
            print(f"checking: {step * 100 // _STEPS:3d} %", file=stream, flush=True)

    return update


def printed(found: Gathered, looked_at: Mapping[str, int], form: str, kinds: Sequence[str], *, colour: bool = False) -> str:
    """What was found, as it is printed.

    Args:
        found: The findings.
        looked_at: How many of what.
        form: text, json, sarif or junit.
        kinds: What was judged, of `check.KINDS`; its rules are the cases of a JUnit report.
        colour: Whether text may have the escape codes of terminals.
    """
    if form == "text":
        return _text.as_text(found, looked_at, colour=colour)
    if form == "junit":
        return findings.as_junit(found.findings, check.rules_of(kinds)).rstrip("\n")
    made: Dict[str, Any]
    if form == "sarif":
        made = findings.as_sarif(found.findings, __version__)
    else:
        made = _text.as_document(found, looked_at, findings.as_json(found.findings))
    return json.dumps(made, ensure_ascii=not _is_unicode(sys.stdout), indent=2)


def write(text: str) -> None:
    """Print on stdout, whatever it can hold: what it cannot is written as an escape."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        print(text if _is_unicode(sys.stdout) else text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:    # `| head` has seen enough; Python would complain once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_unicode(stream: TextIO) -> bool:
    return (stream.encoding or "ascii").lower().replace("-", "").startswith("utf")


def listed(form: str, *, in_full: bool) -> str:
    """All rules, as they are printed: text, json, or a page in Markdown when text is wanted in full."""
    rules = list(check.all_rules().values())
    if form == "json":
        return json.dumps([{**rule._asdict(), "severity": rule.severity.value} for rule in rules], indent=2)
    return check.describe_rules().rstrip("\n") if in_full else _text.rules_in_text(rules)
