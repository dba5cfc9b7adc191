"""Reading ark, voc and coco annotations: the platform's own bytes, people's slips, and hostile files."""
from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ymir_exc import _annotations
from ymir_exc._annotations import (
    CocoIndex,
    LabelledObject,
    annotation_format,
    annotation_reader,
    count_ark_objects,
    read_ark,
    read_voc,
)
from ymir_exc.errors import ConfigError, DatasetError

NAMES = ["cat", "dog"]


@pytest.fixture
def written(tmp_path):
    """Write a file into a folder whose name has a space and Chinese letters; returns its path."""
    folder = tmp_path / "标注 files"
    folder.mkdir()

    def write(name, content):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return str(path)

    return write


# ------------------------------------------------------------------------------------------------------------------ the object

def test_extent_counts_both_corners():
    found = LabelledObject(1, 10, 20, 39, 59)
    assert (found.width, found.height, found.xywh) == (30, 40, (10, 20, 30, 40))
    assert found[5:] == (-1.0, 0.0, False, None)


# ------------------------------------------------------------------------------------------------------------------------- ark

def test_ark_as_the_platform_writes_it(written):
    path = written("a.txt", "0, 10, 20, 39, 59, -1.0, 0.0\n1, -3, 0, 4, 9, 0.10000000149011612, 1.5\n")
    assert read_ark(path) == [LabelledObject(0, 10, 20, 39, 59), LabelledObject(1, -3, 0, 4, 9, 0.10000000149011612, 1.5)]
    assert count_ark_objects(path) == 2


@pytest.mark.parametrize("text, expected", [
    ("", []),
    ("\n \n\r\n", []),
    ("0,1,2,3,4", [LabelledObject(0, 1, 2, 3, 4)]),                                # five columns, no spaces, no last newline
    ("0, 1, 2, 3, 4, 0.5\r\n", [LabelledObject(0, 1, 2, 3, 4, 0.5)]),              # six, CRLF
    ("0, 1, 2, 3, 4,\n", [LabelledObject(0, 1, 2, 3, 4)]),                         # a comma at the end
    ("0, 1, 2, 3, 4, -1.0, 0.0, more, of, it", [LabelledObject(0, 1, 2, 3, 4)]),   # columns of a later platform
    ("\ufeff0, 1, 2, 3, 4\n", [LabelledObject(0, 1, 2, 3, 4)]),
    ("0, 1.9, -2.9, 3e1, 4.0\n", [LabelledObject(0, 1, -2, 30, 4)]),                # fractions are cut
    ("0, 5, 5, 4, 9\n1, 5, 5, 9, 4\n0, 5, 5, 5, 5\n", [LabelledObject(0, 5, 5, 5, 5)]),    # boxes without pixels have nothing to learn
])
def test_ark_is_tolerant(written, text, expected):
    assert read_ark(written("a.txt", text)) == expected


@pytest.mark.parametrize("line, reason", [
    ("0 1 2 3 4", "1 columns"),
    ("0, 1, 2, 3", "4 columns"),
    ("x, 1, 2, 3, 4", "'x' is not a finite number"),
    ("0, 1, , 3, 4", "'' is not a finite number"),
    ("0, nan, 2, 3, 4", "'nan' is not"),
    ("0, 1, 2, inf, 4", "'inf' is not"),
    ("0, 1, 2, 3, 4, high", "'high' is not"),
    ("0, 100, 100, 50, 60", r"the corner \(50, 60\) lies before \(100, 100\)"),    # x, y, w, h: the platform's own doc is wrong
    ("-1, 1, 2, 3, 4", "class index -1"),
    ("2, 1, 2, 3, 4", "class index 2 is outside the 2"),
    ("2, 1, 2, 3, 4, -1.0, 0.0", "class index 2 is outside the 2"),
    ("0, 1, 2, 3, 4, " + "9" * 5000, "5015 characters"),
    ("猫, 1, 2, 3, 4", "'猫' is not"),
    ("\0\0\0\0, 1, 2, 3, 4", "is not a finite number"),
])
def test_ark_names_file_line_and_remedy(written, line, reason):
    path = written("a.txt", f"0, 1, 2, 3, 4\n\n{line}\n")
    with pytest.raises(DatasetError, match=reason) as caught:
        read_ark(path, 2)
    assert caught.value.message.startswith(f"{path}, line 3: ")
    assert "inclusive" in caught.value.hint


