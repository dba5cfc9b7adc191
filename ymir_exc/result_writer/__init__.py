"""What the platform takes back: model stages, a mining ranking, predictions.

A value is converted and checked before any file is opened; a file changes in one step. Whatever fails, an earlier result stays.

- Training: `write_model_stage`.
- Mining: `write_mining_result` for a list, `MiningResultWriter` for scores that arrive bit by bit.
- Detection: `write_infer_result` for a mapping of `Annotation`, `InferResultWriter` for arrays that arrive image by image.
- Segmentation: `SegmentationResultWriter` for masks, polygons or run lengths; `write_infer_result(..., algorithm="segmentation")` for a
  COCO mapping.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ymir_exc.result_writer.detections import InferResultWriter, write_infer_result
from ymir_exc.result_writer.mining import MiningResultWriter, write_mining_result
from ymir_exc.result_writer.segmentation import SegmentationResultWriter
from ymir_exc.result_writer.stages import (
    _MAX_MODEL_STAGES_COUNT_,
    checked_name,
    multiple_model_stages_supportable,
    write_model_stage,
    write_training_result,
)

if TYPE_CHECKING:
    from ymir_exc._models import Annotation, Box

__all__ = [
    "_MAX_MODEL_STAGES_COUNT_", "Annotation", "Box", "InferResultWriter", "MiningResultWriter", "SegmentationResultWriter", "checked_name",
    "multiple_model_stages_supportable", "write_infer_result", "write_mining_result", "write_model_stage", "write_training_result",
]


def __getattr__(name: str) -> Any:
    if name in ("Annotation", "Box"):
        from ymir_exc import _models
        value = getattr(_models, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
