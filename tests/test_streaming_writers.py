"""Writers for results that arrive bit by bit."""
from __future__ import annotations

import enum
import json
import math
import os
import random
import resource
import signal
import struct
import sys
from pathlib import Path

import numpy as np
import pydantic_core
import pytest

from tests.contract import platform_rules
from ymir_exc import _rle
from ymir_exc import result_writer as rw
from ymir_exc.errors import ArgumentError, ResultError, StorageError
from ymir_exc.result_writer import InferResultWriter, MiningResultWriter, SegmentationResultWriter, _values

NAMES = ["cat", "狗 \"q\""]


def detections(platform):
    return json.loads((platform.out / "infer-result.json").read_text(encoding="ascii"))["detection"]


def one(class_name="cat", score=0.5, **box):
    return {"class_name": class_name, "score": score, "box": box}


@pytest.mark.parametrize("kind", [list, np.array, lambda v: np.array(v, dtype=np.float32)])
def test_detections_of_any_make(platform, kind):
    with InferResultWriter(NAMES) as results:
        results.add("/in/assets/a 图.jpg", kind([[1.4, 2.5, 11.6, 22.0], [0, 0, 5, 5]]), kind([0.5, 0.25]), kind([0, 1]))
        results.add("b.jpg", kind([]), kind([]), kind([]))
    assert detections(platform) == {
        "a 图.jpg": {"boxes": [one(x=1, y=2, w=11, h=20), one(NAMES[1], 0.25, x=0, y=0, w=5, h=5)]}, "b.jpg": {"boxes": []}}
    platform_rules.accept_detection(platform.out, ["/x/a 图.jpg", "/x/b.jpg"], NAMES)
    assert results.count == 2


def test_xywh_clipping_and_rotation(platform):
    with InferResultWriter(NAMES, box_format="xywh") as results:
        boxes = [[-5, -5, 20, 10], [98, 0, 50, 50], [200, 200, 5, 5], [3, 3, 0.2, 9]]
        results.add("a.jpg", boxes, [0.9] * 4, [0] * 4, image_size=(100, 50))
        results.add("b.jpg", [[1, 2, 3, 4]], [0.9], [0], rotate_angles=np.array([0.5]))
    assert detections(platform)["a.jpg"]["boxes"] == [one(score=0.9, x=0, y=0, w=15, h=5), one(score=0.9, x=98, y=0, w=2, h=50)]
    assert detections(platform)["b.jpg"]["boxes"][0]["box"] == {"x": 1, "y": 2, "w": 3, "h": 4, "rotate_angle": 0.5}
    platform_rules.accept_detection(platform.out, ["a.jpg", "b.jpg"], NAMES)


@pytest.mark.parametrize(("arguments", "words"), [
    (([[0, 0, 1, 1]], [0.5, 0.5], [0]), "do not fit together"),
    (([[0, 0, 1, 1]], [float("nan")], [0]), "the score nan"),
    (([[0, 0, 1, 1]], ["high"], [0]), "the score .high."),
    (([[0, 0, 1, 1]], [0.5], [2]), "there are 2 classes"),
    (([[0, 0, 1, 1]], [0.5], [-1]), "there are 2 classes"),
    (([[0, 0, 1, 1]], [0.5], [0.5]), "there are 2 classes"),
    (([[0, 0, float("nan"), 1]], [0.5], [0]), "NaN"),
    (([[0, 0, float("inf"), 1]], [0.5], [0]), "infinity"),
    (([[0, 0, 1e12, 1]], [0.5], [0]), "beyond 32 bits"),
    (([[0, 0, 1]], [0.5], [0]), "four numbers"),
    (([[0, 0, 1, 1], [0, 0, 1]], [0.5, 0.5], [0, 0]), r"box \[0, 0, 1\] .*four numbers"),
])
def test_what_the_platform_would_refuse_costs_nothing(platform, arguments, words):
    rw.write_infer_result({"earlier.jpg": []})
    with pytest.raises(ResultError, match=words), InferResultWriter(NAMES) as results:
        results.add("ok.jpg", [[0, 0, 1, 1]], [0.5], [0])
        results.add("bad.jpg", *arguments)
    assert list(detections(platform)) == ["earlier.jpg"]
    assert sorted(os.listdir(platform.out)) == ["infer-result.json", "models", "tensorboard"]


def test_an_image_twice_is_refused(platform):
    with pytest.raises(ResultError, match=r"a\.jpg was added before"), InferResultWriter(NAMES) as results:
        results.add("/x/a.jpg", [], [], [])
        results.add("/y/a.jpg", [], [], [])


@pytest.mark.parametrize("size", [(640,), (640, 480, 3), 640, ("a", 1), (float("nan"), 1), (-1, 5)])
def test_an_image_size_that_is_none(platform, size):
    for kind in (list, np.array):
        with pytest.raises(ResultError, match=r"a\.jpg: image_size is"), InferResultWriter(NAMES) as results:
            results.add("a.jpg", kind([[0.0, 0.0, 1.0, 1.0]]), kind([0.5]), kind([0]), image_size=size)


@pytest.mark.parametrize("edge", [float("nan"), float("inf"), 1e308])
def test_odd_floats_in_arrays_cause_no_warning_of_numpy(platform, edge):
    with pytest.raises(ResultError, match=r"a\.jpg: box"), InferResultWriter(NAMES, "xywh") as results:
        results.add("a.jpg", np.array([[edge, -edge, edge, edge], [-edge, 0, edge, 1]]), np.array([0.5, 0.5]), np.array([0, 0]))


def test_classes_by_name(platform):
    with InferResultWriter(NAMES) as results:
        results.add("a.jpg", np.zeros((2, 4)), np.array([0.5, 0.5]), [NAMES[1], "cat"])
    assert [item["class_name"] for item in detections(platform)["a.jpg"]["boxes"]] == [NAMES[1], "cat"]
    with pytest.raises(ResultError, match=r"b\.jpg: .*bird.*there are 2 classes"), InferResultWriter(NAMES) as results:
        results.add("b.jpg", [[0, 0, 1, 1]], [0.5], ["bird"])


