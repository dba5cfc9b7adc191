"""The network's shapes, the cells' geometry, and who is responsible for what."""
from __future__ import annotations

import pytest
import torch

from augment import augment, resize
from data import Batch
from loss import CELLS_PER_OBJECT, assign, detection_loss
from model import Detector, centres, decode

POINTS = centres(torch.zeros(1, 3, 64, 64))


def batch(*objects, images=1, size=64):
    boxes, labels = torch.tensor([o[1:] for o in objects]).float(), torch.tensor([o[0] for o in objects])
    return Batch(torch.zeros(images, 3, size, size), boxes.expand(images, -1, -1), labels.expand(images, -1))


def test_shapes():
    logits, boxes = Detector(5)(torch.zeros(2, 3, 64, 96))
    assert logits.shape == (2, 8 * 12, 5)
    assert boxes.shape == (2, 8 * 12, 4)


def test_it_is_small():
    assert sum(weight.numel() for weight in Detector(3).parameters()) < 1_000_000


def test_centres_run_row_by_row():
    assert centres(torch.zeros(1, 3, 16, 24)).tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_decoding_undoes_encoding():
    box = torch.tensor([10., 12., 50., 40.])
    distances = torch.cat((POINTS - box[:2], box[2:] - POINTS), -1)
    assert torch.equal(decode(distances, POINTS), box.expand(64, 4))


def test_an_untrained_model_takes_cells_near_the_middle():
    truth = batch((1, 8, 8, 56, 56))
    far = torch.tensor([1000., 1000., 1001., 1001.]).expand(1, 64, 4)
    owner = assign(torch.zeros(1, 64, 3), far, POINTS, truth)
    chosen = POINTS[(owner[0] == 0).nonzero()[:, 0]]
    assert len(chosen) == CELLS_PER_OBJECT
    assert (chosen - 32).abs().max() <= 12


def test_the_best_prediction_is_responsible():
    truth = batch((0, 8, 8, 24, 24), (1, 32, 32, 60, 60))
    boxes = decode(torch.full((1, 64, 4), 1.), POINTS)
    best = int((torch.tensor([12., 20.]) == POINTS).all(-1).nonzero())
    boxes[0, best] = truth.boxes[0, 0]
    owner = assign(torch.zeros(1, 64, 2), boxes, POINTS, truth)
    assert owner[0, best] == 0
    assert set(owner[0].tolist()) == {-1, 0, 1}


def test_only_cells_inside_an_object_are_responsible():
    truth = batch((0, 8, 8, 24, 24))
    owner = assign(torch.zeros(1, 64, 2), truth.boxes[:, :1].expand(1, 64, 4), POINTS, truth)
    assert sorted(POINTS[owner[0] >= 0].tolist()) == [[12, 12], [12, 20], [20, 12], [20, 20]]


def test_no_objects_no_owners_and_a_finite_loss():
    truth = batch((-1, 0, 0, 0, 0), images=2)
    logits, boxes = Detector(2)(truth.images)
    losses = detection_loss(logits, boxes, POINTS, truth)
    assert losses.boxes == 0
    assert 0 < losses.classes < 10


def test_a_perfect_prediction_costs_nothing():
    truth = batch((1, 8, 8, 24, 24))
    boxes = truth.boxes[:, :1].expand(1, 64, 4)
    owner = assign(torch.zeros(1, 64, 2), boxes, POINTS, truth)
    logits = torch.full((1, 64, 2), -20.)
    logits[0, owner[0] >= 0, 1] = 20
    assert float(detection_loss(logits, boxes, POINTS, truth).total) == pytest.approx(0, abs=1e-4)


def test_augmented_boxes_stay_on_their_objects():
    torch.manual_seed(0)
    truth = batch((0, 8, 16, 40, 32), images=32)
    truth.images[:, :, 16:32, 8:40] = 255
    made = augment(truth)
    assert len({tuple(box) for box in made.boxes[:, 0].tolist()}) == 8    # four mirrorings, upright and turned
    for image, (x1, y1, x2, y2) in zip(made.images, made.boxes[:, 0].int().tolist()):
        assert image[:, y1:y2, x1:x2].min() > 150
        assert image.sum() < image[:, y1:y2, x1:x2].sum() + 40 * image[0].numel() * 3


def test_resized_boxes():
    made = resize(batch((0, 8, 16, 40, 32)), 32)
    assert made.images.shape == (1, 3, 32, 32)
    assert made.boxes.tolist() == [[[4, 8, 20, 16]]]
