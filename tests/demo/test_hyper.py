"""Hyper-parameters as the web form sends them, and as the templates show them."""
from __future__ import annotations

import pytest
import yaml

import hyper
from tests.demo.conftest import DEMO
from ymir_exc import errors, util


def read(platform, kind=hyper.TrainingHyper, **config):
    platform.config.update(config)
    platform.write()
    return util.get_parameters(util.get_merged_config(), kind)


@pytest.mark.parametrize("task", ["training", "mining", "infer"])
def test_the_templates_show_the_defaults(task):
    template = yaml.safe_load((DEMO / "img-man" / f"{task}-template.yaml").read_text(encoding="utf-8"))
    kind = {"training": hyper.TrainingHyper, "mining": hyper.MiningHyper, "infer": hyper.PredictHyper}[task]
    assert {key: value for key, value in template.items() if key not in ("shm_size", "export_format")} == kind().model_dump()
    assert not set(template) & {"expected_map", "idle_seconds"}


def test_text_becomes_numbers(platform):
    made = read(platform, epochs="7", learning_rate="1e-3", max_seconds="0", batch_size=4.0, seed="")
    assert (made.epochs, made.learning_rate, made.max_seconds, made.batch_size, made.seed) == (7, 0.001, 0.0, 4, 0)
    assert type(made.batch_size) is int
    assert type(made.max_seconds) is float


def test_absent_keys_and_strange_keys(platform):
    assert read(platform, prompt="cats", openpai_enable=False) == hyper.TrainingHyper()


@pytest.mark.parametrize(("key", "value"), [
    ("epochs", "many"), ("epochs", 1.5), ("epochs", 0), ("batch_size", "-1"), ("learning_rate", "nan"), ("max_seconds", [1]),
    ("max_seconds", -1), ("cache_mb", {}),
])
def test_a_wrong_value_is_named(platform, key, value):
    with pytest.raises(errors.ConfigError, match=rf"config\.yaml: {key} is "):
        read(platform, **{key: value})


@pytest.mark.parametrize(("key", "value"), [("conf_threshold", 1.1), ("iou_threshold", "x"), ("max_detections", 0)])
def test_a_wrong_threshold_is_named(platform, key, value):
    with pytest.raises(errors.ConfigError, match=key):
        read(platform, hyper.PredictHyper, **{key: value})


def test_the_input_size_must_suit_the_network(platform):
    with pytest.raises(errors.ConfigError, match="multiple of 32"):
        read(platform, input_size=100)


def test_an_unknown_mining_algorithm_is_answered_with_the_known_ones(platform):
    with pytest.raises(errors.ConfigError, match="mining_algorithm is 'entropie': input should be 'entropy', 'margin'"):
        read(platform, hyper.MiningHyper, mining_algorithm="entropie")
