"""The ranks of this host, as a part of a job on several hosts.

torch's launchers would each wait for their own ranks alone: one whose ranks have succeeded waits five minutes for the others whatever
becomes of them, and one whose ranks wait for a lost peer notices nothing. So their two waits are replaced by ones that listen to the board.
"""
from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from types import FrameType
from typing import Any, Iterator, NamedTuple, NoReturn, Optional, Sequence, Tuple

from ymir_exc import hosts
from ymir_exc.errors import classify, exit_status
from ymir_exc.hosts import Layout
from ymir_exc.integrations.torchrun._ending import Closing, seconds_after_failure
from ymir_exc.integrations.torchrun._first import Told, first_of, first_recorded, raise_stopped, records
from ymir_exc.integrations.torchrun._member import JobEnded, Member, as_error
from ymir_exc.integrations.torchrun._protocol import Verdict
from ymir_exc.integrations.torchrun._words import Words
from ymir_exc.supervisor import _processes

_LINE_LENGTH = 1000
"""Of a traceback's lines, which may hold a whole tensor, that much is told to the other hosts."""

_CERTAIN_SECONDS = 1e6
"""How long ago a failure was that no other rank's end explains: before all others."""


class Place(NamedTuple):
    """What is known of the ranks of this host.

    Attributes:
        folder: Where each leaves its failure.
        closing: How they are ended, and who had ended before.
        words: What they wrote to stderr.
    """

    folder: str
    closing: Closing
    words: Words


def run(argv: Sequence[str], config: Any, layout: Layout, place: Place) -> None:
    """As `launch`, once all hosts are here.

    Args:
        argv: The program and its arguments, as torch takes them.
        config: torch's LaunchConfig.
        layout: The hosts.
        place: Of this one.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    member = Member(layout, seconds_after_failure())
    try:
        with _stops_raised():
            member.join()
        os.environ.update(hosts.socket_variables(layout))
        with _stops_raised(), _watched(member, place.closing):
            elastic_launch(config, argv[0])(*argv[1:])
    except SignalException as e:
        _ignore_stops()
        member.tell("stopping", int(e.sigval))
        raise_stopped(e.sigval, records(place.folder))
    except ChildFailedError as e:
        _ignore_stops()
        place.words.settle()
        first, _ = first_of(e.failures, place.folder, place.closing, lambda rank: place.words.of(rank - place.closing.first_rank))
        _conclude(member, first, place.closing)
    except JobEnded:
        _ignore_stops()
        _conclude(member, first_recorded(place.folder, place.closing), place.closing)
    except Exception as e:
        _ignore_stops()
        failure = classify(e)
        member.tell("broken", Verdict("broken", failure.reason, int(failure.code), exit_status(e)))
        raise
    finally:
        _ignore_stops()    # how it ended is known
        member.leave()


def _conclude(member: Member, first: Optional[Told], closing: Closing) -> NoReturn:
    verdict = member.conclude(None if first is None else _report(first, closing))
    raise as_error(verdict) from None


def _report(first: Told, closing: Closing) -> Tuple[Any, ...]:
    """What the board is told: by another clock than this host's, so how long ago it was instead of when."""
    known = closing.time if first.time == math.inf else first.time
    ago = max(0.0, time.time() - known) if known > 0 else _CERTAIN_SECONDS
    return first.rank, int(first.code), first.reason, [line[:_LINE_LENGTH] for line in first.lines], first.status, ago


@contextlib.contextmanager
def _watched(member: Member, closing: Closing) -> Iterator[None]:
    """Give torch's launcher ears: it ends its ranks when another host has failed, and waits for the others only as long as they live."""
    from torch.distributed.elastic.agent.server.api import SimpleElasticAgent, WorkerState
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing.api import SignalException
    agents: Any = LocalElasticAgent
    bases: Any = SimpleElasticAgent
    look, wait = agents._monitor_workers, bases._exit_barrier

    def look_around(agent: Any, group: Any) -> Any:
        closing.first_rank = group.workers[0].global_rank
        result = look(agent, group)
        if result.state == WorkerState.FAILED:
            member.tell("failing")
        elif result.state == WorkerState.HEALTHY:
            member.check(settle=True)
        return result

    def before(context: Any) -> None:
        """Tell the others before ours are ended, which may take seconds."""
        stop = sys.exc_info()[1]
        closing.is_stop = closing.is_stop or (member.verdict is not None and member.verdict.kind == "stopped")
        has_failed = bool(getattr(context, "_failures", None))
        if isinstance(stop, SignalException):
            member.tell("stopping", int(stop.sigval))
        elif has_failed:
            member.tell("failing")
        if has_failed or member.cause is not None or isinstance(stop, SignalException):
            _ignore_stops()    # it is being done

    agents._monitor_workers, bases._exit_barrier, closing.before = look_around, lambda _: member.finish(), before
    try:
        yield
    finally:
        agents._monitor_workers, bases._exit_barrier = look, wait


@contextlib.contextmanager
def _stops_raised() -> Iterator[None]:
    """A request to stop, while torch does not look after it yet."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def stop(number: int, _: Optional[FrameType]) -> None:
        raise SignalException(f"signal {number}", signal.Signals(number))

    for number in _heard():
        signal.signal(number, stop)
    yield


def _ignore_stops() -> None:
    for number in _heard():
        signal.signal(number, _do_nothing)


def _do_nothing(_: int, __: Optional[FrameType]) -> None:
    """Not SIG_IGN, which programs started later would inherit."""


def _heard() -> Tuple[signal.Signals, ...]:
    return tuple(number for number in _processes.STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN)
