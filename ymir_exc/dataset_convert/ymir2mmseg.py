"""Label masks for semantic segmentation, and the question whether unlabelled pixels are a class of their own.

A dataset "has blank area" when not every pixel belongs to a class. Then one trains either with a background class before the others, or
with the blank pixels ignored; `train_with_black_area_or_not` decides, and `convert_ymir_to_mmseg` writes masks to match.
"""
from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

from ymir_exc import _files, _rle
from ymir_exc._annotations import CocoIndex, LabelledObject, format_of
from ymir_exc.dataset_convert import _publish
from ymir_exc.dataset_convert._image_size import image_size
from ymir_exc.dataset_convert._inputs import Inputs, fingerprint, labelled_data
from ymir_exc.dataset_reader import read_index
from ymir_exc.errors import ConfigError, DatasetError, ImageError

if TYPE_CHECKING:
    import numpy as np

    IdMask = np.ndarray[Any, np.dtype[Any]]

Colour = Tuple[int, int, int]

BACKGROUND, IGNORED = 0, 255
"""The value of blank pixels with a background class, and without."""

_MAX_CLASSES = 254
_ENVIRONMENT_KEY = "WITH_BLANK_AREA"
_OF = "WITH_BLANK_AREA_OF"
_NO_CLASS = -1
_LABELMAP_LINE = re.compile(r"(.+?)\s*:\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*:.*")


def find_blank_area_in_dataset(ymir_cfg: Any, max_sample_num: int = 100) -> bool:
    """Whether the training set has pixels that belong to no class.

    Args:
        ymir_cfg: What `util.get_merged_config()` returned; export_format must be seg-coco, or the masks of platform 2.0.
        max_sample_num: How many images to look at, evenly spread over the index: every process looks at the same ones.

    Raises:
        ConfigError: The annotations are no masks.
        DatasetError: The training set is empty, or an annotation is malformed.
    """
    inputs = labelled_data(ymir_cfg)
    label_ids = _label_source(inputs, str(ymir_cfg.ymir.input.annotations_dir))
    return any((label_ids(asset, annotation) == _NO_CLASS).any() for asset, annotation in _sample(inputs.splits["train"], max_sample_num))


def train_with_black_area_or_not(ymir_cfg: Any, max_sample_num: int = 100) -> bool:
    """Whether to train with a background class for unlabelled pixels.

    The hyper-parameter `ignore_blank_area` says no; else the environment variable WITH_BLANK_AREA decides, if it is true or false; else
    the dataset does. The answer is left in that variable for child processes, with another one that says for which dataset it holds.

    Args:
        ymir_cfg: What `util.get_merged_config()` returned.
        max_sample_num: As for `find_blank_area_in_dataset`.

    Raises:
        ConfigError, DatasetError: As `find_blank_area_in_dataset`.
    """
    from ymir_exc import util
    if util.get_bool(ymir_cfg, "ignore_blank_area", False):
        return False
    given, of = os.environ.get(_ENVIRONMENT_KEY, "").strip().lower(), os.environ.get(_OF)
    if of is None and given in ("true", "false"):
        return given == "true"
    key = fingerprint(labelled_data(ymir_cfg), "blank", max_sample_num)
    if of != key or given not in ("true", "false"):
        given = str(find_blank_area_in_dataset(ymir_cfg, max_sample_num)).lower()
        os.environ[_ENVIRONMENT_KEY], os.environ[_OF] = given, key
    return given == "true"


