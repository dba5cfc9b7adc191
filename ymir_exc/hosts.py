"""The hosts of a job: who they are, which one this is, and how they reach each other.

    layout = hosts.read()
    if len(layout.hosts) > 1:
        hosts.wait_for_names(layout)

A platform names them in environment variables: TM_HOSTS (a JSON list), TM_CURRENT_HOST and TM_NETWORK_INTERFACE_NAME, or the same with SM_;
newer TI-ONE has NODE_LIST, INDEX, MASTER_ADDR and MASTER_PORT. Without any of them there is one host. The order of the list is kept: the
first host is the master, and a host's place is its rank. What is read here is of a host; RANK and WORLD_SIZE are of a process, except on
TI-ONE, where they are the host's too (see `is_rank`).
"""
from __future__ import annotations

import array
import contextlib
import fcntl
import ipaddress
import json
import logging
import os
import re
import socket
import struct
import time
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ymir_exc.errors import ConfigError, NetworkError

_log = logging.getLogger(__name__)

PORT_VARIABLE = "YMIR_EXC_MASTER_PORT"
PORT = 29610
"""Of the first host, where the processes find each other; the next one is for the launchers themselves. Below what systems give out by
chance (32768), and none that a training program takes by itself (29500)."""

NAMES_VARIABLE = "YMIR_EXC_NAMES_SECONDS"
JOIN_VARIABLE = "YMIR_EXC_JOIN_SECONDS"
PATIENCE_SECONDS = 600.0
"""How long the names, and then the hosts themselves, are waited for: an image is pulled on some hosts later than on others."""

TOLD_SECONDS = 30.0
"""A wait is told of so often."""

_ONE = "localhost"
_PREFIXES = ("TM_", "SM_")
_SOCKET_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
_GPUS = re.compile(r":\d+$")
_SIOCGIFCONF = 0x8912
_ENTRY_BYTES, _NAME_BYTES = 40, 16
"""Of an ifreq, netdevice(7), on 64 bits: a name, then a sockaddr_in with its address at byte 4."""


class Layout(NamedTuple):
    """The hosts of a job, as seen from one of them.

    Attributes:
        hosts: Their names, in the platform's order; never empty.
        rank: The place of this host among them, from 0.
        master: The name or address of the first one.
        port: Of the master, where the processes find each other; the launchers meet on the next one.
        interface: The network interface that the platform names; None when it names none.
    """

    hosts: Tuple[str, ...] = (_ONE,)
    rank: int = 0
    master: str = _ONE
    port: int = PORT
    interface: Optional[str] = None

    @property
    def current(self) -> str:
        """The name of this host."""
        return self.hosts[self.rank]


def read(environ: Optional[Mapping[str, str]] = None) -> Layout:
    """The layout that the environment variables tell.

    Args:
        environ: The variables; the process's own when None.

    Raises:
        ConfigError: A variable is wrong; its name is in the message.
    """
    given = os.environ if environ is None else environ
    prefix = next((prefix for prefix in _PREFIXES if given.get(f"{prefix}HOSTS")), None)
    if prefix is not None:
        names, rank = _of_toolkit(given, prefix)
    elif given.get("NODE_LIST"):
        names, rank = _of_ti_one(given)
    else:
        return Layout()
    master = given.get("MASTER_ADDR", "").strip() if names == _node_names(given) else ""    # TI-ONE's word for the first host
    interface = next((value for value in (given.get(f"{p}NETWORK_INTERFACE_NAME", "").strip() for p in _PREFIXES) if value), None)
    return Layout(names, rank, master or names[0], _port(given) if len(names) > 1 else PORT, interface)


def _of_toolkit(given: Mapping[str, str], prefix: str) -> Tuple[Tuple[str, ...], int]:
    variable, text = f"{prefix}HOSTS", given[f"{prefix}HOSTS"]
    try:
        listed = json.loads(text)
    except ValueError:
        listed = None
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) and name.strip() for name in listed):
        raise ConfigError(f'{variable}={text!r:.200} is no list of names', hint='a JSON list is wanted, such as ["algo-1", "algo-2"]')
    names = _distinct(variable, [name.strip() for name in listed])
    current = given.get(f"{prefix}CURRENT_HOST", "").strip()
    if not current and len(names) == 1:
        return names, 0
    if current not in names:
        raise ConfigError(f"{prefix}CURRENT_HOST={current!r} is none of {variable}: {', '.join(names)}")
    return names, names.index(current)


def _of_ti_one(given: Mapping[str, str]) -> Tuple[Tuple[str, ...], int]:
    """`NODE_LIST=host:gpus,host:gpus` and INDEX."""
    names = _distinct("NODE_LIST", _node_names(given))
    if not names or not all(names):
        raise ConfigError(f"NODE_LIST={given['NODE_LIST']!r:.200} names no hosts", hint="host:gpus,host:gpus is wanted")
    index = given.get("INDEX", "").strip()
    if not index and len(names) == 1:
        return names, 0
    if not index.isdecimal() or int(index) >= len(names):
        raise ConfigError(f"INDEX={index!r} is no place in NODE_LIST, which names {len(names)} hosts", hint="0 is the first one")
    return names, int(index)


def _node_names(given: Mapping[str, str]) -> Tuple[str, ...]:
    words = [word.strip() for word in given.get("NODE_LIST", "").split(",") if word.strip()]
    return tuple(_GPUS.sub("", word) for word in words)


def _distinct(variable: str, names: Sequence[str]) -> Tuple[str, ...]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{variable} names {twice!r} twice")
    return tuple(names)


