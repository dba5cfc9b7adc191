"""Judges the labels of an image: ark and voc, and what all formats share (contract 5). The readers tolerate slips; here all are told."""
from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ymir_exc._annotations.objects import finite, ids_of_names, read_file
from ymir_exc._annotations.voc import parse_xml
from ymir_exc.dataset_convert._image_size import Size
from ymir_exc.errors import DatasetError
from ymir_exc.host.check._env import absence
from ymir_exc.host.findings import Finding, Severity, rule

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

THERE = rule(
    "A301", Severity.ERROR, "Every annotation file is there and can be read", "A reader fails at it",
    "Put the file there; an image without objects has an empty one in ark, and one without <object> in voc")
FORMAT = rule(
    "A302", Severity.ERROR, "Annotation files are of the format that export_format names",
    "A program chooses its reader by export_format, and fails at the first file", "Set export_format to what the files are, or export anew")
COLUMNS = rule(
    "A310", Severity.ERROR, "A line of an ark file has 5 to 7 columns", "A reader fails at it",
    "Write class_index, xmin, ymin, xmax, ymax, quality, rotate_angle, separated by commas")
NUMBERS = rule(
    "A311", Severity.ERROR, "What an ark file holds is finite numbers", "A reader fails at it", "Write numbers; a class is its index")
INDEX = rule(
    "A312", Severity.ERROR, "A class index of an ark file is a position in class_names",
    "A reader fails, or the object counts as another class", "Count classes from 0, in the order of class_names in config.yaml")
ORDER = rule(
    "A320", Severity.ERROR, "A box's first corner is its upper left one", "A reader fails at it",
    "Write xmin, ymin, xmax, ymax; ark and voc have corners, coco has x, y, width, height")
EXTENT = rule(
    "A321", Severity.WARNING, "A box covers at least a pixel", "Readers leave the object out: there is nothing to learn from",
    "Label it anew, or remove it. Corners are inclusive: one pixel is xmax = xmin")
OUTSIDE = rule(
    "A322", Severity.ERROR, "No box lies beside its image", "The label is lost, and the file is probably another image's",
    "Check that image and annotation belong together, and that coordinates are pixels of the stored image")
OVERHANG = rule(
    "A323", Severity.WARNING, "Boxes lie within their image",
    "The platform does not clip them; a program that does not either trains on nothing there", "Clip it to 0 and width - 1, height - 1")
FRACTION = rule(
    "A324", Severity.WARNING, "Corners are whole pixels", "Readers cut the fraction off",
    "Round them; fractions of the image's size must be multiplied by it")
DOUBLE = rule(
    "A325", Severity.WARNING, "No object is labelled twice", "The platform counts such objects once, a program twice", "Remove one of them")
XML = rule(
    "A330", Severity.ERROR, "A voc file is XML without a document type definition", "A reader fails at it", "Export it anew")
NAME = rule(
    "A331", Severity.WARNING, "A voc object's name is one of class_names", "The object is left out",
    "Add the class to class_names, or mend the name")
BNDBOX = rule(
    "A332", Severity.WARNING, "A voc object has a bndbox", "The object is left out", "Label it anew, or remove it")
CORNERS = rule(
    "A333", Severity.ERROR, "A bndbox has xmin, ymin, xmax and ymax, all numbers, as are rotate_angle and box_quality",
    "A reader fails at it", "Label it anew")
SIZE = rule(
    "A334", Severity.WARNING, "The image's size in an annotation is that of the picture",
    "Boxes may count other pixels than the picture has", "Check that the picture was not scaled or turned after it was labelled")
OWN = rule(
    "A335", Severity.WARNING, "A voc file names the image that it is listed with", "Labels may be another image's",
    "Check the line of the index file")

_MAX_LINE = 1000
_SHOWN = 60


class Labels:
    """Counts of what was labelled: objects of each class, and images without any."""

    def __init__(self, class_count: int) -> None:
        self.objects = [0] * class_count
        self.bare = 0
        self.images = 0

    def add(self, found: Sequence[int]) -> None:
        """Count an image with objects of these classes."""
        self.images += 1
        self.bare += not found
        for class_id in found:
            if class_id < len(self.objects):
                self.objects[class_id] += 1

    def merge(self, other: Labels) -> None:
        """Add another count to this one."""
        self.objects = [a + b for a, b in zip(self.objects, other.objects)]
        self.bare += other.bare
        self.images += other.images


