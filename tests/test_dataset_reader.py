"""Index files: what the platform writes, and what people and old platforms write."""
from __future__ import annotations

import pytest

from ymir_exc import dataset_reader as reader
from ymir_exc import env, util
from ymir_exc.env import DatasetType
from ymir_exc.errors import DatasetError, ImageError


def test_the_platform_s_own_lines(platform):
    platform.index("train", "/in/assets/1.jpg\t/in/annotations/1.txt", "/in/assets/2.jpg\t/in/annotations/2.txt")
    platform.index("candidate", "/in/assets/3.jpg")
    assert list(reader.item_paths(DatasetType.TRAINING)) == [("/in/assets/1.jpg", "/in/annotations/1.txt"),
                                                            ("/in/assets/2.jpg", "/in/annotations/2.txt")]
    assert list(reader.item_paths(dataset_type=DatasetType.CANDIDATE)) == [("/in/assets/3.jpg", "")]
    assert reader.items_count(DatasetType.TRAINING) == 2
    assert reader.DatasetType is env.DatasetType


@pytest.mark.parametrize(("content", "expected"), [
    (b"", []),
    (b"\n\n \n", []),
    (b"\xef\xbb\xbf/a.jpg\t/a.txt\r\n/b.jpg\t/b.txt\r\n", [("/a.jpg", "/a.txt"), ("/b.jpg", "/b.txt")]),
    (b"/a.jpg", [("/a.jpg", "")]),
    (b"/a.jpg\t\n", [("/a.jpg", "")]),
    (b"/a.jpg\t/a.txt\textra\tmore\n", [("/a.jpg", "/a.txt")]),
    ("/a b/图 像.jpg\t/标 注.txt\n".encode(), [("/a b/图 像.jpg", "/标 注.txt")]),
    (b"/a.jpg \t/a.txt\n", [("/a.jpg ", "/a.txt")]),
    (b"/a.jpg\t/a.txt\n/b.jpg\n", [("/a.jpg", "/a.txt"), ("/b.jpg", "")]),
    (b"/a.jpg\t/a.txt\t/a.png\n/b.jpg\n", [("/a.jpg", "/a.txt"), ("/b.jpg", "")]),    # as many tabs as lines
    (b"/a.jpg\t/a.txt\t\t/c\t/d\n/b.jpg\t/b.txt\n", [("/a.jpg", "/a.txt"), ("/b.jpg", "/b.txt")]),
    (b"/a.jpg\t/a.txt\t\n/b.jpg\t\n/c.jpg\t/c.txt\n", [("/a.jpg", "/a.txt"), ("/b.jpg", ""), ("/c.jpg", "/c.txt")]),
    (b"/a\n" * 3, [("/a", "")] * 3),
    (b"/a\n\n \n/a\n", [("/a", "")] * 2),
    (b"/ab\n   \n/cd\n", [("/ab", ""), ("/cd", "")]),    # of one length, one of them blank
    (b"/abc\n/\n/\n\n", [("/abc", ""), ("/", ""), ("/", "")]),    # as long as two of the first
    (b"/" + b"a" * 70000 + b"\n/b\n", [("/" + "a" * 70000, ""), ("/b", "")]),    # longer than a block
    ("/a\u2028b\u0085c.jpg\t/a\x0cb.txt\n".encode(), [("/a\u2028b\u0085c.jpg", "/a\x0cb.txt")]),
])
def test_grammar(platform, content, expected):
    (platform.input / "train-index.tsv").write_bytes(content)
    assert list(reader.item_paths(DatasetType.TRAINING)) == expected
    assert reader.items_count(DatasetType.TRAINING) == len(expected)


