"""Core-set, hybrid and classes: by hand, against a plain loop, and within the promised memory."""
from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from ymir_exc import mining
from ymir_exc.errors import ArgumentError, NanError

LINE = [[0.0], [1.0], [5.0], [10.0]]


def choices(selection):
    return selection.indices.tolist()


def test_k_center_by_hand():
    found = mining.k_center(LINE, 3)    # the mean is 4, 5 is the nearest; 0 and 10 are then equally far; 0 comes first
    assert choices(found) == [2, 0, 3]
    assert found.scores == pytest.approx([5 / 6, 0, 1, 4 / 6])
    assert choices(mining.k_center(LINE, 3, first=3)) == [3, 0, 2]


def test_k_center_knows_what_is_labelled():
    found = mining.k_center(LINE, 1, labelled=[[0.0], [0.0]])
    assert choices(found) == [3]
    assert found.scores == pytest.approx([0, 0.1, 0.5, 1])    # the others are 0, 1 and 5 away
    assert choices(mining.k_center(LINE, 4, labelled=[[0.0]])) == [3, 2, 1, 0]
    assert mining.k_center(LINE, 0, labelled=[[0.0]]).scores == pytest.approx([0, 0.05, 0.25, 0.5])
    assert choices(mining.k_center(LINE, 2, labelled=[])) == choices(mining.k_center(LINE, 2))
    assert choices(mining.k_center(LINE, 1, labelled=[[0.0]], first=1)) == [3]    # first is for where nothing is labelled


@pytest.mark.parametrize("budget", [0, 1, 4, 9])
def test_more_or_less_than_there_are(budget):
    assert len(mining.k_center(LINE, budget).indices) == min(budget, 4)
    assert len(mining.hybrid([1, 2, 3, 4], LINE, budget).indices) == min(budget, 4)
    assert len(mining.select_by_class([1, 2, 3, 4], np.eye(4), np.ones(4), budget).indices) == min(budget, 4)
    for nothing in (mining.k_center([], budget), mining.k_center(np.zeros((0, 3)), budget, np.zeros((2, 3))), mining.hybrid([], [], budget),
                    mining.select_by_class([], [], [1, 2], budget)):
        assert nothing.indices.shape == nothing.scores.shape == (0,)


def test_equal_embeddings_are_all_chosen_once():
    found = mining.k_center(np.ones((6, 3), np.float32), 5)
    assert choices(found) == [0, 1, 2, 3, 4]
    assert found.scores.tolist() == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0])
    assert sorted(choices(mining.k_center(LINE + LINE, 8))) == list(range(8))


def plain_greedy(x, budget, labelled):
    """The same with every distance of every pair; integers, so that all is exact."""
    x, centres, chosen = x.astype(np.int64), [row.astype(np.int64) for row in labelled], []
    if not centres:
        mean = x.mean(0)
        chosen.append(min(range(len(x)), key=lambda i: (((x[i] - mean) ** 2).sum(), i)))
        centres.append(x[chosen[0]])
    while len(chosen) < budget:
        free = [i for i in range(len(x)) if i not in chosen]
        far = {i: min(((x[i] - c) ** 2).sum() for c in centres) for i in free}
        chosen.append(max(free, key=lambda i: (far[i], -i)))
        centres.append(x[chosen[-1]])
    return chosen


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32, np.uint8])
def test_k_center_is_what_the_plain_loop_says(seed, dtype):
    random = np.random.default_rng(seed)
    x = random.integers(0, 50, (40, 4)).astype(dtype)    # few values, so that there are equals
    labelled = random.integers(0, 50, (seed % 3 * 3, 4)).astype(dtype)
    assert choices(mining.k_center(x, 15, labelled)) == plain_greedy(x, 15, labelled)


