"""A job of Tencent TI as a task of YMIR: env.yaml, config.yaml, index files and weights in a temporary folder (contract 5)."""
from __future__ import annotations

import json
import math
import os
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ymir_exc import _files
from ymir_exc.env import TASK_DEFAULTS
from ymir_exc.errors import ConfigError, DatasetError, one_line
from ymir_exc.platforms.ti import _dataset
from ymir_exc.platforms.ti._config import TASK_KEY, Job, Layout

TASKS: Mapping[str, Tuple[str, ...]] = {
    "training": ("training",), "mining": ("mining",), "infer": ("infer",), "mining+infer": ("mining", "infer")}
MODEL_CHANNELS = ("model", "pretrained")
JOB_NAME_VARIABLE = "TRAINING_JOB_NAME"
NO_NAME = str(TASK_DEFAULTS["task_id"])
_ARCHIVES = ("model.tar.gz", "model.tgz", "model.tar")
_NO_WEIGHTS = frozenset({"result.yaml", "ymir-info.yaml"})
_YES, _NO = ("true", "t", "yes", "y", "on", "1"), ("false", "f", "no", "n", "off", "0")


class Task(NamedTuple):
    """What was made.

    Attributes:
        env_file: The task's env.yaml.
        warnings: What the user is to hear of.
    """

    env_file: str
    warnings: Tuple[str, ...]


def task_id(job: Job, environ: Mapping[str, str]) -> str:
    """The job's name."""
    return one_line(environ.get(JOB_NAME_VARIABLE) or job.text("ti_job_name")) or NO_NAME


def translate(layout: Layout, job: Job, work: str, name: str, gpus: int, manifest: Optional[str] = None) -> Task:
    """Write the task's files.

    Args:
        layout: The job's folders.
        job: What the platform says.
        work: An empty folder of ours.
        name: The task's id.
        gpus: How many GPUs this container may use.
        manifest: The image's manifest, beside its templates; where images have it when None.

    Raises:
        ConfigError: A hyper-parameter cannot be one of a task, there are no class names, or no such task.
        DatasetError: A channel holds nothing that can be understood, or a split that the task needs is missing.
        WeightsError: A model's archive is broken.
        StorageError: There is no room for the files.
    """
    tasks = _tasks(job)
    manifest = manifest or str(TASK_DEFAULTS["manifest_file"])
    splits, missing = _splits(job, tasks, work)
    names = _class_names(job, splits)
    warnings = [*missing, *(text for split in splits.values() for text in split.warnings)]
    indexes = {}
    for split, found in splits.items():
        indexes[split] = os.path.join(work, f"{split}-index.tsv")
        warnings += _dataset.write_index(indexes[split], found)
    models_dir, weights = _weights(job, work, warnings)
    config = _parameters(job, tasks, manifest, _object_type(job, splits, manifest))
    config.update({"class_names": names, "gpu_id": ",".join(map(str, range(gpus))), "gpu_count": gpus, "task_id": name})
    config.update(_per_task(tasks, weights, splits))
    config_file, env_file = os.path.join(work, "config.yaml"), os.path.join(work, "env.yaml")
    _write_yaml(config_file, config)
    _write_yaml(env_file, {
        "protocol_version": "1.1.0", "task_id": name, "manifest_file": manifest,
        **{f"run_{task}": task in tasks for task in ("training", "mining", "infer")},
        "input": {
            "root_dir": work, "assets_dir": layout.data, "annotations_dir": layout.data, "models_dir": models_dir,
            "config_file": config_file, "training_index_file": indexes.get("train", ""), "val_index_file": indexes.get("val", ""),
            "candidate_index_file": indexes.get("candidate", "")},
        "output": outputs(layout)})
    return Task(env_file, tuple(warnings))


def outputs(layout: Layout) -> Dict[str, str]:
    """The section `output` of env.yaml: where TI collects what."""
    return {
        "root_dir": layout.results, "models_dir": layout.model, "tensorboard_dir": layout.tensorboard,
        "training_result_file": os.path.join(layout.model, "result.yaml"), "monitor_file": layout.monitor,
        **{key: os.path.join(layout.results, name) for key, name in (
            ("mining_result_file", "result.tsv"), ("infer_result_file", "infer-result.json"),
            ("executor_log_file", "ymir-executor-out.log"))}}


