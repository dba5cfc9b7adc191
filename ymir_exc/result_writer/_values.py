"""Builtin numbers out of whatever a framework returned, and the platform's protocol version."""
from __future__ import annotations

import os
import re
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Callable, List, Mapping, Match, Optional, Sequence, Tuple

from ymir_exc.errors import ResultError

if TYPE_CHECKING:
    from ymir_exc.env import EnvConfig

INT32 = 2 ** 31 - 1
_WORTH_LOADING = 10_000    # numbers: to turn so many into text takes as long as to load what does it faster
_WORTH_ARRAYS = 100
_number_count = 0
_SMALL, _EXPONENT = re.compile(rb"0\.0000\d*"), re.compile(rb"e([+-]?)(\d+)")
_POWERS_OF_TEN = tuple(float(10 ** n) for n in range(20))    # exact


def to_float(value: Any) -> Optional[float]:
    """A builtin float of numpy and torch scalars, one-element arrays and numeric text; None when it is none."""
    if type(value) is float:
        return value
    if hasattr(value, "item") and not isinstance(value, (int, float)):
        try:
            value = None if is_masked(value) else value.item()
        except (TypeError, ValueError, RuntimeError):    # more than one element
            return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def as_list(values: Any) -> List[Any]:
    """Builtin lists out of arrays, tensors, or a list of them."""
    if hasattr(values, "tolist"):
        made = values.tolist()
        return made if isinstance(made, list) else [made]
    made = list(values)
    return [item.tolist() for item in made] if made and all(hasattr(item, "tolist") for item in made) else made


def is_masked(values: Any) -> bool:
    """Whether some of an array's numbers, or a number itself, are hidden by a mask of numpy.ma."""
    return hasattr(values, "filled") and bool(values.mask.any())


def image_name(path: Any) -> str:
    """The file name.

    Raises:
        ResultError: It is no path.
    """
    return os.path.basename(as_path(path))


def as_path(path: Any) -> str:
    """A path as text.

    Raises:
        ResultError: It is none.
    """
    try:
        return os.fsdecode(path)
    except TypeError:
        raise ResultError(f"{path!r:.80} is no path of an image") from None


class OneBlock:
    """Whether a writer's with-block is yet to come, goes on, or is over."""

    _is_inside: Optional[bool] = None

    def _begin_block(self) -> None:
        """The block begins.

        Raises:
            ResultError: It is the second one.
        """
        if self._is_inside is not None:
            raise ResultError(f"a {type(self).__name__} has one with-block", hint="make another one for another result")
        self._is_inside = True

    def _check_inside(self) -> None:
        """Refuse what would be lost.

        Raises:
            ResultError: This is not within the block.
        """
        if not self._is_inside:
            when = "before" if self._is_inside is None else "after"
            raise ResultError(f"the {type(self).__name__} is used {when} its with-block", hint="add results inside of the block")


def is_single(values: Any) -> bool:
    """Whether an array or a tensor holds floats of 32 bits or fewer."""
    kind = getattr(values, "dtype", None)
    return kind is not None and _is_single(kind)


@lru_cache(maxsize=64)
def _is_single(kind: Any) -> bool:
    return str(kind).rpartition(".")[2] in ("float32", "float16", "bfloat16")


def number_texts(numbers: Sequence[float], single: bool = False) -> List[str]:
    """Finite numbers as JSON. Those that came from 32 bits need nine digits to be told apart; the others are written in full."""
    return joined_numbers(nine_digits(numbers) if single else numbers).decode("ascii").split(",") if len(numbers) else []


def joined_numbers(numbers: Sequence[float]) -> bytes:
    """Finite numbers as JSON, with commas between; many of them some ten times as quick as with the standard library, in its notation."""
    global _number_count
    _number_count += len(numbers)
    if _number_count >= _WORTH_LOADING or "pydantic_core" in sys.modules:
        try:
            return _as_repr(_to_json()(numbers)[1:-1])
        except ValueError:    # old versions: a whole number of more than 64 bits
            pass
    return ",".join(map(repr, numbers)).encode("ascii")


