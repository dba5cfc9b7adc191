"""The candidate list shared among processes: whatever their number, order and death, the result is the one that a single process writes."""
from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import queue
import random
import re
import signal
import subprocess
import sys
import threading
import time
from itertools import chain
from pathlib import Path
from typing import Dict, List, Set, Tuple

import numpy as np
import pydantic_core  # noqa: F401 - so that numbers have the texts that they have later in a long run
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract import platform_rules
from tests.shares import CLASSES, Started, boxes_of, score_of
from ymir_exc import _files, errors, monitor, sharding
from ymir_exc.code import ExecutorReturnCode as RC
from ymir_exc.result_writer import InferResultWriter, MiningResultWriter
from ymir_exc.sharding import _share
from ymir_exc.sharding._parts import Parts
from ymir_exc.sharding._ranks import Record

ODD = ["/in/assets/图 像/a b.jpg", "/in/assets/it's \"so\".png", "/in/assets/é\u2028.jpg", "/in/assets/%s{}.jpg"]


@pytest.fixture(autouse=True)
def a_new_process(monkeypatch):
    monkeypatch.setattr(_share, "_rounds", {})
    monkeypatch.setattr(monitor, "_stop_signal", [])
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
    monitor._stop_handler_set = False


@pytest.fixture
def task(platform):
    """Mining and inference of 43 candidates, which are nine blocks of five."""
    return with_candidates(platform, 43)


def with_candidates(platform, number):
    platform.index("candidate", *paths_of(number))
    return platform.run("mining", "infer")


def paths_of(number):
    return [*ODD, *(f"/in/assets/{n:03}.jpg" for n in range(number))][:number]


def plain_results(platform, paths, skipped=()) -> Tuple[bytes, bytes]:
    """What one process writes that goes through the list without sharing."""
    with MiningResultWriter() as ranking, InferResultWriter(CLASSES) as results:
        for path in paths:
            if path not in skipped:
                ranking.add(path, score_of(path))
            results.add(path, *(boxes_of(path) if path not in skipped else ([], [], [])))
    return taken(platform)


def taken(platform) -> Tuple[bytes, bytes]:
    """The results, which are removed."""
    files = [platform.out / "result.tsv", platform.out / "infer-result.json"]
    found = tuple(file.read_bytes() for file in files)
    for file in files:
        file.unlink()
    return found


def left_over(platform) -> Set[str]:
    return {path.name for path in platform.out.iterdir()} - {"models", "tensorboard", "monitor.txt"}


def parts(platform) -> Dict[int, bytes]:
    return {int(path.name[:8]): path.read_bytes() for path in platform.out.glob(".ymir-parts/*/*.part")}


def folder(platform) -> Path:
    (made,) = (platform.out / ".ymir-parts").iterdir()
    return made


def start_all(platform, world_size, **options) -> List[Started]:
    return [Started(platform, rank, world_size, **options) for rank in range(world_size)]


def finish(processes) -> None:
    for process in processes:
        assert process.end() == (0, "")


def share(platform, act, *, kinds=("mining", "infer"), block_size=5, **options):
    """One process's share, in this process; `act(path, ranking, results)` for each path. Returns the paths."""
    seen = []
    with MiningResultWriter() as ranking, InferResultWriter(CLASSES) as results:
        for path in sharding.candidates(ranking, results, block_size=block_size, **options):
            seen.append(path)
            act(path, ranking, results)
    return seen


def add(path, ranking, results):
    ranking.add(path, score_of(path))
    results.add(path, *boxes_of(path))


def stop_at(number):
    """An `act` that raises at an image, and before that adds."""
    count = iter(range(10 ** 6))

    def act(path, ranking, results):
        if next(count) == number:
            raise KeyError("that's it")
        add(path, ranking, results)

    return act


def interrupted(platform, after, **options):
    with pytest.raises(KeyError):
        share(platform, stop_at(after), **options)


# ------------------------------------------------------------------------------------------------------------------------ the results

@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_result_does_not_depend_on_the_number_of_processes(task, world_size):
    expected = plain_results(task, paths_of(43))
    finish(start_all(task, world_size, window=4, seed=world_size))
    assert left_over(task) == {"result.tsv", "infer-result.json"}
    platform_rules.accept_mining(task.out, paths_of(43))
    platform_rules.accept_detection(task.out, paths_of(43), CLASSES)
    platform_rules.accept_monitor(task.out, final="running")
    assert taken(task) == expected


@pytest.mark.parametrize("kind", ["mining", "infer"])
def test_one_writer_alone(task, kind):
    mining, infer = plain_results(task, paths_of(43))
    task.run(kind)
    finish(start_all(task, 2, kinds=[kind], block_size=None))
    name, expected = ("result.tsv", mining) if kind == "mining" else ("infer-result.json", infer)
    assert left_over(task) == {name}
    assert (task.out / name).read_bytes() == expected


def test_more_ranks_than_blocks(task):
    expected = plain_results(task, paths_of(43))
    finish(start_all(task, 3, block_size=40))
    assert (left_over(task), taken(task)) == ({"result.tsv", "infer-result.json"}, expected)


def test_a_list_without_candidates(platform):
    with_candidates(platform, 0)
    finish(start_all(platform, 2))
    assert left_over(platform) == {"result.tsv", "infer-result.json"}
    assert taken(platform) == (b"", b'{"detection": {}}')
    assert share(platform, add) == []
    assert left_over(platform) == {"result.tsv", "infer-result.json"}


