"""YMIR to COCO: exact content, every format, every rank at once, never stale, never half-written."""
from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ymir_exc import _rle, util
from ymir_exc.dataset_convert import convert_ymir_to_coco
from ymir_exc.dataset_convert import ymir2coco as module
from ymir_exc.errors import ConfigError, DatasetError, ImageError, StorageError


def load(info, split):
    return json.loads(Path(info[split]["ann_file"]).read_text(encoding="ascii"))


def test_exact_content(dataset, platform):
    info = convert_ymir_to_coco()
    folder = f"{platform.out}/ymir_dataset"
    assert info == {split: {"img_dir": str(dataset.assets), "ann_file": f"{folder}/ymir_{split}.json"} for split in ("train", "val")}
    first, second = str(dataset.splits["train"][0][0]), str(dataset.splits["train"][1][0])
    made = load(info, "train")
    assert list(made) == ["images", "annotations", "categories", "licenses"]
    assert made == {
        "images": [{"id": 0, "file_name": first, "width": 64, "height": 48}, {"id": 1, "file_name": second, "width": 100, "height": 200}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 20, 20, 8], "area": 160,
             "segmentation": [[10, 20, 10, 28, 30, 28, 30, 20]], "iscrowd": 0, "score": 1.0, "bbox_quality": 1},
            {"id": 2, "image_id": 0, "category_id": 2, "bbox": [0, 0, 64, 48], "area": 3072,
             "segmentation": [[0, 0, 0, 48, 64, 48, 64, 0]], "iscrowd": 0, "score": 1.0, "bbox_quality": 1}],
        "categories": [{"id": 1, "name": "cat", "supercategory": "object"}, {"id": 2, "name": "dog", "supercategory": "object"}],
        "licenses": [],
    }
    val = load(info, "val")
    assert [a["bbox"] for a in val["annotations"]] == [[5, 5, 1, 1]]    # both corners belong to the box
    assert not list(Path(folder).glob(".*tmp*"))


def test_the_other_home(dataset):
    assert util.convert_ymir_to_coco is convert_ymir_to_coco


def test_categories_from_zero(dataset):
    made = load(convert_ymir_to_coco(cat_id_from_zero=True), "train")
    assert [c["id"] for c in made["categories"]] == [0, 1]
    assert [a["category_id"] for a in made["annotations"]] == [0, 1]
    assert [a["category_id"] for a in load(convert_ymir_to_coco(), "train")["annotations"]] == [1, 2]    # not the earlier answer


@pytest.mark.parametrize("export_format", ["voc", "coco"])
def test_every_format_gives_the_same(dataset, export_format):
    expected = [load(convert_ymir_to_coco(), split) for split in ("train", "val")]
    dataset.write(export_format)
    assert [load(convert_ymir_to_coco(), split) for split in ("train", "val")] == expected


def test_a_missing_export_format_goes_by_suffix(dataset, platform):
    expected = load(convert_ymir_to_coco(), "train")
    del platform.config["export_format"]
    platform.write()
    assert load(convert_ymir_to_coco(), "train") == expected


def test_masks_of_seg_coco_are_kept(dataset):
    dataset.write("coco")
    rle = {"counts": _rle.counts_to_text([0, 240]), "size": [12, 20]}
    dataset.write_coco({("1 张.png", 0): [[10, 20, 14, 20, 14, 26]], ("1 张.png", 1): rle})
    made = load(convert_ymir_to_coco(), "train")["annotations"]
    assert [(a["segmentation"], a["area"]) for a in made] == [([[10, 20, 14, 20, 14, 26]], 12.0), (rle, 240)]
    dataset.write_coco({("1 张.png", 0): {**rle, "size": [12, 21]}})
    with pytest.raises(DatasetError, match=r"coco-annotations\.json: image 1 张\.png: the RLE counts cover 240 pixels"):
        convert_ymir_to_coco()


