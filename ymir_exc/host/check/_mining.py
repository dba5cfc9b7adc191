"""result.tsv: the ranking of a mining (contract 7.1). It is read line by line."""
from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Dict, Iterator, List, Optional

from ymir_exc.host.check import _context
from ymir_exc.host.check._context import Coverage, Meter, Task, shown
from ymir_exc.host.findings import Finding, Rule, Severity, rule

_E, _W = Severity.ERROR, Severity.WARNING

R201 = rule("R201", _E, "A mining leaves result.tsv", "The platform has no ranking, and the task fails (160011)",
            "Call result_writer.write_mining_result() with every candidate")
R202 = rule("R202", _E, "A line is a path, one TAB, and a score",
            "The platform takes all up to the TAB for the path, and finds no such image",
            "Separate them by one TAB, and write nothing else")
R203 = rule("R203", _E, "No line is blank", "Tools of the platform refuse the ranking",
            "Write one line a candidate, with no blank ones between")
R204 = rule("R204", _E, "Lines end with LF alone", "The carriage return becomes a part of the score", r"Open the file with newline='\n'")
R205 = rule("R205", _E, "A score is a finite number", "The order is not defined, and the images that are chosen are arbitrary",
            "Write a plain decimal number; give an image that cannot be scored the lowest")
R206 = rule("R206", _E, "The lines are sorted, the highest score first", "The platform never reads the scores: it takes the first lines",
            "Sort by score, highest first; write_mining_result() does")
R207 = rule("R207", _E, "An image in the ranking is one of the candidates", "It takes a place of the top k, and the result is short by one",
            "Write only what candidate-index.tsv holds")
R208 = rule("R208", _E, "A path is written as the index file has it", "Tools of the platform compare whole paths",
            "Write the path as it was read")
R209 = rule("R209", _E, "No image is in the ranking twice", "It takes two places of the top k", "Write each candidate once")
R210 = rule("R210", _E, "Every candidate is in the ranking", "What is left out is never chosen",
            "Score every candidate; give those that cannot be read the lowest score")
R211 = rule("R211", _W, "A ranking has a line", "Nothing can be chosen from it", "Write every candidate")
R212 = rule("R212", _W, "The scores differ", "The platform takes the first lines of an arbitrary order",
            "Look at what the scores are computed from")

_LONGEST = 1 << 20
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_FEW = 3


class _Repeated:
    """A rule that is broken the same way in many lines: one finding, at the first of them, with their number."""

    def __init__(self, rule: Rule, words: str) -> None:
        self._rule, self._words = rule, words
        self._count, self._line, self._message = 0, 0, ""

    def add(self, line: int, message: str) -> None:
        if not self._count:
            self._line, self._message = line, message
        self._count += 1

    def found(self, path: Path) -> Iterator[Finding]:
        if self._count:
            more = f"; {self._count} lines {self._words}" if self._count > 1 else ""
            yield self._rule.found(self._message + more, str(path), line=self._line)


class _Ranking:
    """What is known after each line."""

    def __init__(self, path: Path, task: Task) -> None:
        self.path, self.candidates = path, task.candidates
        self.coverage = Coverage(task.candidates)
        self.lines = 0
        self.last: Optional[float] = None
        self.is_constant = True
        self.unsorted = _Repeated(R206, "are above the one before")
        self.returns = _Repeated(R204, "do")

    def judge(self, number: int, line: str, *, is_text: bool) -> Iterator[Finding]:
        if "\r" in line:
            self.returns.add(number, "ends with, or holds, a carriage return")
            line = line.replace("\r", "")
        if not line.strip():
            yield R203.found("is blank", str(self.path), line=number)
            return
        self.lines += 1
        fields = line.split("\t")
        if len(fields) != 2:
            yield R202.found(f"has {len(fields) - 1} TABs: {shown(line)}", str(self.path), line=number)
        yield from self._image(number, fields[0])
        if len(fields) > 1 and is_text:
            yield from self._score(number, fields[1])

    def _image(self, number: int, path: str) -> Iterator[Finding]:
        name = path[path.rfind("/") + 1:]
        is_double = self.coverage.add(name)
        if self.candidates is not None and name in self.candidates:
            if not is_double and not self.candidates.has_path(path):
                yield R208.found(f"{shown(path)} is {shown(self.candidates.path(name))} there", str(self.path), line=number)
            if is_double and self.candidates.has_path(path):
                yield R209.found(f"{name} is there before", str(self.path), line=number)
            elif is_double:
                yield R208.found(f"{shown(path)} is not as in the index file, and {name} is there before", str(self.path), line=number)
        elif is_double:
            yield R209.found(f"{name} is there before", str(self.path), line=number)
        elif self.candidates is not None:
            yield R207.found(f"{shown(path)} is no candidate", str(self.path), line=number)

    def _score(self, number: int, text: str) -> Iterator[Finding]:
        if not _DECIMAL.fullmatch(text) or not math.isfinite(float(text)):
            yield R205.found(f"the score is {shown(text)}", str(self.path), line=number)
            return
        score = float(text)
        if self.last is not None:
            self.is_constant = self.is_constant and score == self.last
            if score > self.last:
                self.unsorted.add(number, f"the score {text} is above {self.last:.9g} of the line before")
        self.last = score

    def end(self) -> Iterator[Finding]:
        yield from self.returns.found(self.path)
        yield from self.unsorted.found(self.path)
        lacking = self.coverage.lacking("have no line")
        if lacking:
            yield R210.found(lacking, str(self.path))
        elif not self.lines:
            yield R211.found("holds no line", str(self.path))
        if self.is_constant and self.lines >= _FEW and self.last is not None:
            yield R212.found(f"all {self.lines} scores are {self.last:.9g}", str(self.path))


def check_ranking(out: Path, task: Task, meter: Meter, counts: Dict[str, int]) -> Iterator[Finding]:
    """Judge result.tsv.

    Args:
        out: The task's `out` folder.
        task: What is known of the task.
        meter: Is told the bytes read.
        counts: Is given the number of lines.
    """
    path = out / "result.tsv"
    found: List[Finding] = []
    is_sound = _context.is_sound(path, found, R201)
    yield from found
    if not is_sound:
        return
    ranking, number = _Ranking(path, task), 0
    with open(path, "rb") as f:
        f.seek(3 if found else 0)    # a byte order mark, which was told
        for data in iter(lambda: f.readline(_LONGEST), b""):
            number += 1
            meter.add(len(data))
            if len(data) == _LONGEST:
                yield R202.found(f"is longer than {_LONGEST} bytes; the rest is not judged", str(path), line=number)
                break
            line = data.decode("utf-8", "surrogateescape")
            is_text = line.isascii() or not any("\udc80" <= c <= "\udcff" for c in line)
            if not is_text:
                yield _context.X005.found("holds bytes that are not UTF-8", str(path), line=number)
            yield from ranking.judge(number, line[:-1] if line.endswith("\n") else line, is_text=is_text)
    counts["ranked images"] = ranking.lines
    yield from ranking.end()
