"""A threat: what the attacker wants, sees and may change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.threats.goals import Goal, Targeted, Untargeted
from hardpoint.threats.identifiers import Identifiers, evasion_identifiers
from hardpoint.threats.perturbation import Perturbation

_MOST_QUERIES = 10**12


@dataclass(frozen=True, repr=False)
class Threat:
    """What the attacker may do.

    Args:
        perturbation: the allowed changes, for example ``Linf(8/255)``.
        goal: ``Untargeted()`` or ``Targeted(label)``.
        access: what the attacker sees: ``"gradients"``, ``"scores"`` or ``"labels"``.
        queries: how often the attacker may ask the model about one input; ``None`` leaves it to the mode.

    Raises:
        ThreatError: for an unknown access word, a query budget below 1, or something that is no perturbation.

    >>> from hardpoint.threats.linf import Linf
    >>> Threat(Linf(8 / 255), access="scores", queries=1000).name
    'linf-8of255-scores-1000q'
    """

    perturbation: Perturbation
    goal: Goal = field(default_factory=Untargeted)
    access: Access = Access.GRADIENTS
    queries: int | None = None

    def __init__(
        self,
        perturbation: Perturbation,
        goal: Goal | None = None,
        access: Access | str = Access.GRADIENTS,
        queries: int | None = None,
    ) -> None:
        if not isinstance(perturbation, Perturbation):
            raise ThreatError(
                f"{perturbation!r} is not a perturbation", "give one, for example hp.Linf(8/255)"
            )
        if queries is not None and (not isinstance(queries, int) or not 1 <= queries <= _MOST_QUERIES):
            raise ThreatError(f"the query budget is {queries!r}", "give a whole number of 1 or more, or None")
        object.__setattr__(self, "perturbation", perturbation)
        object.__setattr__(self, "goal", goal if goal is not None else Untargeted())
        object.__setattr__(self, "access", Access.parse(access))
        object.__setattr__(self, "queries", queries)

    @classmethod
    def of(cls, value: Threat | Perturbation) -> Threat:
        """A bare perturbation stands for the untargeted white-box threat with it."""
        return value if isinstance(value, Threat) else cls(value)

    def __repr__(self) -> str:
        parts = [repr(self.perturbation)]
        if self.goal != Untargeted():
            parts.append(f"goal={self.goal!r}")
        if self.access is not Access.GRADIENTS:
            parts.append(f"access={self.access.word!r}")
        if self.queries is not None:
            parts.append(f"queries={self.queries}")
        return f"Threat({', '.join(parts)})"

    @property
    def name(self) -> str:
        """Short stable name for folders and tables."""
        parts = [self.perturbation.name]
        if isinstance(self.goal, Targeted):
            parts.append(f"to-{self.goal.label}")
        if self.access is not Access.GRADIENTS:
            parts.append(self.access.word)
        if self.queries is not None:
            parts.append(f"{self.queries}q")
        return "-".join(parts)

    @property
    def identifiers(self) -> Identifiers:
        """The threat's entries in ATLAS, NIST AI 100-2, OWASP and CWE."""
        return evasion_identifiers(self.access)

    def with_access(self, access: Access) -> Threat:
        """The same threat on another rung of the access ladder."""
        return replace_threat(self, access=access)

    def scaled(self, factor: float) -> Threat:
        """The same threat with ``factor`` times the perturbation budget."""
        return replace_threat(self, perturbation=self.perturbation.scaled(factor))

    def describe(self) -> dict[str, Any]:
        """JSON-ready description."""
        return {
            "name": self.name,
            "perturbation": self.perturbation.describe(),
            "goal": self.goal.describe(),
            "access": self.access.word,
            "queries": self.queries,
            "identifiers": self.identifiers.describe(),
        }


def replace_threat(threat: Threat, **changes: Any) -> Threat:
    """A copy of ``threat`` with the given fields changed."""
    return replace(threat, **changes)