@pytest.mark.parametrize(("content", "words"), [
    (b"/ok.jpg\nassets/1.jpg\t/a.txt\n", "line 2: 'assets/1.jpg' is not an absolute path"),
    (b"\t/a.txt\n", "line 1: '' is not an absolute path"),
    (b"/ok.jpg\t/ok.txt\n" * 9000 + b"/a.jpg\t/a.txt\nb.jpg\t/b.txt\n", "line 9002: 'b.jpg' is not an absolute path"),
    (b"/ok.jpg\n\xff\xd8\xff\xe0\x00\n", "not UTF-8 text"),
])
def test_bad_lines_are_named(platform, content, words):
    (platform.input / "train-index.tsv").write_bytes(content)
    with pytest.raises(DatasetError, match=words) as caught:
        list(reader.item_paths(DatasetType.TRAINING))
    assert caught.value.return_code == 300002
    assert "train-index.tsv" in str(caught.value)


@pytest.mark.parametrize("long", [("/aaa" + "中" * 600_000).encode(), b"/" + b"a" * (3 << 20)])
def test_a_line_that_no_path_is_as_long_as(platform, long):
    (platform.input / "train-index.tsv").write_bytes(b"/ok.jpg\n" * 10_000 + long + b"\n/ok.jpg\n")
    for read in (lambda: list(reader.item_paths(DatasetType.TRAINING)), lambda: reader.items_count(DatasetType.TRAINING)):
        with pytest.raises(DatasetError, match=r"train-index\.tsv, line 10001: longer than 1 MiB"):
            read()


