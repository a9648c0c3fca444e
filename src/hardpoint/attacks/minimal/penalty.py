"""The search for the weight of a penalty, per input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Penalty:
    """Bisection on the weight c of the margin in |d| + c · loss (Carlini and Wagner, IEEE S&P 2017, section VI.A):
    ten times as much until a round succeeds, then the middle of what failed and what succeeded.

    Attributes:
        weight: float64 ``[n]``, c of the round under way.
        low, high: float64 ``[n]``, the largest c known to fail, the smallest known to succeed.
        won: bool ``[n]``, the round under way has succeeded.
    """

    HAS_ROWS: ClassVar[bool] = True
    weight: Tensor
    low: Tensor
    high: Tensor
    won: Tensor

    @classmethod
    def starting(cls, weight: float, like: Tensor) -> Penalty:
        """The first round, for ``len(like)`` inputs."""
        zero = torch.zeros(len(like), dtype=torch.float64, device=like.device)
        return cls(zero + weight, zero, zero + torch.inf, torch.zeros_like(zero, dtype=torch.bool))

    def after(self, reached: Tensor, round_over: Tensor) -> Penalty:
        """With one more answer; rows whose round is over begin the next."""
        won = self.won | reached
        high = torch.where(round_over & won, self.weight, self.high)
        low = torch.where(round_over & ~won, self.weight, self.low)
        following = torch.where(torch.isinf(high), self.weight * 10, (low + high) / 2)
        weight = torch.where(round_over, following.clamp(max=1e10), self.weight)
        return Penalty(weight, low, high, won & ~round_over)
