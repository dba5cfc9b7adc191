"""What lands on disk, and what never may."""
from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import yaml

from ymir_exc import result_writer as rw
from ymir_exc.errors import ResultError, StorageError
from ymir_exc.result_writer import Annotation, Box


def test_one_stage_to_the_byte(platform):
    platform.model("epoch_1/best.pt")
    rw.write_model_stage(stage_name="epoch_1", files=["best.pt"], evaluation_result={"mAP": 0.5, "mAR": 0.25}, timestamp=1700000000)
    assert (platform.out / "models/result.yaml").read_text() == (
        "best_stage_name: epoch_1\n"
        "mAP: 0.5\n"
        "model_stages:\n"
        "  epoch_1:\n"
        "    files:\n"
        "    - best.pt\n"
        "    mAP: 0.5\n"
        "    mAR: 0.25\n"
        "    stage_name: epoch_1\n"
        "    timestamp: 1700000000\n")


def test_eleven_stages_the_best_and_the_ten_latest(platform):
    platform.model("a.pt")
    for n in range(15):    # within the same second
        rw.write_model_stage(f"epoch_{n}", ["a.pt"], {"mAP": 0.9 if n == 2 else 0.1 + n / 100}, timestamp=1700000000)
    result = platform.result()
    assert result["best_stage_name"] == "epoch_2"
    assert result["mAP"] == 0.9
    assert list(result["model_stages"]) == ["epoch_2", *(f"epoch_{n}" for n in range(5, 15))]


def test_of_equals_the_later_is_best_and_a_stage_can_be_written_again(platform):
    platform.model("a.pt")
    for name, value in (("a", 0.5), ("b", 0.5), ("c", 0.1)):
        rw.write_model_stage(name, ["a.pt"], {"mAP": value}, timestamp=1700000000)
    assert platform.result()["best_stage_name"] == "b"
    rw.write_model_stage("a", ["a.pt"], {"mAP": 0.5}, timestamp=1700000000)
    assert platform.result()["best_stage_name"] == "a"
    rw.write_model_stage("a", ["a.pt"], {"mAP": 0.0}, timestamp=1700000001)
    assert platform.result()["best_stage_name"] == "b"
    assert len(platform.result()["model_stages"]) == 3


@pytest.mark.parametrize("value", [np.float32(0.5), np.array([0.5]), np.array(0.5), "0.5", np.float64(0.5)])
def test_metrics_of_any_make_become_builtin_numbers(platform, value):
    platform.model("a.pt")
    rw.write_model_stage("s", ["a.pt"], {"mAP": value, "TP": np.int64(3), "fn": 4.0, "per_class": {"cat": np.float32(0.25)},
                                         "curve": np.arange(3), "note": None})
    stage = platform.result()["model_stages"]["s"]
    assert stage["mAP"] == 0.5
    assert (stage["tp"], stage["fn"], stage["per_class"], stage["curve"], stage["note"]) == (3, 4, {"cat": 0.25}, [0, 1, 2], None)


def test_minus_one_of_coco_is_zero(platform, caplog):
    platform.model("a.pt")
    rw.write_model_stage("s", ["a.pt"], {"mAP": -1.0})
    assert platform.result()["mAP"] == 0.0
    assert "found nothing to evaluate" in caplog.text


