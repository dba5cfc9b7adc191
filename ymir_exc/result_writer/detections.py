"""infer-result.json of a detector (contract 7.2)."""
from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from array import array
from itertools import chain, repeat
from json.encoder import encode_basestring_ascii as quote
from math import isfinite
from operator import add, attrgetter, sub
from types import TracebackType
from typing import IO, Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Type

from ymir_exc import _files
from ymir_exc._models import Annotation, Box
from ymir_exc.env import current_env, get_executor_config, is_main_rank
from ymir_exc.errors import ArgumentError, ConfigError, ResultError
from ymir_exc.result_writer._values import (
    INT32,
    as_list,
    checked_class_names,
    checked_size,
    is_modern,
    is_single,
    nine_digits,
    number_texts,
    plain,
    to_float,
)

_log = logging.getLogger(__name__)

_ALGORITHMS = ("classification", "detection", "segmentation")
_FORMATS = ("xyxy", "xywh")
_FLUSH_BYTES = 1 << 20
_BOXES_AT_ONCE = 20_000
_BOXES_IN_CACHE = 2_000    # of the processor
_PIXELS_KEPT = 8192


def write_infer_result(infer_result: Mapping[str, Any], algorithm: str = "detection") -> None:
    """Write the predictions.

    The platform drops boxes of classes that it does not know: of each class name that is not among the `class_names` of config.yaml the
    log has one warning, and the boxes are written all the same.

    Args:
        infer_result: For detection, image path to a list of `Annotation`, or anything that yields them. For segmentation, a COCO mapping
            with images, categories and annotations (contract 7.3); what has one meaning is put right: a missing area, run lengths that are
            not compressed, ...
        algorithm: 'detection' or 'segmentation'.

    Raises:
        ArgumentError: An unknown algorithm; also an AssertionError.
        ResultError: A value that the platform would refuse; the earlier file stays.
        StorageError: It cannot be written; the earlier file stays.
    """
    if not is_main_rank():
        return
    if algorithm not in _ALGORITHMS:
        raise ArgumentError(f"unknown algorithm {algorithm!r}: must be one of {', '.join(_ALGORITHMS)}")
    if algorithm == "classification":
        raise ResultError("the platform takes no classification results", hint="write detections or a segmentation")
    if algorithm == "segmentation":
        from ymir_exc.result_writer.segmentation import platform_coco
        write_json(platform_coco(infer_result))
        return
    openings = _Openings()
    with _open_sink() as sink:
        for block in _blocks(_last_of_each_name(infer_result)):
            _write_block(sink, block, openings)


def write_json(content: Any) -> None:
    """Write infer-result.json as a whole.

    Raises:
        ResultError: It holds NaN or infinity; the earlier file stays.
    """
    try:
        data = json.dumps(content, allow_nan=False).encode("ascii")
    except ValueError as e:
        raise ResultError(f"the predictions hold a value that JSON has no word for: {e}", hint="NaN and infinity are not allowed") from None
    path = current_env().output.infer_result_file
    _files.make_folder(os.path.dirname(path))
    _files.write_bytes(path, data, shared=True)


def _last_of_each_name(infer_result: Mapping[str, Any]) -> Iterable[Tuple[str, Any]]:
    """The platform knows an image by its file name alone: of two of the same name the later one counts."""
    by_name: Dict[str, Any] = {}
    if not isinstance(infer_result, Mapping):
        raise ResultError(f"the predictions must map image paths to lists of annotations, not be {infer_result!r:.80}")
    for path, objects in infer_result.items():
        name = os.path.basename(os.fspath(path))
        if not isinstance(objects, Iterable):
            raise ResultError(f"{name}: its annotations must be a list, not {objects!r:.80}")
        if name in by_name:
            _log.warning("two images are called %s; the platform sees the later one only", name)
        by_name[name] = objects
    return by_name.items()


_pixels_of = attrgetter("x", "y", "w", "h")
_ANNOTATIONS, _BOXES = frozenset([Annotation]), frozenset([Box])
_Block = List[Tuple[str, List[Any]]]


def _blocks(images: Iterable[Tuple[str, Any]]) -> Iterator[_Block]:
    """Images with their objects, some thousand at once."""
    block: _Block = []
    count = 0
    for name, objects in images:
        block.append((name, list(objects)))
        count += 1 + len(block[-1][1])
        if count >= _BOXES_IN_CACHE:
            yield block
            block, count = [], 0
    yield block


