"""Real trainings on a small dataset, in processes of their own; the platform's rules judge what they leave."""
from __future__ import annotations

import os
import re

import pytest
import torch
import yaml

from tests.contract import platform_rules
from tests.demo.conftest import log, run, stop_at
from ymir_exc.host import sample
from ymir_exc.integrations import torchrun


def candidates(space):
    return (space.input / "candidate-index.tsv").read_text(encoding="utf-8").splitlines()


def result(space):
    return yaml.safe_load((space.output / "models/result.yaml").read_text(encoding="utf-8"))


def test_train_then_mine_and_infer_then_train_on(prepare):
    training = prepare("training", root="training", params={"max_seconds": "0", "epochs": "24", "input_size": "128", "evaluations": "2"})
    assert run(training).status == 0, log(training)
    assert platform_rules.accept_training(training.output).notices == []
    platform_rules.accept_monitor(training.output, final="done")
    _, tags = platform_rules.accept_tensorboard(training.output)
    assert {"loss/classes", "loss/boxes", "learning rate", "images per second", "mAP", "mAP50"} <= tags
    assert any("picture" in tag or "predictions" in tag for tag in tags)
    written = result(training)
    assert written["model_stages"][written["best_stage_name"]]["mAP50"] > 0.5    # it reached 0.7 when this was written

    both = prepare("mining", "infer", root="both", model=training.output)
    assert run(both).status == 0, log(both)
    scores = [score for _, score in platform_rules.accept_mining(both.output, candidates(both))]
    assert len(set(scores)) > 1
    detections = platform_rules.accept_detection(both.output, candidates(both), sample.CLASS_NAMES)
    assert any(detections.values())
    for boxes in detections.values():
        assert all(b["box"]["x"] >= 0 and b["box"]["x"] + b["box"]["w"] <= 192 and b["box"]["w"] >= 1 for b in boxes)
    platform_rules.accept_monitor(both.output, final="done")

    again = prepare("training", root="again", model=training.output,
                    params={"max_seconds": 0, "epochs": 1, "input_size": 128, "learning_rate": 1e-6, "evaluations": 1})
    assert run(again).status == 0, log(again)
    assert "known classes: gear, fish, mug" in log(again)
    assert result(again)["model_stages"]["epoch_1"]["mAP50"] > 0.3    # it began where the first one ended


def test_a_stop_before_the_first_evaluation_keeps_what_was_learned(prepare):
    space = prepare("training", params={"max_seconds": 0, "epochs": 1000, "input_size": 64, "evaluations": 1})
    stop_at(space, 0.005)
    assert "stopped by SIGTERM" in (space.output / "monitor.txt").read_text(encoding="utf-8").splitlines()[0], log(space)
    platform_rules.accept_monitor(space.output, final="error")
    accepted = platform_rules.accept_training(space.output)
    assert accepted.best_stage_name.startswith("epoch_")


def test_a_stopped_training_goes_on(prepare):
    space = prepare("training", params={"max_seconds": 0, "epochs": 40, "input_size": 64, "evaluations": 2})
    stop_at(space, 0.3)
    stopped = result(space)["model_stages"]
    assert "the training goes on" in log(space), log(space)
    assert run(space).status == 0, log(space)
    assert "the training goes on in epoch" in (space.output / "ymir-executor-out.log").read_text(encoding="utf-8")
    stages = result(space)["model_stages"]
    assert set(stopped) < set(stages)
    assert "epoch_41" in stages    # the one that was stopped counts
    best = result(space)["best_stage_name"]
    assert stages[best]["mAP"] == max(stage["mAP"] for stage in stages.values())
    platform_rules.accept_training(space.output)
    platform_rules.accept_monitor(space.output, final="done")
    assert sorted(path.name for path in space.output.iterdir() if path.name.startswith(".")) == []


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="each process needs a core")
def test_two_processes_leave_what_one_leaves(prepare):
    params = {"max_seconds": 0, "epochs": 2, "input_size": 64, "evaluations": 1}
    files, steps = [], []
    for processes in (1, 2):
        space = prepare("training", root=f"of {processes}", params={**params, "cpu_processes": processes})
        assert run(space).status == 0, log(space)
        platform_rules.accept_training(space.output)
        platform_rules.accept_monitor(space.output, final="done")
        files.append(sorted(str(path.relative_to(space.output)) for path in (space.output / "models").rglob("*")))
        text = (space.output / "ymir-executor-out.log").read_text(encoding="utf-8")
        steps.append(sorted(set(re.findall(r"(\d+) images to train on", text))))
        assert text.count("epoch_2: mAP") == 1    # one of them evaluates
    assert files[0] == files[1]
    assert steps == [["120"], ["60"]]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="each process needs a core")
