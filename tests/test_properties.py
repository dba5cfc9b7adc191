"""What holds for any input: index files, progress, the eleven stages, and values of any make.

The examples are the same in every run.
"""
from __future__ import annotations

import math
import os
from decimal import Decimal
from fractions import Fraction
from typing import List, Optional

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import create_model

from tests.replay import Tensor
from ymir_exc import dataset_reader, env, monitor, util
from ymir_exc import result_writer as rw
from ymir_exc.dataset_reader import DatasetType
from ymir_exc.errors import ArgumentError, ResultError
from ymir_exc.result_writer import Annotation, Box


def repeatable(examples):
    """The fixtures are shared by the examples of a test, which set up what they need."""
    return settings(derandomize=True, deadline=None, database=None, max_examples=examples,
                    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


# ----------------------------------------------------------------------------------------------------------------------- index files

# Letters, and all that some reader takes for a blank or the end of a line, but for those that the format itself uses.
LETTERS = "ab/. 图像\u3000\x0b\x0c\x1c\x1d\x85\xa0\u2028\u2029\ufeff😀'\"\\"
PATHS = st.text(LETTERS, max_size=8).map(lambda text: f"/{text}")
BLANKS = st.text(" \t\u3000\x0b\x0c\x1c\x1d\x85\xa0\u2028", max_size=3)
ITEMS = st.tuples(PATHS, st.just("") | PATHS)
COLUMNS = st.tuples(ITEMS, st.booleans(), st.lists(st.text(LETTERS, max_size=3), max_size=2))


def index_line(item, tab, more):
    asset, annotation = item
    return "\t".join([asset, annotation, *more]) if annotation or tab or more else asset


@repeatable(400)
@given(lines=st.lists(COLUMNS | BLANKS, max_size=12), end=st.sampled_from(["\n", "\r\n"]), bom=st.booleans(), last=st.booleans(),
       chunk=st.integers(1, 40))
@example(lines=["\u3000", "\x1c", "\x85"], end="\n", bom=True, last=True, chunk=40)    # blank to `str`, not to `bytes`
@example(lines=[], end="\n", bom=True, last=False, chunk=1)
@example(lines=[(("/a", ""), True, [])], end="\r\n", bom=True, last=False, chunk=2)
def test_an_index_is_read_as_written_and_counted_as_read(platform, monkeypatch, lines, end, bom, last, chunk):
    text = end.join(line if isinstance(line, str) else index_line(*line) for line in lines) + (end if lines and last else "")
    (platform.input / "train-index.tsv").write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.encode())
    monkeypatch.setattr(dataset_reader, "_CHUNK_BYTES", chunk)
    expected = [line[0] for line in lines if not isinstance(line, str)]
    assert list(dataset_reader.item_paths(DatasetType.TRAINING)) == expected
    assert dataset_reader.items_count(DatasetType.TRAINING) == len(expected)


@repeatable(100)
@given(items=st.lists(PATHS, max_size=30), world=st.integers(1, 7))
def test_shards_are_the_whole(platform, items, world):
    (platform.input / "candidate-index.tsv").write_bytes("".join(f"{path}\n" for path in items).encode())
    shards = [list(dataset_reader.items(DatasetType.CANDIDATE, (rank, world))) for rank in range(world)]
    together = sorted((item for shard in shards for item in shard), key=lambda item: item.position)
    assert [item.asset for item in together] == items
    assert [item.position for item in together] == list(range(len(items)))


# -------------------------------------------------------------------------------------------------------------------------- progress

FRACTIONS = st.floats(0, 1)
STAGES = ["preprocess", "task", "postprocess"]


@st.composite
def weights(draw):
    """Three that sum to 1."""
    first = draw(FRACTIONS)
    second = draw(st.floats(0, 1 - first))
    return [first, second, 1 - first - second]


