"""Draws the pictures of the sample dataset: gears, fish and mugs among shapes that are no class.

Everything random comes from one generator per picture, derived from ``(seed, split, index)``, so a picture does not
depend on how many others are drawn. This module needs numpy and Pillow; ``host.sample`` imports it when it runs.

Coordinates are pixels of the picture with the origin at the top left corner. Outlines of objects are polygons in a unit
frame (``host._shapes``), which one affine map turns, stretches and scales into the picture. Colours are kept channels
first, which numpy handles several times faster.
"""
from __future__ import annotations

import colorsys
import functools
import math
from typing import TYPE_CHECKING, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ymir_exc.host import _shapes
from ymir_exc.host._shapes import CLASS_NAMES, Layer

CLASS_SHARES = (0.46, 0.32, 0.22)
SPLITS = ("train", "val", "candidate")

_BASE_SIZE = 192  # the object sizes below are for pictures of this side
_SIDE_RANGE = (48.0, 112.0)
_MIN_VISIBLE = 0.85  # of an object's own pixels; the rest may be covered or lie outside the picture
_SUPERSAMPLE = 4
_PLACE_TRIES = 12
_NO_CLASS = -1

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]
    Mask: TypeAlias = NDArray[np.bool_]

Colour = Tuple[float, float, float]


class Box(NamedTuple):
    """One labelled object: class index and box in pixels, both corners inclusive, inside the picture."""
    class_index: int
    xmin: int
    ymin: int
    xmax: int
    ymax: int


class Picture(NamedTuple):
    """A drawn picture.

    Attributes:
        pixels: ``(size, size, 3)`` uint8, RGB.
        boxes: the labelled objects, lowest layer first; empty when the picture shows none.
    """
    pixels: NDArray[np.uint8]
    boxes: List[Box]


class _Patch(NamedTuple):
    """A drawn object, not yet in a picture: ``(3, side, side)`` colours 0..1 and ``(side, side)`` cover 0..1."""
    colour: Floats
    cover: Floats


class _Placed(NamedTuple):
    """An object in the picture: class index (-1: no class), its still visible pixels, and how many it has in all."""
    class_index: int
    visible: Mask
    full_area: int


def draw_picture(seed: int, split: str, index: int, size: int) -> Picture:
    """Draw one picture.

    Args:
        seed: of the dataset, 0 or more.
        split: one of ``SPLITS``; candidates show fewer and more uneven classes than the labelled pictures.
        index: of the picture within its split.
        size: side of the picture in pixels.
    """
    rng = _generator(seed, split, index)
    classes = _plan(rng, split)
    scene, tone = _background(rng, size)
    wanted = classes + [_NO_CLASS] * _distractor_count(rng)
    placed: List[_Placed] = []
    for class_index in (wanted[i] for i in rng.permutation(len(wanted))):
        _place(rng, scene, tone, class_index, placed)
    boxes = [_box_of(item) for item in placed if item.class_index >= 0]
    return Picture(_expose(rng, scene), boxes)


