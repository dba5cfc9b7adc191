"""Images of any kind, as detectors want them; needs Pillow and numpy."""
from __future__ import annotations

import contextlib
import math
import os
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from ymir_exc.errors import ImageError, YmirError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray
    from PIL import Image

GREY = (114, 114, 114)
_EXIF_ORIENTATION = 0x0112
_TIFF_BITS_PER_SAMPLE = 258
_ROUNDING = 1e-6    # 29 of 100 are no more than 0.29


def load_image(path: str, at_least: int = 0) -> Tuple[Image.Image, Tuple[int, int]]:
    """Decode an image as one looks at it: upright as its EXIF data says, in RGB whatever its mode (16 bits, CMYK, a palette, ...).

    Values of more than 8 bits are scaled by what their type holds, never by what the image shows: integers by 65535 (by 4095 in a TIFF of
    12 bits), also those of 32 bits, which seldom hold more; and of floats 0..1 is the full range. What is beyond it is clipped.

    Args:
        path: The file.
        at_least: Pixels. A JPEG whose sides are twice as long or more is decoded to a half, a quarter or an eighth, which is several times
            as fast, but not below this. 0: as it is.

    Returns:
        A `PIL.Image` of mode RGB, transparency left out, and the width and height of the upright image in full.

    Raises:
        ImageError: It cannot be decoded to the end, or is too large for Pillow (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    with opened(path) as file:
        width, height = file.size
        if at_least:
            file.draft("RGB", (at_least, at_least))    # does nothing for other formats
        file.load()
        image, is_turned = _upright(file)
        return _in_rgb(image, _most(file)), (height, width) if is_turned else (width, height)


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """Open an image, and say whose fault it is that it cannot be read."""
    from PIL import Image
    try:
        with Image.open(path) as image:
            yield image
    except (MemoryError, YmirError):
        raise
    except Exception as e:    # a decoder raises whatever a malformed file makes it stumble over
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        raise ImageError(f"{os.fspath(path)} cannot be read as an image: {reason or type(e).__name__}") from None


def _upright(image: Any) -> Tuple[Any, bool]:
    """The image as its EXIF data wants it seen, and whether its sides are exchanged by that."""
    from PIL import ImageOps
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        return (ImageOps.exif_transpose(image) if orientation in range(2, 9) else image), orientation in range(5, 9)
    except Exception:    # malformed EXIF data spoils no picture; Pillow stumbles over it in many ways
        return image, False


def _most(file: Any) -> int:
    """What is white, where a value has more than 8 bits."""
    bits = getattr(file, "tag_v2", {}).get(_TIFF_BITS_PER_SAMPLE, (16,))[0]
    return 1 if file.mode == "F" else 4095 if bits == 12 else 65535


def _in_rgb(image: Any, most: int) -> Any:
    if image.mode.startswith(("I", "F")):    # Pillow would cut off all above 255
        import numpy as np
        from PIL import Image
        values = np.nan_to_num(np.clip(np.asarray(image, dtype=np.float64) / most, 0, 1))
        image = Image.fromarray((values * 255).round().astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def are_too_many(broken: int, total: int, max_ratio: float) -> bool:
    """Whether so many of the images are more than the fraction `max_ratio` allows, 0..1: one always may be, all only with 1."""
    allowed = math.floor(max_ratio * total + _ROUNDING)
    if max_ratio < 1:
        allowed = min(max(allowed, 1), total - 1)
    return total > 0 and broken > allowed


class BrokenImages:
    """Counts the images that cannot be read, and puts up with some of them.

        broken = images.BrokenImages(total, max_ratio=0.1)
        try:
            image, _ = images.load_image(path)
        except ImageError as e:
            broken.add(path, e)    # raises in its turn when there are too many

    Args:
        total: How many images there are.
        max_ratio: Fraction of them that may be broken, 0..1; one always may, but never all.
    """

    def __init__(self, total: int, max_ratio: float) -> None:
        self._total = total
        self._max_ratio = max_ratio
        self._paths: Set[str] = set()

    def __len__(self) -> int:
        return len(self._paths)

    def add(self, path: str, error: ImageError) -> None:
        """Count an image, with one warning in the log however often it comes.

        Raises:
            ImageError: There are more than may be.
        """
        if path in self._paths:
            return
        self._paths.add(path)
        import logging
        logging.getLogger(__name__).warning("left out: %s", error)
        are_all = len(self._paths) >= self._total
        if are_all or are_too_many(len(self._paths), self._total, self._max_ratio):
            allowed = "" if are_all else f", more than max_broken_ratio {self._max_ratio:g} allows"
            raise ImageError(f"{len(self._paths)} of {self._total} images cannot be read{allowed}; the last: {error}",
                             hint="repair the dataset, or raise max_broken_ratio" if allowed else "repair the dataset") from None


class Letterbox(NamedTuple):
    """How an image of `width` x `height` pixels lies in its square: scaled, then moved right and down. Boxes are (..., 4) corners."""

    width: int
    height: int
    scale: float
    left: int
    top: int

    def to_square(self, boxes: ArrayLike) -> NDArray[np.float32]:
        """From pixels of the image to pixels of the square."""
        import numpy as np
        return np.asarray(boxes, np.float32) * np.float32(self.scale) + np.array([self.left, self.top] * 2, np.float32)

    def visible(self, boxes: ArrayLike) -> Tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """What of boxes in pixels of the image lies in it, and which of them have an area there, (...)."""
        import numpy as np
        clipped: NDArray[np.float32] = np.clip(np.asarray(boxes, np.float32), 0, np.array([self.width, self.height] * 2, np.float32))
        return clipped, np.all(clipped[..., 2:] > clipped[..., :2], axis=-1)

    def to_image(self, boxes: ArrayLike) -> NDArray[np.float32]:
        """From pixels of the square to pixels of the image, clipped to it."""
        import numpy as np
        unscaled = (np.asarray(boxes, np.float32) - np.array([self.left, self.top] * 2, np.float32)) / np.float32(self.scale)
        clipped: NDArray[np.float32] = np.clip(unscaled, 0, np.array([self.width, self.height] * 2, np.float32))
        return clipped


def letterbox(width: int, height: int, size: int) -> Letterbox:
    """Where an image of this many pixels lies in a square of side `size`: in the middle, as large as possible."""
    scale = size / max(width, height)
    return Letterbox(width, height, scale, (size - round(width * scale)) // 2, (size - round(height * scale)) // 2)


def load_square(path: str, size: int, fill: Tuple[int, int, int] = GREY) -> Tuple[NDArray[np.uint8], Letterbox]:
    """One image, upright, in RGB, fitted into a square.

    Args:
        path: The file.
        size: Side of the square, in pixels.
        fill: Colour of what the image leaves free.

    Returns:
        Pixels (size, size, 3), 0..255, and how the image lies among them.

    Raises:
        ImageError: As `load_image`.
    """
    import numpy as np
    from PIL import Image
    image, (width, height) = load_image(path, size)
    place = letterbox(width, height, size)
    inner = (max(1, round(width * place.scale)), max(1, round(height * place.scale)))
    if image.size != inner:
        image = image.resize(inner, Image.Resampling.BILINEAR)
    if inner != (size, size):
        square = Image.new("RGB", (size, size), fill)
        square.paste(image, (place.left, place.top))
        image = square
    return np.array(image), place


def squares(paths: Iterable[str], size: int, batch_size: int,
            on_broken: Callable[[str, ImageError], None]) -> Iterator[Tuple[List[str], NDArray[np.uint8], List[Letterbox]]]:
    """Images in batches, as `load_square` has them. While a batch is used the next one is decoded, in threads.

    Args:
        paths: The files, taken a batch ahead.
        size: Side of the square, in pixels.
        batch_size: Images at once; fewer at the end, and where some cannot be read.
        on_broken: Told of an image that cannot be read, in one of the threads: `BrokenImages.add`, or what calls it. What it raises is
            raised here.

    Yields:
        The paths of those that can be read, their pixels (B, size, size, 3), and how each lies in its square.
    """
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    def load(path: str) -> Optional[Tuple[str, NDArray[np.uint8], Letterbox]]:
        try:
            return (path, *load_square(path, size))
        except ImageError as e:
            on_broken(path, e)
            return None

    rest = iter(paths)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        batch = list(islice(rest, batch_size))
        decoding = pool.map(load, batch)
        while batch:
            readable = [one for one in decoding if one is not None]
            batch = list(islice(rest, batch_size))
            decoding = pool.map(load, batch)
            if readable:
                names, pixels, places = zip(*readable)
                yield list(names), np.stack(pixels), list(places)


def draw_boxes(pixels: ArrayLike, boxes: ArrayLike, colour: str, labels: Sequence[str] = ()) -> NDArray[np.uint8]:
    """Draw outlines of boxes.

    Args:
        pixels: (H, W, 3), 0..255.
        boxes: (N, 4) corners in these pixels.
        colour: As Pillow knows it: "#ff4136", "red".
        labels: What to write into the upper left corner of each; none when empty.

    Returns:
        Other pixels (H, W, 3); those given stay.
    """
    import numpy as np
    from PIL import Image, ImageDraw
    image = Image.fromarray(np.array(pixels, np.uint8))
    pen = ImageDraw.Draw(image)
    for box, label in zip(np.asarray(boxes).tolist(), labels or [""] * len(np.asarray(boxes))):
        pen.rectangle(box, outline=colour)
        if label:
            pen.text((box[0] + 2, box[1] + 1), label, fill=colour)
    return np.array(image)
