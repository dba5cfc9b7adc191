"""Training: a loop over batches, an evaluation now and then, and with each evaluation a stage of the model in the result."""
from __future__ import annotations

import logging
import random
import time
from itertools import count
from pathlib import Path

import torch
from easydict import EasyDict
from torch.utils.data import DataLoader

import checkpoint
import hyper
from augment import augment
from board import Board
from data import Batch, DetectionDataset, Truth, collate, count_objects, read_truths
from loss import Losses, detection_loss
from model import Detector, centres
from optim import HOLD, Course, make_optimisers
from predict import Detections, predict
from ymir_exc import env, errors, monitor, result_writer, sharding, util
from ymir_exc.dataset_reader import BrokenImages
from ymir_exc.env import DatasetType
from ymir_exc.evaluation import mean_average_precision
from ymir_exc.integrations import torchrun
from ymir_exc.integrations.torch import load_weights, save_weights
from ymir_exc.util import YmirStage

LOG_SECONDS = 5.0
SETTLE = 0.9    # fraction of the training after which the size of the images varies no more
STOP_SECONDS = 3.0    # docker grants ten between the request to stop and the end; an evaluation may take three of them
QUICK_IMAGES = 32    # how many an evaluation looks at when it must be quick
EVALUATION = hyper.PredictHyper(conf_threshold=0.01)
_log = logging.getLogger(__name__)