@pytest.mark.parametrize("names", ["cat", ["cat", " "], [""]])
def test_class_names_that_the_platform_would_refuse(names):
    for writer in (InferResultWriter, SegmentationResultWriter):
        with pytest.raises(ResultError, match="class_names"):
            writer(names)


def test_arrays_are_written_as_lists_are(platform, monkeypatch):
    """Arrays are joined and written some thousand boxes at once; lists one by one where numpy is not loaded."""
    rng = np.random.default_rng(0)
    given = []
    for n in range(400):
        count = int(rng.integers(0, 60)) if n % 3 else 0
        given.append((f"{n}.jpg", rng.uniform(-50, 150, (count, 4)).round(1), rng.random(count), rng.integers(0, 2, count),
                      (100, 80) if n % 2 else None))
    lists = [(name, *[array.tolist() for array in arrays], size) for name, *arrays, size in given]

    def written(images):
        with InferResultWriter(NAMES, "xywh") as results:
            for name, boxes, scores, class_ids, size in images:
                results.add(name, boxes, scores, class_ids, image_size=size)
                if not isinstance(boxes, list):
                    boxes[:] = scores[:] = -1    # the caller's arrays are free again
        return (platform.out / "infer-result.json").read_bytes()

    of_arrays = written(given)
    assert len(of_arrays) > 500_000
    monkeypatch.delitem(sys.modules, "numpy")
    assert written(lists) == of_arrays


def test_a_bad_array_is_named_among_many(platform):
    with pytest.raises(ResultError, match=r"^50\.jpg: .*the score nan"), InferResultWriter(NAMES) as results:
        for n in range(100):
            results.add(f"{n}.jpg", np.zeros((1, 4)), np.array([float("nan") if n == 50 else 0.5]), np.array([0]))
    assert not (platform.out / "infer-result.json").exists()


BAD_ARRAYS = {
    "score": (np.zeros((1, 4)), np.array([float("nan")]), np.array([0])),
    "edge": (np.full((1, 4), float("inf")), np.ones(1), np.array([0])),
    "class": (np.zeros((1, 4)), np.ones(1), np.array([2])), "shape": (np.zeros((1, 5)), np.ones(1), np.array([0])),
    "width": (np.array([[0, 0, 2.0 ** 31, 1]]), np.ones(1), np.array([0])),
    "size": (np.full((1, 4), 2 ** 32), np.ones(1, np.float32), np.array([0])),
}


@pytest.mark.parametrize("what", BAD_ARRAYS)
def test_a_bad_image_is_refused_at_once_and_costs_no_other(platform, what):
    with InferResultWriter(NAMES) as results:
        for n in range(60):
            if n == 30:
                with pytest.raises(ResultError, match=r"^30\.jpg: "):
                    results.add("30.jpg", *BAD_ARRAYS[what])
                assert results.count == 30
            results.add(f"{n}.jpg", np.full((1, 4), n), np.array([0.5]), np.array([1]))
    assert detections(platform) == {f"{n}.jpg": {"boxes": [one(NAMES[1], x=n, y=n, w=0, h=0)]} for n in range(60)}


def test_many_small_images_keep_all_their_values(platform):
    """So many that they are written in several batches; lists, single and double floats, and images with nothing come between."""
    rng = np.random.default_rng(2)
    given = {}
    with InferResultWriter(NAMES, "xywh") as results:
        for n in range(20_000):
            count = int(rng.integers(0, 4))
            kind = np.float32 if n // 7000 == 1 else np.float64
            boxes, scores, class_ids = rng.integers(-99, 999, (count, 4)), rng.random(count).astype(kind), rng.integers(0, 2, count)
            written = [float(f"{score:.9g}") if kind is np.float32 else score for score in scores.tolist()]
            given[f"{n}.jpg"] = boxes.tolist(), written, class_ids
            results.add(f"/in/{n}.jpg", *((boxes.tolist(), scores, class_ids.tolist()) if n % 5 == 0 else (boxes, scores, class_ids)))
    made = detections(platform)
    assert results.count == len(made) == 20_000
    for name, (boxes, scores, class_ids) in given.items():
        assert made[name]["boxes"] == [one(NAMES[class_id], score, **dict(zip("xywh", box)))
                                       for box, score, class_id in zip(boxes, scores, class_ids)], name
    assert list(made) == list(given)


def test_values_that_only_just_fit(platform):
    """What the quick check of arrays cannot say, the slow one accepts."""
    with InferResultWriter(NAMES) as results:
        results.add("a.jpg", np.array([[0, 0, 2e9, 2e9]] * 3), np.array([1.7e308] * 3), np.array([0] * 3))
        results.add("b.jpg", np.array([[0, 0, 60000, 9]], np.float16), np.array([60000], np.float16), np.array([0], np.uint64))
    made = detections(platform)
    assert made["a.jpg"]["boxes"] == [one(score=1.7e308, x=0, y=0, w=2 * 10 ** 9, h=2 * 10 ** 9)] * 3
    assert made["b.jpg"]["boxes"] == [one(score=60000.0, x=0, y=0, w=60000, h=9)]