def formula(given_weights, stage, percent):
    """Written down from the contract: what the parts before stand for, and a share of this one."""
    before = {"preprocess": 0, "task": given_weights[0], "postprocess": given_weights[0] + given_weights[1]}[stage]
    return before + given_weights[STAGES.index(stage)] * percent


DEFAULT = [0.00001, 0.99998, 0.00001]


@pytest.fixture
def reported(monkeypatch):
    """The percents that reach the monitor."""
    values = []
    monkeypatch.setattr(util, "write_monitor_logger", values.append)
    for name in ("PREPROCESS_WEIGHT", "TASK_WEIGHT", "POSTPROCESS_WEIGHT"):
        monkeypatch.delenv(name, raising=False)
    return values


@pytest.mark.filterwarnings("ignore:get_ymir_process")
@repeatable(300)
@given(given_weights=weights() | st.none(), stage=st.sampled_from(STAGES), low=FRACTIONS, high=FRACTIONS, task=st.integers(0, 3),
       more=st.integers(0, 3), by_number=st.booleans())
@example(given_weights=[0.33, 0.56, 0.11], stage="postprocess", low=1.0, high=1.0, task=0, more=0, by_number=False)    # above 1 by rounding
def test_stages_of_a_task(reported, given_weights, stage, low, high, task, more, by_number):
    low, high = sorted((low, high))
    name = util.YmirStage(STAGES.index(stage) + 1) if by_number else stage
    found = [util.YmirStageWeight(given_weights).get_stage_process(name, p) for p in (low, high)]
    assert 0 <= found[0] <= found[1] <= 1
    assert found == pytest.approx([formula(given_weights or DEFAULT, stage, p) for p in (low, high)], abs=1e-12)
    older = util.get_ymir_process(name, low, task, task + 1 + more, given_weights)
    assert older == pytest.approx((task + formula(given_weights or DEFAULT, stage, low)) / (task + 1 + more), abs=1e-12)
    assert 0 <= older <= 1


@repeatable(300)
@given(running=st.sampled_from([("training",), ("mining",), ("infer",), ("mining", "infer")]), order=st.sampled_from(["tmi", "tim"]),
       given_weights=weights() | st.none(), stage=st.sampled_from(STAGES), percents=st.lists(FRACTIONS, min_size=2, max_size=2))
def test_tasks_of_a_container(platform, reported, running, order, given_weights, stage, percents):
    cfg = util.get_merged_config()
    for task in ("training", "mining", "infer"):
        setattr(cfg.ymir, f"run_{task}", task in running)
    percents.sort()
    for task in running:
        reported.clear()
        for percent in percents:
            util.write_ymir_monitor_process(cfg, task, percent, stage, given_weights, order)
        own = [formula(given_weights or DEFAULT, stage, percent) for percent in percents]
        if len(running) == 2:
            is_first = task == ("mining" if order == "tmi" else "infer")
            own = [percent / 2 if is_first else 0.5 + percent / 2 for percent in own]
            assert all(0 <= p <= 0.5 if is_first else 0.5 <= p <= 1 for p in reported)
        assert reported == pytest.approx(own, abs=1e-12)
        assert reported == sorted(reported)


@repeatable(200)
@given(percents=st.lists(st.floats(allow_nan=False) | st.integers() | FRACTIONS, min_size=1, max_size=6))
@example(percents=[0.25, 10 ** 400])
def test_what_lands_in_the_record(platform, percents):
    """Two decimals within 0..1 that never go back, whatever is reported."""
    (platform.out / "monitor.txt").unlink(missing_ok=True)
    monitor._writer.reset()
    seen = []
    for percent in percents:
        monitor._writer.next_write = 0.0
        try:
            monitor.write_monitor_logger(percent)
        except ArgumentError:    # a whole number that no float holds
            assert abs(percent) > 1e308
            continue
        seen.append(min(max(percent, 0), 1))
        assert platform.monitor().split("\t")[2] == f"{max(seen):.2f}"


