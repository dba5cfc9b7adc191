"""Random changes to a whole batch, on whichever device it lies: few images must stand for many."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from data import Batch


def augment(batch: Batch, size: int) -> Batch:
    """Mirrored, turned by quarters, in squares of another size, and coloured differently; no box loses its tightness by that."""
    images, boxes, side = batch.images.clone(), batch.boxes.clone(), batch.images.shape[-1]
    some = torch.rand(4, len(images), device=images.device) < 0.5    # for each change, which images it is done to
    mirrored = [2, 1, 0, 3], [0, 3, 2, 1]
    for axis, swap in enumerate(mirrored):    # left and right, then top and bottom
        sides = torch.zeros(4, device=boxes.device)
        sides[[axis, axis + 2]] = side
        images[some[axis]], boxes[some[axis]] = images[some[axis]].flip(3 - axis), (sides - boxes[some[axis]][..., swap]).abs()
    images[some[2]], boxes[some[2]] = images[some[2]].transpose(2, 3), boxes[some[2]][..., [1, 0, 3, 2]]
    images[some[3]] = images[some[3]][:, torch.randperm(3, device=images.device)]
    if size != side:
        images = images if images.device.type == "cpu" else images.float()    # only CPUs resize bytes
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return Batch(_colour(images.float()), boxes * (size / side), batch.labels)


def _colour(images: Tensor) -> Tensor:
    """Another contrast for each image, and another brightness for each of its channels."""
    gain = torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(0.8, 1.2)
    shift = torch.empty(len(images), 3, 1, 1, device=images.device).uniform_(-12, 12)
    return torch.addcmul(shift + 115 * (1 - gain), images, gain)
