"""The ark format: a text file for each image, one line an object (contract 5.2)."""
from __future__ import annotations

import math
from math import isfinite
from typing import List, Optional, Sequence

from ymir_exc._annotations.objects import LabelledObject, finite, has_extent, read_file, whole
from ymir_exc.errors import DatasetError

_MAX_LINE = 1000
_PLAIN_FRAME = b",,,,,,\n"    # seven columns
_CORNERS_HINT = "the columns are class_index, xmin, ymin, xmax, ymax, both corners inclusive, not width and height"


def read_ark(path: str, class_count: Optional[int] = None) -> List[LabelledObject]:
    """Read an ark file: one line an object, `class_index, xmin, ymin, xmax, ymax[, quality[, rotate_angle]]` (contract 5.2).

    Args:
        path: The file.
        class_count: How many classes there are; an index beyond is refused. None does not check.

    Raises:
        DatasetError: The file is missing, or a line is malformed.
    """
    objects = []
    limit = math.inf if class_count is None else class_count
    for number, line in enumerate(read_file(path).split(b"\n"), 1):
        try:    # as the platform writes it; read here, because a call a line is what would cost
            first, second, third, fourth, fifth, sixth, seventh = line.split(b",")
            class_id, xmin, ymin, xmax, ymax, quality, angle = (
                int(first), int(second), int(third), int(fourth), int(fifth), float(sixth), float(seventh))
            if 0 <= class_id < limit and xmin <= xmax and ymin <= ymax and isfinite(quality) and isfinite(angle):
                objects.append(LabelledObject(class_id, xmin, ymin, xmax, ymax, quality, angle))
                continue
        except ValueError:
            pass
        objects += _other_line(line, class_count, path, number)
    return objects


def _other_line(line: bytes, class_count: Optional[int], path: str, number: int) -> List[LabelledObject]:
    """What a line of another form holds: nothing, or one object."""
    if not line or line.isspace():
        return []
    try:
        found = _ark_object(line, class_count)
    except ValueError as e:
        raise DatasetError(f"{path}, line {number}: {e}", hint=_CORNERS_HINT) from None
    return [] if found is None else [found]


def _ark_object(line: bytes, class_count: Optional[int]) -> Optional[LabelledObject]:
    fields = line.split(b",")
    if len(fields) < 5 or len(line) > _MAX_LINE:
        raise ValueError(f"{len(fields)} columns in {len(line)} characters: 5 to 7 short ones are expected")
    class_id, xmin, ymin, xmax, ymax = map(whole, fields[:5])
    if class_id < 0 or (class_count is not None and class_id >= class_count):
        raise ValueError(f"class index {class_id} is outside the {class_count or 'list of'} class_names")
    if not has_extent(xmin, ymin, xmax, ymax):
        return None
    return LabelledObject(class_id, xmin, ymin, xmax, ymax, _optional(fields, 5, -1.0), _optional(fields, 6, 0.0))


def _optional(fields: Sequence[bytes], position: int, default: float) -> float:
    """A column that older platforms did not write; a comma at the end of the line makes an empty one."""
    if len(fields) <= position or fields[position].isspace() or not fields[position]:
        return default
    return finite(fields[position])


def count_ark_objects(path: str) -> int:
    """How many objects an ark file lists: its lines that are not blank. Nothing is parsed.

    Raises:
        DatasetError: The file is missing or unreadable.
    """
    data = read_file(path)
    frame = data.translate(None, b"0123456789.- ")
    if frame == _PLAIN_FRAME * (len(frame) // len(_PLAIN_FRAME)):    # as the platform writes it, at half the cost
        return len(frame) // len(_PLAIN_FRAME)
    return len(list(filter(bytes.strip, data.split(b"\n"))))
