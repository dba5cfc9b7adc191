"""infer-result.json of a segmenter: the COCO mapping that the platform takes (contract 7.3)."""
from __future__ import annotations

import math
import os
from types import TracebackType
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Type, Union

from ymir_exc import _rle
from ymir_exc.env import is_main_rank
from ymir_exc.errors import ResultError
from ymir_exc.result_writer._values import checked_class_names, plain, to_float
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
        if name in self._image_ids:
            raise ResultError(f"the image {name} was added before", hint="the platform knows images by their file name alone")
        self._image_ids[name] = len(self._images) + 1
        self._images.append({"id": len(self._images) + 1, "file_name": name, "width": int(image_size[0]), "height": int(image_size[1])})

    def add_object(self, path: str, class_id: int, mask: Any, *, score: Optional[float] = None, is_crowd: bool = False) -> bool:
        """Add one object of an image that was added before.

        Args:
            path: The image.
            class_id: Index into class_names.
            mask: `(H, W)` bool or numbers; or a list of polygons `[[x, y, x, y, ...], ...]` in pixels; or run lengths
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

    def add_label_map(self, path: str, labels: Any, *, background: Union[int, Set[int], None] = None) -> int:
        """Add an image whose every pixel has a class: semantic segmentation.

        Args:
            path: The image.
            labels: `(H, W)` integers, indices into class_names.
            background: Labels that are no class, such as 255.

        Returns:
            How many classes have at least one pixel.
        """
        import numpy as np
        array = np.asarray(labels)
        if array.ndim != 2:
            raise ResultError(f"{path}: a label map must be (H, W), is {array.shape}")
        self.add(path, (array.shape[1], array.shape[0]))
        ignored = background if isinstance(background, (set, frozenset)) else {background}
        found = [int(label) for label in np.unique(array) if int(label) not in ignored]
        return sum(self.add_object(path, label, array == label, is_crowd=True) for label in found)

    def _image(self, path: str) -> Dict[str, Any]:
        name = os.path.basename(os.fspath(path))
        if name not in self._image_ids:
            raise ResultError(f"the image {name} was not added", hint="call add() first")
        return self._images[self._image_ids[name] - 1]

    def _class(self, image: Mapping[str, Any], class_id: int) -> int:
        if int(class_id) != class_id or not 0 <= class_id < len(self._class_names):
            raise ResultError(f"{image['file_name']}: class {class_id!r} is none of the {len(self._class_names)} classes")
        return int(class_id)

    def _run_lengths(self, image: Mapping[str, Any], mask: Any) -> Dict[str, Any]:
        """Compressed run lengths: the platform's import fails for several polygons, and for uncompressed ones."""
        size = [image["height"], image["width"]]
        try:
            if isinstance(mask, Mapping):
                counts, height, width = _rle._checked(mask)
                rle = {"size": [height, width], "counts": _rle.counts_to_text(counts)}
            elif isinstance(mask, (list, tuple)) and mask and isinstance(mask[0], (list, tuple)) and len(mask[0]) >= 6:
                rle = _rle.from_polygons(mask, size[0], size[1])
            else:
                rle = _rle.encode(mask)
        except (ValueError, KeyError, TypeError) as e:
            raise ResultError(f"{image['file_name']}: the mask cannot be used: {e}") from None
        if list(rle["size"]) != size:
            raise ResultError(f"{image['file_name']}: the mask is {rle['size']}, the image {size} (height, width)")
        return rle


def platform_coco(given: Any) -> Dict[str, Any]:
    """A COCO mapping as the platform takes it (contract 7.3).

    What has one meaning is put right: folders before file names, run lengths that are not compressed, several polygons, a missing bbox or
    area, `score` and `is_crowd` for `confidence` and `iscrowd`. An object without a pixel is left out, as the platform does.

    Raises:
        ResultError: The platform would fail the task, or lose an object.
    """
    coco = plain(given)
    if not isinstance(coco, dict):
        raise ResultError(f"a segmentation must be a COCO mapping, not a {type(given).__name__}")
    images = _by_id(coco, "images", "file_name")
    categories = _by_id(coco, "categories", "name")
    for image in images.values():
        image["file_name"] = os.path.basename(str(image["file_name"]))
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
    mask = item.get("segmentation")
    is_read = len(mask) == 1 if isinstance(mask, list) else isinstance(mask, dict) and isinstance(mask.get("counts"), str)
    try:
        if not mask:    # a box alone
            item.pop("segmentation", None)
        elif not is_read or not {"bbox", "area"} <= item.keys():
            rle = _compressed(mask, images[item["image_id"]])
            item.setdefault("bbox", list(_rle.bbox(rle)))
            item.setdefault("area", _rle.area(rle))
            item["segmentation"] = mask if is_read else rle
        _, _, w, h = (int(edge) for edge in item["bbox"])
        item.setdefault("area", w * h)
        for key, other, kind in (("confidence", "score", float), ("iscrowd", "is_crowd", int)):
            if key in item or other in item:
                item[key] = kind(item[key] if key in item else item[other])
    except (ValueError, TypeError, KeyError, OverflowError) as e:
        raise ResultError(f"{where}: {e!r:.200}", hint="an object needs bbox [x, y, w, h], or a mask to take it from") from None
    return item


def _compressed(mask: Any, image: Mapping[str, Any]) -> Dict[str, Any]:
    if isinstance(mask, list):
        return _rle.from_polygons(mask, int(image["height"]), int(image["width"]))
    counts, height, width = _rle._checked(mask)
    return {"size": [height, width], "counts": _rle.counts_to_text(counts)}


def _finite(image: Mapping[str, Any], score: Any) -> float:
    number = to_float(score)
    if number is None or not math.isfinite(number):
        raise ResultError(f"{image['file_name']}: the score is {score!r}", hint="scores must be finite")
    return number
