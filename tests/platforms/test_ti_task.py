"""A job as a task of YMIR: env.yaml, config.yaml, weights; read as a program does, by the package's own readers."""
from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import yaml

from ymir_exc import dataset_reader, env, settings, util
from ymir_exc.env import DatasetType
from ymir_exc.errors import ConfigError, DatasetError, WeightsError
from ymir_exc.platforms.ti import _task

TEMPLATE = {"epochs": 10, "lr": 0.1, "mosaic": True, "name": "x", "tag": "1", "sizes": [1, 2], "nested": {"on": False, "n": 1},
            "none": None, "class_names": ["example"], "pretrained_model_params": ["example"], "gpu_id": "9",
            "export_format": "ark:raw", "shm_size": "16G"}


@pytest.fixture
def translated(job, tmp_path, monkeypatch):
    """The merged configuration that a program sees."""
    img_man = tmp_path / "img-man"
    img_man.mkdir()

    def translate(gpus=0, template=TEMPLATE, task="training", **environ):
        work = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
        work.mkdir()
        (img_man / f"{task}-template.yaml").write_text(yaml.safe_dump(template))
        read = job.read()
        name = _task.task_id(read, environ)
        made = _task.translate(job.layout, read, str(work), name, gpus, str(img_man / "manifest.yaml"))
        monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", made.env_file)
        return util.get_merged_config(), made
    return translate


@pytest.fixture
def detection(job):
    """A job with two images for training and one for validation."""
    job.channel("train", "images/1.jpg", "images/2.jpg", **{"annotations/1.txt": "1, 0, 0, 9, 9, -1.0, 0.0\n"})
    job.channel("val", "v.jpg", **{"v.txt": "0, 1, 1, 3, 3, -1.0, 0.0\n"})
    return job.hyper(class_names='["cat", "dog"]')


def test_a_training(detection, translated):
    cfg, made = translated(gpus=2, TRAINING_JOB_NAME="job-7")
    assert made.warnings == ()
    ymir, out = cfg.ymir, detection.root
    assert (ymir.task_id, ymir.run_training, ymir.run_mining, ymir.run_infer) == ("job-7", True, False, False)
    assert ymir.output.models_dir == f"{out}/model" and ymir.output.training_result_file == f"{out}/model/result.yaml"
    assert ymir.output.root_dir == f"{out}/output/data" and ymir.output.tensorboard_dir == f"{out}/output/checkpoints/tensorboard"
    files = (ymir.output.monitor_file, ymir.output.mining_result_file, ymir.output.infer_result_file)
    assert {os.path.dirname(path) for path in files} == {f"{out}/output/data"}
    assert (cfg.param.class_names, cfg.param.gpu_id, cfg.param.gpu_count, cfg.param.task_id, cfg.param.export_format) == (
        ["cat", "dog"], "0,1", 2, "job-7", "ark:raw")
    assert util.get_gpu_ids(cfg) == [0, 1] and "pretrained_model_params" not in cfg.param
    items = list(dataset_reader.items(DatasetType.TRAINING))
    assert [(os.path.basename(item.asset), [one.class_id for one in item.objects]) for item in items] == [("1.jpg", [1]), ("2.jpg", [])]
    assert all(os.path.isfile(item.annotation) for item in items)
    assert [one.class_id for item in dataset_reader.items(DatasetType.VALIDATION) for one in item.objects] == [0]


def test_the_values_have_the_template_s_types(detection, translated):
    detection.hyper(class_names='["a"]', epochs="1e3", lr="1", mosaic="False", name="7", tag="007", sizes="[3]",
                    nested='{"on": "True", "n": "4"}', none="True", new="True", number="1e3", deep='{"a": [true, "x"]}')
    cfg, _ = translated()
    param = {key: value for key, value in cfg.param.items() if key not in util.RESERVED_KEYS}
    assert param == {"epochs": 1000, "lr": 1.0, "mosaic": False, "name": "7", "tag": "007", "sizes": [3], "nested": {"on": True, "n": 4},
                     "none": "True", "new": "True", "number": 1000.0, "deep": {"a": [True, "x"]}, "shm_size": "16G"}
    assert type(cfg.param.epochs) is int and type(cfg.param.lr) is float
    plain = yaml.safe_load(Path(cfg.ymir.input.config_file).read_text(encoding="utf-8"))
    assert plain["shm_size"] == "16G" and plain["class_names"] == ["a"]    # for programs that read the file alone


