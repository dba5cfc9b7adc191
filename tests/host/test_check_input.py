"""What a task is given is judged: each rule finds what breaks it and nothing else, and nothing is found where all is well."""
from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.host.input_cases import INPUT_CASES, TEMPLATE_CASES, Data
from ymir_exc import result_writer, settings
from ymir_exc._annotations import annotation_reader
from ymir_exc.errors import DatasetError
from ymir_exc.host import sample, workspace
from ymir_exc.host.check import _dataset, _env, _images, all_rules
from ymir_exc.host.check._config import check_config
from ymir_exc.host.check._dataset import check_input
from ymir_exc.host.findings import Severity

FORMATS = ("ark", "voc", "coco")
TEMPLATES = Path(__file__).resolve().parents[2] / "det-demo-tmi" / "img-man"


def without_bare_images(data: Data, labelled: Data) -> None:
    """Take images without objects out of the index files, so that nothing at all is to be found."""
    for split in ("train", "val"):
        kept = [n for n in range(len(labelled.lines(split))) if labelled.paths(n, split)[1].read_text(encoding="utf-8")]
        data.write([data.lines(split)[n] for n in kept], split)


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """A dataset in each format, with nothing to be found."""
    pytest.importorskip("PIL")
    root = tmp_path_factory.mktemp("check") / "data 数据"
    made = {}
    for kind in FORMATS:
        sample.write_sample(root / kind, images=32, candidates=4, size=64, export_format=kind)
        made[kind] = Data(root / kind)
    for kind in reversed(FORMATS):    # ark, which tells the images without objects, is changed last
        without_bare_images(made[kind], made["ark"])
    return made


@pytest.fixture
def copy(bases, tmp_path):
    def make(kind="ark"):
        shutil.copytree(bases[kind].root, tmp_path / "a copy 副本")
        return Data(tmp_path / "a copy 副本")

    return make


def codes(findings):
    return sorted({finding.rule.code for finding in findings})


def test_the_table_covers_every_rule_about_what_is_given():
    own = {code for code in all_rules() if code[0] in "ECIAPN"}
    assert own == set(INPUT_CASES) | set(TEMPLATE_CASES)


@pytest.mark.parametrize("code", sorted(INPUT_CASES))
def test_a_rule_finds_what_breaks_it_and_nothing_else(code, copy):
    kind, spoil = INPUT_CASES[code]
    data = copy(kind)
    spoil(data)
    found = list(check_input(data.input))
    assert codes(found) == [code]
    assert all(finding.message and finding.path.startswith(str(data.root)) for finding in found)


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_found_in_a_clean_dataset(kind, bases):
    assert list(check_input(bases[kind].input)) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_a_sample_as_it_is_written_has_notes_at_most(kind, tmp_path):
    pytest.importorskip("PIL")
    root = tmp_path / "样本 1"
    sample.write_sample(root, images=24, size=64, export_format=kind, in_root=str(root / "in"))
    assert {finding.rule.severity for finding in check_input(root / "in")} <= {Severity.NOTE}


@pytest.mark.parametrize("in_container", [False, True])
@pytest.mark.parametrize("tasks", [["training"], ["mining"], ["infer"], ["mining", "infer"]], ids="+".join)
def test_nothing_is_found_in_a_task_that_is_laid_out(tasks, in_container, bases, tmp_path, monkeypatch):
    trained = workspace.prepare(tmp_path / "trained", bases["ark"].root, ["training"], templates=TEMPLATES)
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(trained.env_file))
    (trained.output / "models" / "epoch_1").mkdir()
    (trained.output / "models" / "epoch_1" / "best.pt").write_bytes(b"weights")
    result_writer.write_model_stage("epoch_1", ["epoch_1/best.pt"], evaluation_result={"mAP": 0.5})
    space = workspace.prepare(tmp_path / "task", bases["ark"].root, tasks, templates=TEMPLATES, model=trained.output,
                              in_container=in_container)
    assert list(check_input(space.input)) == []


@pytest.mark.parametrize(("code", "line", "place"), [
    ("I206", True, "val-index.tsv"), ("I212", True, "val-index.tsv"), ("A310", True, ".txt"), ("A323", True, ".txt"),
    ("P403", True, "train-index.tsv"), ("C113", False, "class_names[1]"), ("E110", False, "output.models_dir"),
    ("A333", False, "object[1].bndbox.ymax"), ("A341", True, "images["), ("A351", True, ".segmentation.size")])
