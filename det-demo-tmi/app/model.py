"""The detector: a small convolutional network that says for every 8 x 8 cell of the image what is there and where it ends.

It is single-stage and anchor-free: one probability for each class and one box for each cell, no proposals and no prior box shapes. The
boxes that matter, those of a few cells, are then refined by a second look at what lies within them.
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 8
WIDTHS = (24, 48, 96)    # channels at strides 4, 8 and 16
GRID, DETAIL = 7, 16    # a box is refined by what GRID x GRID points of it show in DETAIL channels


class Predictions(NamedTuple):
    """Of A = H/8 * W/8 cells, row by row."""

    logits: Tensor    # (B, A, num_classes)
    boxes: Tensor    # (B, A, 4) in pixels of the input
    detail: Tensor    # (B, DETAIL, H/8, W/8), for `refine`
    embedding: Tensor    # (B, 48), what the image looks like on the whole


class ConvBlock(nn.Sequential):
    """Convolution, normalisation, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs),
                         nn.SiLU(inplace=True))


class Residual(nn.Module):
    """Two blocks that learn what to add to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(ConvBlock(channels, channels), ConvBlock(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` in and out."""
        return x.add(self.blocks(x))


class Detector(nn.Module):
    """Images in, class logits and boxes for every cell out."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        fine, middle, coarse = WIDTHS
        self.stem = nn.Sequential(ConvBlock(3, fine // 2, stride=2), ConvBlock(fine // 2, fine, stride=2), Residual(fine))
        self.stage8 = nn.Sequential(ConvBlock(fine, middle, stride=2), Residual(middle))
        self.stage16 = nn.Sequential(ConvBlock(middle, coarse, stride=2), Residual(coarse))
        self.detail, self.context = ConvBlock(middle, middle, 1), ConvBlock(coarse, middle, 1)
        self.merge = ConvBlock(middle, middle)
        self.class_tower, self.box_tower = ConvBlock(middle, middle), ConvBlock(middle, middle)
        self.class_last, self.box_last = nn.Linear(middle, num_classes), nn.Linear(middle, 4)
        self.look = nn.Linear(middle, DETAIL)
        self.refiner, self.refiner_last = nn.Sequential(nn.Linear(GRID * GRID * DETAIL, 64), nn.SiLU()), nn.Linear(64, 4)
        # At first all is background, boxes have sides of 2 * 8 * e pixels, and refining changes nothing.
        for last, bias in ((self.class_last, -4.0), (self.box_last, 1.0), (self.refiner_last, 0.0)):
            nn.init.normal_(last.weight, std=0.01)
            nn.init.constant_(last.bias, bias)
        self.to(memory_format=torch.channels_last)    # type: ignore[call-overload]    # what convolutions on CPU and GPU are fastest in

    def forward(self, images: Tensor) -> Predictions:
        """Predict from `(B, 3, H, W)`, 0..255, sides multiples of 16."""
        x = images.float().mul(1 / 64).sub_(115 / 64).contiguous(memory_format=torch.channels_last)
        fine = self.stage8(self.stem(x))
        coarse = self.stage16(fine)
        merged = self.merge(self.detail(fine) + F.interpolate(self.context(coarse), scale_factor=2.0, mode="nearest"))
        of_class, of_box = (tower(merged).permute(0, 2, 3, 1) for tower in (self.class_tower, self.box_tower))
        distances = self.box_last(of_box).flatten(1, 2).float().clamp(max=6).exp() * STRIDE
        return Predictions(self.class_last(of_class).flatten(1, 2).float(), decode(distances, centres(images)),
                           self.look(of_box).permute(0, 3, 1, 2).float(), merged.mean((2, 3)).float())

    def refine(self, detail: Tensor, boxes: Tensor) -> Tensor:
        """Move the edges of `(B, K, 4)` boxes to where a second look sees them; the gradient does not reach the given boxes."""
        given = boxes.detach()
        sides = (given[..., 2:] - given[..., :2]).clamp(min=1)
        steps = torch.linspace(-0.52, 0.52, GRID, device=given.device)    # from a little beyond one edge to a little beyond the other
        points = (given[..., :2] + given[..., 2:])[:, :, None] / 2 + sides[:, :, None] * torch.cartesian_prod(steps, steps).flip(1)
        size = given.new_tensor([detail.shape[3], detail.shape[2]]) * STRIDE
        seen = F.grid_sample(detail, points / size * 2 - 1, align_corners=False)    # (B, DETAIL, K, GRID * GRID)
        moves = self.refiner_last(self.refiner(seen.permute(0, 2, 3, 1).flatten(2)))
        return given + moves.float() * sides.repeat(1, 1, 2) / 2


def centres(images: Tensor) -> Tensor:
    """The middle points `(A, 2)` of the cells of images `(B, 3, H, W)`, in pixels, row by row."""
    y, x = (torch.arange(side // STRIDE, device=images.device) for side in images.shape[2:])
    return (torch.cartesian_prod(y, x).flip(1) + 0.5) * STRIDE


def decode(distances: Tensor, points: Tensor) -> Tensor:
    """Boxes `(..., A, 4)` from the distances `(..., A, 4)` of points `(A, 2)` to the left, upper, right and lower edge."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), -1)
