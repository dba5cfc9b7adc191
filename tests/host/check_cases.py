"""Clean outputs made with the package's own writers, and for each rule a change that breaks just it."""
from __future__ import annotations

import json
import shutil
import struct
import zlib
from pathlib import Path

import pytest
import yaml

from tests.conftest import Platform
from tests.contract.tensorboard_rules import masked_crc32c
from ymir_exc import errors, monitor, settings
from ymir_exc import result_writer as rw
from ymir_exc.code import ExecutorReturnCode

np = pytest.importorskip("numpy")

CLASSES = ["cat", "dog"]
NAMES = ["aa.png", "bb 图.png", "cc.png", "dd.png"]
SIZE = (64, 48)    # width, height


def framed(record):
    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", masked_crc32c(length)) + record + struct.pack("<I", masked_crc32c(record))


EVENT = framed(b"\x09" + struct.pack("<d", 1.7e9) + b"\x1a\x0dbrain.Event:2")


def write_png(path, width, height):
    """A black picture, with no library for it."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = zlib.compress((b"\0" + b"\0" * 3 * width) * height)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


class Base:
    """A task's two folders, clean until a case breaks them."""

    def __init__(self, root):
        self.root, self.given, self.out = root, root / "in", root / "out"

    def copied_to(self, root):
        shutil.copytree(self.root, root, symlinks=True)
        return Base(root)

    @property
    def models(self):
        return self.out / "models"

    @property
    def result(self):
        return self.models / "result.yaml"

    @property
    def ranking(self):
        return self.out / "result.tsv"

    @property
    def predictions(self):
        return self.out / "infer-result.json"

    @property
    def monitor(self):
        return self.out / "monitor.txt"


# ------------------------------------------------------------------------------------------------- clean outputs

def training(platform):
    for number, (name, score) in enumerate((("epoch_10", 0.5), ("epoch_20", 0.6)), 1):
        for file in ("best.pt", "weights/last.pt"):
            platform.model(f"{name}/{file}", f"{file} of {name}".encode())
        platform.model("attachments/plots/curve.png")
        rw.write_model_stage(name, ["best.pt", "weights/last.pt"], {"mAP": score, "mAR": 0.7, "tp": 3}, timestamp=1700000000 + number,
                             attachments={"plots": ["curve.png"]}, evaluate_config={"iou_thr": 0.5})
    (platform.out / "tensorboard/events.out.tfevents.1").write_bytes(EVENT * 3)
    (platform.out / "tensorboard/executor.log").symlink_to("/nowhere/ymir-executor-out.log")


def semantic_training(platform):
    platform.config["object_type"] = 3
    platform.write()
    platform.model("epoch_1/best.pt")
    rw.write_model_stage("epoch_1", ["best.pt"], {"mIoU": 0.5})
    (platform.out / "tensorboard/events.out.tfevents.1").write_bytes(EVENT)


def candidates(platform):
    paths = []
    for name in NAMES:
        path = platform.input / "assets" / "a1" / name
        path.parent.mkdir(exist_ok=True)
        write_png(path, *SIZE)
        paths.append(str(path))
    platform.index("candidate", *paths)
    return paths


def mining(platform):
    platform.run("mining")
    rw.write_mining_result(list(zip(candidates(platform), (0.25, 1.0, 0.5, -3e-7))))


def infer(platform):
    platform.run("infer")
    with rw.InferResultWriter(CLASSES) as results:
        for position, path in enumerate(candidates(platform)):
            boxes = [[1, 2, 11, 22], [0, 0, 64, 48]][:position]
            results.add(path, boxes, [0.9, 0.1][:position], [0, 1][:position], rotate_angles=[0.0, 0.0][:position])


def both(platform):
    infer(platform)
    mining(platform)
    platform.run("mining", "infer")


def segmentation(platform):
    platform.run("infer")
    platform.config["object_type"] = 4
    platform.write()
    mask = np.zeros((SIZE[1], SIZE[0]), bool)
    mask[2:7, 3:12] = True
    with rw.SegmentationResultWriter(CLASSES) as results:
        for position, path in enumerate(candidates(platform)):
            results.add(path, SIZE)
            for number in range(position):
                results.add_object(path, number % 2, np.roll(mask, number), score=0.5)


