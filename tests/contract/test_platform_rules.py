"""The platform's rules are not vacuous: a good tree passes, and breaking one rule alone is refused, with its section.

Each row of a table is (what is broken, section, key, words of the message); the change is applied to a good tree.
"""

from __future__ import annotations

import copy
import json
import os
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml

from tests.contract.platform_rules import (
    EXECUTOR_CODES,
    ContractViolation,
    accept_detection,
    accept_mining,
    accept_monitor,
    accept_monitor_updates,
    accept_segmentation,
    accept_tensorboard,
    accept_training,
    masked_crc32c,
    parse_monitor,
)
from tests.contract.tensorboard_rules import crc32c
from tests.contract.training_rules import _pack_and_unpack

CANDIDATES = ["/in/assets/a1/aa.jpg", "/in/assets/b2/bb.png", "/in/assets/c3/cc.jpg"]
CLASSES = ["person", "cat"]


# ------------------------------------------------------------------------------------------------------- helpers


def refused(judge, section, key, words, file=None):
    """`judge` must raise, and name the section, the key (its beginning) and the words."""
    with pytest.raises(ContractViolation) as caught:
        judge()
    error = caught.value
    assert (error.section, words in error.problem) == (section, True), str(error)
    assert error.key.startswith(key), str(error)
    assert str(error).startswith(f"contract {section}: {error.file}: ")
    if file:
        assert error.file == file


def put(path, value):
    """A change that sets ``a/b/0/c`` in a nested document."""

    def change(document):
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        for part in parents:
            document = document[part]
        document[last] = value(document[last]) if callable(value) else value

    return change


def drop(path):
    def change(document):
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        for part in parents:
            document = document[part]
        del document[last]

    return change


def both(*changes):
    def change(target):
        for one in changes:
            one(target)

    return change


def ids(table):
    return [f"{number}-{row[1]}-{row[3].replace(' ', '_')[:40]}" for number, row in enumerate(table)]


# ------------------------------------------------------------------------------------------------------ training

TRAINING = {
    "best_stage_name": "epoch_20",
    "mAP": 0.6,
    "model_stages": {
        "epoch_10": {
            "stage_name": "epoch_10",
            "files": ["best.pt", "weights/last.pt"],
            "timestamp": 1700000010,
            "mAP": 0.5,
        },
        "epoch_20": {
            "stage_name": "epoch_20",
            "files": ["best.pt", "weights/last.pt"],
            "timestamp": 1700000020,
            "mAP": 0.6,
            "mAR": 0.7,
            "mIoU": 0,
            "mAcc": 1,
            "maskAP": 0.25,
            "boxAP": 0.5,
            "tp": 3,
            "fp": 0,
            "fn": 2147483647,
        },
    },
    "attachments": {"plots": ["curve.png"]},
    "evaluate_config": {"iou_thr": 0.5, "conf_thr": 0.005},
    "object_type": 2,
}
LEGACY = {"model": ["best.pt"], "map": 0.6, "timestamp": 1700000020}


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    for stage in ("epoch_10", "epoch_20"):
        (folder / stage / "weights").mkdir(parents=True)
        (folder / stage / "best.pt").write_bytes(f"best of {stage}".encode())
        (folder / stage / "weights" / "last.pt").write_bytes(os.urandom(2000))
    (folder / "attachments" / "plots").mkdir(parents=True)
    (folder / "attachments" / "plots" / "curve.png").write_bytes(b"png")
    return folder


