"""Boxes that are turned about their centres.

The platform does not define the unit of `rotate_angle` (contract 5.2). Here it is taken for radians, as the documents of its demo images
say, and as clockwise where y points down, which is how SVG and OpenCV turn; the page says so.
"""
from __future__ import annotations

import math
from typing import List, Sequence, Tuple

Point = Tuple[float, float]


def corners(box: Sequence[float], angle: float) -> List[Point]:
    """The corners of a box, clockwise as the image is seen.

    Args:
        box: xmin, ymin, xmax, ymax in pixels, the last two just outside.
        angle: In radians.
    """
    left, top, right, bottom = map(float, box)
    x, y, cos, sin = (left + right) / 2, (top + bottom) / 2, math.cos(angle), math.sin(angle)
    ways = (left - x, top - y), (right - x, top - y), (right - x, bottom - y), (left - x, bottom - y)
    return [(x + dx * cos - dy * sin, y + dx * sin + dy * cos) for dx, dy in ways]


def overlap(one: List[Point], other: List[Point]) -> float:
    """IoU of two convex polygons whose corners go clockwise."""
    if _apart(one, other):
        return 0.0
    both = one
    for n, end in enumerate(other):
        both = _cut(both, other[n - 1], end)
    inter = _area(both)
    union = _area(one) + _area(other) - inter
    return inter / union if union > 0 else 0.0


def _apart(one: List[Point], other: List[Point]) -> bool:
    return any(max(point[axis] for point in a) <= min(point[axis] for point in b)
               for axis in (0, 1) for a, b in ((one, other), (other, one)))


def _cut(polygon: List[Point], start: Point, end: Point) -> List[Point]:
    """What of a polygon lies on the inner side of an edge, by Sutherland and Hodgman."""
    def inside(point: Point) -> float:
        return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])

    kept: List[Point] = []
    for n, point in enumerate(polygon):
        before, a, b = polygon[n - 1], inside(polygon[n - 1]), inside(point)
        if (a < 0) != (b < 0):
            part = a / (a - b)
            kept.append((before[0] + part * (point[0] - before[0]), before[1] + part * (point[1] - before[1])))
        if b >= 0:
            kept.append(point)
    return kept


def _area(polygon: List[Point]) -> float:
    return sum(x * polygon[n - 1][1] - polygon[n - 1][0] * y for n, (x, y) in enumerate(polygon)) / -2
