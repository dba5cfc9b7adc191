"""For each rule about what a task is given, an input that breaks it and nothing else."""
from __future__ import annotations

import io
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any, Callable, Dict, Tuple
from xml.etree import ElementTree

import yaml

GONE = object()
SIDE = 64


class Data:
    """A dataset's folder and shortcuts to change it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.input = root / "in"

    def env(self, section=None, **changes):
        self._edit(self.input / "env.yaml", section, changes)

    def config(self, **changes):
        self._edit(self.input / "config.yaml", None, changes)

    def _edit(self, path, section, changes):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        part = document[section] if section else document
        part.update(changes)
        for key in [key for key, value in changes.items() if value is GONE]:
            del part[key]
        path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")

    def index(self, split="val"):
        return self.input / f"{split}-index.tsv"

    def lines(self, split="val"):
        return self.index(split).read_text(encoding="utf-8").splitlines()

    def write(self, lines, split="val"):
        self.index(split).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def paths(self, number=0, split="train"):
        return [self.input / path[len("/in/"):] for path in self.lines(split)[number].split("\t")]

    def picture(self, ending=".jpg"):
        return next(path for path in (self.paths(n)[0] for n in range(len(self.lines("train")))) if path.suffix == ending)

    def pixels(self, ending=".jpg"):
        from PIL import Image
        with Image.open(self.picture(ending)) as image:
            return image.convert("RGB")

    def append(self, line):
        _append(self.paths()[1], f"{line}\n")

    def coco(self, change: Callable[[Dict[str, Any]], Any]):
        path = self.input / "annotations" / "coco-annotations.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        change(document)
        path.write_text(json.dumps(document), encoding="utf-8")

    def voc(self, change: Callable[[ElementTree.Element], Any]):
        path = self.paths()[1]
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        change(root)
        path.write_text(ElementTree.tostring(root, encoding="unicode"), encoding="utf-8")

    def to_mining(self, with_model=True):
        self.env(run_training=False, run_mining=True)
        self.env("input", training_index_file="", val_index_file="", candidate_index_file="/in/candidate-index.tsv")
        (self.input / "models" / "epoch_1").mkdir(parents=True)
        (self.input / "models" / "epoch_1" / "best.pt").write_bytes(b"weights")
        self.config(run_mining=True, run_infer=False, **({"model_params_path": ["/in/models/epoch_1/best.pt"]} if with_model else {}))

    def with_template(self, **given):
        folder = self.root / "img-man"
        folder.mkdir()
        (folder / "training-template.yaml").write_text("epochs: 100\nlearning_rate: 0.1\nclass_names: []\n", encoding="utf-8")
        self.env(manifest_file=str(folder / "manifest.yaml"))
        self.config(**given)


def _append(path, text):
    with path.open("a", encoding="utf-8") as f:
        f.write(text)


def _index_bytes(data, change):
    path = data.index()
    path.write_bytes(change(path.read_bytes()))


def _change_line(data, change, split="val", number=0):
    lines = data.lines(split)
    lines[number] = change(lines[number])
    data.write(lines, split)


def _save(path, image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    path.write_bytes(buffer.getvalue())


def _e105(data):
    data.to_mining()
    data.env(run_training=True)
    data.env("input", training_index_file="/in/train-index.tsv", val_index_file="/in/val-index.tsv")
    data.config(run_mining=GONE)


def _e112(data):
    data.env("output", monitor_file=GONE, monitr_file="/out/monitor.txt")


def _c151(data):
    data.to_mining()
    data.config(model_params_path="/in/models/epoch_1/best.pt")


def _c152(data):
    data.to_mining()
    data.config(model_params_path=["/in/models/epoch_1/best.pt", "/in/models/epoch_1/last.pt"])


def _i214(data):
    line = data.lines("candidate")[0]
    source = data.input / line[len("/in/"):]
    (data.input / "assets" / "other").mkdir()
    shutil.copy(source, data.input / "assets" / "other" / f"{source.stem}.jpeg")
    data.write([*data.lines("candidate"), f"/in/assets/other/{source.stem}.jpeg"], "candidate")


def _a345(data):
    name = data.paths()[0].name

    def change(document):
        number = next(image["id"] for image in document["images"] if image["file_name"] == name)
        document["images"] = [image for image in document["images"] if image["id"] != number]
        document["annotations"] = [one for one in document["annotations"] if one["image_id"] != number]

    data.coco(change)


def _a360(data):
    for number in range(len(data.lines("train"))):
        data.paths(number)[1].write_text("", encoding="utf-8")


def _p408(data):
    from PIL import Image
    exif = Image.Exif()
    exif[0x0112] = 6
    _save(data.picture(), data.pixels(), "JPEG", exif=exif)


def _annotation(**changes):
    """Append a copy of the first annotation of a coco file, changed."""
    def change(document):
        made = {**document["annotations"][0], "id": 10 ** 6, **changes}
        document["annotations"].append({key: value for key, value in made.items() if value is not GONE})

    return lambda data: data.coco(change)


def _set_text(place, text):
    def change(root):
        root.find(place).text = text

    return lambda data: data.voc(change)


Case = Tuple[str, Callable[[Data], Any]]

INPUT_CASES: Dict[str, Case] = {
    "E101": ("ark", lambda data: (data.input / "env.yaml").unlink()),
    "E102": ("ark", lambda data: (data.input / "env.yaml").write_text("task_id: a\ntask_id: b\n", encoding="utf-8")),
    "E103": ("ark", lambda data: data.env(run_mining="perhaps")),
    "E104": ("ark", lambda data: data.env(run_training=False)),
    "E105": ("ark", _e105),
    "E106": ("ark", lambda data: (data.env(task_id="a\tb"), data.config(task_id="a\tb"))),
    "E107": ("ark", lambda data: data.env(task_id=GONE)),
    "E108": ("ark", lambda data: data.env(protocol_version="0.0.1")),
    "E109": ("ark", lambda data: data.env(protocol_version=1.1)),
    "E110": ("ark", lambda data: data.env("output", models_dir="out/models")),
    "E111": ("ark", lambda data: data.env("input", val_index_file="")),
    "E112": ("ark", _e112),
    "E113": ("ark", lambda data: data.env("output", infer_result_file=GONE)),
    "E114": ("ark", lambda data: (data.input / "models").rmdir()),
    "E115": ("ark", lambda data: data.env("input", models_dir="/models")),
    "C101": ("ark", lambda data: (data.input / "config.yaml").unlink()),
    "C102": ("ark", lambda data: (data.input / "config.yaml").write_bytes(b"a: \xff\n")),
    "C103": ("ark", lambda data: _append(data.input / "config.yaml", "1: b\n")),
    "C104": ("ark", lambda data: data.config(schedule={"step": 3})),
    "C110": ("ark", lambda data: data.config(class_names="gear")),
    "C111": ("ark", lambda data: data.config(class_names=["gear", "fish", True])),
    "C112": ("ark", lambda data: data.config(class_names=["gear", "fish", "Gear "])),
    "C113": ("ark", lambda data: data.config(class_names=["gear", "Fish", "mug"])),
    "C114": ("ark", lambda data: data.config(class_names=["gear", "fish", "mug, cup"])),
    "C120": ("ark", lambda data: data.config(gpu_id="0;1")),
    "C121": ("ark", lambda data: data.config(gpu_id="2,3", gpu_count=2)),
    "C122": ("ark", lambda data: data.config(gpu_id="0", gpu_count=2)),
    "C130": ("ark", lambda data: data.config(export_format=GONE)),
    "C131": ("ark", lambda data: data.config(export_format="ark:lmdb")),
    "C132": ("ark", lambda data: data.config(export_format="yolo:raw")),
    "C133": ("ark", lambda data: data.config(export_format="none:raw")),
    "C140": ("ark", lambda data: data.config(shm_size="16 gigabytes")),
    "C141": ("ark", lambda data: data.config(ymir_saved_file_patterns=".*pt, *.yaml")),
    "C142": ("ark", lambda data: data.config(git_url="https://example.org/code.git")),
    "C150": ("ark", lambda data: data.to_mining(with_model=False)),
    "C151": ("ark", _c151),
    "C152": ("ark", _c152),
    "C153": ("ark", lambda data: data.config(pretrained_model_params=[])),
    "C154": ("ark", lambda data: data.config(object_type=7)),
    "C155": ("ark", lambda data: data.config(run_mining=True)),
    "C156": ("ark", lambda data: data.config(task_id="another")),
    "C160": ("ark", lambda data: data.with_template(epochs="many", learning_rate="0.2")),
    "C161": ("ark", lambda data: data.with_template(epoch=3, learning_rate=0.2)),
    "C162": ("ark", lambda data: data.with_template(epochs=3)),
    "I201": ("ark", lambda data: data.index().unlink()),
    "I202": ("ark", lambda data: data.write([])),
    "I203": ("ark", lambda data: _index_bytes(data, lambda old: old + b"/in/assets/\xff.jpg\t/in/annotations/a.txt\n")),
    "I204": ("ark", lambda data: _index_bytes(data, lambda old: b"\xef\xbb\xbf" + old)),
    "I205": ("ark", lambda data: _index_bytes(data, lambda old: old.replace(b"\n", b"\r\n"))),
    "I206": ("ark", lambda data: data.write([*data.lines(), ""])),
    "I207": ("ark", lambda data: _change_line(data, lambda line: line.replace("\t", " "))),
    "I208": ("ark", lambda data: _change_line(data, lambda line: line.split("\t")[0])),
    "I209": ("ark", lambda data: _change_line(data, lambda line: f"{line}\tmore")),
    "I210": ("ark", lambda data: _change_line(data, lambda line: line[len("/in/"):])),
    "I211": ("ark", lambda data: _change_line(data, lambda line: line.replace("/in/assets/", "/in/../data/"))),
    "I212": ("ark", lambda data: data.write([*data.lines(), data.lines()[0]])),
    "I213": ("ark", lambda data: data.write([*data.lines("candidate"), data.lines("candidate")[0]], "candidate")),
    "I214": ("ark", _i214),
    "I215": ("ark", lambda data: data.write([*data.lines(), data.lines("train")[0]])),
    "A301": ("ark", lambda data: data.paths()[1].unlink()),
    "A302": ("ark", lambda data: data.config(export_format="voc:raw")),
    "A310": ("ark", lambda data: data.append("0, 1, 2, 3")),
    "A311": ("ark", lambda data: data.append("0, left, 2, 30, 40, -1.0, 0.0")),
    "A312": ("ark", lambda data: data.append("3, 1, 2, 30, 40, -1.0, 0.0")),
    "A320": ("ark", lambda data: data.append("0, 30, 40, 1, 2, -1.0, 0.0")),
    "A321": ("ark", lambda data: data.append("0, 30, 40, 29, 50, -1.0, 0.0")),
    "A322": ("ark", lambda data: data.append(f"0, {SIDE}, 2, {SIDE + 9}, 40, -1.0, 0.0")),
    "A323": ("ark", lambda data: data.append(f"0, 30, 2, {SIDE}, 40, -1.0, 0.0")),
    "A324": ("ark", lambda data: data.append("0, 1.5, 2, 30, 40, -1.0, 0.0")),
    "A325": ("ark", lambda data: data.append(data.paths()[1].read_text(encoding="utf-8").splitlines()[0])),
    "A330": ("voc", lambda data: data.paths()[1].write_text("<annotation>", encoding="utf-8")),
    "A331": ("voc", _set_text("object/name", "cat")),
    "A332": ("voc", lambda data: data.voc(lambda root: root.find("object").remove(root.find("object/bndbox")))),
    "A333": ("voc", _set_text("object/bndbox/ymax", "below")),
    "A334": ("voc", _set_text("size/width", "640")),
    "A335": ("voc", _set_text("filename", "/in/assets/00/another.jpg")),
    "A340": ("coco", lambda data: (data.input / "annotations/coco-annotations.json").write_text('{"images": [], ', encoding="utf-8")),
    "A341": ("coco", lambda data: data.coco(lambda document: document["images"].append({"id": 10 ** 6}))),
    "A342": ("coco", lambda data: data.coco(lambda document: document["images"].append({**document["images"][0], "id": 10 ** 6}))),
    "A343": ("coco", lambda data: data.coco(lambda document: document["categories"].append({"id": 7}))),
    "A344": ("coco", lambda data: data.coco(lambda document: document["categories"].append({"id": 7, "name": "cat"}))),
    "A345": ("coco", _a345),
    "A346": ("coco", _annotation(category_id=3)),
    "A347": ("coco", _annotation(image_id=10 ** 6)),
    "A348": ("coco", _annotation(bbox=GONE)),
    "A349": ("coco", _annotation(bbox=[1, 2, 3])),
    "A350": ("coco", _annotation(segmentation=[[1, 2, 3, 4]])),
    "A351": ("coco", _annotation(segmentation={"counts": "11", "size": [SIDE, SIDE + 1]})),
    "A360": ("ark", _a360),
    "A361": ("ark", lambda data: data.config(class_names=["gear", "fish", "mug", "cat"])),
    "A362": ("ark", lambda data: data.paths()[1].write_text("", encoding="utf-8")),
    "P401": ("ark", lambda data: data.picture().unlink()),
    "P402": ("ark", lambda data: data.picture().write_bytes(b"")),
    "P403": ("ark", lambda data: data.picture().write_bytes(b"<html>404</html>")),
    "P404": ("ark", lambda data: data.picture().write_bytes(data.picture().read_bytes()[:-200])),
    "P405": ("ark", lambda data: _save(data.picture(), data.pixels(), "GIF")),
    "P406": ("ark", lambda data: _save(data.picture(), data.pixels(), "PNG")),
    "P407": ("ark", lambda data: data.picture(".png").write_bytes(
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + struct.pack(">II", 20_000, 20_000) + b"\x08\x02\0\0\0")),
    "P408": ("ark", _p408),
    "P409": ("ark", lambda data: _save(data.picture(), data.pixels().convert("CMYK"), "JPEG")),
}


def _yaml_file(name, **changes):
    def change(folder):
        path = folder / name
        document = {**yaml.safe_load(path.read_text(encoding="utf-8")), **changes}
        path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not GONE}), encoding="utf-8")

    return change


def _training(**changes):
    return _yaml_file("training-template.yaml", **changes)


def _mining(**changes):
    return _yaml_file("mining-template.yaml", **changes)


def _remove_templates(folder):
    for path in folder.glob("*-template.yaml"):
        path.unlink()


def _folder_missing(folder):
    _yaml_file("manifest.yaml", object_type=[2, 4])(folder)
    (folder / "det").mkdir()
    for path in folder.glob("*-template.yaml"):
        path.rename(folder / "det" / path.name)


def _template_ignored(folder):
    (folder / "det").mkdir()
    shutil.copy(folder / "infer-template.yaml", folder / "det")


TEMPLATE_CASES: Dict[str, Callable[[Path], Any]] = {
    "N501": _remove_templates,
    "N502": lambda folder: (folder / "manifest.yaml").write_text("object_type: 4\nobject_type: 2\n", encoding="utf-8"),
    "N503": lambda folder: (folder / "manifest.yaml").unlink(),
    "N504": _yaml_file("manifest.yaml", object_type="detection"),
    "N505": _yaml_file("manifest.yaml", object_type=7),
    "N506": _folder_missing,
    "N507": _template_ignored,
    "N508": _yaml_file("manifest.yaml", enable_livecode="no"),
    "N509": _yaml_file("manifest.yaml", object_type=GONE, object_types=2),
    "N510": lambda folder: (folder / "infer-template.yaml").write_bytes("a: 数据\n".encode("gb18030")),
    "N511": lambda folder: os.rename(folder / "mining-template.yaml", folder / "mining_template.yaml"),
    "N512": lambda folder: _append(folder / "training-template.yaml", "1: b\n"),
    "N513": _training(anchors=[10, 20]),
    "N514": _training(**{"a" * 51: 1}),
    "N515": _training(words="a" * 101),
    "N516": _training(number=10 ** 20),
    "N517": _training(class_names=["cat"]),
    "N518": _mining(flip=False),
    "N519": _training(weights=None),
    "N520": _training(export_format="ls_json:raw"),
    "N521": _training(export_format=GONE),
    "N522": _training(shm_size="lots"),
    "N523": _training(ymir_saved_file_patterns="*.yaml"),
    "N524": lambda folder: (folder / "code-access.yaml").write_text("git_url: ''\n", encoding="utf-8"),
}