def _as_repr(content: bytes) -> bytes:
    """Numbers of other libraries as Python's `repr` writes them: 2e-05 for 0.00002, 1e-07 for 1e-7, 1e+16 for 1e16."""
    if b"e" in content:
        content = _EXPONENT.sub(lambda found: b"e" + (found[1] or b"+") + found[2].zfill(2), content)
    return _SMALL.sub(_small_repr, content) if b"0.0000" in content else content


def _small_repr(found: Match[bytes]) -> bytes:
    is_whole = not found.string[max(0, found.start() - 1):found.start()].isdigit()    # not the end of 10.0000
    return repr(float(found[0])).encode("ascii") if is_whole else found[0]


@lru_cache(maxsize=1)
def _to_json() -> Callable[[Any], bytes]:
    from pydantic_core import to_json
    return to_json


def nine_digits(numbers: Any) -> List[float]:
    """Numbers that came from 32 bits, a list or an array, as the nearest ones of nine digits, which tell each of them."""
    if len(numbers) >= _WORTH_ARRAYS:
        import numpy as np
        values = np.array(numbers, float)
        sizes = np.abs(values)
        if not ((sizes < 1e-9) & (sizes > 0)).any() and (sizes < 1e8).all():
            scale = np.array(_POWERS_OF_TEN)[8 - np.floor(np.log10(np.where(sizes > 0, sizes, 1.0))).astype(int)]
            made: List[float] = (np.rint(values * scale) / scale).tolist()    # of whole numbers, so it is the nearest one
            return made
    return [float(f"{number:.9g}") for number in numbers]


def checked_class_names(names: Sequence[str]) -> List[str]:
    """Class names as text.

    Raises:
        ResultError: One of them is blank, which the platform refuses, or they are one text.
    """
    if isinstance(names, str):
        raise ResultError(f"class_names must be a list, not {names!r}")
    made = [str(plain(name)) for name in names]
    if not all(name.strip() for name in made):
        raise ResultError(f"class_names has a blank name: {made!r:.200}")
    return made


def checked_size(image: str, size: Any) -> Tuple[int, int]:
    """Width and height of an image.

    Raises:
        ResultError: They are not two whole numbers of pixels.
    """
    try:
        width, height = (int(edge) for edge in size)
    except (TypeError, ValueError, OverflowError):
        width = height = 0
    if not (1 <= width <= INT32 and 1 <= height <= INT32):
        raise ResultError(f"{image}: image_size is {size!r:.80}", hint="(width, height) in pixels")
    return width, height


def plain(value: Any) -> Any:
    """Builtin numbers, text, lists and dicts of whatever numpy, torch or a framework returned; what cannot be converted becomes text.

    Args:
        value: Anything.

    Returns:
        Something that YAML and JSON can hold without knowing a framework.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (bytes, bytearray)):    # run lengths of pycocotools
        return value.decode("utf-8", "replace")
    if hasattr(value, "tolist"):    # numpy arrays and scalars, torch tensors
        made = value.tolist()
        return plain(made) if type(made) is not type(value) else to_float(made)    # numpy's longdouble stays what it is
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    return str.__str__(value) if isinstance(value, str) else str(value)    # of an enumeration's member the text, not its name


def version(text: str) -> Tuple[int, ...]:
    """Leading numbers of a version; anything odd counts as 0."""
    numbers = []
    for part in str(text).strip().lstrip("v").split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple([*numbers, 0, 0, 0][:3])


def is_modern(current: EnvConfig) -> bool:
    """Protocol 1.0.0 and later: stages in result.yaml, `boxes` in infer-result.json (contract 2.2)."""
    return version(current.protocol_version) >= (1, 0, 0)


def knows_stages(current: EnvConfig) -> bool:
    """Platforms from 1.2.0 on take stages; those before 1.3.0 write no protocol version, and their images carry YMIR_VERSION."""
    return is_modern(current) or version(os.environ.get("YMIR_VERSION", "1.1.0")) >= (1, 2, 0)