def write_training(models, document):
    (models / "result.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return models.parent


def test_training_good(models):
    result = accept_training(write_training(models, TRAINING))
    assert (result.layout, result.best_stage_name, result.object_type) == ("stages", "epoch_20", 2)
    assert list(result.stages) == ["epoch_10", "epoch_20"]
    assert result.best.metrics == {"mAP": 0.6, "mAR": 0.7, "mIoU": 0, "mAcc": 1, "maskAP": 0.25, "boxAP": 0.5}
    assert result.best.counts == {"tp": 3, "fp": 0, "fn": 2147483647}
    assert result.best.paths["weights/last.pt"] == models / "epoch_20" / "weights" / "last.pt"
    assert result.attachments == {"plots": ["curve.png"]}
    assert result.evaluate_config == {"iou_thr": 0.5, "conf_thr": 0.005}
    assert result.package == [
        "epoch_10/best.pt",
        "epoch_10/weights/last.pt",
        "epoch_20/best.pt",
        "epoch_20/weights/last.pt",
        "attachments/plots/curve.png",
        "ymir-info.yaml",
    ]
    assert result.unlisted == []
    assert result.notices == []


def test_training_least(models):
    """Only what contract 6.1 requires, for one stage."""
    stage = {"stage_name": "epoch_10", "files": ["best.pt"], "timestamp": 1, "mAP": 0}
    result = accept_training(
        write_training(models, {"best_stage_name": "epoch_10", "model_stages": {"epoch_10": stage}})
    )
    assert result.best.metrics == {"mAP": 0}
    assert (result.attachments, result.evaluate_config, result.object_type) == ({}, {}, None)
    assert "epoch_20/best.pt" in result.unlisted


def test_training_legacy(models):
    (models / "best.pt").write_bytes(b"flat")
    result = accept_training(write_training(models, LEGACY))
    assert (result.layout, result.best_stage_name) == ("legacy", "default_best_stage")
    assert result.best.metrics == {"mAP": 0.6}
    assert abs(result.best.timestamp - time.time()) < 60
    assert result.package == ["default_best_stage/best.pt", "ymir-info.yaml"]


def test_training_stage_folder_wins_over_root(models):
    (models / "best.pt").write_bytes(b"flat")
    result = accept_training(write_training(models, TRAINING))
    assert result.best.paths["best.pt"] == models / "epoch_20" / "best.pt"
    assert result.unlisted == ["best.pt"]


def test_training_root_file_is_found_and_a_shared_one_is_told(models):
    for stage in ("epoch_10", "epoch_20"):
        (models / stage / "best.pt").unlink()
    (models / "best.pt").write_bytes(b"flat")
    result = accept_training(write_training(models, TRAINING))
    assert result.package[0] == "epoch_10/best.pt"
    assert result.notices == ["models/best.pt: one file is packed for the stages epoch_10, epoch_20"]


def test_training_hard_link_is_packed(models):
    """Contract 6.3 offers hard links: the archive holds the second name as a link to the first."""
    (models / "epoch_20" / "best.pt").unlink()
    os.link(str(models / "epoch_10" / "best.pt"), str(models / "epoch_20" / "best.pt"))
    accept_training(write_training(models, TRAINING))


def test_training_coercions_are_told(models):
    document = copy.deepcopy(TRAINING)
    both(
        put("model_stages/epoch_20/mAP", "0.6"),
        put("model_stages/epoch_20/timestamp", 1700000020.9),
        put("model_stages/epoch_20/TP", 3),
        put("evaluate_config/iou_thr", "5e-1"),
        put("model_stages/epoch_10/files", ["best.pt", "best.pt", 7]),
    )(document)
    (models / "epoch_10" / "7").write_bytes(b"seven")
    result = accept_training(write_training(models, document))
    assert result.best.timestamp == 1700000020
    assert result.best.metrics["mAP"] == 0.6
    assert len(result.notices) == 6
    assert result.stages["epoch_10"].files == ["best.pt", "best.pt", "7"]


@pytest.mark.parametrize("primary", ["mIoU", "maskAP"])
def test_training_primary_metric(models, primary):
    document = copy.deepcopy(TRAINING)
    for stage, score in (("epoch_10", 0.9), ("epoch_20", 0.1)):
        document["model_stages"][stage][primary] = score
    out = write_training(models, document)
    accept_training(out)
    refused(lambda: accept_training(out, primary=primary), "6.1", "best_stage_name", "'epoch_10' has")
    with pytest.raises(ValueError, match="primary"):
        accept_training(out, primary="accuracy")


def test_training_full_tie_takes_either(models):
    document = copy.deepcopy(TRAINING)
    document["model_stages"]["epoch_10"].update(mAP=0.6, timestamp=1700000020)
    for best in ("epoch_10", "epoch_20"):
        document["best_stage_name"] = best
        assert accept_training(write_training(models, document)).best_stage_name == best


def many_stages(count):
    def change(document):
        stage = document["model_stages"]["epoch_10"]
        names = [f"more_{number}" for number in range(count - 2)]
        for name in names:
            document["model_stages"][name] = {**stage, "stage_name": name, "files": ["shared.pt"]}

    return change


def test_training_eleven_stages(models):
    (models / "shared.pt").write_bytes(b"shared")
    document = copy.deepcopy(TRAINING)
    many_stages(11)(document)
    assert len(accept_training(write_training(models, document)).stages) == 11


def rename_stage(name):
    def change(document):
        stages = document["model_stages"]
        stages[name] = {**stages.pop("epoch_20"), "stage_name": name}
        document["best_stage_name"] = name

    return change


TEN, TWENTY = "model_stages/epoch_10/", "model_stages/epoch_20/"
BROKEN_TRAINING = [
    # the layout
    (drop("model_stages"), "6.1", "model_stages", "neither"),
    (put("model_stages", {}), "6.1", "model_stages", "is empty"),
    (put("model_stages", [1]), "6.1", "model_stages", "must be a mapping, is list"),
    (put("model_stages", None), "6.1", "model_stages", "must be a mapping, is null"),
    (put("model_stages/epoch_20", "best.pt"), "6.1", "model_stages.epoch_20", "must be a mapping"),
    (put("model", ["best.pt"]), "6.1", "model_stages", "its stages are lost"),
    # the best stage
    (drop("best_stage_name"), "6.1", "best_stage_name", "is missing"),
    (put("best_stage_name", None), "6.1", "best_stage_name", "must be a string"),
    (put("best_stage_name", "epoch_30"), "6.1", "best_stage_name", "not a key of model_stages"),
    (put("best_stage_name", "epoch_10"), "6.1", "best_stage_name", "'epoch_20' has (0.6, 1700000020)"),
    (put(TEN + "mAP", 0.61), "6.1", "best_stage_name", "'epoch_10' has (0.61"),
    (both(put(TEN + "mAP", 0.6), put(TEN + "timestamp", 1700000021)), "6.1", "best_stage_name", "'epoch_10' has (0.6,"),
    # the keys of a stage
    (drop(TWENTY + "stage_name"), "6.1", "model_stages.epoch_20.stage_name", "is missing"),
    (put(TWENTY + "stage_name", "epoch-20"), "6.1", "model_stages.epoch_20.stage_name", "but the key of the stage"),
    (put(TWENTY + "stage_name", 20), "6.1", "model_stages.epoch_20.stage_name", "must be a string, is int"),
    (drop(TWENTY + "timestamp"), "6.1", "model_stages.epoch_20.timestamp", "is missing"),
    (put(TWENTY + "timestamp", 1700000020123), "6.1", "model_stages.epoch_20.timestamp", "is outside"),
    (put(TWENTY + "timestamp", 2**31), "6.1", "model_stages.epoch_20.timestamp", "is outside"),
    (put(TWENTY + "timestamp", "now"), "6.1", "model_stages.epoch_20.timestamp", "must be an integer"),
    (put(TWENTY + "timestamp", True), "6.1", "model_stages.epoch_20.timestamp", "must be an integer"),
    (put(TWENTY + "timestamp", float("nan")), "6.1", "model_stages.epoch_20.timestamp", "not finite"),
    (drop(TWENTY + "mAP"), "10.3", "model_stages.epoch_20.mAP", "primary metric is missing"),
    (put(TWENTY + "mAP", None), "6.1", "model_stages.epoch_20.mAP", "must be a number, is null"),
    (put(TWENTY + "mAP", 60.0), "6.1", "model_stages.epoch_20.mAP", "outside [0.0, 1]"),
    (put(TWENTY + "mAP", True), "6.1", "model_stages.epoch_20.mAP", "must be a number, is bool"),
    (put(TWENTY + "mAP", "good"), "6.1", "model_stages.epoch_20.mAP", "is not a number"),
    (put(TWENTY + "mAP", "nan"), "6.1", "model_stages.epoch_20.mAP", "not finite"),
    (put(TWENTY + "mAP", [0.5]), "6.1", "model_stages.epoch_20.mAP", "must be a number, is list"),
    *[
        (put(TWENTY + metric, value), "6.1", f"model_stages.epoch_20.{metric}", words)
        for metric in ("mAP", "mAR", "mIoU", "mAcc", "maskAP", "boxAP")
        for value, words in (
            (1.0001, "outside"),
            (-1, "outside"),
            (float("nan"), "not finite"),
            (float("inf"), "not finite"),
        )
    ],
    *[
        (put(TWENTY + count, value), "6.1", f"model_stages.epoch_20.{count}", words)
        for count in ("tp", "fp", "fn")
        for value, words in (
            (-1, "outside"),
            (2**31, "outside"),
            (1.0, "must be an integer"),
            ("3", "must be an integer"),
        )
    ],
    (both(drop(TWENTY + "tp"), put(TWENTY + "TP", 3)), "6.1", "model_stages.epoch_20.TP", "which reads `tp`"),
    (put(TWENTY + "FP", 9), "6.1", "model_stages.epoch_20.FP", "differs from `fp`"),
    (put(TEN + "miou", 0.5), "6.1", "model_stages.epoch_10.miou", "which reads `mIoU`"),
    # the name of a stage, and how many
    (rename_stage("epoch-20"), "6.2", "model_stages.epoch-20", "not an identifier"),
    (rename_stage("20"), "6.2", "model_stages.20", "not an identifier"),
    (rename_stage("epoch.20"), "6.2", "model_stages.epoch.20", "not an identifier"),
    (rename_stage("../epoch_20"), "6.2", "model_stages.../epoch_20", "not an identifier"),
    (rename_stage("epoch@20"), "6.2", "model_stages.epoch@20", "'@'"),
    (rename_stage("e" * 101), "6.2", "model_stages.eee", "longer than 100"),
    (rename_stage(""), "6.2", "model_stages", "is blank"),
    (rename_stage(20), "6.2", "model_stages.20", "must be a string, is int"),
    (rename_stage("attachments"), "6.3", "model_stages.attachments", "may not be called"),
    (many_stages(12), "6.2", "model_stages", "has 12 stages"),
    # the files of a stage
    (drop(TWENTY + "files"), "6.1", "model_stages.epoch_20.files", "is missing"),
    (put(TWENTY + "files", "best.pt"), "6.1", "model_stages.epoch_20.files", "must be a list, is str"),
    (put(TWENTY + "files", []), "6.1", "model_stages.epoch_20.files", "lists no file"),
    (put(TWENTY + "files/0", None), "6.1", "model_stages.epoch_20.files[0]", "must be a string, is null"),
    (put(TWENTY + "files/1", ""), "6.1", "model_stages.epoch_20.files[1]", "is blank"),
    (put(TWENTY + "files/1", "none.pt"), "6.3", "model_stages.epoch_20.files[1]", "is missing, looked for in"),
    (put(TWENTY + "files/1", "weights"), "6.3", "model_stages.epoch_20.files[1]", "is a folder"),
    (put(TWENTY + "files/1", "/etc/hosts"), "6.3", "model_stages.epoch_20.files[1]", "is absolute"),
    (put(TWENTY + "files/1", "../epoch_10/best.pt"), "6.3", "model_stages.epoch_20.files[1]", "leaves its folder"),
    (put(TWENTY + "files/1", "result.yaml"), "6.3", "model_stages.epoch_20.files[1]", "the result file itself"),
    (put(TWENTY + "files/1", "a\0b"), "6.3", "model_stages.epoch_20.files[1]", "NUL"),
    # the rest
    (put("attachments", None), "6.1", "attachments", "must be a mapping, is null"),
    (put("attachments", ["curve.png"]), "6.1", "attachments", "must be a mapping, is list"),
    (put("attachments/plots", "curve.png"), "6.1", "attachments.plots", "must be a list, is str"),
    (put("attachments/plots/0", "none.png"), "6.3", "attachments.plots[0]", "looked for in attachments/plots/none.png"),
    (put("attachments/plots/0", 5), "6.1", "attachments.plots[0]", "must be a string, is int"),
    (put("attachments/plots/0", "../plots/curve.png"), "6.3", "attachments.plots[0]", "leaves its folder"),
    (put("attachments/..", ["curve.png"]), "6.3", "attachments...", "leaves its folder"),
    (put("evaluate_config", None), "6.1", "evaluate_config", "must be a mapping, is null"),
    (put("evaluate_config/iou_thr", {"a": 0.5}), "6.1", "evaluate_config.iou_thr", "must be a number, is dict"),
    (put("evaluate_config/iou_thr", None), "6.1", "evaluate_config.iou_thr", "must be a number, is null"),
    (put("evaluate_config/iou_thr", float("nan")), "6.1", "evaluate_config.iou_thr", "not finite"),
    (lambda document: document["evaluate_config"].update({1: 0.5}), "6.1", "evaluate_config.1", "must be a string"),
    (put("object_type", "detection"), "6.1", "object_type", "must be an integer"),
    (put("object_type", 1), "6.1", "object_type", "none of (2, 3, 4, 50)"),
]


@pytest.mark.parametrize(("change", "section", "key", "words"), BROKEN_TRAINING, ids=ids(BROKEN_TRAINING))
def test_training_broken(models, change, section, key, words):
    document = copy.deepcopy(TRAINING)
    change(document)
    out = write_training(models, document)
    refused(lambda: accept_training(out), section, key, words, "models/result.yaml")


BROKEN_LEGACY = [
    (drop("map"), "6.1", "map", "is mandatory"),
    (put("map", "good"), "6.1", "map", "is not a number"),
    (put("map", 60), "6.1", "map", "outside"),
    (put("map", float("nan")), "6.1", "map", "not finite"),
    (put("model", "best.pt"), "6.1", "model", "must be a list"),
    (put("model", None), "6.1", "model", "must be a list, is null"),
    (put("model", ["none.pt"]), "6.3", "model[0]", "looked for in default_best_stage/none.pt and none.pt"),
    (put("model_stages", {}), "6.1", "model_stages", "its stages are lost"),
]


@pytest.mark.parametrize(("change", "section", "key", "words"), BROKEN_LEGACY, ids=ids(BROKEN_LEGACY))
def test_training_legacy_broken(models, change, section, key, words):
    (models / "best.pt").write_bytes(b"flat")
    document = copy.deepcopy(LEGACY)
    change(document)
    out = write_training(models, document)
    refused(lambda: accept_training(out), section, key, words)


BROKEN_YAML = [
    (b"", "6.1", "", "is empty"),
    (b"# nothing\n", "6.1", "", "is empty"),
    (b"- a\n", "6.1", "", "must be a mapping, is list"),
    (b"just text\n", "6.1", "", "must be a mapping, is str"),
    (b"model_stages: {\n", "6.1", "", "is not plain YAML"),
    (b"a: 1\n---\nb: 2\n", "6.1", "", "is not plain YAML"),
    (b"mAP: !!python/object/apply:float [0.5]\n", "6.1", "", "is not plain YAML"),
    (b"mAP: 2020-99-99\n", "6.1", "", "is not plain YAML"),
    (b"a: \xff\n", "6.1", "", "is not UTF-8"),
    (b"\xef\xbb\xbfa: 1\n", "6.1", "", "byte order mark"),
    (b"a: {b: 1, c: [{d: 1, d: 2}]}\n", "6.1", "a.c[0].d", "given twice"),
]


@pytest.mark.parametrize(("data", "section", "key", "words"), BROKEN_YAML, ids=ids(BROKEN_YAML))
def test_training_bad_file(models, data, section, key, words):
    (models / "result.yaml").write_bytes(data)
    refused(lambda: accept_training(models.parent), section, key, words)


def as_link(path, target):
    def change(models):
        where = models / path
        where.rename(where.parent / target)
        where.symlink_to(target)

    return change


def as_pipe(path):
    def change(models):
        (models / path).unlink()
        os.mkfifo(str(models / path))

    return change


def replace_by_root(path):
    """The stage lists `path`, found at the root only."""

    def change(models):
        (models / path).write_bytes(b"mine")
        document = copy.deepcopy(TRAINING)
        document["model_stages"]["epoch_20"]["files"] = [path]
        write_training(models, document)

    return change


def file_and_folder(models):
    """``a`` in the stage folder and ``a/b`` at the root end up in one archive."""
    (models / "epoch_20" / "a").write_bytes(b"file")
    (models / "a").mkdir()
    (models / "a" / "b").write_bytes(b"file below")
    document = copy.deepcopy(TRAINING)
    document["model_stages"]["epoch_20"]["files"] = ["a", "a/b"]
    write_training(models, document)


BROKEN_TREE = [
    (lambda models: (models / "result.yaml").unlink(), "6.1", "", "file is missing"),
    (as_link("result.yaml", "other.yaml"), "6.1", "", "is a symbolic link"),
    (
        both(lambda m: (m / "result.yaml").unlink(), lambda m: (m / "result.yaml").mkdir()),
        "6.1",
        "",
        "not a regular file",
    ),
    (as_link("epoch_20/best.pt", "last.pt"), "6.3", "model_stages.epoch_20.files[0]", "symbolic link"),
    (as_link("epoch_20", "elsewhere"), "6.3", "model_stages.epoch_20.files[0]", "symbolic link"),
    (as_link("epoch_20/weights", "elsewhere"), "6.3", "model_stages.epoch_20.files[1]", "symbolic link"),
    (as_link("attachments/plots/curve.png", "real.png"), "6.3", "attachments.plots[0]", "symbolic link"),
    (as_pipe("epoch_20/best.pt"), "6.3", "model_stages.epoch_20.files[0]", "not a regular file"),
    (
        lambda m: (m / "epoch_20" / "best.pt").unlink(),
        "6.3",
        "model_stages.epoch_20.files[0]",
        "is missing, looked for in",
    ),
    (
        lambda m: (m / "epoch_10" / "best.pt").unlink(),
        "6.3",
        "model_stages.epoch_10.files[0]",
        "is missing, looked for in",
    ),
    (
        lambda m: (m / "attachments" / "plots" / "curve.png").rename(m / "curve.png"),
        "6.3",
        "attachments.plots[0]",
        "is missing, looked for in attachments/plots/curve.png",
    ),
    (replace_by_root("ymir-info.yaml"), "6.3", "model_stages.epoch_20.files[0]", "overwritten by the platform"),
    (replace_by_root("model.tar.gz"), "6.3", "model_stages.epoch_20.files[0]", "overwritten by the platform"),
    (file_and_folder, "6.4", "epoch_20/a/b", "cannot be unpacked"),
]


@pytest.mark.parametrize(("change", "section", "key", "words"), BROKEN_TREE, ids=ids(BROKEN_TREE))
def test_training_tree_broken(models, change, section, key, words):
    out = write_training(models, TRAINING)
    change(models)
    refused(lambda: accept_training(out), section, key, words)


def test_training_dangling_link(models):
    out = write_training(models, TRAINING)
    (models / "epoch_20" / "best.pt").unlink()
    (models / "epoch_20" / "best.pt").symlink_to("/out/models/epoch_20/weights/last.pt")
    refused(lambda: accept_training(out), "6.3", "model_stages.epoch_20.files[0]", "symbolic link")


def test_packing_itself(tmp_path):
    """What the rules before it rule out, the simulated archive would find too."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    one, two, link = tmp_path / "one", tmp_path / "two", tmp_path / "link"
    link.symlink_to("one")
    assert _pack_and_unpack({"s/a": one, "t/b": link}, {}, "s") == ["s/a", "t/b", "ymir-info.yaml"]
    refused(lambda: _pack_and_unpack({"s/a": link}, {}, "s"), "6.4", "s/a", "neither a file nor a hard link")
    refused(lambda: _pack_and_unpack({"s/a": tmp_path / "no"}, {}, "s"), "6.4", "s/a", "cannot be packed")
    refused(lambda: _pack_and_unpack({"s/a": one, "s/./a": two}, {}, "s"), "6.4", "s/a", "differs after unpacking")


# -------------------------------------------------------------------------------------------------------- mining

MINING = [f"{CANDIDATES[1]}\t0.9\n", f"{CANDIDATES[0]}\t0.5\n", f"{CANDIDATES[2]}\t-1e-3\n"]


def write_mining(out, text):
    (out / "result.tsv").write_bytes(text.encode("utf-8"))
    return out


def test_mining_good(tmp_path):
    rows = accept_mining(write_mining(tmp_path, "".join(MINING)), CANDIDATES)
    assert rows == [(CANDIDATES[1], 0.9), (CANDIDATES[0], 0.5), (CANDIDATES[2], -0.001)]


def test_mining_ties_blanks_in_names_and_no_candidates(tmp_path):
    names = ["/in/assets/one image.jpg", "/in/assets/\u56fe\u0085.jpg"]
    text = f"{names[0]}\t1\n{names[1]}\t1"
    assert accept_mining(write_mining(tmp_path, text), names) == [(names[0], 1.0), (names[1], 1.0)]
    assert accept_mining(write_mining(tmp_path, ""), []) == []


BROKEN_MINING = [
    ([MINING[1], MINING[0], MINING[2]], "7.1", "line 2", "must be descending"),
    (sorted(MINING, key=lambda line: float(line.split()[1])), "7.1", "line 2", "must be descending"),
    (MINING[:2], "7.1", "", "1 of 3 candidates have no line"),
    ([], "7.1", "", "3 of 3 candidates have no line"),
    ([MINING[0], MINING[0], *MINING[1:]], "7.1", "line 2", "is there twice"),
    ([*MINING, "/in/assets/d4/dd.jpg\t-9\n"], "7.1", "line 4", "is not a candidate"),
    (["bb.png\t0.9\n", *MINING[1:]], "7.1", "line 1", "is not a candidate"),
    ([" " + MINING[0], *MINING[1:]], "7.1", "line 1", "is not a candidate"),
    ([MINING[0].replace("\t", " "), *MINING[1:]], "7.1", "line 1", "has 1 TAB-separated fields"),
    ([MINING[0].replace("\n", "\tcat\n"), *MINING[1:]], "7.1", "line 1", "has 3 TAB-separated fields"),
    ([MINING[0].replace("0.9", "nan"), *MINING[1:]], "7.1", "line 1.score", "not finite"),
    ([MINING[0].replace("0.9", "inf"), *MINING[1:]], "7.1", "line 1.score", "not finite"),
    ([MINING[0].replace("0.9", "1e999"), *MINING[1:]], "7.1", "line 1.score", "not finite"),
    ([*MINING[:2], MINING[2].replace("-1e-3", "-inf")], "7.1", "line 3.score", "not finite"),
    ([MINING[0].replace("0.9", "tensor(0.9)"), *MINING[1:]], "7.1", "line 1.score", "is not a number"),
    ([MINING[0].replace("0.9", ""), *MINING[1:]], "7.1", "line 1.score", "is not a number"),
    (["\n", *MINING], "7.1", "line 1", "is blank"),
    ([*MINING, "\n"], "7.1", "line 4", "is blank"),
    (["asset\tscore\n", *MINING], "7.1", "line 1.score", "is not a number"),
    (["\ufeff", *MINING], "7.1", "", "byte order mark"),
    ([line.replace("\n", "\r\n") for line in MINING], "7.1", "", "carriage return"),
]


@pytest.mark.parametrize(("lines", "section", "key", "words"), BROKEN_MINING, ids=ids(BROKEN_MINING))
def test_mining_broken(tmp_path, lines, section, key, words):
    out = write_mining(tmp_path, "".join(lines))
    refused(lambda: accept_mining(out, CANDIDATES), section, key, words, "result.tsv")


def test_mining_missing(tmp_path):
    refused(lambda: accept_mining(tmp_path, CANDIDATES), "7.1", "", "file is missing")


# ----------------------------------------------------------------------------------------------------- detection

BOX = {"class_name": "cat", "score": 0.75, "box": {"x": -3, "y": 0, "w": 1, "h": 2147483647}}
DETECTION = {
    "detection": {
        "aa.jpg": {"boxes": [BOX, {"class_name": " Person", "score": 1, "box": {**BOX["box"], "rotate_angle": 0.5}}]},
        "bb.png": {"boxes": []},
        "cc.jpg": {"annotations": [BOX]},
    }
}


def write_infer(out, document):
    text = document if isinstance(document, bytes) else json.dumps(document).encode("utf-8")
    (out / "infer-result.json").write_bytes(text)
    return out


def test_detection_good(tmp_path):
    found = accept_detection(write_infer(tmp_path, DETECTION), CANDIDATES, CLASSES)
    assert {name: len(boxes) for name, boxes in found.items()} == {"aa.jpg": 2, "bb.png": 0, "cc.jpg": 1}


@pytest.mark.parametrize("boxes", [[], [BOX]])
def test_detection_both_lists(tmp_path, boxes):
    """The older key is read when ``boxes`` is empty; beside equal boxes it does no harm."""
    document = copy.deepcopy(DETECTION)
    document["detection"]["bb.png"] = {"boxes": boxes, "annotations": [BOX]}
    assert accept_detection(write_infer(tmp_path, document), CANDIDATES, CLASSES)["bb.png"] == [BOX]


class OnText:
    """A change of the JSON text, for what a document cannot hold."""

    def __init__(self, change):
        self.change = change


def raw(old, new):
    def change(text):
        assert old in text
        return text.replace(old, new, 1)

    return OnText(change)


FIRST = "detection/aa.jpg/boxes/0"
FIRST_KEY = "detection.aa.jpg.boxes[0]"
BROKEN_DETECTION = [
    (drop("detection"), "7.2", "detection", "is missing"),
    (put("detection", []), "7.2", "detection", "must be a mapping, is list"),
    (put("detection/aa.jpg", []), "7.2", "detection.aa.jpg", "must be a mapping, is list"),
    (put("detection/aa.jpg", {}), "7.2", "detection.aa.jpg", "has no list `boxes`"),
    (put("detection/aa.jpg/boxes", None), "7.2", "detection.aa.jpg.boxes", "must be a list, is null"),
    (put("detection/aa.jpg/boxes", {}), "7.2", "detection.aa.jpg.boxes", "must be a list, is dict"),
    (put("detection/aa.jpg/annotations", [BOX]), "7.2", "detection.aa.jpg.annotations", "differs from `boxes`"),
    (drop("detection/bb.png"), "7.2", "detection", "1 of 3 candidates are missing"),
    (put("detection", {}), "7.2", "detection", "3 of 3 candidates are missing"),
    (put("detection/dd.jpg", {"boxes": []}), "7.2", "detection.dd.jpg", "not the file name of a candidate"),
    (put("detection/aa", {"boxes": []}), "7.2", "detection.aa", "not the file name of a candidate"),
    (
        lambda d: d["detection"].update({CANDIDATES[0]: d["detection"].pop("aa.jpg")}),
        "7.2",
        "detection./in/assets/a1/aa.jpg",
        "not a bare file name",
    ),
    (put(FIRST, [1, 2, 3, 4]), "7.2", FIRST_KEY, "must be a mapping, is list"),
    (drop(FIRST + "/score"), "7.2", FIRST_KEY + ".score", "is dropped"),
    (put(FIRST + "/score", "0.5"), "7.2", FIRST_KEY + ".score", "must be a number, is str"),
    (put(FIRST + "/score", None), "7.2", FIRST_KEY + ".score", "must be a number, is null"),
    (put(FIRST + "/score", True), "7.2", FIRST_KEY + ".score", "must be a number, is bool"),
    (put(FIRST + "/score", 1.01), "7.2", FIRST_KEY + ".score", "outside [0, 1]"),
    (put(FIRST + "/score", -0.1), "7.2", FIRST_KEY + ".score", "outside [0, 1]"),
    (put(FIRST + "/score", 10**400), "7.2", FIRST_KEY + ".score", "not finite"),
    (raw("0.75", "1e999"), "7.2", FIRST_KEY + ".score", "not finite"),
    (raw("0.75", "NaN"), "7.2", "", "NaN is not JSON"),
    (raw("0.75", "-Infinity"), "7.2", "", "-Infinity is not JSON"),
    (drop(FIRST + "/class_name"), "7.2", FIRST_KEY + ".class_name", "is missing"),
    (put(FIRST + "/class_name", " "), "7.2", FIRST_KEY + ".class_name", "is blank"),
    (put(FIRST + "/class_name", 1), "7.2", FIRST_KEY + ".class_name", "must be a string, is int"),
    (put(FIRST + "/class_name", "dog"), "7.2", FIRST_KEY + ".class_name", "not a known class"),
    (drop(FIRST + "/box"), "7.2", FIRST_KEY + ".box", "is missing"),
    (put(FIRST + "/box", [0, 0, 1, 1]), "7.2", FIRST_KEY + ".box", "must be a mapping, is list"),
    (put(FIRST + "/box/label", 1), "7.2", FIRST_KEY + ".box.label", "unknown key"),
    (put(FIRST + "/box/rotate_angle", "0"), "7.2", FIRST_KEY + ".box.rotate_angle", "must be a number, is str"),
    (put(FIRST + "/box/rotate_angle", None), "7.2", FIRST_KEY + ".box.rotate_angle", "must be a number, is null"),
    *[
        (change(f"{FIRST}/box/{edge}"), "7.2", f"{FIRST_KEY}.box.{edge}", words)
        for edge in "xywh"
        for change, words in (
            (drop, "is missing"),
            (lambda path: put(path, 30.5), "must be an integer, is float"),
            (lambda path: put(path, 30.0), "must be an integer, is float"),
            (lambda path: put(path, "30"), "must be an integer, is str"),
            (lambda path: put(path, True), "must be an integer, is bool"),
            (lambda path: put(path, None), "must be an integer, is null"),
            (lambda path: put(path, 2**31), "outside"),
            (lambda path: put(path, -(2**31) - 1), "outside"),
        )
    ],
    *[
        (put(f"{FIRST}/box/{edge}", size), "7.2", f"{FIRST_KEY}.box.{edge}", "outside [1,")
        for edge in "wh"
        for size in (0, -5)
    ],
    (put("detection/cc.jpg/annotations/0/box/w", 0), "7.2", "detection.cc.jpg.boxes[0].box.w", "outside"),
    (raw('"bb.png"', '"aa.jpg"'), "7.2", "aa.jpg", "given twice"),
    (raw("}}", "}"), "7.2", "", "is not JSON"),
    (raw('{"detection"', "{'detection'"), "7.2", "", "is not JSON"),
    (OnText(lambda text: text + text), "7.2", "", "is not JSON"),
    (OnText(lambda text: "\ufeff" + text), "7.2", "", "byte order mark"),
    (OnText(lambda _: ""), "7.2", "", "is not JSON"),
    (OnText(lambda _: "[]"), "7.2", "", "must be a mapping, is list"),
    (OnText(lambda _: "null"), "7.2", "", "must be a mapping, is null"),
]


def broken_json(good, change):
    text = json.dumps(good)
    if isinstance(change, OnText):
        return change.change(text).encode("utf-8")
    document = json.loads(text)
    change(document)
    return json.dumps(document).encode("utf-8")


@pytest.mark.parametrize(("change", "section", "key", "words"), BROKEN_DETECTION, ids=ids(BROKEN_DETECTION))
def test_detection_broken(tmp_path, change, section, key, words):
    out = write_infer(tmp_path, broken_json(DETECTION, change))
    refused(lambda: accept_detection(out, CANDIDATES, CLASSES), section, key, words, "infer-result.json")


def test_detection_missing(tmp_path):
    refused(lambda: accept_detection(tmp_path, CANDIDATES, CLASSES), "7.2", "", "file is missing")


# -------------------------------------------------------------------------------------------------- segmentation

# A 10 x 20 mask (height x width), set in rows 2 to 6 and columns 3 to 11, as pycocotools encodes it.
RLE = "P155000000000000000^2"
SEGMENTATION = {
    "images": [
        {"id": number, "file_name": name, "width": 20, "height": 10}
        for number, name in enumerate(("aa.jpg", "bb.png", "cc.jpg"), 1)
    ],
    "categories": [{"id": 0, "name": "person"}, {"id": 1, "name": "cat"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 0,
            "bbox": [3, 2, 9, 5],
            "area": 45,
            "iscrowd": 1,
            "segmentation": {"size": [10, 20], "counts": RLE},
        },
        {
            "id": 2,
            "image_id": 1,
            "category_id": 1,
            "bbox": [3.7, 2.2, 9.9, 5.0],
            "area": 45.5,
            "confidence": 0.5,
            "segmentation": [[3, 2, 12, 2, 12, 7.5]],
        },
        {"id": 3, "image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1], "area": 1, "confidence": -1},
    ],
}


def test_segmentation_good(tmp_path):
    found = accept_segmentation(write_infer(tmp_path, SEGMENTATION), CANDIDATES, CLASSES)
    assert {name: len(annotations) for name, annotations in found.items()} == {"aa.jpg": 2, "bb.png": 0, "cc.jpg": 1}


def test_segmentation_may_be_incomplete(tmp_path):
    document = copy.deepcopy(SEGMENTATION)
    del document["images"][1]
    out = write_infer(tmp_path, document)
    accept_segmentation(out, CANDIDATES, CLASSES, complete=False)
    refused(lambda: accept_segmentation(out, CANDIDATES, CLASSES), "7.3", "images", "1 of 3 candidates are missing")


def test_rle_of_pycocotools(tmp_path):
    """The hand-written decoder and the field's own encoder agree on random masks."""
    np = pytest.importorskip("numpy")
    mask = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(7)
    for height, width, share in (
        (1, 1, 0.5),
        (7, 300, 0.01),
        (64, 64, 0.5),
        (300, 200, 0.999),
        (40, 40, 0),
        (40, 40, 1),
    ):
        pixels = np.asfortranarray((random.random((height, width)) < share).astype(np.uint8))
        encoded = mask.encode(pixels)
        document = copy.deepcopy(SEGMENTATION)
        segmentation = {"size": [height, width], "counts": encoded["counts"].decode("ascii")}
        document["annotations"][0]["segmentation"] = segmentation
        accept_segmentation(write_infer(tmp_path, document), CANDIDATES, CLASSES)
        segmentation["size"] = [height + 1, width]
        out = write_infer(tmp_path, document)
        refused(lambda: accept_segmentation(out, CANDIDATES, CLASSES), "7.3", "annotations[0]", "pixels")  # noqa: B023


NOTE = "annotations/0/"
MASK = "annotations/0/segmentation/"
BROKEN_SEGMENTATION = [
    (drop("images"), "7.3", "images", "is missing"),
    (drop("categories"), "7.3", "categories", "is missing"),
    (drop("annotations"), "7.3", "annotations", "is missing"),
    (put("images", {}), "7.3", "images", "must be a list"),
    (put("categories", None), "7.3", "categories", "must be a list"),
    (put("annotations", {}), "7.3", "annotations", "must be a list"),
    (drop("images/0/id"), "7.3", "images[0].id", "is missing"),
    (drop("images/0/file_name"), "7.3", "images[0].file_name", "is missing"),
    (put("images/0/id", "1"), "7.3", "images[0].id", "must be an integer"),
    (put("images/1/id", 1), "7.3", "images[1].id", "the image is dropped"),
    (put("images/0/file_name", "a1/aa.jpg"), "7.3", "images[0].file_name", "vanish silently"),
    (put("images/0/file_name", CANDIDATES[0]), "7.3", "images[0].file_name", "vanish silently"),
    (put("images/0/file_name", "dd.jpg"), "7.3", "images[0].file_name", "not the file name of a candidate"),
    (put("images/1/file_name", "aa.jpg"), "7.3", "images[1].file_name", "is there twice"),
    (drop("images/1"), "7.3", "images", "1 of 3 candidates are missing"),
    (drop("categories/0/id"), "7.3", "categories[0].id", "is missing"),
    (drop("categories/0/name"), "7.3", "categories[0].name", "is missing"),
    (put("categories/1/id", 0), "7.3", "categories[1].id", "the category is dropped"),
    (put("categories/1/name", "dog"), "7.3", "categories[1].name", "not a known class"),
    (put("categories/1/name", ""), "7.3", "categories[1].name", "is blank"),
    (put("annotations/0", []), "7.3", "annotations[0]", "must be a mapping"),
    (drop(NOTE + "image_id"), "7.3", "annotations[0].image_id", "is missing"),
    (drop(NOTE + "category_id"), "7.3", "annotations[0].category_id", "is missing"),
    (put(NOTE + "image_id", 9), "7.3", "annotations[0].image_id", "is skipped"),
    (put(NOTE + "category_id", 9), "7.3", "annotations[0].category_id", "is skipped"),
    (drop(NOTE + "bbox"), "7.3", "annotations[0].bbox", "is skipped"),
    (put(NOTE + "bbox", [3, 2, 9]), "7.3", "annotations[0].bbox", "has 3 values"),
    (put(NOTE + "bbox", {"x": 1}), "7.3", "annotations[0].bbox", "must be a list"),
    (put(NOTE + "bbox/0", "3"), "7.3", "annotations[0].bbox[0]", "must be a number"),
    (put(NOTE + "bbox/0", 1e10), "7.3", "annotations[0].bbox[0]", "outside"),
    (put(NOTE + "bbox/2", 0.99), "7.3", "annotations[0].bbox", "below 1 after truncation"),
    (put(NOTE + "bbox/3", 0), "7.3", "annotations[0].bbox", "below 1 after truncation"),
    (drop(NOTE + "area"), "7.3", "annotations[0].area", "fails the whole task"),
    (put(NOTE + "area", None), "7.3", "annotations[0].area", "must be a number"),
    (raw('"area": 45,', '"area": NaN,'), "7.3", "", "NaN is not JSON"),
    (put(NOTE + "segmentation", {}), "7.3", "annotations[0].segmentation.counts", "is missing"),
    (put(NOTE + "segmentation", None), "7.3", "annotations[0].segmentation", "must be a mask"),
    (put(NOTE + "segmentation", RLE), "7.3", "annotations[0].segmentation", "must be a mask"),
    (put(NOTE + "segmentation", []), "7.3", "annotations[0].segmentation", "has 0 rings"),
    (put(NOTE + "segmentation", [[0, 0, 1, 0, 1, 1], [2, 2, 3, 2, 3, 3]]), "7.3", "annotations[0].seg", "has 2 rings"),
    (put(NOTE + "segmentation", [0, 0, 1, 0, 1, 1]), "7.3", "annotations[0].segmentation", "has 6 rings"),
    (put(NOTE + "segmentation", [[0, 0, 1, 0]]), "7.3", "annotations[0].segmentation[0]", "has 4 numbers"),
    (put(NOTE + "segmentation", [[0, 0, 1, 0, 1, 1, 5]]), "7.3", "annotations[0].segmentation[0]", "has 7 numbers"),
    (put(NOTE + "segmentation", [[0, 0, 1, 0, 1, "1"]]), "7.3", "annotations[0].segmentation[0]", "must be a number"),
    (put(MASK + "counts", [32, 5, 163]), "7.3", "annotations[0].segmentation.counts", "compressed-RLE string, is list"),
    (put(MASK + "counts", ""), "7.3", "annotations[0].segmentation.counts", "is empty"),
    (put(MASK + "counts", RLE + "z"), "7.3", "annotations[0].segmentation.counts", "'z' does not occur"),
    (put(MASK + "counts", RLE + "P"), "7.3", "annotations[0].segmentation.counts", "in the middle"),
    (put(MASK + "counts", "N"), "7.3", "annotations[0].segmentation.counts", "negative run length"),
    (put(MASK + "counts", RLE[:-2]), "7.3", "annotations[0].segmentation.counts", "the mask has 10 x 20"),
    (put(MASK + "size", [20, 11]), "7.3", "annotations[0].segmentation.counts", "the mask has 20 x 11"),
    (put(MASK + "size", [10]), "7.3", "annotations[0].segmentation.size", "must be [height, width]"),
    (put(NOTE + "is_crowd", 0), "7.3", "annotations[0].is_crowd", "the key is `iscrowd`"),
    (put(NOTE + "iscrowd", True), "7.3", "annotations[0].iscrowd", "must be an integer"),
    (put(NOTE + "iscrowd", 2), "7.3", "annotations[0].iscrowd", "outside"),
    (put(NOTE + "score", 0.5), "7.3", "annotations[0].score", "the key is `confidence`"),
    (put(NOTE + "confidence", 1.5), "7.3", "annotations[0].confidence", "outside"),
    (put(NOTE + "confidence", "0.5"), "7.3", "annotations[0].confidence", "must be a number"),
    (put(NOTE + "box_quality", "good"), "7.3", "annotations[0].box_quality", "must be a number"),
    (put(NOTE + "meta", "prompt"), "7.3", "annotations[0].meta", "must be a mapping"),
    (put("annotations/1/category_id", 0), "7.3", "annotations[1].bbox", "one is dropped"),
    (OnText(lambda _: "{"), "7.3", "", "is not JSON"),
]


@pytest.mark.parametrize(("change", "section", "key", "words"), BROKEN_SEGMENTATION, ids=ids(BROKEN_SEGMENTATION))
def test_segmentation_broken(tmp_path, change, section, key, words):
    out = write_infer(tmp_path, broken_json(SEGMENTATION, change))
    refused(lambda: accept_segmentation(out, CANDIDATES, CLASSES), section, key, words, "infer-result.json")


# ------------------------------------------------------------------------------------------------------- monitor

RUNNING = "t01\t1700000000.123456\t0.50\t2\t0\n"
FAILED = "t01\t1700000001.123456\t0.50\t4\t300103\tout of memory\nRuntimeError: CUDA out of memory\n  at train.py:3\n"
PENDING = "t01\t1700000000.0\t0.00\t1\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RUNNING, ("t01", 1700000000.123456, 0.5, 2, 0, "", ())),
        ("t 01\t1\t0\t2\r\n", ("t 01", 1.0, 0.0, 2, 0, "", ())),
        ("t01\t1.5\t1e-3\t2\t0\thalf way\n\n\n", ("t01", 1.5, 0.001, 2, 0, "half way", ())),
        ("t01\t1.5\t1.0\t4\n", ("t01", 1.5, 1.0, 4, 0, "", ())),
        ("t01\t1.5\t1.0\t4\t160004\tbad\na\n\tb\n", ("t01", 1.5, 1.0, 4, 160004, "bad", ("a", "\tb"))),
    ],
)
def test_monitor_good(text, expected):
    record = parse_monitor(text)
    assert tuple(getattr(record, name) for name in record.__dataclass_fields__) == expected


