"""Whatever happens to a writer, each result file holds what it held before or what was being written: never a part, never nothing.

The writers run in children of a process that has loaded everything before, so that a kill costs milliseconds.
"""
from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Set

import numpy as np
import pytest
import yaml

from tests.conftest import Platform
from tests.contract import platform_rules
from ymir_exc import _files, env, monitor, settings, util
from ymir_exc import result_writer as rw
from ymir_exc.code import ExecutorState
from ymir_exc.result_writer import _stage_files

OTHER_UID = 1234
NOTE = ".result.yaml.ymir-unfinished"
ROWS = 300


class Writer(NamedTuple):
    """Writes result number n; `read` returns the n that a file holds, or fails when it is not whole."""

    file: str
    write: Callable[[int], None]
    read: Callable[[Path], int]


def write_monitor(n: int) -> None:
    # Another return code is written at once; state 4 raises what hinders it.
    monitor.write_monitor_logger(0.5, ExecutorState.ES_ERROR, return_code=300100 + n % 2, message=f"{n} " * (1 + n % 50))


def read_monitor(out: Path) -> int:
    text = (out / "monitor.txt").read_text(encoding="utf-8")
    record = platform_rules.parse_monitor(text)
    assert text.split("\n")[1:] in ([""], [record.message, ""]), "more than the reason follows"
    n = int(record.message.split()[0])
    assert record.message.split() == [str(n)] * (1 + n % 50)
    return n


def save(name: str, n: int) -> None:
    """What a program does before it writes a stage; a disk that refuses it is to refuse what is written then."""
    path = Path(env.current_env().output.models_dir, name)
    if env.is_main_rank():
        with contextlib.suppress(OSError):
            path.with_name(f"{name}.saving").write_bytes(b"%d %d" % (n, os.getpid()))
            path.with_name(f"{name}.saving").rename(path)


def metrics(n: int) -> Dict[str, Any]:
    return {"mAP": 0.5, "mAR": n / 1e7, "note": "x" * 20 * (-n % 7)}    # what is written may be shorter than what it replaces


def write_stage(n: int) -> None:
    save("best.pt", n)
    save(f"s_{n}.pt", n)
    rw.write_model_stage(f"s_{n}", ["best.pt", f"s_{n}.pt"], metrics(n), timestamp=n)


def write_legacy_stage(n: int) -> None:
    save("best.pt", n)
    util.write_ymir_training_result(util.get_merged_config(), files=["best.pt"], id=str(n), evaluation_result=metrics(n))


def write_stage_again(n: int) -> None:
    for name in ("model.pt", "more.pt"):
        save(name, n)
    rw.write_model_stage("run", ["model.pt", "more.pt"], metrics(n), timestamp=n)


def read_stages(out: Path) -> int:
    number = read_result(out)
    result = yaml.safe_load((out / "models/result.yaml").read_text(encoding="utf-8"))
    for stage in result["model_stages"].values():
        for file in stage["files"]:
            assert packed(out, stage["stage_name"], file) == round(stage["mAR"] * 1e7), (stage["stage_name"], file)
    return number


def read_result(out: Path) -> int:
    """The number of the latest stage."""
    platform_rules.accept_training(out)
    stages = yaml.safe_load((out / "models/result.yaml").read_text(encoding="utf-8"))["model_stages"]
    assert 1 <= len(stages) <= 11
    return round(list(stages.values())[-1]["mAR"] * 1e7)


def packed(out: Path, stage: str, file: str) -> int:
    """The number in the weights that the platform would pack."""
    places = out / "models" / stage / file, out / "models" / file
    return int(next(path for path in places if path.is_file()).read_bytes().split()[0])


def read_stage_again(out: Path) -> int:
    number = read_result(out)
    if (out / "models" / NOTE).exists():
        save("s_1.pt", 1)
        rw.write_model_stage("s_1", ["s_1.pt"], metrics(1))    # until the next write the weights may be ahead of the metrics
        assert not (out / "models" / NOTE).exists()
    assert [packed(out, "run", name) for name in ("model.pt", "more.pt")] == [number, number]
    return number


def write_ranking(n: int) -> None:
    rw.write_mining_result([(f"/{n}/{k}.jpg", float(k)) for k in range(ROWS)])


def stream_ranking(n: int) -> None:
    with rw.MiningResultWriter(rows_in_memory=100) as ranking:
        for start in range(0, ROWS, 50):
            ranking.add_batch([f"/{n}/{k}.jpg" for k in range(start, start + 50)], np.arange(start, start + 50, dtype=np.float32))


