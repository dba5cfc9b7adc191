"""Which of the objects found are really there: greedy by score, at an IoU of 0.5.

In the order of falling scores each found object takes the free true one that it overlaps most. So an object's match does not depend on
those with lower scores, and one matching serves every score threshold.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from ymir_exc import _rle
from ymir_exc.host.report import _rotated
from ymir_exc.host.report._objects import FULL_SCORE, Objects

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IOU = 0.5
STEPS = 100
"""Score thresholds 0, 0.01, ... 1."""

MOST_CLASSES = 25
"""Of the confusion matrix; the others are put together."""

MOST_POINTS = 200
NOTHING = -1


def decoded(mask: Any, width: int, height: int) -> NDArray[np.bool_]:
    """A mask `(height, width)` of COCO's RLE or polygons.

    Raises:
        ValueError: It is malformed.
    """
    return _rle.decode(mask if isinstance(mask, dict) else _rle.from_polygons(mask, height, width))


def overlaps(found: Objects, true: Objects) -> NDArray[np.float64]:
    """IoU `(N, M)`: of masks where both have one of the same size, else of boxes, as they are turned."""
    import numpy as np
    a, b = found.boxes[:, None], true.boxes[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    inter = sides[..., 0] * sides[..., 1]
    area_a, area_b = ((box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b))
    union = np.maximum(area_a + area_b - inter, 1e-9)
    ious: NDArray[np.float64] = inter / union
    if found.angles is not None or true.angles is not None:
        _put_rotated(ious, found, true)
    _put_masks(ious, found, true)
    return ious


def _put_rotated(ious: NDArray[np.float64], found: Objects, true: Objects) -> None:
    import numpy as np
    ones, others = ([_rotated.corners(box, 0.0 if objects.angles is None else objects.angles[n]) for n, box in enumerate(objects.boxes)]
                    for objects in (found, true))
    turned = [np.zeros(len(objects.boxes), bool) if objects.angles is None else objects.angles != 0 for objects in (found, true)]
    for row, column in zip(*(turned[0][:, None] | turned[1][None]).nonzero()):
        ious[row, column] = _rotated.overlap(ones[row], others[column])


def _put_masks(ious: NDArray[np.float64], found: Objects, true: Objects) -> None:
    cache: Dict[Tuple[int, int, int], Any] = {}
    for row, column in zip(*ious.nonzero()):
        masks = found.masks[row], true.masks[column]
        size = next((mask["size"] for mask in masks if isinstance(mask, dict)), None)
        if not all(masks) or size is None:
            continue
        try:
            one, other = (cache[key] if key in cache else cache.setdefault(key, decoded(mask, int(size[1]), int(size[0])))
                          for key, mask in (((0, int(row), 0), masks[0]), ((1, int(column), 0), masks[1])))
        except (ValueError, TypeError, KeyError):
            continue
        if one.shape == other.shape:
            union = int((one | other).sum())
            ious[row, column] = int((one & other).sum()) / union if union else 0.0


def match(ious: NDArray[np.float64], found: Objects, true: Objects, *, same_class: bool) -> List[int]:
    """The true object of each found one, -1 for none.

    Args:
        ious: `(N, M)`, of `overlaps`.
        found: N objects.
        true: M objects.
        same_class: Only one of the same class counts.
    """
    import numpy as np
    matched = [NOTHING] * len(found.scores)
    allowed = np.where(ious >= IOU, ious, -1.0)
    if same_class:
        allowed[found.classes[:, None] != true.classes[None]] = -1.0
    for index in np.argsort(-found.scores, kind="stable").tolist():
        if allowed.shape[1] == 0:
            break
        best = int(allowed[index].argmax())
        if allowed[index, best] > 0:
            matched[index] = best
            allowed[:, best] = -1.0
    return matched


def mistakes(found: Objects, true: Objects, matched: List[int], threshold: int) -> Tuple[int, int]:
    """How many true objects are missed, and how many found ones are not there, among those with at least this score (0..10000)."""
    seen = [m for m, score in zip(matched, found.scores.tolist()) if score >= threshold]
    hits = sum(m != NOTHING for m in seen)
    return len(true.scores) - hits, len(seen) - hits


class Quality:
    """Adds up how good a model is over images, for the precision-recall curves and the confusion matrix."""

    def __init__(self) -> None:
        self.images = 0
        self._scores: Dict[int, List[Tuple[int, bool]]] = {}
        self._true: Dict[int, int] = {}
        self._cells: Dict[Tuple[int, int], Dict[int, int]] = {}
        self._has_masks = self.is_rotated = False

    def add(self, found: Objects, true: Objects) -> List[int]:
        """Count one image; returns its matches within classes, as `match`."""
        self.images += 1
        ious = overlaps(found, true)
        matched = match(ious, found, true, same_class=True)
        for label, score, at in zip(found.classes.tolist(), found.scores.tolist(), matched):
            self._scores.setdefault(label, []).append((score, at != NOTHING))
        for label in true.classes.tolist():
            self._true[label] = self._true.get(label, 0) + 1
        for label, score, at in zip(found.classes.tolist(), found.scores.tolist(), match(ious, found, true, same_class=False)):
            really = NOTHING if at == NOTHING else int(true.classes[at])
            steps = self._cells.setdefault((really, label), {})
            steps[score * STEPS // FULL_SCORE] = steps.get(score * STEPS // FULL_SCORE, 0) + 1
        self._has_masks = self._has_masks or any(map(bool, true.masks))
        self.is_rotated = self.is_rotated or found.angles is not None or true.angles is not None
        return matched

    def result(self) -> Optional[Dict[str, Any]]:
        """The `quality` of report.json; None where no image has labels."""
        if not self.images:
            return None
        classes = [self._of_class(label) for label in sorted({*self._scores, *self._true})]
        return {"iou": IOU, "by": "masks" if self._has_masks else "boxes", "images": self.images, "classes": classes,
                "best_threshold": self._best_threshold(), "confusion": self._confusion()}

    def _of_class(self, label: int) -> Dict[str, Any]:
        rows = sorted(self._scores.get(label, ()), key=lambda row: -row[0])
        hits, false = [0] * (STEPS + 1), [0] * (STEPS + 1)
        points: List[List[float]] = []
        true, right = self._true.get(label, 0), 0
        for count, (score, is_hit) in enumerate(rows, 1):
            right += is_hit
            (hits if is_hit else false)[score * STEPS // FULL_SCORE] += 1
            if true and (count == len(rows) or rows[count][0] != score):    # equal scores are one point
                points.append([score / FULL_SCORE, round(right / count, 5), round(right / true, 5)])
        if len(points) > MOST_POINTS:
            points = [points[n * (len(points) - 1) // (MOST_POINTS - 1)] for n in range(MOST_POINTS)]
        return {"class": label, "truth": true, "found": len(rows), "curve": points, "hits": hits, "false": false}

    def _best_threshold(self) -> Optional[float]:
        """The threshold with the highest F1 over all classes, in steps of 0.01."""
        total = sum(self._true.values())
        best, best_f1 = None, 0.0
        hits = seen = 0
        by_step: Dict[int, List[int]] = {}
        for rows in self._scores.values():
            for score, is_hit in rows:
                cell = by_step.setdefault(score * STEPS // FULL_SCORE, [0, 0])
                cell[0] += is_hit
                cell[1] += 1
        for step in sorted(by_step, reverse=True):
            hits, seen = hits + by_step[step][0], seen + by_step[step][1]
            f1 = 2 * hits / (seen + total) if seen + total else 0.0
            if f1 > best_f1:
                best, best_f1 = step / STEPS, f1
        return best

    def _confusion(self) -> Dict[str, Any]:
        """Sparse cells: true class, found class (-1: nothing there), and how many at each step of the score."""
        common = sorted({*self._true, *(found for _, found in self._cells)}, key=lambda label: -self._true.get(label, 0))
        kept = sorted(common[:MOST_CLASSES])
        cells = [[true, found, sorted([step, count] for step, count in steps.items())]
                 for (true, found), steps in sorted(self._cells.items())]
        return {"classes": kept, "truth": [self._true.get(label, 0) for label in kept], "cells": cells,
                "others": len(common) - len(kept), "others_truth": sum(self._true.get(label, 0) for label in common[MOST_CLASSES:])}
