"""PyTorch: files that load without running any code in them, for models and for trainings to go on with; batches on their way to a GPU."""
from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections import Counter, OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, TypeVar

from ymir_exc import _files
from ymir_exc._version import __version__
from ymir_exc.env import is_main_rank
from ymir_exc.errors import ArgumentError, OutOfMemoryError, WeightsError, one_line

if TYPE_CHECKING:
    import torch
    from easydict import EasyDict as edict
    from torch import Tensor, nn

_SCALARS: Sequence[Tuple[Any, Callable[[Any], Any]]] = (
    (str, str.__str__), (int, int.__int__), (float, float.__float__), (bytes, bytes))
_Batch = TypeVar("_Batch")
_HINT = "choose a model that this image trained"


def save_weights(path: _files.PathLike, weights: Mapping[str, Tensor], **about: Any) -> None:
    """Write a model file; it appears whole or not at all.

    Args:
        path: The file; its folder is made where it is missing.
        weights: `model.state_dict()`.
        about: What is needed to use the model: class names, input size, ...; text, numbers, tensors, and lists and dicts of these. They
            come back as plain ones: an EasyDict as a dict, numpy's numbers as Python's, a path as text.

    Raises:
        ArgumentError: The weights are no mapping, or something has another type, which `load_weights` would refuse; its place is named.
        StorageError: It cannot be written; an earlier file of that name stays.
    """
    if not isinstance(weights, Mapping):
        raise ArgumentError(f"the weights must be what model.state_dict() returns, not a {type(weights).__qualname__}")
    _save(path, _plain({**about, "weights": weights, "ymir_exc_version": __version__}))


def _plain(value: Any, place: str = "") -> Any:
    """The same of the types that torch loads without running code."""
    import torch
    if value is None or type(value) in (bool, torch.Tensor, torch.nn.Parameter, bytearray, complex, torch.dtype, torch.device):
        return value
    for scalar, convert in _SCALARS:
        if isinstance(value, scalar):    # of an enumeration, say, or numpy's
            return convert(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        made = {_plain(key, f"{place}.{key}"): _plain(value[key], f"{place}.{key}") for key in value}
        kind: Any = type(value)
        return kind(made) if kind in (OrderedDict, Counter) else made
    for several in (list, tuple, set):
        if isinstance(value, several):
            return several([_plain(item, f"{place}.{number}") for number, item in enumerate(value)])
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic) and not isinstance(value.item(), numpy.generic):
        return _plain(value.item(), place)
    raise ArgumentError(f"{place[1:]} is a {type(value).__module__}.{type(value).__qualname__}, which is not loaded from a file of torch: "
                        "text, numbers, tensors, lists and dicts are")


def _save(path: _files.PathLike, content: Dict[str, Any]) -> None:
    import io

    import torch
    data = io.BytesIO()    # what torch says of a full disk is no reason that anybody would understand
    torch.save(content, data)
    _files.make_folder(os.path.dirname(path) or ".", shared=True)
    _files.write_bytes(path, data.getvalue(), shared=True)


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
    content = _load(path)
    missing = {"weights", *([needs] if isinstance(needs, str) else needs)} - set(content)
    if missing:
        raise WeightsError(f"{os.fspath(path)} lacks {', '.join(sorted(missing))}", hint=_HINT)
    return content


def take_over(model: nn.Module, weights: Mapping[str, Tensor], known: Sequence[str], wanted: Sequence[str], of_classes: str) -> List[str]:
    """Load the weights of a model that was trained for other classes: all of them, but of the layers that tell classes only those of the
    classes that both know. The other classes keep what they have.

    Args:
        model: Of the same architecture, for the classes `wanted`.
        weights: Of the model that was trained, for the classes `known`.
        known: Class names, in the order of its rows.
        wanted: Class names, in the order of the rows of `model`.
        of_classes: What the names of those layers begin with; their weights have one row a class.

    Returns:
        The classes that both know.

    Raises:
        WeightsError: Of another architecture; nothing is changed.
    """
    import torch
    mine = model.state_dict()
    if mine.keys() != weights.keys():
        odd = sorted(mine.keys() ^ weights.keys())
        raise WeightsError(f"these are the weights of another kind of model: {odd[0]} is in one of them only", hint=_HINT)
    shared = [name for name in wanted if name in known]
    rows, old_rows = [list(wanted).index(name) for name in shared], [list(known).index(name) for name in shared]
    for key, weight in weights.items():
        tells_classes = key.startswith(of_classes)
        if weight.shape != mine[key].shape and not (tells_classes and weight.shape[1:] == mine[key].shape[1:]):
            raise WeightsError(f"these are the weights of another kind of model: {key} has the shape {tuple(weight.shape)}, not "
                               f"{tuple(mine[key].shape)}", hint=_HINT)
    with torch.no_grad():
        for key, weight in weights.items():
            if key.startswith(of_classes):
                mine[key][rows] = weight[old_rows].to(mine[key])
            else:
                mine[key].copy_(weight)
    return shared


def _load(path: _files.PathLike) -> Dict[str, Any]:
    import torch
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as e:    # torch raises whatever a malformed file makes it stumble over
        raise WeightsError(f"{os.fspath(path)} cannot be read as a model: {e}", hint=_HINT) from e


