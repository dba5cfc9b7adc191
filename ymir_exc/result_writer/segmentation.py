"""infer-result.json of a segmenter: the COCO mapping that the platform takes (contract 7.3)."""
from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from types import TracebackType
from typing import IO, Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Type, Union

from ymir_exc import _files, _rle
from ymir_exc.env import current_env, is_main_rank
from ymir_exc.errors import ResultError
from ymir_exc.result_writer._values import INT32, OneBlock, as_list, checked_class_names, checked_size, image_name, plain, to_float


class _Image:
    """An image that was added."""

    __slots__ = ("height", "name", "number", "objects", "width")

    def __init__(self, name: str, number: int, width: int, height: int) -> None:
        self.name, self.number, self.width, self.height = name, number, width, height
        self.objects = 0


class SegmentationResultWriter(OneBlock):
    """Writes masks as they arrive; the file appears whole at the end of the block, or not at all. Of an image only its name, size and
    number stay in memory.

        with SegmentationResultWriter(cfg.param.class_names) as results:
            for path, masks, class_ids, scores in predictions:       # instances
                results.add(path, image_size=(width, height))
                for mask, class_id, score in zip(masks, class_ids, scores):
                    results.add_object(path, class_id, mask, score=score)

    For semantic segmentation call `add_label_map` once an image.

    Args:
        class_names: The classes, in the order that class ids count; the background is none of them.

    Raises:
        ResultError: An unknown class or image, a mask of another size than its image, a polygon of fewer than three points, a coordinate
            or a score that is not finite, an image of a name that was added before. It names the image, and the object by its number.
            Something is added outside of the block.
        StorageError: It cannot be written; the earlier file stays.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = checked_class_names(class_names)
        self._class_numbers: Dict[Any, int] = {key: number for number, name in enumerate(self._class_names) for key in (number, name)}
        self._images: Dict[str, _Image] = {}
        self._count = 0
        self._stack = contextlib.ExitStack()
        self._file: Optional[IO[bytes]] = None

    def __enter__(self) -> SegmentationResultWriter:
        self._begin_block()
        if is_main_rank():
            path = current_env().output.infer_result_file
            _files.make_folder(os.path.dirname(path))
            self._file = self._stack.enter_context(_files.open_atomic(path, shared=True))
            self._file.write(b'{"annotations": [')
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        finally:
            self._file, self._is_inside = None, False
        self._stack.__exit__(kind, error, trace)

    def _finish(self) -> None:
        if self._file is None:
            return
        self._file.write(b'], "images": [')
        for image in self._images.values():
            self._put(image.number - 1, {"id": image.number, "file_name": image.name, "width": image.width, "height": image.height})
        categories = [{"id": n, "name": name, "supercategory": "object"} for n, name in enumerate(self._class_names)]
        self._file.write(b'], "categories": ' + json.dumps(categories).encode("ascii") + b"}")

    def _put(self, position: int, entry: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write((b", " if position else b"") + json.dumps(entry).encode("ascii"))

    def add(self, path: str, image_size: Tuple[int, int]) -> None:
        """Add an image; it may stay without objects.

        Args:
            path: The image, as in the candidate index.
            image_size: (width, height) in pixels.
        """
        self._check_inside()
        name = image_name(path)
        width, height = checked_size(name, image_size)
        if name in self._images:
            raise ResultError(f"the image {name} was added before", hint="the platform knows images by their file name alone")
        self._images[name] = _Image(name, len(self._images) + 1, width, height)

    def add_object(self, path: str, class_id: Union[int, str], mask: Any, *, score: Optional[float] = None, is_crowd: bool = False) -> bool:
        """Add one object of an image that was added before.

        Args:
            path: The image.
            class_id: Index into class_names, or the name itself.
            mask: One of these, as lists, arrays or tensors; x and y in pixels from the upper left corner of the image.

                - A mask, `(H, W)`, bool or numbers; what is not 0 is inside. Whatever has the image's shape is one.
                - A polygon: points `(N, 2)`, also `(N, 1, 2)` as OpenCV's contours are, or flat, `[x, y, x, y, ...]`.
                - Several polygons: a list of them, or `(K, N, 2)`. What is in one of them is inside.
                - Run lengths `{'size': [H, W], 'counts': ...}`, compressed or not.
            score: How sure the model is; left out when None.
            is_crowd: COCO's iscrowd; 1 for semantic segmentation by convention.

        Returns:
            False for a mask without a pixel, which is left out: the platform would drop it.
        """
        self._check_inside()
        image = self._image(path)
        image.objects += 1
        where = f"{image.name}: object {image.objects}"
        class_number, confidence = self._class(where, class_id), None if score is None else _finite(where, score)
        crowd = to_float(is_crowd)
        if crowd not in (0, 1):
            raise ResultError(f"{where}: is_crowd is {is_crowd!r:.80}", hint="True or False")
        rle = _run_lengths(where, mask, [image.height, image.width])
        x, y, w, h = _rle.bbox(rle)
        if w < 1 or h < 1:
            return False
        made = {"id": self._count + 1, "image_id": image.number, "category_id": class_number, "iscrowd": int(crowd),
                "bbox": [x, y, w, h], "area": _rle.area(rle), "segmentation": rle}
        if confidence is not None:
            made["confidence"] = confidence
        self._put(self._count, made)
        self._count += 1
        return True

    def add_label_map(self, path: str, labels: Any, *, background: Union[int, Iterable[int], None] = None) -> int:
        """Add an image whose every pixel has a class: semantic segmentation.

        Args:
            path: The image.
            labels: `(H, W)` integers, indices into class_names.
            background: A label that is no class, such as 255, or several.

        Returns:
            How many classes have at least one pixel.
        """
        import numpy as np
        name = image_name(path)
        try:
            array = _rle.as_array(labels)
            ignored = {background} if background is None or isinstance(background, (int, float)) else set(as_list(background))
        except (ValueError, TypeError, RuntimeError) as e:
            raise ResultError(f"{name}: the label map or its background ({background!r:.80}) cannot be used: {e}",
                              hint="(H, W) whole numbers, and one label or several") from None
        if array.ndim != 2 or not array.size:
            raise ResultError(f"{name}: a label map must be (H, W), is {array.shape}")
        if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not (np.isfinite(array) & (np.rint(array) == array)).all()):
            raise ResultError(f"{name}: a label map must hold whole numbers", hint="indices into class_names")
        found = [label for label in map(int, np.unique(array)) if label not in ignored]
        for number, label in enumerate(found, 1):
            self._class(f"{name}: object {number}", label)    # before anything is added
        self.add(path, (array.shape[1], array.shape[0]))
        return sum(self.add_object(path, label, array == label, is_crowd=True) for label in found)

    def _image(self, path: str) -> _Image:
        name = image_name(path)
        if name not in self._images:
            raise ResultError(f"the image {name} was not added", hint="call add() first")
        return self._images[name]

    def _class(self, where: str, class_id: Any) -> int:
        key = plain(class_id)
        if isinstance(key, list) and len(key) == 1:    # an array of one element
            key = key[0]
        if not isinstance(key, (int, float, str)) or key not in self._class_numbers:
            raise ResultError(f"{where}: class {class_id!r:.80} is none of the {len(self._class_names)} classes")
        return self._class_numbers[key]


def _run_lengths(where: str, mask: Any, size: List[int]) -> Dict[str, Any]:
    """Compressed run lengths: the platform's import fails for several polygons, and for uncompressed ones."""
    try:
        if isinstance(mask, Mapping):
            counts, height, width = _rle._checked(mask)
            rle = {"size": [height, width], "counts": _rle.counts_to_text(counts)}
        else:
            polygons = _polygons(mask, size)
            rle = _rle.encode(mask) if polygons is None else _rle.from_polygons(polygons, size[0], size[1])
    except (ValueError, KeyError, TypeError, OverflowError, RuntimeError) as e:
        raise ResultError(f"{where}: the mask cannot be used: {e}") from None
    if list(rle["size"]) != size:
        raise ResultError(f"{where}: the mask is {rle['size']}, the image {size} (height, width)")
    return rle


