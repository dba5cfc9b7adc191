"""The folder tree that YOLOv5 and its descendants train from."""
from __future__ import annotations

import os
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

from ymir_exc import _files
from ymir_exc._annotations import LabelledObject, class_names_of
from ymir_exc.dataset_convert import _publish
from ymir_exc.dataset_convert._image_size import image_size
from ymir_exc.dataset_convert._inputs import Inputs, fingerprint, labelled_data
from ymir_exc.dataset_reader import read_index
from ymir_exc.errors import DatasetError


class _Tree(NamedTuple):
    """Where things lie; all absolute."""

    root: str
    assets_dir: str

    @property
    def labels(self) -> str:
        return os.path.join(self.root, "labels")

    @property
    def images(self) -> str:
        return os.path.join(self.root, "images")

    @property
    def data_file(self) -> str:
        return os.path.join(self.root, "data.yaml")

    def index_file(self, split: str) -> str:
        return os.path.join(self.root, f"{split}-index.txt")

    def places(self, asset: str) -> Tuple[str, str]:
        """Where an image is seen below `images`, and its label's path relative to `labels`.

        Raises:
            DatasetError: The image is not below the assets folder, or YOLO would look for its label elsewhere.
        """
        path = os.path.normpath(asset) if "/." in asset or "//" in asset else asset
        if not path.startswith(f"{self.assets_dir}/"):
            raise DatasetError(f"the image {asset} is not below {self.assets_dir}",
                               hint="env.yaml: input.assets_dir must be the folder of all images")
        image = f"{self.images}{path[len(self.assets_dir):]}"
        label = img2label_paths([image])[0]
        if not label.startswith(f"{self.labels}/"):
            raise DatasetError(f"the image {asset} cannot have a label: YOLO would look for {label}",
                               hint="it needs a suffix, and no folder called images on its way")
        return image, label[len(self.labels) + 1:]


def convert_ymir_to_yolov5(cfg: Any, out_dir: Optional[str] = None) -> str:
    """Write the task's labels as YOLO wants them, or find them written.

    Every rank may call this, at once and again: one builds, the others wait for it; labels appear all at once. They are made anew when the
    datasets or the class names differ.

    For a training: `images` (a link to the assets folder), `labels/**.txt` (a line an object: class, centre x, centre y, width, height, as
    fractions of the image; boxes are clipped to it, and those outside left out; an image without objects has an empty file),
    `train-index.txt`, `val-index.txt` and `data.yaml`, whose `test` is the validation set. For mining and inference only `data.yaml`,
    whose splits all name the platform's list of candidates.

    Args:
        cfg: What `util.get_merged_config()` returned.
        out_dir: Where to; the task's output folder when None.

    Returns:
        The path of data.yaml.

    Raises:
        ConfigError: class_names or export_format is wrong, or `labels` or `images` in out_dir is somebody else's.
        DatasetError: An index file or an annotation is missing or malformed, or an image is not below the assets folder.
        ImageError: An image's size cannot be told.
        StorageError: The files cannot be written.
    """
    tree = _tree(cfg, out_dir)
    _files.make_folder(tree.root)
    if not cfg.ymir.run_training:
        names = class_names_of(cfg.param)
        _write_data_file(tree, names, dict.fromkeys(("train", "val", "test"), str(cfg.ymir.input.candidate_index_file)))
        return tree.data_file
    inputs = labelled_data(cfg)
    key = fingerprint(inputs, "yolov5", tree.root)
    if not _is_made(tree, key):
        with _files.lock(tree.root):
            if not _is_made(tree, key):    # another rank made it meanwhile
                _build(tree, inputs, key)
    return tree.data_file


