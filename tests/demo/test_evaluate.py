"""The figures that the platform shows."""
from __future__ import annotations

import pytest
import torch

from data import Truth
from evaluate import evaluate
from predict import Detections


def truth(*rows):
    return Truth("", torch.tensor([row[1:] for row in rows]).view(-1, 4).float(), torch.tensor([row[0] for row in rows]).long())


def found(*rows):
    boxes, labels = torch.tensor([row[2:] for row in rows]).view(-1, 4).float(), torch.tensor([row[1] for row in rows]).long()
    return Detections(boxes, torch.tensor([row[0] for row in rows]), labels, torch.zeros(len(rows), 2))


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
