"""infer-result.json of a detector (contract 7.2)."""
from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, Type

from ymir_exc import _files
from ymir_exc.env import current_env, is_main_rank
from ymir_exc.errors import ResultError
from ymir_exc.result_writer._values import INT32, is_modern, plain

if TYPE_CHECKING:
    from ymir_exc._models import Annotation

_log = logging.getLogger(__name__)

_ALGORITHMS = ("classification", "detection", "segmentation")
_FORMATS = ("xyxy", "xywh")
_FLUSH_BYTES = 1 << 20


def write_infer_result(infer_result: Mapping[str, Any], algorithm: str = "detection") -> None:
    """Write the predictions.

    Args:
        infer_result: For detection, image path to a list of `Annotation`. For segmentation, a COCO mapping with images, categories and
            annotations (contract 7.3).
        algorithm: 'detection' or 'segmentation'.

    Raises:
        ResultError: An unknown algorithm, or a value that the platform would refuse; the earlier file stays.
        StorageError: It cannot be written; the earlier file stays.
    """
    if not is_main_rank():
        return
    if algorithm not in _ALGORITHMS:
        raise AssertionError(f"unknown algorithm {algorithm!r}: must be one of {', '.join(_ALGORITHMS)}")
    if algorithm == "classification":
        raise ResultError("the platform takes no classification results", hint="write detections or a segmentation")
    if algorithm == "segmentation":
        write_json(plain(infer_result))
        return
    with _open_sink() as sink:
        for path, objects in _last_of_each_name(infer_result):
            sink.image(path, [_annotation_text(path, item) for item in objects])


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
    _files.write_bytes(path, data)


def _last_of_each_name(infer_result: Mapping[str, Any]) -> Iterable[Tuple[str, Any]]:
    """The platform knows an image by its file name alone: of two of the same name the later one counts."""
    by_name: Dict[str, Any] = {}
    for path, objects in infer_result.items():
        name = os.path.basename(os.fspath(path))
        if name in by_name:
            _log.warning("two images are called %s; the platform sees the later one only", name)
        by_name[name] = objects
    return by_name.items()


def _annotation_text(image: str, item: Annotation) -> str:
    try:
        box, score = item.box, item.score
        if type(score) is float and type(box.x) is type(box.y) is type(box.w) is type(box.h) is int and math.isfinite(score):
            return (f'{{"class_name": {_quoted(item.class_name)}, "score": {score!r}, '
                    f'"box": {{"x": {box.x}, "y": {box.y}, "w": {box.w}, "h": {box.h}}}}}')
    except AttributeError:    # somebody else's class with a `dict` of its own
        pass
    made = plain(item.dict())
    score = made.get("score")
    if not isinstance(score, (int, float)) or not math.isfinite(score):
        raise ResultError(f"{image}: a detection of {made.get('class_name')!r} has the score {score}", hint="scores must be finite")
    return json.dumps(made, allow_nan=False)


_quoted_names: Dict[str, str] = {}


def _quoted(name: str) -> str:
    """JSON of a class name, of which there are few."""
    found = _quoted_names.get(name)
    if found is None:
        if len(_quoted_names) > 100_000:
            _quoted_names.clear()
        found = _quoted_names[name] = json.dumps(name)
    return found


class _Sink:
    """The text of the file as it grows."""

    def __init__(self, file: IO[bytes], key: str) -> None:
        self._file = file
        self._key = key
        self._pending: List[str] = []
        self._pending_size = 0
        self._comma = ""

    def image(self, name: str, texts: Sequence[str]) -> None:
        """Add an image with its boxes, each as JSON."""
        self.text(f'{self._comma}{json.dumps(name)}: {{"{self._key}": [{", ".join(texts)}]}}')
        self._comma = ", "

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
    with _files.open_atomic(path) as f:
        sink = _Sink(f, "boxes" if is_modern(current) else "annotations")
        sink.text('{"detection": {')
        yield sink
        sink.text("}}")
        sink.flush()