def _polygons(given: Any, size: Sequence[int]) -> Optional[List[Any]]:
    """The polygons, each flat, or None for a mask: bools, or what has the image's shape, or rows that hold 0 and 1 alone."""
    if not isinstance(given, (list, tuple)):
        array = _rle.as_array(given)
        if array.dtype == bool or array.shape == tuple(size) or not (array.ndim == 1 or (array.ndim < 4 and array.shape[-1:] == (2,))):
            return None
        return [_flat(part) for part in array] if array.ndim == 3 and array.shape[1] != 1 else [_flat(array)]
    if not given:
        return None
    parts = [_rle.as_array(part).tolist() if hasattr(part, "__array__") else part for part in given]
    if not all(isinstance(part, (list, tuple)) for part in parts):
        return [parts]
    if any(hasattr(value, "__len__") for part in parts for value in part[:1]):    # points
        return list(map(_flat, parts))
    if len(set(map(len, parts))) == 1:
        if (len(parts), len(parts[0])) == tuple(size) or (len(parts) > 1 and all(value in (0, 1) for part in parts for value in part)):
            return None
        if len(parts[0]) == 2:
            return [_flat(parts)]
    return parts


def _flat(polygon: Any) -> Any:
    """x, y, x, y, ... of points; what is none stays what it is."""
    import numpy as np
    try:
        points = np.asarray(polygon, float)
    except (ValueError, TypeError):
        return polygon
    return points.reshape(-1) if points.shape[1:] in ((2,), (1, 2)) else points


