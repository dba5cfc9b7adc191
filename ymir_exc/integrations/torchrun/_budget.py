"""How long a training may take."""
from __future__ import annotations

import time
from typing import Dict, Mapping

from ymir_exc.integrations.torchrun._ranks import of_rank_0


class Budget:
    """How much of a training is done, by steps or by time, whichever is further along; on each rank the same.

        budget = torchrun.Budget(epochs * len(loader), max_seconds)
        while budget.used < 1:
            ...
            budget.advance()

    Args:
        steps: At most.
        max_seconds: From now on; 0 for as long as the steps take.
    """

    def __init__(self, steps: int, max_seconds: float = 0.0) -> None:
        self.steps = steps
        self.max_seconds = max_seconds
        self.reserve = 0.0
        """Seconds of these that are kept for what follows the last step."""

        self.step = 0
        self.used = 0.0
        """0 at the start, 1 at the end."""

        self.restart()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def restart(self, seconds: float = 0.0) -> None:
        """Let the time begin now, or so many seconds ago."""
        self._started = time.monotonic() - seconds

    def advance(self) -> None:
        """A step is done. All ranks of a `process_group` have to say so equally often."""
        self.step += 1
        by_time = self.seconds / max(self.max_seconds - self.reserve, 1e-3) if self.max_seconds else 0.0
        self.used = of_rank_0(min(1.0, max(self.used, self.step / max(self.steps, 1), by_time)))

    def state_dict(self) -> Dict[str, float]:
        """What `load_state_dict` takes, when a training goes on."""
        return {"step": self.step, "used": self.used, "seconds": self.seconds, "reserve": self.reserve}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from there."""
        self.step, self.used, self.reserve = int(state["step"]), state["used"], state["reserve"]
        self.restart(state["seconds"])