def test_arrays_and_lists(platform):
    """Whatever comes together in a block is written as if it came alone."""
    rng = np.random.default_rng(0)
    paths = paths_of(400)
    platform.index("candidate", *paths)
    kinds = [np.float32, np.float64, np.int64, None]
    given_ = []
    for n in range(len(paths)):
        count = int(rng.integers(0, 4))
        corners = np.sort(rng.random((count, 2, 2)) * 100, axis=1).reshape(count, 4).round(2)
        scores, classes, kind = rng.random(count), rng.integers(0, 2, count), kinds[n % 4]
        if kind is None:
            corners, scores, classes = corners.tolist(), scores.tolist(), classes.tolist()
        else:
            corners, scores = corners.astype(kind), scores.astype(np.float32 if n % 3 else np.float64)
        given_.append((corners, scores, classes, {"image_size": (90, 80)} if n % 5 == 0 else {}))
    rank = np.float32(rng.random(len(paths)))

    def write(order, block_size):
        with MiningResultWriter() as ranking, InferResultWriter(CLASSES) as results:
            todo = paths if block_size is None else list(sharding.candidates(ranking, results, block_size=block_size))
            for n in order:
                boxes, scores, classes, more = given_[n]
                results.add(todo[n], boxes, scores, classes, **more)
            for start in range(0, len(paths), 30):
                ranking.add_batch(todo[start:start + 30], rank[start:start + 30])
        return taken(platform)

    anyhow = list(range(len(paths)))
    random.Random(1).shuffle(anyhow)
    expected = write(range(len(paths)), None)
    assert write(range(len(paths)), 7) == expected == write(anyhow, 150)


def test_a_thread_may_take_paths_ahead(task):
    expected = plain_results(task, paths_of(43))
    ready = queue.Queue(maxsize=12)
    with MiningResultWriter() as ranking, InferResultWriter(CLASSES) as results:
        paths = sharding.candidates(ranking, results, block_size=5)
        thread = threading.Thread(target=lambda: [ready.put(path) for path in [*paths, None]])
        thread.start()
        for path in iter(ready.get, None):
            add(path, ranking, results)
        thread.join()
    assert taken(task) == expected


def skip_or_add(bad):
    def act(path, ranking, results):
        if path in bad:
            ranking.skip(path)
            results.skip(path)
        else:
            add(path, ranking, results)

    return act


def test_what_is_skipped(task, caplog):
    bad = [path for n, path in enumerate(paths_of(43)) if n % 9 == 0]
    expected = plain_results(task, paths_of(43), bad)

    with caplog.at_level(logging.WARNING):
        share(task, skip_or_add(bad))
    assert taken(task) == expected
    said = f"5 images were skipped, as the program asked: {', '.join(bad[:3])}, ..."
    assert [record.getMessage() for record in caplog.records] == [said] * 2


def test_the_log_says_how_quick_it_was(task, caplog):
    with caplog.at_level("INFO"):
        share(task, add)
    assert re.search(r"43 images in \d+\.\d s: \d+ images/s", caplog.text)


def test_skip_without_sharing(platform, caplog):
    with MiningResultWriter() as ranking, InferResultWriter(CLASSES) as results:
        ranking.skip("/a.jpg")
        results.skip("/a.jpg")
        assert (ranking.skipped, results.skipped) == (1, 1)
    assert taken(platform) == (b"", b'{"detection": {"a.jpg": {"boxes": []}}}')
    assert "1 images were skipped, as the program asked: /a.jpg" in caplog.text


@pytest.mark.parametrize("block_size", [1, 5, 50])
def test_too_many_are_skipped(task, block_size):
    """At the fifth of 43, also where an earlier start skipped the first ones."""
    bad, seen = paths_of(43)[::5], []
    expected = plain_results(task, paths_of(43), bad)
    text = r"^5 of 43 images cannot be used, more than the fraction of 0\.1 that is allowed \(repair the dataset, or "

    def act(path, *writers):
        seen.append(path)
        skip_or_add(bad)(path, *writers)

    for _ in range(2):
        with pytest.raises(errors.ImageError, match=text) as told:
            share(task, act, max_skipped_ratio=0.1, block_size=block_size)
        assert told.value.return_code == RC.RC_EXEC_UNKNOWN_IMAGE_FORMAT
        assert left_over(task) == {".ymir-parts"}
        assert seen[-1] == bad[4]
    share(task, skip_or_add(bad), max_skipped_ratio=9 / 43, block_size=block_size)
    assert taken(task) == expected


@pytest.mark.parametrize("block_size", [1, 5])
def test_too_many_were_skipped_by_an_earlier_start(task, block_size):
    """The last of them with the very call that made its block complete."""
    bad = [path for n, path in enumerate(paths_of(43)) if n % 5 == 4]
    with pytest.raises(KeyError), MiningResultWriter() as ranking:
        for path in sharding.candidates(ranking, block_size=block_size):
            if path in bad:
                ranking.skip(path)
            else:
                ranking.add(path, 0.5)
            if path == bad[4]:
                raise KeyError
    with pytest.raises(KeyError), MiningResultWriter() as ranking:
        assert next(sharding.candidates(ranking, block_size=block_size, max_skipped_ratio=0.2)) == paths_of(43)[25]
        raise KeyError
    with MiningResultWriter() as ranking:    # which allows fewer: perhaps they can be used by now
        given = list(sharding.candidates(ranking, block_size=block_size, max_skipped_ratio=0.1))
        ranking.add_batch(given, [0.5] * len(given))
    assert given == (paths_of(43) if block_size == 5 else [*bad[:5], *paths_of(43)[25:]])
    assert len(platform_rules.accept_mining(task.out, paths_of(43))) == 43


