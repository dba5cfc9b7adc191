"""What a stop in the middle of an evaluation leaves, and how a training goes on after it."""
from __future__ import annotations

import pytest
import torch
import yaml

import checkpoint
import train
from ymir_exc import errors, settings, util


class Task:
    """A training of four epochs, evaluated after the second and the fourth; started as often as one likes."""

    def __init__(self, space, monkeypatch):
        self.output, self.stop_at, self.asked = space.output, {}, False
        self.judged = []    # stage, and how many images it was judged by
        original = train.predict

        def predict(*arguments):
            name, seen_so_far = f"epoch_{self.trainer.epoch}", 0
            try:
                for seen in original(*arguments):
                    seen_so_far += 1
                    self.asked = self.asked or self.stop_at.get(name) == seen_so_far
                    yield seen
            finally:
                self.judged.append((name, seen_so_far))

        monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(space.env_file))
        monkeypatch.setattr("ymir_exc.monitor.should_stop", lambda: self.asked)
        monkeypatch.setattr(train, "predict", predict)

    def start(self, **stop_at):
        """Train; a stop is asked for when so many images of a stage's evaluation were seen."""
        self.asked, self.stop_at, self.judged = False, stop_at, []
        self.trainer = train.Trainer(util.get_merged_config(), torch.device("cpu"))
        self.trainer.run()

    def stages(self):
        return yaml.safe_load((self.output / "models/result.yaml").read_text(encoding="utf-8"))["model_stages"]


@pytest.fixture
def task(prepare, monkeypatch):
    params = {"max_seconds": 0, "epochs": 4, "input_size": 32, "evaluations": 2, "cpu_processes": 1}
    return Task(prepare("training", params=params), monkeypatch)


def test_nothing_is_lost_by_a_stop_in_a_later_evaluation(task, monkeypatch):
    with pytest.raises(errors.Stopped, match="stopped in the last evaluation"):
        task.start(epoch_4=33)
    assert task.judged == [("epoch_2", 40), ("epoch_4", 33)]
    assert set(task.stages()) == {"epoch_2"}
    monkeypatch.setattr(train.Trainer, "_train_step", None)    # nothing is trained again
    task.start()
    assert task.judged == [("epoch_4", 40)]
    assert set(task.stages()) == {"epoch_2", "epoch_4"}
    assert not list(task.output.glob(".ymir-training*"))


def test_a_first_stage_is_judged_by_few_images_and_then_by_all(task):
    with pytest.raises(errors.Stopped, match="stopped in epoch 3"):
        task.start(epoch_2=33)
    assert task.judged == [("epoch_2", 33)]
    assert set(task.stages()) == {"epoch_2"}
    task.start()
    assert task.judged == [("epoch_3", 40), ("epoch_4", 40)]    # the first of them is the stage epoch_2 again
    assert task.trainer.stages == {"epoch_2": True, "epoch_4": True}
    assert set(task.stages()) == {"epoch_2", "epoch_4"}


def test_a_stage_of_a_stop_is_not_replaced_by_a_later_one(task, monkeypatch):
    steps, original = [], train.Trainer._train_step

    def step(self, batch):
        steps.append(1)
        task.asked = len(steps) == 10    # in the second epoch
        return original(self, batch)

    monkeypatch.setattr(train.Trainer, "_train_step", step)
    with pytest.raises(errors.Stopped, match="stopped in epoch 2"):
        task.start()
    model = task.output / "models/epoch_2" / checkpoint.FILE_NAME
    first = checkpoint.load(str(model)).model.state_dict()
    task.start()
    assert len(steps) == 28
    assert set(task.stages()) == {"epoch_2", "epoch_3", "epoch_5"}    # at the stop, past the half, at the end
    assert all(torch.equal(weight, first[name]) for name, weight in checkpoint.load(str(model)).model.state_dict().items())


def test_images_that_cannot_be_read_at_all_end_the_training(task, monkeypatch):
    monkeypatch.setattr(train, "collate", lambda samples: None)
    with pytest.raises(errors.ImageError, match="no image of an epoch can be read"):
        task.start()


def test_a_last_evaluation_that_came_to_its_end_is_no_failure(task):
    task.start(epoch_4=40)
    assert set(task.stages()) == {"epoch_2", "epoch_4"}


def test_a_training_is_kept_from_time_to_time(task, monkeypatch):
    kept = []
    monkeypatch.setattr(train.KeptTraining, "is_due", lambda self: True)
    monkeypatch.setattr(train.KeptTraining, "save", lambda self, **state: kept.append(state["epoch"]))
    task.start()
    assert kept.count(1) == 7    # of 120 images by 16
