"""Masks as COCO's run-length encoding, written and read without pycocotools.

A mask is read column by column, top to bottom; the runs of equal pixels alternate between outside and inside and begin with outside,
perhaps of length 0. The compressed text holds each run as a little-endian number of 5-bit digits, one character a digit: its code is 48
plus the digit, plus 32 when another one follows; the last digit's highest bit is the sign. From the fourth run on, not the length is
written but its difference to the run two before. The definition is the source of the COCO API (`maskApi.c`: `rleToString`,
`rleFrString`, and `rleFrPoly` for polygons).
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Sequence, Tuple, Union

if TYPE_CHECKING:
    import numpy as np

MAX_PIXELS = 1 << 30
"""Of a mask: a few characters can claim any size."""

_MAX_COORDINATE = 1e6
_UPSAMPLING = 5


def encode(mask: Any) -> Dict[str, Any]:
    """Encode a mask.

    Args:
        mask: `(H, W)`, bool or numbers; what is not 0 is inside.

    Returns:
        `{"size": [H, W], "counts": text}`, as COCO and the platform take it.

    Raises:
        ValueError: It is not `(H, W)`, or has no pixels.
    """
    import numpy as np
    inside = as_array(mask)
    if inside.ndim != 2 or not inside.size:
        raise ValueError(f"a mask must be (H, W) with at least one pixel, is {inside.shape}")
    height, width = inside.shape
    flat = (inside != 0).T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts: List[int] = np.diff(changes, prepend=0, append=flat.size).tolist()
    return _made([0, *counts] if flat[0] else counts, height, width)


def as_array(values: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """An array of numpy, also of a tensor on a GPU or one that requires a gradient."""
    import numpy as np
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def decode(rle: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Decode a mask.

    Args:
        rle: `size` is [H, W]; `counts` is compressed text (str or bytes) or a list of run lengths.

    Returns:
        `(H, W)` bool.

    Raises:
        ValueError: The runs are malformed or do not cover H x W pixels.
    """
    import numpy as np
    counts, height, width = _checked(rle)
    inside = np.zeros(len(counts), bool)
    inside[1::2] = True
    return np.repeat(inside, counts).reshape(width, height).T


def area(rle: Mapping[str, Any]) -> int:
    """Number of pixels inside. Needs no numpy.

    Raises:
        ValueError: As `decode`.
    """
    return sum(_checked(rle)[0][1::2])


def bbox(rle: Mapping[str, Any]) -> Tuple[int, int, int, int]:
    """The smallest box around the mask. Needs no numpy.

    Returns:
        x, y, width, height in pixels; all 0 for a mask without a pixel.

    Raises:
        ValueError: As `decode`.
    """
    counts, height, _ = _checked(rle)
    columns, rows, position = [], [], 0
    for index, count in enumerate(counts):
        if index % 2 and count:
            first, last = divmod(position, height), divmod(position + count - 1, height)
            columns += [first[0], last[0]]
            # A run that reaches the next column touches the bottom of one and the top of the other.
            rows += [first[1], last[1]] if first[0] == last[0] else [0, height - 1]
        position += count
    if not columns:
        return 0, 0, 0, 0
    x, y = min(columns), min(rows)
    return x, y, max(columns) - x + 1, max(rows) - y + 1


def from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Dict[str, Any]:
    """Draw polygons into one mask, with the pixels that the COCO API gives.

    Args:
        polygons: Each `[x, y, x, y, ...]` in pixels; a pixel's centre has half a pixel more than its indices. Parts outside are cut.
        height: Of the mask, in pixels.
        width: Of the mask, in pixels.

    Returns:
        As `encode`; a pixel is inside when it is inside one of the polygons.

    Raises:
        ValueError: A polygon has fewer than three points, or a coordinate that is no number within a million pixels.
    """
    _check_size(height, width)
    drawn = []
    for number, polygon in enumerate(polygons):
        try:
            drawn.append(_draw(polygon, height, width))
        except (ValueError, TypeError) as e:
            raise ValueError(f"polygons[{number}]: {e}") from None
    if len(drawn) == 1:
        return drawn[0]
    import numpy as np
    union = np.zeros((height, width), bool)
    for one in drawn:
        union |= decode(one)
    return encode(union)


def counts_to_text(counts: Sequence[int]) -> str:
    """Compress run lengths; the definition is in the module's text."""
    digits = bytearray()
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            digit, value = value & 0x1F, value >> 5
            if value == (-1 if digit & 0x10 else 0):
                digits.append(48 + digit)
                break
            digits.append(48 + digit + 0x20)
    return digits.decode("ascii")


