"""From images to detections, in batches."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Iterable, Iterator, NamedTuple, Sequence

import torch
from easydict import EasyDict
from torch import Tensor

import checkpoint
import device
import hyper
from boxes import nms
from data import Letterbox, load_square
from model import Detector
from ymir_exc import dataset_reader, errors, monitor, util
from ymir_exc.env import DatasetType


class Detections(NamedTuple):
    """What was found on one image, the surest first."""

    boxes: Tensor    # (N, 4) as in boxes.py, in pixels of the image, clipped to it
    scores: Tensor    # (N,), the probability of the likeliest class
    labels: Tensor    # (N,), that class
    probabilities: Tensor    # (N, num_classes), of each class by itself: they need not sum to 1


def candidates(cfg: EasyDict, task: str) -> Iterator[tuple[str, Letterbox, Detections]]:
    """What the model that the platform hands in sees on the candidate images; reports progress and obeys a stop."""
    wanted, where = util.get_parameters(cfg, hyper.PredictHyper), device.pick(cfg)
    model, known, size = checkpoint.load(str(util.pick_weight_file(cfg, suffix=".pt")))
    names = util.get_class_names(cfg)
    if names != known:
        raise errors.ConfigError(f"{cfg.ymir.input.config_file}: class_names are {names}, the model was trained for {known}")
    model.to(where)
    paths = (path for path, _ in dataset_reader.item_paths(DatasetType.CANDIDATE))
    total = dataset_reader.items_count(DatasetType.CANDIDATE)
    for found in monitor.track(predict(model, paths, size, wanted), task, total=total):
        if monitor.should_stop():
            raise errors.Stopped(f"{task} was stopped; its results were incomplete and are not written")
        yield found


def predict(model: Detector, paths: Iterable[str], size: int, wanted: hyper.PredictHyper) -> Iterator[tuple[str, Letterbox, Detections]]:
    """Each image, how it lies in the model's square, and what was found on it."""
    where, rest = next(model.parameters()).device, iter(paths)
    model.eval()
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(rest, wanted.batch_size)):
            squares, places = zip(*pool.map(lambda path: load_square(path, size), batch))
            yield from zip(batch, places, detect(model, torch.stack(squares).to(where), places, wanted))


@torch.no_grad()
def detect(model: Detector, images: Tensor, places: Sequence[Letterbox], wanted: hyper.PredictHyper) -> list[Detections]:
    """What a model in `eval()` mode finds on images `(B, 3, S, S)`, 0..255, that lie in their squares as `places` says."""
    with device.mixed_precision(images.device):
        predicted = model(images)
    probabilities = predicted.logits.sigmoid()
    scores, labels = probabilities.max(-1)
    scores, best = scores.topk(min(3 * wanted.max_detections, scores.shape[1]), -1)
    image = torch.arange(len(images), device=images.device)[:, None]
    labels, probabilities = labels[image, best], probabilities[image, best]
    boxes = model.refine(predicted.detail, predicted.boxes[image, best])
    keep = nms(boxes, labels, wanted.iou_threshold) & (scores >= wanted.conf_threshold)
    found = []
    for place, kept, *parts in zip(places, keep.cpu(), boxes.cpu(), scores.cpu(), labels.cpu(), probabilities.cpu()):
        mine, *rest = (part[kept][:wanted.max_detections] for part in parts)
        found.append(Detections(place.to_image(mine), *rest))
    return found
