"""What a run left, judged: each rule by an output that breaks just it, and none on a clean one."""
from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random

import pytest
import yaml

from tests.contract import platform_rules
from tests.contract import test_platform_rules as contract
from tests.host import check_cases
from tests.host.check_cases import CASES, FOUND_ANYWAY, MAKERS
from ymir_exc import _rle
from ymir_exc.host import check
from ymir_exc.host.check import _context, _detection, _json_stream, _masks
from ymir_exc.host.findings import Severity

np = pytest.importorskip("numpy")

OUTPUT_RULES = sorted(code for code in check.all_rules() if code[0] in "XTRDSM")


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Each clean output, written once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RANK", raising=False)
        patch.delenv("YMIR_VERSION", raising=False)
        root = tmp_path_factory.mktemp("check")
        return {name: check_cases.make(name, root / f"a {name} 任务", patch) for name in MAKERS}


@pytest.fixture
def made(bases, tmp_path):
    return lambda name: bases[name].copied_to(tmp_path / f"{name} 任务")


def out_findings(base):
    given = base.given if base.given.exists() else None
    return list(check.check_output(base.out, given))


def codes(findings):
    return [one.rule.code for one in findings]


# ------------------------------------------------------------------------------------------------ clean outputs

@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"failed"}))
@pytest.mark.parametrize("is_known", [True, False], ids=["in", "alone"])
def test_a_clean_output_has_no_finding(made, name, is_known):
    base, counts = made(name), {}
    assert list(check.check_output(base.out, base.given if is_known else None, counts=counts)) == []
    assert all(counts.values()) and counts


def test_what_was_looked_at_is_counted(made):
    counts = {}
    list(check.check_output(made("both").out, counts=counts))
    assert counts == {"ranked images": 4, "images": 4, "boxes": 5}


def test_progress_ends_at_the_whole(made):
    calls = []
    base = made("both")
    list(check.check_output(base.out, base.given, lambda done, total: calls.append((done, total))))
    assert calls == sorted(calls) and calls[-1][0] == calls[-1][1] > 0


# ------------------------------------------------------------------------------------------------- every rule

def test_every_rule_has_a_case():
    assert sorted(CASES) == OUTPUT_RULES
    assert len(OUTPUT_RULES) > 100


@pytest.mark.parametrize("word", ["y", " Yes ", "on", "T", "1"])
def test_a_task_that_a_word_asks_for_is_due(made, word):
    base = made("mining")
    env = base.given / "env.yaml"
    env.write_text(env.read_text().replace("run_mining: true", f"run_mining: '{word}'"))
    base.ranking.unlink()
    assert codes(out_findings(base)) == ["R201"]


@pytest.mark.parametrize("given", ["3.0", "", "三", " 3", True, None])
def test_what_the_platform_takes_for_no_whole_number(made, given):
    base = made("infer")
    check_cases.box(lambda one: one["box"].update(x=given))(base)
    assert codes(out_findings(base)) == ["D318"]


@pytest.mark.parametrize("given", ["3", "-3"])
def test_what_the_platform_takes_for_a_whole_number(made, given):
    base = made("infer")
    check_cases.box(lambda one: one["box"].update(x=given))(base)
    assert codes(out_findings(base)) == ["D323"]


@pytest.mark.parametrize("code", sorted(set(CASES) - {"X001", "X004"}))
def test_a_rule_alone(made, code):
    name, change, words = CASES[code]
    base = made(name)
    change(base)
    found = out_findings(base)
    assert sorted(codes(found)) == sorted([*FOUND_ANYWAY.get(name, []), code]), found
    one = next(one for one in found if one.rule.code == code)
    assert words in one.message, one
    assert one.path.startswith(str(base.root))


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(made, monkeypatch):
    base = made("infer")
    check_cases.remove("monitor.txt")(base)
    monkeypatch.setattr(_detection.Predictions, "judge", lambda *_: 1 / 0)
    found = out_findings(base)
    assert codes(found) == ["X001", "M501"]
    assert CASES["X001"][2] in found[0].message and found[0].path == str(base.predictions)


