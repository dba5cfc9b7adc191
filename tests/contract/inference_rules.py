"""``result.tsv`` and ``infer-result.json`` as the platform and its verifier read them: contract 7.1 to 7.3."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, Mapping, Sequence, Set, Tuple

from .reading import (
    INT32_MIN,
    At,
    as_decimal,
    as_integer,
    as_list,
    as_mapping,
    as_number,
    as_text,
    basenames,
    kind,
    known_classes,
    load_json,
    read_text,
)


def accept_mining(out: Path, candidates: Sequence[str]) -> List[Tuple[str, float]]:
    """Read ``out/result.tsv`` as the platform and its verifier do: contract 7.1.

    Args:
        candidates: the paths of the candidate index file, as given there.
    """
    at = At("7.1", "result.tsv")
    text = read_text(at, Path(out) / "result.tsv")
    at.require("\r" not in text, "has a carriage return")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    known = set(candidates)
    rows: List[Tuple[str, float]] = []
    seen: Set[str] = set()
    for number, line in enumerate(lines, 1):
        here = at.item(f"line {number}")
        path, score = _mining_row(here, line)
        here.require(path in known, f"{path!r} is not a candidate as given in the index file")
        here.require(path not in seen, f"{path!r} is there twice, which takes two places of the top k")
        seen.add(path)
        if rows:
            here.require(score <= rows[-1][1], f"the score {score} is above the line before it; must be descending")
        rows.append((path, score))
    missing = [path for path in candidates if path not in seen]
    at.require(not missing, f"{len(missing)} of {len(known)} candidates have no line, first {missing[:1]}")
    return rows


def _mining_row(at: At, line: str) -> Tuple[str, float]:
    at.require(line.strip(), "is blank")
    fields = line.split("\t")
    at.require(len(fields) == 2, f"has {len(fields)} TAB-separated fields, must be path and score")
    path, score = fields
    return path, as_decimal(at.item("score"), score)


def accept_detection(out: Path, candidates: Sequence[str], class_names: Sequence[str]) -> Dict[str, List[Any]]:
    """Read ``out/infer-result.json`` of a detection task: contract 7.2. Returns the boxes by image name."""
    at = At("7.2", "infer-result.json")
    document = load_json(at, Path(out) / "infer-result.json")
    at = at.item("detection")
    at.require("detection" in document, "is missing")
    images = as_mapping(at, document["detection"])
    names, classes = basenames(candidates), known_classes(class_names)
    found: Dict[str, List[Any]] = {}
    for name, value in images.items():
        here = at.item(name)
        here.require(PurePosixPath(name).name == name, "the key is not a bare file name")
        here.require(name in names, "is not the file name of a candidate")
        found[name] = _image_boxes(here, as_mapping(here, value))
        for position, entry in enumerate(found[name]):
            _box(here.item("boxes").index(position), entry, classes)
    missing = sorted(set(names) - set(found))
    at.require(not missing, f"{len(missing)} of {len(names)} candidates are missing, first {missing[:1]}")
    return found


def _image_boxes(at: At, image: Mapping[str, Any]) -> List[Any]:
    """``boxes``, or the older ``annotations``, which is also read when ``boxes`` is empty."""
    at.require("boxes" in image or "annotations" in image, "has no list `boxes`, so the image is skipped")
    boxes = as_list(at.item("boxes"), image.get("boxes", []))
    older = as_list(at.item("annotations"), image.get("annotations", []))
    at.item("annotations").require(not (boxes and older) or boxes == older, "differs from `boxes` and is not read")
    return boxes or older


def _box(at: At, value: object, classes: Set[str]) -> None:
    entry = as_mapping(at, value)
    at.item("score").require("score" in entry, "is missing, so the box is dropped")
    as_number(at.item("score"), entry["score"], 0, 1)
    at.item("class_name").require("class_name" in entry, "is missing")
    class_name = as_text(at.item("class_name"), entry["class_name"])
    at.item("class_name").require(class_name.strip().lower() in classes, f"{class_name!r} is not a known class")
    at.item("box").require("box" in entry, "is missing")
    here = at.item("box")
    box = as_mapping(here, entry["box"])
    for key in box:
        here.item(key).require(key in ("x", "y", "w", "h", "rotate_angle"), "unknown key, which fails the whole task")
    for key, lowest in (("x", INT32_MIN), ("y", INT32_MIN), ("w", 1), ("h", 1)):
        here.item(key).require(key in box, "is missing and would be read as 0")
        as_integer(here.item(key), box[key], lowest)
    if "rotate_angle" in box:
        as_number(here.item("rotate_angle"), box["rotate_angle"])


def accept_segmentation(
    out: Path, candidates: Sequence[str], class_names: Sequence[str], *, complete: bool = True
) -> Dict[str, List[Any]]:
    """Read ``out/infer-result.json`` of a segmentation or multi-modal task: contract 7.3.

    Args:
        complete: every candidate must stand in ``images`` (the contract says so of detection only).

    Returns:
        The annotations by image name.
    """
    at = At("7.3", "infer-result.json")
    document = load_json(at, Path(out) / "infer-result.json")
    for key in ("images", "categories", "annotations"):
        at.item(key).require(key in document, "is missing")
    images = _coco_images(at.item("images"), document["images"], set(basenames(candidates)), complete)
    categories = _coco_categories(at.item("categories"), document["categories"], known_classes(class_names))
    found: Dict[str, List[Any]] = {name: [] for name in images.values()}
    seen: Set[Tuple[Any, ...]] = set()
    for position, value in enumerate(as_list(at.item("annotations"), document["annotations"])):
        here = at.item("annotations").index(position)
        entry = as_mapping(here, value)
        image_id = _reference(here, entry, "image_id", images)
        category_id = _reference(here, entry, "category_id", categories)
        bbox = _coco_bbox(here.item("bbox"), entry)
        same = (image_id, categories[category_id], *bbox)
        here.item("bbox").require(same not in seen, f"image, class and box {bbox} are there already; one is dropped")
        seen.add(same)
        here.item("area").require("area" in entry, "is missing, which fails the whole task")
        as_number(here.item("area"), entry["area"])
        if "segmentation" in entry:
            _segmentation(here.item("segmentation"), entry["segmentation"])
        _coco_options(here, entry)
        found[images[image_id]].append(entry)
    return found


def _coco_images(at: At, value: object, names: Set[str], complete: bool) -> Dict[int, str]:
    images: Dict[int, str] = {}
    for position, entry in enumerate(as_list(at, value)):
        here = at.index(position)
        image = as_mapping(here, entry)
        for key in ("id", "file_name"):
            here.item(key).require(key in image, "is missing")
        number = as_integer(here.item("id"), image["id"])
        here.item("id").require(number not in images, f"{number} is there twice; the image is dropped")
        name = as_text(here.item("file_name"), image["file_name"])
        here.item("file_name").require(
            PurePosixPath(name).name == name, f"{name!r} has a folder; its annotations vanish silently"
        )
        here.item("file_name").require(name in names, f"{name!r} is not the file name of a candidate")
        here.item("file_name").require(name not in images.values(), f"{name!r} is there twice")
        images[number] = name
    missing = sorted(names - set(images.values()))
    at.require(
        not (complete and missing), f"{len(missing)} of {len(names)} candidates are missing, first {missing[:1]}"
    )
    return images


def _coco_categories(at: At, value: object, classes: Set[str]) -> Dict[int, str]:
    categories: Dict[int, str] = {}
    for position, entry in enumerate(as_list(at, value)):
        here = at.index(position)
        category = as_mapping(here, entry)
        for key in ("id", "name"):
            here.item(key).require(key in category, "is missing")
        number = as_integer(here.item("id"), category["id"])
        here.item("id").require(number not in categories, f"{number} is there twice; the category is dropped")
        name = as_text(here.item("name"), category["name"]).strip().lower()
        here.item("name").require(name in classes, f"{name!r} is not a known class")
        categories[number] = name
    return categories


def _reference(at: At, entry: Mapping[str, Any], key: str, known: Mapping[int, str]) -> int:
    at.item(key).require(key in entry, "is missing")
    number = as_integer(at.item(key), entry[key])
    at.item(key).require(number in known, f"{number} is unknown, so the annotation is skipped")
    return number


def _coco_bbox(at: At, entry: Mapping[str, Any]) -> Tuple[int, ...]:
    at.require("bbox" in entry, "is missing, so the annotation is skipped")
    values = as_list(at, entry["bbox"])
    at.require(len(values) == 4, f"has {len(values)} values, must be x, y, w, h")
    bbox = tuple(int(as_number(at.index(position), value)) for position, value in enumerate(values))
    for position, value in enumerate(bbox):
        as_integer(at.index(position), value)
    at.require(min(bbox[2:]) >= 1, f"w or h is below 1 after truncation ({bbox}), so the annotation is dropped")
    return bbox


def _segmentation(at: At, value: object) -> None:
    if isinstance(value, dict):
        at.item("counts").require("counts" in value, "is missing, which fails the whole task")
        counts = value["counts"]
        if not isinstance(counts, str):
            at.item("counts").refuse(f"must be a compressed-RLE string, is {kind(counts)}")
        runs = _decode_rle(at.item("counts"), counts)
        if "size" in value:
            size = as_list(at.item("size"), value["size"])
            at.item("size").require(len(size) == 2, "must be [height, width]")
            height, width = (as_integer(at.item("size"), edge, 1) for edge in size)
            at.item("counts").require(
                sum(runs) == height * width, f"covers {sum(runs)} pixels, the mask has {height} x {width}"
            )
    elif isinstance(value, list):
        at.require(len(value) == 1, f"has {len(value)} rings; the platform reads exactly one, use a mask")
        ring = as_list(at.index(0), value[0])
        at.index(0).require(len(ring) >= 6 and len(ring) % 2 == 0, f"has {len(ring)} numbers, not 3 points or more")
        for coordinate in ring:
            as_number(at.index(0), coordinate)
    else:
        at.refuse(f"must be a mask (mapping) or one polygon (list), is {kind(value)}")


def _decode_rle(at: At, counts: str) -> List[int]:
    """Run lengths of a COCO compressed mask: six-bit characters from '0', low bits first, deltas from the third on."""
    at.require(counts, "is empty")
    runs: List[int] = []
    value, shift = 0, 0
    for character in counts:
        bits = ord(character) - 48
        at.require(0 <= bits < 64, f"{character!r} does not occur in compressed RLE")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        at.require(runs[-1] >= 0, "has a negative run length")
        value, shift = 0, 0
    at.require(shift == 0, "ends in the middle of a run length")
    return runs


def _coco_options(at: At, entry: Mapping[str, Any]) -> None:
    at.item("is_crowd").require("is_crowd" not in entry, "is ignored; the key is `iscrowd`")
    if "iscrowd" in entry:
        as_integer(at.item("iscrowd"), entry["iscrowd"], 0, 1)
    at.item("score").require("score" not in entry or "confidence" in entry, "is ignored; the key is `confidence`")
    if "confidence" in entry:
        confidence = as_number(at.item("confidence"), entry["confidence"])
        at.item("confidence").require(confidence == -1 or 0 <= confidence <= 1, f"{confidence} is outside [0, 1]")
    if "box_quality" in entry:
        as_number(at.item("box_quality"), entry["box_quality"])
    if "meta" in entry:
        as_mapping(at.item("meta"), entry["meta"])
