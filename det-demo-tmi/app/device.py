"""Where the model runs, and in which precision."""
from __future__ import annotations

from pathlib import Path
from typing import ContextManager

import torch
from easydict import EasyDict

from ymir_exc import errors, util


def pick(cfg: EasyDict) -> torch.device:
    """The first GPU of `gpu_id`, or the CPU; raises NoGpuError when that GPU is not there."""
    wanted = util.get_gpu_ids(cfg)
    if not wanted:
        return torch.device("cpu")
    index = wanted[0] if isinstance(wanted[0], int) else 0
    if index >= torch.cuda.device_count():
        raise errors.NoGpuError(f"gpu_id is {cfg.param.gpu_id!r}, but torch sees {torch.cuda.device_count()} GPUs here",
                                hint="start the container with GPUs, or set gpu_id to '' for CPU")
    return torch.device("cuda", index)


def mixed_precision(device: torch.device) -> ContextManager[None]:
    """bfloat16 where the hardware computes in it; elsewhere it would be slower than float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=_has_bfloat16(device))


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and any(name in flags.read_text(encoding="utf-8") for name in ("avx512_bf16", "amx_bf16"))
