"""infer-result.json of a detector (contract 7.2), image by image."""
from __future__ import annotations

import re
from typing import Any, Dict, FrozenSet, Iterator, List, Mapping, Optional, Set, Tuple

from ymir_exc.host.check._context import Coverage, Task, kind_of, number, shown
from ymir_exc.host.check._json_file import X010, ResultFile
from ymir_exc.host.check._json_stream import JsonStream
from ymir_exc.host.findings import Finding, Rule, Severity, rule

_E, _W = Severity.ERROR, Severity.WARNING
_FAILS = "The whole task fails (169999)"

D302 = rule("D302", _E, "detection is there, an object of images", "The platform finds no result, and the task fails (160011)",
            'Write {"detection": {"<file name>": {"boxes": [...]}}}')
D303 = rule("D303", _E, "An image's key is its file name alone", "The platform cuts the folder off, and two images may become one",
            "Write os.path.basename(path)")
D304 = rule("D304", _E, "A predicted image is one of the candidates", "What is predicted for it is lost",
            "Use the file names of candidate-index.tsv, with their extension")
D305 = rule("D305", _E, "An image is predicted once", "Only the last one counts", "Gather all boxes of an image before writing it")
D306 = rule("D306", _E, "Every candidate is in the result",
            "Tools of the platform refuse the result; an image that was skipped looks like one without objects",
            'Write {"boxes": []} for an image without objects')
D307 = rule("D307", _E, "An image has a list boxes", "The platform skips the image, and its boxes are lost",
            'Write {"boxes": [...]}; a box is an object in it')
D308 = rule("D308", _E, "annotations, the older key, does not differ from boxes beside it", "The platform reads boxes alone",
            "Write boxes only")
D309 = rule("D309", _E, "An entry of boxes is an object with class_name and box", _FAILS,
            'Write {"class_name": ..., "score": ..., "box": {"x": ..., "y": ..., "w": ..., "h": ...}}')
D310 = rule("D310", _E, "A box has a score", "The platform drops the box without a word", 'Give "score", from 0 to 1')
D311 = rule("D311", _E, "A score is a finite number", "The task fails, or the order of the boxes is arbitrary", "Write float(score)")
D312 = rule("D312", _E, "A score is from 0 to 1", "Thresholds on the platform mean nothing for it",
            "Write the probability, not the logit or percent")
D313 = rule("D313", _E, "class_name is text, and not blank", _FAILS, "Write the class's name, not its index")
D314 = rule("D314", _E, "A class is one of class_names", "The platform drops the box, or keeps it without a class",
            "Use the names in config.yaml: class_names")
D315 = rule("D315", _E, "box is an object of x, y, w and h", _FAILS, 'Write {"x": left, "y": top, "w": width, "h": height}')
D316 = rule("D316", _E, "box has no other keys than x, y, w, h and rotate_angle", _FAILS,
            "Take the other keys out of box; beside it they do no harm")
D317 = rule("D317", _E, "box has all of x, y, w and h", "The platform reads what is missing as 0", "Give all four")
D318 = rule("D318", _E, "x, y, w and h are whole numbers", _FAILS, "Write int(round(value))")
D319 = rule("D319", _E, "x, y, w and h fit into 32 bits", _FAILS, "Look at how the box is computed; clip it to the image")
D320 = rule("D320", _E, "A box is at least one pixel wide and high", "The box has no area: it cannot be seen or counted",
            "Leave it out, or round w and h up")
D321 = rule("D321", _E, "rotate_angle is a finite number", _FAILS, "Write a float, or leave it out")
D322 = rule("D322", _W, "A box lies in its image", "What is outside counts against the box in any evaluation",
            "Clip boxes to the image; look whether they are scaled back to it")
D323 = rule("D323", _W, "x, y, w and h are written as integers",
            "The platform takes 30.0 and '30' for 30; other readers of the file may not",
            "Write int(round(value))")

