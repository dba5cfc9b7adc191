"""What `ymir-exc verify --platform ti` lays out, starts and judges, without an engine; with real containers it is in tests/docker."""
from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

pytest.importorskip("PIL")

from ymir_exc._yaml import load_mapping
from ymir_exc.errors import ConfigError, WeightsError
from ymir_exc.host import sample, verify
from ymir_exc.host.engine import Engine
from ymir_exc.host.verify import _container, _img_man, _judge, _opt_ml, _platforms, _rows
from ymir_exc.platforms.ti import TiPlatform

NO_TEMPLATES = {}
TEMPLATES = {"training": {"epochs": 8, "flip": False, "name": "a", "shm_size": "2G"}, "mining": {"size": 3}}
ROWS = {row.name: row for row in _rows.TI_ROWS}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "a dataset 数据"
    sample.write_sample(root, images=4, candidates=7, size=64)
    return root


@pytest.fixture
def prepare(tmp_path, data):
    """Lay out a job; gives it and its tree."""
    def make(*tasks, row="no-network", templates=NO_TEMPLATES, model=None, **params):
        folder = tmp_path / "img-man"
        folder.mkdir(exist_ok=True)
        for task, template in templates.items():
            (folder / f"{task}-template.yaml").write_text(yaml.safe_dump(template))
        img_man = _img_man.ImgMan(folder, 2, templates, ())
        job = _platforms.Job(tmp_path / "task", data, list(tasks), "t1", ROWS[row], params, 0, model, img_man)
        return _platforms.PLATFORMS["ti"].prepare(job), tmp_path / "task" / "opt-ml"

    return make


def values_of(tree):
    return json.loads((tree / "input/config/hyperparameters.json").read_text())


# ------------------------------------------------------------------------------------------------------- what is prepared


def test_a_training(prepare, data):
    space, tree = prepare("training", templates=TEMPLATES, epochs=2, rate=0.5, net={"a": [1]})
    assert values_of(tree) == {"epochs": "2", "rate": "0.5", "net": '{"a": [1]}', "ti_job_name": '"t1"'}
    cluster = {"current_host": "algo-1", "hosts": ["algo-1"]}
    for name in ("resourceconfig.json", "resourceConfig.json"):
        assert json.loads((tree / "input/config" / name).read_text()) == cluster
    channels = json.loads((tree / "input/config/inputdataconfig.json").read_text())
    assert channels == {name: {"TrainingInputMode": "File"} for name in ("train", "val")}
    listed = []
    for split in ("train", "val"):
        channel = tree / "input/data" / split
        rows = [line.split("\t") for line in (channel / f"{split}-index.tsv").read_text().splitlines()]
        listed += rows
        assert all((channel / path).is_file() and not (channel / path).is_symlink() for row in rows for path in row)
        pictures = {path for path in (channel / "assets").rglob("*") if path.is_file()}
        assert pictures == {channel / row[0] for row in rows}    # a split's own, and no others
        assert (channel / "classes.txt").read_text().splitlines() == list(sample.CLASS_NAMES)
    original = [line for split in ("train", "val") for line in (data / "in" / f"{split}-index.tsv").read_text().splitlines()]
    assert ["\t".join(f"/in/{path}" for path in row) for row in listed] == original
    for name in ("model", "output", "output/data"):
        assert stat.S_IMODE((tree / name).stat().st_mode) == 0o777
    assert not (space.root / "staged").exists()


@pytest.mark.parametrize("tasks,named", [(["mining"], "mining"), (["mining", "infer"], "mining+infer")])
def test_mining_with_a_model(prepare, tmp_path, data, tasks, named):
    left = tmp_path / "earlier" / "opt-ml" / "model" / "a"
    left.mkdir(parents=True)
    (left / "w.pt").write_bytes(b"weights")
    _, tree = prepare(*tasks, model=tmp_path / "earlier" / "opt-ml")
    assert values_of(tree)["ymir_task"] == json.dumps(named)
    assert list(json.loads((tree / "input/config/inputdataconfig.json").read_text())) == ["candidate", "model"]
    with tarfile.open(tree / "input/data/model/model.tar.gz") as archive:
        assert sorted(archive.getnames()) == [".", "./a", "./a/w.pt"]
    assert len((tree / "input/data/candidate/candidate-index.tsv").read_text().splitlines()) == 7


