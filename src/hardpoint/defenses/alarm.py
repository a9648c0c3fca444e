"""A detector with its threshold, and the score with which it refuses an input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError
from hardpoint.defenses.fingerprint import fingerprint
from hardpoint.defenses.seen import Detector, Seen


@dataclass(frozen=True, eq=False)
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

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and math.isfinite(self.unit) and self.unit > 0):
            raise ConfigError(
                f"{self.detector.name} has the threshold {self.threshold} and the unit {self.unit}",
                "give a finite threshold, and a unit above 0",
            )

    def excess(self, seen: Seen) -> Tensor:
        """``[n]``, above zero exactly where the input is refused, in units of the model's scores."""
        return (self.detector.score(seen) - self.threshold) / self.unit

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **self.detector.describe(),
            "name": self.detector.name,
            "threshold": self.threshold,
            "unit": self.unit,
            "guarantee": self.guarantee,
            "fitted": fingerprint(*_held(self.detector)),
        }


def _held(detector: Any) -> list[Tensor]:
    """All the tensors that a detector holds."""
    held = [getattr(detector, f.name) for f in fields(detector)] if is_dataclass(detector) else []
    found = []
    while held:
        part = held.pop(0)
        if isinstance(part, Tensor):
            found.append(part)
        elif isinstance(part, tuple | list):
            held += part
    return found


def refusal_score(seen: Seen, alarms: Sequence[Alarm]) -> Tensor:
    """``[n]``: a score that is the highest of all exactly where some detector refuses, by how much it does.

    The best wrong class then beats the right one *and* this score only where the input is misclassified and accepted,
    and at a misclassified input the difference is what the strictest detector leaves: the gradient of the margin first
    leads over the decision boundary and then, where need be, along the detector alone (selective and orthogonal
    descent, Bryniarski et al., "Evading adversarial example detection defenses with orthogonal projected gradient
    descent", ICLR 2022).
    """
    excess = torch.stack([alarm.excess(seen) for alarm in alarms]).amax(0)
    top = seen.logits.amax(1)
    score = top + excess.to(seen.logits.dtype)
    # a small excess over a large logit must not be lost in rounding: refusing is decided by the excess alone
    above = torch.nextafter(top.detach(), torch.full_like(top, torch.inf))
    least = torch.where(excess > 0, above, -torch.inf).to(score.dtype)
    most = torch.where(excess > 0, torch.inf, top.detach()).to(score.dtype)
    return score + (score.detach().clamp(least, most) - score.detach())