@pytest.mark.parametrize(("arguments", "words"), [
    ((None, [0.5], [0]), "None"), (([[0, 0, 1, 1]], None, [0]), "None"), (([[0, 0, 1, 1]], [0.5], None), "None"),
    ((np.array(5.0), np.array([0.5]), np.array([0])), "box 5.0"), ((np.zeros((2, 4)), np.array(0.5), np.array(0)), "do not fit together"),
    ((np.zeros((1, 4)), np.ma.array([0.5], mask=[True]), np.array([0])), "the score None"),
    ((np.ma.array(np.zeros((1, 4)), mask=True), np.array([0.5]), np.array([0])), "box .None"),
])
def test_detections_that_are_no_arrays(platform, arguments, words):
    with pytest.raises(ResultError, match=r"^a\.jpg: .*" + words), InferResultWriter(NAMES) as results:
        results.add("/in/a.jpg", *arguments)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_is_added_outside_of_the_block_is_refused(platform, monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    pixel = np.ones((1, 1))
    for made, acts in (
            (InferResultWriter(NAMES), [lambda r: r.add("a.jpg", [], [], []), lambda r: r.skip("a.jpg")]),
            (MiningResultWriter(), [lambda r: r.add("/a.jpg", 0.5), lambda r: r.add_batch(["/a.jpg"], [0.5]), lambda r: r.skip("/a.jpg")]),
            (SegmentationResultWriter(NAMES), [lambda r: r.add("a.jpg", (1, 1)), lambda r: r.add_object("a.jpg", 0, pixel),
                                               lambda r: r.add_label_map("a.jpg", pixel)])):
        for act in acts:
            with pytest.raises(ResultError, match=f"the {type(made).__name__} is used before its with-block"):
                act(made)
        with made as results:
            results.add("b.jpg", *{"InferResultWriter": ([], [], []), "MiningResultWriter": (1.0,)}.get(type(made).__name__, ((1, 1),)))
        for act in acts:
            with pytest.raises(ResultError, match=f"the {type(made).__name__} is used after its with-block"):
                act(made)
        with pytest.raises(ResultError, match=f"a {type(made).__name__} has one with-block"), made:
            pass
        file = platform.out / ("result.tsv" if isinstance(made, MiningResultWriter) else "infer-result.json")
        assert file.exists() == (rank == "0")
        if rank == "0":
            assert "b.jpg" in file.read_text()
            assert "a.jpg" not in file.read_text()


@pytest.mark.parametrize("path", [None, 5, ["a.jpg"], 0.5])
def test_what_is_no_path(platform, path):
    for writer, act in ((InferResultWriter(NAMES), lambda r: r.add(path, [], [], [])), (MiningResultWriter(), lambda r: r.add(path, 0.5)),
                        (MiningResultWriter(), lambda r: r.add_batch([path], np.array([0.5]))),
                        (SegmentationResultWriter(NAMES), lambda r: r.add(path, (1, 1))),
                        (SegmentationResultWriter(NAMES), lambda r: r.add_object(path, 0, np.ones((1, 1)))),
                        (SegmentationResultWriter(NAMES), lambda r: r.add_label_map(path, np.ones((1, 1))))):
        with pytest.raises(ResultError, match="is no path of an image"), writer as results:
            act(results)
    with pytest.raises(ResultError, match="is no path of an image"):
        rw.write_mining_result([(path, 0.5)])
    if not isinstance(path, list):
        with pytest.raises(ResultError, match="is no path of an image"):
            rw.write_infer_result({path: []})


def test_paths_as_bytes(platform):
    name = "/in/图.jpg".encode()
    with InferResultWriter(NAMES) as results, MiningResultWriter() as ranking:
        results.add(name, [], [], [])
        ranking.add(name, 0.5)
    assert list(detections(platform)) == ["图.jpg"]
    assert (platform.out / "result.tsv").read_text() == "/in/图.jpg\t0.5\n"


def test_a_value_that_json_lacks_names_its_image(platform):
    for odd in (float("nan"), [1, float("inf")]):
        with pytest.raises(ResultError, match=r"^a\.jpg: a detection of 'cat' holds"):
            rw.write_infer_result({"/in/a.jpg": [{**one(x=1, y=1, w=1, h=1), "more": odd}]})


def test_floats_of_32_bits_come_back_as_they_were(platform):
    scores = np.random.default_rng(0).random(500).astype(np.float32) ** 9
    with InferResultWriter(NAMES) as results, MiningResultWriter() as ranking:
        results.add("a.jpg", np.zeros((500, 4)), scores, np.zeros(500, int))
        ranking.add_batch([f"{n}.jpg" for n in range(500)], scores)
    written = [item["score"] for item in detections(platform)["a.jpg"]["boxes"]]
    assert (np.array(written).astype(np.float32) == scores).all()
    lines = (platform.out / "result.tsv").read_text().splitlines()
    assert [np.float32(line.split("\t")[1]) for line in lines] == sorted(scores, reverse=True)


def test_numbers_are_the_same_however_they_become_text(monkeypatch):
    numbers = [0.1, 1e-7, 3, -2.5, 5e-324, 1.7976931348623157e308, 1e16, 0.1 + 0.2]
    monkeypatch.setitem(sys.modules, "pydantic_core", pydantic_core)
    numbers += [2e-05, 2.9e-05, -1e-05, 10.00001, 100.00001, 0.0001, 9.99e-06, 1.5e16, -1e22]
    bits = random.Random(0)
    numbers += filter(math.isfinite, struct.unpack("3000d", struct.pack("3000Q", *(bits.getrandbits(64) for _ in range(3000)))))
    numbers += [bits.random() * 10 ** -bits.randrange(9) for _ in range(3000)]
    assert _values.number_texts(numbers) == [repr(number) for number in numbers]
    assert _values.number_texts([10 ** 30, 1.5]) == [str(10 ** 30), "1.5"]
    monkeypatch.delitem(sys.modules, "pydantic_core")
    monkeypatch.setattr(_values, "_number_count", 0)
    assert _values.number_texts(numbers) == [repr(number) for number in numbers]
    assert _values.number_texts([]) == []


def test_nine_digits_tell_every_32_bit_float():
    rng = np.random.default_rng(0)
    for values in (rng.random(5000), rng.random(5000) ** 20, rng.normal(0, 1e5, 5000), [0.0, -0.0, 1e-30, 3e38] * 100,
                   [0.1, 1.0, 1e-9, 9.9999999e7] * 100):
        single = np.array(values, np.float32)
        texts = _values.number_texts(single.tolist(), single=True)
        assert np.array(texts, float).astype(np.float32).tobytes() == single.tobytes()
        assert texts == [f"{value:.9g}" for value in single.tolist()] or max(map(significant_digits, texts)) <= 9


def significant_digits(text):
    return len(text.lower().partition("e")[0].replace("-", "").replace(".", "").strip("0"))


def test_scores_come_back_to_the_last_bit(platform):
    scores = np.concatenate([np.random.default_rng(0).random(3000), [5e-324, 1e-7, 0.1, 1.7976931348623157e308, -0.0, -1e22]]).tolist()
    rows = [(f"/{n}.jpg", score) for n, score in enumerate(scores)]
    rw.write_mining_result(rows)
    of_a_list = (platform.out / "result.tsv").read_bytes()
    with MiningResultWriter(1000) as ranking:
        ranking.add_batch([path for path, _ in rows], np.array(scores))
    assert (platform.out / "result.tsv").read_bytes() == of_a_list
    written = [line.split("\t") for line in of_a_list.decode().splitlines()]
    assert [(path, float(text).hex()) for path, text in written] == [
        (path, score.hex()) for path, score in sorted(rows, key=lambda row: row[1], reverse=True)]


def test_each_score_keeps_its_own_precision(platform):
    """Arrays of 32 and 64 bits in turn, and images without objects between them."""
    kinds = [np.float32, np.float64, np.float64, np.float32]
    with InferResultWriter(NAMES) as results:
        for n, kind in enumerate(kinds):
            results.add(f"{n}.jpg", np.zeros((1, 4)), np.array([1 / 3], kind), np.array([0]))
            results.add(f"empty {n}.jpg", [], np.array([]), [])
    made = detections(platform)
    assert [made[f"{n}.jpg"]["boxes"][0]["score"] for n in range(4)] == [0.333333343, 1 / 3, 1 / 3, 0.333333343]
    assert list(made) == [f"{word}{n}.jpg" for n in range(4) for word in ("", "empty ")]


def test_pixels_of_almost_32_bits(platform):
    with InferResultWriter(NAMES) as results:
        results.add("a.jpg", np.array([[0, 0, 2.0 ** 31 - 1, 1]]), np.array([0.5]), np.array([0]))
        results.add("b.jpg", np.array([[0, 0, 1.0, 1]]), np.array([0.5]), np.array([0]))
    assert [boxes["boxes"][0]["box"]["w"] for boxes in detections(platform).values()] == [2 ** 31 - 1, 1]


def test_an_angle_that_is_no_number(platform):
    with pytest.raises(ResultError, match=r"a\.jpg: .*the angle inf"), InferResultWriter(NAMES) as results:
        results.add("a.jpg", [[0, 0, 1, 1]], [0.5], [0], rotate_angles=[float("inf")])


def test_classes_of_an_enumeration(platform):
    class Animal(str, enum.Enum):
        CAT = "cat"

    with InferResultWriter([Animal.CAT]) as results:
        results.add("a.jpg", [[0, 0, 1, 1]], [0.5], [Animal.CAT])
        results.add("b.jpg", [[0, 0, 1, 1]], [0.5], [0])
    assert [boxes["boxes"][0]["class_name"] for boxes in detections(platform).values()] == ["cat", "cat"]
    rw.write_infer_result({"a.jpg": [{"class_name": Animal.CAT, "score": 0.5, "box": {"x": 0, "y": 0, "w": 1, "h": 1}}]})
    assert detections(platform)["a.jpg"]["boxes"][0]["class_name"] == "cat"


def test_an_unknown_box_format():
    with pytest.raises(ResultError, match="cxcywh"):
        InferResultWriter(NAMES, box_format="cxcywh")


def test_the_file_appears_at_the_end_only(platform):
    with InferResultWriter(NAMES) as results:
        for n in range(3000):
            results.add(f"{n}.jpg", [[0, 0, 9, 9]] * 10, [0.5] * 10, [0] * 10)
        assert not (platform.out / "infer-result.json").exists()
    assert len(detections(platform)) == 3000


def test_old_platforms_get_their_key_and_other_ranks_write_nothing(platform, monkeypatch):
    platform.env["protocol_version"] = "0.0.1"
    platform.write()
    with InferResultWriter(NAMES) as results:
        results.add("a.jpg", [[0, 0, 1, 1]], [0.5], [0])
    assert list(detections(platform)["a.jpg"]) == ["annotations"]
    monkeypatch.setenv("RANK", "1")
    with InferResultWriter(NAMES) as results, MiningResultWriter() as ranking, SegmentationResultWriter(NAMES) as masks:
        results.add("b.jpg", [], [], [])
        ranking.add("b.jpg", 1.0)
        masks.add("b.jpg", (1, 1))
    assert list(detections(platform)) == ["a.jpg"]
    assert not (platform.out / "result.tsv").exists()


# ------------------------------------------------------------------------------------------------------------------------ memory

IMPORTS = """
import numpy as np
from ymir_exc.result_writer import InferResultWriter, MiningResultWriter, SegmentationResultWriter

def name(n):
    return f"/in/assets/{n:0200d}.jpg"
"""
MEMORY = {
    # A program; few and many; the most bytes that one more may cost. The name of an image alone would be 300, the runs of a mask 900.
    "a ranking, row by row": ("""
def act(count, end):
    with MiningResultWriter(rows_in_memory=1000) as ranking:
        for n in range(count):
            ranking.add(name(n), n * 0.37 % 1)
        end()
""", 12_000, 36_000, 60),
    "a ranking, batch by batch": ("""
def act(count, end):
    with MiningResultWriter(rows_in_memory=1000) as ranking:
        for first in range(0, count, 1000):
            ranking.add_batch([name(n) for n in range(first, first + 1000)], np.arange(first, first + 1000) * 0.37 % 1)
        end()
""", 12_000, 36_000, 60),
    "detections": ("""
def act(count, end):
    with InferResultWriter(["cat"]) as results:
        for n in range(count):
            results.add(name(n), np.ones((1, 4)), np.full(1, 0.5), np.zeros(1, int))
        results.add("last", [[1, 2, 3, 4]], [0.5], [0], rotate_angles=[0.0])    # so that no others wait
        end()
""", 5_000, 20_000, 150),
    "masks": ("""
def act(count, end):
    mask = np.indices((30, 30)).sum(axis=0) % 2    # as many runs as pixels
    with SegmentationResultWriter(["cat"]) as results:
        results.add("a.png", (30, 30))
        for n in range(count):
            results.add_object("a.png", 0, mask)
        end()
""", 50, 150, 60),
    "images of masks": ("""
def act(count, end):
    with SegmentationResultWriter(["cat"]) as results:
        for n in range(count):
            results.add(name(n), (60, 60))
        end()
""", 5_000, 20_000, 450),
}


@pytest.mark.parametrize("what", MEMORY)
def test_memory_of_a_writer(memory_growth, what):
    program, few, many, most = MEMORY[what]
    assert memory_growth(IMPORTS + program, few, many) < most


# ------------------------------------------------------------------------------------------------------------------------ mining

def test_paths_of_any_make(platform):
    rw.write_mining_result([(Path("/in/a.jpg"), 0.5), ("/in/b.jpg", np.int64(2))])
    assert (platform.out / "result.tsv").read_text() == "/in/b.jpg\t2\n/in/a.jpg\t0.5\n"


@pytest.mark.parametrize("paths", [np.array(["/a.jpg", "/b.jpg"]), np.array(["/a.jpg", "/b.jpg"], object), ("/a.jpg", Path("/b.jpg")),
                                   [np.str_("/a.jpg"), b"/b.jpg"]])
def test_batches_of_paths_of_any_make(platform, paths):
    with MiningResultWriter() as ranking:
        ranking.add("/c.jpg", 2.0)
        ranking.add_batch(paths, np.array([[0.25], [0.5]]))
        ranking.add("/d.jpg", 1.0)
        ranking.add_batch(paths[:1], (3,))
    assert (platform.out / "result.tsv").read_text() == "/a.jpg\t3\n/c.jpg\t2.0\n/d.jpg\t1.0\n/b.jpg\t0.5\n/a.jpg\t0.25\n"


@pytest.mark.parametrize(("paths", "scores", "words"), [
    (["/a", "/b"], np.zeros((2, 3)), r"mining scores must be \(N,\), are \(2, 3\)"),
    (np.array([["/a"] * 2]), [0.5], r"paths must be .* \(1, 2\)"), (["/a"], None, "mining scores must be a list, not None"),
    (None, [0.5], "paths must be a list, not None"), ("/a", [0.5, 0.5], "not '/a'"),
    (["/a", "/b"], np.ma.array([0.5, 0.7], mask=[0, 1]), "of '/b' is None"), (["/a"], [np.ma.masked], "of '/a' is masked"),
    (["/a"], np.array([np.longdouble("1e400")]), "of '/a' is"), (["/a"], [[0.5, 0.5]], "of '/a' is"),
    (["/a", "/b\r"], [0.5, 0.5], "holds a tab or a line break"), (["/b\0"], [0.5], "holds a tab"), (["/图\t"], [0.5], "holds a tab"),
])
def test_what_cannot_be_ranked_is_refused_at_once(platform, paths, scores, words):
    for act in (MiningResultWriter.add_batch, lambda r, p, s: r.add(p[-1], s[-1])):
        with MiningResultWriter() as ranking:
            if act is MiningResultWriter.add_batch or (isinstance(paths, list) and isinstance(scores, list)):
                with pytest.raises(ResultError, match=words):
                    act(ranking, paths, scores)
            assert ranking.count == 0
            ranking.add("/good.jpg", 1.0)
        assert (platform.out / "result.tsv").read_text() == "/good.jpg\t1.0\n"


@pytest.mark.parametrize("given", [None, 5, [None], [("/a",)], [("/a", np.ma.masked)]])
def test_what_is_no_ranking(platform, given):
    with pytest.raises(ResultError):
        rw.write_mining_result(given)


@pytest.mark.parametrize("rows", [0, -1, float("nan"), None, "many"])
def test_a_ranking_of_no_rows_in_memory(rows):
    with pytest.raises(ArgumentError, match="rows_in_memory"):
        MiningResultWriter(rows)


def test_long_doubles_become_doubles(platform):
    third = np.longdouble(1) / 3
    with MiningResultWriter() as ranking, InferResultWriter(NAMES) as results:
        ranking.add("/a.jpg", third)
        ranking.add_batch(["/b.jpg"], np.array([third]))
        ranking.add_batch(["/c.jpg"], [third])
        results.add("a.jpg", np.zeros((1, 4), np.longdouble), np.array([third]), np.array([0]))
    assert [float(line.split("\t")[1]) for line in (platform.out / "result.tsv").read_text().splitlines()] == [1 / 3] * 3
    assert detections(platform)["a.jpg"]["boxes"][0]["score"] == 1 / 3


def test_scores_of_32_bits_one_by_one(platform):
    with MiningResultWriter() as ranking:
        ranking.add("/a.jpg", np.float32(0.1))
        ranking.add_batch(["/b.jpg", "/c.jpg"], [np.float32(0.1 / 3), 1 / 3])
    assert (platform.out / "result.tsv").read_text() == "/c.jpg\t0.3333333333333333\n/a.jpg\t0.100000001\n/b.jpg\t0.0333333351\n"


@pytest.mark.parametrize("rows_in_memory", [1_000_000, 9_000])
@pytest.mark.parametrize("width", [0, 40, 300])
def test_long_paths_in_large_rankings(platform, rows_in_memory, width):
    """Alone among short ones, side by side with them, or all of them."""
    rng = random.Random(3)
    few = {7, 12_345, 24_999} if width < 300 else range(25_000)
    rows = [(f"/in/{n:0{width}d}" + ("图/" * (100 + n % 3000) if n in few else "") + ".jpg", rng.random()) for n in range(25_000)]
    with MiningResultWriter(rows_in_memory) as ranking:
        ranking.add_batch([path for path, _ in rows], np.array([score for _, score in rows]))
    assert as_rows((platform.out / "result.tsv").read_text()) == sorted(rows, key=lambda row: -row[1])
    assert sorted(os.listdir(platform.out)) == ["models", "result.tsv", "tensorboard"]


LONG_PATHS = """
import numpy as np
from ymir_exc.result_writer import write_mining_result

def act(longest, end):
    rows = [(f"/in/{n:040d}.jpg", n * 0.37 % 1) for n in range(60_000)]
    rows[30_000] = ("/in/" + "d" * longest, 0.5)
    end()
    write_mining_result(rows)
"""


def test_one_long_path_does_not_cost_all_rows_its_memory(memory_growth):
    assert memory_growth(LONG_PATHS, 10, 4_000) < 1000    # bytes, for each more of this one path; of each row it would be 60_000


@pytest.mark.parametrize("left", [24 * 20_000 - 100, 24 * 10_000 + 5, 100])
def test_a_disk_that_fills_up_while_rows_are_put_aside(platform, left):
    rw.write_mining_result([("/earlier.jpg", 1.0)])
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    ranking = MiningResultWriter(20_000)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (left, limits[1]))
        with pytest.raises(StorageError, match=r"result\.tsv"), ranking:
            for start in range(0, 30_000, 5000):
                ranking.add_batch([f"/a/{n:020d}" for n in range(start, start + 5000)], np.arange(5000) / 7)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (platform.out / "result.tsv").read_text() == "/earlier.jpg\t1.0\n"
    assert sorted(os.listdir(platform.out)) == ["models", "result.tsv", "tensorboard"]


