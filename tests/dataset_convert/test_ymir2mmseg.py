"""Label masks, and whether blank pixels are a class."""
from __future__ import annotations

import os
import sys

import pytest

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")

from ymir_exc import _rle, util  # noqa: E402
from ymir_exc import dataset_convert as package  # noqa: E402
from ymir_exc.dataset_convert import ymir2mmseg as module  # noqa: E402
from ymir_exc.errors import ConfigError, DatasetError, ImageError  # noqa: E402

FULL = _rle.encode(np.ones((48, 64)))
LEFT = _rle.encode(np.arange(64)[None, :].repeat(48, 0) < 32)
RIGHT = _rle.encode(np.arange(64)[None, :].repeat(48, 0) >= 32)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("WITH_BLANK_AREA", raising=False)
    monkeypatch.delenv("WITH_BLANK_AREA_OF", raising=False)
    yield
    os.environ.pop("WITH_BLANK_AREA", None)
    os.environ.pop("WITH_BLANK_AREA_OF", None)


@pytest.fixture
def segmented(dataset):
    """One training image whose halves are dog and cat, one that is all cat; `dataset.write_coco` changes that."""
    dataset.splits["train"] = dataset.splits["train"][:1]
    dataset.add("train", "cd/2", (64, 48), (0, 0, 0, 63, 47))
    dataset.write("coco")
    dataset.masks = {("1 张.png", 0): LEFT, ("1 张.png", 1): RIGHT, ("2.png", 0): FULL}
    dataset.write_coco(dataset.masks)
    return dataset


def read(path):
    return np.asarray(Image.open(path))


def masks(index):
    with open(index, encoding="utf-8") as f:
        return [read(line.rstrip("\n").split("\t")[1]) for line in f]


def test_no_blank_area(segmented):
    assert package.find_blank_area_in_dataset(util.get_merged_config()) is False


@pytest.mark.parametrize("key, value", [
    (("1 张.png", 0), RIGHT), (("2.png", 0), {}), (("2.png", 0), [[0, 0, 64, 0, 64, 47, 0, 47]])])
def test_blank_area(segmented, key, value):
    segmented.write_coco({**segmented.masks, key: value})
    assert package.find_blank_area_in_dataset(util.get_merged_config()) is True


def test_an_image_without_annotation_is_blank(segmented, platform):
    first, second = ((platform.input / "train-index.tsv").read_text(encoding="utf-8")).splitlines()
    platform.index("train", first, second.split("\t")[0])
    assert package.find_blank_area_in_dataset(util.get_merged_config()) is True


def test_polygons_can_cover_all(segmented):
    segmented.write_coco({**segmented.masks, ("2.png", 0): [[0, 0, 64, 0, 64, 48, 0, 48]]})
    assert package.find_blank_area_in_dataset(util.get_merged_config()) is False


def test_the_sample_is_the_same_for_everyone(segmented, platform):
    index = platform.index("many", *(f"/{n}.jpg\t/x" for n in range(1000)))
    first = list(module._sample(str(index), 100))
    assert first == list(module._sample(str(index), 100)) and len(set(first)) == 100
    assert (first[0][0], first[-1][0]) == ("/0.jpg", "/990.jpg")
    assert len(list(module._sample(str(index), 5000))) == 1000


def test_decision_is_left_for_children(segmented, monkeypatch):
    cfg = util.get_merged_config()
    assert package.train_with_black_area_or_not(cfg) is False
    assert os.environ["WITH_BLANK_AREA"] == "false"
    monkeypatch.setattr(module, "find_blank_area_in_dataset", None)    # a child does not look again
    assert package.train_with_black_area_or_not(cfg) is False


def test_decision_of_another_dataset_does_not_hold(segmented):
    assert package.train_with_black_area_or_not(util.get_merged_config()) is False
    segmented.write_coco({})
    assert package.train_with_black_area_or_not(util.get_merged_config()) is True
    assert os.environ["WITH_BLANK_AREA"] == "true"


@pytest.mark.parametrize("given, expected", [("true", True), ("False", False), ("maybe", False)])
def test_users_own_decision(segmented, monkeypatch, given, expected):
    monkeypatch.setenv("WITH_BLANK_AREA", given)
    assert package.train_with_black_area_or_not(util.get_merged_config()) is expected


def test_ignoring_blank_area(segmented, platform, monkeypatch):
    monkeypatch.setenv("WITH_BLANK_AREA", "true")
    platform.config["ignore_blank_area"] = "True"
    platform.write()
    assert package.train_with_black_area_or_not(util.get_merged_config()) is False


def test_masks_without_a_background_class(segmented, platform):
    made = package.convert_ymir_to_mmseg(util.get_merged_config())
    folder = f"{platform.out}/ymir_dataset/mmseg"
    assert made == {"train": f"{folder}/train-index.tsv", "val": f"{folder}/val-index.tsv"}
    with open(made["train"], encoding="utf-8") as f:
        assert f.readline() == f"{segmented.assets}/ab/1 张.png\t{folder}/masks/ab/1 张.png\n"
    halves, full = masks(made["train"])
    assert halves.dtype == np.uint8 and halves.shape == (48, 64)
    assert (halves[:, :32] == 0).all() and (halves[:, 32:] == 1).all() and (full == 0).all()
    assert (masks(made["val"])[0] == 255).all()    # nobody drew there


def test_masks_with_a_background_class(segmented):
    segmented.write_coco({("1 张.png", 1): RIGHT})
    halves, full = masks(package.convert_ymir_to_mmseg(util.get_merged_config())["train"])
    assert (halves[:, :32] == 0).all() and (halves[:, 32:] == 2).all() and (full == 0).all()


