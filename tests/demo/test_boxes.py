"""Box arithmetic against values worked out by hand and a plain loop."""
from __future__ import annotations

import pytest
import torch

from boxes import area, merge, overlap


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
def test_which_boxes_stay_equals_the_greedy_loop(seed):
    torch.manual_seed(seed)
    corner = torch.rand(2, 60, 2) * 30
    boxes, labels = torch.cat((corner, corner + 5 + torch.rand(2, 60, 2) * 20), -1), torch.randint(0, 2, (2, 60))
    keep, _ = merge(boxes, torch.linspace(1, 0.1, 60).expand(2, 60), labels, 0.4)
    assert keep.dtype == torch.bool
    assert keep.tolist() == [greedy(b, c, 0.4) for b, c in zip(boxes, labels)]


@pytest.mark.parametrize("seed", range(3))
def test_the_votes_equal_a_plain_loop(seed):
    torch.manual_seed(seed)
    corner = torch.rand(1, 30, 2) * 20
    boxes, labels = torch.cat((corner, corner + 15 + torch.rand(1, 30, 2) * 5), -1), torch.randint(0, 2, (1, 30))
    scores = torch.rand(1, 30).sort(descending=True).values.clamp(min=0.1)
    _, voted = merge(boxes, scores, labels, 0.5)
    for i, box in enumerate(boxes[0]):
        votes = [j for j in range(30) if labels[0, j] == labels[0, i] and (j == i or overlap(box, boxes[0, j])[0] > 0.5)]
        weight = scores[0, votes, None] ** 5
        assert torch.allclose(voted[0, i], (boxes[0, votes] * weight).sum(0) / weight.sum(), atol=1e-4)


def test_a_box_moves_a_little_towards_those_that_see_the_same():
    boxes = torch.tensor([[[0., 0., 100., 100.], [0., 0., 100., 90.], [0., 0., 100., 90.], [300., 300., 310., 310.]]])
    keep, voted = merge(boxes, torch.tensor([[0.8, 0.4, 0.8, 0.5]]), torch.tensor([[0, 0, 1, 0]]), 0.6)
    assert keep.tolist() == [[True, False, True, True]]
    least = (100 + 90 / 32) / (1 + 1 / 32)    # half as sure is a 32nd of the say; the other class has none
    assert voted[0, 0].tolist() == pytest.approx([0, 0, 100, least])
    assert voted[0, 2:].tolist() == boxes[0, 2:].tolist()


def test_boxes_without_an_area_or_a_probability_stay_what_they_are():
    boxes = torch.tensor([[[5., 5., 5., 5.], [5., 5., 5., 5.], [1., 1., 1., 9.]]])
    keep, voted = merge(boxes, torch.full((1, 3), 1e-9), torch.zeros(1, 3, dtype=torch.int64), 0.5)
    assert keep.all()
    assert torch.allclose(voted, boxes)


def test_a_score_of_zero_is_no_box_and_no_vote():
    boxes = torch.tensor([[[0., 0., 100., 100.], [0., 0., 100., 90.], [300., 300., 310., 310.]]])
    keep, voted = merge(boxes, torch.tensor([[0.2, 0., 0.]]), torch.zeros(1, 3, dtype=torch.int64), 0.6)
    assert keep.tolist() == [[True, False, False]]
    assert voted[0, 0].tolist() == boxes[0, 0].tolist()


def test_merging_nothing():
    keep, voted = merge(torch.zeros(3, 0, 4), torch.zeros(3, 0), torch.zeros(3, 0, dtype=torch.int64), 0.5)
    assert keep.shape == (3, 0)
    assert voted.shape == (3, 0, 4)
