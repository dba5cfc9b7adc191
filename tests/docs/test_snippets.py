"""What the pages of docs/ show works: programs and commands are run, files are judged by the platform's rules."""
from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("numpy")
pytest.importorskip("PIL")
pytest.importorskip("rich")
pytest.importorskip("jinja2")

from tests.contract import platform_rules
from tests.docs.pages import BOTH, PAGES, ROOT, TI_EXAMPLES, code, hooks, inline_code
from tests.test_readme import without_comments
from ymir_exc import commands, env
from ymir_exc.host import sample, workspace
from ymir_exc.host.check._templates import check_templates

SHELL = ("sh", "bash")    # `sh` is run here; `bash` needs an engine, the network or a person, and is only read


# ---------------------------------------------------------------------------------------------------------------------- Python

@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "a dataset 数据"
    sample.write_sample(out, images=8, candidates=4)
    return out


@pytest.fixture(scope="session")
def trained(tmp_path_factory, dataset) -> Path:
    """What a training left, for the tasks that need a model."""
    made = workspace.prepare(tmp_path_factory.mktemp("docs") / "trained", dataset, ["training"])
    run("from ymir_exc import result_writer, util\n"
        "open(util.get_merged_config().ymir.output.models_dir + '/best.pt', 'wb').write(b'weights')\n"
        "result_writer.write_model_stage('best', ['best.pt'], {'mAP': 0.5})", made)
    return made.output