def _generator(seed: int, split: str, index: int) -> np.random.RandomState:
    """The picture's own generator: of the kind whose numbers stay the same from one numpy to the next."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence((seed, SPLITS.index(split), index))))


# ---------------------------------------------------------------------------------------------- what a picture shows


def _plan(rng: np.random.RandomState, split: str) -> List[int]:
    """The class indices of the objects that a picture is to show."""
    return _plan_candidate(rng) if split == "candidate" else _plan_labelled(rng)


def _plan_labelled(rng: np.random.RandomState) -> List[int]:
    """Class indices for a train or val picture: 8 % show no object, the others 1 to 5."""
    if rng.random_sample() < 0.08:
        return []
    return _choose_classes(rng, _object_count(rng), CLASS_SHARES)


def _plan_candidate(rng: np.random.RandomState) -> List[int]:
    """Class indices for a candidate: 22 % show none, 30 % only the frequent class, 15 % are rich in the rare ones."""
    kind = rng.random_sample()
    if kind < 0.22:
        return []
    if kind < 0.52:
        return [0] * _object_count(rng)
    if kind < 0.85:
        return _choose_classes(rng, _object_count(rng), (0.70, 0.18, 0.12))
    return _choose_classes(rng, int(rng.randint(3, 6)), (0.10, 0.35, 0.55))


def _object_count(rng: np.random.RandomState) -> int:
    return 1 + int(rng.choice(5, p=(0.18, 0.30, 0.27, 0.16, 0.09)))


def _distractor_count(rng: np.random.RandomState) -> int:
    return int(rng.choice(4, p=(0.45, 0.35, 0.15, 0.05)))


def _choose_classes(rng: np.random.RandomState, count: int, shares: Sequence[float]) -> List[int]:
    return [int(i) for i in rng.choice(len(CLASS_NAMES), size=count, p=shares)]


# ------------------------------------------------------------------------------------------------------- backgrounds


@functools.lru_cache(maxsize=256)
def _grid(size: int) -> Tuple[Floats, Floats]:
    """Give x ``(1, size)`` and y ``(size, 1)`` of the pixels, -1..1."""
    axis: Floats = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    return axis[None, :], axis[:, None]


def _along(rng: np.random.RandomState, size: int) -> Floats:
    """Position of every pixel along a random direction, -1.4..1.4, ``(size, size)``."""
    x, y = _grid(size)
    angle = rng.uniform(0.0, 2.0 * math.pi)
    return x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle))


def _soft_noise(rng: np.random.RandomState, size: int, cells: int) -> Floats:
    """Smooth random hills, 0..1, ``(size, size)``."""
    coarse = Image.fromarray((rng.random_sample((cells, cells)) * 255.0).astype(np.uint8))
    smooth: Floats = np.asarray(coarse.resize((size, size)), dtype=np.float32) / 255.0
    return smooth


def _wave(phase: Floats) -> Floats:
    """A sine of a phase in radians, 0..1."""
    wave: Floats = np.sin(phase) * np.float32(0.5) + np.float32(0.5)
    return wave


def _unit(values: Floats) -> Floats:
    """Values cut to 0..1."""
    cut: Floats = np.clip(values, np.float32(0.0), np.float32(1.0))
    return cut


def _pattern_stripes(rng: np.random.RandomState, size: int) -> Floats:
    return _wave(_along(rng, size) * np.float32(rng.uniform(8.0, 40.0)))


def _pattern_blobs(rng: np.random.RandomState, size: int) -> Floats:
    hills = _soft_noise(rng, size, int(rng.randint(5, 14)))
    return _unit((hills - np.float32(0.5)) * np.float32(rng.uniform(2.0, 8.0)) + np.float32(0.5))


def _pattern_waves(rng: np.random.RandomState, size: int) -> Floats:
    bend = _soft_noise(rng, size, 5) * np.float32(rng.uniform(2.0, 8.0))
    return _wave(_along(rng, size) * np.float32(rng.uniform(6.0, 20.0)) + bend)


def _pattern_tiles(rng: np.random.RandomState, size: int) -> Floats:
    step = np.float32(rng.uniform(5.0, 14.0))
    across, down = np.sin(_grid(size)[0] * step), np.sin(_grid(size)[1] * step)
    return _unit(across * down * np.float32(4.0) + np.float32(0.5))


def _pattern_grain(rng: np.random.RandomState, size: int) -> Floats:
    return rng.random_sample((size, size)).astype(np.float32)


def _pattern_rings(rng: np.random.RandomState, size: int) -> Floats:
    x, y = _grid(size)
    distance = np.hypot(x - np.float32(rng.uniform(-1.2, 1.2)), y - np.float32(rng.uniform(-1.2, 1.2)))
    return _wave(distance * np.float32(rng.uniform(8.0, 30.0)))


_PATTERNS: Tuple[Callable[[np.random.RandomState, int], Floats], ...] = (
    _pattern_stripes, _pattern_blobs, _pattern_waves, _pattern_tiles, _pattern_grain, _pattern_rings)


def _background(rng: np.random.RandomState, size: int) -> Tuple[Floats, Colour]:
    """A ``(3, size, size)`` background 0..1 and its mean colour: a gradient, mostly with one or two patterns on it."""
    first = _colour(rng, (0.05, 0.50), (0.25, 0.95))
    second = _nearby(rng, first, 0.35)
    blend = _unit(_along(rng, size) * np.float32(0.5) + np.float32(0.5))
    scene = _planes(first) + (_planes(second) - _planes(first)) * blend
    for _ in range(int(rng.choice(3, p=(0.15, 0.55, 0.30)))):
        pattern = _PATTERNS[rng.randint(len(_PATTERNS))](rng, size)
        third = _planes(_nearby(rng, first, 0.45))
        scene += (third - scene) * (pattern * np.float32(rng.uniform(0.15, 0.55)))
    mean = scene.mean(axis=(1, 2))
    return scene, (float(mean[0]), float(mean[1]), float(mean[2]))


def _planes(colour: Colour) -> Floats:
    """A colour as an array that spreads over a picture, ``(3, 1, 1)``."""
    return np.array(colour, dtype=np.float32)[:, None, None]


def _colour(rng: np.random.RandomState, saturation: Tuple[float, float], value: Tuple[float, float]) -> Colour:
    """A random RGB colour, 0..1, with saturation and value in the given ranges."""
    return colorsys.hsv_to_rgb(rng.random_sample(), rng.uniform(*saturation), rng.uniform(*value))


def _nearby(rng: np.random.RandomState, colour: Colour, reach: float) -> Colour:
    """A colour at most ``reach`` from the given one on each channel."""
    moved = np.clip(np.array(colour) + rng.uniform(-reach, reach, 3), 0.05, 0.98)
    return (float(moved[0]), float(moved[1]), float(moved[2]))


def _contrasting(draw: Callable[[], Colour], against: Colour, distance_wanted: float) -> Colour:
    """One of a few drawn colours that a person tells from ``against`` at a glance: the first far enough, or the farthest."""
    best, best_distance = against, -1.0
    for _ in range(6):
        colour = draw()
        distance = math.dist(colour, against)
        if distance > distance_wanted:
            return colour
        if distance > best_distance:
            best, best_distance = colour, distance
    return best


# --------------------------------------------------------------------------------------------------- objects, in pixels


_SHAPES: Dict[int, Callable[[np.random.RandomState], List[Layer]]] = {
    _NO_CLASS: _shapes.no_class, 0: _shapes.gear, 1: _shapes.fish, 2: _shapes.mug}


def _draw_object(rng: np.random.RandomState, class_index: int, size: int, against: Colour) -> _Patch:
    """Draw one object, turned, stretched and textured, into a patch of its own."""
    low, high = (side * size / _BASE_SIZE for side in _SIDE_RANGE)
    radius = 0.5 * math.exp(rng.uniform(math.log(low), math.log(high)))
    layers = _SHAPES[class_index](rng)
    turn = rng.uniform(-0.7, 0.7) if class_index == 2 else rng.uniform(0.0, 2.0 * math.pi)
    stretch = (rng.uniform(0.82, 1.0) * (1 if rng.random_sample() < 0.5 else -1), rng.uniform(0.82, 1.0))
    side = 2 * math.ceil(radius * 1.15) + 4
    tones = _tones(rng, against)
    scale, centre = radius * _SUPERSAMPLE, side * _SUPERSAMPLE / 2.0
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale

    canvas = Image.new("RGB", (side * _SUPERSAMPLE, side * _SUPERSAMPLE), tones["base"])
    stencil = Image.new("L", canvas.size, 0)
    on_canvas, on_stencil = ImageDraw.Draw(canvas), ImageDraw.Draw(stencil)
    for layer in layers:
        points = [(centre + cos * x - sin * y, centre + sin * x + cos * y)
                  for x, y in ((x * stretch[0], y * stretch[1]) for x, y in layer.points)]
        on_stencil.polygon(points, fill=0 if layer.tone == "hole" else 255)
        if layer.tone != "hole":
            on_canvas.polygon(points, fill=tones[layer.tone])
    small = stencil.reduce(_SUPERSAMPLE)
    colour = np.asarray(canvas.reduce(_SUPERSAMPLE)).transpose(2, 0, 1).astype(np.float32, order="C") / 255.0
    cover = np.asarray(small, dtype=np.float32) / 255.0
    shade = _shading(rng, small, radius)
    return _Patch(_unit(colour * shade), cover)


def _tones(rng: np.random.RandomState, against: Colour) -> Dict[str, Tuple[int, int, int]]:
    """RGB 0..255 for each tone name, all from one base colour that stands out from ``against``."""
    base = _contrasting(lambda: _colour(rng, (0.35, 0.95), (0.40, 1.0)), against, 0.55)
    accent = _contrasting(lambda: _nearby(rng, base, 0.30), against, 0.45)
    white = (0.95, 0.95, 0.92)
    mixed: Dict[str, Colour] = {
        "base": base, "accent": accent, "white": white, "black": (0.07, 0.07, 0.09),
        "dark": (base[0] * 0.45, base[1] * 0.45, base[2] * 0.45),
        "light": (base[0] * 0.5 + 0.47, base[1] * 0.5 + 0.47, base[2] * 0.5 + 0.46)}
    return {name: (int(c[0] * 255), int(c[1] * 255), int(c[2] * 255)) for name, c in mixed.items()}


def _shading(rng: np.random.RandomState, stencil: Image.Image, radius: float) -> Floats:
    """Light on an object: a dark rim, a lit side, and a fine texture; factors about 0.5..1.3, ``(side, side)``."""
    rim = np.asarray(stencil.filter(ImageFilter.GaussianBlur(max(1.0, radius * 0.12))), dtype=np.float32) / 255.0
    side = stencil.size[0]
    lit = _along(rng, side) * np.float32(rng.uniform(0.05, 0.25))
    kind = int(rng.randint(4))
    if kind == 0:
        grain = np.zeros((side, side), dtype=np.float32)
    elif kind == 1:
        grain = rng.random_sample((side, side)).astype(np.float32) - np.float32(0.5)
    elif kind == 2:
        grain = np.sin(_along(rng, side) * np.float32(rng.uniform(12.0, 25.0)))
    else:
        grain = _soft_noise(rng, side, 7) * 2.0 - 1.0
    shade: Floats = _unit(rim * np.float32(1.4) - np.float32(0.35)) * np.float32(0.5) + lit + grain * np.float32(0.10)
    return shade + np.float32(0.55)


# --------------------------------------------------------------------------------------------------------- composition


def _place(rng: np.random.RandomState, scene: Floats, tone: Colour, class_index: int, placed: List[_Placed]) -> None:
    """Draw one object over the scene where it hides no earlier one too much; leave it out where no place is found."""
    size = scene.shape[1]
    patch = _draw_object(rng, class_index, size, tone)
    area = int((patch.cover >= 0.5).sum())
    side = patch.cover.shape[0]
    shadow = rng.random_sample() < 0.6
    for _ in range(_PLACE_TRIES):
        left, top = (int(v) for v in rng.randint(-side // 5, max(size - side + side // 5, 1 - side // 5), 2))
        mask = _mask_at(patch, left, top, size)
        if mask.sum() < area * 0.9 or not mask.any() or _hides_too_much(mask, placed):
            continue
        for i, item in enumerate(placed):
            placed[i] = item._replace(visible=item.visible & ~mask)
        placed.append(_Placed(class_index, mask, area))
        if shadow:
            _blend_shadow(scene, patch, left + max(1, side // 20), top + max(1, side // 14))
        _blend(scene, patch.colour, patch.cover, left, top)
        return


def _window(left: int, top: int, side: int, size: int) -> Optional[Tuple[Tuple[slice, slice], Tuple[slice, slice]]]:
    """Slices into the picture and into a patch of ``side`` at (left, top), or None when they do not meet."""
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, size), min(top + side, size)
    if x0 >= x1 or y0 >= y1:
        return None
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def _mask_at(patch: _Patch, left: int, top: int, size: int) -> Mask:
    """The pixels of the picture that the patch covers at least by half, ``(size, size)``."""
    mask: Mask = np.zeros((size, size), dtype=np.bool_)
    window = _window(left, top, patch.cover.shape[0], size)
    if window is not None:
        mask[window[0]] = patch.cover[window[1]] >= 0.5
    return mask


def _hides_too_much(mask: Mask, placed: Sequence[_Placed]) -> bool:
    return any(int((item.visible & ~mask).sum()) < _MIN_VISIBLE * item.full_area
               for item in placed if item.class_index >= 0)


def _blend(scene: Floats, colour: Floats, cover: Floats, left: int, top: int) -> None:
    window = _window(left, top, cover.shape[0], scene.shape[1])
    if window is not None:
        (rows, columns), here = window
        scene[:, rows, columns] += (colour[(slice(None), *here)] - scene[:, rows, columns]) * cover[here]


def _blend_shadow(scene: Floats, patch: _Patch, left: int, top: int) -> None:
    """Darken the scene softly, beside where the object is going to be."""
    stencil = Image.fromarray((patch.cover * 255.0).astype(np.uint8))
    blurred = stencil.filter(ImageFilter.GaussianBlur(max(1.0, stencil.size[0] / 30.0)))
    cover = np.asarray(blurred, dtype=np.float32) * np.float32(0.30 / 255.0)
    _blend(scene, np.zeros_like(patch.colour), cover, left, top)


def _box_of(item: _Placed) -> Box:
    """The tight box of an object's visible pixels."""
    columns = np.flatnonzero(item.visible.any(axis=0))
    rows = np.flatnonzero(item.visible.any(axis=1))
    return Box(item.class_index, int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))


def _expose(rng: np.random.RandomState, scene: Floats) -> NDArray[np.uint8]:
    """Light the scene unevenly, tint it, sometimes blur it, add sensor noise, and turn it into ``uint8``."""
    size = scene.shape[1]
    light = np.float32(rng.uniform(0.75, 1.15)) + _along(rng, size) * np.float32(rng.uniform(0.0, 0.22))
    tint = rng.uniform(0.92, 1.08, (3, 1, 1)).astype(np.float32)
    lit = np.clip(scene * (light * np.float32(255.0)) * tint, 0.0, 255.0)
    if rng.random_sample() < 0.25:
        soft = Image.fromarray(_interleaved(lit)).filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.9)))
        lit = np.asarray(soft).transpose(2, 0, 1).astype(np.float32, order="C")
    noise = rng.standard_normal((size, size)).astype(np.float32) * np.float32(rng.uniform(0.5, 5.0))
    return _interleaved(np.clip(lit + noise, 0.0, 255.0))


def _interleaved(planes: Floats) -> NDArray[np.uint8]:
    """``(3, size, size)`` values 0..255 as ``(size, size, 3)`` uint8."""
    return np.ascontiguousarray(planes.astype(np.uint8).transpose(1, 2, 0))
