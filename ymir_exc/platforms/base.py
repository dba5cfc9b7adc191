"""The one protocol between the supervisor and a platform.

A platform translates its own files to the contract on disk before the program starts, and the outcome back after it ended; the
program itself never learns where it runs.
"""
from __future__ import annotations

import time
from types import MappingProxyType
from typing import Mapping, NamedTuple, Optional, Protocol, Tuple

from ymir_exc.errors import Failure

SUPERVISED_VARIABLE = "YMIR_EXC_SUPERVISED"
"""Set for the program: the supervisor sees its last words and says the final one."""


class Prepared(NamedTuple):
    """What the supervisor needs to know of a task before it starts the program.

    Attributes:
        env_file: The env.yaml that the program will read; None where there is no task.
        variables: Environment variables to set for the program.
        monitor_file: Where progress and the reason of a failure belong; None for nowhere.
        task_id: The first column of the monitor file.
        folders: Where the program writes; temporary files of killed writers are swept from there at the end.
        argv: The program to start instead of the one that was given; None to start that.
        arguments: What is appended to either.
        setup: Words that go before all others, a launcher's too: what is done once, and then becomes the rest.
        cwd: The program's working directory; None for the supervisor's.
        warnings: What the user is to hear of, a line each.
    """

    env_file: Optional[str] = None
    variables: Mapping[str, str] = MappingProxyType({})
    monitor_file: Optional[str] = None
    task_id: str = ""
    folders: Tuple[str, ...] = ()
    argv: Optional[Tuple[str, ...]] = None
    arguments: Tuple[str, ...] = ()
    setup: Tuple[str, ...] = ()
    cwd: Optional[str] = None
    warnings: Tuple[str, ...] = ()


class Outcome(NamedTuple):
    """How the task ended.

    Attributes:
        status: The exit status that the supervisor will end with.
        failure: The platform's code and the reason; None when the task succeeded.
        lines: The traceback or the last output.
        recorded: The program itself left its final word in the monitor file, and that is to stay.
        stopped: It was asked to stop while it ran and had not failed before.
    """

    status: int
    failure: Optional[Failure] = None
    lines: Tuple[str, ...] = ()
    recorded: bool = False
    stopped: bool = False


class Platform(Protocol):
    """One container contract. An object serves one run; `finish` is called after a failed `prepare` too."""

    name: str

    def detect(self) -> bool:
        """Whether this process was started by this platform. Reads as little as possible, changes nothing."""

    def prepare(self) -> Prepared:
        """Check the platform's files and make the program's env.yaml and config.yaml available.

        Raises:
            YmirError: They are missing or wrong; the program is not started.
        """

    def finish(self, outcome: Outcome) -> None:
        """Tell the platform how the task ended.

        Raises:
            YmirError: That could not be written; the exit status stands nevertheless.
        """


def write_final(monitor_file: str, task_id: str, outcome: Outcome) -> None:
    """Leave the outcome in a monitor file: all done, or state 4 with the reason. What the program itself recorded stays.

    Raises:
        StorageError: It could not be written.
    """
    from ymir_exc import monitor
    if outcome.recorded:
        return
    if outcome.failure is not None:
        monitor.write_failure(monitor_file, task_id, outcome.failure, outcome.lines)
    else:
        monitor.write_record(monitor_file, monitor.Record(task_id, time.time(), 1.0))
