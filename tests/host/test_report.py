"""The page's facts, from what tasks left: read, matched, sampled, and put into one file."""
from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("PIL")

from tests.host.report_cases import CLASSES, EVIL, IMAGES, write_events, write_inputs, write_outputs, write_task, write_yaml  # noqa: E402
from ymir_exc import cli  # noqa: E402
from ymir_exc.host import report  # noqa: E402
from ymir_exc.host.report import _events, _gallery, _match, _page, _rotated, _runs  # noqa: E402
from ymir_exc.host.report._objects import Classes, Objects, read_predictions, whole_score  # noqa: E402


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path / "a task 任务")


def facts_of(*outs, tmp_path, **options):
    made = report.write_report([*outs], tmp_path / "report.html", **options)
    assert json.loads(made.json.read_text(encoding="utf-8")) == json.loads(json.dumps(made.facts))
    return made.facts


def objects(*rows):
    """Rows of class, score, x, y, w, h."""
    boxes = np.array([(x, y, x + w, y + h) for _, _, x, y, w, h in rows], float).reshape(-1, 4)
    return Objects(boxes, np.array([row[0] for row in rows], int), np.array([whole_score(row[1]) for row in rows], int), [None] * len(rows))


# ------------------------------------------------------------------------------------------------------------- matching


def test_the_surest_takes_what_it_overlaps_most():
    true = objects((0, 1, 0, 0, 10, 10), (0, 1, 20, 0, 10, 10))
    found = objects((0, 0.5, 0, 0, 10, 10), (0, 0.9, 1, 0, 10, 10), (0, 0.4, 20, 0, 10, 10), (1, 0.99, 0, 0, 10, 10))
    ious = _match.overlaps(found, true)
    assert ious[0].tolist() == [1, 0] and ious[1, 0] == pytest.approx(90 / 110)
    assert _match.match(ious, found, true, same_class=True) == [-1, 0, 1, -1], "the second is surer than the first"
    assert _match.match(ious, found, true, same_class=False) == [-1, -1, 1, 0]
    assert _match.mistakes(found, true, [-1, 0, 1, -1], 4000) == (0, 2)
    assert _match.mistakes(found, true, [-1, 0, 1, -1], 9000) == (1, 1)


def test_an_overlap_of_just_a_half_counts_and_less_does_not():
    true = objects((0, 1, 0, 0, 10, 20))
    for height, expected in ((10, [0]), (9, [-1])):
        found = objects((0, 1, 0, 0, 10, height))
        assert _match.match(_match.overlaps(found, true), found, true, same_class=True) == expected
    none = objects()
    assert _match.match(_match.overlaps(none, true), none, true, same_class=True) == []
    assert _match.match(_match.overlaps(true, none), true, none, same_class=True) == [-1]


def test_masks_decide_where_both_have_one():
    from ymir_exc import _rle
    left = np.zeros((10, 20), bool)
    left[:, :10] = True
    right = ~left
    true = objects((0, 1, 0, 0, 20, 10))._replace(masks=[_rle.encode(left)])
    for mask, iou in ((left, 1.0), (right, 0.0)):
        found = objects((0, 1, 0, 0, 20, 10))._replace(masks=[_rle.encode(mask)])
        assert _match.overlaps(found, true)[0, 0] == iou
    polygon = objects((0, 1, 0, 0, 20, 10))._replace(masks=[[[0, 0, 10, 0, 10, 10, 0, 10]]])
    assert _match.overlaps(polygon, true)[0, 0] == 1.0
    broken = objects((0, 1, 0, 0, 20, 10))._replace(masks=[{"size": [10, 20], "counts": "~"}])
    assert _match.overlaps(broken, true)[0, 0] == 1.0, "of boxes, where a mask is malformed"


