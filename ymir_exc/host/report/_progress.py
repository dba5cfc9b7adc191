"""Progress on stderr: a bar on a terminal, a line every five percent elsewhere."""
from __future__ import annotations

import contextlib
import sys
import time
from typing import Callable, Iterator, Optional

from ymir_exc.host import show
from ymir_exc.monitor import Record


@contextlib.contextmanager
def shown(title: str, *, is_quiet: bool = False) -> Iterator[Optional[Callable[[int, int], None]]]:
    """Show how far something is while the block runs.

    Args:
        title: What is being done.
        is_quiet: Show nothing.

    Yields:
        A function of how much is done and of how much; None when quiet.
    """
    if is_quiet:
        yield None
        return
    started = time.monotonic()
    with show.live(title, sys.stderr) as update:
        yield lambda done, total: update(Record("", 0.0, done / max(1, total)), time.monotonic() - started)
