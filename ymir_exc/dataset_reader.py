"""What the index files list: images and, for training, their annotations.

One line an item: the image's absolute path, a tab, the annotation's absolute path (contract section 4).
"""
from __future__ import annotations

import codecs
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any, Iterator, List, NamedTuple, Sequence, Tuple

from ymir_exc.env import DatasetType as DatasetType
from ymir_exc.env import current_env
from ymir_exc.errors import DatasetError, ImageError

if TYPE_CHECKING:
    from ymir_exc._annotations import LabelledObject

_CHUNK_BYTES = 1 << 22
_log = logging.getLogger(__name__)

_INDEX_KEYS = {
    DatasetType.TRAINING: "training_index_file",
    DatasetType.VALIDATION: "val_index_file",
    DatasetType.CANDIDATE: "candidate_index_file",
}
_SPLITS = {
    "train": DatasetType.TRAINING, "training": DatasetType.TRAINING,
    "val": DatasetType.VALIDATION, "validation": DatasetType.VALIDATION,
    "candidate": DatasetType.CANDIDATE, "test": DatasetType.CANDIDATE, "infer": DatasetType.CANDIDATE,
}


class Item(NamedTuple):
    """One line of an index file.

    Attributes:
        asset: The image's absolute path.
        annotation: The annotation's absolute path; empty when the line has none.
        objects: The labelled objects; empty for a candidate.
        position: Place in the index file, from 0, blank lines not counted.
    """

    asset: str
    annotation: str
    objects: Sequence[LabelledObject]
    position: int


def index_file(dataset_type: DatasetType) -> str:
    """The index file of a dataset.

    Raises:
        KeyError: There is none for this type.
        DatasetError: env.yaml names none for this task.
    """
    key = _INDEX_KEYS[dataset_type]
    path: str = getattr(current_env().input, key)
    if not path:
        kind = DatasetType(dataset_type).name.lower()
        raise DatasetError(f"env.yaml: input.{key} is not set: this task has no {kind} set", hint="is the right task running?")
    return path


def item_paths(dataset_type: DatasetType) -> Iterator[Tuple[str, str]]:
    """Iterate over an index file.

    Args:
        dataset_type: Which one.

    Yields:
        Image path and annotation path; the second is empty when the line has one column.

    Raises:
        DatasetError: At the first `next()`: no such index file, or not text. At a line: a relative path, or no image path.
    """
    yield from read_index(index_file(dataset_type))


def read_index(path: str) -> Iterator[Tuple[str, str]]:
    """Iterate over an index file given by its path; see `item_paths`. Columns after the second and blank lines are passed over."""
    with _reading(path), open(path, encoding="utf-8-sig", newline="\n", buffering=1 << 20) as f:
        for number, line in enumerate(f, 1):
            asset, _, rest = line.rstrip("\r\n").partition("\t")
            if asset[:1] == "/":
                yield asset, rest.partition("\t")[0] if "\t" in rest else rest
            elif not line.isspace():
                raise DatasetError(f"{path}, line {number}: {asset!r} is not an absolute path",
                                   hint="each line is an absolute image path, a tab, and an annotation path")


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """Say which index file could not be read, and why."""
    try:
        yield
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist", hint="the platform writes it before it starts the container") from None
    except UnicodeDecodeError as e:
        raise DatasetError(f"{path} is not UTF-8 text: {e.reason}") from None
    except OSError as e:
        raise DatasetError(f"cannot read {path}: {e.strerror}") from None


def items_count(dataset_type: DatasetType) -> int:
    """How many items an index file lists; blank lines do not count.

    Raises:
        DatasetError: As `item_paths`, but lines are not checked.
    """
    path, count, rest = index_file(dataset_type), 0, b""
    with _reading(path), open(path, "rb", buffering=0) as f:
        while True:
            chunk = f.read(_CHUNK_BYTES)
            whole, newline, rest = (rest + chunk).rpartition(b"\n") if chunk else (rest, b"", b"")
            count += _count_lines(whole + newline)
            if not chunk:
                return count


def _count_lines(text: bytes) -> int:
    """Lines that are not blank. Nearly always each begins with a slash, which two searches tell."""
    ends = text.count(b"\n")
    if text.endswith(b"\n") and ends == text.count(b"\n/") + (text[:1] == b"/"):
        return ends
    return sum(1 for line in text.replace(codecs.BOM_UTF8, b"").split(b"\n") if line and not line.isspace())


def items(dataset_type: DatasetType, shard: Tuple[int, int] = (0, 1)) -> Iterator[Item]:
    """Iterate over an index file with its annotations parsed, in whichever format the platform exported them.

    Args:
        dataset_type: Which index file.
        shard: (rank, world_size): every world_size-th item, beginning with item rank.

    Yields:
        The items of the shard, in the order of the file.

    Raises:
        DatasetError: As `item_paths`; or an annotation is missing or malformed.
        ConfigError: config.yaml has no class_names, or an export_format nobody knows.
    """
    rank, world_size = shard
    read = None
    for position, (asset, annotation) in enumerate(item_paths(dataset_type)):
        if position % world_size != rank:
            continue
        if read is None and annotation:
            read = _annotation_reader()
        yield Item(asset, annotation, read(asset, annotation) if read and annotation else (), position)


def _annotation_reader() -> Any:
    from ymir_exc import env
    from ymir_exc._annotations import annotation_reader
    config = env.get_executor_config()
    return annotation_reader(config.get("export_format"), config.get("class_names"))


def images_count(cfg: Any, split: str) -> int:    # noqa: ARG001 - the public signature
    """How many images a split has.

    Args:
        cfg: Not read; older callers pass it.
        split: train, training, val, validation, candidate, test or infer.

    Raises:
        DatasetError: An unknown split, or as `items_count`.
    """
    return items_count(_dataset_of(split))


def bboxes_count(cfg: Any, split: str) -> int:
    """How many objects the annotations of a split hold.

    Args:
        cfg: What `util.get_merged_config()` returned.
        split: train, training, val or validation.

    Raises:
        DatasetError: An unknown split, or annotations of a format other than ark.
    """
    from ymir_exc._annotations import count_ark_objects
    dataset_type = _dataset_of(split)
    export_format = str(cfg.param.get("export_format") or "")
    if dataset_type == DatasetType.CANDIDATE or not export_format.lower().startswith(("ark:", "det-ark:")):
        raise DatasetError(f"objects cannot be counted for split {split!r} with export_format {export_format!r}",
                           hint="only training and validation sets in ark format can")
    return sum(count_ark_objects(annotation) for _, annotation in item_paths(dataset_type) if annotation)


def _dataset_of(split: str) -> DatasetType:
    if split not in _SPLITS:
        raise DatasetError(f"unknown split {split!r}", hint=f"one of {', '.join(_SPLITS)}")
    return _SPLITS[split]


def filter_broken_images(image_files: List[str]) -> List[str]:
    """The images that can be read to the end; the others are named in the log.

    Args:
        image_files: Paths.

    Returns:
        Those that decode, in the same order.
    """
    good = []
    for path in image_files:
        try:
            check_image(path)
        except ImageError as e:
            _log.warning("%s", e)
        else:
            good.append(path)
    return good


def check_image(path: str) -> Tuple[int, int]:
    """Decode an image and forget it.

    Returns:
        Width and height in pixels.

    Raises:
        ImageError: It cannot be decoded.
    """
    from PIL import Image
    try:
        with Image.open(path) as image:
            image.load()
            return image.size
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        raise ImageError(f"{os.fspath(path)} cannot be read as an image: {reason}") from None