def test_turned_boxes_overlap_as_they_lie():
    square = _rotated.corners((0, 0, 10, 10), 0.0)
    assert _rotated.overlap(square, square) == 1.0
    assert _rotated.overlap(square, _rotated.corners((0, 0, 10, 10), math.pi / 2)) == pytest.approx(1.0)
    octagon = 200 * (math.sqrt(2) - 1)    # what a square and itself, turned by 45 degrees, have in common
    assert _rotated.overlap(square, _rotated.corners((0, 0, 10, 10), math.pi / 4)) == pytest.approx(octagon / (200 - octagon))
    assert _rotated.overlap(square, _rotated.corners((10, 0, 20, 10), 0.3)) < 0.1
    assert _rotated.corners((0, 0, 4, 2), math.pi / 2)[0] == pytest.approx((3, -1)), "clockwise: the upper left corner goes to the right"
    rng = random.Random(2)
    for _ in range(20):    # of upright boxes as by their edges
        rows = [(0, 1, rng.uniform(0, 9), rng.uniform(0, 9), rng.uniform(1, 9), rng.uniform(1, 9)) for _ in range(2)]
        one, other = (objects(row).boxes[0] for row in rows)
        assert _rotated.overlap(_rotated.corners(one, 0), _rotated.corners(other, 0)) == \
            pytest.approx(_match.overlaps(objects(rows[0]), objects(rows[1]))[0, 0])


def test_turned_boxes_are_matched_as_they_lie(tmp_path):
    images = {f"{n}.png": ([], []) for n in range(2)}
    root = write_task(tmp_path / "t", images)
    for n, angle in enumerate((0.8, 0.0)):
        (root / f"in/annotations/{n}.txt").write_text(f"0, 10, 40, 109, 59, -1.0, {angle}\n", encoding="utf-8")
    box = {"class_name": "cat", "score": 0.9, "box": {"x": 10, "y": 40, "w": 100, "h": 20, "rotate_angle": 0.8}}
    (root / "out/infer-result.json").write_text(json.dumps({"detection": {name: {"boxes": [box]} for name in images}}), encoding="utf-8")
    facts = facts_of(root, tmp_path=tmp_path)
    first, second = facts["gallery"]["images"]
    assert (first["found"][0][6], first["found_angles"], first["truth_angles"]) == (0, [0.8], [0.8])
    assert (second["found"][0][6], second["truth_angles"]) == (-1, None), "they cross: the upright boxes would be the same"
    assert (facts["quality"]["mAP"], facts["quality"]["mAP_missing"]) == (None, "rotated"), "COCO compares upright boxes"


def test_precision_recall_and_confusion_by_hand():
    quality = _match.Quality()
    assert quality.result() is None
    quality.add(objects((0, 0.9, 0, 0, 10, 10), (0, 0.6, 50, 0, 10, 10), (1, 0.3, 20, 0, 10, 10)),
                objects((0, 1, 0, 0, 10, 10), (0, 1, 20, 0, 10, 10), (1, 1, 80, 0, 10, 10)))
    result = quality.result()
    cat, dog = result["classes"]
    assert cat["curve"] == [[0.9, 1.0, 0.5], [0.6, 0.5, 0.5]] and (cat["truth"], cat["found"]) == (2, 2)
    assert dog["curve"] == [[0.3, 0.0, 0.0]]
    assert cat["hits"][90] == 1 and sum(cat["hits"]) == 1 and cat["false"][60] == 1 and dog["false"][30] == 1
    assert result["best_threshold"] == 0.9, "one right of one found, of three: the F1 is 2 * 1 / (1 + 3)"
    assert result["confusion"]["cells"] == [[-1, 0, [[60, 1]]], [0, 0, [[90, 1]]], [0, 1, [[30, 1]]]]
    assert result["confusion"]["truth"] == [2, 1] and result["confusion"]["others"] == 0


def test_one_matching_serves_every_threshold():
    """What the page counts from it is what a matching of only those above the threshold would give."""
    rng = random.Random(1)
    for _ in range(30):
        rows = [[(rng.randrange(2), rng.random(), rng.randrange(40), rng.randrange(40), 20, 20) for _ in range(count)] for count in (8, 5)]
        found, true = objects(*rows[0]), objects(*rows[1])
        matched = _match.match(_match.overlaps(found, true), found, true, same_class=True)
        for threshold in range(0, 10001, 500):
            kept = objects(*(row for row in rows[0] if whole_score(row[1]) >= threshold))
            again = _match.match(_match.overlaps(kept, true), kept, true, same_class=True)
            hits = sum(m != -1 for m in again)
            assert _match.mistakes(found, true, matched, threshold) == (5 - hits, len(again) - hits)


