"""infer-result.json as a file: there, readable, JSON; `_detection` and `_segmentation` judge what it says."""
from __future__ import annotations

import contextlib
from pathlib import Path
from typing import IO, Callable, Iterator, List, Optional

from ymir_exc.host.check import _context
from ymir_exc.host.check._context import Meter
from ymir_exc.host.check._json_stream import BrokenJson, BrokenText, JsonStream
from ymir_exc.host.findings import Finding, Severity, rule

_E = Severity.ERROR
_FAILS = "The platform cannot read the file, and the task fails (169999)"

D301 = rule("D301", _E, "An inference leaves infer-result.json", _FAILS,
            "Write it with a writer of result_writer, also when nothing was found")
X008 = rule("X008", _E, "A JSON file is valid to its end", _FAILS,
            "Write it with json.dump into a new file, and rename that; a killed writer leaves half a file")
X009 = rule("X009", _E, "Numbers in JSON are numbers, not NaN or Infinity", "These words are no JSON; other readers refuse the file",
            "Leave out what is not finite, or write null where that is allowed")
X010 = rule("X010", _E, "No key is in a JSON object twice", "Only the last one counts; what the others hold is lost",
            "Gather values that belong to one key first")
X012 = rule("X012", _E, "The root of a JSON result is an object", _FAILS, 'Write {"detection": {...}}, or a COCO object')

_COCO_KEYS = ("images", "categories", "annotations", "info", "licenses")


class ResultFile:
    """infer-result.json, to be read as often as wanted.

    Args:
        path: The file.
        meter: Is told the bytes read.
    """

    def __init__(self, path: Path, meter: Meter) -> None:
        self.path, self._meter = path, meter
        self._skip = 0

    def is_sound(self, found: List[Finding]) -> bool:
        """Whether there is a file to read; what is wrong with it is told in `found`."""
        is_sound = _context.is_sound(self.path, found, D301)
        self._skip = 3 if found and is_sound else 0    # the byte order mark
        return is_sound

    def is_coco(self) -> bool:
        """Whether the first key is one of COCO's; other faults of the file are for `read` to tell."""
        with contextlib.suppress(BrokenJson), open(self.path, "rb") as f:
            stream = self._stream(f)
            for key in stream.members():
                return key in _COCO_KEYS
        return False

    def read(self, judge: Callable[[JsonStream], Iterator[Finding]]) -> Iterator[Finding]:
        """The findings of one who reads the stream, and of the file's form where that cannot be done to the end."""
        with open(self.path, "rb") as f:
            stream = self._stream(f)
            try:
                if stream.peek() not in ("{", ""):
                    value = stream.value()
                    stream.end()
                    yield X012.found(f"is {_context.kind_of(value)}", str(self.path), line=1)
                    return
                yield from judge(stream)
                stream.end()
            except BrokenText as e:
                yield _context.X005.found(e.message, str(self.path), line=e.line)
            except BrokenJson as e:
                yield X008.found(e.message, str(self.path), line=e.line)

    def _stream(self, file: IO[bytes]) -> JsonStream:
        file.seek(self._skip)
        return JsonStream(file, self._meter.add)

    def notes(self, stream: JsonStream, line: Optional[int], key: str) -> Iterator[Finding]:
        """What the JSON of the value last taken had wrong."""
        for name in stream.doubled:
            yield X010.found(f"{name!r} is given twice", str(self.path), line, key)
        if stream.constants:
            yield X009.found(f"holds {stream.constants[0]}", str(self.path), line, key)
