"""Rankings that compare images with each other: of all images, whichever process has seen them."""
from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from ymir_exc import mining
from ymir_exc.errors import ArgumentError, ResultError
from ymir_exc.result_writer import MiningResultWriter

PROGRAM = """
import sys, zlib
import numpy as np
from ymir_exc import mining, sharding
from ymir_exc.result_writer import MiningResultWriter
core_set = mining.scorer("core_set")
with MiningResultWriter(rank=lambda scores, embeddings: core_set.rank(scores, embeddings, 20).scores) as ranking:
    for number, path in enumerate(sharding.candidates(ranking, block_size=3)):
        if path.endswith("7.jpg"):
            ranking.skip(path)
        else:
            scene = zlib.crc32(path.rpartition("/")[2].split("-")[0].encode())
            ranking.add(path, 0.0, np.random.RandomState(scene).rand(4))
        if number == int(sys.argv[1]):
            raise SystemExit(1)
"""


def candidates():
    """Fifty scenes, each seen twice."""
    return [f"/in/assets/{n % 50}-{n}.jpg" for n in range(100)]


def run(environ, rank=0, processes=1, fail_at=-1):
    return subprocess.run([sys.executable, "-c", PROGRAM, str(fail_at)], check=False, stderr=subprocess.PIPE, text=True,
                          env={**environ, "RANK": str(rank), "WORLD_SIZE": str(processes)})


def test_the_ranking_is_that_of_all_images_whoever_saw_them(platform):
    platform.run("mining").index("candidate", *candidates())
    environ, made = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file)}, []
    for processes in (1, 2, 3):
        for rank in reversed(range(processes)):    # rank 0 waits for the others
            done = run(environ, rank, processes)
            assert done.returncode == 0, done.stderr
        made.append((platform.out / "result.tsv").read_bytes())
        (platform.out / "result.tsv").unlink()
    assert made[0] == made[1] == made[2]
    paths = [line.split(b"\t")[0].rpartition(b"/")[2] for line in made[0].splitlines()]
    assert len(paths) == 90
    assert len({path.split(b"-")[0] for path in paths[:20]}) == 20    # no scene a second time


def test_what_was_seen_before_a_failure_counts(platform):
    platform.run("mining").index("candidate", *candidates())
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file)}
    assert run(environ).returncode == 0
    whole = (platform.out / "result.tsv").read_bytes()
    (platform.out / "result.tsv").unlink()
    assert run(environ, fail_at=50).returncode == 1
    assert not (platform.out / "result.tsv").exists()
    assert run(environ).returncode == 0
    assert (platform.out / "result.tsv").read_bytes() == whole


@pytest.mark.parametrize("make", [list, np.asarray, lambda rows: np.asarray(rows, np.float64)])
def test_without_shared_candidates(platform, make):
    vectors = [[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [0.0, 9.0]]
    got = []

    def rank(scores, embeddings):
        got.append((scores.tolist(), embeddings.dtype, embeddings.shape))
        return mining.scorer("core_set").rank(scores, embeddings, 3).scores

    with MiningResultWriter(rank=rank) as ranking:
        ranking.add("a", 1, vectors[0])
        ranking.add_batch([], [], make([]))
        ranking.add_batch(["b", "c"], [0.5, 2.0], make(vectors[1:3]))
        ranking.skip("x")
        ranking.add("d", 0.25, np.array(vectors[3]))
    # First the one nearest to the middle (1.3, 3.5), then always the farthest from all that are chosen.
    assert got == [([1, 0.5, 2, 0.25], np.float32, (4, 2))]
    assert [line.split("\t")[0] for line in (platform.out / "result.tsv").read_text().splitlines()] == ["b", "d", "c", "a"]
    assert ranking.count == 4


def test_nothing_to_rank(platform):
    with MiningResultWriter(rank=lambda scores, embeddings: 1 / 0):
        pass
    assert (platform.out / "result.tsv").read_bytes() == b""


@pytest.mark.parametrize(("embedding", "words"), [
    (None, "embeddings must be numbers"), ([1.0], r"\(1, 2\), are \(1, 1\)"), ([[1.0, 2.0]], "are"), ([1.0, float("nan")], "NaN"),
    (["a", "b"], "embeddings must be numbers")])
def test_what_is_no_embedding_is_refused_at_once(platform, embedding, words):
    with MiningResultWriter(rank=lambda scores, embeddings: scores) as ranking:
        ranking.add("a", 0.5, [0.0, 0.0])
        with pytest.raises(ResultError, match=words):
            ranking.add("b", 0.5, embedding)
    assert (platform.out / "result.tsv").read_text() == "a\t0.5\n"


def test_an_embedding_for_nothing(platform):
    with MiningResultWriter() as ranking, pytest.raises(ArgumentError, match="no use for embeddings"):
        ranking.add("a", 0.5, [1.0])


def test_a_function_that_forgets_images(platform):
    (platform.out / "result.tsv").write_text("earlier\t1\n")
    with pytest.raises(ResultError, match="2 images and 1 mining scores"), MiningResultWriter(rank=lambda scores, _: scores[:1]) as ranking:
        ranking.add_batch(["a", "b"], [0.5, 0.7], [[1.0], [2.0]])
    assert (platform.out / "result.tsv").read_text() == "earlier\t1\n"
