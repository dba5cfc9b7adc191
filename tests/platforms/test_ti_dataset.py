"""Channels to index files."""
from __future__ import annotations

import json

import pytest

from ymir_exc.errors import ConfigError, DatasetError
from ymir_exc.platforms.ti import _dataset


def find(job, tmp_path, split="train", **options):
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    return _dataset.find(split, job.read().channels, str(work), **options)


def rows(job, tmp_path, split="train"):
    """Relative to the channels' folder; what was made for a row is named alone."""
    found = find(job, tmp_path, split)
    short = {str(job.data) + "/": "", str(tmp_path / "work") + "/": "work:"}
    texts = []
    for row in found.rows:
        for old, new in short.items():
            row = tuple(part.replace(old, new) for part in row)
        texts.append(row)
    return texts, found


# ------------------------------------------------------------------------------------------------- a ready index


@pytest.mark.parametrize("name", ["train-index.tsv", "training-index.tsv", "index.tsv", "any-index.tsv"])
def test_paths_of_an_index_file(job, tmp_path, name):
    text = "\ufeffa.jpg\ta.txt\r\n/in/assets/b.jpg\t/in/annotations/b.txt\textra\n\n  \n./c/../d e.jpg\n/elsewhere/f.jpg\t \n"
    job.channel("train", "a.jpg", "a.txt", **{name: text})
    texts, found = rows(job, tmp_path)
    assert texts == [("train/a.jpg", "train/a.txt"), ("train/assets/b.jpg", "train/annotations/b.txt"), ("train/d e.jpg", ""),
                     ("/elsewhere/f.jpg", "")]
    assert found.format == "ark"


def test_an_index_that_leads_nowhere(job, tmp_path):
    job.channel("train", **{"train-index.tsv": "a.jpg\ta.txt\n"})
    with pytest.raises(DatasetError, match=r"train-index\.tsv, line 1: .*a\.jpg does not exist"):
        find(job, tmp_path)


@pytest.mark.parametrize("content,words", [(b"\xff", "not UTF-8"), (b"\n", "lists no image")])
def test_an_index_that_is_wrong(job, tmp_path, content, words):
    job.channel("train", **{"train-index.tsv": content})
    with pytest.raises(DatasetError, match=words):
        find(job, tmp_path)


def dataset(job, channel, at="", in_root="/in"):
    """In YMIR's layout, as `ymir-exc sample` writes it."""
    folder = f"input/data/{channel}{at}"
    for name in ("assets/1/a.jpg", "assets/2/b.jpg", "assets/3/c.jpg", "annotations/a.xml", "annotations/b.xml"):
        job.file(f"{folder}/{name}")
    job.file(f"{folder}/train-index.tsv", f"{in_root}/assets/1/a.jpg\t{in_root}/annotations/a.xml\n")
    job.file(f"{folder}/val-index.tsv", f"{in_root}/assets/2/b.jpg\t{in_root}/annotations/b.xml\n")
    job.file(f"{folder}/candidate-index.tsv", f"{in_root}/assets/3/c.jpg\n")
    job.file(f"{folder}/config.yaml", "class_names: [cat, 7]\nexport_format: voc:raw\n")
    job.file(f"{folder}/env.yaml", f"input: {{root_dir: {in_root}}}\n")


@pytest.mark.parametrize("channel", ["training", "train", "my-data"])
@pytest.mark.parametrize("at", ["", "/in"])
@pytest.mark.parametrize("in_root", ["/in", "/somewhere else/in"])
def test_a_whole_dataset_is_one_channel(job, tmp_path, channel, at, in_root):
    dataset(job, channel, at, in_root)
    place = f"{channel}{at}"
    assert rows(job, tmp_path)[0] == [(f"{place}/assets/1/a.jpg", f"{place}/annotations/a.xml")]
    assert rows(job, tmp_path, "val")[0] == [(f"{place}/assets/2/b.jpg", f"{place}/annotations/b.xml")]
    assert rows(job, tmp_path, "candidate")[0] == [(f"{place}/assets/3/c.jpg", "")]
    found = find(job, tmp_path)
    assert (found.format, _dataset.class_names(job.read().channels, [found])) == ("voc", ["cat", "7"])


def test_a_channel_of_the_split_comes_first(job, tmp_path):
    dataset(job, "train")
    job.channel("val", "x.jpg", "x.xml")
    assert rows(job, tmp_path, "val")[0] == [("val/x.jpg", "val/x.xml")]


