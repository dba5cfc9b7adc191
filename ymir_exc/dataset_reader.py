"""What the index files list: images and, for training, their annotations.

One line an item: the image's absolute path, a tab, the annotation's absolute path (contract section 4).
"""
from __future__ import annotations

import codecs
import contextlib
import operator
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, BinaryIO, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

from ymir_exc._yaml import value_of
from ymir_exc.env import DatasetType as DatasetType
from ymir_exc.env import current_env, misspelt_as
from ymir_exc.errors import ArgumentError, DatasetError, ImageError, UnknownDatasetError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ymir_exc._annotations import LabelledObject

_CHUNK_BYTES = 1 << 16
_MAX_LINE_BYTES = 1 << 20
_HEAD_BYTES = len("/in/assets/")

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

    def arrays(self) -> Tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The objects as numpy arrays: boxes (N, 4), xmin, ymin, xmax, ymax where xmax and ymax are just outside, and class ids (N,)."""
        import numpy as np
        boxes = np.array([(one.xmin, one.ymin, one.xmax + 1, one.ymax + 1) for one in self.objects], np.float32)
        return boxes.reshape(-1, 4), np.array([one.class_id for one in self.objects], np.int64)


def index_file(dataset_type: DatasetType) -> str:
    """The index file of a dataset.

    Raises:
        UnknownDatasetError: There is none for this type; also a KeyError.
        DatasetError: env.yaml names none for this task.
    """
    key = _INDEX_KEYS.get(dataset_type) if isinstance(dataset_type, int) else None
    if key is None:
        raise UnknownDatasetError(f"there is no index file of {dataset_type!r}", hint="one of TRAINING, VALIDATION, CANDIDATE")
    path: str = getattr(current_env().input, key)
    if not path:
        kind = DatasetType(dataset_type).name.lower()
        raise DatasetError(f"env.yaml: input.{key} is not set: this task has no {kind} set",
                           hint=misspelt_as(f"input.{key}") or "is the right task running?")
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
    return chain.from_iterable(_rows_of(dataset_type))


def _rows_of(dataset_type: DatasetType) -> Iterator[Iterable[Tuple[str, str]]]:
    yield from _rows(index_file(dataset_type))


def read_index(path: str) -> Iterator[Tuple[str, str]]:
    """Iterate over an index file given by its path; see `item_paths`. Columns after the second and blank lines are passed over."""
    return chain.from_iterable(_rows(path))


def _rows(path: str) -> Iterator[Iterable[Tuple[str, str]]]:
    """The items, many at a time: a step of Python for each line is what would cost."""
    number = 1
    with _reading(path):
        for block in _blocks(path):
            assets, annotations = _plain_columns(block)
            if assets:
                yield zip(assets, annotations)
                number += len(assets)
            else:
                yield _other_rows(path, number, block.decode("utf-8"))
                number += block.count(b"\n")


def _blocks(path: str) -> Iterator[bytes]:
    """The file in pieces of whole lines, without a byte order mark."""
    with open(path, "rb", buffering=1 << 16) as f:
        if f.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            f.seek(0)
        while True:
            block = f.read(_CHUNK_BYTES)
            if not block:
                return
            rest = b"" if block.endswith(b"\n") else f.readline(_MAX_LINE_BYTES)
            if len(rest) == _MAX_LINE_BYTES and not rest.endswith(b"\n"):
                number = _lines_before(f, f.tell() - len(rest)) + 1
                raise DatasetError(f"{path}, line {number}: longer than {_MAX_LINE_BYTES >> 20} MiB", hint="is it an index file?")
            yield block + rest


def _lines_before(f: BinaryIO, end: int) -> int:
    f.seek(0)
    return sum(f.read(min(_CHUNK_BYTES, end - start)).count(b"\n") for start in range(0, end, _CHUNK_BYTES))


def _plain_columns(block: bytes) -> Tuple[List[str], Iterable[str]]:
    """The columns of lines as the platform writes them: all with one, or all with two, each an absolute path. Empty for others."""
    if b"\r" in block or not block.endswith(b"\n"):
        return [], ()
    if b"\t" not in block:
        assets = block[:-1].decode("utf-8").split("\n")
        return (assets, repeat("")) if _are_absolute(assets) else ([], ())
    body = block[:-1].replace(b"\n", b"\t\t")
    fields = body.decode("utf-8").split("\t")
    ends = len(body) + 1 - len(block)
    if len(fields) != 3 * ends + 2:
        return [], ()
    # Each inner line end left an empty field. Where none is an asset or an annotation, they fill the third places: all lines have two.
    assets, annotations = fields[::3], fields[1::3]
    return (assets, annotations) if _are_absolute(assets) and _are_absolute(annotations) else ([], ())


def _are_absolute(paths: List[str]) -> bool:
    try:
        return {path[0] for path in paths} == {"/"}
    except IndexError:    # one is empty
        return False


def _other_rows(path: str, number: int, text: str) -> Iterator[Tuple[str, str]]:
    """Line by line, and say which one is wrong."""
    for place, line in enumerate(text.split("\n"), number):
        asset, _, rest = line.rstrip("\r").partition("\t")
        annotation = rest.partition("\t")[0]
        if asset[:1] == "/" and annotation[:1] in "/":    # or it is empty
            yield asset, annotation
        elif line and not line.isspace():
            raise DatasetError(f"{path}, line {place}: {annotation if asset[:1] == '/' else asset!r} is not an absolute path",
                               hint="each line is an absolute image path, a tab, and an annotation path")


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """Say which index file could not be read, and why."""
    try:
        yield
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist", hint="the platform writes it before it starts the container") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{path}, line {_first_odd_line(path)}: not UTF-8 text", hint="is it an index file, saved as UTF-8?") from None
    except OSError as e:
        raise DatasetError(f"cannot read {path}: {e.strerror}") from None


def _first_odd_line(path: str) -> int:
    """The number of the line that is not UTF-8; a decoder that reads ahead cannot tell it."""
    with open(path, "rb") as f:
        return next((number for number, line in enumerate(f, 1) if line.decode("utf-8", "ignore").encode("utf-8") != line), 1)


def items_count(dataset_type: DatasetType) -> int:
    """How many items an index file lists; blank lines do not count.

    Raises:
        DatasetError: As `item_paths`, but lines are not checked.
    """
    path = index_file(dataset_type)
    with _reading(path):
        return sum(map(_count_lines, _blocks(path)))


def _count_lines(block: bytes) -> int:
    """Lines that are not blank. Nearly always all begin as the first one does, and often have its length; few searches tell."""
    ends = len(block.replace(b"\n", b"\n\n")) - len(block)    # several times as quick as bytes.count
    if block.endswith(b"\n") and block.startswith(b"/"):
        width, head = block.index(b"\n") + 1, block[:_HEAD_BYTES]
        if ends * width == len(block) and block[::width] == b"/" * ends and block[width - 1::width] == b"\n" * ends:
            return ends
        if block.count(b"\n" + head) == ends - 1:
            return ends
    return sum(1 for line in block.split(b"\n") if line[:1] == b"/" or (line and not line.decode("utf-8", "replace").isspace()))


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
        ArgumentError: shard is none.
    """
    rank, world_size = _checked_shard(shard)
    read = None
    for position, (asset, annotation) in enumerate(item_paths(dataset_type)):
        if position % world_size != rank:
            continue
        if read is None and annotation:
            read = _annotation_reader()
        yield Item(asset, annotation, read(asset, annotation) if read and annotation else (), position)


