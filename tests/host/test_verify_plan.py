"""What `ymir-exc verify` plans, prepares and judges, without an engine; with real containers it is in tests/docker."""
from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time

import pytest
import yaml

pytest.importorskip("PIL")

from ymir_exc.errors import ConfigError
from ymir_exc.host import sample, verify, workspace
from ymir_exc.host.engine import Answer, Engine
from ymir_exc.host.findings import Finding, Rule, Severity
from ymir_exc.host.launch import EngineError
from ymir_exc.host.verify import _arrange, _container, _img_man, _judge, _layout, _rows, report
from ymir_exc.monitor import Record

ERROR = Rule("T998", Severity.ERROR, "a title", "a reason", "a remedy")
OTHER = Rule("M998", Severity.ERROR, "a title", "a reason", "another remedy")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "a dataset 数据"
    sample.write_sample(root, images=4, candidates=7, size=64)
    return root


@pytest.fixture
def trained(tmp_path):
    """The out folder of a training."""
    stage = tmp_path / "trained" / "models" / "a"
    stage.mkdir(parents=True)
    (stage / "w.pt").write_bytes(b"weights")
    stages = "model_stages: {a: {stage_name: a, files: [w.pt], timestamp: 1, mAP: 0.5}}"
    (stage.parent / "result.yaml").write_text(f"best_stage_name: a\n{stages}\n")
    return tmp_path / "trained"


@pytest.fixture
def prepare(tmp_path, data, trained):
    def make(*tasks, **params):
        model = None if tasks == ("training",) else trained
        return workspace.prepare(tmp_path / "task", data, tasks, in_container=True, model=model, params=params)

    return make


def config_of(space):
    return yaml.safe_load((space.input / "config.yaml").read_text())


# ------------------------------------------------------------------------------------------------------------ the plan


@pytest.mark.parametrize("text,chain", [
    ("training", [["training"]]), ("training, mining+infer ,training", [["training"], ["mining", "infer"], ["training"]]),
    ("infer+mining", [["mining", "infer"]]), ("", [])])
def test_a_chain(text, chain):
    assert verify.parse_tasks(text) == chain


@pytest.mark.parametrize("text", ["train", "training+mining", "mining+mining", "mining+infer+training", "training,,fly"])
def test_a_chain_that_is_none(text):
    with pytest.raises(ConfigError, match="unknown task"):
        verify.parse_tasks(text)


def dry(data, out, *words):
    argv = [sys.executable, "-m", "ymir_exc", "verify", "image:1", "--data", str(data), "--out", str(out), "--dry-run"]
    done = subprocess.run([*argv, "--engine", "docker", *words], capture_output=True, text=True, encoding="utf-8",
                          env={**os.environ, "PATH": "/nowhere"})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_dry_run_prints_the_platform_s_command_line_and_makes_nothing(data, tmp_path):
    out = tmp_path / "an out 输出"
    lines = dry(data, out, "--tasks", "training", "--user", "1:2", "--network", "net")
    assert lines[:2] == ["docker info", "docker image inspect image:1"]
    assert lines[3].endswith(" image:1 cat /img-man/training-template.yaml")
    task = out / "training"
    name = lines[-1].split("--name ")[1].split()[0]
    assets = data / "in" / "assets"
    assert lines[-1] == (f"docker run --rm '-v{task}/in:/in:ro' '-v{task}/out:/out' '-v{assets}:{assets}' "
                         f"'-v{task}/tensorboard:{task}/tensorboard' --user 1:2 --shm-size=16G --name {name} --network net image:1")
    assert len(name) == 30 and name.isalnum()
    assert not out.exists()


def test_gpus(data, tmp_path):
    line = dry(data, tmp_path / "out", "--tasks", "training", "--gpus", "2,3")[-1]
    assert """ --gpus '"device=2,3"' --shm-size=32G """ in line
    assert "--gpus" not in dry(data, tmp_path / "out", "--only", "no-gpu", "--gpus", "2,3")[-1]


