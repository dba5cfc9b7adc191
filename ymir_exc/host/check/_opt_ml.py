"""All that a job of Tencent TI left below /opt/ml, or a folder of this machine that was bound there (contract 1.2 and 5).

An image that serves TI alone leaves models in whatever form: then nothing but their being there is judged.
"""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, Mapping, Optional

from ymir_exc.errors import YmirError
from ymir_exc.host.check import _context, _log, _monitor, _output
from ymir_exc.host.check._context import Candidates, Meter, Task
from ymir_exc.host.check._output import Places
from ymir_exc.host.findings import Finding, Severity, rule

O101 = rule("O101", Severity.ERROR, "A training leaves something in model/", "TI packs that folder as the model, and it is empty",
            "Save the model below the folder that TM_MODEL_DIR names, /opt/ml/model")
O102 = rule("O102", Severity.NOTE, "A model comes with result.yaml", "TI takes it as it is, but YMIR knows none of its metrics",
            "Call result_writer.write_model_stage() if the image is to serve both")
O103 = rule("O103", Severity.WARNING, "output/failure says why, in UTF-8 and in its first 1024 bytes", "A platform shows no more of it",
            "Write the reason first, then what led to it")
O104 = rule("O104", Severity.ERROR, "A job leaves failure or success, not both", "Nobody can tell how it ended",
            "Remove failure when the program has recovered")
O105 = rule("O105", Severity.WARNING, "The job's description can be read",
            "The outputs are judged without knowing the task, so much is left out", "Mend the file, or copy it from the platform again")

MOST_BYTES = 1024
SEEN = "/opt/ml"
_NOT_ON_TI = frozenset({"M517"})    # TI rewrites no monitor.txt


def is_tree(path: Path) -> bool:
    """Whether a folder looks like /opt/ml."""
    output = path / "output"
    has_output = any(os.path.lexists(output / name) for name in ("data", "failure", "success"))
    return (path / "input" / "config").is_dir() or ((path / "model").is_dir() and has_output)


def check_tree(root: Path, on_progress: Optional[Callable[[int, int], None]], counts: Dict[str, int], *,
               needs_result: bool = False, models: Optional[Path] = None) -> Iterator[Finding]:
    """Judge the outputs of a job.

    Args:
        root: What was /opt/ml.
        on_progress: As of `check.check`.
        counts: As of `check.check`.
        needs_result: Whether a training must leave result.yaml; else a model without one gets a note.
        models: Where the models are, if not in `model/`.

    Yields:
        What is wrong, at its real place.
    """
    root = Path(os.path.abspath(root))
    places = Places(root / "output" / "data", models or root / "model", root / "output" / "checkpoints" / "tensorboard")
    found: List[Finding] = []
    task = _read_task(root, found)
    yield from found
    failure = root / "output" / "failure"
    yield from _context.guarded(str(failure), lambda: _outcome(failure))
    failed = _context.is_there(failure) or _monitor.has_failed(places.results)
    runs = task.runs or _output.done(places) or frozenset({"training"})
    due = _output.due(places, runs, failed)
    if "training" in due and not needs_result and not _context.is_there(places.models / "result.yaml"):
        due -= {"training"}
        yield from _context.guarded(str(places.models), lambda: _models(places.models))
    meter = Meter(on_progress, _output.bytes_to_read(places.results, task))
    yield from _output.judge_results(places, task, due, meter, counts)
    yield from _context.guarded(str(places.results), lambda: _rest(places, task, meter))


def _models(models: Path) -> Iterator[Finding]:
    if is_empty(models):
        yield O101.found("it is empty" if models.is_dir() else "there is none", str(models))
    else:
        yield O102.found("there is none", str(models / "result.yaml"))


def is_empty(folder: Path) -> bool:
    """Whether there is no file with content below a folder."""
    return not any(os.path.getsize(os.path.join(place, name)) for place, _, names in os.walk(folder) for name in names
                   if os.path.isfile(os.path.join(place, name)))


def _outcome(failure: Path) -> Iterator[Finding]:
    if not _context.is_there(failure):
        return
    if _context.is_there(failure.with_name("success")):
        yield O104.found("success is there too", str(failure))
    found: List[Finding] = []
    if _context.is_sound(failure, found):
        size = failure.stat().st_size
        if not size:
            yield O103.found("it is empty", str(failure))
        elif size > MOST_BYTES:
            yield O103.found(f"it has {size} bytes", str(failure))
        line = _context.first_bad_line(failure)
        if line is not None:
            yield O103.found("holds bytes that are not UTF-8", str(failure), line=line)
    yield from found


def _rest(places: Places, task: Task, meter: Meter) -> Iterator[Finding]:
    """What a job may leave, and need not."""
    if _context.is_there(places.results / "monitor.txt"):
        yield from (one for one in _monitor.check_monitor(places.results, task) if one.rule.code not in _NOT_ON_TI)
    yield from _log.check_log(places.results, meter)
    if any("tfevents" in name for _, _, names in os.walk(places.tensorboard) for name in names):
        yield from _log.check_tensorboard(places.tensorboard)
    if places.results.is_dir():
        yield from _output.leftovers(places)


# ------------------------------------------------------------------------------------------------------------------- the task


def _read_task(root: Path, found: List[Finding]) -> Task:
    """What the job's description says; what of it cannot be read is told in `found`, and is not known."""
    from ymir_exc.platforms.ti import _config, _task
    layout = _config.Layout(str(root))
    if not os.path.isdir(layout.config):
        return Task()
    try:
        job = _config.read(layout, {})
        wanted = job.values.get(_config.TASK_KEY, "training")
        runs = frozenset(_task.TASKS[wanted]) if isinstance(wanted, str) and wanted in _task.TASKS else None
        name = job.text("ti_job_name") or None
    except YmirError as e:
        found.append(O105.found(e.message, layout.config))
        return Task()
    if runs is None:
        found.append(O105.found(f"there is no task {wanted!r:.80}", job.file, key=_config.TASK_KEY))
    return _with_dataset(root, job.channels, job.values, Task(runs, name, given=root, root=SEEN))


def _with_dataset(root: Path, channels: Mapping[str, str], values: Mapping[str, Any], task: Task) -> Task:
    """Classes and candidates, where a mining or an inference is known to have had them."""
    from ymir_exc.platforms.ti import _dataset
    kinds: FrozenSet[str] = (task.runs or frozenset()) - {"training"}
    names, candidates, kind = values.get("class_names"), None, values.get("object_type")
    if kinds:
        try:
            split = _dataset.find("candidate", channels, "", sorted(kinds))
            names = names or _dataset.class_names(channels, [split] if split is not None else [])
        except YmirError:    # the job will have failed with that
            split = None
        if split is not None:
            candidates = Candidates(_seen(root, path) for path, _ in split.rows)
            kind = kind or split.dataset.get("object_type")
    classes = frozenset(str(name).strip().lower() for name in names) if isinstance(names, list) and names else None
    return task._replace(class_names=classes, candidates=candidates, object_type=kind if kind in _context.OBJECT_TYPES else None)


def _seen(root: Path, path: str) -> str:
    """What a program calls a file of a channel."""
    return f"{SEEN}{path[len(str(root)):]}" if path.startswith(f"{root}/") else path
