"""`ymir-exc run -- PROGRAM ...`: the first process of a container.

    detect the platform -> prepare -> start the program in a session of its own -> pass on its output and our signals
    -> wait for it, and for whatever it left behind -> decide what happened -> tell the platform -> last line, exit status

One thread does all of this but copying the output (`_tee`). It sleeps in a single place, `_attend`, and wakes for a signal, for a child
that ended and for a stream that ended; nothing is done inside a signal handler.

    _run         the lifecycle
    _tee         passes the output on and keeps its end
    _processes   signals as a queue, and the processes below this one
    _cgroup      the kernel's counter of processes killed for want of memory
    _verdict     from how a program ended to what the platform is told
"""
from __future__ import annotations

from typing import Optional, Sequence


def run(argv: Sequence[str], platform: Optional[str] = None, *, grace: Optional[float] = None, before: Sequence[str] = ()) -> int:
    """Run a program as the platform's task, and tell the platform how it ended.

    Takes over the signals and the children of this process, for good: it is the last thing that a process does.

    Args:
        argv: The program and its arguments.
        platform: Name of the platform; detected when None.
        grace: Seconds from a request to stop to SIGKILL; the variable `YMIR_EXC_GRACE`, else 8.
        before: Words that go before the program, be it this one or what the platform names instead: a launcher, say.

    Returns:
        The exit status: the program's own, 128 + n when signal n killed it or stopped us, 126 or 127 when it could not be started, 4 when
        the platform's files are wrong.
    """
    from ymir_exc.supervisor._processes import SignalQueue
    from ymir_exc.supervisor._tee import open_standard_streams
    open_standard_streams()
    with SignalQueue() as signals:    # before anything that takes time: a request to stop that comes now is not to be lost
        from ymir_exc.supervisor._run import Run
        return Run(list(argv), signals, grace, before).run(platform)
