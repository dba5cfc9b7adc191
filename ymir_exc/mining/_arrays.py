"""What callers hand in, as checked arrays; and the measures of information that several algorithms share."""
from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Optional, Sequence

import numpy as np

from ymir_exc.errors import ArgumentError, NanError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

KINDS = ("softmax", "sigmoid")
_ABOVE_ONE = 1e-6    # by what a probability may be outside 0..1: the rounding of 32-bit floats
_LEAST = float(np.finfo(np.float64).tiny)
_SUM_ERROR = 0.01    # by what a softmax may miss 1: bfloat16 keeps 8 bits


def as_array(values: ArrayLike, name: str, dtype: Any = None) -> NDArray[Any]:
    """The values as an array, which is not copied if it is one of this type."""
    try:
        return np.asarray(values, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as e:    # rows of several lengths, words, a tensor on a GPU
        raise ArgumentError(f"{name} cannot be read as an array of numbers: {e}") from e


def numbers(values: ArrayLike, name: str, *shape: Optional[int]) -> Floats:
    """The values as float64 of this shape, all finite; None stands for any length. `[]` is a first length of 0."""
    array = as_array(values, name, np.float64)
    if array.size == 0 and array.shape[:1] == (0,) and array.ndim < len(shape):
        array = array.reshape(0, *(known if known is not None else 1 for known in shape[1:]))
    if array.ndim != len(shape) or any(known not in (None, length) for known, length in zip(shape, array.shape)):
        wanted = ", ".join("*" if known is None else str(known) for known in shape)
        raise ArgumentError(f"{name} has the shape {array.shape}; it should be ({wanted})", hint="* stands for any length")
    if not np.isfinite(array).all():
        raise NanError(f"{name} holds NaN or infinite values")
    return array


def probabilities(values: ArrayLike, kind: str, name: str = "probabilities", shape: Sequence[Optional[int]] = (None, None),
                  axis: int = 1) -> Floats:
    """Checked probabilities with the classes along `axis`; those of a softmax are scaled to sum to exactly 1."""
    if kind not in KINDS:
        raise ArgumentError(f"the kind of probabilities is {kind!r}; it should be one of {', '.join(KINDS)}")
    array = numbers(values, name, *shape)
    if array.shape[axis] == 0:
        raise ArgumentError(f"{name} have no classes: their shape is {array.shape}")
    if array.size == 0:
        return array
    low, high = array.min(), array.max()
    if low < -_ABOVE_ONE or high > 1 + _ABOVE_ONE:
        raise ArgumentError(f"{name} lie in {low:g}..{high:g}; they should lie in 0..1", hint="hand in probabilities, not logits")
    array = np.clip(array, 0, 1)
    if kind == "softmax":
        total = array.sum(axis, keepdims=True)
        worst = float(np.abs(total - 1).max())
        if worst > _SUM_ERROR:
            raise ArgumentError(f"{name} of a softmax should sum to 1; they miss it by up to {worst:.3g}",
                                hint='kind="sigmoid" is for classes that are independent of each other')
        array = array / total
    return array


def whole(value: Any, name: str, least: int) -> int:
    """A whole number that is at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(f"{name} is {value!r}; it should be a whole number") from None
    if number < least:
        raise ArgumentError(f"{name} is {number}; it should be at least {least}")
    return number


def bits(p: Floats, kind: str) -> Floats:
    """What each probability adds to the entropy, in bits: `-p log p`; for a sigmoid, where no is an answer too, that of 1 - p as well."""
    yes: Floats = -p * np.log2(np.maximum(p, _LEAST))    # 0 for 0
    return yes + bits(1 - p, "softmax") if kind == "sigmoid" else yes


def information(p: Floats, kind: str) -> Floats:
    """Entropy in bits: of each row (N,), or, for a sigmoid, of each class by itself (N, C)."""
    return bits(p, kind) if kind == "sigmoid" else np.asarray(bits(p, kind).sum(1))


def jensen_shannon(p: Floats, q: Floats, kind: str = "softmax") -> Floats:
    """Divergence 0..1 of rows: 0 when they are the same, 1 when they have nothing in common. (N, C) and (N, C) or (C,) to (N,).

    For a sigmoid that of the class that differs most.
    """
    apart = information((p + q) / 2, kind) - (information(p, kind) + information(np.broadcast_to(q, p.shape), kind)) / 2
    return np.clip(apart.max(1) if kind == "sigmoid" else apart, 0, 1)
