"""Curves from TensorBoard's event files."""
from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from ymir_exc.errors import ConfigError

MOST_POINTS = 400
"""Of a curve on the page: more than it has pixels."""

MOST_TAGS = 60
MOST_BYTES = 1 << 30

Point = Tuple[int, float, float]
"""Step, time in seconds since 1970, value."""


def read_scalars(folder: Path, problems: List[str]) -> Dict[str, List[Point]]:
    """The scalars of all event files below a folder.

    Args:
        folder: Where `SummaryWriter` wrote; a link that leads nowhere is passed over (contract 1.2).
        problems: What could not be read is told here.

    Returns:
        Tag to points in the order of steps, not more than `MOST_POINTS` evenly chosen, first and last among them. Where a step was written
        twice, as after a resume, the later counts. What is not finite is left out, and told.

    Raises:
        ConfigError: tensorboard is not installed.
    """
    files = sorted(path for path in folder.rglob("*tfevents*") if path.is_file()) if folder.is_dir() else []
    found: Dict[str, Dict[int, Tuple[float, float]]] = {}
    left_out: Dict[str, int] = {}
    for path in files:
        if path.stat().st_size > MOST_BYTES:
            problems.append(f"{path} is larger than {MOST_BYTES >> 30} GiB and was not read")
            continue
        prefix = "" if path.parent == folder else f"{path.parent.relative_to(folder)}/"
        try:
            for tag, step, when, value in _scalars(path):
                if math.isfinite(value):
                    _keep(found.setdefault(prefix + tag, {}), step, when, value)
                else:
                    left_out[prefix + tag] = left_out.get(prefix + tag, 0) + 1
        except ConfigError:
            raise
        except Exception as e:    # the reader raises what a malformed file makes it stumble over
            problems.append(f"{path} could be read only in part: {type(e).__name__}: {e}")
    if left_out:
        problems.append("values of curves that are not finite, which are left out: "
                        + ", ".join(f"{left_out[tag]} of {tag}" for tag in sorted(left_out)[:MOST_TAGS]))
    if len(found) > MOST_TAGS:
        problems.append(f"{len(found)} curves were written to {folder}; the first {MOST_TAGS} by name are shown")
    return {tag: _thinned(found[tag]) for tag in sorted(found)[:MOST_TAGS]}


def _keep(points: Dict[int, Tuple[float, float]], step: int, when: float, value: float) -> None:
    if step not in points or points[step][0] <= when:
        points[step] = (when, value)


def _thinned(points: Dict[int, Tuple[float, float]]) -> List[Point]:
    steps = sorted(points)
    if len(steps) > MOST_POINTS:
        steps = [steps[n * (len(steps) - 1) // (MOST_POINTS - 1)] for n in range(MOST_POINTS)]
    return [(step, points[step][0], points[step][1]) for step in steps]


def _scalars(path: Path) -> Iterator[Tuple[str, int, float, float]]:
    try:
        from tensorboard.backend.event_processing import event_file_loader
        from tensorboard.util import tensor_util
    except ModuleNotFoundError as e:
        raise ConfigError(f"reading the curves needs {e.name}, which is not installed", hint='pip install "ymir-exc[host]"') from e
    for event in event_file_loader.EventFileLoader(str(path)).Load():    # which turns older forms into tensors
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars":
                array: Any = tensor_util.make_ndarray(value.tensor)
                if array.size == 1:
                    yield value.tag, int(event.step), float(event.wall_time), float(array.reshape(()))
