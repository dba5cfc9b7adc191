"""Which GPUs the hosts of a job get.

`local` gets none. `local_gpu` gets all of this machine that no other job of this user has, or those the session names. A type of the
cloud gets the same, and runs without where the machine has too few, because the same program is to run on any machine.
"""
from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from types import MappingProxyType
from typing import List, Mapping, Optional

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


def split(instance_type: str, hosts: int, given: Optional[str], used: Mapping[str, str] = MappingProxyType({})) -> List[List[str]]:
    """Equal shares, none of them in two: ranks must be equal in number on each host, so what is left over is not used.

    Args:
        instance_type: As the user gave it.
        hosts: How many.
        given: Indices such as '0,1' in place of all that the machine has; '' for none.
        used: Those that living jobs have, and which; only those that are given are used a second time.

    Raises:
        NoGpuError: `local_gpu`, and there are fewer GPUs than hosts; or there would be enough, were they not in use.
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
    taken = [gpu for gpu in gpus if gpu in used]
    if taken and given is not None:
        _LOG.warning("job %s uses GPU %s too", used[taken[0]], taken[0])
    elif taken:
        gpus = [gpu for gpu in gpus if gpu not in used]
        if len(gpus) < hosts:
            raise NoGpuError(f"GPU {', '.join(taken)} in use by job {', '.join(sorted({used[gpu] for gpu in taken}))}: what is left is "
                             f"{len(gpus)} for train_instance_count {hosts}",
                             hint=f"wait for it or stop it; Session(gpus={','.join(taken)!r}) uses them together with it")
    share = len(gpus) // hosts
    return [gpus[n * share:(n + 1) * share] for n in range(hosts)]