def test_a_finding_tells_the_place(code, line, place, copy):
    kind, spoil = INPUT_CASES[code]
    data = copy(kind)
    spoil(data)
    finding, = check_input(data.input)
    assert place in finding.place
    assert (finding.line is not None) == line
    if finding.path.endswith((".tsv", ".txt")):
        lines = Path(finding.path).read_bytes().split(b"\n")
        assert finding.line <= len(lines)


def test_the_line_is_that_of_the_fault(copy):
    data = copy()
    data.append("0, 1, 2, 3")
    finding, = check_input(data.input)
    assert finding.line == len(data.paths()[1].read_text(encoding="utf-8").splitlines())
    lines = data.lines()
    data.write([lines[0], "", *lines[1:], "", ""])
    assert [(one.rule.code, one.line) for one in check_input(data.input)] == [("I206", 2), ("A310", finding.line)]


def test_all_faults_are_told_at_once(copy):
    data = copy()
    data.env(task_id="an id with\ta TAB")
    data.config(class_names=["Gear", "fish", "mug"])
    data.write([*data.lines(), "relative.jpg\t/in/annotations/a.txt", ""])
    data.append("0, 1, 2, 3")
    data.append("9, 1, 2, 3, 4")
    data.picture().write_bytes(b"")
    assert codes(check_input(data.input)) == ["A310", "A312", "C113", "C156", "E106", "I206", "I210", "P402"]


@pytest.fixture
def big(copy):
    """More images than one process judges: those there are under many names, with faults among them."""
    data = copy()
    asset, annotation = data.paths()
    lines = []
    for number in range(700):
        os.link(asset, asset.with_name(f"{number}.jpg"))
        lines.append(f"/in/assets/{asset.parent.name}/{number}.jpg\t/in/annotations/{annotation.parent.name}/{annotation.name}")
    data.write([*data.lines("train"), *lines], "train")
    asset.with_name("699.jpg").unlink()
    asset.with_name("699.jpg").write_bytes(b"no picture")
    asset.with_name("3.jpg").unlink()
    return data