def read_ranking(out: Path) -> int:
    lines = (out / "result.tsv").read_text(encoding="utf-8").splitlines()
    n = int(lines[0].split("/")[1])
    assert [line.split("\t")[0] for line in lines] == [f"/{n}/{k}.jpg" for k in reversed(range(ROWS))]
    return n


def write_boxes(n: int) -> None:
    box = rw.Box(x=n, y=2, w=3, h=4)
    rw.write_infer_result({f"{k}.jpg": [rw.Annotation(class_name="cat", score=0.5, box=box)] for k in range(ROWS)})


def stream_boxes(n: int) -> None:
    with rw.InferResultWriter(["cat"], "xywh") as results:
        for k in range(ROWS):
            results.add(f"{k}.jpg", np.array([[n, 2, 3, 4]]), np.array([0.5]), np.array([0]))


def read_boxes(out: Path) -> int:
    found = json.loads((out / "infer-result.json").read_text(encoding="ascii"))["detection"]
    n = found["0.jpg"]["boxes"][0]["box"]["x"]
    boxes = {"boxes": [{"class_name": "cat", "score": 0.5, "box": {"x": n, "y": 2, "w": 3, "h": 4}}]}
    assert found == {f"{k}.jpg": boxes for k in range(ROWS)}
    return int(n)


def write_masks(n: int) -> None:
    with rw.SegmentationResultWriter(["cat"]) as results:
        for k in range(10):
            results.add_label_map(f"{n}-{k}.png", np.zeros((8, 8), int))


def write_mask_mapping(n: int) -> None:
    rw.write_infer_result({
        "images": [{"id": k, "file_name": f"{n}-{k}.png", "width": 8, "height": 8} for k in range(10)],
        "categories": [{"id": 0, "name": "cat"}],
        "annotations": [{"id": k, "image_id": k, "category_id": 0, "bbox": [0, 0, 8, 8], "area": 64, "iscrowd": 0,
                         "segmentation": {"size": [8, 8], "counts": [0, 64]}} for k in range(10)]}, algorithm="segmentation")


def read_masks(out: Path) -> int:
    found = json.loads((out / "infer-result.json").read_text(encoding="ascii"))
    names = [image["file_name"] for image in found["images"]]
    n = int(names[0].partition("-")[0])
    platform_rules.accept_segmentation(out, [f"{n}-{k}.png" for k in range(10)], ["cat"])
    return n


WRITERS = {
    "monitor": Writer("monitor.txt", write_monitor, read_monitor),
    "stage": Writer("models/result.yaml", write_stage, read_stages),
    "legacy_stage": Writer("models/result.yaml", write_legacy_stage, read_stages),
    "stage_again": Writer("models/result.yaml", write_stage_again, read_stage_again),
    "ranking": Writer("result.tsv", write_ranking, read_ranking),
    "ranking_stream": Writer("result.tsv", stream_ranking, read_ranking),
    "boxes": Writer("infer-result.json", write_boxes, read_boxes),
    "boxes_stream": Writer("infer-result.json", stream_boxes, read_boxes),
    "masks": Writer("infer-result.json", write_masks, read_masks),
    "mask_mapping": Writer("infer-result.json", write_mask_mapping, read_masks),
}


# ---------------------------------------------------------------------------------------------------------------- the other process

def kill_at_line(number: int) -> None:
    """End this process without a word when that line of the package is about to run."""
    left = number

    def on_line(frame: Any, event: str, argument: Any) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return on_line

    def on_call(frame: Any, event: str, argument: Any) -> Any:
        code = frame.f_code    # comprehensions count as one line, and building boxes is no writing
        return on_line if f"{os.sep}ymir_exc{os.sep}" in code.co_filename and "_models" not in code.co_filename \
            and not code.co_name.startswith("<") else None

    sys.settrace(on_call)


def act(order: Dict[str, Any], started: int) -> None:
    """What a child does; an exception becomes the answer."""
    write, n = WRITERS[order["kind"]].write, order["n"]
    settings.DEFAULT_ENV_FILE_PATH = order["env"]
    os.umask(order.get("umask", 0o022))
    if order.get("uid"):
        os.setgid(order["uid"])
        os.setuid(order["uid"])
    if order.get("line"):
        kill_at_line(order["line"])
    write(n)
    sys.settrace(None)
    os.write(started, b"1")
    while order.get("forever"):
        n += 1
        with contextlib.suppress(_files.StorageError if order["forever"] == "whatever fails" else ()):
            write(n)


