"""One attack of a cascade, and which inputs meet it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardpoint.engine.attack import Attack


@dataclass(frozen=True)
class Stage:
    """One attack of a cascade, for standing inputs with at most the share ``left`` of their clean lead left.

    ``sampled`` says whether the quota meets it too.
    """

    attack: Attack
    left: float = math.inf
    sampled: bool = True

    def beyond(self, lead_left: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which inputs stand too far from falling for this stage; one whose lead is not known does not."""
        return np.asarray(lead_left > self.left)
