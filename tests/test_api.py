"""Every public name that existing images import, where they import it, with the signatures that they call."""
from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
import typing

import pytest

from ymir_exc import result_writer
from ymir_exc.code import ExecutorReturnCode, ExecutorState

NAMES = {
    "settings": ["DEFAULT_ENV_FILE_PATH", "DEFAULT_CONFIG_FILE_PATH"],
    "env": ["DatasetType", "EnvInputConfig", "EnvOutputConfig", "EnvConfig", "get_current_env", "get_executor_config",
            "get_manifest_object_type"],
    "code": ["ExecutorState", "ExecutorReturnCode"],
    "monitor": ["YmirTask", "TASK_STATE_RUNNING", "write_monitor_logger", "write_monitor_logger_for_multiple_tasks",
                "write_tensorboard_text", "write_final_executor_log", "track", "should_stop"],
    "dataset_reader": ["DatasetType", "item_paths", "items_count", "images_count", "bboxes_count", "filter_broken_images", "items"],
    "result_writer": ["Box", "Annotation", "multiple_model_stages_supportable", "write_model_stage", "write_training_result",
                      "write_mining_result", "write_infer_result", "_MAX_MODEL_STAGES_COUNT_", "InferResultWriter", "MiningResultWriter",
                      "SegmentationResultWriter"],
    "executor": ["Executor"],
    "util": ["find_free_port", "YmirStage", "YmirStageWeight", "YmirTask", "get_ymir_process", "get_merged_config", "get_weight_files",
             "get_bool", "filter_saved_files", "format_saved_files", "write_ymir_training_result", "write_ymir_monitor_process",
             "write_monitor_logger_for_multiple_tasks", "convert_ymir_to_coco", "env", "rw", "edict", "osp", "glob", "json", "yaml",
             "get_gpu_ids", "pick_weight_file", "get_parameters", "get_class_names"],
    "dataset_convert": ["convert_ymir_to_coco", "convert_ymir_to_yolov5", "convert_ymir_to_mmseg", "convert_rgb_to_label_id",
                        "find_blank_area_in_dataset"],
    "dataset_convert.ymir2coco": ["convert_ymir_to_coco"],
    "dataset_convert.ymir2yolov5": ["convert_ymir_to_yolov5", "convert", "img2label_paths"],
    "dataset_convert.ymir2mmseg": ["find_blank_area_in_dataset", "train_with_black_area_or_not", "convert_ymir_to_mmseg",
                                   "convert_rgb_to_label_id", "save_rgb_to_label_id"],
    "sysinfo": ["get_gpu_memory"],
    "errors": ["YmirError", "ArgumentError", "UnknownStageError", "UnknownDatasetError", "NoWeightsGivenError", "classify"],
}