def test_several_processes_find_what_one_finds_in_the_same_order(big, monkeypatch):
    alone, shown = list(check_input(big.input)), []
    assert codes(alone) == ["P401", "P403"]
    monkeypatch.setattr(_dataset, "_POOL_FROM", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert list(check_input(big.input, lambda done, total: shown.append((done, total)))) == alone
    total = sum(len(big.lines(split)) for split in ("train", "val", "candidate"))
    assert shown == sorted(shown)
    assert shown[-1] == (total, total)


def end_at_once(_):
    os._exit(9)


def test_processes_that_are_killed_cost_no_finding(big, monkeypatch):
    alone = list(check_input(big.input))
    monkeypatch.setattr(_dataset, "_POOL_FROM", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(_dataset, "_start_process", end_at_once)
    assert list(check_input(big.input)) == alone


def test_ctrl_c_ends_all_processes(big, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(f"""
import os, sys
sys.path.insert(0, {str(Path(_dataset.__file__).resolve().parents[3])!r})
from ymir_exc.host.check import _dataset
if __name__ == "__main__":
    _dataset._POOL_FROM, _dataset._BLOCK = 1, 4
    os.sched_getaffinity = lambda _: {{0, 1}}
    def show(done, total):
        print(done, flush=True)
        input()
    list(_dataset.check_input({str(big.input)!r}, show))
""", encoding="utf-8")
    group = subprocess.Popen([sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, start_new_session=True)
    assert group.stdout.readline().strip() == "4"
    os.killpg(group.pid, signal.SIGINT)    # as a terminal does: to all
    _, errors = group.communicate(timeout=60)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1
    deadline = time.monotonic() + 60
    while True:
        try:
            os.killpg(group.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.05)


def test_a_pipe_or_folder_in_the_place_of_a_picture_is_not_waited_for(copy):
    data = copy()
    data.picture().unlink()
    path = data.picture(".png")
    path.unlink()
    os.mkfifo(path)
    assert codes(check_input(data.input)) == ["P401"]
    assert "pipe" in "".join(finding.message for finding in check_input(data.input))


@pytest.mark.parametrize(("kind", "name", "code"), [
    ("ark", "env.yaml", "E101"), ("ark", "config.yaml", "C101"), ("ark", "val-index.tsv", "I201"), ("ark", "annotation", "A301"),
    ("voc", "annotation", "A301"), ("coco", "annotation", "A301")])
def test_a_pipe_in_the_place_of_another_file_is_not_waited_for(kind, name, code, copy):
    data = copy(kind)
    path = data.paths()[1] if name == "annotation" else data.input / name
    path.unlink()
    os.mkfifo(path)
    assert codes(check_input(data.input)) == [code]


def test_a_pipe_in_the_place_of_one_configuration_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "my.yaml")
    finding, = check_config(tmp_path / "my.yaml")
    assert (finding.rule.code, finding.message) == ("C102", f"{tmp_path / 'my.yaml'} is no file")


def test_a_pipe_in_the_place_of_a_template_is_not_waited_for(copy):
    data = copy()
    data.with_template(epochs=3, learning_rate=0.1)
    (data.root / "img-man" / "training-template.yaml").unlink()
    os.mkfifo(data.root / "img-man" / "training-template.yaml")
    assert list(check_input(data.input)) == []


def test_why_a_file_is_not_there(tmp_path):
    (tmp_path / "a file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    assert _env.absence(str(tmp_path / "a file")) == ""
    for name, words in (("none", "does not exist"), ("a file/in it", "does not exist"), (".", "is no file"),
                        ("a\0b", "embedded null"), ("loop", "cannot be read: Too many levels"),
                        ("long" * 100, "cannot be read: File name too long")):
        assert words in _env.absence(str(tmp_path / name))


def test_an_index_file_that_cannot_be_read(copy):
    data = copy()
    data.index().unlink()
    data.index().symlink_to("/proc/self/mem")
    finding, = check_input(data.input)
    assert (finding.rule.code, finding.path) == ("I201", str(data.index()))
    assert "cannot be read" in finding.message


def test_what_a_camera_appends_does_not_make_a_picture_cut_off(copy):
    data = copy()
    for ending in (".jpg", ".png"):
        path = data.picture(ending)
        path.write_bytes(path.read_bytes() + b"camera" * 2000)
    assert list(check_input(data.input)) == []


@pytest.mark.parametrize(("ending", "kind"), [(".png", "PNG"), (".jpg", "BMP")])
def test_other_formats_that_are_cut_off(ending, kind, copy):
    data = copy()
    path = data.picture(ending)
    data.pixels(ending).save(path, kind)
    whole = codes(check_input(data.input))
    path.write_bytes(path.read_bytes()[:-100])
    assert codes(check_input(data.input)) == sorted([*whole, "P404"])


def test_sixteen_bits(copy):
    from PIL import Image
    data = copy()
    Image.new("I;16", (64, 64), 40_000).save(data.picture(".png"))
    assert codes(check_input(data.input)) == ["P409"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["II", "MM"])
def test_orientations(orientation, order, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    exif = Image.Exif()
    exif.endian = "<" if order == "II" else ">"
    exif[0x010F], exif[0x0112] = "A maker", orientation
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif.tobytes())
    turned = [message for broken, message in _images.look(str(tmp_path / "a.jpg")).problems if broken is _images.TURNED]
    assert bool(turned) == (orientation > 1)
    assert all(f"orientation {orientation}" in message for message in turned)


def test_a_large_coco_file_is_not_held(copy):
    """The most memory that a process had: loaded whole, the file takes a hundred MiB."""
    data = copy("coco")

    def peak():
        program = f"""
from ymir_exc.host.check._dataset import check_input
from pathlib import Path
assert list(check_input(Path({str(data.input)!r}))) == []
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
        return int(subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True).stdout)

    few = peak()
    data.coco(lambda document: document["annotations"].extend(
        {**document["annotations"][0], "id": 10 ** 6 + n, "bbox": [n % 40, n // 40 % 40, 1 + n // 1600 % 8, 1 + n // 12800]}
        for n in range(80_000)))
    assert peak() - few < 16 << 10    # KiB


@pytest.mark.parametrize("kind", FORMATS)
def test_classes_and_images_without_objects_are_counted(kind, copy):
    data = copy(kind)
    data.config(class_names=["gear", "fish", "mug", "cat"])
    image, annotation = data.paths()
    if kind == "ark":
        annotation.write_text("", encoding="utf-8")
    elif kind == "voc":
        data.voc(lambda root: [root.remove(element) for element in root.findall("object")])
    else:
        def remove(document):
            number = next(one["id"] for one in document["images"] if one["file_name"] == image.name)
            document["annotations"] = [one for one in document["annotations"] if one["image_id"] != number]

        data.coco(remove)
    count = len(data.lines("train"))
    assert [(one.rule.code, one.message) for one in check_input(data.input)] == [
        ("A361", "'cat' has none"), ("A362", f"1 of {count} images show none")]


def test_a_coco_file_from_elsewhere(copy):
    """Categories counted from 1, fractions, polygons, folders in file names, and a mark at the beginning."""
    data = copy("coco")

    def change(document):
        document["categories"] = [{"id": n + 1, "name": name} for n, name in enumerate(sample.CLASS_NAMES)]
        for one in document["annotations"]:
            one["category_id"] += 1
            one["segmentation"] = [[1, 2, 3, 4, 5, 6.5]]
        for one in document["images"]:
            one["file_name"] = f"pictures/{one['file_name']}"

    data.coco(change)
    path = data.input / "annotations/coco-annotations.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(check_input(data.input)) == []


def test_doubles_in_a_coco_file(copy):
    data = copy("coco")

    def change(document):
        first = document["annotations"][0]
        document["annotations"] += [
            {**first, "id": 10 ** 6}, {**first, "category_id": (first["category_id"] + 1) % 3}, {**first, "rotate_angle": 0.5},
            {**first, "segmentation": [[1, 2, 3, 4, 5, 6]]}, {**first, "segmentation": [[1, 2, 3, 4, 5, 7]]}]

    data.coco(change)
    finding, = check_input(data.input)
    path = data.input / "annotations/coco-annotations.json"
    count = len(json.loads(path.read_text(encoding="utf-8"))["annotations"])
    assert (finding.rule.code, finding.path, finding.line) == ("A325", str(path), 1)
    assert finding.key == f"annotations[{count - 5}]" and "with the bbox [" in finding.message


@pytest.mark.parametrize("name", ["rotate_angle", "box_quality"])
@pytest.mark.parametrize("value", ["left", "nan"])
def test_other_numbers_of_an_object(name, value, copy):
    """As the readers have it."""
    data = copy("voc")
    image, annotation = data.paths()

    def change(root):
        found = root.find("object")
        found = found.find("bndbox") if name == "rotate_angle" else found
        for element in found.findall(name):
            found.remove(element)
        ElementTree.SubElement(found, name).text = value

    data.voc(change)
    with pytest.raises(DatasetError):
        annotation_reader("voc", sample.CLASS_NAMES)(str(image), str(annotation))
    finding, = check_input(data.input)
    assert finding.rule.code == "A333" and finding.key.endswith(f".{name}")
    shutil.rmtree(data.root)
    data = copy("coco")
    data.coco(lambda document: document["annotations"][0].update({name: float(value) if value == "nan" else value}))
    image, annotation = data.paths()
    with pytest.raises(DatasetError):
        annotation_reader("coco", sample.CLASS_NAMES)(str(image), str(annotation))
    finding, = check_input(data.input)
    assert (finding.rule.code, finding.key) == ("A349", f"annotations[0].{name}")


def test_two_images_of_one_name_in_a_coco_dataset(copy):
    data = copy("coco")
    image, annotation = data.paths()
    (data.input / "assets" / "other").mkdir()
    shutil.copy(image, data.input / "assets" / "other" / image.name)
    data.write([*data.lines(), f"/in/assets/other/{image.name}\t/in/annotations/{annotation.name}"])
    finding, = check_input(data.input)
    assert (finding.rule.code, finding.line) == ("A345", len(data.lines())) and f"called {image.name} too" in finding.message


@pytest.mark.parametrize("pattern", ["a{99999999999999999999}", "(" * 5000 + ")" * 5000])
def test_a_pattern_that_stumbles_is_none(pattern, copy):
    data = copy()
    data.config(ymir_saved_file_patterns=pattern)
    assert codes(check_input(data.input)) == ["C141"]


@pytest.mark.parametrize("content", [
    b"", b"[]", b"{}", b"null", b'{"images": {}, "annotations": []}', b'{"images": [], "annotations": [}', b"\xff\xfe", b"[" * 100_000,
    b'{"images": [1, null, []], "annotations": [1, null, []], "categories": [1, null, []]}', b'{"images": [], "annotations": []} more'])
def test_a_coco_file_that_is_none(content, copy):
    data = copy("coco")
    (data.input / "annotations/coco-annotations.json").write_bytes(content)
    assert {finding.rule.severity for finding in check_input(data.input)} & {Severity.ERROR}


def damaged(content, rng):
    """A file with a few bytes changed, left out or put in; the beginning is hit most often."""
    made = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(min(len(made), rng.choice((40, 400, 1 << 30))) or 1)
        new = rng.choice((b"", b"-", b"1e999", b"NaN", b"9" * 30, b"\0", b"null", b"[", b"<", b'"', b"\xff"))
        made[place:place + rng.choice((0, 1, 40))] = new
    return bytes(made)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP"])
def test_no_damaged_picture_stops_the_check(kind, bases, tmp_path):
    rng, found = random.Random(kind), set()
    path = tmp_path / "a picture"
    bases["ark"].pixels().save(path, kind)
    whole = path.read_bytes()
    for _ in range(150):
        path.write_bytes(damaged(whole, rng))
        found |= {broken.code for broken, _ in _images.look(str(path)).problems}
    assert found >= {"P403"}


@pytest.mark.parametrize("kind", FORMATS)
def test_no_damaged_annotation_stops_the_check(kind, copy):
    data = copy(kind)
    data.write(data.lines("train")[:2], "train")
    data.write(data.lines("val")[:1])
    rng, path, severities = random.Random(kind), data.paths()[1], set()
    whole = path.read_bytes()
    for _ in range(60):
        path.write_bytes(damaged(whole, rng))
        severities |= {finding.rule.severity for finding in check_input(data.input)}
    assert Severity.ERROR in severities


@pytest.mark.parametrize("content", [
    b"\0", b"\xff" * 3_000_000, b"/in\n" * 3, b"\t\t\t\n", b"/in/assets/a\0b.jpg\t/in/x\n", b"\n" * 1000, b"/in/assets\t/in/annotations\n"])
def test_an_index_file_that_is_none(content, copy):
    data = copy()
    data.index().write_bytes(content)
    assert {finding.rule.severity for finding in check_input(data.input)} & {Severity.ERROR}


@pytest.mark.parametrize("content", [
    b"", b"[]", b"null", b"a", b"input: 3", b"input: {root_dir: 3}", b"output: []", b"task_id: [1]\ninput: {root_dir: /}", b"\xff",
    b"a: b: c", b"input: {config_file: 'a\\tb', training_index_file: [1]}", b"manifest_file: 7", b"{1: 2, null: 3}"])
@pytest.mark.parametrize("name", ["env.yaml", "config.yaml"])
def test_descriptions_that_are_none(name, content, copy):
    data = copy()
    (data.input / name).write_bytes(content)
    assert {finding.rule.severity for finding in check_input(data.input)} & {Severity.ERROR}
    list(check_config(data.input / name))


@pytest.mark.parametrize("value", [
    None, 3, [], {}, [[]], [{}], "text", True, float("nan"), float("inf"), -1, 10 ** 400, "a\tb", ["a", ["b"]]])
@pytest.mark.parametrize("key", ["class_names", "gpu_id", "gpu_count", "export_format", "shm_size", "ymir_saved_file_patterns", "git_url",
                                 "object_type", "model_params_path", "pretrained_model_params", "run_mining", "task_id", "epochs"])
def test_no_value_of_the_configuration_stops_the_check(key, value, copy):
    data = copy()
    data.with_template(learning_rate=0.2, epochs=3)
    data.config(**{key: value})
    list(check_input(data.input))
    list(check_config(data.input / "config.yaml"))


def test_one_file_by_itself(copy):
    data = copy()
    assert list(check_config(data.input / "env.yaml")) == []
    assert list(check_config(data.input / "config.yaml")) == []
    data.env(run_training=False)
    data.config(gpu_id="first", run_infer=True)
    assert codes(check_config(data.input / "env.yaml")) == ["E104"]
    assert codes(check_config(data.input / "config.yaml")) == ["C120", "C150"]
    other = data.input / "any name.yml"
    shutil.copy(data.input / "env.yaml", other)
    assert codes(check_config(other)) == ["E104"]
    assert codes(check_config(data.input / "missing.yaml")) == ["C102"]


@pytest.mark.parametrize("text", ["16G", "16g", "16 GB", "1.5g", "64m", "1073741824", "16GiB", "512kb"])
def test_sizes_that_docker_reads(text, copy):
    data = copy()
    data.config(shm_size=text)
    assert list(check_input(data.input)) == []


@pytest.mark.parametrize(("given", "default", "alike"), [
    ("0.001", 0.1, True), (1, 0.1, True), ("16", 16, True), (16.0, 16, True), ("16.5", 16, False), (0.5, 0, True), (True, 16, False),
    ("false", True, True), (1, True, True), ("maybe", True, False), (3, "text", True), ([1], "text", False), ("[1, 2]", [1], True),
    (3, [1], False), (None, 3, True), ("", 3, True), (float("nan"), 3, False), (3, None, True)])
def test_values_that_may_stand_for_a_templates(given, default, alike):
    from ymir_exc.host.check._config import is_like
    assert is_like(given, default) == alike


def test_a_folder_with_candidates_only(copy):
    data = copy()
    data.to_mining()
    data.index("train").unlink()
    data.index("val").unlink()
    shutil.rmtree(data.input / "annotations")
    (data.input / "annotations").mkdir()
    assert list(check_input(data.input)) == []


def test_an_empty_folder_is_told_and_nothing_fails(tmp_path):
    assert codes(check_input(tmp_path)) == ["C101", "E101"]