def test_a_dry_run_with_every_row(data, tmp_path):
    text = "\n".join(dry(data, tmp_path / "out", "--harsh"))
    for row in _rows.ROWS:
        assert f"/{row.name}/in:/in:ro" in text
    assert "-holder true" in text and "type=tmpfs" in text
    assert "docker stop t" in text and "docker kill t" in text and "--env HOME=/ image:1" in text
    uids = {line.split("--user ")[1].split(":")[0] for line in text.splitlines() if "/in:/in:ro" in line}
    assert len(uids) == 1 and 10_000 <= int(uids.pop()) <= 60_000


@pytest.mark.parametrize("options,said", [
    ({"only": ["fly"]}, "no row 'fly'"), ({"out": "taken"}, "not an empty folder"), ({"data": "taken"}, "is no dataset"),
    ({"model": "taken"}, "no usable model"), ({"out": "a:b"}, "a colon in its name")])
def test_what_is_wrong_is_said_before_anything_starts(data, tmp_path, options, said):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    given = {key: tmp_path / value if value in ("taken", "a:b") else value for key, value in options.items()}
    with pytest.raises((ConfigError, ValueError), match=said):
        verify.verify(Engine("docker", dry_run=True), verify.Options(**{"image": "i", "data": data, "out": tmp_path / "out", **given}))
    assert not (tmp_path / "out").exists()


def test_a_dataset_that_no_other_uid_can_read(tmp_path):
    sample.write_sample(tmp_path / "data", images=2, candidates=1, size=64)
    _layout.check_readable(tmp_path / "data")
    picture = next((tmp_path / "data" / "in" / "assets").rglob("*.jpg"))
    picture.chmod(0o600)
    with pytest.raises(ConfigError, match=r"is not readable.*chmod -R a\+rX"):
        _layout.check_readable(tmp_path / "data")


def test_the_rows_are_whole():
    names = [row.name for row in _rows.ROWS]
    assert len(set(names)) == len(names) == 13
    for row in _rows.ROWS:
        assert row.what and row.expected and row.reason.endswith(".") and row.remedy
    tasks = [row.task for row in _rows.ROWS]
    assert tasks == sorted(tasks, key=lambda task: task != _rows.TRAINING)    # the results' need the model of a training


# ------------------------------------------------------------------------------------------------------- what is prepared


def test_a_training_has_all_that_the_platform_leaves(prepare):
    space = _layout.complete(prepare("training"), ["training"], None)
    names = {path.name for path in space.input.iterdir()}
    indexes = {"idx-assets", "idx-gt", "idx-pred", *(f"{pred}{n}-index" for pred in ("", "pred-") for n in ("train", "val", "test"))}
    assert names == {"assets", "annotations", "predictions", "models", "config.yaml", "env.yaml", *(f"{name}.tsv" for name in indexes)}
    assert (space.input / "idx-gt.tsv").read_text() == "".join((space.input / f"{n}-index.tsv").read_text() for n in ("train", "val"))
    assert len((space.input / "idx-assets.tsv").read_text().splitlines()) == 4
    board = space.output / "tensorboard"
    assert board.is_symlink() and os.readlink(board) == str(space.shared[1]) and stat.S_IMODE(space.shared[1].stat().st_mode) == 0o777
    assert os.readlink(board / "executor.log") == str(space.output / "ymir-executor-out.log")
    argv = _container.argv(Engine("docker"), space, "i", user="1:2", shm_size="1G", network="", flags=["--env", "A=b"])
    assert argv[3:7] == [f"-v{space.input}:/in:ro", f"-v{space.output}:/out", f"-v{space.shared[0]}:{space.shared[0]}",
                         f"-v{space.shared[1]}:{space.shared[1]}"]
    assert argv[-3:] == ["--env", "A=b", "i"]