def test_two_processes_see_what_one_sees(prepare, tmp_path):
    training = prepare("training", root="training", params={"max_seconds": 0, "epochs": 6, "input_size": 64, "evaluations": 1})
    assert run(training).status == 0, log(training)
    found = []
    for processes in (1, 2):
        params = {"cpu_processes": processes, "batch_size": 1}
        both = prepare("mining", "infer", root=f"of {processes}", model=training.output, params=params)
        given = candidates(both)
        for number in range(torchrun.IMAGES_WORTH_A_PROCESS):    # a second process does not start for fewer
            os.link(given[number % len(given)], copy := both.input / f"copy-{number}.jpg")
            given.append(str(copy))
        (both.input / "candidate-index.tsv").write_text("\n".join(given) + "\n", encoding="utf-8")
        assert run(both).status == 0, log(both)
        assert (both.output / "ymir-executor-out.log").read_text(encoding="utf-8").count("mining+infer starts") == processes
        platform_rules.accept_monitor(both.output, final="done")
        found.append([(both.output / name).read_bytes() for name in ("result.tsv", "infer-result.json")])
        assert sorted(path.name for path in both.output.iterdir() if path.name.startswith(".")) == []
    paths = [[line.rpartition(b"\t")[0].rpartition(b"/")[2] for line in ranking.splitlines()] for ranking, _ in found]
    assert paths[0] == paths[1]
    assert found[0][1] == found[1][1]


def edit(space, **changes):
    config = yaml.safe_load((space.input / "config.yaml").read_text(encoding="utf-8"))
    config.update(changes)
    (space.input / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def unreadable_images(space):
    lines = (space.input / "train-index.tsv").read_text(encoding="utf-8").splitlines()
    for number in range(0, len(lines), 5):
        broken = space.input / f"broken-{number}.jpg"
        broken.write_bytes(b"no image")
        lines[number] = f"{broken}\t" + lines[number].split("\t")[1]
    (space.input / "train-index.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def only_image_unreadable(space):
    unreadable_images(space)
    index = space.input / "train-index.tsv"
    index.write_text(index.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")


def unreadable_to_judge_by(space):
    (space.input / "broken.jpg").write_bytes(b"no image")
    annotation = (space.input / "val-index.tsv").read_text(encoding="utf-8").splitlines()[0].split("\t")[1]
    (space.input / "val-index.tsv").write_text(f"{space.input}/broken.jpg\t{annotation}\n", encoding="utf-8")


@pytest.mark.parametrize(("spoil", "code", "status", "words"), [
    (lambda space: edit(space, class_names=None), 300001, 4, "class_names"),
    (lambda space: edit(space, epochs="many"), 300001, 4, "epochs"),
    (lambda space: (space.input / "train-index.tsv").write_text(""), 300002, 4, "train-index.tsv"),
    (lambda space: (space.input / "val-index.tsv").unlink(), 300002, 4, "val-index.tsv"),
    (unreadable_images, 300003, 1, "images cannot be read, more than max_broken_ratio 0.1"),
    (only_image_unreadable, 300003, 1, "1 of 1 images cannot be read"),
    (unreadable_to_judge_by, 300003, 1, "1 of 1 images cannot be read"),
    (lambda space: edit(space, seed=10**30), 300001, 4, "seed"),
    pytest.param(lambda space: edit(space, gpu_id="0"), 300102, 1, "gpu_id",
                 marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")),
    (lambda space: edit(space, learning_rate=1e30), 300201, 1, "learning_rate"),
])
def test_each_fault_has_its_code_and_its_reason(prepare, spoil, code, status, words):
    space = prepare("training", params={"max_seconds": 0, "epochs": 3, "input_size": 64})
    spoil(space)
    assert run(space).status == status, log(space)
    platform_rules.accept_monitor(space.output, final="error")
    first = (space.output / "monitor.txt").read_text(encoding="utf-8").splitlines()[0]
    assert f"\t{code}\t" in first
    assert words in first
