"""The labels of an image, in the three formats that the platform exports: ark, voc and coco (contract section 5).

A reader tells what a file says, with the platform's oddities understood and a person's slips tolerated; what cannot be understood is one
`DatasetError` that names the file and the line or key. Coordinates are pixels, 0-based, both corners inclusive, and are not clipped to
the image. An object without extent is left out unless it has a mask: there is nothing in it to learn.
"""
from __future__ import annotations

import logging
import os
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set

from ymir_exc._annotations.ark import count_ark_objects as count_ark_objects
from ymir_exc._annotations.ark import read_ark as read_ark
from ymir_exc._annotations.coco import CocoIndex as CocoIndex
from ymir_exc._annotations.objects import LabelledObject as LabelledObject
from ymir_exc._annotations.objects import Segmentation as Segmentation
from ymir_exc._annotations.voc import read_voc as read_voc
from ymir_exc._yaml import misspelt, nearest, value_of
from ymir_exc.errors import ConfigError

_log = logging.getLogger(__name__)

_FORMATS = {
    "ark": "ark", "det-ark": "ark", "voc": "voc", "det-voc": "voc", "coco": "coco", "seg-coco": "coco", "none": "none",
}
SUFFIXES = {".txt": "ark", ".xml": "voc", ".json": "coco"}

Reader = Callable[[str, str], List[LabelledObject]]
"""From an image's path and its annotation's path to the objects."""


def annotation_format(export_format: Optional[str]) -> str:
    """The format that `export_format` of config.yaml names (contract 5.1).

    Args:
        export_format: Such as 'ark:raw'; in any case; what follows the colon does not matter here.

    Returns:
        'ark', 'voc', 'coco', 'none', or '' when the key is missing or empty: voc by contract, ark on platforms up to 1.1.

    Raises:
        ConfigError: A name that no platform of today exports.
    """
    name = str(export_format or "").partition(":")[0].strip().lower()
    if not name:
        return ""
    if name not in _FORMATS:
        close = nearest(name, _FORMATS)
        raise ConfigError(f"config.yaml: export_format {export_format!r} is unknown",
                          hint=(f"is {close} meant? " if close else "") + f"use one of {', '.join(_FORMATS)}, such as ark:raw")
    return _FORMATS[name]


def format_of(export_format: Optional[str], annotation: str) -> str:
    """The format of one annotation file: what `annotation_format` says, or the file's suffix where that says nothing; at last voc.

    Raises:
        ConfigError: As `annotation_format`.
    """
    return annotation_format(export_format) or SUFFIXES.get(os.path.splitext(annotation)[1].lower(), "voc")


def annotation_reader(export_format: Optional[str], class_names: Optional[Sequence[str]]) -> Reader:
    """Choose the reader for a task's annotations.

    Args:
        export_format: Of config.yaml; when it is missing the file's suffix decides, and voc without a known one.
        class_names: Of config.yaml; their order defines the class ids.

    Returns:
        A function of an image's path and its annotation's path. An empty annotation path means no objects. Names of classes that are not
        in class_names are dropped, as the platform drops them, with one warning each. A coco file is read once.

    Raises:
        ConfigError: An unknown format, or class_names is missing or no list of different names.
    """
    return _Reader(annotation_format(export_format), checked_class_names(class_names))


def class_names_of(config: Mapping[str, Any]) -> List[str]:
    """`class_names` of config.yaml as a list of text; see `checked_class_names`."""
    return checked_class_names(value_of(config, "class_names"), misspelt(config, "class_names"))


def checked_class_names(class_names: Optional[Sequence[str]], hint: str = "") -> List[str]:
    """`class_names` of config.yaml as a list of text.

    Args:
        class_names: As it stands there.
        hint: What to do when it is wrong.

    Raises:
        ConfigError: It is missing or no list of different names.
    """
    if not isinstance(class_names, (list, tuple)) or not class_names:
        raise ConfigError(f"config.yaml: class_names must be a list of names, not {class_names!r:.80}",
                          hint=hint or "the platform writes it there")
    for name in class_names:
        if name is None or isinstance(name, (list, tuple, dict)) or not str(name).strip():
            raise ConfigError(f"config.yaml: class_names holds {name!r:.80}, which is no name")
    names = [str(name) for name in class_names]
    if len(set(names)) != len(names):
        raise ConfigError(f"config.yaml: class_names has a name twice: {names}")
    return names


class _Reader:
    """A task's reader; see `annotation_reader`."""

    def __init__(self, kind: str, class_names: List[str]) -> None:
        self.kind = kind
        self.class_names = class_names
        self.unknown: Set[str] = set()
        self.indices: Dict[str, CocoIndex] = {}

    def __call__(self, asset: str, annotation: str) -> List[LabelledObject]:
        kind = self.kind or format_of(None, annotation)
        if not annotation or kind == "none":
            return []
        if kind == "ark":
            return read_ark(annotation, len(self.class_names))
        if kind == "coco":
            return self._coco(annotation).objects(asset)
        return self._voc(annotation)

    def _coco(self, annotation: str) -> CocoIndex:
        if annotation not in self.indices:
            self.indices[annotation] = CocoIndex(annotation, self.class_names)
        return self.indices[annotation]

    def _voc(self, annotation: str) -> List[LabelledObject]:
        unknown: Set[str] = set()
        objects = read_voc(annotation, self.class_names, unknown)
        for name in unknown - self.unknown:
            _log.warning("%s: objects of class %r are left out: it is not in class_names", annotation, name)
        self.unknown |= unknown
        return objects