def test_many_classes_are_put_together():
    quality = _match.Quality()
    for label in range(40):
        quality.add(objects((label, 0.9, 0, 0, 10, 10)), objects(*[(label, 1, 0, 0, 10, 10)] * (50 - label)))
    confusion = quality.result()["confusion"]
    assert confusion["classes"] == list(range(25)) and confusion["others"] == 15
    assert confusion["others_truth"] == sum(50 - label for label in range(25, 40))


# ------------------------------------------------------------------------------------------------------------- sampling


def test_the_sample_is_said_and_always_the_same():
    names = [f"{n}.png" for n in range(100)]
    ranks = {name: (n + 1, 0.0) for n, name in enumerate(reversed(names))}
    wrong = {name: n % 10 for n, name in enumerate(names)}
    chosen = _gallery.choose(names, 30, ranks, wrong)
    assert chosen == _gallery.choose(names, 30, ranks, wrong)
    assert (chosen.by_rank, chosen.by_mistakes, chosen.at_random) == (10, 10, 10) and len(set(chosen.names)) == 30
    assert set(names[90:]) <= set(chosen.names), "the highest ranked"
    assert {name for name in names[:90] if wrong[name] == 9} <= set(chosen.names), "the most mistakes"
    assert chosen.names == sorted(chosen.names, key=names.index)
    assert _gallery.choose(names, 30, {}, {}).at_random == 30
    assert _gallery.choose(names, 100, ranks, wrong) == (names, 0, 0, 0)
    assert _gallery.choose(names, 0, ranks, wrong).names == []


def test_a_histogram_counts_every_score():
    made = _gallery.histogram([0.0, 1.0, 1.0, 0.5])
    counts = made["counts"]
    assert (made["low"], made["high"], sum(counts), counts[0], counts[20], counts[-1]) == (0.0, 1.0, 4, 1, 1, 2)
    assert _gallery.histogram([2.0, 2.0])["counts"][0] == 2


def test_a_mask_in_the_pixels_of_a_thumbnail():
    from ymir_exc import _rle
    mask = np.zeros((40, 80), bool)
    mask[20:, 40:] = True
    runs = _gallery._runs(_rle.encode(mask), (80, 40), (8, 4))
    flat = np.repeat(np.arange(len(runs)) % 2, runs).reshape(4, 8)
    assert (flat == mask[::10, ::10]).all()
    assert _gallery._runs(None, (80, 40), (8, 4)) is None and _gallery._runs({"size": [1]}, (80, 40), (8, 4)) is None


# --------------------------------------------------------------------------------------------------------------- the facts


def test_a_task_is_told(task, tmp_path):
    os.utime(task / "in" / "env.yaml", (1900, 1900))
    facts = facts_of(task, tmp_path=tmp_path)
    run, = facts["runs"]
    assert (run["ended"], run["seconds"], run["tasks"]) == ("done", 100.0, ["training"])
    assert run["seconds_by"] == "monitor"
    assert run["images"] == {"train": 0, "val": 3, "candidate": 3}
    assert [(stage["name"], stage["best"], stage["metrics"]) for stage in run["stages"]] == \
        [("epoch_0", False, {"mAP": 0.25}), ("epoch_1", True, {"mAP": 0.5})]
    assert [point[0] for point in run["scalars"]["loss"]] == [0, 1, 2] and [point[0] for point in run["scalars"]["map"]] == [0, 2]
    assert run["log"] == ["PyTorch: 2.1.0", "red", f"the last {EVIL}"] and run["log_versions"] == {"torch": "2.1.0"}
    assert facts["classes"] == CLASSES and facts["machine"]["python"]
    assert facts["mining"]["count"] == 3 and [image["rank"] for image in facts["gallery"]["images"]] == [1, 2, 3]
    quality = facts["quality"]
    assert quality["images"] == 3 and [(one["truth"], one["found"]) for one in quality["classes"]] == [(1, 3), (2, 2)]
    first = facts["gallery"]["images"][0]
    assert first["truth"] == [[0, 10.0, 10.0, 40.0, 40.0]] and first["found"][0] == [0, 0.9, 11.0, 11.0, 40.0, 40.0, 0]