def test_a_file_that_may_not_be_read(made, monkeypatch):
    base, opened = made("infer"), open

    def refusing(path, *rest, **options):
        if path == base.predictions:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *rest, **options)
    monkeypatch.setattr(_context, "open", refusing, raising=False)
    found = out_findings(base)
    assert codes(found) == ["X004"] and CASES["X004"][2] in found[0].message


# ------------------------------------------------------------------------------ more ways to break the same rules

MORE = [
    ("T104", "training", check_cases.without("model_stages"), "is missing, and model too"),
    ("T104", "training", check_cases.top(model_stages=[1]), "is a list"),
    ("T105", "old_layout", check_cases.put(check_cases.YAML, "model: [best.pt]\n"), "without map"),
    ("T102", "training", check_cases.put(check_cases.YAML, "a: [\n"), "not valid YAML"),
    ("T103", "training", check_cases.put(check_cases.YAML, ""), "is empty"),
    ("T115", "training", check_cases.listed("../epoch_10/best.pt"), "leaves its folder"),
    ("T117", "training", check_cases.link("models/epoch_20", "elsewhere"), "models/epoch_20 is a symbolic link"),
    ("T122", "training", check_cases.stage(mAR=float("nan")), "mAR is nan"),
    ("T122", "training", check_cases.stage(mAR=True), "mAR is True"),
    ("T128", "training", check_cases.also(check_cases.replaced(check_cases.YAML, "mAP: 0.5", "mAP: 0.6"),
                                          check_cases.top(best_stage_name="epoch_10")), "epoch_20 has 0.6 and is later"),
    ("T129", "semantic_training", check_cases.also(*[check_cases.replaced(check_cases.YAML, "mIoU", "mAP")] * 2), "mIoU is missing"),
    ("X003", "training", check_cases.link(check_cases.YAML), "symbolic link"),
    ("X003", "mining", lambda base: (base.ranking.unlink(), os.mkfifo(base.ranking)), "a pipe"),
    ("X006", "training", check_cases.replaced(check_cases.YAML, "a", "\ufeffa"), "EF BB BF"),
    ("X006", "infer", check_cases.replaced(check_cases.JSON, "{", "\ufeff{"), "EF BB BF"),
    ("X005", "infer", check_cases.replaced(check_cases.JSON, "0.9", '"\udcff"'), "not UTF-8"),
    ("X005", "training", check_cases.replaced(check_cases.YAML, "curve", "\udcff"), "not UTF-8"),
    ("X008", "infer", check_cases.put(check_cases.JSON, ""), "the file ends where '{' should be"),
    ("X008", "infer", lambda base: base.predictions.write_text(base.predictions.read_text() + "{}"), "end of the file"),
    ("X010", "infer", lambda base: base.predictions.write_bytes(base.predictions.read_bytes().rstrip()[:-1] + b', "detection": {}}'),
     "'detection' is given twice"),
    ("R202", "mining", check_cases.replaced("result.tsv", "1.0\n", "1.0" + " " * (2 << 20) + "\n"), "is longer than"),
    ("S402", "segmentation", check_cases.with_entry("images", id=2 ** 31), "id is 2147483648"),
    ("S418", "segmentation", check_cases.coco("annotations", lambda one: one.update(segmentation=[])), "0 rings"),
    ("S420", "segmentation", check_cases.coco("annotations", lambda one: one.update(segmentation={})), "counts is missing"),
    ("M502", "mining", check_cases.put("monitor.txt", "\n\n"), "blank"),
    ("M514", "failed", check_cases.column(4, "0"), "is 0"),
    ("M523", "training", check_cases.put("tensorboard/events.out.tfevents.1", "no events, just text"), "does not begin as one"),
]


