"""result.yaml, from every shape of call that ever wrote one (B.6, C)."""
from __future__ import annotations

import re
from textwrap import dedent

import numpy as np
import pytest

from tests.contract import platform_rules
from tests.replay import Tensor, on_platform
from ymir_exc import result_writer as rw
from ymir_exc import util
from ymir_exc.errors import ArgumentError, ResultError, YmirError

T = 1700000000


def case(id, call, expected, on="new"):
    return pytest.param(call, on, dedent(expected).lstrip("\n"), id=id)


def written(platform):
    """The file, with NOW for a time that the call did not give."""
    text = (platform.out / "models/result.yaml").read_text(encoding="ascii")
    return re.sub(r"timestamp: (?!17000000\d\d\n)\d{10}\n", "timestamp: NOW\n", text)


def one_stage(name, files="    - a.pt\n", value="0.5", time=T, more="", extras=""):
    """A file of one stage with mAP; `extras` comes before the best stage's name, `more` is inside the stage."""
    return (f"{extras}best_stage_name: {name}\nmAP: {value}\nmodel_stages:\n  {name}:\n    files:\n{files}    mAP: {value}\n{more}"
            f"    stage_name: {name}\n    timestamp: {time}\n")


ATTACHED = "attachments:\n  figures:\n  - pr.png\n"
CONFIGURED = "evaluate_config:\n  iou_thr: 0.5\n"


def with_config(text):
    """evaluate_config stands between the best stage's name and the metric."""
    return text.replace("\nmAP", f"\n{CONFIGURED}mAP", 1)


