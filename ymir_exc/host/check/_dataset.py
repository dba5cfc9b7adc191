"""Judges a dataset or a task's input folder: env.yaml, config.yaml, index files, annotations and pictures.

Index files are read twice, a line at a time: once for their own rules, then for the pictures and labels that they name, a block of lines
at a time in a process for each core. Nothing is held of an image but a hash of its path; of a coco file's images a line or so.
"""
from __future__ import annotations

import os
import signal
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ymir_exc._annotations import SUFFIXES, annotation_format
from ymir_exc.dataset_convert._image_size import Size
from ymir_exc.errors import ConfigError
from ymir_exc.host.check import _annotations, _config, _env, _images, _index
from ymir_exc.host.check._annotations import Labels
from ymir_exc.host.check._coco import CocoCheck
from ymir_exc.host.check._env import Task
from ymir_exc.host.check._index import Index, Row
from ymir_exc.host.findings import Finding, Severity, rule

NO_LABELS = rule(
    "A360", Severity.ERROR, "The training images show objects", "There is nothing to learn from",
    "Check that annotations and class_names belong together")
UNUSED = rule(
    "A361", Severity.NOTE, "Each class has objects in the training images", "It cannot be learnt, and its average precision is undefined",
    "Label some, or leave the class out")
BARE = rule(
    "A362", Severity.NOTE, "Each image for training and validation shows an object",
    "Images without objects teach what is none, which may be intended", "Nothing, if they are meant to show none; otherwise label them")

_BLOCK = 256
_MOST_PROCESSES = 8
_POOL_FROM = 20_000
"""Images. Fewer are judged sooner than processes start."""

OnProgress = Optional[Callable[[int, int], None]]


class _Labelling(NamedTuple):
    """How annotations are to be read: 'ark', 'voc', 'coco', or '' where the files' endings decide; and the classes, None if unknown."""

    kind: str
    class_names: Optional[Sequence[str]]


class _Judged(NamedTuple):
    """What was found in a block: findings, labels counted, sizes of the pictures in a coco file's dataset."""

    findings: List[Finding]
    labels: Labels
    sizes: List[Optional[Size]]


def check_input(path: Path, on_progress: OnProgress = None) -> Iterator[Finding]:
    """Judge a dataset or a task's input folder.

    Args:
        path: The folder `in`, such as `ymir-exc sample` writes, a platform leaves, or a task is given.
        on_progress: Called with the number of images judged so far and in all.

    Yields:
        What is wrong, in the order of the files. Pictures are judged by their first and last bytes.
    """
    task, findings = _env.read_task(Path(path))
    yield from findings
    config, findings = _config.read_config(task)
    yield from findings
    indexes, findings = _index.indexes_of(task)
    yield from findings
    seen, count = _index.Seen(), [0]
    readable = []
    for index in indexes:
        try:
            yield from _index.check_index(index, task, seen, count)
            readable.append(index)
        except OSError as e:
            yield Finding(_index.THERE, f"{index.path} cannot be read: {e.strerror}", index.path)
    del seen
    labelling = _Labelling(_kind(config), _config.class_names_of(config))
    yield from _check_items(task, readable, labelling, count[0], on_progress)


def _kind(config: Mapping[str, Any]) -> str:
    try:
        kind = annotation_format(str(config.get("export_format") or ""))
    except ConfigError:    # told of config.yaml
        return ""
    return "" if kind == "none" else kind


def _check_items(task: Task, indexes: Sequence[Index], labelling: _Labelling, total: int, on_progress: OnProgress) -> Iterator[Finding]:
    """Pictures and labels of all index files, and what the labels amount to."""
    labels = {index: Labels(len(labelling.class_names or ())) for index in indexes}
    cocos: Dict[str, CocoCheck] = {}
    done = 0
    for (index, block), judged in _judged(_blocks(task, indexes), labelling, total):
        yield from judged.findings
        labels[index].merge(judged.labels)
        for row, size in zip(block, judged.sizes):
            if labelling.kind in ("", "coco") and _kind_of(row, index, labelling) == "coco":
                yield from _look_up(cocos, row, size, labels[index], index, labelling)
        done += len(block)
        if on_progress is not None:
            on_progress(done, total)
    for coco in cocos.values():
        yield from coco.read_annotations()
    for index in indexes:
        if index.split != "candidate":
            yield from _check_labels(index, labels[index], labelling.class_names)


def _look_up(cocos: Dict[str, CocoCheck], row: Row, size: Optional[Size], labels: Labels, index: Index,
             labelling: _Labelling) -> Iterator[Finding]:
    if row.annotation not in cocos:
        cocos[row.annotation] = CocoCheck(row.annotation, labelling.class_names)
        yield from cocos[row.annotation].read_images()
    yield from cocos[row.annotation].find(row.asset, size, labels, index.path, row.line)