def test_monitor_hundred_lines():
    assert len(parse_monitor(RUNNING + "line\n" * 99).details) == 99


def test_monitor_pending_only_when_told():
    assert parse_monitor(PENDING, allow_pending=True).state == 1
    refused(lambda: parse_monitor(PENDING), "8.1", "state", "1 is not for executors")


def column(number, value):
    def change(text):
        line, end = text.split("\n", 1)
        fields = line.split("\t")
        fields[number] = value
        return "\t".join(fields) + "\n" + end

    return change


BROKEN_MONITOR = [
    (lambda _: "", "8.2", "", "is empty"),
    (lambda text: "\n" + text, "8.2", "line 1", "is blank"),
    (lambda text: " \t\n" + text, "8.2", "line 1", "is blank"),
    (lambda text: "\r" + text, "8.2", "line 1", "is blank"),
    (lambda text: "\ufeff" + text, "8.2", "", "byte order mark"),
    (lambda _: "\ufeff", "8.2", "", "byte order mark"),
    (lambda text: text.rstrip("\n"), "8.1", "line 1", "may be torn"),
    (lambda text: text[:20], "8.1", "line 1", "may be torn"),
    (lambda text: text.replace("\t", " "), "8.2", "line 1", "has 1 fields"),
    (lambda _: "t01\t1.0\t0.5\n", "8.2", "line 1", "has 3 fields"),
    (column(0, ""), "8.1", "task_id", "the columns shift"),
    (lambda _: "\t1.0\t0.5\t1\t2\n", "8.1", "task_id", "the columns shift"),
    (lambda text: text.replace("\n", "\ta message\twith a TAB\n"), "8.1", "line 1", "has 7 fields"),
    (column(1, "yesterday"), "8.1", "timestamp", "is not a number"),
    (column(1, "nan"), "8.1", "timestamp", "not finite"),
    (column(1, "1700000000123"), "8.1", "timestamp", "not a time in seconds"),
    (column(1, "-1"), "8.1", "timestamp", "not a time in seconds"),
    (column(2, "50"), "8.1", "percent", "outside [0, 1]"),
    (column(2, "1.01"), "8.1", "percent", "outside [0, 1]"),
    (column(2, "-0.01"), "8.1", "percent", "outside [0, 1]"),
    (column(2, "nan"), "8.1", "percent", "not finite"),
    (column(2, "inf"), "8.1", "percent", "not finite"),
    (column(2, "50%"), "8.1", "percent", "is not a number"),
    (column(2, ""), "8.1", "percent", "is not a number"),
    (column(3, "ExecutorState.ES_RUNNING"), "8.1", "state", "is not an integer"),
    (column(3, "2.0"), "8.1", "state", "is not an integer"),
    (column(3, "5"), "8.2", "state", "outside 0 to 4"),
    (column(3, "-1"), "8.2", "state", "outside 0 to 4"),
    (column(3, "0"), "8.1", "state", "0 is not for executors"),
    (column(3, "1"), "8.1", "state", "1 is not for executors"),
    (column(3, "3"), "8.1", "state", "3 is not for executors"),
    (column(4, "OOM"), "8.1", "return_code", "is not an integer"),
    (column(4, "300103"), "8.2", "return_code", "stored as an error while running"),
    (column(4, "-1"), "8.2", "return_code", "stored as an error while running"),
    (lambda text: text + "line\n" * 100, "8.2", "", "has 101 lines"),
]


