"""A task as a job of Tencent TI: the tree that is bound at /opt/ml, and the command that starts the image (its contract 1.1 and 1.2).

`opt-ml/` of a row's folder is the tree. `as-out/` beside it shows the same to what reads YMIR's `out/`: links, and the log.
"""
from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import yaml

from ymir_exc import _files
from ymir_exc._yaml import load_mapping
from ymir_exc.errors import WeightsError
from ymir_exc.host.check._opt_ml import is_empty
from ymir_exc.host.verify import _layout
from ymir_exc.host.workspace import Workspace

TREE, VIEW, STAGED = "opt-ml", "as-out", "staged"
HOST = "algo-1"
_LOG = "ymir-executor-out.log"
_CHANNELS = {"train": "train-index.tsv", "val": "val-index.tsv", "candidate": "candidate-index.tsv"}
_SPLITS = {"training": ("train", "val")}
_BESIDE_MODELS = ("monitor.txt", "result.tsv", "infer-result.json")


def folders(root: Path, task_id: str) -> Workspace:
    """Where a job's files will be; makes nothing."""
    return Workspace(root, root / TREE / "input", root / VIEW, root / TREE / "input" / "config", "/opt/ml/input", task_id, ())


def lay_out(space: Workspace, staged: Workspace, tasks: Sequence[str], values: Mapping[str, Any], model: Optional[Path]) -> None:
    """Make the tree of a job.

    Args:
        space: Of `folders`.
        staged: The task as YMIR would have it; of it the dataset is taken.
        tasks: Its tasks.
        values: Hyper-parameters, beside those that say which task it is.
        model: What an earlier job left, see `models_of`; handed in as an archive.
    """
    tree = space.root / TREE
    for name in ("input/config", "input/data", "model", "output/data", "output/checkpoints"):
        _files.make_folder(tree / name)
    for name in ("model", "output", "output/data", "output/checkpoints"):
        (tree / name).chmod(0o777)    # whatever the uid
    channels = list(_SPLITS.get(tasks[0], ("candidate",)))
    for name in channels:
        _fill(tree / "input" / "data" / name, staged, _CHANNELS[name])
    if model is not None:
        channels.append("model")
        _pack(models_of(model), tree / "input" / "data" / "model" / "model.tar.gz")
    _describe(tree / "input" / "config", space.task_id, tasks, values, channels)
    _layout.open_to_all(tree / "input")
    _files.make_folder(space.output)
    _files.write_bytes(space.output / _LOG, b"", sync=False)
    for name in _BESIDE_MODELS:
        (space.output / name).symlink_to(Path("..", TREE, "output", "data", name))
    (space.output / "models").symlink_to(Path("..", TREE, "model"))


def models_of(left: Path) -> Path:
    """The folder of the models in what a task left: YMIR's `out`, or the tree of TI.

    Raises:
        WeightsError: There is nothing in it.
    """
    found = next((left / name for name in ("models", "model") if (left / name).is_dir()), left)
    if is_empty(found):
        raise WeightsError(f"{left} holds no model", hint="give the opt-ml folder, or the out folder, of a training that succeeded")
    return found


def show_models_in(space: Workspace, folder: str) -> None:
    """The models are in another folder beside the tree."""
    (space.output / "models").unlink()
    (space.output / "models").symlink_to(Path("..", folder))


def failure_of(space: Workspace) -> str:
    """What the job says of its failure; '' without that."""
    path = space.root / TREE / "output" / "failure"
    return path.read_bytes()[:1 << 16].decode("utf-8", "replace") if path.is_file() else ""


def argv(engine: str, space: Workspace, image: str, *, user: str, shm_size: str, network: str, gpus: str = "",
         flags: Sequence[str] = ()) -> List[str]:
    """The platform's command line, with a row's own flags before the image."""
    tree = space.root / TREE
    made = [engine, "run", "--rm", f"-v{tree / 'input'}:/opt/ml/input:ro", f"-v{tree / 'model'}:/opt/ml/model",
            f"-v{tree / 'output'}:/opt/ml/output", "--user", user]
    made += ["--gpus", f'"device={gpus}"'] if gpus else []
    made += [f"--shm-size={shm_size}", "--name", space.task_id, "--hostname", HOST, "--env", f"TRAINING_JOB_NAME={space.task_id}"]
    made += ["--network", network] if network else []
    return [*made, *flags, image, "train"]


# -------------------------------------------------------------------------------------------------------------- what is given


def _fill(channel: Path, staged: Workspace, index: str) -> None:
    """A split as a channel: its own images and annotations, an index file with relative paths, and what the dataset says of itself."""
    assets = Path(os.path.realpath(staged.input / "assets"))
    is_own = staged.root in assets.parents    # a row's own folder, whose name matters
    names = {"assets": assets.name if is_own else "assets", "annotations": "annotations"}
    _files.make_folder(channel / names["assets"])
    lines = []
    for line in (staged.input / index).read_text(encoding="utf-8").split("\n"):
        if line:
            lines.append("\t".join(_taken(path, channel, staged, names) for path in line.split("\t")))
    _files.write_bytes(channel / index, "".join(f"{line}\n" for line in lines).encode("utf-8"), sync=False)
    config = load_mapping(str(staged.input / "config.yaml"))
    told = {key: config[key] for key in ("class_names", "object_type", "export_format") if key in config}
    _files.write_bytes(channel / "config.yaml", yaml.safe_dump(told, allow_unicode=True).encode("utf-8"), sync=False)
    _files.write_bytes(channel / "classes.txt", "".join(f"{name}\n" for name in config["class_names"]).encode("utf-8"), sync=False)


def _taken(path: str, channel: Path, staged: Workspace, names: Mapping[str, str]) -> str:
    """Bring a file of the dataset into the channel, and say what it is called there; it is a second name of the same one where possible."""
    top, _, rest = path[len(staged.seen_input) + 1:].partition("/")
    if not path.startswith(f"{staged.seen_input}/") or top not in names:
        return path
    source, target = os.path.realpath(staged.input / top / rest), channel / names[top] / rest
    if os.path.isfile(source) and not target.exists():
        _files.make_folder(target.parent)
        try:
            os.link(source, target)
        except OSError:
            _files.copy_file(Path(source), target)
    return f"{names[top]}/{rest}"


def _pack(models: Path, path: Path) -> None:
    _files.make_folder(path.parent)
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1) as packed, \
            tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(models.resolve(), ".")    # in the view it is a link


def _describe(config: Path, task_id: str, tasks: Sequence[str], values: Mapping[str, Any], channels: Sequence[str]) -> None:
    """As the platform's own client sends it: each hyper-parameter is JSON in a text."""
    task = {} if list(tasks) == ["training"] else {"ymir_task": "+".join(tasks)}
    encoded = {key: json.dumps(value) for key, value in {**values, **task, "ti_job_name": task_id}.items()}
    cluster = {"current_host": HOST, "hosts": [HOST]}
    inputs: Dict[str, Any] = {name: {"TrainingInputMode": "File"} for name in channels}
    for name, value in (("hyperparameters.json", encoded), ("inputdataconfig.json", inputs),
                        ("resourceconfig.json", cluster), ("resourceConfig.json", cluster)):    # both are in use
        _files.write_bytes(config / name, json.dumps(value).encode("utf-8"), sync=False)


def clear(staged: Workspace) -> None:
    """Remove what the tree was made of."""
    shutil.rmtree(staged.root)
