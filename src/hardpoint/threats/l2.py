"""The L2 ball: the Euclidean length of the change is at most eps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.core.box import Box
from hardpoint.core.rng import Rng
from hardpoint.core.rows import per_row
from hardpoint.threats.norms import (
    checked_radius,
    describe_norm,
    finite_or,
    inner_radius,
    offsets64,
    placed,
    radius_text,
)


def project_l2(d: Tensor, low: Tensor, high: Tensor, radius: float) -> Tensor:
    """The point of {v : low ≤ v ≤ high, |v|₂ ≤ radius} nearest to ``d``, rows of ``[n, d]``.

    The optimum is ``clip(s d, low, high)`` for one scale s in (0, 1] per row (Lagrangian condition;
    needs low ≤ 0 ≤ high). Given which coordinates are clipped, s has a closed form that is never too large;
    starting from none clipped, s and the clipped set grow until they agree, in practice in a few rounds.
    """
    clipped = torch.minimum(torch.maximum(d, low), high)
    if not math.isfinite(radius):
        return clipped
    over = torch.linalg.vector_norm(clipped, dim=1) > radius
    if not bool(over.any()):
        return clipped
    radius = inner_radius(radius)  # so that the result is not over the radius by a rounding
    part, part_low, part_high = d[over], low[over], high[over]
    tiny = torch.finfo(d.dtype).tiny
    scale = radius / torch.linalg.vector_norm(part, dim=1, keepdim=True).clamp_min(tiny)
    for _ in range(d.shape[1] + 1):
        scaled = scale * part
        point = torch.minimum(torch.maximum(scaled, part_low), part_high)
        free = point == scaled
        held = torch.where(free, 0.0, point).square().sum(1, keepdim=True)
        size = torch.where(free, part, 0.0).square().sum(1, keepdim=True)
        grown = torch.sqrt((radius**2 - held).clamp_min(0.0) / size.clamp_min(tiny))
        grown = torch.where(size > 0, torch.maximum(grown, scale), scale)
        going = grown > scale * (1 + 1e-15)
        if not bool(going.any()):
            break
        scale = torch.where(going, grown, scale)
    result = clipped.clone()
    result[over] = torch.minimum(torch.maximum(scale * part, part_low), part_high)
    return result


@dataclass(frozen=True)
class L2Region:
    """L2 ball ∩ box around each original."""

    HAS_ROWS: ClassVar[bool] = True
    x: Tensor
    box: Box
    eps: float

    @property
    def reach(self) -> Tensor:
        low, high = self.box.bounds_like(self.x)
        diagonal: Tensor = torch.linalg.vector_norm((high - low).expand_as(self.x).flatten(1), dim=1) / 2
        return torch.clamp(diagonal, max=self.eps)

    def project(self, z: Tensor) -> Tensor:
        z = finite_or(z, self.x)
        low, high = self.box.bounds_like(self.x)
        wanted = offsets64(z, self.x)
        allowed = project_l2(wanted, offsets64(low, self.x), offsets64(high, self.x), inner_radius(self.eps))
        return self.box.clamp(placed(z, self.x, wanted, allowed))

    def sample(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        shape = tuple(self.x.shape[1:])
        direction = rng.fork("direction").normal(index, shape, counter, self.x.dtype)
        length = torch.linalg.vector_norm(direction.flatten(1), dim=1).clamp_min(1e-30)
        u = rng.fork("radius").uniform(index, (), counter, self.x.dtype)
        radius = self.reach * u ** (1.0 / max(1, math.prod(shape)))
        return self.project(self.x + direction * per_row(radius / length, direction))

    def distance(self, z: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(offsets64(z, self.x), dim=1)
        return length

    def contains(self, z: Tensor) -> Tensor:
        return (self.distance(z) <= self.eps) & self.box.contains(z)

    def spare(self, z: Tensor) -> Tensor:
        """``[n]``: the length that may still be added on coordinates that ``z`` leaves unchanged."""
        return torch.sqrt((self.eps**2 - self.distance(z).square()).clamp_min(0.0)).to(z.dtype)

    def ascent(self, gradient: Tensor, z: Tensor) -> Tensor:
        # the largest entry is divided out first, so that tiny gradients do not underflow when squared
        largest = gradient.flatten(1).abs().amax(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        scaled = gradient / per_row(largest, gradient)
        length = torch.linalg.vector_norm(scaled.flatten(1), dim=1)
        return scaled / per_row(length.clamp_min(1e-12), gradient)


@dataclass(frozen=True)
class L2:
    """The Euclidean length of the change is at most ``eps``.

    >>> region = L2(1.0).around(torch.zeros(1, 2), Box(0, 1))
    >>> region.project(torch.tensor([[3.0, -4.0]]))
    tensor([[1.0000, 0.0000]])
    """

    eps: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", checked_radius("L2", self.eps))

    @property
    def name(self) -> str:
        return f"l2-{radius_text(self.eps).replace('/', 'of')}"

    def around(self, x: Tensor, box: Box) -> L2Region:
        return L2Region(x, box, self.eps)

    def scaled(self, factor: float) -> L2:
        return L2(self.eps * factor)

    def describe(self) -> dict[str, Any]:
        return describe_norm("L2", self.eps)
