"""Which GPUs the hosts of a job get.

`local` gets none. `local_gpu` gets all of this machine, or those the session names. A type of the cloud gets what there is, and runs
without where there are too few, because the same program is to run on any machine.
"""
from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from typing import List, Optional

from ymir_exc.errors import NoGpuError

LOCAL, LOCAL_GPU = "local", "local_gpu"
_LOG = logging.getLogger(__name__)


def machine_gpus() -> List[str]:
    """The indices of this machine's GPUs, of those that CUDA_VISIBLE_DEVICES leaves."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        told = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=30,
                              check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = [line.strip() for line in told.splitlines() if line.strip().isdigit()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not re.fullmatch(r"[\d, ]*|-1", visible):    # or names, which cannot be told apart here
        return found
    return [part.strip() for part in visible.split(",") if part.strip() in found]


def split(instance_type: str, hosts: int, given: Optional[str]) -> List[List[str]]:
    """Equal shares, none of them in two: ranks must be equal in number on each host, so what is left over is not used.

    Args:
        instance_type: As the user gave it.
        hosts: How many.
        given: Indices such as '0,1' in place of all that the machine has; '' for none.

    Raises:
        NoGpuError: `local_gpu`, and there are fewer GPUs than hosts.
    """
    none: List[List[str]] = [[] for _ in range(hosts)]
    if instance_type == LOCAL:
        return none
    gpus = machine_gpus() if given is None else list(dict.fromkeys(part.strip() for part in given.split(",") if part.strip()))
    if len(gpus) < hosts:
        if instance_type == LOCAL_GPU:
            raise NoGpuError(f"train_instance_count is {hosts} and GPUs are {len(gpus)}: local_gpu needs one for each host",
                             hint="a smaller train_instance_count, or train_instance_type='local' to run without GPUs")
        if gpus:
            _LOG.warning("%d GPUs for %d hosts: the job runs without", len(gpus), hosts)
        return none
    share = len(gpus) // hosts
    return [gpus[n * share:(n + 1) * share] for n in range(hosts)]
