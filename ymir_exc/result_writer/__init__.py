"""What the platform takes back: model stages, a mining ranking, predictions.

A value is converted and checked before any file is opened; a file changes in one step. Whatever fails, an earlier result stays.

- Training: `write_model_stage`.
- Mining: `write_mining_result` for a list, `MiningResultWriter` for scores that arrive bit by bit.
- Detection: `write_infer_result` for a mapping of `Annotation`, `InferResultWriter` for arrays that arrive image by image.
- Segmentation: `SegmentationResultWriter` for masks, polygons or run lengths; `write_infer_result(..., algorithm="segmentation")` for a
  COCO mapping.
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from ymir_exc._models import Annotation, Box
    from ymir_exc.result_writer._stage_checks import checked_name
    from ymir_exc.result_writer.detections import InferResultWriter, write_infer_result
    from ymir_exc.result_writer.mining import MiningResultWriter, write_mining_result
    from ymir_exc.result_writer.segmentation import SegmentationResultWriter
    from ymir_exc.result_writer.stages import (
        _MAX_MODEL_STAGES_COUNT_,
        multiple_model_stages_supportable,
        write_model_stage,
        write_training_result,
    )

__all__ = [
    "_MAX_MODEL_STAGES_COUNT_", "Annotation", "Box", "InferResultWriter", "MiningResultWriter", "SegmentationResultWriter", "checked_name",
    "multiple_model_stages_supportable", "write_infer_result", "write_mining_result", "write_model_stage", "write_training_result",
]

# Loaded with the first use: a training writes no ranking, and an inference no stages.
_HOMES = {
    "ymir_exc._models": ("Annotation", "Box"),
    "ymir_exc.result_writer.detections": ("InferResultWriter", "write_infer_result"),
    "ymir_exc.result_writer.mining": ("MiningResultWriter", "write_mining_result"),
    "ymir_exc.result_writer.segmentation": ("SegmentationResultWriter",),
    "ymir_exc.result_writer._stage_checks": ("checked_name",),
    "ymir_exc.result_writer.stages": ("_MAX_MODEL_STAGES_COUNT_", "multiple_model_stages_supportable", "write_model_stage",
                                      "write_training_result"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})
