"""Scores of boxes and of maps; every expected number is worked out by hand."""
from __future__ import annotations

import math
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from ymir_exc import mining
from ymir_exc.errors import ArgumentError, NanError

MEASURES = [mining.least_confidence, mining.margin, mining.entropy]
KINDS = ["softmax", "sigmoid"]


def binary(p):
    """Entropy of a coin, in bits."""
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def drawn(kind, boxes=50, classes=4, seed=0):
    p = np.random.default_rng(seed).random((boxes, classes))
    return p / p.sum(1, keepdims=True) if kind == "softmax" else p


@pytest.mark.parametrize("measure, kind, row, expected", [
    (mining.least_confidence, "softmax", [0.7, 0.2, 0.1], 0.45),    # 0.3 of at most 2/3
    (mining.least_confidence, "sigmoid", [0.9, 0.2], 28 / 75),    # 1 - 0.9 * 0.8, of at most 3/4
    (mining.least_confidence, "sigmoid", [0.3], 0.6),
    (mining.margin, "softmax", [0.1, 0.7, 0.2], 0.5),
    (mining.margin, "softmax", [0.5, 0.0, 0.5], 1.0),
    (mining.margin, "sigmoid", [0.9, 0.2], 0.4),
    (mining.margin, "sigmoid", [0.9, 0.9], 0.2),
    (mining.entropy, "softmax", [0.5, 0.25, 0.25], 1.5 / 1.584962500721156),    # bits, of log2 3
    (mining.entropy, "softmax", [0.5, 0.5, 0.0, 0.0], 0.5),
    (mining.entropy, "sigmoid", [0.5, 1.0], 0.5),
    (mining.entropy, "sigmoid", [0.25], 0.8112781244591328),    # 1/4 * 2 + 3/4 * 0.415037
])
def test_by_hand(measure, kind, row, expected):
    assert measure([row], kind) == pytest.approx([expected], abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("kind, sure, unsure", [("softmax", [0, 1, 0], [1 / 3] * 3), ("sigmoid", [0, 1, 1], [0.5] * 3),
                                                ("sigmoid", [0], [0.5])])
def test_the_range_is_used_in_full(measure, kind, sure, unsure):
    assert measure([sure, unsure], kind) == pytest.approx([0, 1], abs=1e-12)
    scores = measure(drawn(kind), kind)
    assert scores.min() > 0 and scores.max() < 1


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_scored_each_by_itself(measure, kind):
    p = drawn(kind)
    order = np.random.default_rng(1).permutation(len(p))
    assert (measure(p[order], kind) == measure(p, kind)[order]).all()
    assert measure(p[:, ::-1], kind) == pytest.approx(measure(p, kind), abs=1e-12)    # nor does the order of classes matter


@pytest.mark.parametrize("measure", MEASURES)
def test_less_sure_is_more(measure):
    """Of two classes, and of one that is yes or no, all three grow from certainty to a tie."""
    p = np.linspace(0.5, 1, 21)
    assert (np.diff(measure(np.stack([p, 1 - p], 1))) < 0).all()
    assert (np.diff(measure(p[:, None], "sigmoid")) < 0).all()
    assert measure(1 - p[:, None], "sigmoid") == pytest.approx(measure(p[:, None], "sigmoid"), abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_no_boxes_and_one_class(measure):
    for nothing in ([], np.zeros((0, 3)), np.zeros(0)):
        for kind in KINDS:
            assert measure(nothing, kind).shape == (0,)
    assert measure([[1.0], [1.0]]).tolist() == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_new_and_inputs_stay(kind):
    p = drawn(kind)
    before = p.copy()
    for measure in MEASURES:
        assert measure(p, kind).dtype == np.float64
    mining.class_balanced(p, [1, 2, 3, 4], kind)
    assert (p == before).all()


def test_what_a_network_computes_is_taken():
    for dtype in (np.float16, np.float32):
        logits = np.random.default_rng(0).normal(size=(200, 80)) * 5
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        assert mining.entropy(p.astype(dtype)) == pytest.approx(mining.entropy(p), abs=2e-3)
    assert mining.margin([[0.505, 0.503]]) == pytest.approx([1 - 0.002 / 1.008], abs=1e-12)    # a sum of 1 is made exact
    for measure in MEASURES:
        assert measure([[1.0000005, -1e-9]], "sigmoid").tolist() == [0]


class OnGpu:
    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.mark.parametrize("measure", [*MEASURES, lambda p, kind: mining.class_balanced(p, [1, 1], kind)])
@pytest.mark.parametrize("wrong, error, words", [
    ([[0.5, np.nan]], NanError, "NaN"),
    ([[0.5, np.inf]], NanError, "infinite"),
    ([[1.5, -0.5]], ArgumentError, "not logits"),
    ([0.5, 0.5], ArgumentError, r"shape \(2,\)"),
    (0.5, ArgumentError, r"shape \(\)"),
    ([[[0.5, 0.5]]], ArgumentError, "shape"),
    (np.zeros((3, 0)), ArgumentError, "classes|shape"),
    ([["a", "b"]], ArgumentError, "cannot be read"),
    ([[0.5, 0.5], [1.0]], ArgumentError, "cannot be read"),
    (OnGpu(), ArgumentError, "cuda:0"),
])
def test_wrong_probabilities(measure, wrong, error, words):
    for kind in KINDS:
        with pytest.raises(error, match=words):
            measure(wrong, kind)


def test_the_kind_must_fit():
    with pytest.raises(ArgumentError, match=r"miss it by up to 0\.8.*sigmoid"):
        mining.entropy([[0.9, 0.9]])
    with pytest.raises(ArgumentError, match="'logits'"):
        mining.entropy([[0.9, 0.1]], "logits")


# ------------------------------------------------------------------------------------------------- classes


def test_weights_by_hand():
    assert mining.class_weights([8, 1, 0]) == pytest.approx([12 / 9, 12 / 2, 12])
    assert mining.class_weights([5]) == pytest.approx([1])
    assert mining.class_weights([0, 0]) == pytest.approx([2, 2])


def test_class_balanced_by_hand():
    p = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]    # 1-vs-2: 0.8 and 0.3
    assert mining.class_balanced(p, [8, 1, 0]) == pytest.approx([0.64 * 12 / 9, 0.09 * 12])
    assert mining.class_balanced([[0.9, 0.2], [0.3, 0.6]], [0, 3], "sigmoid") == pytest.approx([0.16 * 5, 0.64 * 5 / 4])
    assert mining.class_balanced([[0.5, 0.5]], [1, 0]) == pytest.approx([3 / 2])    # of equals the first class
    assert mining.class_balanced([], [1, 0]).shape == (0,)


def test_a_rarer_class_counts_more():
    p = drawn("softmax")
    rare, frequent = mining.class_balanced(p, [1, 5, 5, 5]), mining.class_balanced(p, [9, 5, 5, 5])
    first = p.argmax(1) == 0
    assert first.any() and (rare[first] > frequent[first]).all()


@pytest.mark.parametrize("wrong, error", [([], ArgumentError), ([-1, 2], ArgumentError), ([[1, 2]], ArgumentError),
                                          ([np.nan, 1], NanError)])
def test_wrong_counts(wrong, error):
    with pytest.raises(error, match="counts"):
        mining.class_weights(wrong)


def test_counts_of_other_classes():
    with pytest.raises(ArgumentError, match=r"should be \(\*, 3\)"):
        mining.class_balanced([[0.5, 0.5]], [1, 2, 3])


# ------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("how, expected", [("max", 0.7), ("mean", 0.4), ("sum", 1.6), ("count_aware", 0.8)])
def test_aggregation_by_hand(how, expected):
    assert mining.aggregate([0.1, 0.4, 0.4, 0.7], how) == pytest.approx(expected, abs=1e-15)
    assert mining.aggregate([0.3], how) == 0.3
    assert mining.aggregate([], how) == 0.0


@pytest.mark.parametrize("how", ["max", "mean", "sum", "count_aware"])
def test_aggregation_is_the_same_in_any_order_and_grows(how):
    random = np.random.default_rng(0)
    scores = random.random(300)
    whole = mining.aggregate(scores, how)
    assert {mining.aggregate(random.permutation(scores), how) for _ in range(50)} == {whole}
    scores[scores.argmax()] += 0.5
    assert mining.aggregate(scores, how) > whole


def test_wrong_aggregation():
    with pytest.raises(ArgumentError, match=r"'median'.*max, mean, sum, count_aware"):
        mining.aggregate([0.1], "median")
    with pytest.raises(NanError):
        mining.aggregate([0.1, math.nan])
    with pytest.raises(ArgumentError, match="shape"):
        mining.aggregate([[0.1]])


def test_random_depends_on_path_and_seed_alone():
    paths = [f"/in/assets/{n}.jpg" for n in range(10_000)]
    scores = [mining.random(path) for path in paths]
    assert [mining.random(path) for path in reversed(paths)] == scores[::-1]
    assert len(set(scores)) == len(paths)
    assert all(0 <= score < 1 for score in scores)
    assert np.histogram(scores, 10, (0, 1))[0] == pytest.approx(1000, abs=100)    # three standard deviations
    others = [mining.random(path, seed=1) for path in paths]
    assert abs(np.corrcoef(scores, others)[0, 1]) < 0.03
    program = "from ymir_exc import mining; print(mining.random('/in/assets/7.jpg'), mining.random('\\udcff', 3))"
    seen = {subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True,
                           check=True).stdout for seed in "01"}
    assert seen == {f"{scores[7]} {mining.random(chr(0xdcff), 3)}\n"}