def test_a_mask_whose_box_has_no_pixel_is_left_out(dataset):
    dataset.write("coco")
    ring = [10, 20, 14, 20, 14, 26]
    dataset.write_coco({("1 张.png", 0): [ring], ("1 张.png", 1): [ring]})
    path = dataset.annotations / "coco-annotations.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["annotations"][0]["bbox"] = [10, 20, 0, 6]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert [(a["id"], a["category_id"]) for a in load(convert_ymir_to_coco(), "train")["annotations"]] == [(1, 2)]


def test_quality_is_carried(dataset):
    text = "0, 1, 2, 3, 4, 0.5\n0, 1, 2, 3, 4, 0.0\n0, 1, 2, 3, 4, -1.0\n0, 1, 2, 3, 4\n"
    dataset.splits["train"][0] = (*dataset.splits["train"][0][:3], text)
    dataset.write()
    assert [a["bbox_quality"] for a in load(convert_ymir_to_coco(), "train")["annotations"]] == [0.5, 0.0, 1, 1]


def test_a_missing_annotation_file_means_no_objects(dataset, caplog):
    os.unlink(dataset.annotations / "ab" / "1 张.txt")
    made = load(convert_ymir_to_coco(), "train")
    assert len(made["images"]) == 2 and made["annotations"] == []
    assert "1 annotation files do not exist" in caplog.text


def test_no_annotation_column_and_empty_sets(dataset, platform):
    platform.index("train", str(dataset.splits["train"][0][0]), "", f"{dataset.splits['train'][1][0]}\t")
    platform.index("val")
    info = convert_ymir_to_coco()
    assert [len(load(info, "train")[key]) for key in ("images", "annotations")] == [2, 0]
    assert load(info, "val")["images"] == []


def test_pycocotools_finds_perfect_detections_perfect(dataset, capsys):
    coco_api = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval
    for zero in (False, True):
        truth = coco_api.COCO(convert_ymir_to_coco(zero)["train"]["ann_file"])
        found = truth.loadRes([{**a, "score": 0.9} for a in truth.dataset["annotations"]])
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)    # an annotation with id 0 would count as never found


# --------------------------------------------------------------------------------------------------------------------- freshness

def changes(info):
    return [os.stat(info[split]["ann_file"]).st_ino for split in ("train", "val")]


def test_nothing_is_done_twice(dataset, monkeypatch):
    first = changes(convert_ymir_to_coco())
    monkeypatch.setattr(module, "_write", None)
    assert changes(convert_ymir_to_coco()) == first


def touch_annotation(dataset, platform):
    path = dataset.annotations / "ab" / "3.txt"
    path.write_text("0, 1, 1, 2, 2\n")


def more_images(dataset, platform):
    dataset.add("val", "ef/9", (5, 5))
    dataset.write()


def other_classes(dataset, platform):
    platform.config["class_names"] = ["dog", "cat"]
    platform.write()


def lost_file(dataset, platform):
    os.unlink(platform.out / "ymir_dataset" / "ymir_val.json")


def cut_file(dataset, platform):
    os.truncate(platform.out / "ymir_dataset" / "ymir_train.json", 10)


def lost_mark(dataset, platform):
    (platform.out / "ymir_dataset" / ".ymir_coco").write_bytes(b"\xff")


@pytest.mark.parametrize("change", [touch_annotation, more_images, other_classes, lost_file, cut_file, lost_mark])
def test_done_again_when_something_differs(dataset, platform, change):
    first = changes(convert_ymir_to_coco())
    change(dataset, platform)
    info = convert_ymir_to_coco()
    assert changes(info)[1] != first[1]
    assert [c["name"] for c in load(info, "val")["categories"]] == platform.config["class_names"]
    assert len(load(info, "val")["images"]) == len(dataset.splits["val"]) and load(info, "train")["images"]


def test_leftovers_of_the_older_package_are_replaced(dataset, platform):
    folder = platform.out / "ymir_dataset"
    folder.mkdir()
    (folder / "ymir_train.json").write_text("{")
    assert len(load(convert_ymir_to_coco(), "train")["images"]) == 2


