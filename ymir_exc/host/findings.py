"""What is wrong with a folder, a configuration or an image: findings, the registry of all that can be found, and their forms on paper.

Every rule stands in `RULES` before it can be found, so that `ymir-exc check --list` and the documentation show all there are. That a check
itself failed is a finding too, and never passes for "all is well".
"""
from __future__ import annotations

import enum
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from ymir_exc.errors import EXIT_CONTRACT


class Severity(str, enum.Enum):
    """How bad it is: by an `ERROR` the platform refuses or loses something, a `WARNING` costs the user something, a `NOTE` is to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Rule(NamedTuple):
    """One thing that can be found.

    Attributes:
        code: A letter for what is looked at, and three digits: `T101`.
        severity: Of its findings.
        title: The rule, as a sentence that holds where nothing is found: "The best stage is one of the stages".
        why: What the platform does otherwise, in a sentence.
        remedy: What to do, in a sentence.
    """

    code: str
    severity: Severity
    title: str
    why: str
    remedy: str

    def found(self, message: str, path: str, line: Optional[int] = None, key: str = "") -> Finding:
        """A place where it is broken; the arguments are those of `Finding`."""
        return Finding(self, message, path, line, key)


class Finding(NamedTuple):
    """A rule that is broken, and where.

    Attributes:
        rule: Which.
        message: What is there, in a sentence.
        path: The file or folder.
        line: Its line, from 1; None where lines mean nothing.
        key: The key in it, such as `model_stages.epoch_1.mAP`; '' where keys mean nothing.
    """

    rule: Rule
    message: str
    path: str
    line: Optional[int] = None
    key: str = ""

    @property
    def place(self) -> str:
        """`file:line`, or `file: key`."""
        return self.path + (f":{self.line}" if self.line else "") + (f": {self.key}" if self.key else "")


RULES: Dict[str, Rule] = {}
"""Code to rule, of every check that has been imported; `check.all_rules()` imports them all."""


def rule(code: str, severity: Severity, title: str, why: str, remedy: str) -> Rule:
    """Enter a rule into the registry.

    Raises:
        ValueError: The code is taken.
    """
    if code in RULES:
        raise ValueError(f"{code} is taken by {RULES[code].title!r}")
    RULES[code] = Rule(code, severity, title, why, remedy)
    return RULES[code]


def exit_code(findings: Iterable[Finding], *, strict: bool = False) -> int:
    """0, or 4 where something is an error; with `strict` where something is a warning."""
    bad = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    return EXIT_CONTRACT if any(finding.rule.severity in bad for finding in findings) else 0


def as_json(findings: Sequence[Finding]) -> List[Dict[str, Any]]:
    """Plain values, one mapping a finding."""
    return [{"code": one.rule.code, "severity": one.rule.severity.value, "message": one.message, "path": one.path, "line": one.line,
             "key": one.key, "title": one.rule.title, "why": one.rule.why, "remedy": one.rule.remedy} for one in findings]


def as_sarif(findings: Sequence[Finding], version: str) -> Dict[str, Any]:
    """SARIF 2.1.0, which code hosts show beside the files; `version` is this package's."""
    levels = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}
    rules = sorted({one.rule for one in findings})
    place = {one.code: n for n, one in enumerate(rules)}
    results = []
    for one in findings:
        location: Dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": quote(one.path)}}}
        if one.line:
            location["physicalLocation"]["region"] = {"startLine": one.line}
        if one.key:
            location["logicalLocations"] = [{"fullyQualifiedName": one.key}]
        results.append({"ruleId": one.rule.code, "ruleIndex": place[one.rule.code], "level": levels[one.rule.severity],
                        "message": {"text": f"{one.message}. {one.rule.remedy}"}, "locations": [location]})
    driver = {"name": "ymir-exc check", "version": version, "rules": [
        {"id": one.code, "shortDescription": {"text": one.title}, "fullDescription": {"text": one.why}, "help": {"text": one.remedy},
         "defaultConfiguration": {"level": levels[one.severity]}} for one in rules]}
    return {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0",
            "runs": [{"tool": {"driver": driver}, "results": results}]}


def as_junit(findings: Sequence[Finding], checked: Sequence[Rule]) -> str:
    """JUnit's XML, as build servers read it: a case for each rule that was checked, failed where an error or a warning was found."""
    cases = []
    for one in checked:
        found = [finding for finding in findings if finding.rule == one and one.severity != Severity.NOTE]
        inner = "".join(f"<failure message={quoteattr(f'{finding.place}: {finding.message}')} type={quoteattr(one.severity.value)}/>"
                        for finding in found)
        cases.append(f"<testcase classname={quoteattr('ymir-exc.check')} name={quoteattr(f'{one.code} {one.title}')}>{inner}</testcase>")
    failed = sum("<failure" in case for case in cases)
    return ('<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<testsuite name="ymir-exc check" tests="{len(cases)}" failures="{failed}">\n' + "\n".join(cases) + "\n</testsuite>\n")
