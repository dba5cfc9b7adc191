from __future__ import annotations

import dataclasses
import datetime
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ymir_exc.errors import ArgumentError, StorageError
from ymir_exc.ti import _names, _outputs, _record
from ymir_exc.ti._record import Folder, Home, Spec, State, default_home
from ymir_exc.ti.errors import UnknownJobError
from ymir_exc.ti.job import TrainingJob, list_jobs


def spec(name, **changed):
    made = Spec(name, "u", "i", "docker", ["algo-1"], [[]], {}, "/o", 1.0, {}, {}, False, "", [], "1g", 1, "Estimator", {}, 0.0)
    return dataclasses.replace(made, **changed)


def fill(folder, name):
    folder.write_spec(spec(name))
    folder.write_state(State())


@pytest.mark.parametrize("variables,place", [
    ({"YMIR_EXC_TI_HOME": "/a/b", "XDG_STATE_HOME": "/x"}, "/a/b"), ({"XDG_STATE_HOME": "/x"}, "/x/ymir-exc/ti"),
    ({"XDG_STATE_HOME": "x", "HOME": "{tmp}"}, "{tmp}/.local/state/ymir-exc/ti"), ({"HOME": "{tmp}"}, "{tmp}/.local/state/ymir-exc/ti"),
    ({"HOME": "/nowhere"}, f"{{temp}}/ymir-exc-ti-{os.getuid()}")])
def test_where_jobs_are_kept(monkeypatch, tmp_path, variables, place):
    for name in ("YMIR_EXC_TI_HOME", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    assert default_home() == Path(place.format(tmp=tmp_path, temp=_record.tempfile.gettempdir()))


def test_without_home(monkeypatch):
    for name in ("YMIR_EXC_TI_HOME", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    assert default_home().is_absolute()
    monkeypatch.setattr(_record.pwd, "getpwuid", lambda _: (_ for _ in ()).throw(KeyError("no name")))
    assert default_home().name == f"ymir-exc-ti-{os.getuid()}"


def test_a_name_belongs_to_one_job(tmp_path):
    home = Home(tmp_path / "home")
    folder, fd = home.create(iter(["j"]), fill)
    assert folder.is_held() and home.find("j").spec().name == "j" and (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    os.close(fd)
    assert not folder.is_held()
    with pytest.raises(ArgumentError, match="there is a job 'j'"):
        home.create(iter(["j"]), fill)
    assert [path.name for path in home.jobs.iterdir()] == ["j"]


def test_many_jobs_in_one_millisecond(tmp_path):
    home, made = Home(tmp_path), []
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)

    def begin():
        folder, fd = home.create(_names.job_names("n", now), fill)
        made.append(folder.path.name)
        assert folder.spec().name == folder.path.name
        os.close(fd)

    threads = [threading.Thread(target=begin) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 20
    assert len(home.all()) == 20


def test_what_a_killed_maker_left_is_swept(tmp_path):
    home = Home(tmp_path)
    program = f"""if True:
        import os, signal
        from pathlib import Path
        from ymir_exc.ti._record import Home
        Home(Path({str(tmp_path)!r})).create(iter(["j"]), lambda folder, name: os.kill(os.getpid(), signal.SIGKILL))"""
    subprocess.run([sys.executable, "-c", program])
    assert [path.name[:5] for path in home.jobs.iterdir()] == [".new-"] and home.all() == []
    _, fd = home.create(iter(["j"]), fill)
    assert [path.name for path in home.jobs.iterdir()] == ["j"]
    os.close(fd)


def test_a_dead_runner_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))    # no engine
    home = Home(tmp_path)
    _, fd = home.create(iter(["j"]), fill)
    assert TrainingJob.find("j", home).status == "InProgress"
    os.close(fd)
    state = TrainingJob.find("j", home).state()
    assert state.status == "Failed" and "was killed" in state.reason and "docker does not answer" in state.reason
    assert state.transitions[-1]["EndTime"] >= state.transitions[-1]["StartTime"]


def test_a_folder_that_was_there_before_keeps_its_rights(tmp_path):
    (tmp_path / "shared").mkdir(mode=0o755)
    (tmp_path / "shared").chmod(0o1777)
    _, fd = Home(tmp_path / "shared").create(iter(["j"]), fill)
    os.close(fd)
    assert (tmp_path / "shared").stat().st_mode & 0o7777 == 0o1777 and (tmp_path / "shared" / "jobs").stat().st_mode & 0o777 == 0o700


def test_a_home_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="set YMIR_EXC_TI_HOME"):
        Home(tmp_path / "file").create(iter(["j"]), fill)
    assert Home(tmp_path / "file").all() == []


