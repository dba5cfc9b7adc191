"""What a person sees: on a terminal, in a log, as a picture."""
from __future__ import annotations

import contextlib
import io
import os
import pty

import pytest

from ymir_exc.host import sheet, show
from ymir_exc.monitor import Record


def test_without_a_terminal_a_line_every_five_percent():
    out = io.StringIO()
    with show.live("training", out) as update:
        update(None, 0.0)
        for n in range(101):
            update(Record("t0", 0.0, n / 100), float(n))
    lines = out.getvalue().splitlines()
    assert len(lines) == 21
    assert lines[0].split() == ["training:", "0", "%", "0.0", "s"]
    assert lines[-1].split() == ["training:", "100", "%", "100.0", "s"]


def read_all(terminal: int) -> bytes:
    """What was written to a pseudo-terminal whose other end is closed: it comes in parts, and ends with an error."""
    parts = []
    with contextlib.suppress(OSError):
        while True:
            parts.append(os.read(terminal, 4096))
    os.close(terminal)
    return b"".join(parts)


def test_on_a_terminal_a_live_bar():
    pytest.importorskip("rich")
    parent, child = pty.openpty()
    with os.fdopen(child, "w") as stream, show.live("training", stream) as update:
        update(Record("t0", 0.0, 0.5, 2), 1.0)
    shown = read_all(parent).decode()
    assert "training" in shown
    assert "50%" in shown
    assert "running" in shown


def test_a_table_shows_cells_as_they_are():
    pytest.importorskip("rich")
    out = io.StringIO()
    show.table("Title", ["name", "n"], [["[red]x[/red] <b> 图", "10"], ["y", "2"]], numbers=(1,), stream=out)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert any("[red]x[/red] <b> 图" in line and line.endswith("10") for line in lines)
    assert "\x1b" not in out.getvalue()


def test_a_sheet_of_detections(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    paths = []
    for n in range(3):
        paths.append(str(tmp_path / f"图 {n}.png"))
        Image.new("RGB", (100, 50 + n), "black").save(paths[-1])
    box = {"x": 10, "y": 10, "w": 50, "h": 30}
    detections = {"图 0.png": {"boxes": [{"class_name": "cat", "score": 0.9, "box": box}, {"class_name": "cat", "score": 0.1, "box": box}]},
                  "图 1.png": {"boxes": []}}
    assert sheet.draw(tmp_path / "sheet.png", paths, detections, ["cat"], columns=2, cell=100) == 1
    with Image.open(tmp_path / "sheet.png") as made:
        assert made.size == (2 * 104 + 4, 2 * 104 + 4)
        assert made.getpixel((4 + 10, 4 + 39)) == (0xFF, 0x41, 0x36), "the left lower corner of the box, in the first class's colour"
        assert made.getpixel((108 + 30, 4 + 30)) == (0, 0, 0)
    assert sheet.draw(tmp_path / "empty.png", [], {}, []) == 0
