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

from ymir_exc.errors import ArgumentError
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