def test_a_file_of_several_reads_is_read_whole(written):
    path = written("a.txt", "".join(f"0, {n}, 2, {n}, 4, -1.0, 0.0\n" for n in range(10_000)))
    assert [found.xmin for found in read_ark(path)] == list(range(10_000))


def test_ark_that_cannot_be_read(written, tmp_path, monkeypatch):
    with pytest.raises(DatasetError, match=r"none\.txt does not exist"):
        read_ark(str(tmp_path / "none.txt"))
    with pytest.raises(DatasetError, match="Is a directory"):
        count_ark_objects(str(tmp_path))
    monkeypatch.setattr("ymir_exc._annotations.objects.MAX_BYTES", 10)
    with pytest.raises(DatasetError, match="larger than"):
        read_ark(written("a.txt", "0, 1, 2, 3, 4\n"))


@given(st.lists(st.one_of(st.just(""), st.just(" \t"), st.tuples(
    st.integers(0, 9), st.integers(-9, 99), st.integers(-9, 99), st.integers(0, 99), st.integers(0, 99)))),
    st.sampled_from(["\n", "\r\n"]), st.sampled_from([",", ", ", " , "]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_ark_round_trip(tmp_path_factory, rows, newline, separator, last_newline):
    boxes = [LabelledObject(c, x, y, x + w, y + h) for c, x, y, w, h in (row for row in rows if isinstance(row, tuple))]
    iterator = iter(boxes)
    lines = [separator.join(map(str, next(iterator)[:5])) if isinstance(row, tuple) else row for row in rows]
    path = tmp_path_factory.mktemp("ark") / "a.txt"
    path.write_bytes((newline.join(lines) + newline * last_newline).encode())
    assert read_ark(str(path)) == boxes
    assert count_ark_objects(str(path)) == len(boxes)


# ------------------------------------------------------------------------------------------------------------------------- voc

VOC = """<annotation><folder>folder</folder><filename>/in/assets/ab/1.jpg</filename><source><annotation>unknown</annotation>\
<image>unknown</image></source><size><width>64</width><height>48</height><depth>3</depth></size><segmented>0</segmented>\
<image_quality>-1.0000</image_quality>{objects}</annotation>"""
VOC_OBJECT = """<object><name>{name}</name><pose>unknown</pose><truncated>unknown</truncated><occluded>0</occluded>{box}\
<difficult>0</difficult><tags><a>b</a></tags><box_quality>{quality}</box_quality><confidence>-1.0000</confidence></object>"""
BOX = ("<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax><rotate_angle>{}</rotate_angle></bndbox>")


def voc(*objects):
    return VOC.format(objects="".join(VOC_OBJECT.format(name=n, box=b, quality=q) for n, b, q in objects))


def test_voc_as_the_platform_writes_it(written):
    text = voc(("dog", BOX.format(10, 20, 39, 59, "0.0000"), "-1.0000"), ("cat", BOX.format(0, 0, 0, 0, "0.5000"), "0.9000"),
               ("cat", "", "-1.0000"), ("bird", BOX.format(1, 2, 3, 4, "0.0000"), "-1.0000"))
    unknown = set()
    assert read_voc(written("a.xml", text), NAMES, unknown) == [LabelledObject(1, 10, 20, 39, 59),
                                                               LabelledObject(0, 0, 0, 0, 0, 0.9, 0.5)]
    assert unknown == {"bird"}


def test_voc_is_tolerant(written):
    plain = "<object><name> Dog </name><bndbox><xmin> 1.0 </xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>"
    for text in (f"<annotation>{plain}</annotation>", f'\ufeff<?xml version="1.0" encoding="GBK"?>\n<a>{plain}</a>'):
        assert read_voc(written("a.xml", text), NAMES) == [LabelledObject(1, 1, 2, 3, 4)]
    assert read_voc(written("a.xml", "<annotation/>"), NAMES) == []
    nothing_to_learn = voc(("cat", BOX.format(5, 5, 4, 9, "0.0000"), "-1.0000"), ("bird", BOX.format(1, 2, 3, 4, "0.0000"), "-1.0000"))
    assert read_voc(written("a.xml", nothing_to_learn), NAMES) == []
    cased = read_voc(written("a.xml", f"<a>{plain.replace(' Dog ', 'dog')}{plain.replace(' Dog ', 'DOG')}</a>"), ["DOG", "dog"])
    assert [found.class_id for found in cased] == [1, 0]


@pytest.mark.parametrize("text, reason", [
    ("", "not valid XML"),
    ("<annotation>", "not valid XML"),
    ("not xml", "not valid XML"),
    (b"\xff\xfe<\0a\0/\0>\0", "not UTF-8"),
    ("<a>&nbsp;</a>", "not valid XML"),
    ('<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><a>&b;</a>', "document type definition"),
    ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "document type definition"),
    (voc(("cat", BOX.format(9, 9, 1, 1, 0), "-1")), r"object 1: the corner \(1, 1\)"),
    (voc(("cat", "<bndbox><xmin>1</xmin></bndbox>", "-1")), "object 1: its bndbox has no ymin"),
    (voc(("cat", BOX.format(1, 2, "", 4, 0), "-1")), "object 1: xmax: '' is not a finite number"),
    (voc(("cat", BOX.format(1, 2, "9" * 5000, 4, 0), "-1")), "object 1: xmax is too long"),
    (voc(("cat", BOX.format(1, 2, 3, 4, "upright"), "-1")), "'upright' is not"),
    (voc(("cat", BOX.format(1, 2, 3, 4, 0), "good")), "'good' is not"),
])
def test_voc_names_file_object_and_key(written, text, reason):
    path = written("a.xml", text)
    with pytest.raises(DatasetError, match=reason) as caught:
        read_voc(path, NAMES)
    assert caught.value.message.startswith(path)


def test_voc_nested_without_end_does_not_crash(written):
    path = written("deep.xml", "<a>" * 200_000 + "</a>" * 200_000)
    code = f"from ymir_exc._annotations import read_voc; print(read_voc({path!r}, ['a']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "[]\n", done.stderr[-300:]


# ------------------------------------------------------------------------------------------------------------------------ coco

def coco(images=None, annotations=(), categories=None, **more):
    return json.dumps({"images": [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 48}] if images is None else images,
                       "licenses": [], "categories": categories or [], "annotations": list(annotations), **more})