WRITER = [
    # One shape of each line, all of which give a stage and its metric.
    case("B.6.1-keyword-mAP-2", lambda: rw.write_model_stage(stage_name="s", files=["a.pt"], mAP=0.5, timestamp=T), one_stage("s")),
    case("B.6.1-keyword-evaluation_result-2",
         lambda: rw.write_model_stage(stage_name="s", files=["a.pt"], evaluation_result={"mAP": 0.5}, timestamp=T), one_stage("s")),
    case("B.6.1-all-positional-2",
         lambda: rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5}, None, T, {"figures": ["pr.png"]}, {"iou_thr": 0.5}),
         with_config(one_stage("s", extras=ATTACHED))),
    case("B.6.1-all-positional-I",
         lambda: rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5}, T, {"figures": ["pr.png"]}, {"iou_thr": 0.5}),
         with_config(one_stage("s", extras=ATTACHED))),
    case("A.7-positional-mAP-1.0", lambda: rw.write_model_stage("s", ["a.pt"], 0.5), one_stage("s", time="NOW")),
    case("A.7-positional-mAP-timestamp-1.0", lambda: rw.write_model_stage("s", ["a.pt"], 0.5, T), one_stage("s")),
    case("A.7-positional-attachments-1.3", lambda: rw.write_model_stage("s", ["a.pt"], 0.5, T, {"figures": ["pr.png"]}),
         one_stage("s", extras=ATTACHED)),
    case("A.7-positional-None-for-now-1.3", lambda: rw.write_model_stage("s", ["a.pt"], 0.5, None, {"figures": ["pr.png"]}),
         one_stage("s", time="NOW", extras=ATTACHED)),
    case("C-positional-mAP-keyword-attachments-1.3",
         lambda: rw.write_model_stage("s", ["a.pt"], Tensor(0.5), timestamp=T, attachments={"figures": ["pr.png"]}),
         one_stage("s", extras=ATTACHED)),
    case("A.7-write_training_result-alias-2",
         lambda: rw.write_training_result(stage_name="s", files=["a.pt"], evaluation_result={"mAP": 0.5}, timestamp=T), one_stage("s")),
    case("A.7-write_training_result-positional-2",
         lambda: rw.write_training_result("s", ["a.pt"], {"mAP": 0.5}, T, {"figures": ["pr.png"]}, {"iou_thr": 0.5}),
         with_config(one_stage("s", extras=ATTACHED))),
    # What a metric may be.
    case("B.6.2-mAP-0-2", lambda: rw.write_model_stage("s", ["a.pt"], mAP=0, timestamp=T), one_stage("s", value="0.0")),
    case("B.6.2-evaluation_result-wins-2", lambda: rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5}, mAP=0.9, timestamp=T), one_stage("s")),
    case("B.6.5-numpy-corrected", lambda: rw.write_model_stage("s", ["a.pt"], {"mAP": np.float32(0.5)}, timestamp=T), one_stage("s")),
    case("B.6.5-fitness-of-shape-1-corrected", lambda: rw.write_model_stage("s", ["a.pt"], mAP=np.array([0.5]), timestamp=T),
         one_stage("s")),
    case("B.6.5-tensor-corrected", lambda: rw.write_model_stage("s", ["a.pt"], {"mAP": Tensor(0.5)}, timestamp=np.int64(T)),
         one_stage("s")),
    case("B.6.5-tensor-of-shape-1-corrected", lambda: rw.write_model_stage("s", ["a.pt"], {"mAP": Tensor(0.5, (1,))}, timestamp=float(T)),
         one_stage("s")),
    case("B.6.5-nested-corrected",
         lambda: rw.write_model_stage("s", ["a.pt"], {"mAP": "0.5", "per_class": {"cat": np.float64(0.25)}, "pr": np.arange(2)},
                                      timestamp=T),
         one_stage("s", more="    per_class:\n      cat: 0.25\n    pr:\n    - 0\n    - 1\n")),
    case("B.6.6-minus-1-of-coco-corrected", lambda: rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5, "mAR": -1}, timestamp=T),
         one_stage("s", more="    mAR: 0.0\n")),
    case("B.6.6-upper-case-counts-corrected",
         lambda: rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5, "TP": np.int64(3), "FP": "4", "FN": 5.0}, timestamp=T),
         one_stage("s", more="").replace("    mAP: 0.5\n", "    fn: 5\n    fp: 4\n    mAP: 0.5\n").replace(
             f"{T}\n", f"{T}\n    tp: 3\n")),
    case("B.6.6-evaluate_config-is-floats-2",
         lambda: rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5}, timestamp=T, evaluate_config={"iou_thr": np.float32(0.5)}),
         with_config(one_stage("s"))),
    # Names.
    case("B.6.3-hyphen-1.3", lambda: rw.write_model_stage("epoch-10", ["a.pt"], mAP=0.5, timestamp=T), one_stage("epoch_10")),
    case("B.6.1-names-are-escaped-2", lambda: rw.write_model_stage("s", ["模.pt"], mAP=0.5, timestamp=T),
         one_stage("s", files='    - "\\u6A21.pt"\n')),
    case("B.6.1-a-stage-of-chinese-letters-2", lambda: rw.write_model_stage("最佳", ["a.pt"], {"mAP": 0.5}, timestamp=T), r'''
        best_stage_name: "\u6700\u4F73"
        mAP: 0.5
        model_stages:
          "\u6700\u4F73":
            files:
            - a.pt
            mAP: 0.5
            stage_name: "\u6700\u4F73"
            timestamp: 1700000000
        '''),
    # Segmentation: the metric that decides stands at the top.
    case("B.6.2-mIoU-2", lambda: rw.write_model_stage("s", ["a.pt"], {"mIoU": 0.5, "mAcc": 0.25, "mAP": 0.125}, timestamp=T), '''
        best_stage_name: s
        mIoU: 0.5
        model_stages:
          s:
            files:
            - a.pt
            mAP: 0.125
            mAcc: 0.25
            mIoU: 0.5
            stage_name: s
            timestamp: 1700000000
        '''),
    case("B.6.2-maskAP-2", lambda: rw.write_model_stage("s", ["a.pt"], {"boxAP": 0.5, "maskAP": 0.25, "mIoU": 0.75}, timestamp=T), '''
        best_stage_name: s
        maskAP: 0.25
        model_stages:
          s:
            boxAP: 0.5
            files:
            - a.pt
            mIoU: 0.75
            maskAP: 0.25
            stage_name: s
            timestamp: 1700000000
        '''),
    # Platforms that know the version by the environment alone, and those before stages.
    case("B.6.4-stages-by-YMIR_VERSION-1.0", lambda: rw.write_model_stage("s", ["a.pt"], 0.5, T), one_stage("s"), on="1.2"),
    case("B.6.4-protocol-1.0.0-1.3", lambda: rw.write_model_stage("s", ["a.pt"], 0.5, T), one_stage("s"), on="1.3"),
    case("B.6.4-flat-has-map-corrected", lambda: rw.write_model_stage("s", ["b.pt", "a.pt", "b.pt"], mAP=0.5, timestamp=T), '''
        mAP: 0.5
        map: 0.5
        model:
        - b.pt
        - a.pt
        stage_name: s
        timestamp: 1700000000
        ''', on="old"),
    case("B.6.4-an-empty-protocol-version-I", lambda: rw.write_model_stage("s", ["a.pt"], {"mAP": 0.5, "mAR": 0.25}, timestamp=T), '''
        mAP: 0.5
        mAR: 0.25
        map: 0.5
        model:
        - a.pt
        stage_name: s
        timestamp: 1700000000
        ''', on="I"),
    # The oldest shape.
    case("C-model_names-old-platform-P",
         lambda: rw.write_training_result(model_names=["a.pt", "模.pt"], mAP=0.5, classAPs={"cat": np.float32(0.25)}), r'''
        class_aps:
          cat: 0.25
        mAP: 0.5
        map: 0.5
        model:
        - a.pt
        - "\u6A21.pt"
        stage_name: default_best_stage
        timestamp: NOW
        ''', on="old"),
    case("C-model_names-positional-old-platform-P", lambda: rw.write_training_result(["a.pt"], 0.5, {}), '''
        class_aps: {}
        mAP: 0.5
        map: 0.5
        model:
        - a.pt
        stage_name: default_best_stage
        timestamp: NOW
        ''', on="old"),
    case("C-model_names-more-keywords-P",
         lambda: rw.write_training_result(model_names=["a.pt"], mAP=0.5, classAPs={}, mAP50=0.75, precision=0.25, recall=Tensor(0.125)),
         one_stage("default_best_stage", time="NOW", more="    mAP50: 0.75\n    precision: 0.25\n    recall: 0.125\n").replace(
             "    files", "    class_aps: {}\n    files")),
    case("A.7-model_names-without-classAPs-1.0", lambda: rw.write_training_result(["a.pt"], 0.5),
         one_stage("default_best_stage", time="NOW")),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("call", "on", "expected"), WRITER)