def _write_block(sink: _Sink, block: _Block, openings: _Openings) -> None:
    """At the speed of C where all is as `Annotation` left it; else image by image, and what is odd, object by object."""
    objects = list(chain.from_iterable(found for _, found in block))
    try:
        boxes = [item.box for item in objects]
        if not (_ANNOTATIONS.issuperset(map(type, objects)) and _BOXES.issuperset(map(type, boxes))):    # subclasses have more fields
            raise TypeError
        pixels = array("i", list(chain.from_iterable(map(_pixels_of, boxes)))).tolist()    # takes whole numbers of 32 bits only
        scores = array("d", [item.score for item in objects])
        if not isfinite(sum(scores)):
            raise ValueError
        starts = [openings[item.class_name] for item in objects]
        sink.images([name for name, _ in block], [len(found) for _, found in block], starts, number_texts(scores.tolist()),
                    pixels[::4], pixels[1::4], pixels[2::4], pixels[3::4])
    except (AttributeError, TypeError, ValueError, OverflowError):
        if len(block) > 1:
            for image in block:
                _write_block(sink, [image], openings)
        else:
            for name, found in block:
                sink.image(name, ", ".join([_checked_text(name, item, openings) for item in found]))


def _checked_text(image: str, item: Any, openings: _Openings) -> str:
    """Of one box that was altered, or comes from a class of somebody else with a `dict` of its own."""
    if not isinstance(item, Mapping) and not hasattr(item, "dict"):
        raise ResultError(f"{image}: {item!r:.80} is no Annotation")
    made = plain(item if isinstance(item, Mapping) else item.dict())
    try:
        label, score, box = made["class_name"], to_float(made["score"]), {key: made["box"][key] for key in ("x", "y", "w", "h")}
        more = {key: value for key, value in made["box"].items() if key not in box}
    except (KeyError, TypeError, AttributeError):
        raise ResultError(f"{image}: a detection needs class_name, score and box with x, y, w, h; has {made!r:.200}") from None
    if score is None or not isfinite(score):
        raise ResultError(f"{image}: a detection of {label!r} has the score {made['score']}", hint="scores must be finite")
    if not isinstance(label, str) or not label.strip():
        raise ResultError(f"{image}: a detection has the class name {label!r}", hint="the platform needs text")
    openings[label]    # warns of an unknown one
    for key, value in box.items():
        number = to_float(value)
        if number is None or not -INT32 <= number <= INT32:
            raise ResultError(f"{image}: {key} of the box of {label!r} is {value!r}", hint="pixels must be numbers of at most 32 bits")
        box[key] = int(number)
    angle = to_float(more.pop("rotate_angle", 0.0))
    if more or angle is None or not isfinite(angle):
        raise ResultError(f"{image}: the box of {label!r} has {more or made['box']!r:.200}",
                          hint="x, y, w, h, and perhaps a finite rotate_angle")
    if "rotate_angle" in made["box"]:
        box["rotate_angle"] = angle
    return json.dumps({**made, "score": score, "box": box}, allow_nan=False)


def _opening(class_name: str) -> str:
    """The JSON of a detection up to its score."""
    return f'{{"class_name": {quote(class_name)}, "score": '


class _Openings(Dict[Any, str]):
    """JSON of class names, each made once, with a warning of those that the platform does not know."""

    def __init__(self) -> None:
        super().__init__()
        self._known: Optional[Set[str]] = None

    def __missing__(self, name: Any) -> str:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"the class name {name!r}")
        if self._known is None:
            self._known = _known_classes()
        if self._known and name.strip().lower() not in self._known:
            _log.warning("the class %r is not among the class_names of config.yaml; the platform drops its boxes", name)
        made = self[name] = _opening(name)
        return made


def _known_classes() -> Set[str]:
    """The task's classes as the platform compares them; empty when config.yaml does not name them."""
    try:
        names = get_executor_config().get("class_names")
    except ConfigError:
        return set()
    return {str(name).strip().lower() for name in names} if isinstance(names, list) else set()


class _WholeTexts(Dict[int, str]):
    """The text of whole numbers; of pixels as images have them it is made once."""

    def __missing__(self, number: int) -> str:
        text = str(number)
        if 0 <= number < _PIXELS_KEPT:
            self[number] = text
        return text


_whole_texts = _WholeTexts()


