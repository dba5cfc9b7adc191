"""Runs a program over a dataset folder with no container: the task's folders, the run itself, and what came out of it."""
from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import yaml

from ymir_exc import _files, _yaml
from ymir_exc._yaml import load_mapping
from ymir_exc.errors import ConfigError, YmirError
from ymir_exc.host import _signals, launch, workspace
from ymir_exc.host.findings import Finding

RUNS = "ymir-runs"
MARK_NAME = ".ymir-run"
_MARK = "ymir-exc run 1\n"
_TEMPLATE_NAMES = ("manifest.yaml", *(f"{task}-template.yaml" for task in workspace.TASKS))
_SCRIPTS = (".py", ".pyc", ".sh")


class Job(NamedTuple):
    """What is to be run.

    Attributes:
        data: A dataset in the platform's layout.
        tasks: As `workspace.prepare` takes them.
        program: The program and its arguments.
        out: The folder to make; it gets `in/` and `out/`.
        templates: The image's `img-man` folder, or None.
        params: Hyper-parameters that differ from the templates.
        model: The `out` folder of an earlier training.
        overwrite: Replace an earlier run in `out`.
    """

    data: Path
    tasks: Tuple[str, ...]
    program: Tuple[str, ...]
    out: Path
    templates: Optional[Path] = None
    params: Mapping[str, Any] = {}
    model: Optional[Path] = None
    overwrite: bool = False

    @property
    def name(self) -> str:
        """The task as people write it: `mining+infer`."""
        return "+".join(self.tasks)

    @property
    def log(self) -> Path:
        """All that the program prints."""
        return self.out / "out" / "ymir-executor-out.log"


class Result(NamedTuple):
    """How a job ended.

    Attributes:
        space: The task's folders.
        run: Status, seconds, the last record and the log.
        findings: What the checks of the output found; empty for a program that failed, whose output is not judged.
    """

    space: workspace.Workspace
    run: launch.Run
    findings: List[Finding]


def parameter(pair: str) -> Tuple[str, Any]:
    """Read `key=value` of a command line, for `argparse`; the value is YAML: `3` is a number, `[1, 2]` a list, `'3'` text.

    Raises:
        argparse.ArgumentTypeError: There is no `=`, no key, or the value is not YAML.
    """
    import argparse
    key, equals, value = pair.partition("=")
    with contextlib.suppress(ConfigError):
        if equals and key.strip():
            return key.strip(), _yaml.loads(value, key)
    raise argparse.ArgumentTypeError(f"{pair!r} is not KEY=VALUE with a value in YAML; "
                                     "text with signs of YAML goes into quotes: name='\"*.jpg\"'")


def new_folder(tasks: Sequence[str], parent: Optional[Path] = None) -> Path:
    """A folder that does not exist yet, for a run that is given none: `ymir-runs/<task>-<time>` in the working directory."""
    stem = (parent or Path(RUNS)) / f"{'+'.join(tasks)}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    path = stem
    while path.exists():
        number += 1
        path = stem.with_name(f"{stem.name}-{number}")
    return path


def program_file(program: Sequence[str]) -> Optional[Path]:
    """The file that a command line runs, past the interpreter's name: the first script in it, or the first file."""
    files = [path for path in (Path(word) for word in program if word and not word.startswith("-")) if path.is_file()]
    return next((path for path in files if path.suffix in _SCRIPTS), files[0] if files else None)


def find_templates(given: Optional[Path], program: Sequence[str]) -> Optional[Path]:
    """The image's `img-man` folder: the one given, or one beside the program or its folder, or in the working directory.

    Raises:
        ConfigError: The one given is no such folder.
    """
    if given is not None:
        if not any((given / name).is_file() for name in _TEMPLATE_NAMES):
            raise ConfigError(f"{given} is no template folder: it has none of {', '.join(_TEMPLATE_NAMES)}",
                              hint="give an image's img-man folder")
        return given
    file = program_file(program)
    beside = [file.resolve().parent, file.resolve().parent.parent] if file is not None else []
    places = [folder / "img-man" for folder in (*beside, Path.cwd())]
    return next((place for place in places if any((place / name).is_file() for name in _TEMPLATE_NAMES)), None)


def run(job: Job, on_progress: Optional[launch.OnProgress] = None) -> Result:
    """Lay out the task, run the program under the supervisor, and check what it left.

    Args:
        job: What to run.
        on_progress: See `launch.OnProgress`.

    Raises:
        ConfigError: The dataset, the templates or the folder will not do; or another run is going on in it.
        WeightsError: `job.model` holds no usable model.
        StorageError: A file cannot be written.
        Stopped: This process got SIGTERM or SIGHUP; the program was stopped before.
    """
    with _held(job), _signals.stoppable(insist=True):
        space = _prepare(job)
        done = launch.run_local(space, job.program, on_progress=on_progress)
        findings: List[Finding] = []
        if done.status == 0:
            from ymir_exc.host.check import check_output
            findings = list(check_output(space.output, given=space.input))
        return Result(space, done, findings)


def reason(done: launch.Run) -> str:
    """Why a program failed, in a line: what it or the supervisor told the platform, else its last words."""
    if done.record is not None and done.record.message:
        return done.record.message
    return next((line.strip() for line in reversed(launch.tail(done.log)) if line.strip()), f"it ended with status {done.status}")


# ------------------------------------------------------------------------------------------------------------ the folder


@contextlib.contextmanager
def _held(job: Job) -> Iterator[None]:
    """Make the run's folder, empty it where that is asked for, and keep other runs out of it."""
    root = job.out
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise ConfigError(f"{root} is not a folder", hint="choose another one for --out")
    _check_apart(job)
    existed = root.is_dir()
    _files.make_folder(root)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(fd, root)
        if any(root.iterdir()):
            _clear(root, job.overwrite)
        yield
    finally:
        os.close(fd)
        if not existed:
            with contextlib.suppress(OSError):    # it stays if anything is in it
                root.rmdir()


