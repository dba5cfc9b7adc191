"""YMIR to YOLO: exact bytes, clipping, a second call, every rank at once, nobody's files harmed."""
from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.dataset_convert.test_ymir2coco import many
from ymir_exc import util
from ymir_exc.dataset_convert import _publish
from ymir_exc.dataset_convert import ymir2yolov5 as module
from ymir_exc.dataset_convert.ymir2yolov5 import convert, convert_ymir_to_yolov5, img2label_paths
from ymir_exc.errors import ConfigError, DatasetError, StorageError


def run(out_dir=None):
    return convert_ymir_to_yolov5(util.get_merged_config(), out_dir)


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted((root / "labels").rglob("*.txt"))}


def test_exact_bytes(dataset, platform):
    out = platform.out
    assert run() == f"{out}/data.yaml"
    assert tree(out) == {
        # 20 x 8 pixels at 10, 20 of 64 x 48; then the whole image
        "labels/ab/1 张.txt": b"0 0.3125 0.5 0.3125 0.16666666666666666\n1 0.5 0.5 1.0 1.0",
        "labels/cd/2.txt": b"",
        "labels/ab/3.txt": b"1 0.55 0.275 0.1 0.05",
    }
    assert os.readlink(out / "images") == str(dataset.assets)
    assert (out / "train-index.txt").read_text(encoding="utf-8") == f"{out}/images/ab/1 张.png\n{out}/images/cd/2.png\n"
    assert (out / "val-index.txt").read_text(encoding="utf-8") == f"{out}/images/ab/3.png\n"
    text = (out / "data.yaml").read_text(encoding="ascii")
    assert yaml.safe_load(text) == {"names": ["cat", "dog"], "nc": 2, "path": str(out), "train": "train-index.txt", "val": "val-index.txt",
                                    "test": "val-index.txt"}
    assert [line.split(":")[0] for line in text.splitlines() if not line.startswith(("-", " ", "\\"))] == [
        "names", "nc", "path", "test", "train", "val"]


def test_yolo_finds_image_and_label_of_each_line(dataset, platform):
    run()
    for line in (platform.out / "train-index.txt").read_text(encoding="utf-8").split("\n")[:-1]:
        assert os.path.isfile(line) and os.path.isfile(img2label_paths([line])[0])


@pytest.mark.parametrize("boxes, text", [
    ([(0, -10, -10, 4, 4)], "0 0.025 0.025 0.05 0.05"),                  # clipped to the image
    ([(0, 90, 90, 1000, 99)], "0 0.95 0.95 0.1 0.1"),
    ([(1, 100, 0, 110, 5), (1, -9, 0, -1, 5), (1, 0, 100, 5, 105), (1, 0, -9, 5, -1)], ""),    # outside on each side
    ([(0, 99, 99, 99, 99)], "0 0.995 0.995 0.01 0.01"),
])
def test_boxes_are_clipped(dataset, platform, boxes, text):
    dataset.add("val", "x", (100, 100), *boxes)
    dataset.write()
    run()
    assert (platform.out / "labels" / "x.txt").read_text() == text


@pytest.mark.parametrize("export_format", ["voc", "coco"])
def test_every_format_gives_the_same(dataset, platform, export_format):
    run()
    expected = tree(platform.out)
    dataset.write(export_format)
    run()
    assert tree(platform.out) == expected


