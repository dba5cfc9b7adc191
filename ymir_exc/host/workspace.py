"""The folders of one task, laid out as the platform lays them out (contract 1.2), from a dataset and an earlier task's models."""
from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import yaml

from ymir_exc import _files
from ymir_exc._yaml import load_mapping
from ymir_exc.env import INPUT_DEFAULTS, OUTPUT_DEFAULTS
from ymir_exc.errors import ConfigError, WeightsError
from ymir_exc.monitor import Record

TASKS = ("training", "mining", "infer")
_PENDING = 1
_INDEXES = {"train-index.tsv": "training_index_file", "val-index.tsv": "val_index_file", "candidate-index.tsv": "candidate_index_file"}


class Workspace(NamedTuple):
    """Where one task's files are.

    Attributes:
        root: The folder that holds the two below.
        input: What the program sees as `seen_input`.
        output: What the program sees as `seen_output`.
        env_file: env.yaml, on this machine.
        seen_input: `/in` in a container, else the same as `input`.
        task_id: The task.
        shared: Folders outside that a container must see at their own path, writable, as the platform does.
    """

    root: Path
    input: Path
    output: Path
    env_file: Path
    seen_input: str
    task_id: str
    shared: Tuple[Path, ...]


def prepare(root: Path, data: Path, tasks: Sequence[str], *, templates: Optional[Path] = None, params: Optional[Mapping[str, Any]] = None,
            model: Optional[Path] = None, in_container: bool = False, task_id: Optional[str] = None) -> Workspace:
    """Lay out a task.

    Args:
        root: The folder to make; must not exist, or be empty.
        data: A dataset in the platform's layout: its `in/` has assets, annotations, index files and config.yaml.
        tasks: `['training']`, `['mining']`, `['infer']` or `['mining', 'infer']`.
        templates: The image's `img-man` folder; its templates give the hyper-parameters' defaults.
        params: Hyper-parameters that differ from the templates.
        model: The `out` folder of an earlier training, whose best stage is handed in.
        in_container: Write the paths that a container sees.
        task_id: The task's name.

    Raises:
        ConfigError: An unknown task, a dataset that lacks a file, or a folder that is not empty.
        WeightsError: `model` holds no model stage.
        StorageError: A file cannot be written.
    """
    _check(root, data, tasks)
    task_id = task_id or f"{'-'.join(tasks)}-{time.strftime('%Y%m%d-%H%M%S')}"
    root, data = root.resolve(), data.resolve()
    made, out = root / "in", root / "out"
    seen_input, seen_output = ("/in", "/out") if in_container else (str(made), str(out))
    for folder in (made / "predictions", made / "models", made / "annotations", out / "models", out / "tensorboard"):
        _files.make_folder(folder)
    (made / "assets").symlink_to(data / "in" / "assets", target_is_directory=True)
    _copy_dataset(data / "in", made, seen_input, tasks)
    weights = _copy_model(model, made / "models", seen_input) if model else []
    config = _config(data, tasks, templates, params or {}, weights, task_id)
    _write_yaml(made / "config.yaml", config)
    manifest = "/img-man/manifest.yaml" if in_container else str((templates or data / "img-man").resolve() / "manifest.yaml")
    _write_yaml(made / "env.yaml", _env(tasks, seen_input, seen_output, manifest, task_id))
    _open_output(out, task_id)
    return Workspace(root, made, out, made / "env.yaml", seen_input, task_id, ((data / "in" / "assets"),))


def _check(root: Path, data: Path, tasks: Sequence[str]) -> None:
    if list(tasks) not in (["training"], ["mining"], ["infer"], ["mining", "infer"]):
        raise ConfigError(f"unknown task {'+'.join(tasks)!r}", hint="training, mining, infer or mining+infer")
    if not (data / "in" / "config.yaml").is_file():
        raise ConfigError(f"{data} is no dataset: {data / 'in' / 'config.yaml'} does not exist", hint="ymir-exc sample makes one")
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} is not empty", hint="choose a new folder")


def _copy_dataset(source: Path, made: Path, seen_input: str, tasks: Sequence[str]) -> None:
    """Index files with the paths the program will see; annotations for a training only, as the platform does."""
    old = str(load_mapping(str(source / "env.yaml"), "the dataset's description").get("input", {}).get("root_dir", "/in"))
    names = ["train-index.tsv", "val-index.tsv"] if "training" in tasks else ["candidate-index.tsv"]
    for name in names:
        try:
            text = (source / name).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise ConfigError(f"{source / name} does not exist", hint="the dataset lacks this index file") from None
        lines = ["\t".join(_moved(path, old, seen_input) for path in line.split("\t")) for line in text.splitlines() if line.strip()]
        _files.write_bytes(made / name, "".join(f"{line}\n" for line in lines).encode("utf-8"), sync=False)
    if "training" in tasks:
        shutil.copytree(source / "annotations", made / "annotations", dirs_exist_ok=True, copy_function=_link_or_copy)


