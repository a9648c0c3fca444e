"""A detector with its threshold, and the score with which it refuses an input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError
from hardpoint.defenses.fingerprint import fingerprint
from hardpoint.defenses.one import One, one_of
from hardpoint.defenses.seen import Detector, Seen

_NEAR = 1e-4  # of a threshold: a score as close to it is taken as in a batch
_LEAST = 1e-6  # of a logit: less beside it may be lost in rounding
_MOST = 1e30  # that every type holds


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
        """float64 ``[n]``, above zero exactly where the input is refused, in units of the model's scores."""
        return (self.detector.score(seen) - self.threshold).double() / self.unit

    def excess_of_one(self, seen: Seen, one: One) -> float:
        """The same in plain numbers, but for rounding, which decides nothing."""
        ask = getattr(self.detector, "score_one", None)
        score = ask(one) if ask else None
        if score is None or abs(score - self.threshold) <= _NEAR * abs(self.threshold):
            return float(self.excess(seen))
        return float(score - self.threshold) / self.unit

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


def with_refusal(seen: Seen, alarms: Sequence[Alarm]) -> Tensor:
    """``[n, K + 1]``: the scores, and one that is the highest of all exactly where some detector refuses, by how much
    it does.

    The best wrong class then beats the right one *and* this score only where the input is misclassified and accepted,
    and at a misclassified input the difference is what the strictest detector leaves: the gradient of the margin first
    leads over the decision boundary and then, where need be, along the detector alone (selective and orthogonal
    descent, Bryniarski et al., "Evading adversarial example detection defenses with orthogonal projected gradient
    descent", ICLR 2022).
    """
    one = one_of(seen)
    if one is None:
        excess = torch.stack([alarm.excess(seen) for alarm in alarms]).amax(0)
    else:
        every = [alarm.excess_of_one(seen, one) for alarm in alarms]
        most, top = max(every), float(one.logits.max())
        if _LEAST * (abs(top) + 1e-20) < abs(most) < _MOST and not any(map(math.isnan, every)):
            scores = np.empty((1, len(one.logits) + 1), one.logits.dtype)
            scores[0, :-1] = one.logits
            scores[0, -1] = top + most
            return torch.from_numpy(scores)
        excess = torch.tensor([every], dtype=torch.float64).amax(1)
    return torch.cat([seen.logits, _refusal(seen.logits, excess).unsqueeze(1)], dim=1)


def _refusal(logits: Tensor, excess: Tensor) -> Tensor:
    top = logits.amax(1)
    score = (top + excess).to(top.dtype)
    # a small excess over a large logit must not be lost in rounding: refusing is decided by the excess alone
    above = torch.nextafter(top.detach(), torch.full_like(top, torch.inf))
    lost = (excess > 0) & (score < above)
    return torch.where(lost, score + (above - score.detach()), score)
