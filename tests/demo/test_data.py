"""Index files, annotations and images as the detector sees them."""
from __future__ import annotations

import pytest
import torch
from PIL import Image

from data import DetectionDataset, collate, fit, load_square, read_truths
from ymir_exc import errors
from ymir_exc.dataset_reader import BrokenImages
from ymir_exc.env import DatasetType


def picture(platform, name="a.png", size=(40, 20), colour="red", **options):
    path = platform.input / "assets" / name
    Image.new("RGB", size, colour).save(path, **options)
    return str(path)


def labelled(platform, text, name="a.png"):
    annotation = platform.input / "annotations" / f"{name}.txt"
    annotation.write_text(text, encoding="utf-8")
    platform.index("train", f"{picture(platform, name)}\t{annotation}")


def test_ark_corners_are_inclusive(platform):
    labelled(platform, "1, 2, 3, 11, 7, -1.0, 0.0\n0,0,0,0,0\n")
    truth, = read_truths(DatasetType.TRAINING)
    assert truth.boxes.tolist() == [[2, 3, 12, 8], [0, 0, 1, 1]]
    assert truth.labels.tolist() == [1, 0]


def test_an_image_without_objects(platform):
    labelled(platform, "")
    truth, = read_truths(DatasetType.TRAINING)
    assert truth.boxes.shape == (0, 4)
    assert truth.labels.shape == (0,)


def test_an_empty_index_names_the_file(platform):
    platform.index("val")
    with pytest.raises(errors.DatasetError, match=r"val-index\.tsv"):
        read_truths(DatasetType.VALIDATION)


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 40), (33, 77), (192, 192), (1000, 3)])
def test_letterbox_there_and_back(width, height):
    place = fit(width, height, 192)
    boxes = torch.tensor([[0., 0., width, height], [1., 1., 2., 2.]])
    square = place.to_square(boxes)
    assert square.min() >= -0.5
    assert square.max() <= 192.5
    assert torch.allclose(place.to_image(square), boxes, atol=1e-3)


def test_boxes_are_clipped_to_the_image():
    place = fit(40, 20, 192)
    assert place.to_image(torch.tensor([[-50., -50., 500., 500.]])).tolist() == [[0, 0, 40, 20]]


def test_the_image_lies_in_the_middle_of_the_square(platform):
    pixels, place = load_square(picture(platform), 64)
    assert pixels.shape == (3, 64, 64)
    assert pixels.dtype == torch.uint8
    assert (place.left, place.top) == (0, 16)
    assert pixels[:, 32, 32].tolist() == [255, 0, 0]
    assert pixels[:, 2, 32].tolist() == [114, 114, 114]


def test_exif_rotation_is_applied(platform):
    exif = Image.Exif()
    exif[0x0112] = 6    # to be shown turned by 90 degrees
    path = picture(platform, "turned.jpg", (40, 20), exif=exif)
    assert (load_square(path, 64)[1].width, load_square(path, 64)[1].height) == (20, 40)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(platform, mode):
    path = platform.input / "assets" / "mode.tif"
    Image.new(mode, (8, 8)).save(path)
    assert load_square(str(path), 32)[0].shape == (3, 32, 32)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_broken_image_is_named(platform, content):
    path = platform.input / "assets" / "broken.jpg"
    if content is None:
        whole = picture(platform, "whole.jpg", (300, 300))
        with open(whole, "rb") as f:
            content = f.read()[:700]
    path.write_bytes(content)
    with pytest.raises(errors.ImageError, match=r"broken\.jpg"):
        load_square(str(path), 64)


def test_batches_are_filled_up(platform):
    one, two = platform.input / "annotations" / "1.txt", platform.input / "annotations" / "2.txt"
    one.write_text("0, 0, 0, 39, 19\n1, 0, 0, 9, 9\n")
    two.write_text("")
    platform.index("train", f"{picture(platform, 'a.png')}\t{one}", f"{picture(platform, 'b.png')}\t{two}")
    dataset = DetectionDataset(read_truths(DatasetType.TRAINING), 64, cache_mb=1, broken=BrokenImages(2, 0))
    done = []
    dataset.fill_cache(done.append)
    assert done == [0.5, 1]
    batch = collate([dataset[0], dataset[1]])
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.labels.tolist() == [[0, 1], [-1, -1]]
    assert batch.boxes[0, 0].tolist() == pytest.approx([0, 16, 64, 48])


def test_a_broken_image_is_left_out_of_its_batch(platform, caplog):
    label = platform.input / "annotations" / "1.txt"
    label.write_text("0, 0, 0, 39, 19\n")
    broken = platform.input / "assets" / "broken.png"
    broken.write_bytes(b"")
    platform.index("train", f"{picture(platform, 'a.png')}\t{label}", f"{broken}\t{label}")
    dataset = DetectionDataset(read_truths(DatasetType.TRAINING), 64, cache_mb=1, broken=BrokenImages(2, 0))
    dataset.fill_cache(lambda done: None)
    assert collate([dataset[0], dataset[1]]).images.shape == (1, 3, 64, 64)
    assert collate([dataset[1], dataset[1]]) is None
    assert caplog.text.count("left out") == 1


def test_a_small_budget_caches_less(platform):
    labelled(platform, "")
    dataset = DetectionDataset(read_truths(DatasetType.TRAINING) * 30, 192, cache_mb=1, broken=BrokenImages(30, 0))
    done = []
    dataset.fill_cache(done.append)
    assert len(done) == 9    # of 110,592 bytes each
    assert dataset[29].images.shape == (1, 3, 192, 192)
