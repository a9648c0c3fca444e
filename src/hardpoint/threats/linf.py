"""The Linf ball: every coordinate may change by at most eps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.core.box import Box
from hardpoint.core.rng import Rng
from hardpoint.core.rows import chunks
from hardpoint.threats.norms import checked_radius, describe_norm, finite_or, offsets64, radius_text

_ROWS_AT_ONCE = 64  # the ends are computed in float64: for all rows together that would be most of the memory


@dataclass(frozen=True)
class LinfRegion:
    """Linf ball ∩ box as per-coordinate bounds, rounded inwards so that clamping is an exact projection."""

    HAS_ROWS: ClassVar[bool] = True
    x: Tensor
    low: Tensor
    high: Tensor
    eps: float

    @cached_property
    def reach(self) -> Tensor:
        width = (self.high - self.low).flatten(1).amax(1)
        return width / 2 if math.isinf(self.eps) else width.clamp(max=self.eps)

    def project(self, z: Tensor) -> Tensor:
        # clamp carries NaN through, so rows that are not finite fall back to the original
        return finite_or(torch.clamp(z, self.low, self.high), self.x)

    def sample(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        u = rng.uniform(index, tuple(self.x.shape[1:]), counter, self.x.dtype)
        return torch.clamp(self.low + u * (self.high - self.low), self.low, self.high)

    def distance(self, z: Tensor) -> Tensor:
        return offsets64(z, self.x).abs().amax(1)

    def contains(self, z: Tensor) -> Tensor:
        return ((z >= self.low) & (z <= self.high)).flatten(1).all(1)

    def ascent(self, gradient: Tensor, z: Tensor) -> Tensor:
        return gradient.sign()


@dataclass(frozen=True)
class Linf:
    """Every coordinate may change by at most ``eps``, in the units of the model's input.

    >>> region = Linf(0.25).around(torch.tensor([[0.1, 0.5]]), Box(0, 1))
    >>> region.project(torch.tensor([[-1.0, 2.0]]))
    tensor([[0.0000, 0.7500]])
    """

    eps: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", checked_radius("Linf", self.eps))

    @property
    def name(self) -> str:
        return f"linf-{radius_text(self.eps).replace('/', 'of')}"

    def around(self, x: Tensor, box: Box) -> LinfRegion:
        low, high = (side.expand_as(x[:1]) for side in box.bounds_like(x))
        parts = [self._ends(part, low, high) for part in chunks(x, _ROWS_AT_ONCE)]
        low, high = (torch.cat(side) for side in zip(*parts, strict=True)) if parts else (x, x)
        return LinfRegion(x, low, high, self.eps)

    def nearly_around(self, x: Tensor, box: Box) -> LinfRegion:
        low, high = box.bounds_like(x)
        largest = float(torch.maximum(low.abs(), high.abs()).max())
        slack = 2 * torch.finfo(x.dtype).eps * (largest + self.eps)  # more than x ± eps can be rounded by
        if not slack < 1e-3 * self.eps:
            return self.around(x, box)
        eps = self.eps - slack
        return LinfRegion(x, torch.maximum(x - eps, low), torch.minimum(x + eps, high), self.eps)

    def _ends(self, x: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        # The exact ends x ± eps are seldom floats; take the nearest floats whose measured distance is allowed.
        exact = x.double()
        ball_low, ball_high = (exact - self.eps).to(x.dtype), (exact + self.eps).to(x.dtype)
        ball_low = torch.where(exact - ball_low.double() > self.eps, torch.nextafter(ball_low, x), ball_low)
        ball_high = torch.where(
            ball_high.double() - exact > self.eps, torch.nextafter(ball_high, x), ball_high
        )
        return torch.maximum(ball_low, low), torch.minimum(ball_high, high)

    def scaled(self, factor: float) -> Linf:
        return Linf(self.eps * factor)

    def describe(self) -> dict[str, Any]:
        return describe_norm("Linf", self.eps)