def test_another_folder(dataset, platform, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("work dir/yolo") == f"{tmp_path}/work dir/yolo/data.yaml"
    assert (tmp_path / "work dir/yolo/labels/cd/2.txt").exists()
    assert not (platform.out / "labels").exists()


def test_a_second_call_does_nothing(dataset, platform, monkeypatch):
    first = run()
    labels = os.stat(platform.out / "labels").st_ino
    with open(first, "a", encoding="ascii") as f:
        f.write("kpt_shape: [3, 2]\n")
    monkeypatch.setattr(module, "_build", None)
    assert run() == first
    assert os.stat(platform.out / "labels").st_ino == labels and "kpt_shape" in Path(first).read_text()    # what a user added stays


def test_done_again_when_something_differs(dataset, platform):
    run()
    dataset.splits["train"].pop()
    dataset.add("val", "new", (10, 10), (0, 0, 0, 4, 4))
    dataset.write()
    run()
    assert set(tree(platform.out)) == {"labels/ab/1 张.txt", "labels/ab/3.txt", "labels/new.txt"}    # of the old ones nothing stays
    for lost in ("data.yaml", "val-index.txt", "images"):
        os.unlink(platform.out / lost)
        run()
        assert os.path.exists(platform.out / lost)
    assert not list(platform.out.glob(".*tmp*"))


def test_yolos_own_caches_do_not_make_it_stale(dataset, platform, monkeypatch):
    run()
    (platform.out / "labels" / "ab.cache").write_bytes(b"cache")
    monkeypatch.setattr(module, "_build", None)
    run()


def test_an_image_in_both_sets_has_one_label(dataset, platform):
    dataset.splits["val"].append(dataset.splits["train"][0])
    dataset.write()
    run()
    assert len(tree(platform.out)) == 3


def test_one_image(dataset, platform):
    asset = dataset.splits["train"][0][0]
    image, label = convert(util.get_merged_config(), str(platform.out), str(asset), str(dataset.annotations / "ab" / "1 张.txt"))
    assert (image, label) == (f"{platform.out}/images/ab/1 张.png", f"{platform.out}/labels/ab/1 张.txt")
    assert Path(label).read_bytes().startswith(b"0 0.3125 0.5")


def test_label_paths():
    assert img2label_paths(["/o/images/a/1.jpg", "/images/images/b.c.png"]) == ["/o/labels/a/1.txt", "/images/labels/b.c.txt"]


def test_mining_needs_data_yaml_only(dataset, platform):
    platform.run("mining", "infer")
    platform.index("candidate", "/in/assets/1.jpg")
    del platform.config["export_format"]
    platform.write()
    candidates = f"{platform.input}/candidate-index.tsv"
    assert yaml.safe_load(Path(run()).read_text()) == {
        "names": ["cat", "dog"], "nc": 2, "path": str(platform.out), "train": candidates, "val": candidates, "test": candidates}
    assert not (platform.out / "labels").exists() and not os.path.lexists(platform.out / "images")


# ------------------------------------------------------------------------------------------------------------------------- faults

def test_a_missing_annotation_file(dataset, platform):
    os.unlink(dataset.annotations / "ab" / "3.txt")
    with pytest.raises(DatasetError, match=r"3\.txt does not exist"):
        run()
    assert not (platform.out / "labels").exists() and not list(platform.out.glob(".*"))


def test_somebody_elses_files_stay(dataset, platform):
    labels = platform.out / "labels"
    labels.mkdir()
    run()    # an empty folder is nobody's
    (labels / _publish.MARK).unlink()
    (labels / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"labels exists and was not made by ymir_exc"):
        run()
    assert (labels / "mine.txt").read_text() == "precious"


def test_a_folder_where_the_link_should_be(dataset, platform):
    (platform.out / "images").mkdir()
    with pytest.raises(ConfigError, match="images exists and is no link"):
        run()


def test_labels_that_are_a_link_or_a_file(dataset, platform, tmp_path):
    (platform.out / "labels").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="was not made by"):
        run()
    os.unlink(platform.out / "labels")
    (platform.out / "labels").write_text("")
    with pytest.raises(ConfigError, match="was not made by"):
        run()


def test_a_link_to_another_dataset_is_turned(dataset, platform):
    (platform.out / "images").symlink_to("/nowhere")
    run()
    assert os.readlink(platform.out / "images") == str(dataset.assets)


@pytest.mark.parametrize("name, reason", [
    ("../outside.png", "is not below"),
    ("/etc/passwd.png", "is not below"),
    ("images/1.png", "cannot have a label"),    # YOLO would look below the assets folder, and nobody writes there
])
def test_images_in_odd_places(dataset, platform, name, reason):
    asset = os.path.join(dataset.assets, name)
    platform.index("val", f"{asset}\t{dataset.annotations}/ab/3.txt")
    with pytest.raises(DatasetError, match=reason):
        run()
    assert not list(dataset.assets.rglob("*.txt"))


def test_two_images_for_one_label(dataset, platform):
    other = dataset.assets / "ab" / "3.jpg"
    other.write_bytes(dataset.splits["val"][0][0].read_bytes())
    platform.index("train", f"{other}\t{dataset.annotations}/cd/2.txt")
    with pytest.raises(DatasetError, match=r"label file 3\.txt"):
        run()


def test_output_that_cannot_be_written(dataset, platform):
    (platform.out / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        run(f"{platform.out}/file")


# ---------------------------------------------------------------------------------------------------------------- many processes

PROGRAM = """
import os
from ymir_exc.dataset_convert.ymir2yolov5 import img2label_paths
data = dataset_convert.convert_ymir_to_yolov5(util.get_merged_config())
lines = open(os.path.join(os.path.dirname(data), "train-index.txt"), encoding="utf-8").read().splitlines()
print(len(lines), sum(len(open(label).read().splitlines()) for label in img2label_paths(lines)))
"""


def test_every_rank_gets_the_same_complete_tree(dataset, platform, at_once):
    many(dataset)
    assert at_once(PROGRAM) == ["402 4002\n"] * 4
    assert not list(platform.out.glob(".labels*"))


def test_another_rank_was_faster(dataset, overtaken):
    overtaken(run)


def test_killed_at_any_moment(dataset, platform):
    many(dataset)
    environment = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    program = """
from ymir_exc import util
from ymir_exc.dataset_convert import ymir2yolov5
cfg = util.get_merged_config()
print(flush=True)
while True:
    cfg.param.class_names = cfg.param.class_names[::-1]
    ymir2yolov5.convert_ymir_to_yolov5(cfg)
"""
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment)
        process.stdout.readline()
        time.sleep(random.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if (platform.out / "labels").exists():
            assert len(tree(platform.out)) == 403
        run()
        assert len(tree(platform.out)) == 403 and yaml.safe_load((platform.out / "data.yaml").read_text())["names"] == ["cat", "dog"]
    os.unlink(platform.out / "data.yaml")
    run()    # whoever builds next sweeps up
    assert not list(platform.out.glob(".labels*"))
