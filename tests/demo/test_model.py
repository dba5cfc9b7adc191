"""The network's shapes, the cells' geometry, and who is responsible for what."""
from __future__ import annotations

import pytest
import torch

from augment import augment
from data import Batch
from loss import CELLS_PER_OBJECT, assign, detection_loss
from model import DETAIL, Detector, Predictions, centres, decode

POINTS = centres(torch.zeros(1, 3, 64, 64))


def batch(*objects, images=1, size=64):
    boxes, labels = torch.tensor([o[1:] for o in objects]).float(), torch.tensor([o[0] for o in objects])
    return Batch(torch.zeros(images, 3, size, size), boxes.expand(images, -1, -1), labels.expand(images, -1))


def unrefining():
    model = Detector(2)
    torch.nn.init.zeros_(model.refiner_last.weight)
    return model


def test_shapes():
    predicted = Detector(5)(torch.zeros(2, 3, 64, 96))
    assert predicted.logits.shape == (2, 8 * 12, 5)
    assert predicted.boxes.shape == (2, 8 * 12, 4)
    assert predicted.detail.shape == (2, DETAIL, 8, 12)


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
    model = Detector(2)
    losses = detection_loss(model, model(truth.images), POINTS, truth)
    assert losses.boxes == 0
    assert 0 < losses.classes < 10


def test_a_perfect_prediction_costs_nothing():
    truth = batch((1, 8, 8, 24, 24))
    boxes = truth.boxes[:, :1].expand(1, 64, 4)
    owner = assign(torch.zeros(1, 64, 2), boxes, POINTS, truth)
    logits = torch.full((1, 64, 2), -20.)
    logits[0, owner[0] >= 0, 1] = 20
    predicted = Predictions(logits, boxes, torch.zeros(1, DETAIL, 8, 8), torch.zeros(1, 48))
    assert float(detection_loss(unrefining(), predicted, POINTS, truth).total.detach()) == pytest.approx(0, abs=1e-4)


def test_refining_looks_within_the_box():
    """Where one side of the map shines, boxes over that side move and boxes elsewhere stay."""
    torch.manual_seed(0)
    model = Detector(2)
    torch.nn.init.normal_(model.refiner_last.weight)
    boxes = torch.tensor([[[4., 4, 24, 60], [36, 4, 60, 60]]])
    dark, half_lit = torch.zeros(1, DETAIL, 8, 8), torch.zeros(1, DETAIL, 8, 8)
    half_lit[..., 4:] = 1
    moved = (model.refine(half_lit, boxes) - model.refine(dark, boxes)).abs().amax(-1)[0]
    assert moved[0] == 0
    assert moved[1] > 0.1


def test_refining_does_not_depend_on_the_size_of_the_picture():
    model = Detector(2)
    torch.nn.init.normal_(model.refiner_last.weight)
    ramps = [((torch.arange(side) + 0.5) / side).expand(1, DETAIL, side, side) for side in (8, 16)]
    small, large = model.refine(ramps[0], boxes := torch.tensor([[[12., 8, 28, 50]]])), model.refine(ramps[1], 2 * boxes)
    assert torch.allclose(large, 2 * small, atol=1e-3)
    assert not torch.allclose(small, boxes, atol=0.1)


def test_the_second_look_learns_where_the_first_was_wrong():
    """Every first box is 4 pixels off; training the refiner alone mends that."""
    torch.manual_seed(0)
    model, truth = Detector(1), batch((0, 12, 12, 44, 44))
    detail, first = torch.rand(1, DETAIL, 8, 8), (truth.boxes + torch.tensor([4., 0, 4, 0])).expand(1, 64, 4)
    learner = torch.optim.Adam([*model.refiner.parameters(), *model.refiner_last.parameters()], 0.01)
    for _ in range(40):
        losses = detection_loss(model, Predictions(torch.zeros(1, 64, 1), first, detail, torch.zeros(1, 48)), POINTS, truth)
        learner.zero_grad()
        losses.total.backward()
        learner.step()
    assert (model.refine(detail, first[:, :1]) - truth.boxes).abs().max() < 1
    assert (first[:, :1] - truth.boxes).abs().max() == 4


def test_augmented_boxes_stay_on_their_objects():
    torch.manual_seed(0)
    truth = batch((0, 8, 16, 40, 32), images=32)
    truth.images[:, :, 16:32, 8:40] = 255
    made = augment(truth, 64)
    assert len({tuple(box) for box in made.boxes[:, 0].tolist()}) == 8    # four mirrorings, upright and turned
    for image, (x1, y1, x2, y2) in zip(made.images, made.boxes[:, 0].int().tolist()):
        assert image[:, y1:y2, x1:x2].min() > 150
        assert image.sum() < image[:, y1:y2, x1:x2].sum() + 40 * image[0].numel() * 3


def test_boxes_are_resized_with_their_images():
    truth = batch((0, 16, 16, 48, 48))    # in the middle, which no mirroring moves
    truth.images[:, :, 16:48, 16:48] = 255
    made = augment(truth, 32)
    assert made.images.shape == (1, 3, 32, 32)
    assert made.boxes.tolist() == [[[8, 8, 24, 24]]]
    assert made.images[0, :, 9:23, 9:23].min() > 150
    assert made.images[0, :, :7].max() < 100
