"""Model files of PyTorch that load without running any code in them."""
from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Collection, Dict, Mapping

from ymir_exc import _files
from ymir_exc._version import __version__
from ymir_exc.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

_HINT = "choose a model that this image trained"


def save_weights(path: _files.PathLike, weights: Mapping[str, Tensor], **about: Any) -> None:
    """Write a model file; it appears whole or not at all.

    Args:
        path: The file; its folder is made where it is missing.
        weights: `model.state_dict()`.
        about: What is needed to use the model: class names, input size, ...; text, numbers, tensors, and lists and dicts of these.

    Raises:
        StorageError: It cannot be written; an earlier file of that name stays.
    """
    import io

    import torch
    content = io.BytesIO()    # what torch says of a full disk is no reason that anybody would understand
    torch.save({**about, "weights": dict(weights), "ymir_exc_version": __version__}, content)
    _files.make_folder(os.path.dirname(path), shared=True)
    _files.write_bytes(path, content.getvalue(), shared=True)


def load_weights(path: _files.PathLike, needs: Collection[str] = ()) -> Dict[str, Any]:
    """Read a model file on the CPU; nothing in it is executed.

    Args:
        path: The file.
        needs: Names that it must hold besides its weights.

    Returns:
        What `save_weights` was given, the weights under "weights".

    Raises:
        WeightsError: It is no file of `save_weights`, or one that lacks a name.
    """
    import torch
    try:
        content: Dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"weights", *needs} - set(content)
    except Exception as e:    # torch raises whatever a malformed file makes it stumble over
        raise WeightsError(f"{os.fspath(path)} cannot be read as a model: {e}", hint=_HINT) from e
    if missing:
        raise WeightsError(f"{os.fspath(path)} lacks {', '.join(sorted(missing))}", hint=_HINT)
    return content