@pytest.mark.parametrize("value,given,example,made", [
    (1, "1", True, True), ("true", '"true"', False, True), ("off", "off", True, False), (1.5, "1.5", 3, 1.5), ("auto", "auto", 3, "auto"),
    ("12", '"12"', 3, 12), ("0.5", '"0.5"', 3, 0.5), (True, "true", 3, True), ("1e-3", '"1e-3"', 1.0, 0.001), (1000.0, "1e3", "s", "1e3"),
    (True, True, "s", "True"), ({"a": [True]}, {"a": [True]}, "s", '{"a": [true]}'),
    (None, "null", "s", None), ("x", "x", [1], "x"), (10 ** 400, "1", 1.0, 10 ** 400)])
def test_coercion(value, given, example, made):
    found = _task.coerced(value, given, example, "here")
    assert found == made and type(found) is type(made)


@pytest.mark.parametrize("value", ["maybe", "", "2", "null", "[]"])
def test_neither_true_nor_false(detection, translated, value):
    detection.hyper(class_names='["a"]', mosaic=value)
    with pytest.raises(ConfigError, match=r"hyperparameters\.json: mosaic: .* is neither true nor false"):
        translated()


@pytest.mark.parametrize("key,value,words", [("a", "NaN", "a: nan"), ("a", "-Infinity", "-inf"), ("a", '{"b": [1, NaN]}', r"a\.b\[1\]: n"),
                                             ("lr", '"nan"', "lr: nan"), ("epochs", "1e999", "epochs: inf")])
def test_no_number_at_all(detection, translated, key, value, words):
    detection.hyper(class_names='["a"]', **{key: value})
    with pytest.raises(ConfigError, match=words):
        translated()


def test_platform_keys_are_the_platform_s(detection, translated):
    detection.hyper(class_names='["a"]', gpu_id="5", gpu_count="7", task_id="x", run_mining="true", ti_program="p.py", ymir_task="training")
    cfg, _ = translated(gpus=1)
    assert (cfg.param.gpu_id, cfg.param.gpu_count, cfg.param.task_id) == ("0", 1, "default-task")
    assert "ti_program" not in cfg.param and "ymir_task" not in cfg.param


@pytest.mark.parametrize("names,words", [(None, "there are no class names"), ('"cat"', "no list of names"), ("[]", "no list"),
                                         ("cat,dog", "JSON list"), ("[1]", "no list"), ('["a", "a"]', "twice"), ('[" "]', "no list")])
def test_class_names_that_are_wrong(detection, translated, names, words):
    detection.hyper(**({} if names is None else {"class_names": names}))
    with pytest.raises(ConfigError, match=words):
        translated()


def test_class_names_of_the_channel(detection, translated):
    detection.hyper().file("input/data/train/classes.txt", "cat\ndog\n")
    assert translated()[0].param.class_names == ["cat", "dog"]


def test_without_a_val_channel_nothing_is_invented(detection, translated):
    (detection.data / "val/v.jpg").unlink(), (detection.data / "val/v.txt").unlink(), (detection.data / "val").rmdir()
    _, made = translated()
    assert made.warnings == ("no channel gives the val split: it is val or validation or test, and the channels are train",)
    assert len(list(dataset_reader.items(DatasetType.TRAINING))) == 2
    with pytest.raises(DatasetError, match="this task has no validation set"):
        list(dataset_reader.items(DatasetType.VALIDATION))


@pytest.mark.parametrize("task", ["training", "mining"])
def test_without_the_channel_of_the_task(job, translated, task):
    job.hyper(class_names='["a"]', ymir_task=task).channel("other", "x.csv")
    with pytest.raises(DatasetError, match=r"no channel gives the .* split: .* the channels are other"):
        translated(task=task)


def test_two_formats(detection, translated):
    detection.file("input/data/val/v.txt").unlink(), detection.file("input/data/val/v.xml", "<annotation/>")
    with pytest.raises(DatasetError, match="ark in channel train, voc in channel val"):
        translated()


@pytest.mark.parametrize("task,mining,infer", [("mining", True, False), ("infer", False, True), ("mining+infer", True, True)])
def test_the_other_tasks(job, translated, task, mining, infer):
    job.channel("candidate", "1.jpg"), job.channel("model", "best.pt")
    job.hyper(class_names='["a"]', ymir_task=task)
    cfg, _ = translated(task=task.partition("+")[0], template={"top": 3})
    assert (cfg.ymir.run_training, cfg.ymir.run_mining, cfg.ymir.run_infer) == (False, mining, infer)
    assert (cfg.param.run_mining, cfg.param.run_infer, cfg.param.top) == (mining, infer, 3) and "export_format" not in cfg.param
    assert [item.asset for item in dataset_reader.items(DatasetType.CANDIDATE)] == [str(job.data / "candidate/1.jpg")]
    assert util.get_weight_files(cfg) == [str(job.data / "model/best.pt")]