def test_a_mining_has_the_model_and_the_host_s_paths(prepare, trained, data):
    space = _layout.complete(prepare("mining", "infer"), ["mining", "infer"], trained)
    info = yaml.safe_load((space.input / "models" / "ymir-info.yaml").read_text())
    assert (info["best_stage_name"], info["package_version"], info["stages"]["a"]["files"]) == ("a", "2.0.0", ["w.pt"])
    hosts = (space.input / "candidate-src-index.tsv").read_text().splitlines()
    assert len(hosts) == 7 and all(os.path.isfile(path) and path.startswith(str(data)) for path in hosts)
    assert not (space.output / "tensorboard").is_symlink()


def test_every_uid_can_read_it_whatever_the_umask(prepare):
    before = os.umask(0o077)
    try:
        space = _layout.complete(_arrange.broken_image(prepare("mining")), ["mining"], None)
    finally:
        os.umask(before)
    for path in (*space.input.rglob("*"), *space.shared[0].rglob("*")):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o004, path


def test_text_for_numbers_and_truth_values(prepare):
    given = {"epochs": 3, "rate": 0.5, "flip": True, "name": "a", "sizes": [1, 2], "nothing": None}
    made = config_of(_arrange.as_strings(prepare("training", **given)))
    assert {key: made[key] for key in given} == {**given, "epochs": "3", "rate": "0.5", "flip": "true"}
    assert made["gpu_count"] == 0 and made["object_type"] == 2    # the platform's own


def test_falsy_values_are_dropped(prepare):
    made = config_of(_arrange.without_falsy(prepare("mining", zero=0, no=False, yes=True, empty="", some=1)))
    assert "some" in made and not {"zero", "no", "yes", "empty"} & set(made)
    assert made["gpu_count"] == 0 and made["gpu_id"] == "" and made["run_infer"] is False


def test_a_class_more_a_gpu_and_no_candidates(prepare):
    space = prepare("mining")
    before = config_of(space)["class_names"]
    assert config_of(_arrange.unseen_class(space))["class_names"] == [*before, "never seen"]
    made = config_of(_arrange.a_gpu(space))
    assert (made["gpu_id"], made["gpu_count"]) == ("0", 1)
    assert (_arrange.no_candidates(space).input / "candidate-index.tsv").read_bytes() == b""


@pytest.mark.parametrize("arrange,count", [(_arrange.broken_image, 8), (_arrange.odd_names, 7)])
def test_candidates_of_one_s_own(prepare, data, arrange, count):
    listed = sorted((data / "in").rglob("*"))
    space = arrange(prepare("mining", "infer"))
    lines = (space.input / "candidate-index.tsv").read_text(encoding="utf-8").splitlines()
    assert len(set(lines)) == count
    assert all((space.input / line[len("/in/"):]).is_file() for line in lines)
    assert os.readlink(space.input / "assets") == str(space.shared[0]) != str(data / "in" / "assets")
    assert sorted((data / "in").rglob("*")) == listed    # the dataset is as it was


def test_another_folder_for_the_same_images(prepare, data):
    space = _arrange.odd_folder(prepare("training"))
    line = (space.input / "train-index.tsv").read_text().split("\t")[0]
    picture = space.input / line[len("/in/"):]
    assert " " in str(picture.resolve()) and picture.read_bytes() == (data / line[1:]).read_bytes()


def test_the_object_type_is_the_image_s(prepare):
    space = prepare("training")
    _layout.set_object_type(space, 3)
    assert config_of(space)["object_type"] == 3


# ---------------------------------------------------------------------------------------------------- what is judged


@pytest.fixture
def case(prepare):
    """A case with this status, log, record and findings."""
    space = prepare("training")

    def make(status=0, log="", record=None, findings=(), acted=None, in_time=True, result=None, monitor="t\t1.0\t0.5\t2\n"):
        path = space.output / "ymir-executor-out.log"
        path.write_text(log, encoding="utf-8")
        (space.output / "monitor.txt").write_text(monitor)
        if result is not None:
            (space.output / "models" / "result.yaml").write_text(result)
        return _judge.Case(_container.Ended(status, 1.0, record, path, acted, in_time), space, tuple(findings))

    return make


BAD = Finding(ERROR, "mAP is 85", "out/models/result.yaml")


def failure(code=0, message=""):
    return Record("t", 1.0, 0.5, 4, code, message)


