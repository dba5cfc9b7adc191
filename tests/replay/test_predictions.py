"""Detections, infer-result.json and result.tsv, as images make them (B.4, B.5)."""
from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tests.contract import platform_rules
from tests.replay import Tensor, on_platform
from ymir_exc import result_writer as rw
from ymir_exc.errors import ArgumentError, ResultError
from ymir_exc.result_writer import Annotation, Box


class Cut:
    """Has `__int__` alone."""

    def __int__(self):
        return 7


# ------------------------------------------------------------------------------------------------------------------------- objects

@pytest.mark.parametrize(("given", "pixels"), [
    pytest.param(10.7, 10, id="B.4.1-float-GLIP"), pytest.param(-3.2, -3, id="B.4.1-negative-2"),
    pytest.param(round(np.float32(9.6)), 10, id="B.4.1-rounded-float32-mmdet"), pytest.param(np.float32(9.9), 9, id="B.4.1-float32-2"),
    pytest.param(np.int64(4), 4, id="B.4.1-int64-2"), pytest.param(np.array(4.5), 4, id="B.4.1-0-d-array-2"),
    pytest.param(Tensor(5.5), 5, id="B.4.1-tensor-2"), pytest.param(Cut(), 7, id="B.4.1-int-alone-2"),
    pytest.param("5", 5, id="B.4.1-text-2"),
    pytest.param(True, 1, id="B.4.1-bool-2"), pytest.param(np.array([5.5]), 5, id="B.4.1-array-of-one-2"),
])
def test_pixels(given, pixels):
    made = Box(x=given, y=given, w=given, h=given)
    assert made.dict() == {"x": pixels, "y": pixels, "w": pixels, "h": pixels}
    assert {type(value) for value in made.dict().values()} == {int}


@pytest.mark.parametrize("given", [
    pytest.param("5.5", id="B.4.1-fraction-in-text-2"), pytest.param(None, id="B.4.1-None-2"), pytest.param(float("nan"), id="B.4.1-nan-2"),
    pytest.param(float("inf"), id="B.4.1-inf-2"), pytest.param([1, 2], id="B.4.1-list-2"),
])
def test_no_pixels(given):
    from pydantic import ValidationError
    with pytest.raises(ValidationError, match="x"):
        Box(x=given, y=1, w=1, h=1)
    assert issubclass(ValidationError, ValueError)


@pytest.mark.parametrize(("given", "score"), [
    pytest.param(np.float32(0.1), 0.10000000149011612, id="B.4.2-float32-2"), pytest.param(np.array(0.5), 0.5, id="B.4.2-0-d-array-2"),
    pytest.param(np.array([0.5]), 0.5, id="B.4.2-array-of-one-2"), pytest.param(Tensor(0.5), 0.5, id="B.4.2-tensor-vidt"),
    pytest.param(Tensor(0.5, (1,)), 0.5, id="B.4.2-tensor-of-shape-1-YOLOv8"), pytest.param("0.5", 0.5, id="B.4.2-text-2"),
    pytest.param(1, 1.0, id="B.4.2-int-2"), pytest.param(np.int64(0), 0.0, id="B.4.2-int64-2"),
])
def test_scores(given, score):
    made = Annotation(class_name="cat", score=given, box=Box(x=1, y=2, w=3, h=4))
    assert (made.score, type(made.score)) == (score, float)


@pytest.mark.parametrize(("given", "name"), [
    pytest.param(3, "3", id="B.4.3-int-2"), pytest.param(True, "True", id="B.4.3-bool-2"), pytest.param(1.5, "1.5", id="B.4.3-float-2"),
    pytest.param("猫", "猫", id="B.4.3-text-2"), pytest.param(np.str_("cat"), "cat", id="B.4.3-numpy-text-2"),
])
def test_class_names(given, name):
    made = Annotation(class_name=given, score=0.5, box={"x": 1, "y": 2, "w": 3, "h": 4})
    assert (made.class_name, type(made.class_name)) == (name, str)


def annotation(**changes):
    return Annotation(**{"class_name": "cat", "score": 0.5, "box": Box(x=1, y=2, w=3, h=4), **changes})