@pytest.mark.parametrize(("change", "section", "key", "words"), BROKEN_MONITOR, ids=ids(BROKEN_MONITOR))
def test_monitor_broken(change, section, key, words):
    refused(lambda: parse_monitor(change(RUNNING)), section, key, words, "monitor.txt")


def write_monitor(out, text, mode=0o666):
    path = out / "monitor.txt"
    path.write_bytes(text.encode("utf-8"))
    path.chmod(mode)
    return out


def test_accept_monitor_good(tmp_path):
    for final in ("running", "done"):
        assert accept_monitor(write_monitor(tmp_path, RUNNING), final=final).percent == 0.5
        assert accept_monitor(write_monitor(tmp_path, PENDING, 0o777), final=final, allow_pending=True).state == 1
    for code in EXECUTOR_CODES:
        text = FAILED.replace("300103", str(code))
        assert accept_monitor(write_monitor(tmp_path, text), final="error").return_code == code
    assert accept_monitor(write_monitor(tmp_path, RUNNING, 0o600), final="done", shared=False).state == 2
    with pytest.raises(ValueError, match="final"):
        accept_monitor(tmp_path, final="DONE")


BROKEN_ENDS = [
    (FAILED, "8.2", "state", "terminal", "running"),
    (FAILED, "8.2", "state", "terminal", "done"),
    (PENDING, "8.1", "state", "not for executors", "done"),
    (RUNNING.replace("\t2\t", "\t3\t"), "8.1", "state", "not for executors", "done"),
    (RUNNING, "9", "state", "is 2", "error"),
    (PENDING, "8.1", "state", "not for executors", "error"),
    (FAILED.replace("300103", "0"), "9", "return_code", "0 is not an executor's code", "error"),
    (FAILED.replace("300103", "180103"), "9", "return_code", "180103 is not an executor's code", "error"),
    (FAILED.replace("300103", "160011"), "9", "return_code", "160011 is not an executor's code", "error"),
    (FAILED.replace("300103", "137"), "9", "return_code", "137 is not an executor's code", "error"),
    (FAILED.replace("\tout of memory", ""), "9", "message", "column 6 is empty", "error"),
    (FAILED.split("\n")[0] + "\n", "9", "line 2", "no reason", "error"),
    (FAILED.split("\n")[0] + "\n\n \n", "9", "line 2", "no reason", "error"),
]


