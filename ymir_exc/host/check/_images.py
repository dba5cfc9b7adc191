"""Judges pictures by their first and last bytes; only one that does not end as its format ends is decoded."""
from __future__ import annotations

import contextlib
import os
import stat
import struct
import warnings
from typing import Iterator, List, NamedTuple, Optional, Tuple

from ymir_exc.dataset_convert._image_size import Size, image_size, size_in
from ymir_exc.dataset_reader import check_image
from ymir_exc.errors import ImageError
from ymir_exc.host.check._env import absence
from ymir_exc.host.findings import Rule, Severity, rule

THERE = rule(
    "P401", Severity.ERROR, "Every picture is a file that can be read", "A program fails at it, or leaves it out with its labels",
    "Put the file there, or take its line out of the index file")
EMPTY = rule(
    "P402", Severity.ERROR, "No picture is an empty file", "Nothing can decode it",
    "Copy the file anew, or take its line out of the index file")
DECODABLE = rule(
    "P403", Severity.ERROR, "Every picture is an image", "Nothing can decode it", "Convert it to JPEG or PNG, or take its line out")
COMPLETE = rule(
    "P404", Severity.ERROR, "No picture is cut off", "Decoders raise an error, or fill what is missing with grey",
    "Copy the file anew, or take its line out of the index file")
KEPT = rule(
    "P405", Severity.WARNING, "Pictures are JPEG, PNG or BMP",
    "The platform knows no other format: it exports the file with the ending .unknown, which programs pass over",
    "Convert it to JPEG or PNG")
ENDING = rule(
    "P406", Severity.WARNING, "A picture's ending says its format", "Programs that choose a decoder by the ending fail",
    "Give the file the ending of what it holds")
BOMB = rule(
    "P407", Severity.ERROR, "No picture has more pixels than Pillow decodes", "Pillow refuses it as a decompression bomb",
    "Scale it down, or cut it into tiles")
TURNED = rule(
    "P408", Severity.NOTE, "Pictures are stored upright",
    "Boxes count stored pixels; a program that follows EXIF, as OpenCV does, sees the picture turned and the boxes beside the objects",
    "Rotate the pixels themselves and label again, or read it with IMREAD_IGNORE_ORIENTATION")
DEPTH = rule(
    "P409", Severity.NOTE, "Pictures have 8 bits a channel and no inks", "Programs read 16 bits and CMYK each in a way of its own",
    "Convert it to 8 bits and RGB")

_HEAD = 1024
_TAIL = 12
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"\0\0\0\0IEND\xaeB`\x82"}
_ENDINGS = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "BMP": (".bmp",)}
_OTHERS = ((b"GIF8", "GIF"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"RIFF", "WebP"), (b"\0\0\0\x0cjP  ", "JPEG 2000"))
_DECODED_PIXELS = (1 << 30) // 4 // 3    # Pillow warns of more
_MOST_PIXELS = 2 * _DECODED_PIXELS    # and refuses more
_ORIENTATION = 0x0112

Problem = Tuple[Rule, str]


class Look(NamedTuple):
    """What a picture's bytes tell.

    Attributes:
        size: Width and height in pixels, as stored; None where they cannot be told.
        problems: Rules that it breaks, each with a sentence that names the file.
    """

    size: Optional[Size]
    problems: List[Problem]


