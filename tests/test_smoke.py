"""Whether a task is pretended, and what that leaves of the program's own hyper-parameters."""
from __future__ import annotations

import logging

import pytest

from ymir_exc import smoke, util
from ymir_exc.errors import ArgumentError, ConfigError


def chosen(platform, task="training"):
    """Whether the real task ran, or the pretended one."""
    ran = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smoke, "train", lambda cfg: ran.append("pretended"))
        patch.setattr(smoke, "infer", lambda cfg: ran.append("pretended"))
        smoke.instead_of({task: lambda cfg: ran.append("real")})[task](util.get_merged_config())
    return ran


@pytest.mark.parametrize("param", [{"seed": "auto"}, {"seed": 1.5}, {"idle_seconds": -1}, {"idle_seconds": [3]}])
def test_a_real_program_may_have_such_keys_of_its_own(platform, param):
    platform.config.update(param)
    platform.write()
    assert chosen(platform) == ["real"]
    platform.config["expected_map"] = "0.6"
    platform.write().index("train", "/in/assets/a.jpg\t/in/annotations/a.txt")
    with pytest.raises(ConfigError, match=next(iter(param))):
        smoke.train(util.get_merged_config())


def test_a_real_program_is_warned_of_no_key_of_the_other(platform, caplog):
    platform.config.update(speed=1)
    platform.write()
    with caplog.at_level(logging.WARNING):
        assert chosen(platform) == ["real"]
    assert caplog.text == ""


def test_a_misspelt_expected_map_is_told(platform, caplog):
    platform.config.update(expectd_map=0.5)
    platform.write()
    assert chosen(platform) == ["real"]
    assert "nothing reads expectd_map: is expected_map meant?" in caplog.text


@pytest.mark.parametrize(("value", "ran"), [(0.5, "pretended"), ("0", "pretended"), (-1, "real"), ("", "real"), (None, "real")])
def test_expected_map_chooses(platform, value, ran):
    platform.config["expected_map"] = value
    platform.write()
    assert chosen(platform) == [ran]


def test_an_expected_map_that_is_none(platform):
    platform.config["expected_map"] = 1.5
    platform.write()
    with pytest.raises(ConfigError, match="expected_map"):
        chosen(platform)


@pytest.mark.parametrize(("given", "ran"), [
    (["/in/models/smoke/smoke.txt"], "pretended"), ("/in/models/smoke.txt", "pretended"), (("/in/models/a.pt",), "real"),
    (["/in/models/best.pt", None], "real"), (5, "real"), (None, "real"), ({"best": "/in/models/best.pt"}, "real"),
])
def test_a_model_chooses(platform, given, ran):
    platform.run("infer")
    platform.config["model_params_path"] = list(given) if isinstance(given, tuple) else given
    platform.write()
    assert chosen(platform, "infer") == [ran]


def test_a_task_that_nobody_knows():
    with pytest.raises(ArgumentError, match=r"unknown task 'train': must be training, mining, infer or mining\+infer"):
        smoke.instead_of({"train": print})