@pytest.mark.parametrize(("change", "words"), [
    ({"evaluation_result": {"mAP": float("nan")}}, "stage s: mAP is nan"),
    ({"evaluation_result": {"mAP": 50.0}}, "stage s: mAP is 50.0"),
    ({"evaluation_result": {"mAP": 0.5, "mIoU": -0.5}}, "stage s: mIoU is -0.5"),
    ({"evaluation_result": {"mAP": "high"}}, "stage s: mAP is 'high'"),
    ({"evaluation_result": {"mAP": 0.5, "tp": -1}}, "stage s: tp is -1"),
    ({"evaluation_result": {"mAP": 0.5, "tp": 1.5}}, "stage s: tp is 1.5"),
    ({"evaluation_result": {"precision": 0.5}}, "none of maskAP, mIoU, mAP"),
    ({"evaluation_result": {"mAP": 0.5, "files": []}}, "must not hold 'files'"),
    ({"evaluation_result": {}}, "no metric is given"),
    ({"stage_name": "1st"}, "'1st' cannot name a model stage"),
    ({"stage_name": ""}, "cannot name a model stage"),
    ({"stage_name": "attachments"}, "cannot name a model stage"),
    ({"stage_name": "a/../../b"}, "cannot name a model stage"),
    ({"files": []}, "no model files"),
    ({"files": "a.pt"}, "must be a list"),
    ({"files": ["../../etc/passwd"]}, "not inside"),
    ({"files": ["/etc/passwd"]}, "not inside"),
    ({"files": [""]}, "not inside"),
    ({"timestamp": 1700000000000}, "not in seconds"),
    ({"evaluate_config": {"iou_thr": None}}, "iou_thr is None"),
    ({"attachments": {"section": "name"}}, "must be a list of file names"),
    ({"attachments": {"s": ["../../../etc/passwd"]}}, "attachments: s: the file '../../../etc/passwd' is not inside"),
    ({"attachments": {"s": ["/etc/passwd"]}}, "attachments: s: the file '/etc/passwd' is not inside"),
    ({"attachments": {"../x": ["a"]}}, "cannot be the name of a folder"),
    ({"attachments": {"": ["a"]}}, "cannot be the name of a folder"),
])
def test_what_the_platform_would_refuse_costs_nothing(platform, change, words):
    platform.model("a.pt")
    rw.write_model_stage("earlier", ["a.pt"], {"mAP": 0.5})
    before = (platform.out / "models/result.yaml").read_bytes()
    arguments = {"stage_name": "s", "files": ["a.pt"], "evaluation_result": {"mAP": 0.9}, **change}
    with pytest.raises(ResultError, match=words):
        rw.write_model_stage(**arguments)
    assert (platform.out / "models/result.yaml").read_bytes() == before


def test_a_hyphen_becomes_an_underscore_and_an_absolute_file_relative(platform, caplog):
    platform.model("epoch_10/a.pt")
    platform.model("root.pt")
    models = platform.out / "models"
    rw.write_model_stage("epoch-10", [str(models / "epoch_10/a.pt"), str(models / "root.pt")], {"mAP": 0.5})
    assert platform.result()["model_stages"]["epoch_10"]["files"] == ["a.pt", "root.pt"]
    assert "'epoch-10' is named 'epoch_10'" in caplog.text


def test_a_file_that_is_not_there_yet_is_said(platform, caplog):
    rw.write_model_stage("s", ["late.pt"], {"mAP": 0.5})
    assert "late.pt" in caplog.text
    assert platform.result()["model_stages"]["s"]["files"] == ["late.pt"]


def test_attachments_and_evaluate_config_are_merged(platform):
    platform.model("a.pt")
    rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5}, attachments={"figures": ["a.png"]}, evaluate_config={"iou_thr": np.float32(0.5)})
    rw.write_model_stage("t", ["a.pt"], {"mAP": 0.6}, attachments={"figures": ["b.png", "a.png"], "tables": ["c.csv"]})
    result = platform.result()
    assert result["attachments"] == {"figures": ["a.png", "b.png"], "tables": ["c.csv"]}
    assert result["evaluate_config"] == {"iou_thr": 0.5}


def test_attachments_are_names_in_the_folder_of_their_section(platform, caplog):
    platform.model("a.pt")
    platform.model("attachments/s/here.png")
    rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5}, attachments={
        "s": ["here.png", str(platform.out / "models/attachments/s/sub/gone.png")]})
    assert platform.result()["attachments"] == {"s": ["here.png", "sub/gone.png"]}
    assert "attachments: s: sub/gone.png is not in" in caplog.text
    assert "here.png is not in" not in caplog.text


@pytest.mark.parametrize("odd", ["attachments:", "attachments: {s: x, t: null}", "attachments: [s]"])
def test_attachments_of_an_odd_result(platform, odd):
    platform.model("a.pt")
    (platform.out / "models/result.yaml").write_text(f"{odd}\nmodel_stages: {{}}\n")
    for name in ("a.png", "b.png"):
        rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5}, attachments={"s": [name, name]})
    assert platform.result()["attachments"] == {"s": ["a.png", "b.png"]}


def test_each_unreadable_result_is_kept(platform):
    platform.model("a.pt")
    for text in ("{one", "{two", "{three"):
        (platform.out / "models/result.yaml").write_text(text)
        rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5})
    assert [(platform.out / f"models/result.yaml.unreadable{end}").read_text() for end in ("", ".1", ".2")] == ["{one", "{two", "{three"]


