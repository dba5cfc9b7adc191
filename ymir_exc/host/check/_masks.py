"""A mask in infer-result.json: compressed run lengths (contract 7.3)."""
from __future__ import annotations

from typing import Any, Iterator, Mapping, Tuple

from ymir_exc import _rle
from ymir_exc.host.check._context import kind_of, shown
from ymir_exc.host.findings import Rule, Severity, rule

_E, _W = Severity.ERROR, Severity.WARNING
_FAILS = "The whole task fails (169999)"
_LONG = 64    # characters, from which on numpy is faster
_MOST_DIGITS = 10
_MEND = "Encode the mask with pycocotools, and decode the bytes: rle['counts'].decode(); SegmentationResultWriter does"

S420 = rule("S420", _E, "counts is compressed run lengths, a text", _FAILS, _MEND)
S421 = rule("S421", _E, "The text of counts can be decoded", "The mask cannot be drawn", _MEND)
S422 = rule("S422", _E, "The run lengths cover size, which is [height, width]", "The mask is drawn askew, or not at all",
            "Write size as [height, width], of the mask that was encoded")
S430 = rule("S430", _W, "A mask has the size of its image", "It lies elsewhere in the image than was predicted",
            "Scale the mask to the image before encoding it")


def faults(mask: Mapping[str, Any], image: Tuple[int, int]) -> Iterator[Tuple[Rule, str, str]]:
    """What is wrong with a mask.

    Args:
        mask: As given.
        image: Width and height of its image; (0, 0) when they are not told.

    Yields:
        The rule, the message, and the key in the object.
    """
    counts, key = mask.get("counts"), "segmentation.counts"
    if not isinstance(counts, str):
        yield S420, f"counts is {kind_of(counts)}" if "counts" in mask else "counts is missing", key
        return
    try:
        pixels = _pixels(counts) if counts else -1
    except ValueError as e:
        yield S421, str(e), key
        return
    if pixels < 0:
        yield S421, "counts is empty", key
    elif "size" in mask:
        yield from _size_faults(mask["size"], pixels, image)


def _pixels(counts: str) -> int:
    """How many pixels run lengths cover.

    Raises:
        ValueError: As `_rle.text_to_counts`, which gives the lengths themselves; of long texts, several times as fast.
    """
    if len(counts) < _LONG or not counts.isascii():
        return sum(_rle.text_to_counts(counts))
    import numpy as np
    digits = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 0x20 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    places = np.arange(len(digits)) - np.repeat(starts, np.diff(starts, append=len(digits)))
    if digits.min() < 0 or digits.max() >= 64 or not len(ends) or ends[-1] != len(digits) - 1 or places.max() > _MOST_DIGITS:
        return sum(_rle.text_to_counts(counts))    # which says what is wrong
    values = np.add.reduceat((digits & 0x1F) << 5 * places, starts) - ((digits[ends] & 0x10) << 5 * places[ends] + 1)
    runs = values.copy()
    runs[1::2], runs[2::2] = np.cumsum(values[1::2]), np.cumsum(values[2::2])
    return int(runs.sum()) if runs.min() >= 0 else sum(_rle.text_to_counts(counts))


def _size_faults(size: Any, pixels: int, image: Tuple[int, int]) -> Iterator[Tuple[Rule, str, str]]:
    if not isinstance(size, list) or len(size) != 2 or not all(type(edge) is int and edge >= 1 for edge in size):
        yield S422, f"size is {shown(size)}", "segmentation.size"
    elif size[0] * size[1] != pixels:
        yield S422, f"counts covers {pixels} pixels, size is {size}", "segmentation.size"
    elif image != (0, 0) and size != [image[1], image[0]]:
        yield S430, f"size is {size}, the image {image[1]} x {image[0]} (height, width)", "segmentation.size"
