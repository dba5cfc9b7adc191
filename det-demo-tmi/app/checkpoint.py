"""Model files: weights with all that is needed to use them."""
from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from model import Detector
from ymir_exc import errors
from ymir_exc.integrations.torch import load_weights, save_weights, take_over

FILE_NAME = "model.pt"
_log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """What a model file holds."""

    model: Detector
    class_names: list[str]
    input_size: int
    class_counts: list[int]    # how many objects of each class it was trained on


def save(path: Path, made: Checkpoint) -> None:
    """Write a model file; it appears whole or not at all."""
    about = made._asdict()
    save_weights(path, about.pop("model").state_dict(), **about)


def load(path: str) -> Checkpoint:
    """What `save` wrote; raises WeightsError for another file."""
    content = load_weights(path, Checkpoint._fields[1:])
    try:
        model = Detector(len(content["class_names"]))
        model.load_state_dict(content["weights"])
    except (RuntimeError, TypeError, AttributeError) as e:
        raise errors.WeightsError(f"{path} is the file of another kind of model: {e}", hint="choose a model that this image trained") from e
    return Checkpoint(model, *(content[name] for name in Checkpoint._fields[1:]))


def start_from(path: str, model: Detector, class_names: list[str]) -> None:
    """Take over all weights; of the layer that tells classes, those of the classes that both know. Raises WeightsError as `load` does."""
    old, known, *_ = load(path)
    shared = take_over(model, old.state_dict(), known, class_names, of_classes="class_last")
    unseen = [name for name in class_names if name not in shared]
    _log.info("training goes on from %s; known classes: %s; new: %s", path, ", ".join(shared) or "none", ", ".join(unseen) or "none")