def test_success_is_status_0_and_no_error(case):
    assert _judge.succeeds(case()) is None
    assert _judge.succeeds(case(findings=[BAD])).why == "T998: result.yaml: mAP is 85"
    assert _judge.succeeds(case(findings=[BAD, BAD])).why.endswith("(and 1 more)")
    assert _judge.succeeds(case(findings=[BAD])).remedy == "a remedy"
    assert _judge.succeeds(case(7, log="one\nKeyError: 'x'\n")).why == "it ended with 7: KeyError: 'x'"
    assert _judge.succeeds(case(1, record=failure(300002, "no image"))).why == "it ended with 1 (300002): no image"


def test_what_no_task_may_do(case):
    assert "did not end within" in _judge.always(case(137, in_time=False)).why
    assert "engine refused: bad shm" in _judge.always(case(125, log="docker: bad shm\n")).why.replace("docker: ", "")
    assert "cannot be started" in _judge.always(case(127)).why
    assert _judge.always(case(1)) is None


def test_the_engine_s_hint_at_its_help_is_no_reason(case):
    """docker 28 ends what it cannot start so."""
    log = "docker: Error response from daemon: No command specified\n\nRun 'docker run --help' for more information\n"
    assert "No command specified" in _judge.always(case(125, log=log)).why
    assert Answer(127, b"", log).reason.endswith("No command specified")


def test_a_log_that_the_program_has_removed(case):
    made = case(4)
    made.ended.log.unlink()
    assert "has removed its log" in _judge.succeeds(made).why
    assert "has removed its log" in _judge.refuses_gpu(made).why


def test_a_pipe_in_the_place_of_monitor_txt_is_not_waited_for(case):
    made = case()
    (made.space.output / "monitor.txt").unlink()
    os.mkfifo(made.space.output / "monitor.txt")
    assert _container.record_of(made.space) is None


def test_a_disk_that_did_not_fill(case):
    assert "as if all that it writes had fitted" in _judge.not_judgeable(case(0), False, True)
    assert _judge.not_judgeable(case(1, log="no space left"), False, True) is None
    assert _judge.not_judgeable(case(0, findings=[BAD]), False, True) is None    # which says that it was full


@pytest.mark.parametrize("sizes,left", [([], 64 << 10), ([1], 4096), ([3 * 4096, 4097], 2 * 4096), ([1 << 20], 64 << 10)])
def test_the_space_that_is_left_is_less_than_a_training_needs(tmp_path, sizes, left):
    (tmp_path / "models").mkdir()
    for n, size in enumerate(sizes):
        (tmp_path / "models" / str(n)).write_bytes(bytes(size))
    assert _container.room(tmp_path) == left
    assert _container.room(None) == 64 << 10


def test_a_container_that_ended_before_it_was_stopped(case):
    assert "before it could be stopped" in _judge.not_judgeable(case(), True)
    assert _judge.not_judgeable(case(), False) is None
    assert _judge.not_judgeable(case(143, acted=1.0), True) is None


def test_a_full_disk(case):
    assert _judge.says_full(case(1, log="OSError: [Errno 28] No space left on device\n")) is None
    assert _judge.says_full(case(1, record=failure(160004, "no space left"))) is None
    assert "says why" in _judge.says_full(case(1, log="Killed\n")).why
    assert _judge.says_full(case(0)) is None    # it fitted
    assert _judge.says_full(case(0, findings=[BAD])).why == "T998: result.yaml: mAP is 85"
    assert _judge.says_full(case(1, log="no space", findings=[BAD])) is None    # there is no result, which is no torn one
    assert "torn" in _judge.says_full(case(1, log="no space", findings=[BAD], result="a: [")).why


