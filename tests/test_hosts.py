"""The layout of a job, from a platform's variables."""
from __future__ import annotations

import logging
import socket
import threading
import time

import pytest

from ymir_exc import errors, hosts
from ymir_exc.hosts import Layout

THREE = '["algo-10", "algo-2", "algo-1"]'


def toolkit(current="algo-2", names=THREE, prefix="TM_", **more):
    return {f"{prefix}HOSTS": names, f"{prefix}CURRENT_HOST": current, **more}


def test_without_any_variable_there_is_one_host():
    assert hosts.read({}) == Layout(("localhost",), 0, "localhost", hosts.PORT, None)
    assert hosts.read({}).current == "localhost"


@pytest.mark.parametrize("prefix", ["TM_", "SM_"])
def test_the_order_of_the_list_is_kept(prefix):
    layout = hosts.read(toolkit(prefix=prefix, **{f"{prefix}NETWORK_INTERFACE_NAME": "eth0"}))
    assert layout == Layout(("algo-10", "algo-2", "algo-1"), 1, "algo-10", hosts.PORT, "eth0")
    assert layout.current == "algo-2"


def test_which_variables_come_first():
    every = {**toolkit(), **toolkit("b", '["a", "b"]', "SM_"), "NODE_LIST": "x:8,y:8", "INDEX": "0"}
    assert hosts.read(every).hosts == ("algo-10", "algo-2", "algo-1")
    del every["TM_HOSTS"]
    assert hosts.read(every).hosts == ("a", "b")
    del every["SM_HOSTS"]
    assert hosts.read(every).hosts == ("x", "y")


def test_ti_one():
    given = {"NODE_LIST": "ti-0:8,ti-1:8", "INDEX": "1", "MASTER_ADDR": "10.0.0.5", "MASTER_PORT": "23456", "RANK": "1", "WORLD_SIZE": "2"}
    assert hosts.read(given) == Layout(("ti-0", "ti-1"), 1, "10.0.0.5", 23456, None)
    assert hosts.read({"NODE_LIST": "ti-0"}) == Layout(("ti-0",), 0, "ti-0", hosts.PORT, None)


def test_ti_one_s_first_host_goes_by_its_address():
    given = {"NODE_LIST": "ti-0:8,ti-1:8", "INDEX": "1", "MASTER_ADDR": "10.0.0.5"}
    assert hosts.read({**given, **toolkit("ti-1", '["ti-0", "ti-1"]')}).master == "10.0.0.5"    # the variables that were made of these
    assert hosts.read({**given, **toolkit()}).master == "algo-10"
    assert hosts.read(toolkit(MASTER_ADDR="127.0.0.1")).master == "algo-10"


def test_one_host_needs_no_name_and_no_port():
    assert hosts.read({"TM_HOSTS": '["algo-1"]', "MASTER_PORT": "nonsense"}) == Layout(("algo-1",), 0, "algo-1", hosts.PORT, None)


@pytest.mark.parametrize(("given", "words"), [
    (toolkit(names="algo-1"), "TM_HOSTS='algo-1' is no list"), (toolkit(names="[]"), "TM_HOSTS"), (toolkit(names='["a", 1]'), "TM_HOSTS"),
    (toolkit(names='["a", " "]'), "TM_HOSTS"), (toolkit(names='["a", "a"]'), "TM_HOSTS names 'a' twice"),
    (toolkit("algo-3"), "TM_CURRENT_HOST='algo-3' is none of TM_HOSTS: algo-10, algo-2, algo-1"), (toolkit(""), "TM_CURRENT_HOST"),
    (toolkit("x", prefix="SM_"), "SM_CURRENT_HOST"),
    (toolkit(MASTER_PORT="0"), "MASTER_PORT='0'"), (toolkit(YMIR_EXC_MASTER_PORT="65535"), "YMIR_EXC_MASTER_PORT='65535' is no port"),
    (toolkit(MASTER_PORT="http"), "MASTER_PORT='http'"),
    ({"NODE_LIST": "a:1,b:1"}, "INDEX='' is no place"), ({"NODE_LIST": "a:1,b:1", "INDEX": "2"}, "INDEX='2'"),
    ({"NODE_LIST": "a:1,a:1", "INDEX": "0"}, "NODE_LIST names 'a' twice"), ({"NODE_LIST": ",", "INDEX": "0"}, "NODE_LIST=','"),
    ({"NODE_LIST": ":8,b:8", "INDEX": "0"}, "NODE_LIST"),
])
def test_a_wrong_variable_is_named(given, words):
    with pytest.raises(errors.ConfigError) as caught:
        hosts.read(given)
    assert words in str(caught.value)


@pytest.mark.parametrize("given", [{"NODE_LIST": "a,b", "INDEX": "²"}, {"NODE_LIST": "a,b", "INDEX": "0", "MASTER_PORT": "²"}])
def test_a_digit_that_is_no_number(given):
    with pytest.raises(errors.ConfigError, match=r"='²' is no"):
        hosts.read(given)


def test_our_own_port_comes_before_the_platform_s():
    assert hosts.read(toolkit(MASTER_PORT="23456")).port == 23456
    assert hosts.read(toolkit(MASTER_PORT="23456", YMIR_EXC_MASTER_PORT="1234")).port == 1234


