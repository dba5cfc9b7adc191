"""Shows a task on a terminal: a live bar where there is one, a line every five percent elsewhere, and tables at the end."""
from __future__ import annotations

import contextlib
import sys
from typing import Any, Callable, Iterator, List, Optional, Sequence, TextIO

from ymir_exc.errors import ConfigError
from ymir_exc.monitor import Record

_STATES = {0: "unknown", 1: "waiting", 2: "running", 3: "done", 4: "failed"}


def _rich() -> Any:
    try:
        import rich.box
        import rich.console
        import rich.progress
        import rich.table
    except ModuleNotFoundError as e:
        raise ConfigError(f"showing a run needs {e.name}, which is not installed", hint='pip install "ymir-exc[host]"') from e
    return rich


@contextlib.contextmanager
def live(title: str, stream: Optional[TextIO] = None) -> Iterator[Callable[[Optional[Record], float], None]]:
    """Show a task's progress while the block runs.

    Args:
        title: What runs.
        stream: Where to; stderr by default. NO_COLOR and a stream that is no terminal are respected.

    Yields:
        A function for `launch.run_local(on_progress=...)`.
    """
    stream = stream or sys.stderr
    if not stream.isatty():
        yield _lines(title, stream)
        return
    rich = _rich()
    columns = (rich.progress.SpinnerColumn(), rich.progress.TextColumn("{task.description:<18}"), rich.progress.BarColumn(),
               rich.progress.TaskProgressColumn(), rich.progress.TextColumn("{task.fields[state]:<8}"), rich.progress.TimeElapsedColumn())
    with rich.progress.Progress(*columns, console=rich.console.Console(file=stream)) as bars:
        bar = bars.add_task(title, total=1.0, state=_STATES[1])

        def update(record: Optional[Record], _: float) -> None:
            if record is not None:
                bars.update(bar, completed=record.percent, state=_STATES.get(record.state, ""))

        yield update


def _lines(title: str, stream: TextIO) -> Callable[[Optional[Record], float], None]:
    shown = [-1]

    def update(record: Optional[Record], seconds: float) -> None:
        step = -1 if record is None else int(record.percent * 20)
        if record is not None and step > shown[0]:
            shown[0] = step
            print(f"{title}: {step * 5:3d} %  {seconds:6.1f} s", file=stream, flush=True)

    return update


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = (),
          stream: Optional[TextIO] = None) -> None:
    """Print a table.

    Args:
        title: Above it.
        columns: Their names.
        rows: Cells as text; shown as they are, never read as markup.
        numbers: Which columns are set flush right.
        stream: Where to; stdout by default.
    """
    rich = _rich()
    from rich.text import Text
    console = rich.console.Console(file=stream or sys.stdout, width=None if (stream or sys.stdout).isatty() else 120)
    made = rich.table.Table(title=Text(title), title_justify="left", box=rich.box.SIMPLE_HEAD)
    for n, name in enumerate(columns):
        made.add_column(Text(name), justify="right" if n in numbers else "left", overflow="fold")
    for row in rows:
        cells: List[Any] = [Text(cell) for cell in row]
        made.add_row(*cells)
    console.print(made)
