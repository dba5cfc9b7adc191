"""The merged configuration, weights, GPUs, progress stages, and results with their files."""
from __future__ import annotations

import os
import subprocess
import sys
from typing import List, Optional

import pytest
import yaml
from easydict import EasyDict as edict
from pydantic import BaseModel, Field

from ymir_exc import _files, dataset_reader, env, monitor, util
from ymir_exc.errors import ArgumentError, ConfigError, ResultError, StorageError, WeightsError


def template(platform, name, content):
    path = platform.root / "img-man" / f"{name}-template.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))


def test_the_merged_configuration(platform):
    cfg = util.get_merged_config()
    assert isinstance(cfg, edict)
    assert isinstance(cfg.param, edict)
    assert dict(cfg.param) == platform.config
    assert type(cfg.ymir).__name__ == "EnvConfig"
    assert type(cfg.param.class_names) is list
    cfg.param.model = "added"
    cfg.param.class_names.append("bird")
    assert util.get_merged_config().param.get("model") is None
    assert util.get_merged_config().param.class_names == ["cat", "dog"]
    with pytest.raises(AttributeError):
        _ = cfg.param.nothing


def test_what_the_platform_dropped_comes_back_from_the_template(platform):
    template(platform, "training", {
        "lr": 0.1, "epochs": 3, "flag": False, "gpu_id": "0", "pretrained_model_params": ["/x"], "export_format": "voc:raw"})
    platform.config["epochs"] = "7"
    platform.write()
    param = util.get_merged_config().param
    assert (param.lr, param.flag, param.epochs, param.gpu_id, param.export_format) == (0.1, False, "7", "", "ark:raw")
    assert "pretrained_model_params" not in param


def test_mining_and_inference_take_both_templates(platform):
    template(platform, "mining", {"score": "entropy", "shared": "mining"})
    template(platform, "infer", {"conf": 0.1, "shared": "infer"})
    template(platform, "training", {"lr": 1})
    param = util.get_merged_config().param
    assert param.lr == 1
    param = (platform.run("mining", "infer"), util.get_merged_config().param)[1]
    assert (param.score, param.conf, param.shared) == ("entropy", 0.1, "mining")
    assert "lr" not in param


def test_templates_of_an_image_for_several_kinds(platform):
    folder = platform.root / "img-man" / "instance-seg"
    folder.mkdir(parents=True)
    (folder / "training-template.yaml").write_text("lr: 0.4")
    platform.config["object_type"] = 4
    platform.write()
    assert util.get_merged_config().param.lr == 0.4


def test_a_broken_template_is_said_and_passed_over(platform, caplog):
    template(platform, "training", "{unclosed")
    assert dict(util.get_merged_config().param) == platform.config
    assert "training-template.yaml" in caplog.text


def test_a_merged_configuration_is_fresh_and_follows_each_of_its_files(platform, monkeypatch):
    monkeypatch.setattr(env, "_SETTLED_NS", -1)    # each file below changes its size
    template(platform, "training", {"lr": 0.1, "nested": {"a": [{"b": 1}]}})
    first, second = util.get_merged_config(), util.get_merged_config()
    assert first == second
    assert type(first.param.nested.a[0]) is edict
    assert first.param.nested.a is first.param["nested"]["a"]
    first.param.nested.a[0].b = 2
    first.param.class_names.append("bird")
    first.ymir.output.models_dir = "/changed"
    assert util.get_merged_config() == second
    assert second.ymir.output.models_dir == str(platform.out / "models")
    second.param.lr, second.param["momentum"] = 1, 2
    assert (second.param["lr"], second.param.lr, second.param.momentum, second.param.get("momentum")) == (1, 1, 2, 2)
    dict.update(second.param, weight_decay=3)    # as `|=` does
    assert second.param.weight_decay == 3
    template(platform, "training", {"lr": 0.25})
    assert util.get_merged_config().param.lr == 0.25
    platform.config["lr"] = 0.3
    assert (platform.write(), util.get_merged_config().param.lr)[1] == 0.3
    del platform.config["lr"]
    assert (platform.run("mining"), util.get_merged_config().param.get("lr"))[1] is None
    platform.run("training")
    (platform.root / "img-man" / "training-template.yaml").unlink()
    assert "lr" not in util.get_merged_config().param
    assert util.get_merged_config().ymir == env.get_current_env()


