"""Rates with exact intervals: false alarms are rare, where approximate intervals are too short."""

from __future__ import annotations

from hardpoint.core.errors import NothingToTest
from hardpoint.evidence.rate import Rate


def exact_rate(count: int, n: int, confidence: float = 0.95) -> Rate:
    """``count`` of ``n`` with its two-sided Clopper–Pearson interval (Biometrika 1934), which covers at least as often
    as it says at every true rate and every ``n``.

    >>> exact_rate(0, 100)
    Rate(value=0.0, low=0.0, high=0.036..., n=100)
    """
    from scipy.special import betaincinv

    if n < 1:
        raise NothingToTest("a rate of no inputs is undefined", "give at least one input")
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if count == 0 else float(betaincinv(count, n - count + 1, tail))
    high = 1.0 if count == n else float(betaincinv(count + 1, n - count, 1.0 - tail))
    return Rate(count / n, low, high, n)
