"""From maps to detections."""
from __future__ import annotations

import math

import pytest
import torch

import hyper
from model import Detector, Predictions
from predict import VIEWS, detect
from ymir_exc.images import letterbox as fit


class Fixed(torch.nn.Module):
    """A model that says what it is told of `side` x `side` cells, and moves every box by 1 to the right when asked to refine it."""

    def __init__(self, logits, boxes, side=2):
        super().__init__()
        self.says = Predictions(torch.tensor([logits]), torch.tensor([boxes]) - torch.tensor([1., 0, 1, 0]),
                                torch.zeros(1, 16, side, side), torch.zeros(1, 48))

    def forward(self, images):
        return self.says

    def refine(self, detail, boxes):
        assert detail is self.says.detail
        return boxes + torch.tensor([1., 0, 1, 0])


def found(logits, boxes, place=None, side=2, **wanted):
    return detect(Fixed(logits, boxes, side), torch.zeros(1, 3, 64, 64), [place or fit(64, 64, 64)], hyper.PredictHyper(**wanted))[0]


BOXES = [[0., 0., 20., 20.], [1., 1., 21., 21.], [1., 1., 21., 21.], [40., 40., 60., 60.]]
LOGITS = [[2., -9.], [3., -9.], [-9., 1.], [-9., -4.]]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_the_best_of_each_class_stays_and_comes_first():
    made = found(LOGITS, BOXES)
    assert made.labels.tolist() == [0, 1]
    assert made.scores.tolist() == pytest.approx([sigmoid(3), sigmoid(1)])
    assert made.probabilities.shape == (2, 2)
    x = sigmoid(3)**5 / (sigmoid(3)**5 + sigmoid(2)**5)    # the vote of the box at 1, against that of the one at 0
    assert made.boxes[0].tolist() == pytest.approx([x, x, 20 + x, 20 + x])


def test_only_half_as_many_as_may_be_found_get_a_second_look():
    apart = [[0., 0., 9., 9.], [10., 0., 19., 9.], [20., 0., 29., 9.], [30., 0., 39., 9.]]
    made = found([[1., -9.], [2., -9.], [0., -9.], [-9., -4.]], apart, max_detections=4)
    assert made.boxes[:, 0].tolist() == [10, 0, 19]    # three pass the threshold; the last is where the first look saw it


def test_of_many_cells_those_surer_than_their_neighbours_come_first():
    """Three cells in a row see one object, a fourth one, less sure, sees another."""
    logits = [[-9., -9.]] * 16
    boxes = [[60., 60., 63., 63.]] * 16
    for cell, logit in ((0, 3.0), (1, 4.0), (2, 2.9)):
        logits[cell], boxes[cell] = [logit, -9.], BOXES[0]
    logits[15], boxes[15] = [-9., 0.5], BOXES[3]
    made = found(logits, boxes, side=4, max_detections=2)
    assert made.scores.tolist() == pytest.approx([sigmoid(4), sigmoid(0.5)])
    assert made.labels.tolist() == [0, 1]


def test_the_thresholds_are_obeyed():
    assert len(found(LOGITS, BOXES, conf_threshold=0.9).boxes) == 1
    assert len(found(LOGITS, BOXES, conf_threshold=0.001).boxes) == 3
    assert len(found(LOGITS, BOXES, conf_threshold=0.001, iou_threshold=1).boxes) == 4
    assert len(found(LOGITS, BOXES, max_detections=1).boxes) == 1


def test_boxes_are_in_pixels_of_the_image():
    made = found(LOGITS, BOXES, fit(128, 64, 64), conf_threshold=0.9)    # one box
    assert made.boxes.tolist() == [[2, 0, 42, 10]]    # twice as large, and moved up by the border


@pytest.mark.parametrize("side", [32, 64, 192])
@pytest.mark.parametrize("view", range(len(VIEWS)))
def test_boxes_of_a_changed_image_come_back_to_where_they_were(side, view):
    """What is bright in the changed image, and nothing else, lies in the original's bright square."""
    images = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    first, last = side // 8, side // 2
    images[:, :, first:last, first + 4:last + 4] = 255
    change, back = VIEWS[view]
    changed = change(images)
    assert changed.shape == images.shape
    y, x = (changed[0, 0] > 150).nonzero().unbind(1)
    box = torch.stack((x.min(), y.min(), x.max() + 1, y.max() + 1)).float()
    assert back(box, float(side)).tolist() == pytest.approx([first + 4, first, last + 4, last], abs=1.4)


class OfNumbers(torch.nn.Module):
    """Knows images by the number that all their pixels have, and sees on each one something else, on the later ones more."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        corner = torch.rand(6, 64, 2) * 20
        self.boxes = torch.cat((corner, corner + 20 + torch.rand(6, 64, 2) * 10), -1)
        self.logits = torch.randn(6, 64, 2) - 3 + torch.arange(6).view(6, 1, 1)

    def forward(self, images):
        numbers = images[:, 0, 0, 0].long()
        return Predictions(self.logits[numbers], self.boxes[numbers], torch.zeros(len(numbers), 16, 8, 8), torch.zeros(len(numbers), 48))

    def refine(self, detail, boxes):
        return boxes * 0.9


def test_what_is_found_does_not_depend_on_the_other_images_of_the_batch():
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 64, 64)
    places, wanted = [fit(64, 64, 64)] * 6, hyper.PredictHyper(conf_threshold=0.3, max_detections=60)
    together = detect(OfNumbers(), images, places, wanted)
    assert len({len(one.scores) for one in together}) > 3
    for image, one in zip(images, together):
        alone, = detect(OfNumbers(), image[None], places[:1], wanted)
        assert alone.scores.tolist() == one.scores.tolist()
        assert torch.allclose(torch.tensor(alone.boxes), torch.tensor(one.boxes), atol=1e-4)


def test_an_untrained_model_finds_little():
    torch.manual_seed(0)
    model = Detector(3).eval()
    assert len(detect(model, torch.zeros(2, 3, 64, 64), [fit(64, 64, 64)] * 2, hyper.PredictHyper(conf_threshold=0.5))[1].boxes) == 0
