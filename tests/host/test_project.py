"""New projects: each kind builds nothing here, but runs over a sample dataset for each task, and what it leaves is taken."""
from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.contract import platform_rules
from tests.supervised import ROOT
from ymir_exc import cli
from ymir_exc.errors import ConfigError
from ymir_exc.host import project, runner, sample
from ymir_exc.host.findings import Severity

IMAGES = 6
pytest.importorskip("jinja2")

COMBINATIONS = [(kind, framework) for framework in project.FRAMEWORKS for kind in project.KINDS]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    pytest.importorskip("PIL")
    root = tmp_path_factory.mktemp("data") / "a dataset 数据"
    sample.write_sample(root, images=16, candidates=IMAGES, size=64)
    return root


@pytest.fixture(scope="module")
def masks(data, tmp_path_factory):
    """The same with a mask for each object, as the platform exports it for segmentation: polygons and run lengths in turn."""
    from ymir_exc import _rle
    root = tmp_path_factory.mktemp("data") / "masks"
    sample.write_sample(root, images=16, candidates=IMAGES, size=64, export_format="coco")
    path = root / "in" / "annotations" / "coco-annotations.json"
    coco = json.loads(path.read_text(encoding="utf-8"))
    for number, item in enumerate(coco["annotations"]):
        x, y, w, h = item["bbox"]
        middle = [x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h / 2]
        item["segmentation"] = [middle] if number % 2 else _rle.from_polygons([middle], 64, 64)
    path.write_text(json.dumps(coco), encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run(folder, data, out, tasks, **options):
    found = runner.run(runner.Job(data, tasks, (sys.executable, str(folder / "app" / "start.py")), out, folder / "img-man", **options))
    assert found.run.status == 0, found.run.log.read_text(encoding="utf-8")
    assert [f"{one.place}: {one.message}" for one in found.findings if one.rule.severity != Severity.NOTE] == []
    return found


def quick(framework):
    return {"input_size": 64, **({"epochs": 12, "batch_size": 4, "learning_rate": 0.01} if framework == "torch" else {})}


@pytest.mark.parametrize("kind,framework", COMBINATIONS)
def test_every_combination_runs_for_every_task(tmp_path, data, masks, kind, framework):
    if framework == "torch":
        pytest.importorskip("torch")
    folder = tmp_path / "a project 项目"
    made = project.write(folder, kind=kind, framework=framework)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(made.files)
    source = data if kind == "det" else masks
    trained = run(folder, source, tmp_path / "training", ("training",), params=quick(framework))
    metric = {"det": "mAP", "semantic-seg": "mIoU"}.get(kind, "maskAP")
    assert platform_rules.accept_training(trained.space.output, primary=metric).stages
    candidates = (trained.space.root.parent / "both" / "in" / "candidate-index.tsv")
    for tasks in (("mining",), ("infer",), ("mining", "infer")):
        name = "both" if len(tasks) > 1 else tasks[0]
        done = run(folder, source, tmp_path / name, tasks, model=trained.space.output, params={"min_score": 0.01})
        found = runner.figures(done)
        assert {part: found[part]["images"] for part in tasks} == dict.fromkeys(tasks, IMAGES)
        assert "infer" not in tasks or found["infer"]["objects"] > 0, "a model that finds nothing has its masks and boxes never tried"
    platform_rules.accept_mining(tmp_path / "both" / "out", candidates.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("framework", project.FRAMEWORKS)
def test_a_gpu_that_is_not_there_is_missed(tmp_path, data, framework):
    if framework == "torch":
        pytest.importorskip("torch")
    folder = tmp_path / "made"
    project.write(folder, framework=framework)
    program = (sys.executable, str(folder / "app" / "start.py"))
    found = runner.run(runner.Job(data, ("training",), program, tmp_path / "run", folder / "img-man", params={"gpu_id": "99"}))
    assert (found.run.status, found.run.record.state, found.run.record.return_code) == (1, 4, 300102)


@pytest.mark.parametrize("kind,framework", [("det", "none"), ("instance-seg", "torch")])
def test_its_own_test_passes(tmp_path, kind, framework):
    if framework == "torch":
        pytest.importorskip("torch")
    project.write(tmp_path / "made", kind=kind, framework=framework)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(argv, cwd=tmp_path / "made", capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_it_learns(tmp_path):
    """With objects that can be told by a glance, even the small model finds nearly all of them."""
    np, Image = pytest.importorskip("numpy"), pytest.importorskip("PIL.Image")
    data = tmp_path / "easy"
    sample.write_sample(data, images=16, candidates=4, size=64)
    place = 12, 20, 43, 47
    for picture in (data / "in" / "assets").rglob("*.*"):
        pixels = np.full((64, 64, 3), 230, np.uint8)
        pixels[place[1]:place[3] + 1, place[0]:place[2] + 1] = (200, 30, 30)
        Image.fromarray(pixels).save(picture)
    for label in (data / "in" / "annotations").rglob("*.txt"):
        label.write_text(f"1, {', '.join(map(str, place))}, -1.0, 0.0\n")
    project.write(tmp_path / "made", framework="none")
    trained = run(tmp_path / "made", data, tmp_path / "training", ("training",), params={"input_size": 64})
    assert runner.figures(trained)["training"]["stages"]["final"]["mAP"] > 0.9


def of_app(folder, program):
    """What a program prints that uses the modules of a project."""
    argv = [sys.executable, "-c", f"import json, sys; sys.path.insert(0, {str(folder / 'app')!r})\n{program}"]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    return json.loads(done.stdout)


def test_average_precision(tmp_path):
    """By hand: a share of the objects, each with the best precision that is reached at its recall or a higher one."""
    project.write(tmp_path / "made", framework="none")
    one, other = (0, 0, 10, 10), (20, 20, 30, 30)
    cases = [([(0, one)], [(0.9, 0, one)], 1), ([(0, one), (1, one)], [(0.9, 0, one), (0.8, 0, one)], 0.5),
             ([(0, one)], [(0.9, 0, other), (0.8, 0, one)], 0.5), ([(0, one), (0, other)], [(0.8, 0, one), (0.9, 0, other)], 1),
             ([(0, one), (0, other)], [(0.9, 0, one), (0.8, 1, one), (0.7, 0, other)], (1 + 2 / 3) / 2), ([(0, one)], [], 0),
             ([(0, one)], [(0.9, 0, (0, 0, 10, 4.9))], 0), ([(0, one)], [(0.9, 0, (0, 0, 10, 5.1))], 1)]
    found = of_app(tmp_path / "made", "from score import average_precision\n"
                   f"print(json.dumps([average_precision(truths, found) for truths, found, _ in {cases!r}]))")
    assert found == pytest.approx([expected for _, _, expected in cases])


def test_masks_are_read_as_they_were_written(tmp_path):
    np = pytest.importorskip("numpy")
    from ymir_exc import _rle
    project.write(tmp_path / "made", kind="instance-seg", framework="none")
    random = np.random.RandomState(0)
    masks = [random.rand(37, 53) < share for share in (0.0, 0.02, 0.5, 1.0)] + [np.add.outer(np.arange(37), np.arange(53)) % 40 < 30]
    given = [_rle.encode(mask) for mask in masks]
    given.append({"size": given[2]["size"], "counts": _rle.text_to_counts(given[2]["counts"])})
    found = of_app(tmp_path / "made", "from masks import mask_of\n"
                   f"print(json.dumps([mask_of(one, 53, 37).astype(int).tolist() for one in {given!r}]))")
    assert [np.array_equal(one, mask) for one, mask in zip(found, [*masks, masks[2]])] == [True] * 6
    (polygon,) = of_app(tmp_path / "made", "from masks import mask_of\n"
                        "print(json.dumps([mask_of([[2, 3, 10, 3, 10, 8, 2, 8]], 53, 37).sum().item()]))")
    assert polygon == 9 * 6    # Pillow draws the outline too


def test_a_text_chooses_among_the_classes(tmp_path, masks):
    folder = tmp_path / "made"
    project.write(folder, kind="multi-modal", framework="none")
    trained = run(folder, masks, tmp_path / "training", ("training",), params=quick("none"))
    counts = {}
    for prompt in ("", "gear", "gear; fish;mug", "nothing of the kind"):
        done = run(folder, masks, tmp_path / f"infer {len(counts)}", ("infer",), model=trained.space.output,
                   params={"min_score": 0.01, "text_prompt": prompt})
        content = json.loads((done.space.output / "infer-result.json").read_text(encoding="utf-8"))
        counts[prompt] = [sum(one["category_id"] == number for one in content["annotations"]) for number in range(3)]
    assert counts[""] == counts["gear; fish;mug"] and sum(counts[""]) > 0
    assert counts["gear"] == [counts[""][0], 0, 0]
    assert counts["nothing of the kind"] == [0, 0, 0]


@pytest.mark.parametrize("tasks,absent", [
    (["training"], ["app/predict.py", "img-man/mining-template.yaml", "img-man/infer-template.yaml"]),
    (["training", "infer"], ["img-man/mining-template.yaml"]), (["infer", "training", "mining"], [])])
@pytest.mark.parametrize("kind,framework", COMBINATIONS)
def test_only_what_is_supported_is_there(tmp_path, kind, framework, tasks, absent):
    made = project.write(tmp_path / "made", kind=kind, framework=framework, tasks=tasks)
    assert not set(absent) & set(made.files)
    assert ("app/masks.py" in made.files) == (kind != "det")
    templates = {path.name for path in (tmp_path / "made" / "img-man").iterdir()}
    assert templates == {"manifest.yaml", *(f"{task}-template.yaml" for task in tasks)}
    manifest = yaml.safe_load((tmp_path / "made" / "img-man" / "manifest.yaml").read_text(encoding="utf-8"))
    assert manifest["object_type"] == project.KINDS[kind]
    for file in made.files:
        text = (tmp_path / "made" / file).read_text(encoding="utf-8")
        assert text.endswith("\n") and "{{" not in text and "{%" not in text, file
        if file.endswith(".py"):
            ast.parse(text)
            assert max(map(len, text.splitlines())) <= 140, file
            assert "\n\n\n\n" not in text, file


def test_every_python_file_passes_the_linter(tmp_path):
    pytest.importorskip("ruff")
    for kind, framework in COMBINATIONS:
        project.write(tmp_path / f"{kind}-{framework}", kind=kind, framework=framework)
    argv = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "140", "--target-version", "py38",
            "--select", "E,F,W,B,C4", "."]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_words_that_mean_nothing(tmp_path):
    with pytest.raises(ConfigError, match="no kind of task 'pose'"):
        project.write(tmp_path / "x", kind="pose")
    with pytest.raises(ConfigError, match="no framework 'jax'"):
        project.write(tmp_path / "x", framework="jax")
    for tasks in ([], ["mining"], ["training", "label"]):
        with pytest.raises(ConfigError, match="cannot have the tasks"):
            project.write(tmp_path / "x", tasks=tasks)
    assert not (tmp_path / "x").exists()


def test_a_folder_that_holds_something(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".hidden").touch()
    (tmp_path / "file").touch()
    assert cli.main(["init", str(tmp_path / "full")]) == 4
    assert cli.main(["init", str(tmp_path / "file")]) == 4
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert cli.main(["init", str(tmp_path / "link")]) == 4
    err = capsys.readouterr().err.splitlines()
    assert "is not empty" in err[0] and "is not a folder" in err[1] and "is not a folder" in err[2] and len(err) == 3
    assert [path.name for path in (tmp_path / "full").iterdir()] == [".hidden"]


def test_what_to_do_next(tmp_path, capsys):
    folder = tmp_path / "My Detector 1"
    assert cli.main(["init", str(folder), "--framework", "none"]) == 0
    said = capsys.readouterr()
    assert f"cd '{folder}'" in said.out and said.err == ""
    for command in ("ymir-exc sample", "ymir-exc run", "ymir-exc build . -t my-detector-1", "ymir-exc verify my-detector-1", "pytest"):
        assert command in said.out
    assert "docker build -t my-detector-1 ." in (folder / "README.md").read_text(encoding="utf-8")
    assert cli.main(["init", str(tmp_path / "中文"), "--json", "--tasks", "training"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "my-image" and "app/start.py" in told["files"] and ".dockerignore" in told["files"]
    assert not any("mining" in command for command in told["commands"])
    assert told["commands"][1] == "pip install torch pytest" and "pip install pytest\n" in said.out
    assert max(map(len, said.out.splitlines()[1:])) < 105, "each fits on a line"


def test_the_way_into_a_folder_that_looks_like_an_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project.write(Path("-made"), framework="none").commands[0][0] == "cd ./-made"


@pytest.mark.parametrize("short,kind", [("seg", "semantic-seg"), ("ins", "instance-seg")])
def test_short_names_of_the_kinds(tmp_path, short, kind):
    assert cli.main(["init", str(tmp_path / "one"), "--task", short, "--framework", "none"]) == 0
    project.write(tmp_path / "two", kind=short, framework="none")
    for name in ("one", "two"):
        manifest = yaml.safe_load((tmp_path / name / "img-man" / "manifest.yaml").read_text(encoding="utf-8"))
        assert manifest["object_type"] == project.KINDS[kind]


def test_the_readme_s_commands_work(tmp_path):
    """Those for this machine, but for what is installed by then, and with fewer images."""
    folder = tmp_path / "made"
    project.write(folder, framework="none")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    lines = readme.split("```sh\n")[1].split("```")[0].splitlines()
    commands = [line.replace("--images 40", "--images 12") for line in lines if line.startswith("ymir-exc")]
    assert len(commands) == 3
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ymir-exc").write_text(f'#!/bin/sh\nexec {sys.executable} -m ymir_exc "$@"\n')
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for name in ("ymir-exc", "python"):
        (tmp_path / "bin" / name).chmod(0o755)
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, env=environ, check=False)
        assert done.returncode == 0, done.stderr
    assert [path.name for path in Path(folder, "ymir-runs").iterdir() if path.name.startswith("mining+infer")]