def annotation(**changes):
    return {"id": 1, "image_id": 1, "category_id": 0, "iscrowd": 0, "bbox": [1, 2, 3, 4], "confidence": -1, "area": 12,
            "segmentation": {}, **changes}


RLE = {"counts": "0l1", "size": [48, 64]}


def test_coco_as_the_platform_writes_it(written, caplog):
    images = [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 48}, {"id": 2, "file_name": "2.png", "width": 1, "height": 1}]
    path = written("coco-annotations.json", coco(images, [
        annotation(), annotation(category_id=1, segmentation=RLE, iscrowd=1), annotation(segmentation=[[1, 2, 3, 4, 5, 6]]),
        annotation(bbox=[1, 2, 0, 0]), annotation(bbox=[1, 2, 0, 0], segmentation=RLE), annotation(image_id=2, category_id=1),
    ], [{"id": 0, "name": "cat", "supercategory": "object"}]))    # dog has no entry: only val shows one
    index = CocoIndex(path, NAMES)
    assert index.objects("/in/assets/ab/1.jpg") == [
        LabelledObject(0, 1, 2, 3, 5), LabelledObject(1, 1, 2, 3, 5, is_crowd=True, segmentation=RLE),
        LabelledObject(0, 1, 2, 3, 5, segmentation=[[1, 2, 3, 4, 5, 6]]), LabelledObject(0, 1, 2, 0, 1, segmentation=RLE)]
    assert [found.class_id for found in index.objects("2.png")] == [1]
    assert (index.size("/x/1.jpg"), index.size("2.png"), len(index)) == ((64, 48), (1, 1), 2)
    assert not caplog.records


def test_coco_lists_belong_to_the_caller(written):
    index = CocoIndex(written("c.json", coco(annotations=[annotation()])), NAMES)
    index.objects("1.jpg").clear()
    assert len(index.objects("1.jpg")) == 1


