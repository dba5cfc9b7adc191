"""A sheet of pictures with the boxes that a model found in them."""
from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ymir_exc import _files

_COLOURS = ("#ff4136", "#2ecc40", "#0074d9", "#ffdc00", "#b10dc9", "#ff851b", "#39cccc", "#f012be")
_GAP = 4


def draw(target: Path, images: Sequence[str], detections: Mapping[str, Any], class_names: Sequence[str], *, threshold: float = 0.3,
         columns: int = 6, cell: int = 240) -> int:
    """Draw images in a grid, each with its detections.

    Args:
        target: The PNG to write.
        images: Paths on this machine, in reading order.
        detections: `detection` of infer-result.json: file name to a mapping with `boxes`.
        class_names: Decide the colours.
        threshold: Detections with a lower score are left out.
        columns: Images in a row.
        cell: Side of an image's square, in pixels.

    Returns:
        How many boxes were drawn.
    """
    from PIL import Image, ImageDraw
    rows = -(-len(images) // columns) or 1
    sheet = Image.new("RGB", (columns * (cell + _GAP) + _GAP, rows * (cell + _GAP) + _GAP), "#202020")
    pen, drawn = ImageDraw.Draw(sheet), 0
    colours = {name: _COLOURS[n % len(_COLOURS)] for n, name in enumerate(class_names)}
    for n, path in enumerate(images):
        corner = (_GAP + n % columns * (cell + _GAP), _GAP + n // columns * (cell + _GAP))
        scale = _paste(sheet, path, corner, cell)
        found = detections.get(os.path.basename(path), {})
        boxes: List[Dict[str, Any]] = found.get("boxes") or found.get("annotations") or []
        for one in sorted(boxes, key=lambda b: float(b["score"])):
            if one["score"] >= threshold:
                _draw_box(pen, one, corner, scale, colours.get(one["class_name"], "#ffffff"))
                drawn += 1
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    _files.write_bytes(target, buffer.getvalue(), sync=False)
    return drawn


def _paste(sheet: Any, path: str, corner: Tuple[int, int], cell: int) -> float:
    """Fit an image into its cell; returns the scale."""
    from PIL import Image, ImageOps
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    sheet.paste(image.resize(size, Image.Resampling.BILINEAR), corner)
    return scale


def _draw_box(pen: Any, one: Mapping[str, Any], corner: Tuple[int, int], scale: float, colour: str) -> None:
    box = one["box"]
    left, top = corner[0] + box["x"] * scale, corner[1] + box["y"] * scale
    pen.rectangle((left, top, left + box["w"] * scale, top + box["h"] * scale), outline=colour, width=2)
    label = f"{one['class_name']} {one['score']:.2f}"
    width = pen.textlength(label) + 4
    edge = top - 12 if top - 12 > corner[1] else top
    pen.rectangle((left, edge, left + width, edge + 12), fill=colour)
    pen.text((left + 2, edge), label, fill="#000000")
