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


def merge(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Greedy class-wise non-maximum suppression, with box voting (Gidaris and Komodakis, 2015), of each image's boxes by falling score.

    A box goes when its IoU with a better one of its class that stays is above `threshold`. Which of `(B, K)` stay, bool, and their boxes
    `(B, K, 4)`: each the mean of all of its class that overlap it so, the surer ones counting for far more. A score of 0 stands for no box.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    width = torch.minimum(x2[:, :, None], x2[:, None]).sub_(torch.maximum(x1[:, :, None], x1[:, None])).clamp_(min=0)
    height = torch.minimum(y2[:, :, None], y2[:, None]).sub_(torch.maximum(y1[:, :, None], y1[:, None])).clamp_(min=0)
    inner, areas = width.mul_(height), area(boxes) * threshold
    alike = inner.mul_(1 + threshold) > areas[:, :, None] + areas[:, None]    # their IoU is above the threshold
    votes = (alike & (labels[:, :, None] == labels[:, None])).to(boxes.dtype)
    beats = votes.triu(1)    # beats[i, j]: i is better than j and overlaps it
    keep = torch.ones_like(scores)
    while True:    # round r settles at least the first r boxes; a few rounds settle all
        settled = torch.bmm(keep[:, None], beats)[:, 0].eq(0).to(keep)
        if torch.equal(settled, keep):
            break
        keep = settled
    votes.diagonal(dim1=1, dim2=2).fill_(1)
    weights = votes * (scores.clamp(min=1e-3) ** 5 * (scores > 0))[:, None]
    return (keep > 0) & (scores > 0), weights @ boxes / weights.sum(-1, keepdim=True).clamp(min=1e-20)
