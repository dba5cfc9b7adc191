"""Writes a small object detection dataset in the platform's layout, to try an image on without a platform.

The pictures are drawn: gears, fish and mugs of all sizes, colours and poses among shapes that are no class. They are
made to be learnable in a minute, yet not trivial, and uneven (55 / 28 / 17 % of the objects), so that mining has
something to find. What a program sees lies under ``in/`` (contract sections 1.2, 2 to 5); the labels of the candidates,
which no program may see, lie under ``truth/``.
"""
from __future__ import annotations

import hashlib
import io
import json
import os
import re
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

import yaml

from ymir_exc import _files
from ymir_exc.errors import ConfigError
from ymir_exc.host import _export, _shapes
from ymir_exc.host._export import EXPORT_FORMATS, ExportedImage

CLASS_NAMES: Tuple[str, ...] = _shapes.CLASS_NAMES
DEFAULT_TASK_ID = "t0100001000001" + 16 * "0"  # built like the web's: type, subtask, count, reserve, user, repo, hex
MARK_NAME = ".ymir-sample"

_MARK_HEADER = "ymir-exc sample 1"
_TASK_ID = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_MIN_SIZE = 64
_JPEG_QUALITY = 92
_PNG_EVERY = 10  # picture 7, 17, 27, ... of a split is a .png
_PENDING = 1

Progress = Callable[[int, int], None]


class SampleSummary(NamedTuple):
    """What `write_sample` wrote.

    Attributes:
        out: the folder.
        images: number of pictures by split: ``train``, ``val``, ``candidate``.
        objects: number of objects by split and class name.
        in_root: the folder ``in`` as the index files and env.yaml call it.
        export_format: ``ark``, ``voc`` or ``coco``.
    """
    out: Path
    images: Dict[str, int]
    objects: Dict[str, Dict[str, int]]
    in_root: str
    export_format: str


class _Plan(NamedTuple):
    """The checked arguments of `write_sample`."""
    out: Path
    counts: Dict[str, int]
    seed: int
    export_format: str
    size: int
    in_root: str
    task_id: str

    def seen(self, folder: str) -> str:
        """The path of ``in``, ``out`` or ``truth`` as the program sees it."""
        return self.in_root if folder == "in" else str(PurePosixPath(self.in_root).parent / folder)


def write_sample(out: Path, *, images: int = 400, seed: int = 0, export_format: str = "ark", size: int = 192,
                 in_root: Optional[str] = None, task_id: str = DEFAULT_TASK_ID, candidates: Optional[int] = None,
                 overwrite: bool = False, on_progress: Optional[Progress] = None) -> SampleSummary:
    """Write the dataset: ``in/`` and ``out/`` as they stand before a training, and ``truth/`` beside them.

    A quarter of ``images`` is the val set (at least one of two or more), the rest is the train set; with the defaults
    300 train, 100 val and 100 candidates. Each picture depends on the seed, its split and its number alone: asking for
    more leaves the earlier ones as they were. The same arguments give the same bytes with the same builds of Pillow and
    numpy; the bytes of a JPEG, and with them its name, are up to its encoder.

    Train and val: 8 % of the pictures show no object, the others 1 to 5, of which 55 % are gears, 28 % fish, 17 % mugs.
    Candidates: half show nothing or gears alone, a third are like the above, and 15 % are rich in fish and mugs.
    A box is the tight one around the pixels that can be seen; of each object at least 70 % can.

    ``in/env.yaml`` is written last: a folder without it is half-made, and the next call makes it anew.

    Args:
        out: The folder to write; made with its parents where missing.
        images: Number of labelled pictures, train and val together.
        seed: 0 or more.
        export_format: ``ark``, ``voc`` or ``coco``.
        size: Side of the square pictures in pixels, 64 or more. Objects grow with it: 36 to 100 pixels at 192.
        in_root: What the index files and env.yaml call ``out/in``: ``/in``, as in a container, or the absolute path of
            that folder where programs run without one. ``out`` and ``truth`` are its siblings.
        task_id: For env.yaml, config.yaml and monitor.txt: letters, digits, ``_``, ``-``, ``.``.
        candidates: Number of unlabelled pictures for mining; a quarter of ``images`` by default.
        overwrite: Replace an earlier, finished sample in ``out``. Only files that it wrote are removed.
        on_progress: Called with the number of pictures made so far and in all.

    Raises:
        ConfigError: An argument is wrong, ``out`` holds something else than an earlier sample, or numpy or Pillow is
            missing.
        StorageError: A file cannot be written.
    """
    plan = _check(Path(out), images, candidates, seed, export_format, size, in_root, task_id)
    draw = _import_drawing()
    _clear(plan.out, overwrite)
    tree = _Tree(plan)
    total, made = sum(plan.counts.values()), 0
    splits: Dict[str, List[ExportedImage]] = {}
    for split, count in plan.counts.items():
        splits[split] = []
        for index in range(count):
            splits[split].append(_write_image(tree, draw, split, index))
            made += 1
            if on_progress is not None:
                on_progress(made, total)
    _write_annotations(tree, "in", splits["train"], splits["val"])
    _write_annotations(tree, "truth", splits["candidate"])
    _write_out(tree)
    _write_indices(tree, splits)
    tree.write("in/config.yaml", _yaml(_config(plan)))
    tree.write("in/env.yaml", _yaml(_env(plan)))
    return SampleSummary(plan.out, dict(plan.counts), {s: _count_objects(i) for s, i in splits.items()}, plan.in_root,
                         plan.export_format)


