"""What the platform writes: hyper-parameters, hosts, channels, and every way in which these can be wrong."""
from __future__ import annotations

import json
import math

import pytest

from ymir_exc.errors import ConfigError
from ymir_exc.platforms.ti._config import decode


@pytest.mark.parametrize("text,value", [
    ("007", "007"), ("1e3", 1000.0), ("true", True), ("True", "True"), ("null", None), ("[1, 2]", [1, 2]), ("a b", "a b"),
    ("1", 1), ('"adam"', "adam"), ("adam", "adam"), ('"1"', "1"), ('"\\"1\\""', '"1"'), ('{"a": {"b": "1"}}', {"a": {"b": "1"}}), ("", ""),
    (3, 3), (True, True), ({"a": [1]}, {"a": [1]}), (None, None), ("[" * 100_000, "[" * 100_000)])
def test_one_level_is_decoded(text, value):
    found = decode(text, "here")
    assert found == value and type(found) is type(value)

def test_nan_is_kept_for_programs_that_know_it(job):
    assert math.isnan(decode("NaN", "here")) and decode("-Infinity", "here") == -math.inf
    job.write("hyperparameters.json", b'{"a": NaN}')
    assert math.isnan(job.read().values["a"])

def test_the_order_of_the_file_and_what_is_the_platform_s(job):
    job.hyper(ti_program="a.py", z="1", ymir_task="training", a="2", ti_job_name="j")
    read = job.read()
    assert list(read.user_values()) == ["z", "a"] and read.user_values("z") == {"a": 2}
    assert (read.text("ti_program"), read.text("none")) == ("a.py", "")
    with pytest.raises(ConfigError, match=r"hyperparameters\.json: ti_program: \[1\]"):
        job.hyper(ti_program="[1]").read().text("ti_program")

def test_nothing_is_there(job):
    for folder in (job.config, job.data):
        folder.rmdir()
    read = job.read()
    assert (read.values, read.channels, read.hosts, read.warnings) == ({}, {}, (("localhost",), "localhost", ""), ())

@pytest.mark.parametrize("name", ["hyperparameters.json", "resourceconfig.json", "resourceConfig.json", "inputdataconfig.json"])
@pytest.mark.parametrize("content,words", [
    (b"", "is empty"), (b"{", "line 1: not valid JSON"), (b'{"a": 1,\n "b" 2}', "line 2: not valid JSON"), (b"[1]", "wanted, not a list"),
    (b"null", "not null"), (b'"{}"', "not text"), (b"\xff\xfe{}", "not UTF-8"), (b'{"a": 1, "a": 2}', "key 'a' is there twice"),
    (b"[" * 100_000, "not valid JSON"), (b'{"a": ' + b" " * (16 << 20) + b"1}", "larger than 16 MiB")])
def test_a_file_that_is_wrong(job, name, content, words):
    job.write(name, content)
    with pytest.raises(ConfigError, match=words) as caught:
        job.read()
    assert str(job.config / name) in str(caught.value) and caught.value.exit_code == 4

def test_a_doubled_key_inside_of_a_value(job):
    with pytest.raises(ConfigError, match=r"hyperparameters\.json: cfg: the key 'lr' is there twice"):
        job.hyper(cfg='{"lr": 1, "lr": 2}').read()

