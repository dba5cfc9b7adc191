"""What jobs raise; both are a `ValueError` too, which callers of the original SDK catch."""
from __future__ import annotations

from typing import Mapping, Optional, Tuple

from ymir_exc.errors import YmirError


class JobFailedError(YmirError, ValueError):
    """A job ended as Failed.

    Args:
        name: The job.
        status: Its status.
        reason: Its FailureReason.
        exit_codes: Host to exit status; a host that never started has None.
        hint: What to do.
    """

    def __init__(self, name: str, status: str = "Failed", reason: str = "", exit_codes: Optional[Mapping[str, Optional[int]]] = None,
                 *, hint: str = "") -> None:
        codes = ", ".join(f"{host}: {code}" for host, code in (exit_codes or {}).items() if code is not None)
        super().__init__(f"job {name} ended as {status}: {reason or 'no reason given'}" + (f" [exit status {codes}]" if codes else ""),
                         hint=hint)
        self.name, self.status, self.reason, self.exit_codes = name, status, reason, dict(exit_codes or {})

    def __reduce__(self) -> Tuple[object, ...]:
        return (_failed, (self.name, self.status, self.reason, self.exit_codes, self.hint))


def _failed(name: str, status: str, reason: str, codes: Mapping[str, Optional[int]], hint: str) -> JobFailedError:
    return JobFailedError(name, status, reason, codes, hint=hint)


class UnknownJobError(YmirError, ValueError, LookupError):
    """There is no job of this name on this machine."""