def _tasks(job: Job) -> Tuple[str, ...]:
    wanted = job.values.get(TASK_KEY, "training")
    if not isinstance(wanted, str) or wanted not in TASKS:
        raise ConfigError(f"{job.file}: {TASK_KEY}: there is no task {wanted!r:.80}", hint=f"one of {', '.join(TASKS)}")
    return TASKS[wanted]


# ---------------------------------------------------------------------------------------------------------------------- dataset

def _splits(job: Job, tasks: Sequence[str], work: str) -> Tuple[Dict[str, _dataset.Split], List[str]]:
    """The splits that the tasks read, and what to say of one that is missing."""
    wanted = ("train", "val") if "training" in tasks else ("candidate",)
    found = {split: _dataset.find(split, job.channels, work, tasks if split == "candidate" else ()) for split in wanted}
    there = f"the channels are {', '.join(job.channels)}" if job.channels else "there are no channels"
    missing = [f"no channel gives the {split} split: it is {' or '.join(_dataset.CHANNELS[split])}, and {there}"
               for split, value in found.items() if value is None]
    if found[wanted[0]] is None:
        raise DatasetError(missing[0])
    splits = {split: value for split, value in found.items() if value is not None}
    formats = _dataset.formats_of(splits.values())
    if len(formats) > 1:
        raise DatasetError(f"annotations are of several formats: {', '.join(f'{kind} in {source}' for kind, source in formats.items())}",
                           hint="bring them to one, see `ymir_exc.dataset_convert`")
    return splits, missing


def _class_names(job: Job, splits: Mapping[str, _dataset.Split]) -> List[str]:
    given = job.values.get("class_names")
    names = given if given is not None else _dataset.class_names(job.channels, splits.values())
    place = f"{job.file}: class_names" if given is not None else "classes.txt"
    hint = 'a JSON list is wanted, such as ["cat", "dog"]; or a file classes.txt in a channel, with a name on each line'
    if given is None and not names:
        raise ConfigError("there are no class names: neither the hyper-parameter class_names nor classes.txt in a channel", hint=hint)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ConfigError(f"{place}: {given!r:.80} is no list of names", hint=hint)
    if len(set(names)) != len(names):
        raise ConfigError(f"{place}: a name is there twice: {names!r:.200}")
    return list(names)


def _object_type(job: Job, splits: Mapping[str, _dataset.Split], manifest: str) -> int:
    """What the job says, or the dataset, or the image; 2 is detection."""
    from ymir_exc._yaml import load_mapping
    values: List[Any] = [job.values.get("object_type"), *(split.dataset.get("object_type") for split in splits.values())]
    if os.path.exists(manifest):
        listed = load_mapping(manifest, "the image's manifest").get("object_type")
        values.append(listed[0] if isinstance(listed, list) and listed else listed)
    return next((int(value) for value in values if str(value).isdecimal()), 2)


# --------------------------------------------------------------------------------------------------------------- hyper-parameters

def _parameters(job: Job, tasks: Sequence[str], manifest: str, object_type: int) -> Dict[str, Any]:
    """The image's defaults, and over them what the job says, in the types of the image's template."""
    from ymir_exc.util import OBJECT_TYPE_FOLDERS, RESERVED_KEYS
    folder, kind = os.path.dirname(manifest), OBJECT_TYPE_FOLDERS.get(object_type, "")
    template: Dict[str, Any] = {}
    for task in reversed(tasks):    # of two templates the first task's counts
        template.update(_template([os.path.join(folder, kind, f"{task}-template.yaml"), os.path.join(folder, f"{task}-template.yaml")]))
    config = {key: value for key, value in template.items() if key not in RESERVED_KEYS}
    for key, value in job.user_values().items():
        place = f"{job.file}: {key}"
        config[key] = coerced(value, job.given[key], template.get(key), place)
        _refuse_odd(config[key], place)
    config["object_type"] = object_type
    return config


def _template(places: Sequence[str]) -> Dict[str, Any]:
    from ymir_exc._yaml import load_mapping
    path = next((path for path in places if os.path.isfile(path)), None)
    return load_mapping(path, "the image's template") if path else {}