@pytest.mark.parametrize("ratio", [0.1, 0.2])
def test_too_many_are_skipped_by_all_ranks(task, monkeypatch, ratio):
    bad = [path for n, path in enumerate(paths_of(43)) if n % 10 in (0, 5) and n < 30]
    expected = plain_results(task, paths_of(43), bad)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setattr(_share, "_rounds", {})
        with pytest.raises(errors.ImageError, match=r"^6 of 43 images") if (rank, ratio) == (0, 0.1) else contextlib.nullcontext():
            share(task, skip_or_add(bad), max_skipped_ratio=ratio)
        if rank or ratio == 0.1:
            assert left_over(task) == {".ymir-parts"}
    if ratio == 0.1:
        expected, handed_out = plain_results(task, paths_of(43), ()), []
        for rank in (1, 0):    # the images are repaired
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setattr(_share, "_rounds", {})
            share(task, lambda path, *writers: (handed_out.append(path), add(path, *writers)), max_skipped_ratio=ratio)
        assert sorted(handed_out) == sorted(paths_of(43)[:30])    # the blocks that they are in
    assert taken(task) == expected


def test_which_images_count_as_skipped(task):
    """One that only one writer skips; none that is refused."""
    first, second, third, *_ = paths_of(43)

    def act(path, ranking, results):
        if path == third:
            for writer in (ranking, results):
                for refused in (first, second, "/in/assets/nobody.jpg"):
                    with pytest.raises(errors.ResultError):
                        writer.skip(refused)
        if path == first:
            ranking.skip(path)
            with pytest.raises(errors.ResultError):
                ranking.skip(path)
            results.add(path, [], [], [])
        elif path == last:
            ranking.add(path, 0.5)
            results.skip(path)
        else:
            add(path, ranking, results)

    last = None
    share(task, act, max_skipped_ratio=0)
    last = paths_of(43)[7]
    with pytest.raises(errors.ImageError, match=r"^2 of 43 images cannot be used, more than the fraction of 0 that is allowed"):
        share(task, act, max_skipped_ratio=0)


@pytest.mark.parametrize(("number", "skipped", "ratio", "is_allowed"), [
    (100, 29, 0.29, True), (100, 30, 0.29, False), (100, 1, 0, True), (100, 2, 0, False), (2, 2, 0.99, False), (1, 1, 0.99, False),
    (1, 1, 1, True), (100, 100, 1, True), (100, 99, np.float32(0.99), True), (100, 100, np.nextafter(1.0, 0), False), (0, 0, 0, True)])
def test_how_many_may_be_skipped(platform, number, skipped, ratio, is_allowed):
    platform.index("candidate", *paths_of(number))
    with contextlib.nullcontext() if is_allowed else pytest.raises(errors.ImageError, match=f"^{skipped} of {number} images"), \
            MiningResultWriter() as ranking:
        for n, path in enumerate(sharding.candidates(ranking, max_skipped_ratio=ratio)):
            if n < skipped:
                ranking.skip(path)
            else:
                ranking.add(path, 0.5)


def test_two_passes_of_one_program(task):
    """The second one does not take the parts of the first, which rank 1 has done long before rank 0."""
    expected = plain_results(task, paths_of(43))
    finish([Started(task, 0, 2, passes=2, seconds=0.02), Started(task, 1, 2, passes=2)])
    assert (left_over(task), taken(task)) == ({"result.tsv", "infer-result.json"}, expected)


def test_a_pass_that_is_tried_again(task):
    interrupted(task, 17)
    interrupted(task, 7)
    assert share(task, add) == paths_of(43)[20:]
    assert share(task, add) == paths_of(43)


@pytest.mark.parametrize("number", [20_000])
def test_a_name_that_two_candidates_have(platform, number):
    for paths in (["/a/1.jpg", "/a/2.jpg", "/b/2.jpg"], [*paths_of(number), "/b/007.jpg", "/in/assets/007.jpg"]):
        platform.index("candidate", *paths)
        name = paths[-1].rpartition("/")[2]
        with pytest.raises(errors.ResultError, match=rf"^1 names stand more than once in the candidate list: '{name}' \(.*name alone"):
            share(platform, add, block_size=1)
    platform.index("candidate", "/a/1.jpg", "/b/1.jpg")    # the ranking has paths
    with MiningResultWriter() as ranking:
        assert len([ranking.add(path, 0.5) for path in sharding.candidates(ranking)]) == 2
    platform.index("candidate", "/a/1.jpg", "/a/1.jpg")
    with pytest.raises(errors.ResultError, match=r"'/a/1\.jpg'"), MiningResultWriter() as ranking:
        sharding.candidates(ranking)


