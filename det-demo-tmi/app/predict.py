"""From images to detections, in batches."""
from __future__ import annotations

from itertools import repeat
from typing import Callable, Iterable, Iterator, NamedTuple, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import hyper
from boxes import merge
from model import Detector
from ymir_exc import errors
from ymir_exc.images import GREY, Letterbox, squares
from ymir_exc.integrations import torchrun


class Detections(NamedTuple):
    """What was found on one image, the surest first, and how the model saw it."""

    boxes: np.ndarray    # (N, 4) as in boxes.py, in pixels of the image, clipped to it
    scores: np.ndarray    # (N,), the probability of the likeliest class
    labels: np.ndarray    # (N,), that class
    probabilities: np.ndarray    # (N, num_classes), of each class by itself: they need not sum to 1
    maps: np.ndarray    # (num_classes, H/8, W/8), of each cell
    embedding: np.ndarray    # (D,), alike for images that look alike


class Seen(NamedTuple):
    """One image and what was found on it, as it is and changed a little."""

    path: str
    place: Letterbox    # how it lies in the model's square
    found: Detections
    changed: Sequence[Detections]    # one for each of VIEWS, when they were asked for


# An image changed a little, in a square of the same side: how, and where boxes of the changed one lie in the original.
VIEWS: tuple[tuple[Callable[[Tensor], Tensor], Callable[[Tensor, float], Tensor]], ...] = (
    (lambda images: images.flip(3), lambda boxes, side: boxes[..., [2, 1, 0, 3]] * boxes.new_tensor([-1, 1, -1, 1]) +
     boxes.new_tensor([side, 0, side, 0])),
    (lambda images: (images.float() * 0.7).round(), lambda boxes, _: boxes),
    (lambda images: F.pad(F.interpolate(images.float(), scale_factor=0.75, mode="bilinear", antialias=True),
                          (0, images.shape[3] // 4, 0, images.shape[2] // 4), value=GREY[0]),
     lambda boxes, _: boxes / 0.75),
)


def predict(model: Detector, paths: Iterable[str], size: int, wanted: hyper.PredictHyper,
            on_broken: Callable[[str, errors.ImageError], None], views: bool = False) -> Iterator[Seen]:
    """What the model sees on each image that can be read; `on_broken` is told of the others."""
    model.eval()
    where = next(model.parameters()).device
    for names, pixels, places in squares(paths, size, wanted.batch_size, on_broken):
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(where)
        changed = [detect(model, change(images), places, wanted, back) for change, back in VIEWS] if views else []
        yield from map(Seen, names, places, detect(model, images, places, wanted), zip(*changed) if views else repeat(()))


@torch.no_grad()
def detect(model: Detector, images: Tensor, places: Sequence[Letterbox], wanted: hyper.PredictHyper,
           back: Callable[[Tensor, float], Tensor] = lambda boxes, _: boxes) -> list[Detections]:
    """What a model in `eval()` mode finds on images `(B, 3, S, S)`, 0..255, that lie in their squares as `places` says."""
    with torchrun.mixed_precision(images.device):
        predicted = model(images)
    cells = predicted.logits.sigmoid()
    maps = cells.transpose(1, 2).unflatten(2, predicted.detail.shape[2:]).contiguous()
    scores, labels = cells.max(-1)
    is_wanted = scores >= wanted.conf_threshold
    is_peak = (F.max_pool2d(maps, 3, 1, 1) == maps).flatten(2).gather(1, labels[:, None])[:, 0]    # every object has such a cell
    scores = scores * is_wanted
    most = min(wanted.max_detections, int(is_wanted.sum(1).max()))
    best = (scores + is_wanted * is_peak).topk(most).indices
    scores, order = scores.gather(1, best).sort(descending=True)
    best = best.gather(1, order)
    image = torch.arange(len(images), device=images.device)[:, None]
    labels, probabilities, boxes = labels[image, best], cells[image, best], predicted.boxes[image, best]
    half = (wanted.max_detections + 1) // 2    # the others are not worth a second look
    boxes[:, :half] = model.refine(predicted.detail, boxes[:, :half])
    keep, boxes = merge(boxes, scores, labels, wanted.iou_threshold)
    found = []
    for place, kept, all_cells, embedding, *parts in zip(places, *(part.cpu().numpy() for part in (
            keep, maps, predicted.embedding, back(boxes, images.shape[3]), scores, labels, probabilities))):
        mine, *rest = (part[kept][:wanted.max_detections] for part in parts)
        found.append(Detections(place.to_image(mine), *rest, all_cells, embedding))
    return found