@pytest.mark.parametrize(("text", "section", "key", "words", "final"), BROKEN_ENDS, ids=ids(BROKEN_ENDS))
def test_accept_monitor_broken(tmp_path, text, section, key, words, final):
    out = write_monitor(tmp_path, text)
    refused(lambda: accept_monitor(out, final=final), section, key, words, "monitor.txt")


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_accept_monitor_mode(tmp_path, mode):
    out = write_monitor(tmp_path, RUNNING, mode)
    refused(lambda: accept_monitor(out, final="running"), "8.2", "", f"has mode {mode:04o}")


def test_accept_monitor_file(tmp_path, monkeypatch):
    def unreadable(path):
        raise PermissionError(13, "Permission denied")

    refused(lambda: accept_monitor(tmp_path, final="running"), "8.2", "", "file is missing")
    (tmp_path / "monitor.txt").write_bytes(b"\xff" + RUNNING.encode())
    refused(lambda: accept_monitor(tmp_path, final="running"), "8.2", "", "is not UTF-8")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", unreadable)
        refused(lambda: accept_monitor(tmp_path, final="running"), "8.2", "", "cannot be read")
    (tmp_path / "monitor.txt").rename(tmp_path / "other.txt")
    (tmp_path / "monitor.txt").symlink_to("other.txt")
    refused(lambda: accept_monitor(tmp_path, final="running"), "8.2", "", "is a symbolic link")