@pytest.mark.parametrize("page", ["README.md", "README_zh-CN.md"])
def test_the_program_of_the_readme(task, page):
    text = Path(__file__).resolve().parent.parent.joinpath(page).read_text(encoding="utf-8")
    (program,) = (code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "sharding" in code)
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(task.env_file), "WORLD_SIZE": "2"}
    ranks = [subprocess.Popen([sys.executable, "-c", program], env={**environ, "RANK": str(rank)}) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [0, 0]
    platform_rules.accept_mining(task.out, paths_of(43))
    platform_rules.accept_detection(task.out, paths_of(43), task.config["class_names"])
    assert left_over(task) == {"result.tsv", "infer-result.json"}


# ------------------------------------------------------------------------------------------------------------------------------ kills

@pytest.mark.parametrize("seed", range(3))
def test_after_kills_at_random_moments(task, tmp_path, seed):
    expected = plain_results(task, paths_of(43))
    rng = random.Random(seed)
    known: Dict[int, bytes] = {}
    for turn in range(4):
        log = tmp_path / f"log{turn}"
        log.mkdir()
        processes = start_all(task, rng.randint(1, 3), window=rng.choice([1, 7]), seed=turn, log=str(log), seconds=0.01)
        if turn < 3:
            wait_for(lambda log=log: list(log.iterdir()), processes)
            time.sleep(rng.random() * 0.12)
            for process in processes:
                process.kill()
        else:
            finish(processes)
        issued = [path for file in log.iterdir() for path in file.read_text().split("\n")[:-1]]
        done = {path for number in known for path in paths_of(43)[number * 5:number * 5 + 5]}
        assert not done & set(issued), "what has a part is done again"
        assert len(set(issued)) == len(issued)
        if turn < 3:
            assert not (task.out / "result.tsv").exists() or taken(task) == expected
            found = parts(task)
            assert known.items() <= found.items(), "a part is lost, or was written again"
            known = found
    assert left_over(task) - {"result.tsv", "infer-result.json"} <= {name for name in os.listdir(task.out) if "ymir-tmp" in name}
    assert taken(task) == expected


def wait_for(condition, processes=(), seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert all(process.process.poll() is None for process in processes), [process.end() for process in processes]
        time.sleep(0.005)


@pytest.mark.parametrize("act", ["kill", "kill, a child lives on"])
def test_a_rank_that_is_killed(task, tmp_path, act):
    first, other = Started(task, 0, 2), Started(task, 1, 2, at=8, act=act, child=str(tmp_path / "child"))
    assert other.end()[0] == -signal.SIGKILL
    status, err = first.end(seconds=20)
    if (tmp_path / "child").exists():
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)    # it lived
    assert status == 1
    text = "rank 1 is gone without the results of 15 candidates, the first of which is '/in/assets/011.jpg'"
    assert text in err
    record = platform_rules.parse_monitor(task.monitor())
    assert (record.return_code, text in record.message) == (160004, True)
    assert sorted(parts(task)) == [0, 1, 2, 4, 6, 8]
    assert left_over(task) == {".ymir-parts"}


@pytest.mark.parametrize(("act", "at"), [("raise", 8), ("after", None)])
def test_a_rank_that_fails(task, act, at):
    """What it says comes with the platform's code; where all its parts are there, its failure is its own."""
    expected = plain_results(task, paths_of(43))
    first, other = Started(task, 0, 2), Started(task, 1, 2, act=act, at=at)
    assert other.end()[0] == 1
    status, err = first.end()
    if act == "after":
        assert (status, err, taken(task)) == (0, "", expected)
        return
    assert status == 1
    assert err.startswith("rank 1 failed: CUDA out of memory, so it said (what is done stays")
    assert platform_rules.parse_monitor(task.monitor()).return_code == 300103


@pytest.mark.parametrize("act", ["kill", "raise"])
def test_what_an_earlier_start_said_is_no_news(task, act):
    expected = plain_results(task, paths_of(43))
    for process in start_all(task, 2, at=8, act=act):
        assert process.end()[0] != 0
    first = Started(task, 0, 2)
    wait_for(lambda: set(range(0, 9, 2)) <= set(parts(task)), [first])
    time.sleep(0.3)
    assert first.process.poll() is None, "it waits for a rank that is yet to come"
    finish([Started(task, 1, 2), first])
    assert taken(task) == expected


def test_a_second_try_in_the_same_process(task, monkeypatch):
    expected = plain_results(task, paths_of(43))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for act in ("raise", ""):
        other = Started(task, 1, 2, at=8, act=act)
        if act:
            assert other.end()[0] == 1
            with pytest.raises(errors.ProgramError, match=r"^rank 1 failed: CUDA out of memory") as failed:
                share(task, add)
            assert failed.value.return_code == RC.RC_EXEC_OOM
        else:
            share(task, add)
            finish([other])
    assert taken(task) == expected


def test_the_others_do_not_need_the_first_rank(task):
    first, other = Started(task, 0, 2, at=1, act="raise"), Started(task, 1, 2)
    assert first.end()[0] == 1
    assert other.end() == (0, "")
    assert sorted(parts(task)) == [1, 3, 5, 7]


def test_one_after_the_other(task):
    expected = plain_results(task, paths_of(43))
    for rank in (2, 1, 0):
        assert Started(task, rank, 3).end() == (0, "")
    assert taken(task) == expected


def test_a_rank_that_comes_when_all_is_done(task, tmp_path):
    """Its parts were there from an earlier start: the first rank did not need to wait for it."""
    expected = plain_results(task, paths_of(43))
    interrupted(task, 42)
    late = Started(task, 1, 2, wait=str(task.out / "result.tsv"), log=str(tmp_path))
    assert Started(task, 0, 2).end() == (0, "")
    assert late.end() == (0, "")
    assert [file.read_text() for file in tmp_path.glob("1-*")] == [""]
    assert (left_over(task), taken(task)) == ({"result.tsv", "infer-result.json"}, expected)


def test_a_rank_that_comes_late_and_mends_a_part(task, tmp_path, monkeypatch):
    """Until then the first rank neither takes the part nor fails for it, and reads no part again and again."""
    expected = plain_results(task, paths_of(43))
    interrupted(task, 42)
    (folder(task) / "00000003.part").write_bytes(b"")
    reads: List[int] = []
    read = Parts.read
    monkeypatch.setattr(Parts, "read", lambda self, number, paths: (reads.append(number), read(self, number, paths))[1])
    monkeypatch.setattr(_share, "_LONGEST_POLL_SECONDS", 0.05)
    monkeypatch.setenv("WORLD_SIZE", "2")
    late = Started(task, 1, 2, wait=str(tmp_path / "begin"), log=str(tmp_path))
    timer = threading.Timer(1.0, (tmp_path / "begin").touch)
    timer.start()
    share(task, add)
    timer.join()
    assert late.end() == (0, "")
    assert [file.read_text() for file in tmp_path.glob("1-*")] == ["".join(path + "\n" for path in paths_of(43)[15:20])]
    assert {number: reads.count(number) for number in (1, 3, 5, 7)} == dict.fromkeys((1, 3, 5, 7), 3), "twice to write"
    assert taken(task) == expected


def test_which_ranks_are_awaited(task, tmp_path, monkeypatch):
    said: List[str] = []

    def warning(text, *arguments):
        said.append(text % arguments)
        if any(line.startswith("rank 2 has not begun: ") for line in said) or len(said) > 60:    # then it has failed
            (tmp_path / "begin").touch()

    monkeypatch.setattr(_share._log, "warning", warning)
    monkeypatch.setattr(_share, "_SAY_SECONDS", 0.0)
    monkeypatch.setenv("WORLD_SIZE", "3")
    others = [Started(task, 1, 3, seconds=0.15), Started(task, 2, 3, wait=str(tmp_path / "begin"))]
    share(task, add)
    finish(others)
    after = said[next(n for n, line in enumerate(said) if line.startswith("waiting")):]
    assert re.fullmatch(r"waiting for the results of rank 1 \(\d+ of 15 images are done\)", after[0])
    assert after[1].startswith("rank 2 has not begun: ")
    assert after[1].endswith("if its process has ended, end this one too; a launcher such as torchrun does")
    assert all(line.startswith(("ranks 1, 2 have not begun: ", "rank 2 has", "rank 1 has", "waiting")) for line in said)


def test_a_rank_that_fails_for_a_long_reason(task):
    """Its record has one size, in which some characters take twelve bytes."""
    program = """if True:
        import os
        from ymir_exc import executor, sharding
        from ymir_exc.result_writer import MiningResultWriter
        def run(cfg):
            with MiningResultWriter() as ranking:
                for path in sharding.candidates(ranking):
                    if os.environ["RANK"] == "1":
                        raise RuntimeError("\\U0001f980" * 1000)
                    ranking.add(path, 0.5)
        raise SystemExit(executor.Executor({"mining": run}).main())
    """
    task.run("mining")
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(task.env_file), "WORLD_SIZE": "2", "PYTHONIOENCODING": "utf-8"}
    other, first = (subprocess.Popen([sys.executable, "-c", program], env={**environ, "RANK": rank}, stderr=subprocess.PIPE)
                    for rank in "10")
    try:
        _, err = first.communicate(timeout=30)
    finally:
        for process in (first, other):
            process.kill()
            process.communicate()
    assert first.returncode == 1
    assert err.decode("utf-8").startswith("rank 1 failed: RuntimeError: " + "\U0001f980" * 300)


