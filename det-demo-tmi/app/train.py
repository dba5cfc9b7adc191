"""Training: a loop over batches, an evaluation now and then, and with each evaluation a stage of the model in the result."""
from __future__ import annotations

import logging
import random
import time
from itertools import count
from pathlib import Path

import numpy as np
import torch
from easydict import EasyDict
from torch.utils.data import DataLoader

import checkpoint
import hyper
from augment import augment
from board import Board
from data import Batch, DetectionDataset, collate, read_truths
from loss import Losses, detection_loss
from model import Detector, centres
from optim import HOLD, make_optimisers, rate
from predict import Seen, predict
from ymir_exc import env, errors, monitor, result_writer, sharding, util
from ymir_exc.env import DatasetType
from ymir_exc.evaluation import mean_average_precision
from ymir_exc.images import BrokenImages
from ymir_exc.integrations import torchrun
from ymir_exc.integrations.torch import KeptTraining, out_of_memory_explained, prefetch

SETTLE = 0.9    # fraction of the training after which the size of the images varies no more
STOP_SECONDS = 3.0    # docker grants ten between the request to stop and the end; an evaluation may take three of them
QUICK_IMAGES = 32    # how many an evaluation looks at when it must be quick
EVALUATION = hyper.PredictHyper(conf_threshold=0.01)
_log = logging.getLogger(__name__)


def train(cfg: EasyDict) -> None:
    """Train a detector; the result has a stage for every evaluation, the last one from when the training ended or was stopped."""
    trainer = Trainer(cfg, device := torchrun.device(cfg))
    with out_of_memory_explained(device, batch_size=trainer.wanted.batch_size, input_size=trainer.size), torchrun.process_group(device):
        trainer.run()