@pytest.mark.parametrize(("code", "name", "change", "words"), MORE, ids=[f"{one[0]}-{one[3]}" for one in MORE])
def test_more_ways(made, code, name, change, words):
    base = made(name)
    change(base)
    found = [one for one in out_findings(base) if one.rule.code == code]
    assert found and words in found[0].message, out_findings(base)


@pytest.mark.parametrize(("name", "found"), [
    ("in/env.yaml", ["X011"]), ("in/config.yaml", ["X011"]), ("in/candidate-index.tsv", ["X011"]), ("out/monitor.txt", ["X003"])])
def test_a_pipe_is_not_waited_for(made, name, found):
    base = made("infer")
    (base.root / name).unlink()
    os.mkfifo(base.root / name)
    assert codes(out_findings(base)) == found
    assert codes(one for one in check.check(base.root, kind="out")) == (found if name != "in/env.yaml" else [])


def test_a_pipe_in_the_place_of_a_picture_is_not_waited_for(made):
    base = made("infer")
    pictures = sorted((base.given / "assets" / "a1").iterdir())
    for path in pictures:
        path.unlink()
        os.mkfifo(path)
    assert pictures and out_findings(base) == []


def test_what_follows_a_candidate_is_passed_over(made):
    base = made("both")
    index = base.given / "candidate-index.tsv"
    index.write_text(index.read_text(encoding="utf-8").replace("\n", "\t/in/annotations/a.txt\n"), encoding="utf-8")
    assert out_findings(base) == []


def test_class_names_that_are_numbers(made):
    base = made("infer")
    config = base.given / "config.yaml"
    names = yaml.safe_load(config.read_text(encoding="utf-8"))["class_names"]
    check_cases.edit("../in/config.yaml", lambda value: value.update(class_names=[2023, *names[1:]]))(base)
    base.predictions.write_text(base.predictions.read_text(encoding="utf-8").replace(f'"{names[0]}"', '"2023"'), encoding="utf-8")
    assert out_findings(base) == []


@pytest.mark.parametrize("name", ["n" * 300, "n" * 5000, "weights/" + "n" * 300])
def test_names_that_no_file_can_have(made, name):
    base = made("training")
    check_cases.listed(name)(base)
    assert codes(out_findings(base)) == ["T114"]


def test_a_stage_name_that_no_folder_can_have(made):
    base = made("training")

    def act(value):
        value["model_stages"]["e" * 300] = {**value["model_stages"]["epoch_20"], "stage_name": "e" * 300, "files": ["none.pt"], "mAP": 0.1}
    check_cases.edit(check_cases.YAML, act)(base)
    assert codes(out_findings(base)) == ["T111", "T114"]


def test_what_a_writer_left_in_the_folder_of_a_stage(made):
    base = made("training")
    path = base.models / "epoch_20" / ".best.pt.ymir-tmp-1-2-3"
    path.write_bytes(b"half")
    finding, = out_findings(base)
    assert (finding.rule.code, finding.path) == ("X007", str(path))


def test_all_that_is_wrong_is_found_at_once(made):
    base = made("training")
    for change in (check_cases.stage(mAP=60, tp=-1), check_cases.top(evaluate_config=None), check_cases.column(2, "100"),
                   check_cases.remove("models/epoch_10/weights/last.pt")):
        change(base)
    assert {"T122", "T124", "T133", "M507", "T114"} <= set(codes(out_findings(base)))


def test_lines_are_told(made):
    base = made("training")
    check_cases.stage(mAP=60)(base)
    found, = (one for one in out_findings(base) if one.rule.code == "T122")
    text = base.result.read_text(encoding="utf-8").splitlines()
    assert text[found.line - 1].strip() == "mAP: 60" and found.key == "model_stages.epoch_20.mAP"

    base = made("infer")
    check_cases.box(lambda one: one.update(class_name=" "), "cc.png")(base)
    found, = out_findings(base)
    assert '"cc.png"' in base.predictions.read_text(encoding="utf-8").splitlines()[found.line - 1]
    assert found.key == "detection.cc.png.boxes[0].class_name"