def box_problem(box: Tuple[int, int, int, int], size: Optional[Size], path: str, line: Optional[int] = None,
                key: str = "") -> List[Finding]:
    """What is wrong with a box: nothing, or one finding.

    Args:
        box: xmin, ymin, xmax, ymax in pixels, inclusive.
        size: Width and height of the image, None where they are not known.
        path: The annotation file.
        line: As in `Finding`.
        key: As in `Finding`.
    """
    xmin, ymin, xmax, ymax = box
    shown = f"the box ({xmin}, {ymin}) to ({xmax}, {ymax})"
    if xmax + 1 < xmin or ymax + 1 < ymin:
        return [Finding(ORDER, f"{shown} has its corners the wrong way round", path, line, key)]
    if xmax < xmin or ymax < ymin:
        return [Finding(EXTENT, f"{shown} covers no pixel", path, line, key)]
    if size is None or (xmin >= 0 and ymin >= 0 and xmax < size[0] and ymax < size[1]):
        return []
    inside = f"the image of {size[0]} x {size[1]} pixels"
    if xmin >= size[0] or ymin >= size[1] or xmax < 0 or ymax < 0:
        return [Finding(OUTSIDE, f"{shown} lies beside {inside}", path, line, key)]
    return [Finding(OVERHANG, f"{shown} reaches over {inside}", path, line, key)]


def size_problem(told: Optional[Size], size: Optional[Size], path: str, key: str) -> List[Finding]:
    """The finding that an annotation tells another size than the picture has, if it does."""
    if told is None or size is None or told == size:
        return []
    return [Finding(SIZE, f"{told[0]} x {told[1]} pixels; the picture has {size[0]} x {size[1]}", path, None, key)]


def check_ark(path: str, size: Optional[Size], class_count: Optional[int], found: List[int]) -> Iterator[Finding]:
    """Judge an ark file.

    Args:
        path: The file.
        size: Width and height of its image, None where they are not known.
        class_count: How many classes there are; None where that is not known.
        found: Takes the class index of each object.
    """
    if not os.path.isfile(path):
        yield Finding(THERE, absence(path), path)
        return
    try:
        lines = read_file(path).split(b"\n")
    except DatasetError as e:
        yield Finding(THERE, e.message, path)
        return
    limit = math.inf if class_count is None else class_count
    width, height = size or (math.inf, math.inf)
    for number, line in enumerate(lines, 1):
        try:    # as the platform writes it
            first, second, third, fourth, fifth, sixth, seventh = line.split(b",")
            class_id, xmin, ymin, xmax, ymax = int(first), int(second), int(third), int(fourth), int(fifth)
            if (0 <= class_id < limit and 0 <= xmin <= xmax < width and 0 <= ymin <= ymax < height
                    and math.isfinite(float(sixth)) and math.isfinite(float(seventh))):
                found.append(class_id)
                continue
        except ValueError:
            pass
        if line and not line.isspace():
            yield from _ark_line(line, size, class_count, path, number, found)
    yield from _doubles(lines, path)


def _doubles(lines: Sequence[bytes], path: str) -> Iterator[Finding]:
    objects = list(filter(bytes.strip, lines))
    if len(set(objects)) == len(objects):
        return
    seen: Set[bytes] = set()
    for number, line in enumerate(lines, 1):
        if line in seen and line.strip():
            yield Finding(DOUBLE, f"the line is there before: {line.decode('utf-8', 'replace')[:_SHOWN]}", path, number)
        seen.add(line)