def convert_ymir_to_mmseg(ymir_cfg: Any) -> Dict[str, str]:
    """Write the training and the validation set as label masks, or find them written.

    Every rank may call this, at once and again: one builds, the others wait for it. A mask is a PNG of one byte a pixel. With a background
    class (see `train_with_black_area_or_not`) blank pixels are 0 and class i is i + 1; without one they are 255 and class i is i.

    Args:
        ymir_cfg: What `util.get_merged_config()` returned; export_format must be seg-coco, or the masks of platform 2.0.

    Returns:
        `{"train": index file, "val": index file}`; a line is the image's path, a tab, and the mask's.

    Raises:
        ConfigError: The annotations are no masks, there are too many classes for a byte, or Pillow is missing.
        DatasetError: An index file or an annotation is malformed.
        StorageError: The masks cannot be written.
    """
    inputs = labelled_data(ymir_cfg)
    if len(inputs.class_names) > _MAX_CLASSES:
        raise ConfigError(f"{len(inputs.class_names)} classes do not fit into one byte a pixel", hint=f"at most {_MAX_CLASSES} do")
    background = train_with_black_area_or_not(ymir_cfg)
    parent = os.path.abspath(os.path.join(ymir_cfg.ymir.output.root_dir, "ymir_dataset"))
    folder, key = os.path.join(parent, "mmseg"), fingerprint(inputs, "mmseg", background)
    if _publish.key_of(folder) != key:
        _files.make_folder(parent)
        with _files.lock(parent):
            if _publish.key_of(folder) != key:    # another rank made it meanwhile
                label_ids = _label_source(inputs, str(ymir_cfg.ymir.input.annotations_dir))
                _build(folder, key, inputs, lambda asset, annotation: _grey(label_ids(asset, annotation), background))
    return {split: os.path.join(folder, f"{split}-index.tsv") for split in inputs.splits}


def convert_rgb_to_label_id(rgb_img: Any, palette_dict: Mapping[Any, Any], dtype: Any = "uint8") -> IdMask:
    """Turn colours into label ids.

    Args:
        rgb_img: `(H, W, 3)` uint8.
        palette_dict: Label id to (r, g, b), or (r, g, b) to label id.
        dtype: Of the result.

    Returns:
        `(H, W)`; 0 where the colour is not in the palette.

    Raises:
        ValueError: rgb_img has another shape.
    """
    palette = {(tuple(key) if isinstance(key, (tuple, list)) else tuple(value)): (value if isinstance(key, (tuple, list)) else key)
               for key, value in palette_dict.items()}
    return _ids_of_colours(rgb_img, palette, BACKGROUND).astype(dtype)


def save_rgb_to_label_id(rgb_file: str, label_file: str, palette_dict: Mapping[Any, Any], dtype: Any = "uint8") -> None:
    """Read a colour mask and write its label ids as a PNG; see `convert_rgb_to_label_id`.

    Raises:
        ImageError: The colour mask cannot be read.
        StorageError: The PNG cannot be written.
    """
    ids = convert_rgb_to_label_id(_read_rgb(rgb_file), palette_dict, dtype)
    _files.make_folder(os.path.dirname(os.path.abspath(label_file)))
    _files.write_bytes(label_file, _png(ids), sync=False)


# ------------------------------------------------------------------------------------------------------------------------- reading