def test_live_code(platform, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.yaml").write_text("lr: 0.5\ngpu_id: '3'\nnested: {a: {b: 1}}")
    platform.config["code_config"] = "code.yaml"
    assert "lr" not in (platform.write(), util.get_merged_config().param)[1], "without git_url it is not live code"
    platform.config["git_url"] = "https://example.com/code.git"
    param = (platform.write(), util.get_merged_config().param)[1]
    assert (param.lr, param.gpu_id, param.nested.a.b) == (0.5, "", 1)
    for content in ("", None):
        if content is None:
            (tmp_path / "code.yaml").unlink()
        else:
            (tmp_path / "code.yaml").write_text(content)
        assert "lr" not in util.get_merged_config().param
    (tmp_path / "code.yaml").write_text("- a")
    with pytest.raises(ConfigError, match=r"code\.yaml"):
        util.get_merged_config()
    platform.config["code_config"] = ["code.yaml"]
    with pytest.raises(ConfigError, match=r"code_config: \['code\.yaml'\] is no file's name"):
        (platform.write(), util.get_merged_config())


@pytest.mark.parametrize(("value", "expected"), [
    (True, True), ("True", True), ("t", True), (1, True), ("1", True), ("yes", True), ("on", True), (1.0, True), (" TRUE ", True),
    (False, False), ("False", False), ("F", False), (0, False), ("0", False), ("no", False), ("off", False), (0.0, False),
])
def test_get_bool(platform, value, expected):
    cfg = util.get_merged_config()
    cfg.param.flag = value
    assert util.get_bool(cfg, "flag", not expected) is expected


@pytest.mark.parametrize("value", ["maybe", 2, None, [], ""])
def test_get_bool_of_neither(platform, value):
    cfg = util.get_merged_config()
    cfg.param.flag = value
    with pytest.raises(ConfigError, match="flag"):
        util.get_bool(cfg, "flag")
    assert util.get_bool(cfg, "absent", True) is True
    assert util.get_bool(cfg, key="absent", default_value=False) is False


@pytest.mark.parametrize(("value", "expected"), [
    ("", []), (None, []), ([], []), (0, [0]), ("0", [0]), ("0,1", [0, 1]), ("0, 1", [0, 1]), ([0, 1], [0, 1]), (["0", "1"], [0, 1]),
    ("1,", [1]), ("GPU-4a,MIG-1", ["GPU-4a", "MIG-1"]), (" 3 ", [3]),
])
def test_gpu_ids(platform, value, expected):
    cfg = util.get_merged_config()
    cfg.param.gpu_id = value
    assert util.get_gpu_ids(cfg) == expected
    del cfg.param["gpu_id"]
    assert util.get_gpu_ids(cfg) == []


@pytest.mark.parametrize("value", ["cuda:0", "-1", "0;1", 1.5, "0,0", "²"])
def test_what_is_no_gpu_id(platform, value):
    cfg = util.get_merged_config()
    cfg.param.gpu_id = value
    with pytest.raises(ConfigError, match="gpu_id"):
        util.get_gpu_ids(cfg)


def make_weights(platform, *names):
    for n, name in enumerate(names):
        path = platform.input / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"w")
        os.utime(path, (n, n))
    return [str(platform.input / "models" / name) for name in names]


def test_weight_files(platform, caplog):
    assert util.get_weight_files(util.get_merged_config()) == []
    absolute, nested, other = make_weights(platform, "a.pt", "stage 一/b.pth", "c.yaml")
    platform.config["pretrained_model_params"] = [absolute, "stage 一/b.pth", other, "gone.pt", "/in/models/old/a.pt", absolute]
    cfg = (platform.write(), util.get_merged_config())[1]
    assert util.get_weight_files(cfg) == [absolute, nested, absolute, absolute]
    assert "gone.pt does not exist" in caplog.text
    assert util.get_weight_files(cfg, suffix=(".yaml")) == [other]
    assert util.get_weight_files(cfg, suffix=(".yaml", ".pth")) == [nested, other]
    cfg = (platform.run("infer"), util.get_merged_config())[1]
    with pytest.raises(AttributeError):
        util.get_weight_files(cfg)
    cfg.param.model_params_path = [absolute]
    assert util.get_weight_files(cfg) == [absolute]


