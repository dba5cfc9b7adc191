"""What becomes of the boxes of an image when it is changed a little: CALD."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Optional, Sequence, Tuple

import numpy as np

from ymir_exc.errors import ArgumentError
from ymir_exc.mining._arrays import jensen_shannon, numbers, probabilities

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ymir_exc.mining._arrays import Floats


def cald(boxes: ArrayLike, probabilities_: ArrayLike, augmented: Sequence[Tuple[ArrayLike, ArrayLike]], beta: float = 1.3,
         kind: str = "softmax") -> float:
    """Inconsistency under augmentation (Yu et al., "Consistency-based Active Learning for Object Detection", 2022, first stage).

    A box k of the image has as its counterpart in an augmented image the box j that it overlaps most. They are as consistent as
    `m_k = IoU + (max p_k + max p_j) / 2 * (1 - JS(p_k, p_j))`, in 0..2, with the Jensen-Shannon divergence in bits (of a sigmoid, that of
    the class that differs most). The most informative boxes are neither stable nor utterly lost, but near the base point `beta`: an image
    has `M = mean over augmentations of (min over boxes of |m_k - beta|)`, and a small M is worth labelling.

    Of counterparts that overlap equally, the most consistent one counts. A box that overlaps none has `m_k = 0`.

    Args:
        boxes: (N, 4), xmin, ymin, xmax, ymax in the image, as continuous coordinates.
        probabilities_: (N, C), of their classes.
        augmented: For each augmentation (flip, cutout, smaller size, rotation, ...) the boxes (M, 4) and probabilities (M, C) that were
            found on the changed image, the boxes mapped back to the coordinates of the unchanged one.
        beta: The base point, in 0..2; 1.3 is the authors' choice.
        kind: "softmax" or "sigmoid".

    Returns:
        `1 - M / max(beta, 2 - beta)`, in 0..1. 0 for an image without boxes, and for one whose augmented images have none (if beta is at
        least 1).

    Raises:
        ArgumentError: There is no augmentation, or a box has its corners the wrong way round.
    """
    if not 0 <= beta <= 2:
        raise ArgumentError(f"beta is {beta}; it should be in 0..2")
    if len(augmented) == 0:
        raise ArgumentError("CALD compares an image with augmented ones; there are none")
    mine, p = _checked(boxes, probabilities_, kind, "")
    others = [_checked(*found, kind, f"augmented[{i}]: ", p.shape[1] if len(p) else None) for i, found in enumerate(augmented)]
    if not len(mine):
        return 0.0
    distances = [float(np.abs(_consistencies(mine, p, other, q, kind) - beta).min()) for other, q in others]
    return 1 - math.fsum(distances) / len(distances) / max(beta, 2 - beta)


def class_confidences(*found: ArrayLike, kind: str = "softmax") -> Floats:
    """The greatest probability of each class on an image and its augmentations: a row for `select_by_class`.

    Args:
        found: Probabilities (N, C) of the boxes on the image and on each augmentation; those without boxes may be left out or empty, one
            at least says how many classes there are: its shape is (0, C) where nothing was found anywhere.
        kind: "softmax" or "sigmoid".

    Returns:
        (C,) in 0..1; 0 where nothing was found.
    """
    checked = [probabilities(values, kind, f"found[{i}]") for i, values in enumerate(found)]
    lengths = {np.asarray(values).shape[-1] for values in found if np.asarray(values).ndim == 2}
    if len(lengths) != 1:
        raise ArgumentError(f"the number of classes cannot be told: probabilities have {sorted(lengths) or 'no'} columns")
    highest: Floats = np.concatenate([np.zeros((1, lengths.pop())), *(p for p in checked if len(p))]).max(0)
    return highest


def _checked(boxes: ArrayLike, probabilities_: ArrayLike, kind: str, where: str, classes: Optional[int] = None) -> Tuple[Floats, Floats]:
    corners = numbers(boxes, f"{where}boxes", None, 4)
    if (corners[:, 2:] < corners[:, :2]).any():
        raise ArgumentError(f"{where}boxes have xmax < xmin or ymax < ymin", hint="boxes are corners: xmin, ymin, xmax, ymax")
    return corners, probabilities(probabilities_, kind, f"{where}probabilities", (len(corners), classes if len(corners) else None))


def _consistencies(boxes: Floats, p: Floats, others: Floats, q: Floats, kind: str) -> Floats:
    """`m_k` of each of the boxes `(N, 4)` with what corresponds to it among the others."""
    if not len(others):
        return np.zeros(len(boxes))
    overlap = _overlaps(boxes, others)
    best = overlap.max(1)
    mine, theirs = np.nonzero((overlap == best[:, None]) & (best[:, None] > 0))
    alike = (p[mine].max(1) + q[theirs].max(1)) / 2 * (1 - jensen_shannon(p[mine], q[theirs], kind))
    most = np.zeros(len(boxes))
    np.maximum.at(most, mine, alike)
    return np.asarray(best + most)


def _overlaps(boxes: Floats, others: Floats) -> Floats:
    """Intersection over union, (N, M); 0 for boxes without area."""
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    common = np.clip(sides, 0, None).prod(2)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None] + (others[:, 2:] - others[:, :2]).prod(1) - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))
