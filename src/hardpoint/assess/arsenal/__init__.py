"""Which attacks there are for which perturbation. A new kind of perturbation is one more file here."""

from __future__ import annotations

from typing import Protocol

from hardpoint.assess.arsenal.balls import Balls
from hardpoint.assess.arsenal.images import Parameters, Patches, Turns
from hardpoint.assess.arsenal.tables import Tables
from hardpoint.assess.stage import Stage
from hardpoint.engine.attack import Attack
from hardpoint.threats import Colour, Flow, Patch, Perturbation, Spatial
from hardpoint.threats.features import FeatureEdits


class Arsenal(Protocol):
    """The attacks for one kind of perturbation."""

    @property
    def quick(self) -> Attack:
        """A short white-box attack, for checks on a pilot."""
        ...

    def fast(self) -> tuple[Stage, ...]:
        """Ordered by what they break per pass."""
        ...

    def further(self) -> tuple[Stage, ...]:
        """What ``standard`` does after that: the literature's attacks with its budgets; none where ``fast`` tries
        everything."""
        ...

    def extra(self) -> tuple[Attack, ...]:
        """Other ideas for what is left, the longest gradient attacks among them: what none of these breaks, gradients
        miss (HP317)."""
        ...

    def evasions(self) -> tuple[Attack, ...]:
        """For models that can refuse: round the valley between the decision boundary and a detector's."""
        ...

    def by_scores(self, queries: int, *, thorough: bool = False) -> tuple[Attack, ...]:
        """For an attacker who sees scores, with ``queries`` in all."""
        ...

    def by_labels(self, queries: int, *, thorough: bool = False) -> tuple[Attack, ...]:
        """For an attacker who sees labels, with ``queries`` in all."""
        ...


def arsenal_for(perturbation: Perturbation, classes: int | None = None) -> Arsenal:
    """The attacks for ``perturbation`` and a model of ``classes``; targeted attacks have one fewer targets, at most 9.

    >>> arsenal_for(Patch(area=0.02)).quick.name
    'PatchAttack-margin 4×10'
    """
    targets = min(9, max(1, (classes or 10) - 1))
    match perturbation:
        case FeatureEdits():
            return Tables(targets)
        case Patch():
            return Patches()
        case Spatial():
            return Turns(perturbation)
        case Colour() | Flow():
            return Parameters()
    return Balls(perturbation, targets)