# ---------------------------------------------------------------------------------------------------------------------- eleven stages

class Stage:
    """What the reference remembers."""

    def __init__(self, name, time, value, files):
        self.name, self.time, self.value, self.files = name, time, value, files


def best_of(stages):
    """The highest metric; of equals the latest second; of equals the one written last."""
    return max(enumerate(stages), key=lambda pair: (pair[1].value, pair[1].time, pair[0]))[1]


def after_writing(stages, new):
    """The rule: a stage of that name is replaced; of more than eleven the earliest goes that is neither the best nor the new one."""
    stages = [stage for stage in stages if stage.name != new.name] + [new]
    if len(stages) > 11:
        spare = [stage for stage in stages if stage not in (best_of(stages), new)]
        stages.remove(min(spare, key=lambda stage: stage.time))    # of equals the first, which was written first
    return stages


def files_of(number):
    """Its own folder's, one whose name tells it, one that it shares with its neighbour, and one that all overwrite."""
    low = number - number % 2
    return ["own.pt", f"s_{number}.pt", f"s_{low}-s_{low + 1}.pt", "best.pt"]


def model_files(platform):
    root = platform.out / "models"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@repeatable(40)
@given(calls=st.lists(st.tuples(st.integers(0, 17), st.integers(0, 3), st.sampled_from([0.0, 0.25, 0.5, 0.75])), max_size=30))
@example(calls=[(n, 0, 0.5) for n in range(18)])
@example(calls=[(n, 3, 0.75 if n == 4 else 0.5) for n in range(12)] + [(n, 0, 0.0) for n in range(12, 18)])    # a clock that went back
@example(calls=[(n % 12, n % 4, 0.25 * (n % 4)) for n in range(30)])
def test_eleven_stages(platform, monkeypatch, calls):
    monkeypatch.setattr(os, "fsync", lambda fd: None)    # time that proves nothing here
    root = platform.out / "models"
    for name in model_files(platform):
        (root / name).unlink()
    stages, owners, shared = [], {}, {}    # of a file that two stages share: whose weights it has
    for turn, (number, time, value) in enumerate(calls):
        name, files = f"s_{number}", files_of(number)
        for place in (f"{name}/own.pt", *files[1:]):
            platform.model(place, f"{place} of turn {turn}".encode())
            os.utime(root / place, (turn, turn))    # by which a stage knows what it has a copy of
        owners.setdefault(name, set()).add(f"best.pt of turn {turn}")
        rw.write_model_stage(name, files, {"mAP": value}, timestamp=1700000000 + time)
        shared[files[2]] = name
        before, stages = stages, after_writing(stages, Stage(name, time, value, files))
        for gone in {stage.name: stage for stage in before if stage.name not in [kept.name for kept in stages]}.values():
            if shared.get(gone.files[2]) == gone.name and not any(gone.files[2] in stage.files for stage in stages):
                del shared[gone.files[2]]
        result = platform.result()
        assert result["best_stage_name"] == best_of(stages).name
        assert result["mAP"] == best_of(stages).value
        assert {key: (entry["mAP"], entry["timestamp"], entry["files"]) for key, entry in result["model_stages"].items()} == {
            stage.name: (stage.value, 1700000000 + stage.time, stage.files) for stage in stages}
        listed = {f"{stage.name}/{name}" for stage in stages for name in ("own.pt", stage.files[2], "best.pt")}
        listed |= {stage.files[1] for stage in stages}
        assert model_files(platform) == listed | {"result.yaml", "best.pt", *shared}    # the last are the executor's own
    for stage in stages:
        for name in ("best.pt", stage.files[2]):
            assert (root / stage.name / name).read_text() in {words.replace("best.pt", name) for words in owners[stage.name]}


# --------------------------------------------------------------------------------------------------------------- values of any make

