"""`docker run IMAGE train` with an /opt/ml: the base image with plain scripts, an image of somebody else's, and the demo image."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest
import yaml

from tests.contract import platform_rules
from tests.docker.conftest import BASE, DEMO, UID, engine
from ymir_exc.host import check, sample
from ymir_exc.host.findings import Severity


class Job:
    """An /opt/ml on this machine, which any uid may write to where a job may."""

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, f"t{uuid.uuid4().hex[:29]}"
        for folder in ("input/config", "input/data", "code", "model", "output"):
            (root / folder).mkdir(parents=True)
        for folder in ("model", "output"):
            (root / folder).chmod(0o777)
        for parent in (root, *root.parents):
            if parent.stat().st_uid == os.getuid() and len(parent.parts) > 2:
                parent.chmod(parent.stat().st_mode | 0o055)

    def hyper(self, **values) -> Job:
        """As the platform encodes them: each value is JSON in a text."""
        encoded = {key: json.dumps(value) for key, value in values.items()}
        return self.write("input/config/hyperparameters.json", json.dumps(encoded))

    def write(self, name: str, text: str) -> Job:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return self

    def argv(self, image: str = BASE, *options: str, user: str = UID, place=("--rm", "--network", "none")):
        mounts = [f"-v{self.root / name}:/opt/ml/{name}{mode}" for name, mode in (
            ("input", ":ro"), ("code", ":ro"), ("model", ""), ("output", ""))]
        return ["run", *place, "--name", self.name, "--user", user, *mounts, *options, image, "train"]

    def train(self, image: str = BASE, *options: str, user: str = UID):
        return engine(*self.argv(image, *options, user=user))

    def read(self, name: str) -> str:
        return (self.root / name).read_text(encoding="utf-8")


@pytest.fixture
def job(tmp_path) -> Job:
    return Job(tmp_path / "a job 任务" / "ml")


@pytest.mark.parametrize("user", [UID, "0:0"])
def test_a_plain_script_under_any_uid(job, user):
    """No home, no name for the uid, input and code that cannot be written."""
    job.write("code/go.py", "import argparse, os\np = argparse.ArgumentParser()\np.add_argument('--lr', type=float)\na = p.parse_args()\n"
              "open(os.environ['TM_MODEL_DIR'] + '/m', 'w').write(f'{a.lr} {os.getcwd()} {os.getuid()}')\n"
              "open(os.environ['TM_OUTPUT_DATA_DIR'] + '/d', 'w').close()\nprint(os.path.exists('/opt/ml/input/data'))").hyper(lr=0.1)
    done = job.train(BASE, "-eTI_PROGRAM=go.py", "-eHOME=/", user=user)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
    assert job.read("model/m") == f"0.1 /opt/ml/code {user.partition(':')[0]}"
    assert job.read("output/success") == "success\n" and (job.root / "output/data/d").exists()


def test_a_shell_script_by_the_hyper_parameter(job):
    job.write("code/go.sh", 'echo "$TM_HP_NAME" "$@"').hyper(ti_program="go.sh", name="a 名")
    done = job.train()
    assert (done.returncode, done.stdout) == (0, "a 名 --name a 名\n")


def test_nothing_to_run(job):
    done = job.hyper().train()
    assert done.returncode == 4
    assert "there is nothing to run: the image has no /app/start.py" in done.stderr.splitlines()[-1]
    assert job.read("output/failure").startswith("300001 CONFIG_ERROR: there is nothing to run")


def test_the_failure_file(job):
    job.write("code/x.py", "import sys\nfor i in range(300): print('noise', i, file=sys.stderr)\nraise RuntimeError('CUDA out of memory')")
    done = job.hyper(ti_program="x.py").train()
    assert done.returncode == 1
    text = job.read("output/failure")
    assert text.splitlines()[0] == "300103 OOM: RuntimeError: CUDA out of memory" and len(text.encode()) <= 1024
    assert "Traceback" in text and text.splitlines()[-1] == "RuntimeError: CUDA out of memory"
    assert not (job.root / "output/success").exists()


def test_files_of_the_platform_that_are_wrong(job):
    done = job.write("input/config/hyperparameters.json", "{").train()
    assert done.returncode == 4 and "hyperparameters.json, line 1: not valid JSON" in job.read("output/failure")


def test_files_of_the_platform_that_this_uid_cannot_read(job):
    (job.hyper().root / "input/config/hyperparameters.json").chmod(0o600)
    done = job.train()
    assert done.returncode == 4
    assert "cannot read /opt/ml/input/config/hyperparameters.json: Permission denied" in job.read("output/failure")


def test_an_output_that_this_uid_cannot_write(job):
    for name in ("model", "output"):
        (job.root / name).chmod(0o755)
    done = job.write("code/x.sh", "echo ran; exit 6").hyper(ti_program="x.sh").train()
    assert (done.returncode, done.stdout) == (6, "ran\n")
    assert "warning: cannot write /opt/ml/output" in done.stderr and list((job.root / "output").iterdir()) == []


def test_a_stop_leaves_what_was_saved(job):
    job.write("code/x.py", "import os, signal, sys, time\n"
              "def stop(*_):\n    time.sleep(1)\n    open(os.environ['TM_MODEL_DIR'] + '/saved', 'w').close()\n    sys.exit(0)\n"
              "signal.signal(signal.SIGTERM, stop)\nprint('ready', flush=True)\ntime.sleep(300)").hyper(ti_program="x.py")
    process = subprocess.Popen(["docker", *job.argv()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        engine("stop", "--time", "60", job.name, check=True)
        assert process.wait(60) == 143
        assert (job.root / "model/saved").exists() and not (job.root / "output/failure").exists()
        assert process.stderr.read().splitlines()[-1] == "ymir-exc: 160004 CONTAINER_ERROR: stopped by SIGTERM: ready"
    finally:
        process.stdout.close(), process.stderr.close()
        engine("rm", "--force", job.name)


# ------------------------------------------------------------------------------------------------- an image of somebody else's


def test_a_decision_tree_on_a_table(job, plain_image):
    table = "".join(f"{'big' if i > 9 else 'small'},{i},{i % 3}\n" for i in range(20))
    job.write("input/data/training/iris.csv", table).hyper(max_leaf_nodes=5)
    done = job.train(plain_image)
    assert (done.returncode, done.stdout, done.stderr) == (0, 'hosts ["localhost"]\n', "")
    assert json.loads(job.read("output/data/score.json")) == {"accuracy": 1.0, "leaves": 2}
    assert (job.root / "model/model.pkl").stat().st_size > 100 and job.read("output/success") == "success\n"


def test_the_same_without_a_table(job, plain_image):
    (job.root / "input/data/training").mkdir()
    done = job.hyper().train(plain_image)
    assert done.returncode == 1
    assert job.read("output/failure").splitlines()[0] == "160004 CONTAINER_ERROR: ValueError: no table in the channel training"


# ------------------------------------------------------------------------------------------------- the demo detector


def laid_out(job: Job) -> Path:
    """What a job left, as YMIR would have it."""
    out = job.root / "as-ymir"
    out.mkdir()
    for name, place in (("models", "model"), ("monitor.txt", "output/data/monitor.txt"), ("tensorboard", "output/checkpoints/tensorboard"),
                        ("result.tsv", "output/data/result.tsv"), ("infer-result.json", "output/data/infer-result.json")):
        if (job.root / place).is_dir():
            shutil.copytree(job.root / place, out / name)
        elif (job.root / place).exists():
            shutil.copy(job.root / place, out / name)
    return out


def run_demo(job: Job, data: Path, **values):
    """Over the whole dataset as one channel."""
    (job.root / "input/data/training").mkdir(exist_ok=True)
    job.hyper(cpu_processes=1, **values)
    done = job.train(DEMO, f"-v{data}:/opt/ml/input/data/training:ro", f"-eTRAINING_JOB_NAME={job.name}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert job.read("output/success") == "success\n"
    out = laid_out(job)
    assert [finding for finding in check.check_output(out) if finding.rule.severity is Severity.ERROR] == []
    assert platform_rules.accept_monitor(out, final="done", shared=False).task_id == job.name
    return out


def test_the_demo_trains_mines_and_infers(job, data, tmp_path):
    """Its program is the one that runs on YMIR, unchanged; the second job gets what the first one's model folder becomes, an archive."""
    out = run_demo(job, data, max_seconds=0, epochs=6, input_size=128, evaluations=2)
    platform_rules.accept_training(out)
    _, tags = platform_rules.accept_tensorboard(out)
    result = yaml.safe_load(job.read("model/result.yaml"))
    assert tags and result["model_stages"][result["best_stage_name"]]["mAP50"] > 0.01

    both = Job(tmp_path / "both")
    (both.root / "input/data/model").mkdir()
    subprocess.run(["tar", "-czf", both.root / "input/data/model/model.tar.gz", "-C", job.root / "model", "."], check=True)
    out = run_demo(both, data, ymir_task="mining+infer")
    seen = [line.replace("/in/", "/opt/ml/input/data/training/in/", 1)
            for line in (data / "in/candidate-index.tsv").read_text(encoding="utf-8").splitlines()]
    assert len({score for _, score in platform_rules.accept_mining(out, seen)}) > 1
    assert len(platform_rules.accept_detection(out, seen, sample.CLASS_NAMES)) == len(seen)
