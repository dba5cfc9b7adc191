from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from ymir_exc.ti import _log
from ymir_exc.ti._log import Painter, Reader, Writer


class Terminal(io.TextIOWrapper):
    def __init__(self):
        super().__init__(io.BytesIO(), encoding="utf-8")

    def isatty(self):
        return True


class File(Terminal):
    def isatty(self):
        return False


def paint(pieces, stream, hosts=("a", "bb")):
    painter = Painter(hosts, stream)
    for host, data in pieces:
        painter.feed(host, data)
    painter.close()
    return stream.buffer.getvalue()


def test_what_is_written_is_read(tmp_path):
    writer, reader = Writer(tmp_path / "log"), Reader(tmp_path / "log")
    pieces = [(0, b"one\n"), (1, b"\xff\x00 2 3\n"), (0, b""), (10, b"x" * 100000), (0, b"no end")]
    assert list(reader.new()) == []
    for piece in pieces[:2]:
        writer.write(*piece)
    assert list(reader.new()) == pieces[:2]
    for piece in pieces[2:]:
        writer.write(*piece)
    assert list(reader.new()) == pieces[2:]
    assert list(reader.new()) == []
    assert list(Reader(tmp_path / "log").new()) == pieces
    writer.close()


def test_half_a_piece_is_read_when_it_is_whole(tmp_path):
    path = tmp_path / "log"
    reader = Reader(path)
    whole = b"0 4\nabcd\n1 2\nxy\n"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert list(Reader(path).new()) == [(0, b"abcd")] * (end >= 9)
    path.write_bytes(whole[:12])
    assert list(reader.new()) == [(0, b"abcd")]
    path.write_bytes(whole)
    assert list(reader.new()) == [(1, b"xy")]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_loses_pieces_and_nothing_else(tmp_path):
    writer = Writer(tmp_path / "log")
    writer.write(0, b"before")
    full, real = os.open("/dev/full", os.O_WRONLY), os.dup(writer._file.fileno())
    os.dup2(full, writer._file.fileno())
    writer.write(0, b"lost")
    os.dup2(real, writer._file.fileno())
    writer.write(0, b"after")
    writer.close()
    assert writer.lost == 4
    assert list(Reader(tmp_path / "log").new()) == [(0, b"before"), (0, b"after")]
    os.close(full)
    os.close(real)


def test_each_line_has_its_host():
    assert paint([(0, b"1\n2\n"), (1, b"3\n")], File()) == b"a  | 1\na  | 2\nbb | 3\n"


def test_pieces_of_lines_are_put_together_and_never_mixed():
    assert paint([(0, b"on"), (1, b"tw"), (0, b"e\r"), (0, b"\n"), (1, b"o")], File()) == b"a  | one\nbb | two\n"


def test_any_bytes():
    assert paint([(0, b"\xff\x00\xfe\n")], File()) == b"a  | \xff\x00\xfe\n"
    stream = io.StringIO()    # as in a notebook, which has no bytes
    painter = Painter(["a"], stream)
    painter.feed(0, b"\xff \xe4\xb8\xad\n")
    painter.close()
    assert stream.getvalue() == "a | \\xff 中\n"


def test_a_bar_in_a_file_is_a_line_each():
    assert paint([(0, b"\r 0%"), (0, b"\r50%"), (0, b"\r99%\n"), (0, b"done\n")], File()) == b"a  |  0%\na  | 50%\na  | 99%\na  | done\n"


def test_a_bar_on_a_terminal_is_overwritten(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    shown = paint([(0, b"  0%\r"), (0, b" 50%\r"), (1, b"x\n"), (0, b"100%\n")], Terminal())
    assert shown == b"a  |   0%\nbb | x\na  |  50%\r\x1b[Ka  | 100%\n"


def test_colours(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert paint([(0, b"1\n"), (1, b"2\n")], Terminal()) == b"\x1b[36ma  |\x1b[0m 1\n\x1b[33mbb |\x1b[0m 2\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert b"\x1b" not in paint([(0, b"1\n")], Terminal())


def test_a_line_without_an_end_is_shown_after_a_while_on_a_terminal(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(_log, "_PATIENCE", 0.0)
    stream = Terminal()
    painter = Painter(["a", "b"], stream)
    painter.feed(0, b"wait for ")
    assert stream.buffer.getvalue() == b""
    painter.idle()
    assert stream.buffer.getvalue() == b"a | wait for "
    painter.feed(0, b"it\n")
    painter.feed(0, b"again ")
    painter.idle()
    painter.feed(1, b"me\n")
    painter.feed(0, b"and on\n")
    painter.close()
    assert stream.buffer.getvalue() == b"a | wait for it\na | again \nb | me\na | and on\n"


def test_a_line_longer_than_any_buffer_is_shown_as_it_comes():
    stream = File()
    painter = Painter(["a"], stream)
    for _ in range(3):
        painter.feed(0, b"x" * 500_000)
    assert len(stream.buffer.getvalue()) > 900_000
    painter.feed(0, b"y\n")
    painter.close()
    assert stream.buffer.getvalue() == b"a | " + b"x" * 1_500_000 + b"y\n"


def test_another_hosts_line_cuts_none_of_up_to_a_mib():
    long = [(0, b"x" * 65536)] * 16
    between = [(1, b"between\n")]
    assert paint([*long[:8], *between, *long[8:], *between, (0, b"\nlast")], File()) \
        == b"bb | between\n" * 2 + b"a  | " + b"x" * (1 << 20) + b"\na  | last\n"
    assert paint([*long, (0, b"y"), *between, (0, b"z\n")], File()) \
        == b"a  | " + b"x" * (1 << 20) + b"y\nbb | between\na  | z\n"


def test_many_lines_in_pieces_of_any_size(tmp_path):
    """As a pipe gives them: cut anywhere."""
    text = b"".join(b"line %d\r\n" % n if n % 3 else b"\xe4\xb8\xad %d\n" % n for n in range(5000))
    for size in (1, 7, 4096):
        shown = paint([(0, text[at:at + size]) for at in range(0, len(text), size)], File(), ["a"])
        assert shown == b"".join(b"a | " + line + b"\n" for line in text.replace(b"\r\n", b"\n").split(b"\n")[:-1])


def test_a_record_of_which_a_power_cut_left_zeros(tmp_path):
    (tmp_path / "log").write_bytes(b"0 4\nabcd\n" + b"\0" * 100 + b"\n")
    assert list(Reader(tmp_path / "log").new()) == [(0, b"abcd")]
    (tmp_path / "log").write_bytes(b"0 4\nabcd\nx y\nabcd\n")
    assert list(Reader(tmp_path / "log").new()) == [(0, b"abcd")]


def test_whole_lines_beside_a_bar_and_a_begun_line():
    shown = paint([(0, b"1\n2\n"), (0, b"half"), (1, b"3\n4\nha"), (0, b" and\n5\n"), (1, b"lf\r6\n")], File())
    assert shown == b"a  | 1\na  | 2\nbb | 3\nbb | 4\na  | half and\na  | 5\nbb | half\nbb | 6\n"


def test_a_closed_pipe_is_the_readers_affair():
    program = "from ymir_exc.ti._log import Painter; import sys; p = Painter(['a']); p.feed(0, b'x\\n'); p.close()"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"a | x\n"
