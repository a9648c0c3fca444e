"""A mixed-integer linear program, put together row by row and solved by HiGHS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_INFEASIBLE = 2


@dataclass(frozen=True)
class Answer:
    """What a solver found before its time ran out.

    Attributes:
        bound: no solution costs less, up to the solver's tolerances; infinite where there is none at all.
        values: of all variables, where a solution was found.
    """

    bound: float
    values: NDArray[np.float64] | None


@dataclass(frozen=True)
class Affine:
    """``constant + Σ coefficient · variable``."""

    terms: Mapping[int, float] = field(default_factory=dict)
    constant: float = 0.0

    def plus(self, other: Affine, factor: float = 1.0) -> Affine:
        """``self + factor · other``."""
        terms = dict(self.terms)
        for variable, value in other.terms.items():
            terms[variable] = terms.get(variable, 0.0) + factor * value
        return Affine(terms, self.constant + factor * other.constant)


class Program:
    """Variables with bounds, rows with bounds, a cost per variable to keep low."""

    def __init__(self) -> None:
        self.low: list[float] = []
        self.high: list[float] = []
        self.cost: list[float] = []
        self.whole: list[bool] = []
        self._entries: list[tuple[int, int, float]] = []
        self._row_high: list[float] = []

    def variable(self, low: float, high: float, *, whole: bool = False, cost: float = 0.0) -> int:
        """A new variable's number."""
        self.low.append(low)
        self.high.append(high)
        self.whole.append(whole)
        self.cost.append(cost)
        return len(self.low) - 1

    def most(self, value: Affine) -> float:
        """The largest value within the variables' bounds."""
        ends = (c * (self.high[v] if c > 0 else self.low[v]) for v, c in value.terms.items())
        return value.constant + sum(ends)

    def at_most_zero(self, value: Affine, gate: int | None = None) -> None:
        """Demands ``value <= 0``, with a ``gate`` (a variable of 0 or 1) only where that is 1."""
        most = self.most(value)
        if most <= 0:
            return
        if gate is not None:
            value = value.plus(Affine({gate: most}, -most))
        size = max(map(abs, value.terms.values()), default=1.0)
        row = len(self._row_high)
        self._entries += [(row, variable, c / size) for variable, c in value.terms.items() if c != 0]
        self._row_high.append(-value.constant / size)

    def zero(self, value: Affine) -> None:
        """Demands ``value == 0``."""
        self.at_most_zero(value)
        self.at_most_zero(Affine().plus(value, -1.0))

    def solve(self, seconds: float) -> Answer:
        """The cheapest values, as far as ``seconds`` allow."""
        # imported here, as loading it takes longer than most programs
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        shape = (len(self._row_high), len(self.low))
        rows, columns, values = zip(*self._entries, strict=True) if self._entries else ((), (), ())
        table = csr_array((values, (rows, columns)), shape=shape)
        found = milp(
            np.asarray(self.cost),
            integrality=np.asarray(self.whole, dtype=int),
            bounds=Bounds(self.low, self.high),
            constraints=[LinearConstraint(table, -np.inf, self._row_high)] if shape[0] else None,
            options={"time_limit": seconds, "mip_rel_gap": 0.0},
        )
        if found.status == _INFEASIBLE:
            return Answer(np.inf, None)
        bound = found.mip_dual_bound if found.mip_dual_bound is not None else found.fun
        return Answer(-np.inf if bound is None else float(bound), found.x)