def test_the_model_of_the_task_before_is_no_link(prepare, tmp_path):
    space, tree = prepare("training")
    (tree / "model" / "w.pt").write_bytes(b"weights")
    _opt_ml._pack(_opt_ml.models_of(space.output), tmp_path / "m" / "model.tar.gz")
    with tarfile.open(tmp_path / "m" / "model.tar.gz") as archive:
        assert [(one.name, one.issym()) for one in archive] == [(".", False), ("./w.pt", False)]


def test_this_package_understands_the_tree(prepare, data, monkeypatch, tmp_path):
    """The job as a program in the container sees it."""
    _, tree = prepare("mining", row="odd-names")
    monkeypatch.setenv("YMIR_EXC_TI_ROOT", str(tree))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    given = load_mapping(TiPlatform().prepare().env_file)
    assert given["run_mining"] is True and given["task_id"] == "t1"
    config = load_mapping(given["input"]["config_file"])
    assert (config["class_names"], config["object_type"]) == (list(sample.CLASS_NAMES), 2)
    lines = Path(given["input"]["candidate_index_file"]).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 7 and all(os.path.isfile(line) for line in lines) and any("图 片" in line for line in lines)


@pytest.mark.parametrize("row,values", [
    ("strings", {"epochs": '"8"', "flip": '"false"', "name": '"a"'}), ("falsy-missing", {"size": "3", "some": "1"}), ("stop", {})])
def test_hyper_parameters_of_a_row(prepare, row, values):
    task = "mining" if ROWS[row].task == _rows.RESULTS else "training"
    params = {"some": 1, "no": False} if task == "mining" else {}
    made = values_of(prepare(task, row=row, templates=TEMPLATES, **params)[1])
    assert {key: value for key, value in made.items() if key not in ("ti_job_name", "ymir_task")} == values


@pytest.mark.parametrize("row,folder", [("odd-folder", "数据 assets (1)"), ("unseen-class", "assets")])
def test_the_dataset_of_a_row(prepare, data, row, folder):
    before = sorted(data.rglob("*"))
    _, tree = prepare("training", row=row)
    line = (tree / "input/data/train/train-index.tsv").read_text(encoding="utf-8").splitlines()[0]
    assert line.startswith(f"{folder}/") and (tree / "input/data/train" / line.split("\t")[0]).is_file()
    classes = (tree / "input/data/train/classes.txt").read_text().splitlines()
    assert (classes[-1] == "never seen") == (row == "unseen-class")
    assert sorted(data.rglob("*")) == before


def test_no_candidate_and_one_that_is_no_image(prepare):
    assert (prepare("mining", row="no-candidates")[1] / "input/data/candidate/candidate-index.tsv").read_bytes() == b""


def test_a_broken_image(prepare):
    _, tree = prepare("infer", row="broken-image")
    assert (tree / "input/data/candidate/assets/broken-image.jpg").read_bytes() == b"this is no image"


def test_every_uid_can_read_it_whatever_the_umask(prepare):
    before = os.umask(0o077)
    try:
        _, tree = prepare("training")
    finally:
        os.umask(before)
    assert all(path.stat().st_mode & 0o004 for path in (tree / "input").rglob("*"))


# ----------------------------------------------------------------------------------------------------- how it is started


def dry(data, out, *words):
    argv = [sys.executable, "-m", "ymir_exc", "verify", "image:1", "--platform", "ti", "--data", str(data), "--out", str(out)]
    done = subprocess.run([*argv, "--dry-run", "--engine", "docker", *words], capture_output=True, text=True, encoding="utf-8",
                          env={**os.environ, "PATH": "/nowhere"})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_dry_run_prints_the_platform_s_command_line_and_makes_nothing(data, tmp_path):
    out = tmp_path / "an out 输出"
    lines = dry(data, out, "--tasks", "training", "--user", "1:2", "--network", "net", "--gpus", "2,3")
    assert re.search(r"--network none --entrypoint '' image:1 cat /img-man/training-template.yaml$", lines[3])
    tree, name = out / "training" / "opt-ml", lines[-1].split("--name ")[1].split()[0]
    assert lines[-1] == (
        f"docker run --rm '-v{tree}/input:/opt/ml/input:ro' '-v{tree}/model:/opt/ml/model' '-v{tree}/output:/opt/ml/output' --user 1:2 "
        f"""--gpus '"device=2,3"' --shm-size=32G --name {name} --hostname algo-1 --env TRAINING_JOB_NAME={name} """
        "--network net image:1 train")
    assert not out.exists()


