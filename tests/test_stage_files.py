"""Each stage keeps its own weights; what is dropped is freed; nothing that another stage lists is touched."""
from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from tests.contract import platform_rules
from ymir_exc import result_writer as rw


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


def test_a_name_that_tells_its_stage_is_not_doubled(platform):
    platform.model("epoch_1.pt")
    write(platform, "epoch_1", ["epoch_1.pt"])
    assert models(platform) == ["epoch_1.pt", "result.yaml"]


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


def test_a_file_that_another_stage_lists_stays(platform):
    platform.model("a_b.pt")    # tells both stages, so both list the common file
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
