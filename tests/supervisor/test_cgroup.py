"""The kernel's counter of processes killed for want of memory, in trees as both versions of control groups lay them out."""
from __future__ import annotations

import pytest

from ymir_exc.supervisor._cgroup import MemoryWatch


@pytest.fixture
def cgroup(tmp_path):
    """A file system of control groups, of version 2 unless a test writes another."""
    own = tmp_path / "own"

    def write(lines, **files):
        own.write_text(lines, encoding="utf-8")
        for name, content in files.items():
            path = tmp_path / "cgroup" / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return lambda: MemoryWatch(str(tmp_path / "cgroup"), str(own))
    return write


@pytest.mark.parametrize("lines,counter,limit", [
    ("0::/\n", "memory_dot_events", "memory_dot_max"),
    ("0::/user/a.scope\n", "user__a_dot_scope__memory_dot_events", "user__a_dot_scope__memory_dot_max"),
    ("0::/docker/not/seen/from/inside\n", "memory_dot_events", "memory_dot_max"),
    ("5:cpu:/x\n4:memory:/docker/abc\n0::/\n", "memory__memory_dot_oom_control", "memory__memory_dot_limit_in_bytes"),
    ("4:memory,pids:/abc\n", "memory__abc__memory_dot_oom_control", "memory__abc__memory_dot_limit_in_bytes"),
    ("0::/a\n", "unified__a__memory_dot_events", "unified__a__memory_dot_max"),
])
def test_the_kernels_counter(cgroup, lines, counter, limit):
    text = "low 0\noom 7\noom_kill {}\noom_group_kill 0\n"
    make = cgroup(lines, **{counter: text.format(3), limit: "17179869184\n"})
    watch = make()
    assert not watch.has_risen() and watch.limit_bytes() == 16 << 30
    cgroup(lines, **{counter: text.format(4), limit: "max\n"})
    assert watch.has_risen() and watch.limit_bytes() is None
    assert not make().has_risen()


def test_no_counter(cgroup, tmp_path):
    for watch in (cgroup("0::/\n")(), cgroup("", memory_dot_events="oom_kill x\n")(), MemoryWatch("/nowhere", "/nowhere")):
        assert not watch.has_risen() and watch.limit_bytes() is None
    watch = cgroup("4:memory:/\n", memory__memory_dot_oom_control="oom_kill 1\n",
                   memory__memory_dot_limit_in_bytes="9223372036854771712\n")()
    assert watch.limit_bytes() is None
