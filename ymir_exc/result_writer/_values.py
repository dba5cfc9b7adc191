"""Builtin numbers out of whatever a framework returned, and the platform's protocol version."""
from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Mapping, Optional, Tuple

if TYPE_CHECKING:
    from ymir_exc.env import EnvConfig

INT32 = 2 ** 31 - 1


def to_float(value: Any) -> Optional[float]:
    """A builtin float of numpy and torch scalars, one-element arrays and numeric text; None when it is none."""
    if type(value) is float:
        return value
    if hasattr(value, "item") and not isinstance(value, (int, float)):
        try:
            value = value.item()
        except (TypeError, ValueError, RuntimeError):    # more than one element
            return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


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
    if hasattr(value, "tolist"):    # numpy arrays and scalars, torch tensors
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return str(value)


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
