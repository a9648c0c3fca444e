"""The last bit: bisection between an original and an adversarial point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.minimal.norms import moved
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Task


@dataclass(frozen=True)
class Line:
    """A bisection per input.

    Attributes:
        end: ``[n, ...]``, an adversarial point; the original where none is known.
        low, high: float64 ``[n]``, the shares of the way to ``end`` between which the boundary is sought; ``high``
            succeeds. Attacks end near the boundary, so the search begins with the last tenth.
        left: int64 ``[n]``, questions left.
        on: bool ``[n]``, under way.
    """

    HAS_ROWS: ClassVar[bool] = True
    end: Tensor
    low: Tensor
    high: Tensor
    left: Tensor
    on: Tensor

    @classmethod
    def nothing(cls, task: Task, questions: int) -> Line:
        """Before an adversarial point is known."""
        whole = torch.ones(len(task), dtype=torch.float64, device=task.x.device)
        left = torch.full_like(task.y, questions)
        return cls(task.x, 0.9 * whole, whole, left, torch.zeros_like(left, dtype=torch.bool))

    def ending(self, end: Tensor, where: Tensor) -> Line:
        """With ``end`` as the adversarial point in the rows ``where``."""
        return replace(self, end=torch.where(per_row(where, end), end, self.end))

    def begun(self, where: Tensor) -> Line:
        """Under way in the rows ``where`` too."""
        return replace(self, on=self.on | where)

    def answered(self, reached: Tensor) -> Line:
        """With the answers about ``middle`` in the rows under way."""
        middle = (self.low + self.high) / 2
        return Line(
            end=self.end,
            low=torch.where(self.on & ~reached, middle, self.low),
            high=torch.where(self.on & reached, middle, self.high),
            left=self.left - self.on.to(self.left.dtype),
            on=self.on,
        )

    def middle(self, task: Task) -> Tensor:
        """The points to ask about."""
        way = (self.end.double() - task.x.double()).flatten(1)
        return moved(task, way * ((self.low + self.high) / 2).unsqueeze(1))

    @property
    def over(self) -> Tensor:
        """Bool ``[n]``: under way, and nothing left to ask."""
        return self.on & (self.left <= 0)
