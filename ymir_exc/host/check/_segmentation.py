"""infer-result.json of a segmentation or multi-modal task (contract 7.3): a COCO object, read twice, since its parts come in any order."""
from __future__ import annotations

from array import array
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Set, Tuple

from ymir_exc.host.check import _masks
from ymir_exc.host.check._context import Coverage, Task, kind_of, number, shown
from ymir_exc.host.check._json_file import X010, ResultFile
from ymir_exc.host.check._json_stream import JsonStream
from ymir_exc.host.findings import Finding, Rule, Severity, rule

_E, _W = Severity.ERROR, Severity.WARNING
_FAILS = "The whole task fails (169999)"
_DROPPED = "The platform drops the object without a word"

S401 = rule("S401", _E, "images, categories and annotations are there, each a list", _FAILS, "Write all three, also when one is empty")
S402 = rule("S402", _E, "An entry of images has id, an integer of 32 bits, and file_name", _FAILS, 'Write {"id": 1, "file_name": "a.jpg"}')
S403 = rule("S403", _E, "No two images have one id", "The platform drops the second image with its objects", "Count the ids up")
S404 = rule("S404", _E, "file_name is a file name alone", "Every object of that image vanishes without a word",
            "Write os.path.basename(path)")
S405 = rule("S405", _E, "An image is one of the candidates", "What is predicted for it is lost",
            "Use the file names of candidate-index.tsv, with their extension")
S406 = rule("S406", _E, "An image is there once", "Objects of one of the two are lost",
            "Write each image once, and let its objects refer to one id")
S407 = rule("S407", _E, "Every candidate is among the images", "An image that was skipped looks like one without objects",
            "Write an entry of images for each candidate")
S408 = rule("S408", _E, "An entry of categories has id, an integer of 32 bits, and name, a text", _FAILS, 'Write {"id": 0, "name": "cat"}')
S409 = rule("S409", _E, "No two categories have one id", "The platform drops the second one", "Use the index in class_names as the id")
S410 = rule("S410", _E, "A category is one of class_names", "Its objects are dropped, or the task fails (160005)",
            "Use the names in config.yaml: class_names")
S411 = rule("S411", _E, "An entry of annotations is an object", _FAILS, "Write an object for each mask")
S412 = rule("S412", _E, "An object's image_id is the id of an image", _DROPPED, "Write the id that the image has in images")
S413 = rule("S413", _E, "An object's category_id is the id of a category", _DROPPED, "Write the id that the class has in categories")
S414 = rule("S414", _E, "bbox is a list of four numbers: x, y, w, h", _DROPPED, "Write the box around the mask: [x, y, width, height]")
S415 = rule("S415", _E, "The numbers of bbox fit into 32 bits", _FAILS, "Look at how the box is computed; clip it to the image")
S416 = rule("S416", _E, "bbox is at least one pixel wide and high, cut to integers", _DROPPED,
            "Leave objects without a pixel out, and round w and h up")
S417 = rule("S417", _E, "area is there, a finite number", _FAILS, "Write the number of pixels of the mask")
S418 = rule("S418", _E, "A polygon has exactly one ring", _FAILS, "Write the mask as compressed run lengths; SegmentationResultWriter does")
S419 = rule("S419", _E, "A ring is x, y, x, y, ... of three points or more", "The polygon cannot be drawn",
            "Leave smaller rings out, or write a mask")
S423 = rule("S423", _E, "segmentation is a mask, an object, or a polygon, a list", _FAILS, "Leave the key out where there is only a box")
S424 = rule("S424", _E, "No object has the image, class and box of another", "The platform keeps the first of them",
            "Leave doubles out; where both are meant, the platform cannot hold them")
S425 = rule("S425", _E, "iscrowd is 0 or 1", _FAILS, "Write int(is_crowd)")
S426 = rule("S426", _E, "The key is iscrowd, not is_crowd", "The platform ignores is_crowd, and takes 0", "Rename the key")
S427 = rule("S427", _E, "The key is confidence, not score", "The platform ignores score, and shows no confidence", "Rename the key")
S428 = rule("S428", _E, "confidence is from 0 to 1, or -1 for none", "Thresholds on the platform mean nothing for it",
            "Write the probability, or leave the key out")
S429 = rule("S429", _E, "box_quality is a number, and meta an object", _FAILS, "Leave them out where there is nothing to say")

_PARTS = ("images", "categories", "annotations")
_INT32 = 2 ** 31


