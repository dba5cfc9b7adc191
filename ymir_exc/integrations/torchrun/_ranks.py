"""What a rank needs: its device, and what it says to the other ranks."""
from __future__ import annotations

import contextlib
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Iterable, Iterator, Sequence, Union

from ymir_exc import monitor, util
from ymir_exc.errors import NoGpuError

if TYPE_CHECKING:
    import torch
    from easydict import EasyDict as edict

GROUP_TIMEOUT_SECONDS = 2 * 3600.0
"""How long a rank waits for the others. It has to outlast the longest thing that one rank does alone, such as an evaluation on rank 0.
A task whose rank died does not wait for it: the launcher ends the others within seconds."""


def device(cfg: edict) -> torch.device:
    """Where this rank computes: the entry of `gpu_id` with the number LOCAL_RANK, the CPU without GPUs.

    For a GPU that is given by name, CUDA_VISIBLE_DEVICES is set in this process: call this before anything else of `torch.cuda`.

    Args:
        cfg: What `util.get_merged_config()` returned.

    Raises:
        NoGpuError: There is no such GPU, or none is left for this rank.
    """
    import torch
    wanted = util.get_gpu_ids(cfg)
    if not wanted:
        return torch.device("cpu")
    rank = int(os.environ.get("LOCAL_RANK") or 0)
    if rank >= len(wanted):
        raise NoGpuError(f"rank {rank} has no GPU: gpu_id names {len(wanted)}", hint="start one process for each GPU")
    mine = wanted[rank]
    if isinstance(mine, str):    # CUDA itself finds a GPU by its name; of MIG instances, a process sees one alone
        os.environ["CUDA_VISIBLE_DEVICES"] = mine
        mine = 0
    check_gpus([mine])
    return torch.device("cuda", mine)


def check_gpus(wanted: Sequence[Union[int, str]]) -> None:
    """Whether torch sees what gpu_id names by index."""
    indices = [gpu for gpu in wanted if isinstance(gpu, int)]
    if not indices:
        return
    import torch
    count = torch.cuda.device_count()
    missing = [gpu for gpu in indices if gpu >= count]
    if missing:
        raise NoGpuError(f"gpu_id names GPU {', '.join(map(str, missing))}, but torch sees {count} here",
                         hint="start the container with GPUs, or set gpu_id to '' for CPU")


@contextlib.contextmanager
def process_group(device: torch.device, timeout: float = GROUP_TIMEOUT_SECONDS) -> Iterator[None]:
    """The ranks as a group of `torch.distributed`: nccl for GPUs, else gloo. A single process needs none, and a group that exists is kept.

    After an exception the group stays until the process ends: taking leave of it would wait for ranks that wait for this one, or make them
    fail before this one has said why.

    Args:
        device: What `device` returned.
        timeout: Seconds that a rank waits for the others; see `GROUP_TIMEOUT_SECONDS`.
    """
    import torch
    import torch.distributed as dist
    if int(os.environ.get("WORLD_SIZE") or 1) < 2 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout))
    yield
    dist.destroy_process_group()


def should_stop() -> bool:
    """As `monitor.should_stop`, and the same answer on each rank: True once any of them was asked to stop.

    A rank that left its loop alone would leave the others waiting for it. All ranks of a `process_group` have to call this equally often;
    it costs an exchange of one number.
    """
    import torch
    import torch.distributed as dist
    asked = monitor.should_stop()
    if not (dist.is_available() and dist.is_initialized()):
        return asked
    flag = torch.tensor(int(asked), device=_exchange_device())
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag.item())


def of_rank_0(value: float) -> float:
    """The value that rank 0 has, on each rank: so that all decide alike. Of a single process its own.

    All ranks of a `process_group` have to call this equally often.
    """
    import torch
    import torch.distributed as dist
    if not (dist.is_available() and dist.is_initialized()):
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=_exchange_device())
    dist.broadcast(shared, 0)
    return float(shared.item())


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its mean over the ranks, in one exchange; nothing for a single process.

    What `DistributedDataParallel` does for models whose every use goes through `forward`, this does for all others. A parameter without a
    gradient counts as one with zeros where another rank has one.

    Args:
        parameters: `model.parameters()`, in the same order on each rank.
    """
    import torch
    import torch.distributed as dist
    if not (dist.is_available() and dist.is_initialized()):
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start:start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def _exchange_device() -> str:
    import torch.distributed as dist
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the hardware computes in it; elsewhere it would be slower than float32.

    Args:
        device: What `device` returned.
    """
    import torch
    return torch.autocast(device.type, torch.bfloat16, enabled=_has_bfloat16(device))


def _has_bfloat16(device: torch.device) -> bool:
    import torch
    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device)[0] >= 8)    # Ampere; torch's own answer counts emulation
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            flags = f.read()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
