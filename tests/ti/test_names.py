from __future__ import annotations

import datetime
from itertools import islice

import pytest

from ymir_exc.errors import ArgumentError
from ymir_exc.ti._names import base_of, check_channel, check_job_name, job_names

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, 7999, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize("image,base", [
    ("net", "net"), ("net:1.0", "net"), ("r.io:5000/a/net", "net"), ("r.io:5000/a/net:1", "net"), ("a/net@sha256:0f", "net"),
    ("r.io/a/net:1@sha256:0f", "net"), ("localhost:5000/n_e-t", "n_e-t")])
def test_base(image, base):
    assert base_of(image) == base


def test_the_time_has_milliseconds_of_three_digits():
    assert next(job_names("net", NOW)) == "net-2026-01-02-03-04-05-007"


def test_two_jobs_of_one_millisecond_differ():
    assert list(islice(job_names("n", NOW), 2)) == ["n-2026-01-02-03-04-05-007", "n-2026-01-02-03-04-05-008"]


def test_utc_is_used():
    earlier = datetime.datetime.now(datetime.timezone.utc)
    name = next(job_names("n"))
    told = datetime.datetime.strptime(name[2:-4], "%Y-%m-%d-%H-%M-%S").replace(tzinfo=datetime.timezone.utc)
    assert abs(told - earlier) < datetime.timedelta(minutes=1)


@pytest.mark.parametrize("base", ["x" * 100, "a.b/c d", "__", "", "-lead", "模型", "a" * 35 + "---" + "b"])
def test_each_is_a_name_that_is_accepted(base):
    name = next(job_names(base, NOW))
    assert check_job_name(name) == name and len(name) <= 60 and name.endswith("2026-01-02-03-04-05-007")


@pytest.mark.parametrize("name", ["a", "7", "训练-1", "A_b-C", "x" * 60])
def test_accepted(name):
    assert check_job_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 61, "-a", "_a", "a b", "a/b", "../a", "a.b", "a\n", None, 7])
def test_refused(name):
    with pytest.raises(ArgumentError):
        check_job_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".a", None, "a b"])
def test_no_channel(name):
    with pytest.raises(ArgumentError):
        check_channel(name)


def test_channels():
    assert check_channel("my-val.1") == "my-val.1"
