"""Each stage keeps its own weights; what is dropped is freed; nothing that another stage lists is touched."""
from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract import platform_rules
from ymir_exc import result_writer as rw
from ymir_exc.errors import ResultError, StorageError
from ymir_exc.result_writer import stages


def write(platform, stage, files, value=0.5):
    rw.write_model_stage(stage, files, {"mAP": value}, timestamp=1700000000)


def models(platform):
    root = platform.out / "models"
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def packed(platform, stage, name):
    """What the platform would ship for a stage."""
    root = platform.out / "models"
    return next(p for p in (root / stage / name, root / name) if p.is_file()).read_bytes()


def test_a_name_that_every_stage_uses_is_copied_for_each(platform):
    for n in range(3):
        platform.model("best.pt", b"weights of %d" % n)
        platform.model("sub dir/config 配置.yaml", b"config of %d" % n)
        write(platform, f"epoch_{n}", ["best.pt", "sub dir/config 配置.yaml"])
    for n in range(3):
        assert packed(platform, f"epoch_{n}", "best.pt") == b"weights of %d" % n
        assert packed(platform, f"epoch_{n}", "sub dir/config 配置.yaml") == b"config of %d" % n
    platform_rules.accept_training(platform.out)


@pytest.mark.parametrize(("stage", "name"), [("epoch_1", "epoch_1.pt"), ("epoch-1", "sub/epoch-1.pth.tar"), ("best", "best/w.pt")])
def test_a_name_that_no_other_stage_uses_is_not_doubled(platform, stage, name):
    platform.model(name)
    write(platform, stage, [name])
    assert models(platform) == sorted([name, "result.yaml"])


@pytest.mark.parametrize(("stage", "name"), [("best", "best.pt"), ("last", "last.pt"), ("v1", "model.v1.pt"), ("v1", "v1.pt"),
                                             ("yolov5", "yolov5.pt"), ("epoch_1", "epoch_10.pt"), ("s_1", "model_s_1.pt")])
def test_a_name_that_another_stage_may_use_is_copied(platform, stage, name):
    platform.model(name, b"first")
    write(platform, stage, [name], 0.9)
    platform.model(name, b"second")
    write(platform, "other", [name], 0.1)
    assert platform.result()["best_stage_name"] == stage
    assert [packed(platform, stage, name), packed(platform, "other", name)] == [b"first", b"second"]


def test_an_own_file_gives_way_to_a_newer_one_whose_name_tells_the_stage(platform):
    platform.model("s_1/s_1.pt", b"first")
    write(platform, "s_1", ["s_1.pt"])
    time.sleep(0.02)
    platform.model("s_1.pt", b"second")
    write(platform, "s_1", ["s_1.pt"])
    assert packed(platform, "s_1", "s_1.pt") == b"second"


def test_a_stage_written_again_takes_the_newer_weights(platform):
    platform.model("best.pt", b"first")
    write(platform, "stage", ["best.pt"])
    time.sleep(0.02)    # a file's time of change is as coarse as the kernel's tick
    (platform.out / "models" / "best.pt").write_bytes(b"second")
    write(platform, "stage", ["best.pt"])
    assert packed(platform, "stage", "best.pt") == b"second"
    time.sleep(0.02)
    (platform.out / "models" / "stage" / "best.pt").write_bytes(b"own")
    write(platform, "stage", ["best.pt"])
    assert packed(platform, "stage", "best.pt") == b"own", "what lies in the stage's folder is newer than the common file"


def test_weights_that_keep_an_older_time_are_taken_too(platform):
    """`cp -p` and `shutil.copy2` hand the time of the content on."""
    for content, value in ((b"first", 0.1), (b"second", 0.9)):
        checkpoint = platform.root / "checkpoint.pt"
        checkpoint.write_bytes(content)
        os.utime(checkpoint, (10 ** 9, 10 ** 9))
        time.sleep(0.02)
        shutil.copy2(checkpoint, platform.out / "models" / "best.pt")
        write(platform, "top", ["best.pt"], value)
    assert packed(platform, "top", "best.pt") == b"second"


def test_links_become_files(platform):
    platform.model("iter_20.pt", b"w")
    (platform.out / "models" / "latest.pt").symlink_to("iter_20.pt")
    (platform.out / "models" / "s").mkdir()
    (platform.out / "models" / "s" / "own.pt").symlink_to("../iter_20.pt")
    write(platform, "s", ["latest.pt", "own.pt"])
    for name in ("latest.pt", "own.pt"):
        path = platform.out / "models" / "s" / name
        assert not path.is_symlink()
        assert path.read_bytes() == b"w"
    platform_rules.accept_training(platform.out)