def test_coco_ids_of_other_tools_are_told_by_name(written, caplog):
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "Cat"}, {"id": 3, "name": "bird"}]
    path = written("c.json", coco(annotations=[annotation(category_id=i) for i in (1, 2, 3, 3)], categories=categories))
    with caplog.at_level(logging.WARNING):
        assert [found.class_id for found in CocoIndex(path, NAMES).objects("1.jpg")] == [1, 0]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: objects of category 3 are left out: it stands for none of class_names"]


def test_coco_is_tolerant(written):
    images = [{"id": "a", "file_name": "sub/文 1.jpg"}]
    odd = annotation(image_id="a", bbox=[1.9, "2", 3.0, 4.4], box_quality=0.5, segmentation=[])
    path = written("c.json", "\ufeff" + coco(images, [odd]))
    index = CocoIndex(path, NAMES)
    assert index.objects("/in/assets/文 1.jpg") == [LabelledObject(0, 1, 2, 3, 5, 0.5)]
    assert index.size("文 1.jpg") is None


@pytest.mark.parametrize("text, reason", [
    ("", "not valid JSON"),
    (b"\xff", "not valid JSON"),
    ("[" * 200_000, "not valid JSON"),
    ("[]", "must be a mapping"),
    ("{}", "images: must be a list, is missing"),
    ('{"images": {}, "annotations": []}', "images: must be a list, is dict"),
    (coco(categories=[{"name": "cat"}]), r"categories\[0\]: has no id"),
    (coco(categories=["cat"]), r"categories\[0\]: must be a mapping"),
    (coco(categories=[{"id": [], "name": "cat"}]), r"categories\[0\]: id must be"),
    (coco([{"id": 1}]), r"images\[0\]: has no file_name"),
    (coco([{"file_name": "1.jpg"}]), r"images\[0\]: has no id"),
    (coco([{"file_name": "1.jpg", "id": {}}]), r"images\[0\]: id must be"),
    (coco([7]), r"images\[0\]: must be a mapping"),
    (coco([{"file_name": "a/1.jpg", "id": 1}, {"file_name": "b/1.jpg", "id": 2}]), r"images\[1\]: a second image is called '1.jpg'"),
    (coco(annotations=[{}]), r"annotations\[0\]: has no category_id"),
    (coco(annotations=[annotation(category_id=[])]), r"annotations\[0\]: must be"),
    (coco(annotations=[annotation(image_id={})]), r"annotations\[0\]: must be"),
    (coco(annotations=[annotation(), annotation(bbox=[1, 2, 3])]), r"annotations\[1\]: bbox must be"),
    (coco(annotations=[annotation(bbox=[1, 2, -3, 4])]), r"annotations\[0\]: the corner"),
    (coco(annotations=[annotation(bbox=[1, 2, float("nan"), 4])]), r"annotations\[0\]: nan is not"),
    (coco(annotations=[annotation(bbox=[1, 2, float("inf"), 4])]), r"annotations\[0\]: inf is not"),
    (coco(annotations=[annotation(bbox=[1, 2, None, 4])]), r"annotations\[0\]: None is not"),
    (coco(annotations=[annotation(segmentation=[[1, 2, 3]])]), r"annotations\[0\]: segmentation must be"),
    (coco(annotations=[annotation(segmentation={"counts": 5})]), r"annotations\[0\]: segmentation must be"),
    (coco(annotations=[annotation(segmentation="mask")]), r"annotations\[0\]: segmentation must be"),
])
def test_coco_names_file_and_entry(written, text, reason):
    path = written("c.json", text)
    with pytest.raises(DatasetError, match=reason) as caught:
        CocoIndex(path, NAMES)
    assert caught.value.message.startswith(path)


def test_coco_that_does_not_fit_the_index(written, tmp_path):
    index = CocoIndex(written("c.json", coco()), NAMES)
    with pytest.raises(DatasetError, match=r"images: none has the file_name '9\.jpg'"):
        index.objects("/in/assets/9.jpg")
    with pytest.raises(DatasetError, match="does not exist"):
        CocoIndex(str(tmp_path / "none.json"), NAMES)
    with pytest.raises(DatasetError, match="Is a directory"):
        CocoIndex(str(tmp_path), NAMES)