def test_masks_are_made_once_and_again_when_something_differs(segmented, monkeypatch):
    index = package.convert_ymir_to_mmseg(util.get_merged_config())["train"]
    first = os.stat(index).st_ino
    package.convert_ymir_to_mmseg(util.get_merged_config())
    assert os.stat(index).st_ino == first
    segmented.write_coco({})
    assert (masks(package.convert_ymir_to_mmseg(util.get_merged_config())["train"])[0] == 0).all()


def test_another_rank_was_faster(segmented, overtaken):
    overtaken(lambda: package.convert_ymir_to_mmseg(util.get_merged_config()))


def test_masks_need_pillow(segmented, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match="masks need Pillow") as caught:
        package.convert_ymir_to_mmseg(util.get_merged_config())
    assert caught.value.hint == "pip install Pillow"


def test_every_rank_gets_the_same_masks(segmented, at_once):
    program = ("import os\nmade = dataset_convert.convert_ymir_to_mmseg(util.get_merged_config())\n"
               "print(sum(os.path.getsize(line.rstrip('\\n').split('\\t')[1]) for line in open(made['train'], encoding='utf-8')) > 0)")
    assert at_once(program, count=3) == ["True\n"] * 3


# ----------------------------------------------------------------------------------------------------- colour masks of platform 2.0

@pytest.fixture
def coloured(dataset, platform):
    colours = np.zeros((4, 6, 3), np.uint8)
    colours[:, :3], colours[:, 3:] = (128, 0, 0), (0, 128, 1)
    lines = {}
    for split, name in (("train", "1"), ("val", "3")):
        mask = dataset.annotations / f"{name}.png"
        Image.fromarray(colours).save(mask)
        lines[split] = f"{dataset.assets}/{name}.png\t{mask}"
        platform.index(split, lines[split])
    (dataset.annotations / "labelmap.txt").write_text("# a comment\nother:1,2,3::\ndog:0,128,1::\ncat:128,0,0::\n")
    platform.config["export_format"] = "seg-mask:raw"
    platform.write()
    return dataset


def test_colour_masks(coloured):
    cfg = util.get_merged_config()
    assert package.find_blank_area_in_dataset(cfg) is False
    for made in package.convert_ymir_to_mmseg(cfg).values():
        assert (masks(made)[0] == [0, 0, 0, 1, 1, 1]).all()


def test_a_colour_that_is_no_class(coloured):
    (coloured.annotations / "labelmap.txt").write_text("cat:128,0,0::\n")
    assert (masks(package.convert_ymir_to_mmseg(util.get_merged_config())["val"])[0] == [1, 1, 1, 0, 0, 0]).all()


@pytest.mark.parametrize("text, reason", [("cat=1", "line 1: 'cat=1' is not of the form"), (None, "cannot read .*labelmap")])
def test_labelmap_faults(coloured, text, reason):
    path = coloured.annotations / "labelmap.txt"
    os.unlink(path) if text is None else path.write_text(text)
    with pytest.raises(DatasetError, match=reason):
        package.convert_ymir_to_mmseg(util.get_merged_config())


def test_rgb_to_label_id(tmp_path):
    rgb = np.array([[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [1, 2, 4]]], np.uint8)
    for palette in ({1: (1, 2, 3), 7: [4, 5, 6]}, {(1, 2, 3): 1, (4, 5, 6): 7}):
        ids = package.convert_rgb_to_label_id(rgb, palette)
        assert ids.dtype == np.uint8 and ids.tolist() == [[1, 7], [0, 0]]
    assert package.convert_rgb_to_label_id(rgb, {300: (1, 2, 3)}, dtype=np.int32)[0, 0] == 300
    with pytest.raises(ValueError, match="must be"):
        package.convert_rgb_to_label_id(rgb[0], {})
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    package.save_rgb_to_label_id(str(tmp_path / "rgb.png"), str(tmp_path / "新 dir" / "ids.png"), {1: (1, 2, 3)})
    assert read(tmp_path / "新 dir" / "ids.png").tolist() == [[1, 0], [0, 0]]
    with pytest.raises(ImageError, match="cannot be read"):
        package.save_rgb_to_label_id(str(tmp_path / "none.png"), "x", {})


# ------------------------------------------------------------------------------------------------------------------------- faults

def test_not_masks(dataset):
    with pytest.raises(ConfigError, match="has no masks"):
        package.find_blank_area_in_dataset(util.get_merged_config())


def test_an_empty_training_set(segmented, platform):
    platform.index("train")
    with pytest.raises(DatasetError, match="lists no image"):
        package.train_with_black_area_or_not(util.get_merged_config())


@pytest.mark.parametrize("mask, reason", [
    ({**FULL, "size": [48, 63]}, "cover 3072 pixels"),
    (_rle.encode(np.ones((64, 48))), "a mask has 64 x 48 pixels, the image 48 x 64"),
    ([[0, 0, 1e9, 0, 1, 1]], "within a million"),
])
def test_masks_that_do_not_fit(segmented, mask, reason):
    segmented.write_coco({("1 张.png", 0): mask})
    with pytest.raises(DatasetError, match=rf"coco-annotations\.json: image 1 张\.png: .*{reason}"):
        package.find_blank_area_in_dataset(util.get_merged_config())


def test_too_many_classes(segmented, platform):
    platform.config["class_names"] = [str(i) for i in range(255)]
    platform.write()
    with pytest.raises(ConfigError, match="255 classes"):
        package.convert_ymir_to_mmseg(util.get_merged_config())
