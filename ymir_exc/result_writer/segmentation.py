"""infer-result.json of a segmenter: the COCO mapping that the platform takes (contract 7.3)."""
from __future__ import annotations

import math
import os
from types import TracebackType
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Type, Union

from ymir_exc import _rle
from ymir_exc.env import is_main_rank
from ymir_exc.errors import ResultError
from ymir_exc.result_writer._values import INT32, as_list, checked_class_names, checked_size, plain, to_float
from ymir_exc.result_writer.detections import write_json


class SegmentationResultWriter:
    """Collects masks and writes them at the end of the block; nothing when the block raises.

        with SegmentationResultWriter(cfg.param.class_names) as results:
            for path, masks, class_ids, scores in predictions:       # instances
                results.add(path, image_size=(width, height))
                for mask, class_id, score in zip(masks, class_ids, scores):
                    results.add_object(path, class_id, mask, score=score)

    For semantic segmentation call `add_label_map` once an image. Masks are held as run lengths, some hundred bytes each.

    Args:
        class_names: The classes, in the order that class ids count; the background is none of them.

    Raises:
        ResultError: An unknown class or image, a mask of another size than its image, a score that is not finite, an image of a name
            that was added before.
        StorageError: It cannot be written; the earlier file stays.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = checked_class_names(class_names)
        self._class_numbers: Dict[Any, int] = {key: number for number, name in enumerate(self._class_names) for key in (number, name)}
        self._images: List[Dict[str, Any]] = []
        self._image_ids: Dict[str, int] = {}
        self._annotations: List[Dict[str, Any]] = []

    def __enter__(self) -> SegmentationResultWriter:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        if kind is None and is_main_rank():
            categories = [{"id": n, "name": name, "supercategory": "object"} for n, name in enumerate(self._class_names)]
            write_json({"images": self._images, "categories": categories, "annotations": self._annotations})

    def add(self, path: str, image_size: Tuple[int, int]) -> None:
        """Add an image; it may stay without objects.

        Args:
            path: The image, as in the candidate index.
            image_size: (width, height) in pixels.
        """
        name = os.path.basename(os.fspath(path))
        width, height = checked_size(name, image_size)
        if name in self._image_ids:
            raise ResultError(f"the image {name} was added before", hint="the platform knows images by their file name alone")
        self._image_ids[name] = len(self._images) + 1
        self._images.append({"id": len(self._images) + 1, "file_name": name, "width": width, "height": height})

    def add_object(self, path: str, class_id: Union[int, str], mask: Any, *, score: Optional[float] = None, is_crowd: bool = False) -> bool:
        """Add one object of an image that was added before.

        Args:
            path: The image.
            class_id: Index into class_names, or the name itself.
            mask: `(H, W)` bool or numbers; or polygons `[[x, y, x, y, ...], ...]` in pixels, lists or arrays; or run lengths
                `{'size': [H, W], 'counts': ...}`, compressed or not.
            score: How sure the model is; left out when None.
            is_crowd: COCO's iscrowd; 1 for semantic segmentation by convention.

        Returns:
            False for a mask without a pixel, which is left out: the platform would drop it.
        """
        image = self._image(path)
        rle = self._run_lengths(image, mask)
        x, y, w, h = _rle.bbox(rle)
        if w < 1 or h < 1:
            return False
        made = {"id": len(self._annotations) + 1, "image_id": image["id"], "category_id": self._class(image, class_id),
                "iscrowd": int(is_crowd), "bbox": [x, y, w, h], "area": _rle.area(rle), "segmentation": rle}
        if score is not None:
            made["confidence"] = _finite(image, score)
        self._annotations.append(made)
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
        array = _rle.as_array(labels)
        if array.ndim != 2 or not array.size:
            raise ResultError(f"{path}: a label map must be (H, W), is {array.shape}")
        if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not (np.isfinite(array) & (np.rint(array) == array)).all()):
            raise ResultError(f"{path}: a label map must hold whole numbers", hint="indices into class_names")
        ignored = {background} if background is None or isinstance(background, (int, float)) else set(as_list(background))
        self.add(path, (array.shape[1], array.shape[0]))
        found = [label for label in map(int, np.unique(array)) if label not in ignored]
        return sum(self.add_object(path, label, array == label, is_crowd=True) for label in found)

    def _image(self, path: str) -> Dict[str, Any]:
        name = os.path.basename(os.fspath(path))
        if name not in self._image_ids:
            raise ResultError(f"the image {name} was not added", hint="call add() first")
        return self._images[self._image_ids[name] - 1]

    def _class(self, image: Mapping[str, Any], class_id: Any) -> int:
        key = plain(class_id)
        if isinstance(key, list) and len(key) == 1:    # an array of one element
            key = key[0]
        if not isinstance(key, (int, float, str)) or key not in self._class_numbers:
            raise ResultError(f"{image['file_name']}: class {class_id!r:.80} is none of the {len(self._class_names)} classes")
        return self._class_numbers[key]

    def _run_lengths(self, image: Mapping[str, Any], mask: Any) -> Dict[str, Any]:
        """Compressed run lengths: the platform's import fails for several polygons, and for uncompressed ones."""
        size = [image["height"], image["width"]]
        try:
            if isinstance(mask, Mapping):
                counts, height, width = _rle._checked(mask)
                rle = {"size": [height, width], "counts": _rle.counts_to_text(counts)}
            elif isinstance(mask, (list, tuple)) and _are_polygons(as_list(mask), size):
                rle = _rle.from_polygons(as_list(mask), size[0], size[1])
            else:
                rle = _rle.encode(mask)
        except (ValueError, KeyError, TypeError, OverflowError, RuntimeError) as e:
            raise ResultError(f"{image['file_name']}: the mask cannot be used: {e}") from None
        if list(rle["size"]) != size:
            raise ResultError(f"{image['file_name']}: the mask is {rle['size']}, the image {size} (height, width)")
        return rle


def _are_polygons(rows: Sequence[Any], size: Sequence[int]) -> bool:
    """Whether a list holds polygons, and not the rows of a mask of the image's size."""
    if not rows or not isinstance(rows[0], (list, tuple)) or len(rows[0]) < 6:
        return False
    return len(rows) != size[0] or any(len(row) != size[1] for row in rows)


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


def _finite(image: Mapping[str, Any], score: Any) -> float:
    number = to_float(score)
    if number is None or not math.isfinite(number):
        raise ResultError(f"{image['file_name']}: the score is {score!r}", hint="scores must be finite")
    return number