# ------------------------------------------------------------------------------------------------- maps


aldd = partial(mining.aldd, kind="sigmoid")


@pytest.mark.parametrize("pool, expected", [(1, (1 + binary(1 / 3)) / 4), (2, 0.5), (3, 0.5), (4, 1.0), (9, 1.0)])
def test_aldd_by_hand(pool, expected):
    """Means around the places 1, 0, 0, 0 are 1/2, 1/3, 0, 0, and the places themselves are sure."""
    assert aldd([[[[1, 0, 0, 0]]]], pool=pool) == pytest.approx(expected, abs=1e-12)
    assert aldd([np.reshape([1, 0, 0, 0], (1, 4, 1))], pool=pool) == pytest.approx(expected, abs=1e-12)


def test_aldd_takes_the_square_around_a_place():
    dot = np.zeros((1, 3, 3))
    dot[0, 1, 1] = 1    # means: 1/9 in the middle, 1/6 at the sides, 1/4 in the corners
    assert aldd([dot], pool=3) == pytest.approx(binary(1 / 4), abs=1e-12)
    assert aldd([dot], pool=1) == pytest.approx((binary(1 / 9) + 4 * binary(1 / 6) + 4 * binary(1 / 4)) / 9, abs=1e-12)
    assert aldd([dot], window=5, pool=1) == pytest.approx(binary(1 / 9), abs=1e-12)
    assert aldd([dot], window=1) == 0