def test_pick_weight_file(platform):
    cfg = util.get_merged_config()
    assert util.pick_weight_file(cfg) is None
    paths = make_weights(platform, "epoch_1.pt", "last.pt", "model_best.pt", "epoch_9.pt")
    cfg = (platform.run("mining"), util.get_merged_config())[1]
    for given in (None, [], [str(platform.input / "config.yaml")]):
        cfg.param.model_params_path = given
        with pytest.raises(WeightsError, match="model_params_path"):
            util.pick_weight_file(cfg)
    cfg.param.model_params_path = paths
    assert util.pick_weight_file(cfg) == paths[2]
    assert util.pick_weight_file(cfg, prefer=["last"]) == paths[1]
    assert util.pick_weight_file(cfg, prefer=["swa", "epoch_1"]) == paths[0]
    assert util.pick_weight_file(cfg, prefer=[]) == paths[3]


@pytest.mark.parametrize("key", ["get", "items", "keys", "values", "update", "pop", "setdefault", "copy"])
def test_a_hyper_parameter_may_have_the_name_of_a_method(platform, key):
    platform.config.update({key: 3, "gpu_id": "0,1", "class_names": ["cat"]})
    platform.write()

    class Wanted(BaseModel):
        epochs: int = 5

    cfg = util.get_merged_config()
    assert cfg.param[key] == 3
    assert util.get_parameters(cfg, Wanted) == Wanted()
    assert util.get_gpu_ids(cfg) == [0, 1]
    assert util.get_class_names(cfg) == ["cat"]
    assert util.get_bool(cfg, "no_such_key") is True
    assert util.get_weight_files(cfg) == []
    assert util.pick_weight_file(cfg) is None
    assert util.filter_saved_files(cfg, ["a.pt"]) == ["a.pt"]
    annotation = platform.input / "annotations" / "1.txt"
    annotation.write_text("0, 1, 2, 3, 4, -1.0, 0.0\n")
    platform.index("train", f"/a.jpg\t{annotation}")
    assert dataset_reader.bboxes_count(cfg, "train") == 1
    assert len(next(dataset_reader.items(env.DatasetType.TRAINING)).objects) == 1


def test_an_object_type_that_only_looks_like_a_number(platform):
    platform.config["object_type"] = "²"
    platform.write()
    assert util.get_merged_config().param.object_type == "²"


def test_a_stage_weight_of_the_environment_that_is_no_number(monkeypatch):
    monkeypatch.setenv("TASK_WEIGHT", "abc")
    with pytest.raises(ArgumentError, match="TASK_WEIGHT is 'abc'"):
        util.YmirStageWeight()


def test_stage_weights(monkeypatch):
    weights = util.YmirStageWeight()
    assert weights.weights == [0.00001, 0.99998, 0.00001]
    assert weights.get_stage_process("preprocess", 1.0) == 0.00001
    assert weights.get_stage_process(util.YmirStage.TASK, 0.5) == pytest.approx(0.5)
    assert 0.999 < weights.get_stage_process("postprocess", 1.0) <= 1
    assert util.YmirStageWeight([0.1, 0.8, 0.1]).get_stage_process(2, 0.5) == pytest.approx(0.5)
    monkeypatch.setenv("TASK_WEIGHT", "0.5")
    monkeypatch.setenv("PREPROCESS_WEIGHT", "0.5")
    monkeypatch.setenv("POSTPROCESS_WEIGHT", "0")
    assert util.YmirStageWeight([]).get_stage_process("task", 0.5) == 0.75
    for bad in ([0.5, 0.5], [0.5, 0.5, 0.5]):
        with pytest.raises(AssertionError):
            util.YmirStageWeight(bad)
    for stage in ("Task", "validate", 4):
        with pytest.raises(NotImplementedError):
            weights.get_stage_process(stage, 0.5)


def percent(platform):
    monitor._writer.flush()
    monitor._writer.reset()    # progress does not go back within one run
    return platform.monitor().split("\t")[2]