def _lock(fd: int, root: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another run is going on in {root}", hint="wait for its end, or choose another folder for --out") from None
    except OSError:    # a file system without locks
        pass


def _check_apart(job: Job) -> None:
    """What a run reads must not lie in what it replaces."""
    root = job.out.resolve()
    for what, path in (("dataset", job.data), ("model", job.model), ("template folder", job.templates)):
        if path is not None and root in (path.resolve(), *path.resolve().parents):
            raise ConfigError(f"the {what} {path} lies in {job.out}, which this run would fill", hint="choose another folder for --out")


def _clear(root: Path, overwrite: bool) -> None:
    """Empty the folder of an earlier run, of which it holds nothing else."""
    names = {path.name for path in root.iterdir()}
    try:
        is_ours = names <= {"in", "out", MARK_NAME} and (root / MARK_NAME).read_text(encoding="utf-8") == _MARK
    except (OSError, UnicodeDecodeError):
        is_ours = False
    if not is_ours:
        raise ConfigError(f"{root} is not empty, and holds no earlier run alone", hint="choose a new folder for --out")
    if not overwrite:
        raise ConfigError(f"{root} holds an earlier run", hint="pass --overwrite, or choose a new folder for --out")
    for name in ("out", "in", MARK_NAME):    # the mark goes last: what is left of a deletion that was cut short is ours still
        path = root / name
        try:
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
        except OSError as e:
            raise _files.storage_error(path, e) from e


def _prepare(job: Job) -> workspace.Workspace:
    """Lay out the task; nothing is left behind where that fails."""
    try:
        space = workspace.prepare(job.out, job.data, job.tasks, templates=job.templates, params=job.params, model=_out_of(job.model))
        _set_object_type(space, job.templates)
        _files.write_bytes(job.out / MARK_NAME, _MARK.encode(), sync=False)
    except BaseException as e:
        for name in ("in", "out"):
            shutil.rmtree(job.out / name, ignore_errors=True)
        if isinstance(e, OSError) and not isinstance(e, YmirError):
            raise _files.storage_error(e.filename or job.out, e) from e
        raise
    return space


def _out_of(model: Optional[Path]) -> Optional[Path]:
    """The `out` folder, also where the folder of a whole run is given."""
    if model is not None and not (model / "models").is_dir() and (model / "out" / "models").is_dir():
        return model / "out"
    return model


def _set_object_type(space: workspace.Workspace, templates: Optional[Path]) -> None:
    """The platform hands a task to images of its kind alone: where the dataset's kind is none of the image's, the image's counts."""
    if templates is None or not (templates / "manifest.yaml").is_file():
        return
    kinds = load_mapping(str(templates / "manifest.yaml"), "the image's manifest").get("object_type", 2)
    known = [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if isinstance(kind, int)]
    path = space.input / "config.yaml"
    config = load_mapping(str(path), "the task's configuration")
    if known and config.get("object_type") not in known:
        config["object_type"] = known[0]
        _files.write_bytes(path, yaml.safe_dump(config, allow_unicode=True, default_flow_style=False).encode("utf-8"), sync=False)


# ---------------------------------------------------------------------------------------------------------- what came out


def figures(result: Result) -> Dict[str, Any]:
    """What a run that succeeded left, as plain values, by task.

    Returns:
        `training`: `best`, `stages` (name to metrics), `files` of the best one. `mining`: `images`, `top` (path and score of the first
        five). `infer`: `images`, `objects`. A part whose file cannot be read is left out: the findings say why.
    """
    from ymir_exc.host.check._json_stream import BrokenJson
    out, found = result.space.output, {}
    for key, file, read in (("training", "models/result.yaml", _training), ("mining", "result.tsv", _mining),
                            ("infer", "infer-result.json", _infer)):
        if (out / file).is_file():
            with contextlib.suppress(YmirError, OSError, ValueError, KeyError, TypeError, AttributeError, BrokenJson):
                found[key] = {**read(out / file), "file": str(out / file)}
    return found


def _training(path: Path) -> Dict[str, Any]:
    name, _, files = workspace.best_stage(path.parent.parent)
    stages = load_mapping(str(path), "the training's result")["model_stages"]
    known = {"stage_name", "files", "timestamp"}
    return {"best": name, "files": [str(file) for file in files],
            "stages": {key: {metric: value for metric, value in stage.items() if metric not in known} for key, stage in stages.items()}}


def _mining(path: Path) -> Dict[str, Any]:
    top: List[List[str]] = []
    count = 0
    with path.open(encoding="utf-8") as f:
        for line in f:
            if line.strip():
                count += 1
                if len(top) < 5:
                    top.append(line.rstrip("\n").split("\t"))
    return {"images": count, "top": top}


def _infer(path: Path) -> Dict[str, Any]:
    """Counted as it is read: it may be larger than the memory."""
    from ymir_exc.host.check._json_stream import JsonStream
    counts = {"images": 0, "objects": 0}
    with path.open("rb") as f:
        stream = JsonStream(f)
        for key in stream.members():
            if key == "detection":
                for _ in stream.members():
                    image = stream.value()
                    counts["images"] += 1
                    counts["objects"] += len(image.get("boxes") or image.get("annotations") or ())
            elif key in ("images", "annotations"):
                for _ in stream.elements():
                    stream.skip()
                    counts["images" if key == "images" else "objects"] += 1
            else:
                stream.skip()
    return counts