def run(program, task, *, status=0):
    """Run a snippet as the task's program, under the supervisor."""
    file = task.root / "program.py"
    file.write_text(program, encoding="utf-8")
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(task.env_file), "YMIR_EXC_TI_HOME": str(task.root / "jobs")}
    done = subprocess.run([sys.executable, "-m", "ymir_exc", "run", "--", sys.executable, str(file)], env=environ, cwd=task.root,
                          capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == status, done.stderr
    return done


def snippets():
    """Each Python block of the English pages, and the task that it is written for; those of the Chinese ones are the same.

    Without those that start containers, or run in them.
    """
    elsewhere = {path.read_text(encoding="utf-8") for path in TI_EXAMPLES.rglob("*.py")}
    for page in PAGES:
        for number, one in enumerate(code(f"en/{page}", "python")):
            if one.text in elsewhere:
                continue
            reads_labels = "TRAINING" in one.text or "convert_ymir" in one.text or "write_model_stage" in one.text
            trains = '"training": train' in one.text or reads_labels
            examines = "CANDIDATE" in one.text or "candidates(" in one.text
            for tasks in [["training"]] * trains + [["mining", "infer"]] * examines or [["training"]]:
                yield pytest.param(page, number, tasks, id=f"{page}-{number}-{'+'.join(tasks)}")


@pytest.mark.parametrize(("page", "number", "tasks"), list(snippets()))
def test_python_runs(page, number, tasks, dataset, trained, tmp_path):
    program = code(f"en/{page}", "python")[number].text
    if "import torch" in program:
        pytest.importorskip("torch")
    task = workspace.prepare(tmp_path / "task", dataset, tasks, model=trained if "mining" in tasks else None)
    fails = "raise MemoryError" in program
    done = run(program, task, status=1 if fails else 0)
    platform_rules.accept_monitor(task.output, final="error" if fails else "done")
    assert "Warning" not in done.stderr
    if fails:
        told = platform_rules.parse_monitor((task.output / "monitor.txt").read_text(encoding="utf-8"))
        assert (told.return_code, told.message) == (300103, "MemoryError: CUDA out of memory: the batch is too large")
    if "write_model_stage" in program and "training" in tasks:
        platform_rules.accept_training(task.output)
    candidates = [path for path, _ in _index(task)]
    if "ranking" in program or "write_mining_result" in program:
        _if_mining(tasks, platform_rules.accept_mining, task.output, candidates)
    classes = yaml.safe_load((task.input / "config.yaml").read_text(encoding="utf-8"))["class_names"]
    if "InferResultWriter" in program:
        _if_mining(tasks, platform_rules.accept_detection, task.output, candidates, classes)
    if "SegmentationResultWriter" in program:
        platform_rules.accept_segmentation(task.output, candidates, classes)


def _index(task):
    path = task.input / "candidate-index.tsv"
    return [line.split("\t") * 2 for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _if_mining(tasks, judge, *args):
    if "mining" in tasks:
        judge(*args)


def test_the_whole_program_does_each_task_alone(dataset, trained, tmp_path):
    program = next(one.text for one in code("en/make-an-image.md", "python") if "def mine(" in one.text)
    for name, judge in (("mining", platform_rules.accept_mining), ("infer", platform_rules.accept_detection)):
        task = workspace.prepare(tmp_path / name, dataset, [name], model=trained)
        run(program, task)
        classes = [["gear", "fish", "mug"]] if name == "infer" else []
        judge(task.output, [path for path, _ in _index(task)], *classes)


def test_commented_snippets_say_what_comes():
    """A snippet that shows its output in a comment is run above; here its promise about the tree of errors holds."""
    printed = subprocess.run([sys.executable, "-c", code("en/errors.md", "python")[0].text], capture_output=True, text=True, check=True)
    assert printed.stdout.startswith("300002 the validation set has no cat (choose")


# ----------------------------------------------------------------------------------------------------------------------- shell

@pytest.mark.parametrize("page", [page for page in PAGES if code(f"en/{page}", "sh")])
def test_shell_runs(page, tmp_path):
    """A page's commands in their order, in one folder."""
    binary = tmp_path / "bin"
    binary.mkdir()
    for name, words in (("ymir-exc", f"{sys.executable} -m ymir_exc"), ("python", sys.executable)):
        (binary / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
        (binary / name).chmod(0o755)
    folder = tmp_path / "a folder 目录"
    folder.mkdir()
    script = "set -eu\n" + "".join(one.text for one in code(f"en/{page}", "sh"))
    environ = {**os.environ, "PATH": f"{binary}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environ.pop("DEFAULT_ENV_FILE_PATH", None)
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=environ, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    AFTER.get(page, lambda *_: None)(folder, done)


def _after_quick_start(folder, done):
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")
    platform_rules.accept_training(folder / "runs/training/out")
    assert "mAP" in done.stdout
    assert done.stdout.rstrip().endswith("exit status 4")
    assert "85.2" in done.stdout


def _after_base_image(_, done):
    assert done.stdout.splitlines() == ["hello", "exit status 1"]
    assert "300103" in done.stderr


def _after_tencent_ti(folder, done):
    shown = code("en/tencent-ti.md", "text")[0].text.splitlines()
    assert done.stdout.splitlines()[:5] == [f"{folder}/job/input/data/train ['--epochs', '3']", "success", *shown[:3]]
    assert done.stdout.splitlines()[-1] == "MemoryError: the batch is too large"


AFTER = {"quick-start.md": _after_quick_start, "base-image.md": _after_base_image, "tencent-ti.md": _after_tencent_ti}


def _lines(page):
    """Every `ymir-exc` that a reader could type."""
    scripts = (re.sub(r"<<'YAML'\n.*?\nYAML|\\\n", "", one.text, flags=re.DOTALL) for one in code(page, *SHELL))
    shown = [line for script in scripts for line in script.splitlines()]
    for line in [*shown, *(text for text in inline_code(page) if text.startswith("ymir-exc "))]:
        for part in without_comments(line).split("||"):
            words = shlex.split(part)
            if words[:1] == ["ymir-exc"]:
                yield words[1:]
    for one in code(page, "dockerfile"):
        for argv in map(json.loads, re.findall(r"^CMD (\[.*\])$", one.text, re.MULTILINE)):
            assert argv[0] == "ymir-exc", argv
            yield argv[1:]


@pytest.mark.parametrize("page", BOTH)
def test_commands_are_accepted(page, capsys):
    for words in _lines(page):
        if words in (["--help"], ["COMMAND", "--help"]):
            continue
        assert words[0] in commands.COMMANDS, words
        before, _, program = _cut(words[1:], "--")
        assert words[0] == "run" or not program, words
        try:
            hooks.parser_of(words[0]).parse_args(before)
        except SystemExit:    # a sentence names a command, or an option of it, without the rest of the line
            assert "are required" in capsys.readouterr().err, words


def _cut(words, at):
    place = words.index(at) if at in words else len(words)
    return words[:place], words[place:place + 1], words[place + 1:]


def test_shell_blocks_are_shell():
    for page in BOTH:
        for one in code(page, *SHELL):
            done = subprocess.run(["bash", "-n", "-c", one.text], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{page}: {done.stderr}"


# ------------------------------------------------------------------------------------------------------------ files of the contract

def test_the_env_yaml_of_the_contract(tmp_path):
    path = tmp_path / "env.yaml"
    path.write_text(_block("contract-input.md", "run_training"), encoding="utf-8")
    made = env.pickled(str(path))
    assert made
    shown = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(shown["input"]) == set(env.INPUT_DEFAULTS)
    assert set(shown["output"]) == set(env.OUTPUT_DEFAULTS)
    assert all(shown["output"][key] == value for key, value in env.OUTPUT_DEFAULTS.items())
    assert env.task_files(str(path)).task_id == shown["task_id"]


def test_the_result_yaml_of_the_contract(tmp_path):
    models = tmp_path / "models"
    stages = [f"{stage}/{name}" for stage in ("epoch_10", "epoch_20") for name in ("best.pt", "train_cfg.yaml")]
    for name in [*stages, "attachments/curves/loss.png"]:
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).write_bytes(b"x")
    (models / "result.yaml").write_text(_block("contract-output.md", "best_stage_name"), encoding="utf-8")
    read = platform_rules.accept_training(tmp_path)
    assert not read.notices
    assert read.best_stage_name == "epoch_20"


def test_the_results_of_the_contract(tmp_path):
    names = ["/in/assets/3f/4c1f.jpg", "/in/assets/a0/77b2.jpg"]
    (tmp_path / "infer-result.json").write_text(_block("contract-output.md", '"detection"'), encoding="utf-8")
    assert set(platform_rules.accept_detection(tmp_path, names, ["cat"])) == {"4c1f.jpg", "77b2.jpg"}
    (tmp_path / "infer-result.json").write_text(_block("contract-output.md", '"categories"'), encoding="utf-8")
    platform_rules.accept_segmentation(tmp_path, names[:1], ["cat"])
    (tmp_path / "result.tsv").write_text(_block("contract-output.md", "/in/assets"), encoding="utf-8")
    assert platform_rules.accept_mining(tmp_path, names) == [(names[0], 0.93), (names[1], 0.41)]
    record = platform_rules.parse_monitor(_block("contract-progress.md", "1700000000.123456"))
    assert (record.percent, record.state) == (0.42, 2)


def test_templates_of_the_guide_are_right(tmp_path):
    for one in code("en/make-an-image.md", "yaml"):
        name = re.match(r"# img-man/(\S+)\n", one.text)[1]
        (tmp_path / name).write_text(one.text, encoding="utf-8")
    assert [finding for finding in check_templates(tmp_path) if finding.rule.severity != "note"] == []


def _block(page, words):
    return next(one.text for one in code(f"en/{page}") if words in one.text)
