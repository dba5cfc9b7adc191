"""Images and their annotations in a folder, put together by their names; annotations are read only as far as that needs."""
from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Set, Tuple

from ymir_exc.errors import DatasetError

FORMATS: Mapping[str, str] = {".txt": "ark", ".xml": "voc", ".json": "coco"}
IMAGE_FOLDERS = ("images", "assets", "JPEGImages")
ANNOTATION_FOLDERS = ("annotations", "Annotations", "labels")
CLASSES = "classes.txt"
_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
_LOOKED_INTO = 20
"""Files whose first line is looked at to tell ark from what other tools write under the same suffix."""


class Paired(NamedTuple):
    """What was found.

    Attributes:
        rows: Image and annotation, sorted by image.
        format: 'ark', 'voc' or 'coco'.
        left_out: Why images are left out, to how many.
    """

    rows: List[Tuple[str, str]]
    format: str
    left_out: Dict[str, int]


def images_of(folder: str) -> List[str]:
    """The images below a folder, or below its `images/` where there is one; sorted, without those among annotations."""
    return [path for path in _walk(_image_root(folder), set()) if os.path.splitext(path)[1].lower() in _IMAGES]


def pair(folder: str, source: str, split: str, work: str) -> Paired:
    """Put images and annotations together.

    Args:
        folder: With `images/` and `annotations/`, or images and annotations side by side.
        source: What to call it in messages.
        split: 'train' or 'val': of several coco files the one is taken whose name has this word.
        work: Where the annotation of images without objects is made.

    Raises:
        DatasetError: There are no images or no annotations, or both cannot be brought together.
    """
    images = images_of(folder)
    if not images:
        raise DatasetError(f"{source}: no images below {folder}", hint="images with annotations, or an index file, are wanted")
    own = next((path for path in (os.path.join(folder, name) for name in ANNOTATION_FOLDERS) if os.path.isdir(path)), None)
    place = own or folder
    files = [path for path in _walk(place, set(), everything=True) if os.path.splitext(path)[1].lower() in FORMATS]
    found = _stems(files, place)
    root = _image_root(folder)
    stems = {image: os.path.splitext(os.path.relpath(image, root))[0] for image in images}
    names = [os.path.basename(stem) for stem in stems.values()]
    once = {name for name, count in Counter(names).items() if count == 1}
    matched = {image: found.get(stem) or (found.get(name) if name in once else None) for (image, stem), name in zip(stems.items(), names)}
    kind = next((FORMATS[os.path.splitext(path)[1].lower()] for path in matched.values() if path), "")
    if not kind:
        document = _coco_of(files, source, split)
        if document is not None:
            return _by_coco(images, root, *document)
        if own is None or any(os.path.basename(path) != CLASSES for path in files):
            which = f"no annotation below {folder}" if own is None else f"none of the annotations below {own}"
            raise DatasetError(f"{source}: {which} belongs to an image",
                               hint="an annotation has the image's name with .txt (ark) or .xml (voc), or is one coco .json for all")
        kind = "ark"    # a folder for annotations, and none in it: no image shows anything
    if kind == "ark":
        _check_ark([path for path in matched.values() if path and path.endswith(".txt")], source)
    return _by_stem(matched, kind, own is not None, work)


def _by_stem(matched: Mapping[str, Optional[str]], kind: str, has_folder: bool, work: str) -> Paired:
    """An image without annotation shows nothing where annotations have a folder of their own; elsewhere nobody knows."""
    rows, missing, mixed = [], 0, 0
    for image, annotation in matched.items():
        if annotation and FORMATS[os.path.splitext(annotation)[1].lower()] != kind:
            mixed += 1
        elif annotation:
            rows.append((image, annotation))
        elif has_folder:
            rows.append((image, _nothing(kind, work)))
        else:
            missing += 1
    return Paired(rows, kind, {"they have no annotation beside them": missing, f"their annotations are not {kind} as the others": mixed})


def _nothing(kind: str, work: str) -> str:
    """An annotation without objects, because a program may open what an index file names."""
    path = os.path.join(work, "nothing.xml" if kind == "voc" else "nothing.txt")
    if not os.path.exists(path):
        from ymir_exc import _files
        _files.write_bytes(path, b"<annotation></annotation>" if kind == "voc" else b"", sync=False)
    return path


