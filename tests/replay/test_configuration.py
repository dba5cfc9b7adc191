"""env.yaml, config.yaml, weights, templates, and the names that images import (B.1, B.7.2, B.7.3, B.9, C)."""
from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import pytest
import yaml
from easydict import EasyDict as edict

from tests.replay import Tensor, on_platform
from ymir_exc import dataset_reader, env, errors, result_writer, settings, util
from ymir_exc.env import DatasetType
from ymir_exc.errors import ConfigError, DatasetError, NoWeightsGivenError, UnknownDatasetError, WeightsError, YmirError

# -------------------------------------------------------------------------------------------------------------------------- env.yaml


@pytest.mark.parametrize(("text", "name", "value"), [
    pytest.param("task_id: 123", "task_id", "123", id="B.1.4-int-to-text"),
    pytest.param("task_id: 1e3", "task_id", "1e3", id="B.1.4-text-like-a-number"),
    pytest.param("task_id: true", "task_id", "True", id="B.1.4-bool-to-text"),
    pytest.param("protocol_version: 1.1", "protocol_version", "1.1", id="B.1.4-unquoted-version"),
    pytest.param("protocol_version: 1", "protocol_version", "1", id="B.1.4-unquoted-whole-version"),
    pytest.param("run_training: yes", "run_training", True, id="B.1.4-yes"),
    pytest.param("run_training: 'on'", "run_training", True, id="B.1.4-on"),
    pytest.param("run_mining: 1", "run_mining", True, id="B.1.4-one"),
    pytest.param("run_mining: '0'", "run_mining", False, id="B.1.4-zero-in-text"),
    pytest.param("run_infer: 'F'", "run_infer", False, id="B.1.4-letter"),
    pytest.param("run_infer: true\nunknown: {a: 1}", "run_infer", True, id="B.1.4-unknown-keys-are-dropped"),
    pytest.param("{}", "task_id", "default-task", id="A.3-default-task"),
    pytest.param("{}", "protocol_version", "0.0.1", id="A.3-default-protocol-13"),
    pytest.param("{}", "manifest_file", "/img-man/manifest.yaml", id="A.3-default-manifest-D"),
])
def test_coercion(platform, text, name, value):
    platform.env_file.write_text(text)
    found = getattr(env.get_current_env(), name)
    assert (found, type(found)) == (value, type(value))
    if name == "protocol_version":
        assert result_writer.multiple_model_stages_supportable() is (value != "0.0.1")


@pytest.mark.parametrize("text", [
    pytest.param("task_id: null", id="B.1.4-None-for-text"), pytest.param("", id="B.1.4-empty"),
    pytest.param("input: null", id="B.1.4-no-input"),
    pytest.param("run_training: perhaps", id="B.1.4-no-bool"), pytest.param("output: {models_dir: [a]}", id="B.1.4-list-for-text"),
])
def test_no_coercion(platform, text):
    platform.env_file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        env.get_current_env()
    assert isinstance(caught.value, ValueError)


def test_the_setting_is_read_at_every_call(platform, tmp_path):
    """B.1.1: tests of images assign it per case; B.1.3: each object is its caller's own."""
    first = env.get_current_env()
    first.output.monitor_file = "/nowhere/monitor.txt"
    first.run_infer = "no"
    assert (first.run_infer, env.get_current_env().run_infer) == ("no", False)
    other = tmp_path / "env.yaml"
    other.write_text(yaml.safe_dump({**platform.env, "task_id": "other"}))
    settings.DEFAULT_ENV_FILE_PATH = str(other)    # the fixture of `platform` puts it back
    assert [util.get_merged_config().ymir.task_id, env.get_current_env().task_id] == ["other", "other"]
    result_writer.write_mining_result([("/a.jpg", 1)])
    assert (platform.out / "result.tsv").exists()


