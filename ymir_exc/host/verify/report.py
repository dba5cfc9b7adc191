"""Shows a verification: each row as it runs and ends, on stderr, and the table at the end, on stdout."""
from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any, ContextManager, Dict, Sequence

from ymir_exc.host import show as terminal
from ymir_exc.host import verify
from ymir_exc.host.launch import OnProgress
from ymir_exc.host.verify import PASSED, Options, RowResult


def default_out(image: str) -> Path:
    """`ymir-verify/IMAGE-TIME`, with what no file name should have left out."""
    return Path("ymir-verify") / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', image).strip('-.') or 'image'}-{time.strftime('%Y%m%d-%H%M%S')}"


def live(quiet: bool) -> Dict[str, Any]:
    """What `verify.verify` is given to show the rows while they run; nothing when `quiet`."""
    return {} if quiet else {"watch": _watch, "on_row": _tell}


def _watch(name: str, log: Path) -> ContextManager[OnProgress]:
    return terminal.live(name, log=log)


def _tell(row: RowResult) -> None:
    print(f"{row.status:8} {row.name:16} {row.seconds:6.1f} s{f'  {row.why}' if row.why else ''}", file=sys.stderr, flush=True)


def show(options: Options, rows: Sequence[RowResult], *, as_json: bool) -> None:
    """Print the result.

    Args:
        options: What was verified.
        rows: What came out.
        as_json: As the content of verify.json, and nothing else.
    """
    if as_json:
        print((options.out / "verify.json").read_text(encoding="utf-8"))
        return
    cells = [(row.name, row.status, f"{row.seconds:.1f}", row.why, row.remedy) for row in rows]
    terminal.table(f"{options.image}", ("row", "result", "seconds", "why", "how to mend it"), cells, numbers=(2,))
    counts = [f"{number} {status}" for status in (PASSED, verify.FAILED, verify.NOT_RUN, verify.LEFT_OUT)
              for number in [sum(row.status == status for row in rows)] if number]
    print(f"{', '.join(counts) or 'no row was run'}; the files are in {options.out}")