# Required parameters in order, then the optional ones with their defaults. Where older lines have `{}`, None means the same.
SIGNATURES = {
    "env.get_current_env": ("", {}),
    "env.get_executor_config": ("", {}),
    "env.get_manifest_object_type": ("", {}),
    "monitor.write_monitor_logger": ("percent", {"state": ExecutorState.ES_RUNNING, "return_code": ExecutorReturnCode.RC_EXEC_NO_ERROR}),
    "monitor.write_monitor_logger_for_multiple_tasks": ("cfg task percent", {"order": "tmi"}),
    "monitor.write_tensorboard_text": ("text", {"tag": None}),
    "monitor.write_final_executor_log": ("", {"tag": None}),
    "dataset_reader.item_paths": ("dataset_type", {}),
    "dataset_reader.items_count": ("dataset_type", {}),
    "dataset_reader.images_count": ("cfg split", {}),
    "dataset_reader.bboxes_count": ("cfg split", {}),
    "dataset_reader.filter_broken_images": ("image_files", {}),
    "result_writer.multiple_model_stages_supportable": ("", {}),
    "result_writer.write_model_stage": ("stage_name files", {"evaluation_result": None, "mAP": None, "timestamp": None, "attachments": None,
                                                             "evaluate_config": None}),
    # The older keywords come without the first two.
    "result_writer.write_training_result": ("", {"stage_name": None, "files": None, "evaluation_result": None, "timestamp": None,
                                                 "attachments": None, "evaluate_config": None}),
    "result_writer.write_mining_result": ("mining_result", {}),
    "result_writer.write_infer_result": ("infer_result", {"algorithm": "detection"}),
    "executor.Executor": ("", {"apps": None}),
    "executor.Executor.start": ("self", {}),
    "util.find_free_port": ("", {}),
    "util.YmirStageWeight": ("", {"weights": None}),
    "util.YmirStageWeight.get_stage_process": ("self stage p", {}),
    "util.get_ymir_process": ("stage p", {"task_idx": 0, "task_num": 1, "weights": None}),
    "util.get_merged_config": ("", {}),
    "util.get_weight_files": ("cfg", {"suffix": (".pt", ".pth")}),
    "util.get_bool": ("cfg key", {"default_value": True}),
    "util.filter_saved_files": ("cfg files", {}),
    "util.format_saved_files": ("cfg files", {}),
    "util.write_ymir_training_result": ("cfg files id", {"map50": None, "evaluation_result": None, "evaluate_config": None,
                                                         "attachments": None}),
    "util.write_ymir_monitor_process": ("cfg task naive_stage_percent stage", {"stage_weights": None, "task_order": "tmi"}),
    "util.write_monitor_logger_for_multiple_tasks": ("cfg task percent", {"order": "tmi"}),
    "util.convert_ymir_to_coco": ("", {"cat_id_from_zero": False}),
    "dataset_convert.convert_ymir_to_coco": ("", {"cat_id_from_zero": False}),
    "dataset_convert.convert_ymir_to_yolov5": ("cfg", {"out_dir": None}),
    "dataset_convert.convert_ymir_to_mmseg": ("ymir_cfg", {}),
    "dataset_convert.convert_rgb_to_label_id": ("rgb_img palette_dict", {"dtype": "uint8"}),    # numpy's name of np.uint8
    "dataset_convert.find_blank_area_in_dataset": ("ymir_cfg", {"max_sample_num": 100}),
    "dataset_convert.ymir2mmseg.train_with_black_area_or_not": ("ymir_cfg", {"max_sample_num": 100}),
    "dataset_convert.ymir2yolov5.convert": ("cfg out_dir asset ann", {}),
    "dataset_convert.ymir2yolov5.img2label_paths": ("img_paths", {}),
    "sysinfo.get_gpu_memory": ("", {"device": "cuda:0"}),
}

ENUMS = {
    "env.DatasetType": {"UNKNOWN": 1, "TRAINING": 2, "VALIDATION": 3, "CANDIDATE": 4},
    "code.ExecutorState": {"ES_RUNNING": 2, "ES_ERROR": 4},
    "code.ExecutorReturnCode": {
        "RC_EXEC_NO_ERROR": 0, "RC_EXEC_CONFIG_ERROR": 300001, "RC_EXEC_DATASET_ERROR": 300002, "RC_EXEC_UNKNOWN_IMAGE_FORMAT": 300003,
        "RC_EXEC_MODEL_ERROR": 300004, "RC_EXEC_OBJECT_TYPE_ERROR": 300005, "RC_EXEC_CUDA_GPU_ERROR": 300101, "RC_EXEC_NO_GPU": 300102,
        "RC_EXEC_OOM": 300103, "RC_EXEC_NAN_ERROR": 300201, "RC_EXEC_NETWORK_ERROR": 300301, "RC_CMD_CONTAINER_ERROR": 160004},
    "monitor.YmirTask": {"TRAINING": 1, "MINING": 2, "INFER": 3},
    "util.YmirStage": {"PREPROCESS": 1, "TASK": 2, "POSTPROCESS": 3},
}

FIELDS = {
    "env.EnvInputConfig": {
        "root_dir": "/in", "assets_dir": "/in/assets", "annotations_dir": "/in/annotations", "models_dir": "/in/models",
        "training_index_file": "", "val_index_file": "", "candidate_index_file": "", "config_file": "/in/config.yaml"},
    "env.EnvOutputConfig": {
        "root_dir": "/out", "models_dir": "/out/models", "tensorboard_dir": "/out/tensorboard",
        "training_result_file": "/out/models/result.yaml", "mining_result_file": "/out/result.tsv",
        "infer_result_file": "/out/infer-result.json", "monitor_file": "/out/monitor.txt",
        "executor_log_file": "/out/ymir-executor-out.log"},
    "env.EnvConfig": {
        "task_id": "default-task", "protocol_version": "0.0.1", "run_training": False, "run_mining": False, "run_infer": False,
        "manifest_file": "/img-man/manifest.yaml", "input": "env.EnvInputConfig", "output": "env.EnvOutputConfig"},
    "result_writer.Box": dict.fromkeys(["x", "y", "w", "h"], int),
    "result_writer.Annotation": {"class_name": str, "score": float, "box": "result_writer.Box"},
}