@pytest.mark.parametrize("begins", [False, True])
def test_a_rank_that_begins_while_the_parts_are_removed(platform, monkeypatch, begins):
    """Its file stays, and it is told; or it needs none of the parts any more."""
    with_candidates(platform, 0)
    monkeypatch.setenv("WORLD_SIZE", "2")

    def write(path, *arguments, **options):
        _files.write_bytes(path, *arguments, **options)
        if begins:
            record = Record(str(folder(platform) / "rank-1"))
            record.write(0)
            record.close()

    monkeypatch.setattr(_share, "write_bytes", write)
    with MiningResultWriter() as ranking:
        sharding.candidates(ranking)
        (folder(platform) / "rank-1.99.new").touch()
    if begins:
        assert left_over(platform) == {"result.tsv"}
    else:
        assert {path.name for path in folder(platform).iterdir()} == {"rank-1.99.new", "finished-1"}


def test_a_rank_that_is_started_twice(task):
    first = Started(task, 0, 1, seconds=1)
    wait_for(lambda: list(task.out.glob(".ymir-parts/*/rank-0")), [first])
    status, err = Started(task, 0, 1).end()
    first.kill()
    assert status == 1
    assert err.startswith("another process is at work as rank-0 of the same task")


@pytest.mark.parametrize("lacks_locks", [False, True])
def test_the_next_start_goes_on(task, monkeypatch, caplog, lacks_locks):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    if lacks_locks:
        monkeypatch.setattr(fcntl, "lockf", refuse)
    expected = plain_results(task, paths_of(43))
    interrupted(task, 17)
    assert left_over(task) == {".ymir-parts"}
    with caplog.at_level(logging.INFO):
        assert share(task, add) == paths_of(43)[15:]
    assert "15 of the 43 candidates of rank 0 have results of an earlier start" in caplog.text
    assert (left_over(task), taken(task)) == ({"result.tsv", "infer-result.json"}, expected)


