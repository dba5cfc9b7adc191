"""Processor, memory, disks, limits."""
from __future__ import annotations

import os
import platform
import resource
import shutil
import tempfile
from pathlib import Path
from typing import Dict, Iterator, Optional, Tuple

from ymir_exc.host.doctor._probe import Line, Question, Status, probe, read, size
from ymir_exc.supervisor._cgroup import MemoryWatch

_GIB = 1 << 30
_SHM = "/dev/shm"    # noqa: S108 - it is looked at, not written to
_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")


@probe("system", "the system")
def _system(_: Question) -> Iterator[Line]:
    kernel, machine = f"{platform.system()} {platform.release()}", platform.machine()
    inside = any(os.path.exists(mark) for mark in _CONTAINER_MARKS)
    is_linux = platform.system() == "Linux"
    yield Line(Status.OK if is_linux else Status.PROBLEM, f"{kernel}, {machine}{', in a container' if inside else ''}",
               "" if is_linux else "use Linux: nothing else is supported", {"kernel": kernel, "machine": machine, "in_container": inside})


@probe("cpu", "the processor")
def _cpu(_: Question) -> Iterator[Line]:
    total, usable, quota = os.cpu_count() or 1, len(os.sched_getaffinity(0)), _quota()
    cores = usable if quota is None else min(float(usable), quota)
    limit = "" if quota is None else f", limited to {quota:g} of them by the cgroup"
    yield Line(Status.OK if cores >= 2 else Status.WARNING, f"{usable} of {total} cores{limit}",
               "" if cores >= 2 else "allow more cores: loading of images and training share this one",
               {"cores": total, "usable": usable, "quota": quota})


def _quota() -> Optional[float]:
    """How many cores the cgroup grants, as version 2 or version 1 writes it."""
    older = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"
    parts = read("/sys/fs/cgroup/cpu.max").split() or [read(path) for path in older]
    if len(parts) == 2 and all(part.isdigit() for part in parts) and int(parts[1]):
        return int(parts[0]) / int(parts[1])
    return None


@probe("memory", "the memory")
def _memory(_: Question) -> Iterator[Line]:
    known = _meminfo()
    total, free, limit = known["MemTotal"], known.get("MemAvailable", known["MemFree"]), MemoryWatch().limit_bytes()
    limited = "" if limit is None or limit >= total else f", limited to {size(limit)} by the cgroup"
    is_enough = min(free, limit or free) >= 2 * _GIB
    yield Line(Status.OK if is_enough else Status.WARNING, f"{size(free)} of {size(total)} memory free{limited}",
               "" if is_enough else "end other programs, or give the container more: a training with torch needs 2 GiB and more",
               {"total": total, "available": free, "limit": limit})


def _meminfo() -> Dict[str, int]:
    rows = (line.split() for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) > 1}


@probe("shm", "the shared memory")
def _shm(_: Question) -> Iterator[Line]:
    if not os.path.isdir(_SHM):
        yield Line(Status.WARNING, "there is no /dev/shm", "mount a tmpfs there: worker processes of torch share tensors in it")
        return
    total, free = _space(_SHM)
    remedy = "in a container start it with --shm-size=16G; else mount -o remount,size=8G /dev/shm" if free < _GIB else ""
    yield Line(Status.WARNING if remedy else Status.OK, f"{size(free)} of {size(total)} of /dev/shm free", remedy,
               {"total": total, "free": free})


@probe("disk", "the free space")
def _disk(_: Question) -> Iterator[Line]:
    for what, place in (("the working directory", os.getcwd()), ("temporary files", tempfile.gettempdir())):
        yield disk_line(what, place)


def disk_line(what: str, place: str) -> Line:
    """How much is free where something is written, and whether this user may write there."""
    total, free = _space(place)
    facts = {"path": place, "total": total, "free": free, "writable": os.access(place, os.W_OK)}
    text = f"{size(free)} of {size(total)} free for {what}, {place}"
    if not facts["writable"] and what != "images":
        return Line(Status.WARNING, f"{text}, where this user may not write", "choose another folder", facts)
    if free < _GIB:
        return Line(Status.PROBLEM, text, "free some space: models and results will not fit", facts)
    return Line(Status.OK, text, "", facts) if free >= 10 * _GIB else Line(
        Status.WARNING, text, "free some space: an image with torch takes about 10 GiB", facts)


def _space(place: str) -> Tuple[int, int]:
    used = shutil.disk_usage(place)
    return used.total, used.free


@probe("limits", "the limits of this user")
def _limits(_: Question) -> Iterator[Line]:
    for name, number, least, remedy in (
            ("open files", resource.RLIMIT_NOFILE, 1024, "ulimit -n 65535"),
            ("processes", resource.RLIMIT_NPROC, 1024, "ulimit -u 4096"),
            ("file size", resource.RLIMIT_FSIZE, 8 * _GIB, "ulimit -f unlimited")):
        soft, hard = resource.getrlimit(number)
        shown = "unlimited" if soft == resource.RLIM_INFINITY else size(soft) if name == "file size" else str(soft)
        is_enough = soft == resource.RLIM_INFINITY or soft >= least
        yield Line(Status.OK if is_enough else Status.WARNING, f"{name}: {shown}", "" if is_enough else f"{remedy}, in this shell",
                   {"name": name, "soft": soft, "hard": hard})