def test_stage_progress(platform):
    cfg = (platform.run("mining", "infer"), util.get_merged_config())[1]
    util.write_ymir_monitor_process(cfg, task="infer", naive_stage_percent=0.5, stage=util.YmirStage.TASK)
    assert percent(platform) == "0.75"
    util.write_ymir_monitor_process(cfg=cfg, task="infer", naive_stage_percent=1, stage="task", task_order="tim")
    assert percent(platform) == "0.50"
    util.write_ymir_monitor_process(cfg, "mining", 0.5, "preprocess", stage_weights=[0.5, 0.5, 0])
    assert percent(platform) == "0.12"
    with pytest.warns(RuntimeWarning, match="10"):
        util.write_ymir_monitor_process(cfg, "mining", 10, "task")
    assert percent(platform) == "0.50"
    with pytest.raises(AssertionError):
        util.write_ymir_monitor_process(cfg, "labelling", 0.1, "task")


def test_older_progress_formula():
    with pytest.warns(DeprecationWarning, match="write_ymir_monitor_process"):
        assert util.get_ymir_process(util.YmirStage.TASK, 0.5, task_idx=1, task_num=2) == pytest.approx(0.75)
    with pytest.raises(ArgumentError):    # and no second warning
        util.get_ymir_process("task", 1.5)


def test_saved_files(platform, caplog):
    cfg = util.get_merged_config()
    models = platform.out / "models"
    for name in ("a.pt", "b.yaml", "result.yaml", "result.yaml.unreadable", "result.yaml.unreadable.1", ".hidden", "sub dir/k.pt"):
        platform.model(name, name.encode())
    assert util.filter_saved_files(cfg, []) == ["a.pt", "b.yaml"]
    assert util.filter_saved_files(cfg, [str(models / "sub dir/k.pt"), "a.pt"]) == ["sub dir/k.pt", "a.pt"]
    cfg.param.ymir_saved_file_patterns = "*.yaml, *.x, .pt$ ,"
    assert util.filter_saved_files(cfg, []) == ["a.pt"]
    assert caplog.text.count("is no regular expression") == 2
    outside = platform.root / "out side.pth"
    outside.write_bytes(b"outside")
    (models / "link.pt").symlink_to("a.pt")
    names = util.format_saved_files(cfg, ["a.pt", "sub dir/k.pt", str(outside), "link.pt"])
    assert names == ["a.pt", "k.pt", "out side.pth", "link.pt"]
    assert [(models / name).read_bytes() for name in names] == [b"a.pt", b"sub dir/k.pt", b"outside", b"a.pt"]
    assert not (models / "link.pt").is_symlink()
    with pytest.raises(AssertionError, match=r"gone\.pt does not exist"):
        util.format_saved_files(cfg, ["gone.pt"])
    with pytest.raises(AssertionError, match="sub dir is a folder"):
        util.format_saved_files(cfg, ["sub dir"])
    platform.model("k.pt", b"of models_dir")
    assert "two model files" not in caplog.text
    assert util.format_saved_files(cfg, ["k.pt", "sub dir/k.pt"]) == ["k.pt", "k.pt"]
    assert (models / "k.pt").read_bytes() == b"sub dir/k.pt"
    assert "two model files are called k.pt" in caplog.text


