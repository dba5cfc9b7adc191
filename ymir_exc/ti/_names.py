"""Names of jobs, hosts and channels."""
from __future__ import annotations

import datetime
import re
from typing import Iterator, Optional

from ymir_exc.errors import ArgumentError

NAME_LIMIT = 60
_LETTERS = "A-Za-z0-9\u4e00-\u9fff"
_NAME = re.compile(f"[{_LETTERS}][{_LETTERS}_-]{{0,{NAME_LIMIT - 1}}}")
_CHANNEL = re.compile(r"\w[\w.-]{0,63}")
_TIME_LENGTH = len("-2026-01-31-23-59-59-999")


def base_of(image: str) -> str:
    """The last part of an image's name, without registry, tag and digest: `r.io:5000/a/net:1@sha256:0f` is `net`."""
    return image.rsplit("/", 1)[-1].partition("@")[0].partition(":")[0]


def job_names(base: str, now: Optional[datetime.datetime] = None) -> Iterator[str]:
    """Names for a new job, each a millisecond later: the next one is for when another job has taken the one before.

    Args:
        base: What they begin with; what no name may hold becomes `-`, and it is cut so that the time is always whole.
        now: UTC; the clock's by default.
    """
    head = re.sub(f"[^{_LETTERS}_-]+", "-", base).lstrip("_-")[:NAME_LIMIT - _TIME_LENGTH].rstrip("_-") or "job"
    moment = now or datetime.datetime.now(datetime.timezone.utc)
    while True:
        yield f"{head}-{moment:%Y-%m-%d-%H-%M-%S}-{moment.microsecond // 1000:03d}"
        moment += datetime.timedelta(milliseconds=1)


def check_job_name(name: str) -> str:
    """A name that was given.

    Raises:
        ArgumentError: No job may have it.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ArgumentError(f"{name!r} cannot be the name of a job",
                            hint=f"letters, digits, '_' and '-', at most {NAME_LIMIT}, with a letter or a digit first")
    return name


def check_channel(name: object) -> str:
    """The name of an input channel, which becomes a folder's.

    Raises:
        ArgumentError: It cannot.
    """
    if not isinstance(name, str) or not _CHANNEL.fullmatch(name):
        raise ArgumentError(f"{name!r} cannot be the name of a channel", hint="letters, digits, '_', '-' and '.', with a letter first")
    return name
