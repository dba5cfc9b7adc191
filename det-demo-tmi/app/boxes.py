"""Box arithmetic in plain tensors.

A box is `(x1, y1, x2, y2)` in pixels from the top left corner of the image; `x2` and `y2` lie just outside, so the width is `x2 - x1`.
"""
from __future__ import annotations

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """Areas `(...)` of boxes `(..., 4)`."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU (0..1) and generalised IoU (-1..1; Rezatofighi et al., 2019) of boxes `(..., 4)` whose shapes broadcast."""
    inner = area(torch.cat((torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])), -1))
    hull = area(torch.cat((torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])), -1))
    union = area(a) + area(b) - inner
    iou = inner / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


def nms(boxes: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Greedy class-wise non-maximum suppression: which of boxes `(B, K, 4)` with labels `(B, K)` stay, `(B, K)` bool.

    Each image's boxes are sorted by falling score; a box goes when its IoU with a better one of its class that stays is above `threshold`.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    width = torch.minimum(x2[:, :, None], x2[:, None]) - torch.maximum(x1[:, :, None], x1[:, None])
    height = torch.minimum(y2[:, :, None], y2[:, None]) - torch.maximum(y1[:, :, None], y1[:, None])
    inner, areas = width.clamp_(min=0) * height.clamp_(min=0), area(boxes) * threshold
    overlaps = inner * (1 + threshold) > areas[:, :, None] + areas[:, None]    # their IoU is above the threshold
    beats = (overlaps & (labels[:, :, None] == labels[:, None])).triu(1)    # beats[i, j]: i is better than j and overlaps it
    keep = torch.ones_like(labels, dtype=torch.bool)
    while True:    # round r settles at least the first r boxes; a few rounds settle all
        settled = ~(beats & keep[:, :, None]).any(1)
        if torch.equal(settled, keep):
            return keep
        keep = settled
