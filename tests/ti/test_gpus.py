from __future__ import annotations

import pytest

from ymir_exc.errors import NoGpuError
from ymir_exc.ti import _gpus

FOUR = "printf '0\\n1\\n2\\n3\\n'"


@pytest.mark.parametrize("kind,hosts,given,shares", [
    ("local", 2, None, [[], []]), ("local_gpu", 1, None, [["0", "1", "2", "3"]]), ("local_gpu", 2, None, [["0", "1"], ["2", "3"]]),
    ("local_gpu", 3, None, [["0"], ["1"], ["2"]]), ("local_gpu", 2, "3,1", [["3"], ["1"]]), ("local_gpu", 1, "2,2", [["2"]]),
    ("TI.GN10X", 2, None, [["0", "1"], ["2", "3"]]), ("TI.GN10X", 5, None, [[]] * 5), ("TI.GN10X", 1, "", [[]])])
def test_shares(tools, monkeypatch, kind, hosts, given, shares):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tools("nvidia-smi", FOUR)
    assert _gpus.split(kind, hosts, given) == shares


@pytest.mark.parametrize("hosts,given", [(5, None), (2, "0"), (1, "")])
def test_too_few(tools, monkeypatch, hosts, given):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tools("nvidia-smi", FOUR)
    with pytest.raises(NoGpuError, match=f"train_instance_count is {hosts}"):
        _gpus.split("local_gpu", hosts, given)


@pytest.mark.parametrize("visible,seen", [("1,3", ["1", "3"]), ("", []), ("-1", []), ("7", []), ("GPU-12ab", ["0", "1", "2", "3"])])
def test_what_cuda_leaves(tools, monkeypatch, visible, seen):
    tools("nvidia-smi", FOUR)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _gpus.machine_gpus() == seen


@pytest.mark.parametrize("script", ["exit 9", "echo No devices were found"])
def test_a_driver_that_does_not_work(tools, script):
    tools("nvidia-smi", script)
    assert _gpus.machine_gpus() == []


def test_what_living_jobs_have_is_left_to_them(tools, monkeypatch, caplog):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tools("nvidia-smi", FOUR)
    used = {"0": "j", "2": "k"}
    assert _gpus.split("local_gpu", 2, None, used) == [["1"], ["3"]]
    for kind in ("local_gpu", "TI.GN10X"):    # nobody wants to find out days later that it ran without
        with pytest.raises(NoGpuError, match=r"GPU 0, 2 in use by job j, k: what is left is 2 for train_instance_count 3"):
            _gpus.split(kind, 3, None, used)
    assert _gpus.split("local", 3, None, used) == [[], [], []] and not caplog.messages
    assert _gpus.split("local_gpu", 1, "0,1", used) == [["0", "1"]] and "job j uses GPU 0 too" in caplog.text