@pytest.mark.parametrize("after", [b"", b"/b.jpg", b"/b.jpg\n"])
@pytest.mark.parametrize("before", [b"", b"/ok.jpg\n" * (reader._CHUNK_BYTES // 8)])    # as long as a block
def test_the_longest_line_from_both_sides(platform, before, after):
    """A block ends in it, and a mebibyte more is read to its end, the line break counted."""
    most = reader._CHUNK_BYTES + reader._MAX_LINE_BYTES
    assert len(before) in (0, reader._CHUNK_BYTES)
    index = platform.input / "train-index.tsv"
    for end in (b"\n",) if after else (b"", b"\n"):
        index.write_bytes(before + b"/".ljust(most - 1, b"a") + end + after)
        read = [asset for asset, _ in reader.item_paths(DatasetType.TRAINING)]
        assert (len(read), reader.items_count(DatasetType.TRAINING)) == (before.count(b"\n") + 1 + bool(after),) * 2
        assert read[before.count(b"\n")] == "/".ljust(most - 1, "a")
        index.write_bytes(before + b"/".ljust(most, b"a") + end + after)
        for refused in (lambda: list(reader.item_paths(DatasetType.TRAINING)), lambda: reader.items_count(DatasetType.TRAINING)):
            with pytest.raises(DatasetError, match=rf"train-index\.tsv, line {before.count(10) + 1}: longer than 1 MiB"):
                refused()


def test_a_missing_index_a_folder_and_none_at_all(platform):
    items = reader.item_paths(DatasetType.TRAINING)    # lazy: nothing is said yet
    with pytest.raises(DatasetError, match=r"train-index\.tsv does not exist"):
        next(items)
    (platform.input / "train-index.tsv").mkdir()
    with pytest.raises(DatasetError, match="Is a directory"):
        reader.items_count(DatasetType.TRAINING)
    platform.env["input"]["training_index_file"] = ""
    platform.write()
    with pytest.raises(ValueError, match="training_index_file is not set"):
        next(reader.item_paths(DatasetType.TRAINING))
    with pytest.raises(KeyError):
        next(reader.item_paths(DatasetType.UNKNOWN))


def test_items_parse_annotations_and_shard(platform):
    annotation = platform.input / "annotations" / "1.txt"
    annotation.write_text("1, 10, 20, 39, 59, -1.0, 0.0\n")
    lines = [f"/in/assets/{n}.jpg\t{annotation}" for n in range(7)]
    platform.index("train", *lines)
    items = list(reader.items(DatasetType.TRAINING))
    assert [item.asset for item in items] == [f"/in/assets/{n}.jpg" for n in range(7)]
    assert items[0].objects[0].class_id == 1
    assert (items[0].objects[0].width, items[0].objects[0].height) == (30, 40)
    shards = [list(reader.items(DatasetType.TRAINING, shard=(rank, 3))) for rank in range(3)]
    assert sorted(item.position for shard in shards for item in shard) == list(range(7))
    platform.index("candidate", "/in/assets/9.jpg")
    assert list(reader.items(DatasetType.CANDIDATE)) == [("/in/assets/9.jpg", "", (), 0)]


def test_counts_by_split(platform):
    annotation = platform.input / "annotations" / "1.txt"
    annotation.write_text("0, 1, 2, 3, 4, -1.0, 0.0\n\n1, 1, 2, 3, 4, -1.0, 0.0\n")
    for name in ("train", "val", "candidate"):
        platform.index(name, f"/a.jpg\t{annotation}", "/b.jpg")
    cfg = util.get_merged_config()
    for split in ("train", "training", "val", "validation", "candidate", "test", "infer"):
        assert reader.images_count(cfg, split) == 2
    assert reader.bboxes_count(cfg, "train") == reader.bboxes_count(cfg, "validation") == 2
    with pytest.raises(DatasetError, match="unknown split"):
        reader.images_count(cfg, "holdout")
    with pytest.raises(DatasetError, match="cannot be counted"):
        reader.bboxes_count(cfg, "candidate")
    cfg.param.export_format = "voc:raw"
    with pytest.raises(DatasetError, match="voc:raw"):
        reader.bboxes_count(cfg, "train")


def test_broken_images_are_named(tmp_path, caplog):
    Image = pytest.importorskip("PIL.Image")
    good, cut, text = tmp_path / "good.png", tmp_path / "cut.jpg", tmp_path / "text.jpg"
    Image.new("RGB", (40, 30), "red").save(good)
    Image.effect_noise((64, 64), 90).save(cut)
    cut.write_bytes(cut.read_bytes()[:400])
    text.write_text("no image")
    files = [str(p) for p in (cut, good, text, tmp_path / "missing.png")]
    assert reader.filter_broken_images(files) == [str(good)]
    assert [record.args[0].message.split(" cannot")[0] for record in caplog.records] == [files[0], files[2], files[3]]
    assert reader.check_image(str(good)) == (40, 30)
    with pytest.raises(ImageError, match=r"text\.jpg cannot be read as an image"):
        reader.check_image(str(text))


INDEX = """
from ymir_exc import dataset_reader
from ymir_exc.env import DatasetType, current_env

def write(count, annotation):
    with open(current_env().input.training_index_file, "w") as f:
        for n in range(count):
            f.write(f"/in/assets/{n:0200d}.jpg\\t{annotation}\\n")
"""
MEMORY = {
    "item_paths": ("""
def act(count, end):
    write(count, "/in/annotations/1.txt")
    end()
    assert sum(1 for _ in dataset_reader.item_paths(DatasetType.TRAINING)) == count
""", 10_000, 50_000),
    "items_count": ("""
def act(count, end):
    write(count, "/in/annotations/1.txt")
    end()
    assert dataset_reader.items_count(DatasetType.TRAINING) == count
""", 10_000, 50_000),
    "items": ("""
def act(count, end):
    annotation = current_env().input.annotations_dir + "/1.txt"
    with open(annotation, "w") as f:
        f.write("0, 1, 2, 3, 4, -1.0, 0.0\\n" * 5)
    write(count, annotation)
    end()
    assert sum(len(item.objects) for item in dataset_reader.items(DatasetType.TRAINING)) == 5 * count
""", 2_000, 8_000),
}


@pytest.mark.parametrize("name", MEMORY)
def test_an_index_file_of_any_length_takes_the_same_memory(memory_growth, name):
    program, few, many = MEMORY[name]
    assert memory_growth(INDEX + program, few, many) < 30    # bytes an item; its path alone would be 250
