"""Judges index files, a line at a time (contract 4)."""
from __future__ import annotations

import codecs
import os
import re
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from ymir_exc.host.check._env import INDEX_KEYS, Task, absence
from ymir_exc.host.findings import Finding, Rule, Severity, rule

THERE = rule(
    "I201", Severity.ERROR, "The index files that env.yaml names are there and can be read", "A program finds no data",
    "Write them, or mend env.yaml; for a dataset of candidates only, set run_training to false")
LISTS = rule(
    "I202", Severity.ERROR, "An index file lists images", "The platform does not look; a program has nothing to train on, or fails at it",
    "Check the dataset. With an unknown export_format the platform writes empty index files")
TEXT = rule(
    "I203", Severity.ERROR, "An index file is lines of UTF-8 text", "A program fails when it reads it",
    "Save it as UTF-8, with a line end after each item")
MARK = rule(
    "I204", Severity.WARNING, "An index file begins with no byte order mark", "Programs take it for a part of the first path",
    "Save it as UTF-8 without it")
RETURNS = rule(
    "I205", Severity.WARNING, "Lines end with LF alone", "Programs that cut off no CR look for files with a CR in their names",
    "Convert the line ends")
BLANK = rule(
    "I206", Severity.WARNING, "No line is blank", "Programs that count lines count items that are none", "Remove it")
TAB = rule(
    "I207", Severity.ERROR, "A TAB separates image and annotation", "The whole line is taken for the image's path",
    "Write a TAB where the blank or comma is")
ANNOTATION = rule(
    "I208", Severity.ERROR, "A line of a training or validation index names an annotation", "The image counts as one without objects",
    "Add a TAB and the annotation's path; an image without objects has an empty annotation")
MORE = rule(
    "I209", Severity.WARNING, "A line has no more columns than it should",
    "What follows is passed over; programs that split from the right take it for the annotation",
    "Two columns for training and validation, one for candidates")
ABSOLUTE = rule(
    "I210", Severity.ERROR, "The paths of an index file are absolute", "They are looked for wherever the program was started",
    "Write the whole path")
ROOT = rule(
    "I211", Severity.ERROR, "The paths of an index file lie in input.root_dir", "Nothing else is mounted into the container",
    "Copy the files into the task's folder, and write their paths as the task sees them: /in/assets/...")
TWICE = rule(
    "I212", Severity.WARNING, "No image is listed twice for training or validation", "It counts twice", "Remove one of the lines")
CANDIDATE_TWICE = rule(
    "I213", Severity.ERROR, "No candidate is listed twice", "The platform refuses the task", "Remove one of the lines")
NAME_TWICE = rule(
    "I214", Severity.ERROR, "No two candidates have the same file name, endings aside",
    "Results are keyed by file name: the one overwrites the other, and the platform takes the score of one for both",
    "Rename one of the files")
SHARED = rule(
    "I215", Severity.WARNING, "No image is in both the training and the validation index", "Metrics are better than the model",
    "Leave it out of one of them")

_MAX_LINE = 1 << 20
_SHOWN = 160
_TWO_PATHS = re.compile(r"[ ,;]+/")


class Index(NamedTuple):
    """An index file: what it lists ('train', 'val' or 'candidate'), and where it lies on this machine."""

    split: str
    path: str


class Row(NamedTuple):
    """An item: its line from 1, and the paths on this machine; the annotation's is '' without one."""

    line: int
    asset: str
    annotation: str


def indexes_of(task: Task) -> Tuple[List[Index], List[Finding]]:
    """The index files of a task, those that env.yaml names and those that lie where the platform puts them; and which are missing."""
    found, missing = [], []
    for split, key in INDEX_KEYS.items():
        is_needed = (split == "candidate") != ("training" in task.tasks) and bool(task.tasks)
        named = task.inside.get(key, "")
        path = task.here(named) if named.startswith("/") else None
        path = path or str(task.folder / f"{split}-index.tsv")
        if os.path.isfile(path):
            found.append(Index(split, path))
        elif named or (is_needed and key not in task.inside):
            missing.append(Finding(THERE, absence(path), path))
    return found, missing


def _lines(path: str) -> Iterator[Tuple[int, bytes]]:
    """Number and content with its end; a line that is too long comes in pieces of `_MAX_LINE`, all with its number."""
    with open(path, "rb", buffering=1 << 18) as f:
        if f.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            f.seek(0)
        number, line = 1, f.readline(_MAX_LINE)
        while line:
            yield number, line
            number += line.endswith(b"\n")
            line = f.readline(_MAX_LINE)