def train(cfg: EasyDict) -> None:
    """Train a detector; the result has a stage for every evaluation, the last one from when the training ended or was stopped."""
    trainer = Trainer(cfg, device := torchrun.device(cfg))
    try:
        with torchrun.process_group(device):
            trainer.run()
    except torch.cuda.OutOfMemoryError as e:
        free, total = torch.cuda.mem_get_info(trainer.device)
        raise errors.OutOfMemoryError(f"batch_size {trainer.wanted.batch_size} at input_size {trainer.size} does not fit into the GPU's "
                                      f"{total / 2**30:.1f} GiB, of which {free / 2**30:.1f} are free", hint="lower batch_size") from e
    finally:
        trainer.board.close()


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
        self.class_counts = count_objects(truths, len(self.class_names))
        truths = truths[rank::processes] or truths
        broken = [BrokenImages(len(split), self.wanted.max_broken_ratio) for split in (truths, self.val)]
        self.data, self.broken_val = DetectionDataset(truths, self.size, self.wanted.cache_mb, broken[0]), broken[1]
        batch_size = max(1, self.wanted.batch_size // processes)
        self.loader = DataLoader(self.data, batch_size, shuffle=True, collate_fn=collate, drop_last=len(self.data) >= batch_size)
        self.model = Detector(len(self.class_names))
        if given := util.pick_weight_file(cfg, suffix=".pt"):
            checkpoint.start_from(given, self.model, self.class_names)
        self.model.to(self.device)
        torch.manual_seed(self.wanted.seed + rank)    # from here on the processes do different things
        self.optimisers = make_optimisers(self.model, self.wanted.learning_rate)
        self.course = Course(self.wanted.epochs * len(self.loader), self.wanted.max_seconds)
        self.board = Board(cfg.ymir.output.tensorboard_dir)
        self.stages: list[str] = []    # their names
        self.epoch = 1
        self._started = Path(cfg.ymir.output.root_dir, ".demo-training.pt")    # to go on from, if the container is started again
        self._same = {**self.wanted.model_dump(), "class_names": self.class_names, "task_id": cfg.ymir.task_id}
        self._logged_at, self._logged_step = self.course.seconds, 0

    def run(self) -> None:
        """Train until the epochs or the seconds are used up; raises Stopped when the platform asks for it."""
        _log.info("%d images to train on, %d to evaluate on, %d classes, %s", len(self.data), len(self.val), len(self.class_names),
                  self.device)
        self.data.fill_cache(self._on_image)
        self.course.started = time.monotonic()    # reading the images is not training
        self._resume()
        for epoch in count(self.epoch):
            self.epoch = epoch
            self._train_epoch()
            done = self.course.progress
            if done >= min(1.0, (len(self.stages) + 1) / self.wanted.evaluations):
                self._write_stage()
                self._keep()
            if done >= 1:
                if env.is_main_rank():
                    self._started.unlink()
                return

    def _train_epoch(self) -> None:
        self.model.train()
        for batch in filter(None, self.loader):    # None: of images that cannot be read
            if torchrun.should_stop():
                self._stop()
            losses = self._train_step(Batch(*(part.to(self.device) for part in batch)))
            self._report(self.course.progress, YmirStage.TASK)
            self._log(losses)
            if self.course.progress >= 1:
                return

    def _train_step(self, batch: Batch) -> Losses:
        """One batch. While the learning rate is high the images are smaller, which is cheaper; detail is learned at the end.

        Their size varies, so that objects of every size are seen, until the model settles on the size that it will be used with.
        """
        done = self.course.progress
        scales = (1 / 2, 2 / 3, 5 / 6) if done < HOLD else (5 / 6, 1, 7 / 6) if done < SETTLE else (1,)
        batch = augment(batch, max(32, round(self.size * random.choice(scales) / 32) * 32))
        with torchrun.mixed_precision(self.device):
            predicted = self.model(batch.images)
        losses = detection_loss(self.model, predicted, centres(batch.images), batch)
        if not torch.isfinite(losses.total):
            raise errors.NanError(f"the loss became {losses.total.item()} in step {self.course.step}", hint="lower learning_rate")
        losses.total.backward()  # type: ignore[no-untyped-call]
        torchrun.average_gradients(self.model.parameters())
        for optimiser in self.optimisers:
            optimiser.param_groups[0]["lr"] = optimiser.defaults["lr"] * self.course.rate
            optimiser.step()
            optimiser.zero_grad()
        self.course.advance()
        return losses

    def _write_stage(self, most: int | None = None) -> None:
        """Evaluate on the validation images, or the first `most` of them, and add the model as it is now to the result."""
        name = f"epoch_{self.epoch}"
        self.stages = [*(known for known in self.stages if known != name), name]
        if not env.is_main_rank():
            return
        started, by_path = time.monotonic(), {truth.path: truth for truth in self.val[:most]}
        truths: list[Truth] = []
        found: list[Detections] = []
        for seen in predict(self.model, by_path, self.size, EVALUATION, self.broken_val.add):
            truths.append(by_path[seen.path])
            found.append(seen.found)
            if monitor.should_stop() and len(found) >= QUICK_IMAGES and self.stages == [name]:    # better judged by a few than lost
                break
        figures = mean_average_precision([(truth.boxes, truth.labels) for truth in truths],
                                         [(one.boxes, one.scores, one.labels) for one in found], len(self.class_names))
        checkpoint.save(Path(self.cfg.ymir.output.models_dir, name, checkpoint.FILE_NAME),
                        checkpoint.Checkpoint(self.model, self.class_names, self.size, self.class_counts))
        result_writer.write_model_stage(name, [checkpoint.FILE_NAME], evaluation_result=figures)
        self.board.curves(self.course.step, figures)
        self.board.pictures(self.course.step, truths[:8], found[:8], self.class_names, self.size)
        self.course.reserve = max(self.course.reserve, time.monotonic() - started)
        _log.info("%s: mAP %.3f, mAP50 %.3f on %d images", name, figures["mAP"], figures["mAP50"], len(truths))

    def _stop(self) -> None:
        """Keep what was learned, as far as the time allows."""
        self._keep()
        if not self.stages or self.course.reserve <= STOP_SECONDS:
            self._write_stage(None if self.stages else QUICK_IMAGES)
        torchrun.of_rank_0(0.0)    # the others wait for what the first one writes
        raise errors.Stopped(f"stopped in epoch {self.epoch}; the result has the stages {', '.join(self.stages)}; started again over the "
                             "same output folder, the training goes on")

    def _keep(self) -> None:
        """All that it takes to go on, in a file."""
        if env.is_main_rank():
            course = self.course.step, self.course.progress, self.course.seconds
            save_weights(self._started, self.model.state_dict(), optimisers=[one.state_dict() for one in self.optimisers], same=self._same,
                         course=course, epoch=self.epoch, stages=self.stages)

    def _resume(self) -> None:
        """Go on where an earlier start over the same output folder ended, if it did not come to its end."""
        if not self._started.exists():
            return
        kept = load_weights(self._started)
        if kept["same"] != self._same:
            _log.warning("%s is of another training; this one begins anew", self._started)
            return
        self.model.load_state_dict(kept["weights"])
        for optimiser, state in zip(self.optimisers, kept["optimisers"]):
            optimiser.load_state_dict(state)
        self.course.step, self.course.progress, seconds = kept["course"]
        self.course.started -= seconds
        self.epoch, self.stages = kept["epoch"], kept["stages"]
        _log.info("the training goes on in epoch %d, after step %d", self.epoch, self.course.step)

    def _on_image(self, done: float) -> None:
        if monitor.should_stop():
            raise errors.Stopped("stopped while the images were read; there is no result")
        self._report(done, YmirStage.PREPROCESS)

    def _report(self, done: float, stage: YmirStage) -> None:
        util.write_ymir_monitor_process(self.cfg, task="training", naive_stage_percent=done, stage=stage)

    def _log(self, losses: Losses) -> None:
        """A line, and a point on the curves, every few seconds."""
        passed, steps = self.course.seconds - self._logged_at, self.course.step - self._logged_step
        if passed < LOG_SECONDS:
            return
        self._logged_at, self._logged_step = self.course.seconds, self.course.step
        speed, rate = steps * self.wanted.batch_size / passed, self.optimisers[0].param_groups[0]["lr"]
        _log.info("epoch %d, %.0f %%: loss %.3f + %.3f, %.0f images/s", self.epoch, 100 * self.course.progress, losses.classes,
                  losses.boxes, speed)
        self.board.curves(self.course.step, {"loss/classes": float(losses.classes), "loss/boxes": float(losses.boxes),
                                             "images per second": speed, "learning rate": rate})
