"""`ymir-exc verify` on small images that know nothing of this package: one without fault, and one with each fault."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.docker.conftest import DEMO, engine
from ymir_exc.host import sample, verify
from ymir_exc.host.engine import Engine
from ymir_exc.host.verify import FAILED, NOT_RUN, PASSED, _rows

FAULTY = Path(__file__).with_name("faulty")
NAME = "ymir-exc-test-faulty"

# The row that finds the fault of the same name, and a word of what it says.
WORDS = {
    "no-network": "unreachable", "no-home": "/.cache", "full-disk": "result.yaml is torn", "stop": "killed it after ten seconds",
    "kill": "result.yaml is torn", "strings": "TypeError", "unseen-class": "ZeroDivisionError", "odd-folder": "cannot be read",
    "no-gpu": "ended with 0 all the same", "falsy-missing": "KeyError", "no-candidates": "division by zero",
    "broken-image": "nothing that the user is shown", "odd-names": "No such file",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("small") / "a dataset 数据"
    sample.write_sample(root, images=12, candidates=7, size=64)
    if os.geteuid() == 0:
        for path in (root / "in").rglob("*.*"):
            os.chown(path, 4321, 4321)    # somebody else's
    return root


def seen(root: Path):
    return {path: (path.lstat().st_uid, path.lstat().st_mode, path.lstat().st_mtime_ns) for path in root.rglob("*")}


def image(fault: str) -> str:
    done = engine("build", "-q", "-t", f"{NAME}:{fault}", "--build-arg", f"FAULT={fault}", str(FAULTY))
    assert done.returncode == 0, done.stderr
    return f"{NAME}:{fault}"


def run(name: str, data: Path, out: Path, **options):
    rows = verify.verify(Engine("docker"), verify.Options(name, data, out, **options))
    return {row.name: row for row in rows}


@pytest.fixture(scope="module")
def good(small, tmp_path_factory):
    """Everything, on the image without fault."""
    out, before = tmp_path_factory.mktemp("good") / "verify 任务", seen(small)
    rows = run(image("good"), small, out, harsh=True, tasks=verify.parse_tasks("training,mining+infer,training"))
    assert seen(small) == before
    return rows, out


def test_a_good_image_passes_every_row(good):
    rows, out = good
    assert {name: row.why for name, row in rows.items() if row.status != PASSED} == {}
    assert list(rows) == ["templates", "training", "mining+infer", "training-2", *(row.name for row in _rows.ROWS)]
    written = json.loads((out / "verify.json").read_text(encoding="utf-8"))
    assert written["passed"] is True
    assert [row["name"] for row in written["rows"]] == list(rows)


def test_the_rows_did_what_they_say(good):
    rows, out = good
    assert not list((out / "full-disk" / "full" / "models").glob("epoch_*/weights.bin"))    # it was full
    assert "stopped by SIGTERM" in (out / "stop" / "out" / "monitor.txt").read_text()
    assert "\t2\t" in (out / "kill" / "out" / "monitor.txt").read_text().splitlines()[0]    # it had no last word
    assert (out / "kill" / "out" / "models" / "result.yaml").is_file()
    assert "pretrained_model_params" in (out / "training-2" / "in" / "config.yaml").read_text()
    assert not (out / "training-2" / "tensorboard" / "executor.log").read_bytes()    # of the host; in the container it dangles
    detected = json.loads((out / "odd-names" / "out" / "infer-result.json").read_text(encoding="utf-8"))["detection"]
    assert "图 片 0.jpg" in detected and "it's 100% #2.jpg" in detected
    assert "broken-image.jpg" in (out / "broken-image" / "in" / "candidate-index.tsv").read_text()
    user = rows["training"].command.split("--user ")[1].split(":")[0]
    assert user not in engine("run", "--rm", f"{NAME}:good", "cat", "/etc/passwd").stdout
    assert engine("ps", "-aq", "--filter", f"ancestor={NAME}:good").stdout == ""
    assert {path.lstat().st_uid for path in out.rglob("*") if "/in/" not in str(path) and "assets" not in str(path)} == {os.getuid()}


def test_every_row_has_an_image_with_its_fault():
    assert set(WORDS) == {row.name for row in _rows.ROWS}


@pytest.mark.parametrize("fault", WORDS)
def test_the_fault_is_found(fault, small, good, tmp_path):
    rows = run(image(fault), small, tmp_path / "out", only=[fault], model=good[1] / "training" / "out")
    assert list(rows) == [fault]
    assert rows[fault].status == FAILED, rows[fault]
    assert WORDS[fault] in rows[fault].why
    assert rows[fault].remedy


def test_an_output_that_the_platform_refuses_fails_the_task_and_what_follows(small, tmp_path):
    rows = run(image("percent"), small, tmp_path / "out", tasks=verify.parse_tasks("training,mining"))
    assert (rows["training"].status, rows["mining"].status) == (FAILED, NOT_RUN)
    assert rows["training"].findings and "mAP" in rows["training"].why
    assert "left no model" in rows["mining"].why


def test_a_task_without_a_template_is_not_offered(small, tmp_path):
    (tmp_path / "Dockerfile").write_text(f"FROM {image('good')}\nRUN rm /img-man/mining-template.yaml\n")
    assert engine("build", "-q", "-t", f"{NAME}:no-mining", str(tmp_path)).returncode == 0
    rows = run(f"{NAME}:no-mining", small, tmp_path / "out", tasks=verify.parse_tasks("training,mining,infer"))
    assert {name: row.status for name, row in rows.items()} == {"templates": PASSED, "training": PASSED, "mining": FAILED, "infer": PASSED}
    assert "reads no template for mining" in rows["mining"].why


def test_a_banner_hides_the_templates(small, tmp_path):
    (tmp_path / "Dockerfile").write_text(f'FROM {image("good")}\nRUN printf \'#!/bin/sh\\necho Welcome: [\\nexec "$@"\\n\' > /entry'
                                         ' && chmod 755 /entry\nENTRYPOINT ["/entry"]\n')
    assert engine("build", "-q", "-t", f"{NAME}:banner", str(tmp_path)).returncode == 0
    rows = run(f"{NAME}:banner", small, tmp_path / "out")
    assert list(rows) == ["templates"]
    assert rows["templates"].status == FAILED
    assert "gave no YAML" in rows["templates"].why


def test_a_task_that_does_not_end_is_removed(small, tmp_path):
    rows = run(image("stop"), small, tmp_path / "out", tasks=[["training"]], timeout=2.0)
    assert rows["training"].status == FAILED
    assert "did not end within" in rows["training"].why
    assert engine("ps", "-aq", "--filter", f"ancestor={NAME}:stop").stdout == ""


@pytest.mark.parametrize("number,status,times", [(signal.SIGINT, 130, 3), (signal.SIGTERM, 143, 3)])
def test_an_interrupt_leaves_no_container_and_no_foreign_file(small, tmp_path, number, status, times):
    name, out = image("stop"), tmp_path / "out"
    words = ["verify", name, "--data", str(small), "--out", str(out), "--tasks", "training"]
    process = subprocess.Popen([sys.executable, "-m", "ymir_exc", *words], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (out / "training" / "out" / "models" / "result.yaml").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    assert engine("ps", "-q", "--filter", f"ancestor={name}").stdout != ""
    for _ in range(times):    # an impatient person
        os.killpg(process.pid, number)
        time.sleep(0.1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert engine("ps", "-aq", "--filter", f"ancestor={name}").stdout == ""
    assert {path.lstat().st_uid for path in (out / "training" / "out").rglob("*")} == {os.getuid()}
    assert "Traceback" not in err


def test_sigkill_leaves_no_container(small, tmp_path):
    name, out = image("stop"), tmp_path / "out"
    words = ["verify", name, "--data", str(small), "--out", str(out), "--tasks", "training"]
    process = subprocess.Popen([sys.executable, "-m", "ymir_exc", *words], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out / "training" / "out" / "models" / "result.yaml").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    assert engine("ps", "-q", "--filter", f"ancestor={name}").stdout != ""
    process.kill()
    process.wait()
    while engine("ps", "-aq", "--filter", f"ancestor={name}").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)


ODD = {
    "no-command": ([], "No command specified"),
    "no-such-command": (["/nowhere.sh"], "/nowhere.sh"),
    "no-log": (["sh", "-c", "rm -rf /out/*; exit 3"], "it has removed its log"),
    "pipe": (["sh", "-c", "rm /out/monitor.txt; mkfifo /out/monitor.txt; sleep 1; exit 3"], "it said nothing"),
    "detached": (["sh", "-c", "setsid sleep 60 & exit 0"], "result.yaml: there is none"),
    "input": (["sh", "-c", "echo x > /in/config.yaml"], "Read-only file system"),
    "flood": (["sh", "-c", r"head -c 20000000 /dev/zero | tr '\0' x | fold -w 1000; printf '\n\033[2J\000\377 odd\n'; exit 3"], "odd"),
    "locked": (["sh", "-c", "mkdir -p /out/models/x/y; chmod 0 /out/models/x; echo closed; exit 3"], "closed"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_image_that_does_something_odd(name, small, tmp_path):
    argv, said = ODD[name]
    (tmp_path / "Dockerfile").write_text(f"FROM {image('good')}\nCMD {json.dumps(argv)}\n")
    assert engine("build", "-q", "-t", f"{NAME}:{name}", str(tmp_path)).returncode == 0
    out = tmp_path / "parent" / "out"
    rows = run(f"{NAME}:{name}", small, out, tasks=[["training"]])
    assert rows["training"].status == FAILED
    assert said in rows["training"].why and "\033" not in rows["training"].why
    assert {path.lstat().st_uid for path in (out / "training" / "out").rglob("*")} <= {os.getuid()}
    assert engine("ps", "-aq", "--filter", f"ancestor={NAME}:{name}").stdout == ""


def test_files_are_given_back_through_a_container(tmp_path):
    """As to a caller who is not root and may not change owners."""
    folder = tmp_path / "a 文件夹"
    folder.mkdir()
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "file").write_text("x")
    (tmp_path / "another").mkdir()
    Engine("docker").reclaim(image("good"), [folder, tmp_path / "none", tmp_path / "another"], owner="1000:1001")
    folders = (folder, *folder.iterdir(), tmp_path / "another")
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in folders} == {(1000, 1001)}
    assert Path("/etc/passwd").stat().st_uid == 0


def command(*words):
    return subprocess.run([sys.executable, "-m", "ymir_exc", "verify", *words], capture_output=True, text=True, encoding="utf-8")


def test_the_command_prints_json_and_fails_with_the_image(small, tmp_path, good):
    done = command(image("strings"), "--data", str(small), "--out", str(tmp_path / "out"), "--json", "--only", "strings,odd-names",
                   "--model", str(good[1] / "training" / "out"))
    assert done.returncode == 1, done.stderr
    rows = {row["name"]: row["status"] for row in json.loads(done.stdout)["rows"]}
    assert rows == {"strings": FAILED, "odd-names": PASSED}


def test_an_image_that_is_not_there(small, tmp_path):
    done = command("no-such-image:1", "--data", str(small), "--out", str(tmp_path / "out"))
    assert done.returncode == 3
    assert done.stderr == "ymir-exc: docker has no image 'no-such-image:1' (build it, or: docker pull no-such-image:1)\n"


def test_the_demo_image_passes_every_row(tmp_path):
    sample.write_sample(tmp_path / "data", images=12, candidates=12)
    rows = run(DEMO, tmp_path / "data", tmp_path / "out", harsh=True, tasks=verify.parse_tasks("training,mining+infer,training"),
               params={"max_seconds": 0, "epochs": 2, "input_size": 64, "evaluations": 2, "cpu_processes": 1})
    assert {name: row.why for name, row in rows.items() if row.status != PASSED} == {}
