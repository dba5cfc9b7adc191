"""What `ymir-exc check` finds in what was /opt/ml."""
from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from ymir_exc.host import check

STAGES = {"best_stage_name": "a", "model_stages": {"a": {"stage_name": "a", "files": ["w.pt"], "timestamp": 1, "mAP": 0.5}}}
BOX = {"class_name": "cat", "score": 0.5, "box": {"x": 1, "y": 2, "w": 3, "h": 4}}


class Tree:
    """An /opt/ml."""

    def __init__(self, root):
        self.root = root

    def write(self, name, value):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return self

    def trained(self):
        self.write("model/result.yaml", yaml.safe_dump(STAGES)).write("model/a/w.pt", "weights").write("output/success", "success\n")
        return self.write("output/data/monitor.txt", "t1\t1.0\t1.0\t2\t0\n")

    def job(self, **values):
        return self.write("input/config/hyperparameters.json", {key: json.dumps(value) for key, value in values.items()})

    def mined(self):
        """Mining and inference over two images."""
        self.job(ymir_task="mining+infer", ti_job_name="t1").write("output/data/monitor.txt", "t1\t1.0\t1.0\t2\t0\n")
        self.write("input/data/candidate/candidate-index.tsv", "assets/a 图.jpg\nassets/b.jpg\n")
        self.write("input/data/candidate/classes.txt", "cat\n")
        for name in ("a 图.jpg", "b.jpg"):
            self.write(f"input/data/candidate/assets/{name}", "")
        place = "/opt/ml/input/data/candidate/assets"
        self.write("output/data/result.tsv", f"{place}/a 图.jpg\t0.9\n{place}/b.jpg\t0.1\n")
        return self.write("output/data/infer-result.json", {"detection": {"a 图.jpg": {"boxes": [BOX]}, "b.jpg": {"boxes": []}}})

    def codes(self, **options):
        return [one.rule.code for one in check.check(self.root, **options)]


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "a job 任务")


@pytest.mark.parametrize("make", [
    lambda tree: tree.trained(), lambda tree: tree.trained().job(ti_job_name="t1"), lambda tree: tree.mined()])
def test_nothing_is_found_in_a_clean_tree(tree, make):
    make(tree)
    (tree.root / "output/data/monitor.txt").chmod(0o644)    # as a container's root leaves it
    assert check.kinds_at(tree.root) == ["ti"]
    assert list(check.check(tree.root)) == []


def test_findings_name_the_real_places(tree):
    tree.trained()
    (tree.root / "model/a/w.pt").unlink()
    tree.write("output/data/result.tsv", "a.jpg\n")
    found = list(check.check(tree.root))
    assert {one.path for one in found} == {str(tree.root / "model/result.yaml"), str(tree.root / "output/data/result.tsv")}
    assert found[0].rule.code == "T114"


def test_the_task_s_own_classes_and_candidates(tree):
    tree.mined()
    tree.write("output/data/result.tsv", "/opt/ml/input/data/candidate/assets/a 图.jpg\t0.9\n/elsewhere/b.jpg\t0.1\n")
    detection = {"a 图.jpg": {"boxes": [{**BOX, "class_name": "dog"}]}, "b.jpg": {"boxes": []}}
    tree.write("output/data/infer-result.json", {"detection": detection})
    tree.write("output/data/monitor.txt", "another\t1.0\t1.0\t2\t0\n")
    found = list(check.check(tree.root))
    assert any("/elsewhere/b.jpg" in one.message for one in found)
    assert any("dog" in one.message for one in found)
    assert any("'t1'" in one.message for one in found)


def test_results_that_the_task_owes(tree):
    tree.mined()
    (tree.root / "output/data/result.tsv").unlink()
    assert [one.path for one in check.check(tree.root)] == [str(tree.root / "output/data/result.tsv")]
    tree.write("output/failure", "300002 DATASET_ERROR: no image\n")
    assert tree.codes() == []    # it says that it failed


def test_a_model_without_result_yaml_is_noted_and_none_is_an_error(tree):
    tree.write("output/success", "").write("model/model.pkl", "x")
    assert tree.codes() == ["O102"]
    tree.write("model/model.pkl", "")
    assert tree.codes() == ["O101"]
    tree.write("output/failure", "out of memory\n")
    (tree.root / "output/success").unlink()
    assert tree.codes() == []


@pytest.mark.parametrize("failure,codes", [
    ("", ["O103"]), ("x" * 1025, ["O103"]), (b"\xff\xfe why", ["O103"]), ("300103 OOM: why\n", [])])
def test_the_failure_file(tree, failure, codes):
    tree.write("model/x", "x").write("output/failure", "x")
    (tree.root / "output/failure").write_bytes(failure if isinstance(failure, bytes) else failure.encode())
    assert tree.codes() == codes


def test_success_and_failure(tree):
    assert tree.trained().write("output/failure", "why\n").codes() == ["O104"]


@pytest.mark.parametrize("text", ["{", '{"ymir_task": "fly"}', '{"ti_job_name": 7}'])
def test_a_description_that_cannot_be_read(tree, text):
    found = [one for one in check.check(tree.trained().write("input/config/hyperparameters.json", text).root) if one.rule.code == "O105"]
    assert len(found) == 1 and "hyperparameters.json" in found[0].message + found[0].path


def test_what_is_no_such_tree(tree):
    tree.write("model/x", "x").write("output/x", "x")
    with pytest.raises(check.NothingToCheckError, match="as in /opt/ml"):
        check.kinds_at(tree.root)
    assert tree.codes(kind="ti") == ["O102"]


def test_a_folder_that_holds_the_tree(tmp_path):
    Tree(tmp_path / "job" / "opt-ml").trained()
    assert check.kinds_at(tmp_path / "job") == ["ti"] == check.kinds_at(tmp_path / "job", "ti")


def test_a_killed_writer_and_a_torn_event_file(tree):
    tree.trained().write("model/.ymir-tmp-1", "x").write("output/checkpoints/tensorboard/events.out.tfevents.1", "torn")
    assert sorted(tree.codes()) == ["M523", "X007"]


def test_the_command(tree):
    argv = [sys.executable, "-m", "ymir_exc", "check", str(tree.write("output/success", "").write("model/empty", "").root)]
    done = subprocess.run([*argv, "--format", "junit"], capture_output=True, text=True, encoding="utf-8",
                          env={**os.environ, "PYTHONUTF8": "1"})
    assert done.returncode == 4
    assert "O101 A training leaves something in model/" in done.stdout
