"""From the platform's index files to batches of tensors."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Callable, NamedTuple, Optional, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ymir_exc import dataset_reader, errors
from ymir_exc.env import DatasetType

GREY = (114, 114, 114)    # fills the part of the square that the image leaves free


class Truth(NamedTuple):
    """What is to be seen on one image: `boxes` `(N, 4)` as in boxes.py, in pixels of the image; `labels` `(N,)` index class_names."""

    path: str
    boxes: Tensor
    labels: Tensor


class Batch(NamedTuple):
    """`images` `(B, 3, S, S)`, 0..255; `boxes` `(B, M, 4)` in pixels of the square; `labels` `(B, M)`, -1 where there is no box."""

    images: Tensor
    boxes: Tensor
    labels: Tensor


class Letterbox(NamedTuple):
    """How an image of `width` x `height` pixels lies in its square: scaled, then moved right and down."""

    width: int
    height: int
    scale: float
    left: int
    top: int

    def to_square(self, boxes: Tensor) -> Tensor:
        """From pixels of the image to pixels of the square."""
        return boxes * self.scale + boxes.new_tensor([self.left, self.top] * 2)

    def to_image(self, boxes: Tensor) -> Tensor:
        """From pixels of the square to pixels of the image, clipped to it."""
        boxes = (boxes - boxes.new_tensor([self.left, self.top] * 2)) / self.scale
        return boxes.clamp(min=0).minimum(boxes.new_tensor([self.width, self.height] * 2))


def fit(width: int, height: int, size: int) -> Letterbox:
    """In the middle of the square, as large as possible."""
    scale = size / max(width, height)
    return Letterbox(width, height, scale, (size - round(width * scale)) // 2, (size - round(height * scale)) // 2)


def read_truths(split: DatasetType) -> list[Truth]:
    """Every image of an index file with its objects; raises DatasetError when there is none."""
    truths = []
    for item in dataset_reader.items(split):
        corners = [(o.xmin, o.ymin, o.xmax + 1, o.ymax + 1) for o in item.objects]    # the platform's last pixel is inside
        labels = torch.tensor([o.class_id for o in item.objects], dtype=torch.int64)
        truths.append(Truth(item.asset, torch.tensor(corners, dtype=torch.float32).view(-1, 4), labels))
    if not truths:
        raise errors.DatasetError(f"{dataset_reader.index_file(split)} names no image", hint="choose a dataset that is not empty")
    return truths


def count_objects(truths: Sequence[Truth], num_classes: int) -> list[int]:
    """How many there are of each class."""
    return [sum(int((truth.labels == label).sum()) for truth in truths) for label in range(num_classes)]


def load_square(path: str, size: int) -> tuple[Tensor, Letterbox]:
    """One image, upright, in RGB, in a square: `(3, size, size)` uint8; raises ImageError when it cannot be decoded."""
    image, (width, height) = dataset_reader.load_image(path, size)
    place = fit(width, height, size)
    inner = (max(1, round(width * place.scale)), max(1, round(height * place.scale)))
    square = Image.new("RGB", (size, size), GREY)
    square.paste(image if image.size == inner else image.resize(inner, Image.Resampling.BILINEAR), (place.left, place.top))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1), place


class DetectionDataset(Dataset[Optional[Batch]]):
    """Images in squares with their boxes, each a batch of one; decoded once and kept in memory as far as the budget goes.

    An image that cannot be read is None; `broken` counts them, and raises ImageError when there are too many.
    """

    def __init__(self, truths: Sequence[Truth], size: int, cache_mb: int, broken: dataset_reader.BrokenImages) -> None:
        self.truths, self.size, self.broken = truths, size, broken
        self._cached: list[Batch | None] = []
        self._room = min(len(truths), cache_mb * 2**20 // (3 * size * size))

    def __len__(self) -> int:
        return len(self.truths)

    def __getitem__(self, index: int) -> Batch | None:
        if index < len(self._cached):
            return self._cached[index]
        truth = self.truths[index]
        try:
            image, place = load_square(truth.path, self.size)
        except errors.ImageError as e:
            self.broken.add(truth.path, e)
            return None
        return Batch(image[None], place.to_square(truth.boxes)[None], truth.labels[None])

    def fill_cache(self, on_image: Callable[[float], None]) -> None:
        """Decode in advance; `on_image` is told the fraction that is done."""
        with ThreadPoolExecutor() as pool:
            for sample in pool.map(self.__getitem__, range(self._room)):
                self._cached.append(sample)
                on_image(len(self._cached) / self._room)


def collate(samples: Sequence[Batch | None]) -> Batch | None:
    """Batches of one become one batch; lists of boxes are filled up, with label -1, to one or more. None when no image can be read."""
    readable = [sample for sample in samples if sample is not None]
    if not readable:
        return None
    images, boxes, labels = zip(*readable)
    none = torch.zeros(1, 4), torch.full((1,), -1)    # so that a batch without objects has a list too
    return Batch(torch.cat(images), pad_sequence([none[0], *(b[0] for b in boxes)], batch_first=True)[1:],
                 pad_sequence([none[1], *(label[0] for label in labels)], batch_first=True, padding_value=-1)[1:])
