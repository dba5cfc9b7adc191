"""Mining and inference: every candidate image is looked at once, for either of them or for both."""
from __future__ import annotations

import contextlib

import numpy as np
from easydict import EasyDict

import hyper
from predict import Seen, candidates
from ymir_exc import mining, monitor, util
from ymir_exc.result_writer import InferResultWriter, MiningResultWriter

MOST_CHOSEN = 1000    # images that are chosen one after the other, where an algorithm does that


def examine(cfg: EasyDict) -> None:
    """Images and a model in; for each image what is on it, how much its label would teach the model, or both, out."""
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(InferResultWriter(util.get_class_names(cfg))) if cfg.ymir.run_infer else None
        ranking = stack.enter_context(MiningResultWriter()) if cfg.ymir.run_mining else None
        scorer = _scorer(cfg)
        late: list[tuple[str, float, np.ndarray]] = []
        task = monitor.BOTH if ranking and results else "mining" if ranking else "infer"
        for seen in candidates(cfg, task, views=ranking is not None and "augmented" in scorer.needs):
            if results:
                found = seen.found
                results.add(seen.path, found.boxes, found.scores, found.labels, image_size=(seen.place.width, seen.place.height))
            if ranking and scorer.rank:
                late.append((seen.path, _score(scorer, seen), seen.found.embedding.numpy()))
            elif ranking:
                ranking.add(seen.path, _score(scorer, seen))
        if ranking and scorer.rank and late:
            paths, scores, embeddings = zip(*late)
            ranking.add_batch(paths, scorer.rank(scores, np.stack(embeddings), min(len(paths), MOST_CHOSEN)).scores)


def _scorer(cfg: EasyDict) -> mining.Scorer:
    # Many doubtful objects on one image are many lessons: the scores of boxes are summed.
    return mining.scorer(util.get_parameters(cfg, hyper.MiningHyper).mining_algorithm, kind="sigmoid", aggregation="sum")


def _score(scorer: mining.Scorer, seen: Seen) -> float:
    """How much the label of one image would teach the model."""
    found = seen.found
    return scorer.score(path=seen.path, boxes=found.boxes, probabilities=found.probabilities, maps=[found.maps],
                        augmented=[(changed.boxes, changed.probabilities) for changed in seen.changed], class_counts=seen.class_counts)
