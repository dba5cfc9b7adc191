"""The figures that the platform shows."""
from __future__ import annotations

import sys

import pytest

from ymir_exc.errors import ArgumentError, NanError, classify
from ymir_exc.evaluation import mean_average_precision as evaluate

pytest.importorskip("pycocotools")
np = pytest.importorskip("numpy")


def truth(*rows):
    return np.array([row[1:] for row in rows], np.float32).reshape(-1, 4), np.array([row[0] for row in rows], int)


def found(*rows):
    return [row[2:] for row in rows], [row[0] for row in rows], np.array([row[1] for row in rows], int)


def test_what_does_not_fit_together():
    with pytest.raises(ArgumentError, match="1 images and the detections of 2"):
        evaluate([truth()], [found(), found()], 2)
    with pytest.raises(ArgumentError, match="image 1 has 1 boxes, 1 labels and 2 scores"):
        evaluate([truth(), truth()], [found(), ([(0, 0, 1, 1)], [0.5, 0.5], [0])], 2)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(ModuleNotFoundError, match="pycocotools"):
        evaluate([truth()], [found()], 1)


def test_perfect(capsys):
    result = evaluate([truth((0, 1, 1, 50, 50), (1, 60, 60, 90, 99)), truth()],
                      [found((0.9, 0, 1, 1, 50, 50), (0.8, 1, 60, 60, 90, 99)), found()], 2)
    assert result == {"mAP": pytest.approx(1), "mAP50": pytest.approx(1)}
    assert capsys.readouterr().out == ""


def test_nothing_found():
    assert evaluate([truth((0, 1, 1, 50, 50))], [found()], 2) == {"mAP": 0, "mAP50": 0}


def test_nothing_to_find():
    assert evaluate([truth()], [found((0.5, 0, 1, 1, 5, 5))], 2) == {"mAP": 0, "mAP50": 0}


def test_a_box_that_fits_by_three_quarters():
    result = evaluate([truth((0, 0, 0, 40, 40))], [found((0.9, 0, 0, 0, 40, 31))], 1)
    assert result["mAP50"] == pytest.approx(1)
    assert result["mAP"] == pytest.approx(0.6)    # IoU 0.775 passes 0.50, 0.55, ... 0.75: six of ten thresholds


def test_the_wrong_class():
    assert evaluate([truth((0, 0, 0, 40, 40))], [found((0.9, 1, 0, 0, 40, 40))], 2)["mAP50"] == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["box", "score"])
def test_a_model_that_diverged_is_not_perfect(bad, place):
    good = found((0.9, 0, 0, 0, 40, 40))
    odd = found((0.9, 0, 0, 0, bad, 40)) if place == "box" else found((bad, 0, 0, 0, 40, 40))
    with pytest.raises(NanError, match=f"image 1 has a {place} that is not finite") as caught:
        evaluate([truth((0, 0, 0, 40, 40))] * 2, [good, odd], 1)
    assert classify(caught.value).code == 300201
    with pytest.raises(NanError, match="image 0"):
        evaluate([truth((0, 0, 0, bad, 40))], [good], 1)


@pytest.mark.parametrize("label", [-1, 2, 0.5, float("nan")])
def test_labels_that_are_no_class(label):
    one, box = ([(0, 0, 40, 40)], [label]), [(0, 0, 40, 40)]
    with pytest.raises(ArgumentError, match=r"image 1 has the label .*0\.\.1"):
        evaluate([truth(), one], [found(), found()], 2)
    with pytest.raises(ArgumentError, match=r"image 0 has the label .*0\.\.1"):
        evaluate([truth()], [(box, [0.5], [label])], 2)


class Scalar:
    """As a tensor of one number: it hashes by its identity."""

    def __init__(self, value):
        self.value = value

    def tolist(self):
        return self.value

    def __float__(self):
        return float(self.value)


def test_lists_of_tensors_are_taken():
    box = [Scalar(0.0), Scalar(0.0), Scalar(40.0), Scalar(40.0)]
    result = evaluate([([box], [Scalar(1)])], [([np.array([0, 0, 40, 40])], [Scalar(0.9)], [Scalar(1.0)])], 2)
    assert result["mAP"] == pytest.approx(1)


@pytest.mark.parametrize("boxes", [[(0, 0, 40)], [0], [(0, 0, "wide", 40)], [None]])
def test_boxes_that_are_none(boxes):
    with pytest.raises(ArgumentError, match="image 0 has a box that is not four numbers"):
        evaluate([truth()], [(boxes, [0.5], [0])], 1)


def test_a_box_that_is_inside_out_is_a_false_one():
    figures = evaluate([truth((0, 10, 10, 50, 50))], [found((0.9, 0, 50, 50, 10, 10), (0.8, 0, 10, 10, 50, 50))], 1)
    assert figures["mAP50"] == pytest.approx(0.5)


def test_a_box_of_any_size_counts():
    side = 200_000    # COCO's largest area is a quarter of this
    assert evaluate([truth((0, 0, 0, side, side))], [found((0.9, 0, 0, 0, side, side))], 1) == pytest.approx({"mAP": 1, "mAP50": 1})