def test_training_result(platform, caplog):
    cfg = util.get_merged_config()
    platform.model("sub/a.pt")
    platform.model("b.pt")
    util.write_ymir_training_result(cfg, files=["sub/a.pt"], id="best", evaluation_result={"mAP": 0.5, "mAR": 0.1})
    util.write_ymir_training_result(cfg, [str(platform.out / "models/b.pt")], "12", map50=0.0)
    util.write_ymir_training_result(cfg, 0.3, files=["b.pt"], id="old_a")
    util.write_ymir_training_result(cfg, 0.4, ["b.pt"], "old_b")
    util.write_ymir_training_result(cfg, map50=0.2, files=[], id="everything")
    stages = platform.result()["model_stages"]
    assert {name: (stage["mAP"], stage["files"]) for name, stage in stages.items()} == {
        "best": (0.5, ["a.pt"]), "stage_12": (0.0, ["b.pt"]), "old_a": (0.3, ["b.pt"]), "old_b": (0.4, ["b.pt"]),
        "everything": (0.2, ["b.pt"])}
    assert "stage_12" in caplog.text
    assert (platform.out / "models/best/a.pt").read_bytes() == b"weights"
    outside = platform.root / "elsewhere" / "b.pt"
    outside.parent.mkdir()
    outside.write_bytes(b"outside")
    util.write_ymir_training_result(cfg, [str(outside), "sub/a.pt", "b.pt"], "mixed-1", map50=0.6)
    assert platform.result()["model_stages"]["mixed_1"]["files"] == ["b.pt", "a.pt", "models/b.pt"]
    assert (platform.out / "models/mixed_1/b.pt").read_bytes() == b"outside"
    assert (platform.out / "models/mixed_1/models/b.pt").read_bytes() == b"weights"
    cfg.param.ymir_saved_file_patterns = "nothing"
    with pytest.raises(ResultError, match="ymir_saved_file_patterns"):
        util.write_ymir_training_result(cfg, files=["b.pt"], id="none", map50=0.5)


def test_files_of_one_name_are_all_kept(platform):
    paths = [platform.root / name / "x" / "w.pt" for name in "abc"]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(str(path).encode())
    util.write_ymir_training_result(util.get_merged_config(), files=[str(path) for path in paths], id="s", map50=0.5)
    names = platform.result()["model_stages"]["s"]["files"]
    assert names == ["w.pt", "x/w.pt", "c/x/w.pt"]
    assert [(platform.out / "models/s" / name).read_bytes() for name in names] == [str(path).encode() for path in paths]


def test_a_file_that_is_given_twice_is_listed_once(platform):
    platform.model("b.pt")
    absolute = str(platform.out / "models/b.pt")
    util.write_ymir_training_result(util.get_merged_config(), ["b.pt", absolute, "b.pt"], "s", map50=0.5)
    assert platform.result()["model_stages"]["s"]["files"] == ["b.pt"]
    assert (platform.out / "models/s/b.pt").exists()
    assert not (platform.out / "models/s/models").exists()


def test_a_folder_with_the_hyphen_is_of_the_stage(platform, caplog):
    cfg = util.get_merged_config()
    platform.model("epoch-3/w.pt", b"of epoch 3")
    platform.model("epoch-3/sub/v.pt", b"below")
    util.write_ymir_training_result(cfg, ["epoch-3/w.pt", "epoch-3/sub/v.pt"], "epoch-3", map50=0.5)
    models = platform.out / "models"
    assert platform.result()["model_stages"]["epoch_3"]["files"] == ["w.pt", "v.pt"]
    assert (models / "epoch_3/w.pt").read_bytes() == b"of epoch 3"
    assert (models / "epoch_3/v.pt").read_bytes() == b"below"
    assert [record.getMessage() for record in caplog.records] == [
        "model stage 'epoch-3' is named 'epoch_3': the platform takes identifiers only"]
    util.write_ymir_training_result(cfg, ["epoch-3/w.pt"], "epoch-3", map50=0.6)
    platform.model("epoch-3/w.pt", b"torn")    # a program that saves in place, and is killed
    assert (models / "epoch_3/w.pt").read_bytes() == b"of epoch 3"
    assert not list(models.rglob(".*"))


def test_the_file_that_is_named_is_the_one_that_is_taken(platform):
    cfg = util.get_merged_config()
    platform.model("epoch-3/w.pt", b"named")
    platform.model("epoch_3/w.pt", b"other")
    util.write_ymir_training_result(cfg, ["epoch-3/w.pt"], "epoch-3", map50=0.5)
    assert (platform.out / "models/epoch_3/w.pt").read_bytes() == b"named"
    outside = platform.root / "w.pt"
    outside.write_bytes(b"outside")
    (platform.out / "models/s").mkdir()
    (platform.out / "models/s/w.pt").symlink_to(outside)
    util.write_ymir_training_result(cfg, [str(outside)], "s", map50=0.5)
    assert not (platform.out / "models/s/w.pt").is_symlink()
    assert (platform.out / "models/s/w.pt").read_bytes() == b"outside"