@pytest.mark.parametrize(("row", "words"), [(("/a.jpg", 10 ** 400), "the mining score of '/a.jpg'"), (("/\ud800.jpg", 0.5), "is no text")])
def test_rows_that_no_file_can_hold(platform, row, words):
    with pytest.raises(ResultError, match=words):
        rw.write_mining_result([("/b.jpg", 0.5), row])
    assert not (platform.out / "result.tsv").exists()


def as_rows(text):
    return [(path, float(score)) for path, score in (line.split("\t") for line in text.splitlines())]


@pytest.mark.parametrize("rows_in_memory", [1_000_000, 7])
def test_a_ranking_in_parts_is_the_same_as_in_one(platform, rows_in_memory):
    rng = random.Random(0)
    rows = [(f"/图 {n}.jpg", rng.choice([1, 0.5, 2.5e-7, -3, rng.random()])) for n in range(100)]
    with MiningResultWriter(rows_in_memory) as ranking:
        ranking.add(*rows[0])
        for start in range(1, 100, 9):
            part = rows[start: start + 9]
            ranking.add_batch([path for path, _ in part], [score for _, score in part])
    streamed = (platform.out / "result.tsv").read_bytes()
    assert ranking.count == 100
    rw.write_mining_result(rows)
    assert (platform.out / "result.tsv").read_bytes() == streamed
    platform_rules.accept_mining(platform.out, [path for path, _ in rows])
    assert sorted(os.listdir(platform.out)) == ["models", "result.tsv", "tensorboard"]