def test_a_value_of_many_levels(job):
    job.hyper(a="[" * 90 + "]" * 90).read()
    for value in ("[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300):
        with pytest.raises(ConfigError, match=r"hyperparameters\.json: a: nested deeper than 100 levels"):
            job.hyper(a=value).read()


def test_a_byte_order_mark_is_no_fault(job):
    job.write("hyperparameters.json", b"\xef\xbb\xbf" + json.dumps({"a": "名"}).encode())
    assert job.read().values == {"a": "名"}

def test_a_file_that_cannot_be_read(job):
    (job.config / "hyperparameters.json").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read .*hyperparameters\.json: Is a directory"):
        job.read()

# ------------------------------------------------------------------------------------------------- hosts

def test_hosts_are_never_sorted(job):
    job.write("resourceConfig.json", {"current_host": "algo-2", "hosts": ["algo-10", "algo-2"], "network_interface_name": "eth7"})
    assert job.read().hosts == (("algo-10", "algo-2"), "algo-2", "eth7")

def test_both_spellings(job):
    job.write("resourceConfig.json", {"hosts": ["a"], "current_host": "a"})
    job.write("resourceconfig.json", {"hosts": ["a"], "current_host": "a"})
    assert job.read().warnings == ()
    job.write("resourceconfig.json", {"hosts": ["b"], "current_host": "b"})
    read = job.read()
    assert read.hosts.names == ("b",) and "differ" in read.warnings[0]

def test_an_mpi_operator_names_no_host(job):
    job.write("resourceconfig.json", {"hosts": ["a", "b"], "current_host": "", "mpi_operator_submit": True})
    assert job.read(INDEX="1").hosts.current == "b"
    job.write("resourceconfig.json", {"hosts": ["a", "b"], "current_host": "launcher", "mpi_operator_submit": True})
    assert job.read(INDEX="1").hosts.current == "b"
    for index in ({}, {"INDEX": "2"}, {"INDEX": "x"}):
        with pytest.raises(ConfigError, match="INDEX"):
            job.read(**index)

@pytest.mark.parametrize("value,hosts", [
    ({}, (("localhost",), "localhost", "")), ({"current_host": "a"}, (("a",), "a", "")), ({"hosts": ["a"]}, (("a",), "a", ""))])
def test_what_a_single_host_may_leave_out(job, value, hosts):
    job.write("resourceconfig.json", value)
    assert job.read().hosts == hosts

@pytest.mark.parametrize("value,words", [
    ({"hosts": "a"}, "hosts: a list"), ({"hosts": []}, "hosts: a list"), ({"hosts": [1]}, "hosts: a list"),
    ({"hosts": ["a", "a"]}, "twice"), ({"hosts": ["a"], "current_host": 3}, "current_host: text"),
    ({"hosts": ["a"], "current_host": "b"}, "'b' is none of hosts"),
    ({"hosts": ["a"], "network_interface_name": 1}, "network_interface_name"), ({"hosts": ["a", "b"]}, "INDEX")])
def test_hosts_that_are_wrong(job, value, words):
    path = job.write("resourceconfig.json", value)
    with pytest.raises(ConfigError, match=words) as caught:
        job.read()
    assert str(path) in str(caught.value)

def test_the_newer_variables_describe_hosts_too(job):
    environ = {"NODE_LIST": "b-0:8, a-1:8,[::1]:4", "INDEX": "1"}
    assert job.read(**environ).hosts == (("b-0", "a-1", "[::1]"), "a-1", "")
    assert job.read(NODE_LIST="one").hosts == (("one",), "one", "")
    with pytest.raises(ConfigError, match="INDEX"):
        job.read(NODE_LIST="a:1,b:1")
    with pytest.raises(ConfigError, match="twice"):
        job.read(NODE_LIST="a:1,a:1", INDEX="0")
    job.write("resourceconfig.json", {"hosts": ["file"]})
    assert job.read(**environ).hosts.names == ("file",)

# ------------------------------------------------------------------------------------------------- channels

def test_channels_are_the_file_s_or_else_the_folders(job):
    job.channel("b"), job.channel("a"), job.channel(".hidden")
    job.file("input/data/a.txt")
    assert list(job.read().channels) == ["a", "b"]
    job.write("inputdataconfig.json", {"z": {"TrainingInputMode": "File"}, "b": {}})
    assert job.read().channels == {"z": str(job.data / "z"), "b": str(job.data / "b")}

@pytest.mark.parametrize("name", ["", "..", "a/b", "a\0b"])
def test_a_channel_cannot_lead_elsewhere(job, name):
    job.write("inputdataconfig.json", {name: {}})
    with pytest.raises(ConfigError, match="is no channel's name"):
        job.read()
