"""The demo image under the platform's exact flags, its outputs judged by the platform's rules."""
from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from tests.contract import platform_rules
from tests.docker.conftest import DEMO, TEMPLATES, UID, engine
from ymir_exc.host import launch, sample


def run(space, **options):
    return launch.run_container(space, DEMO, user=UID, network="none", **options)


def candidates(space):
    return (space.input / "candidate-index.tsv").read_text().splitlines()


def last_line(space):
    return launch.tail(space.output / "ymir-executor-out.log", 1)[0]


@pytest.mark.parametrize("name", ["manifest", "training-template", "mining-template", "infer-template"])
def test_the_platform_reads_the_templates(name):
    done = engine("run", "--rm", DEMO, "cat", f"/img-man/{name}.yaml")
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout) == yaml.safe_load((TEMPLATES / f"{name}.yaml").read_text())
    assert isinstance(yaml.safe_load(done.stdout), dict)


def test_train_then_mine_and_infer(prepare):
    """The whole job, as uid 1234, without a network, on a dataset in a folder with a space and Chinese letters."""
    # By epochs, not by time: a slow machine must learn as much. It reached 0.7 when this was written.
    training = prepare("training", root="training", params={"max_seconds": 0, "epochs": 24, "input_size": 128, "evaluations": 2})
    assert run(training).status == 0, "\n".join(launch.tail(training.output / "ymir-executor-out.log", 40))
    result = platform_rules.accept_training(training.output)
    assert result.notices == []
    platform_rules.accept_monitor(training.output, final="done")
    _, tags = platform_rules.accept_tensorboard(training.output)
    assert tags
    written = yaml.safe_load((training.output / "models/result.yaml").read_text())
    assert written["model_stages"][written["best_stage_name"]]["mAP50"] > 0.5

    both = prepare("mining", "infer", root="both", model=training.output)
    assert run(both).status == 0, "\n".join(launch.tail(both.output / "ymir-executor-out.log", 40))
    ranking = platform_rules.accept_mining(both.output, candidates(both))
    assert len({score for _, score in ranking}) > 1
    detections = platform_rules.accept_detection(both.output, candidates(both), sample.CLASS_NAMES)
    assert any(detections.values())
    platform_rules.accept_monitor(both.output, final="done")

    again = prepare("training", root="again", model=training.output, params={"max_seconds": 0, "epochs": 1, "input_size": 128})
    assert yaml.safe_load((again.input / "config.yaml").read_text())["pretrained_model_params"]
    assert run(again).status == 0
    platform_rules.accept_training(again.output)


def test_stop_leaves_a_valid_result(prepare):
    space = prepare("training", params={"max_seconds": 300, "epochs": 1000})
    started = []

    class Stop(Exception):
        pass

    def watch(record, seconds):
        assert seconds < 200
        if (space.output / "models/result.yaml").exists() or (record and record.percent > 0.02):
            started.append(time.monotonic())
            raise Stop

    with pytest.raises(Stop):
        run(space, on_progress=watch)    # which stops the container in order, with docker's ten seconds
    assert time.monotonic() - started[0] < 15
    record = platform_rules.accept_monitor(space.output, final="error")
    reason = (space.output / "monitor.txt").read_text().splitlines()[0]
    assert "stopped by SIGTERM" in reason, record
    assert "killed" not in reason    # it ended by itself, within docker's ten seconds
    platform_rules.accept_training(space.output)
    assert "stopped by SIGTERM" in last_line(space)


def test_a_stopped_training_goes_on(prepare):
    """`docker stop`, then a second container over the same folders."""
    space = prepare("training", params={"max_seconds": 0, "epochs": 60, "input_size": 64, "evaluations": 2})

    class Stop(Exception):
        pass

    def watch(record, seconds):
        assert seconds < 200
        if record and record.percent > 0.3:
            raise Stop

    with pytest.raises(Stop):
        run(space, on_progress=watch)
    stopped = yaml.safe_load((space.output / "models/result.yaml").read_text())["model_stages"]
    assert run(space).status == 0, "\n".join(launch.tail(space.output / "ymir-executor-out.log", 40))
    assert "the training goes on in epoch" in (space.output / "ymir-executor-out.log").read_text()
    result = yaml.safe_load((space.output / "models/result.yaml").read_text())
    assert set(stopped) < set(result["model_stages"])
    assert result["model_stages"][result["best_stage_name"]]["mAP"] == max(stage["mAP"] for stage in result["model_stages"].values())
    platform_rules.accept_training(space.output)
    platform_rules.accept_monitor(space.output, final="done")


def percent(space) -> float:
    fields = (space.output / "monitor.txt").read_text().split("\t")
    return float(fields[2]) if len(fields) > 3 else 0.0