@pytest.mark.parametrize("rest", [
    (None, {"sec": ["a.png"]}), (None, {"sec": ["a.png"]}, {"iou_thr": 0.5}), (None, None, {"iou_thr": 0.5}),
    (np.int64(1700000000),), (np.int64(1700000000), {"sec": ["a.png"]}), (np.float64(1.7e9), None, {"iou_thr": 0.5}),
    (None, None, None, {"iou_thr": 0.5}), (None, None, {"sec": ["a.png"]}), (None, np.int64(1700000000), {"sec": ["a.png"]}),
    (0.9, 1700000000), (np.float32(0.9), None, {"sec": ["a.png"]}, {"iou_thr": 0.5}),
])
def test_positional_orders_with_and_without_map(platform, rest):
    platform.model("a.pt")
    rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5}, *rest)
    result = platform.result()
    assert result["mAP"] == 0.5
    assert (result["model_stages"]["s"]["timestamp"] == 1700000000) is any(type(value) is not dict and (value or 0) > 1 for value in rest)
    assert result.get("attachments") == ({"sec": ["a.png"]} if {"sec": ["a.png"]} in rest else None)
    assert result.get("evaluate_config") == ({"iou_thr": 0.5} if {"iou_thr": 0.5} in rest else None)


def test_an_unreadable_result_is_kept_aside(platform, caplog):
    platform.model("a.pt")
    (platform.out / "models/result.yaml").write_text("{unclosed")
    rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5})
    assert platform.result()["best_stage_name"] == "s"
    assert (platform.out / "models/result.yaml.unreadable").read_text() == "{unclosed"
    assert "begun anew" in caplog.text


def test_an_empty_result_of_an_older_crash_is_begun_anew(platform):
    platform.model("a.pt")
    (platform.out / "models/result.yaml").write_text("")
    rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5})
    assert platform.result()["best_stage_name"] == "s"


def test_segmentation_metrics_choose_the_best(platform):
    platform.model("a.pt")
    rw.write_model_stage("a", ["a.pt"], {"mIoU": 0.9, "mAP": 0.1})
    rw.write_model_stage("b", ["a.pt"], {"mIoU": 0.5, "mAP": 0.9})
    result = platform.result()
    assert (result["best_stage_name"], result["mIoU"]) == ("a", 0.9)


@pytest.mark.parametrize(("protocol", "ymir_version", "stages"), [
    ("1.1.0", None, True), ("2.0.0", None, True), ("0.0.1", None, False), ("", None, False), ("1.0", None, True),
    ("0.0.1", "1.2.0", True), ("0.0.1", "1.1.0", False), ("0.0.1", "1.3.0-rc1", True), ("odd", "odd", False),
])
def test_old_platforms_get_the_flat_file(platform, monkeypatch, protocol, ymir_version, stages):
    platform.env["protocol_version"] = protocol
    platform.write()
    if ymir_version:
        monkeypatch.setenv("YMIR_VERSION", ymir_version)
    assert rw.multiple_model_stages_supportable() is stages
    platform.model("a.pt")
    rw.write_model_stage("s", ["a.pt", "a.pt"], {"mAP": 0.5})
    assert ("model_stages" in platform.result()) is stages
    if not stages:
        assert platform.result()["model"] == ["a.pt"]
        assert platform.result()["map"] == 0.5


def test_older_call_shapes(platform):
    platform.model("a.pt")
    rw.write_model_stage("positional", ["a.pt"], 0.5)
    with pytest.warns(DeprecationWarning, match="evaluation_result"):
        rw.write_model_stage(stage_name="keyword", files=["a.pt"], mAP=0)
    rw.write_training_result(stage_name="alias", files=["a.pt"], evaluation_result={"mAP": 0.7})
    with pytest.warns(DeprecationWarning, match="write_model_stage"):
        rw.write_training_result(model_names=["a.pt"], mAP=0.8, classAPs={}, precision=0.5)
    stages = platform.result()["model_stages"]
    assert {name: stage["mAP"] for name, stage in stages.items()} == {
        "positional": 0.5, "keyword": 0.0, "alias": 0.7, "default_best_stage": 0.8}
    assert stages["default_best_stage"]["precision"] == 0.5
    with pytest.raises(TypeError):
        rw.write_training_result("alias")
    with pytest.raises(TypeError, match="unexpected arguments precision"):
        rw.write_training_result("alias", ["a.pt"], {"mAP": 0.7}, precision=0.5)