def test_writer(platform, monkeypatch, call, on, expected):
    on_platform(platform, monkeypatch, on)
    for name in ("a.pt", "b.pt", "模.pt", "attachments/figures/pr.png"):
        platform.model(name)
    call()
    assert written(platform) == expected
    platform_rules.accept_training(platform.out, primary=next(key for key in ("maskAP", "mIoU", "mAP") if f"\n{key}" in f"\n{expected}"))


B = "    - b.pt\n"
UTIL = [
    case("B.6.9-positional-map50-1.0", lambda cfg: util.write_ymir_training_result(cfg, 0.5, ["b.pt"], "best"),
         one_stage("best", B, time="NOW")),
    case("B.6.9-positional-map50-attachments-1.0",
         lambda cfg: util.write_ymir_training_result(cfg, 0.5, ["b.pt"], "best", {"figures": ["pr.png"]}),
         one_stage("best", B, time="NOW", extras=ATTACHED)),
    case("B.6.9-positional-map50-keyword-files-1.0", lambda cfg: util.write_ymir_training_result(cfg, 0.5, files=["b.pt"], id="best"),
         one_stage("best", B, time="NOW")),
    case("B.6.9-positional-files-keyword-id-1.0", lambda cfg: util.write_ymir_training_result(cfg, 0.5, ["b.pt"], id="best"),
         one_stage("best", B, time="NOW")),
    case("B.6.9-map50-of-shape-1-1.0", lambda cfg: util.write_ymir_training_result(cfg, np.array([0.5]), ["b.pt"], "best"),
         one_stage("best", B, time="NOW")),
    case("B.6.9-map50-tensor-1.0", lambda cfg: util.write_ymir_training_result(cfg, Tensor(0.5), ["b.pt"], "best"),
         one_stage("best", B, time="NOW")),
    case("A.9-all-keyword-1.0", lambda cfg: util.write_ymir_training_result(cfg, map50=0.5, files=["b.pt"], id="best"),
         one_stage("best", B, time="NOW")),
    case("A.9-positional-files-first-1.3", lambda cfg: util.write_ymir_training_result(cfg, ["b.pt"], "best", 0.5),
         one_stage("best", B, time="NOW")),
    case("A.9-positional-attachments-1.3",
         lambda cfg: util.write_ymir_training_result(cfg, ["b.pt"], "best", 0.5, {"figures": ["pr.png"]}),
         one_stage("best", B, time="NOW", extras=ATTACHED)),
    case("A.9-keyword-map50-2", lambda cfg: util.write_ymir_training_result(cfg, files=["b.pt"], id="best", map50=np.float64(0.5)),
         one_stage("best", B, time="NOW")),
    case("A.9-positional-evaluation_result-2",
         lambda cfg: util.write_ymir_training_result(cfg, ["b.pt"], "best", None, {"mAP": 0.5}, {"iou_thr": 0.5}, {"figures": ["pr.png"]}),
         with_config(one_stage("best", B, time="NOW", extras=ATTACHED))),
    case("A.9-keyword-evaluation_result-2",
         lambda cfg: util.write_ymir_training_result(cfg, files=["b.pt"], id="best", evaluation_result={"mAP": 0.5, "mAR": 0.25}),
         one_stage("best", B, time="NOW", more="    mAR: 0.25\n")),
    case("B.6.3-numeric-id-2", lambda cfg: util.write_ymir_training_result(cfg, files=["b.pt"], id="12", map50=0.5),
         one_stage("stage_12", B, time="NOW")),
    case("B.6.3-int-id-2", lambda cfg: util.write_ymir_training_result(cfg, files=["b.pt"], id=12, map50=0.5),
         one_stage("stage_12", B, time="NOW")),
    case("B.6.4-map50-0-corrected", lambda cfg: util.write_ymir_training_result(cfg, files=["b.pt"], id="best", map50=0.0), '''
        mAP: 0.0
        map: 0.0
        model:
        - b.pt
        stage_name: best
        timestamp: NOW
        ''', on="old"),
    case("B.6.4-flat-1.0", lambda cfg: util.write_ymir_training_result(cfg, 0.5, ["sub/k.pt"], "best"), '''
        mAP: 0.5
        map: 0.5
        model:
        - k.pt
        stage_name: best
        timestamp: NOW
        ''', on="old"),
    case("B.6.7-all-files-corrected", lambda cfg: util.write_ymir_training_result(cfg, files=[], id="best", map50=0.5),
         one_stage("best", "    - a.pt\n    - b.pt\n", time="NOW")),
    case("B.6.8-files-of-a-folder-2", lambda cfg: util.write_ymir_training_result(cfg, files=["sub/k.pt", "b.pt"], id="best", map50=0.5),
         one_stage("best", "    - k.pt\n    - b.pt\n", time="NOW")),
    case("B.6.8-files-in-the-folder-of-the-stage-corrected",
         lambda cfg: util.write_ymir_training_result(cfg, files=["best/w.pt", "best/deep/v.pt"], id="best", map50=0.5),
         one_stage("best", "    - w.pt\n    - v.pt\n", time="NOW")),
    case("B.6.3-files-in-a-folder-with-hyphen-corrected",
         lambda cfg: util.write_ymir_training_result(cfg, files=["epoch-10/w.pt"], id="epoch-10", map50=0.5),
         one_stage("epoch_10", "    - w.pt\n", time="NOW")),
    case("B.6.8-absolute-and-from-outside-2",
         lambda cfg: util.write_ymir_training_result(
             cfg, files=[f"{cfg.ymir.output.models_dir}/sub/k.pt", f"{cfg.ymir.output.root_dir}/work dir/l;m.pt"], id="best", map50=0.5),
         one_stage("best", "    - k.pt\n    - l;m.pt\n", time="NOW")),
]


