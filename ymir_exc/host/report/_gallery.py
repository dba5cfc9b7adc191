"""Which images are shown, their thumbnails, and the ranking of a mining."""
from __future__ import annotations

import base64
import io
import math
import os
import random
from array import array
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ymir_exc.errors import YmirError
from ymir_exc.host.report._match import NOTHING, decoded
from ymir_exc.host.report._objects import FULL_SCORE, Objects

SEED = 0
BINS = 40
MOST_OBJECTS = 300
"""Of an image on the page, those with the highest scores."""

_SIDES = ((400, 256), (1000, 192))
_SMALL_SIDE = 160
_QUALITY = 80
_AT_ONCE = 32


class Ranking(NamedTuple):
    """What a result.tsv says.

    Attributes:
        places: File name to its place, from 1, and its score; of the first `most` lines.
        scores: Of all lines, in their order.
    """

    places: Dict[str, Tuple[int, float]]
    scores: Sequence[float]


def read_ranking(path: Path, most: int, problems: List[str]) -> Ranking:
    """Read a ranking line by line (contract 7.1); empty where there is none."""
    places: Dict[str, Tuple[int, float]] = {}
    scores = array("d")
    broken = 0
    try:
        with path.open(encoding="utf-8", errors="replace") as f:
            for line in f:
                if not line.strip():
                    continue
                name, _, text = line.rstrip("\r\n").partition("\t")
                try:
                    score = float(text)
                except ValueError:
                    score = math.nan
                broken += not math.isfinite(score)
                scores.append(score if math.isfinite(score) else 0.0)
                if len(places) < most:
                    places.setdefault(os.path.basename(name), (len(scores), scores[-1]))
    except FileNotFoundError:
        pass
    except OSError as e:
        problems.append(f"{path} cannot be read: {e}")
    if broken:
        problems.append(f"{path}: {broken} lines have no finite score; they are shown with 0")
    return Ranking(places, scores)


def histogram(scores: Sequence[float]) -> Dict[str, Any]:
    """Counts of scores in `BINS` equal steps from the least to the greatest."""
    low, high = min(scores), max(scores)
    counts = [0] * BINS
    for score in scores:
        counts[min(BINS - 1, int((score - low) / (high - low) * BINS)) if high > low else 0] += 1
    return {"low": low, "high": high, "counts": counts}


class Choice(NamedTuple):
    """The images that are shown, in the order of all, and how many were chosen for which reason."""

    names: List[str]
    by_rank: int
    by_mistakes: int
    at_random: int


def choose(names: Sequence[str], most: int, ranks: Dict[str, Tuple[int, float]], mistakes: Dict[str, int]) -> Choice:
    """Choose images: a third with the highest ranks, a third with the most mistakes, the rest at random.

    Args:
        names: All, without doubles.
        most: How many at most.
        ranks: See `Ranking.places`; may be empty.
        mistakes: File name to how many objects are missed or false; may be empty.
    """
    if len(names) <= most:
        return Choice(list(names), 0, 0, 0)
    known, chosen = set(names), set()
    share = most // (1 + bool(ranks) + bool(mistakes))
    ranked = sorted((name for name in ranks if name in known), key=lambda name: ranks[name][0])[:share]
    chosen.update(ranked)
    worst = sorted((name for name in mistakes if name not in chosen), key=lambda name: -mistakes[name])[:share]
    chosen.update(worst)
    rest = [name for name in names if name not in chosen]
    drawn = random.Random(SEED).sample(rest, min(len(rest), most - len(chosen)))
    chosen.update(drawn)
    return Choice([name for name in names if name in chosen], len(ranked), len(worst), len(drawn))


class Picture(NamedTuple):
    """A thumbnail.

    Attributes:
        width: Of the image itself, in pixels.
        height: Of the image itself.
        side: Width and height of the thumbnail.
        source: A data URL; empty where the image cannot be read.
        error: Why not.
    """

    width: int
    height: int
    side: Tuple[int, int]
    source: str
    error: str = ""


def thumbnails(paths: Sequence[Optional[Path]], on_done: Callable[[], None]) -> Iterator[Picture]:
    """Thumbnails in the order of the paths, made in threads; None is an image that is not on this machine."""
    side = next((side for count, side in _SIDES if len(paths) <= count), _SMALL_SIDE)
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        for start in range(0, len(paths), _AT_ONCE):    # whoever presses Ctrl-C waits for these, not for all
            for picture in pool.map(partial(_thumbnail, side=side), paths[start:start + _AT_ONCE]):
                on_done()
                yield picture