def test_map_is_of_the_reference_or_not_there(task, tmp_path, monkeypatch):
    pytest.importorskip("pycocotools")
    assert facts_of(task, tmp_path=tmp_path)["quality"]["mAP50"] == pytest.approx(0.75, abs=0.01), "cats 1, dogs a half"

    def missing(*_):
        raise ModuleNotFoundError("pycocotools")

    monkeypatch.setattr("ymir_exc.evaluation.mean_average_precision", missing)
    assert facts_of(task, tmp_path=tmp_path)["quality"]["mAP_missing"] == "no pycocotools"
    monkeypatch.setattr(report, "MOST_JUDGED", 0)
    missing = facts_of(task, tmp_path=tmp_path)["quality"]
    assert (missing["mAP"], missing["mAP50"], missing["mAP_images"], missing["mAP_missing"]) == (None, None, 0, "too many")


def test_map_of_many_images_is_that_of_a_sample(task, tmp_path, monkeypatch):
    pytest.importorskip("pycocotools")
    from ymir_exc import evaluation
    judged = []
    real = evaluation.mean_average_precision
    monkeypatch.setattr("ymir_exc.evaluation.mean_average_precision", lambda *given: judged.append(len(given[0])) or real(*given))
    assert facts_of(task, tmp_path=tmp_path)["quality"]["mAP_images"] == 3
    monkeypatch.setattr(report, "MOST_JUDGED", 3)    # cat; cat and dog; dog; and of each a little for the classes that there are
    quality = facts_of(task, tmp_path=tmp_path)["quality"]
    assert judged == [3, quality["mAP_images"]] and quality["mAP_images"] in (1, 2) and quality["images"] == 3
    assert 0 <= quality["mAP"] <= quality["mAP50"] <= 1 and quality["mAP_missing"] == ""
    assert facts_of(task, tmp_path=tmp_path)["quality"] == quality, "the same sample again"


def test_findings_are_those_of_check(task, tmp_path):
    from ymir_exc.host.check import check_output
    result = (task / "out/models/result.yaml").read_text(encoding="utf-8")
    (task / "out/models/result.yaml").write_text(result.replace("mAP: 0.25", "mAP: 25.0"), encoding="utf-8")
    expected = list(check_output(task / "out", given=task / "in"))
    told = facts_of(task, tmp_path=tmp_path)["runs"][0]["findings"]
    assert told["counts"]["error"] == sum(one.rule.severity.value == "error" for one in expected) > 0
    assert {one["code"] for one in told["listed"]} == {one.rule.code for one in expected}


@pytest.mark.parametrize("line,ended", [
    ("t\t1\t1.00\t2", "done"), ("t\t1\t0.50\t3", "done"), ("t\t1\t0.50\t4\t300001\tno labels", "failed"), ("t\t1\t0.50\t2", "unfinished"),
    ("t\t1\t0.00\t1", "pending"), ("broken", "unknown"), ("", "unknown")])
def test_how_it_ended(tmp_path, line, ended):
    (tmp_path / "monitor.txt").write_text(line, encoding="utf-8")
    told = _runs.describe(_runs.Run("x", tmp_path, None))
    assert told["ended"] == ended and told["seconds"] is None
    assert told["message"] == ("no labels" if ended == "failed" else "")


def test_runs_are_found_in_every_form(tmp_path):
    for name in ("training", "mining"):
        write_task(tmp_path / name)
    write_inputs(tmp_path / "dataset", IMAGES)
    (tmp_path / "dataset" / "out").mkdir()
    (tmp_path / "dataset" / "out" / "monitor.txt").write_text("t\t0\t0.00\t1\n", encoding="utf-8")
    assert sorted(run.name for run in _runs.find_runs([tmp_path])) == ["mining", "training"], "what has not started is none"
    for given in ("training", "training/out"):
        run, = _runs.find_runs([tmp_path / given])
        assert (run.name, run.out, run.given) == ("training", tmp_path / "training/out", tmp_path / "training/in")
    (tmp_path / "training" / "out").rename(tmp_path / "alone")
    run, = _runs.find_runs([tmp_path / "alone"])
    assert (run.name, run.given) == ("alone", None)
    assert len(_runs.find_runs([tmp_path / "mining", tmp_path / "mining/out"])) == 1


