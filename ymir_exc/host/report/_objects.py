"""What a model found and what is really there, by the image's file name, in one form.

Scores are whole ten-thousandths, 0..10000, cut and not rounded: so the page and this package agree on which are below a threshold.
"""
from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from ymir_exc._annotations import LabelledObject, annotation_reader
from ymir_exc.dataset_reader import read_index
from ymir_exc.errors import ConfigError, YmirError
from ymir_exc.host.report._runs import class_names_of, mapping

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FULL_SCORE = 10000
MOST_BYTES = 1 << 29
"""Of an infer-result.json: it is read whole."""


class Objects(NamedTuple):
    """Objects of one image.

    Attributes:
        boxes: `(N, 4)`, xmin, ymin, xmax, ymax in pixels, the last two just outside.
        classes: `(N,)`, positions in the report's list of classes.
        scores: `(N,)`, 0..10000; all 10000 for what is really there.
        masks: COCO's RLE or polygons of each, None where there is only a box.
        angles: `(N,)`, by which each box is turned about its centre, in radians, clockwise as the image is seen; None where none is.
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    scores: NDArray[np.int64]
    masks: List[Any]
    angles: Optional[NDArray[np.float64]] = None


class Classes:
    """The names of the report's classes; one that no configuration names is added when it is met."""

    def __init__(self) -> None:
        self.names: List[str] = []
        self._ids: Dict[str, int] = {}

    def id_of(self, name: Any) -> int:
        """The class's position; names are compared as the platform does, without case and outer blanks."""
        key = str(name).strip().lower()
        if key not in self._ids:
            self._ids[key] = len(self.names)
            self.names.append(str(name).strip())
        return self._ids[key]


def _objects(rows: List[Tuple[float, float, float, float, int, int, Any, float]]) -> Objects:
    import numpy as np
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, *_ in rows], np.float64).reshape(-1, 4)
    angles = np.array([row[7] for row in rows], np.float64)
    return Objects(boxes, np.array([row[4] for row in rows], np.int64), np.array([row[5] for row in rows], np.int64),
                   [row[6] for row in rows], angles if angles.any() else None)


def whole_score(score: float) -> int:
    """A score 0..1 in ten-thousandths; beyond that range it is the nearer end."""
    return min(FULL_SCORE, max(0, math.floor(score * FULL_SCORE + 1e-6)))


