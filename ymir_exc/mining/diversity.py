"""Which images differ from each other and from what is labelled: core-set, its hybrid with uncertainty, and classes."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Iterator, List, NamedTuple, Optional

import numpy as np

from ymir_exc.errors import ArgumentError, NanError
from ymir_exc.mining._arrays import as_array, jensen_shannon, numbers, whole

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ymir_exc.mining._arrays import Floats

_LABELLED_AT_ONCE = 1024


class Selection(NamedTuple):
    """A choice among N candidates, and a ranking of all of them."""

    indices: NDArray[np.intp]
    """(K,), the chosen candidates, the first choice first."""

    scores: Floats
    """(N,), of each candidate, in 0..1: above 1/2 and falling for the chosen ones, at most 1/2 for the others."""


def _selection(chosen: List[int], others: Floats) -> Selection:
    """The chosen candidates first, then the others by the values given for all of them."""
    indices = np.asarray(chosen, dtype=np.intp)
    rest = np.ones(len(others), dtype=bool)
    rest[indices] = False
    scores = np.zeros(len(others))
    if rest.any():
        left = others[rest]
        low, high = left.min(), left.max()
        scores[rest] = 0.5 * (left - low) / (high - low) if high > low else 0.0
    scores[indices] = 1 - np.arange(len(indices)) / (2 * max(len(indices), 1))
    return Selection(indices, scores)


def k_center(embeddings: ArrayLike, budget: int, labelled: Optional[ArrayLike] = None, first: Optional[int] = None,
             block: int = 2048) -> Selection:
    """Core-set by k-center greedy (Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", 2018).

    The next choice is always the candidate that is farthest, by Euclidean distance, from all that is labelled or chosen; of equals the
    first. The farthest of all is then at most twice as far off as with the best choice that there is.

    Embeddings are read in blocks and never copied as a whole (a `np.memmap` stays on the disk); beside them it takes some 8 bytes a
    candidate. Time is that of reading them once a choice, and of N * L * D multiplications for L labelled ones.

    Args:
        embeddings: (N, D), a vector for each candidate: 32-bit floats are computed as such, all others but smaller floats as 64-bit.
        budget: How many to choose; all where there are fewer candidates.
        labelled: (L, D), embeddings of what is labelled already.
        first: The first choice where nothing is labelled; by default the candidate nearest to the mean of all.
        block: Candidates at once. Changes nothing in the result.

    Returns:
        The choice. Other candidates are scored by their distance to the nearest that is labelled or chosen.

    Raises:
        NanError: An embedding holds NaN or infinite values.
    """
    vectors = _Vectors(embeddings, "embeddings", whole(block, "block", 1))
    wanted = min(whole(budget, "budget", 0), len(vectors.rows))
    covered = as_array(labelled if labelled is not None else [], "labelled")
    if covered.size:
        vectors.cover_all(_Vectors(covered, "labelled", vectors.block, vectors.rows.shape[1]))
        first = None
    elif wanted and first is None:
        first = vectors.nearest_to_mean()
    if first is not None and not 0 <= first < len(vectors.rows):
        raise ArgumentError(f"first is {first}; there are {len(vectors.rows)} candidates")
    chosen: List[int] = []
    for _ in range(wanted):
        following = int(vectors.nearest.argmax()) if first is None or chosen else first
        chosen.append(following)
        vectors.cover(following)
    left = np.clip(vectors.nearest, 0, None).astype(np.float64)    # a chosen one has -1
    return _selection(chosen, np.sqrt(left) if wanted or covered.size else np.zeros(len(left)))


def hybrid(scores: ArrayLike, embeddings: ArrayLike, budget: int, factor: float = 4.0, labelled: Optional[ArrayLike] = None) -> Selection:
    """Uncertainty, then diversity: `k_center` among the `ceil(factor * budget)` candidates of the highest scores.

    So a choice is neither many pictures of one doubtful scene nor outliers that the model knows well (the two steps are those of Zhdanov,
    "Diverse mini-batch Active Learning", 2019, with k-center instead of k-means). With nothing labelled it starts at the highest score.

    Args:
        scores: (N,), of the candidates, a higher one is more worth labelling; of equals the first.
        embeddings: (N, D), see `k_center`. Those of the candidates among which is chosen are copied.
        budget: How many to choose.
        factor: How many times the budget is looked at, at least 1: with 1 only the scores count.
        labelled: (L, D), embeddings of what is labelled already.

    Returns:
        The choice. Other candidates follow by their scores.
    """
    uncertain = numbers(scores, "scores", None)
    vectors = as_array(embeddings, "embeddings")
    if vectors.shape[:1] != uncertain.shape:
        raise ArgumentError(f"there are {len(uncertain)} scores, and embeddings of the shape {vectors.shape}")
    if not 1 <= factor < math.inf:
        raise ArgumentError(f"factor is {factor}; it should be at least 1")
    pool = _highest(uncertain, factor * whole(budget, "budget", 0))
    among = k_center(vectors[pool], budget, labelled, 0 if len(pool) else None)
    return _selection(pool[among.indices].tolist(), uncertain)


def select_by_class(scores: ArrayLike, confidences: ArrayLike, labelled: ArrayLike, budget: int, surplus: float = 0.2) -> Selection:
    """The second stage of CALD (Yu et al., 2022): of the highest scores those whose classes differ most from what is labelled.

    Of the `ceil((1 + surplus) * budget)` candidates of the highest scores those are chosen for which the Jensen-Shannon divergence of
    softmax(confidences) and softmax(labelled) is largest; of equals that of the higher score.

    Args:
        scores: (N,), see `consistency.cald`.
        confidences: (N, C), the greatest probability of each class on each image: `consistency.class_confidences`.
        labelled: (C,), objects of each class in a labelled image, on average: their softmax is that of the paper's, which would be all in
            one class for the counts of a large dataset.
        budget: How many to choose.
        surplus: By what share the first stage takes more than the budget.

    Returns:
        The choice, the largest divergence first. Other candidates follow by their scores.
    """
    uncertain = numbers(scores, "scores", None)
    known = numbers(labelled, "labelled", None)
    seen = numbers(confidences, "confidences", len(uncertain), len(known))
    if not surplus >= 0:
        raise ArgumentError(f"surplus is {surplus}; it should not be negative")
    wanted = min(whole(budget, "budget", 0), len(uncertain))
    pool = _highest(uncertain, (1 + surplus) * wanted)
    apart = jensen_shannon(_softmax(seen[pool]), _softmax(known[None]))
    return _selection(pool[_highest(apart, wanted)].tolist(), uncertain)


def _highest(values: Floats, count: float) -> NDArray[np.intp]:
    """Where the highest values are, falling; of equals the first. A part of one counts as one, but for the rounding of 1.1 * 10."""
    return np.argsort(-values, kind="stable")[:math.ceil(round(min(count, len(values)), 9))]


def _softmax(values: Floats) -> Floats:
    powers = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


class _Vectors:
    """Embeddings, read block by block, and how near to each of them the nearest centre is."""

    def __init__(self, values: ArrayLike, name: str, block: int, width: Optional[int] = None) -> None:
        rows = as_array(values, name)
        if rows.size == 0 and rows.shape[:1] == (0,) and rows.ndim < 2:
            rows = np.zeros((0, width or 1))
        if rows.ndim != 2 or rows.shape[1] != (width or rows.shape[1]) or rows.shape[1] == 0 or rows.dtype.kind not in "fiub":
            raise ArgumentError(f"{name} are {rows.dtype} of the shape {rows.shape}; they should be numbers (*, {width or '*'})")
        self.rows, self.block = rows, block
        self.sum, largest = np.zeros(rows.shape[1]), 0.0
        for _, part in self._blocks():
            exact = part.astype(np.float64)
            if not np.isfinite(exact).all():
                raise NanError(f"{name} hold NaN or infinite values")
            largest = max(largest, float(np.abs(exact).max()))
            if largest > 1e150:
                raise ArgumentError(f"{name} are as large as {largest:g}: the squares of their distances cannot be computed")
            self.sum += exact.sum(0)
        # Squares of 32-bit floats neither overflow nor vanish in this range.
        small = rows.dtype.kind == "f" and rows.dtype.itemsize <= 4 and 1e-10 < largest < 1e15
        self.dtype = np.dtype(np.float32 if small else np.float64)
        self.nearest: NDArray[Any] = np.full(len(rows), np.inf, self.dtype)    # squared distances; -1 for a chosen candidate
        self._difference = np.empty((min(block, len(rows)), rows.shape[1]), self.dtype)

    def _blocks(self) -> Iterator[Any]:
        for start in range(0, len(self.rows), self.block):
            part = slice(start, start + self.block)
            yield part, self.rows[part]

    def _squared(self, part: NDArray[Any], centre: NDArray[Any]) -> NDArray[Any]:
        """Squared distances, from differences: equal vectors are at exactly 0, and the result is the same in every block."""
        apart = np.subtract(part, centre.astype(self.dtype), out=self._difference[:len(part)])
        return np.asarray(np.einsum("ij,ij->i", apart, apart))

    def nearest_to_mean(self) -> int:
        mean = self.sum / len(self.rows)
        return int(np.concatenate([self._squared(rows, mean) for _, rows in self._blocks()]).argmin())

    def cover(self, chosen: int) -> None:
        """Make a candidate a centre."""
        centre = self.rows[chosen]
        for part, rows in self._blocks():
            np.minimum(self.nearest[part], self._squared(rows, centre), out=self.nearest[part])
        self.nearest[chosen] = -1

    def cover_all(self, centres: _Vectors) -> None:
        """Make many vectors centres. Which of them is nearest is told by matrix products, how near it is by differences."""
        for part, rows in self._blocks():
            mine = rows.astype(np.float64)
            least, which = np.full(len(mine), np.inf), np.zeros(len(mine), dtype=np.intp)
            for start in range(0, len(centres.rows), _LABELLED_AT_ONCE):
                theirs = centres.rows[start:start + _LABELLED_AT_ONCE].astype(np.float64)
                distance = (theirs * theirs).sum(1) / 2 - mine @ theirs.T    # half the squared one, less half the square of mine
                at = distance.argmin(1)
                value = distance[np.arange(len(at)), at]
                better = value < least
                least[better], which[better] = value[better], at[better] + start
            apart = mine - centres.rows[which]
            self.nearest[part] = np.einsum("ij,ij->i", apart, apart)
