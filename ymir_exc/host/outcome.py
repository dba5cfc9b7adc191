"""Tells a person, or a program, how a run over a dataset folder ended."""
from __future__ import annotations

import os
import re
import sys
from typing import Any, Dict, List

from ymir_exc.errors import EXIT_FAILED
from ymir_exc.host import findings, launch, runner, show

_MOST_FINDINGS = 20
_LAST_LINES = 12
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")    # colours, movements of the cursor


def exit_status(result: runner.Result) -> int:
    """1 for a program that failed, 4 for an output that the platform would refuse, else 0."""
    return EXIT_FAILED if result.run.status else findings.exit_code(result.findings)


def as_json(job: runner.Job, result: runner.Result) -> Dict[str, Any]:
    """Plain values.

    Returns:
        `task`, `exit` (this command's status), `status` (the program's), `seconds`, `reason` of a failure or '', `out`, `log`, the parts of
        `runner.figures`, and `findings`.
    """
    failed = bool(result.run.status)
    return {"task": job.name, "exit": exit_status(result), "status": result.run.status, "seconds": round(result.run.seconds, 3),
            "reason": runner.reason(result.run) if failed else "", "out": str(result.space.output), "log": str(result.run.log),
            **({} if failed else runner.figures(result)), "findings": findings.as_json(result.findings)}


def tell(job: runner.Job, result: runner.Result) -> None:
    """Print what came out and where it is, on stdout; of a failure the reason and the log's last lines, on stderr."""
    if result.run.status:
        lines = [f"  | {_printable(line)}" for line in launch.tail(result.run.log, _LAST_LINES)]
        reason = _printable(runner.reason(result.run))
        print("\n".join([*lines, f"ymir-exc: {job.name} failed with status {result.run.status}: {reason}",
                         f"  all that it printed: {result.run.log}"]), file=sys.stderr)
        return
    found = runner.figures(result)
    for part, show_part in (("training", _show_training), ("mining", _show_mining), ("infer", _show_infer)):
        if part in found:
            show_part(found[part])
    rows = [("log", str(result.run.log)), *((name, found[part]["file"]) for part, name in
            (("training", "result"), ("mining", "ranking"), ("infer", "detections")) if part in found)]
    rows += [("model", file) for file in found.get("training", {}).get("files", [])]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"  {name:<{width}}  {path}" for name, path in rows))
    for line in _told(result.findings):
        print(line)
    print(f"\n{job.name}: {result.run.seconds:.1f} s, {_count(result.findings)}")


def _printable(line: str) -> str:
    """Without what a terminal would obey: colours, and the rest of what a program may print that should have written to a file."""
    return "".join(c for c in _SEQUENCE.sub("", line).replace("\t", "    ") if c.isprintable())


def _show_training(found: Dict[str, Any]) -> None:
    stages: Dict[str, Dict[str, Any]] = found["stages"]
    metrics = sorted({name for stage in stages.values() for name, value in stage.items() if isinstance(value, (int, float))})
    rows = [[name, *(_number(stage.get(metric)) for metric in metrics), "best" if name == found["best"] else ""]
            for name, stage in stages.items()]
    show.table("Training", ["stage", *metrics, ""], rows, numbers=range(1, len(metrics) + 1))


def _show_mining(found: Dict[str, Any]) -> None:
    rows = [[str(n), os.path.basename(row[0]), _number(row[1] if len(row) > 1 else None)] for n, row in enumerate(found["top"], 1)]
    show.table(f"Mining: {found['images']} images ranked", ["", "image", "score"], rows, numbers=(0, 2))


def _show_infer(found: Dict[str, Any]) -> None:
    show.table("Inference", ["images", "objects"], [[str(found["images"]), str(found["objects"])]], numbers=(0, 1))


def _number(value: Any) -> str:
    try:
        return f"{float(value):.4f}" if not isinstance(value, int) else str(value)
    except (TypeError, ValueError):
        return "-" if value is None else str(value)


def _told(found: List[findings.Finding]) -> List[str]:
    lines = []
    for one in found[:_MOST_FINDINGS]:
        lines += [f"{one.rule.severity.value} {one.rule.code}: {one.place}: {one.message}", f"  {one.rule.remedy}"]
    if len(found) > _MOST_FINDINGS:
        lines.append(f"and {len(found) - _MOST_FINDINGS} more: ymir-exc check shows all")
    return ["", *lines] if lines else []


def _count(found: List[findings.Finding]) -> str:
    counts = [(severity, sum(one.rule.severity == severity for one in found)) for severity in findings.Severity]
    told = [f"{count} {severity.value}{'s' if count > 1 else ''}" for severity, count in counts if count]
    return f"the checks found {', '.join(told)}" if told else "the checks found nothing wrong"
