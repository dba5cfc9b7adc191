"""Image sizes from headers, against Pillow."""
from __future__ import annotations

import struct
import sys

import pytest

from tests.dataset_convert.conftest import png_head
from ymir_exc.dataset_convert._image_size import image_size
from ymir_exc.errors import ImageError

FORMATS = [("JPEG", "RGB", {}), ("JPEG", "L", {}), ("JPEG", "CMYK", {}), ("JPEG", "RGB", {"progressive": True}),
           ("JPEG", "RGB", {"exif": b"Exif\0\0" + b"\xff\xc0" * 30_000}), ("JPEG", "RGB", {"comment": b"x" * 60_000}),
           ("PNG", "RGBA", {}), ("PNG", "1", {}), ("BMP", "RGB", {}), ("BMP", "L", {}), ("GIF", "L", {}), ("WEBP", "RGB", {}),
           ("TIFF", "RGB", {})]


@pytest.mark.parametrize("kind, mode, options", FORMATS, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_as_pillow_says(tmp_path, kind, mode, options):
    image = pytest.importorskip("PIL.Image")
    for number, size in enumerate([(1, 1), (37, 211), (640, 3)]):
        path = str(tmp_path / f"图 {number}.unknown")
        image.new(mode, size).save(path, kind, **options)
        assert image_size(path) == size


def test_orientation_is_not_applied(tmp_path):
    image = pytest.importorskip("PIL.Image")
    made = image.new("RGB", (30, 20))
    exif = made.getexif()
    exif[0x0112] = 6    # to be shown turned by 90 degrees
    made.save(tmp_path / "turned.jpg", exif=exif)
    assert image_size(str(tmp_path / "turned.jpg")) == (30, 20)


def jpeg(*segments, frame=0xC0, size=(20, 30)):
    start = b"\xff\xd8" + b"".join(segments)
    return start + bytes([0xFF, frame, 0, 17, 8]) + struct.pack(">HH", *reversed(size)) + b"\3" + bytes(9)


@pytest.mark.parametrize("data, size", [
    (jpeg(), (20, 30)),
    (jpeg(b"\xff\xff\xff\xe0\0\4ab"), (20, 30)),                                       # fill bytes before a marker
    (jpeg(b"\xff\xc4\0\4ab", b"\xff\xd0", frame=0xCF, size=(65535, 1)), (65535, 1)),     # a Huffman table, and a marker without length
    (jpeg(*[b"\xff\xe1\xff\xff" + bytes(65533)] * 3), (20, 30)),
    (b"BM" + bytes(12) + struct.pack("<Iii", 40, 7, -9), (7, 9)),                        # stored from top to bottom
    (b"BM" + bytes(12) + struct.pack("<IHHI", 12, 7, 9, 0), (7, 9)),                     # OS/2
    (png_head(4_000_000, 5), (4_000_000, 5)),
])
def test_odd_but_valid(tmp_path, data, size):
    path = tmp_path / "a"
    path.write_bytes(data)
    assert image_size(str(path)) == size


def test_a_segment_shorter_than_its_own_length_is_left_to_pillow(tmp_path):
    pytest.importorskip("PIL")
    (tmp_path / "a").write_bytes(jpeg(b"\xff\xe0\0\1"))
    assert image_size(str(tmp_path / "a")) == (20, 30)


BROKEN = [b"", b"\xff\xd8\xff", jpeg()[:-14], jpeg(b"\xff\xe1\xff\xff"), jpeg(size=(20, 0)), b"\xff\xd8" + b"\xff\xd0" * 20_000,
          b"\x89PNG\r\n\x1a\n",
          png_head(0, 5), b"BM" + bytes(30), b"<svg/>", bytes(100)]


@pytest.mark.parametrize("data", BROKEN)
def test_broken(tmp_path, data):
    pytest.importorskip("PIL")
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.jpg cannot be read as an image"):
        image_size(str(path))


def test_missing_or_a_folder(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        image_size(str(tmp_path / "a.jpg"))
    with pytest.raises(ImageError, match="Is a directory"):
        image_size(str(tmp_path))


def test_without_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "a.png").write_bytes(png_head(3, 4))
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    assert image_size(str(tmp_path / "a.png")) == (3, 4)
    with pytest.raises(ImageError, match=r"a\.gif: its size cannot be told") as caught:
        image_size(str(tmp_path / "a.gif"))
    assert "pip install Pillow" in caught.value.hint