def coerced(value: Any, given: Any, example: Any, place: str) -> Any:
    """A hyper-parameter in the type that the image's template has for it; as it is where that is not possible, for the program to judge.

    Args:
        value: Decoded.
        given: As it stands in hyperparameters.json: a text that looks like a number is one only where a number is wanted.
        example: The template's value; None without one.
        place: What to call it in messages.

    Raises:
        ConfigError: The template says true or false, and this is neither.
    """
    if isinstance(example, bool):
        return _bool(value, place)
    if isinstance(example, (int, float)):
        return _number(value, isinstance(example, int))
    if isinstance(example, str) and not isinstance(value, str) and value is not None:
        return given if isinstance(given, str) else json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    if isinstance(example, dict) and isinstance(value, dict):
        return {key: coerced(item, item, example.get(key), f"{place}.{key}") for key, item in value.items()}
    return value


def _bool(value: Any, place: str) -> bool:
    text = str(value).strip().lower()
    if text in _YES or text in _NO:
        return text in _YES
    raise ConfigError(f"{place}: {value!r:.80} is neither true nor false", hint="the image's template has true or false there")


def _number(value: Any, is_whole: bool) -> Any:
    if isinstance(value, str):
        try:
            value = float(value) if not is_whole or not value.strip().lstrip("+-").isdecimal() else int(value)
        except ValueError:
            return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if is_whole:
        return int(value) if math.isfinite(value) and int(value) == value else value
    return float(value) if abs(value) < 1 << 1000 else value


def _refuse_odd(value: Any, place: str) -> None:
    """What YAML or a task's arithmetic cannot take."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{place}: {value} is no number that a task can use", hint="leave it out, or put it into quotes twice for a text")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_odd(item, f"{place}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _refuse_odd(item, f"{place}[{number}]")


def _per_task(tasks: Sequence[str], weights: List[str], splits: Mapping[str, _dataset.Split]) -> Dict[str, Any]:
    if "training" in tasks:
        kind = next(iter(_dataset.formats_of(splits.values())), "")
        return {**({"export_format": f"{kind}:raw"} if kind else {}), **({"pretrained_model_params": weights} if weights else {})}
    return {"run_mining": "mining" in tasks, "run_infer": "infer" in tasks, **({"model_params_path": weights} if weights else {})}


# ---------------------------------------------------------------------------------------------------------------------- weights

def _weights(job: Job, work: str, warnings: List[str]) -> Tuple[str, List[str]]:
    """The folder of the models, and the files of the one to begin with: those of the best stage where a result.yaml tells it."""
    folder = os.path.join(work, "models")
    _files.make_folder(folder)
    channel = next((name for name in MODEL_CHANNELS if name in job.channels), None)
    if channel is None:
        return folder, []
    place = job.channels[channel]
    archive = next((path for path in (os.path.join(place, name) for name in _ARCHIVES) if os.path.isfile(path)), None)
    if archive is not None:
        from ymir_exc.platforms.ti import _archive
        files = _archive.unpack(archive, folder)
    else:
        folder, files = place, _plain_files(place)
    files = sorted(name for name in files if os.path.basename(name) not in _NO_WEIGHTS and not _is_hidden(name))
    if not files:
        warnings.append(f"channel {channel}: {place} holds no model")
    return folder, [os.path.join(folder, name) for name in _of_best_stage(folder, files)]


def _plain_files(folder: str) -> List[str]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.relpath(os.path.join(place, name), folder) for name in names]
    return found


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _of_best_stage(folder: str, files: List[str]) -> List[str]:
    """As YMIR hands in a model: one stage of it."""
    from ymir_exc._yaml import load_mapping
    try:
        result = load_mapping(os.path.join(folder, "result.yaml"))
        best = str(result["best_stage_name"])
        listed = [str(name) for name in result["model_stages"][best]["files"]]
    except (ConfigError, KeyError, TypeError):
        return files
    known = set(files)
    chosen = [next((path for path in (f"{best}/{name}", name) if path in known), "") for name in listed]
    return chosen if chosen and all(chosen) else files


def _write_yaml(path: str, value: Mapping[str, Any]) -> None:
    import yaml
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    try:
        text = yaml.dump(dict(value), Dumper=dumper, allow_unicode=True, default_flow_style=False)
        _files.write_bytes(path, text.encode("utf-8"), sync=False)
    except (UnicodeEncodeError, yaml.YAMLError) as e:
        raise ConfigError(f"a hyper-parameter cannot be written to config.yaml: {e}") from None