def test_scores_as_arrays(platform):
    with MiningResultWriter() as ranking:
        ranking.add_batch(["/a.jpg", "/b.jpg"], np.array([0.25, 0.5], dtype=np.float32))
        ranking.add_batch(["/c.jpg"], np.array([3]))
    assert (platform.out / "result.tsv").read_text() == "/c.jpg\t3\n/b.jpg\t0.5\n/a.jpg\t0.25\n"


def test_a_bad_score_in_the_stream_costs_nothing(platform):
    rw.write_mining_result([("/earlier.jpg", 1.0)])
    with pytest.raises(ResultError, match="nan"), MiningResultWriter() as ranking:
        ranking.add("/a.jpg", 0.5)
        ranking.add_batch(["/b.jpg"], [float("nan")])
    with pytest.raises(ResultError, match="2 images and 1"), MiningResultWriter() as ranking:
        ranking.add_batch(["/b.jpg", "/c.jpg"], [0.5])
    assert (platform.out / "result.tsv").read_text() == "/earlier.jpg\t1.0\n"


@pytest.mark.parametrize("rows_in_memory", [1_000_000, 7_000])
def test_large_rankings(platform, rows_in_memory):
    rng = random.Random(1)
    rows = [(f"/{n}.jpg", rng.choice([0.5, 0.25, rng.random()])) for n in range(30_000)]
    expected = sorted(rows, key=lambda row: -row[1])

    with MiningResultWriter(rows_in_memory) as ranking:
        for path, score in rows[:15_000]:
            ranking.add(path, score)
        ranking.add_batch([path for path, _ in rows[15_000:]], [score for _, score in rows[15_000:]])
    assert as_rows((platform.out / "result.tsv").read_text()) == expected
    rw.write_mining_result(iter(rows))
    assert as_rows((platform.out / "result.tsv").read_text()) == expected