class Trainer:
    """All that a training needs, and its loop.

    Of several processes each trains on images of its own, with the same weights; the first one evaluates and writes.
    """

    def __init__(self, cfg: EasyDict, device: torch.device) -> None:
        monitor.should_stop()    # from now on a stop is obeyed, not suffered
        self.cfg, self.wanted = cfg, util.get_parameters(cfg, hyper.TrainingHyper)
        self.class_names, self.size, self.device = util.get_class_names(cfg), self.wanted.input_size, device
        rank, processes = sharding.rank_and_world_size()
        random.seed(self.wanted.seed)
        torch.manual_seed(self.wanted.seed)
        self.val = read_truths(DatasetType.VALIDATION)
        truths = read_truths(DatasetType.TRAINING)
        self.class_counts = np.bincount(np.concatenate([truth.labels for truth in truths]), minlength=len(self.class_names)).tolist()
        mine = truths[rank::processes] or truths
        broken = [BrokenImages(len(split), self.wanted.max_broken_ratio) for split in (mine, self.val)]
        self.data, self.broken_val = DetectionDataset(mine, self.size, self.wanted.cache_mb, broken[0]), broken[1]
        batch_size = max(1, self.wanted.batch_size // processes)
        self.loader = DataLoader(self.data, batch_size, shuffle=True, collate_fn=collate, drop_last=len(self.data) >= batch_size)
        self.model = Detector(len(self.class_names))
        if given := util.pick_weight_file(cfg, suffix=".pt"):
            checkpoint.start_from(given, self.model, self.class_names)
        self.model.to(self.device)
        torch.manual_seed(self.wanted.seed + rank)    # from here on the processes do different things
        self.optimisers = make_optimisers(self.model, self.wanted.learning_rate)
        self.budget = torchrun.Budget(self.wanted.epochs * len(self.loader), self.wanted.max_seconds)
        self.board = Board(cfg.ymir.output.tensorboard_dir) if env.is_main_rank() else None
        self.stages: dict[str, bool] = {}    # name, and whether it was judged by all validation images
        self.epoch = 1
        parts = {f"optimiser_{number}": one for number, one in enumerate(self.optimisers)}
        self.kept = KeptTraining(cfg, [self.wanted.model_dump(), given, len(truths)], model=self.model, budget=self.budget, **parts)

    def run(self) -> None:
        """Train until the epochs or the seconds are used up; raises Stopped when the platform asks for it."""
        _log.info("%d images to train on, %d to evaluate on, %s", len(self.data), len(self.val), self.device)
        for _ in monitor.track(self.data.fill_cache(), "training", total=self.data.room, end=0.01):
            if monitor.should_stop():
                raise errors.Stopped("stopped while the images were read, before the training")
        self.budget.restart()    # reading the images is not training
        self._resume()
        for epoch in count(self.epoch):
            self.epoch, before = epoch, self.budget.used
            if before < 1:
                self._train_epoch()
            done = self.budget.used
            if done >= 1 or int(done * self.wanted.evaluations) > int(before * self.wanted.evaluations):
                self.kept.save(epoch=epoch, stages=self.stages)    # an evaluation may take long, and may be interrupted
                is_judged = self._write_stage(f"epoch_{epoch}")
                self.kept.save(epoch=epoch + is_judged, stages=self.stages)
                if done >= 1 and not is_judged:
                    raise errors.Stopped("stopped in the last evaluation; started again over the same output folder, that is repeated")
                if done >= 1:
                    self.kept.remove()
                    return

    def _train_epoch(self) -> None:
        self.model.train()
        first = self.budget.step
        for batch in prefetch(filter(None, self.loader), self.device):    # None: of images that cannot be read
            if torchrun.should_stop():
                self._stop()
            losses = self._train_step(batch)
            monitor.write_monitor_logger(0.01 + 0.99 * self.budget.used)
            if self.board:
                self.board.progress(self.epoch, self.budget, losses, self.wanted.batch_size, self.optimisers[0].param_groups[0]["lr"])
            if self.kept.is_due():
                self.kept.save(epoch=self.epoch, stages=self.stages)
            if self.budget.used >= 1:
                return
        if self.budget.step == first:
            raise errors.ImageError("no image of an epoch can be read")

    def _train_step(self, batch: Batch) -> Losses:
        """One batch. While the learning rate is high the images are smaller, which is cheaper; detail is learned at the end.

        Their size varies, so that objects of every size are seen, until the model settles on the size that it will be used with.
        """
        done = self.budget.used
        scales = (1 / 2, 2 / 3, 5 / 6) if done < HOLD else (5 / 6, 1, 7 / 6) if done < SETTLE else (1,)
        batch = augment(batch, max(32, round(self.size * random.choice(scales) / 32) * 32))
        with torchrun.mixed_precision(self.device):
            predicted = self.model(batch.images)
        losses = detection_loss(self.model, predicted, centres(batch.images), batch)
        if not torch.isfinite(losses.total):
            raise errors.NanError(f"the loss became {losses.total.item()} in step {self.budget.step}", hint="lower learning_rate")
        losses.total.backward()  # type: ignore[no-untyped-call]
        torchrun.average_gradients(self.model.parameters())
        for optimiser in self.optimisers:
            optimiser.param_groups[0]["lr"] = optimiser.defaults["lr"] * rate(self.budget)
            optimiser.step()
            optimiser.zero_grad()
        self.budget.advance()
        return losses

    def _write_stage(self, name: str, most: int | None = None) -> bool:
        """Evaluate on the validation images, or the first `most` of them, and add the model as it is now to the result.

        A stop that is asked for meanwhile has the first stage judged by few images, and a later one given up: False tells of either.
        """
        was_stopping = monitor.should_stop()
        if not self.board:    # the first process does this
            self.stages[name] = True
            return True
        started, by_path, is_judged = time.monotonic(), {truth.path: truth for truth in self.val[:most]}, most is None
        judged: list[Seen] = []
        for seen in predict(self.model, by_path, self.size, EVALUATION, self.broken_val.add):
            judged.append(seen)
            if monitor.should_stop() and not was_stopping and QUICK_IMAGES <= len(judged) < len(by_path):
                is_judged = False
                break
        if not is_judged and self.stages:
            return False
        truths, found = [by_path[seen.path] for seen in judged], [seen.found for seen in judged]
        figures = mean_average_precision([(truth.boxes, truth.labels) for truth in truths],
                                         [(one.boxes, one.scores, one.labels) for one in found], len(self.class_names))
        checkpoint.save(Path(self.cfg.ymir.output.models_dir, name, checkpoint.FILE_NAME),
                        checkpoint.Checkpoint(self.model, self.class_names, self.size, self.class_counts))
        result_writer.write_model_stage(name, [checkpoint.FILE_NAME], evaluation_result=figures)
        self.stages[name] = is_judged
        self.board.curves(self.budget.step, figures)
        self.board.pictures(self.budget.step, truths[:8], found[:8], self.class_names, self.size)
        self.budget.reserve = max(self.budget.reserve, time.monotonic() - started) if is_judged else self.budget.reserve
        _log.info("%s: mAP %.3f, mAP50 %.3f on %d images", name, figures["mAP"], figures["mAP50"], len(truths))
        return is_judged

    def _stop(self) -> None:
        """Keep what was learned, as far as the time allows."""
        self.kept.save(epoch=self.epoch, stages=self.stages)
        if all(self.stages.values()) and (not self.stages or self.budget.reserve <= STOP_SECONDS):
            self._write_stage(f"epoch_{self.epoch}", None if self.stages else QUICK_IMAGES)
            self.kept.save(epoch=self.epoch + 1, stages=self.stages)
        torchrun.of_rank_0(0.0)    # the others wait for what the first one writes
        raise errors.Stopped(f"stopped in epoch {self.epoch}; the result has the stages {', '.join(self.stages)}; started again over the "
                             "same output folder, the training goes on")

    def _resume(self) -> None:
        """Go on where an earlier start over the same output folder ended, if it did not come to its end."""
        if state := self.kept.load():
            self.epoch, self.stages = state["epoch"], state["stages"]
            random.seed(self.wanted.seed + self.budget.step)    # what was drawn before is not drawn again
            torch.manual_seed(torch.initial_seed() + self.budget.step)
            _log.info("the training goes on in epoch %d, after step %d", self.epoch, self.budget.step)
            for name in [name for name, is_judged in self.stages.items() if not is_judged]:    # few images are no fair judges
                self._write_stage(name)