def test_aldd_of_several_maps_and_kinds():
    edge, flat = np.array([[[1.0, 0.0]]]), np.full((1, 5, 7), 0.5)
    assert aldd([flat]) == pytest.approx(0, abs=1e-12)    # unsure, and the same everywhere
    assert aldd([edge, flat]) == pytest.approx(0.5, abs=1e-12)
    assert aldd([np.concatenate([edge, 1 - edge])], kind="softmax") == pytest.approx(1, abs=1e-12)
    assert aldd([np.concatenate([edge, 1 - edge, 0 * edge])], kind="softmax") == pytest.approx(1 / math.log2(3), abs=1e-12)
    assert aldd([np.concatenate([edge, 0 * edge])]) == pytest.approx(0.5, abs=1e-12)    # the mean of two classes
    assert aldd([np.ones((1, 4, 4))], kind="softmax") == 0


def plain_aldd(p, window, pool):
    """The same, place by place, of a sigmoid."""
    _, height, width = p.shape
    radius = window // 2
    places = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            near = p[:, max(y - radius, 0):y + radius + 1, max(x - radius, 0):x + radius + 1].reshape(len(p), -1)
            places[y, x] = np.mean([binary(c.mean()) - np.mean([binary(v) for v in c]) for c in near])
    patches = [places[y:y + pool, x:x + pool].max() for y in range(0, height, pool) for x in range(0, width, pool)]
    return np.mean(patches)


@pytest.mark.parametrize("window, pool", [(3, 4), (5, 3), (1, 2), (9, 32)])
def test_aldd_is_what_the_plain_loop_says(window, pool):
    p = np.random.default_rng(0).uniform(0.01, 0.99, (3, 11, 7))
    assert aldd([p], window=window, pool=pool) == pytest.approx(plain_aldd(p, window, pool), abs=1e-12)


@pytest.mark.parametrize("maps, options, error, words", [
    ([], {}, ArgumentError, "no maps"),
    ([np.zeros((2, 0, 3))], {}, ArgumentError, r"maps\[0\] has no places"),
    ([np.zeros((1, 2, 2)), np.zeros((2, 2))], {}, ArgumentError, r"maps\[1\] has the shape \(2, 2\)"),
    ([np.full((1, 2, 2), 2)], {}, ArgumentError, "logits"),
    ([np.full((1, 2, 2), np.nan)], {}, NanError, r"maps\[0\]"),
    ([np.full((2, 2, 2), 0.9)], {"kind": "softmax"}, ArgumentError, "sum to 1"),
    ([np.zeros((1, 2, 2))], {"window": 2}, ArgumentError, "odd"),
    ([np.zeros((1, 2, 2))], {"window": -1}, ArgumentError, "at least 1"),
    ([np.zeros((1, 2, 2))], {"pool": 0}, ArgumentError, "at least 1"),
    ([np.zeros((1, 2, 2))], {"pool": "2"}, ArgumentError, "whole number"),
])
def test_wrong_maps(maps, options, error, words):
    with pytest.raises(error, match=words):
        aldd(maps, **options)