def test_a_link_whose_name_tells_its_stage_becomes_a_file_too(platform):
    platform.model("iter_20.pt", b"w")
    (platform.out / "models" / "last.pt").symlink_to("iter_20.pt")
    write(platform, "last", ["last.pt"])
    platform_rules.accept_training(platform.out)


def test_dropped_stages_are_freed_and_nothing_else(platform):
    platform.model("shared.yaml", b"shared")
    platform.model("untouched.bin", b"the executor's own")
    for n in range(14):
        platform.model(f"epoch_{n}/weights/a.pt", b"%d" % n)
        platform.model(f"epoch_{n}.pt", b"%d" % n)
        write(platform, f"epoch_{n}", ["weights/a.pt", f"epoch_{n}.pt", "shared.yaml"], 0.9 if n == 1 else 0.5)
    kept = ["epoch_1", *(f"epoch_{n}" for n in range(4, 14))]
    assert sorted(platform.result()["model_stages"]) == sorted(kept)
    expected = ["result.yaml", "shared.yaml", "untouched.bin"]
    for name in kept:
        expected += [f"{name}.pt", f"{name}/weights/a.pt", f"{name}/shared.yaml"]
    assert models(platform) == sorted(expected)
    assert not (platform.out / "models" / "epoch_0").exists()
    platform_rules.accept_training(platform.out)


def test_what_a_dropped_stage_was_copied_from_goes_if_its_name_has_the_number(platform):
    """The rest is the program's, also what it has saved again since."""
    platform.model("best.pt")
    write(platform, "best", ["best.pt"], 0.1)
    for n in range(12):
        for name in (f"model_s_{n}.pt", f"w_{n}.pt", f"again_s_{n}.pt"):
            platform.model(name)
        write(platform, f"s_{n}", [f"model_s_{n}.pt", f"w_{n}.pt", f"again_s_{n}.pt"])
        platform.model(f"again_s_{n}.pt", b"more weights")
    assert not (platform.out / "models/s_0").exists()
    assert "best" not in platform.result()["model_stages"]
    assert (platform.out / "models/best.pt").exists()
    assert {f"{name}_{n}.pt" for name in ("model_s", "w", "again_s") for n in range(12)} - set(models(platform)) == {"model_s_0.pt"}


def test_a_file_that_another_stage_lists_stays(platform):
    platform.model("a_b.pt")    # tells both stages
    write(platform, "a", ["a_b.pt"], 0.1)
    for n in range(11):
        platform.model(f"b/n{n}.pt")
        write(platform, "b", ["a_b.pt"], 0.9)
        platform.model(f"c{n}.pt")
        write(platform, f"c{n}", [f"c{n}.pt"], 0.2)
    assert "a" not in platform.result()["model_stages"]
    assert (platform.out / "models" / "a_b.pt").exists()


def test_a_disk_too_small_for_copies_costs_no_stage(platform, caplog):
    if os.getuid():
        pytest.skip("mounting needs root")
    folder = platform.out / "models"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=True)
    try:
        platform.model("best.pt", b"x" * 150_000)
        write(platform, "s", ["best.pt"])
        assert "a later stage may overwrite it" in caplog.text
        platform_rules.accept_training(platform.out)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_names_of_an_odd_result_are_never_followed_outside(platform):
    outside = platform.root / "outside.pt"
    outside.write_bytes(b"mine")
    (platform.out / "models" / "result.yaml").write_text(
        "best_stage_name: s0\nmodel_stages:\n" + "".join(
            f"  s{n}: {{stage_name: s{n}, timestamp: {n}, mAP: 0.1, files: [../../outside.pt, {outside}, 7]}}\n" for n in range(11)))
    platform.model("a.pt")
    write(platform, "new", ["a.pt"])
    assert outside.read_bytes() == b"mine"


def test_a_stage_without_a_copy_does_not_take_the_common_file_along(platform):
    """Others list it by name, and the training still writes it."""
    platform.model("best.pt", b"w")
    write(platform, "s0", ["best.pt"], 0.1)
    (platform.out / "models/s0/best.pt").unlink()    # as if the disk had been full
    for n in range(1, 13):
        write(platform, f"s{n}", ["best.pt"], 0.5)
    assert "s0" not in platform.result()["model_stages"]
    assert (platform.out / "models/best.pt").exists()


