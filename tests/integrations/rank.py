"""A rank of a job on several hosts, without torch: it ends in the way that its first argument names, and leaves files beside it."""
from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

RANK, HERE = os.environ["RANK"], Path(__file__).parent
NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME", "TM_CURRENT_HOST")


def arrive() -> None:
    """Go on when all ranks are here."""
    (HERE / f"at.{RANK}").write_text(str(os.getpid()))
    while len(list(HERE.glob("at.*"))) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.02)


how = sys.argv[1]
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
arrive()
if how == "tell":
    (HERE / f"told.{RANK}").write_text(repr([os.environ.get(name) for name in NAMES] + sys.argv[2:]))
elif how == "late" and RANK == "1":
    while not Path(HERE / "go").exists():
        time.sleep(0.02)
    raise ValueError("no such layer")
elif how == "raise" and RANK == "1":
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
elif how == "exit" and RANK == "1":
    sys.exit("the last words") if len(sys.argv) > 2 else os._exit(7)
elif how == "killed" and RANK == "1":
    os.kill(os.getpid(), signal.SIGKILL)
elif how == "save":
    signal.signal(signal.SIGTERM, lambda *_: (time.sleep(float(sys.argv[2])), (HERE / f"saved.{RANK}").touch(), sys.exit(143)))
    (HERE / f"heed.{RANK}").touch()
if how not in ("tell", "late"):
    time.sleep(600)    # as one that waits for a lost peer
