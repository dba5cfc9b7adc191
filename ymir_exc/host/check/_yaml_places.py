"""Where the keys of a YAML file stand."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional, Set

from ymir_exc.host.findings import Finding, Rule


class Document:
    """A mapping read from YAML, and the line of each of its keys.

    Args:
        path: The file; it was read before, so it is valid, and not nested deeply.
        value: What it holds.

    Attributes:
        path: As given.
        value: As given.
    """

    def __init__(self, path: Path, value: Dict[Any, Any]) -> None:
        self.path = path
        self.value = value
        self._lines: Optional[Dict[str, int]] = None

    def found(self, rule: Rule, message: str, key: str) -> Finding:
        """A finding at a key such as `model_stages.epoch_1.files[0]`; where it is missing, the line is that of what should hold it."""
        if self._lines is None:    # most files have no finding, and need no second reading
            self._lines = _lines(self.path)
        lines, place = self._lines, key
        while place and place not in lines:
            place = place[:max(place.rfind("."), place.rfind("["), 0)]
        return Finding(rule, message, str(self.path), lines.get(place), key)


def _lines(path: Path) -> Dict[str, int]:
    import yaml
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with open(path, encoding="utf-8-sig") as f:
        root = yaml.compose(f, Loader=loader)
    lines: Dict[str, int] = {}
    if root is not None:
        _walk(root, "", lines, set())
    return lines


def _walk(node: Any, key: str, lines: Dict[str, int], seen: Set[int]) -> None:
    if id(node) in seen:    # an alias: written out, a few lines may stand for billions
        return
    seen.add(id(node))
    if isinstance(node.value, str):
        return
    for position, child in enumerate(node.value):
        if isinstance(child, tuple):
            name, child = child
            place = f"{key}.{name.value}" if key else str(name.value)
            lines.setdefault(place, name.start_mark.line + 1)
        else:
            place = f"{key}[{position}]"
            lines.setdefault(place, child.start_mark.line + 1)
        _walk(child, place, lines, seen)
