"""A reader sees the old content or the new, whatever happens to the writer."""
from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from ymir_exc import _files
from ymir_exc.errors import NetworkError, StorageError


def test_write_creates_and_replaces(tmp_path):
    path = tmp_path / "a b 文.txt"
    _files.write_bytes(path, b"one")
    _files.write_bytes(path, b"2")
    assert path.read_bytes() == b"2"
    assert os.listdir(tmp_path) == [path.name]


def test_mode_follows_the_umask_and_keeps_what_others_could_do(tmp_path):
    old = os.umask(0o022)
    try:
        _files.write_bytes(tmp_path / "new", b"x")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o644
        (tmp_path / "shared").write_bytes(b"")
        (tmp_path / "shared").chmod(0o777)
        _files.write_bytes(tmp_path / "shared", b"x")
        assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) & 0o666 == 0o666
    finally:
        os.umask(old)


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    _files.write_bytes(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "result.yaml").mkdir()
    with pytest.raises(StorageError, match=r"result\.yaml: Is a directory"):
        _files.write_bytes(tmp_path / "result.yaml", b"x")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"gone/result\.yaml") as caught:
        _files.write_bytes(tmp_path / "gone" / "result.yaml", b"x")
    assert caught.value.errno == errno.ENOENT


def test_open_atomic_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), _files.open_atomic(path) as f:
        f.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    with _files.open_atomic(path) as f:
        f.write(b"whole")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["big"]


def test_what_the_callers_block_raises_stays_its_own(tmp_path):
    """An unreadable image met while a result is being written is no failed write."""
    for error in (OSError("image file is truncated"), ConnectionResetError(104, "reset"), NetworkError("no download")):
        with pytest.raises(type(error)) as caught, _files.open_atomic(tmp_path / "big"):
            raise error
        assert caught.value is error


def test_another_uids_file_in_a_sticky_folder_is_rewritten_in_place(tmp_path):
    if os.getuid():
        pytest.skip("changing the uid needs root")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        folder.chmod(0o1777)
        (folder / "monitor.txt").write_bytes(b"earlier")
        (folder / "monitor.txt").chmod(0o666)
        pid = os.fork()
        if not pid:
            os.setuid(1234)
            _files.write_bytes(folder / "monitor.txt", b"new")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert (folder / "monitor.txt").read_bytes() == b"new"
        assert os.listdir(folder) == ["monitor.txt"]
    finally:
        shutil.rmtree(folder)


def refuse_folders(monkeypatch, number):
    real = fcntl.flock

    def flock(fd, operation):
        if operation == fcntl.LOCK_EX and stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_where_folders_cannot_be_locked_a_file_is(tmp_path, monkeypatch):
    """NFS locks only what is open for writing."""
    refuse_folders(monkeypatch, errno.EBADF)
    with _files.lock(tmp_path), (tmp_path / ".ymir-lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / ".ymir-lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_fails_is_named_and_leaves_no_file_open(tmp_path, monkeypatch):
    refuse_folders(monkeypatch, errno.EIO)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StorageError, match=f"{tmp_path.name}: Input/output error"), _files.lock(tmp_path):
        pass
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_last_words_that_find_no_room_either_are_an_error(tmp_path):
    with pytest.raises(StorageError, match="Is a directory"):
        _files.overwrite_bytes(tmp_path, b"x")


def test_a_process_forked_under_the_lock_does_not_keep_it(tmp_path):
    release, hold = os.pipe()
    with _files.lock(tmp_path):
        pid = os.fork()
        if not pid:
            os.close(hold)
            os.read(release, 1)    # lives until the parent lets go
            os._exit(0)
    with _files.lock(tmp_path):    # would wait for the child
        os.close(hold)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(release)


@pytest.fixture
def mounts(tmp_path):
    """Mounts that are undone at the end."""
    if os.getuid():
        pytest.skip("mounting needs root")
    made = []

    def mount(*args: str) -> None:
        subprocess.run(["mount", *args], check=True, capture_output=True)
        made.append(args[-1])

    yield mount
    for where in reversed(made):
        subprocess.run(["umount", "-l", where], check=True)


@pytest.mark.parametrize("large", [False, True], ids=["write_bytes", "open_atomic"])
def test_a_full_disk_costs_nothing(tmp_path, mounts, large):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk))
    path = disk / "result.yaml"
    _files.write_bytes(path, b"earlier")
    with pytest.raises(StorageError, match="No space left on device") as caught:
        if large:
            with _files.open_atomic(path) as f:
                f.write(b"x" * 200_000)
        else:
            _files.write_bytes(path, b"x" * 200_000)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"earlier"
    assert os.listdir(disk) == ["result.yaml"], "no half-made file keeps the disk full"