def test_nothing_is_written_or_deleted_through_a_folder_that_leads_out(platform):
    outside = platform.root / "outside"
    outside.mkdir()
    (outside / "a.pt").write_bytes(b"mine")
    models_dir = platform.out / "models"
    (models_dir / "sub").symlink_to(outside)
    write(platform, "s", ["sub/a.pt"])
    assert packed(platform, "s", "sub/a.pt") == b"mine"
    assert not (models_dir / "s/sub").is_symlink(), "the platform sees models_dir only"
    (models_dir / "t").symlink_to(outside)
    with pytest.raises(ResultError, match="leads out"):
        write(platform, "t", ["a.pt"])
    (models_dir / "result.yaml").write_text("best_stage_name: t\nmodel_stages:\n" + "".join(
        f"  t{n if n else ''}: {{stage_name: t, timestamp: {n}, mAP: 0.{9 if n else 1}, files: [a.pt]}}\n" for n in range(11)))
    platform.model("b.pt")
    write(platform, "new", ["b.pt"])
    assert "t" not in platform.result()["model_stages"]
    assert sorted(os.listdir(outside)) == ["a.pt"]
    assert (outside / "a.pt").read_bytes() == b"mine"


def test_a_clock_that_was_set_back_drops_no_new_stage(platform):
    platform.model("a.pt")
    for n in range(11):
        rw.write_model_stage(f"future_{n}", ["a.pt"], {"mAP": 0.5}, timestamp=2_000_000_000)
    for n in range(5):
        rw.write_model_stage(f"now_{n}", ["a.pt"], {"mAP": 0.1})
    stages = platform.result()["model_stages"]
    assert [name for name in stages if name.startswith("now")] == [f"now_{n}" for n in range(5)]
    assert stages["now_4"]["timestamp"] == 2_000_000_000


def test_the_result_itself_is_never_deleted(platform):
    """Older versions list it among the files of a stage, as they list every file of the folder."""
    for name in ("result.yaml.unreadable", "attachments/figures/pr.png", "w.pt"):
        platform.model(name)
    (platform.out / "models/result.yaml").write_text(
        "best_stage_name: old\nmodel_stages:\n  old: {stage_name: old, timestamp: 5, mAP: 0.1, "
        "files: [result.yaml, result.yaml.unreadable, attachments/figures/pr.png, w.pt]}\n")
    for n in range(12):
        platform.model(f"s{n}.pt")
        write(platform, f"s{n}", [f"s{n}.pt"])
    assert "old" not in platform.result()["model_stages"]
    assert {"result.yaml", "result.yaml.unreadable", "attachments/figures/pr.png"} <= set(models(platform))
    assert "w.pt" not in models(platform)


def test_the_result_is_no_model_file(platform, caplog):
    for name in ("s1.pt", "s2.pt", "result.yaml.unreadable.1"):
        platform.model(name)
    write(platform, "s1", ["result.yaml", "s1.pt"])
    write(platform, "s2", ["s2.pt", str(platform.out / "models/result.yaml"), "result.yaml.unreadable.1"])
    assert {name: stage["files"] for name, stage in platform.result()["model_stages"].items()} == {"s1": ["s1.pt"], "s2": ["s2.pt"]}
    assert "stage s2: result.yaml, result.yaml.unreadable.1 is no model file; it is left out" in caplog.text
    with pytest.raises(ResultError, match="no model files are given"):
        write(platform, "s3", ["result.yaml"])


def test_what_was_saved_in_the_folder_of_a_new_stage_stays(platform):
    platform.model("s1/best.pt", b"of s1")
    time.sleep(0.02)
    platform.model("best.pt", b"of another epoch")
    write(platform, "s1", ["best.pt"])
    assert packed(platform, "s1", "best.pt") == b"of s1"


@pytest.mark.parametrize("is_known", [False, True])
def test_a_refused_stage_changes_no_weights(platform, is_known):
    if is_known:
        platform.model("best.pt", b"first")
        write(platform, "s", ["best.pt"])
        time.sleep(0.02)
    platform.model("best.pt", b"second")
    before = models(platform)
    with pytest.raises(ResultError, match="is not Unicode"):
        rw.write_model_stage("s", ["best.pt"], {"mAP": 0.5, "note": "\udcff"})
    assert models(platform) == before
    assert packed(platform, "s", "best.pt") == (b"first" if is_known else b"second")


