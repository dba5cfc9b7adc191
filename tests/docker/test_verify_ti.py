"""`ymir-exc verify --platform ti`: the demo image, an image that has never heard of this package, and one with each fault."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.docker.conftest import BASE, DEMO, engine
from ymir_exc.host import check, sample, verify
from ymir_exc.host.engine import Engine
from ymir_exc.host.verify import FAILED, LEFT_OUT, NOT_RUN, PASSED

NAME = "ymir-exc-test-ti-verify"
# Says how it trains by the environment variable FAULT. It reads what the platform documents, and nothing of this package.
TRAIN = '''#!/usr/bin/env python3
import json, os, signal, sys, time
FAULT = os.environ.get("FAULT", "good")

def stop(*_):
    if FAULT == "stop-empty":
        os.remove("/opt/ml/model/weights.bin")
    sys.exit(1 if FAULT == "stop-status" else 143)

signal.signal(signal.SIGTERM, signal.SIG_IGN if FAULT == "deaf" else stop)
values = {key: json.loads(value) for key, value in json.load(open("/opt/ml/input/config/hyperparameters.json")).items()}
assert json.load(open("/opt/ml/input/config/resourceconfig.json")) == json.load(open("/opt/ml/input/config/resourceConfig.json"))
for channel in json.load(open("/opt/ml/input/config/inputdataconfig.json")):
    print(channel, sorted(os.listdir("/opt/ml/input/data/" + channel)))
print("hyper-parameters", sorted(values), "uid", os.getuid(), flush=True)
if FAULT == "fails":
    open("/opt/ml/output/failure", "w").write("the images are too small\\nand so on\\n")
    sys.exit(1)
if FAULT == "home":
    os.makedirs(os.path.expanduser("~/.cache/weights"))
if FAULT == "slow":
    time.sleep(60)
for step in range(10 * int(values.get("epochs", 1))):
    with open("/opt/ml/model/weights.tmp", "wb") as f:
        f.write(bytes(200000))
    os.replace("/opt/ml/model/weights.tmp", "/opt/ml/model/weights.bin")
    time.sleep(0.1)
if FAULT == "empty":
    os.remove("/opt/ml/model/weights.bin")
if FAULT == "both":
    open("/opt/ml/output/failure", "w").write("it did not work\\n")
'''


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("small") / "a dataset 数据"
    sample.write_sample(root, images=12, candidates=12)
    return root


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Build an image of somebody else's; `more` are lines of its Dockerfile."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "train").write_text(TRAIN)

    def build(fault, more=""):
        (folder / "Dockerfile").write_text(
            f"FROM {BASE}\nRUN python -m pip uninstall -y ymir-exc && rm -rf /img-man /app /usr/bin/start.sh\n"
            f"COPY train /usr/local/bin/train\nRUN chmod 755 /usr/local/bin/train\nENV FAULT={fault}\n{more}")
        done = engine("build", "-q", "-t", f"{NAME}:{fault}", str(folder))
        assert done.returncode == 0, done.stderr
        return f"{NAME}:{fault}"

    return build


def run(name, data, out, **options):
    rows = verify.verify(Engine("docker"), verify.Options(name, data, out, platform="ti", **options))
    for row in rows:
        container = row.command.partition("--name ")[2].split(" ")[0]
        assert not container or engine("ps", "-aq", "--filter", f"name={container}").stdout == ""
    assert {path.lstat().st_uid for path in out.rglob("*") if "/input/" not in str(path)} == {os.getuid()}
    return {row.name: row for row in rows}


def log_of(out, row):
    return (out / row / "as-out" / "ymir-executor-out.log").read_text(encoding="utf-8")


def test_the_demo_trains_mines_and_infers(small, tmp_path):
    out = tmp_path / "verify 任务"
    rows = run(DEMO, small, out, params={"max_seconds": 0, "epochs": 3, "input_size": 64, "evaluations": 3},
               harsh=True, only=["templates", "training", "mining+infer", "stop"])
    assert {name: row.why for name, row in rows.items() if row.status != PASSED and "warning" not in row.why} == {}
    assert list(rows) == ["templates", "training", "mining+infer", "stop"]
    assert (rows["training"].exit_status, rows["stop"].exit_status) == (0, 143)
    for name in ("training", "mining+infer"):
        tree = out / name / "opt-ml"
        assert check.kinds_at(out / name) == ["ti"]
        assert [one for one in check.check(tree) if one.rule.severity.value == "error"] == []
        assert (tree / "output" / "success").is_file() and not (tree / "output" / "failure").exists()
    assert (out / "stop" / "opt-ml" / "model" / "result.yaml").is_file()
    assert "stopped by SIGTERM" in log_of(out, "stop")
    ranked = (out / "mining+infer" / "opt-ml" / "output" / "data" / "result.tsv").read_text(encoding="utf-8")
    assert ranked.startswith("/opt/ml/input/data/candidate/assets/")
    assert "train" in rows["training"].command.split()[-1] and "--user 0:0" in rows["training"].command


def test_an_image_that_has_never_heard_of_this_package(image, small, tmp_path):
    out = tmp_path / "out"
    rows = run(image("good"), small, out, harsh=True, params={"epochs": 2})
    assert {name: row.why for name, row in rows.items() if row.status not in (PASSED, LEFT_OUT)} == {}
    assert [name for name, row in rows.items() if row.status == LEFT_OUT] == \
        ["templates", "kill", "falsy-missing", "no-candidates", "broken-image", "odd-names"]
    assert all(row.why for row in rows.values() if row.status == LEFT_OUT)
    assert "no result.yaml" in rows["training"].why and [one.rule.code for one in rows["training"].findings] == ["O102"]
    assert rows["stop"].exit_status == 143 and rows["full-disk"].exit_status == 1
    told = log_of(out, "training")
    assert "train ['annotations', 'assets', 'classes.txt', 'config.yaml', 'train-index.tsv']" in told and "uid 0" in told
    assert "hyper-parameters ['epochs', 'ti_job_name']" in told
    assert "uid 0" not in log_of(out, "no-home") and "数据 assets (1)" in log_of(out, "odd-folder")
    written = json.loads((out / "verify.json").read_text(encoding="utf-8"))
    assert (written["passed"], written["platform"]) == (True, "ti")


FAULTS = {
    "fails": ("training", "it ended with 1: the images are too small"), "empty": ("training", "O101: model: it is empty"),
    "both": ("training", "ended with 0 and left output/failure: it did not work"), "home": ("no-home", "ermission denied"),
    "deaf": ("stop", "killed it after ten seconds"), "stop-status": ("stop", "ended with 1 as if it had failed"),
    "stop-empty": ("stop", "model/ is empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_found(fault, image, small, tmp_path):
    name, said = FAULTS[fault]
    rows = run(image(fault), small, tmp_path / "out", harsh=True, only=[name], harsh_params={"epochs": 30})
    assert {row: result.status for row, result in rows.items()} == {name: FAILED}
    assert said in rows[name].why and rows[name].remedy


@pytest.mark.parametrize("tag,line,said", [
    ("none", "RUN rm /usr/local/bin/train", "there is no executable `train` on the PATH"),
    ("not-executable", "RUN chmod 644 /usr/local/bin/train", "there is no executable `train` on the PATH"),
    ("no-interpreter", "RUN sed -i 1s,.*,#!/nowhere/python, /usr/local/bin/train", "`train` cannot be started")])
def test_an_image_without_train(tag, line, said, image, small, tmp_path):
    rows = run(image(tag, line), small, tmp_path / "out", tasks=[["training"], ["training"]])
    assert {name: row.status for name, row in rows.items()} == {"templates": LEFT_OUT, "training": FAILED, "training-2": NOT_RUN}
    assert said in rows["training"].why
    assert "docker run IMAGE train" in rows["training"].remedy and "/usr/local/bin" in rows["training"].remedy


def test_an_entry_point_takes_the_word(image, small, tmp_path):
    rows = run(image("entry", 'ENTRYPOINT ["/usr/local/bin/train"]'), small, tmp_path / "out")
    assert {name: row.status for name, row in rows.items()} == {"templates": LEFT_OUT, "training": PASSED}


def test_an_image_with_templates_owes_result_yaml(image, small, tmp_path):
    more = "RUN mkdir /img-man && echo 'epochs: 1' > /img-man/training-template.yaml && echo 'object_type: 2' > /img-man/manifest.yaml\n"
    rows = run(image("templates", more), small, tmp_path / "out", only=["training"])
    assert rows["training"].status == FAILED and "T101: result.yaml" in rows["training"].why


@pytest.mark.parametrize("number,status", [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupt_leaves_no_container(image, small, tmp_path, number, status):
    name, out = image("slow"), tmp_path / "out"
    words = ["verify", name, "--platform", "ti", "--data", str(small), "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "ymir_exc", *words], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (out / "training" / "as-out" / "ymir-executor-out.log").exists() or not log_of(out, "training"):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "Traceback" not in err
    while engine("ps", "-aq", "--filter", f"ancestor={name}").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_command(image, small, tmp_path):
    words = ["verify", image("good"), "--platform", "ti", "--data", str(small), "--out", str(tmp_path / "out"), "--json"]
    done = subprocess.run([sys.executable, "-m", "ymir_exc", *words], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert [(row["name"], row["status"]) for row in json.loads(done.stdout)["rows"]] == [("templates", LEFT_OUT), ("training", PASSED)]
