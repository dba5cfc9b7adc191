"""Findings: the registry, and their forms on paper."""
from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from ymir_exc.errors import EXIT_CONTRACT
from ymir_exc.host import check, findings
from ymir_exc.host.check import _text
from ymir_exc.host.findings import Finding, Rule, Severity

ERROR = Rule("T901", Severity.ERROR, "A thing is right", "It breaks", "Mend it")
WARNING = Rule("T902", Severity.WARNING, "A thing is good", "It costs", "Better it")
NOTE = Rule("T903", Severity.NOTE, "A thing is nice", "It is to know", "Leave it")
FOUND = [ERROR.found("is <wrong> & \"odd\"", "a b/图.yaml", 3, "x.y"), WARNING.found("is poor", "a b/图.yaml"), NOTE.found("is so", "c")]


def test_every_rule_says_what_why_and_what_to_do():
    rules = check.all_rules()
    assert len(rules) >= 100 and list(rules) == sorted(rules)
    for code, rule in rules.items():
        assert re.fullmatch(r"[A-Z]\d{3}", code) and rule.code == code
        for text in (rule.title, rule.why, rule.remedy):
            assert text.strip() == text != "" and text.isprintable(), text
            assert not text.endswith(".") or text.endswith("..."), text
    assert len({(code[0], rule.title) for code, rule in rules.items()}) == len(rules)


def test_a_code_is_given_once(monkeypatch):
    monkeypatch.setattr(findings, "RULES", {})
    made = findings.rule("T901", *ERROR[1:])
    assert made == ERROR == findings.RULES["T901"]
    with pytest.raises(ValueError, match="taken by 'A thing is right'"):
        findings.rule("T901", *ERROR[1:])


@pytest.mark.parametrize(("place", "line", "key"), [("p:3: x", 3, "x"), ("p:3", 3, ""), ("p: x", None, "x"), ("p", None, "")])
def test_a_place(place, line, key):
    assert ERROR.found("m", "p", line, key).place == place


def test_the_exit_code():
    assert findings.exit_code([]) == findings.exit_code([FOUND[2]], strict=True) == findings.exit_code(FOUND[1:]) == 0
    assert findings.exit_code(FOUND) == findings.exit_code(FOUND[1:], strict=True) == EXIT_CONTRACT == 4


def test_sarif():
    made = findings.as_sarif([*FOUND, FOUND[0]], "1.2.3")
    run, = made["runs"]
    assert made["version"] == "2.1.0" and run["tool"]["driver"]["version"] == "1.2.3"
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["T901", "T902", "T903"]
    first = run["results"][0]
    assert (first["ruleId"], first["ruleIndex"], first["level"]) == ("T901", 0, "error")
    assert first["message"]["text"].endswith("Mend it")
    place = first["locations"][0]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "a%20b/%E5%9B%BE.yaml"
    assert place["physicalLocation"]["region"] == {"startLine": 3} and place["logicalLocations"][0]["fullyQualifiedName"] == "x.y"
    assert "region" not in run["results"][1]["locations"][0]["physicalLocation"]
    assert [result["level"] for result in run["results"]] == ["error", "warning", "note", "error"]


def test_junit():
    root = ET.fromstring(findings.as_junit(FOUND, [ERROR, WARNING, NOTE]).encode("utf-8"))
    assert (root.get("tests"), root.get("failures")) == ("3", "2")
    cases = {case.get("name").split()[0]: case.findall("failure") for case in root}
    assert {code: len(failures) for code, failures in cases.items()} == {"T901": 1, "T902": 1, "T903": 0}
    assert cases["T901"][0].get("message") == "a b/图.yaml:3: x.y: is <wrong> & \"odd\""


def test_what_no_terminal_and_no_xml_can_hold():
    found = _text.gather([ERROR.found("a \x1b[31m \x00 \ud800 图", "p\udcff", key="k\n")])
    one, = found.findings
    assert one == Finding(ERROR, r"a \x1b[31m \x00 \ud800 图", r"p\udcff", None, r"k\n")
    ET.fromstring(findings.as_junit(found.findings, [ERROR]).encode("utf-8"))
    _text.as_text(found, {}).encode("utf-8")


def test_ten_thousand_alike_do_not_flood():
    found = _text.gather([*(ERROR.found(f"number {n}", "f", n) for n in range(1, 10_001)), FOUND[1]])
    assert len(found.findings) == _text.KEPT + 1 and found.total(Severity.ERROR) == 10_000
    text = _text.as_text(found, {"images": 12_000, "boxes": 1})
    assert text.count("error T901") == _text.SHOWN == 20
    assert "\n  and 9,980 more\n  A thing is right. It breaks.\n  -> Mend it.\n" in text and text.count("Mend it") == 1
    assert text.splitlines()[-1] == "10,000 errors, 1 warning in 12,000 images, 1 box"
    assert _text.as_document(found, {}, findings.as_json(found.findings))["left_out"] == 9000


def test_few_are_shown_all():
    found = _text.gather(ERROR.found(f"number {n}", "f", n) for n in range(20))
    assert " more" not in _text.as_text(found, {})


def test_a_block_has_place_severity_code_message_and_remedy():
    text = _text.as_text(_text.gather(FOUND[:1]), {})
    assert text == 'a b/图.yaml:3: x.y\n  error T901: is <wrong> & "odd"\n  A thing is right. It breaks.\n  -> Mend it.\n\n1 error'
    assert "\033[31;1merror\033[0m" in _text.as_text(_text.gather(FOUND[:1]), {}, colour=True)


def test_nothing_found():
    assert _text.as_text(_text.gather([]), {"stages": 2, "images": 0}) == "nothing found: 2 stages"
    assert _text.as_text(_text.gather([]), {}) == "nothing found"


def test_the_page_of_all_rules():
    page = check.describe_rules()
    rows = re.findall(r"^\| ([A-Z]\d{3}) \| (error|warning|note) \| .+ \| .+ \| .+ \|$", page, re.MULTILINE)
    assert dict(rows) == {code: rule.severity.value for code, rule in check.all_rules().items()}
    assert all(line.replace("\\|", "").count("|") == 6 for line in page.splitlines() if line.startswith("|"))
    assert page.count("## ") == len({code[0] for code in check.all_rules()})


def test_rules_of_a_kind():
    letters = {kind: {rule.code[0] for rule in check.rules_of([kind])} for kind in check.KINDS}
    assert letters["out"] == set("XTRDSM") and letters["img-man"] == {"X", "N"}
    assert set().union(*letters.values()) | {"B"} == {code[0] for code in check.all_rules()}    # of images: `build` looks at them
