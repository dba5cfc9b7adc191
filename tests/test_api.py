"""Every public name that existing images import, where they import it, with the signatures that they call."""
from __future__ import annotations

import importlib
import inspect

import pytest

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

# Parameters in order; a trailing '=' marks an optional one.
SIGNATURES = {
    "monitor.write_monitor_logger": "percent state= return_code=",
    "monitor.write_monitor_logger_for_multiple_tasks": "cfg task percent order=",
    "monitor.write_tensorboard_text": "text tag=",
    "monitor.write_final_executor_log": "tag=",
    "dataset_reader.item_paths": "dataset_type",
    "dataset_reader.items_count": "dataset_type",
    "dataset_reader.images_count": "cfg split",
    "dataset_reader.bboxes_count": "cfg split",
    "dataset_reader.filter_broken_images": "image_files",
    "result_writer.write_model_stage": "stage_name files evaluation_result= mAP= timestamp= attachments= evaluate_config=",
    "result_writer.write_training_result": "stage_name= files= evaluation_result= timestamp= attachments= evaluate_config=",
    "result_writer.write_mining_result": "mining_result",
    "result_writer.write_infer_result": "infer_result algorithm=",
    "executor.Executor": "apps=",
    "util.YmirStageWeight": "weights=",
    "util.get_ymir_process": "stage p task_idx= task_num= weights=",
    "util.get_merged_config": "",
    "util.get_weight_files": "cfg suffix=",
    "util.get_bool": "cfg key default_value=",
    "util.filter_saved_files": "cfg files",
    "util.format_saved_files": "cfg files",
    "util.write_ymir_training_result": "cfg files id map50= evaluation_result= evaluate_config= attachments=",
    "util.write_ymir_monitor_process": "cfg task naive_stage_percent stage stage_weights= task_order=",
    "util.convert_ymir_to_coco": "cat_id_from_zero=",
    "dataset_convert.convert_ymir_to_coco": "cat_id_from_zero=",
    "dataset_convert.convert_ymir_to_yolov5": "cfg out_dir=",
    "dataset_convert.convert_ymir_to_mmseg": "ymir_cfg",
    "dataset_convert.convert_rgb_to_label_id": "rgb_img palette_dict dtype=",
    "dataset_convert.find_blank_area_in_dataset": "ymir_cfg max_sample_num=",
    "dataset_convert.ymir2mmseg.train_with_black_area_or_not": "ymir_cfg max_sample_num=",
    "dataset_convert.ymir2yolov5.convert": "cfg out_dir asset ann",
    "dataset_convert.ymir2yolov5.img2label_paths": "img_paths",
    "sysinfo.get_gpu_memory": "device=",
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
    "env.EnvInputConfig": ["root_dir", "assets_dir", "annotations_dir", "models_dir", "training_index_file", "val_index_file",
                           "candidate_index_file", "config_file"],
    "env.EnvOutputConfig": ["root_dir", "models_dir", "tensorboard_dir", "training_result_file", "mining_result_file",
                            "infer_result_file", "monitor_file", "executor_log_file"],
    "env.EnvConfig": ["task_id", "protocol_version", "run_training", "run_mining", "run_infer", "manifest_file", "input", "output"],
    "result_writer.Box": ["x", "y", "w", "h"],
    "result_writer.Annotation": ["class_name", "score", "box"],
}


def find(path: str):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"ymir_exc.{module}"), name)


@pytest.mark.parametrize("path", [f"{module}.{name}" for module, names in NAMES.items() for name in names])
def test_name(path):
    assert find(path) is not None
    if not inspect.ismodule(find(path)) and callable(find(path)) and not path.startswith("util.edict"):
        assert find(path).__doc__, f"{path} is public and says nothing of itself"


@pytest.mark.parametrize("path", SIGNATURES)
def test_signature(path):
    parameters = [p for p in inspect.signature(find(path)).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    found = " ".join(p.name + ("=" if p.default is not p.empty else "") for p in parameters)
    assert found == SIGNATURES[path] or found.startswith(SIGNATURES[path] + " "), found
    more = found[len(SIGNATURES[path]):].split()
    assert all(name.endswith("=") for name in more), "a new parameter is optional"


@pytest.mark.parametrize("path", ENUMS)
def test_enum(path):
    assert {member.name: member.value for member in find(path)} == ENUMS[path]


@pytest.mark.parametrize("path", FIELDS)
def test_fields(path):
    assert list(find(path).model_fields) == FIELDS[path]


def test_submodules_are_not_shadowed():
    for module in NAMES:
        assert inspect.ismodule(importlib.import_module(f"ymir_exc.{module}"))
    from ymir_exc import dataset_reader, env, monitor, result_writer, settings
    assert all(map(inspect.ismodule, (dataset_reader, env, monitor, result_writer, settings)))