@pytest.mark.parametrize("spoilt", ["empty", "cut", "altered", "altered count", "of others", "older format"])
def test_a_spoilt_part_is_made_again(task, spoilt):
    expected = plain_results(task, paths_of(43))
    interrupted(task, 17)
    part = folder(task) / "00000001.part"
    data = part.read_bytes()
    part.write_bytes({"empty": b"", "cut": data[:-1], "altered": data.replace(b"0", b"1"),
                      "altered count": re.sub(rb"^(\S+ \S+) 0 ", rb"\1 1 ", data), "older format": data.replace(b"part-2", b"part-1", 1),
                      "of others": (folder(task) / "00000002.part").read_bytes()}[spoilt])
    assert share(task, add) == [*paths_of(43)[5:10], *paths_of(43)[15:]]
    assert taken(task) == expected


def test_a_part_that_is_spoilt_later(task):
    expected = plain_results(task, paths_of(43))

    def act(path, ranking, results):
        add(path, ranking, results)
        if path == paths_of(43)[-1]:
            (folder(task) / "00000003.part").write_bytes(b"")

    with pytest.raises(errors.StorageError, match=r"00000003.part is spoilt.*start again"):
        share(task, act)
    assert left_over(task) == {".ymir-parts"}
    assert share(task, add) == paths_of(43)[15:20]
    assert taken(task) == expected


def config(task):
    task.config["lr"] = 0.5


def weights(task):
    (task.input / "models/best.pt").write_bytes(b"others")


def other_task(task):
    task.env["task_id"] = "t1"


def other_list(task):
    task.index("candidate", *reversed(paths_of(43)))


@pytest.mark.parametrize("change", [config, weights, other_task, other_list])
def test_parts_of_something_else_are_not_taken(task, change):
    interrupted(task, 17)
    change(task)
    task.write()
    assert len(share(task, add)) == 43
    assert left_over(task) == {"result.tsv", "infer-result.json"}, "the others' parts are of no use to anybody"


@pytest.mark.parametrize("change", ["block_size", "classes", "writers"])
def test_parts_of_other_writers_are_not_taken(task, change):
    interrupted(task, 17)
    with InferResultWriter([*CLASSES, "dog"] if change == "classes" else CLASSES) as results, MiningResultWriter() as ranking:
        both = [results] if change == "writers" else [ranking, results]
        for path in sharding.candidates(*both, block_size=4 if change == "block_size" else 5):
            ranking.add(path, 1.0)
            results.add(path, *boxes_of(path))
    assert results.count == 43
    assert left_over(task) == {"result.tsv", "infer-result.json", ".ymir-parts"}, "the task may go on with these"


def test_what_somebody_is_at_work_on_stays(task):
    other = Started(task, 0, 1, seconds=0.5)
    wait_for(lambda: list(task.out.glob(".ymir-parts/*/rank-0")), [other])
    other_task(task)
    task.write()
    share(task, add)
    assert folder(task).joinpath("rank-0").exists()
    other.kill()


def test_a_full_disk(task):
    """The error names the part; those before it stay."""
    task.index("candidate", *paths_of(3), *(f"/in/assets/{'long' * 30}-{n}.jpg" for n in range(200)))
    status, err = Started(task, 0, 1, block_size=100, at=150, act="full").end()
    assert status == 1
    assert re.search(r"StorageError: cannot write .*/\.ymir-parts/\S+/00000001\.part: File too large", err)
    assert sorted(parts(task)) == [0]
    assert [path.name for path in folder(task).iterdir() if "tmp" in path.name] == []


# ------------------------------------------------------------------------------------------------------------------- what goes wrong

@pytest.mark.parametrize(("rank", "first"), [(0, "so"), (1, "/in/assets/002.jpg"), (None, "")])
def test_an_image_without_a_result(task, rank, first):
    processes = [Started(task, n, 2, **({"at": 2, "act": "forget"} if n == rank else {})) for n in range(2)]
    ends = [process.end() for process in processes]
    if rank is None:
        assert ends == [(0, "")] * 2
        return
    text = "1 of the 43 candidates have no result in the "
    assert text in ends[rank][1]
    assert first in ends[rank][1]
    assert ends[rank][0] == 1
    assert ends[0][0] == 1
    assert rank == 0 or ends[0][1].startswith(f"rank 1 failed: {text}")
    assert left_over(task) == {".ymir-parts"}


@pytest.mark.parametrize(("number", "now"), [(30, "ends after 30"), (41, "ends after 41"), (44, "has more"), (50, "has more")])
def test_a_list_that_changes_meanwhile(task, number, now):
    def act(path, ranking, results):
        add(path, ranking, results)
        if path == paths_of(43)[20]:
            task.index("candidate", *paths_of(number))

    text = rf"/candidate-index.tsv changed while the program ran: it had 43 images at the beginning, and now {now} \("
    with pytest.raises(errors.DatasetError, match=text) as told:
        share(task, act)
    assert told.value.return_code == RC.RC_EXEC_DATASET_ERROR
    assert left_over(task) == {".ymir-parts"}