class InferResultWriter:
    """Writes detections as they arrive; memory stays flat, and the file appears whole at the end of the block, or not at all.

        with InferResultWriter(cfg.param.class_names) as results:
            for path, boxes, scores, class_ids in predictions:
                results.add(path, boxes, scores, class_ids)

    Coordinates are rounded to whole pixels, which is all that the platform takes.

    Args:
        class_names: The classes, in the order that `class_ids` count.
        box_format: 'xyxy' (left, top, right, bottom; the right and bottom edges are outside) or 'xywh'.

    Raises:
        ResultError: At `add`: shapes that do not fit, a coordinate beyond 32 bits, a score that is not finite, an unknown class, an image
            of a name that was added before.
        StorageError: It cannot be written; the earlier file stays.
    """

    def __init__(self, class_names: Sequence[str], box_format: str = "xyxy") -> None:
        if box_format not in _FORMATS:
            raise ResultError(f"unknown box format {box_format!r}", hint=f"one of {', '.join(_FORMATS)}")
        self._names = [json.dumps(str(name)) for name in class_names]
        self._is_xyxy = box_format == "xyxy"
        self._seen: Set[int] = set()
        self._stack = contextlib.ExitStack()
        self._sink: Optional[_Sink] = None
        self.count = 0

    def __enter__(self) -> InferResultWriter:
        if is_main_rank():
            self._sink = self._stack.enter_context(_open_sink())
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, path: str, boxes: Any, scores: Any, class_ids: Any, *, image_size: Optional[Tuple[int, int]] = None,
            rotate_angles: Any = None) -> None:
        """Add one image; it may have no objects.

        Args:
            path: The image, as in the candidate index.
            boxes: `(N, 4)` pixels, float or int: an array, a tensor on the CPU or a list.
            scores: `(N,)`, higher is surer.
            class_ids: `(N,)` indices into class_names.
            image_size: (width, height): boxes are clipped to it, and what has then no pixel is left out.
            rotate_angles: `(N,)`, for rotated boxes.
        """
        name = os.path.basename(os.fspath(path))
        if self._sink is None:
            return
        self._check_name(name)
        rows = _list(boxes), _list(scores), _list(class_ids), None if rotate_angles is None else _list(rotate_angles)
        sizes = [len(row) for row in rows if row is not None]
        if len(set(sizes)) != 1:
            raise ResultError(f"{name}: {sizes[0]} boxes, {sizes[1]} scores and {sizes[2]} class indices do not fit together")
        angles = rows[3] or [None] * sizes[0]
        texts = [self._text(name, *row, image_size) for row in zip(*rows[:3], angles)]
        self._sink.image(name, [text for text in texts if text])
        self.count += 1

    def _check_name(self, name: str) -> None:
        key = hash(name)
        if key in self._seen:
            raise ResultError(f"the image {name} was added before", hint="the platform knows images by their file name alone")
        self._seen.add(key)

    def _text(self, image: str, box: Sequence[float], score: float, class_id: float, angle: Optional[float],
              size: Optional[Tuple[int, int]]) -> str:
        try:
            x, y, w, h = self._pixels(box, size)
            label = self._names[_index(class_id, len(self._names))]
            is_finite = math.isfinite(score)
        except (ValueError, TypeError, OverflowError, IndexError) as e:
            raise ResultError(f"{image}: box {box!r} of class {class_id!r}: {e}") from None
        if not is_finite:
            raise ResultError(f"{image}: a detection of {label} has the score {score}", hint="scores must be finite")
        if size is not None and (w < 1 or h < 1):
            return ""
        turned = "" if angle is None else f', "rotate_angle": {float(angle)!r}'
        return f'{{"class_name": {label}, "score": {float(score)!r}, "box": {{"x": {x}, "y": {y}, "w": {w}, "h": {h}{turned}}}}}'

    def _pixels(self, box: Sequence[float], size: Optional[Tuple[int, int]]) -> Tuple[int, int, int, int]:
        left, top, right, bottom = box
        if not self._is_xyxy:
            right, bottom = left + right, top + bottom
        if size is not None:
            left, right = min(max(left, 0), size[0]), min(max(right, 0), size[0])
            top, bottom = min(max(top, 0), size[1]), min(max(bottom, 0), size[1])
        x, y = round(left), round(top)
        w, h = round(right) - x, round(bottom) - y
        if not (-INT32 <= x <= INT32 and -INT32 <= y <= INT32 and -INT32 <= w <= INT32 and -INT32 <= h <= INT32):
            raise ValueError("beyond 32 bits")
        return x, y, w, h


def _list(values: Any) -> List[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _index(class_id: float, count: int) -> int:
    index = int(class_id)
    if index != class_id or not 0 <= index < count:
        raise IndexError(f"there are {count} classes")
    return index