# ------------------------------------------------------------------------------------------------- pairing


@pytest.mark.parametrize("images,annotations", [("images", "annotations"), ("assets", "annotations"), ("JPEGImages", "Annotations"),
                                                ("images", "labels")])
@pytest.mark.parametrize("suffix,kind", [(".txt", "ark"), (".xml", "voc")])
def test_two_folders(job, tmp_path, images, annotations, suffix, kind):
    """By the same path below each, or by a name that is there once; an image without annotation shows nothing."""
    job.channel("train", f"{images}/x/1.JPG", f"{images}/y/1.png", f"{images}/y/2.jpg", f"{images}/none.jpg", f"{images}/.hidden.jpg",
                f"{annotations}/x/1{suffix}", f"{annotations}/y/1{suffix}", f"{annotations}/2{suffix}", f"{annotations}/classes.txt")
    texts, found = rows(job, tmp_path)
    assert texts == [(f"train/{images}/none.jpg", f"work:nothing{'.txt' if kind == 'ark' else '.xml'}"),
                     (f"train/{images}/x/1.JPG", f"train/{annotations}/x/1{suffix}"),
                     (f"train/{images}/y/1.png", f"train/{annotations}/y/1{suffix}"),
                     (f"train/{images}/y/2.jpg", f"train/{annotations}/2{suffix}")]
    assert (found.format, found.warnings) == (kind, ())


def test_a_name_that_is_there_twice_tells_nothing(job, tmp_path):
    job.channel("train", "images/x/1.jpg", "images/y/1.jpg", "images/2.jpg", "annotations/1.txt", "annotations/2.txt")
    assert [annotation.rpartition("/")[2] for _, annotation in rows(job, tmp_path)[0]] == ["2.txt", "work:nothing.txt", "work:nothing.txt"]


def test_side_by_side_an_image_without_annotation_is_left_out(job, tmp_path):
    job.channel("train", "1.jpg", "1.txt", "sub/2.jpg", "sub/2.txt", "3.jpg")
    texts, found = rows(job, tmp_path)
    assert texts == [("train/1.jpg", "train/1.txt"), ("train/sub/2.jpg", "train/sub/2.txt")]
    assert found.warnings == ("channel train: 1 images are left out: they have no annotation beside them",)


def test_an_empty_folder_for_annotations_means_that_nothing_is_shown(job, tmp_path):
    job.channel("train", "images/1.jpg")
    (job.data / "train/annotations").mkdir()
    assert rows(job, tmp_path)[0] == [("train/images/1.jpg", "work:nothing.txt")]
    job.file("input/data/train/annotations/classes.txt", "cat")
    assert rows(job, tmp_path)[0] == [("train/images/1.jpg", "work:nothing.txt")]


@pytest.mark.parametrize("name", ["img_1.txt", "img_1.xml", "1.json"])
def test_annotations_that_belong_to_no_image_are_not_passed_over(job, tmp_path, name):
    """To train as if nothing was shown would be worse than to say so."""
    job.channel("train", "images/1.jpg", "annotations/classes.txt", **{f"annotations/{name}": '{"shapes": []}'})
    with pytest.raises(DatasetError, match=r"none of the annotations below .*annotations belongs to an image"):
        find(job, tmp_path)


def test_no_annotations_at_all(job, tmp_path):
    job.channel("train", "1.jpg", "readme.txt")
    with pytest.raises(DatasetError, match=r"no annotation below .* belongs to an image"):
        find(job, tmp_path)


def test_other_tools_text_files_are_not_taken_for_ark(job, tmp_path):
    job.channel("train", "1.jpg", "2.jpg", **{"1.txt": "", "2.txt": "0 0.5 0.5 0.1 0.2\n"})
    with pytest.raises(DatasetError, match=r"2\.txt is no annotation in ark format: '0 0\.5"):
        find(job, tmp_path)


def test_a_mixture(job, tmp_path):
    job.channel("train", "1.jpg", "2.jpg", "1.txt", "2.xml")
    texts, found = rows(job, tmp_path)
    assert texts == [("train/1.jpg", "train/1.txt")] and "not ark as the others" in found.warnings[0]


def coco(*names):
    return json.dumps({"images": [{"id": i, "file_name": name} for i, name in enumerate(names)], "annotations": []})


