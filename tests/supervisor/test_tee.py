"""A program's output passes unchanged, through pipes and terminals, into files that are slow, full, closed or gone."""
from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import tty

import pytest

from tests.supervised import PATIENCE, record, wait_for
from ymir_exc.supervisor import _tee

TALKER = """
import os, sys
data = bytes(range(256)) * 40960    # 10 MiB: every byte, no line end that counts
half = len(data) // 2
for fd, part in ((1, data[:half]), (2, data), (1, data[half:])):
    view = memoryview(part)
    while view:
        view = view[os.write(fd, view):]
"""


def test_ten_megabytes_of_binary_pass_unchanged(supervised):
    done = supervised.python(TALKER)
    data = bytes(range(256)) * 40960
    assert done.returncode == 0
    assert done.stdout == data
    assert done.stderr == data


def test_binary_on_stderr_then_a_failure(supervised, platform):
    done = supervised.python("import os; os.write(2, b'\\x00\\xff\\xfe\\x1b[31m caf\\xe9\\r\\n'); os._exit(9)")
    assert done.returncode == 9
    assert done.stderr.startswith(b"\x00\xff\xfe\x1b[31m caf\xe9\r\nymir-exc: 160004 CONTAINER_ERROR: ")
    found = record(platform)
    assert found.state == 4 and "caf" in found.message and "\x1b" not in found.message
    assert platform.monitor().encode("utf-8")


def test_the_last_line_is_a_line_of_its_own(supervised):
    done = supervised.python("import os; os.write(2, b'boom'); os._exit(1)")
    assert done.stderr == b"boom\nymir-exc: 160004 CONTAINER_ERROR: boom\n"


def test_the_order_between_stdout_and_stderr_of_one_file(supervised):
    code = "import os\nfor i in range(2000): os.write(1, b'o%d ' % i); os.write(2, b'e%d ' % i)"
    done = supervised.python(code, stderr=subprocess.STDOUT)
    assert done.stdout == b"".join(b"o%d e%d " % (i, i) for i in range(2000))


def test_one_file_gets_the_last_line_at_its_end(supervised, platform):
    log = platform.root / "log"
    with log.open("wb") as f:
        done = supervised.run("sh", "-c", "echo one; echo two >&2; printf three; exit 1", stdout=f, stderr=f)
    assert done.returncode == 1
    assert log.read_bytes() == b"one\ntwo\nthreeymir-exc".replace(b"ymir", b"\nymir") + b": 160004 CONTAINER_ERROR: three\n"


def test_a_reader_that_went_away_does_not_end_the_training(supervised, platform):
    reader, writer = os.pipe()
    process = supervised.start("sh", "-c", "head -c 5000000 /dev/zero; head -c 5000000 /dev/zero; touch finished", stdout=writer)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    assert process.wait(PATIENCE) == 0 and (platform.root / "finished").exists()
    assert record(platform).percent == 1.0


def test_a_full_log_does_not_end_the_training(supervised, platform):
    with open("/dev/full", "wb") as full:
        done = supervised.run("sh", "-c", "echo out; echo err >&2; touch finished; exit 3", stdout=full, stderr=full)
    assert done.returncode == 3 and (platform.root / "finished").exists()
    assert record(platform).message == "err"


def test_a_slow_reader_gets_everything(supervised):
    process = supervised.start("sh", "-c", "head -c 100000 /dev/zero; echo end >&2")
    assert process.stderr.readline() == b"end\n"    # the program has ended, or is about to, and its output is not read yet
    assert len(process.stdout.read()) == 100000
    assert process.wait(PATIENCE) == 0


def bytes_in(pipe):
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


def test_a_pipe_that_does_not_block(supervised):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = supervised.start("head", "-c", "1000000", "/dev/zero", stdout=writer)
    os.close(writer)
    wait_for(lambda: bytes_in(reader) > 60000)    # full, or nearly
    with open(reader, "rb") as f:
        assert len(f.read()) == 1000000
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(supervised, platform, closing):
    program = "cat; echo out; echo err >&2; ls /proc/self/fd > fds; exit 3"
    done = supervised.run("sh", "-c", program, before=["sh", "-c", f'exec "$@" {closing}', "sh"])
    assert done.returncode == 3
    assert (platform.root / "fds").read_text().split() == ["0", "1", "2", "3"]
    assert done.stdout == (b"" if ">&-" in closing.split() else b"out\n")
    assert record(platform).message == "err"