def prefetch(batches: Iterable[_Batch], device: torch.device) -> Iterator[_Batch]:
    """Batches on a device. On a GPU each is made, pinned and copied by a thread while the one before it is used.

        for images, boxes in prefetch(loader, device):

    Args:
        batches: Tensors, or tuples, lists or dicts of them; anything else in them stays. What it raises is raised here. It is asked for one
            batch more than is used, from another thread.
        device: What `torchrun.device` returned.
    """
    if device.type == "cpu":
        yield from batches
        return
    from concurrent.futures import ThreadPoolExecutor
    rest = iter(batches)

    def load() -> List[_Batch]:
        return [_on_device(batch, device) for batch in islice(rest, 1)]

    with ThreadPoolExecutor(1) as thread:
        loading = thread.submit(load)
        while loaded := loading.result():
            loading = thread.submit(load)
            yield loaded[0]


def _on_device(value: Any, device: torch.device) -> Any:
    import torch
    if isinstance(value, (torch.Tensor, torch.nn.utils.rnn.PackedSequence)):
        ready: Any = value.pin_memory() if device.type == "cuda" and value.data.device.type == "cpu" else value
        return ready.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _on_device(one, device) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        made = [_on_device(one, device) for one in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    return value


@contextlib.contextmanager
def out_of_memory_explained(device: torch.device, **settings: Any) -> Iterator[None]:
    """Tell of a GPU whose memory is used up what was tried, and how much there is.

    Args:
        device: The GPU.
        settings: What decides how much is needed: `batch_size=16, input_size=640`.

    Raises:
        OutOfMemoryError: 300103, in the place of torch's own error.
    """
    import torch
    try:
        yield
    except torch.cuda.OutOfMemoryError as e:
        free, total = torch.cuda.mem_get_info(device)
        tried = ", ".join(f"{name} {value}" for name, value in settings.items())
        raise OutOfMemoryError(f"{tried} does not fit into the GPU's {total / 2**30:.1f} GiB, of which {free / 2**30:.1f} are free",
                               hint=f"lower {next(iter(settings), 'the batch size')}") from e


class KeptTraining:
    """What a training needs to go on when its container is started again over the same output folder: after a stop, a kill, a reboot.

        kept = KeptTraining(cfg, parameters.model_dump(), model=model, optimiser=optimiser, budget=budget)
        if state := kept.load():    # model, optimiser and budget are as they were then
            step = state["step"]
        ...
        if kept.is_due() or monitor.should_stop():
            kept.save(step=step)
        ...
        kept.remove()    # at the end

    Args:
        cfg: What `util.get_merged_config()` returned.
        settings: What must be the same for a training to be gone on with: plain values, lists and dicts. The task and its classes are too.
        parts: What has `state_dict()` and `load_state_dict()`: models, optimisers, schedules, a `torchrun.Budget`.

    Raises:
        ArgumentError: The settings are of a type that `save_weights` refuses too.
    """

    def __init__(self, cfg: edict, settings: Any = None, **parts: Any) -> None:
        self.path = os.path.join(cfg.ymir.output.root_dir, ".ymir-training.pt")
        names = [str(name) for name in cfg.param.get("class_names") or []]
        self._kept_at = time.monotonic()
        self._parts = parts
        self._same = _plain({"task_id": cfg.ymir.task_id, "class_names": names, "settings": settings})

    def save(self, **state: Any) -> None:
        """Keep the parts and this, in the place of what was kept before; rank 0 does, the others return at once.

        Args:
            state: Text, numbers, tensors, lists and dicts.

        Raises:
            ArgumentError: As `save_weights`.
            StorageError: It cannot be written; what was kept before stays.
        """
        self._kept_at = time.monotonic()
        if is_main_rank():
            parts = {name: part.state_dict() for name, part in self._parts.items()}
            _save(self.path, {"same": self._same, "parts": _plain(parts), "state": _plain(state)})

    def is_due(self, seconds: float = 300.0) -> bool:
        """Whether so much time has passed since something was kept, or since this object was made, that it is time again."""
        return time.monotonic() - self._kept_at >= seconds

    def load(self) -> Optional[Dict[str, Any]]:
        """Put the parts back into the state that was kept last.

        Returns:
            What `save` was given, tensors on the CPU; None when there is nothing, or another training's, or one of another model: then the
            parts are as they were, and the log says why.
        """
        if not os.path.exists(self.path):
            return None
        try:
            content = _load(self.path)
            state, parts = dict(content["state"]), dict(content["parts"])
            if content["same"] == self._same and parts.keys() == self._parts.keys():
                self._restore(parts)
                return state
            reason = "it is of a task with other settings"
        except WeightsError as e:
            reason = str(e)
        except (KeyError, TypeError, ValueError):
            reason = "it is no file of this kind"
        logging.getLogger(__name__).warning("the training begins anew: %s cannot be gone on with: %s", self.path, reason)
        return None

    def _restore(self, states: Mapping[str, Any]) -> None:
        import copy
        before = {name: copy.deepcopy(part.state_dict()) for name, part in self._parts.items()}
        try:
            for name, part in self._parts.items():
                part.load_state_dict(states[name])
        except Exception as e:    # of a model that is another one by now, each part has its own way to say so
            for other, was in before.items():
                self._parts[other].load_state_dict(was)
            raise WeightsError(f"{name}: {one_line(str(e))}") from e

    def remove(self) -> None:
        """At the end of a training that came to its end."""
        if is_main_rank():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
