"""The L1 ball: the absolute changes sum to at most eps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.core.box import Box
from hardpoint.core.rng import Rng
from hardpoint.threats.norms import (
    checked_radius,
    describe_norm,
    finite_or,
    inner_radius,
    offsets64,
    placed,
    radius_text,
)


def project_l1(d: Tensor, low: Tensor, high: Tensor, radius: float) -> Tensor:
    """The point of {v : low ≤ v ≤ high, |v|₁ ≤ radius} nearest to ``d``, rows of ``[n, d]``.

    The optimum shrinks every |d| by one threshold t per row and clips it to the room b that the box leaves
    in its direction: Σ min(max(|d| - t, 0), b) = radius. The left side is piecewise linear and falling in t
    with kinks at |d| and |d| - b; sorting the kinks finds the piece, and the piece gives t exactly
    (Croce and Hein, "Mind the box", ICML 2021, section 3). Needs low ≤ 0 ≤ high.
    """
    size = d.abs()
    room = torch.where(d >= 0, high, -low)
    clipped = torch.minimum(size, room)
    over = clipped.sum(1) > radius
    if not math.isfinite(radius) or not bool(over.any()):
        return torch.copysign(clipped, d)
    radius = inner_radius(radius)  # so that the result is not over the radius by a rounding
    s, b = size[over].double(), room[over].double()
    kinks, order = torch.sort(torch.cat([s, (s - b).clamp_min(0.0)], dim=1), dim=1)
    # Between kinks the sum falls with slope -(coordinates whose |d| - b ≤ t < |d|).
    slope_change = torch.cat([torch.full_like(s, 1.0), torch.full_like(b, -1.0)], dim=1).gather(1, order)
    start = torch.minimum(s, b).sum(1, keepdim=True)
    slopes = torch.cumsum(slope_change, dim=1)  # after kink k
    steps = torch.diff(kinks, dim=1, prepend=torch.zeros_like(kinks[:, :1]))
    before = torch.cat([torch.zeros_like(slopes[:, :1]), slopes[:, :-1]], dim=1)
    sums = start + torch.cumsum(before * steps, dim=1)  # Σ at kink k
    first = (sums > radius).sum(1, keepdim=True).clamp(max=kinks.shape[1] - 1)  # first kink at or below
    t_hi = kinks.gather(1, first)
    sum_hi, slope = sums.gather(1, first), before.gather(1, first)
    t = t_hi - torch.where(slope < 0, (radius - sum_hi) / -slope.clamp(max=-1e-30), 0.0)
    shrunk = torch.minimum((s - t).clamp_min(0.0), b)
    # far outside, s - t cancels digits: a last scaling keeps the sum inside
    shrunk = shrunk * (radius / shrunk.sum(1, keepdim=True).clamp_min(1e-300)).clamp(max=1.0)
    result = clipped.clone()
    result[over] = shrunk.to(d.dtype)
    return torch.copysign(result, d)


@dataclass(frozen=True)
class L1Region:
    """L1 ball ∩ box around each original."""

    HAS_ROWS: ClassVar[bool] = True
    x: Tensor
    box: Box
    eps: float

    @property
    def reach(self) -> Tensor:
        low, high = self.box.bounds_like(self.x)
        return ((high - low).expand_as(self.x).flatten(1).sum(1) / 2).clamp(max=self.eps)

    def project(self, z: Tensor) -> Tensor:
        z = finite_or(z, self.x)
        low, high = self.box.bounds_like(self.x)
        wanted = offsets64(z, self.x)
        allowed = project_l1(wanted, offsets64(low, self.x), offsets64(high, self.x), inner_radius(self.eps))
        return self.box.clamp(placed(z, self.x, wanted, allowed))

    def sample(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        # Uniform in the ball: exponential spacings with one spare, random signs (Barthe et al. 2005).
        shape = tuple(self.x.shape[1:])
        count = math.prod(shape)
        u = rng.fork("spacing").uniform(index, (count + 1,), counter, torch.float64)
        spacing = -torch.log1p(-u)
        share = spacing[:, :count] / spacing.sum(1, keepdim=True)
        sign = rng.fork("sign").sign(index, (count,), counter, torch.float64)
        offset = (share * sign * self.reach.double().unsqueeze(1)).to(self.x.dtype)
        return self.project(self.x + offset.view_as(self.x))

    def distance(self, z: Tensor) -> Tensor:
        return offsets64(z, self.x).abs().sum(1)

    def contains(self, z: Tensor) -> Tensor:
        return (self.distance(z) <= self.eps) & self.box.contains(z)

    def spare(self, z: Tensor) -> Tensor:
        """``[n]``: the length that may still be added on coordinates that ``z`` leaves unchanged."""
        return (self.eps - self.distance(z)).clamp_min(0.0).to(z.dtype)

    def ascent(self, gradient: Tensor, z: Tensor) -> Tensor:
        """The way to the allowed point where the function would be largest if it were linear: the budget goes to
        the steepest coordinates, each up to the end of the box (Frank and Wolfe 1956).

        The steepest direction of the ball alone moves one coordinate, which the box makes a poor step (Tramèr and
        Boneh 2019; Croce and Hein 2021); equal steps on a fixed share of the coordinates stop short of the best.
        """
        low, high = self.box.bounds_like(z)
        steepness = gradient.flatten(1).abs()
        room = torch.where(gradient > 0, high - self.x, self.x - low).flatten(1)
        order = torch.sort(steepness, dim=1, descending=True).indices
        filled = torch.where(steepness > 0, room, 0.0).gather(1, order).cumsum(1).clamp(max=self.eps)
        spent = torch.diff(filled, dim=1, prepend=torch.zeros_like(filled[:, :1]))
        best = torch.zeros_like(spent).scatter(1, order, spent) * gradient.flatten(1).sign()
        way = best - (z - self.x).flatten(1)
        way = torch.where(steepness.amax(1, keepdim=True) > 0, way, 0.0)
        return (way / way.abs().sum(1, keepdim=True).clamp_min(1e-30)).view_as(z)


@dataclass(frozen=True)
class L1:
    """The absolute changes sum to at most ``eps``.

    >>> region = L1(1.0).around(torch.tensor([[0.5, 0.0]]), Box(0, 1))
    >>> region.project(torch.tensor([[2.0, 0.6]]))
    tensor([[1.0000, 0.5000]])
    """

    eps: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", checked_radius("L1", self.eps))

    @property
    def name(self) -> str:
        return f"l1-{radius_text(self.eps).replace('/', 'of')}"

    def around(self, x: Tensor, box: Box) -> L1Region:
        return L1Region(x, box, self.eps)

    def scaled(self, factor: float) -> L1:
        return L1(self.eps * factor)

    def describe(self) -> dict[str, Any]:
        return describe_norm("L1", self.eps)
