"""Index files and converted datasets, as images ask for them (B.7, C)."""
from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.dataset_convert.conftest import at_once, dataset  # noqa: F401 - fixtures
from ymir_exc import dataset_convert, dataset_reader, util
from ymir_exc.dataset_convert import ymir2coco, ymir2mmseg, ymir2yolov5
from ymir_exc.dataset_reader import DatasetType, item_paths, items_count
from ymir_exc.errors import DatasetError


@pytest.mark.parametrize(("text", "expected"), [
    pytest.param("/a.jpg\t/a.txt\n/b.jpg\t/b.txt\n", [("/a.jpg", "/a.txt"), ("/b.jpg", "/b.txt")], id="B.7.1-two-columns"),
    pytest.param("/a.jpg\n/b.jpg\n", [("/a.jpg", ""), ("/b.jpg", "")], id="B.7.1-one-column"),
    pytest.param("/a.jpg\t/a.txt\tmore\n", [("/a.jpg", "/a.txt")], id="B.7.1-third-column-is-ignored-corrected-for-P"),
    pytest.param("/a b.jpg\t/a b.txt\n", [("/a b.jpg", "/a b.txt")], id="B.7.1-tab-only"),
    pytest.param("/a.jpg\t/a.txt\n\n  \n", [("/a.jpg", "/a.txt")], id="B.7.1-blank-lines-corrected"),
    pytest.param("", [], id="B.7.1-nothing"),
])
def test_item_paths(platform, text, expected):
    (platform.input / "train-index.tsv").write_text(text)
    assert list(item_paths(dataset_type=DatasetType.TRAINING)) == list(item_paths(DatasetType.TRAINING)) == expected
    assert items_count(DatasetType.TRAINING) == len(expected)
    assert dataset_reader.images_count(util.get_merged_config(), "train") == len(expected)


def test_item_paths_is_lazy(platform):
    """B.7.1: nothing is said before the first item is asked for."""
    items = item_paths(DatasetType.TRAINING)
    with pytest.raises(DatasetError):
        next(items)


def root_of(platform, text):
    """The content of a file with the task's folder named ROOT."""
    return text.replace(json.dumps(str(platform.root))[1:-1], "ROOT").replace(str(platform.root), "ROOT")


COCO = (
    '{{"images": [{{"id": 0, "file_name": "ROOT/in/assets/ab/1 \\u5f20.png", "width": 64, "height": 48}}, '
    '{{"id": 1, "file_name": "ROOT/in/assets/cd/2.png", "width": 100, "height": 200}}], '
    '"annotations": [{{"id": 1, "image_id": 0, "category_id": {0}, "bbox": [10, 20, 20, 8], "area": 160, '
    '"segmentation": [[10, 20, 10, 28, 30, 28, 30, 20]], "iscrowd": 0, "score": 1.0, "bbox_quality": 1}}, '
    '{{"id": 2, "image_id": 0, "category_id": {1}, "bbox": [0, 0, 64, 48], "area": 3072, '
    '"segmentation": [[0, 0, 0, 48, 64, 48, 64, 0]], "iscrowd": 0, "score": 1.0, "bbox_quality": 1}}], '
    '"categories": [{{"id": {0}, "name": "cat", "supercategory": "object"}}, {{"id": {1}, "name": "dog", "supercategory": "object"}}], '
    '"licenses": []}}')


@pytest.mark.parametrize(("convert", "first"), [
    pytest.param(lambda: dataset_convert.convert_ymir_to_coco(), 1, id="B.7.4-mmyolo-2"),
    pytest.param(lambda: ymir2coco.convert_ymir_to_coco(cat_id_from_zero=True), 0, id="B.7.4-submodule-2"),
    pytest.param(lambda: util.convert_ymir_to_coco(cat_id_from_zero=True), 0, id="C-nanodet-1.0"),
    pytest.param(lambda: util.convert_ymir_to_coco(False), 1, id="C-positional-vidt-1.3"),
])
@pytest.mark.parametrize("export_format", ["ark:raw", "det-ark:raw", None])
def test_coco(dataset, platform, convert, first, export_format):    # noqa: F811
    """Both corners of a box belong to it, and ids of annotations begin with 1 (corrected); 1.0 and 1.3 asked for no export_format."""
    platform.config.pop("export_format")
    if export_format:
        platform.config["export_format"] = export_format
    platform.write()
    info = convert()
    assert info == {split: {"img_dir": str(platform.input / "assets"), "ann_file": f"{platform.out}/ymir_dataset/ymir_{split}.json"}
                    for split in ("train", "val")}
    text = Path(info["train"]["ann_file"]).read_text(encoding="ascii")
    assert root_of(platform, text) == COCO.format(first, first + 1)


def test_coco_from_every_rank_at_once(dataset, platform, at_once):    # noqa: F811
    """B.7.5: vidt converts in the dataset builder of each rank, mmyolo again in each when its configuration is patched."""
    printed = at_once("""
import json
infos = [util.convert_ymir_to_coco(), dataset_convert.convert_ymir_to_coco()]
print(infos[0] == infos[1], *[len(json.load(open(infos[0][s]["ann_file"]))["images"]) for s in ("train", "val")])
""", count=3)
    assert printed == ["True 2 1\n"] * 3