class _Sink:
    """The text of the file as it grows."""

    def __init__(self, file: IO[bytes], key: str) -> None:
        self._file = file
        self._key = key
        self._pending: List[str] = []
        self._pending_size = 0
        self._comma = ""

    def image(self, name: str, boxes: str) -> None:
        """Add an image with the JSON of its boxes."""
        self.text(f'{self._comma}{quote(name)}: {{"{self._key}": [{boxes}]}}')
        self._comma = ", "

    def images(self, names: Sequence[str], counts: Sequence[int], starts: Sequence[str], scores: Sequence[str],
               x: Sequence[int], y: Sequence[int], w: Sequence[int], h: Sequence[int]) -> None:
        """Add images, each with so many of the boxes that follow. Of constant pieces and numbers whose text is known: formatting each box
        takes three times as long.
        """
        pieces = [", ", "", "", ', "box": {"x": ', "", ', "y": ', "", ', "w": ', "", ', "h": ', "", "}}"] * len(scores)
        step = 12
        pieces[1::step], pieces[2::step] = starts, scores
        pieces[4::step], pieces[6::step], pieces[8::step], pieces[10::step] = (map(_whole_texts.__getitem__, edge) for edge in (x, y, w, h))
        between, place = "", 0
        for name, count in zip(names, counts):
            between += f'{self._comma}{quote(name)}: {{"{self._key}": ['
            self._comma = ", "
            if count:
                pieces[place], between = between, ""
                place += count * step
            between += "]}"
        pieces.append(between)
        self.text("".join(pieces))

    def text(self, text: str) -> None:
        self._pending.append(text)
        self._pending_size += len(text)
        if self._pending_size > _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        self._file.write("".join(self._pending).encode("ascii"))
        self._pending, self._pending_size = [], 0


@contextlib.contextmanager
def _open_sink() -> Iterator[_Sink]:
    """The file appears whole at the end of the block, or not at all."""
    current = current_env()
    path = current.output.infer_result_file
    _files.make_folder(os.path.dirname(path))
    with _files.open_atomic(path, shared=True) as f:
        sink = _Sink(f, "boxes" if is_modern(current) else "annotations")
        sink.text('{"detection": {')
        yield sink
        sink.text("}}")
        sink.flush()


