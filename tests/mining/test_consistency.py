"""CALD; every expected number is worked out by hand."""
from __future__ import annotations

import numpy as np
import pytest

from ymir_exc import mining
from ymir_exc.errors import ArgumentError, NanError

BOX, HALF, FAR = [0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30]
CLOSE = 0.3112781244591328    # divergence of (1, 0) and (1/2, 1/2): the entropy of (3/4, 1/4), less half a bit


def score(m, beta=1.3):
    """What an image is worth whose one box is consistent by m."""
    return 1 - abs(m - beta) / max(beta, 2 - beta)


@pytest.mark.parametrize("box, p, m", [
    (BOX, [1, 0], 2.0),
    (HALF, [1, 0], 1.5),
    (HALF, [0, 1], 0.5),    # nothing in common
    (HALF, [0.5, 0.5], 0.5 + 0.75 * (1 - CLOSE)),
    ([5, 5, 15, 15], [1, 0], 25 / 175 + 1),
    (FAR, [1, 0], 0.0),
    ([10, 0, 20, 10], [1, 0], 0.0),    # they touch
])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.3, 2.0])
def test_one_box_by_hand(box, p, m, beta):
    assert mining.cald([BOX], [[1, 0]], [([box], [p])], beta) == pytest.approx(score(m, beta), abs=1e-12)


@pytest.mark.parametrize("p, q, alike", [([1, 0], [1, 1], 0.0), ([0.5], [1], 0.75 * (1 - CLOSE)), ([0.8, 0.1], [0.8, 0.1], 0.8),
                                         ([0, 0], [0, 0], 0.0)])
def test_sigmoid_by_hand(p, q, alike):
    assert mining.cald([BOX], [p], [([HALF], [q])], kind="sigmoid") == pytest.approx(score(0.5 + alike), abs=1e-12)


def test_several_boxes_and_augmentations_by_hand():
    boxes, p = [BOX, FAR], [[1, 0], [1, 0]]
    first = ([HALF, FAR], [[1, 0], [1, 0]])    # 1.5 and 2: the nearer to 1.3 is 0.2 away
    second = ([BOX, [20, 20, 30, 22]], [[1, 0], [1, 0]])    # 2 and 1.2: 0.1 away
    assert mining.cald(boxes, p, [first]) == pytest.approx(1 - 0.2 / 1.3)
    assert mining.cald(boxes, p, [first, second]) == pytest.approx(1 - 0.15 / 1.3)
    assert mining.cald(boxes, p, [first, second, ([], [])]) == pytest.approx(1 - (0.2 + 0.1 + 1.3) / 3 / 1.3)


def test_nothing_found():
    assert mining.cald([], [], [([BOX], [[1, 0]])]) == 0
    assert mining.cald(np.zeros((0, 4)), np.zeros((0, 2)), [([], [])]) == 0
    assert mining.cald([BOX], [[1, 0]], [([], []), (np.zeros((0, 4)), np.zeros((0, 2)))]) == pytest.approx(0)
    assert mining.cald([BOX], [[1, 0]], [([], [])], beta=0.5) == pytest.approx(2 / 3)


def test_boxes_without_area():
    line = [0, 0, 10, 0]
    assert mining.cald([line], [[1, 0]], [([line, BOX], [[1, 0], [1, 0]])]) == pytest.approx(0)


def test_of_equal_counterparts_the_most_consistent_counts():
    """As when a box stays once for each of two classes."""
    twice, p = [HALF, HALF], [[0, 1], [1, 0]]
    assert mining.cald([BOX], [[1, 0]], [(twice, p)]) == pytest.approx(score(1.5))
    assert mining.cald([BOX], [[1, 0]], [(twice, p[::-1])]) == pytest.approx(score(1.5))
    better = [[0, 0, 10, 6], HALF]    # overlap comes first
    assert mining.cald([BOX], [[1, 0]], [(better, p)]) == pytest.approx(score(0.6))


