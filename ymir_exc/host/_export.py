"""Lays out annotations as the platform exports them: ark, voc and coco (contract section 5).

Faithful to the order of elements, the number formats and the platform's oddities, such as COCO file names without their
sub-folder. Only boxes, no masks.
"""
from __future__ import annotations

import json
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple
from xml.etree import ElementTree

EXPORT_FORMATS = ("ark", "voc", "coco")
COCO_NAME = "coco-annotations.json"
_SUFFIXES = {"ark": ".txt", "voc": ".xml"}
_UNSET = -1.0  # the platform's value for a quality or confidence that nobody gave

InclusiveBox = Tuple[int, int, int, int, int]
"""Class index, xmin, ymin, xmax, ymax in pixels, 0-based, both corners inclusive."""


class ExportedImage(NamedTuple):
    """One image as the annotation writers need it.

    Attributes:
        asset_id: 40 hex digits, the SHA-1 of the image file.
        suffix: ``.jpg`` or ``.png``.
        path: absolute path as the program sees it.
        size: width and height in pixels.
        boxes: its objects.
    """
    asset_id: str
    suffix: str
    path: str
    size: Tuple[int, int]
    boxes: Sequence[InclusiveBox]


def annotation_name(asset_id: str, export_format: str) -> str:
    """The annotation file of an image, relative to the annotations folder; for coco one file that all images share."""
    if export_format == "coco":
        return COCO_NAME
    return f"{asset_id[-2:]}/{asset_id}{_SUFFIXES[export_format]}"


def annotation_text(image: ExportedImage, class_names: Sequence[str], export_format: str) -> str:
    """The annotation file of one image, for the formats that have one each (ark and voc)."""
    return ark_text(image) if export_format == "ark" else voc_text(image, class_names)


def ark_text(image: ExportedImage) -> str:
    """One line an object: class index, xmin, ymin, xmax, ymax, quality, rotate angle; empty without objects."""
    return "".join(f"{', '.join(str(v) for v in box)}, {_UNSET}, 0.0\n" for box in image.boxes)


def voc_text(image: ExportedImage, class_names: Sequence[str]) -> str:
    """One XML document without a declaration, elements in the platform's order."""
    root = ElementTree.Element("annotation")
    _add(root, "folder", "folder")
    _add(root, "filename", image.path)
    source = ElementTree.SubElement(root, "source")
    _add(source, "annotation", "unknown")
    _add(source, "image", "unknown")
    size = ElementTree.SubElement(root, "size")
    for name, value in zip(("width", "height", "depth"), (*image.size, 3)):
        _add(size, name, str(value))
    _add(root, "segmented", "0")
    _add(root, "image_quality", f"{_UNSET:.4f}")
    for box in image.boxes:
        _add_voc_object(root, box, class_names)
    return ElementTree.tostring(root, encoding="unicode")


def _add_voc_object(root: ElementTree.Element, box: InclusiveBox, class_names: Sequence[str]) -> None:
    item = ElementTree.SubElement(root, "object")
    _add(item, "name", class_names[box[0]])
    _add(item, "pose", "unknown")
    _add(item, "truncated", "unknown")
    _add(item, "occluded", "0")
    bndbox = ElementTree.SubElement(item, "bndbox")
    for name, value in zip(("xmin", "ymin", "xmax", "ymax"), box[1:]):
        _add(bndbox, name, str(value))
    _add(bndbox, "rotate_angle", f"{0.0:.4f}")
    _add(item, "difficult", "0")
    _add(item, "box_quality", f"{_UNSET:.4f}")
    _add(item, "confidence", f"{_UNSET:.4f}")


def _add(parent: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, name).text = text


def coco_text(images: Sequence[ExportedImage], listed_classes: Sequence[int], class_names: Sequence[str]) -> str:
    """The one COCO file of an export.

    Args:
        images: all images of all splits; numbered from 1 in the order of their hashes.
        listed_classes: class indices with an entry in ``categories``. The platform lists only those present in the
            training set, so a class that only val shows is referred to without an entry.
        class_names: of the task; a category's id is the 0-based position here.
    """
    document: Dict[str, Any] = {
        "images": [],
        "licenses": [{"name": "", "id": 1, "url": ""}],
        "categories": [{"id": i, "name": class_names[i], "supercategory": "object"} for i in sorted(listed_classes)],
        "annotations": [],
    }
    for image_id, image in enumerate(sorted(images), start=1):
        document["images"].append({
            "id": image_id, "file_name": f"{image.asset_id}{image.suffix}", "width": image.size[0],
            "height": image.size[1], "date_captured": "", "license": 1, "coco_url": "", "flickr_url": ""})
        document["annotations"] += _coco_annotations(image, image_id, len(document["annotations"]) + 1)
    return json.dumps(document)


def _coco_annotations(image: ExportedImage, image_id: int, first_id: int) -> List[Dict[str, Any]]:
    entries = []
    for annotation_id, (class_index, xmin, ymin, xmax, ymax) in enumerate(image.boxes, start=first_id):
        width, height = xmax - xmin + 1, ymax - ymin + 1
        entries.append({
            "id": annotation_id, "image_id": image_id, "category_id": class_index, "iscrowd": 0,
            "bbox": [xmin, ymin, width, height], "confidence": _UNSET, "area": width * height, "segmentation": {}})
    return entries
