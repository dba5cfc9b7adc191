"""What a task's folders tell: how it ended, its stages, its log and the versions of what it ran with."""
from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ymir_exc import monitor
from ymir_exc._yaml import load_mapping
from ymir_exc.errors import ConfigError, YmirError
from ymir_exc.host import launch
from ymir_exc.host.findings import Finding, Severity, as_json

MOST_FINDINGS = 200
"""Shown of a run; the number of all is told beside."""

LOG_LINES = 80
_OUTPUTS = ("monitor.txt", "ymir-executor-out.log", "result.tsv", "infer-result.json", "models/result.yaml")
_TASKS = {"training": "models/result.yaml", "mining": "result.tsv", "infer": "infer-result.json"}
_INDEXES = {"train": "train-index.tsv", "val": "val-index.tsv", "candidate": "candidate-index.tsv"}
_PENDING, _RUNNING, _DONE, _FAILED = 1, 2, 3, 4
_MOST_SECONDS = 366 * 86400
_HEAD_BYTES = 1 << 18
_VERSION = re.compile(r"\b(python|pytorch|torch|torchvision|cuda|cudnn|numpy|mmcv|mmdet|mmengine|ultralytics|tensorflow|ymir[-_]exc)\b"
                      r"(?: version)?[ :=/-]{1,20}v?(\d+\.\d+[\w.+]{0,20})", re.IGNORECASE)
_CONTROL = re.compile("\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?"    # titles and links of a terminal
                      "|(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]?"    # colours, the cursor, character sets
                      "|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")    # and what turns the text around


class Run(NamedTuple):
    """One task that ran.

    Attributes:
        name: What the page calls it.
        out: Its output folder.
        given: Its input folder, where it is known.
    """

    name: str
    out: Path
    given: Optional[Path]


def find_runs(paths: Sequence[Path]) -> List[Run]:
    """The tasks behind what a person names.

    Args:
        paths: Each an `out` folder, a folder with `in` and `out`, or one that holds several of those.

    Raises:
        ConfigError: A path is missing, or nothing that a task wrote lies there.
    """
    found: Dict[Path, Run] = {}
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path} is no folder" if path.exists() else f"{path} does not exist",
                              hint="give a task's out folder, or the folder that holds its in and out")
        for run in _runs_of(path.resolve()):
            found.setdefault(run.out, run)
    names = [run.name for run in found.values()]
    return [run._replace(name=f"{run.name} ({n})") if names.count(run.name) > 1 else run for n, run in enumerate(found.values(), 1)]


def _runs_of(path: Path) -> List[Run]:
    for root in (path, path.parent):
        out, given = root / "out", root / "in"
        if path in (root, out) and out.is_dir():
            return [Run(root.name, out, given if given.is_dir() else None)]
    if _has_output(path):
        return [Run(path.name, path, None)]
    inside = [Run(child.name, child / "out", child / "in") for child in path.iterdir()
              if (child / "in").is_dir() and (child / "out").is_dir() and _has_started(child / "out")]
    if not inside:
        raise ConfigError(f"{path} holds no output of a task: none of {', '.join(_OUTPUTS)} is there",
                          hint="give a task's out folder, or the folder that holds its in and out")
    return sorted(inside, key=lambda run: getattr(monitor.read_record(run.out / "monitor.txt"), "timestamp", 0.0))


def _has_output(path: Path) -> bool:
    return any((path / name).exists() for name in _OUTPUTS)


def _has_started(out: Path) -> bool:
    """Whether more than what stands there before the start is there."""
    record = monitor.read_record(out / "monitor.txt")
    return _has_output(out) and (record is None or record.state != _PENDING)


def describe(run: Run, on_progress: Optional[Callable[[int, int], None]] = None) -> Dict[str, Any]:
    """All that is known of a run but its curves and its images.

    Args:
        run: Which.
        on_progress: Told how far the checks of its output are.

    Returns:
        Plain values; `problems` lists what could not be read, and why.
    """
    problems: List[str] = []
    config = mapping(run.given, "config.yaml", problems)
    env = mapping(run.given, "env.yaml", problems)
    record = monitor.read_record(run.out / "monitor.txt")
    log = run.out / "ymir-executor-out.log"
    return {
        "name": run.name, "out": str(run.out), "in": None if run.given is None else str(run.given),
        "task_id": str((record and record.task_id) or env.get("task_id") or config.get("task_id") or ""),
        "tasks": _tasks(run, env), **_ending(run, record),
        "class_names": class_names_of(config),
        "images": _counts(run, problems), **_stages(run, problems), "findings": _findings(run, on_progress),
        "parameters": {str(key): _shown(value) for key, value in sorted(config.items(), key=str) if key != "class_names"},
        "log": log_tail(log), "log_versions": log_versions(log), "problems": problems,
    }


def class_names_of(config: Dict[str, Any]) -> List[str]:
    """`class_names` of a config.yaml; none where it has none that can be used."""
    names = config.get("class_names")
    return [str(name) for name in names] if isinstance(names, list) else []


def mapping(folder: Optional[Path], name: str, problems: List[str]) -> Dict[str, Any]:
    """A YAML file of an `in` folder; empty where it is not there, or cannot be read, which is told among the problems."""
    if folder is None or not (folder / name).is_file():
        return {}
    read: Dict[str, Any] = attempt(lambda: load_mapping(str(folder / name)), {}, problems)
    return read


def attempt(read: Callable[[], Any], otherwise: Any, problems: List[str]) -> Any:
    """What `read` returns; where it fails, `otherwise`, and the reason among the problems."""
    try:
        return read()
    except (YmirError, OSError, ValueError) as e:
        problems.append(str(e))
        return otherwise


