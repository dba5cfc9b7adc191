"""How good detections are, by the COCO reference implementation."""
from __future__ import annotations

import contextlib
import io
from typing import Any, Iterable, Sequence

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from data import Truth
from predict import Detections


def evaluate(truths: Sequence[Truth], found: Sequence[Detections], num_classes: int) -> dict[str, float]:
    """Compare detections with the truth; both name the same images in the same order, in pixels of the images.

    Returns:
        `mAP`, the mean over IoU thresholds 0.50 to 0.95, and `mAP50`, each 0..1; 0 where COCO says -1, "there is no truth".
    """
    base = {"images": [{"id": i} for i in range(len(truths))], "categories": [{"id": c} for c in range(num_classes)]}
    with contextlib.redirect_stdout(io.StringIO()):    # pycocotools prints
        judge = COCOeval(_coco(base, ((t.boxes, t.labels, t.labels) for t in truths)),
                         _coco(base, ((d.boxes, d.labels, d.scores) for d in found)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {"mAP": max(0.0, float(judge.stats[0])), "mAP50": max(0.0, float(judge.stats[1]))}


def _coco(base: dict[str, Any], images: Iterable[tuple[Tensor, Tensor, Tensor]]) -> COCO:
    """COCO's form of boxes, labels and scores; nobody reads the scores of the truth."""
    rows = [(image, box, label, score) for image, parts in enumerate(images) for box, label, score in zip(*(p.tolist() for p in parts))]
    made = COCO()
    made.dataset = {**base, "annotations": [
        {"id": number, "image_id": image, "category_id": label, "score": score, "iscrowd": 0,
         "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        for number, (image, (x1, y1, x2, y2), label, score) in enumerate(rows, 1)]}
    made.createIndex()
    return made