def test_monitor_updates():
    later = RUNNING.replace("1700000000", "1700000001").replace("0.50", "0.40")
    again = FAILED.replace("1700000001", "1700000002").replace("300103", "300201")
    records = accept_monitor_updates([PENDING, RUNNING, RUNNING, later, again])
    assert [record.state for record in records] == [1, 2, 2, 2, 4]
    accept_monitor_updates([FAILED, again])
    refused(
        lambda: accept_monitor_updates([RUNNING, RUNNING.replace("0.50", "0.60")]), "8.1", "timestamp", "not noticed"
    )
    refused(lambda: accept_monitor_updates([FAILED, RUNNING]), "8.2", "state", "2 after 4")
    refused(lambda: accept_monitor_updates([RUNNING, PENDING]), "8.1", "state", "not for executors")


# --------------------------------------------------------------------------------------------------- tensorboard


def field(number, wire, payload):
    key = bytes([number << 3 | wire])
    return key + (bytes([len(payload)]) if wire == 2 else b"") + payload


def event(*tags):
    values = b"".join(field(1, 2, field(1, 2, tag.encode()) + field(2, 5, struct.pack("<f", 0.5))) for tag in tags)
    return field(1, 1, struct.pack("<d", 1.7e9)) + field(2, 0, b"\x96\x01") + (field(5, 2, values) if tags else b"")