@pytest.mark.parametrize("seed", range(5))
def test_it_covers_at_most_twice_as_far_as_the_best(seed):
    x = np.random.default_rng(seed).normal(size=(12, 2))
    apart = np.linalg.norm(x[:, None] - x, axis=2)

    def radius(centres):
        return apart[:, list(centres)].min(1).max()

    best = min(map(radius, itertools.combinations(range(12), 3)))
    assert best <= radius(mining.k_center(x, 3).indices) <= 2 * best


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("known", [0, 1500])
def test_blocks_change_nothing(dtype, known):
    random = np.random.default_rng(0)
    x, labelled = random.normal(size=(1000, 16)).astype(dtype), random.normal(size=(known, 16)).astype(dtype)
    x[700:705] = labelled[-5:] if known else x[:5]
    whole = mining.k_center(x, 40, labelled, block=10 ** 6)
    for block in (1, 7, 300) if not known else (300, 999):
        found = mining.k_center(x, 40, labelled, block=block)
        assert (found.indices == whole.indices).all()
        assert found.scores == pytest.approx(whole.scores, abs=1e-12)
    if known:
        scores = mining.k_center(x, 0, labelled).scores
        assert scores[700:705].tolist() == [0] * 5    # exactly there
        apart = np.array([np.linalg.norm(row - labelled, axis=1).min() for row in x])
        assert scores == pytest.approx(apart / apart.max() / 2, abs=1e-6)


def test_the_order_of_candidates_does_not_matter():
    random = np.random.default_rng(0)
    x, order = random.normal(size=(500, 8)), random.permutation(500)
    assert (order[mining.k_center(x[order], 30).indices] == mining.k_center(x, 30).indices).all()
    x += 1e6    # far from the origin
    assert (order[mining.k_center(x[order], 30).indices] == mining.k_center(x, 30).indices).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1, 1e18, 1e30])
def test_the_scale_does_not_matter(scale):
    x = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    assert choices(mining.k_center((x * np.float32(scale)), 20)) == choices(mining.k_center(x, 20))


@pytest.mark.parametrize("select", [lambda x, scores, k: mining.k_center(x, k), lambda x, scores, k: mining.hybrid(scores, x, k, 2),
                                    lambda x, scores, k: mining.select_by_class(scores, np.abs(x), [1, 0, 2], k)])
@pytest.mark.parametrize("budget", [1, 30, 299, 300])
def test_the_ranking_begins_with_the_choice(select, budget):
    random = np.random.default_rng(0)
    found = select(random.normal(size=(300, 3)), random.random(300), budget)
    ranking = np.argsort(-found.scores, kind="stable")
    assert (ranking[:budget] == found.indices).all()
    assert (np.diff(found.scores[found.indices]) < 0).all()
    assert found.scores[found.indices].min() > 0.5
    assert found.scores[ranking[budget:]].max(initial=0) <= 0.5
    assert found.scores.min() >= 0 and found.scores.max() == 1


@pytest.mark.parametrize("known, constant", [(0, 4e6), (300, 16e6)])
def test_memory_beside_the_embeddings_is_small(known, constant):
    x = np.random.default_rng(0).random((200_000, 64), dtype=np.float32)
    labelled = x[:known] + 1
    tracemalloc.start()
    mining.k_center(x, 3, labelled)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < constant + 40 * len(x), f"{peak / 1e6:.0f} MB"


def test_embeddings_on_the_disk(tmp_path):
    x = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    on_disk = np.memmap(tmp_path / "embeddings", np.float32, "w+", shape=x.shape)
    on_disk[:] = x
    assert choices(mining.k_center(on_disk, 20)) == choices(mining.k_center(x, 20))


@pytest.mark.parametrize("embeddings, budget, options, error, words", [
    ([1.0, 2.0], 1, {}, ArgumentError, r"shape \(2,\)"),
    (np.zeros((3, 0)), 1, {}, ArgumentError, "shape"),
    ([["a"]], 1, {}, ArgumentError, "numbers"),
    ([[1.0], [np.nan]], 1, {}, NanError, "embeddings"),
    (np.array([[np.inf]] * 3, np.float32), 1, {}, NanError, "embeddings"),
    ([[1e200], [0.0]], 1, {}, ArgumentError, r"1e\+200"),
    (LINE, -1, {}, ArgumentError, "budget is -1"),
    (LINE, 1.5, {}, ArgumentError, "budget is 1.5"),
    (LINE, "3", {}, ArgumentError, "budget is '3'"),
    (LINE, 1, {"block": 0}, ArgumentError, "block"),
    (LINE, 1, {"first": 4}, ArgumentError, "first is 4"),
    (LINE, 1, {"labelled": [[1.0, 2.0]]}, ArgumentError, r"labelled .*\(\*, 1\)"),
    (LINE, 1, {"labelled": [[np.nan]]}, NanError, "labelled"),
])
def test_wrong_embeddings(embeddings, budget, options, error, words):
    with pytest.raises(error, match=words):
        mining.k_center(embeddings, budget, **options)


