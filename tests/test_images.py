"""Images as they come: turned, grey, transparent, of 16 bits, for print, huge, cut off."""
from __future__ import annotations

import io
import logging
import struct

import pytest

from ymir_exc import dataset_reader, images
from ymir_exc.errors import ImageError, Stopped, classify

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
    image, size = images.load_image(path, at_least)
    assert size == ((401, 200) if orientation < 5 else (200, 401))
    assert (image.width < 150) == bool(at_least)
    middle = {"left": (0.1, 0.5), "right": (0.9, 0.5), "top": (0.5, 0.1), "bottom": (0.5, 0.9)}
    seen = {side: is_red(image.getpixel((int(x * image.width), int(y * image.height)))) for side, (x, y) in middle.items()}
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[SIDES[orientation]]
    assert seen[SIDES[orientation]]
    assert not seen[opposite]


def test_a_jpeg_is_decoded_smaller_but_not_too_small(tmp_path):
    path = saved(tmp_path / "a.jpg", red_left(1000, 800))
    assert images.load_image(path)[0].size == (1000, 800)
    image, size = images.load_image(path, 150)
    assert size == (1000, 800)
    assert 150 <= image.height < 400
    assert images.load_image(path, 700)[0].size == (1000, 800)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = saved(tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr", "LA") else "a.png"), red_left(mode=mode))
    image, size = images.load_image(path)
    assert (image.mode, size) == ("RGB", (40, 20))
    left, right = image.getpixel((5, 10)), image.getpixel((35, 10))
    assert max(right) < 30
    assert is_red(left) if mode not in ("L", "1", "LA") else left[0] == left[1] == left[2]


def test_a_palette_with_transparency(tmp_path):
    path = saved(tmp_path / "a.png", red_left(mode="P"), transparency=bytes([0, 128]))    # of two degrees, about which Pillow warns
    image, _ = images.load_image(path)
    assert image.mode == "RGB"
    assert image.getpixel((35, 10)) == (0, 0, 0)


@pytest.mark.parametrize(("values", "expected"), [
    (np.array([[0, 32768], [65535, 257]], np.uint16), [[0, 128], [255, 1]]),
    (np.array([[0, 32768], [65535, 257]], np.int32), [[0, 128], [255, 1]]),
    (np.array([[0, 128], [255, 257]], np.int32), [[0, 0], [1, 1]]),    # a dark image stays dark
    (np.array([[-9, 1 << 20], [0, 0]], np.int32), [[0, 255], [0, 0]]),
    (np.array([[0, 0.5], [1, 0.25]], np.float32), [[0, 128], [255, 64]]),
    (np.array([[-1, 2], [np.nan, np.inf]], np.float32), [[0, 255], [0, 255]]),
])
def test_more_than_eight_bits_are_not_cut_off(tmp_path, values, expected):
    path = saved(tmp_path / "a.tif", Image.fromarray(values))
    assert np.asarray(images.load_image(path)[0])[:, :, 0].tolist() == expected


def test_a_png_of_sixteen_bits(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(np.array([[0, 128], [255, 514]], np.uint16)))
    assert np.asarray(images.load_image(path)[0])[:, :, 0].tolist() == [[0, 0], [1, 2]]


def test_twelve_bits_are_of_4095(tmp_path):
    tags = [(256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 1), (279, 4, 3)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + struct.pack("<I", 12) + b"\xff\xf8\x00\0" + struct.pack("<H", len(tags)) + entries + b"\0" * 4)
    assert np.asarray(images.load_image(str(path))[0])[0, :, 0].tolist() == [255, 128]    # 4095 and 2048


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_malformed_exif_spoils_nothing(tmp_path):
    path = saved(tmp_path / "a.jpg", red_left(), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\xff\xff")
    assert images.load_image(path)[1] == (40, 20)


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
        images.load_image(str(path))
    assert classify(caught.value).code == 300003
    with pytest.raises(ImageError, match=r"a\.jpg"):
        dataset_reader.check_image(str(path))
    with pytest.raises(ImageError, match="No such file"):
        images.load_image(str(tmp_path / "none.jpg"))


@pytest.mark.parametrize("error", [RuntimeError("no frame"), NotImplementedError("DXT9"), KeyError("tile"), OverflowError("big")])
def test_whatever_a_decoder_raises_is_the_image_s_fault(tmp_path, monkeypatch, error):
    path = saved(tmp_path / "a.png", red_left())

    def fail(self):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    for read in (images.load_image, dataset_reader.check_image):
        with pytest.raises(ImageError, match=rf"a\.png cannot be read as an image: .*{error.args[0]}"):
            read(path)


def test_a_broken_file_of_an_odd_kind(tmp_path):
    path = tmp_path / "a.dds"
    path.write_bytes(b"DDS " + struct.pack("<I", 124) + b"\0" * 68 + struct.pack("<II4s", 32, 4, b"DXT9") + b"\0" * 200)
    with pytest.raises(ImageError, match=r"a\.dds cannot be read"):
        images.load_image(str(path))


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), Stopped("by SIGTERM")])
def test_what_is_no_fault_of_the_image_stays_as_it_is(tmp_path, error):
    path = saved(tmp_path / "a.png", red_left())
    with pytest.raises(type(error)), images.opened(path):
        raise error


