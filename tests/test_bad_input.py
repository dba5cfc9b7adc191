"""Whatever is wrong with a file, each reader that meets it raises one typed error: with the file, the key or line, and what to do."""
from __future__ import annotations

import copy
import json
import os
import pickle
import random
import re
from pathlib import Path

import pytest
import yaml
from easydict import EasyDict

from tests.dataset_convert.conftest import png_head
from ymir_exc import _yaml, env, errors, result_writer, util
from ymir_exc import dataset_reader as reader
from ymir_exc.dataset_convert import convert_ymir_to_coco, convert_ymir_to_mmseg, convert_ymir_to_yolov5
from ymir_exc.env import DatasetType
from ymir_exc.errors import ArgumentError, ConfigError, DatasetError, ImageError, MissingKeyError, UnknownDatasetError, YmirError
from ymir_exc.executor import Executor
from ymir_exc.result_writer import stages

OF_ENV = {
    "get_current_env": env.get_current_env,
    "get_executor_config": env.get_executor_config,
    "get_merged_config": util.get_merged_config,
    "get_manifest_object_type": env.get_manifest_object_type,
    "item_paths": lambda: list(reader.item_paths(DatasetType.TRAINING)),
    "items": lambda: list(reader.items(DatasetType.TRAINING)),
    "items_count": lambda: reader.items_count(DatasetType.TRAINING),
    "images_count": lambda: reader.images_count(None, "train"),
    "convert_ymir_to_coco": convert_ymir_to_coco,
}
OF_CONFIG = {
    "get_executor_config": env.get_executor_config,
    "get_merged_config": util.get_merged_config,
    "items": OF_ENV["items"],
    "convert_ymir_to_coco": convert_ymir_to_coco,
    "convert_ymir_to_yolov5": lambda: convert_ymir_to_yolov5(util.get_merged_config()),
    "convert_ymir_to_mmseg": lambda: convert_ymir_to_mmseg(util.get_merged_config()),
}
OF_INDEX = {
    "item_paths": OF_ENV["item_paths"],
    "items": OF_ENV["items"],
    "bboxes_count": lambda: reader.bboxes_count(util.get_merged_config(), "train"),
    "convert_ymir_to_coco": convert_ymir_to_coco,
    "convert_ymir_to_yolov5": OF_CONFIG["convert_ymir_to_yolov5"],
}


@pytest.fixture
def labelled(platform):
    """A training task whose one image has one object; returns the annotation's path."""
    image, annotation = platform.input / "assets" / "1.png", platform.input / "annotations" / "1.txt"
    image.write_bytes(png_head(64, 48))
    annotation.write_text("0, 1, 2, 3, 4, -1.0, 0.0\n")
    for split in ("train", "val"):
        platform.index(split, f"{image}\t{annotation}")
    return annotation


def wrong(read, kind, *words):
    """The error's text, which holds all the words."""
    with pytest.raises(kind) as caught:
        read()
    for word in words:
        assert word in str(caught.value)
    assert caught.value.return_code == kind.return_code
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------ env.yaml and config.yaml