def test_stop_and_kill(case):
    assert "killed it" in _judge.stops(case(137, acted=10.0)).why
    assert _judge.stops(case(143, acted=1.0, log="stopped")) is None
    assert _judge.stops(case(0, acted=1.0, findings=[BAD])).why == "T998: result.yaml: mAP is 85"
    assert "result.yaml is torn" in _judge.stops(case(143, acted=1.0, findings=[BAD], result="a: [")).why
    assert _judge.survives_kill(case(137, acted=1.0, findings=[Finding(OTHER, "left running", "monitor.txt")], result="{}")) is None
    for monitor in ("", "t\t1.0", "t\tnow\t0.5\t2\n"):
        assert "monitor.txt is torn" in _judge.survives_kill(case(137, acted=1.0, monitor=monitor)).why


def test_no_gpu(case):
    assert "all the same" in _judge.refuses_gpu(case(0)).why
    assert _judge.refuses_gpu(case(1, record=failure(300102, "x"))) is None
    assert _judge.refuses_gpu(case(1, log="RuntimeError: No CUDA GPUs are available\n")) is None
    assert "KeyError" in _judge.refuses_gpu(case(1, log="KeyError: 3\n")).why


def test_candidates(case):
    assert _judge.takes_nothing(case(1, record=failure(300002, "x"))) is None
    assert _judge.takes_nothing(case(1, log="the candidate list is empty\n")) is None
    assert "ZeroDivisionError" in _judge.takes_nothing(case(1, log="ZeroDivisionError: division by zero\n")).why
    named = Finding(ERROR, f"/in/assets/{_arrange.BROKEN_NAME} has no line", "result.tsv")
    assert _judge.leaves_one_out(case(0, findings=[named])) is None
    assert _judge.leaves_one_out(case(0, findings=[named, BAD])).why == "T998: result.yaml: mAP is 85"
    assert _judge.leaves_one_out(case(1, log=f"cannot identify {_arrange.BROKEN_NAME}\n")) is None
    assert "says why" in _judge.leaves_one_out(case(1, log="struct.error\n")).why


def test_only_what_the_user_is_shown_counts(case):
    """The platform shows five lines of the log."""
    assert _judge.refuses_gpu(case(1, log="there is no GPU\n" + "a line\n" * 5)) is not None


@pytest.mark.parametrize("statuses,code", [(["passed"], 0), (["passed", "failed"], 1), (["passed", "not run"], 1), ([], 1)])
def test_exit_code(statuses, code):
    assert verify.exit_code([verify.RowResult("a", status) for status in statuses]) == code


def test_default_out():
    assert report.default_out("registry.example:5000/a/b:1").name.startswith("registry.example-5000-a-b-1-")
    assert report.default_out("../..").parent.name == "ymir-verify"


# --------------------------------------------------------------------------------------------------------- the engine


@pytest.fixture
def fake(tmp_path):
    """An engine that is a shell script; it writes its arguments to `calls`."""
    def make(script):
        path = tmp_path / "bin" / "engine"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{script}\n')
        path.chmod(0o755)
        return Engine(str(path))

    make.calls = tmp_path / "calls"
    return make


def test_an_answer(fake):
    said = fake("echo out; echo one >&2; echo two >&2; exit 3").call("x")
    assert (said.status, said.stdout, said.stderr, said.reason) == (3, b"out\n", "one\ntwo\n", "two")


def test_a_container_that_hangs_or_floods_is_removed(fake):
    started = time.monotonic()
    assert fake('[ "$1" = rm ] || exec sleep 60').run([], "image", ["cat", "x"], timeout=0.5).status == 124
    said = fake('[ "$1" = rm ] || exec yes').run([], "image", ["cat", "x"])
    assert said.status == 124 and len(said.stdout) <= 4 << 20
    assert time.monotonic() - started < 60
    calls = fake.calls.read_text().splitlines()
    for run, removed in (calls[0:2], calls[2:4]):
        assert removed == f"rm --force {run.split()[3]}"


def test_an_image_that_lacks_what_a_small_output_needs(fake, prepare):
    engine = fake("""case $1 in run) exec cat;; exec) echo 'exec: "true": not found' >&2; exit 127;; esac""")
    with pytest.raises(EngineError, match=r"a small /out cannot be made: exec: .*not found") as caught, \
            _container.small_output(engine, prepare("training"), "image"):
        pytest.fail("it was made")
    assert "`true`" in caught.value.hint
    assert [line.split()[0] for line in fake.calls.read_text().splitlines()][-2:] == ["rm", "volume"]