@pytest.mark.parametrize("params", [{"expected_map": 0.5, "idle_seconds": 300}, {"max_seconds": 300, "epochs": 1000, "input_size": 64}])
def test_stop_ends_with_143(prepare, params):
    """`docker stop`, while the demo pretends, and while it trains."""
    space = prepare("training", params=params)
    argv = launch.container_argv(space, DEMO, user=UID, network="none")
    argv.remove("--rm")
    argv.insert(2, "--detach")
    assert engine(*argv[1:]).returncode == 0
    try:
        deadline = time.monotonic() + 60
        while percent(space) < 0.005:    # not before the task itself has begun
            assert time.monotonic() < deadline
            time.sleep(0.1)
        engine("stop", space.task_id, check=True)
        done = engine("inspect", "--format", "{{.State.ExitCode}}", space.task_id, check=True)
        assert done.stdout.strip() == "143"
    finally:
        engine("rm", "--force", space.task_id)
    platform_rules.accept_monitor(space.output, final="error")
    if "expected_map" not in params:
        platform_rules.accept_training(space.output)


def edit(path: Path, change) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def without_class_names(space):
    edit(space.input / "config.yaml", lambda config: config.pop("class_names"))


def without_index(space):
    (space.input / "train-index.tsv").unlink()


def unset_index(space):
    edit(space.env_file, lambda env: env["input"].update(training_index_file=""))


def empty_index(space):
    (space.input / "train-index.tsv").write_text("")


def unreadable_images(space):
    lines = (space.input / "train-index.tsv").read_text().splitlines()
    for number in range(0, len(lines), 5):
        (space.input / f"broken-{number}.jpg").write_bytes(b"no image")
        lines[number] = f"/in/broken-{number}.jpg\t" + lines[number].split("\t")[1]
    (space.input / "train-index.tsv").write_text("\n".join(lines) + "\n")


def a_gpu(space):
    edit(space.input / "config.yaml", lambda config: config.update(gpu_id="0", gpu_count=1))


def broken_config(space):
    (space.input / "config.yaml").write_text("class_names: [a\n")


def no_weights(space):
    edit(space.env_file, lambda env: env.update(run_training=False, run_mining=True))
    (space.input / "candidate-index.tsv").write_text("/in/assets/a.jpg\n")
    edit(space.env_file, lambda env: env["input"].update(candidate_index_file="/in/candidate-index.tsv"))


def inference_without_class_names(space):
    no_weights(space)
    edit(space.env_file, lambda env: env.update(run_mining=False, run_infer=True))
    without_class_names(space)


@pytest.mark.parametrize(("spoil", "code", "status", "words"), [
    (without_class_names, 300001, 4, "class_names"), (broken_config, 300001, 4, "config.yaml"),
    (without_index, 300002, 4, "train-index.tsv"), (unset_index, 300002, 4, "training_index_file"),
    (empty_index, 300002, 4, "train-index.tsv"), (unreadable_images, 300003, 1, "max_broken_ratio"),
    (a_gpu, 300102, 1, "gpu_id"), (no_weights, 300004, 1, "model_params_path"),
    (inference_without_class_names, 300001, 4, "class_names"),
])
def test_each_fault_has_its_code_its_reason_and_costs_nothing(prepare, spoil, code, status, words):
    space = prepare("training", params={"max_seconds": 5})
    earlier = space.output / "models" / "result.yaml"
    earlier.write_text("best_stage_name: a\nmodel_stages: {a: {stage_name: a, files: [a.pt], timestamp: 1, mAP: 0.5}}\n")
    (space.output / "models" / "a.pt").write_bytes(b"weights")
    spoil(space)
    done = run(space)
    log = "\n".join(launch.tail(done.log, 30))
    assert done.status == status, log
    record = platform_rules.accept_monitor(space.output, final="error")
    assert f"\t{code}\t" in (space.output / "monitor.txt").read_text().splitlines()[0], log
    assert words in (space.output / "monitor.txt").read_text().splitlines()[0], record
    assert last_line(space).startswith(f"ymir-exc: {code} ")
    assert words in last_line(space)
    assert platform_rules.accept_training(space.output).best_stage_name == "a"


def test_smoke_mode_trains_nothing_and_keeps_the_contract(prepare):
    space = prepare("training", root="smoke", params={"expected_map": "0.6", "idle_seconds": "1"})
    assert run(space).status == 0
    assert platform_rules.accept_training(space.output).best.metrics["mAP"] == 0.6
    both = prepare("mining", "infer", root="both", model=space.output, params={"expected_map": 0.6})
    assert run(both).status == 0
    platform_rules.accept_mining(both.output, candidates(both))
    platform_rules.accept_detection(both.output, candidates(both), sample.CLASS_NAMES)
    assert json.loads((both.output / "infer-result.json").read_text())


def test_the_verifier_s_way_of_starting(prepare):
    space = prepare("training", params={"expected_map": 0.5, "idle_seconds": 0})
    argv = launch.container_argv(space, DEMO, user=UID, network="none")
    assert engine(*argv[1:], "bash", "/usr/bin/start.sh").returncode == 0
    platform_rules.accept_training(space.output)