def test_the_setting_of_the_config_file_is_captured(platform, monkeypatch):
    """B.1.2: assigning it has no effect; the variable of the same name does, before the import."""
    monkeypatch.setattr(settings, "DEFAULT_CONFIG_FILE_PATH", "/assigned.yaml")
    assert env.EnvInputConfig().config_file == "/in/config.yaml"
    platform.env["input"].pop("config_file")
    platform.write()
    program = "from ymir_exc import util; print(util.get_merged_config().param.class_names)"
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file),
               "DEFAULT_CONFIG_FILE_PATH": str(platform.input / "config.yaml")}
    assert subprocess.run([sys.executable, "-c", program], env=environ, stdout=subprocess.PIPE, check=True).stdout == b"['cat', 'dog']\n"


def test_the_manners_of_the_models(platform):
    """B.1.5, B.1.6."""
    current = env.get_current_env()
    assert getattr(current.input, "candidate_index_file") == dict(current.input).get("candidate_index_file")    # noqa: B009
    assert current.dict() == platform.env
    assert list(current.output.dict())[-1] == "executor_log_file"
    for twin in (copy.copy(current), copy.deepcopy(current), current.copy(), current.copy(deep=True), pickle.loads(pickle.dumps(current)),
                 env.EnvConfig(**platform.env), env.EnvConfig.parse_obj(platform.env)):
        assert twin == current
        assert type(twin.input) is env.EnvInputConfig
    deep = copy.deepcopy(current)
    deep.input.root_dir = "/other"
    assert deep != current
    assert current.copy(update={"task_id": "t9"}).task_id == "t9"
    assert repr(current).startswith("EnvConfig(task_id='t0', protocol_version='1.1.0', run_training=True, run_mining=False, ")
    assert f"input=EnvInputConfig(root_dir='{platform.input}', assets_dir=" in repr(current)
    with pytest.raises(ValueError, match="typo"):
        current.typo = 1
    with pytest.raises(AttributeError):
        _ = current.typo


def test_the_merged_configuration(platform):
    """B.1.6, B.1.7."""
    platform.config.update({"nested": {"a": {"b": 1}}, "pairs": [{"a": 1}], "lr": "0.01", "epochs": 3})
    cfg = (platform.write(), util.get_merged_config())[1]
    for twin in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        assert twin == cfg
    assert isinstance(cfg, edict) and isinstance(cfg.param, edict) and type(cfg.ymir) is env.EnvConfig
    assert ["background"] + cfg.param.class_names == ["background", "cat", "dog"]    # noqa: RUF005 - as images write it
    assert yaml.safe_dump(cfg.param.class_names) == "- cat\n- dog\n"
    assert (cfg.param.nested.a.b, cfg.param.get("absent", 7), "lr" in cfg.param, cfg.param["epochs"]) == (1, 7, True, 3)
    assert cfg.param.lr == "0.01"    # text stays text: images convert it themselves
    cfg.param.model = "yolov5s"
    assert cfg.param.get("model") == "yolov5s"
    assert f"merged config: {cfg}".startswith("merged config: {'param': {'class_names': ['cat', 'dog'],")
    assert "EnvConfig(task_id='t0'" in f"{cfg}"
    with pytest.raises(AttributeError):
        _ = cfg.param.absent