class Coco:
    """What is known after the first reading, and after each object of the second.

    Args:
        file: The result.
        task: What is known of the task.
        counts: Is given the number of images and objects.
    """

    def __init__(self, file: ResultFile, task: Task, counts: Dict[str, int]) -> None:
        self.file, self.task, self.counts = file, task, counts
        self.coverage = Coverage(task.candidates)
        self.sizes: Dict[int, Tuple[int, int]] = {}    # image id to width and height, (0, 0) where not told
        self.classes: Dict[int, str] = {}
        self.lists: Set[str] = set()    # the parts that are one: ids of the others are not known
        self.boxes = array("q")    # a hash for each object: those alone that come twice are compared whole
        self.twice: Set[int] = set()
        self.objects: Set[Tuple[Any, ...]] = set()

    def judge(self) -> Iterator[Finding]:
        """Judge the whole file."""
        is_broken = False
        for one in self.file.read(self._first):
            is_broken = is_broken or one.rule.code in ("X005", "X008", "X012")
            yield one
        self.counts["images"], self.counts["objects"] = len(self.sizes), len(self.boxes)
        if is_broken:    # what could be read of it is no ground to judge by
            return
        self.twice = twice(self.boxes)
        del self.boxes[:]
        yield from self.file.read(self._second)

    def _found(self, broken: Rule, message: str, line: Optional[int], key: str) -> Finding:
        return broken.found(message, str(self.file.path), line, key)

    def _first(self, stream: JsonStream) -> Iterator[Finding]:
        """Images, categories, and what the form of the root has wrong."""
        keys: Set[str] = set()
        for key in stream.members():
            line = stream.line
            if key in keys:
                yield self._found(X010, f"{key!r} is given twice", line, key)
            keys.add(key)
            if key not in _PARTS:
                stream.skip()
            elif stream.peek() != "[":
                yield self._found(S401, f"{key} is {kind_of(stream.value())}", line, key)
            elif key == "annotations":
                self.boxes.extend(_hash(value) for _, value in stream.values(is_noted=False))
            else:
                self.lists.add(key)
                yield from self._entries(stream, key, self._image if key == "images" else self._category)
        for key in _PARTS:
            if key not in keys:
                yield self._found(S401, f"{key} is missing", 1, key)
        lacking = self.coverage.lacking("are missing")
        if lacking and "images" in keys:
            yield self._found(S407, lacking, None, "images")

    def _second(self, stream: JsonStream) -> Iterator[Finding]:
        for key in stream.members():
            if key == "annotations" and stream.peek() == "[":
                yield from self._entries(stream, key, self._object)
            else:
                stream.skip()

    def _entries(self, stream: JsonStream, part: str, judge: Callable[[Any, int, str], Iterator[Finding]]) -> Iterator[Finding]:
        for position, (line, value) in enumerate(stream.values()):
            if stream.doubled or stream.constants:
                yield from self.file.notes(stream, line, f"{part}[{position}]")
            yield from judge(value, line, f"{part}[{position}]")

    def _image(self, value: Any, line: int, key: str) -> Iterator[Finding]:
        name = value.get("file_name") if isinstance(value, dict) else None
        if not isinstance(value, dict) or not _is_id(value.get("id")) or not isinstance(name, str) or not name.strip():
            yield self._found(S402, _lacking(value, ("id", "file_name")), line, key)
            self.coverage.excuse(str(name))
            return
        if value["id"] in self.sizes:
            yield self._found(S403, f"id {value['id']} is there before", line, f"{key}.id")
        size = value.get("width"), value.get("height")
        self.sizes[value["id"]] = (size[0], size[1]) if type(size[0]) is int and type(size[1]) is int else (0, 0)
        if "/" in name:
            yield self._found(S404, f"file_name is {shown(name)}", line, f"{key}.file_name")
            name = name[name.rfind("/") + 1:]
        if self.coverage.add(name):
            yield self._found(S406, f"{name} is there before", line, f"{key}.file_name")
        elif self.coverage.is_stranger(name):
            yield self._found(S405, f"{shown(name)} is no candidate", line, f"{key}.file_name")

    def _category(self, value: Any, line: int, key: str) -> Iterator[Finding]:
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(value, dict) or not _is_id(value.get("id")) or not isinstance(name, str) or not name.strip():
            yield self._found(S408, _lacking(value, ("id", "name")), line, key)
            return
        if value["id"] in self.classes:
            yield self._found(S409, f"id {value['id']} is there before", line, f"{key}.id")
        name = name.strip().lower()
        self.classes.setdefault(value["id"], name)
        if self.task.class_names is not None and name not in self.task.class_names:
            yield self._found(S410, f"{shown(name)} is none of the {len(self.task.class_names)} classes", line, f"{key}.name")

    def _object(self, value: Any, line: int, key: str) -> Iterator[Finding]:
        if not isinstance(value, dict):
            yield self._found(S411, f"is {kind_of(value)}", line, key)
            return
        for broken, message, part in self._faults(value):
            yield self._found(broken, message, line, f"{key}.{part}")

    def _faults(self, value: Mapping[str, Any]) -> Iterator[Tuple[Rule, str, str]]:
        known: Tuple[Tuple[str, str, Any, Rule], ...] = (("images", "image_id", self.sizes, S412),
                                                         ("categories", "category_id", self.classes, S413))
        for table, part, ids, broken in known:
            if type(value.get(part)) is not int or (table in self.lists and value[part] not in ids):
                yield broken, f"{part} " + (f"is {shown(value[part])}" if part in value else "is missing"), part
        box = _box(value)
        if box is None:
            yield S414, f"bbox is {shown(value['bbox'])}" if "bbox" in value else "bbox is missing", "bbox"
        elif not all(-_INT32 <= edge < _INT32 for edge in box):
            yield S415, f"bbox is {shown(value['bbox'])}", "bbox"
        elif min(box[2:]) < 1:
            yield S416, f"bbox is {shown(value['bbox'])}", "bbox"
        elif self._is_double(value, box):
            yield S424, f"an object of this image and class has bbox {list(box)} before", "bbox"
        if number(value.get("area")) is None:
            yield S417, f"area is {shown(value['area'])}" if "area" in value else "area is missing", "area"
        if "segmentation" in value:
            yield from self._shape(value)
        yield from _option_faults(value)

    def _is_double(self, value: Mapping[str, Any], box: Tuple[int, ...]) -> bool:
        if not self.twice or _hash(value) not in self.twice:
            return False
        same = value.get("image_id"), self.classes.get(value.get("category_id")), *box    # type: ignore[arg-type]
        is_known = same in self.objects
        self.objects.add(same)
        return is_known

    def _shape(self, value: Mapping[str, Any]) -> Iterator[Tuple[Rule, str, str]]:
        given = value["segmentation"]
        if isinstance(given, dict):
            image = value.get("image_id")
            yield from _masks.faults(given, self.sizes.get(image, (0, 0)) if type(image) is int else (0, 0))
        elif not isinstance(given, list):
            yield S423, f"segmentation is {kind_of(given)}", "segmentation"
        elif len(given) != 1 or not isinstance(given[0], list):
            yield S418, f"it has {len(given)} rings" if len(given) != 1 else f"the ring is {kind_of(given[0])}", "segmentation"
        elif len(given[0]) < 6 or len(given[0]) % 2:
            yield S419, f"the ring has {len(given[0])} numbers", "segmentation"
        elif any(number(coordinate) is None for coordinate in given[0]):
            yield S419, f"the ring holds {shown(next(one for one in given[0] if number(one) is None))}", "segmentation"


