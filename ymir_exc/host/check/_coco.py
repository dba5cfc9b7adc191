"""Judges a coco file (contract 5.4), an entry at a time: it may be larger than memory. What is kept is a line or so for each image."""
from __future__ import annotations

import codecs
import os
from array import array
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from ymir_exc._annotations.coco import MAX_PIXELS, segmentation_of
from ymir_exc._annotations.objects import finite, ids_of_names
from ymir_exc.dataset_convert._image_size import Size
from ymir_exc.host.check._annotations import DOUBLE, EXTENT, FRACTION, ORDER, THERE, Labels, box_problem, size_problem
from ymir_exc.host.check._env import absence
from ymir_exc.host.check._json_stream import BrokenJson, JsonStream
from ymir_exc.host.check._segmentation import twice
from ymir_exc.host.findings import Finding, Rule, Severity, rule

JSON = rule(
    "A340", Severity.ERROR, "A coco file is JSON, a mapping with lists of images and annotations", "A reader fails at it", "Export it anew")
IMAGE = rule(
    "A341", Severity.ERROR, "An entry of images has a file_name and an id", "A reader fails at it", "Add what is missing")
UNIQUE = rule(
    "A342", Severity.ERROR, "Each image stands once in images, with an id of its own",
    "A reader fails, or gives one image the labels of another", "Remove one of them, or rename the file")
CATEGORY = rule(
    "A343", Severity.ERROR, "An entry of categories has an id and a name", "A reader fails at it", "Add what is missing")
CLASS = rule(
    "A344", Severity.WARNING, "The name of a category is one of class_names", "Its objects are left out",
    "Add the class to class_names, or mend the name")
LISTED = rule(
    "A345", Severity.ERROR, "Each image of an index file stands in images, with an entry of its own",
    "A reader fails at the image, or gives it the labels of another",
    "Export index file and annotations together, and rename files of one name: names are compared without their folders")
CATEGORY_ID = rule(
    "A346", Severity.WARNING, "The category_id of an annotation stands for one of class_names", "The object is left out",
    "Count categories from 0, in the order of class_names")
IMAGE_ID = rule(
    "A347", Severity.WARNING, "The image_id of an annotation is that of an image", "The object is left out",
    "Add the image, or remove the annotation")
FIELDS = rule(
    "A348", Severity.ERROR, "An annotation has image_id, category_id and bbox", "A reader fails at it", "Add what is missing")
BBOX = rule(
    "A349", Severity.ERROR, "A bbox is a list of x, y, width and height, all finite, as are rotate_angle and box_quality",
    "A reader fails at it", "Write four numbers; leave the others out where nothing is known")
MASK = rule(
    "A350", Severity.ERROR, "A segmentation is polygons of three points or more, or RLE with counts and size", "A reader fails at it",
    "Write such a mask, or {} for an object that is only a box")
RLE_SIZE = rule(
    "A351", Severity.WARNING, "The size of a mask is height and width of its image", "The mask covers other pixels than the object",
    "Write [height, width], in this order, of the stored image")


class _Image(NamedTuple):
    id: Any
    size: Optional[Size]