EXPAND = "expand to too many values (at most 100000 are read"
NOT_A_MAPPING = {
    "empty": (b"", "is empty"),
    "only a byte order mark": (b"\xef\xbb\xbf", "is empty"),
    "null": (b"null\n", "is empty"),
    "list": (b"- task_id: t0\n", "must be a mapping of keys to values, not a list"),
    "number": (b"3\n", "not a int"),
    "set": (b"!!set {a, b}\n", "not a set"),
    "not UTF-8": (b"a: 1\ntask_id: caf\xe9\n", "line 2: not UTF-8 text (save the file as UTF-8)"),
    "UTF-16": ("task_id: t0\n".encode("utf-16"), "line 1: not UTF-8 text"),
    "doubled key": (b"task_id: a\ngpu_id: ''\ntask_id: b\n", "line 3: not valid YAML: the key 'task_id' is there twice"),
    "two documents": (b"a: 1\n---\nb: 2\n", "line 2: not valid YAML"),
    "tab": (b"input:\n\troot_dir: /in\n", "line 2: not valid YAML"),
    "unclosed": (b"a: [1\n", "not valid YAML"),
    "unknown tag": (b"a: !ruby/object b\n", "line 1: not valid YAML"),
    "Python tag": (b"a: !!python/name:os.system\n", "line 1: not valid YAML"),
    "control character": (b"task_id: \x07\n", "not valid YAML"),
    "NUL": (b'task_id: "a\\0b"\n', "holds a NUL character"),
    "a cycle": (b"a: &a [*a]\n", EXPAND),
    "nested anchors": (b"a: &a [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 10)) for i in range(9)), EXPAND),
    "merged text": (b"<<: 3\n", "line 1: not valid YAML"),
    "deep": (b"a: " + b"[" * 1000, "nested deeper than"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "line 1: not UTF-8 text"),
}


@pytest.mark.parametrize("what", NOT_A_MAPPING)
def test_an_env_file_that_is_no_mapping(platform, what):
    content, words = NOT_A_MAPPING[what]
    platform.env_file.write_bytes(content)
    for read in OF_ENV.values():
        wrong(read, ConfigError, str(platform.env_file), words)


@pytest.mark.parametrize("what", NOT_A_MAPPING)
def test_a_config_file_that_is_no_mapping(platform, labelled, what):
    content, words = NOT_A_MAPPING[what]
    (platform.input / "config.yaml").write_bytes(content)
    for read in OF_CONFIG.values():
        wrong(read, ConfigError, str(platform.input / "config.yaml"), words)


@pytest.fixture
def loaded(monkeypatch):
    """How often the loader of YAML was asked for a value: to compose it from the text, and to make it."""
    counts = {"descend_resolver": 0, "construct_object": 0, "construct_yaml_int": 0, "construct_yaml_float": 0}

    def counted(name):
        given = getattr(yaml.SafeLoader, name)

        def count(self, *rest, **more):
            counts[name] += 1
            return given(self, *rest, **more)

        return count

    for name in ("descend_resolver", "construct_object"):
        monkeypatch.setattr(yaml.resolver.BaseResolver if name[0] == "d" else yaml.constructor.BaseConstructor, name, counted(name))
    constructors = yaml.constructor.SafeConstructor.yaml_constructors
    for kind in ("int", "float"):
        monkeypatch.setitem(constructors, f"tag:yaml.org,2002:{kind}", counted(f"construct_yaml_{kind}"))
    return counts


@pytest.mark.parametrize("text", ["a: [" + "x," * 200_000 + "]\n", "".join(f"k{n}: 1\n" for n in range(200_000)), "- [x]\n" * 200_000])
def test_a_file_of_too_many_values_is_refused_before_any_is_made(tmp_path, loaded, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    wrong(lambda: _yaml.load(str(path)), ConfigError, str(path), "it holds too many values (at most 100000 are read; move")
    assert loaded["descend_resolver"] == 100_000
    assert loaded["construct_object"] == 0


@pytest.mark.parametrize(("text", "words"), [
    ("a: &a [1]\nb: [" + "*a," * 300_000 + "]\n", "its anchors and aliases expand to too many values (at most"),
    ("a: &a {}\nb: {<<: [" + "*a," * 300_000 + "]}\n", "line 1: its merge keys expand to too many values (at most"),
    ("a: &a {k: 1}\nb: [" + "{<<: *a}," * 30_000 + "*a]\n", "line 2: its merge keys expand to too many values (at most"),
])
def test_aliases_of_little_and_merges_of_nothing_have_the_same_limit(tmp_path, text, words):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    wrong(lambda: _yaml.load(str(path)), ConfigError, str(path), words)


def test_the_limits_of_a_yaml_file_from_both_sides(tmp_path, monkeypatch):
    monkeypatch.setattr(_yaml, "MAX_VALUES", 1000)
    path = tmp_path / "config.yaml"
    for most, count in ((0, 1000), (20, 20)):
        names = ["x"] * (count - 3)    # the root, a key and the list are values as well
        path.write_text(f"a: [{','.join(names)}]\n")
        assert _yaml.load(str(path), most=most) == {"a": names}
        path.write_text(f"a: [{','.join(names)},x]\n")
        wrong(lambda: _yaml.load(str(path), most=most), ConfigError, f"at most {count} are read")    # noqa: B023
        path.write_text(f"a: &a x\nb: [{','.join(['*a'] * (count - 3))}]\n")    # aliases count where the keys did
        assert _yaml.load(str(path), most=most) == {"a": "x", "b": names}
        path.write_text(f"a: &a x\nb: [{','.join(['*a'] * (count - 2))}]\n")
        wrong(lambda: _yaml.load(str(path), most=most), ConfigError, f"at most {count} are read")    # noqa: B023
        path.write_text("a: 1\n".ljust(40 * count, "#"))
        assert _yaml.load(str(path), most=most) == {"a": 1}
        path.write_text("a: 1\n".ljust(40 * count + 1, "#"))
        wrong(lambda: _yaml.load(str(path), most=most), ConfigError, f"is larger than {40 * count} bytes")    # noqa: B023


@pytest.mark.parametrize(("text", "words"), [
    ("1:" * 500 + "1", "line 2: not valid YAML: a number of 1001 characters"),
    ("1:" * 500_000 + "1", "a number of 1000001 characters"),    # it would be a matter of minutes
    ("1:" * 500 + "1.5", "a number of 1003 characters"),
    ("1:" * 400 + "1.5", "not valid YAML: int too large to convert to float"),
    ("9" * 1001, "a number of 1001 characters"),
    ("!!int [1]", "line 2: not valid YAML: expected a scalar node"),
])
def test_numbers_that_are_none(platform, loaded, text, words):
    (platform.input / "config.yaml").write_text(f"x: 1\na: {text}\n")
    wrong(env.get_executor_config, ConfigError, str(platform.input / "config.yaml"), words)
    assert loaded["construct_yaml_int"] + loaded["construct_yaml_float"] <= 2


def test_numbers_of_yaml_1_1_are_read(platform):
    (platform.input / "config.yaml").write_text(f"a: [1:30, 1:30.5, 0x1F, 017, 1_000, .5, .inf, {'9' * 1000}]\n")
    assert env.get_executor_config()["a"] == [90, 90.5, 31, 15, 1000, 0.5, float("inf"), 10 ** 1000 - 1]


def test_a_configuration_of_very_many_classes_is_read(platform):
    platform.config["class_names"] = [f"n{number:08d} 猫" for number in range(21_841)]
    platform.config["colours"] = [[number % 256, 0, 0] for number in range(3_000)]
    platform.config.update({f"option_{number}": {"value": number, "words": ["a", "b"]} for number in range(2_000)})
    (platform.input / "config.yaml").write_text(json.dumps(platform.config))    # which is YAML, and quicker to write
    assert env.get_executor_config() == platform.config
    assert util.get_class_names(util.get_merged_config()) == platform.config["class_names"]


def test_the_own_result_may_be_larger_than_what_others_write(platform, monkeypatch):
    monkeypatch.setattr(_yaml, "MAX_VALUES", 100)
    for name in ("a", "b"):
        result_writer.write_model_stage(name, [platform.model(f"{name}.pt")], {"mAP": 0.5, "class_aps": [0.25] * 200})
        monkeypatch.setattr(stages, "_written", (b"", {}))    # as in another process
    assert list(platform.result()["model_stages"]) == ["a", "b"]


def test_no_other_module_reads_yaml():
    """So that all files have the same limits."""
    root = Path(_yaml.__file__).parent
    readers = re.compile(r"\byaml\.\w*(load|Loader|parse|compose|scan)|from yaml|ruamel")
    assert [path.name for path in root.rglob("*.py") if readers.search(path.read_text(encoding="utf-8"))] == ["_yaml.py"]


@pytest.mark.parametrize("what", NOT_A_MAPPING)
def test_a_manifest_that_is_no_mapping(platform, what):
    content, words = NOT_A_MAPPING[what]
    manifest = platform.root / "img-man" / "manifest.yaml"
    manifest.parent.mkdir()
    manifest.write_bytes(content)
    wrong(env.get_manifest_object_type, ConfigError, str(manifest), words)


@pytest.mark.parametrize("value", [".inf", ".nan", "[]", "{}", "null", "[[2]]", "two"])
def test_an_object_type_that_is_no_number(platform, value):
    manifest = platform.root / "img-man" / "manifest.yaml"
    manifest.parent.mkdir()
    manifest.write_text(f"object_type: {value}\n")
    wrong(env.get_manifest_object_type, ConfigError, f"{manifest}: object_type: ", "is not a number (2 detection")


@pytest.mark.parametrize(("text", "words"), [
    ("task_id: [1]", "task_id: must be text, got [1]"),
    ("task_id: null", "task_id: must be text, got None"),
    ("task_id: 2020-01-01", "task_id: must be text"),
    ("protocol_version: {a: 1}", "protocol_version: must be text"),
    ("run_training: 2", "run_training: must be true or false, got 2"),
    ("run_mining: [true]", "run_mining: must be true or false"),
    ("run_infer: ''", "run_infer: must be true or false, got ''"),
    ("manifest_file: []", "manifest_file: must be text"),
    ("input: null", "input: must be a mapping of keys to values, got None"),
    ("input: /in", "input: must be a mapping of keys to values, got '/in'"),
    ("input: [a]", "input: must be a mapping"),
    ("output: 1", "output: must be a mapping"),
    ("input: {models_dir: null}", "input.models_dir: must be text, got None"),
    ("output: {monitor_file: [x]}", "output.monitor_file: must be text, got ['x']"),
    ("task_id: !!binary /w==", "task_id: "),
    ("input: {root_dir: [1]}\noutput: {root_dir: [2]}", "input.root_dir: must be text, got [1]; output.root_dir: must be text, got [2]"),
])
def test_a_value_of_env_yaml_of_the_wrong_type(platform, text, words):
    platform.env_file.write_text(text)
    for read in OF_ENV.values():
        wrong(read, ConfigError, str(platform.env_file), words)


def test_files_that_are_missing_folders_or_another_user_s(platform, as_nobody):
    config = platform.input / "config.yaml"
    assert as_nobody(config, env.get_executor_config) == f"ConfigError: cannot read {config}: Permission denied"
    config.unlink()
    wrong(env.get_executor_config, ConfigError, f"{config} does not exist", "the platform puts the hyper-parameters there")
    config.mkdir()
    wrong(util.get_merged_config, ConfigError, f"cannot read {config}: Is a directory")
    platform.env_file.unlink()
    for read in OF_ENV.values():
        wrong(read, ConfigError, f"{platform.env_file} does not exist")


@pytest.fixture
def as_nobody(platform):
    """Call a reader as another user while a file belongs to its owner alone; returns the error's text."""
    def run(path, read):
        for folder in (platform.root, *platform.root.parents):    # pytest's own folders are for their owner alone
            if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
                folder.chmod(folder.stat().st_mode | 0o011)
        read()    # so that all it needs is loaded: another user may not read Python's own files either
        os.chmod(path, 0)
        answer, question = os.pipe()
        pid = os.fork()
        if not pid:    # root may read everything, so somebody else tries
            try:
                if os.geteuid() == 0:
                    os.setuid(1234)
                read()
            except BaseException as e:
                os.write(question, f"{type(e).__name__}: {e}".encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        os.close(question)
        with open(answer, encoding="utf-8") as f:
            said = f.read()
        os.chmod(path, 0o644)
        return said

    return run


# ------------------------------------------------------------------------------------------------------------------- near misses

def misspell(platform, part, right, wrong_key):
    given = platform.env[part] if part else platform.env
    given[wrong_key] = given.pop(right)
    platform.write()


@pytest.mark.parametrize(("right", "wrong_key", "read"), [
    ("training_index_file", "trainning_index_file", OF_ENV["item_paths"]),
    ("training_index_file", "train_index_file", OF_ENV["items"]),
    ("training_index_file", "training_index_files", OF_ENV["items_count"]),
    ("training_index_file", "training_index", OF_ENV["images_count"]),
    ("val_index_file", "validation_index_file", lambda: reader.items_count(DatasetType.VALIDATION)),
    ("candidate_index_file", "condidate_index_file", lambda: reader.items_count(DatasetType.CANDIDATE)),
    ("training_index_file", "trainning_index_file", convert_ymir_to_coco),
    ("val_index_file", "vali_index_file", lambda: convert_ymir_to_yolov5(util.get_merged_config())),
])
def test_an_unknown_key_is_no_error_but_named_where_the_known_one_is_missed(platform, right, wrong_key, read):
    platform.env["input"]["predictions_dir"] = "/in/predictions"
    misspell(platform, "input", right, wrong_key)
    assert getattr(env.get_current_env().input, right) == ""
    wrong(read, DatasetError, f"env.yaml: input.{right} is not set", f"is input.{wrong_key} meant to be input.{right}?")


def test_a_key_that_is_there_is_not_said_to_be_misspelt(platform):
    platform.env["input"].update(training_index_file="", trainning_index_file="/x")
    platform.write()
    wrong(OF_ENV["item_paths"], DatasetError, "input.training_index_file is not set", "is the right task running?")
    del platform.env["input"]
    platform.write()
    wrong(OF_ENV["item_paths"], DatasetError, "is the right task running?")
    assert env.misspelt_as("input.training_index_file") == ""
    platform.env_file.unlink()
    assert env.misspelt_as("input.training_index_file") == ""


def test_a_misspelt_config_file_and_a_misspelt_task(platform, monkeypatch):
    misspell(platform, "", "run_training", "run_trainig")
    wrong(Executor({"training": print}).start, ConfigError, "env.yaml asks for no task", "is run_trainig meant to be run_training?")
    misspell(platform, "input", "config_file", "confg_file")
    default = env.get_current_env().input.config_file
    monkeypatch.setattr(os.path, "lexists", lambda path, known=os.path.lexists: path != default and known(path))
    if not os.path.exists(default):    # where a platform runs these tests, it has written the file
        wrong(env.get_executor_config, ConfigError, f"{default} does not exist", "is input.confg_file meant to be input.config_file?")


@pytest.mark.parametrize("name", ["items", "convert_ymir_to_coco", "convert_ymir_to_yolov5"])
def test_misspelt_class_names(platform, labelled, name):
    platform.config["class_name"] = platform.config.pop("class_names")
    platform.write()
    wrong(OF_CONFIG[name], ConfigError, "config.yaml: class_names must be a list of names, not None",
          "is class_name meant to be class_names?")


def test_misspelt_weights_and_formats(platform, labelled):
    platform.run("mining")
    platform.config.update(model_param_path=["/a.pt"], export_format="arkk:raw")
    platform.write()
    with pytest.raises(AttributeError, match=r"config\.yaml: model_params_path is missing \(is model_param_path meant to be"):
        util.get_weight_files(util.get_merged_config())
    wrong(OF_CONFIG["items"], ConfigError, "config.yaml: export_format 'arkk:raw' is unknown", "is ark meant? use one of ark,")
    platform.config["export_format"] = 7
    platform.write()
    assert "meant" not in wrong(OF_CONFIG["items"], ConfigError, "config.yaml: export_format 7 is unknown", "use one of ark,")


def test_a_program_that_asks_for_a_wrong_name(platform):
    cfg = util.get_merged_config()
    words = "config.yaml has no hyper-parameter 'class_name' (is class_names meant?)"
    message = wrong(lambda: cfg.param.class_name, MissingKeyError, words)
    assert errors.classify_text(f"Traceback (most recent call last):\nymir_exc.errors.MissingKeyError: {message}").code == 300001
    assert "meant" not in wrong(lambda: cfg.param.zzz, MissingKeyError, "'zzz'")
    with pytest.raises(AttributeError):
        cfg.param.class_name    # noqa: B018
    assert not hasattr(cfg.param, "class_name")
    assert getattr(cfg.param, "class_name", 7) == 7
    cfg.param.class_name = "set"
    assert cfg.param.class_name == cfg.param["class_name"] == "set"


def test_the_hyper_parameters_stay_an_easydict(platform):
    platform.config["model"] = {"depth": 3, "stages": [{"width": 1}]}
    platform.write()
    cfg = util.get_merged_config()
    assert type(cfg) is EasyDict
    assert isinstance(cfg.param, EasyDict)
    assert dict(cfg.param) == vars(cfg.param) == platform.config
    assert (cfg.param.model.depth, cfg.param.model.stages[0].width) == (3, 1)
    assert type(cfg.param.model) is type(cfg.param.model.stages[0]) is EasyDict
    for twin in (copy.copy(cfg.param), copy.deepcopy(cfg.param), pickle.loads(pickle.dumps(cfg.param)), copy.deepcopy(cfg).param,
                 *(pickle.loads(pickle.dumps(cfg, protocol)).param for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1))):
        assert type(twin) is EasyDict    # nothing of this package is needed to have it
        assert twin == cfg.param
        assert vars(twin) == vars(cfg.param)
        assert twin.model.stages[0].width == 1
    copy.deepcopy(cfg.param).model.depth = 9
    assert cfg.param.model.depth == 3
    assert repr(cfg.param) == repr(dict(cfg.param))
    assert json.loads(json.dumps(cfg.param)) == platform.config
    assert yaml.safe_load(yaml.safe_dump(dict(platform.config))) == cfg.param


# ------------------------------------------------------------------------------------------------------------- hyper-parameters

@pytest.mark.parametrize("value", [5, True, "cat", "cat,dog", {"0": "cat"}, [["cat"]], [None], [""], [" "], [{"name": "cat"}], []])
def test_class_names_that_are_none(platform, labelled, value):
    platform.config["class_names"] = value
    platform.write()
    for name in ("items", "convert_ymir_to_coco", "convert_ymir_to_yolov5", "convert_ymir_to_mmseg"):
        wrong(OF_CONFIG[name], ConfigError, "config.yaml: class_names ")


@pytest.mark.parametrize("value", [5, True, {"a": 1}])
@pytest.mark.parametrize("task", ["training", "mining"])
def test_weights_that_are_no_list(platform, task, value):
    key = "pretrained_model_params" if task == "training" else "model_params_path"
    platform.run(task).config[key] = value
    platform.write()
    for read in (util.get_weight_files, util.pick_weight_file):
        wrong(lambda: read(util.get_merged_config()), ConfigError, f"config.yaml: {key}: {value!r} is no list of files")    # noqa: B023


@pytest.mark.parametrize("value", [["a.yaml"], 5, {"a": 1}])
def test_a_code_config_that_is_no_name(platform, value):
    platform.config.update(git_url="https://x/y.git", code_config=value)
    platform.write()
    wrong(util.get_merged_config, ConfigError, "config.yaml: code_config: ", "is no file's name")


@pytest.mark.parametrize("text", ["1: a\n", "true: a\n", "model: {0: a}\n", "list: [{2.5: a}]\n"])
def test_keys_that_are_no_text(platform, text):
    (platform.input / "config.yaml").write_text(text)
    wrong(util.get_merged_config, ConfigError, str(platform.input / "config.yaml"), "is not text (put it in quotes")
    assert env.get_executor_config() == yaml.safe_load(text)    # a plain dict may have them


# ----------------------------------------------------------------------------------------------------------------- index files

@pytest.mark.parametrize(("content", "words"), [
    (b"/good.png\nassets/1.jpg\t/a.txt\n", "line 2: 'assets/1.jpg' is not an absolute path"),
    (b"/good.png\t1.txt\n", "line 1: '1.txt' is not an absolute path"),
    (b" /a.jpg\t/a.txt\n", "line 1: ' /a.jpg' is not"),
    (b"\t/a.txt\n", "line 1: '' is not"),
    (b"/good.png\n\xef\xbb\xbf/b.jpg\n", r"line 2: '\ufeff/b.jpg' is not"),
    ("/good.png\n\n/像.jpg\n".encode("gb18030"), "line 3: not UTF-8 text"),
    ("/a.jpg\t/a.txt\n".encode("utf-16"), "line 1: not UTF-8 text (is it an index file"),
    (b"\x7fELF\x02\x01\x01\0", "line 1: '\\x7fELF"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "line 1: not UTF-8 text"),
])
def test_an_index_file_with_a_wrong_line(platform, labelled, content, words):
    image = f"{platform.input}/assets/1.png"    # lines before the wrong one are looked at too
    (platform.input / "train-index.tsv").write_bytes(content.replace(b"/good.png", image.encode()))
    for read in OF_INDEX.values():
        wrong(read, DatasetError, str(platform.input / "train-index.tsv"), words)


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n\r\n \t\n\t\t\n", b"\xef\xbb\xbf\n"])
def test_an_index_file_without_an_item(platform, content):
    for name in ("train", "val"):
        (platform.input / f"{name}-index.tsv").write_bytes(content)
    platform.config["export_format"] = "coco:raw"
    platform.write()
    cfg = util.get_merged_config()
    assert (OF_INDEX["item_paths"](), OF_INDEX["items"](), reader.items_count(DatasetType.TRAINING), reader.images_count(cfg, "val"),
            len(list(reader.read_index(cfg.ymir.input.val_index_file)))) == ([], [], 0, 0, 0)
    with open(convert_ymir_to_coco()["train"]["ann_file"]) as f:
        assert json.load(f)["images"] == []
    assert os.path.getsize(os.path.join(os.path.dirname(convert_ymir_to_yolov5(cfg)), "train-index.txt")) == 0
    wrong(lambda: convert_ymir_to_mmseg(cfg), DatasetError, "train-index.tsv lists no image")


def test_an_index_file_that_cannot_be_opened(platform, labelled, as_nobody):
    index = platform.input / "train-index.tsv"
    for read in (OF_ENV["items_count"], OF_ENV["items"]):
        assert as_nobody(index, read) == f"DatasetError: cannot read {index}: Permission denied"
    index.unlink()
    for read in (*OF_INDEX.values(), OF_ENV["items_count"], OF_ENV["images_count"]):
        wrong(read, DatasetError, f"{index} does not exist")
    index.mkdir()
    for read in (*OF_INDEX.values(), OF_ENV["items_count"], OF_ENV["images_count"]):
        wrong(read, DatasetError, f"cannot read {index}: Is a directory")


def test_a_path_with_a_nul(platform, labelled):
    image = platform.input / "assets" / "1.png"
    platform.index("train", f"{image}\t/a\0b.txt")
    for name in ("items", "bboxes_count", "convert_ymir_to_yolov5"):    # to coco such an image simply has no objects
        wrong(OF_INDEX[name], DatasetError, r"'/a\x00b.txt' is no path")
    platform.index("train", f"{platform.input}/assets/\0.png\t{labelled}")
    for name in ("convert_ymir_to_coco", "convert_ymir_to_yolov5"):
        wrong(OF_INDEX[name], ImageError, "is no path: ")


@pytest.mark.parametrize("dataset_type", [None, 0, 99, 2.5, "training", [2], DatasetType.UNKNOWN])
def test_a_dataset_type_that_is_none(platform, dataset_type):
    for read in (reader.item_paths, reader.items, lambda given: [reader.items_count(given)]):
        wrong(lambda: list(read(dataset_type)), UnknownDatasetError, f"no index file of {dataset_type!r}", "one of TRAINING")    # noqa: B023
    for count in (reader.images_count, reader.bboxes_count):
        wrong(lambda: count(util.get_merged_config(), [dataset_type]), DatasetError, "unknown split", "one of train,")    # noqa: B023


@pytest.mark.parametrize("shard", [None, 5, (0,), (0, 1, 2), (2, 2), (3, 2), (-1, 2), (0, 0), ("0", "1"), (0.0, 1)])
def test_a_shard_that_is_none(labelled, shard):
    wrong(lambda: next(reader.items(DatasetType.TRAINING, shard)), ArgumentError, f"shard must be (rank, world_size) with 0 <= rank < "
          f"world_size, not {shard!r}")


# ----------------------------------------------------------------------------------------------------------------- annotations

@pytest.mark.parametrize("segmentation", [[["1", "2", "3", "4", "5", "6"]], [[None] * 6], [[float("nan")] * 6], [[10 ** 400] * 6],
                                          [[1, 2, 3, 4, 5]], ["123456"]])
def test_a_polygon_of_no_numbers(platform, labelled, segmentation):
    path = labelled.with_suffix(".json")
    annotation = {"id": 1, "image_id": 1, "category_id": 0, "bbox": [1, 2, 3, 4], "segmentation": segmentation}
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "1.png"}], "annotations": [annotation]}))
    platform.config["export_format"] = "coco:raw"
    platform.write()
    for split in ("train", "val"):
        platform.index(split, f"{platform.input}/assets/1.png\t{path}")
    for name in ("items", "convert_ymir_to_coco", "convert_ymir_to_yolov5"):
        wrong(OF_CONFIG[name], DatasetError, f"{path}: annotations[0]: segmentation must be polygons")