def test_a_file_that_is_already_there_is_not_copied_onto_itself(platform):
    outside = platform.root / "w.pt"
    outside.write_bytes(b"outside")
    (platform.out / "models/s").mkdir()
    os.link(outside, platform.out / "models/s/w.pt")
    util.write_ymir_training_result(util.get_merged_config(), [str(outside)], "s", map50=0.5)
    assert (platform.out / "models/s/w.pt").samefile(outside)


def test_a_file_that_vanishes_before_it_is_brought_costs_the_call(platform, monkeypatch):
    outside = platform.root / "w.pt"
    outside.write_bytes(b"outside")
    lock = _files.lock

    def late(folder):
        outside.unlink()    # while another writer was waited for
        return lock(folder)

    monkeypatch.setattr(_files, "lock", late)
    with pytest.raises(FileNotFoundError, match=r"w\.pt"):
        util.write_ymir_training_result(util.get_merged_config(), [str(outside)], "s", map50=0.5)
    assert os.listdir(platform.out / "models") == []


def test_a_stage_of_a_folder_that_is_gone_has_no_files(platform):
    (platform.out / "models").rmdir()
    assert util.filter_saved_files(util.get_merged_config(), []) == []
    with pytest.raises(ResultError, match="no model file is left"):
        util.write_ymir_training_result(util.get_merged_config(), files=[], id="s", map50=0.5)


@pytest.mark.parametrize("files", ["b.pt", b"b.pt", {"b.pt": 1}, 7, [7]])
def test_what_is_no_list_of_files(platform, files):
    platform.model("b.pt")
    with pytest.raises(ResultError, match=r"files: .*file name"):
        util.write_ymir_training_result(util.get_merged_config(), files=files, id="s", map50=0.5)


def test_a_stage_needs_a_name(platform):
    platform.model("b.pt")
    with pytest.raises(ResultError, match="cannot name a model stage"):
        util.write_ymir_training_result(util.get_merged_config(), ["b.pt"], None, map50=0.5)


def test_a_file_of_a_new_stage_that_cannot_be_brought_leaves_nothing(platform, monkeypatch):
    """Of two files the first was copied already."""
    outside = platform.root / "elsewhere"
    outside.mkdir()
    for name in "ab":
        (outside / f"{name}.pt").write_bytes(b"w")
    platform.model("c.pt")
    util.write_ymir_training_result(util.get_merged_config(), ["c.pt"], "earlier", map50=0.5)
    before = (platform.out / "models/result.yaml").read_bytes()
    open_atomic = _files.open_atomic

    def fail(path, **kwargs):
        if str(path).endswith("b.pt"):
            raise _files.storage_error(path, OSError(28, ""))
        return open_atomic(path, **kwargs)

    monkeypatch.setattr(_files, "open_atomic", fail)
    with pytest.raises(StorageError, match=r"s/b\.pt: No space left"):
        util.write_ymir_training_result(util.get_merged_config(), [str(outside / "a.pt"), str(outside / "b.pt")], "s", map50=0.5)
    assert (platform.out / "models/result.yaml").read_bytes() == before
    assert sorted(str(path.relative_to(platform.out)) for path in platform.out.rglob("*") if path.is_file()) == [
        "models/c.pt", "models/earlier/c.pt", "models/result.yaml"]


def test_nothing_is_copied_through_a_stage_that_leads_out(platform):
    other, outside = platform.root / "other", platform.root / "elsewhere"
    for folder in (other, outside):
        folder.mkdir()
    (other / "w.pt").write_bytes(b"new")
    (platform.out / "models/s1").symlink_to(outside)
    with pytest.raises(ResultError, match="leads out"):
        util.write_ymir_training_result(util.get_merged_config(), files=[str(other / "w.pt")], id="s1", map50=0.3)
    assert os.listdir(outside) == []


def test_a_refused_metric_costs_no_weights(platform):
    cfg = util.get_merged_config()
    outside = platform.root / "elsewhere" / "w.pt"
    outside.parent.mkdir()
    outside.write_bytes(b"first")
    util.write_ymir_training_result(cfg, [str(outside)], "s", map50=0.6)
    outside.write_bytes(b"second")
    with pytest.raises(ResultError, match="mAP"):
        util.write_ymir_training_result(cfg, [str(outside)], "s", map50=77)
    with pytest.raises(ResultError, match="not Unicode"):
        util.write_ymir_training_result(cfg, [str(outside)], "s", evaluation_result={"mAP": 0.5, "note": "\udcff"})
    assert (platform.out / "models/s/w.pt").read_bytes() == b"first"