class InferResultWriter:
    """Writes detections as they arrive; the file appears whole at the end of the block, or not at all. Of an image only the hash of its
    name stays in memory.

        with InferResultWriter(cfg.param.class_names) as results:
            for path, boxes, scores, class_ids in predictions:
                results.add(path, boxes, scores, class_ids)

    Coordinates are rounded to whole pixels, which is all that the platform takes. Scores of 32-bit floats are written with the nine
    digits that tell each of them, all others in full.

    Args:
        class_names: The classes, in the order that `class_ids` count.
        box_format: 'xyxy' (left, top, right, bottom; the right and bottom edges are outside) or 'xywh'.

    Raises:
        ResultError: Shapes that do not fit, a coordinate beyond 32 bits, a score that is not finite, an unknown class, an image of a name
            that was added before; it names the image. Arrays are checked some thousand at once, or at the end of the block.
        StorageError: It cannot be written; the earlier file stays.
    """

    def __init__(self, class_names: Sequence[str], box_format: str = "xyxy") -> None:
        if box_format not in _FORMATS:
            raise ResultError(f"unknown box format {box_format!r}", hint=f"one of {', '.join(_FORMATS)}")
        names = checked_class_names(class_names)
        self._class_count = len(names)
        self._openings: Dict[Any, str] = {key: _opening(name) for number, name in enumerate(names) for key in (number, name)}
        self._is_xyxy = box_format == "xyxy"
        self._seen: Set[int] = set()
        self._stack = contextlib.ExitStack()
        self._sink: Optional[_Sink] = None
        self._arrays: List[_Image] = []
        self._waiting = 0
        self.count = 0

    def __enter__(self) -> InferResultWriter:
        if is_main_rank():
            self._sink = self._stack.enter_context(_open_sink())
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        try:
            if kind is None:
                self._write_arrays()
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        finally:
            self._sink = None
        self._stack.__exit__(kind, error, trace)

    def add(self, path: str, boxes: Any, scores: Any, class_ids: Any, *, image_size: Optional[Tuple[int, int]] = None,
            rotate_angles: Any = None) -> None:
        """Add one image; it may have no objects.

        Args:
            path: The image, as in the candidate index.
            boxes: `(N, 4)` pixels, float or int: an array, a tensor or a list.
            scores: `(N,)`, higher is surer.
            class_ids: `(N,)` indices into class_names, or the names themselves.
            image_size: (width, height): boxes are clipped to it, and what has then no pixel is left out.
            rotate_angles: `(N,)`, for rotated boxes.
        """
        if self._sink is None:
            return
        name = os.path.basename(os.fspath(path))
        size = None if image_size is None else checked_size(name, image_size)
        self._check_name(name)
        self.count += 1
        image = _Image(name, boxes, scores, class_ids, rotate_angles, size)
        arrays = _as_arrays(image)
        if arrays is None:
            self._write_arrays()
            self._sink.image(name, self._text_of(image))
            return
        if self._arrays and self._arrays[0].scores.dtype != arrays.scores.dtype:
            if len(arrays.boxes):
                self._write_arrays()
            else:
                arrays = arrays._replace(scores=arrays.scores.astype(self._arrays[0].scores.dtype))
        self._arrays.append(arrays)
        self._waiting += 1 + len(arrays.boxes)
        if self._waiting > _BOXES_AT_ONCE:
            self._write_arrays()

    def _check_name(self, name: str) -> None:
        key = hash(name)
        if key in self._seen:
            raise ResultError(f"the image {name} was added before", hint="the platform knows images by their file name alone")
        self._seen.add(key)

    def _write_arrays(self) -> None:
        """Write what waits: many small arrays as one are much faster than each alone."""
        waiting, self._arrays, self._waiting = self._arrays, [], 0
        if waiting and self._sink is not None and not self._write_at_once(self._sink, waiting):
            for image in waiting:
                self._sink.image(image.name, self._text_of(image))    # one of which says what is wrong with it

    def _write_at_once(self, sink: _Sink, images: Sequence[_Image]) -> bool:
        """Write the boxes of images, all arrays; False when something is wrong."""
        import numpy as np
        sizes = [len(image.boxes) for image in images]
        edges = np.concatenate([image.boxes for image in images]).astype(float)
        scores = np.concatenate([image.scores for image in images])
        with np.errstate(over="ignore", invalid="ignore"):    # old numpy warns of comparing NaN
            if not self._is_xyxy:
                edges[:, 2:] += edges[:, :2]
            if not np.isfinite(scores).all() or not (np.abs(edges) <= INT32 // 2).all():
                return False
        edges = np.rint(edges).astype(np.int64)
        owners = np.repeat(np.arange(len(images)), sizes)
        if any(image.size is not None for image in images):
            ends = np.array([(INT32, INT32) if image.size is None else image.size for image in images], np.int64)[owners]
            is_clipped = np.array([image.size is not None for image in images])[owners]
            edges = np.where(is_clipped[:, None], np.clip(edges, 0, np.hstack([ends, ends])), edges)
            kept = ~is_clipped | (edges[:, 2:] > edges[:, :2]).all(axis=1)
            edges, scores, owners = edges[kept], scores[kept], owners[kept]
        else:
            kept = slice(None)
        edges[:, 2:] -= edges[:, :2]
        try:
            starts = [self._openings[key] for key in np.concatenate([image.class_ids for image in images])[kept].tolist()]
        except KeyError:
            return False
        texts = number_texts(nine_digits(scores) if is_single(scores) else scores.tolist())
        sink.images([image.name for image in images], np.bincount(owners, minlength=len(images)).tolist(), starts, texts, *edges.T.tolist())
        return True

    def _text_of(self, image: _Image) -> str:
        boxes, scores, class_ids = as_list(image.boxes), as_list(image.scores), as_list(image.class_ids)
        angles = None if image.angles is None else as_list(image.angles)
        if not len(boxes) == len(scores) == len(class_ids) == len(class_ids if angles is None else angles):
            raise ResultError(f"{image.name}: {len(boxes)} boxes, {len(scores)} scores and {len(class_ids)} class indices do not fit "
                              f"together{'' if angles is None else f' with {len(angles)} angles'}")
        try:
            return self._text(boxes, scores, is_single(image.scores), class_ids, angles, image.size)
        except (ValueError, TypeError, OverflowError, KeyError):
            raise self._reason(image.name, boxes, scores, class_ids, angles, image.size) from None

    def _text(self, boxes: List[Any], scores: List[Any], single: bool, class_ids: List[Any], angles: Optional[List[Any]],
              size: Optional[Tuple[int, int]]) -> str:
        """The JSON of an image's boxes.

        Raises:
            ValueError: Something is wrong; so mean TypeError, OverflowError and KeyError.
        """
        if not boxes:
            return ""
        if set(map(len, boxes)) != {4}:
            raise ValueError("a box has four numbers")
        left, top, right, bottom = zip(*boxes)
        if not self._is_xyxy:
            right, bottom = tuple(map(add, left, right)), tuple(map(add, top, bottom))
        edges = [list(map(round, edge)) for edge in (left, top, right, bottom)]
        if size is not None:
            edges = [_clipped(edge, size[axis % 2]) for axis, edge in enumerate(edges)]
        x, y = edges[0], edges[1]
        w, h = list(map(sub, edges[2], x)), list(map(sub, edges[3], y))
        array("i", x + y + w + h)    # takes 32 bits only
        numbers = list(map(float, scores))
        if not all(map(isfinite, numbers)):
            raise ValueError("a score is not finite")
        texts = _box_texts([self._openings[key] for key in class_ids], number_texts(numbers, single), x, y, w, h)
        if angles is not None:
            texts = [f'{text[:-2]}, "rotate_angle": {_finite(angle)!r}}}}}' for text, angle in zip(texts, angles)]
        if size is not None:
            texts = [text for text, width, height in zip(texts, w, h) if width >= 1 and height >= 1]
        return ", ".join(texts)

    def _reason(self, image: str, boxes: List[Any], scores: List[Any], class_ids: List[Any], angles: Optional[List[Any]],
                size: Optional[Tuple[int, int]]) -> ResultError:
        """Which box of an image is wrong, and why."""
        for box, score, class_id, angle in zip(boxes, scores, class_ids, angles or repeat(0.0)):
            where = f"{image}: box {box!r} of class {class_id!r}"
            number = to_float(score)
            if number is None or not isfinite(number):
                return ResultError(f"{where} has the score {score!r}", hint="scores must be finite")
            try:
                self._text([box], [number], False, [class_id], [angle], size)
            except KeyError:
                return ResultError(f"{where}: there are {self._class_count} classes", hint="an index, from 0, or one of class_names")
            except OverflowError as e:
                return ResultError(f"{where}: {e if 'infinity' in str(e) else 'beyond 32 bits'}")
            except (ValueError, TypeError) as e:
                return ResultError(f"{where}: {e}")
        return ResultError(f"{image}: the boxes, scores or class indices cannot be used", hint="(N, 4), (N,) and (N,) numbers are wanted")


class _Image(NamedTuple):
    """What was added."""

    name: str
    boxes: Any
    scores: Any
    class_ids: Any
    angles: Any
    size: Optional[Tuple[int, int]]


def _as_arrays(image: _Image) -> Optional[_Image]:
    """Copies as numpy's arrays, if that is loaded and types and shapes are the usual ones."""
    np = sys.modules.get("numpy")
    if np is None or image.angles is not None:
        return None
    try:
        boxes, scores, class_ids = np.array(image.boxes), np.array(image.scores), np.array(image.class_ids)
    except (ValueError, TypeError, RuntimeError):    # of unequal lengths, or on a GPU
        return None
    if scores.shape == (0,) == class_ids.shape and boxes.size == 0:    # nothing was found, and the types say nothing
        boxes, class_ids = boxes.astype(float).reshape(0, 4), class_ids.astype(int)
    if scores.dtype.kind != "f" or class_ids.dtype.kind not in "iu" or boxes.dtype.kind not in "fiu":
        return None
    if boxes.shape != (len(scores), 4) or class_ids.shape != scores.shape:
        return None
    return image._replace(boxes=boxes, scores=scores, class_ids=class_ids)


def _box_texts(starts: Sequence[str], scores: Iterable[str], x: Sequence[int], y: Sequence[int], w: Sequence[int],
               h: Sequence[int]) -> List[str]:
    return [f'{start}{score}, "box": {{"x": {left}, "y": {top}, "w": {width}, "h": {height}}}}}'
            for start, score, left, top, width, height in zip(starts, scores, x, y, w, h)]


def _clipped(edges: List[int], limit: int) -> List[int]:
    if min(edges) >= 0 and max(edges) <= limit:
        return edges
    return [0 if edge < 0 else limit if edge > limit else edge for edge in edges]


def _finite(value: Any) -> float:
    number = float(value)
    if not isfinite(number):
        raise ValueError(f"the angle {value!r}")
    return number