@pytest.mark.parametrize("size", [(1 << 20, 1 << 20), (10 ** 400, 1), (0, 5), (True, 5), ("64", "48"), (None, None)])
def test_an_image_size_that_is_none_is_asked_of_the_image(platform, labelled, size):
    pytest.importorskip("PIL")
    path = labelled.with_suffix(".json")
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "1.png", "width": size[0], "height": size[1]}], "annotations": []}))
    platform.config["export_format"] = "coco:raw"
    platform.write()
    for split in ("train", "val"):
        platform.index(split, f"{platform.input}/assets/1.png\t{path}")
    with open(convert_ymir_to_mmseg(util.get_merged_config())["train"]) as f:
        mask = f.read().rstrip("\n").split("\t")[1]
    assert reader.check_image(mask) == (64, 48)


# -------------------------------------------------------------------------------------------------------------- by chance as well

SLIPS = [b"\0", b"\xef\xbb\xbf", b"\r\n", b"\n", b"\t", b"e999", b"nan", b"-", b"9" * 400, b"<", b"&amp;", b"&x;", b"*a", b"&a ", b"<<: ",
         "图".encode(), b"1e400", b"0x1", b"\xff", b"[", b"]", b"{", b"}", b'"', b"'", b": ", b"null", b"!!int ", b"/", b" ", b"#", b"true"]


