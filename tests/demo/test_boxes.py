"""Box arithmetic against values worked out by hand and a plain loop."""
from __future__ import annotations

import pytest
import torch

from boxes import area, nms, overlap


def test_area_of_an_inverted_box_is_zero():
    assert area(torch.tensor([[0., 0., 4., 5.], [4., 5., 0., 0.]])).tolist() == [20, 0]


def test_overlap_by_hand():
    iou, giou = overlap(torch.tensor([[0., 0., 4., 4.], [0., 0., 2., 2.]]), torch.tensor([[2., 0., 6., 4.], [4., 0., 6., 2.]]))
    assert iou.tolist() == pytest.approx([8 / 24, 0])
    assert giou.tolist() == pytest.approx([8 / 24, -4 / 12])    # the second pair's hull is 12, a third of which is between them


def test_identical_boxes_overlap_fully():
    box = torch.tensor([3., 4., 9., 20.])
    assert [float(v) for v in overlap(box, box)] == pytest.approx([1, 1])


def greedy(boxes, labels, threshold):
    kept = []
    for i in range(len(boxes)):
        if all(labels[i] != labels[j] or overlap(boxes[i], boxes[j])[0] <= threshold for j in kept):
            kept.append(i)
    return [i in kept for i in range(len(boxes))]


@pytest.mark.parametrize("seed", range(5))
def test_nms_equals_the_greedy_loop(seed):
    torch.manual_seed(seed)
    corner = torch.rand(2, 60, 2) * 30
    boxes, labels = torch.cat((corner, corner + 5 + torch.rand(2, 60, 2) * 20), -1), torch.randint(0, 2, (2, 60))
    assert nms(boxes, labels, 0.4).tolist() == [greedy(b, c, 0.4) for b, c in zip(boxes, labels)]


def test_nms_of_nothing():
    assert nms(torch.zeros(3, 0, 4), torch.zeros(3, 0, dtype=torch.int64), 0.5).shape == (3, 0)
