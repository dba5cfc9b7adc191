"""Channels to index files (contract 5): a ready index whose paths are rewritten, or images paired with their annotations by stem.

A channel is a folder of one split, or a whole dataset in YMIR's layout: index files, `assets/`, `annotations/`, config.yaml, perhaps
below `in/`. Nothing is written into a channel.
"""
from __future__ import annotations

import os
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ymir_exc.errors import ConfigError, DatasetError
from ymir_exc.platforms.ti import _pairing

CHANNELS: Mapping[str, Tuple[str, ...]] = {
    "train": ("train", "training"), "val": ("val", "validation", "test"), "candidate": ("candidate", "mining", "infer")}
"""The channels of a split, the most wanted first."""

_INDEX_NAMES: Mapping[str, Tuple[str, ...]] = {
    "train": ("train-index.tsv", "training-index.tsv"), "val": ("val-index.tsv", "validation-index.tsv"),
    "candidate": ("candidate-index.tsv",)}
_ANY_INDEX = "index.tsv"


class Split(NamedTuple):
    """What a split's index file is to hold.

    Attributes:
        rows: Image and annotation; the annotation is '' where there is none.
        format: 'ark', 'voc' or 'coco'; '' where nothing is annotated.
        source: The channel or file that it comes from, for messages.
        dataset: config.yaml of the dataset that it belongs to; empty without one.
        warnings: What the user is to hear of.
    """

    rows: List[Tuple[str, str]]
    format: str
    source: str
    dataset: Mapping[str, Any]
    warnings: Tuple[str, ...] = ()


def find(split: str, channels: Mapping[str, str], work: str, prefer: Sequence[str] = ()) -> Optional[Split]:
    """The split, from its own channel, or else from a channel that holds a whole dataset.

    Args:
        split: A key of `CHANNELS`.
        channels: Name to folder.
        work: Where a file may be made, such as the annotation of an image without objects.
        prefer: Names to try before those of `CHANNELS`.

    Returns:
        None when no channel is for it.

    Raises:
        DatasetError: The channel holds nothing that can be understood.
    """
    names = [name for name in (*prefer, *CHANNELS[split]) if name in channels]
    for name in names:
        folder = channels[name]
        if not os.path.isdir(folder):
            raise DatasetError(f"channel {name}: {folder} is no folder")
        index = _own_index(split, folder)
        if index is not None:
            return _read_index(index)
        return _paired(split, name, folder, work)
    for folder in channels.values():
        index = _index_of(split, folder)
        if index is not None:
            return _read_index(index)
    return None


def class_names(channels: Mapping[str, str], splits: Iterable[Split]) -> List[str]:
    """The names in classes.txt of a channel, a line each, or in config.yaml of a dataset; [] when there is neither.

    Raises:
        ConfigError: classes.txt cannot be read.
    """
    known = [name for names in CHANNELS.values() for name in names]
    for folder in [channels[name] for name in (*known, *channels) if name in channels]:
        for place in (folder, os.path.join(folder, "in"), *(os.path.join(folder, name) for name in _pairing.ANNOTATION_FOLDERS)):
            path = os.path.join(place, _pairing.CLASSES)
            if os.path.isfile(path):
                return [line.strip() for line in _lines(path, ConfigError) if line.strip()]
    for split in splits:
        names = split.dataset.get("class_names")
        if isinstance(names, list) and names:
            return [str(name) for name in names]
    return []


def write_index(path: str, split: Split) -> List[str]:
    """Write an index file.

    Returns:
        What was left out, for the user.
    """
    from ymir_exc import _files
    lines, odd = [], 0
    is_candidate = not split.format and not any(annotation for _, annotation in split.rows)
    for row in split.rows:
        line = row[0] if is_candidate else "\t".join(row)
        try:
            data = line.encode("utf-8")
        except UnicodeEncodeError:
            odd += 1
            continue
        if "\n" in line or "\r" in line or line.count("\t") != (0 if is_candidate else 1):
            odd += 1
        else:
            lines.append(data + b"\n")
    _files.write_bytes(path, b"".join(lines), sync=False)
    return [f"{split.source}: {odd} files are left out: their names hold a tab, a line break or no valid UTF-8"] if odd else []


# ------------------------------------------------------------------------------------------------------------------ ready index

