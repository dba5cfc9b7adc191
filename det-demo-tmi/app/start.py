"""The program that the container starts: one function for each task that the platform may ask for.

To make an image of your own, copy this file and fill the three functions; `smoke`, the demo's mode that pretends, you will not need.
What a task may rely on:

- `cfg.ymir` says where things lie (`cfg.ymir.output.models_dir`) and what is asked for (`cfg.ymir.run_training`).
- `cfg.param` holds the hyper-parameters: the user's, completed by the defaults in /img-man.
- `dataset_reader` gives the images, `result_writer` takes the results, `monitor` takes the progress and tells of a stop.

A task that returns has succeeded. A task that raises has failed: `Executor.main` records why where the platform looks for it.
"""
from __future__ import annotations

import os
import sys

from easydict import EasyDict

import smoke
from ymir_exc import result_writer, util
from ymir_exc.executor import Executor


def _run_training(cfg: EasyDict) -> None:
    """Images and annotations in; model files, each with its mAP, out."""
    from train import train  # not at the top: importing torch takes seconds, and smoke mode does without
    train(cfg)


def _run_mining(cfg: EasyDict) -> None:
    """Images and a model in; for each image a score, the higher the more its label would teach the model, out."""
    import hyper
    from predict import candidates
    from ymir_exc import mining
    algorithm = util.get_parameters(cfg, hyper.MiningHyper).mining_algorithm
    scorer = mining.scorer(algorithm, kind="sigmoid", aggregation="sum")    # many doubtful objects on one image are many lessons
    with result_writer.MiningResultWriter() as results:
        for path, _, found in candidates(cfg, "mining"):
            results.add(path, scorer.score(path=path, probabilities=found.probabilities))


def _run_infer(cfg: EasyDict) -> None:
    """Images and a model in; the objects on each image out."""
    from predict import candidates
    with result_writer.InferResultWriter(util.get_class_names(cfg)) as results:
        for path, place, found in candidates(cfg, "infer"):
            results.add(path, found.boxes, found.scores, found.labels, image_size=(place.width, place.height))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")    # a thread of torch that waits sleeps, and so leaves its CPU to others
    tasks = {"training": _run_training, "mining": _run_mining, "infer": _run_infer}
    sys.exit(Executor(smoke.instead_of(tasks)).main())
