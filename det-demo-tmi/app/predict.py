"""From images to detections, in batches."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice, repeat
from typing import Callable, Iterable, Iterator, NamedTuple, Sequence

import torch
from easydict import EasyDict
from torch import Tensor
from torch.nn import functional as F

import checkpoint
import hyper
from boxes import nms
from data import Letterbox, load_square
from model import Detector
from ymir_exc import dataset_reader, errors, monitor, util
from ymir_exc.env import DatasetType
from ymir_exc.integrations import torchrun


class Detections(NamedTuple):
    """What was found on one image, the surest first, and how the model saw it."""

    boxes: Tensor    # (N, 4) as in boxes.py, in pixels of the image, clipped to it
    scores: Tensor    # (N,), the probability of the likeliest class
    labels: Tensor    # (N,), that class
    probabilities: Tensor    # (N, num_classes), of each class by itself: they need not sum to 1
    maps: Tensor    # (num_classes, H/8, W/8), of each cell
    embedding: Tensor    # (D,), alike for images that look alike


class Seen(NamedTuple):
    """One image and what was found on it, as it is and changed a little."""

    path: str
    place: Letterbox    # how it lies in the model's square
    found: Detections
    changed: Sequence[Detections]    # one for each of VIEWS, when they were asked for
    class_counts: Sequence[int]    # how many objects of each class the model was trained on


# An image changed a little: how, and where boxes of the changed one (side S) lie in the original.
VIEWS: tuple[tuple[Callable[[Tensor], Tensor], Callable[[Tensor, float], Tensor]], ...] = (
    (lambda images: images.flip(3), lambda boxes, side: boxes[..., [2, 1, 0, 3]] * boxes.new_tensor([-1, 1, -1, 1]) +
     boxes.new_tensor([side, 0, side, 0])),
    (lambda images: (images.float() * 0.7).round(), lambda boxes, _: boxes),
    (lambda images: F.interpolate(images.float(), (images.shape[2] - 32, images.shape[3] - 32), mode="bilinear", antialias=True),
     lambda boxes, side: boxes * (side / (side - 32))),
)


def candidates(cfg: EasyDict, task: str, views: bool = False) -> Iterator[Seen]:
    """What the model that the platform hands in sees on the candidate images; reports progress and obeys a stop."""
    wanted, where = util.get_parameters(cfg, hyper.PredictHyper), torchrun.device(cfg)
    loaded, names = checkpoint.load(str(util.pick_weight_file(cfg, suffix=".pt"))), util.get_class_names(cfg)
    if names != loaded.class_names:
        raise errors.ConfigError(f"{cfg.ymir.input.config_file}: class_names are {names}, the model was trained for {loaded.class_names}")
    loaded.model.to(where)
    paths = (path for path, _ in dataset_reader.item_paths(DatasetType.CANDIDATE))
    total = dataset_reader.items_count(DatasetType.CANDIDATE)
    broken = dataset_reader.BrokenImages(total, wanted.max_broken_ratio)
    for seen in monitor.track(predict(loaded.model, paths, loaded.input_size, wanted, broken.add, views), task, total=total):
        if monitor.should_stop():
            raise errors.Stopped(f"{task} was stopped; its results were incomplete and are not written")
        yield seen._replace(class_counts=loaded.class_counts)


def predict(model: Detector, paths: Iterable[str], size: int, wanted: hyper.PredictHyper,
            on_broken: Callable[[str, errors.ImageError], None], views: bool = False) -> Iterator[Seen]:
    """What the model sees on each image that can be read; `on_broken` is told of the others."""
    where, rest = next(model.parameters()).device, iter(paths)
    model.eval()

    def load(path: str) -> tuple[str, Tensor, Letterbox] | None:
        try:
            return path, *load_square(path, size)
        except errors.ImageError as e:
            on_broken(path, e)
            return None

    with ThreadPoolExecutor() as pool:
        batch = list(islice(rest, wanted.batch_size))
        decoding = pool.map(load, batch)
        while batch:
            readable = list(filter(None, decoding))
            batch = list(islice(rest, wanted.batch_size))
            decoding = pool.map(load, batch)    # while the model is busy with those before
            if readable:
                names, squares, places = zip(*readable)
                images = torch.stack(squares).to(where)
                found = detect(model, images, places, wanted)
                changed = [detect(model, change(images), places, wanted, back) for change, back in VIEWS] if views else []
                yield from map(Seen, names, places, found, zip(*changed) if views else repeat(()), repeat(()))


@torch.no_grad()
def detect(model: Detector, images: Tensor, places: Sequence[Letterbox], wanted: hyper.PredictHyper,
           back: Callable[[Tensor, float], Tensor] = lambda boxes, _: boxes) -> list[Detections]:
    """What a model in `eval()` mode finds on images `(B, 3, S, S)`, 0..255, that lie in their squares as `places` says."""
    with torchrun.mixed_precision(images.device):
        predicted = model(images)
    cells = predicted.logits.sigmoid()
    scores, labels = cells.max(-1)
    most = int((scores >= wanted.conf_threshold).sum(1).max())    # what is left out anyway needs no second look
    scores, best = scores.topk(min(3 * wanted.max_detections, most), -1)
    image = torch.arange(len(images), device=images.device)[:, None]
    labels, probabilities = labels[image, best], cells[image, best]
    boxes = model.refine(predicted.detail, predicted.boxes[image, best])
    keep = nms(boxes, labels, wanted.iou_threshold) & (scores >= wanted.conf_threshold)
    maps = cells.transpose(1, 2).unflatten(2, predicted.detail.shape[2:])
    found = []
    for place, kept, all_cells, embedding, *parts in zip(places, *(part.cpu() for part in (
            keep, maps, predicted.embedding, back(boxes, images.shape[3]), scores, labels, probabilities))):
        mine, *rest = (part[kept][:wanted.max_detections] for part in parts)
        found.append(Detections(place.to_image(mine), *rest, all_cells, embedding))
    return found