def test_gpus_belong_to_one_living_job(tmp_path):
    home, seen = Home(tmp_path), []
    assert home.gpus_in_use() == {}

    def share(used):
        seen.append(dict(used))
        return [["0"], ["1"]] if not used else [[]]

    _, one = home.create(iter(["j"]), fill, share)
    _, two = home.create(iter(["k"]), fill, share)
    assert seen == [{}, {"0": "j", "1": "j"}]
    home.find("j").write_state(State(status="Completed"))    # and the runner still clears up
    assert home.gpus_in_use() == {}
    home.find("j").write_state(State())
    assert home.gpus_in_use() == {"0": "j", "1": "j"}
    os.close(one)    # it was killed
    assert home.gpus_in_use() == {}
    os.close(two)
    with pytest.raises(ZeroDivisionError):
        home.create(iter(["l"]), fill, lambda _: [[str(1 // 0)]])
    assert not list(home.jobs.glob(".new-*"))


def test_two_who_choose_at_once_get_different_gpus(tmp_path):
    home, fds = Home(tmp_path), []

    def share(used):
        time.sleep(0.05)
        return [[str(len(used))]]

    threads = [threading.Thread(target=lambda n=n: fds.append(home.create(iter([f"j{n}"]), fill, share)[1])) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(home.gpus_in_use()) == ["0", "1", "2", "3", "4"]
    for fd in fds:
        os.close(fd)


def test_a_clock_that_is_set_back(monkeypatch):
    state, times = State(), iter([100.0, 50.0, 60.0])
    monkeypatch.setattr(_record.time, "time", lambda: next(times))
    for name in ("Starting", "Training", "Completed"):
        state.enter(name)
    assert [(row["StartTime"], row.get("EndTime")) for row in state.transitions] == [(100, 100), (100, 100), (100, None)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_the_end_is_told_on_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], check=False).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        folder, fd = Home(disk).create(iter(["j"]), fill)
        with pytest.raises(OSError, match="No space"), (disk / "filler").open("wb", buffering=0) as f:
            while f.write(b"x" * 1024):
                pass
        state = folder.state()
        for name in ("Training", "Uploading", "Failed"):
            state.enter(name, "因" * 200)
        state.status, state.reason = "Failed", "因" * 1024
        folder.write_state(state)
        assert folder.state() == state
        os.close(fd)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_job_of_somebody_else_is_told_and_left_alone(tmp_path):
    folder, fd = Home(tmp_path).create(iter(["j"]), fill)
    os.close(fd)
    os.chown(folder.path, 1234, 1234)
    kept = (folder.path / "state.json").read_bytes()
    assert TrainingJob.find("j", Home(tmp_path)).status == "Failed"
    assert (folder.path / "state.json").read_bytes() == kept


def test_the_lock_is_inherited(tmp_path):
    folder, fd = Home(tmp_path).create(iter(["j"]), fill)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(fd,))
    os.close(fd)
    assert folder.is_held() and folder.hold() is None
    child.communicate(b"\n")
    assert not folder.is_held()


def test_a_damaged_record(tmp_path):
    home = Home(tmp_path)
    folder, fd = home.create(iter(["j"]), fill)
    os.close(fd)
    (folder.path / "job.json").write_text("{}")
    with pytest.raises(UnknownJobError):
        folder.spec()
    assert list_jobs(home) == []


def test_states_go_on(tmp_path):
    state = State()
    for name in ("Starting", "Training", "Completed"):
        state.enter(name)
        time.sleep(0.001)
    assert [row["Status"] for row in state.transitions] == ["Starting", "Training", "Completed"]
    assert all(row["EndTime"] == after["StartTime"] or row["EndTime"] <= after["StartTime"]
               for row, after in zip(state.transitions, state.transitions[1:]))


# -------------------------------------------------------------------------------------------------------------------- outputs

def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    root.mkdir(exist_ok=True)
    return root


def test_the_first_host_wins(tmp_path):
    one = tree(tmp_path / "1", {"m": "1", "d/x": "1", "file": "1"})
    two = tree(tmp_path / "2", {"m": "2", "d/y": "2", "file/in": "2", "a": "2"})
    found = _outputs.merged([one, two])
    assert {name: path.parent.parts[len(tmp_path.parts)] for name, path in found.items() if path.is_file()} == {
        "a": "2", "d/x": "1", "d/y": "2", "file": "1", "m": "1"}
    assert list(found) == sorted(found)


def test_an_archive_depends_on_its_content_alone(tmp_path):
    import tarfile
    for name in ("1", "2"):
        top = tree(tmp_path / name, {"b 中": "x", "a": "y"})
        (top / "link").symlink_to("a")
        os.mkfifo(top / "pipe")
        (top / "a").chmod(0o000)
        for path in top.iterdir():
            os.utime(path, (1, 1), follow_symlinks=False)
        _outputs.write_archive(tmp_path / f"{name}.tar.gz", _outputs.merged([top]))
    assert (tmp_path / "1.tar.gz").read_bytes() == (tmp_path / "2.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "1.tar.gz") as archive:
        assert archive.getnames() == ["a", "b 中", "link"]


def test_the_failure_file_is_cut(tmp_path):
    folder = Folder(tmp_path)
    assert _outputs.failure(folder, "algo-1") == ""
    path = tree(tmp_path, {"hosts/algo-1/output/failure": "因" * 3000}) / "hosts/algo-1/output/failure"
    assert _outputs.failure(folder, "algo-1") == "因" * 1024
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert _outputs.failure(folder, "algo-1") == ""