def old_layout(platform):
    platform.env["protocol_version"] = "0.0.1"
    platform.write()
    platform.model("best.pt")
    (platform.models_folder / "result.yaml").write_text("model: [best.pt]\nmap: 0.6\n", encoding="utf-8")
    (platform.out / "tensorboard/events.out.tfevents.1").write_bytes(EVENT)


def failed(platform):
    training(platform)
    monitor.write_failure(platform.out / "monitor.txt", "t0", errors.Failure(ExecutorReturnCode.RC_EXEC_OOM, "out of memory"), ["why"], 0.5)


MAKERS = {maker.__name__: maker for maker in (training, semantic_training, mining, infer, both, segmentation, old_layout, failed)}
FOUND_ANYWAY = {"failed": ["M511"]}
"""What a base has for its nature."""


def make(name, root, monkeypatch):
    """Write a clean output, as a program does."""
    platform = Platform(root)
    platform.models_folder = platform.out / "models"
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(platform.env_file))
    (platform.out / "ymir-executor-out.log").write_text("epoch 1 完成\r 50 %\n", encoding="utf-8")
    if name != "failed":
        monitor.write_monitor_logger(1.0)
    MAKERS[name](platform)
    return Base(root)


# --------------------------------------------------------------------------------------------------- the changes

def remove(path):
    def change(base):
        (base.out / path).unlink()
    return change


def put(path, content):
    def change(base):
        target = base.out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return change


def link(path, to="other"):
    def change(base):
        target = base.out / path
        target.rename(target.with_name(to))
        target.symlink_to(to)
    return change


def edit(file, act):
    """Change a YAML or JSON output as a value."""
    def change(base):
        path = base.out / file
        is_yaml = path.suffix == ".yaml"
        value = (yaml.safe_load if is_yaml else json.loads)(path.read_text(encoding="utf-8"))
        act(value)
        path.write_text(yaml.safe_dump(value, allow_unicode=True) if is_yaml else json.dumps(value, indent=1), encoding="utf-8")
    return change


def replaced(file, old, new):
    """Change an output as text."""
    def change(base):
        text = (base.out / file).read_bytes().decode("utf-8", "surrogateescape")
        assert old in text
        (base.out / file).write_bytes(text.replace(old, new, 1).encode("utf-8", "surrogateescape"))
    return change


def lines(act):
    """Change the lines of the ranking."""
    def change(base):
        rows = base.ranking.read_text(encoding="utf-8").splitlines(keepends=True)
        base.ranking.write_bytes("".join(act(rows)).encode("utf-8"))
    return change


def stage(**values):
    return edit("models/result.yaml", lambda value: value["model_stages"]["epoch_20"].update(values))


def top(**values):
    return edit("models/result.yaml", lambda value: value.update(values))


def without(*keys, file="models/result.yaml"):
    def act(value):
        for key in keys[:-1]:
            value = value[key]
        del value[keys[-1]]
    return edit(file, act)


def renamed(name):
    """The second stage under another name, in a folder of that name."""
    def act(value):
        stages = value["model_stages"]
        stages[name] = {**stages.pop("epoch_20"), "stage_name": name}
        value["best_stage_name"] = name

    def change(base):
        edit("models/result.yaml", act)(base)
        if (base.models / name).exists():
            shutil.rmtree(base.models / name)
        shutil.copytree(base.models / "epoch_20", base.models / name)
        shutil.rmtree(base.models / "epoch_20")
    return change


def eleven_more(value):
    for number in range(10):
        name = f"more_{number}"
        value["model_stages"][name] = {**value["model_stages"]["epoch_10"], "stage_name": name, "files": ["best.pt"]}


def with_files(change):
    """Every stage that is new has its own file."""
    def act(base):
        change(base)
        for name, one in yaml.safe_load(base.result.read_text(encoding="utf-8"))["model_stages"].items():
            for file in one["files"]:
                (base.models / name / file).parent.mkdir(parents=True, exist_ok=True)
                (base.models / name / file).write_bytes(b"weights")
    return act