@pytest.mark.parametrize("is_replaced", [False, True])
def test_copies_stay_only_where_the_result_stands_that_could_not_be_written_to_the_end(platform, monkeypatch, is_replaced):
    platform.model("best.pt", b"first")
    write_bytes = stages._files.write_bytes

    def fail(path, *args, **kwargs):
        if is_replaced or not path.endswith("result.yaml"):
            write_bytes(path, *args, **kwargs)
        if path.endswith("result.yaml"):
            raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(stages._files, "write_bytes", fail)
        with pytest.raises(OSError):
            write(platform, "s", ["best.pt"])
    assert (platform.out / "models/s/best.pt").exists() is is_replaced
    platform.model("best.pt", b"second")
    if is_replaced:
        assert packed(platform, "s", "best.pt") == b"first"
    else:
        write(platform, "s", ["best.pt"])
        assert packed(platform, "s", "best.pt") == b"second"


def test_another_uid_may_rewrite_what_a_stage_owns(platform):
    platform.model("sub/best.pt")
    earlier = os.umask(0o077)
    try:
        write(platform, "s", ["sub/best.pt"])
    finally:
        os.umask(earlier)
    for name, mode in (("s", 0o777), ("s/sub", 0o777), ("s/sub/best.pt", 0o666)):
        assert (platform.out / "models" / name).stat().st_mode & 0o777 == mode, name


def test_weights_in_a_folder_with_the_hyphen_are_found(platform, caplog):
    platform.model("epoch-1/w.pt", b"of epoch 1")
    platform.model("w.pt", b"common")
    write(platform, "epoch-1", ["w.pt"])
    assert packed(platform, "epoch_1", "w.pt") == b"of epoch 1"
    platform.model("epoch-2/epoch_2.pt")
    write(platform, "epoch-2", ["epoch_2.pt"])
    assert "neither in" not in caplog.text
    platform_rules.accept_training(platform.out)


def test_a_folder_with_the_hyphen_is_the_programs(platform):
    path = platform.out / "models/epoch-1/sub/w.pt"
    platform.model("epoch-1/sub/w.pt", b"of epoch 1")
    platform.model("sub/w.pt", b"of any epoch")
    write(platform, "epoch-1", ["sub/w.pt"])
    with open(path, "wb") as f:    # killed while it saves again
        f.write(b"torn")
    assert packed(platform, "epoch_1", "sub/w.pt") == b"of epoch 1"
    platform_rules.accept_training(platform.out)
    time.sleep(0.02)
    path.write_bytes(b"again")
    write(platform, "epoch-1", ["sub/w.pt"])
    assert packed(platform, "epoch_1", "sub/w.pt") == b"again"
    for n in range(12):
        platform.model(f"s{n}.pt")
        write(platform, f"s{n}", [f"s{n}.pt"], 0.9)
    assert not (platform.out / "models/epoch_1").exists()
    assert path.read_bytes() == b"again", "the program may load it again"
    assert not list(platform.out.rglob(".*"))


