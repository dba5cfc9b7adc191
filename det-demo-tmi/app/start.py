"""The program that the container starts: one function for each task that the platform may ask for.

To make an image of your own, copy this file and fill the two functions. What a task may rely on:

- `cfg.ymir` says where things lie (`cfg.ymir.output.models_dir`) and what is asked for (`cfg.ymir.run_training`).
- `cfg.param` holds the hyper-parameters: the user's, completed by the defaults in /img-man.
- `dataset_reader` gives the images, `result_writer` takes the results, `monitor` takes the progress and tells of a stop.

A task that returns has succeeded. A task that raises has failed: `Executor.main` records why where the platform looks for it.
"""
from __future__ import annotations

import sys

from easydict import EasyDict

from ymir_exc import smoke
from ymir_exc.executor import Executor
from ymir_exc.integrations import torchrun


def _run_training(cfg: EasyDict) -> None:
    """Images and annotations in; model files, each with its mAP, out."""
    from train import train  # not at the top: importing torch takes seconds, and smoke mode does without
    train(cfg)


def _run_candidates(cfg: EasyDict) -> None:
    """Images and a model in; what is on each image, and how much its label would teach the model, out."""
    from examine import examine
    examine(cfg)


if __name__ == "__main__":
    tasks = {"training": _run_training, "mining": _run_candidates, "infer": _run_candidates, "mining+infer": _run_candidates}
    sys.exit(Executor(smoke.instead_of(tasks), launcher=torchrun.per_device).main())
