from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ymir_exc.errors import ArgumentError, ConfigError, DatasetError
from ymir_exc.ti._inputs import channels, encoded, environment, program
from ymir_exc.ti._stores import clean_key, local_path, split_cos

ROOT = Path(__file__).resolve().parents[2]


def test_hyperparameters_are_encoded_once():
    assert encoded({"i": 1, "b": True, "s": "adam", "t": "1", "d": {"a": [1, None]}, "字": "值", "e": ""}) == {
        "i": "1", "b": "true", "s": '"adam"', "t": '"1"', "d": '{"a": [1, null]}', "字": json.dumps("值"), "e": '""'}


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": math.nan}, {1, 2}, object(), Path("x"), b"x"])
def test_what_json_cannot_say_is_refused(value):
    with pytest.raises(ArgumentError, match="'rate'"):
        encoded({"rate": value})


def test_numbers_and_arrays_of_numpy_are_sent_as_such(place):
    numpy = pytest.importorskip("numpy")
    values = {"n": numpy.int64(3), "x": numpy.float32(0.5), "all": [numpy.bool_(True)], "row": numpy.arange(3)}
    assert encoded(values) == {"n": "3", "x": "0.5", "all": "[true]", "row": "[0, 1, 2]"}
    with pytest.raises(ArgumentError, match="'x'"):
        encoded({"x": numpy.float32("nan")})


def test_a_long_value_is_sent_whole_and_told_short():
    assert encoded({"a": "x" * 10**6}) == {"a": '"%s"' % ("x" * 10**6)}
    with pytest.raises(ArgumentError) as refused:
        encoded({"a": {"x" * 10**6}})
    assert len(str(refused.value)) < 500
    deep = []
    for _ in range(100000):
        deep = [deep]
    with pytest.raises(ArgumentError):
        encoded({"a": deep})


@pytest.mark.parametrize("name", [1, "", None])
def test_a_name_is_text(name):
    with pytest.raises(ArgumentError):
        encoded({name: 1})


def test_channels_of_paths(place):
    data = str(place / "data")
    assert channels(None) == {}
    assert channels("data") == {"training": {"uri": "data", "path": data}}
    assert channels(Path("data")) == channels("data")
    assert channels({"a": f"file://{data}", "b": f"file://{data.replace(' ', '%20')}/a.txt", "c": "file://data"}) == {
        "a": {"uri": f"file://{data}", "path": data}, "b": {"uri": f"file://{data.replace(' ', '%20')}/a.txt", "path": f"{data}/a.txt"},
        "c": {"uri": "file://data", "path": data}}


def test_a_name_with_a_percent_sign_is_taken_as_it_is(place):
    (place / "50%20").mkdir()
    assert local_path("file://50%20").name == "50%20"
    assert local_path("50%20").name == "50%20"
    assert local_path("file://localhost/a/b") == Path("/a/b")


def test_a_home_and_a_folder_that_is_gone(place, monkeypatch):
    (place.parent / "person").mkdir()
    assert channels("~") == {"training": {"uri": "~", "path": str(place.parent / "person")}}
    (place / "gone").mkdir()
    monkeypatch.chdir(place / "gone")
    (place / "gone").rmdir()
    for relative in ("x", "file://x", "."):
        with pytest.raises(ArgumentError, match="working directory that is gone"):
            local_path(relative)
    assert local_path(place) == place


def test_neither_file_nor_folder(place):
    os.mkfifo("pipe")
    with pytest.raises(DatasetError, match="neither a file nor a folder"):
        channels("pipe")


@pytest.mark.parametrize("inputs,kind", [("nothing", DatasetError), ({"a": "file:///nothing"}, DatasetError), ({"a": 1}, ArgumentError),
                                         (7, ArgumentError), ({"../a": "data"}, ArgumentError), ("http://a/b", ArgumentError),
                                         ("", ArgumentError), ("cos://", ArgumentError)])
def test_inputs_that_will_not_do(place, inputs, kind):
    with pytest.raises(kind):
        channels(inputs)


def test_a_bucket_needs_an_account(place):
    pytest.importorskip("qcloud_cos")
    with pytest.raises(ConfigError, match="TENCENTCLOUD_SECRET_ID, TENCENTCLOUD_SECRET_KEY, TENCENTCLOUD_REGION"):
        channels("cos://bucket/key")


def test_a_bucket_needs_the_sdk(place, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "qcloud_cos", None)
    with pytest.raises(ConfigError, match=r"pip install 'ymir_exc\[cos\]'"):
        channels("cos://bucket/key")


@pytest.mark.parametrize("uri,parts", [("cos://b", ("b", "")), ("cos://b/", ("b", "")), ("cos://b//data/..", ("b", "")),
                                       ("cos://b/a//c/", ("b", "a/c")), ("cos://b/a b/中", ("b", "a b/中"))])
def test_cos(uri, parts):
    assert split_cos(uri) == parts


@pytest.mark.parametrize("key,clean", [("", ""), ("/", ""), ("/data", "data"), ("data/", "data"), ("a//b", "a/b"), ("../../x", "x"),
                                       (".", "")])
def test_keys(key, clean):
    assert clean_key(key) == clean


def test_environment():
    assert environment({"A": 1, "B": "x=y"}) == {"A": "1", "B": "x=y"}
    with pytest.raises(ArgumentError, match="longer than 128 KiB"):
        environment({"A": "字" * 50000})
    for name in ("", "A=B", "A\0"):
        with pytest.raises(ArgumentError):
            environment({name: "x"})


def test_programs(place):
    (place / "src" / "包").mkdir(parents=True)
    (place / "src" / "包" / "a.py").write_text("")
    (place / "b.py").write_text("")
    src = place / "src"
    assert program("b.py", None) == (place / "b.py", "b.py")
    assert program("包/a.py", "src") == (src, "包/a.py")
    assert program("./包/../包/a.py", src) == (src, "包/a.py")
    assert program(str(src / "包" / "a.py"), src) == (src, "包/a.py")
    assert program("src/包/a.py", "src") == (src, "包/a.py")    # relative to the working directory
    (place / "link").symlink_to(src)
    assert program(str(src / "包" / "a.py"), "link") == (place / "link", "包/a.py")


@pytest.mark.parametrize("entry,source,word", [("none.py", None, "does not exist"), ("", None, "empty"), ("data", None, "does not exist"),
                                               ("none.py", "data", "does not exist in"), ("../b.py", "data", "does not lie in"),
                                               ("b.py", "data", "does not lie in"), ("out.txt", "data", "does not lie in"),
                                               ("a.txt", "b.py", "no folder"), ("a.txt", "cos://b/c", "cos://")])
def test_programs_that_will_not_do(place, entry, source, word):
    (place / "b.py").write_text("")
    (place / "data" / "out.txt").symlink_to(place / "b.py")
    with pytest.raises(ArgumentError, match=word):
        program(entry, source)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_folder_that_may_not_be_looked_into(place):
    (place / "data").chmod(0o700)
    program = f"""if True:
        import os
        from ymir_exc.errors import DatasetError
        from ymir_exc.ti import _inputs, session
        os.setuid(1234)
        try:
            _inputs.channels({str(place / "data" / "a.txt")!r})
        except DatasetError as e:
            print(e)
        session.output_of({str(place / "data" / "out")!r})"""
    for folder in (place, *place.parents):
        if len(folder.parts) > 2:
            folder.chmod(folder.stat().st_mode & ~0o077)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "cannot be looked at: Permission denied" in done.stdout, done.stderr
