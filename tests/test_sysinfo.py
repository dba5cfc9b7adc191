"""GPU memory, with a stand-in for torch: no GPU is here."""
from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from ymir_exc.errors import GpuError, NoGpuError
from ymir_exc.sysinfo import get_gpu_memory

GIB = 1 << 30


def stand_in(monkeypatch, available=True, **cuda):
    torch = SimpleNamespace(device=lambda name: name, cuda=SimpleNamespace(is_available=lambda: available, **cuda))
    monkeypatch.setitem(sys.modules, "torch", torch)


def test_total_then_free(monkeypatch):
    stand_in(monkeypatch, mem_get_info=lambda device: {"cuda:0": (3 * GIB, 8 * GIB), "cuda:1": (GIB, 2 * GIB)}[device])
    assert get_gpu_memory() == (8.0, 3.0)
    assert get_gpu_memory(device="cuda:1") == (2.0, 1.0)


def test_old_torch(monkeypatch):
    stand_in(monkeypatch, memory_reserved=lambda device: 2 * GIB,
             get_device_properties=lambda device: SimpleNamespace(total_memory=8 * GIB))
    assert get_gpu_memory() == (8.0, 6.0)


def fails(message):
    def mem_get_info(device):
        raise RuntimeError(message)
    return mem_get_info


def test_failures(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(NoGpuError, match="torch is not installed"):
        get_gpu_memory()
    stand_in(monkeypatch, available=False)
    with pytest.raises(NoGpuError, match="sees no GPU"):
        get_gpu_memory()
    stand_in(monkeypatch, mem_get_info=fails("CUDA error: invalid device ordinal"))
    with pytest.raises(NoGpuError, match="cuda:9 cannot be told"):
        get_gpu_memory("cuda:9")
    stand_in(monkeypatch, mem_get_info=fails("CUDA error: uncorrectable ECC error"))
    with pytest.raises(GpuError, match="ECC") as caught:
        get_gpu_memory()
    assert not isinstance(caught.value, NoGpuError)


def test_real_torch_without_a_gpu():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        total, free = get_gpu_memory()
        assert 0 < free <= total
    else:
        with pytest.raises(NoGpuError):
            get_gpu_memory()