def test_a_refused_metric_costs_no_weights_on_old_platforms(platform):
    platform.env["protocol_version"] = ""
    platform.write()
    platform.model("best.pt", b"first")
    platform.model("sub/best.pt", b"second")
    with pytest.raises(ResultError, match="mAP"):
        util.write_ymir_training_result(util.get_merged_config(), ["sub/best.pt"], "s", map50=77)
    assert (platform.out / "models/best.pt").read_bytes() == b"first"


def test_other_ranks_write_no_result(platform, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    util.write_ymir_training_result(util.get_merged_config(), files=["gone.pt"], id="s", map50=0.5)
    assert os.listdir(platform.out / "models") == []


class Wanted(BaseModel):
    epochs: int = Field(100, ge=1)
    learning_rate: float = 0.01
    names: Optional[List[str]] = None


def parameters(platform, kind=Wanted, **config):
    platform.config.update(config)
    platform.write()
    return util.get_parameters(util.get_merged_config(), kind)


def test_parameters_become_what_they_are_declared_to_be(platform, caplog):
    made = parameters(platform, epochs="7", learning_rate="", names=["a"], prompt="cats", openpai_enable=False)
    assert made == Wanted(epochs=7, names=["a"])
    assert type(made.epochs) is int
    assert not caplog.records


def test_all_wrong_parameters_are_named(platform):
    with pytest.raises(ConfigError, match=r"config\.yaml: epochs is 0: .*greater than or equal to 1; learning_rate is 'fast': .*number"):
        parameters(platform, epochs=0, learning_rate="fast")


def test_a_missing_parameter_is_named(platform):
    class Strict(BaseModel):
        depth: int

    with pytest.raises(ConfigError, match=r"config\.yaml: depth is missing"):
        parameters(platform, Strict, depth=None)


def test_a_misspelt_parameter_is_warned_of_unless_a_template_shows_it(platform, caplog):
    template(platform, "training", {"learning_rate_end": 0.1})
    assert parameters(platform, learning_rat=0.5, learning_rate_end=0.2).learning_rate == 0.01
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == ["nothing reads learning_rat: is learning_rate meant?"]


def test_class_names(platform):
    assert util.get_class_names(util.get_merged_config()) == ["cat", "dog"]
    for value in (None, [], "cat", 3, ["a", "a"]):
        platform.config["class_names"] = value
        platform.write()
        with pytest.raises(ConfigError, match=r"config\.yaml: class_names"):
            util.get_class_names(util.get_merged_config())
    platform.config["class_name"] = platform.config.pop("class_names")
    platform.write()
    with pytest.raises(ConfigError, match="is class_name meant to be class_names"):
        util.get_class_names(util.get_merged_config())


def test_free_port():
    assert 1024 <= util.find_free_port() <= 65535


def test_what_writes_results_is_loaded_with_its_first_use():
    program = ("import sys; from ymir_exc import util; early = set(sys.modules); util.write_ymir_training_result; "
               "print([name for name in sys.modules if 'result_writer.' in name and name in early], 'ymir_exc.result_writer.training' in "
               "sys.modules, 'write_ymir_training_result' in dir(util), 'filter_saved_files' in dir(util))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"[] True True True\n"


def test_names_that_older_code_reaches_through_util():
    assert util.YmirTask.MINING == 2
    assert util.write_monitor_logger_for_multiple_tasks is monitor.write_monitor_logger_for_multiple_tasks
    assert util.env.get_current_env
    assert util.rw.write_model_stage
    assert util.edict is edict
    assert util.osp is os.path
    assert util.glob.glob
    assert util.yaml is yaml
    with pytest.raises(AttributeError):
        _ = util.nothing


def test_a_configuration_is_read_in_every_rank_without_a_word(platform):
    program = "from ymir_exc import util; util.get_merged_config()"
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file), "RANK": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, check=True)
    assert done.stdout + done.stderr == b""