def _ark_line(line: bytes, size: Optional[Size], class_count: Optional[int], path: str, number: int, found: List[int]) -> Iterator[Finding]:
    """A line of another form: what is wrong with it."""
    fields = line.split(b",")
    if not 5 <= len(fields) <= 8 or len(line) > _MAX_LINE or (len(fields) == 8 and fields[7].strip()):
        yield Finding(COLUMNS, f"{len(fields)} columns: {line.decode('utf-8', 'replace')[:_SHOWN]!r}", path, number)
        return
    try:
        values = [finite(field) for field in fields[:5]]
        for field in filter(bytes.strip, fields[5:]):
            finite(field)
        if values[0] != int(values[0]):
            raise ValueError(f"{values[0]} is no class index")
    except ValueError as e:
        yield Finding(NUMBERS, str(e), path, number)
        return
    class_id, xmin, ymin, xmax, ymax = map(int, values)
    if class_id < 0 or (class_count is not None and class_id >= class_count):
        yield Finding(INDEX, f"class index {class_id}, of {'unknown' if class_count is None else class_count} classes", path, number)
        return
    if [xmin, ymin, xmax, ymax] != values[1:]:
        shown = ", ".join(f"{value:g}" for value in values[1:])
        yield Finding(FRACTION, f"the corners {shown} are no whole pixels", path, number)
    problems = box_problem((xmin, ymin, xmax, ymax), size, path, number)
    if not any(one.rule in (ORDER, EXTENT) for one in problems):
        found.append(class_id)
    yield from problems


def check_voc(path: str, asset: str, size: Optional[Size], class_names: Optional[Sequence[str]], found: List[int]) -> Iterator[Finding]:
    """Judge a voc file.

    Args:
        path: The file.
        asset: The image that it is listed with.
        size: Width and height of that image, None where they are not known.
        class_names: Of config.yaml; None where they are not known.
        found: Takes the class index of each object.
    """
    if absence(path):
        yield Finding(THERE, absence(path), path)
        return
    try:
        root = parse_xml(path)
    except DatasetError as e:
        yield Finding(XML, e.message, path)
        return
    told = _told_size(root)
    yield from size_problem(told, size, path, "size")
    name = os.path.basename(root.findtext("filename", "").strip())
    if name and name != os.path.basename(asset):
        yield Finding(OWN, f"it names {name}, and is listed with {os.path.basename(asset)}", path, None, "filename")
    ids = None if class_names is None else ids_of_names(tuple(class_names))
    seen = set()
    for number, element in enumerate(root.iterfind("object"), 1):
        yield from _voc_object(element, ids, size, path, f"object[{number}]", found)
        said = tuple((child.tag, child.text) for child in element.iter() if child.text and child.text.strip())
        if said in seen:
            yield Finding(DOUBLE, f"object {number} is there before", path, None, f"object[{number}]")
        seen.add(said)


def _told_size(root: Element) -> Optional[Size]:
    try:
        return int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
    except ValueError:
        return None


def _voc_object(element: Element, ids: Optional[Mapping[str, int]], size: Optional[Size], path: str, key: str,
                found: List[int]) -> Iterator[Finding]:
    name = element.findtext("name", "")
    class_id = 0 if ids is None else ids.get(name, ids.get(name.strip().lower()))
    if class_id is None:
        yield Finding(NAME, f"{name!r:.{_SHOWN}} is none of class_names", path, None, f"{key}.name")
        return
    box = element.find("bndbox")
    if box is None:
        yield Finding(BNDBOX, f"the {name} has no bndbox", path, None, key)
        return
    values = []
    for tag in ("xmin", "ymin", "xmax", "ymax"):
        text = (box.findtext(tag) or "")[:_MAX_LINE]
        try:
            values.append(finite(text))
        except ValueError:
            yield Finding(CORNERS, f"{tag} is {text!r:.{_SHOWN}}" if text else f"{tag} is missing", path, None, f"{key}.bndbox.{tag}")
            return
    for place in ("bndbox/rotate_angle", "box_quality"):
        try:
            finite((element.findtext(place) or "0")[:_MAX_LINE])
        except ValueError as e:
            yield Finding(CORNERS, f"{os.path.basename(place)}: {e}", path, None, f"{key}.{place.replace('/', '.')}")
            return
    if any(value != int(value) for value in values):
        shown = ", ".join(f"{value:g}" for value in values)
        yield Finding(FRACTION, f"the corners {shown} are no whole pixels", path, None, f"{key}.bndbox")
    xmin, ymin, xmax, ymax = map(int, values)
    problems = box_problem((xmin, ymin, xmax, ymax), size, path, None, f"{key}.bndbox")
    if not any(one.rule in (ORDER, EXTENT) for one in problems):
        found.append(class_id)
    yield from problems