@pytest.mark.parametrize("place", ["annotations/coco-annotations.json", "annotations/instances_train2017.json", "labels.json", "1.JSON"])
def test_coco(job, tmp_path, place):
    """What the file does not list is of another split, or nobody knows."""
    content = coco("1.jpg", "x/2.jpg", "none.jpg")
    job.channel("train", "images/a/1.jpg", "images/2.jpg", "images/3.jpg", **{place: content, "other.json": "[1]"})
    texts, found = rows(job, tmp_path)
    assert texts == [("train/images/2.jpg", f"train/{place}"), ("train/images/a/1.jpg", f"train/{place}")]
    assert found.format == "coco" and "1 images are left out" in found.warnings[0]


def test_the_coco_file_of_the_split(job, tmp_path):
    files = {"annotations/instances_train.json": coco("1.jpg"), "annotations/instances_val.json": coco("2.jpg")}
    job.channel("train", "images/1.jpg", "images/2.jpg", **files)
    job.channel("val", "images/1.jpg", "images/2.jpg", **files)
    assert rows(job, tmp_path)[0] == [("train/images/1.jpg", "train/annotations/instances_train.json")]
    assert rows(job, tmp_path, "val")[0] == [("val/images/2.jpg", "val/annotations/instances_val.json")]


@pytest.mark.parametrize("files,words", [
    ({"a.json": "{", }, "not valid JSON"), ({"a.json": coco("9.jpg")}, "none of its images"),
    ({"a.json": coco("1.jpg"), "b.json": coco("1.jpg")}, "both are coco files")])
def test_coco_files_that_are_wrong(job, tmp_path, files, words):
    job.channel("train", "1.jpg", **files)
    with pytest.raises(DatasetError, match=words):
        find(job, tmp_path)


# ------------------------------------------------------------------------------------------------- candidates, and nothing


def test_candidates_are_all_images(job, tmp_path):
    job.channel("mining", "b.jpg", "a/c.PNG", "notes.txt", "annotations/mask.png")
    job.channel("infer", "i.jpg")
    assert rows(job, tmp_path, "candidate")[0] == [("mining/a/c.PNG", ""), ("mining/b.jpg", "")]
    assert find(job, tmp_path, "candidate", prefer=["infer"]).rows == [(str(job.data / "infer/i.jpg"), "")]


@pytest.mark.parametrize("split,channel", [("train", "train"), ("candidate", "mining")])
def test_a_table_is_no_dataset(job, tmp_path, split, channel):
    job.channel(channel, **{"table.csv": "a,b\n"})
    with pytest.raises(DatasetError, match=f"channel {channel}: no images below"):
        find(job, tmp_path, split)


def test_no_channel(job, tmp_path):
    assert find(job, tmp_path) is None
    job.write("inputdataconfig.json", {"train": {}})
    with pytest.raises(DatasetError, match="is no folder"):
        find(job, tmp_path)


def test_links_that_go_round(job, tmp_path):
    job.channel("mining", "a/1.jpg")
    (job.data / "mining/a/up").symlink_to("..")
    (job.data / "mining/dead.jpg").symlink_to("nothing")
    assert [name for name, _ in rows(job, tmp_path, "candidate")[0]] == ["mining/a/1.jpg"]


def test_names_that_an_index_cannot_hold(job, tmp_path):
    job.channel("mining", "a.jpg", "t\tb.jpg", "n\nl.jpg")
    with open(bytes(job.data / "mining") + b"/\xff.jpg", "wb"):
        pass
    index = tmp_path / "index.tsv"
    warnings = _dataset.write_index(str(index), find(job, tmp_path, "candidate"))
    assert index.read_text(encoding="utf-8") == f"{job.data}/mining/a.jpg\n"
    assert warnings[0].startswith("channel mining: 3 files are left out")


# ------------------------------------------------------------------------------------------------- class names


@pytest.mark.parametrize("place", ["train/classes.txt", "train/annotations/classes.txt", "other/classes.txt", "train/in/classes.txt"])
def test_class_names_of_a_file(job, place):
    job.channel("train"), job.channel("other")
    job.file(f"input/data/{place}", "\ufeffcat \r\n\n狗\n")
    assert _dataset.class_names(job.read().channels, []) == ["cat", "狗"]


def test_class_names_of_nothing(job):
    job.channel("train", **{"classes.txt": b"\xff"})
    with pytest.raises(ConfigError, match="not UTF-8"):
        _dataset.class_names(job.read().channels, [])
    (job.data / "train/classes.txt").unlink()
    assert _dataset.class_names(job.read().channels, []) == []