@pytest.mark.parametrize("call", [
    lambda: rw.write_model_stage("s", ["a.pt"], mAP=0.5),
    lambda: rw.write_training_result("s", ["a.pt"], mAP=0.5),
    lambda: rw.write_training_result(["a.pt"], 0.5, {}),
])
def test_a_deprecation_points_at_the_line_that_made_the_call(platform, call):
    platform.model("a.pt")
    with pytest.warns(DeprecationWarning) as caught:
        call()
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, call.__code__.co_firstlineno)]


def test_processes_lose_no_stage(platform):
    platform.model("a.pt")
    program = ("import sys; from ymir_exc import result_writer as rw\n"
               "for n in range(3): rw.write_model_stage(f'p{sys.argv[1]}_{n}', ['a.pt'], {'mAP': 0.5})")
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file)}
    running = [subprocess.Popen([sys.executable, "-c", program, str(n)], env=environ) for n in range(3)]
    assert [p.wait() for p in running] == [0, 0, 0]
    assert len(platform.result()["model_stages"]) == 9


def test_only_rank_0_writes(platform, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    rw.write_model_stage("s", ["nothing"], {"mAP": 77})
    rw.write_mining_result([("/a.jpg", 1.0)])
    rw.write_infer_result({})
    assert sorted(os.listdir(platform.out)) == ["models", "tensorboard"]
    assert os.listdir(platform.out / "models") == []


def test_a_folder_that_vanished_is_made_again_and_one_in_the_way_is_named(platform):
    (platform.out / "models").rmdir()
    rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5})
    assert platform.result()["best_stage_name"] == "s"
    (platform.out / "models" / "result.yaml").unlink()
    (platform.out / "models" / "result.yaml").mkdir()
    with pytest.raises(StorageError, match=r"result\.yaml: Is a directory"):
        rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5})
    (platform.out / "result.tsv").mkdir()
    with pytest.raises(StorageError, match=r"result\.tsv"):
        rw.write_mining_result([("/a.jpg", 1.0)])


# ------------------------------------------------------------------------------------------------------------------------ mining

def test_the_ranking_is_sorted_and_stable(platform):
    rw.write_mining_result(mining_result=[("/a.jpg", 0.25), ("/b 图.jpg", np.float32(0.3)), ("/c.jpg", 1), ("/d.jpg", 0.25)])
    assert (platform.out / "result.tsv").read_text(encoding="utf-8") == (
        "/c.jpg\t1\n/b 图.jpg\t0.30000001192092896\n/a.jpg\t0.25\n/d.jpg\t0.25\n")


@pytest.mark.parametrize("row", [("/b.jpg", float("nan")), ("/b.jpg", float("inf")), ("/b.jpg", None), ("/b\t.jpg", 0.5), ("/b\n.jpg", 1)])
def test_a_bad_row_costs_nothing(platform, row):
    rw.write_mining_result([("/earlier.jpg", 1.0)])
    with pytest.raises(ResultError, match=r"b"):
        rw.write_mining_result([("/a.jpg", 0.5), row])
    assert (platform.out / "result.tsv").read_text() == "/earlier.jpg\t1.0\n"


# --------------------------------------------------------------------------------------------------------------------- inference

def box(x=1, y=2, w=3, h=4):
    return Box(x=x, y=y, w=w, h=h)


def test_detections_to_the_byte(platform):
    rw.write_infer_result(infer_result={"/in/assets/a.jpg": [Annotation(class_name="猫", score=0.5, box=box())], "b.jpg": []})
    assert (platform.out / "infer-result.json").read_text() == (
        '{"detection": {"a.jpg": {"boxes": [{"class_name": "\\u732b", "score": 0.5, "box": {"x": 1, "y": 2, "w": 3, "h": 4}}]}, '
        '"b.jpg": {"boxes": []}}}')


@pytest.mark.parametrize(("protocol", "key"), [("1.1.0", "boxes"), ("1.0.0", "boxes"), ("0.0.1", "annotations"), ("", "annotations")])
def test_the_key_follows_the_protocol(platform, protocol, key):
    platform.env["protocol_version"] = protocol
    platform.write()
    rw.write_infer_result({"a.jpg": []})
    assert json.loads((platform.out / "infer-result.json").read_text()) == {"detection": {"a.jpg": {key: []}}}


