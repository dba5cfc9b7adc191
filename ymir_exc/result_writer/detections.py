"""infer-result.json of a detector (contract 7.2)."""
from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
from array import array
from itertools import chain, repeat
from json.encoder import encode_basestring_ascii as quote
from math import isfinite
from operator import add, attrgetter, sub
from typing import IO, Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

from ymir_exc import _files
from ymir_exc._models import Annotation, Box
from ymir_exc.env import current_env, get_executor_config, is_main_rank
from ymir_exc.errors import ArgumentError, ConfigError, ResultError
from ymir_exc.result_writer._sharing import Part, Sharing
from ymir_exc.result_writer._values import (
    INT32,
    OneBlock,
    as_list,
    checked_class_names,
    checked_size,
    image_name,
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
_USUAL_EDGES = INT32 ** 2 / 8    # the sum of their squares: then the sum of two is below half of 32 bits


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
        name = image_name(path)
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
    try:
        return json.dumps({**made, "score": score, "box": box}, allow_nan=False)
    except ValueError as e:
        raise ResultError(f"{image}: a detection of {label!r} holds what JSON has no word for: {made!r:.200}: {e}") from None


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
            _log.warning("the class %r is not among the class_names of config.yaml; the platform drops its boxes, unless its label store "
                         "knows it", name)
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

    def part(self, content: bytes) -> None:
        """Add images as another sink wrote them."""
        if content:
            self.flush()
            self._file.write(self._comma.encode("ascii") + content)
            self._comma = ", "

    def text(self, text: str) -> None:
        self._pending.append(text)
        self._pending_size += len(text)
        if self._pending_size > _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        self._file.write("".join(self._pending).encode("ascii"))
        self._pending, self._pending_size = [], 0


def _key() -> str:
    return "boxes" if is_modern(current_env()) else "annotations"


@contextlib.contextmanager
def _open_sink() -> Iterator[_Sink]:
    """The file appears whole at the end of the block, or not at all."""
    path = current_env().output.infer_result_file
    _files.make_folder(os.path.dirname(path))
    with _files.open_atomic(path, shared=True) as f:
        sink = _Sink(f, _key())
        sink.text('{"detection": {')
        yield sink
        sink.text("}}")
        sink.flush()


class InferResultWriter(OneBlock, Sharing):
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
            that was added before; it names the image, and nothing of it is added. Something is added outside of the block.
        StorageError: It cannot be written; the earlier file stays.
    """

    task = "infer"

    def __init__(self, class_names: Sequence[str], box_format: str = "xyxy") -> None:
        super().__init__()
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
        self._begin_block()
        if is_main_rank():
            self._sink = self._stack.enter_context(_open_sink())
        return self

    def _end(self, error: Optional[BaseException], parts: Iterable[Part]) -> None:
        try:
            if error is None:
                self._write_arrays()
                for _, content in parts:
                    if self._sink is not None:
                        self._sink.part(content)
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        finally:
            self._sink, self._is_inside = None, False
        self._stack.__exit__(None if error is None else type(error), error, None if error is None else error.__traceback__)

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
        if not self._is_inside:
            self._check_inside()
        if self._sink is None and self._share is None:
            return
        name = path.rpartition("/")[2] if type(path) is str else image_name(path)
        size = None if image_size is None else checked_size(name, image_size)
        made: Union[_Image, Tuple[str, str], None] = None
        if rotate_angles is None:
            made = _as_arrays(name, boxes, scores, class_ids, size, self._openings)
        if made is None:
            made = name, self._text_of(_Image(name, boxes, scores, class_ids, rotate_angles, size))
        if self._share is not None:
            self._share.put(self._column, path, made)
        else:
            self._check_name(name)
            self._put(made)
        self.count += 1

    def _put(self, image: Union[_Image, Tuple[str, str]]) -> None:
        """Write an image soon: arrays, or its name and the JSON of its boxes."""
        if not isinstance(image, _Image):
            self._write_arrays()
            if self._sink is not None:
                self._sink.image(*image)
            return
        if self._arrays and self._arrays[0].scores.dtype != image.scores.dtype:
            if len(image.boxes):
                self._write_arrays()
            else:
                image = image._replace(scores=image.scores.astype(self._arrays[0].scores.dtype))
        self._arrays.append(image)
        self._waiting += 1 + len(image.boxes)
        if self._waiting > _BOXES_AT_ONCE:
            self._write_arrays()

    def _skip(self, path: str) -> None:
        self.add(path, [], [], [])

    def _part_of(self, paths: Sequence[str], values: Sequence[Any]) -> bytes:    # noqa: ARG002 - each value knows its name
        content = io.BytesIO()
        whole, self._sink = self._sink, _Sink(content, _key())
        try:
            for image in values:
                self._put(image)
            self._write_arrays()
            self._sink.flush()
        finally:
            self._sink, self._arrays, self._waiting = whole, [], 0
        return content.getvalue()

    def _identity(self) -> List[Any]:
        return [self.task, _key(), list(self._openings.values())]

    def _check_name(self, name: str) -> None:
        key = hash(name)
        if key in self._seen:
            raise ResultError(f"the image {name} was added before", hint="the platform knows images by their file name alone")
        self._seen.add(key)

    def _write_arrays(self) -> None:
        """Write what waits: many small arrays as one are much faster than each alone."""
        waiting, self._arrays, self._waiting = self._arrays, [], 0
        if waiting and self._sink is not None:
            self._write_at_once(self._sink, waiting)

    def _write_at_once(self, sink: _Sink, images: Sequence[_Image]) -> None:
        """Write the boxes of images, all arrays that were checked."""
        import numpy as np
        sizes = [len(image.boxes) for image in images]
        edges = np.concatenate([image.boxes for image in images]).astype(float)
        scores = np.concatenate([image.scores for image in images])
        if not self._is_xyxy:
            edges[:, 2:] += edges[:, :2]
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
        starts = [self._openings[key] for key in np.concatenate([image.class_ids for image in images])[kept].tolist()]
        texts = number_texts(nine_digits(scores) if is_single(scores) else scores.tolist())
        sink.images([image.name for image in images], np.bincount(owners, minlength=len(images)).tolist(), starts, texts, *edges.T.tolist())

    def _text_of(self, image: _Image) -> str:
        try:
            boxes, scores, class_ids = as_list(image.boxes), as_list(image.scores), as_list(image.class_ids)
            angles = None if image.angles is None else as_list(image.angles)
            if getattr(getattr(image.boxes, "dtype", None), "char", "") == "g":    # a longdouble, rounded, stays one in old numpy
                boxes = plain(boxes)
        except TypeError as e:
            given = (image.boxes, image.scores, image.class_ids, image.angles)
            raise ResultError(f"{image.name}: boxes, scores, class indices and angles are {given!r:.200}: {e}") from None
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


def _as_arrays(name: str, boxes: Any, scores: Any, class_ids: Any, size: Optional[Tuple[int, int]],
               classes: Mapping[Any, Any]) -> Optional[_Image]:
    """Copies as numpy's arrays, if that is loaded, types and shapes are the usual ones, and nothing is wrong with their numbers."""
    np = sys.modules.get("numpy")
    if np is None:
        return None
    try:
        boxes, scores, class_ids = _copy(np, boxes), _copy(np, scores), _copy(np, class_ids)
    except (ValueError, TypeError, RuntimeError):    # of unequal lengths, or on a GPU
        return None
    if scores.shape == (0,) == class_ids.shape and boxes.size == 0:    # nothing was found, and the types say nothing
        boxes, class_ids = boxes.astype(float).reshape(0, 4), class_ids.astype(int)
    if scores.dtype.char not in "efd" or class_ids.dtype.kind not in "iu" or boxes.dtype.kind not in "fiu":
        return None
    if class_ids.ndim != 1 or scores.shape != class_ids.shape or boxes.shape != (*scores.shape, 4):
        return None
    # Sums are the quickest way to see that there is no NaN and nothing large; what they cannot say, the slow way finds out.
    edges = boxes if boxes.dtype.char in "fd" else boxes.astype(float)
    if not (np.vdot(edges, edges) <= _USUAL_EDGES and isfinite(sum(scores.tolist())) and classes.keys() >= set(class_ids.tolist())):
        return None
    return _Image(name, boxes, scores, class_ids, None, size)


def _copy(np: Any, values: Any) -> Any:
    if type(values) is list:
        return np.array(values)
    if type(values) is np.ndarray:
        return values.copy()
    if hasattr(values, "filled"):
        raise TypeError("an array of numpy.ma may hide some of its numbers")
    # Tensors share their memory with what asarray() makes of them, and not all versions of them know array()'s wish for a copy.
    return np.array(np.asarray(values))


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