NUMBERS = (st.integers() | st.floats() | st.booleans() | st.fractions(0, 1) | st.decimals(allow_nan=False)
           | st.sampled_from([0, 1, -1, 0.5, "0.5", " 1 ", b"0.25", "-1", 10 ** 400]))
NUMPY = st.builds(lambda kind, value: kind(value), st.sampled_from([np.float16, np.float32, np.float64, np.longdouble]),
                  st.sampled_from([0.0, 0.5, 1.0, -1.0, 2.0, math.nan, math.inf])) | st.builds(
    lambda kind, value: kind(value), st.sampled_from([np.int8, np.int64, np.uint8, np.bool_]), st.integers(0, 100))
SHAPED = st.builds(lambda shape, value: np.full(shape, value), st.sampled_from([(), (1,), (1, 1), (2,), (0,)]),
                   st.sampled_from([0.25, 1.0, 3]))
ANYTHING = (NUMBERS | NUMPY | SHAPED | st.none() | st.text(max_size=4) | st.binary(max_size=3) | st.complex_numbers()
            | st.builds(Tensor, FRACTIONS, st.sampled_from([(), (1,)])) | st.lists(st.integers(), max_size=2)
            | st.builds(object) | st.dates())


def one_number(value):
    """The number that a person would say this is, or None."""
    if isinstance(value, np.ndarray):
        return float(value.reshape(())) if value.size == 1 else None
    if isinstance(value, (bool, int, float, np.number, np.bool_, Fraction, Decimal, Tensor, str, bytes)) and not isinstance(value, complex):
        try:
            return float(value)
        except (ValueError, TypeError, OverflowError):
            return None
    return None


def is_builtin(value):
    if isinstance(value, dict):
        return all(type(key) is str and is_builtin(item) for key, item in value.items())
    if type(value) is list:
        return all(map(is_builtin, value))
    return value is None or type(value) in (bool, int, float, str)


@repeatable(300)
@given(key=st.sampled_from(["mAP", "mIoU", "maskAP", "mAR", "tp", "FN", "extra"]), value=ANYTHING)
@example(key="extra", value=np.longdouble(0.5))    # its `tolist` returns itself
@example(key="extra", value={"a": [np.float32(0.5)], 3: b"\xff"})
@example(key="tp", value=2.0)
def test_metrics(platform, monkeypatch, key, value):
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    platform.model("s.pt")
    number = one_number(value)
    try:
        rw.write_model_stage("s", ["s.pt"], {"maskAP": 0.5, key: value})
    except ResultError as e:
        assert str(e).startswith(f"stage s: {key} is ")
        assert key != "extra"
        assert number is None or not 0 <= number <= (1 if key.startswith("m") else 2 ** 31 - 1) or (
            not key.startswith("m") and number != int(number))
        return
    text = (platform.out / "models/result.yaml").read_text(encoding="ascii")
    entry = yaml.safe_load(text)["model_stages"]["s"]
    landed = entry[key.lower() if key in ("tp", "FN") else key]
    assert is_builtin(landed)
    if key.startswith("m"):
        assert (landed, type(landed)) == (0.0 if number == -1 else number, float)
    elif key != "extra":
        assert (landed, type(landed)) == (number, int)
    elif isinstance(value, (str, bool, int)):
        assert landed == value


@repeatable(400)
@given(value=ANYTHING, wrap=st.sampled_from([
    lambda value: {"timestamp": value}, lambda value: {"attachments": {"a": value}}, lambda value: {"attachments": value},
    lambda value: {"evaluate_config": {"t": value}}, lambda value: {"evaluate_config": value}, lambda value: {"files": value},
    lambda value: {"files": [value]}, lambda value: {"stage_name": value}, lambda value: {"evaluation_result": value}]))