def look(path: str) -> Look:
    """Judge one picture.

    Args:
        path: The file. A pipe or a device in its place is reported, never waited for.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as e:    # a NUL character is a ValueError
        reason = "does not exist" if isinstance(e, FileNotFoundError) else f"cannot be read: {getattr(e, 'strerror', None) or e}"
        return Look(None, [(THERE, f"{path} {reason}")])
    try:
        return _look(path, fd)
    except OSError as e:
        return Look(None, [(THERE, f"{path} cannot be read: {e.strerror}")])
    finally:
        os.close(fd)


def size_of(path: str) -> Optional[Size]:
    """Width and height of a picture, as stored; None where they cannot be told, which `look` explains."""
    try:
        with _quiet():
            return None if absence(path) else image_size(path)
    except Exception:    # a decoder raises whatever a malformed file makes it stumble over
        return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Pillow warns of much in a malformed file; findings say what matters of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _look(path: str, fd: int) -> Look:
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        return Look(None, [(THERE, f"{path} is no file but a {'folder' if stat.S_ISDIR(info.st_mode) else 'device or pipe'}")])
    if not info.st_size:
        return Look(None, [(EMPTY, f"{path} is empty")])
    head = os.read(fd, _HEAD)
    kind = _kind(head)
    size = size_in(fd, head) if kind in _ENDINGS else None
    if size is None or min(size) <= 0:
        try:
            with _quiet():
                size = image_size(path)
        except Exception as e:    # a decoder raises whatever a malformed file makes it stumble over
            message = e.message if isinstance(e, ImageError) else f"{path} cannot be read as an image: {e or type(e).__name__}"
            return Look(None, [(DECODABLE, message)])
    if size[0] * size[1] > _MOST_PIXELS:
        return Look(size, [(BOMB, f"{path} has {size[0]} x {size[1]} pixels; Pillow decodes {_MOST_PIXELS}")])
    problems = _form(path, kind, head)
    if not _ends(kind, fd, head, info.st_size, size):
        problems += _cut_off(path, size)
    return Look(size, problems)


def _kind(head: bytes) -> str:
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"BM"):
        return "BMP"
    return next((name for mark, name in _OTHERS if head.startswith(mark)), "")


def _form(path: str, kind: str, head: bytes) -> List[Problem]:
    """What is odd about an intact picture."""
    if kind not in _ENDINGS:
        return [(KEPT, f"{path} is {kind or 'of another format'}")]
    problems: List[Problem] = []
    dot = path.rfind(".")
    if path[dot:].lower() not in _ENDINGS[kind]:
        problems.append((ENDING, f"{path} holds a {kind}"))
    if kind == "JPEG" and b"Exif\0\0" in head:
        turn = _orientation(head)
        if turn > 1:
            problems.append((TURNED, f"{path} is to be turned by its EXIF data (orientation {turn})"))
    if (kind == "PNG" and head[24:25] == b"\x10") or (kind == "JPEG" and b"Adobe" in head and _is_cmyk(path)):
        problems.append((DEPTH, f"{path} has {'16 bits a channel' if kind == 'PNG' else 'the four channels of CMYK'}"))
    return problems


def _orientation(head: bytes) -> int:
    """EXIF's orientation 1..8; 1 also where the first bytes do not tell."""
    start = head.index(b"Exif\0\0") + 6
    order = "<" if head[start:start + 2] == b"II" else ">"
    try:
        place = start + struct.unpack_from(order + "I", head, start + 4)[0]
        for entry in range(struct.unpack_from(order + "H", head, place)[0]):
            tag, _, _, value = struct.unpack_from(order + "HHIH", head, place + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return int(value) if value <= 8 else 1
    except struct.error:
        pass
    return 1


def _is_cmyk(path: str) -> bool:
    from PIL import Image
    try:
        with _quiet(), Image.open(path) as image:
            return image.mode == "CMYK"
    except Exception:    # a decoder raises whatever a malformed file makes it stumble over; the end of the file is judged next
        return False


def _ends(kind: str, fd: int, head: bytes, length: int, size: Size) -> bool:
    """Whether the file ends as its format ends, or is of a format that is not looked at."""
    if kind == "BMP":
        offset, bits, packed = struct.unpack_from("<I", head, 10)[0], head[28:29], head[30:34]
        return len(head) < 34 or packed != bytes(4) or length >= offset + (size[0] * bits[0] + 31) // 32 * 4 * size[1]
    mark = _ENDS.get(kind, b"")
    tail = head[-_TAIL:] if length <= len(head) else os.pread(fd, _TAIL, length - _TAIL)
    return tail.endswith(mark)


def _cut_off(path: str, size: Size) -> List[Problem]:
    """Whether it cannot be decoded: cameras append data of their own to intact pictures."""
    if size[0] * size[1] > _DECODED_PIXELS:
        return [(COMPLETE, f"{path} does not end as its format does")]
    try:
        with _quiet():
            check_image(path)
    except ImageError as e:
        return [(COMPLETE, e.message)]
    return []
