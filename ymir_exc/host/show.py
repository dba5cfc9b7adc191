"""Shows a task on a terminal: a live bar where there is one, a line every five percent elsewhere, and tables at the end."""
from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Sequence, TextIO

from ymir_exc.errors import ConfigError
from ymir_exc.monitor import Record

_STATES = {0: "unknown", 1: "waiting", 2: "running", 3: "done", 4: "failed"}
_LINES_UNDER_THE_BAR = 5

Update = Callable[[Optional[Record], float], None]


def require() -> None:
    """Make sure, before a long run, that its end can be shown.

    Raises:
        ConfigError: A package that tables need is not installed.
    """
    _rich()


def _rich() -> Any:
    try:
        import rich.box
        import rich.console
        import rich.live
        import rich.progress
        import rich.table
        import rich.text
    except ModuleNotFoundError as e:
        raise ConfigError(f"showing a run needs {e.name}, which is not installed", hint='pip install "ymir-exc[host]"') from e
    return rich


@contextlib.contextmanager
def live(title: str, stream: Optional[TextIO] = None, *, log: Optional[Path] = None, pass_log: bool = False) -> Iterator[Update]:
    """Show a task's progress while the block runs.

    Args:
        title: What runs.
        stream: Where to; stderr by default. NO_COLOR and a stream that is no terminal are respected.
        log: The file that the task prints into. On a terminal its last lines stand under the bar.
        pass_log: Show the whole log as it grows, above the bar.

    Yields:
        A function for `launch.run_local(on_progress=...)`.
    """
    stream = stream or sys.stderr
    follower = _Follower(log) if log is not None and pass_log else None
    if not stream.isatty():
        yield _lines(title, stream, follower)
        _print_lines(stream, follower.rest() if follower else [])
        return
    rich = _rich()
    columns = (rich.progress.SpinnerColumn(), rich.progress.TextColumn("{task.description:<18}"), rich.progress.BarColumn(),
               rich.progress.TaskProgressColumn(), rich.progress.TextColumn("{task.fields[state]:<8}"), rich.progress.TimeElapsedColumn())
    bars = rich.progress.Progress(*columns)
    bar = bars.add_task(title, total=1.0, state=_STATES[1])
    with rich.live.Live(bars, console=rich.console.Console(file=stream), refresh_per_second=8) as screen:

        def update(record: Optional[Record], _: float) -> None:
            if record is not None:
                bars.update(bar, completed=record.percent, state=_STATES.get(record.state, ""))
            if follower is not None:
                for line in follower.new():
                    screen.console.print(rich.text.Text(_printable(line)))
            elif log is not None:
                screen.update(_with_tail(rich, bars, log))

        try:
            yield update
        finally:
            for line in follower.rest() if follower else []:
                screen.console.print(rich.text.Text(_printable(line)))
            screen.update(bars)    # the lines of the log go, the bar stays


def _with_tail(rich: Any, bars: Any, log: Path) -> Any:
    """The bar with the log's last lines below it."""
    from ymir_exc.host.launch import tail
    with contextlib.suppress(OSError):
        lines = [_printable(line) for line in tail(log, _LINES_UNDER_THE_BAR)]
        return rich.console.Group(bars, rich.text.Text("\n".join(f"  {line}" for line in lines), style="dim", no_wrap=True,
                                                       overflow="ellipsis"))
    return bars


def _printable(line: str) -> str:
    """Without what a terminal would obey: colours and movements of the cursor would tear the bar."""
    return "".join(c for c in line.replace("\t", "    ") if c.isprintable())


class _Follower:
    """Reads what is added to a log, whole lines at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = 0
        self._rest = b""

    def new(self) -> List[str]:
        """The lines that came since the last call."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as f:
            f.seek(self._place)
            data = f.read()
            self._place += len(data)
            whole, end, self._rest = (self._rest + data).rpartition(b"\n")
            return (whole + end).decode("utf-8", "replace").splitlines()
        return []

    def rest(self) -> List[str]:
        """What is left at the end, with a last line that was not ended."""
        lines = self.new()
        last, self._rest = self._rest.decode("utf-8", "replace"), b""
        return [*lines, last] if last else lines


def _lines(title: str, stream: TextIO, follower: Optional[_Follower] = None) -> Update:
    shown = [-1]

    def update(record: Optional[Record], seconds: float) -> None:
        _print_lines(stream, follower.new() if follower else [])
        step = -1 if record is None else int(record.percent * 20)
        if record is not None and step > shown[0]:
            shown[0] = step
            print(f"{title}: {step * 5:3d} %  {seconds:6.1f} s", file=stream, flush=True)

    return update


def _print_lines(stream: TextIO, lines: Sequence[str]) -> None:
    for line in lines:
        print(line, file=stream, flush=True)


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
