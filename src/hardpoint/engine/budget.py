"""How much an assessment may spend."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from hardpoint.core.errors import ThreatError


@dataclass(frozen=True)
class Budget:
    """Limits on what attacks may spend; None is no limit.

    Args:
        passes: forward plus backward passes per input, over all stages.
        queries: queries per input, over all stages, for black-box threats.
        seconds: wall time of the whole assessment.

    >>> Budget(passes=400)
    Budget(passes=400, queries=None, seconds=None)
    """

    passes: int | None = None
    queries: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("passes", "queries", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ThreatError(f"the budget of {name} is {value}", "give a number above 0, or None")

    def describe(self) -> dict[str, float | None]:
        """JSON-ready form."""
        return {"passes": self.passes, "queries": self.queries, "seconds": self.seconds}


@dataclass(frozen=True)
class Deadline:
    """A moment in wall time, or never; wall time means the same in every worker."""

    at: float | None = field(default=None)

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """The deadline ``seconds`` from now."""
        return cls(None if seconds is None else time.time() + seconds)

    @property
    def passed(self) -> bool:
        return self.at is not None and time.time() >= self.at

    @property
    def remaining(self) -> float | None:
        """Seconds left, never below 0; None is no limit."""
        return None if self.at is None else max(0.0, self.at - time.time())
