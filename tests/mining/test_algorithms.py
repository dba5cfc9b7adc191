"""Algorithms by name, what importing them needs, and the program of the READMEs."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ymir_exc import mining
from ymir_exc.errors import ArgumentError, ConfigError

ROOT = Path(__file__).resolve().parent.parent.parent
P = [[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]
SEEN = {"path": "a.jpg", "boxes": [[0, 0, 10, 10]] * 2, "probabilities": P, "augmented": [([[0, 0, 10, 5]], [[0.7, 0.2, 0.1]])],
        "maps": [np.full((3, 2, 2), 1 / 3)], "class_counts": [8, 1, 0], "embedding": [1.0]}


@pytest.mark.parametrize("name, needs, score", [
    ("random", "path", mining.random("a.jpg", 5)),
    ("least_confidence", "probabilities", (0.45 + 0.75) / 2),
    ("margin", "probabilities", (0.5 + 0.75) / 2),
    ("entropy", "probabilities", (1.15678 + 1.5) / 1.58496 / 2),
    ("class_balanced", "probabilities class_counts", (0.25 + 0.5625) * 12 / 9 / 2),
    ("cald", "boxes probabilities augmented", 1 - 0.1 / 1.3),    # m of the first box is 0.5 + 0.7, of the second at most 0.5 + 0.6
    ("aldd", "maps", 0.0),
    ("core_set", "embedding", 0.0),
    ("hybrid", "probabilities embedding", (1.15678 + 1.5) / 1.58496 / 2),
])
def test_every_algorithm(name, needs, score):
    scorer = mining.scorer(name, aggregation="mean", seed=5)
    assert scorer.name == name and scorer.needs == set(needs.split())
    assert scorer.score(**SEEN) == pytest.approx(score, abs=1e-4)
    assert scorer.score(**{word: SEEN[word] for word in needs.split()}) == scorer.score(**SEEN)
    for word in set(needs.split()) - {"embedding"}:
        with pytest.raises(ArgumentError, match=f"{name} needs {word} of each image"):
            scorer.score(**{other: SEEN[other] for other in SEEN if other != word})


def test_all_are_offered():
    assert list(mining.scorers()) == ["random", "least_confidence", "margin", "entropy", "class_balanced", "cald", "aldd", "core_set",
                                      "hybrid"]
    assert all(name == scorer.name for name, scorer in mining.scorers().items())


def test_options_reach_the_algorithms():
    assert mining.scorer("entropy", kind="sigmoid", aggregation="sum").score(probabilities=[[0.5, 1], [0.5, 0.5]]) == 1.5
    assert mining.scorer("entropy", kind="Sigmoid", aggregation="count-aware").score(probabilities=[[0.5]] * 4) == 2
    assert mining.scorer("random", seed=1).score(path="a") != mining.scorer("random").score(path="a")
    edge = [np.array([[[1.0, 0, 0, 0]]])]
    assert mining.scorer("aldd", kind="sigmoid", window=1).score(maps=edge) == 0
    assert mining.scorer("aldd", kind="sigmoid", pool=4).score(maps=edge) == 1
    assert mining.scorer("aldd", kind="sigmoid", pool=2).score(maps=edge) == 0.5
    assert mining.scorer("cald", beta=2).score(**SEEN) < mining.scorer("cald", beta=1.3).score(**SEEN)


def test_what_ranks_the_set():
    line = [[0.0], [1.0], [5.0], [10.0]]
    ranking = {name: scorer for name, scorer in mining.scorers(factor=1).items() if scorer.rank}
    assert set(ranking) == {"core_set", "hybrid"} == {name for name, scorer in mining.scorers().items() if "embedding" in scorer.needs}
    assert ranking["core_set"].rank([0, 0, 0, 0], line, 1, labelled=[[0.0]]).indices.tolist() == [3]
    assert ranking["hybrid"].rank([0, 1, 0, 2], line, 2).indices.tolist() == [3, 1]
    assert mining.scorer("hybrid", factor=4).rank([0, 1, 0, 2], line, 2).indices.tolist() == [3, 0]


@pytest.mark.parametrize("name", ["Entropy", " entropy ", "ENTROPY", "Core-Set", "least-confidence"])
def test_names_are_read_as_people_write_them(name):
    assert mining.scorer(name).name == name.strip().lower().replace("-", "_")


@pytest.mark.parametrize("name, close", [("entrpy", "is entropy meant?"), ("coreset", "is core_set meant?"), ("cadl", "is cald meant?"),
                                         ("xyz", None), (None, None), (3, None)])
def test_an_unknown_name(name, close):
    with pytest.raises(ConfigError) as caught:
        mining.scorer(name)
    assert f"no mining algorithm {name!r}" in str(caught.value) and "aldd, core_set" in str(caught.value)
    assert caught.value.hint == (close or "")


def test_unknown_options():
    with pytest.raises(ConfigError, match="no aggregation 'avg'"):
        mining.scorer("entropy", aggregation="avg")
    with pytest.raises(ConfigError, match=r"no kind of probabilities 'sigmod'.*is sigmoid meant"):
        mining.scorer("entropy", kind="sigmod")


def test_without_numpy():
    program = ("import sys; sys.modules['numpy'] = None; import ymir_exc\n"
               "try: import ymir_exc.mining\n"
               "except ImportError as e: print(e)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "ymir_exc.mining needs numpy, which is not installed: pip install numpy\n"


def test_the_program_of_the_readme():
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    program = next(text for text in programs if "import mining" in text)
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["b.jpg", "a.jpg", "c.jpg", "b.jpg", "c.jpg"]