def test_a_dry_run_with_every_row(data, tmp_path):
    lines = [line for line in dry(data, tmp_path / "out", "--harsh") if line.endswith(" train")]
    assert [name for line in lines for name in re.findall(r"out/([\w+-]+)/opt-ml/input", line)] == \
        ["training", "mining+infer", *(row.name for row in _rows.TI_ROWS)]
    users = {re.findall(r"out/([\w+-]+)/opt-ml", line)[0]: line.split("--user ")[1].split()[0] for line in lines}
    assert {name for name, user in users.items() if user != "0:0"} == {"no-home"}
    assert 10_000 <= int(users["no-home"].split(":")[0]) <= 60_000
    small = [line for line in lines if "-out:/opt/ml/model" in line]
    assert len(small) == 1 and "full-disk/opt-ml/output:/opt/ml/output" in small[0]


def test_the_rows_speak_of_ti():
    assert [row.name for row in _rows.TI_ROWS] == [row.name for row in _rows.ROWS]
    for row in _rows.TI_ROWS:
        text = f"{row.what} {row.expected} {row.reason} {row.remedy}"
        assert not re.search(r"/out|/in/|monitor\.txt|web form|The platform|gpu_id", text), row.name


def test_a_template_s_shm_size(prepare, tmp_path, data):
    prepare("training", templates=TEMPLATES)
    job = _platforms.Job(tmp_path, data, ["training"], "t", ROWS["stop"], {}, 0, None, _img_man.ImgMan(tmp_path / "img-man", 2, {}, ()))
    assert _platforms.shm_size(job) == "2G"
    assert _platforms.shm_size(job._replace(params={"shm_size": "3G"})) == "3G"
    assert _platforms.shm_size(job._replace(tasks=["infer"], gpus=2)) == "32G"


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: (path / "model").mkdir(parents=True)])
def test_a_model_that_is_none(data, tmp_path, make):
    make(tmp_path / "given")
    options = verify.Options("i", data, tmp_path / "out", model=tmp_path / "given", platform="ti")
    with pytest.raises(WeightsError, match="holds no model"):
        verify.verify(Engine("docker", dry_run=True), options)


def test_a_dataset_that_root_alone_can_read(tmp_path):
    sample.write_sample(tmp_path / "data", images=2, candidates=1, size=64)
    next((tmp_path / "data/in/assets").rglob("*.jpg")).chmod(0o600)
    given = verify.Options("i", tmp_path / "data", tmp_path / "out", platform="ti")
    assert verify.verify(Engine("docker", dry_run=True), given)
    with pytest.raises(ConfigError, match="is not readable"):    # the row no-home is started under a uid that no image knows
        verify.verify(Engine("docker", dry_run=True), given._replace(harsh=True))


# --------------------------------------------------------------------------------------------------------- what is judged


@pytest.fixture
def case(prepare):
    """A case with this status and log, a file `failure`, and these files in model/."""
    space, tree = prepare("training")

    def make(status=0, log="", failure="", models=(), acted=None, templates=NO_TEMPLATES, row="no-network"):
        path = space.output / "ymir-executor-out.log"
        path.write_text(log, encoding="utf-8")
        for name, text in (("output/failure", failure), *((f"model/{name}", "x") for name in models)):
            if text:
                (tree / name).write_text(text)
        job = _platforms.Job(space.root, space.root, ["training"], "t1", ROWS[row], {}, 0, None,
                             _img_man.ImgMan(space.root, 2, templates, ()))
        ended = _container.Ended(status, 1.0, None, path, acted, True)
        return _platforms.PLATFORMS["ti"].judged(job, space, ended)

    return make


def test_a_training_of_an_image_without_templates(case):
    made, remark = case(models=["model.pkl"])
    assert _judge.always(made) is None and _judge.succeeds(made) is None
    assert "no result.yaml" in remark


def test_an_image_with_templates_owes_result_yaml(case):
    made, remark = case(models=["model.pkl"], templates=TEMPLATES)
    assert _judge.succeeds(made).why.startswith("T101: result.yaml") and remark == ""


