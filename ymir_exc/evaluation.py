"""How good detections are, in the figures that the platform shows; needs pycocotools (`pip install "ymir-exc[coco]"`)."""
from __future__ import annotations

import contextlib
import io
import math
from typing import Any, Dict, Iterable, Sequence, Tuple

from ymir_exc.errors import ArgumentError, NanError

_MOST_AREA = 1e9


def mean_average_precision(truths: Sequence[Tuple[Any, Any]], found: Sequence[Tuple[Any, Any, Any]], num_classes: int) -> Dict[str, float]:
    """COCO's mean average precision, by its reference implementation.

    Args:
        truths: Of each image the boxes (N, 4), xmin, ymin, xmax, ymax as continuous coordinates, and the labels (N,), 0..num_classes-1.
        found: Of the same images in the same order the boxes (M, 4), the scores (M,), and the labels (M,). Arrays, tensors or lists.
        num_classes: How many classes there are.

    Returns:
        `mAP`, the mean over classes and over the IoU thresholds 0.50, 0.55, ... 0.95, and `mAP50`, that at 0.50; each 0..1, and 0 where
        COCO says -1: there is no truth. As `result_writer.write_model_stage` takes them.

    Raises:
        ArgumentError: The two differ in their number of images, or the parts of one image in their lengths; a box is not four numbers, or
            a label no class.
        NanError: A box or a score is not finite, as those of a model that diverged.
        ModuleNotFoundError: pycocotools is not installed.
    """
    if len(truths) != len(found):
        raise ArgumentError(f"there are the truths of {len(truths)} images and the detections of {len(found)}")
    from pycocotools.cocoeval import COCOeval
    with contextlib.redirect_stdout(io.StringIO()):    # pycocotools prints
        true = _coco([(boxes, labels, [1.0] * len(labels)) for boxes, labels in truths], num_classes)    # nobody reads these scores
        judge = COCOeval(true, _coco([(boxes, labels, scores) for boxes, scores, labels in found], num_classes), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {"mAP": max(0.0, float(judge.stats[0])), "mAP50": max(0.0, float(judge.stats[1]))}


def _coco(images: Sequence[Tuple[Any, Any, Any]], num_classes: int) -> Any:
    """COCO's form of boxes, labels and scores."""
    from pycocotools.coco import COCO
    made = COCO()
    made.dataset = {
        "images": [{"id": image} for image in range(len(images))], "categories": [{"id": label} for label in range(num_classes)],
        # An id of 0 would be taken for no match.
        "annotations": [{"id": number, **row} for number, row in enumerate(_rows(images, num_classes), 1)],
    }
    made.createIndex()
    return made


def _rows(images: Iterable[Tuple[Any, Any, Any]], num_classes: int) -> Iterable[Dict[str, Any]]:
    for image, parts in enumerate(images):
        boxes, labels, scores = (part.tolist() if hasattr(part, "tolist") else list(part) for part in parts)
        if not len(boxes) == len(labels) == len(scores):
            raise ArgumentError(f"image {image} has {len(boxes)} boxes, {len(labels)} labels and {len(scores)} scores")
        for box, label, score in zip(boxes, map(float, labels), map(float, scores)):
            try:
                x1, y1, x2, y2 = map(float, box)
            except (TypeError, ValueError):
                raise ArgumentError(f"image {image} has a box that is not four numbers: {box!r:.80}") from None
            if not all(map(math.isfinite, (x1, y1, x2, y2, score))):    # in comparisons, NaN passes for a perfect match
                raise NanError(f"image {image} has a {'box' if math.isfinite(score) else 'score'} that is not finite")
            if not (0 <= label < num_classes and label.is_integer()):
                raise ArgumentError(f"image {image} has the label {label:g}, which is none of 0..{num_classes - 1}")
            width, height = max(0.0, x2 - x1), max(0.0, y2 - y1)
            # COCO leaves out what has an area beyond its limits, as if it had not been found.
            yield {"image_id": image, "category_id": int(label), "score": score, "iscrowd": 0, "bbox": [x1, y1, width, height],
                   "area": min(width * height, _MOST_AREA)}