def test_an_empty_ranking(platform):
    with MiningResultWriter():
        pass
    assert (platform.out / "result.tsv").read_bytes() == b""


# ------------------------------------------------------------------------------------------------------------------ segmentation

def mask(*rows):
    return np.array([[int(c) for c in row] for row in rows])


def test_instances_of_every_form(platform):
    square = mask("0000", "0110", "0110")
    with SegmentationResultWriter(NAMES) as results:
        for name in ("/in/assets/x/a.png", "b.png", "c.png"):
            results.add(name, (4, 3))
        assert results.add_object("a.png", 1, square, score=np.float32(0.5))
        assert results.add_object("b.png", 0, [[1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]])
        assert results.add_object("a.png", 0, {"size": [3, 4], "counts": [4, 2, 1, 2, 3]})
        assert not results.add_object("a.png", 0, np.zeros((3, 4), bool)), "the platform drops what has no pixel"
    made = json.loads((platform.out / "infer-result.json").read_text())
    assert [image["file_name"] for image in made["images"]] == ["a.png", "b.png", "c.png"]
    assert [c["name"] for c in made["categories"]] == NAMES
    first = made["annotations"][0]
    assert (first["bbox"], first["area"], first["category_id"], first["confidence"], first["iscrowd"]) == ([1, 1, 2, 2], 4, 1, 0.5, 0)
    for annotation in made["annotations"]:
        assert (_rle.decode(annotation["segmentation"]) == square).all()
    platform_rules.accept_segmentation(platform.out, ["a.png", "b.png", "c.png"], NAMES)


class TensorWithGradient:
    """Gives its numbers only after `detach()` and `cpu()`, as one of torch on a GPU does."""

    def __init__(self, values, done=()):
        self.values, self.done = values, done

    def detach(self):
        return TensorWithGradient(self.values, (*self.done, "detach"))

    def cpu(self):
        return TensorWithGradient(self.values, (*self.done, "cpu"))

    def __array__(self, dtype=None, copy=None):
        if set(self.done) != {"detach", "cpu"}:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self.values


