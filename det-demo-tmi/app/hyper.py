"""The hyper-parameters of each task, with types and limits. The defaults equal those of /img-man, where the user reads what they mean."""
from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class TrainingHyper(BaseModel):
    """What a user may change about training."""

    epochs: int = Field(200, ge=1)
    max_seconds: float = Field(110, ge=0, allow_inf_nan=False)
    batch_size: int = Field(16, ge=1)
    input_size: int = Field(192, ge=32, multiple_of=32)
    learning_rate: float = Field(0.04, gt=0, allow_inf_nan=False)
    evaluations: int = Field(3, ge=1)
    cache_mb: int = Field(1024, ge=0)
    max_broken_ratio: float = Field(0.1, ge=0, le=1)
    cpu_processes: int = Field(2, ge=1)
    seed: int = Field(0, ge=0, lt=2**62)


class PredictHyper(BaseModel):
    """What a user may change about mining and inference."""

    batch_size: int = Field(16, ge=1)
    conf_threshold: float = Field(0.05, ge=0, le=1)
    iou_threshold: float = Field(0.6, ge=0, le=1)
    max_detections: int = Field(100, ge=1)
    max_broken_ratio: float = Field(0.1, ge=0, le=1)
    cpu_processes: int = Field(2, ge=1)


class MiningHyper(PredictHyper):
    """What a user may change about mining besides."""

    mining_algorithm: Literal["entropy", "margin", "least_confidence", "class_balanced", "cald", "aldd", "core_set", "hybrid",
                              "random"] = "entropy"