def test_the_truth_of_a_sample_and_segmentation(tmp_path):
    from PIL import Image

    from ymir_exc import _rle
    mask = np.zeros((90, 120), bool)
    mask[10:50, 10:50] = True
    inside, out = tmp_path / "in", tmp_path / "run" / "out"
    for folder in (inside / "assets", tmp_path / "truth" / "annotations", out):
        folder.mkdir(parents=True)
    Image.new("RGB", (120, 90)).save(inside / "assets" / "a.png")
    write_yaml(inside / "config.yaml", {"class_names": CLASSES, "export_format": "seg-coco:raw"})
    rows = {"bbox": [10, 10, 40, 40], "area": 1600, "segmentation": _rle.encode(mask), "iscrowd": 0}
    document = {"images": [{"id": 1, "file_name": "a.png", "width": 120, "height": 90}], "categories": [{"id": 1, "name": "Dog "}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **rows}]}
    (tmp_path / "truth/annotations/coco-annotations.json").write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "truth/candidate-index.tsv").write_text("/in/assets/a.png\t/truth/annotations/coco-annotations.json\n", encoding="utf-8")
    (inside / "candidate-index.tsv").write_text("/in/assets/a.png\n", encoding="utf-8")
    document["annotations"][0]["confidence"] = 0.75
    (out / "infer-result.json").write_text(json.dumps(document), encoding="utf-8")
    made = report.write_report([out], tmp_path / "report.html", data=tmp_path)
    image, = made.facts["gallery"]["images"]
    assert image["found"] == [[1, 0.75, 10.0, 10.0, 40.0, 40.0, 0]] and image["truth"] == [[1, 10.0, 10.0, 40.0, 40.0]]
    assert made.facts["quality"]["by"] == "masks" and made.facts["quality"]["mAP"] is None and made.facts["classes"] == CLASSES
    picture, = data_of(made.page)["pictures"]
    assert sum(picture["masks"][0][1::2]) == 1600 and picture["masks"] == picture["trueMasks"]


def test_without_the_start_the_events_tell_the_time(task, tmp_path):
    (task / "in").rename(tmp_path / "elsewhere")
    run, = facts_of(task / "out", tmp_path=tmp_path)["runs"]
    assert (run["seconds"], run["seconds_by"]) == (2.0, "events")


def test_only_labels_where_no_model_looked(tmp_path):
    write_inputs(tmp_path / "t", IMAGES)
    (tmp_path / "t/out").mkdir()
    (tmp_path / "t/out/monitor.txt").write_text("t\t1\t0.5\t4\t300002\n", encoding="utf-8")
    facts = facts_of(tmp_path / "t", tmp_path=tmp_path)
    assert facts["quality"] is None and facts["mining"] is None
    assert [(image["found"], len(image["truth"])) for image in facts["gallery"]["images"]] == [(None, 1)] * 3


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"detection": []}', '{"detection": {"a.png": 3}}',
                                  '{"images": [3], "annotations": [{}]}',
                                  '{"detection": {"a.png": {"boxes": [{"class_name": "cat", "score": NaN, "box": {}}, 7, {"box": [1]}]}}}'])
def test_predictions_that_cannot_be_used_are_told(tmp_path, text):
    (tmp_path / "infer-result.json").write_text(text, encoding="utf-8")
    problems = []
    found = read_predictions(tmp_path / "infer-result.json", Classes(), problems)
    assert all(not len(one.scores) for one in found.values())
    assert problems or text == '{"detection": {"a.png": 3}}'


