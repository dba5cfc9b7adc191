"""GPUs, their driver, and whether torch sees them."""
from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from typing import Iterator, List, NamedTuple, Optional

from ymir_exc.host.doctor._probe import Line, NoAnswer, Question, Status, ask, probe, size

_MIB = 1 << 20
_FIELDS = "index,name,memory.total,memory.free,driver_version"
_TORCH = ("import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available(), torch.cuda.device_count())")
_TORCH_SECONDS = 60.0


class Gpu(NamedTuple):
    """One GPU; memory in bytes."""

    number: str
    name: str
    total: int
    free: int


class Driver(NamedTuple):
    """The driver's `version`, the newest CUDA that it knows ('' if it does not say), and its `gpus`."""

    version: str
    cuda: str
    gpus: List[Gpu]


def driver() -> Optional[Driver]:
    """What nvidia-smi tells; None where it is not installed.

    Raises:
        NoAnswer: It fails: the driver is not loaded, or does not suit it.
    """
    if shutil.which("nvidia-smi") is None:
        return None
    rows = [[cell.strip() for cell in line.split(",")] for line in
            ask(["nvidia-smi", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]).splitlines() if line.strip()]
    if not rows or any(len(row) != 5 for row in rows):
        raise NoAnswer("nvidia-smi lists no GPU")
    return Driver(rows[0][4], cuda_of(ask(["nvidia-smi"])), [Gpu(row[0], row[1], _bytes(row[2]), _bytes(row[3])) for row in rows])


def cuda_of(text: str) -> str:
    """The CUDA version in the heading of nvidia-smi."""
    match = re.search(r"CUDA(?: UMD)? Version\s*:\s*([0-9]+(?:\.[0-9]+)?)", text)
    return match[1] if match else ""


def _bytes(cell: str) -> int:
    return int(float(cell)) * _MIB if re.fullmatch(r"[0-9.]+", cell) else 0    # [N/A] of a GPU that shares the machine's memory


@probe("gpu", "the GPUs", 40.0)
def _gpu(_: Question) -> Iterator[Line]:
    try:
        found = driver()
    except NoAnswer as e:
        is_empty = "no devices" in str(e).lower() or "lists no GPU" in str(e)
        yield Line(Status.PROBLEM, f"nvidia-smi is installed, but {'finds no GPU' if is_empty else 'fails'}: {e}",
                   "hand one in: a container needs --gpus all, a virtual machine a GPU that is passed through to it" if is_empty else
                   "reboot, if the driver was updated; else load or reinstall it: nvidia-smi must succeed")
        return
    if found is None:
        yield Line(Status.WARNING, "no NVIDIA GPU, or no driver: nvidia-smi is not installed",
                   "tasks run on the CPU with gpu_id ''; for a GPU install the NVIDIA driver", {"gpus": []})
        return
    yield Line(Status.OK, f"NVIDIA driver {found.version}" + (f", up to CUDA {found.cuda}" if found.cuda else ""), "",
               {"driver": found.version, "cuda": found.cuda})
    for gpu in found.gpus:
        is_free = not gpu.total or gpu.free > 0.8 * gpu.total    # the platform's own measure of a free GPU
        memory = f"{size(gpu.free)} of {size(gpu.total)} free" if gpu.total else "which does not tell its memory"
        yield Line(Status.OK if is_free else Status.WARNING, f"GPU {gpu.number}: {gpu.name}, {memory}",
                   "" if is_free else "another program uses it: the platform takes a GPU for free above 80 %", gpu._asdict())


@probe("torch", "what torch sees of the GPUs", _TORCH_SECONDS + 5)
def _torch(_: Question) -> Iterator[Line]:
    if importlib.util.find_spec("torch") is None:
        return
    said = ask([sys.executable, "-c", _TORCH], _TORCH_SECONDS).split()
    if len(said) < 4:
        raise NoAnswer(f"torch printed {' '.join(said)!r}")
    version, cuda, sees, count = said[-4:]
    facts = {"version": version, "cuda": None if cuda == "None" else cuda, "available": sees == "True", "gpus": int(count)}
    if sees == "True":
        yield Line(Status.OK, f"torch {version} sees {count} GPU{'s' if count != '1' else ''} with CUDA {cuda}", "", facts)
    elif shutil.which("nvidia-smi") is None:
        yield Line(Status.OK, f"torch {version}, on the CPU", "", facts)
    else:
        why = ", as it is built without CUDA" if cuda == "None" else f" with CUDA {cuda}"
        yield Line(Status.WARNING, f"torch {version} sees no GPU{why}",
                   "install the build of torch for a CUDA version that the driver knows", facts)
