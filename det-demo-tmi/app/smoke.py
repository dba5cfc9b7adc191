"""A run that pretends: every file that the platform expects, and no training. It needs neither torch nor numpy nor Pillow.

It tells whether an installation works from end to end. It is chosen by `expected_map` in config.yaml, or for mining and inference by a
model that it wrote.
"""
from __future__ import annotations

import hashlib
import random
import time
from functools import partial
from pathlib import Path
from typing import Callable, Iterator, Mapping

from easydict import EasyDict

import hyper
from ymir_exc import dataset_reader, errors, monitor, result_writer, util
from ymir_exc.env import DatasetType

MODEL_NAME = "smoke.txt"
Task = Callable[[EasyDict], None]


def instead_of(tasks: Mapping[str, Task]) -> dict[str, Task]:
    """The same tasks; each pretends when that is wanted."""
    pretended = {"training": train, "mining": mine, "infer": infer}
    return {name: partial(_choose, pretended[name], real) for name, real in tasks.items()}


def _choose(pretended: Task, real: Task, cfg: EasyDict) -> None:
    given = [] if cfg.ymir.run_training else cfg.param.get("model_params_path") or []
    is_wanted = _wanted(cfg).expected_map >= 0 or any(Path(path).name == MODEL_NAME for path in given)
    (pretended if is_wanted else real)(cfg)


def train(cfg: EasyDict) -> None:
    """Wait for `idle_seconds`, then report `expected_map`."""
    dataset_reader.items_count(DatasetType.TRAINING)    # a missing dataset is a failure here too
    model = Path(cfg.ymir.output.models_dir, "smoke", MODEL_NAME)
    model.parent.mkdir(parents=True, exist_ok=True)
    model.write_text(f"pretends to know {util.get_class_names(cfg)}\n", encoding="utf-8")
    start, seconds = time.monotonic(), _wanted(cfg).idle_seconds
    while (passed := time.monotonic() - start) < seconds:
        if monitor.should_stop():
            raise errors.Stopped(f"stopped after {passed:.0f} of {seconds:g} seconds of smoke mode")
        util.write_ymir_monitor_process(cfg, task="training", naive_stage_percent=passed / seconds, stage=util.YmirStage.TASK)
        time.sleep(0.05)
    result_writer.write_model_stage("smoke", [MODEL_NAME], evaluation_result={"mAP": _wanted(cfg).expected_map})


def mine(cfg: EasyDict) -> None:
    """A random score for each image, the same in every run with the same seed."""
    chance = random.Random(_wanted(cfg).seed)
    result_writer.write_mining_result(mining_result=[(path, chance.random()) for path in _candidates("mining")])


def infer(cfg: EasyDict) -> None:
    """One box for each image, made of its name."""
    names = cfg.param.get("class_names") or ["object"]
    result_writer.write_infer_result(infer_result={path: [_detection(path, names)] for path in _candidates("infer")})


def _wanted(cfg: EasyDict) -> hyper.SmokeHyper:
    return util.get_parameters(cfg, hyper.SmokeHyper)


def _candidates(task: str) -> Iterator[str]:
    total = dataset_reader.items_count(DatasetType.CANDIDATE)
    for path, _ in monitor.track(dataset_reader.item_paths(DatasetType.CANDIDATE), task, total=total):
        yield path


def _detection(path: str, class_names: list[str]) -> result_writer.Annotation:
    digest = hashlib.sha256(Path(path).name.encode("utf-8")).digest()
    box = result_writer.Box(x=digest[0] % 16, y=digest[1] % 16, w=1 + digest[2] % 16, h=1 + digest[3] % 16)
    return result_writer.Annotation(class_name=class_names[digest[4] % len(class_names)], score=digest[5] / 255, box=box)