# ------------------------------------------------------------------------------------------------- uncertainty first


@pytest.mark.parametrize("factor, expected", [(1, [0, 1]), (1.5, [0, 2]), (4, [0, 3])])
def test_hybrid_by_hand(factor, expected):
    found = mining.hybrid([0.9, 0.8, 0.7, 0.1], [[0.0], [0.1], [5.0], [100.0]], 2, factor)
    assert choices(found) == expected
    left = [i for i in range(4) if i not in expected]
    assert found.scores[left[0]] == 0.5 and found.scores[left[1]] == 0    # by their scores alone
    assert found.scores[expected].tolist() == [1, 0.75]


def test_hybrid_knows_what_is_labelled_and_equals():
    scores, x = [0.5] * 4, [[0.0], [1.0], [2.0], [3.0]]
    assert choices(mining.hybrid(scores, x, 1)) == [0]
    assert choices(mining.hybrid(scores, x, 1, labelled=[[0.0]])) == [3]
    assert choices(mining.hybrid(scores, x, 1, factor=2, labelled=[[0.0]])) == [1]
    assert choices(mining.hybrid(scores, x, 1, factor=1.1, labelled=[[0.0]])) == [1]    # two are looked at
    line = np.arange(200.0)[:, None]
    assert max(choices(mining.hybrid(np.zeros(200), line, 50, factor=1.1))) == 54    # 55 here, though 1.1 * 50 is 55.00000000000001
    assert choices(mining.hybrid(np.arange(200) % 2, line, 150, factor=1)) == k_center_order(np.r_[1:200:2, 0:100:2])


def k_center_order(rows):
    """In which order k-center takes all the rows of a line, from the first one on."""
    return rows[mining.k_center(rows[:, None], len(rows), first=0).indices].tolist()


def test_wrong_hybrid():
    with pytest.raises(ArgumentError, match=r"3 scores.*4, 1"):
        mining.hybrid([1, 2, 3], LINE, 1)
    with pytest.raises(ArgumentError, match=r"factor is 0\.5"):
        mining.hybrid([1, 2, 3, 4], LINE, 1, 0.5)
    with pytest.raises(ArgumentError, match="factor is nan"):
        mining.hybrid([1, 2, 3, 4], LINE, 1, float("nan"))
    with pytest.raises(NanError, match="scores"):
        mining.hybrid([1, 2, 3, np.nan], LINE, 1)


# ------------------------------------------------------------------------------------------------- classes


def test_select_by_class_by_hand():
    """Only the first class is labelled: an image with the second is farthest, then one without any, then one with the first."""
    scores, confidences = [0.9, 0.8, 0.7, 0.1], [[1, 0], [0, 1], [0, 0], [0, 1]]
    found = mining.select_by_class(scores, confidences, [1, 0], 2, surplus=0.5)
    assert choices(found) == [1, 2]
    assert found.scores == pytest.approx([0.5, 1, 0.75, 0])
    assert choices(mining.select_by_class(scores, confidences, [1, 0], 2, surplus=0)) == [1, 0]
    assert choices(mining.select_by_class(scores, confidences, [1, 0], 2, surplus=1)) == [1, 3]    # of equals that of the higher score
    assert choices(mining.select_by_class(scores, confidences, [0, 1], 1, surplus=9)) == [0]
    assert choices(mining.select_by_class(scores, [[1]] * 4, [5], 2)) == [0, 1]    # one class tells nothing


def test_wrong_classes():
    with pytest.raises(ArgumentError, match=r"confidences .*\(2, 3\)"):
        mining.select_by_class([1, 2], [[1, 0], [0, 1]], [1, 2, 3], 1)
    with pytest.raises(ArgumentError, match="surplus"):
        mining.select_by_class([1, 2], [[1, 0], [0, 1]], [1, 2], 1, surplus=-1)
    with pytest.raises(NanError, match="labelled"):
        mining.select_by_class([1, 2], [[1, 0], [0, 1]], [1, np.nan], 1)
