"""Reading an output file strictly: every refusal names the file, the key and the section of the contract."""

from __future__ import annotations

import json
import math
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, NoReturn, Sequence, Set, Tuple

import yaml

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class ContractViolation(AssertionError):
    """One broken rule: where it stands in the contract, in which file and key, and what was found."""

    def __init__(self, section: str, file: str, key: str, problem: str) -> None:
        self.section = section
        self.file = file
        self.key = key
        self.problem = problem
        where = f"{file}: {key}" if key else file
        super().__init__(f"contract {section}: {where}: {problem}")


@dataclass(frozen=True)
class At:
    """A place in an output file; knows the section whose rules hold there."""

    section: str
    file: str
    key: str = ""

    def item(self, name: object) -> At:
        key = f"{self.key}.{name}" if self.key else str(name)
        return At(self.section, self.file, key)

    def index(self, number: int) -> At:
        return At(self.section, self.file, f"{self.key}[{number}]")

    def rule(self, section: str) -> At:
        return At(section, self.file, self.key)

    def refuse(self, problem: str) -> NoReturn:
        raise ContractViolation(self.section, self.file, self.key, problem)

    def require(self, holds: object, problem: str) -> None:
        if not holds:
            self.refuse(problem)


def as_mapping(at: At, value: object) -> Dict[Any, Any]:
    if not isinstance(value, dict):
        at.refuse(f"must be a mapping, is {kind(value)}")
    return value


def as_list(at: At, value: object) -> List[Any]:
    if not isinstance(value, list):
        at.refuse(f"must be a list, is {kind(value)}")
    return value


def as_text(at: At, value: object) -> str:
    if not isinstance(value, str):
        at.refuse(f"must be a string, is {kind(value)}")
    at.require(value.strip(), "is blank")
    return value


def as_integer(at: At, value: object, lowest: int = INT32_MIN, highest: int = INT32_MAX) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        at.refuse(f"must be an integer, is {kind(value)} {value!r}")
    at.require(lowest <= value <= highest, f"{value} is outside [{lowest}, {highest}]")
    return value


def as_number(at: At, value: object, lowest: float = -math.inf, highest: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        at.refuse(f"must be a number, is {kind(value)} {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    at.require(math.isfinite(number), f"{value} is not finite")
    at.require(lowest <= number <= highest, f"{value} is outside [{lowest}, {highest}]")
    return number


def as_number_or_string(at: At, value: object, notices: List[str], highest: float = math.inf) -> float:
    """A number the platform's own coercion takes: numeric strings too, contract 6.1."""
    lowest = 0.0 if highest == 1 else -math.inf
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            at.refuse(f"{value!r} is not a number")
        notices.append(f"{at.key}: the string {value!r} is read as a number")
        return as_number(at, number, lowest, highest)
    return as_number(at, value, lowest, highest)


def as_decimal(at: At, text: str) -> float:
    """A decimal number in text; stricter than ``float``, which takes blanks, underscores and ``nan``."""
    at.require(text.lower().lstrip("+-") not in ("nan", "inf", "infinity"), f"{text} is not finite")
    at.require(_DECIMAL.fullmatch(text), f"{text!r} is not a number")
    at.require(math.isfinite(float(text)), f"{text} is not finite")
    return float(text)


def kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def read_text(at: At, path: Path) -> str:
    """The text of a regular file, UTF-8, without a byte order mark."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        at.refuse("file is missing")
    at.require(not stat.S_ISLNK(mode), "is a symbolic link; its target is looked up on the host")
    at.require(stat.S_ISREG(mode), "is not a regular file")
    try:
        data = path.read_bytes()
    except OSError as error:
        at.refuse(f"cannot be read: {error}")
    at.require(not data.startswith(b"\xef\xbb\xbf"), "starts with a byte order mark")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        at.refuse(f"is not UTF-8: {error}")


def load_yaml(at: At, path: Path) -> Dict[Any, Any]:
    text = read_text(at, path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        at.refuse(f"is not plain YAML: {' '.join(str(error).split())}")
    at.require(value is not None, "is empty")
    document = as_mapping(at, value)
    _refuse_repeated_keys(at, node)
    return document


def _refuse_repeated_keys(at: At, node: object) -> None:
    if isinstance(node, yaml.SequenceNode):
        for position, child in enumerate(node.value):
            _refuse_repeated_keys(at.index(position), child)
    elif isinstance(node, yaml.MappingNode):
        seen: Set[str] = set()
        for key, child in node.value:
            at.item(key.value).require(key.value not in seen, "the key is given twice; only the last is read")
            seen.add(key.value)
            _refuse_repeated_keys(at.item(key.value), child)


def load_json(at: At, path: Path) -> Dict[str, Any]:
    """Strict JSON: no NaN or Infinity tokens, no key twice, one document."""

    def constant(token: str) -> NoReturn:
        at.refuse(f"{token} is not JSON")

    def pairs(items: List[Tuple[str, Any]]) -> Dict[str, Any]:
        table = dict(items)
        if len(table) < len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            at.item(twice).refuse("the key is given twice; only the last is read")
        return table

    text = read_text(at, path)
    try:
        value = json.loads(text, parse_constant=constant, object_pairs_hook=pairs)
    except ValueError as error:
        at.refuse(f"is not JSON: {error}")
    return as_mapping(at, value)


def basenames(candidates: Sequence[str]) -> Dict[str, str]:
    return {PurePosixPath(path).name: path for path in candidates}


def known_classes(class_names: Sequence[str]) -> Set[str]:
    return {name.strip().lower() for name in class_names}