@pytest.mark.parametrize(("given", "is_rank"), [
    ({}, False), ({"RANK": "0"}, True), ({"RANK": "-1"}, False), ({"RANK": " "}, False), ({"RANK": "3", "LOCAL_RANK": "1"}, True),
    ({"RANK": "1", "NODE_LIST": "a:8,b:8", "INDEX": "1"}, False),    # TI-ONE's launcher
    ({"RANK": "9", "LOCAL_RANK": "1", "NODE_LIST": "a:8,b:8", "INDEX": "1"}, True)])
def test_who_is_a_rank(given, is_rank, monkeypatch):
    assert hosts.is_rank(given) is is_rank
    for name in ("RANK", "LOCAL_RANK", "NODE_LIST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert hosts.is_rank() is is_rank


# ----------------------------------------------------------------------------------------------------------------------------- names

def of(*names, rank=0, **more):
    return Layout(names, rank, names[0], **more)


def test_names_that_are_known_are_not_waited_for():
    hosts.wait_for_names(of("localhost", "127.0.0.2"), 0)


def test_the_host_that_cannot_be_resolved_is_named(monkeypatch, caplog):
    monkeypatch.setattr(hosts, "TOLD_SECONDS", 0.3)
    monkeypatch.setenv("YMIR_EXC_NAMES_SECONDS", "1")
    with caplog.at_level(logging.INFO), pytest.raises(errors.NetworkError) as caught:
        hosts.wait_for_names(of("localhost", "no-such-host.invalid"))
    assert str(caught.value).startswith("no-such-host.invalid cannot be resolved, after 1 s (")
    assert "YMIR_EXC_NAMES_SECONDS" in str(caught.value)
    assert "waiting for the name of no-such-host.invalid, 0 of 1 s" in caplog.text


def test_a_name_that_appears_late(monkeypatch):
    known, real = threading.Event(), socket.getaddrinfo
    def resolve(name, *args, **kwargs):
        if name == "late" and not known.is_set():
            raise socket.gaierror(-2, "Name or service not known")
        return real("localhost", *args, **kwargs)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    threading.Timer(0.5, known.set).start()
    begun = time.monotonic()
    hosts.wait_for_names(of("localhost", "late"), 60)
    assert time.monotonic() - begun >= 0.4


def test_a_wait_can_be_ended():
    def check():
        raise KeyError
    with pytest.raises(KeyError):
        hosts.wait_for_names(of("no-such-host.invalid"), 60, check=check)


@pytest.mark.parametrize("value", ["soon", "-1", "nan"])
def test_a_deadline_that_is_none(monkeypatch, value):
    monkeypatch.setenv("YMIR_EXC_JOIN_SECONDS", value)
    with pytest.raises(errors.ConfigError, match="YMIR_EXC_JOIN_SECONDS"):
        hosts.seconds_of("YMIR_EXC_JOIN_SECONDS")


# ------------------------------------------------------------------------------------------------------------------------- interface

@pytest.fixture
def network(monkeypatch):
    """Two interfaces, on the second of which this host has the address that its name stands for."""
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0"), (3, "eth1")])
    monkeypatch.setattr(hosts, "_interface_addresses", lambda: [("lo", "127.0.0.1"), ("eth0", "10.0.0.1"), ("eth1", "10.1.0.1")])
    known = {"a": ("127.0.1.1", "10.1.0.1"), "b": ("10.1.0.2",), "elsewhere": ("10.9.0.1",), "me": ("127.0.0.1",), "too": ("127.0.0.2",)}
    monkeypatch.setattr(hosts, "addresses", lambda name: known.get(name, ()))


@pytest.mark.parametrize(("layout", "variables", "warning"), [
    (of("a"), {"GLOO_SOCKET_IFNAME": "lo"}, ""), (of("a", interface="eth0"), {"GLOO_SOCKET_IFNAME": "lo"}, ""),
    (of("a", "b"), "eth1", ""), (of("a", "b", interface="eth0"), "eth0", ""), (of("a", "b", interface="eth1"), "eth1", ""),
    (of("a", "b", interface="ethwe"), "eth1", "ethwe is none of eth0, eth1, lo; eth1 has the address of a and is taken"),
    (of("elsewhere", "b", interface="ethwe"), {}, "ethwe is none of eth0, eth1, lo; NCCL and gloo are left to choose"),
    (of("a", "b", interface="lo"), "eth1", "lo is loopback, which 2 hosts cannot share"),
    (of("elsewhere", "b"), {}, ""), (of("me", "b"), {}, ""), (of("me", "too"), "lo", ""), (of("me", "too", interface="lo"), "lo", "")])
def test_the_interface(network, caplog, layout, variables, warning):
    if isinstance(variables, str):
        variables = dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), variables)
    assert hosts.socket_variables(layout, {}) == variables
    assert warning in caplog.text
    assert bool(warning) == bool(caplog.text)


def test_what_the_user_has_set_stays(network):
    assert hosts.socket_variables(of("a"), {"GLOO_SOCKET_IFNAME": "x"}) == {}
    assert hosts.socket_variables(of("a", "b"), {"GLOO_SOCKET_IFNAME": "x"}) == {"NCCL_SOCKET_IFNAME": "eth1"}


def test_the_addresses_of_this_machine():
    assert ("lo", "127.0.0.1") in hosts._interface_addresses()
    assert hosts.addresses("127.0.0.1") == ("127.0.0.1",)
    assert hosts.addresses("no-such-host.invalid") == ()