def test_broken_images_logs_and_events_are_told_not_raised(task, tmp_path):
    (task / "in/assets/a.png").write_bytes(b"no image")
    (task / "in/assets/b 图.png").unlink()
    (task / "in/annotations/2.txt").write_text("0, 1, 2\n", encoding="utf-8")
    (task / "in/config.yaml").write_text("class_names: [cat, dog\n", encoding="utf-8")
    next((task / "out/tensorboard").iterdir()).write_bytes(b"\x18" + bytes(40))
    (task / "out/tensorboard/executor.log").symlink_to("/nowhere/at all")
    (task / "out/ymir-executor-out.log").write_bytes(b"\xff\xfe broken\n")
    (task / "out/result.tsv").write_text("/in/assets/a.png\tnan\nb\n\n", encoding="utf-8")
    facts = facts_of(task, tmp_path=tmp_path)
    assert any("config.yaml" in one for one in facts["runs"][0]["problems"])
    assert any("2 lines have no finite score" in one for one in facts["runs"][0]["problems"])
    assert facts["gallery"]["images"][0]["error"] == "cannot be read as an image: cannot identify image file", "the path is left out"
    assert facts["gallery"]["images"][1]["error"] == "not on this machine"


def test_what_steers_a_terminal_is_left_out_of_the_log(tmp_path):
    text = ("\x1b[1;32mgreen\x1b[m \x1b]0;title\x07a \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ \x1b(Bb \x9b31mc \x1b[?25ld "
            "\x1b[38;2;1;2;3mcolour\x1b[0m \u202eturned\u202c 任务\tend\x00\x07\x1b\n")
    (tmp_path / "log").write_text(text, encoding="utf-8")
    assert _runs.log_tail(tmp_path / "log") == ["green a link b c d colour turned 任务\tend"]
    (tmp_path / "monitor.txt").write_text("t\t1\t0.50\t4\t300001\t\x1b[31mno labels\x1b[0m\n", encoding="utf-8")
    assert _runs.describe(_runs.Run("x", tmp_path, None))["message"] == "no labels"


def test_values_that_no_curve_can_show_are_told(tmp_path):
    write_events(tmp_path, {"loss": [1.0, float("nan"), float("inf")], "map": [float("nan")], "lr": [0.1]})
    problems = []
    assert sorted(_events.read_scalars(tmp_path, problems)) == ["loss", "lr"]
    assert problems == ["values of curves that are not finite, which are left out: 2 of loss, 1 of map"]


def test_the_progress_ends_when_the_figures_are_there(task, tmp_path, monkeypatch):
    told = []
    quality = report._Shown.quality
    monkeypatch.setattr(report._Shown, "quality", lambda self: (told.append("quality"), quality(self))[1])
    report.write_report([task], tmp_path / "report.html", on_progress=lambda done, total: told.append(done / total))
    assert told[-2:] == ["quality", 1.0] and max(one for one in told if one != "quality" and told.index(one) < told.index("quality")) <= 0.9


def test_events_after_a_resume_count_later_and_are_thinned(tmp_path):
    write_events(tmp_path / "tb" / "a", {"loss": [float(n) for n in range(1000)]})
    problems = []
    curve = _events.read_scalars(tmp_path / "tb", problems)["a/loss"]
    assert len(curve) == _events.MOST_POINTS and (curve[0][0], curve[-1][0]) == (0, 999) and not problems
    points = {}
    for when, value in ((10.0, 1.0), (20.0, 2.0), (15.0, 3.0)):
        _events._keep(points, 5, when, value)
    assert points == {5: (20.0, 2.0)}
    assert _events.read_scalars(tmp_path / "none", problems) == {}


# ---------------------------------------------------------------------------------------------------------------- the page


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL).group(1))


def test_no_name_leaves_the_data(task, tmp_path):
    made = report.write_report([task], tmp_path / "report.html")
    text = made.page.read_text(encoding="utf-8")
    assert text.count("</script>") == 2 and "window.ran" in text
    assert EVIL.replace("/", "∕") in [image["name"] for image in data_of(made.page)["report"]["gallery"]["images"]]
    for evil in ("</script>", "<!--<script>", "\u2028", "&lt;"):
        assert json.loads(_page.escaped([evil])) == [evil] and not re.search("[<>&\u2028]", _page.escaped([evil]))
    assert json.loads(_page.escaped(["\udcff"])) == ["?"], "a name that is not UTF-8"
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text.replace("http-equiv", ""))