def platform_coco(given: Any) -> Dict[str, Any]:
    """A COCO mapping as the platform takes it (contract 7.3).

    What has one meaning is put right: folders before file names, run lengths that are not compressed, several polygons, a missing bbox or
    area, numbers as text, `score` and `is_crowd` for `confidence` and `iscrowd`. An object without a pixel is left out, as the platform
    does.

    Raises:
        ResultError: The platform would fail the task, or lose an object.
    """
    coco = plain(given)
    if not isinstance(coco, dict):
        raise ResultError(f"a segmentation must be a COCO mapping, not a {type(given).__name__}")
    images = _by_id(coco, "images", "file_name")
    categories = _by_id(coco, "categories", "name")
    names = set()
    for image in images.values():
        name = os.path.basename(_text("images", image, "file_name"))
        if not name.strip() or name in names:
            raise ResultError(f"images: file_name {image['file_name']!r:.200} {'is there twice' if name in names else 'names no file'}",
                              hint="the platform knows images by their file name alone")
        names.add(name)
        image["file_name"] = name
    for category in categories.values():
        category["name"] = _text("categories", category, "name")
    made = [_platform_object(f"annotations[{n}]", item, images, categories) for n, item in enumerate(_entries(coco, "annotations"))]
    return {**coco, "annotations": [item for item in made if item["bbox"][2] >= 1 and item["bbox"][3] >= 1]}


def _entries(coco: Mapping[str, Any], key: str) -> List[Dict[str, Any]]:
    entries = coco.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ResultError(f"the COCO mapping needs {key}: a list of mappings, not {entries!r:.80}")
    return entries


def _by_id(coco: Mapping[str, Any], key: str, name: str) -> Dict[Any, Dict[str, Any]]:
    entries = _entries(coco, key)
    if not all(isinstance(entry.get("id"), (int, str)) and name in entry for entry in entries):
        raise ResultError(f"{key}: each entry needs id and {name}")
    found = {entry["id"]: entry for entry in entries}
    if len(found) != len(entries):
        raise ResultError(f"{key}: an id is there twice", hint="the platform drops one of them")
    return found


