"""Ports and layouts for jobs on several hosts, all of them this machine."""
from __future__ import annotations

import contextlib
import socket

from ymir_exc.hosts import Layout

NAMES = ("localhost", "127.0.0.2", "127.0.0.3")


def free_ports() -> int:
    """A port that is free, and the next one too."""
    while True:
        with contextlib.suppress(OSError), socket.create_server(("", 0)) as first:
            port = first.getsockname()[1]
            with socket.create_server(("", port + 1)):
                return port


def layouts(count: int):
    port = free_ports()
    return [Layout(NAMES[:count], rank, NAMES[0], port) for rank in range(count)]
