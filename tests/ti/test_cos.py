"""The object store through its own SDK, against a server of this machine that speaks S3."""
from __future__ import annotations

import contextlib
import re

import pytest

pytest.importorskip("qcloud_cos")
pytest.importorskip("moto")
pytest.importorskip("flask_cors")

from tests.ti import s3
from ymir_exc.errors import ConfigError, DatasetError, NetworkError
from ymir_exc.ti import _cos, _stores
from ymir_exc.ti._cos import CosStore
from ymir_exc.ti.session import Session, output_of

pytestmark = pytest.mark.filterwarnings("default")    # of the SDK and of moto
BUCKET = "data-125"


@pytest.fixture(scope="module")
def server():
    with s3.serving() as made:
        yield made


@pytest.fixture
def account(place, server, monkeypatch):
    for name, value in s3.variables(server).items():
        monkeypatch.setenv(name, value)
    return place


@pytest.fixture
def store(account):
    made = CosStore(BUCKET)
    with contextlib.suppress(Exception):    # by an earlier test
        made._client.create_bucket(Bucket=BUCKET)
    for key in list(made.list("")):
        made.delete(key)
    return made


def test_the_five(store, tmp_path):
    source = tmp_path / "中 文"
    source.write_bytes(b"x" * 3_000_000)
    assert not store.exists("a/中 文")
    store.put(source, "a/中 文")
    assert store.exists("a/中 文") and not store.exists("a")
    store.get("a/中 文", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == source.read_bytes()
    assert list(store.list("a/")) == ["a/中 文"] and list(store.list("b")) == []
    store.delete("a/中 文")
    store.delete("a/中 文")
    assert not store.exists("a/中 文")
    with pytest.raises(DatasetError, match="there is nothing at cos://data-125/a/none"):
        store.get("a/none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_sdk_signs(store, server):
    assert any(re.match(r"q-sign-algorithm=sha1&q-ak=AKIDx&", line) for _, line in server.asked)


def test_many_keys(store, tmp_path):
    (tmp_path / "x").write_text("x")
    for n in range(1005):
        store._client.put_object(Bucket=BUCKET, Body=b"x", Key=f"n/{n:04d}")
    assert list(store.list("n/")) == [f"n/{n:04d}" for n in range(1005)]


def test_up_and_down_again(store, place, tmp_path):
    session = Session()
    assert session.upload_data("data", BUCKET, "/data/..//k/") == f"cos://{BUCKET}/k"
    assert session.upload_data("data/a.txt", BUCKET, "") == f"cos://{BUCKET}/a.txt"
    assert Session(bucket=BUCKET).upload_data("data", key_prefix="") == f"cos://{BUCKET}/"
    assert list(store.list("")) == ["a.txt", "deep/b.txt", "k/a.txt", "k/deep/b.txt"]
    store.put(place / "data" / "a.txt", "kk/other")    # begins with k, and is not below it
    store._client.put_object(Bucket=BUCKET, Body=b"", Key="k/empty/")
    folder = _stores.fetch(f"cos://{BUCKET}/k", tmp_path / "got")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == ["a.txt", "deep/b.txt"]
    assert _stores.fetch(f"cos://{BUCKET}/k/a.txt", tmp_path / "one") == tmp_path / "one" / "a.txt"
    assert sorted(path.name for path in _stores.fetch(f"cos://{BUCKET}", tmp_path / "all").iterdir()) == ["a.txt", "deep", "k", "kk"]
    with pytest.raises(DatasetError, match="there is nothing at"):
        _stores.fetch(f"cos://{BUCKET}/none", tmp_path / "none")


def test_a_key_cannot_leave_the_folder(store, tmp_path, monkeypatch):
    monkeypatch.setattr(CosStore, "list", lambda self, prefix: iter([f"{prefix}../../evil"]))
    monkeypatch.setattr(CosStore, "exists", lambda self, key: False)
    with pytest.raises(DatasetError, match="cannot become a file"):
        _stores.fetch(f"cos://{BUCKET}/k", tmp_path / "in" / "got")


def test_a_bucket_that_is_not_there(account, tmp_path):
    with pytest.raises(DatasetError, match="there is nothing at cos://none-125/"):
        _stores.fetch("cos://none-125/k/", tmp_path / "x")


def test_a_server_that_is_not_there(account, monkeypatch, tmp_path):
    monkeypatch.setenv("YMIR_EXC_COS_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match="cos://data-125/k"):
        CosStore(BUCKET).exists("k")


def test_the_account_from_a_file(place, monkeypatch):
    config = place.parent / "person" / ".ti" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("basic:\n  secret_id: i\n  secret_key: k\n  region: ap-x\n  app_id: 125\n")
    assert _cos.account() == ("i", "k", "", "ap-x", "125", "")
    assert CosStore("mine")._full == "mine-125" and CosStore("mine-125")._full == "mine-125"
    monkeypatch.setenv("TENCENTCLOUD_REGION", "ap-y")    # the environment counts first
    assert _cos.account().region == "ap-y"
    config.write_text("[")
    with pytest.raises(ConfigError):
        _cos.account()


def test_output(account):
    assert output_of(f"cos://{BUCKET}/out") == f"cos://{BUCKET}/out"