def test_a_failed_task_need_not_leave_results(made):
    base = made("failed")
    base.result.unlink()
    assert codes(out_findings(base)) == ["M511"]


def test_what_the_task_asked_for_is_due(made):
    base = made("both")
    base.ranking.unlink()
    assert codes(out_findings(base)) == ["R201"]
    assert codes(check.check_output(base.out)) == []


def test_a_result_of_another_kind(made):
    base = made("segmentation")
    config = base.given / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("object_type: 4", "object_type: 2"), encoding="utf-8")
    found = out_findings(base)
    assert codes(found) == ["D302"] and "there is annotations, categories, images" in found[0].message


def test_boxes_of_one_class_under_two_ids_are_doubles(made):
    """The platform compares classes, not the numbers of categories."""
    base = made("segmentation")

    def act(value):
        value["categories"].append({"id": 5, "name": " CAT"})
        value["annotations"].append({**value["annotations"][0], "category_id": 5})
    check_cases.edit(check_cases.JSON, act)(base)
    assert codes(out_findings(base)) == ["S424"]


def test_same_boxes_of_two_classes_are_none(made):
    base = made("segmentation")
    check_cases.with_entry("annotations", category_id=1)(base)
    assert codes(out_findings(base)) == []


def test_no_folder(tmp_path):
    (tmp_path / "out").write_text("x")
    assert codes(check.check_output(tmp_path / "out")) == ["X002"]
    assert codes(check.check_output(tmp_path / "none")) == ["X002"]


# ------------------------------------------------------------------------- agreement with the platform's reading

BORNE = {"D323", "M509", "M510"}
"""Warnings of what an executor is not to write, and the platform can bear; the contract's tests refuse it."""


def errors_of(out, given=None):
    return [one for one in check.check_output(out, given) if one.rule.severity == Severity.ERROR or one.rule.code in BORNE]


@pytest.fixture
def plain(tmp_path):
    """A task as the tables of the contract's tests have it."""
    given, out = tmp_path / "in", tmp_path / "out"
    given.mkdir()
    out.mkdir()
    (given / "candidate-index.tsv").write_text("".join(f"{path}\n" for path in contract.CANDIDATES), encoding="utf-8")

    def task(*runs, object_type=2):
        flags = "".join(f"run_{run}: {str(run in runs).lower()}\n" for run in ("training", "mining", "infer"))
        (given / "env.yaml").write_text(f"task_id: t01\n{flags}input: {{root_dir: /in}}\n", encoding="utf-8")
        (given / "config.yaml").write_text(f"class_names: {json.dumps(contract.CLASSES)}\nobject_type: {object_type}\n", encoding="utf-8")
        (out / "monitor.txt").write_text(contract.RUNNING, encoding="utf-8")
        (out / "monitor.txt").chmod(0o666)
        return given, out
    return task


def make_models(out):
    folder = out / "models"
    for stage in ("epoch_10", "epoch_20"):
        (folder / stage / "weights").mkdir(parents=True)
        (folder / stage / "best.pt").write_bytes(b"best")
        (folder / stage / "weights" / "last.pt").write_bytes(b"last")
    (folder / "attachments" / "plots").mkdir(parents=True)
    (folder / "attachments" / "plots" / "curve.png").write_bytes(b"png")
    return folder


def at_least_one(found, name):
    assert [one for one in found if one.path.endswith(name) or name in one.path], found


@pytest.mark.parametrize("change", [row[0] for row in contract.BROKEN_TRAINING], ids=contract.ids(contract.BROKEN_TRAINING))
def test_agrees_on_training(plain, change):
    given, out = plain("training")
    models, document = make_models(out), json.loads(json.dumps(contract.TRAINING))
    contract.write_training(models, document)
    assert errors_of(out, given) == []
    change(document)
    contract.write_training(models, document)
    with pytest.raises(platform_rules.ContractViolation):
        platform_rules.accept_training(out)
    at_least_one(errors_of(out, given), "result.yaml")