def test_an_image_too_large_for_pillow(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", red_left(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="exceeds limit"):
        images.load_image(path)


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 40), (33, 77), (192, 192), (1000, 3)])
def test_letterbox_there_and_back(width, height):
    place = images.letterbox(width, height, 192)
    boxes = [[0, 0, width, height], [1, 1, 2, 2]]
    square = place.to_square(boxes)
    assert square.min() >= -0.5
    assert square.max() <= 192.5
    assert place.to_image(square).tolist() == pytest.approx(np.array(boxes), abs=1e-3)
    assert place.to_image(np.zeros((0, 4))).shape == (0, 4)


def test_boxes_are_clipped_to_the_image():
    assert images.letterbox(40, 20, 192).to_image([[-50, -50, 500, 500]]).tolist() == [[0, 0, 40, 20]]


def test_what_of_boxes_can_be_seen():
    boxes, inside = images.letterbox(40, 20, 192).visible([[-5, 2, 10, 30], [40, 0, 50, 10], [3, 3, 3, 9], [1, 1, 2, 2]])
    assert boxes.tolist() == [[0, 2, 10, 20], [40, 0, 40, 10], [3, 3, 3, 9], [1, 1, 2, 2]]
    assert inside.tolist() == [True, False, False, True]
    assert [part.shape for part in images.letterbox(40, 20, 192).visible(np.zeros((0, 4)))] == [(0, 4), (0,)]


def test_the_image_lies_in_the_middle_of_the_square(tmp_path):
    pixels, place = images.load_square(saved(tmp_path / "a.png", red_left()), 64)
    assert (pixels.shape, pixels.dtype) == ((64, 64, 3), np.uint8)
    assert (place.width, place.height, place.left, place.top) == (40, 20, 0, 16)
    assert pixels[32, 16].tolist() == [255, 0, 0]
    assert pixels[32, 48].tolist() == [0, 0, 0]
    assert pixels[2, 32].tolist() == [114, 114, 114]


def test_squares_come_in_batches_without_the_broken_ones(tmp_path):
    paths = [saved(tmp_path / f"{n}.png", red_left(10 + n, 10)) for n in range(7)]
    for broken in (2, 4, 5):
        (tmp_path / f"{broken}.png").write_bytes(b"")
    taken, told = [], []
    batches = images.squares((taken.append(path) or path for path in paths), 16, 2, lambda path, error: told.append((path, type(error))))
    found = [(names, pixels.shape, [place.width for place in places]) for names, pixels, places in batches]
    assert found == [(paths[0:2], (2, 16, 16, 3), [10, 11]), (paths[3:4], (1, 16, 16, 3), [13]), (paths[6:], (1, 16, 16, 3), [16])]
    assert taken == paths
    assert sorted(told) == [(paths[n], ImageError) for n in (2, 4, 5)]


def test_squares_end_where_too_many_are_broken(tmp_path):
    def refuse(path, error):
        raise error

    with pytest.raises(ImageError, match="none"):
        list(images.squares([str(tmp_path / "none.png")], 16, 2, refuse))


def test_a_drawn_box_leaves_the_given_pixels_alone():
    blank = np.zeros((20, 30, 3), np.uint8)
    drawn = images.draw_boxes(blank, [[5, 4, 14, 12]], "#ff0000", ["a"])
    assert blank.max() == 0
    assert drawn[4, 5:15].tolist() == [[255, 0, 0]] * 10
    assert drawn[12, 14].tolist() == [255, 0, 0]
    assert images.draw_boxes(blank, np.zeros((0, 4)), "red").max() == 0


def test_some_broken_images_are_put_up_with(caplog):
    broken = images.BrokenImages(20, max_ratio=0.1)
    caplog.set_level(logging.WARNING)
    for path in ("/a.jpg", "/b.jpg", "/a.jpg"):
        broken.add(path, ImageError(f"{path} is broken"))
    assert len(broken) == 2
    assert [record.getMessage() for record in caplog.records] == ["left out: /a.jpg is broken", "left out: /b.jpg is broken"]
    with pytest.raises(ImageError, match=r"3 of 20 images cannot be read.*max_broken_ratio 0\.1.*/c\.jpg is broken"):
        broken.add("/c.jpg", ImageError("/c.jpg is broken"))


def test_of_few_images_one_may_be_broken():
    broken = images.BrokenImages(3, max_ratio=0)
    broken.add("/a.jpg", ImageError("a"))
    with pytest.raises(ImageError, match="2 of 3"):
        broken.add("/b.jpg", ImageError("b"))


def test_the_share_of_broken_images_is_counted_exactly():
    broken = images.BrokenImages(100, 0.29)    # of which a hundredfold is a little less than 29
    for number in range(29):
        broken.add(f"{number}.jpg", ImageError("x"))
    with pytest.raises(ImageError, match=r"30 of 100 images cannot be read, more than max_broken_ratio 0\.29 allows"):
        broken.add("29.jpg", ImageError("x"))


def test_all_images_are_never_put_up_with():
    broken = images.BrokenImages(2, 1)
    broken.add("a.jpg", ImageError("x"))
    with pytest.raises(ImageError, match="2 of 2 images cannot be read; the last: x"):
        broken.add("b.jpg", ImageError("x"))