def test_stdin_passes(supervised):
    data = os.urandom(100000)
    assert supervised.run("cat", data=data).stdout == data


def test_our_files_do_not_reach_the_program_and_theirs_do(supervised):
    assert supervised.run("ls", "/proc/self/fd").stdout.split() == [b"0", b"1", b"2", b"3"]
    reader, writer = os.pipe()
    done = supervised.run("sh", "-c", f"echo inherited >/proc/self/fd/{writer}", pass_fds=[writer])
    os.close(writer)
    with open(reader, "rb") as f:
        assert done.returncode == 0 and f.read() == b"inherited\n"


# ------------------------------------------------------------------------------------------------- terminals


def open_terminal(columns=97, lines=31):
    master, slave = pty.openpty()
    tty.setraw(slave)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    return master, slave


def read_until(fd, mark):
    data = b""
    while mark not in data:
        assert select.select([fd], [], [], PATIENCE)[0], data
        data += os.read(fd, 65536)
    return data


def test_a_terminal_stays_one(local):
    code = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
print([os.isatty(i) for i in range(3)], "%dx%d" % os.get_terminal_size(1), "\\x1b[31mred\\x1b[0m 任务\\r50%", flush=True)
os.write(2, b"ready|")
signal.sigwait([signal.SIGWINCH])
os.write(1, b"now %dx%d|" % os.get_terminal_size(2))
sys.stdin.read(1)
"""
    master, slave = open_terminal()
    process = local.start_python(code, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    said = read_until(master, b"ready|")
    assert said == "[True, True, True] 97x31 \x1b[31mred\x1b[0m 任务\r50%\nready|".encode()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process.send_signal(signal.SIGWINCH)
    assert read_until(master, b"|") == b"now 120x40|"
    os.write(master, b"x")
    assert process.wait(PATIENCE) == 0
    os.close(master)


def test_only_the_stream_that_is_a_terminal_gets_one(local):
    master, slave = open_terminal()
    code = "import os; os.write(1, b'%d' % os.isatty(1)); os.write(2, b'%d' % os.isatty(2)); os._exit(3)"
    process = local.start_python(code, stderr=slave)
    os.close(slave)
    assert process.stdout.read() == b"0"
    assert process.wait(PATIENCE) == 3
    assert read_until(master, b": 1\n") == b"1\nymir-exc: 160004 CONTAINER_ERROR: 1\n"
    os.close(master)


def test_everything_that_went_into_the_terminal_comes_out(local):
    master, slave = open_terminal()
    process = local.start("sh", "-c", "seq 20000; printf end.", stdout=slave, stderr=slave)
    os.close(slave)
    said = read_until(master, b"end.")
    assert process.wait(PATIENCE) == 0
    assert said == b"".join(b"%d\n" % i for i in range(1, 20001)) + b"end."
    os.close(master)


# ------------------------------------------------------------------------------------------------- the parts


def test_the_tail_is_the_end():
    tail = _tee.Tail()
    whole = b""
    assert tail.ends_line()
    for size in (1, 10, 65536, 3, 200000, 70000, 5):
        part = bytes([65 + size % 26]) * size
        whole += part
        tail.add(memoryview(part))
        assert tail.text() == whole[-_tee.TAIL_BYTES:].decode()
    assert not tail.ends_line()
    tail.add(memoryview(b"\xff\n"))
    assert tail.ends_line() and tail.text().endswith("\ufffd\n")


def test_a_line_that_nobody_takes_is_given_up():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(65536))
    error = _tee.put(writer, memoryview(b"x"), 0.0)
    assert error is not None and error.errno == errno.EAGAIN
    os.close(reader)
    assert _tee.put(writer, memoryview(b"x")).errno == errno.EPIPE
    os.close(writer)