class CocoCheck:
    """One coco file: first `read_images`, then `find` for each image of the index files, then `read_annotations`.

    Args:
        path: The file.
        class_names: Of config.yaml; None where they are not known.
    """

    def __init__(self, path: str, class_names: Optional[Sequence[str]]) -> None:
        self.path = path
        self._names = class_names
        self._by_name = ids_of_names(tuple(class_names or ()))
        self._images: Dict[str, _Image] = {}
        self._sizes: Dict[Any, Optional[Size]] = {}
        self._classes: Dict[Any, int] = {}
        self._listed: Dict[Any, Labels] = {}
        self._assets: Dict[Any, int] = {}    # image id to a hash of the path that it was looked up by
        self._hashes = array("q")    # of each annotation: those alone that come twice are compared whole
        self._twice: Set[int] = set()
        self._objects: Set[Any] = set()
        self._is_usable = False
        self._line = 1

    def read_images(self) -> Iterator[Finding]:
        """Judge the images and the categories."""
        if absence(self.path):
            yield Finding(THERE, absence(self.path), self.path)
            return
        named: Dict[Any, Optional[int]] = {}
        seen = set()
        try:
            for key, position, value in self._entries("images", "annotations", "categories"):
                if position < 0:
                    seen.add(key)
                    if not isinstance(value, list):
                        raise BrokenJson(f"{key} is no list", self._line)
                elif key == "images":
                    yield from self._image(position, value)
                elif key == "categories":
                    yield from self._category(position, value, named)
                else:
                    self._hashes.append(_hash(value))
            for key in sorted({"images", "annotations"} - seen):
                raise BrokenJson(f"it has no {key}", 1)
        except OSError as e:
            yield Finding(THERE, f"{self.path} cannot be read: {e.strerror}", self.path)
            return
        except BrokenJson as e:
            yield Finding(JSON, e.message, self.path, e.line)
            return
        self._is_usable = True
        self._twice = twice(self._hashes)
        del self._hashes[:]
        if all(class_id is None or class_id == key for key, class_id in named.items()):
            self._classes = {class_id: class_id for class_id in range(len(self._names or ()))}
        else:
            self._classes = {key: class_id for key, class_id in named.items() if class_id is not None}

    def _entries(self, *wanted: str) -> Iterator[Tuple[str, int, Any]]:
        """Key, position and value of each entry of the wanted lists; of a wanted value itself -1, and the value where it is no list."""
        with open(self.path, "rb") as f:
            if f.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                f.seek(0)
            stream = JsonStream(f)
            for key in stream.members():
                if key not in wanted:
                    stream.skip()
                elif stream.peek() == "[":
                    yield key, -1, []
                    for position, (line, value) in enumerate(stream.values()):
                        self._line = line
                        yield key, position, value
                else:
                    yield key, -1, stream.value()
            stream.end()

    def _broken(self, broken: Rule, message: str, key: str) -> Finding:
        return Finding(broken, message, self.path, self._line, key)

    def _image(self, position: int, value: Any) -> Iterator[Finding]:
        key = f"images[{position}]"
        name, number = (value.get("file_name"), value.get("id")) if isinstance(value, dict) else (None, None)
        if not isinstance(name, str) or not os.path.basename(name) or not isinstance(number, (int, str)):
            yield self._broken(IMAGE, f"file_name {name!r:.60} and id {number!r:.60}", key)
            return
        edges = (value.get("width"), value.get("height"))
        size: Any = edges if all(type(edge) is int and edge > 0 for edge in edges) and edges[0] * edges[1] <= MAX_PIXELS else None
        name = os.path.basename(name)
        if name in self._images:
            yield self._broken(UNIQUE, f"{name} is there twice", f"{key}.file_name")
        elif number in self._sizes:
            yield self._broken(UNIQUE, f"the id {number!r} is there twice", f"{key}.id")
        self._images.setdefault(name, _Image(number, size))
        self._sizes.setdefault(number, size)

    def _category(self, position: int, value: Any, named: Dict[Any, Optional[int]]) -> Iterator[Finding]:
        key = f"categories[{position}]"
        number, name = (value.get("id"), value.get("name")) if isinstance(value, dict) else (None, None)
        if not isinstance(number, (int, str)) or not isinstance(name, str):
            yield self._broken(CATEGORY, f"id {number!r:.60} and name {name!r:.60}", key)
            return
        named[number] = self._by_name.get(name, self._by_name.get(name.strip().lower()))
        if named[number] is None and self._names is not None:
            yield self._broken(CLASS, f"{name!r:.60} is none of class_names", f"{key}.name")

    def find(self, asset: str, size: Optional[Size], labels: Labels, index: str, line: int) -> Iterator[Finding]:
        """Look up an image of an index file.

        Args:
            asset: Its path; only the basename counts.
            size: Width and height in pixels, None where they are not known.
            labels: Where its objects are to be counted.
            index: The index file.
            line: The image's line in it.
        """
        if not self._is_usable:
            return
        image = self._images.get(os.path.basename(asset))
        if image is None:
            yield Finding(LISTED, f"{os.path.basename(asset)} is none of the images in {self.path}", index, line)
            return
        if self._assets.setdefault(image.id, hash(asset)) != hash(asset):
            yield Finding(LISTED, f"another image before is called {os.path.basename(asset)} too", index, line)
            return
        self._listed[image.id] = labels
        yield from size_problem(image.size, size, self.path, f"images: {os.path.basename(asset)}")
        if image.size is None:
            self._sizes[image.id] = size

    def read_annotations(self) -> Iterator[Finding]:
        """Judge the annotations and count those of the images that were looked up."""
        if not self._is_usable:
            return
        labelled: Set[Any] = set()
        for _, position, value in self._entries("annotations"):
            if position >= 0:
                yield from self._annotation(f"annotations[{position}]", value, labelled)
        for number, labels in self._listed.items():
            labels.images += 1
            labels.bare += number not in labelled

    def _annotation(self, key: str, value: Any, labelled: Set[Any]) -> Iterator[Finding]:
        missing = [name for name in ("image_id", "category_id", "bbox") if not isinstance(value, dict) or name not in value]
        if isinstance(value, dict) and isinstance(value.get("image_id"), (int, str)):
            labelled.add(value["image_id"])    # also where the rest is wrong: the image is not one that shows nothing
        if missing:
            yield self._broken(FIELDS, f"{' and '.join(missing)} missing", key)
            return
        image, category = value["image_id"], value["category_id"]
        if not isinstance(image, (int, str)) or image not in self._sizes:
            yield self._broken(IMAGE_ID, f"image_id {image!r:.60} is no image's", f"{key}.image_id")
            return
        if self._names is not None and (not isinstance(category, (int, str)) or category not in self._classes):
            yield self._broken(CATEGORY_ID, f"category_id {category!r:.60} stands for none of class_names", f"{key}.category_id")
            return
        for name in ("rotate_angle", "box_quality"):
            try:
                finite(value.get(name, 0))
            except ValueError as e:
                yield self._broken(BBOX, f"{name}: {e}", f"{key}.{name}")
                return
        problems = [*self._mask(value.get("segmentation"), self._sizes[image], key),
                    *self._bbox(value["bbox"], self._sizes[image], bool(value.get("segmentation")), key)]
        yield from problems
        if _hash(value) in self._twice:
            said = _said(value)
            if said in self._objects:
                yield self._broken(DOUBLE, f"an annotation of this image with the bbox {value['bbox']!r:.60} is there before", key)
            self._objects.add(said)
        labels = self._listed.get(image)
        if labels is not None and self._names is not None and not any(one.rule in (ORDER, EXTENT, BBOX) for one in problems):
            labels.objects[self._classes[category]] += 1

    def _bbox(self, bbox: Any, size: Optional[Size], is_masked: bool, key: str) -> List[Finding]:
        try:
            if not isinstance(bbox, list) or len(bbox) != 4:
                raise ValueError(f"{bbox!r:.60} is no list of four")
            values = [finite(value) for value in bbox]
        except ValueError as e:
            return [self._broken(BBOX, str(e), f"{key}.bbox")]
        x, y, width, height = map(int, values)
        found = []
        if [x, y, width, height] != values:
            found.append(self._broken(FRACTION, f"{bbox} holds fractions of pixels", f"{key}.bbox"))
        found += box_problem((x, y, x + width - 1, y + height - 1), size, self.path, self._line, f"{key}.bbox")
        return [one for one in found if one.rule is not EXTENT or not is_masked]

    def _mask(self, value: Any, size: Optional[Size], key: str) -> List[Finding]:
        try:
            mask = segmentation_of(value)
        except (ValueError, TypeError) as e:
            return [self._broken(MASK, str(e), f"{key}.segmentation")]
        if isinstance(mask, dict) and size is not None and list(mask["size"]) != [size[1], size[0]]:
            message = f"size is {mask['size']}; the image has {size[1]} rows and {size[0]} columns"
            return [self._broken(RLE_SIZE, message, f"{key}.segmentation.size")]
        return []


def _said(value: Any) -> Tuple[Any, ...]:
    """What an annotation says of its object, to be compared; the platform counts objects as one by less, their masks aside."""
    return (value["image_id"], value["category_id"], *value["bbox"], value.get("rotate_angle", 0), value.get("iscrowd", 0),
            repr(value.get("segmentation") or None))


def _hash(value: Any) -> int:
    """Equal for annotations that say the same; 0 where that cannot be told, which is told when the annotation is judged."""
    try:
        return hash(_said(value))
    except (TypeError, KeyError, AttributeError):
        return 0
