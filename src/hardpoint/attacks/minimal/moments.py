"""Adam's running moments, as rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Running means of a gradient and its square (Kingma and Ba, "Adam", ICLR 2015, algorithm 1).

    Attributes:
        first, second: ``[n, d]``.
        count: int64 ``[n]``, gradients seen.
        keep: the shares of the old means that are kept.
    """

    HAS_ROWS: ClassVar[bool] = True
    first: Tensor
    second: Tensor
    count: Tensor
    keep: tuple[float, float] = (0.9, 0.999)

    @classmethod
    def nothing(cls, like: Tensor, keep: tuple[float, float] = (0.9, 0.999)) -> Moments:
        """Before the first gradient, for changes ``like`` ``[n, d]``."""
        zero = torch.zeros_like(like)
        return cls(zero, zero, torch.zeros(len(like), dtype=torch.int64, device=like.device), keep)

    def seen(self, gradient: Tensor) -> Moments:
        """With one more gradient."""
        return Moments(
            torch.lerp(gradient, self.first, self.keep[0]),
            torch.lerp(gradient.square(), self.second, self.keep[1]),
            self.count + 1,
            self.keep,
        )

    def forgotten(self, where: Tensor) -> Moments:
        """As before the first gradient in the rows ``where``."""
        wide = where.unsqueeze(1)
        return Moments(
            torch.where(wide, 0.0, self.first),
            torch.where(wide, 0.0, self.second),
            torch.where(where, 0, self.count),
            self.keep,
        )

    def step(self) -> Tensor:
        """``[n, d]``: the bias-corrected step for a learning rate of 1."""
        return self._first() / self.scale().clamp_min(1e-30)

    def scale(self) -> Tensor:
        """The root of the second moment, bias corrected."""
        return (self.second / (1 - self.keep[1] ** self.count.double()).unsqueeze(1)).sqrt()

    def _first(self) -> Tensor:
        return self.first / (1 - self.keep[0] ** self.count.double()).unsqueeze(1)
