"""What the runner makes of what the engine tells."""
from __future__ import annotations

import json

import pytest

from ymir_exc.host.engine import Engine
from ymir_exc.ti import _runner
from ymir_exc.ti._runner import End


@pytest.mark.parametrize("reason,is_one", [
    ("RuntimeError: [gloo/pair.cc:525] Connection closed by peer [10.0.0.1]:1", True),
    ("160004 RC_CMD_CONTAINER_ERROR: rank 1: RuntimeError: Connection reset by peer\nTraceback", True),
    ("160004 RC_CMD_CONTAINER_ERROR: rank 1 on algo-2: RuntimeError: Connection reset by peer", True),
    ("host algo-1 ended with status 1: RuntimeError: Connection refused", True),
    ("host algo-1 ended with status 1: ValueError: the learning rate is too large", False),
    ("ValueError: too large\nRuntimeError: Connection closed by peer", False), ("", False)])
def test_a_complaint_about_a_lost_peer(reason, is_one):
    assert _runner.says_lost_peer(reason) is is_one


@pytest.mark.parametrize("told,end", [
    ({"Running": False, "ExitCode": 7, "OOMKilled": False, "FinishedAt": "2026-01-02T03:04:05.12Z"},
     End(7, False, "2026-01-02T03:04:05.120000000")),
    ({"Running": False, "ExitCode": 137, "OOMKilled": True, "FinishedAt": "2026-01-02T03:04:05+08:00"},
     End(137, True, "2026-01-02T03:04:05.000000000")),
    ({"Running": True, "ExitCode": 0, "OOMKilled": False, "FinishedAt": ""}, End()), ({}, End()), ([], End()), (None, End())])
def test_the_end_of_a_container(tools, told, end):
    tools("docker", f"echo '{json.dumps(told)}'")
    assert _runner.inspect(Engine("docker"), "c") == end


def test_a_container_that_there_is_not(tools):
    tools("docker", "echo 'No such container' >&2; exit 1")
    assert _runner.inspect(Engine("docker"), "c") == End()


@pytest.mark.parametrize("text", [
    "unknown flag: --nonsense\n\nUsage:  docker run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nRun 'docker run --help' for more information\n",
    "unknown flag: --nonsense\nSee 'docker run --help'.\n", "unknown flag: --nonsense\nSee 'podman run --help'"])
def test_the_engines_hint_at_its_help_is_no_reason(text):
    assert _runner._HELP.sub("", text) == "unknown flag: --nonsense"
    assert _runner._HELP.sub("", "See 'x --help'\nthe reason") == "See 'x --help'\nthe reason"
