"""One column of a table: what values it takes, and what an attacker can do to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from hardpoint.core.errors import ThreatError

DYNAMIC: Literal["dynamic"] = "dynamic"
"""A bound that is the row's own value."""

Bound = float | Literal["dynamic"]


class Kind(Enum):
    """What values a feature takes."""

    REAL = "real"
    INTEGER = "integer"
    BINARY = "binary"
    ONE_HOT = "one_hot"
    ORDINAL = "ordinal"


class Mutability(Enum):
    """What an attacker can do to a feature."""

    NO = "no"
    YES = "yes"
    INCREASE = "increase"
    DECREASE = "decrease"


@dataclass(frozen=True)
class Feature:
    """One column.

    Args:
        name: the column's name, unique in its schema.
        kind: ``Kind.REAL``, ``INTEGER``, ``BINARY`` (0 or 1), ``ONE_HOT`` (0 or 1, with exactly one 1 in its
            ``group``) or ``ORDINAL`` (one of ``levels``).
        low: the smallest allowed value, in the column's unit; ``"dynamic"`` where it is the row's own value.
        high: the largest, likewise.
        mutable: what the attacker can do to it.
        cost: what crossing the whole range costs; for a binary feature or a one-hot group, one change.
        group: name of the one-hot group.
        levels: the values of an ordinal feature, rising; they give its bounds.

    Raises:
        ThreatError: for bounds, levels or groups that contradict the kind.

    >>> Feature("age", Kind.INTEGER, 18, 90, Mutability.INCREASE).range
    72.0
    """

    name: str
    kind: Kind = Kind.REAL
    low: Bound = 0.0
    high: Bound = 1.0
    mutable: Mutability = Mutability.YES
    cost: float = 1.0
    group: str | None = None
    levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or "`" in self.name:
            raise ThreatError(
                f"the feature name {self.name!r} is empty or holds a backtick", "rename the column"
            )
        if self.levels and self.kind is Kind.ORDINAL:
            object.__setattr__(self, "levels", tuple(float(level) for level in self.levels))
            object.__setattr__(self, "low", self.levels[0])
            object.__setattr__(self, "high", self.levels[-1])
        for end in ("low", "high"):
            if getattr(self, end) != DYNAMIC:
                object.__setattr__(self, end, self._number(end))
        object.__setattr__(self, "cost", self._number("cost"))
        self._check()

    def _number(self, field: str) -> float:
        value = getattr(self, field)
        if isinstance(value, (bool, str)) or not math.isfinite(value):
            more = "" if field == "cost" else " or 'dynamic'"
            raise ThreatError(f"{field} of feature {self.name!r} is {value!r}", f"give a finite number{more}")
        return float(value)

    def _check(self) -> None:
        who = f"feature {self.name!r}"
        if self.cost <= 0:
            raise ThreatError(f"cost of {who} is {self.cost:g}", "give a cost above 0, or mutable = 'no'")
        if any(not math.isfinite(level) for level in self.levels) or any(
            a >= b for a, b in zip(self.levels, self.levels[1:], strict=False)
        ):
            raise ThreatError(f"the levels of {who} do not rise", "list each level once, from low to high")
        if not isinstance(self.low, str) and not isinstance(self.high, str) and self.low > self.high:
            raise ThreatError(f"{who} has low {self.low:g} above high {self.high:g}", "swap them")
        if self.kind in (Kind.BINARY, Kind.ONE_HOT) and (self.low, self.high) != (0.0, 1.0):
            raise ThreatError(
                f"{who} is {self.kind.value} with bounds [{self.low}, {self.high}]",
                "leave its bounds at 0 and 1, or make it an integer",
            )
        if (self.kind is Kind.ONE_HOT) != (self.group is not None):
            raise ThreatError(
                f"{who} is {self.kind.value} {'without' if self.group is None else 'with'} a group",
                "one_hot features, and only they, name their group",
            )
        if self.kind is Kind.ONE_HOT and self.mutable in (Mutability.INCREASE, Mutability.DECREASE):
            raise ThreatError(
                f"{who} is one_hot and may only {self.mutable.value}", "make its group mutable 'yes' or 'no'"
            )
        if (self.kind is Kind.ORDINAL) != bool(self.levels):
            raise ThreatError(
                f"{who} is {self.kind.value} {'with' if self.levels else 'without'} levels",
                "ordinal features, and only they, list their levels",
            )

    @property
    def range(self) -> float | None:
        """The width of the bounds; ``None`` where it depends on the row."""
        if isinstance(self.low, str) or isinstance(self.high, str):
            return None
        return self.high - self.low

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers one apart."""
        return self.kind in (Kind.INTEGER, Kind.BINARY, Kind.ONE_HOT)

    def describe(self) -> dict[str, Any]:
        """JSON-ready description; what has its default is left out."""
        described: dict[str, Any] = {"name": self.name, "kind": self.kind.value}
        if self.kind in (Kind.REAL, Kind.INTEGER):
            described |= {"low": self.low, "high": self.high}
        described["mutable"] = self.mutable.value
        if self.cost != 1.0:
            described["cost"] = self.cost
        if self.group is not None:
            described["group"] = self.group
        if self.levels:
            described["levels"] = list(self.levels)
        return described