# ------------------------------------------------------------------------------------------------------------------------- faults

def test_faults_name_their_place(dataset, platform):
    (dataset.annotations / "ab" / "3.txt").write_text("0, 1, 2\n")
    with pytest.raises(DatasetError, match=r"3\.txt, line 1: 3 columns"):
        convert_ymir_to_coco()
    assert not (platform.out / "ymir_dataset" / "ymir_val.json").exists()
    dataset.write()
    dataset.splits["val"][0][0].write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"3\.png"):
        convert_ymir_to_coco()
    platform.index("val", "relative.jpg\tx.txt")
    with pytest.raises(DatasetError, match=r"val-index\.tsv, line 1: 'relative\.jpg' is not an absolute path"):
        convert_ymir_to_coco()
    os.unlink(platform.input / "val-index.tsv")
    with pytest.raises(DatasetError, match=r"val-index\.tsv does not exist"):
        convert_ymir_to_coco()


def test_a_failure_keeps_the_earlier_files(dataset, platform):
    info = convert_ymir_to_coco()
    before = load(info, "train")
    (dataset.annotations / "ab" / "1 张.txt").write_text("broken")
    with pytest.raises(DatasetError):
        convert_ymir_to_coco()
    assert load(info, "train") == before


@pytest.mark.parametrize("export_format, reason", [("none:raw", "has no labels"), ("ls_json:raw", "is unknown")])
def test_formats_without_labels(dataset, platform, export_format, reason):
    platform.config["export_format"] = export_format
    platform.write()
    with pytest.raises(ConfigError, match=reason):
        convert_ymir_to_coco()


def test_a_missing_coco_file_is_no_empty_dataset(dataset):
    dataset.write("coco")
    os.unlink(dataset.annotations / "coco-annotations.json")
    with pytest.raises(DatasetError, match=r"coco-annotations\.json does not exist"):
        convert_ymir_to_coco()


def test_not_a_training(dataset, platform):
    platform.env["input"].update(training_index_file="", val_index_file="")
    platform.write()
    with pytest.raises(DatasetError, match="training_index_file is not set"):
        convert_ymir_to_coco()


def test_output_that_cannot_be_written(dataset, platform):
    (platform.out / "ymir_dataset").write_text("a file")
    with pytest.raises(StorageError, match="ymir_dataset"):
        convert_ymir_to_coco()


# ---------------------------------------------------------------------------------------------------------------- many processes

PROGRAM = """
import hashlib, json
info = dataset_convert.convert_ymir_to_coco()
texts = [open(info[split]["ann_file"], "rb").read() for split in ("train", "val")]
print(json.loads(texts[0])["licenses"], hashlib.sha256(b"".join(texts)).hexdigest())
"""


def many(dataset, count=400):
    for number in range(count):
        dataset.add("train", f"{number % 7:02}/n{number}", (640, 480), *[(number % 2, i, i, i + 40, i + 30) for i in range(10)])
    return dataset.write()


def test_every_rank_gets_the_same_complete_files(dataset, platform, at_once):
    many(dataset)
    printed = at_once(PROGRAM)
    expected = hashlib.sha256(b"".join((platform.out / f"ymir_dataset/ymir_{s}.json").read_bytes() for s in ("train", "val")))
    assert set(printed) == {f"[] {expected.hexdigest()}\n"}


def test_another_rank_was_faster(dataset, overtaken):
    overtaken(convert_ymir_to_coco)


def test_killed_at_any_moment(dataset, platform):
    many(dataset)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file), "PYTHONPATH": str(root)}
    program = "from ymir_exc import dataset_convert as d\nprint(flush=True)\nz = False\nwhile True: d.convert_ymir_to_coco(z); z = not z"
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment)
        process.stdout.readline()
        time.sleep(random.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for path in (platform.out / "ymir_dataset").glob("*.json"):
            assert json.loads(path.read_text())["licenses"] == []
        made = load(convert_ymir_to_coco(), "train")
        assert len(made["annotations"]) == 4002 and made["categories"][0]["id"] == 1