def test_classes_and_masks_of_any_make(platform):
    square = mask("000000", "011000", "011000")
    ring = RING
    with SegmentationResultWriter(NAMES) as results:
        results.add("a.png", np.array([6, 3]))
        for class_id, given in ((NAMES[1], [np.array(ring)]), (np.int64(1), (ring,)), (np.array([1]), square.tolist()),
                                (1.0, list(square)), (np.str_(NAMES[1]), TensorWithGradient(square)), (1, [np.array(ring)] * 2)):
            assert results.add_object("a.png", class_id, given)
        assert results.add_label_map("b.png", TensorWithGradient(square * 255), background=[255]) == 1
        assert results.add_label_map("c.png", square.astype(float), background=np.array([0, 255])) == 1
    made = json.loads((platform.out / "infer-result.json").read_text())["annotations"]
    assert [item["category_id"] for item in made] == [1] * 6 + [0, 1]
    for item in made[:6]:
        assert (_rle.decode(item["segmentation"]) == square).all()


def test_a_label_map_is_one_object_a_class(platform):
    with SegmentationResultWriter(NAMES) as results:
        assert results.add_label_map("a.png", mask("009", "019"), background=9) == 2
        assert results.add_label_map("b.png", mask("99"), background={9, 255}) == 0
    made = json.loads((platform.out / "infer-result.json").read_text())
    assert [(a["category_id"], a["iscrowd"], a["area"]) for a in made["annotations"]] == [(0, 1, 3), (1, 1, 1)]
    platform_rules.accept_segmentation(platform.out, ["a.png", "b.png"], NAMES)


