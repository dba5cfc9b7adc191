"""What TensorBoard shows: curves, and pictures of predictions beside the truth."""
from __future__ import annotations

import logging
from typing import Sequence

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from data import Truth
from loss import Losses
from predict import Detections
from ymir_exc.images import draw_boxes, load_square
from ymir_exc.integrations.torchrun import Budget

GREEN, RED = "#2ecc40", "#ff4136"
SHOWN_SCORE = 0.3
LOG_SECONDS = 5.0
_log = logging.getLogger(__name__)


class Board(SummaryWriter):
    """Writes into the folder that the platform shows to the user, and the same words into the log."""

    seconds, step = 0.0, 0    # of the last line

    def progress(self, epoch: int, budget: Budget, losses: Losses, batch_size: int, learning_rate: float) -> None:
        """A line, and a point on the curves, every few seconds."""
        passed, steps = budget.seconds - self.seconds, budget.step - self.step
        if passed >= LOG_SECONDS:
            self.seconds, self.step, speed = budget.seconds, budget.step, steps * batch_size / passed
            _log.info("epoch %d, %.0f %%: loss %.3f + %.3f, %.0f images/s", epoch, 100 * budget.used, losses.classes, losses.boxes, speed)
            self.curves(budget.step, {"loss/classes": float(losses.classes), "loss/boxes": float(losses.boxes),
                                      "images per second": speed, "learning rate": learning_rate})

    def curves(self, step: int, values: dict[str, float]) -> None:
        """One point for each curve."""
        for name, value in values.items():
            self.add_scalar(name, value, step)

    def pictures(self, step: int, truths: Sequence[Truth], found: Sequence[Detections], class_names: list[str], size: int) -> None:
        """The truth in green and predictions with a fair score in red, image beside image."""
        drawn = [_draw(truth, detections, class_names, size) for truth, detections in zip(truths, found)]
        self.add_image("predictions (red) and truth (green)", np.concatenate(drawn, 1), step, dataformats="HWC")
        self.flush()


def _draw(truth: Truth, found: Detections, class_names: list[str], size: int) -> np.ndarray:
    pixels, place = load_square(truth.path, size)
    pixels = draw_boxes(pixels, place.to_square(truth.boxes), GREEN)
    sure = found.scores >= SHOWN_SCORE
    labels = [f"{class_names[label]} {score:.2f}" for label, score in zip(found.labels[sure], found.scores[sure])]
    return draw_boxes(pixels, place.to_square(found.boxes[sure]), RED, labels)