def test_no_model(case):
    assert _judge.succeeds(case()[0]).why == "O101: model: it is empty"


def test_a_failure_is_told_by_its_file(case):
    made = case(1, "a line\n", "300103 OOM: out of memory\nTraceback\n")[0]
    assert _judge.succeeds(made).why == "it ended with 1: 300103 OOM: out of memory"
    assert made.told == "300103 OOM: out of memory\nTraceback\n\na line"
    assert _judge.succeeds(case(2, "the last line\n")[0]).why.startswith("it ended with 2")


def test_success_with_a_failure_file(case):
    assert "ended with 0 and left output/failure: why" in _judge.always(case(0, "", "why\n", ["m"])[0]).why


@pytest.mark.parametrize("status,log,said", [
    (127, 'docker: Error: exec: "train": executable file not found in $PATH: unknown.\n', "there is no executable `train` on the PATH"),
    (126, 'docker: Error: exec: "train": permission denied: unknown.\n', "`train` cannot be started"),
    (1, "exec /usr/local/bin/train: no such file or directory", "`train` cannot be started")])
def test_no_train(case, status, log, said):
    fault = _judge.always(case(status, log)[0])
    assert said in fault.why
    assert "docker run IMAGE train" in fault.remedy and "/usr/local/bin" in fault.remedy and "chmod 755" in fault.remedy


@pytest.mark.parametrize("status,models,said", [
    (143, ["m"], None), (0, ["m"], None), (143, [], "model/ is empty"), (137, ["m"], "killed it after ten seconds"),
    (1, ["m"], "as if it had failed")])
def test_a_stop(case, status, models, said):
    fault = _judge.stops_with_model(case(status, "", "", models, acted=1.0)[0])
    assert (fault is None) if said is None else said in fault.why


def test_a_job_that_had_nothing_to_save(case):
    made = case(143, acted=1.0)[0]
    late = made._replace(ended=made.ended._replace(seconds=_container.MODEL_SECONDS + 1.0))
    assert "had saved no model when" in _judge.not_judgeable(late, True)
    assert _judge.not_judgeable(made, True) is None    # it had one, and removed it
    assert _judge.not_judgeable(case(143, acted=1.0, models=["m"])[0]._replace(ended=late.ended), True) is None


def test_a_kill_is_judged_without_monitor_txt(case):
    assert _judge.survives_kill(case(137, acted=1.0, models=["m"])[0]) is None
    assert "torn" in _judge.survives_kill(case(137, acted=1.0, models=["result.yaml"])[0]).why


def test_no_gpu(case):
    assert "O101" in _judge.does_without_gpu(case(0)[0]).why
    assert "says why" in _judge.does_without_gpu(case(1, "KeyError: 3\n")[0]).why
    assert _judge.does_without_gpu(case(1, "", "300102 NO_GPU: there is none\n")[0]) is None


def test_what_a_full_volume_held(case, prepare, tmp_path):
    full = tmp_path / "task" / "full"
    full.mkdir()
    (full / "result.yaml").write_text("a: [")
    space = _opt_ml.folders(tmp_path / "task", "t1")
    made = case(1, "No space left on device\n", models=["m"], row="full-disk")[0]
    _platforms.PLATFORMS["ti"].filled(space)
    assert made.has_result and "torn" in _judge.says_full(made).why
    assert {one.path for one in made.errors} == {str(full / "result.yaml")}


def test_when_a_job_is_in_the_middle(prepare, tmp_path, data):
    space, tree = prepare("training")
    for templates, names in ((NO_TEMPLATES, ["w.pt"]), (TEMPLATES, ["w.pt", "result.yaml"])):
        job = _platforms.Job(tmp_path, data, ["training"], "t", ROWS["stop"], {}, 0, None, _img_man.ImgMan(tmp_path, 2, templates, ()))
        ready = _platforms.PLATFORMS["ti"].ready(job, space)
        for name in names:
            assert not ready()
            (tree / "model" / name).write_text("x")
        assert ready()
        (tree / "model" / "w.pt").unlink()


def test_rows_left_out_are_no_fault():
    row = verify.RowResult("a", verify.PASSED)
    assert verify.exit_code([row, row._replace(status=verify.LEFT_OUT)]) == 0
    assert verify.exit_code([row._replace(status=verify.LEFT_OUT)]) == 1