def framed(record):
    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", masked_crc32c(length)) + record + struct.pack("<I", masked_crc32c(record))


FIRST_EVENT = field(1, 1, struct.pack("<d", 1.7e9)) + field(3, 2, b"brain.Event:2")
EVENTS = framed(FIRST_EVENT) + framed(event("train/loss")) + framed(event("train/loss", "lr"))


def write_events(out, data, name="events.out.tfevents.1700000000.host"):
    folder = out / "tensorboard"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return out


def test_crc_check_value():
    """The check value of CRC-32C, and the mask undone by hand."""
    assert crc32c(b"123456789") == 0xE3069283
    rotated = (masked_crc32c(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF == 0xE3069283


def test_tensorboard_good(tmp_path):
    assert accept_tensorboard(write_events(tmp_path, EVENTS)) == (3, {"train/loss", "lr"})


def test_tensorboard_linked_folder_and_dangling_log(tmp_path):
    """As the platform's web use mounts it, contract 1.2."""
    real = tmp_path / "host"
    real.mkdir()
    write_events(real, EVENTS)
    (real / "tensorboard" / "executor.log").symlink_to("/nowhere/ymir-executor-out.log")
    (real / "tensorboard" / "val").mkdir()
    write_events(real, framed(event("val/mAP")), "val/events.out.tfevents.2")
    out = tmp_path / "out"
    out.mkdir()
    (out / "tensorboard").symlink_to(real / "tensorboard")
    assert accept_tensorboard(out) == (4, {"train/loss", "lr", "val/mAP"})


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_what_the_real_writer_writes(tmp_path):
    """In a process of its own, so that nothing here depends on the package or on its warnings."""
    pytest.importorskip("tensorboard")
    program = """
        import sys
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
        writer = EventFileWriter(sys.argv[1])
        for step in range(300):
            value = Summary.Value(tag=f"metric/{step % 3}", simple_value=step)
            writer.add_event(Event(wall_time=1.7e9 + step, step=step, summary=Summary(value=[value])))
        writer.close()
    """
    folder = str(tmp_path / "tensorboard")
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), folder], check=True, timeout=120)
    assert accept_tensorboard(tmp_path) == (301, {"metric/0", "metric/1", "metric/2"})


