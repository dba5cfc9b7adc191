"""Which platform started this process, what is checked before the program starts, and where the outcome goes."""
from __future__ import annotations

import os
import pickle

import pytest

from ymir_exc import env, monitor, platforms, settings
from ymir_exc.code import ExecutorReturnCode as RC
from ymir_exc.errors import ConfigError, Failure, StorageError
from ymir_exc.platforms.base import Outcome, Prepared
from ymir_exc.platforms.local import LocalPlatform
from ymir_exc.platforms.ymir import YmirPlatform

FAILED = Outcome(1, Failure(RC.RC_EXEC_NAN_ERROR, "loss is nan"), ("a traceback", "of two lines"))


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("YMIR_EXC_PLATFORM", "DEFAULT_ENV_FILE_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_every_platform_keeps_the_protocol():
    for name in platforms.NAMES:
        made = platforms.load(name)
        assert made.name == name and all(callable(getattr(made, method)) for method in ("detect", "prepare", "finish"))


def test_the_order_of_detection():
    assert platforms.NAMES[0] == "ymir" and platforms.NAMES[-1] == "local"


def test_ymir_is_detected_by_its_file(platform):
    assert platforms.choose().name == "ymir"
    platform.env_file.unlink()
    assert platforms.choose().name == "local"


def test_ymir_is_detected_by_the_variable_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(tmp_path / "env.yaml"))
    monkeypatch.setenv("DEFAULT_ENV_FILE_PATH", str(tmp_path / "env.yaml"))
    assert platforms.choose().name == "ymir"


@pytest.mark.parametrize("make", [lambda p: p.symlink_to("nowhere"), lambda p: p.mkdir(), lambda p: p.symlink_to(p)])
def test_something_unreadable_is_ymir_with_a_fault(tmp_path, monkeypatch, make):
    path = tmp_path / "env.yaml"
    make(path)
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(path))
    chosen = platforms.choose()
    assert chosen.name == "ymir"
    with pytest.raises(ConfigError, match=r"env\.yaml"):
        chosen.prepare()


def test_a_place_that_cannot_be_looked_at_is_ymir(monkeypatch):
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", "/" + "x" * 5000)    # ENAMETOOLONG stands for any other error
    assert YmirPlatform().detect()


def test_a_file_in_the_place_of_the_folder_is_not_ymir(tmp_path, monkeypatch):
    (tmp_path / "in").write_text("", encoding="utf-8")
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(tmp_path / "in" / "env.yaml"))
    assert platforms.choose().name == "local"


def test_who_forces_wins(platform, monkeypatch):
    assert platforms.choose("local").name == "local"
    monkeypatch.setenv("YMIR_EXC_PLATFORM", "local")
    assert platforms.choose().name == "local"
    assert platforms.choose("ymir").name == "ymir"
    assert platforms.choose(environ={"YMIR_EXC_PLATFORM": ""}).name == "ymir"
    with pytest.raises(ConfigError, match=r"unknown platform 'ymri'.*ymir, ti, local"):
        platforms.choose("ymri")


# ------------------------------------------------------------------------------------------------- local


def test_local_reads_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local = LocalPlatform()
    assert local.prepare() == Prepared() and not local.prepare().variables
    local.finish(FAILED)
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------------- ymir


def test_what_ymir_prepares(platform):
    prepared = YmirPlatform().prepare()
    assert prepared == Prepared(
        env_file=str(platform.env_file), variables={"DEFAULT_ENV_FILE_PATH": str(platform.env_file)},
        monitor_file=str(platform.out / "monitor.txt"), task_id="t0", folders=(str(platform.out), str(platform.out / "models")))
    assert pickle.dumps(prepared)


def test_the_program_finds_env_yaml_from_any_folder(platform, monkeypatch):
    monkeypatch.chdir(platform.root)
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", "in/env.yaml")
    assert YmirPlatform().prepare().variables == {"DEFAULT_ENV_FILE_PATH": str(platform.env_file)}


def test_nothing_is_exported_for_the_default_place(platform, monkeypatch):
    content = platform.env_file.read_text(encoding="utf-8")
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", "/in/env.yaml")
    monkeypatch.setattr("ymir_exc._yaml._read_text", lambda path, *_: content if path == "/in/env.yaml" else "a: 1\n")
    assert YmirPlatform().prepare().variables == {}


