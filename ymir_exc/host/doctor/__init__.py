"""What this machine and this environment have, and what to do about what they lack.

A probe is a function that answers one question with one line or several. Each has a limit of time, and one that fails is told as such:
that something could not be found out is not the same as that it is not there.
"""
from __future__ import annotations

import importlib
import threading
from typing import Any, Dict, Iterator, List, Optional, Sequence

from ymir_exc.errors import EXIT_ENVIRONMENT
from ymir_exc.host.doctor._probe import PROBES, Line, Probe, Question, Status

__all__ = ["PROBES", "Line", "Probe", "Question", "Status", "as_json", "examine", "exit_status"]

_MODULES = ("_machine", "_python", "_engine", "_gpu", "_image")
for _module in _MODULES:    # each enters its probes into the registry, in this order
    importlib.import_module(f"{__name__}.{_module}")


def examine(image: Optional[str] = None, engine: Optional[str] = None, probes: Optional[Sequence[Probe]] = None) -> Iterator[Line]:
    """Ask every probe.

    Args:
        image: An image to judge the machine by.
        engine: The container engine to look at; the first of docker and podman that is there when None.
        probes: Which; all when None.

    Yields:
        The lines, as they come.
    """
    question = Question(image, engine)
    for probe in PROBES if probes is None else probes:
        yield from _ask(probe, question)


def _ask(probe: Probe, question: Question) -> List[Line]:
    """A probe's lines, or one that says why there are none. A thread: a file system that hangs cannot be interrupted."""
    answers: List[Line] = []
    failed: List[str] = []

    def look() -> None:
        try:
            answers.extend(line._replace(probe=probe.name) for line in probe.look(question))
        except Exception as e:    # whatever it stumbles over, the other probes still answer
            failed.append(f"{type(e).__name__}: {e}" if str(e) else type(e).__name__)

    thread = threading.Thread(target=look, name=f"doctor-{probe.name}", daemon=True)
    thread.start()
    thread.join(probe.seconds)
    if thread.is_alive():
        failed.append(f"no answer within {probe.seconds:g} s")
    found = list(answers)
    if failed:
        found.append(Line(Status.UNKNOWN, f"{probe.title} could not be found out: {failed[0]}", "", {}, probe.name))
    return found


def exit_status(lines: Sequence[Line]) -> int:
    """3 where there is a problem, else 0."""
    return EXIT_ENVIRONMENT if any(line.status == Status.PROBLEM for line in lines) else 0


def as_json(lines: Sequence[Line]) -> Dict[str, Any]:
    """Plain values: `exit`, how many lines of each status, and the `lines`, each with `probe`, `status`, `text`, `remedy` and `facts`."""
    return {"exit": exit_status(lines), **{status.value: sum(line.status == status for line in lines) for status in Status},
            "lines": [{"probe": line.probe, "status": line.status.value, "text": line.text, "remedy": line.remedy,
                       "facts": dict(line.facts)} for line in lines]}