def also(*changes):
    def act(base):
        for change in changes:
            change(base)
    return act


def listed(name):
    """The second stage lists one more file."""
    return edit("models/result.yaml", lambda value: value["model_stages"]["epoch_20"]["files"].append(name))


def moved_to_root(base):
    """Both stages share models/best.pt."""
    (base.models / "epoch_10/best.pt").unlink()
    (base.models / "epoch_20/best.pt").rename(base.models / "best.pt")


def box(act, image="dd.png"):
    return edit("infer-result.json", lambda value: act(value["detection"][image]["boxes"][0]))


def detection(act):
    return edit("infer-result.json", lambda value: act(value["detection"]))


def coco(part, act, position=0):
    return edit("infer-result.json", lambda value: act(value[part][position]))


def annotation(act):
    return coco("annotations", act)


def with_entry(part, **values):
    """One more entry, like the first but for these."""
    return edit("infer-result.json", lambda value: value[part].append({**value[part][0], **values}))


def column(number, text):
    """One field of the monitor's first line."""
    def change(base):
        first, _, rest = base.monitor.read_text(encoding="utf-8").partition("\n")
        fields = first.split("\t")
        fields[number] = text
        base.monitor.write_text("\t".join(fields) + "\n" + rest, encoding="utf-8")
    return change


def last_image_twice(value):
    value["images"].append({**value["images"][-1], "id": 99})


def pop_first(entries):
    del entries[0]


YAML = "models/result.yaml"
JSON = "infer-result.json"