@pytest.mark.parametrize(("call", "on", "expected"), UTIL)
def test_util(platform, monkeypatch, call, on, expected):
    on_platform(platform, monkeypatch, on)
    for name in ("a.pt", "b.pt", "sub/k.pt", "../work dir/l;m.pt", "attachments/figures/pr.png", "best/w.pt", "best/deep/v.pt",
                 "epoch-10/w.pt"):
        platform.model(name, name.encode())
    call(util.get_merged_config())
    assert written(platform) == expected
    platform_rules.accept_training(platform.out)


def test_patterns_of_saved_files(platform):
    """B.6.7: split on commas, stripped, searched anywhere; one that is no expression takes no neighbour with it (corrected)."""
    for name in ("a.pt", "b.onnx", "c.yaml", "d.txt"):
        platform.model(name)
    platform.config["ymir_saved_file_patterns"] = " *.bad, *.worse , onnx$, c"
    cfg = (platform.write(), util.get_merged_config())[1]
    util.write_ymir_training_result(cfg, files=[], id="best", map50=0.5)
    assert platform.result()["model_stages"]["best"]["files"] == ["b.onnx", "c.yaml"]


def test_thirteen_stages(platform):
    """B.6.3: the best and the ten newest; B.6.2: of equals the later one is best."""
    platform.model("a.pt")
    for n in range(13):
        rw.write_model_stage(f"s{n}", ["a.pt"], {"mAP": {1: 0.75, 2: 0.75}.get(n, 0.5)}, timestamp=T + n)
    result = platform.result()
    assert (result["best_stage_name"], result["mAP"]) == ("s2", 0.75)
    assert sorted(result["model_stages"], key=lambda name: int(name[1:])) == [f"s{n}" for n in range(2, 13)]
    platform_rules.accept_training(platform.out)


