"""Robust accuracy against queries."""

from __future__ import annotations

import math

import numpy as np

from hardpoint.assess.work import Table
from hardpoint.evidence.assessment import CurvePoint, Status
from hardpoint.evidence.rate import Rate


def query_curve(table: Table, budget: int) -> tuple[CurvePoint, ...]:
    """Robust accuracy against queries per input, for black-box threats, from what each success cost."""
    right = table.status != Status.CLEAN_ERROR
    cost = np.where(table.status == Status.BROKEN, table.forward, np.iinfo(np.int64).max)
    grid = sorted({1, budget, *(int(10**e) for e in np.linspace(0, math.log10(max(budget, 2)), 25))})
    n = len(table.status)
    return tuple(
        CurvePoint(float(q), Rate.of(int((right & (cost > q)).sum()), n)) for q in grid if q <= budget
    )
