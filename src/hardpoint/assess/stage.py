"""One attack of a cascade, and which inputs meet it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardpoint.engine.attack import Attack
from hardpoint.evidence.assessment import StageRecord

_NEARER = 0.8


@dataclass(frozen=True)
class Stage:
    """One attack of a cascade, for standing inputs with at most the share ``left`` of their clean lead left.

    Attributes:
        attack: the attack.
        left: the largest share of the clean lead that may be left.
        sampled: whether the quota meets it too.
        rugged: whether inputs about which searches disagree meet it however far they seem to stand.
        pays: the stage is left out unless the one before it broke at least this share of the inputs that it met.
    """

    attack: Attack
    left: float = math.inf
    sampled: bool = True
    rugged: bool = False
    pays: float = 0.0

    @property
    def meets_all(self) -> bool:
        """Whether it spares none."""
        return math.isinf(self.left)

    def beyond(self, lead_left: NDArray[np.float64], rugged: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which inputs stand too far from falling for this stage; one whose lead is not known does not.

        Args:
            lead_left: the share of the clean lead left at the nearest miss.
            rugged: inputs about which searches disagree, so that the nearest miss may be far from the nearest there is.
        """
        return np.asarray((lead_left > self.left) & ~(rugged & self.rugged))

    def is_due(self, before: StageRecord | None) -> bool:
        """Whether the stage ``before`` it gave reason for it: one find may be luck, two are not."""
        if not self.pays:
            return True
        return before is not None and before.broken >= max(2, self.pays * before.inputs)


def disagree(left_before: NDArray[np.float64], left: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which inputs a search brought much nearer than one that had met them before.

    On models whose gradients lead to one optimum hardly any; where there are many optima, inputs that longer searches
    still break are among them, however far they seem to stand (docs/cascade.md).
    """
    return np.asarray(left < _NEARER * left_before)


def everyone(*attacks: Attack) -> tuple[Stage, ...]:
    """Stages that spare no input."""
    return tuple(Stage(attack) for attack in attacks)