def test_the_stage_just_written_is_never_dropped(platform):
    """B.6.3-corrected: a clock that was set back made each new stage the oldest."""
    platform.model("a.pt")
    for n in range(11):
        rw.write_model_stage(f"s{n}", ["a.pt"], {"mAP": 0.5}, timestamp=T + n)
    rw.write_model_stage("back", ["a.pt"], {"mAP": 0.25}, timestamp=T - 9)
    assert set(platform.result()["model_stages"]) == {"back", *(f"s{n}" for n in range(1, 11))}


def test_metrics_of_several_kinds(platform):
    """B.6.2-corrected: one metric decides, whatever the last call gave; what stands at the top of another kind stays."""
    platform.model("a.pt")
    rw.write_model_stage("a", ["a.pt"], {"mAP": 0.75}, timestamp=T)
    rw.write_model_stage("b", ["a.pt"], {"maskAP": 0.25}, timestamp=T)
    rw.write_model_stage("c", ["a.pt"], {"mAP": 1}, timestamp=T)
    result = platform.result()
    assert (result["best_stage_name"], result["maskAP"], result["mAP"]) == ("b", 0.25, 0.75)


def test_a_result_of_the_older_package_is_continued(platform):
    """1.3 wrote `map` at the top and in the stages."""
    platform.model("a.pt")
    (platform.out / "models/result.yaml").write_text(
        f"best_stage_name: a\nmap: 0.5\nmodel_stages:\n  a: {{stage_name: a, files: [a.pt], timestamp: {T}, mAP: 0.5}}\n"
        f"  odd: {{stage_name: odd, files: null, timestamp: soon, mAP: high}}\n")
    rw.write_model_stage("b", ["a.pt"], {"mAP": 0.25}, timestamp=T)
    result = platform.result()
    assert (result["best_stage_name"], result["mAP"], list(result["model_stages"])) == ("a", 0.5, ["a", "odd", "b"])