def _port(given: Mapping[str, str]) -> int:
    for variable in (PORT_VARIABLE, "MASTER_PORT"):
        text = given.get(variable, "").strip()
        if text:
            if not text.isdecimal() or not 0 < int(text) < 65535:
                raise ConfigError(f"{variable}={text!r} is no port", hint="a number from 1 to 65534: the next one is used too")
            return int(text)
    return PORT


def is_rank(environ: Optional[Mapping[str, str]] = None) -> bool:
    """Whether this process is one that a launcher such as torchrun has started, and not the launcher.

    RANK says so, except on TI-ONE, which sets it, to the number of the host, for the program that is to launch: a process that was
    launched there has LOCAL_RANK too.
    """
    given = os.environ if environ is None else environ
    if given.get("RANK", "").strip() in ("", "-1"):
        return False
    return bool(given.get("LOCAL_RANK", "").strip()) or not given.get("NODE_LIST")


def seconds_of(variable: str) -> float:
    """How long to wait, as a variable says; `PATIENCE_SECONDS` without it.

    Raises:
        ConfigError: It is no number of seconds.
    """
    text = os.environ.get(variable, "").strip()
    try:
        seconds = float(text or PATIENCE_SECONDS)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise ConfigError(f"{variable}={text!r} is not a number of seconds")
    return seconds


def addresses(name: str) -> Tuple[str, ...]:
    """What a name resolves to; empty when it does not."""
    try:
        return tuple(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)))
    except (OSError, UnicodeError):
        return ()


def wait_for_names(layout: Layout, seconds: Optional[float] = None, *, check: Callable[[], None] = lambda: None) -> None:
    """Wait until each host's name can be resolved: a platform publishes it when that host has started.

    Args:
        layout: The hosts.
        seconds: At most; the variable `YMIR_EXC_NAMES_SECONDS`, else 600.
        check: Called now and then; what it raises ends the wait.

    Raises:
        NetworkError: The time is over; the message names the hosts.
    """
    limit = seconds_of(NAMES_VARIABLE) if seconds is None else seconds
    start = told = time.monotonic()
    pause = 0.1
    missing = [layout.master, *layout.hosts[1:]]
    while True:
        check()
        missing = [name for name in missing if not addresses(name)]
        now = time.monotonic()
        if not missing:
            return
        if now - start >= limit:
            raise NetworkError(f"{', '.join(missing)} cannot be resolved, after {now - start:.0f} s",
                               hint=f"has every host of the job started? {NAMES_VARIABLE} says how many seconds to wait")
        if now - told >= TOLD_SECONDS:
            told = now
            _log.info("waiting for the name of %s, %.0f of %.0f s", ", ".join(missing), now - start, limit)
        time.sleep(min(pause, max(0.0, start + limit - now)))
        pause = min(pause * 1.5, 2.0)


def socket_variables(layout: Layout, environ: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """The variables that keep NCCL and gloo on the network between the hosts; those that the user has set are left out.

    One host talks to itself by loopback. With several it is the interface that the platform names, if there is such a one that others can
    reach; else the one that has this host's address; else the choice is left to NCCL and gloo.
    """
    given = os.environ if environ is None else environ
    if len(layout.hosts) == 1:
        return {} if given.get("GLOO_SOCKET_IFNAME") else {"GLOO_SOCKET_IFNAME": "lo"}
    interface = interface_of(layout)
    return {name: interface for name in _SOCKET_VARIABLES if interface and not given.get(name)}


def interface_of(layout: Layout) -> Optional[str]:
    """The interface for several hosts; None when nothing tells which."""
    known = {name for _, name in socket.if_nameindex()}
    by_address, wanted = _by_address(layout), layout.interface
    if wanted is None or wanted == by_address:
        return by_address
    if wanted in known and wanted != "lo":
        return wanted
    why = f"is loopback, which {len(layout.hosts)} hosts cannot share" if wanted in known else f"is none of {', '.join(sorted(known))}"
    _log.warning("the network interface %s %s; %s", wanted, why, f"{by_address} has the address of {layout.current} and is taken"
                 if by_address else "NCCL and gloo are left to choose")
    return by_address


def _by_address(layout: Layout) -> Optional[str]:
    """The interface with this host's address, or loopback where all hosts are this machine."""
    own = set(addresses(layout.current))
    real = next((name for name, address in _interface_addresses() if address in own and not _is_loopback(address)), None)
    if real is None and all(_is_loopback(address) for name in layout.hosts for address in addresses(name) or ("0.0.0.0",)):    # noqa: S104
        return "lo"
    return real


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _interface_addresses() -> List[Tuple[str, str]]:
    """Interface and address, of all of this machine."""
    found: List[Tuple[str, str]] = []
    buffer = array.array("B", bytes(256 * _ENTRY_BYTES))
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        filled = struct.unpack("iL", fcntl.ioctl(asked, _SIOCGIFCONF, struct.pack("iL", len(buffer), buffer.buffer_info()[0])))[0]
        data = buffer.tobytes()[:filled]
        for entry in (data[start:start + _ENTRY_BYTES] for start in range(0, filled, _ENTRY_BYTES)):
            name = entry[:_NAME_BYTES].partition(b"\0")[0].decode("ascii", "replace").partition(":")[0]
            found.append((name, socket.inet_ntoa(entry[_NAME_BYTES + 4:_NAME_BYTES + 8])))
    with contextlib.suppress(OSError), open("/proc/net/if_inet6", encoding="ascii") as f:
        for line in f:
            words = line.split()
            found.append((words[5], socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0]))))
    return found
