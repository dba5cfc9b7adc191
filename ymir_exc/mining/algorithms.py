"""The algorithms by their names, as `mining_algorithm` of config.yaml gives them."""
from __future__ import annotations

from typing import Any, Callable, Collection, Dict, FrozenSet, NamedTuple, Optional

from ymir_exc._yaml import nearest
from ymir_exc.errors import ArgumentError, ConfigError
from ymir_exc.mining import scores
from ymir_exc.mining._arrays import KINDS
from ymir_exc.mining.consistency import cald
from ymir_exc.mining.diversity import Selection, hybrid, k_center


class Scorer(NamedTuple):
    """An algorithm of mining: what it needs to know of an image, and what it makes of it."""

    name: str
    needs: FrozenSet[str]
    """What of each image, by the names of `score`'s arguments; "embedding", a vector (D,), is what `rank` needs of all images together."""

    of_image: Callable[..., float]
    rank: Optional[Callable[..., Selection]] = None
    """`rank(scores, embeddings, budget, labelled=None)`, where there is a step that puts the images in order after all were scored: (N,),
    (N, D), how many images will be labelled, and (L, D) embeddings of those that are."""

    def score(self, **seen: Any) -> float:
        """The score of one image, from what was seen on it; what is not needed may be left out or given.

        Args:
            seen: `path`; `boxes` (N, 4) and `probabilities` (N, C); `augmented`, a list of such pairs; `maps`, a list of (C, H, W);
                `class_counts` (C,), how many objects of each class are labelled.
        """
        wanted = self.needs - {"embedding"}
        missing = sorted(wanted - set(seen))
        if missing:
            raise ArgumentError(f"{self.name} needs {', '.join(missing)} of each image")
        return self.of_image(**{name: seen[name] for name in wanted})


def scorers(kind: str = "softmax", aggregation: str = "max", seed: int = 0, beta: float = 1.3, window: int = 3, pool: int = 4,
            factor: float = 4.0) -> Dict[str, Scorer]:
    """All algorithms by name, with these options.

    Args:
        kind: "softmax" or "sigmoid", see `ymir_exc.mining`.
        aggregation: See `scores.aggregate`; of all that score boxes.
        seed: Of `random`.
        beta: Of `cald`.
        window: Of `aldd`.
        pool: Of `aldd`.
        factor: Of `hybrid`, which ranks by the entropy first.

    Raises:
        ConfigError: There is no such kind or aggregation.
    """
    kind = _known(kind, KINDS, "kind of probabilities")
    how = _known(aggregation, scores.AGGREGATIONS, "aggregation")

    def of_boxes(measure: Callable[..., Any]) -> Callable[..., float]:
        return lambda probabilities: scores.aggregate(measure(probabilities, kind), how)

    algorithms = (
        _scorer("random", "path", lambda path: scores.random(path, seed)),
        _scorer("least_confidence", "probabilities", of_boxes(scores.least_confidence)),
        _scorer("margin", "probabilities", of_boxes(scores.margin)),
        _scorer("entropy", "probabilities", of_boxes(scores.entropy)),
        _scorer("class_balanced", "probabilities class_counts",
                lambda probabilities, class_counts: scores.aggregate(scores.class_balanced(probabilities, class_counts, kind), how)),
        _scorer("cald", "boxes probabilities augmented",
                lambda boxes, probabilities, augmented: cald(boxes, probabilities, augmented, beta, kind)),
        _scorer("aldd", "maps", lambda maps: scores.aldd(maps, kind, window, pool)),
        _scorer("core_set", "embedding", lambda: 0.0,
                lambda _, embeddings, budget, labelled=None: k_center(embeddings, budget, labelled)),
        _scorer("hybrid", "probabilities embedding", of_boxes(scores.entropy),
                lambda values, embeddings, budget, labelled=None: hybrid(values, embeddings, budget, factor, labelled)),
    )
    return {algorithm.name: algorithm for algorithm in algorithms}


def scorer(name: str, **options: Any) -> Scorer:
    """The algorithm of this name, whatever its case and whether its words are joined by - or _.

    Args:
        name: One of `scorers()`.
        options: Those of `scorers`.

    Raises:
        ConfigError: There is none; it says which is meant.
    """
    known = scorers(**options)
    return known[_known(name, known, "mining algorithm")]


def _scorer(name: str, needs: str, of_image: Callable[..., float], rank: Optional[Callable[..., Selection]] = None) -> Scorer:
    return Scorer(name, frozenset(needs.split()), of_image, rank)


def _known(name: str, names: Collection[str], what: str) -> str:
    plain = str(name).strip().lower().replace("-", "_")
    if plain in names:
        return plain
    close = nearest(plain, names)
    raise ConfigError(f"there is no {what} {name!r}; there are {', '.join(names)}", hint=f"is {close} meant?" if close else "")
