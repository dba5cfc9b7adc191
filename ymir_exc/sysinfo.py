"""Facts about the machine that a training program asks for."""
from __future__ import annotations

from typing import Any, Tuple

from ymir_exc.errors import GpuError, NoGpuError

_GIB = 1 << 30


def get_gpu_memory(device: str = "cuda:0") -> Tuple[float, float]:
    """The memory of a GPU.

    Args:
        device: As torch names it; indices count as this container numbers its GPUs.

    Returns:
        Total and free memory in GiB. Free is what the driver says, other processes included.

    Raises:
        NoGpuError: torch is not installed, sees no GPU, or not this one.
        GpuError: The driver failed.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise NoGpuError("the memory of a GPU cannot be told: torch is not installed") from None
    if not torch.cuda.is_available():
        raise NoGpuError(f"the memory of {device} cannot be told: torch sees no GPU", hint="was the container started with GPUs?")
    try:
        return _memory(torch, device)
    except (RuntimeError, AssertionError, ValueError) as e:
        kind = NoGpuError if "invalid device" in str(e).lower() else GpuError
        raise kind(f"the memory of {device} cannot be told: {e}") from e


def _memory(torch: Any, device: str) -> Tuple[float, float]:
    """Total and free; of torch before 1.10, which cannot ask the driver, what this process has not reserved counts as free."""
    if hasattr(torch.cuda, "mem_get_info"):
        free, total = torch.cuda.mem_get_info(torch.device(device))
    else:
        total = torch.cuda.get_device_properties(device).total_memory
        free = total - torch.cuda.memory_reserved(device)
    return total / _GIB, free / _GIB
