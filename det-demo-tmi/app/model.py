"""The detector: a small convolutional network that says for every 8 x 8 cell of the image what is there and where it ends.

It is single-stage and anchor-free: one probability for each class and one box for each cell, no proposals and no prior box shapes.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 8
WIDTHS = (24, 48, 96)    # channels at strides 4, 8 and 16


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
        self.class_head, self.box_head = nn.Conv2d(middle, num_classes, 1), nn.Conv2d(middle, 4, 1)
        for head, bias in ((self.class_head, -4.0), (self.box_head, 1.0)):    # all is background; boxes have sides of 2 * 8 * e pixels
            nn.init.normal_(head.weight, std=0.01)
            head.bias = nn.Parameter(torch.full((head.out_channels,), bias))
        self.to(memory_format=torch.channels_last)    # type: ignore[call-overload]    # what convolutions on CPU and GPU are fastest in

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict from `(B, 3, H, W)`, 0..255, sides multiples of 16.

        Returns:
            Logits `(B, A, num_classes)` and boxes `(B, A, 4)` in pixels of the input, of A = H/8 * W/8 cells, row by row.
        """
        x = ((images.float() - 115) / 64).contiguous(memory_format=torch.channels_last)
        fine = self.stage8(self.stem(x))
        coarse = self.stage16(fine)
        merged = self.merge(self.detail(fine) + F.interpolate(self.context(coarse), scale_factor=2.0, mode="nearest"))
        logits = self.class_head(self.class_tower(merged)).float()
        distances = self.box_head(self.box_tower(merged)).float().clamp(max=6).exp() * STRIDE
        return _rows(logits), decode(_rows(distances), centres(images))


def _rows(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)


def centres(images: Tensor) -> Tensor:
    """The middle points `(A, 2)` of the cells of images `(B, 3, H, W)`, in pixels, row by row."""
    y, x = (torch.arange(side // STRIDE, device=images.device) for side in images.shape[2:])
    return (torch.cartesian_prod(y, x).flip(1) + 0.5) * STRIDE


def decode(distances: Tensor, points: Tensor) -> Tensor:
    """Boxes `(..., A, 4)` from the distances `(..., A, 4)` of points `(A, 2)` to the left, upper, right and lower edge."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), -1)