def _check_labels(index: Index, labels: Labels, class_names: Optional[Sequence[str]]) -> Iterator[Finding]:
    if labels.images and labels.bare == labels.images and index.split == "train":
        yield Finding(NO_LABELS, f"none of the {labels.images} images shows an object that could be read", index.path)
        return
    if index.split == "train" and labels.images:
        for name, number in zip(class_names or (), labels.objects):
            if not number:
                yield Finding(UNUSED, f"{name!r:.60} has none", index.path)
    if labels.bare:
        yield Finding(BARE, f"{labels.bare} of {labels.images} images show none", index.path)


def _blocks(task: Task, indexes: Sequence[Index]) -> Iterator[Tuple[Index, List[Row]]]:
    for index in indexes:
        items = _index.rows(index, task)
        block = list(islice(items, _BLOCK))
        while block:
            yield index, block
            block = list(islice(items, _BLOCK))


def _judged(blocks: Iterator[Tuple[Index, List[Row]]], labelling: _Labelling,
            total: int) -> Iterator[Tuple[Tuple[Index, List[Row]], _Judged]]:
    """Each block with what was found in it, in their order; in several processes where that is quicker."""
    cores = min(len(os.sched_getaffinity(0)), _MOST_PROCESSES)
    if total < _POOL_FROM or cores == 1:
        for block in blocks:
            yield block, _judge(*block, labelling)
        return
    import multiprocessing
    waiting: Deque[Tuple[Tuple[Index, List[Row]], Future[_Judged]]] = deque()
    # Not forked: a thread that draws a progress bar may hold locks.
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"), _start_process, (labelling,)) as pool:
        try:
            for block in blocks:
                waiting.append((block, _submitted(pool, block)))
                if len(waiting) > 4 * cores:
                    yield _taken(*waiting.popleft(), labelling)
            while waiting:
                yield _taken(*waiting.popleft(), labelling)
        finally:
            for _, future in waiting:
                future.cancel()


def _submitted(pool: ProcessPoolExecutor, block: Tuple[Index, List[Row]]) -> Future[_Judged]:
    # A process that this starts inherits the mask: Ctrl-C is this process's, which ends the others.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_judge_in_process, *block)
    except BrokenProcessPool as e:
        future: Future[_Judged] = Future()
        future.set_exception(e)
        return future
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _taken(block: Tuple[Index, List[Row]], future: Future[_Judged], labelling: _Labelling) -> Tuple[Tuple[Index, List[Row]], _Judged]:
    """A block and what was found in it; judged here where the processes were killed, or could not start."""
    try:
        return block, future.result()
    except BrokenProcessPool:
        return block, _judge(*block, labelling)


_labelling = _Labelling("", None)


def _start_process(labelling: _Labelling) -> None:
    global _labelling
    _labelling = labelling


def _judge_in_process(index: Index, block: List[Row]) -> _Judged:
    return _judge(index, block, _labelling)


def _judge(index: Index, block: List[Row], labelling: _Labelling) -> _Judged:
    """Judge pictures and labels of some items."""
    judged = _Judged([], Labels(len(labelling.class_names or ())), [])
    for row in block:
        size, problems = _images.look(row.asset)
        for broken, message in problems:
            judged.findings.append(Finding(broken, message, index.path, row.line))
        judged.sizes.append(size)
        kind = _kind_of(row, index, labelling)
        if kind:
            judged.findings.extend(_judge_labels(kind, index, row, size, labelling, judged.labels))
    return judged


def _kind_of(row: Row, index: Index, labelling: _Labelling) -> str:
    """What an item's annotation is by its ending, or by export_format; '' without one."""
    if not row.annotation or index.split == "candidate":
        return ""
    return SUFFIXES.get(os.path.splitext(row.annotation)[1].lower(), labelling.kind or "voc")


def _judge_labels(kind: str, index: Index, row: Row, size: Optional[Size], labelling: _Labelling, labels: Labels) -> List[Finding]:
    findings: List[Finding] = []
    if labelling.kind not in ("", kind):
        message = f"{row.annotation} is {kind}, and export_format asks for {labelling.kind}"
        findings.append(Finding(_annotations.FORMAT, message, index.path, row.line))
    if kind == "coco":
        return findings    # one file for all
    found: List[int] = []
    if kind == "ark":
        count = None if labelling.class_names is None else len(labelling.class_names)
        findings += _annotations.check_ark(row.annotation, size, count, found)
    else:
        findings += _annotations.check_voc(row.annotation, row.asset, size, labelling.class_names, found)
    if found or not findings:    # what could not be read does not count as showing nothing
        labels.add(found)
    return findings