class BrainFloats:
    """As a tensor of torch.bfloat16 is."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Got unsupported ScalarType BFloat16")


def test_a_label_map_with_an_unknown_class_adds_nothing(platform):
    with SegmentationResultWriter(NAMES) as results:
        with pytest.raises(ResultError, match=r"a\.png: object 2: class 7 is none of the 2 classes"):
            results.add_label_map("a.png", mask("07"))
        assert results.add_label_map("a.png", mask("07"), background=7) == 1
    made = json.loads((platform.out / "infer-result.json").read_text())
    assert (len(made["images"]), len(made["annotations"])) == (1, 1)


@pytest.mark.parametrize("size", [[3, 8], [6, 4]])
def test_run_lengths_of_another_size_than_their_image(platform, size):
    def coco(**edges):
        return {"images": [{"id": 1, "file_name": "a.png", **edges}], "categories": [{"id": 0, "name": "cat"}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 0, "segmentation": {"size": size, "counts": [9, 15]}}]}

    with pytest.raises(ResultError, match=rf"a\.png: .*the mask is \[{size[0]}, {size[1]}\], the image \[4, 6\]"):
        rw.write_infer_result(coco(width=6, height=4), algorithm="segmentation")
    rw.write_infer_result(coco(width=str(size[1]), height=size[0]), algorithm="segmentation")
    rw.write_infer_result(coco(), algorithm="segmentation")


@pytest.mark.parametrize(("act", "words"), [
    (lambda r: r.add("x/a.png", (2, 2)), "added before"),
    (lambda r: r.add_object("other.png", 0, mask("1")), "was not added"),
    (lambda r: r.add_object("a.png", 2, mask("11", "11")), "none of the 2 classes"),
    (lambda r: r.add_object("a.png", 0, mask("111")), r"the mask is \[1, 3\], the image \[2, 2\]"),
    (lambda r: r.add_object("a.png", 0, mask("11", "11"), score=float("inf")), "the score is inf"),
    (lambda r: r.add_object("a.png", 0, {"counts": "x"}), "cannot be used"),
    (lambda r: r.add_object("a.png", 0, np.zeros(4)), "cannot be used"),
    (lambda r: r.add_label_map("b.png", np.zeros(4)), "must be"),
    (lambda r: r.add_label_map("b.png", np.zeros((0, 4))), "must be"),
    (lambda r: r.add_label_map("b.png", np.array([[0, float("nan")]])), r"b\.png: .*whole numbers"),
    (lambda r: r.add_label_map("b.png", np.array([[0, 0.5]])), r"b\.png: .*whole numbers"),
    (lambda r: r.add_label_map("b.png", np.array([["0"]])), r"b\.png: .*whole numbers"),
    (lambda r: r.add_object("a.png", "bird", mask("11", "11")), r"a\.png: object 1: class 'bird' is none of the 2 classes"),
    (lambda r: r.add_object("a.png", None, mask("11", "11")), r"a\.png: object 1: class None is none"),
    (lambda r: r.add_object("a.png", float("nan"), mask("11", "11")), r"a\.png: object 1: class nan is none"),
    (lambda r: r.add_object("a.png", 0.5, mask("11", "11")), r"a\.png: object 1: class 0\.5 is none"),
    (lambda r: r.add_object("a.png", [0, 1], mask("11", "11")), r"a\.png: object 1: class .* is none"),
    (lambda r: r.add_object("a.png", 0, mask("11", "11"), is_crowd="x"), r"a\.png: object 1: is_crowd is 'x'"),
    (lambda r: r.add_label_map("b.png", [[0, 1], [1]]), r"b\.png: .*label map"),
    (lambda r: r.add_label_map("b.png", BrainFloats()), r"b\.png: the label map.*BFloat16"),
    (lambda r: r.add_label_map("b.png", mask("11"), background=[[1]]), r"b\.png: the label map or its background \(\[\[1\]\]\)"),
    (lambda r: r.add("b.png", None), r"b\.png: image_size is None"),
    (lambda r: r.add("b.png", (640,)), r"b\.png: image_size is \(640,\)"),
    (lambda r: r.add("b.png", (640, 0)), r"b\.png: image_size is"),
    (lambda r: r.add("b.png", ("a", 3)), r"b\.png: image_size is"),
])
def test_what_is_no_segmentation(platform, act, words):
    rw.write_infer_result({"earlier.jpg": []})
    with pytest.raises(ResultError, match=words), SegmentationResultWriter(NAMES) as results:
        results.add("a.png", (2, 2))
        act(results)
    assert list(detections(platform)) == ["earlier.jpg"]
    assert sorted(os.listdir(platform.out)) == ["infer-result.json", "models", "tensorboard"]


RING = [1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]
POINTS = [(1.0, 1.0), (3.0, 1.0), (3.0, 3.0), (1.0, 3.0)]
OTHER = [5.0, 2.0, 8.0, 2.0, 8.0, 4.0]


@pytest.mark.parametrize("given", [
    RING, tuple(RING), np.array(RING), np.array(RING, int), [RING], (RING,), np.array([RING]).reshape(1, 4, 2), [np.array(RING)],
    [np.float32(value) for value in RING], POINTS, tuple(POINTS), list(map(list, POINTS)), list(map(np.array, POINTS)), np.array(POINTS),
    np.array(POINTS, np.int32)[:, None], [np.array(POINTS, np.int32)[:, None]], np.array(POINTS, np.float16), [POINTS], (POINTS, POINTS),
    [np.array(POINTS)] * 2, np.array([POINTS, POINTS]), [RING, POINTS], [np.array(POINTS), RING, tuple(POINTS)],
    [list(map(np.array, POINTS))], TensorWithGradient(np.array(POINTS)), [TensorWithGradient(np.array(POINTS))],
    TensorWithGradient(np.array(RING)),
])
def test_polygons_of_any_shape(platform, given):
    with SegmentationResultWriter(NAMES) as results:
        results.add("a.png", (10, 6))
        assert results.add_object("a.png", 0, given)
    made = json.loads((platform.out / "infer-result.json").read_text())["annotations"][0]
    assert made["segmentation"] == _rle.from_polygons([RING], 6, 10)
    assert (made["bbox"], made["area"]) == ([1, 1, 2, 2], 4)


@pytest.mark.parametrize("given", [[RING, OTHER], [POINTS, OTHER], [np.array(POINTS), np.array(OTHER).reshape(-1, 2)],
                                   [np.array(OTHER).reshape(-1, 1, 2), np.array(RING)]])
def test_several_polygons_of_an_object(platform, given):
    with SegmentationResultWriter(NAMES) as results:
        results.add("a.png", (10, 6))
        assert results.add_object("a.png", 0, given)
    made = json.loads((platform.out / "infer-result.json").read_text())["annotations"][0]
    assert made["segmentation"] == _rle.from_polygons([RING, OTHER], 6, 10)
    assert made["bbox"] == [1, 1, 7, 3]
    platform_rules.accept_segmentation(platform.out, ["a.png"], NAMES)


def test_a_polygon_of_one_pixel_is_no_row_of_a_mask(platform):
    with SegmentationResultWriter(NAMES) as results:
        results.add("a.png", (10, 6))
        assert results.add_object("a.png", 0, [[0, 0, 1, 0, 1, 1, 0, 1]])
    assert json.loads((platform.out / "infer-result.json").read_text())["annotations"][0]["bbox"] == [0, 0, 1, 1]


@pytest.mark.parametrize(("size", "given"), [
    ((2, 4), [[0, 1], [1, 1], [0, 1], [0, 0]]), ((2, 4), np.array([[0, 9], [9, 9], [0, 9], [0, 0]])), ((6, 1), [[0, 5, 5, 0, 5, 0]]),
    ((6, 2), [[0, 0, 0, 0, 0, 7], [7] * 6]), ((2, 4), [np.array([0, 1]), np.array([1, 1]), [0, 1], (False, False)]),
])
def test_what_has_the_shape_of_the_image_is_a_mask(platform, size, given):
    with SegmentationResultWriter(NAMES) as results:
        results.add("a.png", size)
        assert results.add_object("a.png", 0, given)
    made = json.loads((platform.out / "infer-result.json").read_text())["annotations"][0]
    assert (_rle.decode(made["segmentation"]) == (np.array([list(row) for row in given]) != 0)).all()


@pytest.mark.parametrize(("given", "words"), [
    (RING[:4], r"polygons\[0\]: a polygon needs three points"), (POINTS[:2], r"polygons\[0\]: a polygon needs three points"),
    ([RING, RING[:4]], r"polygons\[1\]: a polygon needs three points"), ([POINTS, POINTS[:2]], r"polygons\[1\]: a polygon needs three"),
    ([RING, []], r"polygons\[1\]: a polygon needs three points"), (np.array(POINTS)[:2], r"polygons\[0\]: a polygon needs three points"),
    (RING[:7], r"polygons\[0\]: a polygon needs three points"), (np.zeros((3, 3, 2))[:, :0], r"polygons\[0\]: a polygon needs three"),
    ([*RING[:7], float("nan")], r"polygons\[0\]: a polygon's coordinates must be numbers within"),
    (np.array([*POINTS, (1, np.nan)]), r"polygons\[0\]: a polygon's coordinates must be numbers"),
    ([RING, [(1, 1), (2, 2), (float("inf"), 3)]], r"polygons\[1\]: a polygon's coordinates must be numbers"),
    ([[(1, 1), (2, 2), (3,)]], r"polygons\[0\]: "), ([RING, ["a"] * 6], r"polygons\[1\]: "), ([1, 2, 3, 4, 5, None], r"polygons\[0\]: "),
    ([POINTS, 5], r"polygons\[0\]: "), ([], r"a mask must be \(H, W\)"), (np.zeros((1, 6, 10)), r"a mask must be \(H, W\).*\(1, 6, 10\)"),
    ([[0, 1, 1, 0, 1, 1]] * 3, r"the mask is \[3, 6\], the image \[6, 10\]"),
    (np.zeros((9, 2), bool), r"the mask is \[9, 2\], the image \[6, 10\]"),
])
def test_what_is_no_polygon_is_named_with_its_place(platform, given, words):
    with pytest.raises(ResultError, match=r"b\.png: object 3: .*" + words), SegmentationResultWriter(NAMES) as results:
        for name in ("a.png", "b.png"):
            results.add(name, (10, 6))
            results.add_object(name, 0, RING)
        results.add_object("b.png", 0, np.zeros((6, 10)))    # left out, and counted
        results.add_object("a.png", 0, RING)
        results.add_object("b.png", 0, given)
    assert not (platform.out / "infer-result.json").exists()