def rows(index: Index, task: Task) -> Iterator[Row]:
    """The items whose paths can be used; the other lines are told by `check_index`."""
    for number, line in _lines(index.path):
        row = _row(number, line, task, index.split, [])
        if row is not None:
            yield row


def _row(number: int, line: bytes, task: Task, split: str, problems: List[Tuple[Rule, str]]) -> Optional[Row]:
    """A line's item; None without one. What is wrong is put into `problems`."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        problems.append((TEXT, f"not UTF-8: {line[:_SHOWN]!r}"))
        return None
    if len(line) >= _MAX_LINE or "\0" in text:
        problems.append((TEXT, "a NUL character" if "\0" in text else f"longer than {_MAX_LINE} bytes"))
        return None
    fields = text.rstrip("\r\n").split("\t")
    if len(fields) == 1 and not fields[0].strip():
        return None
    asset, annotation = fields[0], fields[1] if len(fields) > 1 and split != "candidate" else ""
    if not _are_usable(asset, annotation, fields, task, split, problems):
        return None
    here, there = task.here(asset), task.here(annotation) if annotation else ""
    if here is None or there is None:
        problems.append((ROOT, f"{(asset if here is None else annotation)[:_SHOWN]} is not in {task.root}"))
        return None
    return Row(number, here, there)


def _are_usable(asset: str, annotation: str, fields: List[str], task: Task, split: str, problems: List[Tuple[Rule, str]]) -> bool:
    if split != "candidate" and not annotation:
        if len(fields) == 1 and _TWO_PATHS.search(asset) and task.here(asset) and not os.path.exists(str(task.here(asset))):
            problems.append((TAB, f"no TAB in {asset[:_SHOWN]!r}"))
            return False
        problems.append((ANNOTATION, f"{asset[:_SHOWN]} has no annotation"))
    if len(fields) > (1 if split == "candidate" else 2) and any(fields[2 if split != "candidate" else 1:]):
        problems.append((MORE, f"{len(fields)} columns"))
    for path in (asset, annotation):
        if path[:1] != "/" and (path or path is asset):
            problems.append((ABSOLUTE, f"{path[:_SHOWN]!r} is not absolute"))
            return False
    return True


class Seen:
    """Which images the index files list. Kept are hashes: some ten million paths fit into memory."""

    def __init__(self) -> None:
        self.paths: Dict[str, Dict[int, int]] = {split: {} for split in INDEX_KEYS}
        self.names: Dict[int, int] = {}

    def add(self, row: Row, split: str) -> Optional[Tuple[Rule, str]]:
        """Enter an image, and say where it was before."""
        first = self.paths[split].setdefault(hash(row.asset), row.line)
        if first != row.line:
            return (CANDIDATE_TWICE if split == "candidate" else TWICE), f"{row.asset} is in line {first} already"
        if split == "val" and hash(row.asset) in self.paths["train"]:
            return SHARED, f"{row.asset} is in line {self.paths['train'][hash(row.asset)]} of the training index too"
        if split == "candidate":
            name = os.path.splitext(os.path.basename(row.asset))[0]
            first = self.names.setdefault(hash(name), row.line)
            if first != row.line:
                return NAME_TWICE, f"{row.asset} has the name of the image in line {first}"
        return None


def check_index(index: Index, task: Task, seen: Seen, count: List[int]) -> Iterator[Finding]:
    """Judge the lines of an index file.

    Args:
        index: The file.
        task: Its task.
        seen: The images of this and earlier files.
        count: Its first entry grows by the items whose paths can be used.
    """
    returns, blanks, items = [0, 0], [0, 0], 0
    with open(index.path, "rb") as f:
        if f.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
            yield Finding(MARK, "it begins with the bytes EF BB BF", index.path, 1)
    for number, line in _lines(index.path):
        if line.endswith(b"\r\n"):
            returns = [returns[0] or number, returns[1] + 1]
        if not line.strip():
            blanks = [blanks[0] or number, blanks[1] + 1]
            continue
        problems: List[Tuple[Rule, str]] = []
        row = _row(number, line, task, index.split, problems)
        items += 1
        if row is not None:
            count[0] += 1
            again = seen.add(row, index.split)
            problems += [again] if again else []
        for broken, message in problems:
            yield Finding(broken, message, index.path, number)
    if not items:
        yield Finding(LISTS, "it lists nothing", index.path)
    for broken, (first, lines), what in ((RETURNS, returns, "ends with CR and LF"), (BLANK, blanks, "is blank")):
        if lines:
            yield Finding(broken, f"the line {what}" + (f", as do {lines - 1} more" if lines > 1 else ""), index.path, first)