def test_a_bad_score_costs_nothing(platform):
    rw.write_infer_result({"a.jpg": []})
    with pytest.raises(ResultError, match=r"b\.jpg: a detection of 'cat' has the score nan"):
        rw.write_infer_result({"b.jpg": [Annotation(class_name="cat", score=float("nan"), box=box())]})
    with pytest.raises(ResultError, match="JSON"):
        rw.write_infer_result({"images": [], "categories": [], "annotations": [], "x": float("inf")}, algorithm="segmentation")
    assert "a.jpg" in (platform.out / "infer-result.json").read_text()


def test_doubled_names_are_said(platform, caplog):
    rw.write_infer_result({"/a/1.jpg": [], "/b/1.jpg": []})
    assert "two images are called 1.jpg" in caplog.text


def test_segmentation_takes_numpy(platform):
    rw.write_infer_result({"images": [], "annotations": [], "categories": [{"id": np.int64(3), "name": "cat"}]}, algorithm="segmentation")
    assert json.loads((platform.out / "infer-result.json").read_text())["categories"] == [{"id": 3, "name": "cat"}]


def test_unknown_algorithms(platform):
    with pytest.raises(AssertionError, match="tracking"):
        rw.write_infer_result({}, algorithm="tracking")
    with pytest.raises(ResultError, match="classification"):
        rw.write_infer_result({}, algorithm="classification")


@pytest.mark.parametrize(("given", "pixels"), [(10.7, 10), (-3.2, -3), ("5", 5), (np.float32(9.9), 9), (np.int16(4), 4), (True, 1)])
def test_pixels_are_cut_towards_zero(given, pixels):
    assert box(x=given).x == pixels
    assert type(box(x=given).x) is int


@pytest.mark.parametrize("given", ["5.5", None, float("nan"), float("inf"), "x", [1, 2]])
def test_what_is_no_pixel(given):
    with pytest.raises(ValueError, match="x"):
        box(x=given)


class Tensor:
    """Has what a tensor of one element has."""

    def __float__(self):
        return 0.25


@pytest.mark.parametrize("score", [0.25, np.float32(0.25), np.array(0.25), np.array([0.25]), Tensor(), "0.25"])
def test_scores_of_any_make(score):
    made = Annotation(class_name=3, score=score, box={"x": 1, "y": 2, "w": 3, "h": 4}, rotate_angle=0.1)
    assert made.dict() == {"class_name": "3", "score": 0.25, "box": {"x": 1, "y": 2, "w": 3, "h": 4}}
    assert type(made.score) is float


def test_annotations_travel_between_ranks():
    made = Annotation(class_name="cat", score=0.5, box=box())
    assert (Annotation.__module__, Box.__module__) == ("ymir_exc.result_writer", "ymir_exc.result_writer")
    assert pickle.loads(pickle.dumps(made)) == made
    done = subprocess.run([sys.executable, "-c", "import pickle, sys; print(pickle.load(sys.stdin.buffer).box.w)"],
                          input=pickle.dumps(made), capture_output=True, check=True)
    assert done.stdout == b"3\n"
    with pytest.raises(TypeError):
        hash(made)
    with pytest.raises(ValueError, match="score"):
        Annotation(class_name="cat", box=box())


def test_everything_written_is_safe_yaml(platform):
    platform.model("模 型.pt")
    rw.write_model_stage("s", ["模 型.pt"], {"mAP": 0.5})
    text = (platform.out / "models/result.yaml").read_text()
    assert text.isascii(), "older readers open it in the locale's encoding"
    assert yaml.safe_load(text)["model_stages"]["s"]["files"] == ["模 型.pt"]


class Foreign:
    """A class of somebody else, with a `dict` of its own."""

    def __init__(self, **box):
        self.made = {"class_name": "cat", "score": np.float32(0.5), "box": {"x": 1, "y": 2, "w": 3, "h": 4, **box}}

    def dict(self):
        return self.made


def test_boxes_of_another_class(platform):
    rw.write_infer_result({"a.jpg": [Foreign(x=np.float32(1.9), rotate_angle=0.25), Annotation(class_name="dog", score=1, box=box())]})
    found = json.loads((platform.out / "infer-result.json").read_text())["detection"]["a.jpg"]["boxes"]
    assert found[0]["box"] == {"x": 1, "y": 2, "w": 3, "h": 4, "rotate_angle": 0.25}
    assert found[1]["class_name"] == "dog"


