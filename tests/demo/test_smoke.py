"""The mode that pretends: the whole contract, without torch, numpy or Pillow."""
from __future__ import annotations

import os

import pytest
import yaml

from tests.contract import platform_rules
from tests.demo.conftest import START, log, python, run

BLOCKED = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy", "PIL", "pycocotools", "tensorboard"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
sys.path.insert(0, {str(START.parent)!r})
import runpy
runpy.run_path({str(START)!r}, run_name="__main__")
"""


def run_blocked(space):
    done = python(BLOCKED, env={**os.environ, "DEFAULT_ENV_FILE_PATH": str(space.env_file)})
    assert done.returncode == 0, done.stdout + done.stderr
    return space


def candidates(space):
    return (space.input / "candidate-index.tsv").read_text(encoding="utf-8").splitlines()


def test_all_three_tasks_without_torch_numpy_and_pillow(prepare):
    training = run_blocked(prepare("training", root="training", params={"expected_map": "0.6", "idle_seconds": "0.3"}))
    result = platform_rules.accept_training(training.output)
    assert (result.best_stage_name, result.best.metrics["mAP"], result.notices) == ("smoke", 0.6, [])

    both = run_blocked(prepare("mining", "infer", root="both", model=training.output))    # told by the model alone
    scores = platform_rules.accept_mining(both.output, candidates(both))
    detections = platform_rules.accept_detection(both.output, candidates(both), ["gear", "fish", "mug"])
    assert all(len(boxes) == 1 for boxes in detections.values())

    again = run_blocked(prepare("mining", "infer", root="again", params={"expected_map": 0.1}, model=training.output))
    again_scores = platform_rules.accept_mining(again.output, candidates(again))
    assert [score for _, score in again_scores] == [score for _, score in scores]
    assert platform_rules.accept_detection(again.output, candidates(again), ["gear", "fish", "mug"]) == detections


def test_a_stop_while_it_idles(prepare):
    class Stop(Exception):
        pass

    def watch(record, seconds):
        assert seconds < 60
        if record is not None and record.state == 2:
            raise Stop

    space = prepare("training", params={"expected_map": 0.5, "idle_seconds": 300})
    with pytest.raises(Stop):
        run(space, on_progress=watch)
    assert "stopped by SIGTERM" in (space.output / "monitor.txt").read_text(encoding="utf-8").splitlines()[0], log(space)
    platform_rules.accept_monitor(space.output, final="error")


def test_class_names_are_required_here_too(prepare):
    space = prepare("training", params={"expected_map": 0.5})
    config = yaml.safe_load((space.input / "config.yaml").read_text(encoding="utf-8"))
    del config["class_names"]
    (space.input / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert run(space).status == 4
    assert "\t300001\t" in (space.output / "monitor.txt").read_text(encoding="utf-8")