def fill(folder):
    """Mount a small disk there, on which a copy of these weights has no room beside two of them."""
    if os.getuid():
        pytest.skip("mounting needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=True)
    return b"first" * 20_000, b"other" * 20_000


@pytest.mark.parametrize("stage", ["run", "run-1"])
def test_a_full_disk_leaves_a_stage_its_weights_with_its_metrics(platform, stage):
    folder = platform.out / "models"
    first, other = fill(folder)
    try:
        name = "model.pt" if stage == "run" else "run-1/model.pt"
        for content in (first, other):
            platform.model("small.pt", content[:5])
            platform.model(name, content)
            if content is first:
                write(platform, stage, ["small.pt", "model.pt"], 0.1)
        before, result = models(platform), platform.result()
        own = folder / stage.replace("-", "_") / "model.pt"
        with pytest.raises(StorageError, match=re.escape(f"cannot write {own}: No space left on device")):
            write(platform, stage, ["small.pt", "model.pt"], 0.9)
        assert (models(platform), platform.result()) == (before, result)
        assert (own.read_bytes(), own.with_name("small.pt").read_bytes()) == (first, b"first")
        subprocess.run(["mount", "-o", "remount,size=1m", str(folder)], check=True)
        write(platform, stage, ["small.pt", "model.pt"], 0.9)
        assert (own.read_bytes(), own.with_name("small.pt").read_bytes(), platform.result()["mAP"]) == (other, b"other", 0.9)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("can_link", [True, False])
def test_a_result_that_cannot_be_written_leaves_a_stage_its_weights(platform, monkeypatch, can_link):
    """Also the next call takes the newer ones, although the earlier ones have changed their place since."""
    write_bytes = stages._files.write_bytes

    def fail(path, *args, **kwargs):
        if path.endswith("result.yaml"):
            assert (platform.out / "models/s/best.pt").read_bytes() == b"second"
            raise stages._files.storage_error(path, OSError(28, ""))
        write_bytes(path, *args, **kwargs)

    def refuse(*args, **kwargs):
        raise PermissionError

    if not can_link:
        monkeypatch.setattr(os, "link", refuse)
    for name in ("best.pt", "v.pt"):
        platform.model(name, b"first")
    write(platform, "s", ["best.pt", "v.pt"], 0.1)
    time.sleep(0.02)
    for name in ("best.pt", "v.pt"):
        platform.model(name, b"second")
    before, result = models(platform), platform.result()
    with monkeypatch.context() as patch:
        patch.setattr(stages._files, "write_bytes", fail)
        with pytest.raises(StorageError):
            write(platform, "s", ["best.pt", "v.pt"], 0.9)
    assert (models(platform), platform.result()) == (before, result)
    assert [packed(platform, "s", name) for name in ("best.pt", "v.pt")] == [b"first", b"first"]
    time.sleep(0.02)
    write(platform, "between", ["best.pt"], 0.1)
    write(platform, "s", ["best.pt", "v.pt"], 0.9)
    assert [packed(platform, "s", name) for name in ("best.pt", "v.pt")] == [b"second", b"second"]
    assert not list(platform.out.rglob(".*"))


def test_a_file_that_cannot_come_to_where_the_platform_looks_costs_no_earlier_stage(platform):
    """A stage whose file is missing would cost the whole model."""
    platform.model("a.pt")
    write(platform, "a", ["a.pt"])
    before = models(platform), (platform.out / "models/result.yaml").read_bytes()
    platform.model("epoch-1/v.pt")
    platform.model("epoch-1/w.pt")
    (platform.out / "models/epoch_1/w.pt").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"epoch_1/w\.pt: Is a directory"):
        write(platform, "epoch-1", ["v.pt", "w.pt"])
    assert (models(platform), (platform.out / "models/result.yaml").read_bytes()) == (
        sorted([*before[0], "epoch-1/v.pt", "epoch-1/w.pt"]), before[1])


def test_a_name_that_the_program_linked_itself_stays(platform):
    platform.model("best.pt")
    (platform.out / "models/s").mkdir()
    os.link(platform.out / "models/best.pt", platform.out / "models/s/best.pt")
    for _ in range(2):
        write(platform, "s", ["best.pt"])
    assert (platform.out / "models/s/best.pt").samefile(platform.out / "models/best.pt")


def test_without_a_note_there_is_no_copy(platform, monkeypatch, caplog):
    """A kill would leave it unknown."""
    platform.model("best.pt")
    write_bytes = stages._files.write_bytes

    def fail(path, *args, **kwargs):
        if path.endswith("unfinished"):
            raise stages._files.storage_error(path, OSError(28, ""))
        write_bytes(path, *args, **kwargs)

    monkeypatch.setattr(stages._files, "write_bytes", fail)
    write(platform, "s", ["best.pt"])
    assert models(platform) == ["best.pt", "result.yaml"]
    assert "a later stage may overwrite it" in caplog.text


def test_what_leads_out_of_a_folder_with_the_hyphen_is_copied(platform):
    outside = platform.root / "outside"
    outside.mkdir()
    (outside / "w.pt").write_bytes(b"mine")
    (platform.out / "models/epoch-1").symlink_to(outside)
    platform.model("epoch-2/real.pt", b"real")
    (platform.out / "models/epoch-2/w.pt").symlink_to("real.pt")
    for stage, content in (("epoch-1", b"mine"), ("epoch-2", b"real")):
        write(platform, stage, ["w.pt"])
        own = platform.out / "models" / stage.replace("-", "_") / "w.pt"
        assert own.read_bytes() == content
        assert not own.is_symlink()