_EDGES = ("x", "y", "w", "h")
_BOX_KEYS = frozenset((*_EDGES, "rotate_angle"))
_INT32 = 2 ** 31
_DIGITS = re.compile(r"-?[0-9]{1,20}")


class Predictions:
    """What is known after each image.

    Args:
        file: The result.
        task: What is known of the task.
        counts: Is given the number of images and boxes.
    """

    def __init__(self, file: ResultFile, task: Task, counts: Dict[str, int]) -> None:
        self.file, self.task, self.counts = file, task, counts
        self.coverage = Coverage(task.candidates)
        self.images = self.boxes = 0

    def judge(self, stream: JsonStream) -> Iterator[Finding]:
        """Judge the whole file."""
        keys: Set[str] = set()
        for key in stream.members():
            line = stream.line
            if key in keys:
                yield self._found(X010, f"{key!r} is given twice", line, key)
            keys.add(key)
            if key == "detection" and stream.peek() == "{":
                yield from self._all(stream)
            elif key == "detection":
                yield self._found(D302, f"detection is {kind_of(stream.value())}", line, key)
            else:
                stream.skip()
        if "detection" not in keys:
            yield self._found(D302, "detection is missing" + (f"; there is {', '.join(sorted(keys)[:5])}" if keys else ""), 1, "detection")

    def _all(self, stream: JsonStream) -> Iterator[Finding]:
        for name in stream.members():
            line = stream.line
            value = stream.value()
            self.images += 1
            key = f"detection.{name}"
            if stream.doubled or stream.constants:
                yield from self.file.notes(stream, line, key)
            yield from self._name(name, line, key)
            yield from self._image(name, value, line, key)
        lacking = self.coverage.lacking("are missing")
        if lacking:
            yield self._found(D306, lacking, None, "detection")
        self.counts["images"], self.counts["boxes"] = self.images, self.boxes

    def _found(self, broken: Rule, message: str, line: Optional[int], key: str) -> Finding:
        return broken.found(message, str(self.file.path), line, key)

    def _name(self, key: str, line: int, place: str) -> Iterator[Finding]:
        name = key[key.rfind("/") + 1:]
        if name != key:
            yield self._found(D303, f"{shown(key)} has a folder", line, place)
        if self.coverage.add(name):
            yield self._found(D305, f"{name} is there before", line, place)
        elif self.coverage.is_stranger(name):
            yield self._found(D304, f"{shown(name)} is no candidate", line, place)

    def _image(self, name: str, value: Any, line: int, key: str) -> Iterator[Finding]:
        if not isinstance(value, dict) or not ("boxes" in value or "annotations" in value):
            said = "boxes is missing" if isinstance(value, dict) else f"the image's value is {kind_of(value)}"
            yield self._found(D307, said, line, key)
            return
        for part in ("boxes", "annotations"):
            if not isinstance(value.get(part, []), list):
                yield self._found(D307, f"{part} is {kind_of(value[part])}", line, f"{key}.{part}")
                return
        boxes, older = value.get("boxes", []), value.get("annotations", [])
        if boxes and older and boxes != older:
            yield self._found(D308, f"annotations has {len(older)} entries, boxes {len(boxes)}", line, f"{key}.annotations")
        entries, inside = boxes or older, []
        self.boxes += len(entries)
        for position, one in enumerate(entries):
            if _is_plain(one, self.task.class_names):
                inside.append(one["box"])
            else:
                yield from self._box(one, line, f"{key}.boxes[{position}]")
        yield from self._outside(name, inside, line, key)

    def _box(self, one: Any, line: int, key: str) -> Iterator[Finding]:
        missing = [part for part in ("class_name", "box") if not isinstance(one, dict) or part not in one]
        if missing:
            yield self._found(D309, f"lacks {' and '.join(missing)}" if isinstance(one, dict) else f"is {kind_of(one)}", line, key)
        if not isinstance(one, dict):
            return
        for broken, message, part in _score_faults(one):
            yield self._found(broken, message, line, f"{key}.{part}")
        if "class_name" in one:
            name, classes = one["class_name"], self.task.class_names
            if not isinstance(name, str) or not name.strip():
                yield self._found(D313, f"class_name is {shown(name)}", line, f"{key}.class_name")
            elif classes is not None and name.strip().lower() not in classes:
                yield self._found(D314, f"{shown(name)} is none of the {len(classes)} classes", line, f"{key}.class_name")
        if "box" in one:
            for broken, message, part in _box_faults(one["box"]):
                yield self._found(broken, message, line, f"{key}.box{part}")

    def _outside(self, name: str, boxes: List[Mapping[str, Any]], line: int, key: str) -> Iterator[Finding]:
        """Boxes that are well-formed, against the picture, where it is there."""
        candidates = self.task.candidates
        path = candidates.path(name) if candidates and boxes else None
        if path is None:
            return
        from ymir_exc.host.check._images import size_of
        size = size_of(self.task.on_this_machine(path))
        if size is None:    # the dataset's fault, and told there
            return
        width, height = size
        outside = [box for box in boxes if not box.get("rotate_angle")
                   and (box["x"] < 0 or box["y"] < 0 or box["x"] + box["w"] > width or box["y"] + box["h"] > height)]
        if outside:
            more = f", and {len(outside) - 1} more" if len(outside) > 1 else ""
            yield self._found(D322, f"{[outside[0][edge] for edge in _EDGES]}{more}, of an image of {width} x {height}", line, key)