def test_every_word_is_in_both_languages():
    words = (_page.ASSETS / "words.js").read_text(encoding="utf-8")
    english, chinese = words.split("\n  zh: {")
    keys = [re.findall(r"(?:^|[ {,])([A-Za-z_0-9]+): '", part.split("en: {")[-1]) for part in (english, chinese)]
    assert keys[0] == keys[1] and len(set(keys[0])) == len(keys[0]) > 80
    used = set(re.findall(r"\bt\('(\w+)'", "".join((_page.ASSETS / name).read_text(encoding="utf-8") for name in _page.SCRIPTS)))
    assert used <= set(keys[0])


def test_ten_thousand_images_make_a_small_page(tmp_path):
    root = write_task(tmp_path / "t")
    first = root / "in/assets/a.png"
    names = [f"{n:05}.png" for n in range(10_000)]
    for name in names[:40]:
        os.link(first, root / "in/assets" / name)
    (root / "in/candidate-index.tsv").write_text("".join(f"/in/assets/{name}\n" for name in names), encoding="utf-8")
    box = {"class_name": "cat", "score": 0.5, "box": {"x": 1, "y": 1, "w": 30, "h": 30}}
    (root / "out/infer-result.json").write_text(json.dumps({"detection": {name: {"boxes": [box] * 5} for name in names}}), encoding="utf-8")
    (root / "out/result.tsv").write_text("".join(f"/in/assets/{name}\t{-n}\n" for n, name in enumerate(names)), encoding="utf-8")
    made = report.write_report([root], tmp_path / "report.html")
    gallery = made.facts["gallery"]
    assert (gallery["total"], gallery["shown"], gallery["chosen"]["by_rank"], gallery["chosen"]["at_random"]) == (10_000, 300, 150, 150)
    assert made.facts["mining"]["count"] == 10_000 and made.size < 15e6


# ------------------------------------------------------------------------------------------------------------- the command


def test_the_command(task, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", str(task)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("report.html: ") and "3 of 3 images" in said.out
    assert re.search(r"^report: 100 %", said.err, re.MULTILINE)
    assert cli.main(["report", str(task), "--json", "-q", "--images", "1", "--out", "页 1.html"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told == {"page": "页 1.html", "facts": "页 1.json", "bytes": (tmp_path / "页 1.html").stat().st_size} and said.err == ""
    assert json.loads((tmp_path / "页 1.json").read_text(encoding="utf-8"))["gallery"]["shown"] == 1


@pytest.mark.parametrize("words,said", [
    (["nowhere"], "does not exist"), (["empty"], "holds no output of a task"), (["t", "--data", "empty"], "is no dataset"),
    (["t", "--images", "-1"], "cannot be shown"), (["t", "--images", "99999"], "cannot be shown"),
    (["t", "--out", "mine.html"], "no earlier report"), (["t", "--out", "empty"], "is a folder"),
    (["t", "--out", "no/such.html"], "does not exist"), (["t", "--out", "x.json"], "at once")])
def test_what_cannot_be_is_one_line_with_a_remedy(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine.html").write_text("my own", encoding="utf-8")
    write_task(tmp_path / "t")
    assert cli.main(["report", "-q", *words]) == 4
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1 and "(" in err
    assert (tmp_path / "mine.html").read_text(encoding="utf-8") == "my own"


def test_an_earlier_report_is_replaced_and_survives_a_full_disk(task, tmp_path):
    made = report.write_report([task], tmp_path / "report.html")
    assert report.write_report([task], tmp_path / "report.html", images=1).size < made.size
    before = made.page.read_bytes()
    program = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
               "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
               "from ymir_exc import cli; sys.exit(cli.main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", program, "report", "-q", str(task), "--out", str(made.page)], stderr=subprocess.PIPE,
                          text=True, encoding="utf-8", check=False)
    assert done.returncode == 1 and "report.html: File too large" in done.stderr and len(done.stderr.splitlines()) == 1
    assert made.page.read_bytes() == before and not list(tmp_path.glob(".*tmp*"))


def test_write_outputs_is_what_check_takes(tmp_path):
    """The cases above are outputs that the platform would take: else a finding in a test would mean nothing."""
    from ymir_exc.host.check import check_output
    root = tmp_path / "t"
    write_inputs(root, {"a.png": IMAGES["a.png"]})
    write_outputs(root, {"a.png": IMAGES["a.png"]})
    assert [one for one in check_output(root / "out") if one.rule.severity.value == "error"] == []