def test_the_manners_of_an_annotation():
    """B.4.4, all lines."""
    made = annotation(rotate_angle=0.1)
    assert repr(made) == "Annotation(class_name='cat', score=0.5, box=Box(x=1, y=2, w=3, h=4))"
    assert list(made.dict().items()) == [("class_name", "cat"), ("score", 0.5), ("box", {"x": 1, "y": 2, "w": 3, "h": 4})]
    assert [name for name, _ in made] == ["class_name", "score", "box"]
    assert dict(made)["box"] is made.box
    for twin in (copy.copy(made), copy.deepcopy(made), made.copy(), pickle.loads(pickle.dumps(made)), Annotation(**made.dict()),
                 Annotation.parse_obj(made.dict())):
        assert twin == made
        assert type(twin.box) is Box
    assert made != annotation(score=0.6)
    assert made != "cat"
    made.score = made.score * 0.5
    assert made.score == 0.25
    with pytest.raises(TypeError):
        hash(made)
    with pytest.raises(TypeError):
        Annotation("cat", 0.5, made.box)
    with pytest.raises(ValueError, match="box"):
        Annotation(class_name="cat", score=0.5)
    with pytest.raises(ValueError, match="rotate_angle"):
        made.rotate_angle = 1.0
    assert json.loads(made.json()) == made.dict()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_annotations_travel_between_ranks(protocol):
    """B.4.4: torch.save and mmcv pickle them by their public path; the other rank has imported nothing."""
    sent = pickle.dumps({"a.jpg": [annotation()]}, protocol)
    assert b"ymir_exc.result_writer" in sent
    program = "import pickle, sys; a = pickle.load(sys.stdin.buffer)['a.jpg'][0]; print(type(a).__module__, a.score, a.box.h)"
    done = subprocess.run([sys.executable, "-c", program], input=sent, stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"ymir_exc.result_writer 0.5 4\n"


# ---------------------------------------------------------------------------------------------------------------- infer-result.json

CAT = '{"class_name": "cat", "score": 0.5, "box": {"x": 1, "y": 2, "w": 3, "h": 4}}'


def assigned():
    """What older code assigned was never checked, and landed as it was."""
    made = annotation()
    made.score, made.box.x, made.box.w = Tensor(0.5), 1.9, np.float32(3.0)
    return made


class Rotated(rw.Box):
    rotate_angle: float = 0.5


class Doubled(rw.Box):
    def __init__(self, x):
        super().__init__(x=2 * x, y=x, w=x, h=x)


class DoubledAgain(Doubled):
    note: str = "of two"


def test_models_of_images_that_extend_ours():
    assert Rotated(x=1, y=2, w=3, h=4).dict() == {"x": 1, "y": 2, "w": 3, "h": 4, "rotate_angle": 0.5}
    assert Rotated(x=1, y=2, w=3, h=4, rotate_angle="1.5").rotate_angle == 1.5
    assert Doubled(4).dict() == {"x": 8, "y": 4, "w": 4, "h": 4}
    assert DoubledAgain(4).dict() == {"x": 8, "y": 4, "w": 4, "h": 4, "note": "of two"}
    assert rw.Annotation(class_name="cat", score=0.5, box=Rotated(x=1, y=2, w=3, h=4), more=1).box.rotate_angle == 0.5
    with pytest.raises(ValueError, match=r"(?s)2 validation errors.*\bw\n.*\bh\n"):
        rw.Box(x=1, y=2)


class Other:
    """An image's own class with a `dict`."""

    def dict(self):
        return {"class_name": "cat", "score": np.float32(0.5), "box": {"x": 1, "y": 2, "w": 3, "h": 4}}


INFER = [
    pytest.param(lambda: rw.write_infer_result(infer_result={"/in/assets/ab/1 张.jpg": [annotation()], "2.jpg": []}), "new",
                 f'{{"detection": {{"1 \\u5f20.jpg": {{"boxes": [{CAT}]}}, "2.jpg": {{"boxes": []}}}}}}', id="B.5.1-keyword-2"),
    pytest.param(lambda: rw.write_infer_result({"1.jpg": [annotation()] * 2}), "1.3",
                 f'{{"detection": {{"1.jpg": {{"boxes": [{CAT}, {CAT}]}}}}}}', id="B.5.1-positional-1.3"),
    pytest.param(lambda: rw.write_infer_result({"1.jpg": [annotation()]}), "old",
                 f'{{"detection": {{"1.jpg": {{"annotations": [{CAT}]}}}}}}', id="B.5.1-annotations-P"),
    pytest.param(lambda: rw.write_infer_result({"1.jpg": []}), "1.2", '{"detection": {"1.jpg": {"annotations": []}}}',
                 id="B.5.1-annotations-without-a-protocol-version-1.0"),
    pytest.param(lambda: rw.write_infer_result({"1.jpg": []}), "I", '{"detection": {"1.jpg": {"annotations": []}}}',
                 id="B.5.4-an-empty-protocol-version-corrected"),
    pytest.param(lambda: rw.write_infer_result({"/a/1.jpg": [annotation()], "/b/1.jpg": []}), "new",
                 '{"detection": {"1.jpg": {"boxes": []}}}', id="B.5.1-the-last-of-one-name-2"),
    pytest.param(lambda: rw.write_infer_result({"1.jpg": (annotation(class_name="猫"),)}, "detection"), "new",
                 '{"detection": {"1.jpg": {"boxes": [' + CAT.replace("cat", "\\u732b") + "]}}}", id="B.5.1-escaped-2"),
    pytest.param(lambda: rw.write_infer_result({"1.jpg": [assigned()]}), "new", f'{{"detection": {{"1.jpg": {{"boxes": [{CAT}]}}}}}}',
                 id="B.4.4-assigned-tensors-corrected"),
    pytest.param(lambda: rw.write_infer_result({"1.jpg": [Other()]}), "new", f'{{"detection": {{"1.jpg": {{"boxes": [{CAT}]}}}}}}',
                 id="B.5.2-a-class-of-its-own-2"),
    pytest.param(lambda: rw.write_infer_result({}), "new", '{"detection": {}}', id="B.5.1-nothing-2"),
]


@pytest.mark.parametrize(("call", "on", "expected"), INFER)
def test_infer_result(platform, monkeypatch, call, on, expected):
    on_platform(platform.run("infer"), monkeypatch, on)
    call()
    assert (platform.out / "infer-result.json").read_bytes() == expected.encode("ascii")


COCO = {"images": [{"id": 1, "file_name": "1.jpg", "width": np.int64(4), "height": 3}], "categories": [{"id": 0, "name": "猫"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": np.int32(0), "bbox": np.array([0, 0, 2, 2]), "area": np.int64(4),
                         "iscrowd": 0, "confidence": np.float32(0.5), "segmentation": {"size": [3, 4], "counts": b"02106"}}]}


def test_segmentation(platform):
    """B.5.3-corrected: numpy numbers, and run lengths as pycocotools returns them, end in the file and not in a TypeError."""
    platform.run("infer")
    rw.write_infer_result(COCO, algorithm="segmentation")
    assert (platform.out / "infer-result.json").read_text() == (
        '{"images": [{"id": 1, "file_name": "1.jpg", "width": 4, "height": 3}], "categories": [{"id": 0, "name": "\\u732b"}], '
        '"annotations": [{"id": 1, "image_id": 1, "category_id": 0, "bbox": [0, 0, 2, 2], "area": 4, "iscrowd": 0, "confidence": 0.5, '
        '"segmentation": {"size": [3, 4], "counts": "02106"}}]}')


RLE = {"size": [3, 4], "counts": "02106"}    # the upper left 2 x 2 pixels, of 4 x 3


@pytest.mark.parametrize(("given", "expected"), [
    pytest.param({"bbox": [0, 0, 2, 2], "area": 4}, {"bbox": [0, 0, 2, 2], "area": 4}, id="7.3-a-box-only"),
    pytest.param({"bbox": [0.5, 0, 2.5, 2]}, {"bbox": [0.5, 0, 2.5, 2], "area": 4}, id="7.3-no-area-corrected"),
    pytest.param({"segmentation": RLE}, {"segmentation": RLE, "bbox": [0, 0, 2, 2], "area": 4}, id="7.3-a-mask-only-corrected"),
    pytest.param({"segmentation": {"size": np.array([3, 4]), "counts": [0, 2, 1, 2, 7]}, "bbox": [0, 0, 2, 2], "area": 4},
                 {"segmentation": RLE, "bbox": [0, 0, 2, 2], "area": 4}, id="7.3-run-lengths-not-compressed-corrected"),
    pytest.param({"segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]], "bbox": [0, 0, 2, 2], "area": 4},
                 {"segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]], "bbox": [0, 0, 2, 2], "area": 4}, id="7.3-one-polygon"),
    pytest.param({"segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]},
                 {"segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]], "bbox": [0, 0, 2, 2], "area": 4}, id="7.3-one-polygon-only-corrected"),
    pytest.param({"segmentation": [[0, 0, 2, 0, 2, 1, 0, 1], [0, 1, 2, 1, 2, 2, 0, 2]], "bbox": [0, 0, 2, 2], "area": 4},
                 {"segmentation": RLE, "bbox": [0, 0, 2, 2], "area": 4}, id="7.3-two-polygons-corrected"),
    pytest.param({"segmentation": {}, "bbox": [0, 0, 2, 2], "area": 4, "score": np.float32(0.5), "is_crowd": True},
                 {"bbox": [0, 0, 2, 2], "area": 4, "score": 0.5, "is_crowd": True, "confidence": 0.5, "iscrowd": 1},
                 id="7.3-other-names-corrected"),
    pytest.param({"segmentation": {"size": [3, 4], "counts": [12]}}, None, id="7.3-no-pixel"),
    pytest.param({"bbox": [0, 0, 0.5, 2], "area": 1}, None, id="7.3-no-width"),
])
def test_segmented_objects(platform, given, expected):
    coco = {"images": [{"id": 1, "file_name": "/in/assets/1.jpg", "width": 4, "height": 3}], "categories": [{"id": 0, "name": "cat"}],
            "annotations": [{"image_id": 1, "category_id": 0, **given}]}
    rw.write_infer_result(infer_result=coco, algorithm="segmentation")
    found = json.loads((platform.out / "infer-result.json").read_text())
    assert found["images"][0]["file_name"] == "1.jpg", "with a folder the platform loses all objects of the image"
    assert found["annotations"] == ([{"image_id": 1, "category_id": 0, **expected}] if expected else [])
    if expected and "score" not in expected and given.get("bbox") != [0.5, 0, 2.5, 2]:
        platform_rules.accept_segmentation(platform.out, ["/in/assets/1.jpg"], ["cat"])


NO_COCO = [
    pytest.param({}, id="7.3-nothing"), pytest.param([], id="7.3-a-list"), pytest.param({**COCO, "images": None}, id="7.3-no-images"),
    pytest.param({**COCO, "images": [{"id": 1}]}, id="7.3-no-file-name"),
    pytest.param({**COCO, "categories": [{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]}, id="7.3-doubled-category"),
    *(pytest.param({**COCO, "annotations": [{"image_id": 1, "category_id": 0, "bbox": [0, 0, 2, 2], **change}]}, id=f"7.3-{name}")
      for name, change in {"unknown-image": {"image_id": 2}, "unknown-category": {"category_id": [0]}, "short-box": {"bbox": [0, 0, 2]},
                           "box-of-text": {"bbox": "abcd"}, "area-of-a-cut-mask": {"segmentation": {"size": [3, 4], "counts": [0, 2]}},
                           "no-counts": {"segmentation": {"size": [3, 4]}}, "nan": {"bbox": [0, 0, float("nan"), 2]},
                           "score-of-text": {"score": "high"}}.items()),
]


@pytest.mark.parametrize("coco", NO_COCO)
def test_no_coco(platform, coco):
    rw.write_infer_result({"earlier.jpg": []})
    with pytest.raises(ResultError):
        rw.write_infer_result(coco, algorithm="segmentation")
    assert "earlier.jpg" in (platform.out / "infer-result.json").read_text()


NOT_INFERRED = [
    pytest.param(lambda: rw.write_infer_result({}, algorithm="tracking"), (ArgumentError, AssertionError), id="B.5.3-unknown-algorithm-2"),
    pytest.param(lambda: rw.write_infer_result({}, algorithm="classification"), (ResultError,), id="B.5.3-classification-2"),
    pytest.param(lambda: rw.write_infer_result([("1.jpg", [])]), (ResultError,), id="B.5.2-a-list-corrected"),
    pytest.param(lambda: rw.write_infer_result({"1.jpg": None}), (ResultError,), id="B.5.2-None-corrected"),
    pytest.param(lambda: rw.write_infer_result({"1.jpg": ["cat"]}), (ResultError,), id="B.5.2-text-corrected"),
    pytest.param(lambda: rw.write_infer_result({"1.jpg": [annotation(score=float("nan"))]}), (ResultError,), id="B.5.1-nan-corrected"),
    pytest.param(lambda: rw.write_infer_result({"1.jpg": [{"class_name": "cat", "score": 0.5, "box": {"x": "left"}}]}), (ResultError,),
                 id="B.5.2-a-box-of-text-corrected"),
    pytest.param(lambda: rw.write_mining_result([("/a.jpg", float("nan"))]), (ResultError,), id="B.5.5-nan-corrected"),
]


@pytest.mark.parametrize(("call", "kinds"), NOT_INFERRED)
def test_refused(platform, call, kinds):
    rw.write_infer_result({"earlier.jpg": []})
    before = (platform.out / "infer-result.json").read_bytes()
    with pytest.raises(kinds[0]) as caught:
        call()
    assert isinstance(caught.value, kinds)
    assert (platform.out / "infer-result.json").read_bytes() == before, "the older package left an empty file"
    assert not (platform.out / "result.tsv").exists()


# ----------------------------------------------------------------------------------------------------------------------- result.tsv

@pytest.mark.parametrize(("given", "expected"), [
    pytest.param([("/in/assets/a.jpg", 0.25), ("/in/assets/b.jpg", 0.75)], "/in/assets/b.jpg\t0.75\n/in/assets/a.jpg\t0.25\n",
                 id="B.5.5-floats-2"),
    pytest.param([("/a.jpg", 1), ("/b.jpg", 0.5), ("/c.jpg", 1), ("/d.jpg", 2)], "/d.jpg\t2\n/a.jpg\t1\n/c.jpg\t1\n/b.jpg\t0.5\n",
                 id="B.5.5-stable-and-int-stays-int-P"),
    pytest.param([("/a.jpg", np.float32(0.3)), ("/b.jpg", np.float64(0.5)), ("/c.jpg", np.int64(1))],
                 "/c.jpg\t1\n/b.jpg\t0.5\n/a.jpg\t0.30000001192092896\n", id="B.5.5-numpy-1.3"),
    pytest.param([("/a.jpg", Tensor(0.25)), ("/b.jpg", Tensor(0.5, (1,)))], "/b.jpg\t0.5\n/a.jpg\t0.25\n", id="B.5.5-tensors-2"),
    pytest.param([["/图 片/a b.jpg", -0.5]], "/图 片/a b.jpg\t-0.5\n", id="B.5.5-lists-and-odd-names-2"),
    pytest.param(iter([("/a.jpg", 1e-20)]), "/a.jpg\t1e-20\n", id="B.5.5-an-iterator-2"),
    pytest.param([], "", id="B.5.5-nothing-2"),
])
def test_mining_result(platform, given, expected):
    platform.run("mining")
    rw.write_mining_result(mining_result=given)
    assert (platform.out / "result.tsv").read_bytes() == expected.encode()


def test_the_platform_takes_them(platform):
    platform.run("mining", "infer")
    paths = ["/in/assets/1.jpg", "/in/assets/2.jpg"]
    platform.index("candidate", *paths)
    rw.write_infer_result({path: [annotation()] for path in paths})
    rw.write_mining_result([(path, n) for n, path in enumerate(paths)])
    platform_rules.accept_detection(platform.out, paths, ["cat"])
    platform_rules.accept_mining(platform.out, paths)