def _is_id(value: Any) -> bool:
    return type(value) is int and -_INT32 <= value < _INT32


def _lacking(value: Any, needed: Tuple[str, str]) -> str:
    if not isinstance(value, dict):
        return f"is {kind_of(value)}"
    missing = [part for part in needed if part not in value]
    return f"lacks {' and '.join(missing)}" if missing else " and ".join(f"{part} is {shown(value[part])}" for part in needed)


def _box(value: Mapping[str, Any]) -> Optional[Tuple[int, ...]]:
    """The bbox as the platform cuts it, if it is one."""
    given = value.get("bbox")
    if not isinstance(given, list) or len(given) != 4:
        return None
    if any(type(edge) is not int and number(edge) is None for edge in given):
        return None
    return tuple(map(int, given))


def _hash(value: Any) -> int:
    """Equal for objects of one image with one box; 0 where there is none."""
    try:
        x, y, w, h = value["bbox"]
        return hash((value["image_id"], int(x), int(y), int(w), int(h)))
    except (TypeError, KeyError, ValueError, OverflowError):    # is told when the object is judged
        return 0


def twice(hashes: array[int]) -> Set[int]:
    """Those of many hashes that occur more than once; 0 stands for what has none, such as an object without a box."""
    import numpy as np
    ordered = np.sort(np.frombuffer(hashes, np.int64)) if len(hashes) else np.zeros(0, np.int64)
    again: List[int] = ordered[1:][ordered[1:] == ordered[:-1]].tolist()
    return set(again) - {0}


def _option_faults(value: Mapping[str, Any]) -> Iterator[Tuple[Rule, str, str]]:
    if "is_crowd" in value:
        yield S426, "is_crowd is there", "is_crowd"
    if "iscrowd" in value and not (type(value["iscrowd"]) is int and value["iscrowd"] in (0, 1)):
        yield S425, f"iscrowd is {shown(value['iscrowd'])}", "iscrowd"
    if "score" in value and "confidence" not in value:
        yield S427, "score is there, and confidence is not", "score"
    if "confidence" in value:
        confidence = number(value["confidence"])
        if confidence is None or not (confidence == -1 or 0 <= confidence <= 1):
            yield S428, f"confidence is {shown(value['confidence'])}", "confidence"
    if "box_quality" in value and number(value["box_quality"]) is None:
        yield S429, f"box_quality is {shown(value['box_quality'])}", "box_quality"
    if "meta" in value and not isinstance(value["meta"], dict):
        yield S429, f"meta is {kind_of(value['meta'])}", "meta"
