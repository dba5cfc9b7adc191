"""Mining and inference over a few images, with a model that has learned nothing."""
from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

import checkpoint
from examine import examine
from model import Detector
from tests.contract import platform_rules
from ymir_exc import errors, images, mining, util

torch.set_num_threads(1)


@pytest.fixture
def task(platform):
    """Eight candidates, one of them broken, and a model."""
    torch.manual_seed(0)
    model = Detector(2)
    torch.nn.init.constant_(model.class_last.bias, -1.0)
    path = platform.input / "models" / "model.pt"
    checkpoint.save(path, checkpoint.Checkpoint(model, ["cat", "dog"], 96, [30, 3]))
    platform.images = []
    for number in range(8):
        image = Image.effect_noise((100 + 10 * number, 80), 20 * number + 1).convert("RGB")
        platform.images.append(str(platform.input / "assets" / f"图 {number}.jpg"))
        image.save(platform.images[-1])
    platform.config["model_params_path"] = [str(path)]
    platform.index("candidate", *platform.images)
    return platform


def ranking(task):
    return platform_rules.accept_mining(task.out, task.images)


@pytest.mark.parametrize("algorithm", mining.scorers())
def test_every_algorithm_ranks_every_image(task, algorithm):
    task.config["mining_algorithm"] = algorithm
    task.run("mining")
    examine(util.get_merged_config())
    made = ranking(task)
    assert len(made) == 8
    assert len({score for _, score in made}) > 4
    assert not (task.out / "infer-result.json").exists()


def test_rare_classes_weigh_more(task):
    orders = []
    for counts in ([30, 3], [3, 30]):
        model = checkpoint.load(task.config["model_params_path"][0])
        checkpoint.save(task.input / "models" / "model.pt", model._replace(class_counts=counts))
        task.config["mining_algorithm"] = "class_balanced"
        task.run("mining")
        examine(util.get_merged_config())
        orders.append(ranking(task))
    assert orders[0] != orders[1]


def test_both_in_one_pass(task, monkeypatch):
    seen = []
    monkeypatch.setattr(images, "load_square", lambda path, size, load=images.load_square: (seen.append(path), load(path, size))[1])
    task.run("mining", "infer")
    examine(util.get_merged_config())
    assert sorted(seen) == sorted(task.images)
    assert len(ranking(task)) == 8
    made = platform_rules.accept_detection(task.out, task.images, ["cat", "dog"])
    assert sum(map(len, made.values())) > 8
    task.run("infer")
    alone = (task.out / "infer-result.json").read_bytes()
    examine(util.get_merged_config())
    assert (task.out / "infer-result.json").read_bytes() == alone


def test_a_broken_candidate_is_left_out(task, caplog):
    with open(task.images[3], "wb") as f:
        f.write(b"no image")
    task.run("mining", "infer")
    examine(util.get_merged_config())
    made = json.loads((task.out / "infer-result.json").read_text())["detection"]
    assert "图 3.jpg" not in made or made["图 3.jpg"]["boxes"] == []
    assert len((task.out / "result.tsv").read_text(encoding="utf-8").splitlines()) == 7
    assert caplog.text.count("left out") == 1
    for path in task.images[5:]:
        with open(path, "wb") as f:
            f.write(b"no image")
    with pytest.raises(errors.ImageError, match="2 of 8 images cannot be used"):
        examine(util.get_merged_config())


def test_a_model_of_other_classes_is_refused(task):
    task.config["class_names"] = ["cat", "pig"]
    task.run("infer")
    with pytest.raises(errors.ConfigError, match="was trained for"):
        examine(util.get_merged_config())
