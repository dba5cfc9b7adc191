"""A run that pretends: every file that the platform expects, and no training. It needs neither a framework nor a GPU.

    Executor(smoke.instead_of({"training": train, "mining": mine, "infer": infer}))

It tells whether an image and a platform work together from end to end. It is chosen by `expected_map` in config.yaml (0..1; the mAP that
it reports), or for mining and inference by a model that it wrote. `idle_seconds` is how long it pretends to train, `seed` which scores it
makes up.
"""
from __future__ import annotations

import hashlib
import os
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Mapping

from ymir_exc import _files, dataset_reader, errors, monitor, result_writer, util
from ymir_exc.env import DatasetType

if TYPE_CHECKING:
    from easydict import EasyDict as edict

MODEL_NAME = "smoke.txt"
Task = Callable[[Any], None]


def instead_of(tasks: Mapping[str, Task]) -> Dict[str, Task]:
    """The same tasks; each pretends when that is wanted.

    Raises:
        ArgumentError: An unknown task.
    """
    pretended = {"training": train, "mining": mine, "infer": infer, "mining+infer": mine_and_infer}
    for name in tasks:
        if name not in pretended:
            raise errors.ArgumentError(f"unknown task {name!r}: must be training, mining, infer or mining+infer")
    return {name: partial(_choose, pretended[name], real) for name, real in tasks.items()}


def is_wanted(cfg: edict) -> bool:
    """Whether the task is to be pretended."""
    given = None if cfg.ymir.run_training else cfg.param.get("model_params_path")
    paths = given if isinstance(given, list) else [given]
    if any(os.path.basename(str(path)) == MODEL_NAME for path in paths):
        return True
    return bool(_wanted(cfg, "expected_map").expected_map >= 0)    # the other keys are the real program's


def _choose(pretended: Task, real: Task, cfg: edict) -> None:
    (pretended if is_wanted(cfg) else real)(cfg)


def train(cfg: edict) -> None:
    """Wait for `idle_seconds`, then report `expected_map`."""
    dataset_reader.items_count(DatasetType.TRAINING)    # a missing dataset is a failure here too
    folder = os.path.join(cfg.ymir.output.models_dir, "smoke")
    _files.make_folder(folder, shared=True)
    text = f"pretends to know {', '.join(util.get_class_names(cfg))}\n"
    _files.write_bytes(os.path.join(folder, MODEL_NAME), text.encode("utf-8", "surrogatepass"), shared=True)
    start, seconds = time.monotonic(), _wanted(cfg).idle_seconds
    while (passed := time.monotonic() - start) < seconds:
        if monitor.should_stop():
            raise errors.Stopped(f"stopped after {passed:.0f} of {seconds:g} seconds of smoke mode")
        util.write_ymir_monitor_process(cfg, task="training", naive_stage_percent=passed / seconds, stage=util.YmirStage.TASK)
        time.sleep(0.05)
    result_writer.write_model_stage("smoke", [MODEL_NAME], evaluation_result={"mAP": _wanted(cfg).expected_map})


def mine(cfg: edict) -> None:
    """A random score for each image, the same in every run with the same seed."""
    chance = random.Random(_wanted(cfg).seed)
    with result_writer.MiningResultWriter() as ranking:
        for path in _candidates("mining"):
            ranking.add(path, chance.random())


def infer(cfg: edict) -> None:
    """One box for each image, made of its name."""
    names = util.get_class_names(cfg)
    with result_writer.InferResultWriter(names, box_format="xywh") as results:
        for path in _candidates("infer"):
            digest = hashlib.sha256(os.fsencode(os.path.basename(path))).digest()
            box = [digest[0] % 16, digest[1] % 16, 1 + digest[2] % 16, 1 + digest[3] % 16]
            results.add(path, [box], [digest[5] / 255], [digest[4] % len(names)])


def mine_and_infer(cfg: edict) -> None:
    """Both, one after the other."""
    mine(cfg)
    infer(cfg)


def _wanted(cfg: edict, *names: str) -> Any:
    """These hyper-parameters; all of this file when no names are given."""
    from pydantic import Field, create_model
    known: Dict[str, Any] = {"expected_map": (float, Field(-1, le=1)), "seed": (int, 0),
                             "idle_seconds": (float, Field(0, ge=0, allow_inf_nan=False))}
    return util.get_parameters(cfg, create_model("Smoke", **{name: known[name] for name in names or known}))


def _candidates(task: str) -> Iterator[str]:
    total = dataset_reader.items_count(DatasetType.CANDIDATE)
    for path, _ in monitor.track(dataset_reader.item_paths(DatasetType.CANDIDATE), task, total=total):
        yield path