def _platform_object(where: str, item: Dict[str, Any], images: Mapping[Any, Any], categories: Mapping[Any, Any]) -> Dict[str, Any]:
    for key, known in (("image_id", images), ("category_id", categories)):
        if not isinstance(item.get(key), (int, str)) or item[key] not in known:
            raise ResultError(f"{where}: {key} {item.get(key)!r:.80} is not among the ids", hint="the platform leaves such an object out")
    image = images[item["image_id"]]
    where = f"{image['file_name']}: {where}"
    for key, other in (("confidence", "score"), ("iscrowd", "is_crowd")):
        if item.get(key) is None:
            item.pop(key, None)
            if item.get(other) is not None:
                item[key] = item[other]
    key = "segmentation"
    try:
        rle = _platform_mask(item, image)
        if rle is not None:
            item["bbox"] = item.get("bbox") or list(_rle.bbox(rle))
            item["area"] = _rle.area(rle) if item.get("area") is None else item["area"]
        key = "bbox"
        if not isinstance(item.get(key), list) or len(item[key]) != 4:
            raise ValueError("[x, y, w, h] is needed, or a mask to take it from")
        item[key] = [_number(edge, INT32) for edge in item[key]]
        if item.get("area") is None:
            item["area"] = min(int(item[key][2]) * int(item[key][3]), INT32)
        for key, limit in (("area", INT32), ("confidence", math.inf), ("iscrowd", INT32)):
            if key in item:
                item[key] = _number(item[key], limit)
        if "iscrowd" in item:
            item["iscrowd"] = int(item["iscrowd"])
    except (ValueError, TypeError, KeyError, OverflowError) as e:
        raise ResultError(f"{where}: {key} is {item.get(key)!r:.80}: {e}") from None
    return item


def _platform_mask(item: Dict[str, Any], image: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """Bring an object's mask to a form that the platform reads: one polygon, or compressed run lengths.

    Returns:
        Its run lengths, if bbox or area must be taken from them.

    Raises:
        ValueError: It is no mask; so mean TypeError, KeyError and OverflowError.
    """
    mask = item.get("segmentation")
    if isinstance(mask, list):
        mask = [[_number(value, math.inf) for value in polygon] for polygon in mask if polygon != []]
        if any(len(polygon) < 6 or len(polygon) % 2 for polygon in mask):
            raise ValueError("a polygon needs three points or more, as x, y, x, y, ...")
    if not mask:    # a box alone
        item.pop("segmentation", None)
        return None
    is_needed = not item.get("bbox") or item.get("area") is None
    if isinstance(mask, list):
        rle = _rle.from_polygons(mask, int(image["height"]), int(image["width"])) if is_needed or len(mask) > 1 else None
        item["segmentation"] = rle if len(mask) > 1 else mask
        return rle
    if not isinstance(mask, dict):
        raise ValueError("it must be a list of polygons, or run lengths")
    if isinstance(mask.get("counts"), str) and not is_needed and "size" not in mask:    # which the platform does not read
        if not _rle.text_to_counts(mask["counts"]):
            raise ValueError("the run lengths are empty")
        return None
    counts, height, width = _rle._checked(mask)
    size = [image.get("height"), image.get("width")]
    if None not in size and [_number(edge, INT32) for edge in size] != [height, width]:
        raise ValueError(f"the mask is {[height, width]}, the image {size} (height, width)")
    rle = {"size": [height, width], "counts": _rle.counts_to_text(counts)}
    if not isinstance(mask["counts"], str):
        item["segmentation"] = rle
    return rle


def _text(where: str, entry: Mapping[str, Any], key: str) -> str:
    """Text, or a number as text."""
    value = entry[key]
    if not isinstance(value, (str, int, float)) or not str(value).strip():
        raise ResultError(f"{where}: the {key} of {entry['id']!r:.80} is {value!r:.80}", hint="the platform needs text")
    return str(value)


def _number(value: Any, limit: float) -> Union[int, float]:
    """A finite number of at most a limit; also out of text.

    Raises:
        ValueError: It is none.
    """
    number = to_float(value)
    if number is None or not math.isfinite(number) or abs(number) > limit:
        raise ValueError(f"{value!r:.40} is not a number" + (" of 32 bits" if math.isfinite(limit) else ""))
    if type(value) in (int, float):
        return value    # type: ignore[no-any-return]
    return int(number) if number.is_integer() else number


def _finite(where: str, score: Any) -> float:
    number = to_float(score)
    if number is None or not math.isfinite(number):
        raise ResultError(f"{where}: the score is {score!r}", hint="scores must be finite")
    return number
