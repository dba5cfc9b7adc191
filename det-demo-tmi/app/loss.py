"""What the detector is told: which cells are responsible for which object, and how wrong they are."""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from boxes import overlap
from data import Batch
from model import Detector, Predictions

CELLS_PER_OBJECT = 12
BOX_WEIGHT = 2.0


class Losses(NamedTuple):
    """The weighted sum, which is minimised, and its two parts."""

    total: Tensor
    classes: Tensor
    boxes: Tensor


def detection_loss(model: Detector, predicted: Predictions, points: Tensor, batch: Batch) -> Losses:
    """Quality focal loss (Li et al., 2020) for the classes, generalised IoU for the boxes, before and after they are refined.

    The target of a class is the IoU that the refined box reaches, so that scores come to rank boxes by how well they fit. The middles of
    the cells lie at points `(A, 2)`.
    """
    logits, boxes, detail, _ = predicted
    owner = assign(logits.detach(), boxes.detach(), points, batch)
    mine, cells = (owner >= 0).float().topk(max(1, int((owner >= 0).sum(1).max())), 1)    # of every image as many: some are nobody's
    refined = model.refine(detail, boxes.gather(1, cells[..., None].expand(-1, -1, 4)))[mine > 0]
    image, cell = mine.nonzero()[:, 0], cells[mine > 0]
    truth, count = owner[image, cell], max(1, len(image))
    iou, giou = overlap(refined, batch.boxes[image, truth])
    _, first_giou = overlap(boxes[image, cell], batch.boxes[image, truth])
    quality = torch.zeros_like(logits)
    quality[image, cell, batch.labels[image, truth]] = iou.detach()
    surprise = (quality - logits.detach().sigmoid()).abs() ** 2
    class_loss = (surprise * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")).sum() / count
    box_loss, first_loss = (1 - giou).sum() / count, (1 - first_giou).sum() / count
    return Losses(class_loss + BOX_WEIGHT * (first_loss + box_loss), class_loss.detach(), box_loss.detach())


def assign(logits: Tensor, boxes: Tensor, points: Tensor, batch: Batch) -> Tensor:
    """The object that each cell is responsible for: `(B, A)`, an index into the image's boxes, -1 for background.

    An object gets those cells inside it that already predict it best, by class score and IoU (task-aligned assignment, Feng et al.,
    2021); where nothing predicts it yet, those nearest its middle. A cell that two objects want takes the one with the higher IoU.
    """
    truth, labels = batch.boxes[:, :, None], batch.labels
    edges = torch.cat((points - truth[..., :2], truth[..., 2:] - points), -1)
    inside = (edges.amin(-1) > 0) & (labels >= 0)[..., None]    # (B, M, A)
    iou, _ = overlap(boxes[:, None], truth)
    score = logits.sigmoid().transpose(1, 2).gather(1, labels.clamp(min=0)[..., None].expand_as(iou))
    off_middle = ((truth[..., :2] + truth[..., 2:]) / 2 - points).pow(2).sum(-1)
    fitness = (score * iou**6 + 1e-9 / (1 + off_middle)) * inside
    best = fitness.topk(min(CELLS_PER_OBJECT, fitness.shape[-1]), -1)
    chosen = torch.zeros_like(inside).scatter_(-1, best.indices, best.values > 0)
    claim = torch.where(chosen, iou, -1.0).max(1)
    return torch.where(claim.values >= 0, claim.indices, -1)