@pytest.mark.parametrize(("item", "words"), [
    (Foreign(colour=1), "colour"),
    (Foreign(x=None), "x of the box"),
    (Foreign(x=2 ** 31), "2147483648"),
    (Foreign(rotate_angle=float("nan")), "rotate_angle"),
    (Annotation(class_name="cat", score=0.5, box=Box(x=2 ** 31, y=0, w=1, h=1)), "2147483648"),
    (Annotation(class_name=" ", score=0.5, box=box()), "class name ' '"),
    ({"class_name": "cat", "score": 0.5}, "needs class_name, score and box"),
])
def test_boxes_that_would_fail_the_whole_task(platform, item, words):
    rw.write_infer_result({"earlier.jpg": []})
    with pytest.raises(ResultError, match=words) as caught:
        rw.write_infer_result({"/in/bad.jpg": [item]})
    assert str(caught.value).startswith("bad.jpg: ")
    assert "earlier.jpg" in (platform.out / "infer-result.json").read_text()


def test_what_was_assigned_is_written_as_a_number(platform):
    made = Annotation(class_name="cat", score=0.5, box=box())
    made.score, made.box.x, made.box.y = np.float32(0.25), True, np.int64(7)
    rw.write_infer_result({"a.jpg": [made]})
    found = json.loads((platform.out / "infer-result.json").read_text())["detection"]["a.jpg"]["boxes"][0]
    assert found == {"class_name": "cat", "score": 0.25, "box": {"x": 1, "y": 7, "w": 3, "h": 4}}


class TiltedBox(Box):
    rotate_angle: float = 0.0


class Noted(Annotation):
    note: str = ""


def test_boxes_from_a_generator(platform):
    made = Annotation(class_name="cat", score=0.5, box=box())
    rw.write_infer_result({"a.jpg": (made for _ in range(2)), "b.jpg": map(Annotation.copy, [made]),
                           "c.jpg": (Foreign(x=n) for n in range(3))})
    found = json.loads((platform.out / "infer-result.json").read_text())["detection"]
    assert [len(found[name]["boxes"]) for name in ("a.jpg", "b.jpg", "c.jpg")] == [2, 1, 3]
    assert found["a.jpg"]["boxes"][1] == found["b.jpg"]["boxes"][0] == made.dict()


def test_fields_of_subclasses_are_written(platform):
    tilted = Annotation(class_name="cat", score=0.5, box=TiltedBox(x=1, y=2, w=3, h=4, rotate_angle=0.3))
    noted = Noted(class_name="cat", score=0.5, box=TiltedBox(x=1, y=2, w=3, h=4, rotate_angle=0.3), note="far")
    rw.write_infer_result({"a.jpg": [Annotation(class_name="cat", score=0.5, box=box()), tilted, noted]})
    plain, *found = json.loads((platform.out / "infer-result.json").read_text())["detection"]["a.jpg"]["boxes"]
    assert "rotate_angle" not in plain["box"]
    assert [item["box"]["rotate_angle"] for item in found] == [0.3, 0.3]
    assert [item.get("note") for item in found] == [None, "far"]


def test_unknown_classes_are_written_and_said_once(platform, caplog):
    def written(*names):
        caplog.clear()
        made = [Annotation(class_name=name, score=0.5, box=box()) for name in names]
        rw.write_infer_result({"a.jpg": made, "b.jpg": made, "c.jpg": [*made, Foreign(rotate_angle=0.5)]})
        found = json.loads((platform.out / "infer-result.json").read_text())["detection"]
        assert [item["class_name"] for item in found["b.jpg"]["boxes"]] == list(names)
        return [record.getMessage() for record in caplog.records]

    said = written("zebra", "cat", "zebra", "Dog ")    # the platform compares without case and blanks
    assert len(said) == 1 and "'zebra' is not among the class_names" in said[0]
    platform.config["class_names"] = ["dog"]
    platform.write()
    assert len(written("dog")) == 1, "the cat of another class"
    del platform.config["class_names"]
    platform.write()
    assert written("zebra") == []
    (platform.input / "config.yaml").unlink()
    assert written("zebra") == []


