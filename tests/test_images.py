"""Images as they come: turned, grey, transparent, of 16 bits, for print, huge, cut off."""
from __future__ import annotations

import io
import logging

import pytest

from ymir_exc import dataset_reader
from ymir_exc.errors import ImageError, classify

Image = pytest.importorskip("PIL.Image")
np = pytest.importorskip("numpy")


def red_left(width=40, height=20, mode="RGB"):
    """Red on the left half, black on the right one."""
    image = Image.new("RGB", (width, height))
    image.paste((255, 0, 0), (0, 0, width // 2, height))
    return image.convert(mode)


def saved(path, image, **options):
    image.save(path, **options)
    return str(path)


def is_red(pixel):
    return pixel[0] > 180 and pixel[1] < 80 and pixel[2] < 80


# What is stored as red_left, seen with this orientation: where the red half is then.
SIDES = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("at_least", [0, 16])
def test_upright_as_exif_says(tmp_path, orientation, at_least):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "一 turned.jpg", red_left(401, 200), exif=exif.tobytes(), quality=95)
    image, size = dataset_reader.load_image(path, at_least)
    assert size == ((401, 200) if orientation < 5 else (200, 401))
    assert (image.width < 150) == bool(at_least)
    middle = {"left": (0.1, 0.5), "right": (0.9, 0.5), "top": (0.5, 0.1), "bottom": (0.5, 0.9)}
    seen = {side: is_red(image.getpixel((int(x * image.width), int(y * image.height)))) for side, (x, y) in middle.items()}
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[SIDES[orientation]]
    assert seen[SIDES[orientation]]
    assert not seen[opposite]


def test_a_jpeg_is_decoded_smaller_but_not_too_small(tmp_path):
    path = saved(tmp_path / "a.jpg", red_left(1000, 800))
    assert dataset_reader.load_image(path)[0].size == (1000, 800)
    image, size = dataset_reader.load_image(path, 150)
    assert size == (1000, 800)
    assert 150 <= image.height < 400
    assert dataset_reader.load_image(path, 700)[0].size == (1000, 800)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = saved(tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr", "LA") else "a.png"), red_left(mode=mode))
    image, size = dataset_reader.load_image(path)
    assert (image.mode, size) == ("RGB", (40, 20))
    left, right = image.getpixel((5, 10)), image.getpixel((35, 10))
    assert max(right) < 30
    assert is_red(left) if mode not in ("L", "1", "LA") else left[0] == left[1] == left[2]


def test_a_palette_with_transparency(tmp_path):
    path = saved(tmp_path / "a.png", red_left(mode="P"), transparency=bytes([0, 255]))
    assert dataset_reader.load_image(path)[0].mode == "RGB"


@pytest.mark.parametrize(("values", "expected"), [
    (np.array([[0, 32768], [65535, 257]], np.uint16), [[0, 128], [255, 1]]),
    (np.array([[0, 128], [255, 1]], np.int32), [[0, 128], [255, 1]]),
    (np.array([[0, 32768], [65535, 257]], np.int32), [[0, 128], [255, 1]]),
])
def test_sixteen_bits_are_not_cut_off(tmp_path, values, expected):
    made = Image.fromarray(values)
    path = saved(tmp_path / "a.tif", made)
    assert np.asarray(dataset_reader.load_image(path)[0])[:, :, 0].tolist() == expected


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_malformed_exif_spoils_nothing(tmp_path):
    path = saved(tmp_path / "a.jpg", red_left(), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\xff\xff")
    assert dataset_reader.load_image(path)[1] == (40, 20)


def noise(kind):
    content = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize("content", [b"", b"no image", noise("JPEG")[:5000], noise("PNG")[:5000]])
def test_what_cannot_be_read_to_the_end(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.jpg cannot be read as an image: .") as caught:
        dataset_reader.load_image(str(path))
    assert classify(caught.value).code == 300003
    with pytest.raises(ImageError, match=r"a\.jpg"):
        dataset_reader.check_image(str(path))
    with pytest.raises(ImageError, match="No such file"):
        dataset_reader.load_image(str(tmp_path / "none.jpg"))


def test_an_image_too_large_for_pillow(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", red_left(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="exceeds limit"):
        dataset_reader.load_image(path)


def test_some_broken_images_are_put_up_with(caplog):
    broken = dataset_reader.BrokenImages(20, max_ratio=0.1)
    caplog.set_level(logging.WARNING)
    for path in ("/a.jpg", "/b.jpg", "/a.jpg"):
        broken.add(path, ImageError(f"{path} is broken"))
    assert len(broken) == 2
    assert [record.getMessage() for record in caplog.records] == ["left out: /a.jpg is broken", "left out: /b.jpg is broken"]
    with pytest.raises(ImageError, match=r"3 of 20 images cannot be read.*max_broken_ratio 0\.1.*/c\.jpg is broken"):
        broken.add("/c.jpg", ImageError("/c.jpg is broken"))


def test_of_few_images_one_may_be_broken():
    broken = dataset_reader.BrokenImages(3, max_ratio=0)
    broken.add("/a.jpg", ImageError("a"))
    with pytest.raises(ImageError, match="2 of 3"):
        broken.add("/b.jpg", ImageError("b"))
