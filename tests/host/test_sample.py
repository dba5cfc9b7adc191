"""The sample dataset: layout, formats, determinism, what the pictures hold, and folders in every earlier state."""
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from ymir_exc.errors import ConfigError, StorageError
from ymir_exc.host import _export
from ymir_exc.host.sample import CLASS_NAMES, write_sample

pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")

FORMATS = ("ark", "voc", "coco")


def tree(folder):
    """Every file and folder below a folder, with the files' content."""
    paths = sorted(p for p in folder.rglob("*"))
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in paths}


def rows(path):
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def on_host(out, path):
    """Where a path as a container sees it lies on this machine."""
    assert path.startswith("/")
    return out / path[1:]


def boxes(out, image_path, annotation_path):
    """Class index and inclusive corners of each object of an image, read back from whichever format it is in."""
    annotation = on_host(out, annotation_path)
    if annotation.suffix == ".txt":
        return [tuple(int(v) for v in line.split(", ")[:5]) for line in annotation.read_text().splitlines()]
    if annotation.suffix == ".xml":
        names = ("xmin", "ymin", "xmax", "ymax")
        return [(CLASS_NAMES.index(o.findtext("name")), *(int(o.findtext(f"bndbox/{n}")) for n in names))
                for o in ElementTree.parse(annotation).getroot().iter("object")]
    coco = json.loads(annotation.read_text())
    ids = [i["id"] for i in coco["images"] if i["file_name"] == Path(image_path).name]
    return [(a["category_id"], a["bbox"][0], a["bbox"][1], a["bbox"][0] + a["bbox"][2] - 1, a["bbox"][1] + a["bbox"][3] - 1)
            for a in coco["annotations"] if [a["image_id"]] == ids]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A sample in each format: the folder and the summary."""
    made = {}
    for export_format in FORMATS:
        out = tmp_path_factory.mktemp(export_format) / "out"
        made[export_format] = out, write_sample(out, images=24, candidates=12, seed=3, export_format=export_format)
    return made


# ------------------------------------------------------------------------------------------------------------ layout


@pytest.mark.parametrize("export_format", FORMATS)
def test_every_path_in_an_index_file_exists_and_is_named_as_the_platform_names_it(sample, export_format):
    out, summary = sample[export_format]
    assert summary.images == {"train": 18, "val": 6, "candidate": 12}
    for index, count in (("in/train", 18), ("in/val", 6), ("truth/candidate", 12)):
        lines = rows(out / f"{index}-index.tsv")
        assert len(lines) == count
        for image, annotation in lines:
            assert re.fullmatch(r"/in/assets/([0-9a-f]{2})/[0-9a-f]{38}\1\.(jpg|png)", image)
            assert annotation.startswith(f"/{index.split('/')[0]}/annotations/")
            assert on_host(out, annotation).is_file()
            assert hashlib.sha1(on_host(out, image).read_bytes()).hexdigest() == Path(image).stem
    assert (out / "in/train-index.tsv").read_bytes().endswith(b"\n")


def test_candidates_come_without_labels(sample):
    out, _ = sample["ark"]
    candidates = rows(out / "in/candidate-index.tsv")
    assert all(len(columns) == 1 for columns in candidates)
    assert [c[0] for c in candidates] == [columns[0] for columns in rows(out / "truth/candidate-index.tsv")]
    labelled = {p.stem for p in (out / "in/annotations").rglob("*.txt")}
    assert len(labelled) == 24
    assert not labelled & {Path(c[0]).stem for c in candidates}


def test_images_are_real_files_of_their_kind_and_mostly_jpeg(sample):
    out, _ = sample["ark"]
    files = list((out / "in/assets").rglob("*.*"))
    assert len(files) == 36
    for path in files:
        with Image.open(path) as image:
            image.load()
            assert (image.format, image.mode, image.size) == ({".jpg": "JPEG", ".png": "PNG"}[path.suffix], "RGB", (192, 192))
    suffixes = Counter(path.suffix for path in files)
    assert suffixes[".jpg"] > suffixes[".png"] > 0


def test_env_and_config_are_what_the_platform_writes_before_a_training(sample):
    out, _ = sample["voc"]
    env = yaml.safe_load((out / "in/env.yaml").read_text(encoding="utf-8"))
    config = yaml.safe_load((out / "in/config.yaml").read_text(encoding="utf-8"))
    assert config == {"class_names": list(CLASS_NAMES), "export_format": "voc:raw", "gpu_count": 0, "gpu_id": "",
                      "object_type": 2, "task_id": env["task_id"]}
    assert (env["protocol_version"], env["manifest_file"]) == ("1.1.0", "/img-man/manifest.yaml")
    assert (env["run_training"], env["run_mining"], env["run_infer"]) == (True, False, False)
    assert env["input"] == {
        "root_dir": "/in", "assets_dir": "/in/assets", "annotations_dir": "/in/annotations", "models_dir": "/in/models",
        "config_file": "/in/config.yaml", "training_index_file": "/in/train-index.tsv",
        "val_index_file": "/in/val-index.tsv", "candidate_index_file": ""}
    assert env["output"] == {
        "root_dir": "/out", "models_dir": "/out/models", "tensorboard_dir": "/out/tensorboard",
        "training_result_file": "/out/models/result.yaml", "mining_result_file": "/out/result.tsv",
        "infer_result_file": "/out/infer-result.json", "monitor_file": "/out/monitor.txt",
        "executor_log_file": "/out/ymir-executor-out.log"}
    assert re.fullmatch(r"t0[0-9a-f]{28}", env["task_id"])
    assert [p.name for p in (out / "in/models").iterdir()] == [p.name for p in (out / "in/predictions").iterdir()] == []


def test_out_is_prepared_pending_and_open_to_every_uid(sample):
    out, _ = sample["ark"]
    assert (out / "out/monitor.txt").read_text() == "t0100001000001" + "0" * 16 + "\t0.000000\t0.00\t1\n"
    assert sorted(p.name for p in (out / "out").iterdir()) == ["models", "monitor.txt", "tensorboard"]
    for name in ("out", "out/models", "out/tensorboard", "out/monitor.txt"):
        assert (out / name).stat().st_mode & 0o777 == 0o777


def test_in_root_moves_every_path_that_a_program_sees(tmp_path):
    out = tmp_path / "a place 数据"
    summary = write_sample(out, images=4, in_root=str(out / "in"))
    assert summary.in_root == str(out / "in")
    for index in ("in/train", "in/val", "truth/candidate"):
        for image, annotation in rows(out / f"{index}-index.tsv"):
            assert Path(image).is_file()
            assert Path(annotation).is_file()
    env = yaml.safe_load((out / "in/env.yaml").read_text(encoding="utf-8"))
    for path in (env["input"]["training_index_file"], env["input"]["config_file"], env["output"]["monitor_file"]):
        assert Path(path).is_file()
    assert env["output"]["training_result_file"] == f"{out}/out/models/result.yaml"


def test_the_reader_of_this_package_reads_it(tmp_path, monkeypatch):
    from ymir_exc import dataset_reader, env, settings
    write_sample(tmp_path, images=4, in_root=str(tmp_path / "in"))
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(tmp_path / "in/env.yaml"))
    assert env.get_executor_config()["class_names"] == list(CLASS_NAMES)
    read = list(dataset_reader.item_paths(env.DatasetType.TRAINING))
    assert read == [tuple(columns) for columns in rows(tmp_path / "in/train-index.tsv")]


# ----------------------------------------------------------------------------------------------------------- formats


EXAMPLE = _export.ExportedImage("ab" * 20, ".jpg", "/in/assets/ab/" + "ab" * 20 + ".jpg", (192, 128), [(2, 0, 5, 19, 9)])
EMPTY = _export.ExportedImage("01" * 20, ".png", "/in/assets/01/" + "01" * 20 + ".png", (192, 128), [])


def test_ark_is_seven_columns_with_inclusive_corners_and_empty_without_objects():
    assert _export.ark_text(EXAMPLE) == "2, 0, 5, 19, 9, -1.0, 0.0\n"
    assert _export.ark_text(EMPTY) == ""


def test_voc_keeps_the_order_of_elements():
    assert _export.voc_text(EXAMPLE, CLASS_NAMES) == (
        "<annotation><folder>folder</folder><filename>" + EXAMPLE.path + "</filename>"
        "<source><annotation>unknown</annotation><image>unknown</image></source>"
        "<size><width>192</width><height>128</height><depth>3</depth></size><segmented>0</segmented>"
        "<image_quality>-1.0000</image_quality>"
        "<object><name>mug</name><pose>unknown</pose><truncated>unknown</truncated><occluded>0</occluded>"
        "<bndbox><xmin>0</xmin><ymin>5</ymin><xmax>19</xmax><ymax>9</ymax><rotate_angle>0.0000</rotate_angle></bndbox>"
        "<difficult>0</difficult><box_quality>-1.0000</box_quality><confidence>-1.0000</confidence></object></annotation>")
    assert "<object>" not in _export.voc_text(EMPTY, CLASS_NAMES)


def test_coco_keeps_the_platforms_oddities():
    coco = json.loads(_export.coco_text([EXAMPLE, EMPTY], [0], CLASS_NAMES))
    assert sorted(coco) == ["annotations", "categories", "images", "licenses"]
    assert [(i["id"], i["file_name"]) for i in coco["images"]] == [(1, "01" * 20 + ".png"), (2, "ab" * 20 + ".jpg")]
    assert coco["categories"] == [{"id": 0, "name": "gear", "supercategory": "object"}]  # mug is referred to all the same
    assert coco["annotations"] == [{"id": 1, "image_id": 2, "category_id": 2, "iscrowd": 0, "bbox": [0, 5, 20, 5],
                                    "confidence": -1.0, "area": 100, "segmentation": {}}]


def test_coco_is_one_file_for_train_and_val_and_numbers_from_1_without_gaps(sample):
    out, summary = sample["coco"]
    assert [p.name for p in (out / "in/annotations").iterdir()] == ["coco-annotations.json"]
    coco = json.loads((out / "in/annotations/coco-annotations.json").read_text())
    assert [i["id"] for i in coco["images"]] == list(range(1, 25))
    total = sum(sum(summary.objects[split].values()) for split in ("train", "val"))
    assert [a["id"] for a in coco["annotations"]] == list(range(1, total + 1))


def test_all_formats_say_the_same(sample):
    read = {}
    for export_format, (out, summary) in sample.items():
        lines = rows(out / "in/train-index.tsv") + rows(out / "in/val-index.tsv") + rows(out / "truth/candidate-index.tsv")
        read[export_format] = {image: boxes(out, image, annotation) for image, annotation in lines}
        counted = Counter(CLASS_NAMES[box[0]] for found in read[export_format].values() for box in found)
        assert counted == sum((Counter(c) for c in summary.objects.values()), Counter())
    assert read["ark"] == read["voc"] == read["coco"]
    assert any(not found for found in read["ark"].values())


# ------------------------------------------------------------------------------------------------------- determinism


def test_same_arguments_same_bytes(tmp_path):
    write_sample(tmp_path / "a", images=6, seed=5)
    write_sample(tmp_path / "b", images=6, seed=5)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_another_seed_another_dataset(tmp_path):
    write_sample(tmp_path / "a", images=4, seed=0)
    write_sample(tmp_path / "b", images=4, seed=1)
    assert not set(tree(tmp_path / "a/in/assets")) & {n for n in tree(tmp_path / "b/in/assets") if "." in n}


def test_more_images_leave_the_earlier_ones_as_they_were(tmp_path):
    write_sample(tmp_path / "a", images=5, candidates=2)
    write_sample(tmp_path / "b", images=12, candidates=5)
    few, many = tree(tmp_path / "a"), tree(tmp_path / "b")
    for index in ("in/train-index.tsv", "in/val-index.tsv", "in/candidate-index.tsv"):
        assert few[index]
        assert many[index].startswith(few[index])
    assert all(many[name] == few[name] for name in few if re.match(r"(in|truth)/a.*/.*\.", name))


@pytest.mark.parametrize(("images", "split"), [(0, (0, 0)), (1, (1, 0)), (2, (1, 1)), (3, (2, 1)), (9, (7, 2))])
def test_how_images_are_split(tmp_path, images, split):
    summary = write_sample(tmp_path, images=images)
    assert (summary.images["train"], summary.images["val"], summary.images["candidate"]) == (*split, images // 4)
    assert len(rows(tmp_path / "in/train-index.tsv")) == split[0]


# ---------------------------------------------------------------------------------------------- what the pictures hold


def drawn(split, count, size=192):
    from ymir_exc.host import _draw
    return [_draw.draw_picture(0, split, i, size) for i in range(count)]


@pytest.mark.parametrize("size", [64, 101, 192])
def test_boxes_lie_inside_the_picture_in_the_stated_range(size):
    for picture in drawn("train", 40, size):
        assert picture.pixels.shape == (size, size, 3)
        assert picture.pixels.std() > 1.0
        for box in picture.boxes:
            assert 0 <= box.xmin < box.xmax < size
            assert 0 <= box.ymin < box.ymax < size
            longest = max(box.xmax - box.xmin, box.ymax - box.ymin) + 1
            assert 16 <= longest * 192 / size <= 124  # 36 to 100 along the object's own axes; turned, or partly covered


@pytest.mark.parametrize("class_index", range(len(CLASS_NAMES)))
def test_boxes_are_tight_around_the_drawn_pixels(monkeypatch, class_index):
    import numpy as np

    from ymir_exc.host import _draw
    monkeypatch.setattr(_draw, "_plan_labelled", lambda rng: [class_index])
    monkeypatch.setattr(_draw, "_distractor_count", lambda rng: 0)
    monkeypatch.setattr(_draw, "_background", lambda rng, size: (np.full((3, size, size), -1, np.float32), (0, 0, 0)))
    monkeypatch.setattr(_draw, "_blend_shadow", lambda *args: None)
    monkeypatch.setattr(_draw, "_expose", lambda rng, scene: scene)
    found = 0
    for picture in drawn("train", 25):
        touched = (picture.pixels > -1).any(axis=0)
        columns, lines = np.flatnonzero(touched.any(axis=0)), np.flatnonzero(touched.any(axis=1))
        for box in picture.boxes:
            found += 1
            assert box.class_index == class_index
            edges = (columns[0], lines[0], columns[-1], lines[-1])
            # A pixel covered by less than half is not of the object, so the sharp tip of a tail may end a little earlier.
            assert max(abs(a - b) for a, b in zip(edges, box[1:])) <= 4
            assert sum(abs(a - b) for a, b in zip(edges, box[1:])) <= 6
    assert found == 25


def test_of_every_object_at_least_85_percent_can_be_seen(monkeypatch):
    from ymir_exc.host import _draw
    seen = []
    monkeypatch.setattr(_draw, "_box_of", lambda item: seen.append(item.visible.sum() / item.full_area))
    drawn("train", 60)
    assert min(seen) >= 0.85
    assert sum(share < 0.95 for share in seen) > 10  # and some are covered in part


def plans(split, count=2000):
    from ymir_exc.host import _draw
    return [_draw._plan(_draw._generator(0, split, i), split) for i in range(count)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_classes_of_labelled_pictures_are_uneven_and_some_pictures_are_empty(split):
    labelled = plans(split)
    share = Counter(class_index for plan in labelled for class_index in plan)
    total = sum(share.values())
    assert [share[i] / total for i in range(3)] == pytest.approx([0.46, 0.32, 0.22], abs=0.02)
    assert sum(not plan for plan in labelled) / len(labelled) == pytest.approx(0.08, abs=0.02)


def test_rare_classes_lie_in_few_candidates():
    candidates = plans("candidate")
    dull = sum(not any(plan) for plan in candidates)  # nothing, or class 0 alone
    assert 0.5 < dull / len(candidates) < 0.7
    rare = sorted((sum(class_index > 0 for class_index in plan) for plan in candidates), reverse=True)
    assert sum(rare[:len(rare) // 5]) > 0.7 * sum(rare)  # a fifth of the candidates holds most of the rare objects


def test_nearly_all_planned_objects_find_a_place():
    planned = Counter(class_index for plan in plans("train", 60) for class_index in plan)
    placed = Counter(box.class_index for picture in drawn("train", 60) for box in picture.boxes)
    assert not placed - planned
    assert sum(placed.values()) > 0.95 * sum(planned.values())


# ------------------------------------------------------------------------------------------------- folders and errors


@pytest.mark.parametrize("arguments", [
    {"images": -1}, {"candidates": -1}, {"seed": -1}, {"size": 20}, {"export_format": "yolo"}, {"export_format": ""},
    {"in_root": "in"}, {"in_root": "/"}, {"in_root": "/a\tb"}, {"task_id": ""}, {"task_id": "a\tb"}, {"task_id": "a\n"},
], ids=str)
def test_a_wrong_argument_is_refused_before_anything_is_written(tmp_path, arguments):
    with pytest.raises(ConfigError):
        write_sample(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_refused_even_with_overwrite(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="holds no earlier sample"):
            write_sample(tmp_path, images=2, overwrite=overwrite)
    assert tree(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="not a folder"):
        write_sample(tmp_path / "out", images=2)


def test_a_finished_sample_is_replaced_only_when_told_and_other_files_stay(tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    write_sample(out, images=8, seed=1)
    before = tree(out)
    with pytest.raises(ConfigError, match="already holds a sample"):
        write_sample(out, images=4, seed=2)
    assert tree(out) == before
    (out / "out/models/best.pt").write_text("weights of the user")
    write_sample(out, images=4, seed=2, export_format="voc", overwrite=True)
    write_sample(other, images=4, seed=2, export_format="voc")
    after = tree(out)
    assert after.pop("out/models/best.pt") == b"weights of the user"
    assert after == tree(other)


def test_a_mark_that_names_files_elsewhere_removes_none(tmp_path):
    out = tmp_path / "out"
    write_sample(out, images=2)
    (tmp_path / "precious").write_text("x")
    with (out / ".ymir-sample").open("a") as f:
        f.write("../precious\nin/../../precious\n" + str(tmp_path / "precious") + "\n")
    write_sample(out, images=2, overwrite=True)
    assert (tmp_path / "precious").read_text() == "x"


def test_a_failure_halfway_leaves_no_env_file_and_the_next_call_makes_it_anew(tmp_path):
    def stop(done, total):
        assert total == 10
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "a", images=8, on_progress=stop)
    assert not list((tmp_path / "a").rglob("*.yaml")) + list((tmp_path / "a").rglob("*.tsv"))
    write_sample(tmp_path / "a", images=4)
    write_sample(tmp_path / "b", images=4)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.parametrize("written", [0, 1, 4, 9, 17, 25, 26, 27])
def test_killed_while_it_writes_and_made_anew(tmp_path, written):
    """SIGKILL between the temporary file of the n-th write and its rename."""
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from ymir_exc.host.sample import write_sample\n"
        "replace, count = os.replace, 0\n"
        "def deadly(*args, **kwargs):\n"
        "    global count\n"
        "    count += 1\n"
        f"    if count == {written} + 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    replace(*args, **kwargs)\n"
        "os.replace = deadly\n"
        "write_sample(Path(sys.argv[1]), images=8)\n")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    died = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a")], env=environ, check=False)
    assert died.returncode == -signal.SIGKILL
    assert not (tmp_path / "a/in/env.yaml").exists()
    write_sample(tmp_path / "a", images=8)
    write_sample(tmp_path / "b", images=8)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self").is_dir(), reason="root may write anywhere")
def test_a_folder_that_cannot_be_made_is_a_storage_error():
    with pytest.raises(StorageError):
        write_sample(Path("/proc/self/sample"), images=1)


def test_progress_is_told_for_every_picture(tmp_path):
    told = []
    write_sample(tmp_path, images=3, candidates=2, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("missing", ["numpy", "PIL"])
def test_a_missing_extra_is_named_with_how_to_install_it(tmp_path, monkeypatch, missing):
    monkeypatch.delitem(sys.modules, "ymir_exc.host._draw", raising=False)
    import ymir_exc.host
    monkeypatch.delattr(ymir_exc.host, "_draw", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=rf'{missing}.*pip install "ymir-exc\[host\]"'):
        write_sample(tmp_path / "out", images=1)
    assert not (tmp_path / "out").exists()


def test_neither_numpy_nor_pillow_is_loaded_by_the_import():
    code = "import sys, ymir_exc.host.sample; print([m for m in ('numpy', 'PIL') if m in sys.modules])"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
