"""No platform: the program runs as it is, and its outcome goes to stderr and the exit status alone."""
from __future__ import annotations

from ymir_exc.platforms.base import Outcome, Prepared


class LocalPlatform:
    """What is left when no other platform is detected."""

    name = "local"

    def detect(self) -> bool:
        """Always: this one is asked last."""
        return True

    def prepare(self) -> Prepared:
        """Nothing is read."""
        return Prepared()

    def finish(self, outcome: Outcome) -> None:
        """Nothing is written."""
