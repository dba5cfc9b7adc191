"""All that a run left: finds out which task it was, and lets each check judge its file."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional

from ymir_exc.host.check import _context, _detection, _json_file, _log, _mining, _monitor, _segmentation, _training
from ymir_exc.host.check._context import Meter, Task
from ymir_exc.host.findings import Finding, Severity, rule

X002 = rule("X002", Severity.ERROR, "A run leaves a result", "The platform has nothing to take, and the task fails (160011)",
            "Write models/result.yaml, result.tsv or infer-result.json, with result_writer")
X007 = rule("X007", Severity.WARNING, "No writer was killed in its work",
            "What it was about to write is missing; the earlier state was kept",
            "Run the task again, or delete the file when the result is as wanted")

_RESULTS = {"training": "models/result.yaml", "mining": "result.tsv", "infer": "infer-result.json"}
_LEFTOVERS = (".ymir-tmp-", ".ymir-unfinished")
_DETECTION = 2


class Places(NamedTuple):
    """Where a task's outputs are.

    Attributes:
        results: The folder of monitor.txt, result.tsv, infer-result.json and the log.
        models: That of result.yaml.
        tensorboard: That of the event files.
    """

    results: Path
    models: Path
    tensorboard: Path


def places_in(out: Path) -> Places:
    """As YMIR has them."""
    return Places(out, out / "models", out / "tensorboard")


def check_output(out: Path, given: Optional[Path], on_progress: Optional[Callable[[int, int], None]],
                 counts: Dict[str, int]) -> Iterator[Finding]:
    """As `check.check_output`."""
    if not out.is_dir():
        yield X002.found("is no folder", str(out))
        return
    if not os.access(out, os.R_OK | os.X_OK):
        yield _context.X004.found("cannot be read: Permission denied", str(out))
        return
    found: List[Finding] = []
    task = _context.read_task(given, found) if given is not None else Task()
    yield from found
    places, failed = places_in(out), _monitor.has_failed(out)
    runs = task.runs or done(places)
    if not runs and not failed:
        yield X002.found(f"holds none of {', '.join(_RESULTS.values())}", str(out))
    meter = Meter(on_progress, bytes_to_read(out, task))
    yield from judge_results(places, task, due(places, runs, failed), meter, counts)
    yield from _context.guarded(str(out / "monitor.txt"), lambda: _monitor.check_monitor(out, task))
    yield from _context.guarded(str(out / _log.LOG), lambda: _log.check_log(out, meter))
    if "training" in runs:
        yield from _context.guarded(str(places.tensorboard), lambda: _log.check_tensorboard(places.tensorboard))
    yield from _context.guarded(str(out), lambda: leftovers(places))


def done(places: Places) -> FrozenSet[str]:
    """The tasks of which there is a result."""
    return frozenset(run for run in _RESULTS if _context.is_there(_result(places, run)))


def due(places: Places, runs: FrozenSet[str], failed: bool) -> FrozenSet[str]:
    """The tasks whose result is to be judged: one that is missing after a failure is no fault of its own."""
    return runs & done(places) if failed else runs


def judge_results(places: Places, task: Task, runs: FrozenSet[str], meter: Meter, counts: Dict[str, int]) -> Iterator[Finding]:
    """Judge the results of these tasks.

    Args:
        places: Where they are.
        task: What is known of the task.
        runs: Some of training, mining and infer.
        meter: Is told the bytes read.
        counts: Is given how many of what were looked at.
    """
    results = places.results
    if "training" in runs:
        yield from _context.guarded(str(places.models), lambda: _training.check_training(places.models, task, counts))
    if "mining" in runs:
        yield from _context.guarded(str(results / "result.tsv"), lambda: _mining.check_ranking(results, task, meter, counts))
    if "infer" in runs:
        yield from _context.guarded(str(results / "infer-result.json"), lambda: _predictions(results, task, meter, counts))


def _result(places: Places, run: str) -> Path:
    return places.models / "result.yaml" if run == "training" else places.results / _RESULTS[run]


def bytes_to_read(out: Path, task: Task) -> int:
    """Of the results in a folder; a segmentation is read twice."""
    times = {"infer-result.json": 1 if task.object_type == _DETECTION else 2}
    names = ("result.tsv", "infer-result.json", _log.LOG)
    return sum(os.path.getsize(out / name) * times.get(name, 1) for name in names if (out / name).is_file())


def _predictions(out: Path, task: Task, meter: Meter, counts: Dict[str, int]) -> Iterator[Finding]:
    found: List[Finding] = []
    file = _json_file.ResultFile(out / "infer-result.json", meter)
    is_sound = file.is_sound(found)
    yield from found
    if not is_sound:
        return
    if file.is_coco() if task.object_type is None else task.object_type != _DETECTION:
        yield from _segmentation.Coco(file, task, counts).judge()
    else:
        yield from file.read(_detection.Predictions(file, task, counts).judge)


def leftovers(places: Places) -> Iterator[Finding]:
    """Files of writers that were killed."""
    folders = [(str(places.results), sorted(os.listdir(places.results)))]
    folders += [(place, sorted(names)) for place, _, names in sorted(os.walk(places.models))]    # those of the stages too
    for place, names in folders:
        for name in names:
            if name.startswith(".") and any(mark in name for mark in _LEFTOVERS):
                yield X007.found("was left by a writer that did not end", os.path.join(place, name))