def test_how_many_are_missing(task):
    def act(path, ranking, results):
        ranking.add(path, 1.0)
        if path not in (*paths_of(43)[2:4], *paths_of(43)[20:31]):
            results.add(path, *boxes_of(path))

    with pytest.raises(errors.ResultError, match=r"^13 of the 43 candidates have no result in the InferResultWriter: .*é.*%s.*016.*\.\.\."):
        share(task, act)
    with pytest.raises(errors.ResultError, match=r"^40 of the 43 .* MiningResultWriter: '/in/assets/%s\{\}.jpg', '/in/assets/000.jpg', "), \
            MiningResultWriter() as ranking:
        paths = sharding.candidates(ranking, block_size=4)
        for _ in range(3):
            ranking.add(next(paths), 0.5)
    with pytest.raises(errors.ResultError, match=r"^43 of the 43 "), MiningResultWriter() as ranking:
        sharding.candidates(ranking, block_size=3)
    assert not (task.out / "result.tsv").exists()


def test_a_result_of_another_image(task, monkeypatch):
    interrupted(task, 12)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = []
    refused = ("/in/assets/000.jpg", "/in/assets/005.jpg", "/in/assets/nobody.jpg", "/in/assets/\udcff.jpg", "/in/assets/033.jpg",
               "/in/assets/037.jpg")

    def act(path, ranking, results):
        if path == "/in/assets/012.jpg":
            for stranger in [*refused, path]:
                if stranger == path:
                    ranking.add(path, 0.5)
                with pytest.raises(errors.ResultError) as told:
                    ranking.add(stranger, 0.5)
                said.append(str(told.value).replace("/in/assets/", ""))
            raise KeyError("enough")
        add(path, ranking, results)

    with pytest.raises(KeyError):
        share(task, act)
    assert [text.partition(" (")[0] for text in said] == [
        "'000.jpg' belongs to the share of rank 0, and this is rank 1", "'005.jpg' has a result of an earlier start",
        "'nobody.jpg' is not in the candidate list", "'\\udcff.jpg' is not in the candidate list", "'033.jpg' was not handed out yet",
        "'037.jpg' belongs to the share of rank 0, and this is rank 1", "'012.jpg' was added before: a candidate has one result"]


@pytest.mark.parametrize("later", [1, 20])
def test_a_second_result_of_an_image(task, later):
    def act(path, ranking, results):
        add(path, ranking, results)
        if path == paths_of(43)[later]:
            results.add(paths_of(43)[1], [], [], [])

    with pytest.raises(errors.ResultError, match=r"so.*was added before: a candidate has one result"):
        share(task, act)


def test_a_wrong_value_is_told(task):
    def act(path, ranking, results):
        ranking.add(path, 1)
        results.add(path, np.array([[0, 0, 5, 5.0]]), np.array([np.nan if path.endswith("007.jpg") else 0.5]), np.array([0]))

    with pytest.raises(errors.ResultError, match=r"007\.jpg: box .* has the score nan"):
        share(task, act)
    with pytest.raises(errors.ResultError, match=r"the mining score of .*so.* is nan"), MiningResultWriter() as ranking:
        for path in sharding.candidates(ranking):
            ranking.add(path, float("nan") if "it's" in path else 0.5)


def test_an_error_that_the_program_swallows(task):
    """The block has all its results and yet no part."""
    task.index("candidate", "/in/assets/1.jpg", "/in/assets/a\rb.jpg", "/in/assets/2.jpg")
    with pytest.raises(errors.ResultError, match=r"'/in/assets/a\\rb.jpg' holds a tab or a line break"), MiningResultWriter() as ranking:
        for path in sharding.candidates(ranking):
            with contextlib.suppress(errors.ResultError):
                ranking.add(path, 0.5)


def test_arguments(task, monkeypatch):
    from ymir_exc.result_writer import SegmentationResultWriter
    ranking = MiningResultWriter()
    for wrong in ([], [SegmentationResultWriter(CLASSES)], ["infer", ranking], [ranking, MiningResultWriter()]):
        with pytest.raises(errors.ArgumentError, match=r"candidates\(\) wants a MiningResultWriter, an InferResultWriter or both, not"):
            sharding.candidates(*wrong)
    for size in (0, -1, 2.5, "5"):
        with pytest.raises(errors.ArgumentError, match="block_size"):
            sharding.candidates(ranking, block_size=size)
    for ratio in (-0.1, 1.1, float("nan"), "0.5", None):
        with pytest.raises(errors.ArgumentError, match="max_skipped_ratio"):
            sharding.candidates(ranking, max_skipped_ratio=ratio)
    with pytest.raises(errors.ArgumentError, match="order"):
        sharding.candidates(ranking, order="mit")
    with pytest.raises(KeyError), MiningResultWriter() as ranking:
        sharding.candidates(ranking)
        with pytest.raises(errors.ArgumentError, match="has its candidates already"):
            sharding.candidates(ranking)
        raise KeyError
    for rank, size in (("2", "2"), ("1", None), ("-2", "1"), ("x", "2"), ("-1", "4"), ("0", "0")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.delenv("WORLD_SIZE") if size is None else monkeypatch.setenv("WORLD_SIZE", size)
        with pytest.raises(errors.ConfigError, match=f"^RANK={rank} and WORLD_SIZE={size or ''} do not fit together"):
            sharding.candidates(MiningResultWriter())
        monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "-1")
    with MiningResultWriter() as ranking:
        assert [ranking.add(path, 0.5) for path in sharding.candidates(ranking)] == [None] * 43
    monkeypatch.delenv("RANK")
    (task.input / "candidate-index.tsv").unlink()
    with pytest.raises(errors.DatasetError, match="does not exist"):
        sharding.candidates(MiningResultWriter())


# --------------------------------------------------------------------------------------------------------------- progress and the stop