def test_a_file_mounted_alone_is_rewritten_in_place(tmp_path, mounts):
    path, other = tmp_path / "monitor.txt", tmp_path / "other"
    path.write_bytes(b"a longer first content")
    other.write_bytes(b"")
    mounts("--bind", str(path), str(other))
    _files.write_bytes(other, b"short")
    assert path.read_bytes() == b"short"
    with _files.open_atomic(other) as f:
        f.write(b"and again")
    assert path.read_bytes() == b"and again"
    assert sorted(os.listdir(tmp_path)) == ["monitor.txt", "other"]


def test_a_read_only_disk_is_named(tmp_path, mounts):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts("-t", "tmpfs", "tmpfs", str(disk))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(StorageError, match="Read-only file system") as caught:
        _files.write_bytes(disk / "x", b"x")
    assert "read-write" in caught.value.hint


def test_a_folder_without_permission_is_named(tmp_path):
    if os.getuid():
        pytest.skip("changing the uid needs root")
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == os.getuid() and str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    program = "import os, sys; os.setuid(1234); from ymir_exc import _files\n" \
              "try: _files.write_bytes(sys.argv[1], b'x')\nexcept _files.StorageError as e: print(e)"
    # The package is imported before the uid is given up, because its folder may be readable by root only.
    done = subprocess.run([sys.executable, "-c", "from ymir_exc import _files; " + program, str(tmp_path / "x")],
                          capture_output=True, text=True, check=True)
    assert "Permission denied" in done.stdout
    assert str(tmp_path / "x") in done.stdout
    assert "this uid" in done.stdout


WRITER = """
import sys
from ymir_exc import _files
path, n = sys.argv[1], 0
print("ready", flush=True)
while True:
    n += 1
    _files.write_bytes(path, (b"%06d\\n" % n) * (1 + n % 400), sync=False)
"""


def whole(data: bytes) -> bool:
    lines = data.split(b"\n")
    return lines[-1] == b"" and len(set(lines[:-1])) == 1 and len(lines) - 1 == 1 + int(lines[0]) % 400


def test_killed_at_any_instant(tmp_path):
    """Sixty processes are killed in the midst of their writes; each time the file is whole."""
    path, rng = tmp_path / "result", random.Random(0)
    for _ in range(60):
        process = subprocess.Popen([sys.executable, "-S", "-c", WRITER, str(path)], stdout=subprocess.PIPE,
                                   env={"PYTHONPATH": os.pathsep.join(sys.path)})
        process.stdout.readline()
        time.sleep(rng.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if path.exists():
            assert whole(path.read_bytes())
    assert path.exists()
    _files.remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["result"]


def test_readers_never_see_a_part(tmp_path):
    path = tmp_path / "monitor.txt"
    _files.write_bytes(path, b"000001\n000001\n", sync=False)
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        seen = set()
        while len(seen) < 200:
            data = path.read_bytes()
            assert whole(data)
            seen.add(data[:6])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_lock_excludes_threads_and_processes(tmp_path):
    counter = tmp_path / "n"
    counter.write_text("0")
    program = ("import sys; from pathlib import Path; from ymir_exc import _files; p = Path(sys.argv[1])\n"
               "for _ in range(100):\n"
               "    with _files.lock(p.parent): p.write_text(str(int(p.read_text()) + 1))")
    processes = [subprocess.Popen([sys.executable, "-c", program, str(counter)]) for _ in range(3)]

    def count():
        for _ in range(100):
            with _files.lock(tmp_path):
                counter.write_text(str(int(counter.read_text()) + 1))

    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.wait() for p in processes] == [0, 0, 0]
    assert counter.read_text() == "500"
    assert os.listdir(tmp_path) == ["n"], "locking leaves nothing behind"


def test_copy_file_resolves_links(tmp_path):
    (tmp_path / "iter_20.pt").write_bytes(b"w")
    (tmp_path / "latest.pt").symlink_to("iter_20.pt")
    _files.copy_file(tmp_path / "latest.pt", tmp_path / "stage" / "latest.pt")
    assert not (tmp_path / "stage" / "latest.pt").is_symlink()
    assert (tmp_path / "stage" / "latest.pt").read_bytes() == b"w"
    _files.copy_file(tmp_path / "iter_20.pt", tmp_path / "latest.pt")
    assert not (tmp_path / "latest.pt").is_symlink()


def test_a_device_is_written_through():
    _files.write_bytes("/dev/null", b"x")
    assert not Path("/dev/null").is_file()