def flip(position):
    def change(data):
        broken = bytearray(data)
        broken[position] ^= 1
        return bytes(broken)

    return change


BROKEN_EVENTS = [
    (lambda _: b"", "8.4", "", "no event file holds a record"),
    (flip(0), "8.4", "record 0", "the CRC of the length is wrong"),
    (flip(8), "8.4", "record 0", "the CRC of the length is wrong"),
    (flip(20), "8.4", "record 0", "the CRC of the data is wrong"),
    (flip(-1), "8.4", "record 2", "the CRC of the data is wrong"),
    (lambda data: data[:-1], "8.4", "record 2", "the data are cut off"),
    (lambda data: data + b"\0", "8.4", "record 3", "the header is cut off"),
    (lambda data: data + b"\0" * 12, "8.4", "record 3", "the CRC of the length is wrong"),
    (lambda _: b"just a line of text, long enough to be one\n", "8.4", "record 0", "the CRC of the length is wrong"),
    (lambda _: framed(b""), "8.4", "record 0", "no wall time"),
    (lambda _: framed(b"not a protobuf"), "8.4", "record 0", "is not an event"),
    (lambda _: framed(field(1, 0, b"\1")), "8.4", "record 0", "field 1 has wire type 0"),
    (lambda data: data + framed(event("a")[:-1]), "8.4", "record 3", "a field is cut off"),
    (lambda _: framed(b"\x10" + b"\xff" * 11), "8.4", "record 0", "longer than ten bytes"),
    (lambda _: framed(b"\x10\xff"), "8.4", "record 0", "a number is cut off"),
    (lambda _: framed(event("a").replace(b"a", b"\xff")), "8.4", "record 0", "is not an event"),
]


@pytest.mark.parametrize(("change", "section", "key", "words"), BROKEN_EVENTS, ids=ids(BROKEN_EVENTS))
def test_tensorboard_broken(tmp_path, change, section, key, words):
    out = write_events(tmp_path, change(EVENTS))
    refused(lambda: accept_tensorboard(out), section, key, words)


def test_tensorboard_folder(tmp_path):
    refused(lambda: accept_tensorboard(tmp_path), "8.4", "", "is not a folder")
    write_events(tmp_path, EVENTS, "loss.csv")
    refused(lambda: accept_tensorboard(tmp_path), "8.4", "", "has no event file")
    (tmp_path / "tensorboard" / "events.out.tfevents.1").symlink_to("loss.csv")
    refused(lambda: accept_tensorboard(tmp_path), "8.4", "", "is not a regular file")


# ---------------------------------------------------------------------------------------------------- torn files


def test_torn_monitor_is_always_refused():
    for end in range(len(RUNNING)):
        with pytest.raises(ContractViolation):
            parse_monitor(RUNNING[:end])


def test_torn_json_is_always_refused(tmp_path):
    data = json.dumps(DETECTION).encode("utf-8")
    for end in range(len(data)):
        with pytest.raises(ContractViolation):
            accept_detection(write_infer(tmp_path, data[:end]), CANDIDATES, CLASSES)


def test_torn_events_are_refused_except_between_records(tmp_path):
    whole = {len(framed(FIRST_EVENT)), len(EVENTS) - len(framed(event("train/loss", "lr")))}
    for end in set(range(len(EVENTS))) - whole:
        with pytest.raises(ContractViolation):
            accept_tensorboard(write_events(tmp_path, EVENTS[:end]))
    for end in whole:
        accept_tensorboard(write_events(tmp_path, EVENTS[:end]))


def test_torn_yaml_is_refused_with_a_section(models):
    """Cut anywhere before the last stage is whole; YAML itself notices only some of it."""
    text = yaml.safe_dump(TRAINING)
    for end in range(0, text.index("timestamp: 1700000020"), 5):
        (models / "result.yaml").write_text(text[:end], encoding="utf-8")
        with pytest.raises(ContractViolation):
            accept_training(models.parent)


# --------------------------------------------------------------------------------------------------- the suite


def test_rules_stand_alone():
    """The judge knows nothing of the judged: no module here imports ``ymir_exc``."""
    for path in Path(__file__).parent.glob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.startswith(("import ymir_exc", "from ymir_exc"))], path.name