def percents_of(monkeypatch) -> List[float]:
    seen: List[float] = []
    monkeypatch.setattr(monitor, "write_monitor_logger", lambda percent, *_, **__: seen.append(percent))
    monkeypatch.setattr(_share, "_TICK_SECONDS", 0.0)
    return seen


def test_progress_of_both_in_one_pass(task, monkeypatch):
    seen = percents_of(monkeypatch)
    share(task, add)
    assert seen == sorted(seen)
    assert {round(n / 43, 9) for n in range(44)} <= {round(value, 9) for value in seen}
    assert seen[-1] == 1.0


def test_progress_after_a_kill(task, monkeypatch):
    interrupted(task, 17)
    seen = percents_of(monkeypatch)
    share(task, add)
    assert (round(seen[0], 9), seen) == (round(15 / 43, 9), sorted(seen))


def test_progress_of_one_of_two_tasks(task, monkeypatch):
    seen = percents_of(monkeypatch)
    with MiningResultWriter() as ranking:
        for path in sharding.candidates(ranking):
            ranking.add(path, 0.5)
    assert (seen[0], max(seen), seen[-1], len(set(seen))) == (0.0, 0.5, 0.5, 44)
    del seen[:]
    with MiningResultWriter() as ranking:
        for path in sharding.candidates(ranking, order="tim"):
            ranking.add(path, 0.5)
    assert (seen[0], max(seen), seen[-1]) == (0.5, 1.0, 1.0)


def test_progress_of_all_ranks(task, tmp_path):
    """Rank 0 has little to do; while it waits, it reports what the other one does."""
    task.index("candidate", *paths_of(18))
    first, other = Started(task, 0, 2, block_size=9), Started(task, 1, 2, block_size=9, seconds=0.2)
    seen = []
    wait_for(lambda: seen.append(monitor.read_record(task.out / "monitor.txt")) or first.process.poll() is not None)
    assert first.end() == other.end() == (0, "")
    percents = [record.percent for record in seen if record is not None]
    assert percents == sorted(percents)
    assert len({value for value in percents if 0.5 < value < 1}) >= 2, percents
    assert percents[-1] == 1.0


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_stop(task, tmp_path, world_size):
    expected = plain_results(task, paths_of(43))
    processes = [Started(task, rank, world_size, seconds=0.03, **({"at": 11, "act": "stop"} if rank == world_size - 1 else {}))
                 for rank in range(world_size)]
    for process in processes:
        status, err = process.end()
        reason = "the task was asked to stop; the next start goes on with what is left"
        assert (status, err) == (143, f"ymir-exc: 160004 CONTAINER_ERROR: {reason}\n")
    record = platform_rules.parse_monitor(task.monitor())
    assert "stop" in record.message
    left = [path for n, path in enumerate(paths_of(43)) if n // 5 not in parts(task)]
    assert 3 < len(left) < 43
    finish(start_all(task, 1, log=str(tmp_path)))
    (log,) = tmp_path.glob("0-*")
    assert log.read_text(encoding="utf-8").split("\n")[:-1] == left
    assert taken(task) == expected


# ------------------------------------------------------------------------------------------------------------------- sizes and shares

@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 40), block_size=st.one_of(st.none(), st.integers(1, 50)), world_size=st.integers(1, 9))
def test_each_candidate_is_in_one_share(platform, number, block_size, world_size):
    platform.index("candidate", *paths_of(number))
    shares = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", str(world_size))
        for rank in range(world_size):
            patch.setenv("RANK", str(rank))
            with pytest.raises(KeyError), InferResultWriter(CLASSES) as results:
                shares.append(list(sharding.candidates(results, block_size=block_size)))
                raise KeyError
    size = block_size or 1
    blocks = [paths_of(number)[start:start + size] for start in range(0, number, size)]
    assert shares == [list(chain.from_iterable(blocks[rank::world_size])) for rank in range(world_size)]


@pytest.mark.parametrize(("number", "size"), [(1, 1), (256, 1), (257, 2), (25_700, 101), (200_000, 500)])
def test_blocks_of_a_list(platform, number, size):
    platform.index("candidate", *(f"/{n}.jpg" for n in range(number)))
    with pytest.raises(KeyError), MiningResultWriter() as ranking:
        for path in sharding.candidates(ranking):
            ranking.add(path, 0.5)
            if parts(platform):
                raise KeyError
    assert int(path[1:-4]) + 1 == size


GROWTH = """
import numpy
from ymir_exc import env, sharding
from ymir_exc.code import ExecutorReturnCode as RC
from ymir_exc.result_writer import InferResultWriter, MiningResultWriter
def act(count, end):
    with open(env.current_env().input.candidate_index_file, "w") as f:
        f.writelines(f"/in/assets/{n:040}.jpg\\n" for n in range(count))
    with WRITER as writer:
        for path in sharding.candidates(writer, block_size=100):
            writer.add(path, *VALUES)
        end()
"""


@pytest.mark.parametrize(("writer", "values", "few", "bytes_each"), [
    ("MiningResultWriter(rows_in_memory=1000)", "[0.5]", 6_000, 40),
    ("InferResultWriter(['cat'])", "[[[0, 0, 5, 5]], [0.5], [0]]", 4_000, 5)])
def test_memory_is_flat(memory_growth, writer, values, few, bytes_each):
    assert memory_growth(GROWTH.replace("WRITER", writer).replace("VALUES", values), few, 3 * few) < bytes_each