# ------------------------------------------------------------------------------------------------------------------ the choice

@pytest.mark.parametrize("export_format, expected", [
    (None, ""), ("", ""), (":", ""), ("ark:raw", "ark"), ("DET-ARK:RAW", "ark"), ("det-ark", "ark"), ("voc:raw", "voc"),
    ("det-voc:raw", "voc"), ("coco:raw", "coco"), ("Seg-COCO:raw", "coco"), ("none:raw", "none"), (" ark : raw", "ark"),
])
def test_formats(export_format, expected):
    assert annotation_format(export_format) == expected


@pytest.mark.parametrize("export_format", ["det-ls-json:raw", "seg-mask:raw", "ark2:raw", 7])
def test_formats_nobody_exports(export_format):
    with pytest.raises(ConfigError, match="is unknown"):
        annotation_reader(export_format, NAMES)


def test_reader_chooses_by_format_and_else_by_suffix(written):
    ark, xml = written("a.txt", "1, 1, 2, 3, 4\n"), written("a.xml", voc(("dog", BOX.format(1, 2, 3, 4, 0), -1)))
    one = written("c.json", coco(annotations=[annotation(category_id=1, bbox=[1, 2, 3, 3])]))
    expected = [LabelledObject(1, 1, 2, 3, 4)]
    for export_format, path in (("ark:raw", ark), ("voc:raw", xml), ("seg-coco:raw", one)):
        assert annotation_reader(export_format, NAMES)("/in/1.jpg", path) == expected
        assert annotation_reader(None, NAMES)("/in/1.jpg", path) == expected
        assert annotation_reader("none:raw", NAMES)("/in/1.jpg", path) == []
        assert annotation_reader(export_format, NAMES)("/in/1.jpg", "") == []
    with pytest.raises(DatasetError, match="not valid XML"):    # the contract's default
        annotation_reader("", NAMES)("/in/1.jpg", written("plain", "1, 1, 2, 3, 4\n"))
    with pytest.raises(DatasetError, match="class index 1 is outside"):
        annotation_reader("ark:raw", ["cat"])("/in/1.jpg", ark)


def test_reader_warns_once_of_an_unknown_class(written, caplog):
    path = written("a.xml", voc(("bird", BOX.format(1, 2, 3, 4, 0), -1), ("fish", BOX.format(1, 2, 3, 4, 0), -1)))
    read = annotation_reader("voc:raw", NAMES)
    with caplog.at_level(logging.WARNING):
        assert read("/1.jpg", path) == read("/2.jpg", path) == []
    assert sorted(record.args[1] for record in caplog.records) == ["bird", "fish"]


def test_reader_reads_a_coco_file_once(written, monkeypatch):
    made = []

    class Counting(CocoIndex):
        def __init__(self, *args):
            made.append(args)
            super().__init__(*args)

    monkeypatch.setattr(_annotations, "CocoIndex", Counting)
    path = written("c.json", coco(annotations=[annotation()]))
    read = annotation_reader("coco:raw", NAMES)
    assert len(read("/1.jpg", path)) == len(read("/1.jpg", path)) == 1 == len(made)


@pytest.mark.parametrize("names", [None, [], "cat", ["cat", "cat"], b"cat"])
def test_class_names_must_be_a_list_of_different_names(names):
    with pytest.raises(ConfigError, match="class_names"):
        annotation_reader("ark:raw", names)


def test_numeric_class_names(written):
    path = written("a.xml", voc(("7", BOX.format(1, 2, 3, 4, 0), -1)))
    assert annotation_reader("voc:raw", [3, 7])("/1.jpg", path)[0].class_id == 1


def test_no_permission(written):
    path = written("a.txt", "")
    os.chmod(path, 0)
    pid = os.fork()
    if not pid:    # root may read everything, so somebody else tries
        try:
            if os.geteuid() == 0:
                os.setuid(1234)
            read_ark(path)
        except DatasetError as e:
            os._exit(0 if "Permission denied" in str(e) and path in str(e) else 2)
        finally:
            os._exit(3)
    assert os.waitpid(pid, 0)[1] == 0
