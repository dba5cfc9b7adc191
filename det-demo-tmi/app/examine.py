"""Mining and inference: every candidate image is looked at once, for either of them or for both."""
from __future__ import annotations

import contextlib
import logging

from easydict import EasyDict

import checkpoint
import hyper
from predict import Seen, predict
from ymir_exc import errors, mining, sharding, util
from ymir_exc.integrations import torchrun
from ymir_exc.integrations.torch import out_of_memory_explained
from ymir_exc.result_writer import InferResultWriter, MiningResultWriter

MOST_CHOSEN = 1000    # images that are chosen one after the other, where an algorithm does that


def examine(cfg: EasyDict) -> None:
    """Images and a model in; for each image what is on it, how much its label would teach the model, or both, out.

    Of several processes each does its share. One that is started again after a kill goes on where it was.
    """
    wanted, names = util.get_parameters(cfg, hyper.MiningHyper), util.get_class_names(cfg)
    # Many doubtful objects on one image are many lessons: the scores of boxes are summed.
    scorer = mining.scorer(wanted.mining_algorithm, kind="sigmoid", aggregation="sum")
    model, known, size, class_counts = checkpoint.load(str(util.pick_weight_file(cfg, suffix=".pt")))
    if names != known:
        raise errors.ConfigError(f"{cfg.ymir.input.config_file}: class_names are {names}, the model was trained for {known}")
    together = (lambda scores, embeddings: scorer.rank(scores, embeddings, MOST_CHOSEN).scores) if scorer.rank else None
    device = torchrun.device(cfg)
    with contextlib.ExitStack() as stack, out_of_memory_explained(device, batch_size=wanted.batch_size, input_size=size):
        results = stack.enter_context(InferResultWriter(names)) if cfg.ymir.run_infer else None
        ranking = stack.enter_context(MiningResultWriter(rank=together)) if cfg.ymir.run_mining else None
        writers = [writer for writer in (ranking, results) if writer]

        def leave_out(path: str, error: errors.ImageError) -> None:
            logging.warning("left out: %s", error)
            for writer in writers:
                writer.skip(path)

        paths = sharding.candidates(*writers, max_skipped_ratio=wanted.max_broken_ratio)
        views = ranking is not None and "augmented" in scorer.needs
        for seen in predict(model.to(device), paths, size, wanted, leave_out, views):
            found = seen.found
            if results:
                results.add(seen.path, found.boxes, found.scores, found.labels, image_size=(seen.place.width, seen.place.height))
            if ranking:
                ranking.add(seen.path, _score(scorer, seen, class_counts), found.embedding if together else None)


def _score(scorer: mining.Scorer, seen: Seen, class_counts: list[int]) -> float:
    """How much the label of one image would teach the model."""
    found = seen.found
    return scorer.score(path=seen.path, boxes=found.boxes, probabilities=found.probabilities, maps=[found.maps],
                        augmented=[(changed.boxes, changed.probabilities) for changed in seen.changed], class_counts=class_counts)
