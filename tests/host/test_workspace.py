"""A task's folders, as the platform lays them out."""
from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from ymir_exc import dataset_reader, env, result_writer, settings, util
from ymir_exc.env import DatasetType
from ymir_exc.errors import ConfigError, WeightsError
from ymir_exc.host import sample, workspace


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "a dataset 数据"
    pytest.importorskip("PIL")
    sample.write_sample(root, images=12, candidates=4, size=64)
    return root


@pytest.fixture
def templates(tmp_path) -> Path:
    folder = tmp_path / "img-man"
    folder.mkdir()
    (folder / "manifest.yaml").write_text("object_type: 2\n")
    (folder / "training-template.yaml").write_text("lr: 0.1\nepochs: 3\nexport_format: voc:raw\ngpu_id: '0'\n")
    (folder / "mining-template.yaml").write_text("score: entropy\n")
    return folder


def config(space):
    return yaml.safe_load((space.input / "config.yaml").read_text(encoding="utf-8"))


def test_a_training_on_this_machine(tmp_path, data, templates, monkeypatch):
    space = workspace.prepare(tmp_path / "任务 1", data, ["training"], templates=templates, params={"lr": 0.5, "gpu_id": ""})
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(space.env_file))
    cfg = util.get_merged_config()
    assert (cfg.ymir.run_training, cfg.ymir.run_mining, cfg.ymir.run_infer) == (True, False, False)
    assert (cfg.param.lr, cfg.param.epochs, cfg.param.export_format, cfg.param.gpu_count) == (0.5, 3, "ark:raw", 0)
    assert cfg.param.class_names == list(sample.CLASS_NAMES)
    assert "pretrained_model_params" not in cfg.param
    items = [*dataset_reader.items(DatasetType.TRAINING), *dataset_reader.items(DatasetType.VALIDATION)]
    assert len(items) == 12
    assert all(os.path.isfile(item.asset) and os.path.isfile(item.annotation) for item in items)
    assert sum(len(item.objects) for item in items) > 10
    assert (space.input / "assets").is_symlink()
    assert (space.output / "monitor.txt").read_text().split("\t")[2:] == ["0.00", "1", "0\n"]
    with pytest.raises(ValueError, match="candidate"):
        dataset_reader.items_count(DatasetType.CANDIDATE)


def test_mining_and_inference_in_a_container_with_a_trained_model(tmp_path, data, templates, monkeypatch):
    training = workspace.prepare(tmp_path / "training", data, ["training"], templates=templates)
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(training.env_file))
    models = training.output / "models"
    for stage, value in (("epoch_1", 0.9), ("epoch_2", 0.1)):
        (models / stage / "sub").mkdir(parents=True)
        (models / stage / "sub" / "best.pt").write_text(stage)
        (models / "common.yaml").write_text("common")
        result_writer.write_model_stage(stage, ["sub/best.pt", "common.yaml"], {"mAP": value})
    space = workspace.prepare(tmp_path / "both", data, ["mining", "infer"], templates=templates, model=training.output, in_container=True)
    assert (space.input / "models/epoch_1/sub/best.pt").read_text() == "epoch_1"
    written = config(space)
    assert written["model_params_path"] == ["/in/models/epoch_1/sub/best.pt", "/in/models/epoch_1/common.yaml"]
    assert (written["run_mining"], written["run_infer"], written["score"]) == (True, True, "entropy")
    assert os.listdir(space.input / "annotations") == []
    lines = (space.input / "candidate-index.tsv").read_text().splitlines()
    assert len(lines) == 4
    assert all(line.startswith("/in/assets/") and "\t" not in line for line in lines)
    seen = env.EnvConfig.parse_obj(yaml.safe_load(space.env_file.read_text()))
    assert (seen.input.candidate_index_file, seen.input.training_index_file) == ("/in/candidate-index.tsv", "")
    assert seen.output.monitor_file == "/out/monitor.txt"
    assert space.shared == (data / "in" / "assets",)
    again = workspace.prepare(tmp_path / "again", data, ["training"], templates=templates, model=training.output)
    assert config(again)["pretrained_model_params"][0] == str(again.input / "models/epoch_1/sub/best.pt")


def test_every_uid_may_write_the_output(tmp_path, data):
    space = workspace.prepare(tmp_path / "t", data, ["training"])
    for path in (space.output, *space.output.rglob("*")):
        assert path.stat().st_mode & 0o777 == 0o777


@pytest.mark.parametrize("tasks", [[], ["label"], ["infer", "mining"], ["training", "infer"]])
def test_unknown_tasks(tmp_path, data, tasks):
    with pytest.raises(ConfigError, match="unknown task"):
        workspace.prepare(tmp_path / "t", data, tasks)


def test_folders_that_will_not_do(tmp_path, data):
    with pytest.raises(ConfigError, match="is no dataset"):
        workspace.prepare(tmp_path / "t", tmp_path, ["training"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        workspace.prepare(tmp_path / "full", data, ["training"])


@pytest.mark.parametrize("content", [None, "", "best_stage_name: x\n", "best_stage_name: x\nmodel_stages: {x: {files: [gone.pt]}}\n"])
def test_an_out_folder_without_a_model(tmp_path, data, content):
    (tmp_path / "out" / "models").mkdir(parents=True)
    if content is not None:
        (tmp_path / "out" / "models" / "result.yaml").write_text(content)
    with pytest.raises(WeightsError, match="holds no usable model"):
        workspace.prepare(tmp_path / "t", data, ["mining"], model=tmp_path / "out")