REFUSED = [
    pytest.param(lambda cfg: rw.write_model_stage("s", ["a.pt"]), ResultError, id="B.6.2-no-metric-2"),
    pytest.param(lambda cfg: rw.write_model_stage("s", ["a.pt"], {"precision": 0.5}), (ResultError, ValueError),
                 id="B.6.2-none-of-three-I"),
    pytest.param(lambda cfg: rw.write_model_stage("1st", ["a.pt"], 0.5), (ResultError, ValueError), id="B.6.3-no-identifier-1.3"),
    pytest.param(lambda cfg: rw.write_model_stage("", ["a.pt"], 0.5), (ResultError, ValueError), id="B.6.3-no-name-1.0"),
    pytest.param(lambda cfg: rw.write_model_stage(None, ["a.pt"], 0.5), (ResultError, ValueError), id="B.6.3-None-1.0"),
    pytest.param(lambda cfg: rw.write_model_stage("s", [], 0.5), (ResultError, ValueError), id="B.6.3-no-files-1.0"),
    pytest.param(lambda cfg: rw.write_model_stage("s", None, 0.5), (ResultError, ValueError), id="B.6.3-files-None-1.0"),
    pytest.param(lambda cfg: rw.write_model_stage("s", ["folder"], 0.5), (ResultError, ValueError), id="B.6.6-a-folder-1.0"),
    pytest.param(lambda cfg: util.format_saved_files(cfg, ["folder"]), (ArgumentError, AssertionError), id="B.6.8-a-folder-2"),
    pytest.param(lambda cfg: rw.write_model_stage("s", [7], 0.5), (ResultError, ValueError), id="B.6.3-files-of-numbers-1.0"),
    pytest.param(lambda cfg: rw.write_model_stage("s", ["a\udcff.pt"], 0.5), (ResultError, ValueError), id="B.6.1-a-file-of-odd-bytes-2"),
    pytest.param(lambda cfg: rw.write_model_stage("s", ["a.pt"], 0.5, "soon"), (ResultError, ValueError), id="B.6.1-timestamp-1.0"),
    pytest.param(lambda cfg: rw.write_model_stage("s", ["a.pt"], 0.5, attachments=["x"]), ResultError, id="B.6.1-attachments-2"),
    pytest.param(lambda cfg: rw.write_model_stage("s", ["a.pt"], 0.5, attachments={"x": None}), ResultError, id="B.6.6-null-section-2"),
    pytest.param(lambda cfg: rw.write_model_stage("s", ["a.pt"], 0.5, evaluate_config=[1]), ResultError, id="B.6.6-evaluate_config-2"),
    pytest.param(lambda cfg: rw.write_training_result(["a.pt"], None, {}), ResultError, id="B.6.4-no-mAP-P"),
    pytest.param(lambda cfg: rw.write_training_result(model_names="a.pt", mAP=0.5, classAPs={}), ResultError, id="C-names-in-text-P"),
    pytest.param(lambda cfg: util.write_ymir_training_result(cfg, ["a.pt"], "s"), ResultError, id="B.6.4-no-map50-2"),
    pytest.param(lambda cfg: util.write_ymir_training_result(cfg, ["gone.pt"], "s", 0.5), (ArgumentError, AssertionError),
                 id="B.6.8-missing-file-2"),
    pytest.param(lambda cfg: util.format_saved_files(cfg, ["best_{:03d}.pt"]), (ArgumentError, AssertionError), id="B.6.8-format-2"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("call", "kinds"), REFUSED)
def test_refused(platform, call, kinds):
    """The type that older callers saw and our own; the earlier result stays."""
    platform.model("a.pt")
    platform.model("folder/b.pt")
    rw.write_model_stage("earlier", ["a.pt"], {"mAP": 0.5})
    before = written(platform)
    with pytest.raises(YmirError) as caught:
        call(util.get_merged_config())
    for kind in kinds if isinstance(kinds, tuple) else (kinds,):
        assert isinstance(caught.value, kind)
    assert written(platform) == before
