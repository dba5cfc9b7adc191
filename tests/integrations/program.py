"""The program of an image: a task for several processes, which ends in the way that its argument names."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ymir_exc import errors, monitor
from ymir_exc.executor import Executor
from ymir_exc.integrations import torchrun

RANK = os.environ.get("RANK", "none")
HERE = Path.cwd()


def arrive() -> None:
    """Go on when both ranks are here."""
    (HERE / f"rank {RANK}").touch()
    while not ((HERE / "rank 0").exists() and (HERE / "rank 1").exists()):
        time.sleep(0.02)


def add(cfg):
    """The sum over both ranks, and what a rank knows."""
    import torch
    import torch.distributed as dist
    device = torchrun.device(cfg)
    with torchrun.process_group(device), torchrun.process_group(device):
        numbers = torch.tensor([int(RANK) + 1])
        dist.all_reduce(numbers)
        here, there = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2, 2))
        here.grad = torch.full((2,), int(RANK) + 1.0)
        if RANK == "1":
            there.grad = torch.ones(2, 2)
        torchrun.average_gradients([here, torch.nn.Parameter(torch.zeros(3), requires_grad=False), there])
        assert (here.grad.tolist(), there.grad.tolist()) == ([1.5, 1.5], [[0.5, 0.5], [0.5, 0.5]])
        assert torchrun.of_rank_0(int(RANK) + 5) == 5
        known = [os.environ[name] for name in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS")]
        (HERE / f"sum {RANK}").write_text(repr([numbers.item(), str(device), *known, sys.argv[2:]]), encoding="utf-8")
    assert not dist.is_initialized()


def fail_in_all_reduce(cfg):
    import torch
    import torch.distributed as dist
    with torchrun.process_group(torchrun.device(cfg)):
        if RANK == "1":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        dist.all_reduce(torch.zeros(1))


def stop_together(cfg):
    with torchrun.process_group(torchrun.device(cfg)):
        rounds = 0
        while not torchrun.should_stop():
            rounds += 1
            time.sleep(0.01 if RANK == "0" else 0.05)
            if rounds == 10:
                (HERE / f"rank {RANK}").touch()
        (HERE / f"saved {RANK}").write_text(str(rounds), encoding="utf-8")
        raise errors.Stopped(f"rank {RANK} saved")


def killed(cfg):
    """Rank 0 hears of no SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    arrive()
    if RANK == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def deaf(cfg):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait(cfg)


def exit_late(cfg):
    """Rank 0 is done early, and no failure."""
    if RANK == "0":
        (HERE / "rank 0").write_text(str(os.getpid()), encoding="utf-8")
        return
    while not (HERE / "rank 0").exists() or Path("/proc", (HERE / "rank 0").read_text(encoding="utf-8"), "fd").exists():
        time.sleep(0.02)
    monitor.write_monitor_logger(0.9)
    sys.exit(3)


def wait(cfg):
    arrive()
    time.sleep(600)


def command_fails(cfg):
    """As an app that is a command."""
    arrive()
    if RANK == "1":
        subprocess.run([sys.executable, "-c", "raise ValueError('no such layer')"], check=True)
    time.sleep(600)


if __name__ == "__main__":
    sys.exit(Executor({"training": globals()[sys.argv[1]]}, launcher=torchrun.processes(lambda cfg: cfg.param.processes)).main())