def _moved(path: str, old: str, new: str) -> str:
    return new + path[len(old):] if path.startswith(old.rstrip("/") + "/") else path


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def best_stage(out: Path) -> Tuple[str, Dict[str, Any], List[Path]]:
    """Read what a training left.

    Args:
        out: Its `out` folder.

    Returns:
        The best stage's name, its entry in result.yaml, and its files.

    Raises:
        WeightsError: There is no result, or a file of the stage is missing.
    """
    models = out / "models"
    try:
        result = load_mapping(str(models / "result.yaml"), "the training's result")
        name = str(result["best_stage_name"])
        stage: Dict[str, Any] = result["model_stages"][name]
        files = [next(path for path in (models / name / f, models / f) if path.is_file()) for f in stage["files"]]
    except (ConfigError, KeyError, TypeError, StopIteration) as e:
        raise WeightsError(f"{models} holds no usable model: {e or 'a file of the best stage is missing'}",
                           hint="give the out folder of a training that succeeded") from None
    return name, stage, files


def _copy_model(out: Path, target: Path, seen_input: str) -> List[str]:
    """The best stage's files as the platform unpacks them, and the paths the program will be told."""
    name, stage, files = best_stage(out)
    told = []
    for source, relative in zip(files, stage["files"]):
        _files.copy_file(source, target / name / relative)
        told.append(f"{seen_input}/models/{name}/{relative}")
    return told


def _config(data: Path, tasks: Sequence[str], templates: Optional[Path], params: Mapping[str, Any], weights: List[str],
            task_id: str) -> Dict[str, Any]:
    dataset = load_mapping(str(data / "in" / "config.yaml"), "the dataset's configuration")
    config: Dict[str, Any] = {}
    path = templates / f"{tasks[0]}-template.yaml" if templates else None
    if path is not None and path.is_file():
        config.update(load_mapping(str(path), "the template"))
    config.update(params)
    config.setdefault("gpu_id", "")
    gpus = [part for part in str(config["gpu_id"]).split(",") if part.strip()]
    config.update({"class_names": dataset["class_names"], "gpu_count": len(gpus), "object_type": dataset.get("object_type", 2),
                   "task_id": task_id})
    if "training" in tasks:
        config["export_format"] = dataset.get("export_format", "ark:raw")
        config["pretrained_model_params"] = weights
        if not weights:
            del config["pretrained_model_params"]
    else:
        config.update({"model_params_path": weights, "run_mining": "mining" in tasks, "run_infer": "infer" in tasks})
    return config


def _env(tasks: Sequence[str], seen_input: str, seen_output: str, manifest: str, task_id: str) -> Dict[str, Any]:
    wanted = {"training_index_file", "val_index_file"} if "training" in tasks else {"candidate_index_file"}
    inside = {key: value.replace("/in", seen_input, 1) for key, value in INPUT_DEFAULTS.items()}
    inside["config_file"] = f"{seen_input}/config.yaml"
    for name, key in _INDEXES.items():
        inside[key] = f"{seen_input}/{name}" if key in wanted else ""
    return {
        "protocol_version": "1.1.0", "task_id": task_id, "manifest_file": manifest,
        **{f"run_{task}": task in tasks for task in TASKS},
        "input": inside, "output": {key: value.replace("/out", seen_output, 1) for key, value in OUTPUT_DEFAULTS.items()},
    }


def _write_yaml(path: Path, value: Dict[str, Any]) -> None:
    text = yaml.safe_dump(value, allow_unicode=True, default_flow_style=False)
    _files.write_bytes(path, text.encode("utf-8"), sync=False)


def _open_output(out: Path, task_id: str) -> None:
    """As the platform leaves it before the start: pending, a log, and everything writable for every uid."""
    pending = Record(task_id, time.time(), 0.0, _PENDING)
    _files.write_bytes(out / "monitor.txt", pending.to_text().encode("utf-8"), sync=False)
    _files.write_bytes(out / "ymir-executor-out.log", b"", sync=False)
    for path in (out, *out.rglob("*")):
        with contextlib.suppress(OSError):
            path.chmod(0o777)
