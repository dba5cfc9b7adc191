"""What an image tells the platform is judged: each rule finds what breaks it and nothing else."""
from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.host.input_cases import TEMPLATE_CASES
from ymir_exc.host.check._templates import check_templates

DEMO = Path(__file__).resolve().parents[2] / "det-demo-tmi" / "img-man"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "img-man 模板"
    shutil.copytree(DEMO, path)
    return path


def codes(path):
    return sorted({finding.rule.code for finding in check_templates(path)})


def test_nothing_is_found_in_the_demo():
    assert list(check_templates(DEMO)) == []


@pytest.mark.parametrize("code", sorted(TEMPLATE_CASES))
def test_a_rule_finds_what_breaks_it_and_nothing_else(code, folder):
    TEMPLATE_CASES[code](folder)
    assert codes(folder) == [code]


def test_a_folder_for_each_object_type(folder):
    (folder / "manifest.yaml").write_text("object_type: [2, 3]\n", encoding="utf-8")
    for name in ("det", "semantic-seg"):
        (folder / name).mkdir()
        shutil.copy(folder / "training-template.yaml", folder / name)
    for path in folder.glob("*-template.yaml"):
        path.unlink()
    assert codes(folder) == []
    (folder / "det" / "training-template.yaml").write_text("a: 1\n", encoding="utf-8")
    assert codes(folder) == ["N521"]


def test_zero_is_a_fine_default_for_a_training_alone(folder):
    for name in ("training", "infer"):
        path = folder / f"{name}-template.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text(encoding="utf-8")), "seed": 0}), encoding="utf-8")
    finding, = check_templates(folder)
    assert (finding.rule.code, finding.key, Path(finding.path).name) == ("N518", "seed", "infer-template.yaml")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"a", b"\xff", b"object_type: []", b"object_type: [[2]]", b"object_type: {a: 1}",
                                     b"object_type: true", b"object_type: [2, true]", b"a: b: c", b"object_type: .nan"])
def test_a_manifest_that_is_none(content, folder):
    (folder / "manifest.yaml").write_bytes(content)
    assert {"N502", "N504", "N506"} & set(codes(folder))


@pytest.mark.parametrize(("name", "code"), [("manifest.yaml", "N502"), ("mining-template.yaml", "N510")])
def test_a_pipe_is_not_waited_for(name, code, folder):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert codes(folder) == [code]


def test_a_folder_that_is_not_there(tmp_path):
    assert codes(tmp_path / "missing") == ["N501", "N503"]
