"""Reads a JSON file of any size value by value: only what is asked for is held, and each value knows its line."""
from __future__ import annotations

import codecs
import json
import re
from typing import IO, Any, Callable, Dict, Iterator, List, Optional, Tuple

MAX_VALUE = 64 << 20
"""Characters of a single value, which is held whole."""

_BLOCK = 1 << 20
_LONGEST_TOKEN = 16    # -Infinity, or an escaped character
_PLAIN = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\n\r]*")


class BrokenJson(Exception):
    """The text is no JSON; nothing after the place can be read.

    Args:
        message: What is wrong.
        line: Where, from 1.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message, self.line = message, line


class BrokenText(BrokenJson):
    """The bytes are not UTF-8."""


class JsonStream:
    """A JSON document, read from its beginning to its end.

        stream = JsonStream(file)
        for key in stream.members():        # of the object that comes next
            value = stream.value()          # or members(), elements(), skip(): each value must be taken

    Args:
        file: Opened in binary mode, after a byte order mark.
        on_bytes: Is told after each block how many bytes were read.

    Attributes:
        doubled: Keys that the value last taken gives twice; of these the last counts.
        constants: What in the value last taken is no JSON: NaN, Infinity, -Infinity.

    Raises:
        BrokenJson: By every method that reads on.
    """

    def __init__(self, file: IO[bytes], on_bytes: Optional[Callable[[int], None]] = None) -> None:
        self._file, self._on_bytes = file, on_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._is_whole = "", 0, False
        self._line, self._counted = 1, 0
        self._json = json.JSONDecoder(object_pairs_hook=self._pairs, parse_constant=self._constant)
        self.doubled: List[str] = []
        self.constants: List[str] = []

    @property
    def line(self) -> int:
        """The line that was reached, from 1."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def peek(self) -> str:
        """The character that the next value begins with; '' at the end."""
        if self._at < len(self._text) and self._text[self._at] not in " \t\n\r":
            return self._text[self._at]
        while True:
            match = _BLANKS.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def value(self, *, is_noted: bool = True) -> Any:
        """Take the next value whole; NaN and its like become floats.

        Args:
            is_noted: Fill `doubled` and `constants`, which takes some of the time.
        """
        if not self.peek():
            raise BrokenJson("the file ends where a value should be", self.line)
        while True:
            self.doubled, self.constants = [], []
            try:
                made, end = (self._json if is_noted else _PLAIN).raw_decode(self._text, self._at)
            except json.JSONDecodeError as e:
                # What is cut off by the end of the block fails there, or is a string without an end.
                is_cut = e.msg.startswith("Unterminated") or e.pos > len(self._text) - _LONGEST_TOKEN
                if self._is_whole or not is_cut:
                    raise BrokenJson(f"{e.msg}, at {self._text[e.pos:e.pos + 20]!r}", self._line_at(e.pos)) from None
            except RecursionError:
                raise BrokenJson("it is nested too deeply", self.line) from None
            except ValueError as e:    # a number of thousands of digits
                raise BrokenJson(str(e), self.line) from None
            else:
                if end < len(self._text) or self._is_whole:
                    self._at = end
                    return made
            if len(self._text) - self._at > MAX_VALUE:
                raise BrokenJson(f"a value is longer than {MAX_VALUE >> 20} MiB", self.line)
            self._more()

    def members(self) -> Iterator[str]:
        """The keys of the object that comes next; its values are to be taken by the caller."""
        self._take("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() != '"':
                raise self._unexpected("a key in double quotes")
            key = str(self.value())
            self._take(":")
            yield key
            if self._ends("}"):
                return

    def elements(self) -> Iterator[int]:
        """The positions, from 0, in the array that comes next; its values are to be taken by the caller."""
        self._take("[")
        if self.peek() == "]":
            self._at += 1
            return
        position = 0
        while True:
            yield position
            position += 1
            if self._ends("]"):
                return

    def values(self, *, is_noted: bool = True) -> Iterator[Tuple[int, Any]]:
        """The values of the array that comes next, each with its line; `is_noted` as of `value`."""
        for _ in self.elements():
            self.peek()
            yield self.line, self.value(is_noted=is_noted)

    def skip(self) -> None:
        """Pass over the next value; one object or array is not held whole."""
        first = self.peek()
        for _ in self.members() if first == "{" else self.elements() if first == "[" else (0,):
            self.value()

    def end(self) -> None:
        """Make sure that nothing follows."""
        if self.peek():
            raise self._unexpected("the end of the file")

    def _ends(self, closing: str) -> bool:
        found = self.peek()
        if found not in (",", closing) or not found:
            raise self._unexpected(f"',' or {closing!r}")
        self._at += 1
        return found == closing

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise self._unexpected(repr(character))
        self._at += 1

    def _unexpected(self, wanted: str) -> BrokenJson:
        found = self._text[self._at:self._at + 20]
        return BrokenJson(f"{wanted} should be here, not {found!r}" if found else f"the file ends where {wanted} should be", self.line)

    def _line_at(self, position: int) -> int:
        return self.line + self._text.count("\n", self._at, position)

    def _more(self) -> bool:
        """Read on; what was taken is forgotten."""
        if self._is_whole:
            return False
        start = self.line
        rest = self._text[self._at:]
        data = self._file.read(max(_BLOCK, len(rest)))    # doubled each time, so that a long value is not decoded too often
        held = self._decoder.getstate()[0]
        try:
            new = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as e:
            raise BrokenText("holds bytes that are not UTF-8", start + rest.count("\n") + (held + data).count(b"\n", 0, e.start)) from None
        if self._on_bytes is not None:
            self._on_bytes(len(data))
        self._text, self._at, self._counted, self._is_whole = rest + new, 0, 0, not data
        return bool(new) or bool(data)

    def _pairs(self, items: List[Tuple[str, Any]]) -> Dict[str, Any]:
        made = dict(items)
        if len(made) < len(items):
            names = [name for name, _ in items]
            self.doubled.append(next(name for name in names if names.count(name) > 1))
        return made

    def _constant(self, token: str) -> float:
        self.constants.append(token)
        return float(token.replace("Infinity", "inf"))
