"""How the launchers of a job meet and what they hear of each other: threads in their place, real connections."""
from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integrations.several import layouts
from tests.supervised import wait_for
from ymir_exc import errors, hosts
from ymir_exc.integrations.torchrun import _board, _member, _protocol, _several
from ymir_exc.integrations.torchrun._first import Told
from ymir_exc.integrations.torchrun._member import JobEnded, Member, as_error

KILL = 1.0
LOST_PEER = "RuntimeError: [gloo] Connection closed by peer"
LOST = "is lost: its launcher was killed, or its container or machine or network failed"


def report(rank, reason, ago, code=160004, status=1):
    return rank, code, reason, [reason], status, ago


@pytest.fixture
def together():
    """Makes the members of a job, joined or about to."""
    made = []
    with ThreadPoolExecutor(16) as pool:
        def make(count=2, join=True):
            members = [Member(layout, KILL) for layout in layouts(count)]
            made.extend(members)
            if join:
                for done in [pool.submit(member.join) for member in members]:
                    done.result(60)
            return members
        make.pool = pool
        yield make
        for member in made[::-1]:
            member._take("ending", "the test is over")
            member.leave()


def ended(member):
    def look():
        try:
            member.check()
        except JobEnded as e:
            return str(e)
        return ""
    return wait_for(look)


def test_all_are_here_and_all_are_done(together):
    members = together(3)
    finishing = [together.pool.submit(member.finish) for member in members[:2]]
    time.sleep(0.3)
    assert not any(done.done() for done in finishing)    # they wait for the third
    members[2].finish()
    for done in finishing:
        done.result(60)


def test_the_first_failure_is_everyone_s(together):
    members = together(3)
    members[1].tell("failing")
    assert [ended(member) for member in members] == ["a rank on 127.0.0.2 failed"] * 3
    reports = [report(0, LOST_PEER, 100.0), report(1, "ValueError: 5", 2.0, 300103, 7), report(2, "KeyError: 1", 1.0)]
    told = list(together.pool.map(Member.conclude, members, reports))
    assert told == [("failed", "rank 1 on 127.0.0.2: ValueError: 5", 300103, 7, ["ValueError: 5"])] * 3
    error = as_error(told[0])
    assert isinstance(error, errors.ProgramError)
    assert errors.classify(error) == (300103, "rank 1 on 127.0.0.2: ValueError: 5")
    assert errors.exit_status(error) == 7


def test_who_had_no_failure_hears_of_it_too(together):
    members = together(2)
    told = list(together.pool.map(Member.conclude, members, [None, report(1, LOST_PEER, 1.0)]))
    assert [verdict.text for verdict in told] == [f"rank 1 on 127.0.0.2: {LOST_PEER}"] * 2


def test_a_failure_after_others_are_done(together):
    members = together(2)
    finishing = together.pool.submit(members[0].finish)
    members[1].tell("failing")
    with pytest.raises(JobEnded):
        finishing.result(60)
    told = list(together.pool.map(Member.conclude, members, [None, report(1, "ValueError: 5", 0.1)]))
    assert [verdict.text for verdict in told] == ["rank 1 on 127.0.0.2: ValueError: 5"] * 2


def test_one_that_says_nothing_is_not_waited_for_long(together):
    members = together(2)
    members[1].tell("failing")
    ended(members[0])
    assert members[0].conclude(None).text == "a rank on 127.0.0.2 failed"


@pytest.mark.parametrize(("gone", "left"), [(0, [1, 2]), (1, [0, 2])])
def test_a_launcher_that_vanishes_is_named(together, gone, left):
    members = together(3)
    if gone == 0:
        members[0]._board.leave_at = 0.0    # the thread ends without a word
    members[gone].leave()
    reports = [report(rank, "RuntimeError: what nobody knows", 0.5) if gone else None for rank in left]
    texts = [ended(members[rank]) for rank in left]
    told = list(together.pool.map(Member.conclude, [members[rank] for rank in left], reports))
    assert [verdict.text for verdict in told] == [f"{hosts_name(gone)} {LOST}"] * 2
    assert all(hosts_name(gone) in text for text in texts)
    assert errors.classify(as_error(told[0])).code == 300301


def hosts_name(rank):
    return ("localhost", "127.0.0.2", "127.0.0.3")[rank]


def test_a_failure_long_before_a_loss_is_the_reason(together):
    members = together(3)
    members[2].leave()
    ended(members[0])
    told = list(together.pool.map(Member.conclude, members[:2], [None, report(1, "ValueError: 5", 60.0)]))
    assert [verdict.text for verdict in told] == ["rank 1 on 127.0.0.2: ValueError: 5"] * 2