@pytest.mark.parametrize("text", ["1: a", "a: {true: b}", "a: [{1.5: b}]"])
def test_keys_that_cannot_be_attributes(platform, text):
    """B.1.7-corrected: EasyDict raised a TypeError that named neither file nor key."""
    (platform.input / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml: the key .* is not text"):
        util.get_merged_config()


# ------------------------------------------------------------------------------------------------------------------------ templates

def template(platform, name, **values):
    path = platform.root / "img-man" / f"{name}-template.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))


def test_dropped_keys_come_back_with_the_template_s_type(platform):
    """Contract 1.4: mining and inference lose all that is 0, false or empty."""
    platform.run("mining", "infer")
    template(platform, "mining", workers=0, shuffle=False, scale=0.0, prefix="", names=[], top={"k": 0}, model_params_path=["/example.pt"])
    template(platform, "infer", conf=0.0, workers=4)
    param = util.get_merged_config().param
    found = {key: param[key] for key in ("workers", "shuffle", "scale", "prefix", "names", "top", "conf")}
    assert found == {"workers": 0, "shuffle": False, "scale": 0.0, "prefix": "", "names": [], "top": {"k": 0}, "conf": 0.0}
    assert {key: type(value) for key, value in found.items()} == {
        "workers": int, "shuffle": bool, "scale": float, "prefix": str, "names": list, "top": edict, "conf": float}
    assert util.get_bool(util.get_merged_config(), "shuffle") is False
    assert "model_params_path" not in param, "the template's is an example"


@pytest.mark.parametrize(("object_type", "there", "expected"), [
    pytest.param(2, ["det", "instance-seg"], "det", id="1.3-detection"),
    pytest.param(3, ["det", "semantic-seg"], "semantic-seg", id="1.3-semantic"),
    pytest.param(4, ["det", "instance-seg"], "instance-seg", id="1.3-instance"),
    pytest.param(50, ["det", "multi-modal"], "multi-modal", id="1.3-multi-modal"),
    pytest.param("4", ["det", "instance-seg"], "instance-seg", id="1.3-everything-is-text"),
    pytest.param(4, ["", "instance-seg"], "instance-seg", id="1.3-a-folder-of-its-own-first"),
    pytest.param(4, ["", "det"], "", id="1.3-none-for-this-kind"),
    pytest.param(None, ["", "det"], "", id="1.3-platforms-before-2.4"),
    pytest.param(None, ["det"], "det", id="1.3-folders-alone-before-2.4"),
    pytest.param(4, ["det"], None, id="1.3-of-another-kind"),
])
def test_templates_in_folders(platform, object_type, there, expected):
    for place in there:
        template(platform, os.path.join(place, "training"), found=place)
    if object_type is not None:
        platform.config["object_type"] = object_type
    assert (platform.write(), util.get_merged_config().param.get("found"))[1] == expected


# -------------------------------------------------------------------------------------------------------------------------- weights

def weights(platform, *names):
    for name in names:
        path = platform.input / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"w")
    return [str(platform.input / "models" / name) for name in names]


@pytest.mark.parametrize(("given", "suffix", "expected"), [
    pytest.param(["a.pt", "s/b.pth", "c.onnx"], {}, ["a.pt", "s/b.pth"], id="B.7.2-default"),
    pytest.param(["s/b.pth", "a.pt", "s/b.pth"], {}, ["s/b.pth", "a.pt", "s/b.pth"], id="B.7.2-order-and-doubles"),
    pytest.param(["a.pt", "s/b.pth"], {"suffix": (".pt")}, ["a.pt"], id="B.7.2-suffix-is-text"),
    pytest.param(["a.pt", "c.onnx"], {"suffix": (".onnx", ".pth")}, ["c.onnx"], id="B.7.2-suffixes"),
    pytest.param(["a.pt", "c.onnx"], {"suffix": [".onnx"]}, ["c.onnx"], id="B.7.2-list-corrected"),
    pytest.param(["a.pt", "gone.pt"], {}, ["a.pt"], id="B.7.2-missing-is-left-out"),
    pytest.param(None, {}, [], id="B.7.2-None-corrected"),
    pytest.param([], {}, [], id="B.7.2-empty"),
    pytest.param("a.pt", {}, ["a.pt"], id="B.7.2-one-in-text-corrected"),
])
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("task", ["training", "infer"])
def test_weights(platform, task, absolute, given, suffix, expected):
    folder = str(platform.input / "models")
    weights(platform, "a.pt", "s/b.pth", "c.onnx")
    if absolute and given:
        given = f"{folder}/{given}" if isinstance(given, str) else [f"{folder}/{name}" for name in given]
    platform.config["pretrained_model_params" if task == "training" else "model_params_path"] = given
    cfg = (platform.run(task), util.get_merged_config())[1]
    assert util.get_weight_files(cfg, **suffix) == [f"{folder}/{name}" for name in expected]


def test_no_weights(platform):
    """B.7.2: a training without a model is none of failure's; mining and inference are (contract 10.4.2)."""
    assert "pretrained_model_params" not in util.get_merged_config().param
    assert util.get_weight_files(util.get_merged_config()) == []
    cfg = (platform.run("mining"), util.get_merged_config())[1]
    with pytest.raises(NoWeightsGivenError, match=r"config\.yaml: model_params_path is missing") as caught:
        util.get_weight_files(cfg)
    assert isinstance(caught.value, (AttributeError, WeightsError))
    assert caught.value.return_code == 300004


