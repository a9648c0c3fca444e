"""The best norm so far per input, and when to stop trying to better it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.core.errors import ThreatError
from hardpoint.engine.attack import Reply, Task

TOLERANCE = 1e-3  # a norm smaller by less than this share is no improvement


@dataclass(frozen=True)
class Best:
    """Per input: the smallest norm of an adversarial point, and how long it has not become smaller.

    Attributes:
        norm: float64 ``[n]``, infinite where none was found.
        mark: float64 ``[n]``, the norm at the last improvement worth the name.
        stale: int64 ``[n]``, steps since.
    """

    HAS_ROWS: ClassVar[bool] = True
    norm: Tensor
    mark: Tensor
    stale: Tensor

    @classmethod
    def nothing(cls, task: Task) -> Best:
        """Before the first step."""
        endless = torch.full((len(task),), torch.inf, dtype=torch.float64, device=task.x.device)
        return cls(endless, endless, torch.zeros_like(task.y))

    @property
    def found(self) -> Tensor:
        """Bool ``[n]``."""
        return torch.isfinite(self.norm)

    def seen(self, query: Tensor, reached: Tensor, task: Task) -> Best:
        """With the points ``query``, adversarial where ``reached``."""
        norm = torch.where(reached, task.region.distance(query), torch.inf).minimum(self.norm)
        better = norm < self.mark * (1 - TOLERANCE)
        stale = torch.where(better, 0, self.stale + torch.isfinite(norm))
        return Best(norm, torch.where(better, norm, self.mark), stale)

    def stuck(self, patience: int | None) -> Tensor:
        """Bool ``[n]``: found, and no better for ``patience`` steps."""
        if patience is None:
            return torch.zeros_like(self.found)
        return self.found & (self.stale >= patience)


def reaches_goal(reply: Reply, task: Task) -> Tensor:
    """Bool ``[n]``: whether the points just answered are adversarial."""
    return task.goal.reached(reply.labels, task.y)


def check_counts(attack: str, **counts: int | None) -> None:
    """Raise ``ThreatError`` for a count below 1; None means no limit."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ThreatError(f"{attack}({name}={count})", "give a whole number of 1 or more")