@example(value=np.array("a.pt"), wrap=lambda value: {"files": value})
def test_all_that_is_not_a_metric(platform, monkeypatch, value, wrap):
    """One odd argument: it is taken, or refused in our words."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    platform.model("s.pt")
    result = platform.out / "models/result.yaml"
    result.unlink(missing_ok=True)
    try:
        rw.write_model_stage(**{"stage_name": "s", "files": ["s.pt"], "evaluation_result": {"mAP": 0.5}, **wrap(value)})
    except ResultError:
        assert not result.exists()
    else:
        assert is_builtin(yaml.safe_load(result.read_text(encoding="ascii")))


@repeatable(300)
@given(value=ANYTHING)
@example(value=np.array([5]))
@example(value=10 ** 400)
def test_boxes_scores_and_names(value):
    box = Box(x=0, y=0, w=1, h=1)
    for make, kind in ((lambda: Box(x=value, y=0, w=1, h=1).x, int),
                       (lambda: Annotation(class_name="a", score=value, box=box).score, float),
                       (lambda: Annotation(class_name=value, score=1, box=box).class_name, str)):
        try:
            found = make()
        except ValueError:    # pydantic's, with the field's name
            number = one_number(value)
            assert kind is str or number is None or (kind is int and (isinstance(value, (str, bytes)) or not math.isfinite(number)))
            continue
        assert type(found) is kind
        number = one_number(value)
        assert kind is not int or number is not None or isinstance(value, int)
        if kind is int and number is not None and abs(number) < 2 ** 53:
            assert found == int(value if isinstance(value, (Fraction, Decimal)) else number)
        elif kind is float and number is not None and number == number:
            assert found == number


@repeatable(150)
@given(version=st.integers(0, 3) | st.decimals(0, 3, places=2).map(float) | st.text("0123456789.vrc-", max_size=6))
def test_any_protocol_version_is_read(platform, version):
    platform.env["protocol_version"] = version
    platform.write()
    assert env.get_current_env().protocol_version == str(version)
    modern = rw.multiple_model_stages_supportable()
    if not isinstance(version, str):
        assert modern is (version >= 1)


# --------------------------------------------------------------------------------------------------------- hyper-parameters of a form

WHOLE, REAL = st.integers(-10 ** 30, 10 ** 30), st.floats(allow_nan=False)
WRITTEN = [(WHOLE, int, str), (REAL, float, repr), (st.booleans(), bool, str), (st.booleans(), bool, lambda value: str(value).lower()),
           (st.lists(WHOLE, min_size=1), List[int], lambda values: list(map(str, values))), (st.none(), Optional[int], lambda value: ""),
           (st.lists(REAL, min_size=1), List[float], lambda values: list(map(repr, values))), (WHOLE, Optional[int], str),
           (st.lists(st.booleans(), min_size=1), List[bool], lambda values: list(map(str, values)))]
WRITTEN_VALUES = st.sampled_from(WRITTEN).flatmap(lambda kind: kind[0].map(lambda value: (value, kind[1], kind[2](value))))


@repeatable(200)
@given(values=st.lists(WRITTEN_VALUES, min_size=1, max_size=5), by_form=st.booleans())
@example(values=[(1e-05, float, "1e-05"), (5e-324, float, "5e-324"), (math.inf, float, "inf")], by_form=False)
def test_hyperparameters_that_became_text_come_out_equal(platform, values, by_form):
    """A form hands in text; a person's file has it without quotes, and YAML reads 1e-05 as text too."""
    names = [f"name_{number}" for number in range(len(values))]
    texts = {name: text for name, (_, _, text) in zip(names, values)}
    lines = [f"{name}: {str(text).replace(chr(39), '')}" for name, text in texts.items()]
    (platform.input / "config.yaml").write_text(yaml.safe_dump(texts) if by_form else "\n".join(lines))
    kind = create_model("Parameters", **{name: (kind, None) for name, (_, kind, _) in zip(names, values)})
    found = util.get_parameters(util.get_merged_config(), kind)
    for name, (value, _, _) in zip(names, values):
        assert (getattr(found, name), type(getattr(found, name))) == (value, type(value))