def _is_plain(one: Any, classes: Optional[FrozenSet[str]]) -> bool:
    """Whether nothing is wrong with a box: nearly all are so, and are not looked at again."""
    try:
        box, score = one["box"], one["score"]
        if not (type(score) is float or type(score) is int) or not 0 <= score <= 1:
            return False
        for edge in _EDGES:
            if type(box[edge]) is not int or not -_INT32 <= box[edge] < _INT32:
                return False
        if box["w"] < 1 or box["h"] < 1:
            return False
        if len(box) > len(_EDGES) and (not _BOX_KEYS.issuperset(box) or number(box["rotate_angle"]) is None):
            return False
        name = one["class_name"]
        return type(name) is str and (name in classes or name.strip().lower() in classes if classes is not None else bool(name.strip()))
    except (KeyError, TypeError, IndexError):
        return False


def _score_faults(one: Mapping[str, Any]) -> Iterator[Tuple[Rule, str, str]]:
    if "score" not in one:
        yield D310, "score is missing", "score"
        return
    score = number(one["score"])
    if score is None:
        yield D311, f"score is {shown(one['score'])}", "score"
    elif not 0 <= score <= 1:
        yield D312, f"score is {shown(one['score'])}", "score"


def _box_faults(box: Any) -> Iterator[Tuple[Rule, str, str]]:
    if not isinstance(box, dict):
        yield D315, f"box is {kind_of(box)}", ""
        return
    odd = [key for key in box if key not in _BOX_KEYS]
    if odd:
        yield D316, f"box has {', '.join(odd[:5])}", f".{odd[0]}"
    missing = [edge for edge in _EDGES if edge not in box]
    if missing:
        yield D317, f"box lacks {', '.join(missing)}", ""
    for edge in _EDGES:
        value = _whole(box.get(edge, 1))
        if value is None:
            yield D318, f"{edge} is {shown(box[edge])}", f".{edge}"
        elif not -_INT32 <= value < _INT32:
            yield D319, f"{edge} is {shown(value)}", f".{edge}"
        elif edge in ("w", "h") and value < 1:
            yield D320, f"{edge} is {value}", f".{edge}"
        elif type(box.get(edge, 1)) is not int:
            yield D323, f"{edge} is {shown(box[edge])}", f".{edge}"
    if "rotate_angle" in box and number(box["rotate_angle"]) is None:
        yield D321, f"rotate_angle is {shown(box['rotate_angle'])}", ".rotate_angle"


def _whole(value: Any) -> Optional[int]:
    """The integer that the platform reads, which takes 30.0 and '30' for 30; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    return value if type(value) is int else None