@pytest.mark.parametrize(("value", "expected"), [
    ("true", True), ("T", True), ("1", True), (1, True), (True, True),
    ("False", False), ("f", False), ("0", False), (0, False), (False, False),
    pytest.param("yes", True, id="10.1-yes-corrected"), pytest.param(0.0, False, id="10.1-float-corrected"),
    pytest.param(Tensor(1), True, id="10.1-scalar-corrected"),
])
def test_get_bool(platform, value, expected):
    """B.7.3: hyper-parameters come as text from a web form."""
    cfg = util.get_merged_config()
    cfg.param.flag = value
    assert util.get_bool(cfg, key="flag", default_value=not expected) is expected
    cfg.param.flag = "neither"
    with pytest.raises(ConfigError):
        util.get_bool(cfg, "flag")


# ------------------------------------------------------------------------------------------------------------- exceptions and names

def test_exception_types_of_readers(platform):
    """B.9: the SDK's own test looks for ValueError."""
    platform.env["input"]["candidate_index_file"] = ""
    platform.write()
    for call, kinds in ((lambda: next(dataset_reader.item_paths(DatasetType.CANDIDATE)), (DatasetError, ValueError)),
                        (lambda: next(dataset_reader.item_paths(DatasetType.UNKNOWN)), (UnknownDatasetError, KeyError, DatasetError)),
                        (lambda: dataset_reader.items_count(DatasetType.UNKNOWN), (KeyError, YmirError)),
                        (lambda: dataset_reader.images_count(util.get_merged_config(), "holdout"), (DatasetError,))):
        with pytest.raises(kinds[0]) as caught:
            call()
        assert all(isinstance(caught.value, kind) for kind in kinds)
    assert str(caught.value).startswith("unknown split 'holdout'")


def test_names_reached_through_other_modules():
    """A.9, C."""
    import glob
    import json
    assert (util.YmirTask.INFER, util.env, util.rw, util.edict, util.osp) == (3, env, result_writer, edict, os.path)
    assert (util.glob, util.yaml, util.json) == (glob, yaml, json)
    assert dataset_reader.DatasetType is env.DatasetType
    assert dataset_reader.DatasetType(2) == 2
    with pytest.raises(AttributeError):
        _ = util.imagesize    # of 1.3; no image uses it, and it is not a dependency


DEPRECATED = """
import warnings
from ymir_exc import result_writer as rw, util
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for n in range(3):
        util.get_ymir_process("task", 0.5)
        rw.write_model_stage("s", ["a.pt"], mAP=0.5)
        rw.write_training_result(model_names=["a.pt"], mAP=0.5, classAPs={})
        util.write_ymir_training_result(util.get_merged_config(), 0.5, ["a.pt"], "s")
for warning in said:
    print(warning.category.__name__, warning.filename, warning.lineno, str(warning.message).split(" is deprecated: ")[0])
"""


def test_a_deprecated_call_warns_once_a_process(platform):
    """At the line that made it, whatever the filters are."""
    platform.model("a.pt")
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file)}
    done = subprocess.run([sys.executable, "-c", DEPRECATED], env=environ, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines() == [
        "DeprecationWarning <string> 7 get_ymir_process",
        "DeprecationWarning <string> 8 mAP=",
        "DeprecationWarning <string> 9 write_training_result(model_names, mAP, classAPs)",
    ]


def test_once_is_of_this_test_alone():
    """The fixture of all tests forgets what was said."""
    assert errors._deprecated == set()
    with pytest.warns(DeprecationWarning, match="this is deprecated: that"):
        errors.deprecated("this", "that", stacklevel=2)
    errors.deprecated("this", "that")


def test_an_old_platform_s_env_file_is_enough(platform, monkeypatch):
    """P: no protocol version, no manifest, no log file."""
    on_platform(platform, monkeypatch, "old")
    cfg = util.get_merged_config()
    assert (cfg.ymir.protocol_version, cfg.ymir.manifest_file) == ("0.0.1", "/img-man/manifest.yaml")
    assert cfg.ymir.output.executor_log_file == "/out/ymir-executor-out.log"
    assert env.get_manifest_object_type() == 2
