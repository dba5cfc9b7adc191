"""Where the keys of a YAML file stand."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional

from ymir_exc import _yaml
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
            self._lines = _yaml.key_lines(str(self.path))
        lines, place = self._lines, key
        while place and place not in lines:
            place = place[:max(place.rfind("."), place.rfind("["), 0)]
        return Finding(rule, message, str(self.path), lines.get(place), key)
