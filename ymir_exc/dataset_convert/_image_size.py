"""The size of an image, from its first bytes, without decoding it.

JPEG, PNG and BMP are read here, because that is what the platform exports (contract 0) and Pillow need not be there; everything else is
Pillow's. A JPEG's EXIF orientation is not applied: the size is that of the stored pixels, as `PIL.Image.size` says it and as the
platform's boxes count. Whoever loads images with OpenCV must pass `IMREAD_IGNORE_ORIENTATION` for the boxes to fit.
"""
from __future__ import annotations

import os
import struct
from typing import Optional, Tuple

from ymir_exc.errors import ImageError

Size = Tuple[int, int]

_HEAD = 1024
_MAX_SEGMENTS = 10_000
# Start-of-frame markers: C0 to CF without the Huffman tables (C4), the reserved C8 and the arithmetic conditioning (CC).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD9)) | {0x01}


def image_size(path: str) -> Size:
    """Width and height of an image.

    Args:
        path: The file.

    Returns:
        Width and height in pixels, as stored.

    Raises:
        ImageError: It is missing, empty, cut off before its size is told, or of a kind that nobody here reads.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = size_in(fd, os.read(fd, _HEAD))
        finally:
            os.close(fd)
    except OSError as e:
        raise ImageError(f"cannot read {path}: {e.strerror}", hint="the index file names it") from None
    except ValueError as e:    # a NUL character
        raise ImageError(f"{path!r} is no path: {e}", hint="the index file names it") from None
    return size if size and min(size) > 0 else _ask_pillow(path)


def size_in(fd: int, head: bytes) -> Optional[Size]:
    """What the header of an open image says; None where it is of no kind known here, or says nothing."""
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg_size(fd, head)
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR" and len(head) >= 24:
        width, height = struct.unpack_from(">II", head, 16)
        return width, height
    return _bmp_size(head) if head.startswith(b"BM") and len(head) >= 26 else None


def _bmp_size(head: bytes) -> Size:
    header_length, = struct.unpack_from("<I", head, 14)
    width, height = struct.unpack_from("<HH" if header_length == 12 else "<ii", head, 18)
    return width, abs(height)    # negative: the rows are stored from top to bottom


def _jpeg_size(fd: int, head: bytes) -> Optional[Size]:
    """Go from segment to segment until one starts a frame."""
    start, offset = 0, 2    # where `head` begins in the file, and where the segment does
    for _ in range(_MAX_SEGMENTS):
        if offset - start + 9 > len(head):
            start, head = offset, os.pread(fd, _HEAD, offset)
        segment = head[offset - start: offset - start + 9]
        if len(segment) < 4 or segment[0] != 0xFF:
            return None
        marker, length = segment[1], segment[2] << 8 | segment[3]
        if marker == 0xFF:    # a fill byte
            offset += 1
        elif marker in _WITHOUT_LENGTH:
            offset += 2
        elif marker in _FRAMES:
            return _frame_size(segment)
        elif length < 2:    # it counts itself
            return None
        else:
            offset += 2 + length
    return None


def _frame_size(segment: bytes) -> Optional[Size]:
    if len(segment) < 9:
        return None
    height, width = struct.unpack_from(">HH", segment, 5)
    return width, height


def _ask_pillow(path: str) -> Size:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ImageError(f"{path}: its size cannot be told: it is no intact JPEG, PNG or BMP file",
                         hint="other kinds of images need Pillow: pip install Pillow") from None
    try:
        with Image.open(path) as image:
            width, height = image.size
            return int(width), int(height)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        raise ImageError(f"{path} cannot be read as an image: {reason}", hint="remove it from the dataset") from None
