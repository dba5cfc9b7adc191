"""Scores of single boxes and of maps, and the score of an image that they make."""
from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Callable, Dict, Sequence

import numpy as np

from ymir_exc.errors import ArgumentError
from ymir_exc.mining._arrays import bits, information, numbers, probabilities, whole

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ymir_exc.mining._arrays import Floats


def random(path: str, seed: int = 0) -> float:
    """A score in [0, 1) that depends on the path and the seed alone: whatever the order, the shard and the process.

    The baseline that every algorithm has to beat. Scores of many paths are as if drawn evenly.
    """
    digest = hashlib.blake2b(f"{seed}\n{path}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2 ** 53


def least_confidence(probabilities_: ArrayLike, kind: str = "softmax") -> Floats:
    """How improbable the likeliest answer is (Lewis and Gale, "A Sequential Algorithm for Training Text Classifiers", 1994).

    Softmax: `(1 - max p) / (1 - 1/C)`. Sigmoid: the likeliest answer is a yes for each class above 1/2 and a no for the others, so
    `(1 - prod max(p, 1 - p)) / (1 - 2**-C)`.

    Args:
        probabilities_: (N, C), of each box's classes.
        kind: "softmax" or "sigmoid".

    Returns:
        (N,) in 0..1: 0 for certainty, 1 where all classes are equally likely (sigmoid: all at 1/2). 0 for a softmax of one class.
    """
    p = probabilities(probabilities_, kind)
    if kind == "sigmoid":
        return np.asarray((1 - np.maximum(p, 1 - p).prod(1)) / (1 - 0.5 ** p.shape[1]))
    return np.asarray((1 - p.max(1)) / max(1 - 1 / p.shape[1], 0.5))    # of one class, 1 - p is 0


def margin(probabilities_: ArrayLike, kind: str = "softmax") -> Floats:
    """How near the decision is to another (Scheffer et al., "Active Hidden Markov Models for Information Extraction", 2001).

    Softmax: `1 - (p1 - p2)` of the two likeliest classes. Sigmoid: `1 - |2p - 1|` of the class nearest to 1/2.

    Args:
        probabilities_: (N, C), of each box's classes.
        kind: "softmax" or "sigmoid".

    Returns:
        (N,) in 0..1: 0 for certainty, 1 for a tie. 0 for a softmax of one class.
    """
    p = probabilities(probabilities_, kind)
    if kind == "sigmoid":
        return np.asarray(1 - np.abs(2 * p - 1).min(1))
    if p.shape[1] == 1:
        return np.zeros(len(p))
    first_two = np.partition(p, p.shape[1] - 2, axis=1)[:, -2:]
    return 1 - (first_two[:, 1] - first_two[:, 0])


def entropy(probabilities_: ArrayLike, kind: str = "softmax") -> Floats:
    """How much is unknown about the classes (Shannon, "A Mathematical Theory of Communication", 1948), as a share of the most possible.

    Softmax: `-sum p log p / log C`. Sigmoid: the mean over classes of the binary entropy `-p log2 p - (1 - p) log2 (1 - p)`.

    Args:
        probabilities_: (N, C), of each box's classes.
        kind: "softmax" or "sigmoid".

    Returns:
        (N,) in 0..1: 0 for certainty, 1 where all classes are equally likely (sigmoid: all at 1/2). 0 for a softmax of one class.
    """
    p = probabilities(probabilities_, kind)
    unknown = information(p, kind)
    return np.clip(unknown.mean(1) if kind == "sigmoid" else unknown / max(math.log2(p.shape[1]), 1), 0, 1)


def class_weights(counts: ArrayLike) -> Floats:
    """Weights by which rare classes count more: `(sum n + C) / (n_c + 1)` (Brust et al., see `class_balanced`).

    Args:
        counts: (C,), objects of each class among what is labelled; where that is not known, among the predictions, whose number may be
            a sum of probabilities. Not negative.

    Returns:
        (C,), each at least 1, unless C is 1: then it is exactly 1.
    """
    n = numbers(counts, "counts", None)
    if n.size == 0 or n.min() < 0:
        raise ArgumentError("counts of classes should be one or more numbers that are not negative")
    return np.asarray((n.sum() + n.size) / (n + 1))


def class_balanced(probabilities_: ArrayLike, counts: ArrayLike, kind: str = "softmax") -> Floats:
    """1-vs-2 with class weights (Brust et al., "Active Learning for Deep Object Detection", 2019): the squared `margin` of each box times
    the `class_weights` of its likeliest class (of equals, the first). The paper sums them over the image: `aggregate(..., "sum")`.

    Args:
        probabilities_: (N, C), of each box's classes.
        counts: (C,), see `class_weights`.
        kind: "softmax" or "sigmoid".

    Returns:
        (N,) in 0..sum(counts) + C.
    """
    weights = class_weights(counts)
    p = probabilities(probabilities_, kind, shape=(None, len(weights)))
    return np.asarray(margin(p, kind) ** 2 * weights[p.argmax(1)])


AGGREGATIONS: Dict[str, Callable[[Sequence[float]], float]] = {
    "max": max,
    "mean": lambda scores: math.fsum(scores) / len(scores),
    "sum": math.fsum,
    "count_aware": lambda scores: math.fsum(scores) / math.sqrt(len(scores)),
}


def aggregate(scores: ArrayLike, how: str = "max") -> float:
    """The score of an image from those of its boxes (maximum, mean and sum: Brust et al., 2019).

    Args:
        scores: (N,), of the boxes.
        how: "max"; "mean"; "sum", which prefers images with many boxes; or "count_aware", `sum / sqrt(N)`, half way between mean and sum:
            four boxes of the same score count as much as two for "sum".

    Returns:
        In the range of the scores for "max" and "mean", up to N times as much for "sum" and sqrt(N) times for "count_aware". 0 for an image
        without boxes: nothing was seen that could be doubted.
    """
    if how not in AGGREGATIONS:
        raise ArgumentError(f"there is no aggregation {how!r}; there are {', '.join(AGGREGATIONS)}")
    values = numbers(scores, "scores", None).tolist()
    return float(AGGREGATIONS[how](values)) if values else 0.0


def aldd(maps: Sequence[ArrayLike], kind: str = "softmax", window: int = 3, pool: int = 4) -> float:
    """Disagreement between neighbouring places (Aghdam et al., "Active Learning for Deep Detection Neural Networks", 2019).

    At each place: the entropy of the mean of the probabilities around it, less the mean of their entropies. It is 0 where the neighbours
    agree, however unsure they are, and large where a detector answers differently one step aside. Of each patch the largest counts, of a
    map the mean of its patches, and of several maps (the levels of a pyramid) their mean.

    Args:
        maps: One or more (C, H, W) of probabilities of classes at places; each its own H and W.
        kind: "softmax": they sum to 1 over C; or "sigmoid".
        window: Side of the square around a place, odd, in places. At the rims it is what lies within the map.
        pool: Side of the patches. Those at the right and lower rims may be smaller.

    Returns:
        0..1, a share of the most that is possible: log C for a softmax, one bit a class for a sigmoid. 0 for a softmax of one class.

    Raises:
        ArgumentError: There is no map, or one is empty.
    """
    if whole(window, "window", 1) % 2 == 0:
        raise ArgumentError(f"window is {window}; it should be odd, so that it has a middle")
    whole(pool, "pool", 1)
    of_maps = [_of_map(values, f"maps[{i}]", kind, window // 2, pool) for i, values in enumerate(maps)]
    if not of_maps:
        raise ArgumentError("there are no maps to score")
    return math.fsum(of_maps) / len(of_maps)


def _of_map(values: ArrayLike, name: str, kind: str, radius: int, pool: int) -> float:
    p = probabilities(values, kind, name, (None, None, None), axis=0)
    if p.size == 0:
        raise ArgumentError(f"{name} has no places: its shape is {p.shape}")
    of_mean, of_each = np.zeros(p.shape[1:]), np.zeros(p.shape[1:])
    for plane in p:    # a class at a time stays in the processor's cache
        of_mean += bits(np.clip(_mean_around(plane, radius), 0, 1), kind)
        of_each += bits(plane, kind)
    share = (of_mean - _mean_around(of_each, radius)) / (len(p) if kind == "sigmoid" else max(math.log2(len(p)), 1))
    for axis in (0, 1):
        share = np.maximum.reduceat(share, np.arange(0, share.shape[axis], pool), axis=axis)
    return float(np.clip(share, 0, 1).mean())


def _mean_around(values: Floats, radius: int) -> Floats:
    """The mean of the square around each place of `(H, W)`, of what lies within."""
    for _ in range(2):    # of the columns, then of the rows
        total = values.copy()
        for step in range(1, min(radius + 1, len(values))):
            total[step:] += values[:-step]
            total[:-step] += values[step:]
        place = np.arange(len(values))
        values = (total / (np.minimum(place + radius + 1, len(place)) - np.maximum(place - radius, 0))[:, None]).T
    return values