def test_a_copy_keeps_the_time_of_its_content(platform):
    platform.model("best.pt")
    os.utime(platform.out / "models/best.pt", ns=(1, 10 ** 18 + 123_456_700))
    write(platform, "s", ["best.pt"])
    assert (platform.out / "models/s/best.pt").stat().st_mtime_ns == 10 ** 18 + 123_456_700


def note(platform, content):
    path = platform.out / "models/.result.yaml.ymir-unfinished"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_what_a_killed_writer_noted_is_deleted_only_where_it_is_nobodys(platform):
    """`unlisted` alone is as the note says; the rest is listed, has changed, is not ours to delete, or lies elsewhere."""
    outside = platform.root / "outside.pt"
    outside.write_bytes(b"mine")
    platform.model("listed/best.pt")
    write(platform, "listed", ["best.pt"])
    names = ["unlisted/best.pt", "changed/best.pt", "listed/best.pt", "attachments/s/a.png", "../../outside.pt", str(outside), "gone.pt",
             "odd.pt", "result.yaml"]
    for name in names[1:4] + names[7:8]:
        platform.model(name)
    (platform.out / "models/unlisted").mkdir()
    (platform.out / "models/unlisted/best.pt").write_bytes(b"old")
    models_dir = platform.out / "models"
    times = {name: os.stat(models_dir / name).st_mtime_ns for name in names if (models_dir / name).exists()}
    times.update({"changed/best.pt": times["changed/best.pt"] - 1, "gone.pt": 5, "odd.pt": "soon", "nul\0.pt": 5})
    left = note(platform, times)
    platform.model("new_1.pt")
    write(platform, "new_1", ["new_1.pt"])
    assert not left.exists()
    assert outside.exists()
    assert models(platform) == sorted(["changed/best.pt", "listed/best.pt", "attachments/s/a.png", "odd.pt", "result.yaml", "new_1.pt"])


@pytest.mark.parametrize("content", ["", "{torn", "[1]", "7", "null", '{"a.pt": null}'])
def test_an_odd_note_hinders_nobody(platform, content):
    platform.model("a.pt")
    left = note(platform, content)
    write(platform, "s", ["a.pt"])
    assert not left.exists()
    assert packed(platform, "s", "a.pt") == b"weights"


def test_an_interrupted_stage_leaves_no_copy(platform, monkeypatch):
    def interrupt(path, *args, **kwargs):
        raise KeyboardInterrupt

    platform.model("best.pt")
    with monkeypatch.context() as patch:
        patch.setattr(stages, "_publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(platform, "s", ["best.pt"])
    assert models(platform) == ["best.pt"]


def test_names_with_quotes_and_semicolons_are_data(platform):
    names = ["a b;rm -rf $(x).pt", "quote'\".pt", "line\nbreak.pt", "- dash: #.pt"]
    for name in names:
        platform.model(name, name.encode())
    write(platform, "s", names)
    assert platform.result()["model_stages"]["s"]["files"] == names
    assert [packed(platform, "s", name) for name in names] == [name.encode() for name in names]


@given(st.dictionaries(st.text(min_size=1, max_size=100), st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=200), st.lists(st.text(max_size=90), max_size=3),
    st.dictionaries(st.text(max_size=9), st.text(max_size=90), max_size=3)), max_size=5), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_the_text_of_parts_is_that_of_the_whole(entry, count):
    value = {"best_stage_name": "s0", "attachments": {"a": ["b"]}, "mAP": 0.5, "model_stages": {f"s{n}": entry for n in range(count)}}
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return    # no YAML either
    text = stages._yaml_text(value)
    ordered = {key: {name: stages._sorted(dict(entry)) for name in value[key]} if key == "model_stages" else value[key]
               for key in sorted(value) if value[key]}
    ordered = copy.deepcopy(json.loads(json.dumps(ordered)))    # no list is there twice, which YAML would point out
    assert text == yaml.dump(ordered, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), default_flow_style=False, sort_keys=False)


def test_a_result_that_somebody_else_changed_is_read_again(platform):
    platform.model("a.pt")
    write(platform, "s", ["a.pt"])
    path = platform.out / "models/result.yaml"
    info = path.stat()
    path.write_text(path.read_text().replace("mAP: 0.5", "mAP: 0.6"))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))    # of the same size, time and place
    write(platform, "t", ["a.pt"], 0.1)
    assert platform.result()["model_stages"]["s"]["mAP"] == 0.6
