"""The L0 ball: at most eps coordinates may change, each anywhere in the box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.core.box import Box
from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng
from hardpoint.threats.norms import checked_radius, describe_norm, finite_or, offsets64, radius_text


def _largest(score: Tensor, count: int) -> Tensor:
    """Bool ``[n, d]``: the ``count`` largest entries of each row."""
    if count >= score.shape[1]:
        return torch.ones_like(score, dtype=torch.bool)
    chosen = torch.zeros_like(score, dtype=torch.bool)
    return chosen.scatter_(1, score.topk(count, dim=1).indices, True) if count else chosen


@dataclass(frozen=True)
class L0Region:
    """At most ``count`` changed coordinates, inside the box, around each original."""

    HAS_ROWS: ClassVar[bool] = True
    x: Tensor
    box: Box
    eps: float

    @property
    def _count(self) -> int:
        coordinates = math.prod(self.x.shape[1:])
        return coordinates if math.isinf(self.eps) else min(int(self.eps), coordinates)

    @property
    def reach(self) -> Tensor:
        low, high = self.box.bounds_like(self.x)
        return (high - low).expand_as(self.x).flatten(1).amax(1)

    def project(self, z: Tensor) -> Tensor:
        # Changing a coordinate by v of the wanted d saves d² - (d - v)² = v (2d - v) of squared distance.
        z = finite_or(z, self.x)
        inside = self.box.clamp(z)
        wanted, change = offsets64(z, self.x), offsets64(inside, self.x)
        keep = _largest(change * (2 * wanted - change), self._count)
        return torch.where(keep.view_as(z), inside, self.x)

    def sample(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        shape = tuple(self.x.shape[1:])
        chosen = _largest(rng.fork("where").uniform(index, (math.prod(shape),), counter), self._count)
        low, high = self.box.bounds_like(self.x)
        u = rng.fork("value").uniform(index, shape, counter, self.x.dtype)
        return torch.where(chosen.view_as(self.x), self.box.clamp(low + u * (high - low)), self.x)

    def distance(self, z: Tensor) -> Tensor:
        return (offsets64(z, self.x) != 0).sum(1).double()

    def contains(self, z: Tensor) -> Tensor:
        return (self.distance(z) <= self.eps) & self.box.contains(z)

    def spare(self, z: Tensor) -> Tensor:
        """``[n]``: the length that may still be added on coordinates that ``z`` leaves unchanged."""
        return (self._count - self.distance(z)).clamp_min(0.0).to(z.dtype)

    def ascent(self, gradient: Tensor, z: Tensor) -> Tensor:
        """The sign of the gradient on the coordinates that gain most on the way from the original to the end of the
        box: a steep one with no room is worth nothing."""
        low, high = self.box.bounds_like(z)
        room = torch.where(gradient > 0, high - self.x, self.x - low)
        chosen = _largest((gradient.abs() * room).flatten(1), self._count).view_as(z)
        return torch.where(chosen & (room > 0), gradient.sign(), 0.0)


@dataclass(frozen=True)
class L0:
    """At most ``eps`` coordinates may change, to any value of the box.

    >>> region = L0(1).around(torch.zeros(1, 3), Box(0, 1))
    >>> region.project(torch.tensor([[0.2, 0.9, 0.4]]))
    tensor([[0.0000, 0.9000, 0.0000]])
    """

    eps: float

    def __post_init__(self) -> None:
        value = checked_radius("L0", self.eps)
        if math.isfinite(value) and value != int(value):
            raise ThreatError(f"L0 eps is {self.eps}", "give a whole number of coordinates")
        object.__setattr__(self, "eps", value)

    @property
    def name(self) -> str:
        return f"l0-{radius_text(self.eps)}"

    def around(self, x: Tensor, box: Box) -> L0Region:
        if not box.is_bounded:
            raise ThreatError(
                "an L0 budget in an input range without ends allows anything",
                "declare the range, for example TorchModel(module, input_range=(0, 1))",
            )
        return L0Region(x, box, self.eps)

    def scaled(self, factor: float) -> L0:
        eps = self.eps * factor
        return L0(math.floor(eps) if math.isfinite(eps) else eps)

    def describe(self) -> dict[str, Any]:
        return describe_norm("L0", self.eps)