def _checked_shard(shard: Tuple[int, int]) -> Tuple[int, int]:
    try:
        rank, world_size = map(operator.index, shard)
        if 0 <= rank < world_size:
            return rank, world_size
    except (TypeError, ValueError):
        pass
    raise ArgumentError(f"shard must be (rank, world_size) with 0 <= rank < world_size, not {shard!r}")


def _annotation_reader() -> Any:
    from ymir_exc import env
    from ymir_exc._annotations import annotation_reader, class_names_of
    config = env.get_executor_config()
    return annotation_reader(value_of(config, "export_format"), class_names_of(config))


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
    export_format = str(value_of(cfg.param, "export_format") or "")
    if dataset_type == DatasetType.CANDIDATE or not export_format.lower().startswith(("ark:", "det-ark:")):
        raise DatasetError(f"objects cannot be counted for split {split!r} with export_format {export_format!r}",
                           hint="only training and validation sets in ark format can")
    return sum(count_ark_objects(annotation) for _, annotation in item_paths(dataset_type) if annotation)


def _dataset_of(split: str) -> DatasetType:
    if not isinstance(split, str) or split not in _SPLITS:
        raise DatasetError(f"unknown split {split!r}", hint=f"one of {', '.join(_SPLITS)}")
    return _SPLITS[split]


def filter_broken_images(image_files: List[str]) -> List[str]:
    """The images that can be read to the end; the others are named in the log.

    Args:
        image_files: Paths.

    Returns:
        Those that decode, in the same order.
    """
    import logging
    good = []
    for path in image_files:
        try:
            check_image(path)
        except ImageError as e:
            logging.getLogger(__name__).warning("%s", e)
        else:
            good.append(path)
    return good


def check_image(path: str) -> Tuple[int, int]:
    """Decode an image and forget it.

    Returns:
        Width and height in pixels, as they are stored.

    Raises:
        ImageError: It cannot be decoded.
    """
    from ymir_exc.images import opened
    with opened(path) as image:
        image.load()
        size: Tuple[int, int] = image.size
        return size