@pytest.mark.parametrize("change", [row[0] for row in contract.BROKEN_LEGACY], ids=contract.ids(contract.BROKEN_LEGACY))
def test_agrees_on_the_old_layout(plain, change):
    given, out = plain("training")
    models, document = make_models(out), dict(contract.LEGACY)
    (models / "best.pt").write_bytes(b"flat")
    contract.write_training(models, document)
    assert errors_of(out, given) == []
    change(document)
    contract.write_training(models, document)
    at_least_one(errors_of(out, given), "result.yaml")


@pytest.mark.parametrize("data", [row[0] for row in contract.BROKEN_YAML], ids=contract.ids(contract.BROKEN_YAML))
def test_agrees_on_yaml(plain, data):
    given, out = plain("training")
    (make_models(out) / "result.yaml").write_bytes(data)
    at_least_one(errors_of(out, given), "result.yaml")


@pytest.mark.parametrize("change", [row[0] for row in contract.BROKEN_TREE], ids=contract.ids(contract.BROKEN_TREE))
def test_agrees_on_files(plain, change):
    given, out = plain("training")
    models = make_models(out)
    contract.write_training(models, contract.TRAINING)
    change(models)
    at_least_one(errors_of(out, given), "result.yaml")


@pytest.mark.parametrize("lines", [row[0] for row in contract.BROKEN_MINING], ids=contract.ids(contract.BROKEN_MINING))
def test_agrees_on_mining(plain, lines):
    given, out = plain("mining")
    contract.write_mining(out, "".join(contract.MINING))
    assert errors_of(out, given) == []
    contract.write_mining(out, "".join(lines))
    at_least_one(errors_of(out, given), "result.tsv")


@pytest.mark.parametrize("change", [row[0] for row in contract.BROKEN_DETECTION], ids=contract.ids(contract.BROKEN_DETECTION))
def test_agrees_on_detection(plain, change):
    given, out = plain("infer")
    contract.write_infer(out, contract.DETECTION)
    assert errors_of(out, given) == []
    contract.write_infer(out, contract.broken_json(contract.DETECTION, change))
    at_least_one(errors_of(out, given), "infer-result.json")


@pytest.mark.parametrize("change", [row[0] for row in contract.BROKEN_SEGMENTATION], ids=contract.ids(contract.BROKEN_SEGMENTATION))
def test_agrees_on_segmentation(plain, change):
    given, out = plain("infer", object_type=4)
    contract.write_infer(out, contract.SEGMENTATION)
    assert errors_of(out, given) == []
    contract.write_infer(out, contract.broken_json(contract.SEGMENTATION, change))
    at_least_one(errors_of(out, given), "infer-result.json")


@pytest.mark.parametrize("change", [row[0] for row in contract.BROKEN_MONITOR], ids=contract.ids(contract.BROKEN_MONITOR))
def test_agrees_on_the_monitor(plain, change):
    given, out = plain("mining")
    contract.write_mining(out, "".join(contract.MINING))
    contract.write_monitor(out, change(contract.RUNNING))
    with pytest.raises(platform_rules.ContractViolation):
        platform_rules.parse_monitor(change(contract.RUNNING), allow_pending=False)
    at_least_one(errors_of(out, given), "monitor.txt")


@pytest.mark.parametrize("text", [row[0] for row in contract.BROKEN_ENDS if row[4] == "error" and "\t4\t" in row[0]])
def test_agrees_on_failures(plain, text):
    given, out = plain("mining")
    contract.write_mining(out, "".join(contract.MINING))
    contract.write_monitor(out, text)
    assert len(errors_of(out, given)) == 2    # that it failed, and how badly it says so


def test_agrees_on_torn_files(plain):
    given, out = plain("infer")
    data = json.dumps(contract.DETECTION).encode("utf-8")
    for end in range(len(data)):
        contract.write_infer(out, data[:end])
        at_least_one(errors_of(out, given), "infer-result.json")


