"""From the platform's index files to batches of tensors."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Iterator, NamedTuple, Optional, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ymir_exc import dataset_reader, errors
from ymir_exc.env import DatasetType
from ymir_exc.images import BrokenImages, load_square


class Truth(NamedTuple):
    """What is to be seen on one image: `boxes` `(N, 4)` as in boxes.py, in pixels of the image; `labels` `(N,)` index class_names."""

    path: str
    boxes: np.ndarray
    labels: np.ndarray


class Batch(NamedTuple):
    """`images` `(B, 3, S, S)`, 0..255; `boxes` `(B, M, 4)` in pixels of the square; `labels` `(B, M)`, -1 where there is no box."""

    images: Tensor
    boxes: Tensor
    labels: Tensor


def read_truths(split: DatasetType) -> list[Truth]:
    """Every image of an index file with its objects; raises DatasetError when there is none."""
    truths = [Truth(item.asset, *item.arrays()) for item in dataset_reader.items(split)]
    if not truths:
        raise errors.DatasetError(f"{dataset_reader.index_file(split)} names no image", hint="choose a dataset that is not empty")
    return truths


class DetectionDataset(Dataset[Optional[Batch]]):
    """Images in squares with their boxes, each a batch of one, None if it cannot be read; kept in memory as far as the budget goes."""

    def __init__(self, truths: Sequence[Truth], size: int, cache_mb: int, broken: BrokenImages) -> None:
        self.truths, self.size, self.broken = truths, size, broken
        self._cached: list[Batch | None] = []
        self.pool = ThreadPoolExecutor()
        self.room = min(len(truths), cache_mb * 2**20 // (3 * size * size))

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
        boxes, inside = place.visible(truth.boxes)
        parts = image.transpose(2, 0, 1), place.to_square(boxes[inside]), truth.labels[inside]
        return Batch(*(torch.from_numpy(part)[None] for part in parts))

    def __getitems__(self, indices: Sequence[int]) -> list[Batch | None]:
        return list((map if max(indices) < len(self._cached) else self.pool.map)(self.__getitem__, indices))    # a batch's

    def fill_cache(self) -> Iterator[Batch | None]:
        """Decode the first `room` images in advance."""
        for sample in self.pool.map(self.__getitem__, range(self.room)):
            self._cached.append(sample)
            yield sample


def collate(samples: Sequence[Batch | None]) -> Batch | None:
    """Batches of one become one batch; lists of boxes are filled up, with label -1, to one or more. None when no image can be read."""
    readable = [sample for sample in samples if sample is not None]
    if not readable:
        return None
    images, boxes, labels = zip(*readable)
    none = torch.zeros(1, 4), torch.full((1,), -1)    # so that a batch without objects has a list too
    return Batch(torch.cat(images), pad_sequence([none[0], *(b[0] for b in boxes)], batch_first=True)[1:],
                 pad_sequence([none[1], *(label[0] for label in labels)], batch_first=True, padding_value=-1)[1:])