def plain_cald(boxes, p, augmented, beta):
    """The same, pair by pair, of a softmax."""
    def iou(a, b):
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        common = max(w, 0) * max(h, 0)
        return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)

    def divergence(a, b):
        return sum(0.5 * x * np.log2(x / ((x + y) / 2)) + 0.5 * y * np.log2(y / ((x + y) / 2)) for x, y in zip(a, b))

    distances = []
    for others, q in augmented:
        nearest = []
        for box, mine in zip(boxes, p):
            overlaps = [iou(box, other) for other in others]
            j = int(np.argmax(overlaps))
            alike = (max(mine) + max(q[j])) / 2 * (1 - divergence(mine, q[j]))
            nearest.append(abs((overlaps[j] + alike if overlaps[j] > 0 else 0) - beta))
        distances.append(min(nearest))
    return 1 - np.mean(distances) / max(beta, 2 - beta)


@pytest.fixture
def crowded():
    random = np.random.default_rng(0)

    def boxes(count):
        corners = random.uniform(0, 100, (count, 2))
        p = random.random((count, 3)) ** 3
        return np.concatenate([corners, corners + random.uniform(5, 60, (count, 2))], 1), p / p.sum(1, keepdims=True)
    return boxes


def test_it_is_what_the_plain_loop_says_in_any_order(crowded):
    random = np.random.default_rng(1)
    for _ in range(20):
        (boxes, p), augmented = crowded(random.integers(1, 9)), [crowded(random.integers(1, 9)) for _ in range(3)]
        found = mining.cald(boxes, p, augmented, beta=1.0)
        assert found == pytest.approx(plain_cald(boxes, p, augmented, 1.0), abs=1e-12)
        order = random.permutation(len(boxes))
        shuffled = [(others[::-1], q[::-1]) for others, q in augmented[::-1]]
        assert mining.cald(boxes[order], p[order], shuffled, beta=1.0) == found


@pytest.mark.parametrize("boxes, p, augmented, beta, error, words", [
    ([BOX], [[1, 0]], [], 1.3, ArgumentError, "there are none"),
    ([BOX], [[1, 0]], [([], [])], 2.1, ArgumentError, "beta"),
    ([BOX], [[1, 0]], [([], [])], float("nan"), ArgumentError, "beta"),
    ([[10, 10, 0, 0]], [[1, 0]], [([], [])], 1.3, ArgumentError, "xmax < xmin"),
    ([BOX[:3]], [[1, 0]], [([], [])], 1.3, ArgumentError, r"shape \(1, 3\)"),
    ([BOX], [[1, 0], [1, 0]], [([], [])], 1.3, ArgumentError, r"shape \(2, 2\)"),
    ([BOX], [[1, 0]], [([BOX], [[1, 0, 0]])], 1.3, ArgumentError, r"augmented\[0\]: probabilities"),
    ([BOX], [[1, 0]], [([], []), ([BOX], [[np.nan, 0]])], 1.3, NanError, r"augmented\[1\]: probabilities"),
    ([BOX], [[1, 0]], [([[0, 0, np.inf, 1]], [[1, 0]])], 1.3, NanError, r"augmented\[0\]: boxes"),
])
def test_wrong_arguments(boxes, p, augmented, beta, error, words):
    with pytest.raises(error, match=words):
        mining.cald(boxes, p, augmented, beta)


def test_confidences_of_classes_by_hand():
    image, augmented = [[0.7, 0.3], [0.2, 0.8]], [[0.9, 0.1]]
    assert mining.class_confidences(image, augmented, []).tolist() == [0.9, 0.8]
    assert mining.class_confidences([], np.zeros((0, 3))).tolist() == [0, 0, 0]
    assert mining.class_confidences([[0.9, 0.9]], kind="sigmoid").tolist() == [0.9, 0.9]
    for unknown in ([], [[]], [[[1.0]], [[0.5, 0.5]]]):
        with pytest.raises(ArgumentError, match="number of classes"):
            mining.class_confidences(*unknown)
