"""What all readers of annotations share: the labelled object, and numbers read strictly."""
from __future__ import annotations

import math
import os
from functools import lru_cache
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

from ymir_exc.errors import DatasetError

MAX_BYTES = 16 << 20
"""Of one image's annotation file; the file that coco shares among all images has no limit."""
_CHUNK = 1 << 16

Segmentation = Union[List[List[float]], Dict[str, Any]]


class LabelledObject(NamedTuple):
    """One object of an image.

    Attributes:
        class_id: Position in `class_names`, from 0.
        xmin: Left column, in pixels.
        ymin: Upper row.
        xmax: Right column, still inside the box.
        ymax: Lower row, still inside the box.
        quality: What annotators gave, 0..1; -1 when nobody did.
        rotate_angle: As the platform wrote it; its unit is not defined (contract 5.2).
        is_crowd: COCO's flag.
        segmentation: COCO's polygons `[[x, y, x, y, ...], ...]` or RLE `{"counts": ..., "size": [height, width]}`; None for a box only.
    """

    class_id: int
    xmin: int
    ymin: int
    xmax: int
    ymax: int
    quality: float = -1.0
    rotate_angle: float = 0.0
    is_crowd: bool = False
    segmentation: Optional[Segmentation] = None

    @property
    def width(self) -> int:
        """Columns that the box covers."""
        return self.xmax - self.xmin + 1

    @property
    def height(self) -> int:
        """Rows that the box covers."""
        return self.ymax - self.ymin + 1

    @property
    def xywh(self) -> Tuple[int, int, int, int]:
        """Left, top, width, height in pixels, as COCO and the platform's results have it."""
        return self.xmin, self.ymin, self.width, self.height


def read_file(path: str) -> bytes:
    """One image's annotation file, without a byte order mark.

    Raises:
        DatasetError: It is missing, unreadable or larger than `MAX_BYTES`.
    """
    try:
        data = _read_all(path)
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist", hint="the index file names it") from None
    except OSError as e:
        raise DatasetError(f"cannot read {path}: {e.strerror}") from None
    except ValueError as e:    # a NUL character
        raise DatasetError(f"{path!r} is no path: {e}", hint="the index file names it") from None
    if len(data) > MAX_BYTES:
        raise DatasetError(f"{path} is larger than {MAX_BYTES >> 20} MiB: it cannot be the annotation of one image")
    return data[3:] if data.startswith(b"\xef\xbb\xbf") else data


def _read_all(path: str) -> bytes:
    """The file's bytes, or more than `MAX_BYTES` of them. Without a file object: there are many small files."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, _CHUNK)
        while len(data) <= MAX_BYTES:
            more = os.read(fd, _CHUNK)
            if not more:
                break
            data += more
        return data
    finally:
        os.close(fd)


def whole(value: Union[bytes, str, float]) -> int:
    """A number of pixels; a fraction is cut towards zero."""
    try:
        return int(value)
    except ValueError:
        return int(finite(value))
    except (OverflowError, TypeError):
        raise ValueError(f"{value!r} is not a finite number") from None


def finite(value: Union[bytes, str, float]) -> float:
    try:
        number = float(value)
    except (ValueError, OverflowError, TypeError):
        number = math.nan
    if not math.isfinite(number):
        shown = value.decode("utf-8", "replace").strip() if isinstance(value, bytes) else value
        raise ValueError(f"{shown!r} is not a finite number")
    return number


def has_extent(xmin: int, ymin: int, xmax: int, ymax: int) -> bool:
    """False for a box of no pixels, which the platform writes with xmax = xmin - 1.

    Raises:
        ValueError: The corners are the wrong way round.
    """
    if xmax + 1 < xmin or ymax + 1 < ymin:
        raise ValueError(f"the corner ({xmax}, {ymax}) lies before ({xmin}, {ymin})")
    return xmax >= xmin and ymax >= ymin


@lru_cache(maxsize=8)
def ids_of_names(class_names: Tuple[str, ...]) -> Mapping[str, int]:
    """Name to class id; the label store's lower-case form of a name too, where it is not another class."""
    ids: Dict[str, int] = {}
    for class_id, name in enumerate(class_names):
        ids.setdefault(name.strip().lower(), class_id)
    return {**ids, **{name: class_id for class_id, name in enumerate(class_names)}}
