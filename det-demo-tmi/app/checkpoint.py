"""Model files: weights with all that is needed to use them, loadable without running any code in them."""
from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from model import Detector
from ymir_exc import __version__, errors

FILE_NAME = "model.pt"
_HINT = "choose a model that this image trained"
_log = logging.getLogger(__name__)


def save(path: Path, model: Detector, class_names: list[str], input_size: int) -> None:
    """Write a model file; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"model": model.state_dict(), "class_names": class_names, "input_size": input_size, "ymir_exc_version": __version__}
    partial = path.with_name(path.name + ".part")
    torch.save(content, partial)
    os.replace(partial, path)


def load(path: str) -> tuple[Detector, list[str], int]:
    """The model, its classes and its input size; raises WeightsError for a file that `save` did not make."""
    content = _read(path)
    model = Detector(len(content["class_names"]))
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as e:
        raise errors.WeightsError(f"{path} is the file of another kind of model: {e}", hint=_HINT) from e
    return model, content["class_names"], content["input_size"]


def start_from(path: str, model: Detector, class_names: list[str]) -> None:
    """Take over all weights; of the layer that tells classes, those of the classes that both know. Raises WeightsError as `load` does."""
    old, known, _ = load(path)
    shared = [name for name in class_names if name in known]
    rows, old_rows = [class_names.index(name) for name in shared], [known.index(name) for name in shared]
    mine = model.state_dict()
    for key, weight in old.state_dict().items():
        if key.startswith("class_last"):
            mine[key][rows] = weight[old_rows]
        else:
            mine[key].copy_(weight)
    unseen = [name for name in class_names if name not in known]
    _log.info("training goes on from %s; known classes: %s; new: %s", path, ", ".join(shared) or "none", ", ".join(unseen) or "none")


def _read(path: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"model", "class_names", "input_size"} - set(content)
    except Exception as e:    # torch raises whatever a malformed file makes it stumble over
        raise errors.WeightsError(f"{path} cannot be read as a model: {e}", hint=_HINT) from e
    if missing:
        raise errors.WeightsError(f"{path} lacks {', '.join(sorted(missing))}", hint=_HINT)
    return content