def _sample(index: str, most: int) -> Iterator[Tuple[str, str]]:
    """At most `most` items, evenly spread."""
    count = sum(1 for _ in read_index(index))
    if not count:
        raise DatasetError(f"{index} lists no image", hint="choose a training set that is not empty")
    chosen = {i * count // most for i in range(most)} if count > most else range(count)
    for position, item in enumerate(read_index(index)):
        if position in chosen:
            yield item


def _label_source(inputs: Inputs, annotations_dir: str) -> Callable[[str, str], IdMask]:
    """A function of image and annotation path that gives class ids, `(H, W)`, -1 where no class is."""
    _, annotation = next(_sample(inputs.splits["train"], 1))
    if annotation.lower().endswith(".png"):
        palette = _read_labelmap(os.path.join(annotations_dir, "labelmap.txt"), inputs.class_names)
        return lambda _, mask: _ids_of_colours(_read_rgb(mask), palette, _NO_CLASS)
    if format_of(inputs.export_format, annotation) != "coco":
        raise ConfigError(f"export_format {inputs.export_format!r} has no masks", hint="train with seg-coco:raw")
    indices: Dict[str, CocoIndex] = {}

    def label_ids(asset: str, annotation: str) -> IdMask:
        where = f"{annotation}: image {os.path.basename(asset)}"
        if not annotation:    # the index has no second column here
            width, height = image_size(asset)
            return _ids_of_objects((), height, width, where)
        if annotation not in indices:
            indices[annotation] = CocoIndex(annotation, inputs.class_names)
        index = indices[annotation]
        width, height = index.size(asset) or image_size(asset)
        return _ids_of_objects(index.objects(asset), height, width, where)

    return label_ids


def _ids_of_objects(objects: Sequence[LabelledObject], height: int, width: int, where: str) -> IdMask:
    """Of objects that overlap the later one wins."""
    import numpy as np
    ids = np.full((height, width), _NO_CLASS, np.int16)
    for found in objects:
        if found.segmentation is None:
            continue
        try:
            rle = found.segmentation if isinstance(found.segmentation, dict) else _rle.from_polygons(found.segmentation, height, width)
            mask = _rle.decode(rle)
        except ValueError as e:
            raise DatasetError(f"{where}: {e}") from None
        if mask.shape != ids.shape:
            raise DatasetError(f"{where}: a mask has {mask.shape[0]} x {mask.shape[1]} pixels, the image {height} x {width}")
        ids[mask] = found.class_id
    return ids


def _read_labelmap(path: str, class_names: List[str]) -> Dict[Colour, int]:
    """Lines of `name:r,g,b::` (contract 5.5) as colour to class id; classes that class_names lacks are left out."""
    try:
        with open(path, encoding="utf-8-sig") as f:
            lines = [line.strip() for line in f]
    except (OSError, UnicodeDecodeError) as e:
        raise DatasetError(f"cannot read {path}: {e}", hint="masks need it to tell which colour is which class") from None
    palette: Dict[Colour, int] = {}
    for number, line in enumerate(lines, 1):
        match = _LABELMAP_LINE.fullmatch(line)
        if match is None and line and not line.startswith("#"):
            raise DatasetError(f"{path}, line {number}: {line!r} is not of the form name:r,g,b::")
        if match is not None and match.group(1) in class_names:
            red, green, blue = (int(match.group(i)) for i in (2, 3, 4))
            palette[red, green, blue] = class_names.index(match.group(1))
    return palette


def _read_rgb(path: str) -> IdMask:
    """`(H, W, 3)` uint8."""
    import numpy as np
    try:
        with _pillow().open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as e:
        raise ImageError(f"{path} cannot be read as an image: {e}") from None


def _ids_of_colours(rgb: Any, palette: Mapping[Any, int], other: int) -> IdMask:
    import numpy as np
    colours = np.asarray(rgb)
    if colours.ndim != 3 or colours.shape[2] != 3:
        raise ValueError(f"a colour mask must be (H, W, 3), is {colours.shape}")
    packed = (colours.astype(np.int32) * np.array([1 << 16, 1 << 8, 1], np.int32)).sum(axis=2)
    ids = np.full(packed.shape, other, np.int64)
    for (red, green, blue), label in palette.items():
        ids[packed == (int(red) << 16 | int(green) << 8 | int(blue))] = label
    return ids


# ------------------------------------------------------------------------------------------------------------------------- writing

def _grey(ids: IdMask, background: bool) -> bytes:
    """The PNG of a mask, with class ids moved up by the background class."""
    import numpy as np
    shift, blank = (1, BACKGROUND) if background else (0, IGNORED)
    return _png(np.where(ids == _NO_CLASS, blank, ids + shift).astype(np.uint8))


def _png(ids: IdMask) -> bytes:
    buffer = io.BytesIO()
    _pillow().fromarray(ids).save(buffer, "PNG")
    return buffer.getvalue()


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ConfigError("masks need Pillow, which is not installed", hint="pip install Pillow") from None
    return Image


def _build(folder: str, key: str, inputs: Inputs, mask_of: Callable[[str, str], bytes]) -> None:
    with _publish.new_folder(folder, key) as building:
        for split, index in inputs.splits.items():
            lines = []
            for asset, annotation in read_index(index):
                name = os.path.join("masks", _relative(asset, inputs.assets_dir))
                os.makedirs(os.path.join(building, os.path.dirname(name)), exist_ok=True)
                _publish.write_new(os.path.join(building, name), mask_of(asset, annotation))
                lines.append(f"{asset}\t{os.path.join(folder, name)}\n")
            _publish.write_new(os.path.join(building, f"{split}-index.tsv"), "".join(lines).encode())


def _relative(asset: str, assets_dir: str) -> str:
    """The mask's name: the image's below the assets folder, else its last part."""
    path = os.path.relpath(asset, assets_dir)
    return os.path.splitext(os.path.basename(asset) if path.startswith("..") else path)[0] + ".png"
