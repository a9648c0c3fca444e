"""A measured share with its interval: the only form in which Hardpoint states a rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hardpoint.core.errors import NothingToTest

_Z95 = 1.959963984540054  # 97.5 % point of the standard normal


@dataclass(frozen=True)
class Rate:
    """A share of ``n`` inputs with its two-sided 95 % Wilson interval.

    The interval says how far the share among all inputs like these may be from the one measured; it says
    nothing about attacks that were not run.

    >>> Rate.of(95, 100)
    Rate(value=0.95, low=0.888..., high=0.978..., n=100)
    >>> print(Rate.of(95, 100))
    95.0 % [88.8, 97.8] of 100
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, count: int, n: int) -> Rate:
        """``count`` of ``n`` (Wilson 1927: the score interval; never empty, never outside [0, 1])."""
        if n < 1:
            raise NothingToTest("a rate of no inputs is undefined", "give at least one input")
        p, z2 = count / n, _Z95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        low = 0.0 if count == 0 else max(0.0, centre - half)
        high = 1.0 if count == n else min(1.0, centre + half)
        return cls(p, low, high, n)

    @property
    def count(self) -> int:
        """How many of the ``n``."""
        return round(self.value * self.n)

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] of {self.n}"

    def describe(self) -> dict[str, Any]:
        """JSON-ready form, the count included."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n, "count": self.count}

    @classmethod
    def read(cls, value: dict[str, Any]) -> Rate:
        """The inverse of ``describe``."""
        return cls(value["value"], value["low"], value["high"], value["n"])