def slipped(content, chance):
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data) + 1)
        if chance.random() < 0.3:
            del data[place:place + chance.randint(1, 9)]
        else:
            data[place:place + chance.randint(0, 1)] = chance.choice(SLIPS)
    return bytes(data)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["env.yaml", "config.yaml", "train-index.tsv", "1.txt", "1.xml", "1.json"])
def test_slips_by_chance_never_end_in_a_bare_error(platform, labelled, name, seed):
    chance = random.Random(f"{name} {seed}")    # so that a failure can be seen again
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
    labelled.with_suffix(".xml").write_text(f"<annotation><object><name>cat</name>{box}</object></annotation>")
    labelled.with_suffix(".json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 48}], "categories": [{"id": 0, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 0, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 3, 2, 3, 4]]}],
    }))
    suffix = name[-4:].lstrip(".")
    platform.config["export_format"] = {"xml": "voc:raw", "json": "coco:raw"}.get(suffix, "ark:raw")
    platform.write()
    for split in ("train", "val") if suffix in ("xml", "json") else ():
        platform.index(split, f"{platform.input}/assets/1.png\t{labelled.with_suffix('.' + suffix)}")
    path = (platform.input / "annotations" if name[0] == "1" else platform.input) / name
    whole = path.read_bytes()
    cfg = util.get_merged_config()
    readers = [*OF_ENV.values(), *OF_INDEX.values(), lambda: util.get_gpu_ids(util.get_merged_config()),
               lambda: util.get_weight_files(util.get_merged_config()), lambda: reader.bboxes_count(cfg, "train")]
    said = 0
    for _ in range(25):
        data = slipped(whole, chance)
        path.write_bytes(data)
        for read in readers:
            try:
                read()
            except YmirError:
                said += 1
            except Exception as e:
                raise AssertionError(f"{name} is {data!r}") from e
    assert said