# ------------------------------------------------------------------------------------------------------------------------ files

def _image_root(folder: str) -> str:
    return next((path for path in (os.path.join(folder, name) for name in IMAGE_FOLDERS) if os.path.isdir(path)), folder)


def _walk(folder: str, seen: Set[Tuple[int, int]], everything: bool = False) -> Iterator[str]:
    """The files below a folder, sorted, no hidden ones; folders that links lead to are entered once. Not into annotations of images."""
    try:
        info = os.stat(folder)
        if (info.st_dev, info.st_ino) in seen:
            return
        seen.add((info.st_dev, info.st_ino))
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir(), entry.is_file()) for entry in entries if not entry.name.startswith("."))
    except OSError as e:
        raise DatasetError(f"cannot read {folder}: {e.strerror}") from None
    for name, is_folder, is_file in found:
        path = os.path.join(folder, name)
        if is_file:
            yield path
        elif is_folder and (everything or name not in ANNOTATION_FOLDERS):
            yield from _walk(path, seen, everything)


def _stems(files: List[str], folder: str) -> Dict[str, str]:
    """An annotation by its path without suffix, and by its bare name where only one has that."""
    by_path = {os.path.splitext(os.path.relpath(path, folder))[0]: path for path in files if not path.lower().endswith(".json")}
    by_name: Dict[str, List[str]] = {}
    for stem, path in by_path.items():
        by_name.setdefault(os.path.basename(stem), []).append(path)
    return {**{name: paths[0] for name, paths in by_name.items() if len(paths) == 1}, **by_path}


def _check_ark(annotations: List[str], source: str) -> None:
    for path in annotations[:_LOOKED_INTO]:
        try:
            with open(path, "rb") as f:
                line = f.readline(1000)
        except OSError as e:
            raise DatasetError(f"cannot read {path}: {e.strerror}") from None
        if line.strip() and b"," not in line:
            raise DatasetError(f"{source}: {path} is no annotation in ark format: {line.decode('utf-8', 'replace').strip()!r:.80}",
                               hint="a line is class_index, xmin, ymin, xmax, ymax in pixels, separated by commas")


# ------------------------------------------------------------------------------------------------------------------------- coco

def _coco_of(files: List[str], source: str, split: str) -> Optional[Tuple[str, Dict[str, Any]]]:
    """The one coco file and its content; None when there is none."""
    candidates = [path for path in files if path.lower().endswith(".json")]
    named = [path for path in candidates if split in os.path.basename(path)]
    for path in (named if len(named) == 1 else candidates):
        document = _load(path)
        if document is None:
            continue
        others = [other for other in candidates if other != path and path not in named and _load(other) is not None]
        if others:
            raise DatasetError(f"{source}: {path} and {others[0]} both are coco files", hint=f"leave one, or put {split} into its name")
        return path, document
    return None


def _load(path: str) -> Optional[Dict[str, Any]]:
    """A coco file's content; None when it is something else."""
    try:
        with open(path, "rb") as f:
            document = json.loads(f.read().decode("utf-8-sig"))
    except OSError as e:
        raise DatasetError(f"cannot read {path}: {e.strerror}") from None
    except (ValueError, RecursionError) as e:
        raise DatasetError(f"{path} is not valid JSON: {e}") from None
    return document if isinstance(document, dict) and isinstance(document.get("images"), list) else None


def _by_coco(images: List[str], root: str, path: str, document: Mapping[str, Any]) -> Paired:
    """The images that the file lists: of the others nobody knows what they show, they may belong to another split."""
    listed = {os.path.basename(str(image.get("file_name"))) for image in document["images"] if isinstance(image, dict)}
    rows = [(image, path) for image in images if os.path.basename(image) in listed]
    if not rows:
        raise DatasetError(f"{path}: none of its images lies below {root}", hint="file_name is to be the name of an image's file")
    return Paired(rows, "coco", {f"{os.path.basename(path)} does not list them": len(images) - len(rows)})
