"""What TensorBoard shows: curves, and pictures of predictions beside the truth."""
from __future__ import annotations

from typing import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from data import Truth, load_square
from predict import Detections

GREEN, RED = "#2ecc40", "#ff4136"
SHOWN_SCORE = 0.3


class Board(SummaryWriter):
    """Writes into the folder that the platform shows to the user."""

    def curves(self, step: int, values: dict[str, float]) -> None:
        """One point for each curve."""
        for name, value in values.items():
            self.add_scalar(name, value, step)

    def pictures(self, step: int, truths: Sequence[Truth], found: Sequence[Detections], class_names: list[str], size: int) -> None:
        """The truth in green and predictions with a fair score in red, image beside image."""
        drawn = [_draw(truth, detections, class_names, size) for truth, detections in zip(truths, found)]
        self.add_image("predictions (red) and truth (green)", torch.cat(drawn, 2), step)
        self.flush()


def _draw(truth: Truth, found: Detections, class_names: list[str], size: int) -> Tensor:
    pixels, place = load_square(truth.path, size)
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    pen = ImageDraw.Draw(image)
    for box in place.to_square(truth.boxes).tolist():
        pen.rectangle(box, outline=GREEN)
    for box, label, score in zip(place.to_square(found.boxes).tolist(), found.labels.tolist(), found.scores.tolist()):
        if score >= SHOWN_SCORE:
            pen.rectangle(box, outline=RED)
            pen.text((box[0] + 2, box[1] + 1), f"{class_names[label]} {score:.2f}", fill=RED)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
