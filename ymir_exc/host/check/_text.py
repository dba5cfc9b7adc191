"""Findings for people: gathered so that ten thousand alike stay readable, and printed place first."""
from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Sequence, Tuple

from ymir_exc.host.findings import Finding, Rule, Severity

SHOWN = 20
"""Of one rule, in whichever files."""

KEPT = 1000
"""Of one rule in one file, for programs that read all; the others are counted."""

_LONGEST = 600
_COLOURS = {Severity.ERROR: "31;1", Severity.WARNING: "33;1", Severity.NOTE: "36"}
_MARKDOWN = {"X": "Any file", "T": "Training: models/result.yaml", "R": "Mining: result.tsv", "D": "Detection: infer-result.json",
             "S": "Segmentation: infer-result.json", "M": "Progress and logs", "O": "Tencent TI: /opt/ml", "E": "env.yaml",
             "C": "config.yaml", "I": "Index files", "A": "Annotations",
             "P": "Pictures", "N": "Templates and manifest", "B": "Images (`ymir-exc build`)"}


class Gathered(NamedTuple):
    """Findings, of which each rule has at most `KEPT` in a file.

    Attributes:
        findings: In the order in which they were found.
        counts: Rule and file to how many there are in all.
    """

    findings: List[Finding]
    counts: Dict[Tuple[Rule, str], int]

    def total(self, severity: Severity) -> int:
        """How many there are of a severity."""
        return sum(count for (rule, _), count in self.counts.items() if rule.severity == severity)


def gather(findings: Iterable[Finding]) -> Gathered:
    """Take all findings, with control characters and halves of characters made harmless."""
    made = Gathered([], {})
    for one in findings:
        place = one.rule, printable(one.path)
        made.counts[place] = made.counts.get(place, 0) + 1
        if made.counts[place] <= KEPT:
            made.findings.append(one._replace(message=_cut(one.message), path=place[1], key=_cut(one.key)))
    return made


def _cut(text: str) -> str:
    """What a file says may be as long as the file is; its end tells the item of a key."""
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST // 2]}…{text[-_LONGEST // 2:]}")


def printable(text: str) -> str:
    """What a terminal, XML and UTF-8 can hold: file names are any bytes, and JSON may hold halves of characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def as_text(gathered: Gathered, looked_at: Mapping[str, int], *, colour: bool = False) -> str:
    """A block for the findings of one rule, each with its place first, and a last line that sums up.

    Args:
        gathered: What was found.
        looked_at: How many of what, for the last line.
        colour: With the escape codes of terminals.
    """
    blocks: List[str] = []
    groups: Dict[Rule, List[Finding]] = {}
    totals: Dict[Rule, int] = {}
    for one in gathered.findings:
        groups.setdefault(one.rule, []).append(one)
    for (rule, _), count in gathered.counts.items():
        totals[rule] = totals.get(rule, 0) + count
    for rule, members in groups.items():
        blocks += [f"{one.place}\n  {_painted(rule.severity.value, rule.severity, colour)} {rule.code}: {one.message}"
                   for one in members[:SHOWN]]
        more = totals[rule] - min(SHOWN, len(members))
        blocks += [f"  and {more:,} more"] if more else []
        blocks.append(f"  {rule.title}. {rule.why}.\n  -> {rule.remedy}.\n")
    return "\n".join([*blocks, _summary(gathered, looked_at, colour)])


def _painted(text: str, severity: Severity, colour: bool) -> str:
    return f"\033[{_COLOURS[severity]}m{text}\033[0m" if colour else text


def _summary(gathered: Gathered, looked_at: Mapping[str, int], colour: bool) -> str:
    things = ", ".join(_counted(count, name) for name, count in looked_at.items() if count)
    found = [_painted(_counted(gathered.total(severity), f"{severity.value}s"), severity, colour)
             for severity in Severity if gathered.total(severity)]
    if not found:
        return "nothing found" + (f": {things}" if things else "")
    return ", ".join(found) + (f" in {things}" if things else "")


def _counted(count: int, names: str) -> str:
    return f"{count:,} {names[:-2] if names.endswith('xes') else names[:-1]}" if count == 1 else f"{count:,} {names}"


def as_document(gathered: Gathered, looked_at: Mapping[str, int], findings: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """The JSON document of a check: how many of each severity there are, what was looked at, and the findings as plain values."""
    return {"counts": {severity.value: gathered.total(severity) for severity in Severity}, "looked_at": dict(looked_at),
            "left_out": sum(gathered.counts.values()) - len(gathered.findings), "findings": list(findings)}


def rules_in_text(rules: Sequence[Rule]) -> str:
    """A line for each rule."""
    return "\n".join(f"{rule.code}  {rule.severity.value:7}  {rule.title}" for rule in rules)


def rules_in_markdown(rules: Sequence[Rule]) -> str:
    """A table for each letter."""
    parts: List[str] = []
    for letter, title in _MARKDOWN.items():
        of_letter = [rule for rule in rules if rule.code.startswith(letter)]
        if of_letter:
            cells = [(rule.code, rule.severity.value, rule.title, rule.why, rule.remedy) for rule in of_letter]
            rows = [f"| {' | '.join(map(_cell, row))} |" for row in cells]
            parts.append("\n".join([f"## {letter}: {title}\n", "| code | severity | rule | what happens otherwise | what to do |",
                                    "| --- | --- | --- | --- | --- |", *rows]))
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "|<>*_`[]\\" else c for c in text)
