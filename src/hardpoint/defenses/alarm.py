"""A detector with its threshold, and the score with which it refuses an input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.defenses.seen import Detector, Seen


@dataclass(frozen=True)
class Alarm:
    """``detector`` refuses inputs whose score exceeds ``threshold``.

    Attributes:
        classes: how many the model has.
        unit: how much of the detector's score weighs as much as one unit of the model's scores, so that an attacker
            who climbs both at once is not led by one alone.
        guarantee: what is known of its false alarms, in words.
    """

    detector: Detector
    threshold: float
    classes: int
    unit: float = 1.0
    guarantee: str = ""

    def excess(self, seen: Seen) -> Tensor:
        """``[n]``, above zero exactly where the input is refused, in units of the model's scores."""
        return (self.detector.score(seen) - self.threshold) / self.unit

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **self.detector.describe(),
            "name": self.detector.name,
            "threshold": self.threshold,
            "guarantee": self.guarantee,
        }


def refusal_score(seen: Seen, alarms: Sequence[Alarm]) -> Tensor:
    """``[n]``: a score that is the highest of all exactly where some detector refuses, by how much it does.

    The best wrong class then beats the right one *and* this score only where the input is misclassified and accepted,
    and at a misclassified input the difference is what the strictest detector leaves: the gradient of the margin first
    leads over the decision boundary and then, where need be, along the detector alone (selective and orthogonal
    descent, Bryniarski et al., "Evading adversarial example detection defenses with orthogonal projected gradient
    descent", ICLR 2022).
    """
    excess = torch.stack([alarm.excess(seen) for alarm in alarms]).amax(0)
    return seen.logits.amax(1) + excess.to(seen.logits.dtype)