def read_predictions(path: Path, classes: Classes, problems: List[str]) -> Dict[str, Objects]:
    """What an infer-result.json says, of either kind (contract 7.2 and 7.3).

    Args:
        path: The file; empty result where there is none.
        classes: Gets the names it lacks.
        problems: What could not be read is told here.

    Returns:
        File name to objects; images without an object are there too.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            problems.append(f"{path} has {size >> 20} MiB; at most {MOST_BYTES >> 20} are read, so no predictions are shown")
            return {}
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as e:
        problems.append(f"{path} cannot be read: {e}")
        return {}
    rows: Dict[str, List[Any]] = {}
    for name, row in _rows(document, classes):
        found = rows.setdefault(name, [])
        if row is not None:
            found.append(row)
    broken = sum(row == () for found in rows.values() for row in found)
    if broken:
        problems.append(f"{path}: objects without a usable class, box or score, which are left out: {broken}")
    if not rows:
        problems.append(f"{path} lists no image")
    return {name: _objects([row for row in found if row != ()]) for name, found in rows.items()}


def _rows(document: Any, classes: Classes) -> Iterator[Tuple[str, Any]]:
    """Image name and object; None for an image without any, () for one that cannot be used."""
    if isinstance(document, dict) and isinstance(document.get("detection"), dict):
        for path, value in document["detection"].items():
            name = os.path.basename(str(path))
            yield name, None
            listed = (value.get("boxes") or value.get("annotations")) if isinstance(value, dict) else None
            for one in listed if isinstance(listed, list) else ():
                yield name, _detection(one, classes)
    elif isinstance(document, dict) and isinstance(document.get("images"), list):
        yield from _coco_rows(document, classes)


def _detection(one: Any, classes: Classes) -> Any:
    try:
        box, score = one["box"], float(one["score"])
        edges = [float(box.get(edge, 0)) for edge in "xywh"]
        angle = float(box.get("rotate_angle", 0))
        if not all(map(math.isfinite, (*edges, score, angle))):
            return ()
        return (*edges, classes.id_of(one["class_name"]), whole_score(score), None, angle)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return ()


def _coco_rows(document: Dict[str, Any], classes: Classes) -> Iterator[Tuple[str, Any]]:
    listed = {key: [one for one in document.get(key) or () if isinstance(one, dict)] for key in ("images", "categories", "annotations")}
    names = {str(one.get("id")): os.path.basename(str(one.get("file_name", ""))) for one in listed["images"]}
    categories = {str(one.get("id")): str(one.get("name", "")) for one in listed["categories"]}
    for name in names.values():
        yield name, None
    for one in listed["annotations"]:
        name = names.get(str(one.get("image_id")), "")
        if name:
            yield name, _coco_object(one, categories, classes)


def _coco_object(one: Dict[str, Any], categories: Dict[str, str], classes: Classes) -> Any:
    try:
        x, y, w, h = map(float, one["bbox"])
        score = float(one.get("confidence", -1))
        if not all(map(math.isfinite, (x, y, w, h, score))):
            return ()
        whole = FULL_SCORE if score < 0 else whole_score(score)    # -1 is the platform's "not given"
        return (x, y, w, h, classes.id_of(categories[str(one["category_id"])]), whole, one.get("segmentation") or None, 0.0)
    except (KeyError, TypeError, ValueError, OverflowError):
        return ()


class Folder(NamedTuple):
    """A dataset's `in` or `truth` on this machine.

    Attributes:
        path: Where it lies.
        seen: What its index files call it.
        config: Its config.yaml, or that of the `in` beside it.
    """

    path: Path
    seen: str
    config: Dict[str, Any]

    def here(self, path: str) -> Path:
        """A path of an index file as it is on this machine."""
        root = self.seen.rstrip("/") + "/"
        return self.path / path[len(root):] if path.startswith(root) else Path(path)


def input_folder(path: Path, problems: List[str]) -> Folder:
    """An `in` folder as the task saw it; without env.yaml it is taken to be at /in.

    Args:
        path: The folder.
        problems: What cannot be read is told here.
    """
    env = mapping(path, "env.yaml", problems)
    config = mapping(path, "config.yaml", problems)
    inside = env.get("input")
    return Folder(path, str(inside.get("root_dir", "/in")) if isinstance(inside, dict) else "/in", config)


def data_folders(data: Path, problems: List[str]) -> List[Folder]:
    """The folders of a dataset that a person names: its `in`, and its `truth` where there is one.

    Args:
        data: The folder that holds them, or the `in` itself.
        problems: What cannot be read is told here.

    Raises:
        ConfigError: It is no dataset.
    """
    data = data.resolve()
    root = data if (data / "in").is_dir() else data.parent if (data / "config.yaml").is_file() else None
    if root is None:
        raise ConfigError(f"{data} is no dataset: there is no {data / 'in'}", hint="ymir-exc sample makes one")
    inside = input_folder(root / "in" if (data / "in").is_dir() else data, problems)
    found = [inside]
    if (root / "truth").is_dir():
        found.append(Folder(root / "truth", os.path.join(os.path.dirname(inside.seen.rstrip("/")), "truth"), inside.config))
    return found


class Truth:
    """The images of some folders, where they lie, and what is on them; found by file name.

    Args:
        folders: In which images and annotations are looked for; the first that knows a name is taken.
        classes: Gets the names it lacks.
        problems: What cannot be read is told here.
    """

    def __init__(self, folders: List[Folder], classes: Classes, problems: List[str]) -> None:
        self._classes, self._problems, self._folders = classes, problems, folders
        self._labels: Dict[str, Tuple[str, str, Folder]] = {}
        self._paths: Dict[str, Path] = {}
        self._readers: Dict[Path, Any] = {}
        self.candidates: List[str] = []
        for folder in folders:
            for name in ("candidate-index.tsv", "val-index.tsv", "train-index.tsv"):
                self._read_index(folder, name)

    def _read_index(self, folder: Folder, index: str) -> None:
        if not (folder.path / index).is_file():
            return
        first = index.startswith("candidate") and not self.candidates
        try:
            for asset, annotation in read_index(str(folder.path / index)):
                name = os.path.basename(asset)
                self._paths.setdefault(name, folder.here(asset))
                if annotation:
                    self._labels.setdefault(name, (asset, str(folder.here(annotation)), folder))
                if first:
                    self.candidates.append(name)
        except YmirError as e:
            self._problems.append(str(e))

    @property
    def labelled(self) -> List[str]:
        """Names of the images with annotations."""
        return list(self._labels)

    def path_of(self, name: str) -> Optional[Path]:
        """The image on this machine; None where it is not."""
        stem = os.path.splitext(name)[0]
        known = [self._paths[name]] if name in self._paths else []
        for folder in self._folders:
            known += [folder.path / "assets" / stem[-2:] / name, folder.path / "assets" / name]
        return next((path for path in known if path.is_file()), None)

    def objects(self, name: str) -> Optional[Objects]:
        """What is really on an image; None where nobody has said or it cannot be read."""
        if name not in self._labels:
            return None
        asset, annotation, folder = self._labels[name]
        try:
            if folder.path not in self._readers:
                names = class_names_of(folder.config)
                ids = [self._classes.id_of(one) for one in names]
                self._readers[folder.path] = annotation_reader(folder.config.get("export_format"), names), ids
            read, ids = self._readers[folder.path]
            listed: List[LabelledObject] = read(asset, annotation)
        except YmirError as e:
            if len(self._problems) < 20:
                self._problems.append(str(e))
            return None
        return _objects([(*map(float, one.xywh), ids[one.class_id], FULL_SCORE, one.segmentation, one.rotate_angle)
                         for one in listed])
