"""Random changes to a whole batch, on whichever device it lies: few images must stand for many."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from data import Batch


def augment(batch: Batch, size: int) -> Batch:
    """Mirrored, turned by quarters, in squares of another size, and coloured differently; no box loses its tightness by that."""
    images, boxes, side = batch.images, batch.boxes, batch.images.shape[-1]
    mirrored = [2, 1, 0, 3], [0, 3, 2, 1]
    for axis, swap in enumerate(mirrored):    # left and right, then top and bottom
        coin, sides = _coin(images), torch.zeros(4, device=boxes.device)
        sides[[axis, axis + 2]] = 1
        flipped = torch.where(sides > 0, side - boxes[..., swap], boxes)
        images, boxes = _where(coin, images.flip(3 - axis), images), _where(coin, flipped, boxes)
    coin = _coin(images)
    images, boxes = _where(coin, images.transpose(2, 3), images), _where(coin, boxes[..., [1, 0, 3, 2]], boxes)
    images = _where(_coin(images), images[:, torch.randperm(3, device=images.device)], images)
    if size != side:
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return Batch(_colour(images.float()), boxes * (size / side), batch.labels)


def _colour(images: Tensor) -> Tensor:
    """Another contrast for each image, and another brightness for each of its channels."""
    gain = torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(0.8, 1.2)
    shift = torch.empty(len(images), 3, 1, 1, device=images.device).uniform_(-12, 12)
    return (images - 115) * gain + 115 + shift


def _coin(images: Tensor) -> Tensor:
    return torch.rand(len(images), device=images.device) < 0.5


def _where(coin: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(coin.view(-1, *[1] * (no.ndim - 1)), yes, no)