def _tasks(run: Run, env: Dict[str, Any]) -> List[str]:
    asked = [task for task in _TASKS if env.get(f"run_{task}") is True]
    return asked or [task for task, name in _TASKS.items() if (run.out / name).is_file()]


def _ending(run: Run, record: Optional[monitor.Record]) -> Dict[str, Any]:
    """How it ended, as monitor.txt says, and how long it took, as far as that can be told."""
    if record is None:
        return {"ended": "unknown", "percent": None, "return_code": None, "message": "", "finished": None, "seconds": None,
                "seconds_by": None}
    is_done = record.state == _DONE or (record.state == _RUNNING and record.percent >= 1)
    ended = "done" if is_done else {_PENDING: "pending", _RUNNING: "unfinished", _FAILED: "failed"}.get(record.state, "unknown")
    seconds = None
    if run.given is not None and (run.given / "env.yaml").is_file() and ended != "pending":
        took = record.timestamp - (run.given / "env.yaml").stat().st_mtime    # it is written just before the start
        seconds = round(took, 1) if 0 <= took < _MOST_SECONDS else None
    return {"ended": ended, "percent": record.percent, "return_code": record.return_code,
            "message": _CONTROL.sub("", record.message or next((line for line in record.lines if line.strip()), "")),
            "finished": record.timestamp, "seconds": seconds, "seconds_by": None if seconds is None else "monitor"}


def _counts(run: Run, problems: List[str]) -> Dict[str, int]:
    counts = {}
    for split, name in _INDEXES.items():
        path = run.given / name if run.given else None
        if path is not None and path.is_file():
            counts[split] = attempt(partial(_lines, path), None, problems)
    return {split: count for split, count in counts.items() if count is not None}


def _lines(path: Path) -> int:
    with path.open("rb") as f:
        return sum(1 for line in f if line.strip())


def _stages(run: Run, problems: List[str]) -> Dict[str, Any]:
    """The stages of models/result.yaml, in the order of their time (contract 6.1)."""
    path = run.out / "models" / "result.yaml"
    result: Dict[str, Any] = attempt(lambda: load_mapping(str(path)), {}, problems) if path.is_file() else {}
    if "model" in result:
        old = {"stage_name": "default_best_stage", "files": result["model"], "mAP": result.get("map")}
        result = {"model_stages": {"default_best_stage": old}, "best_stage_name": "default_best_stage"}
    best = result.get("best_stage_name")
    stages = result.get("model_stages")
    rows = [_stage(str(name), entry, name == best) for name, entry in stages.items() if isinstance(entry, dict)] \
        if isinstance(stages, dict) else []
    return {"stages": sorted(rows, key=lambda row: row["timestamp"] or 0), "best_stage": None if best is None else str(best)}


def _stage(name: str, entry: Dict[str, Any], is_best: bool) -> Dict[str, Any]:
    files, when = entry.get("files"), _number(entry.get("timestamp"))
    metrics = {str(key): _number(value) for key, value in entry.items() if key not in ("timestamp", "files", "stage_name")}
    return {"name": name, "best": is_best, "timestamp": when, "files": [str(f) for f in files] if isinstance(files, list) else [],
            "metrics": {key: value for key, value in metrics.items() if value is not None}}


def _number(value: Any) -> Optional[float]:
    """A finite number, also as text; None for all else."""
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None


def _shown(value: Any) -> Any:
    """A hyper-parameter as JSON can hold it."""
    return value if value is None or isinstance(value, (bool, int, str)) or _number(value) is not None else str(value)


def _findings(run: Run, on_progress: Optional[Callable[[int, int], None]]) -> Dict[str, Any]:
    from ymir_exc.host.check import check_output
    counts = {severity.value: 0 for severity in Severity}
    kept: List[Finding] = []
    for finding in check_output(run.out, given=run.given, on_progress=on_progress):
        counts[finding.rule.severity.value] += 1
        kept.append(finding)
        if len(kept) > 2 * MOST_FINDINGS:
            kept = _worst(kept)
    return {"counts": counts, "listed": as_json(_worst(kept))}


def _worst(findings: Iterable[Finding]) -> List[Finding]:
    order = list(Severity)
    return sorted(findings, key=lambda one: order.index(one.rule.severity))[:MOST_FINDINGS]


def log_tail(path: Path) -> List[str]:
    """The log's last lines as text, without colours and other control characters; empty without a log."""
    try:
        return [_CONTROL.sub("", line) for line in launch.tail(path, LOG_LINES)]
    except OSError:
        return []


def log_versions(path: Path) -> Dict[str, str]:
    """Versions that a program printed at its start: lower-case name to version. The first of a name is taken."""
    try:
        with path.open("rb") as f:
            head = f.read(_HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return {}
    found: Dict[str, str] = {}
    for name, version in _VERSION.findall(head):
        found.setdefault({"pytorch": "torch", "ymir_exc": "ymir-exc"}.get(name.lower(), name.lower()), version.rstrip("."))
    return found


def this_machine() -> Dict[str, str]:
    """Versions of what is installed where the page is made: name to version, of what is there."""
    import platform
    from importlib import metadata

    from ymir_exc import __version__
    found = {"ymir-exc": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in ("torch", "numpy", "pillow", "tensorboard", "pycocotools"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def time_span(scalars: Dict[str, List[Tuple[int, float, float]]]) -> Optional[float]:
    """Seconds from the first to the last event; None without two."""
    times = [point[1] for points in scalars.values() for point in points]
    return round(max(times) - min(times), 1) if len(times) > 1 else None
