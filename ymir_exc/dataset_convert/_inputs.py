"""What the converters read: a task's index files, class names and annotation format, and how to tell whether they changed."""
from __future__ import annotations

import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ymir_exc import env
from ymir_exc._annotations import Reader, annotation_reader, class_names_of
from ymir_exc._yaml import value_of
from ymir_exc.dataset_reader import read_index
from ymir_exc.errors import DatasetError

_VERSION = 1    # of what the converters write; a higher one makes every output of an earlier package stale
_KEYS = {"train": "training_index_file", "val": "val_index_file"}


class Inputs(NamedTuple):
    """A training task's labelled data.

    Attributes:
        splits: 'train' and 'val' to their index files.
        assets_dir: Where the images lie.
        class_names: Their order defines the class ids.
        export_format: Of config.yaml; None when it is missing.
    """

    splits: Dict[str, str]
    assets_dir: str
    class_names: List[str]
    export_format: Optional[str]

    def reader(self) -> Reader:
        """A reader of the annotations; see `annotation_reader`."""
        return annotation_reader(self.export_format, self.class_names)


def labelled_data(cfg: Any) -> Inputs:
    """The labelled data that a configuration names.

    Args:
        cfg: What `util.get_merged_config()` returned.

    Raises:
        DatasetError: An index file is not set: the task is no training.
        ConfigError: class_names is missing or no list of different names.
    """
    given = cfg.ymir.input
    for key in _KEYS.values():
        if not getattr(given, key):
            raise DatasetError(f"env.yaml: input.{key} is not set",
                               hint=env.misspelt_as(f"input.{key}") or "only a training task has labelled data to convert")
    splits = {split: str(getattr(given, key)) for split, key in _KEYS.items()}
    return Inputs(splits, str(given.assets_dir), class_names_of(cfg.param), value_of(cfg.param, "export_format"))


def fingerprint(inputs: Inputs, *options: object) -> str:
    """A text that differs when the output would: index files, annotations, class names, format and options.

    Annotations are told by size and time of change; images only by name, which on the platform is a hash of their content.
    """
    import hashlib
    digest = hashlib.sha256(repr((_VERSION, inputs, options)).encode("utf-8", "backslashreplace"))
    previous = ""
    for split, index in inputs.splits.items():
        digest.update(f"\0{split}".encode())
        for asset, annotation in read_index(index):
            if annotation != previous:
                digest.update(f"\n{annotation}\t{_change_of(annotation)}".encode())
                previous = annotation
            digest.update(f"\n{asset}".encode())
    return digest.hexdigest()


def _change_of(path: str) -> Tuple[int, int]:
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return 0, 0
    return info.st_mtime_ns, info.st_size