def _thumbnail(path: Optional[Path], side: int) -> Picture:
    from PIL import Image

    from ymir_exc.images import load_image
    if path is None:
        return Picture(0, 0, (side, side), "", "not on this machine")
    try:
        image, (width, height) = load_image(str(path), side)
    except YmirError as e:
        return Picture(0, 0, (side, side), "", str(e).replace(f"{path} ", "").replace(f" '{path}'", ""))    # its name stands beside it
    scale = min(1.0, side / max(width, height))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    if image.size != small:
        image = image.resize(small, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return Picture(width, height, small, "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"))


def describe(name: str, picture: Picture, found: Optional[Objects], true: Optional[Objects], matched: Sequence[int],
             rank: Optional[Tuple[int, float]]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """An image of the gallery: its facts for report.json, and what the page needs to draw it.

    Args:
        name: File name.
        picture: Its thumbnail.
        found: What a model found; None where none looked.
        true: What is really there; None where nobody said.
        matched: The true object of each found one, -1 for none; empty without labels.
        rank: Place and score in the ranking of a mining.
    """
    size = _size(picture, found, true)
    facts: Dict[str, Any] = {
        "name": name, "width": size[0], "height": size[1], "found": None, "truth": None, "found_angles": None, "truth_angles": None,
        "rank": rank[0] if rank else None, "mining_score": rank[1] if rank else None, "error": picture.error}
    drawn: Dict[str, Any] = {"src": picture.source, "w": picture.side[0], "h": picture.side[1], "masks": [], "trueMasks": []}
    if found is not None:
        order = sorted(range(len(found.scores)), key=lambda n: -int(found.scores[n]))[:MOST_OBJECTS]
        at = list(matched) or [NOTHING] * len(found.scores)
        facts["found"] = [[int(found.classes[n]), int(found.scores[n]) / FULL_SCORE, *_xywh(found, n), at[n]] for n in order]
        facts["found_angles"] = _angles(found, order)
        drawn["masks"] = [_runs(found.masks[n], size, picture.side) for n in order]
    if true is not None:
        facts["truth"] = [[int(label), *_xywh(true, n)] for n, label in enumerate(true.classes)]
        facts["truth_angles"] = _angles(true, range(len(true.classes)))
        drawn["trueMasks"] = [_runs(mask, size, picture.side) for mask in true.masks]
    for key in ("masks", "trueMasks"):
        if not any(drawn[key]):
            del drawn[key]
    return facts, drawn


def _size(picture: Picture, found: Optional[Objects], true: Optional[Objects]) -> Tuple[int, int]:
    """Of an image; where it cannot be read, large enough for all that is said to be on it."""
    if picture.width:
        return picture.width, picture.height
    boxes = [box for objects in (found, true) if objects is not None for box in objects.boxes.tolist()]
    return max([1, *(math.ceil(box[2]) for box in boxes)]), max([1, *(math.ceil(box[3]) for box in boxes)])


def _xywh(objects: Objects, n: int) -> List[float]:
    left, top, right, bottom = objects.boxes[n].tolist()
    return [round(left, 2), round(top, 2), round(right - left, 2), round(bottom - top, 2)]


def _angles(objects: Objects, order: Sequence[int]) -> Optional[List[float]]:
    return None if objects.angles is None else [round(float(objects.angles[n]), 5) for n in order]


def _runs(mask: Any, size: Tuple[int, int], side: Tuple[int, int]) -> Optional[List[int]]:
    """A mask in the thumbnail's pixels: lengths of runs, row by row, outside and inside in turn; None without a usable mask."""
    import numpy as np
    if not mask:
        return None
    try:
        given = (int(mask["size"][1]), int(mask["size"][0])) if isinstance(mask, dict) else size
        whole = decoded(mask, *given)
    except (ValueError, TypeError, KeyError, IndexError):
        return None
    rows = (np.arange(side[1]) * 2 + 1) * given[1] // (2 * side[1])
    columns = (np.arange(side[0]) * 2 + 1) * given[0] // (2 * side[0])
    flat = whole[rows][:, columns].reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts: List[int] = np.diff(changes, prepend=0, append=flat.size).tolist()
    return [0, *counts] if flat[0] else counts