def find(path: str):
    module, _, name = path.rpartition(".")
    if module.endswith((".Executor", ".YmirStageWeight")):
        return getattr(find(module), name)
    return getattr(importlib.import_module(f"ymir_exc.{module}"), name)


@pytest.mark.parametrize("path", [f"{module}.{name}" for module, names in NAMES.items() for name in names])
def test_name(path):
    assert find(path) is not None
    if not inspect.ismodule(find(path)) and callable(find(path)) and not path.startswith("util.edict"):
        assert find(path).__doc__, f"{path} is public and says nothing of itself"


@pytest.mark.parametrize("path", SIGNATURES)
def test_signature(path):
    required, optional = SIGNATURES[path]
    parameters = [p for p in inspect.signature(find(path)).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    known = len(required.split()) + len(optional)
    assert [p.name for p in parameters[:known] if p.default is p.empty] == required.split()
    found = {p.name: p.default for p in parameters[:known] if p.default is not p.empty}
    assert list(found) == list(optional)
    assert {name: (type(value), value) for name, value in found.items()} == {name: (type(value), value) for name, value in optional.items()}
    assert all(p.default is not p.empty for p in parameters[known:]), "a new parameter is optional"


@pytest.mark.parametrize("path", ENUMS)
def test_enum(path):
    assert {member.name: member.value for member in find(path)} == ENUMS[path]


@pytest.mark.parametrize("path", FIELDS)
def test_fields(path):
    kind, fields = find(path), FIELDS[path]
    assert list(kind.model_fields) == list(fields)
    hints = typing.get_type_hints(kind)
    for name, expected in fields.items():
        declared = find(expected) if isinstance(expected, str) and expected in FIELDS else expected
        if isinstance(declared, type):
            assert hints[name] is declared
        else:
            assert hints[name] is type(expected)


REPORT = """
import json
from ymir_exc import env, monitor, result_writer, settings, util, executor
print(json.dumps({
    "models": {f"env.{kind.__name__}": kind().dict() for kind in (env.EnvInputConfig, env.EnvOutputConfig, env.EnvConfig)},
    "required": [[name for name, field in kind.model_fields.items() if field.is_required()]
                 for kind in (result_writer.Box, result_writer.Annotation)],
    "constants": [settings.DEFAULT_ENV_FILE_PATH, settings.DEFAULT_CONFIG_FILE_PATH, monitor.TASK_STATE_RUNNING,
                  result_writer._MAX_MODEL_STAGES_COUNT_],
    "apps": executor.Executor().apps,
    "weights": util.YmirStageWeight().weights,
}))
"""


def test_default_values():
    """In a process without this one's environment variables, some of which change defaults."""
    names = ("DEFAULT_ENV_FILE_PATH", "DEFAULT_CONFIG_FILE_PATH", "PREPROCESS_WEIGHT", "TASK_WEIGHT", "POSTPROCESS_WEIGHT")
    environ = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", REPORT], env=environ, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    inputs, outputs = FIELDS["env.EnvInputConfig"], FIELDS["env.EnvOutputConfig"]
    assert found["models"] == {"env.EnvInputConfig": inputs, "env.EnvOutputConfig": outputs,
                               "env.EnvConfig": {**FIELDS["env.EnvConfig"], "input": inputs, "output": outputs}}
    assert found["required"] == [["x", "y", "w", "h"], ["class_name", "score", "box"]]
    assert found["constants"] == ["/in/env.yaml", "/in/config.yaml", 2, 11]
    assert found["apps"] == {"training": "python3 ymir/ymir_training.py", "mining": "python3 ymir/ymir_mining.py",
                             "infer": "python3 ymir/ymir_infer.py"}
    assert found["weights"] == [0.00001, 0.99998, 0.00001]


@pytest.mark.filterwarnings("ignore:mAP=:DeprecationWarning")
def test_no_metrics_are_none_or_an_empty_mapping(platform):
    """None stands where older lines have a mutable default."""
    written = []
    for metrics in (None, {}):
        result_writer.write_model_stage("a", [platform.model("a.pt")], metrics, mAP=0.5, timestamp=7)
        written.append(platform.result())
    assert written[0] == written[1]


def test_submodules_are_not_shadowed():
    for module in NAMES:
        assert inspect.ismodule(importlib.import_module(f"ymir_exc.{module}"))
    from ymir_exc import dataset_reader, env, monitor, result_writer, settings
    assert all(map(inspect.ismodule, (dataset_reader, env, monitor, result_writer, settings)))