def test_a_host_that_falls_silent_is_lost(together, monkeypatch):
    monkeypatch.setattr(_board, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(_member, "BEAT_SECONDS", 0.2)
    members = together(2, join=False)
    joining = together.pool.submit(members[0].join)
    wait_for(lambda: members[0]._board is not None)
    with socket.create_connection(("127.0.0.1", members[1].layout.port + 1), 60) as silent:
        connection = _protocol.Connection(silent)
        connection.send("hello", {"token": _protocol.token_of(members[1].layout), "rank": 1})
        connection.send("ready")
        joining.result(60)
        assert ended(members[0]) == "127.0.0.2 is lost"


def test_a_board_that_falls_silent_is_lost(together, monkeypatch):
    monkeypatch.setattr(_member, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(_member, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(_board, "BEAT_SECONDS", 600.0)
    members = together(2)
    assert ended(members[1]) == f"localhost {LOST}"


def test_a_stop_is_everyone_s(together):
    members = together(2)
    members[1].tell("stopping", 15)
    assert ended(members[0]) == "stopped by SIGTERM on 127.0.0.2"
    error = as_error(members[0].conclude(report(0, "ValueError: 5", 60.0)))
    assert isinstance(error, errors.Stopped)
    assert errors.exit_status(error) == 143


def test_what_keeps_a_host_from_beginning_is_told(together):
    members = together(2)
    members[1].tell("broken", _protocol.Verdict("broken", "no such program", 160004, 1))
    assert ended(members[0]) == "127.0.0.2: no such program"
    assert isinstance(as_error(members[0].conclude(None)), errors.ProgramError)


# --------------------------------------------------------------------------------------------------------------------------- joining

def test_a_late_host_is_waited_for(together, monkeypatch, caplog):
    monkeypatch.setattr(_board, "TOLD_SECONDS", 0.3)
    caplog.set_level("INFO")
    members = together(2, join=False)
    joining = together.pool.submit(members[0].join)
    wait_for(lambda: "waiting for 127.0.0.2" in caplog.text)
    assert not joining.done()
    members[1].join()
    joining.result(60)


def test_a_late_first_host_is_waited_for(together, monkeypatch, caplog):
    monkeypatch.setattr(hosts, "TOLD_SECONDS", 0.3)
    caplog.set_level("INFO")
    members = together(2, join=False)
    joining = together.pool.submit(members[1].join)
    wait_for(lambda: f"waiting for localhost, port {members[1].layout.port + 1}, 0 of 600 s" in caplog.text)
    members[0].join()
    joining.result(60)


def test_a_host_that_never_comes_is_named_on_all(together, monkeypatch):
    monkeypatch.setenv("YMIR_EXC_JOIN_SECONDS", "1")
    members = together(3, join=False)
    joining = [together.pool.submit(member.join) for member in members[:2]]
    for member, done in zip(members, joining):
        with pytest.raises(JobEnded):
            done.result(60)
        error = as_error(member.conclude(None))
        assert isinstance(error, errors.NetworkError)
        assert str(error).startswith("127.0.0.3 did not come, after 1 s (")
        assert "YMIR_EXC_JOIN_SECONDS" in str(error)


def test_a_first_host_that_never_comes(together, monkeypatch):
    monkeypatch.setenv("YMIR_EXC_JOIN_SECONDS", "1")
    members = together(2, join=False)
    words = r"localhost, port \d+, did not answer for 1 s: Connection refused \(.*YMIR_EXC_JOIN_SECONDS"
    with pytest.raises(errors.NetworkError, match=words):
        members[1].join()


def test_a_busy_port_is_told_at_once_on_all(together):
    members = together(2, join=False)
    port = members[0].layout.port
    with socket.create_server(("", port)):
        early = together.pool.submit(members[1].join)
        with pytest.raises(errors.NetworkError, match=rf"port {port} of this host.*Address already in use.*YMIR_EXC_MASTER_PORT"):
            members[0].join()
        with pytest.raises(JobEnded, match=rf"port {port} of this host|port {port}"):
            early.result(60)
        assert isinstance(as_error(members[1].conclude(None)), errors.NetworkError)


def test_another_program_at_our_own_port(together, monkeypatch):
    monkeypatch.setattr(_member, "_FOREIGN_SECONDS", 1.0)
    monkeypatch.setattr(_member, "_CONNECT_SECONDS", 0.5)
    members = together(2, join=False)
    with socket.create_server(("", members[0].layout.port + 1)):
        with pytest.raises(errors.NetworkError, match=f"port {members[0].layout.port + 1} of this host"):
            members[0].join()
        words = r"not answered by the launcher of this job: it says nothing \(.*YMIR_EXC_MASTER_PORT"
        with pytest.raises(errors.NetworkError, match=words):
            members[1].join()


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"[1]\n", b""])
def test_one_that_speaks_another_language(together, monkeypatch, words):
    monkeypatch.setattr(_member, "_FOREIGN_SECONDS", 0.5)
    members = together(2, join=False)
    with socket.create_server(("", members[1].layout.port + 1)) as server:
        def answer():
            while True:
                try:
                    stream, _ = server.accept()
                except OSError:
                    return
                with stream:
                    stream.recv(1000)
                    stream.sendall(words)
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(errors.NetworkError, match="it does not answer as one"):
            members[1].join()
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_two_jobs_and_two_hosts_of_one_name_do_not_mix(together, monkeypatch):
    monkeypatch.setattr(_member, "_FOREIGN_SECONDS", 0.5)
    members = together(2)
    for layout, words in ((members[1].layout, "127.0.0.2 is there already"),
                          (members[1].layout._replace(hosts=("localhost", "127.0.0.9"), rank=1), "it serves another job")):
        with pytest.raises(errors.NetworkError, match=words):
            Member(layout, KILL).join()
    assert all(member.cause is None for member in members)


def test_strangers_do_no_harm(together):
    members = together(2, join=False)
    joining = together.pool.submit(members[0].join)
    wait_for(lambda: members[0]._board is not None)
    for words in (b"GET / HTTP/1.0\r\n\r\n", b'{"failing": null}\n', b'{"hello": 5}\n', b'{"hello": {"token": 1, "rank": 7}}\n', b"\xff\n",
                  b'{"a": 1, "b": 2}\n', b"x" * (3 << 20)):
        with socket.create_connection(("127.0.0.1", members[0].layout.port + 1), 60) as stream:
            try:
                stream.sendall(words)
            except OSError:
                pass
    members[1].join()
    joining.result(60)
    assert all(member.cause is None for member in members)


@pytest.mark.parametrize("words", [
    b"[" * 60_000 + b"\n", b"[" * 2_000 + b"\n", b"x" * 5_000, b'{"hello": {"token": 1, "rank": 1e999}}\n',
    b'{"hello": {"token": 1, "rank": "' + b"9" * 5_000 + b'"}}\n'])
def test_words_that_no_parser_takes_do_not_end_the_board(together, monkeypatch, words):
    monkeypatch.setenv("YMIR_EXC_JOIN_SECONDS", "5")
    members = together(2, join=False)
    joining = together.pool.submit(members[0].join)
    wait_for(lambda: members[0]._board is not None)
    with socket.create_connection(("127.0.0.1", members[0].layout.port + 1), 60) as stream:
        stream.sendall(words)
        stream.settimeout(30)
        try:
            assert stream.recv(1000) == b""    # it is sent away
        except ConnectionResetError:
            pass
    members[1].join()
    joining.result(60)


def test_who_does_not_introduce_himself_is_sent_away(together, monkeypatch):
    """However much he has to say otherwise."""
    monkeypatch.setattr(_board, "SILENCE_SECONDS", 3.0)
    monkeypatch.setattr(_member, "BEAT_SECONDS", 0.2)
    members = together(2, join=False)
    joining = together.pool.submit(members[0].join)
    wait_for(lambda: members[0]._board is not None)

    def is_gone():
        try:
            stream.sendall(b'{"beat": null}\n')
        except OSError:
            return True
        time.sleep(0.1)
        return False

    with socket.create_connection(("127.0.0.1", members[0].layout.port + 1), 60) as stream:
        wait_for(is_gone)
    members[1].join()
    joining.result(60)


def test_a_report_of_long_lines_arrives(together):
    members = together(2)
    members[1].tell("failing")
    first = Told(1, 160004, "ValueError: long", ["长" * 400_000] * 90, time.time(), 1)
    mine = _several._report(first, _several.Closing(None))
    told = list(together.pool.map(Member.conclude, members, [None, mine]))
    assert [verdict.text for verdict in told] == ["rank 1 on 127.0.0.2: ValueError: long"] * 2
    assert told[0].lines[0].startswith("长长")


def test_nobody_begins_before_all_know_all_names(together, monkeypatch):
    """torch's launchers wait for each other a minute only; a name may take ten."""
    members = together(2, join=False)
    known = threading.Event()

    def slow(layout, seconds=None, *, check=lambda: None):
        while layout.rank == 1 and not known.wait(0.05):
            check()

    monkeypatch.setattr(hosts, "wait_for_names", slow)
    joining = [together.pool.submit(member.join) for member in members]
    wait_for(lambda: members[0]._board is not None and len(members[0]._board.guests) == 2)
    time.sleep(0.3)
    assert not any(done.done() for done in joining)
    known.set()
    for done in joining:
        done.result(60)


def test_a_name_that_is_lost_again_is_told_in_words(together, monkeypatch):
    monkeypatch.setenv("YMIR_EXC_JOIN_SECONDS", "0")
    members = together(2, join=False)

    def unknown(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    with pytest.raises(errors.NetworkError, match=r"did not answer for 0 s: Name or service not known"):
        members[1].join()


def test_a_name_that_nobody_knows_is_told_on_all(together, monkeypatch):
    monkeypatch.setenv("YMIR_EXC_NAMES_SECONDS", "1")
    members = [Member(member.layout._replace(hosts=("localhost", "127.0.0.2", "no-such-host.invalid")), KILL)
               for member in together(3, join=False)[:2]]
    for done in [together.pool.submit(member.join) for member in members]:
        with pytest.raises(errors.NetworkError, match=r"no-such-host.invalid cannot be resolved, after \d s"):
            done.result(60)
    for member in members[::-1]:
        member.leave()