def _own_index(split: str, folder: str) -> Optional[str]:
    """In a channel that is for this split: the split's index, one for any split, or the only one that there is."""
    found = _index_of(split, folder) or _existing(folder, (_ANY_INDEX,))
    if found:
        return found
    try:
        others = sorted(name for name in os.listdir(folder) if name.endswith("-index.tsv"))
    except OSError as e:
        raise DatasetError(f"cannot read {folder}: {e.strerror}") from None
    return os.path.join(folder, others[0]) if len(others) == 1 else None


def _index_of(split: str, folder: str) -> Optional[str]:
    return _existing(folder, _INDEX_NAMES[split]) or _existing(os.path.join(folder, "in"), _INDEX_NAMES[split])


def _existing(folder: str, names: Iterable[str]) -> Optional[str]:
    return next((path for path in (os.path.join(folder, name) for name in names) if os.path.isfile(path)), None)


def _read_index(path: str) -> Split:
    root = os.path.dirname(path)
    dataset, moved = _dataset_of(root)
    rows = [(_rewritten(row[0], root, moved), _rewritten(row[1], root, moved)) for row in _rows(path)]
    if not rows:
        raise DatasetError(f"{path} lists no image")
    for image, annotation in rows[:1]:    # one that is wrong mostly stands for all, and to look at each takes long on a network
        for place in filter(None, (image, annotation)):
            if not os.path.exists(place):
                raise DatasetError(f"{path}, line 1: {place} does not exist",
                                   hint=f"paths may be relative to {root}, or begin with /in/, which stands for it")
    first = next((annotation for _, annotation in rows if annotation), "")
    named = str(dataset.get("export_format") or "").partition(":")[0].lower()
    by_suffix = _pairing.FORMATS.get(os.path.splitext(first)[1].lower(), "") if first else ""
    return Split(rows, by_suffix or (named if first else ""), path, dataset)


def _dataset_of(root: str) -> Tuple[Mapping[str, Any], Tuple[str, ...]]:
    """config.yaml beside the index files, and what absolute paths in these may begin with instead of the folder."""
    from ymir_exc._yaml import load_mapping
    dataset: Mapping[str, Any] = {}
    moved = ["/in"]
    try:
        dataset = load_mapping(os.path.join(root, "config.yaml"))
    except ConfigError:    # there is none, or it is none of YMIR's
        pass
    try:
        given = load_mapping(os.path.join(root, "env.yaml")).get("input")
        moved += [str(given["root_dir"]).rstrip("/")] if isinstance(given, dict) and given.get("root_dir") else []
    except ConfigError:
        pass
    return dataset, tuple(f"{place}/" for place in moved)


def _rows(path: str) -> Iterator[Tuple[str, str]]:
    for line in _lines(path, DatasetError):
        if line and not line.isspace():
            image, _, rest = line.partition("\t")
            yield image, rest.partition("\t")[0]


def _rewritten(path: str, root: str, moved: Tuple[str, ...]) -> str:
    if not path or path.isspace():
        return ""
    if not path.startswith("/"):
        return os.path.normpath(os.path.join(root, path))
    for place in moved:
        if path.startswith(place) and not path.startswith(f"{root}/"):
            return f"{root}/{path[len(place):]}"
    return path


def _lines(path: str, kind: Any) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as f:
            for line in f:
                yield line.rstrip("\r\n")
    except OSError as e:
        raise kind(f"cannot read {path}: {e.strerror}") from None
    except UnicodeDecodeError:
        raise kind(f"{path}: not UTF-8 text", hint="save the file as UTF-8") from None


# ---------------------------------------------------------------------------------------------------------------------- folders

def _paired(split: str, name: str, folder: str, work: str) -> Split:
    source = f"channel {name}"
    if split == "candidate":
        images = _pairing.images_of(folder)
        if not images:
            raise DatasetError(f"{source}: no images below {folder}", hint="images or a candidate-index.tsv are wanted")
        return Split([(image, "") for image in images], "", source, {})
    found = _pairing.pair(folder, source, split, work)
    warnings = [f"{source}: {count} images are left out: {why}" for why, count in found.left_out.items() if count]
    return Split(found.rows, found.format, source, {}, tuple(warnings))


def formats_of(splits: Iterable[Split]) -> Dict[str, str]:
    """Format to the source that has it."""
    return {split.format: split.source for split in splits if split.format}
