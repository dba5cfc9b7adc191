"""A model.tar.gz that may be broken or made to do harm."""
from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import tracemalloc

import pytest

from ymir_exc.errors import WeightsError
from ymir_exc.platforms.ti import _archive


@pytest.fixture
def unpacked(tmp_path):
    """Make an archive, unpack it, and see that nothing lies outside."""
    def unpack(*entries, mode="w:gz", cut=None):
        path, target = tmp_path / "ch" / "model.tar.gz", tmp_path / "a" / "b"
        path.parent.mkdir(), target.mkdir(parents=True)
        with tarfile.open(path, mode) as archive:
            for entry in entries:
                name, content, *rest = entry if isinstance(entry, tuple) else (entry, b"")
                info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
                info.size = len(content) if info.isreg() else 0
                info.mode = rest[0] if rest else info.mode
                archive.addfile(info, io.BytesIO(content))
        if cut is not None:
            path.write_bytes(path.read_bytes()[:cut])
        try:
            return _archive.unpack(str(path), str(target)), target
        finally:
            assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["b"] and not (tmp_path / "evil").exists()
            assert not any(p.is_symlink() for p in target.rglob("*"))
    return unpack


def link(name, target, kind=tarfile.SYMTYPE):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def device(kind):
    made = tarfile.TarInfo("dev")
    made.type = kind
    return made


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_files_and_folders(unpacked, mode):
    folder = link("./epoch_1", "", tarfile.DIRTYPE)
    large = b"r" * 3_000_000
    files, target = unpacked(folder, ("./epoch_1/w.pt", b"weights"), ("result.yaml", large), ("no/folder/entry.pt", b"x"), mode=mode)
    assert files == ["epoch_1/w.pt", "result.yaml", "no/folder/entry.pt"]
    assert (target / "epoch_1/w.pt").read_bytes() == b"weights" and (target / "result.yaml").stat().st_size == 3_000_000


def test_the_rights_in_the_archive_do_not_count(unpacked):
    _, target = unpacked(("a", b"x", 0o6777), ("b", b"y", 0))
    (target / "plain").touch()
    modes = {stat.S_IMODE((target / name).stat().st_mode) for name in ("a", "b", "plain")}
    assert len(modes) == 1 and not modes.pop() & 0o7111


def test_of_two_entries_the_later_counts(unpacked):
    files, target = unpacked(("a", b"first, and longer"), ("a", b"second"))
    assert files == ["a"] and (target / "a").read_bytes() == b"second"


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "..", "a/../.."])
def test_a_path_that_leads_outside(unpacked, name):
    with pytest.raises(WeightsError, match=r"model\.tar\.gz: the entry .* leads outside"):
        unpacked((name, b"x"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../evil", "..", "a/../../.."])
def test_a_link_that_leads_outside(unpacked, kind, target):
    with pytest.raises(WeightsError, match="leads outside"):
        unpacked(link("l", target, kind), ("l/x", b"x"))


def test_a_link_within_becomes_a_file(unpacked):
    hard = link("hard.pt", "s/epoch_9.pt", tarfile.LNKTYPE)
    files, target = unpacked(link("s/latest.pt", "epoch_9.pt"), link("again.pt", "s/latest.pt"), hard,
                             link("dangling", "nothing"), link("round", "round2"), link("round2", "round"), ("s/epoch_9.pt", b"w"))
    assert sorted(files) == ["again.pt", "hard.pt", "s/epoch_9.pt", "s/latest.pt"]
    assert all((target / name).read_bytes() == b"w" for name in files)


def test_nothing_is_written_through_a_link(unpacked):
    files, target = unpacked(link("d", "e"), ("d/x", b"1"), ("e/y", b"2"))
    assert sorted(files) == ["d/x", "e/y"] and (target / "d").is_dir()


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_device(unpacked, kind):
    with pytest.raises(WeightsError, match="no file, folder or link"):
        unpacked(device(kind))


def test_a_file_in_the_place_of_a_folder(unpacked):
    with pytest.raises(WeightsError, match=r"model\.tar\.gz cannot be unpacked"):
        unpacked(("a", b"1"), ("a/b", b"2"))


def test_too_many(unpacked, monkeypatch):
    monkeypatch.setattr(_archive, "MAX_ENTRIES", 3)
    with pytest.raises(WeightsError, match="more than 3 entries"):
        unpacked(*[(f"f{i}", b"") for i in range(4)])


def test_a_bomb(unpacked, monkeypatch):
    monkeypatch.setattr(_archive, "MIN_BOUND_BYTES", 1 << 20)
    with pytest.raises(WeightsError, match=r"unpacks to more than .* GiB"):
        unpacked(("zeros", b"\0" * (8 << 20)))


def sparse(name, size):
    """A file of so many bytes, all of them a hole."""
    made = tarfile.TarInfo(name)
    made.pax_headers = {"GNU.sparse.map": f"{size},0", "GNU.sparse.size": str(size)}
    return made


@pytest.mark.parametrize("entries", [
    [sparse("hole", 8 << 20)],
    [("w", b"w" * 600_000), *(link(f"l{i}", "w", kind) for i, kind in enumerate([tarfile.SYMTYPE, tarfile.LNKTYPE]))]])
def test_a_bomb_that_is_small_as_an_archive(unpacked, monkeypatch, entries):
    """Holes, and links that become files."""
    monkeypatch.setattr(_archive, "MIN_BOUND_BYTES", 1 << 20)
    with pytest.raises(WeightsError, match=r"unpacks to more than .* GiB"):
        unpacked(*entries)


def test_links_that_the_disk_has_no_room_for(unpacked, monkeypatch):
    monkeypatch.setattr("os.statvfs", lambda _: os.statvfs_result((4096, 4096, 9, 2, 2, 0, 0, 0, 0, 255)))
    with pytest.raises(WeightsError, match="does not fit onto the disk: 'l'"):
        unpacked(("w", b"x" * 5000), link("l", "w"))


def test_more_than_the_disk_has(unpacked, monkeypatch):
    monkeypatch.setattr("os.statvfs", lambda _: os.statvfs_result((4096, 4096, 9, 1, 1, 0, 0, 0, 0, 255)))
    with pytest.raises(WeightsError, match="does not fit onto the disk"):
        unpacked(("w", b"x" * 5000))


def test_a_header_that_fills_the_memory(tmp_path):
    """An extended header of half a GiB, which gzip makes tiny."""
    path, target = tmp_path / "model.tar.gz", tmp_path / "t"
    target.mkdir()
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 512 << 20
    with gzip.open(path, "wb", compresslevel=1) as f:
        f.write(header.tobuf())
        for _ in range(64):
            f.write(b"\0" * (1 << 20))
    tracemalloc.start()
    with pytest.raises(WeightsError, match="a header of"):
        _archive.unpack(str(path), str(target))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 64 << 20


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b", b"\x1f\x8b" + b"x" * 100, gzip.compress(b"x" * 2000, mtime=0),
                                     b"\0" * 10240])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "model.tar.gz").write_bytes(content)
    (tmp_path / "t").mkdir()
    with pytest.raises(WeightsError, match=r"model\.tar\.gz") as caught:
        _archive.unpack(str(tmp_path / "model.tar.gz"), str(tmp_path / "t"))
    assert int(caught.value.return_code) == 300004


@pytest.mark.parametrize("cut", [30, 5_000, 20_000])
def test_an_archive_that_was_not_uploaded_whole(unpacked, cut):
    with pytest.raises(WeightsError, match=r"model\.tar\.gz"):
        unpacked(("a", os.urandom(50_000)), cut=cut)