def coco(image=None, category=None, **item):
    return {"images": [{"id": 1, "file_name": "1.jpg", "width": 4, "height": 3, **(image or {})}],
            "categories": [{"id": 0, "name": "cat", **(category or {})}],
            "annotations": [{"image_id": 1, "category_id": 0, "bbox": [0, 0, 2, 2], "area": 4, **item}]}


RING = [0, 0, 2, 0, 2, 2, 0, 2]


@pytest.mark.parametrize(("given", "words"), [
    (coco(area="x"), "1.jpg: annotations.0.: area is 'x'"),
    (coco(area=float("nan")), "1.jpg: .*area is nan"),
    (coco(area=2 ** 40), "1.jpg: .*area is 1099511627776"),
    (coco(segmentation=[5]), "1.jpg: .*segmentation is .5.: "),
    (coco(segmentation=[["a", "b"]]), "1.jpg: .*segmentation .*'a' is not a number"),
    (coco(segmentation=[[1, 2, 3]]), "1.jpg: .*segmentation .*three points"),
    (coco(segmentation=[[*RING[:7], float("inf")]]), "1.jpg: .*segmentation .*inf is not a number"),
    (coco(segmentation="text"), "1.jpg: .*segmentation "),
    (coco(segmentation={"counts": "\x01garb~~"}), "1.jpg: .*segmentation .*not compressed text"),
    (coco(segmentation={"size": [3, 4], "counts": "\x01garb~~"}), "1.jpg: .*segmentation .*not compressed text"),
    (coco(segmentation={"counts": ""}), "1.jpg: .*segmentation .*empty"),
    (coco(bbox=[0, 0, 2 ** 40, 2]), "1.jpg: .*bbox .*1099511627776 is not a number of 32 bits"),
    (coco(bbox=[0, None, 2, 2]), "1.jpg: .*bbox .*None is not a number"),
    (coco(bbox=[0, 0, 2]), "1.jpg: .*bbox .*needed"),
    (coco(bbox=None), "1.jpg: .*bbox .*needed"),
    (coco(confidence="high"), "1.jpg: .*confidence is 'high'"),
    (coco(iscrowd="x"), "1.jpg: .*iscrowd is 'x'"),
    (coco(category={"name": None}), "categories: the name of 0 is None"),
    (coco(category={"name": " "}), "categories: the name of 0 is ' '"),
    (coco(image={"file_name": None}), "images: the file_name of 1 is None"),
    (coco(image={"file_name": "/in/assets/"}), "images: .*names no file"),
    ({**coco(), "images": [{"id": 1, "file_name": "a/1.jpg"}, {"id": 2, "file_name": "b/1.jpg"}]}, "b/1.jpg' is there twice"),
])
def test_a_segmentation_that_would_fail_the_task(platform, given, words):
    rw.write_infer_result({"earlier.jpg": []})
    with pytest.raises(ResultError, match=words):
        rw.write_infer_result(given, algorithm="segmentation")
    assert "earlier.jpg" in (platform.out / "infer-result.json").read_text()


@pytest.mark.parametrize(("given", "expected"), [
    (coco(area=None), {"area": 4}),
    (coco(area="12"), {"area": 12}),
    (coco(bbox=["1", "1", "2", "2.5"], area=None), {"bbox": [1, 1, 2, 2.5], "area": 4}),
    (coco(bbox=[0, 0, 2 ** 31 - 1, 2], area=None), {"area": 2 ** 31 - 1}),
    (coco(segmentation=[[]]), {"segmentation": None}),
    (coco(segmentation=[[], RING]), {"segmentation": [RING]}),
    (coco(segmentation=[list(map(str, RING))]), {"segmentation": [RING]}),
    (coco(segmentation=[RING], bbox=None, area=None), {"bbox": [0, 0, 2, 2], "area": 4}),
    (coco(segmentation={"counts": "02106"}), {"segmentation": {"counts": "02106"}}),
    (coco(confidence=None, score="0.5", iscrowd=None), {"confidence": 0.5, "iscrowd": None}),
    (coco(category={"name": 7}), {}),
])
def test_a_segmentation_that_is_put_right(platform, given, expected):
    rw.write_infer_result(given, algorithm="segmentation")
    found = json.loads((platform.out / "infer-result.json").read_text())
    assert {key: found["annotations"][0].get(key) for key in expected} == expected
    assert found["categories"][0]["name"] == str(given["categories"][0]["name"])