def text_to_counts(text: Union[str, bytes]) -> List[int]:
    """Run lengths of a compressed text.

    Raises:
        ValueError: A character that does not occur in one, an end in the middle of a number, or a negative length.
    """
    counts: List[int] = []
    value = shift = 0
    for code in text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text:
        digit = code - 48
        if not 0 <= digit < 64 or shift > 60:
            raise ValueError(f"the RLE counts {text!r:.40} are not compressed text")
        value |= (digit & 0x1F) << shift
        shift += 5
        if digit & 0x20:
            continue
        value -= (digit & 0x10) << (shift - 4)
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift or (counts and min(counts) < 0):
        raise ValueError(f"the RLE counts {text!r:.40} are cut off or have a negative run")
    return counts


def _made(counts: Sequence[int], height: int, width: int) -> Dict[str, Any]:
    return {"size": [height, width], "counts": counts_to_text(counts)}


def _checked(rle: Mapping[str, Any]) -> Tuple[List[int], int, int]:
    """Run lengths, height and width."""
    try:
        (height, width), counts = (int(edge) for edge in rle["size"]), rle["counts"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"an RLE mask needs counts and size [H, W], has {dict(rle)!r:.80}") from None
    _check_size(height, width)
    runs = text_to_counts(counts) if isinstance(counts, (str, bytes)) else [int(count) for count in counts]
    if sum(runs) != height * width or (runs and min(runs) < 0):
        raise ValueError(f"the RLE counts cover {sum(runs)} pixels, the mask has {height} x {width}")
    return runs, height, width


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"a mask of {height} x {width} pixels is not accepted")


def _draw(polygon: Sequence[float], height: int, width: int) -> Dict[str, Any]:
    """Fill a polygon: where its outline, on a grid five times as fine, crosses the middle of a column, the column changes sides."""
    import numpy as np
    points = np.asarray(polygon, float)
    if points.ndim != 1 or points.size < 6 or points.size % 2:
        raise ValueError(f"a polygon needs three points or more, as x, y, x, y, ...; the shape is {points.shape}")
    if not np.all(np.abs(np.nan_to_num(points, nan=np.inf)) <= _MAX_COORDINATE):    # old numpy warns of comparing NaN
        raise ValueError("a polygon's coordinates must be numbers within a million pixels")
    x, y = _outline((_UPSAMPLING * points.reshape(-1, 2) + 0.5).astype(np.int64))
    steps = np.flatnonzero(np.diff(x))
    left = np.minimum(x[steps], x[steps + 1])
    top = np.ceil(np.clip((np.minimum(y[steps], y[steps + 1]) + 0.5) / _UPSAMPLING - 0.5, 0, height)).astype(np.int64)
    column = (left - _UPSAMPLING // 2) // _UPSAMPLING
    crossing = (left % _UPSAMPLING == _UPSAMPLING // 2) & (column >= 0) & (column < width)
    places, times = np.unique(column[crossing] * height + top[crossing], return_counts=True)
    changes = places[(times % 2 == 1) & (places < height * width)]    # two at one place undo each other
    counts: List[int] = np.diff(changes, prepend=0, append=height * width).tolist()
    return _made(counts, height, width)


def _outline(corners: np.ndarray[Any, np.dtype[np.int64]]) -> Tuple[Any, Any]:
    """All grid points along the closed outline, one each step of an edge's longer direction."""
    import numpy as np
    start, end = corners, np.roll(corners, -1, axis=0)
    extent = np.abs(end - start)
    length = extent.max(axis=1)
    flat = extent[:, 0] >= extent[:, 1]
    # An edge is walked from its lower end in the longer direction, so that both ways give the same points.
    flip = np.where(flat, start[:, 0] > end[:, 0], start[:, 1] > end[:, 1])
    low, high = np.where(flip[:, None], end, start), np.where(flip[:, None], start, end)
    edge = np.repeat(np.arange(len(corners)), length + 1)
    step = np.arange(edge.size) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    step = np.where(flip[edge], length[edge] - step, step)
    slope = (high - low) / np.maximum(length, 1)[:, None]
    walked = [np.where(flat[edge] == along_x, low[edge, axis] + step, (low[edge, axis] + slope[edge, axis] * step + 0.5).astype(np.int64))
              for axis, along_x in ((0, True), (1, False))]
    return walked[0], walked[1]
