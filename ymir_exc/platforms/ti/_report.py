"""How a job ended, for TI: `output/failure` or `output/success`, and monitor.txt beside the results (contract 1.7)."""
from __future__ import annotations

import contextlib
import os
import signal
from functools import partial
from typing import List

from ymir_exc import _files
from ymir_exc.errors import StorageError, YmirError
from ymir_exc.platforms.base import Outcome, write_final
from ymir_exc.platforms.ti._config import Layout

MAX_BYTES = 1024
"""What a platform of this kind shows of a failure; more would be of use to nobody."""


def open_output(layout: Layout) -> List[str]:
    """Make the folders that programs write to. A `success` of an earlier run goes, and its `failure` becomes `failure.previous`.

    Returns:
        What could not be made.
    """
    problems = []
    for folder in (layout.model, layout.results, layout.tensorboard):
        try:
            _files.make_folder(folder)
        except StorageError as e:
            problems.append(str(e))
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(layout.output, "success"))
    path = os.path.join(layout.output, "failure")
    if _is_written(path):    # or it would be taken for this run's own word
        with contextlib.suppress(OSError):
            os.replace(path, f"{path}.previous")
    return problems


def close_output(layout: Layout, task_id: str, outcome: Outcome) -> None:
    """Say how the job ended. A stop is neither a success nor a failure.

    Raises:
        StorageError: It could not be written; as much as could be was.
    """
    problems: List[YmirError] = []
    for write in (partial(_write_monitor, layout, task_id), partial(_write_outcome, layout)):
        try:
            write(outcome)
        except YmirError as e:
            problems.append(e)
    if problems:
        raise problems[-1]


def _write_monitor(layout: Layout, task_id: str, outcome: Outcome) -> None:
    _files.make_folder(layout.results)
    write_final(layout.monitor, task_id, outcome)


def _write_outcome(layout: Layout, outcome: Outcome) -> None:
    _files.make_folder(layout.output)
    path = os.path.join(layout.output, "failure")
    if outcome.failure is None:
        if not outcome.recorded:
            _files.write_bytes(os.path.join(layout.output, "success"), b"success\n")
    elif not _is_stop(outcome) and not _is_written(path):
        _files.write_bytes(path, failure_text(outcome))


def _is_stop(outcome: Outcome) -> bool:
    """Asked of this host, or of another one, as a launcher on several tells."""
    reason = outcome.failure.reason if outcome.failure is not None else ""
    return outcome.stopped or (outcome.status == 128 + signal.SIGTERM and reason.startswith("stopped by SIGTERM on "))


def _is_written(path: str) -> bool:
    """The program knows best why it failed."""
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False


def failure_text(outcome: Outcome) -> bytes:
    """`CODE NAME: reason`, then as many of the last lines as fit into `MAX_BYTES` of UTF-8, of which no character is cut."""
    if outcome.failure is None:
        return b""
    code, reason = outcome.failure
    head = f"{code} {code.short_name}: {reason}\n".encode("utf-8", "replace")
    if len(head) > MAX_BYTES:
        return head[:MAX_BYTES - 1].decode("utf-8", "ignore").encode("utf-8") + b"\n"
    kept: List[bytes] = []
    left = MAX_BYTES - len(head)
    for line in reversed(outcome.lines):
        data = f"{line}\n".encode("utf-8", "replace")
        if len(data) > left:
            if not kept and left > 1:
                kept.append(data[1 - left:].decode("utf-8", "ignore").encode("utf-8"))    # the end of a line that is longer than that
            break
        kept.append(data)
        left -= len(data)
    return head + b"".join(reversed(kept))
