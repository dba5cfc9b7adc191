"""Index files, annotations and images as the detector sees them."""
from __future__ import annotations

import threading

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import data
from data import DetectionDataset, collate, read_truths
from loss import detection_loss
from model import Detector, centres
from ymir_exc import errors, settings
from ymir_exc.env import DatasetType
from ymir_exc.host import sample
from ymir_exc.images import BrokenImages


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


def test_boxes_outside_of_the_image(platform):
    labelled(platform, "0, -10, 2, 11, 90\n1, 50, 2, 60, 9\n1, 5, 5, 5, 5\n")    # of 40 x 20 pixels
    dataset = DetectionDataset(read_truths(DatasetType.TRAINING), 80, cache_mb=1, broken=BrokenImages(1, 0))
    assert dataset[0].boxes.tolist() == [[[0, 24, 24, 60], [10, 30, 12, 32]]]
    assert dataset[0].labels.tolist() == [[0, 1]]


def test_every_format_that_the_platform_exports(tmp_path, monkeypatch):
    found = []
    for export_format in sample.EXPORT_FORMATS:
        root = tmp_path / export_format
        sample.write_sample(root, images=8, export_format=export_format, in_root=str(root / "in"))
        monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(root / "in/env.yaml"))
        found.append([(truth.boxes.tolist(), truth.labels.tolist()) for truth in read_truths(DatasetType.TRAINING)])
    assert found[0] == found[1] == found[2]
    assert len(found) == 3
    assert sum(len(labels) for _, labels in found[0]) > 6


def test_an_image_without_objects(platform):
    labelled(platform, "")
    truth, = read_truths(DatasetType.TRAINING)
    assert truth.boxes.shape == (0, 4)
    assert truth.labels.shape == (0,)


def test_an_empty_index_names_the_file(platform):
    platform.index("val")
    with pytest.raises(errors.DatasetError, match=r"val-index\.tsv"):
        read_truths(DatasetType.VALIDATION)


def test_batches_are_filled_up(platform):
    one, two = platform.input / "annotations" / "1.txt", platform.input / "annotations" / "2.txt"
    one.write_text("0, 0, 0, 39, 19\n1, 0, 0, 9, 9\n")
    two.write_text("")
    platform.index("train", f"{picture(platform, 'a.png')}\t{one}", f"{picture(platform, 'b.png')}\t{two}")
    dataset = DetectionDataset(read_truths(DatasetType.TRAINING), 64, cache_mb=1, broken=BrokenImages(2, 0))
    assert len(list(dataset.fill_cache())) == 2
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
    assert [sample is None for sample in dataset.fill_cache()] == [False, True]
    assert collate([dataset[0], dataset[1]]).images.shape == (1, 3, 64, 64)
    assert collate([dataset[1], dataset[1]]) is None
    assert caplog.text.count("left out") == 1


def test_a_batch_without_any_object_teaches_too(platform):
    labelled(platform, "")
    dataset = DetectionDataset(read_truths(DatasetType.TRAINING), 64, cache_mb=1, broken=BrokenImages(1, 0))
    batch = collate([dataset[0], dataset[0]])
    assert batch.labels.tolist() == [[-1], [-1]]
    model = Detector(2)
    losses = detection_loss(model, model(batch.images), centres(batch.images), batch)
    losses.total.backward()
    assert torch.isfinite(losses.total)


def test_a_small_budget_caches_less(platform):
    labelled(platform, "")
    dataset = DetectionDataset(read_truths(DatasetType.TRAINING) * 30, 192, cache_mb=1, broken=BrokenImages(30, 0))
    assert len(list(dataset.fill_cache())) == dataset.room == 9    # of 110,592 bytes each
    assert dataset[29].images.shape == (1, 3, 192, 192)


def test_what_is_not_in_memory_is_decoded_by_other_threads(tmp_path, monkeypatch):
    sample.write_sample(tmp_path, images=8, in_root=str(tmp_path / "in"))
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(tmp_path / "in/env.yaml"))
    dataset = DetectionDataset(read_truths(DatasetType.TRAINING), 64, cache_mb=0, broken=BrokenImages(8, 0))
    threads, original = set(), data.load_square
    monkeypatch.setattr(data, "load_square", lambda *arguments: (threads.add(threading.get_ident()), original(*arguments))[1])
    loader = DataLoader(dataset, 3, collate_fn=list, sampler=[4, 0, 3])
    (batch,) = loader
    assert threading.get_ident() not in threads
    for sample_of_batch, index in zip(batch, (4, 0, 3)):
        assert torch.equal(sample_of_batch.images, dataset[index].images)