def test_yolo(dataset, platform):    # noqa: F811
    """B.7.6; the second call is no error (corrected), the centre counts the far corner in (corrected)."""
    cfg = util.get_merged_config()
    made = [ymir2yolov5.convert_ymir_to_yolov5(cfg), dataset_convert.convert_ymir_to_yolov5(cfg, out_dir=None)]
    assert made == [f"{platform.out}/data.yaml"] * 2
    files = {str(path.relative_to(platform.out)): root_of(platform, path.read_text(encoding="utf-8"))
             for path in sorted(platform.out.rglob("*")) if path.is_file() and path.suffix in (".txt", ".yaml")}
    data = files.pop("data.yaml")
    assert [line.partition(":")[0] for line in data.splitlines() if line[0].isalpha()] == ["names", "nc", "path", "test", "train", "val"]
    assert files == {
        "labels/ab/1 张.txt": "0 0.3125 0.5 0.3125 0.16666666666666666\n1 0.5 0.5 1.0 1.0",
        "labels/ab/3.txt": "1 0.55 0.275 0.1 0.05",
        "labels/cd/2.txt": "",
        "train-index.txt": "ROOT/out/images/ab/1 张.png\nROOT/out/images/cd/2.png\n",
        "val-index.txt": "ROOT/out/images/ab/3.png\n",
    }
    assert os.readlink(platform.out / "images") == str(platform.input / "assets")


@pytest.mark.parametrize("tasks", [["mining"], ["infer"], ["mining", "infer"]])
def test_yolo_of_other_tasks(platform, tasks):
    """B.7.6: mining and inference need data.yaml alone."""
    platform.run(*tasks)
    platform.env["input"].update(training_index_file="", val_index_file="", candidate_index_file="/in/candidate-index.tsv")
    cfg = (platform.write(), util.get_merged_config())[1]
    path = Path(ymir2yolov5.convert_ymir_to_yolov5(cfg, str(platform.out / "yolo")))
    assert root_of(platform, path.read_text()).replace(json.dumps(str(platform.out / "yolo")), "PATH").split("path: ")[0] == (
        "names:\n- cat\n- dog\nnc: 2\n")
    assert "test: /in/candidate-index.tsv\ntrain: /in/candidate-index.tsv\nval: /in/candidate-index.tsv\n" in path.read_text()


def test_one_label(dataset, platform):    # noqa: F811
    """A.10: the helper that YOLOv5's own dataset class calls."""
    asset, annotation = str(platform.input / "assets/ab/3.png"), str(platform.input / "annotations/ab/3.txt")
    image, label = ymir2yolov5.convert(util.get_merged_config(), str(platform.out / "yolo"), asset, annotation)
    assert (root_of(platform, image), root_of(platform, label)) == ("ROOT/out/yolo/images/ab/3.png", "ROOT/out/yolo/labels/ab/3.txt")
    assert Path(label).read_text() == "1 0.55 0.275 0.1 0.05"
    assert ymir2yolov5.img2label_paths([image]) == [label]


def test_boxes_are_counted(dataset):    # noqa: F811
    """A.6."""
    cfg = util.get_merged_config()
    assert [dataset_reader.bboxes_count(cfg, split) for split in ("train", "training", "val", "validation")] == [2, 2, 1, 1]


@pytest.mark.parametrize(("config", "environ", "expected", "exported"), [
    pytest.param({"ignore_blank_area": "True"}, "true", False, "true", id="B.7.7-ignored"),
    pytest.param({}, "true", True, "true", id="B.7.7-environment-true"),
    pytest.param({}, "False", False, "False", id="B.7.7-environment-false"),
    pytest.param({}, None, True, "true", id="B.7.7-the-dataset"),
])
def test_blank_area(dataset, platform, monkeypatch, config, environ, expected, exported):    # noqa: F811
    dataset.write("coco")
    platform.config.update(config)
    platform.write()
    monkeypatch.delenv("WITH_BLANK_AREA_OF", raising=False)
    monkeypatch.setenv("WITH_BLANK_AREA", environ or "")    # put back after the test
    cfg = util.get_merged_config()
    assert ymir2mmseg.train_with_black_area_or_not(cfg) is expected
    assert os.environ["WITH_BLANK_AREA"] == exported, "child processes agree"
    os.environ.pop("WITH_BLANK_AREA_OF", None)
    assert dataset_convert.find_blank_area_in_dataset(cfg, max_sample_num=2) is True


def test_colours_to_ids():
    """C, 1.3."""
    rgb = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 0, 0]]], np.uint8)
    ids = dataset_convert.convert_rgb_to_label_id(rgb, {0: (255, 0, 0), 1: [0, 255, 0], 7: (0, 0, 255)}, dtype=np.uint8)
    assert (ids.tolist(), ids.dtype) == ([[0, 1], [7, 0]], np.uint8)