def test_no_such_image(fake):
    with pytest.raises(EngineError, match="has no image 'x'"):
        fake("exit 1").image("x")


TEMPLATES = """
case "$*" in *--name*) shift 4;; esac
case "$3" in
  /img-man/manifest.yaml) printf '%s';;
  %s) printf 'epochs: 1\\n';;
  *) echo "cat: $3: No such file or directory" >&2; exit 1;;
esac
"""


@pytest.mark.parametrize("manifest,path,wanted,object_type", [
    ("object_type: 3\\n", "/img-man/training-template.yaml", None, 3), ("", "/img-man/training-template.yaml", 4, 2),
    ("object_type: [2, 4]\\n", "/img-man/instance-seg/training-template.yaml", 4, 4),
    ("object_type: [3, 4]\\n", "/img-man/semantic-seg/training-template.yaml", 2, 3)])
def test_templates_of_each_kind(fake, tmp_path, manifest, path, wanted, object_type):
    read = _img_man.read(fake(TEMPLATES % (manifest, path)), "image", tmp_path / "man", wanted)
    assert (read.object_type, read.templates, read.faults) == (object_type, {"training": {"epochs": 1}}, ())
    assert (tmp_path / "man" / "training-template.yaml").read_text() == "epochs: 1\n"


@pytest.mark.parametrize("script,said", [
    ("echo Welcome; echo '  : ['", "gave no YAML"), ("echo Welcome", "gave no mapping"), ("echo exec format >&2; exit 1", "failed: exec"),
    ("echo 'cat: x: No such file or directory' >&2; exit 1", "can read no template"),
    ("echo \"FileNotFoundError: No such file or directory: '/in/config.yaml'\" >&2; exit 1", "failed: FileNotFoundError"),
    ("echo \"cat: $5: Permission denied\" >&2; exit 1", "Permission denied"),
    ("echo 'object_type: det'", "neither a number nor a list"), ("echo 'object_type: [9]'", "lists 9")])
def test_templates_that_the_platform_cannot_read(fake, tmp_path, script, said):
    assert said in "; ".join(_img_man.read(fake(script), "image", tmp_path / "man").faults)


def test_a_fault_that_all_templates_share_is_told_once(fake, tmp_path):
    faults = _img_man.read(fake("echo 'exec: \"cat\": not found' >&2; exit 127"), "image", tmp_path / "man").faults
    assert len(faults) == 2 and "/img-man/manifest.yaml" in faults[0] and "can read no template" in faults[1]


def test_a_file_that_is_missing_in_the_image_s_language(fake, tmp_path):
    script = TEMPLATES.replace("No such file or directory", "没有那个文件或目录") % ("", "/img-man/infer-template.yaml")
    assert _img_man.read(fake(script), "image", tmp_path / "man").faults == ()


@pytest.mark.parametrize("template,said", [
    ({"export_format": "det-ark:raw"}, ""), ({"export_format": "ARK:raw"}, ""),
    ({"export_format": "det-voc:raw"}, "asks for det-voc:raw, and this dataset has ark:raw"), ({}, "exports voc:raw, and this")])
def test_annotations_that_the_platform_would_export_otherwise(data, template, said):
    found = _layout.other_format(template, data)
    assert said in found and bool(said) == bool(found)


def test_no_row_is_no_pass(data, tmp_path):
    assert verify.as_json(verify.Options("i", data, tmp_path), [], {})["passed"] is False


def test_the_result_as_json(data, tmp_path):
    rows = [verify.RowResult("a", verify.FAILED, 1.0, why="so", findings=(BAD,))]
    made = verify.as_json(verify.Options("i", data, tmp_path), rows, {"Id": "sha256:1"})
    assert json.loads(json.dumps(made))["rows"][0]["findings"][0]["code"] == "T998"
    assert (made["passed"], made["image_id"]) == (False, "sha256:1")
