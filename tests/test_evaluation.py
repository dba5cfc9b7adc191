"""The figures that the platform shows."""
from __future__ import annotations

import sys

import pytest

from ymir_exc.errors import ArgumentError
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
