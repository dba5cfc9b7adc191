"""Outlines of what the sample dataset shows: polygons in a unit frame, about -1..1 on both axes, y down."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, List, NamedTuple, Tuple

if TYPE_CHECKING:
    from numpy.random import RandomState

CLASS_NAMES = ("gear", "fish", "mug")
Points = List[Tuple[float, float]]


class Layer(NamedTuple):
    """One polygon of an object; later ones lie above earlier ones.

    Attributes:
        tone: ``base``, ``dark``, ``light``, ``accent``, ``white``, ``black``, or ``hole``, which cuts through the
            layers before it.
        points: corners in the unit frame.
    """

    tone: str
    points: Points


def _ellipse(x: float, y: float, radius_x: float, radius_y: float, steps: int = 36) -> Points:
    turn = 2.0 * math.pi / steps
    return [(x + radius_x * math.cos(i * turn), y + radius_y * math.sin(i * turn)) for i in range(steps)]


def _rectangle(half_x: float, half_y: float, y: float = 0.0) -> Points:
    return [(-half_x, y - half_y), (half_x, y - half_y), (half_x, y + half_y), (-half_x, y + half_y)]


def gear(rng: RandomState) -> List[Layer]:
    """A toothed wheel with a see-through bore; its face is plain or has six dots."""
    teeth, root = int(rng.randint(7, 12)), rng.uniform(0.70, 0.78)
    pitch = 2.0 * math.pi / teeth
    outline: Points = []
    for tooth in range(teeth):
        for part, radius in ((-0.30, root), (-0.17, 1.0), (0.17, 1.0), (0.30, root)):
            angle = (tooth + part) * pitch
            outline.append((radius * math.cos(angle), radius * math.sin(angle)))
    bore = rng.uniform(0.16, 0.28)
    layers = [Layer("base", outline), Layer("dark", _ellipse(0, 0, 0.60, 0.60)),
              Layer("light", _ellipse(0, 0, 0.54, 0.54))]
    if rng.random_sample() < 0.5:
        layers += [Layer("dark", _ellipse(0.41 * math.cos(a), 0.41 * math.sin(a), 0.09, 0.09, 12))
                   for a in (math.pi / 3.0 * i for i in range(6))]
    return [*layers, Layer("dark", _ellipse(0, 0, bore + 0.07, bore + 0.07)), Layer("hole", _ellipse(0, 0, bore, bore))]


def fish(rng: RandomState) -> List[Layer]:
    """A fish from the side, nose to the left: body, forked tail, two fins, an eye, up to three stripes."""
    height, fork = rng.uniform(0.40, 0.52), rng.uniform(0.62, 0.80)
    tail = [(0.40, 0.0), (0.84, -0.50), (1.0, -0.42), (fork, 0.0), (1.0, 0.42), (0.84, 0.50)]
    upper = [(-0.42, -height * 0.8), (-0.05, -height - 0.24), (0.28, -height - 0.10), (0.30, -height * 0.5)]
    lower = [(-0.15, height * 0.9), (0.12, height + 0.20), (0.25, height * 0.6)]
    layers = [Layer("accent", tail), Layer("accent", upper), Layer("accent", lower),
              Layer("base", _ellipse(-0.23, 0.0, 0.77, height))]
    for i in range(int(rng.randint(0, 4))):
        x = -0.22 + 0.22 * i
        reach = height * math.sqrt(max(0.0, 1.0 - ((x + 0.23) / 0.77) ** 2)) * 0.92
        layers.append(Layer("dark", [
            (x, -reach), (x + 0.09, -reach), (x + 0.13, 0), (x + 0.09, reach), (x, reach), (x + 0.05, 0)]))
    return [*layers, Layer("white", _ellipse(-0.66, -0.10, 0.12, 0.12)),
            Layer("black", _ellipse(-0.68, -0.10, 0.06, 0.06, 16))]


def mug(rng: RandomState) -> List[Layer]:
    """A mug from a little above: walls, see-through handle on the right, dark opening, a band."""
    half, narrow = rng.uniform(0.50, 0.60), rng.uniform(0.0, 0.10)
    handle = rng.uniform(0.34, 0.42)
    body = [(-half, -0.72), (half, -0.72), (half - narrow, 0.78), (half - narrow - 0.12, 0.9),
            (narrow + 0.12 - half, 0.9), (narrow - half, 0.78)]
    layers = [Layer("accent", _ellipse(half, 0.05, handle, 0.44)),
              Layer("hole", _ellipse(half, 0.05, handle - 0.17, 0.27)), Layer("base", body)]
    band = rng.uniform(-0.25, 0.30)
    layers.append(Layer("light", _rectangle(half - 0.02 - narrow * 0.5, 0.13, band + 0.13)))
    return [*layers, Layer("base", _ellipse(0.0, -0.72, half, 0.22)),
            Layer("black", _ellipse(0.0, -0.72, half - 0.08, 0.15))]


def no_class(rng: RandomState) -> List[Layer]:
    """A shape that belongs to no class: triangle, square, cross, bar, crescent, drop or rhomb."""
    kind = int(rng.randint(7))
    if kind == 0:
        return [Layer("base", [(0.0, -1.0), (0.87, 0.5), (-0.87, 0.5)])]
    if kind == 1:
        return [Layer("base", _rectangle(0.75, 0.75)), Layer("light", _rectangle(0.4, 0.4))]
    if kind == 2:
        return [Layer("base", _rectangle(0.95, 0.28)), Layer("base", _rectangle(0.28, 0.95))]
    if kind == 3:
        return [Layer("base", _rectangle(1.0, 0.22)), Layer("light", _rectangle(1.0, 0.07))]
    if kind == 4:
        return [Layer("base", _ellipse(0, 0, 0.95, 0.95)), Layer("hole", _ellipse(0.42, 0.0, 0.75, 0.75))]
    if kind == 5:
        return [Layer("base", _ellipse(0, 0.3, 0.6, 0.6)), Layer("base", [(-0.56, 0.1), (0.0, -1.0), (0.56, 0.1)])]
    return [Layer("base", [(0.0, -0.95), (0.6, 0.0), (0.0, 0.95), (-0.6, 0.0)])]
