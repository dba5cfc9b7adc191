"""COCO files of a training task, one for each split."""
from __future__ import annotations

import itertools
import json
import logging
import os
from typing import IO, Dict, Iterable, Iterator, List, NamedTuple

from ymir_exc import _files, _rle
from ymir_exc._annotations import LabelledObject, Reader, Segmentation, annotation_format, format_of
from ymir_exc.dataset_convert._image_size import image_size
from ymir_exc.dataset_convert._inputs import Inputs, fingerprint, labelled_data
from ymir_exc.dataset_reader import read_index
from ymir_exc.errors import ConfigError, DatasetError

_log = logging.getLogger(__name__)

_MARK = ".ymir_coco"
_BATCH = 2000


def convert_ymir_to_coco(cat_id_from_zero: bool = False) -> Dict[str, Dict[str, str]]:
    """Write the training and the validation set as COCO files, or find them written.

    Every rank may call this, at once and again: one writes, the others wait for it. The files are written anew when the datasets, the class
    names or `cat_id_from_zero` differ from what they were made of.

    In the files, image ids count from 0 and annotation ids from 1 (0 means "no match" to pycocotools' evaluation); `file_name` is
    absolute; `bbox` is [x, y, width, height] in whole pixels, not clipped to the image; `segmentation` is the box's outline where the
    platform gave neither polygon nor RLE; `bbox_quality` is 1 where nobody judged it. An image whose annotation file is missing has no
    objects, and a warning tells how many there were.

    Args:
        cat_id_from_zero: Number the categories from 0 instead of 1, in the order of class_names.

    Returns:
        `{"train": {"img_dir": ..., "ann_file": ...}, "val": {...}}`: the assets folder and `<out>/ymir_dataset/ymir_<split>.json`.

    Raises:
        ConfigError: config.yaml is wrong, or its export_format has no labels.
        DatasetError: An index file or an annotation is malformed.
        ImageError: An image's size cannot be told.
        StorageError: The files cannot be written.
    """
    from ymir_exc import util
    cfg = util.get_merged_config()
    inputs = labelled_data(cfg)
    if annotation_format(inputs.export_format) == "none":
        raise ConfigError(f"export_format {inputs.export_format!r} has no labels to convert", hint="train with ark:raw, say")
    folder = os.path.join(cfg.ymir.output.root_dir, "ymir_dataset")
    files = {split: os.path.join(folder, f"ymir_{split}.json") for split in inputs.splits}
    _make(folder, files, inputs, 0 if cat_id_from_zero else 1)
    return {split: {"img_dir": inputs.assets_dir, "ann_file": path} for split, path in files.items()}


def _make(folder: str, files: Dict[str, str], inputs: Inputs, first_category: int) -> None:
    key = fingerprint(inputs, "coco", first_category)
    mark = os.path.join(folder, _MARK)
    if _read_mark(mark) == _text(key, files):
        return
    _files.make_folder(folder)
    with _files.lock(folder):
        if _read_mark(mark) == _text(key, files):    # another rank made them meanwhile
            return
        read = inputs.reader()
        for split, path in files.items():
            _write(path, _Split(inputs.splits[split], inputs, read, first_category))
        _files.write_bytes(mark, _text(key, files).encode(), sync=False)


def _read_mark(mark: str) -> str:
    try:
        with open(mark, encoding="utf-8") as f:
            return f.read(10_000)
    except (OSError, UnicodeDecodeError):
        return ""


def _text(key: str, files: Dict[str, str]) -> str:
    """The mark of finished files: what they were made from, their sizes and times."""
    lines = [key]
    for path in files.values():
        try:
            info = os.stat(path)
            lines.append(f"{os.path.basename(path)} {info.st_size} {info.st_mtime_ns}")
        except OSError:
            lines.append("missing")
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------------------------- one COCO file

class _Split(NamedTuple):
    """What one file is made of."""

    index_file: str
    inputs: Inputs
    read: Reader
    first_category: int


def _write(path: str, split: _Split) -> None:
    """Piece by piece, in memory that does not grow with the dataset."""
    names = enumerate(split.inputs.class_names, split.first_category)
    categories = [{"id": number, "name": name, "supercategory": "object"} for number, name in names]
    with _files.open_atomic(path) as out:
        out.write(b'{"images": [')
        _write_joined(out, _images(split.index_file))
        out.write(b'], "annotations": [')
        _write_joined(out, _annotations(split))
        out.write(f'], "categories": {json.dumps(categories)}, "licenses": []}}'.encode())


def _write_joined(out: IO[bytes], texts: Iterable[str]) -> None:
    texts = iter(texts)
    separator = b""
    while True:
        batch = ", ".join(itertools.islice(texts, _BATCH))
        if not batch:
            return
        out.write(separator + batch.encode("ascii"))
        separator = b", "


def _images(index: str) -> Iterator[str]:
    for image_id, (asset, _) in enumerate(read_index(index)):
        width, height = image_size(asset)
        yield f'{{"id": {image_id}, "file_name": {json.dumps(asset)}, "width": {width}, "height": {height}}}'


def _annotations(split: _Split) -> Iterator[str]:
    annotation_id, missing = 1, 0
    for image_id, (asset, annotation) in enumerate(read_index(split.index_file)):
        try:
            objects = split.read(asset, annotation)
        except DatasetError:
            if os.path.exists(annotation) or format_of(split.inputs.export_format, annotation) == "coco":
                raise
            missing += 1
            continue
        for found in objects:
            if found.xmin > found.xmax or found.ymin > found.ymax:    # a mask without a pixel
                continue
            try:
                yield _annotation(found, annotation_id, image_id, split.first_category)
            except ValueError as e:    # of an RLE
                raise DatasetError(f"{annotation}: image {os.path.basename(asset)}: {e}") from None
            annotation_id += 1
    if missing:
        _log.warning("%s: %d annotation files do not exist: their images are taken to show no object", split.index_file, missing)


def _annotation(found: LabelledObject, annotation_id: int, image_id: int, first_category: int) -> str:
    class_id, xmin, ymin, xmax, ymax, quality, _, is_crowd, segmentation = found
    width, height = xmax - xmin + 1, ymax - ymin + 1
    area: float = width * height
    x, y = str(xmin), str(ymin)
    if segmentation is None:
        right, bottom = str(xmax + 1), str(ymax + 1)    # each is needed four times, and a number's text is what costs
        outline = f"[[{x}, {y}, {x}, {bottom}, {right}, {bottom}, {right}, {y}]]"
    else:
        area, outline = _area(segmentation), json.dumps(segmentation)
    return (f'{{"id": {annotation_id}, "image_id": {image_id}, "category_id": {class_id + first_category}, '
            f'"bbox": [{x}, {y}, {width}, {height}], "area": {area}, "segmentation": {outline}, '
            f'"iscrowd": {int(is_crowd)}, "score": 1.0, "bbox_quality": {quality if quality >= 0 else 1}}}')


def _area(segmentation: Segmentation) -> float:
    """In pixels: of RLE the number inside, of polygons the sum of their areas."""
    if isinstance(segmentation, dict):
        return _rle.area(segmentation)
    return sum(_ring_area(ring) for ring in segmentation)


def _ring_area(ring: List[float]) -> float:
    """The shoelace formula."""
    xs, ys = ring[0::2], ring[1::2]
    return abs(sum(x * ys[i - 1] - xs[i - 1] * y for i, (x, y) in enumerate(zip(xs, ys)))) / 2