CASES = {
    # code: (clean output, change, words of the message)
    "X001": ("infer", lambda base: None, "a check failed with ZeroDivisionError"),
    "X002": ("training", lambda base: (shutil.rmtree(base.given), base.result.unlink()), "holds none of models/result.yaml"),
    "X003": ("infer", link(JSON), "is a symbolic link to other"),
    "X004": ("infer", lambda base: None, "Permission denied"),
    "X005": ("mining", replaced("result.tsv", "0.25", "\udcff"), "not UTF-8"),
    "X006": ("mining", replaced("result.tsv", "/", "\ufeff/"), "EF BB BF"),
    "X007": ("training", put("models/.result.yaml.ymir-tmp-1-2-3", "model_stages:"), "did not end"),
    "X008": ("infer", lambda base: base.predictions.write_bytes(base.predictions.read_bytes().rstrip()[:-1]), "the file ends where"),
    "X009": ("segmentation", edit(JSON, lambda value: value["annotations"][0].update(extra=float("nan"))), "NaN"),
    "X010": ("infer", replaced(JSON, '"score"', '"score": 0.3, "score"'), "'score' is given twice"),
    "X011": ("training", lambda base: (base.given / "config.yaml").unlink(), "does not exist"),
    "X012": ("infer", put(JSON, "[]"), "is a list"),

    "T101": ("training", remove(YAML), "there is none"),
    "T102": ("training", put(YAML, "model_stages: {a: 1, a: 2}\n"), "the key 'a' is there twice"),
    "T103": ("training", put(YAML, "- a\n"), "is a list"),
    "T104": ("training", top(model_stages={}), "is empty"),
    "T105": ("old_layout", put(YAML, "model: [best.pt]\nmap: 60\n"), "map is 60"),
    "T106": ("old_layout", put(YAML, "model: [best.pt]\nmap: 0.6\nmodel_stages: {}\n"), "model is there too"),
    "T107": ("training", without("model_stages", "epoch_20", "stage_name"), "lacks stage_name"),
    "T108": ("training", stage(stage_name="epoch_21"), "'epoch_21', the key 'epoch_20'"),
    "T109": ("training", renamed("epoch-20"), "'epoch-20'"),
    "T110": ("training", renamed("epoch@20"), "'epoch@20'"),
    "T111": ("training", renamed("e" * 101), "101 characters"),
    "T113": ("training", listed(""), "'' is no file name"),
    "T114": ("training", remove("models/epoch_20/best.pt"), "looked for models/epoch_20/best.pt and models/best.pt"),
    "T115": ("training", listed("/out/models/epoch_20/best.pt"), "is absolute"),
    "T116": ("training", listed("weights"), "is a folder"),
    "T117": ("training", lambda base: (remove("models/epoch_20/best.pt")(base),
                                       (base.models / "epoch_20/best.pt").symlink_to("weights/last.pt")),
             "is a symbolic link to weights/last.pt"),
    "T118": ("training", also(listed("model.tar.gz"), put("models/model.tar.gz", "x")), "models/model.tar.gz"),
    "T119": ("training", listed("result.yaml"), "result.yaml is listed"),
    "T120": ("training", also(listed("a"), listed("a/b"), put("models/epoch_20/a", "x"), put("models/a/b", "x")), "a is listed, and a/b"),
    "T121": ("training", stage(timestamp=1700000000123), "milliseconds?"),
    "T122": ("training", stage(mAP=85.2), "percent? The platform takes 0.852"),
    "T124": ("training", stage(tp=-1), "tp is -1"),
    "T125": ("training", stage(FP=7), "the platform reads fp"),
    "T126": ("training", without("best_stage_name"), "is missing"),
    "T127": ("training", top(best_stage_name="epoch_2"), "is epoch_20 meant?"),
    "T128": ("training", top(best_stage_name="epoch_10"), "epoch_20 has 0.6"),
    "T129": ("training", without("model_stages", "epoch_10", "mAP"), "mAP is missing"),
    "T130": ("training", with_files(edit(YAML, eleven_more)), "there are 12"),
    "T131": ("training", also(top(attachments=None), lambda base: shutil.rmtree(base.models / "attachments")), "is null"),
    "T132": ("training", remove("models/attachments/plots/curve.png"), "looked for models/attachments/plots/curve.png"),
    "T133": ("training", top(evaluate_config={"iou_thr": {"a": 0.5}}), "iou_thr is {'a': 0.5}"),
    "T134": ("training", top(object_type=1), "object_type is 1"),
    "T135": ("training", put("models/epoch_20/best.pt", ""), "no byte"),
    "T136": ("training", moved_to_root, "epoch_10 and epoch_20"),
    "T139": ("training", listed("best.pt"), "listed twice"),
    "T140": ("training", put("models/optimizer.pt", "x"), "optimizer.pt will be deleted"),

    "R201": ("mining", remove("result.tsv"), "there is none"),
    "R202": ("mining", replaced("result.tsv", "\t1.0", "\t1.0\tcat"), "has 2 TABs"),
    "R203": ("mining", lines(lambda rows: [*rows[:2], "\n", *rows[2:]]), "is blank"),
    "R204": ("mining", lines(lambda rows: [row.replace("\n", "\r\n") for row in rows]), "carriage return; 4 lines do"),
    "R205": ("mining", replaced("result.tsv", "1.0", "nan"), "'nan'"),
    "R206": ("mining", lines(lambda rows: rows[::-1]), "3 lines are above"),
    "R207": ("mining", lines(lambda rows: [*rows, "/in/assets/zz.png\t-9\n"]), "zz.png' is no candidate"),
    "R208": ("mining", lines(lambda rows: [rows[0].rsplit("/", 1)[1], *rows[1:]]), "'bb 图.png' is '/"),
    "R209": ("mining", lines(lambda rows: [rows[0], *rows]), "bb 图.png is there before"),
    "R210": ("mining", lines(lambda rows: rows[:2]), "2 of 4 candidates have no line, first aa.png, dd.png"),
    "R211": ("mining", lambda base: (shutil.rmtree(base.given), base.ranking.write_bytes(b"")), "no line"),
    "R212": ("mining", lines(lambda rows: [row.split("\t")[0] + "\t0.5\n" for row in rows]), "all 4 scores are 0.5"),

    "D301": ("infer", remove(JSON), "there is none"),
    "D302": ("infer", put(JSON, '{"detections": {}}'), "detection is missing; there is detections"),
    "D303": ("infer", detection(lambda value: value.update({"a1/aa.png": value.pop("aa.png")})), "'a1/aa.png' has a folder"),
    "D304": ("infer", detection(lambda value: value.update({"zz.png": {"boxes": []}})), "'zz.png' is no candidate"),
    "D305": ("infer", replaced(JSON, '"aa.png":', '"aa.png": {"boxes": []}, "aa.png":'), "aa.png is there before"),
    "D306": ("infer", detection(lambda value: value.pop("aa.png")), "1 of 4 candidates are missing, first aa.png"),
    "D307": ("infer", detection(lambda value: value.update({"aa.png": {}})), "boxes is missing"),
    "D308": ("infer", detection(lambda value: value["dd.png"].update(annotations=[1])), "annotations has 1 entries, boxes 2"),
    "D309": ("infer", detection(lambda value: value["aa.png"]["boxes"].append([1, 2, 3, 4])), "is a list"),
    "D310": ("infer", box(lambda one: one.pop("score")), "score is missing"),
    "D311": ("infer", box(lambda one: one.update(score="0.5")), "score is '0.5'"),
    "D312": ("infer", box(lambda one: one.update(score=97.5)), "score is 97.5"),
    "D313": ("infer", box(lambda one: one.update(class_name=1)), "class_name is 1"),
    "D314": ("infer", box(lambda one: one.update(class_name="bird")), "'bird' is none of the 2 classes"),
    "D315": ("infer", box(lambda one: one.update(box=[1, 2, 3, 4])), "box is a list"),
    "D316": ("infer", box(lambda one: one["box"].update(angle=0)), "box has angle"),
    "D317": ("infer", box(lambda one: one["box"].pop("w")), "box lacks w"),
    "D318": ("infer", box(lambda one: one["box"].update(x=1.5)), "x is 1.5"),
    "D319": ("infer", box(lambda one: one["box"].update(x=-2 ** 31 - 1)), "x is -2147483649"),
    "D320": ("infer", box(lambda one: one["box"].update(h=0)), "h is 0"),
    "D321": ("infer", box(lambda one: one["box"].update(rotate_angle=None)), "rotate_angle is None"),
    "D322": ("infer", box(lambda one: one["box"].update(x=60)), "of an image of 64 x 48"),
    "D323": ("infer", box(lambda one: one["box"].update(x=1.0)), "x is 1.0"),

    "S401": ("segmentation", without("categories", file=JSON), "categories is missing"),
    "S402": ("segmentation", coco("images", lambda one: one.update(id="1")), "id is '1'"),
    "S403": ("segmentation", coco("images", lambda one: one.update(id=2)), "id 2 is there before"),
    "S404": ("segmentation", coco("images", lambda one: one.update(file_name="a1/aa.png")), "'a1/aa.png'"),
    "S405": ("segmentation", with_entry("images", id=99, file_name="zz.png"), "'zz.png' is no candidate"),
    "S406": ("segmentation", edit(JSON, last_image_twice), "dd.png is there before"),
    "S407": ("segmentation", edit(JSON, lambda value: pop_first(value["images"])), "1 of 4 candidates are missing, first aa.png"),
    "S408": ("segmentation", edit(JSON, lambda value: value["categories"].append({"id": 7})), "lacks name"),
    "S409": ("segmentation", with_entry("categories", id=1), "id 1 is there before"),
    "S410": ("segmentation", coco("categories", lambda one: one.update(name="bird")), "'bird' is none of the 2 classes"),
    "S411": ("segmentation", edit(JSON, lambda value: value["annotations"].append(None)), "is null"),
    "S412": ("segmentation", annotation(lambda one: one.update(image_id=77)), "image_id is 77"),
    "S413": ("segmentation", annotation(lambda one: one.pop("category_id")), "category_id is missing"),
    "S414": ("segmentation", annotation(lambda one: one.update(bbox=[1, 2, 3])), "bbox is [1, 2, 3]"),
    "S415": ("segmentation", annotation(lambda one: one["bbox"].__setitem__(0, 1e10)), "10000000000.0"),
    "S416": ("segmentation", annotation(lambda one: one["bbox"].__setitem__(2, 0.9)), "0.9"),
    "S417": ("segmentation", annotation(lambda one: one.pop("area")), "area is missing"),
    "S418": ("segmentation", annotation(lambda one: one.update(segmentation=[[0, 0, 5, 0, 5, 5]] * 2)), "it has 2 rings"),
    "S419": ("segmentation", annotation(lambda one: one.update(segmentation=[[0, 0, 5, 0]])), "the ring has 4 numbers"),
    "S420": ("segmentation", annotation(lambda one: one["segmentation"].update(counts=[3000, 72])), "counts is a list"),
    "S421": ("segmentation", annotation(lambda one: one["segmentation"].update(counts="z!")), "not compressed text"),
    "S422": ("segmentation", annotation(lambda one: one["segmentation"].update(size=[9, 9])), "covers 3072 pixels, size is [9, 9]"),
    "S423": ("segmentation", annotation(lambda one: one.update(segmentation="PPYo1")), "segmentation is text"),
    "S424": ("segmentation", with_entry("annotations", id=99), "bbox [3, 2, 9, 5] before"),
    "S425": ("segmentation", annotation(lambda one: one.update(iscrowd=True)), "iscrowd is True"),
    "S426": ("segmentation", annotation(lambda one: one.update(is_crowd=0)), "is_crowd is there"),
    "S427": ("segmentation", annotation(lambda one: one.update(score=one.pop("confidence"))), "score is there"),
    "S428": ("segmentation", annotation(lambda one: one.update(confidence=50)), "confidence is 50"),
    "S429": ("segmentation", annotation(lambda one: one.update(meta=[])), "meta is a list"),
    "S430": ("segmentation", annotation(lambda one: one["segmentation"].update(size=[64, 48])), "[64, 48], the image 48 x 64"),

    "M501": ("mining", remove("monitor.txt"), "there is none"),
    "M502": ("mining", put("monitor.txt", ""), "the file is empty"),
    "M503": ("mining", lambda base: base.monitor.write_bytes(base.monitor.read_bytes().rstrip(b"\n")), "no end"),
    "M504": ("mining", lambda base: base.monitor.write_bytes(base.monitor.read_bytes().replace(b"\t", b" ")), "has 1 fields"),
    "M505": ("mining", column(0, ""), "begins with a blank or a TAB"),
    "M506": ("mining", column(1, "1700000000123"), "milliseconds?"),
    "M507": ("mining", column(2, "100"), "is '100'"),
    "M508": ("mining", column(3, "RUNNING"), "is 'RUNNING'"),
    "M509": ("mining", column(3, "3"), "is 3"),
    "M510": ("mining", column(3, "1"), "is still 1 (pending)"),
    "M511": ("mining", put("monitor.txt", "t0\t1700000000.5\t0.50\t4\t300103\tout of memory\nwhy\n"), "is 4, code 300103: out of memory"),
    "M512": ("mining", column(4, "OOM"), "is 'OOM'"),
    "M513": ("mining", column(4, "300103"), "is 300103, the state 2"),
    "M514": ("failed", column(4, "137"), "is 137"),
    "M515": ("failed", column(5, ""), "the sixth field is missing"),
    "M516": ("failed", lambda base: base.monitor.write_text(base.monitor.read_text() + "more\n" * 120), "has 122 lines"),
    "M517": ("mining", lambda base: base.monitor.chmod(0o644), "0644"),
    "M518": ("mining", column(2, "0.40"), "is 0.40"),
    "M519": ("mining", column(0, "t1"), "is 't1', in env.yaml 't0'"),
    "M520": ("mining", put("ymir-executor-out.log", b"a\nb\n\xff\n"), "not UTF-8"),
    "M521": ("training", lambda base: shutil.rmtree(base.out / "tensorboard"), "there is none"),
    "M522": ("training", remove("tensorboard/events.out.tfevents.1"), "holds no event file"),
    "M523": ("training", put("tensorboard/events.out.tfevents.1", (EVENT * 3)[:-1]), "record 2 is cut off"),
    "M524": ("training", link("tensorboard/events.out.tfevents.1"), "is a link"),
}


def stage_called_attachments(base):
    text = base.result.read_text(encoding="utf-8").replace("epoch_1", "attachments")
    base.result.write_text(text, encoding="utf-8")
    Path(base.models / "epoch_1").rename(base.models / "attachments")


CASES["T112"] = ("semantic_training", stage_called_attachments, "is called attachments")