# ------------------------------------------------------------------------------------------------ the JSON reader

DOCUMENTS = ['{}', '{"a": 1}', ' {"a" : [1, 2.5, -3e4, true, null, "x\\u00e9\\n图"], "b": {"c": {}}, "d": []} \n',
             '{"a": {"b": "' + "y" * 300 + '"}}', '{"n": 123456789012345678901234567890, "m": [[[]]]}']


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("text", DOCUMENTS)
def test_the_stream_reads_what_json_reads(tmp_path, monkeypatch, block, text):
    monkeypatch.setattr(_json_stream, "_BLOCK", block)
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with path.open("rb") as f:
        stream = _json_stream.JsonStream(f)
        read = {key: stream.value() for key in stream.members()}
        stream.end()
    assert read == json.loads(text)


@pytest.mark.parametrize("block", [1, 3, 16, 1 << 20])
@pytest.mark.parametrize("text", ['{"a": 1', '{"a" 1}', '{a: 1}', '{"a": tru}', '{"a": "x', '{"a": 1,}', '{"a": 1}}', '{"a": [1 2]}',
                                  '{"a": "\t"}', '{"a": \'x\'}', '{', '', '{"a": 01}', '{"a": "\\x"}'])
def test_the_stream_refuses_what_json_refuses(tmp_path, monkeypatch, block, text):
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    monkeypatch.setattr(_json_stream, "_BLOCK", block)
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with path.open("rb") as f, pytest.raises(_json_stream.BrokenJson) as caught:
        stream = _json_stream.JsonStream(f)
        for _ in stream.members():
            stream.value()
        stream.end()
    assert caught.value.line == 1


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
def test_the_stream_counts_lines(tmp_path, monkeypatch, block):
    monkeypatch.setattr(_json_stream, "_BLOCK", block)
    path = tmp_path / "x.json"
    path.write_text('{\n"a": [\n1,\n\n2],\n"b":\n  {"c": "图"}\n,"d": 0}\n', encoding="utf-8")
    with path.open("rb") as f:
        stream = _json_stream.JsonStream(f)
        seen = {}
        for key in stream.members():
            stream.peek()
            seen[key] = stream.line
            if key == "a":
                seen["elements"] = []
                for _ in stream.elements():
                    stream.peek()
                    seen["elements"].append(stream.line)
                    stream.value()
            else:
                stream.skip()
    assert seen == {"a": 2, "elements": [3, 5], "b": 7, "d": 8}


def test_a_value_that_is_too_long_or_too_deep_or_too_large_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(_json_stream, "MAX_VALUE", 1000)
    monkeypatch.setattr(_json_stream, "_BLOCK", 100)
    for text, words in (('{"a": "' + "x" * 5000 + '"}', "longer than"), ('{"a": ' + "[" * 200_000, "deeply"),
                        ('{"a": 1 ' + "x" * 5000, "should be here")):
        path = tmp_path / "x.json"
        path.write_text(text, encoding="utf-8")
        if words == "deeply":
            monkeypatch.setattr(_json_stream, "MAX_VALUE", 1 << 30)
        with path.open("rb") as f, pytest.raises(_json_stream.BrokenJson, match=words):
            stream = _json_stream.JsonStream(f)
            for _ in stream.members():
                stream.value()


def test_memory_stays_flat(tmp_path, memory_growth):
    """Of an image only its name is kept; a box leaves nothing."""
    program = f"""
import os
from pathlib import Path
from ymir_exc import _rle
from ymir_exc.host import check
def act(count, end):
    out = Path({str(tmp_path)!r})
    box = '{{"class_name": "cat", "score": 0.5, "box": {{"x": 1, "y": 2, "w": 3, "h": 4}}}}'
    with open(out / "infer-result.json", "w") as f:
        f.write('{{"detection": {{')
        for n in range(count):
            f.write((', ' if n else '') + f'"{{n:040d}}.jpg": {{{{"boxes": [{{", ".join([box] * 10)}}]}}}}')
        f.write("}}}}")
    end()
    found = [one.rule.code for one in check.check_output(out)]
    assert found == ["M501"], found
"""
    assert memory_growth(program, 4000, 12000) < 250    # the text of an image takes 850 bytes here