def serve() -> None:
    """Answer each line of orders, given as JSON, when all of their children have ended."""
    for kind in WRITERS.values():
        kind.write(1)    # loads what is loaded late
    print("ready", flush=True)
    for line in sys.stdin:
        children = []
        for order in json.loads(line):
            reader, writer = os.pipe()
            pid = os.fork()
            if not pid:
                try:
                    act(order, writer)
                except BaseException as e:
                    os.write(1, f"{json.dumps([type(e).__name__, str(e)])}\n".encode())
                os._exit(0)
            os.close(writer)
            children.append((pid, reader, order.get("seconds", 0)))
        killed = []
        for pid, reader, seconds in children:
            os.read(reader, 1)    # the first result stands, or the child has ended
            os.close(reader)
            if seconds:
                time.sleep(seconds)
                os.kill(pid, signal.SIGKILL)
            killed.append(os.WIFSIGNALED(os.waitpid(pid, 0)[1]))
        print(json.dumps({"killed": killed}), flush=True)


class Server:
    """The process whose children write."""

    def __init__(self, scratch: Platform) -> None:
        environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(scratch.env_file)}
        self.env = str(scratch.env_file)
        self.process = subprocess.Popen([sys.executable, "-m", "tests.test_torn"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=environ, cwd=Path(__file__).parent.parent, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def begin(self, *orders: Dict[str, Any]) -> None:
        """Let children write, at the same time."""
        self.process.stdin.write(json.dumps([{"env": self.env, **order} for order in orders]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Dict[str, Any]:
        """Which of them were killed, and what was raised, when all have ended."""
        errors: List[Any] = []
        while True:
            answer = json.loads(self.process.stdout.readline())
            if isinstance(answer, dict):
                return {**answer, "errors": errors}
            errors.append(answer)

    def order(self, *orders: Dict[str, Any]) -> Dict[str, Any]:
        self.begin(*orders)
        return self.answer()


@pytest.fixture(scope="module")
def only_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    scratch = Platform(tmp_path_factory.mktemp("scratch"))
    scratch.model("best.pt")
    made = Server(scratch)
    yield made
    made.process.stdin.close()
    assert made.process.wait() == 0
    made.process.stdout.close()


@pytest.fixture
def server(platform: Platform, only_server: Server) -> Server:
    """For the folders of this test, which the other uid may enter."""
    platform.model("best.pt")
    for folder in (platform.root, *platform.root.parents):
        if folder.stat().st_uid == os.getuid() and str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    only_server.env = str(platform.env_file)
    return only_server


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mounts that are undone at the end."""
    if os.getuid():
        pytest.skip("mounting needs root")
    made: List[str] = []

    def add(*args: str) -> None:
        subprocess.run(["mount", *args], check=True, capture_output=True)
        made.append(args[-1])

    yield add
    for where in reversed(made):
        subprocess.run(["umount", "-l", where], check=True)


def start(platform: Platform, kind: str) -> int:
    """A first result, so that there is something to lose."""
    WRITERS[kind].write(2)
    assert WRITERS[kind].read(platform.out) == 2
    return 2


# --------------------------------------------------------------------------------------------------------------------------- kill -9

@pytest.mark.parametrize("kind", WRITERS)
def test_killed_at_a_random_instant(platform, server, kind):
    rng, n = random.Random(kind), start(platform, kind)
    for _ in range(30):
        n += 100_000
        answer = server.order({"kind": kind, "n": n, "forever": True, "seconds": rng.random() * 0.02})
        assert answer == {"killed": [True], "errors": []}
        assert n <= WRITERS[kind].read(platform.out) < n + 100_000, "an older result came back"
    finish(platform, kind)


def first_line_never_reached(is_killed_at: Callable[[int], bool]) -> int:
    """One more than the lines that a write runs, found by killing it."""
    low, high = 1, 1
    while is_killed_at(high):
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if is_killed_at(middle) else (low, middle)
    return low


@pytest.mark.parametrize("kind", WRITERS)
def test_killed_at_any_line(platform, server, kind):
    """At some of the package's lines that one write runs, the last ones above all: there the file changes."""
    writer = WRITERS[kind]
    earlier = start(platform, kind)
    time.sleep(2e-9 * env._SETTLED_NS)    # a file that has just changed is read at each look, and that is more lines
    low = first_line_never_reached(lambda line: server.order({"kind": kind, "n": 500, "line": line})["killed"][0])
    assert low > 30
    outcomes = set()
    for line in sorted({1 + k * (low - 2) // 16 for k in range(16)} | set(range(max(1, low - 30), low, 2))):
        writer.write(601)    # the lock of the one killed before hinders nobody
        writer.write(earlier)
        assert server.order({"kind": kind, "n": 600, "line": line}) == {"killed": [True], "errors": []}
        outcomes.add(writer.read(platform.out))
    assert outcomes <= {earlier, 600}
    assert earlier in outcomes
    finish(platform, kind)


def test_killed_while_a_stage_is_dropped(platform, server):
    """At each line that may change a file: what is dropped loses its weights only after the new result.yaml stands."""
    def files() -> Set[str]:
        return {path.name for path in (platform.out / "models").glob("s_*.pt")}

    for n in range(1, 12):
        write_stage(n)
    backup = shutil.copytree(platform.out / "models", platform.root / "backup")
    time.sleep(2e-9 * env._SETTLED_NS)

    def is_killed_at(line: int) -> bool:
        shutil.rmtree(platform.out / "models")
        shutil.copytree(backup, platform.out / "models")
        return server.order({"kind": "stage", "n": 12, "line": line})["killed"][0]

    low = first_line_never_reached(is_killed_at)
    assert not is_killed_at(low)
    assert files() == {f"s_{n}.pt" for n in range(2, 13)}
    outcomes: List[Any] = []
    while outcomes.count((11, True)) < 30:    # from the last line back to some before result.yaml is replaced
        low -= 1
        assert is_killed_at(low)
        outcomes.append((read_stages(platform.out), "s_1.pt" in files()))
        if outcomes[-1] == (12, True):
            write_stage(13)
            assert files() == {f"s_{n}.pt" for n in range(3, 14)}, "the next write deletes what the killed one could not"
            assert not list(platform.out.rglob(".*"))
    assert set(outcomes) == {(11, True), (12, True), (12, False)}


def test_killed_between_the_copy_of_the_weights_and_the_result(platform, server):
    """A stage that was not listed takes the weights of its second try, whoever writes or sweeps in between."""
    models = platform.out / "models"
    write_stage(2)
    backup = shutil.copytree(models, platform.root / "backup")
    time.sleep(2e-9 * env._SETTLED_NS)

    def is_killed_at(line: int) -> bool:
        shutil.rmtree(models)
        shutil.copytree(backup, models)
        return server.order({"kind": "stage", "n": 7, "line": line})["killed"][0]

    low = first_line_never_reached(is_killed_at)
    counts = {"copied": 0, "listed": 0, "before": 0}
    while counts["before"] < 10:    # from the last line back to some before the copy is there
        low -= 1
        assert is_killed_at(low)
        is_listed, is_copied = read_stages(platform.out) == 7, (models / "s_7/best.pt").exists()
        counts["listed" if is_listed else "copied" if is_copied else "before"] += 1
        if low % 2:
            for folder in (models, models / "s_7"):    # as the supervisor does when a program has ended
                _files.remove_leftovers(folder)
        if low % 3 == 0:
            write_stage(3)
            assert (models / "s_7/best.pt").exists() is is_listed
        if not is_listed:
            write_stage(7)
        assert ((models / "s_7/best.pt").read_bytes() == b"7 %d" % os.getpid()) is not is_listed
        assert read_stages(platform.out) in (3, 7)
        if not is_listed or low % 3 == 0:
            assert not list((models / "s_7").rglob(".*"))
            assert not (models / NOTE).exists()
    assert counts["copied"] > 5
    assert counts["listed"] > 5


def test_killed_while_the_weights_of_a_stage_are_replaced(platform, server):
    """Metrics and weights belong together, after the next write at the latest, and nothing is left of those that do not."""
    models = platform.out / "models"
    write_stage_again(2)
    backup = shutil.copytree(models, platform.root / "backup")
    time.sleep(2e-9 * env._SETTLED_NS)

    def is_killed_at(line: int) -> bool:
        shutil.rmtree(models)
        shutil.copytree(backup, models)
        return server.order({"kind": "stage_again", "n": 7, "line": line})["killed"][0]

    low = first_line_never_reached(is_killed_at)
    states: List[Any] = []
    while states.count((2, 2, 2)) < 30:    # from the last line back to those that copy
        low -= 1 if states.count((2, 2, 2)) < 10 else 3
        assert is_killed_at(low)
        number = read_result(platform.out)
        states.append((number, packed(platform.out, "run", "model.pt"), packed(platform.out, "run", "more.pt")))
        for folder in (models, models / "run") if low % 2 else ():    # as the supervisor does when a program has ended
            _files.remove_leftovers(folder)
        if low % 3:
            assert server.order({"kind": "stage", "n": 3}) == {"killed": [False], "errors": []}
            assert read_stages(platform.out) == 3
            assert not list((models / "run").rglob(".*"))
            assert packed(platform.out, "run", "model.pt") == number
        write_stage_again(9)
        assert read_stages(platform.out) == 9
        assert not list((models / "run").rglob(".*"))
        assert not (models / NOTE).exists()
    assert set(states) == {(2, 2, 2), (2, 7, 2), (2, 7, 7), (7, 7, 7)}


def finish(platform: Platform, kind: str) -> None:
    """What killed writers left disturbs nobody and can be told from results."""
    names = {str(path.relative_to(platform.out)) for path in platform.out.rglob("*") if path.is_file()}
    left = {name for name in names if _files._TEMP_MARK in name}
    assert all(os.path.basename(name).startswith(".") for name in left)
    WRITERS[kind].write(9_999_999)
    assert WRITERS[kind].read(platform.out) == 9_999_999
    for folder in {(platform.out / name).parent for name in left}:
        _files.remove_leftovers(folder)
    assert not [path for path in platform.out.rglob(".*") if path.is_file()]


# ----------------------------------------------------------------------------------------------------------------------- the disk

def refused(platform: Platform, kind: str, reason: str, n: int = 3) -> None:
    """A write fails with an error that names the file, and costs nothing."""
    before = (platform.out / WRITERS[kind].file).read_bytes()
    with pytest.raises(_files.StorageError, match=reason) as caught:
        WRITERS[kind].write(n)
    assert f"cannot write {platform.out / WRITERS[kind].file}: " in str(caught.value)
    assert (platform.out / WRITERS[kind].file).read_bytes() == before
    WRITERS[kind].read(platform.out)
    assert not [path for path in platform.out.rglob(".*") if path.is_file()], "a half-made file keeps the disk full"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk(platform, mount, kind):
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(platform.out))
    (platform.out / "models").mkdir()
    platform.model("best.pt")
    start(platform, kind)
    with contextlib.suppress(OSError), open(platform.out / "filler", "wb", buffering=0) as f:
        while True:
            f.write(bytes(4096))
    refused(platform, kind, "No space left on device")
    (platform.out / "filler").unlink()
    WRITERS[kind].write(4)
    assert WRITERS[kind].read(platform.out) == 4


@pytest.mark.parametrize("kind", WRITERS)
def test_a_read_only_disk(platform, mount, kind):
    mount("-t", "tmpfs", "tmpfs", str(platform.out))
    (platform.out / "models").mkdir()
    platform.model("best.pt")
    start(platform, kind)
    subprocess.run(["mount", "-o", "remount,ro", str(platform.out)], check=True)
    refused(platform, kind, "Read-only file system")


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_is_mounted_alone(platform, mount, kind):
    platform.model("best.pt")
    start(platform, kind)
    file = str(platform.out / WRITERS[kind].file)
    mount("--bind", file, file)
    WRITERS[kind].write(3)
    assert WRITERS[kind].read(platform.out) == 3
    assert not [path for path in platform.out.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_without_permission(platform, server, kind):
    if os.getuid():
        pytest.skip("changing the uid needs root")
    start(platform, kind)
    file = platform.out / WRITERS[kind].file
    file.chmod(0o644)
    before = file.read_bytes()
    [(name, words)] = server.order({"kind": kind, "n": 3, "uid": OTHER_UID})["errors"]
    assert name == "StorageError", words
    assert words.startswith(f"cannot write {file}: Permission denied")
    WRITERS[kind].read(platform.out)
    assert file.read_bytes() == before


@pytest.mark.parametrize("kind", WRITERS)
def test_another_uid_reads_and_rewrites_the_file(platform, server, kind):
    if os.getuid():
        pytest.skip("changing the uid needs root")
    file = platform.out / WRITERS[kind].file
    assert server.order({"kind": kind, "n": 3, "umask": 0o077}) == {"killed": [False], "errors": []}
    assert stat.S_IMODE(file.stat().st_mode) & 0o666 == 0o666
    file.parent.chmod(0o777)
    assert server.order({"kind": kind, "n": 4, "uid": OTHER_UID})["errors"] == []
    assert WRITERS[kind].read(platform.out) == 4


def test_a_models_folder_that_vanishes(platform, server):
    """Each write ends well or with a StorageError; the file is whole whenever it is there."""
    models = platform.out / "models"
    for _ in range(10):
        server.begin({"kind": "stage", "n": 10, "forever": "whatever fails", "seconds": 0.1})
        for _ in range(20):
            time.sleep(0.004)
            shutil.rmtree(models, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                assert yaml.safe_load((models / "result.yaml").read_text())["model_stages"]
        answer = server.answer()
        assert answer["killed"] == [True] or answer["errors"][0][0] == "StorageError", answer
    models.mkdir(exist_ok=True)
    platform.model("best.pt")
    finish(platform, "stage")


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> List[Any]:
    """What this process flushes and renames, in order, with the size that a file has then."""
    made: List[Any] = []
    fsync, replace = os.fsync, os.replace

    def on_fsync(fd: int) -> None:
        made.append(("flush", os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size))
        fsync(fd)

    def on_replace(source: str, target: str) -> None:
        made.append(("rename", source, os.stat(source).st_size, target))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", on_fsync)
    monkeypatch.setattr(os, "replace", on_replace)
    monkeypatch.setattr(os, "rename", on_replace)
    return made


@pytest.mark.parametrize("kind", sorted(set(WRITERS) - {"monitor"}))
def test_what_a_file_is_to_hold_is_on_the_disk_before_it_has_the_name(platform, changes, kind):
    platform.model("best.pt")
    start(platform, kind)
    changes.clear()
    WRITERS[kind].write(3)
    file = str(platform.out / WRITERS[kind].file)
    [at] = [n for n, change in enumerate(changes) if change[0] == "rename" and change[3] == file]
    _, temp, size, _ = changes[at]
    assert size == os.path.getsize(file) > 0
    assert changes[at - 1] == ("flush", temp, size), "what was written after the flush is not on the disk"
    assert changes[at + 1][:2] == ("flush", os.path.dirname(file))
    if "stage" in kind:    # the stage's copies are on the disk before it is listed, and their note before them
        earlier = [(n, change) for n, change in enumerate(changes[:at]) if change[0] == "rename" and "saving" not in str(change[1])]
        own = ["model.pt", "more.pt"] if kind == "stage_again" else []
        new = [os.path.basename(_stage_files._beside(name, "new")) for name in own] or ["best.pt"]
        assert [os.path.basename(change[3]) for _, change in earlier] == [NOTE, *new, *own]
        for n, change in earlier:
            assert changes[n - 1] == ("flush", *change[1:3]) or os.path.basename(change[1]) in new
            assert changes[n + 1][:2] == ("flush", os.path.dirname(change[3]))


def test_progress_does_not_wait_for_the_disk(platform, changes):
    start(platform, "monitor")
    changes.clear()
    write_monitor(3)
    assert read_monitor(platform.out) == 3
    assert not [change for change in changes if change[0] == "flush"]


# ------------------------------------------------------------------------------------------------------------------- several writers

@pytest.mark.parametrize("kind", WRITERS)
def test_writers_at_the_same_time(platform, server, kind):
    answer = server.order(*({"kind": kind, "n": n} for n in range(2, 8)))
    assert answer == {"killed": [False] * 6, "errors": []}
    # What programs save under one name at the same time is nobody's weights.
    assert (read_result if "stage" in kind else WRITERS[kind].read)(platform.out) in range(2, 8)
    if kind in ("stage", "legacy_stage"):
        prefix = "s_" if kind == "stage" else "stage_"
        assert {f"{prefix}{n}" for n in range(2, 8)} <= set(platform.result()["model_stages"])
        assert len(platform.result()["model_stages"]) == 6


@pytest.mark.parametrize("kind", WRITERS)
def test_other_ranks_return_at_once(platform, monkeypatch, kind):
    platform.model("best.pt")
    monkeypatch.setenv("RANK", "1")
    before = sorted(platform.out.rglob("*"))
    with _files.lock(platform.out / "models"):    # whoever waited for it would wait for ever
        WRITERS[kind].write(2)
    assert sorted(platform.out.rglob("*")) == before


if __name__ == "__main__":
    settings.DEFAULT_ENV_FILE_PATH = os.environ["DEFAULT_ENV_FILE_PATH"]
    serve()