def test_preparing_changes_no_file(platform):
    before = sorted((str(p), p.stat().st_mtime_ns) for p in platform.root.rglob("*"))
    YmirPlatform().prepare()
    assert sorted((str(p), p.stat().st_mtime_ns) for p in platform.root.rglob("*")) == before


@pytest.mark.parametrize("content,words", [
    ("", "is empty"), ("[1]", "must be a mapping"), ("a: [", "not valid YAML"), ("task_id: [x]", "task_id"),
    ("run_training: 7.5", "run_training"), ("input: 3", "input"), ("output: {root_dir: [1]}", "root_dir"),
    ("task_id: a\ntask_id: b\n", "twice"), (b"\xff", "UTF-8")])
def test_a_wrong_env_yaml(platform, content, words):
    platform.env_file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=words) as caught:
        YmirPlatform().prepare()
    assert caught.value.exit_code == 4 and int(caught.value.return_code) == 300001


def test_a_wrong_config_yaml(platform):
    (platform.input / "config.yaml").write_text("- a\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml: the hyper-parameters must be a mapping"):
        YmirPlatform().prepare()


def test_success(platform):
    ymir = YmirPlatform()
    ymir.prepare()
    ymir.finish(Outcome(0))
    found = monitor.read_record(platform.out / "monitor.txt")
    assert (found.task_id, found.percent, found.state, found.return_code, found.message) == ("t0", 1.0, 2, 0, "")


def test_failure(platform):
    ymir = YmirPlatform()
    ymir.prepare()
    monitor.write_record(platform.out / "monitor.txt", monitor.Record("t0", 1.0, 0.25))
    ymir.finish(FAILED)
    found = monitor.read_record(platform.out / "monitor.txt")
    assert found[2:] == (0.25, 4, 300201, "loss is nan", ("a traceback", "of two lines"))


def test_what_is_recorded_stays(platform):
    ymir = YmirPlatform()
    ymir.prepare()
    (platform.out / "monitor.txt").write_text("mine", encoding="utf-8")
    ymir.finish(FAILED._replace(recorded=True))
    assert platform.monitor() == "mine"


def test_a_place_that_takes_nothing(platform):
    ymir = YmirPlatform()
    ymir.prepare()
    (platform.out / "models").rename(platform.root / "models")
    (platform.out / "tensorboard").rmdir()
    platform.out.rmdir()
    with pytest.raises(StorageError, match=r"monitor\.txt"):
        ymir.finish(FAILED)


def finish_after_a_failed_prepare():
    ymir = YmirPlatform()
    with pytest.raises(ConfigError) as caught:
        ymir.prepare()
    ymir.finish(Outcome(4, Failure(caught.value.return_code, str(caught.value))))


def test_a_failed_prepare_is_told_where_env_yaml_says(platform):
    platform.env["run_mining"] = []
    platform.write()
    finish_after_a_failed_prepare()
    found = monitor.read_record(platform.out / "monitor.txt")
    assert (found.task_id, found.state, found.return_code) == ("t0", 4, 300001) and "run_mining" in found.message


@pytest.mark.parametrize("content", ["a: [", "", "output: 3", "output: {monitor_file: [3]}",
                                     "run_mining: []\noutput: {monitor_file: /no/such/m.txt}"])
def test_a_failed_prepare_is_told_at_the_default_place(platform, monkeypatch, content):
    """And under the id that the platform itself has written there."""
    monkeypatch.setitem(env.OUTPUT_DEFAULTS, "monitor_file", str(platform.out / "monitor.txt"))
    (platform.out / "monitor.txt").write_text("t7\t1.0\t0.00\t1\n", encoding="utf-8")
    platform.env_file.write_text(content, encoding="utf-8")
    finish_after_a_failed_prepare()
    found = monitor.read_record(platform.out / "monitor.txt")
    assert (found.task_id, found.state, found.return_code) == ("t7", 4, 300001)


def test_a_failed_prepare_without_any_place(platform, monkeypatch):
    monkeypatch.setitem(env.OUTPUT_DEFAULTS, "monitor_file", str(platform.root / "no" / "monitor.txt"))
    platform.env_file.write_text("", encoding="utf-8")
    finish_after_a_failed_prepare()
    assert not (platform.root / "no").exists() and not (platform.out / "monitor.txt").exists()
