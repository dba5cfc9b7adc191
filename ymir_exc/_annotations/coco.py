"""The coco format: one JSON file for all images of all splits (contract 5.4)."""
from __future__ import annotations

import logging
import math
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

from ymir_exc._annotations.objects import LabelledObject, Segmentation, finite, has_extent, ids_of_names, whole
from ymir_exc.errors import DatasetError

_log = logging.getLogger(__name__)

MAX_PIXELS = 1 << 30
"""Of an image; a size beyond it is a slip, and masks of it would not fit into memory."""


class CocoIndex:
    """A coco-annotations.json, looked up by image (contract 5.4).

    The file is shared by all splits and names images without their sub-folder, so an image is found by its basename. Category ids are
    positions in class_names, whether `categories` lists them or not: the platform lists only the classes of the first dataset it
    merged. Only where names show that the ids count otherwise, as in files made elsewhere, names decide.

    Args:
        path: The file.
        class_names: Their order defines the class ids.

    Raises:
        DatasetError: The file is missing, no JSON, lacks a key, or a value is malformed.
    """

    def __init__(self, path: str, class_names: Sequence[str]) -> None:
        self.path = path
        document = _load_json(path)
        self._class_ids = self._map_categories(_entries(path, document, "categories", required=False), list(class_names))
        self._images = self._map_images(_entries(path, document, "images"))
        self._objects: Dict[Any, List[LabelledObject]] = {}
        self._fill(_entries(path, document, "annotations"))

    def __len__(self) -> int:
        """How many images the file lists."""
        return len(self._images)

    def objects(self, asset: str) -> List[LabelledObject]:
        """The objects of an image.

        Args:
            asset: Its path; only the basename counts.

        Raises:
            DatasetError: The file does not list it.
        """
        return list(self._objects.get(self._image(asset)[0], ()))

    def size(self, asset: str) -> Optional[Tuple[int, int]]:
        """Width and height in pixels as the file says, None where it does not.

        Raises:
            DatasetError: The file does not list the image.
        """
        return self._image(asset)[1]

    def _image(self, asset: str) -> Tuple[Any, Optional[Tuple[int, int]]]:
        try:
            return self._images[os.path.basename(asset)]
        except KeyError:
            raise DatasetError(f"{self.path}: images: none has the file_name {os.path.basename(asset)!r}",
                               hint="the index file and the annotations do not belong together") from None

    def _map_categories(self, categories: List[Any], class_names: List[str]) -> Dict[Any, int]:
        by_name = ids_of_names(tuple(class_names))
        named: Dict[Any, Optional[int]] = {}
        for position, category in enumerate(categories):
            try:
                key, name = _identifier(category["id"]), str(category.get("name", ""))
            except (TypeError, KeyError, ValueError, AttributeError) as e:
                raise DatasetError(f"{self.path}: categories[{position}]: {_missing(e)}") from None
            named[key] = by_name.get(name, by_name.get(name.strip().lower()))
        if all(class_id is None or class_id == category for category, class_id in named.items()):
            return {class_id: class_id for class_id in range(len(class_names))}
        return {category: class_id for category, class_id in named.items() if class_id is not None}

    def _map_images(self, images: List[Any]) -> Dict[str, Tuple[Any, Optional[Tuple[int, int]]]]:
        found: Dict[str, Tuple[Any, Optional[Tuple[int, int]]]] = {}
        for position, image in enumerate(images):
            try:
                name, size = os.path.basename(image["file_name"]), (image.get("width"), image.get("height"))
                is_size = all(type(edge) is int and edge > 0 for edge in size) and size[0] * size[1] <= MAX_PIXELS
                entry = (_identifier(image["id"]), size if is_size else None)
            except (TypeError, KeyError, ValueError, AttributeError) as e:
                raise DatasetError(f"{self.path}: images[{position}]: {_missing(e)}") from None
            if name in found:
                raise DatasetError(f"{self.path}: images[{position}]: a second image is called {name!r}",
                                   hint="images are told apart by their file names alone")
            found[name] = entry
        return found

    def _fill(self, annotations: List[Any]) -> None:
        dropped: Set[Any] = set()
        for position, annotation in enumerate(annotations):
            try:
                class_id = self._class_ids.get(annotation["category_id"])
                if class_id is None:
                    dropped.add(annotation["category_id"])
                    continue
                found = _coco_object(class_id, annotation)
                if found is not None:
                    self._objects.setdefault(annotation["image_id"], []).append(found)
            except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as e:
                raise DatasetError(f"{self.path}: annotations[{position}]: {_missing(e)}") from None
        for category in sorted(dropped, key=str):
            _log.warning("%s: objects of category %r are left out: it stands for none of class_names", self.path, category)


def _load_json(path: str) -> Dict[str, Any]:
    import json
    try:
        with open(path, "rb") as f:
            document = json.loads(f.read().decode("utf-8-sig"))
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist", hint="the index file names it") from None
    except OSError as e:
        raise DatasetError(f"cannot read {path}: {e.strerror}") from None
    except (ValueError, RecursionError) as e:
        raise DatasetError(f"{path} is not valid JSON: {e}") from None
    if not isinstance(document, dict):
        raise DatasetError(f"{path}: must be a mapping with images, categories and annotations")
    return document


def _entries(path: str, document: Dict[str, Any], key: str, required: bool = True) -> List[Any]:
    entries = document.pop(key, None)
    if entries is None and not required:
        return []
    if not isinstance(entries, list):
        raise DatasetError(f"{path}: {key}: must be a list, is {'missing' if entries is None else type(entries).__name__}")
    return entries


def _missing(error: Exception) -> str:
    """What a KeyError or TypeError over a JSON entry means."""
    if isinstance(error, KeyError):
        return f"has no {error.args[0]}"
    return str(error) if isinstance(error, ValueError) else "must be a mapping of the expected keys and types"


def _identifier(value: Any) -> Union[int, str]:
    if not isinstance(value, (int, str)):
        raise ValueError(f"id must be a number or text, is {value!r:.80}")
    return value


def _coco_object(class_id: int, annotation: Mapping[str, Any]) -> Optional[LabelledObject]:
    xmin, ymin, width, height = (whole(value) for value in _four(annotation["bbox"]))
    segmentation = segmentation_of(annotation.get("segmentation"))
    if not has_extent(xmin, ymin, xmin + width - 1, ymin + height - 1) and segmentation is None:
        return None
    return LabelledObject(class_id, xmin, ymin, xmin + width - 1, ymin + height - 1, finite(annotation.get("box_quality", -1.0)),
                          finite(annotation.get("rotate_angle", 0.0)), bool(annotation.get("iscrowd", 0)), segmentation)


def _four(bbox: Any) -> Sequence[float]:
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ValueError(f"bbox must be [x, y, width, height], is {bbox!r:.80}")
    return bbox


def segmentation_of(value: Any) -> Optional[Segmentation]:
    """None for `{}`, `[]` and null: the platform writes `{}` for objects that are only boxes."""
    if not value:
        return None
    if isinstance(value, list) and all(map(_is_ring, value)):
        return value
    if isinstance(value, dict) and isinstance(value.get("counts"), (str, list)) and len(value.get("size") or ()) == 2:
        return value
    raise ValueError("segmentation must be polygons of three points or more, or RLE with counts and size")


def _is_ring(value: Any) -> bool:
    """Whether this is a polygon: three points or more, x and y in turn."""
    try:
        return isinstance(value, list) and len(value) >= 6 and len(value) % 2 == 0 and all(map(math.isfinite, value))
    except (TypeError, OverflowError):
        return False