def convert(cfg: Any, out_dir: str, asset: str, ann: str) -> Tuple[str, str]:
    """Write the label of one image.

    For many images `convert_ymir_to_yolov5` is faster: it reads a coco file only once.

    Args:
        cfg: What `util.get_merged_config()` returned.
        out_dir: The tree's root.
        asset: The image; below the assets folder.
        ann: Its annotation.

    Returns:
        The image's path below `images`, and the label's.

    Raises:
        DatasetError, ImageError, StorageError: As `convert_ymir_to_yolov5`.
    """
    tree, inputs = _tree(cfg, out_dir), labelled_data(cfg)
    image, name = tree.places(asset)
    label = os.path.join(tree.labels, name)
    text = _label_text(inputs.reader()(asset, ann), *image_size(asset))
    _files.make_folder(os.path.dirname(label))
    _files.write_bytes(label, text.encode("ascii"), sync=False)
    return image, label


def img2label_paths(img_paths: Iterable[str]) -> List[str]:
    """Where YOLO looks for the labels of images: the last `/images/` becomes `/labels/`, the suffix `.txt`."""
    return [f"{os.sep}labels{os.sep}".join(path.rsplit(f"{os.sep}images{os.sep}", 1)).rsplit(".", 1)[0] + ".txt" for path in img_paths]


def _tree(cfg: Any, out_dir: Optional[str]) -> _Tree:
    return _Tree(os.path.abspath(out_dir or cfg.ymir.output.root_dir), os.path.abspath(cfg.ymir.input.assets_dir))


def _is_made(tree: _Tree, key: str) -> bool:
    files = (tree.index_file("train"), tree.index_file("val"), tree.data_file)
    return (_publish.key_of(tree.labels) == key and all(map(os.path.isfile, files)) and os.path.islink(tree.images)
            and os.readlink(tree.images) == tree.assets_dir)


def _build(tree: _Tree, inputs: Inputs, key: str) -> None:
    """The labels come last: with them everything is there."""
    read = inputs.reader()
    with _publish.new_folder(tree.labels, key) as folder:
        made: Set[str] = set()
        images = {split: [_write_label(tree, folder, asset, read(asset, annotation), made) for asset, annotation in read_index(index)]
                  for split, index in inputs.splits.items()}
        _publish.make_stale(tree.labels)    # what is written from here on no longer fits the earlier labels
        _publish.point_link(tree.images, tree.assets_dir)
        for split, paths in images.items():
            _files.write_bytes(tree.index_file(split), "".join(f"{path}\n" for path in paths).encode(), sync=False)
        train, val = (os.path.basename(tree.index_file(split)) for split in ("train", "val"))
        _write_data_file(tree, inputs.class_names, {"train": train, "val": val, "test": val})


def _write_label(tree: _Tree, folder: str, asset: str, objects: List[LabelledObject], made: Set[str]) -> str:
    """Write a label into the new folder; `made` holds the subfolders that are there."""
    image, name = tree.places(asset)
    path = f"{folder}/{name}"
    parent = os.path.dirname(path)
    if parent not in made:
        os.makedirs(parent, exist_ok=True)
        made.add(parent)
    _publish.write_new(path, _label_text(objects, *image_size(asset)).encode("ascii"))
    return image


def _label_text(objects: Iterable[LabelledObject], width: int, height: int) -> str:
    """One line an object: class, then centre and extent of its clipped box as fractions of the image."""
    lines = []
    for found in objects:
        left, right = max(found.xmin, 0), min(found.xmax + 1, width)
        top, bottom = max(found.ymin, 0), min(found.ymax + 1, height)
        if left < right and top < bottom:
            lines.append(f"{found.class_id} {(left + right) / 2 / width} {(top + bottom) / 2 / height} "
                         f"{(right - left) / width} {(bottom - top) / height}")
    return "\n".join(lines)


def _write_data_file(tree: _Tree, names: List[str], splits: Dict[str, str]) -> None:
    """data.yaml, in ASCII: YOLO opens it in the encoding of the locale."""
    import yaml
    text = yaml.safe_dump({"path": tree.root, "nc": len(names), "names": names, **splits})
    _files.write_bytes(tree.data_file, text.encode("ascii"), sync=False)