def test_nothing_is_written(made):
    base = made("both")
    before = {path: path.lstat().st_mtime_ns for path in Path(base.root).rglob("*")}
    list(check.check_output(base.out, base.given))
    assert {path: path.lstat().st_mtime_ns for path in Path(base.root).rglob("*")} == before


# --------------------------------------------------------------------------------------------------------- masks

def test_long_masks_are_counted_as_short_ones_are():
    random = np.random.default_rng(5)
    for share in (0.01, 0.5, 0.97):
        for _ in range(20):
            counts = _rle.encode(random.random((random.integers(1, 90), random.integers(1, 90))) < share)["counts"]
            assert _masks._pixels(counts) == sum(_rle.text_to_counts(counts))
    large = _rle.encode(np.arange(4_000_000).reshape(2000, 2000) % 1999 < 1000)["counts"]
    assert len(large) > 4000 and _masks._pixels(large) == 4_000_000


def _is_sound(counts):
    try:
        _rle.text_to_counts(counts)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("end", ["P", "z", "!", "N", "\x7f"])
def test_long_masks_that_are_broken_are_refused(end):
    counts = _rle.encode(np.arange(40_000).reshape(200, 200) % 7 < 3)["counts"]
    broken = counts + end
    if not _is_sound(broken):
        with pytest.raises(ValueError, match="RLE counts"):
            _masks._pixels(broken)
    else:
        assert _masks._pixels(broken) == sum(_rle.text_to_counts(broken))


# ------------------------------------------------------------------------------------------------ at random, too

ODD = [None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1.5, 30.0, 2 ** 31, 10 ** 12, 1e300, "", " ", "0.5", "1", "x", "cat", "aa.jpg", "a/b",
       "..", [], {}, [1], [[]], {"a": 1}, "epoch_10", "best.pt", ["best.pt"], 1700000000]


def mutated(document, random):
    """A copy with one value replaced, taken out, doubled, or under another key."""
    made = json.loads(json.dumps(document))
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])
    walk(made)
    node, key = random.choice(places)
    act = random.choice(["put", "put", "put", "drop", "double", "rename"])
    if act == "drop":
        del node[key]
    elif act == "double" and isinstance(node, list):
        node.append(node[key])
    elif act == "rename" and isinstance(node, dict):
        name = random.choice(["extra", "boxes", "TP", "mAP", "x", "score", "is_crowd", "size", "bb.png"])
        node[name] = node.pop(key)
    else:
        node[key] = random.choice(ODD)
    return made


JUDGED = {
    "training": (contract.TRAINING, lambda out: platform_rules.accept_training(out)),
    "detection": (contract.DETECTION, lambda out: platform_rules.accept_detection(out, contract.CANDIDATES, contract.CLASSES)),
    "segmentation": (contract.SEGMENTATION, lambda out: platform_rules.accept_segmentation(out, contract.CANDIDATES, contract.CLASSES)),
}


@pytest.mark.parametrize("name", sorted(JUDGED))
def test_agrees_at_random(plain, name):
    """What is refused there has an error here, and what is accepted there has none."""
    document, judge = JUDGED[name]
    given, out = plain("training" if name == "training" else "infer", object_type=4 if name == "segmentation" else 2)
    models, random, refused = make_models(out), Random(7), 0
    for _ in range(150):
        made = mutated(document, random)
        if name == "training":
            contract.write_training(models, made)
        else:
            contract.write_infer(out, made)
        try:
            judge(out)
            expected = None
        except platform_rules.ContractViolation as e:
            expected, refused = str(e), refused + 1
        found = errors_of(out, given)
        assert bool(found) == bool(expected), (expected, found)
    assert 50 < refused < 150