def _check(out: Path, images: int, candidates: Optional[int], seed: int, export_format: str, size: int,
           in_root: Optional[str], task_id: str) -> _Plan:
    """Check every argument before anything is touched."""
    if candidates is None:
        candidates = max(images, 0) // 4
    for name, value in (("images", images), ("candidates", candidates), ("seed", seed)):
        if value < 0:
            raise ConfigError(f"{name} is {value}; it cannot be negative")
    if size < _MIN_SIZE:
        raise ConfigError(f"size is {size} pixels; the smallest picture that the objects fit in has {_MIN_SIZE}")
    if export_format not in EXPORT_FORMATS:
        raise ConfigError(f"unknown annotation format {export_format!r}", hint=f"one of {', '.join(EXPORT_FORMATS)}")
    if not _TASK_ID.fullmatch(task_id):
        raise ConfigError(f"task_id {task_id!r} does not suit monitor.txt", hint="use letters, digits and underscores")
    root = "/in" if in_root is None else str(PurePosixPath(in_root))
    if not root.startswith("/") or root == "/" or re.search(r"[\t\r\n]", root):
        raise ConfigError(f"in_root {in_root!r} is not the absolute path of a folder", hint="leave it out for /in")
    val = max(images // 4, 1 if images > 1 else 0)
    counts = {"train": images - val, "val": val, "candidate": candidates}
    return _Plan(out, counts, seed, export_format, size, root, task_id)


def _import_drawing() -> ModuleType:
    try:
        from ymir_exc.host import _draw
    except ModuleNotFoundError as e:
        raise ConfigError(f"drawing the sample dataset needs {e.name}, which is not installed",
                          hint='pip install "ymir-exc[host]"') from e
    return _draw


# ------------------------------------------------------------------------------------------------- the folder


class _Tree:
    """Writes files under the dataset's folder, and notes each in the mark file before it does."""

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self._mark = plan.out / MARK_NAME
        self._folders: Set[Path] = set()
        self.make_folder("")
        arguments = {name: value for name, value in plan._asdict().items() if name != "out"}
        head = f"{_MARK_HEADER}\n{json.dumps(arguments, sort_keys=True)}\n"
        _files.write_bytes(self._mark, head.encode(), sync=False)
        for folder in ("in/assets", "in/annotations", "in/models", "in/predictions", "truth/annotations"):
            self.make_folder(folder)

    def make_folder(self, name: str) -> Path:
        """Make a folder, ``name`` relative to the dataset's folder."""
        path = self.plan.out / name
        if path not in self._folders:
            _files.make_folder(path)
            self._folders.add(path)
        return path

    def write(self, name: str, content: str) -> None:
        """Write a text file, ``name`` relative to the dataset's folder."""
        self.write_bytes(name, content.encode("utf-8"))

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file, ``name`` relative to the dataset's folder."""
        folder, _, base = name.rpartition("/")
        with self._mark.open("a", encoding="utf-8") as f:
            f.write(f"{name}\n")
        _files.write_bytes(self.make_folder(folder) / base, content, sync=False)


def _clear(out: Path, overwrite: bool) -> None:
    """Remove what an earlier call wrote; refuse a folder with anything else in it."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is not a folder")
    for leftover in out.glob(f".{MARK_NAME}.*"):  # of a call that was killed while it wrote its first file
        leftover.unlink()
    if not out.exists() or not any(out.iterdir()):
        return
    names = _marked_names(out)
    if names is None:
        raise ConfigError(f"{out} is not empty and holds no earlier sample", hint="choose a new folder")
    if (out / "in/env.yaml").exists() and not overwrite:
        raise ConfigError(f"{out} already holds a sample", hint="pass overwrite, or choose a new folder")
    for name in reversed(names):  # env.yaml first: from here on the sample is half-made
        if (out / name).is_file():
            (out / name).unlink()
    for folder in sorted({(out / name).parent for name in names}, reverse=True):
        _files.remove_leftovers(folder)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _marked_names(out: Path) -> Optional[List[str]]:
    """The files that an earlier call wrote, relative to ``out``, in order; None without a mark of ours."""
    try:
        lines = (out / MARK_NAME).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    if not lines or lines[0] != _MARK_HEADER:
        return None
    return [name for name in lines[2:] if re.fullmatch(r"(in|out|truth)(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+", name)]


# -------------------------------------------------------------------------------------------------- the files


def _write_image(tree: _Tree, draw: ModuleType, split: str, index: int) -> ExportedImage:
    plan = tree.plan
    picture = draw.draw_picture(plan.seed, split, index, plan.size)
    suffix = ".png" if index % _PNG_EVERY == 7 else ".jpg"
    data = _encode(picture.pixels, suffix)
    asset_id = hashlib.sha1(data).hexdigest()  # noqa: S324  # the platform's own choice of id
    name = f"assets/{asset_id[-2:]}/{asset_id}{suffix}"
    tree.write_bytes(f"in/{name}", data)
    return ExportedImage(asset_id, suffix, f"{plan.in_root}/{name}", (plan.size, plan.size), picture.boxes)


def _encode(pixels: Any, suffix: str) -> bytes:
    """The picture, ``(size, size, 3)`` uint8, as the bytes of a file."""
    from PIL import Image
    buffer = io.BytesIO()
    if suffix == ".png":
        Image.fromarray(pixels).save(buffer, "PNG")
    else:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _write_annotations(tree: _Tree, folder: str, first: List[ExportedImage], *more: List[ExportedImage]) -> None:
    """Write ``folder/annotations`` for all images given; the first list decides which categories coco knows."""
    export_format = tree.plan.export_format
    images = first + [image for split in more for image in split]
    if export_format == "coco":
        listed = {box[0] for image in first for box in image.boxes}
        tree.write(f"{folder}/annotations/{_export.COCO_NAME}", _export.coco_text(images, sorted(listed), CLASS_NAMES))
        return
    for image in images:
        name = _export.annotation_name(image.asset_id, export_format)
        tree.write(f"{folder}/annotations/{name}", _export.annotation_text(image, CLASS_NAMES, export_format))


def _write_indices(tree: _Tree, splits: Dict[str, List[ExportedImage]]) -> None:
    tree.write("truth/candidate-index.tsv", _index(tree.plan, "truth", splits["candidate"]))
    tree.write("in/candidate-index.tsv", "".join(f"{image.path}\n" for image in splits["candidate"]))
    for split in ("train", "val"):
        tree.write(f"in/{split}-index.tsv", _index(tree.plan, "in", splits[split]))


def _index(plan: _Plan, folder: str, images: Iterable[ExportedImage]) -> str:
    """Lines of image path, TAB, annotation path, both as the program sees them."""
    root = f"{plan.seen(folder)}/annotations"
    return "".join(f"{i.path}\t{root}/{_export.annotation_name(i.asset_id, plan.export_format)}\n" for i in images)


def _write_out(tree: _Tree) -> None:
    """Prepare ``out/`` as the platform does before a start: pending, and writable for every uid."""
    tree.write("out/monitor.txt", f"{tree.plan.task_id}\t{0:.6f}\t{0:.2f}\t{_PENDING}\n")
    folders = [tree.make_folder(name) for name in ("out", "out/models", "out/tensorboard")]
    for path in (*folders, tree.plan.out / "out/monitor.txt"):
        if path.stat().st_uid == os.geteuid():
            path.chmod(0o777)


def _config(plan: _Plan) -> Dict[str, Any]:
    return {"class_names": list(CLASS_NAMES), "export_format": f"{plan.export_format}:raw", "gpu_count": 0,
            "gpu_id": "", "object_type": 2, "task_id": plan.task_id}


def _env(plan: _Plan) -> Dict[str, Any]:
    seen_in, seen_out = plan.seen("in"), plan.seen("out")
    return {
        "protocol_version": "1.1.0", "task_id": plan.task_id, "manifest_file": "/img-man/manifest.yaml",
        "run_training": True, "run_mining": False, "run_infer": False,
        "input": {
            "root_dir": seen_in, "assets_dir": f"{seen_in}/assets", "annotations_dir": f"{seen_in}/annotations",
            "models_dir": f"{seen_in}/models", "config_file": f"{seen_in}/config.yaml",
            "training_index_file": f"{seen_in}/train-index.tsv", "val_index_file": f"{seen_in}/val-index.tsv",
            "candidate_index_file": ""},
        "output": {
            "root_dir": seen_out, "models_dir": f"{seen_out}/models", "tensorboard_dir": f"{seen_out}/tensorboard",
            "training_result_file": f"{seen_out}/models/result.yaml", "mining_result_file": f"{seen_out}/result.tsv",
            "infer_result_file": f"{seen_out}/infer-result.json", "monitor_file": f"{seen_out}/monitor.txt",
            "executor_log_file": f"{seen_out}/ymir-executor-out.log"},
    }


def _yaml(document: Dict[str, Any]) -> str:
    return str(yaml.safe_dump(document, sort_keys=True, allow_unicode=True, default_flow_style=False))


def _count_objects(images: Iterable[ExportedImage]) -> Dict[str, int]:
    boxes = [box for image in images for box in image.boxes]
    return {name: sum(box[0] == i for box in boxes) for i, name in enumerate(CLASS_NAMES)}