def test_a_task_that_nobody_knows(job, translated):
    with pytest.raises(ConfigError, match=r"ymir_task: there is no task 'trainig' \(one of training, mining"):
        job.hyper(ymir_task="trainig"), translated()


@pytest.mark.parametrize("name", ["x" * 300 + "\t\n", "a\tb", ""])
def test_the_job_s_name(job, name):
    found = _task.task_id(job.hyper(ti_job_name=json.dumps(name)).read(), {})
    assert found and "\t" not in found and "\n" not in found
    assert _task.task_id(job.read(), {"TRAINING_JOB_NAME": "env"}) == "env"


def test_a_name_that_looks_like_a_number(job):
    """Bare text, as a console sends it."""
    assert _task.task_id(job.hyper(ti_job_name="20240131").read(), {}) == "20240131"
    assert _task.task_id(job.hyper(ti_job_name="1e3").read(), {}) == "1e3"
    with pytest.raises(ConfigError, match="ti_job_name: 5 is no text"):
        _task.task_id(job.hyper(ti_job_name=5).read(), {})


def test_the_kind_of_object(detection, translated, tmp_path):
    assert translated()[0].param.object_type == 2
    (tmp_path / "img-man" / "manifest.yaml").write_text("object_type: [4, 2]")
    (tmp_path / "img-man" / "instance-seg").mkdir()
    (tmp_path / "img-man" / "instance-seg" / "training-template.yaml").write_text("masks: 3")
    cfg, _ = translated()
    assert (cfg.param.object_type, cfg.param.masks) == (4, 3)
    detection.hyper(class_names='["a"]', object_type="2")
    assert translated()[0].param.object_type == 2


# ------------------------------------------------------------------------------------------------- weights

RESULT = "best_stage_name: epoch_2\nmodel_stages:\n  epoch_1: {files: [a.pt]}\n  epoch_2: {files: [b.pt, sub/c.yaml]}\n"


def weights(job, files, packed):
    if not packed:
        job.channel("model", **files)
        return
    job.channel("model")
    with tarfile.open(job.data / "model/model.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))


@pytest.mark.parametrize("packed", [False, True])
def test_the_best_stage_is_handed_in(detection, translated, packed):
    files = {"result.yaml": RESULT, "epoch_1/a.pt": "1", "epoch_2/b.pt": "2", "epoch_2/sub/c.yaml": "3", "ymir-info.yaml": ""}
    weights(detection, files, packed)
    cfg, _ = translated()
    given, root = cfg.param.pretrained_model_params, cfg.ymir.input.models_dir
    assert [os.path.relpath(path, root) for path in given] == ["epoch_2/b.pt", "epoch_2/sub/c.yaml"]
    assert util.pick_weight_file(cfg) == given[0] and Path(given[0]).read_text() == "2"
    assert (root == str(detection.data / "model")) == (not packed)


@pytest.mark.parametrize("result", ["", "best_stage_name: x\nmodel_stages: {x: {files: [missing.pt]}}\n", "a: ["])
def test_a_model_of_other_making_is_handed_in_whole(detection, translated, result):
    weights(detection, {"w.pt": "1", "more/v.pth": "2", ".hidden": "", **({"result.yaml": result} if result else {})}, False)
    cfg, _ = translated()
    assert [os.path.relpath(path, cfg.ymir.input.models_dir) for path in util.get_weight_files(cfg)] == ["more/v.pth", "w.pt"]


def test_a_channel_without_a_model(detection, translated):
    detection.channel("pretrained")
    cfg, made = translated()
    assert made.warnings[0].startswith("channel pretrained: ") and "pretrained_model_params" not in cfg.param


def test_a_broken_archive(detection, translated):
    detection.channel("pretrained", **{"model.tar.gz": "no archive"})
    with pytest.raises(WeightsError, match=r"pretrained/model\.tar\.gz"):
        translated()


def test_no_task_is_told_only_to_who_asks(job, tmp_path, monkeypatch):
    monkeypatch.setenv("YMIR_EXC_NO_TASK", "no class names")
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(tmp_path / "none.yaml"))
    for ask in (env.get_current_env, env.get_executor_config, util.get_merged_config):
        with pytest.raises(ConfigError, match=r"^no class names$"):
            ask()
    monkeypatch.setenv("YMIR_EXC_NO_TASK", "WeightsError: model.tar.gz is broken")
    with pytest.raises(WeightsError, match=r"^model\.tar\.gz is broken$"):
        env.get_current_env()
    (tmp_path / "none.yaml").write_text("task_id: mine")
    assert env.get_current_env().task_id == "mine"
