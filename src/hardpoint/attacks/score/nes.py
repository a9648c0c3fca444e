"""NES: projected ascent along gradients estimated from scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.linf import LinfRegion


@dataclass(frozen=True)
class NESState:
    """The questions (the iterate, the points on one side of it, those on the other), and the running gradient."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    asked: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class NES(StandaloneAttack):
    """Projected ascent with natural evolution strategies (Ilyas, Engstrom, Athalye and Lin, ICML 2018, algorithm 1).

    Each step asks about the iterate and about ``pairs`` random points on either side of it (antithetic sampling),
    estimates the gradient of the margin from the differences, adds it to a running gradient and steps along that.
    Steps fall from twice the budget to nothing along a half cosine.

    Args:
        queries: queries per input.
        pairs: pairs of points per step; a step costs one query more than both.
        sigma: typical distance of the points from the iterate, as a share of the budget.
        momentum: weight of earlier gradients in the running gradient.

    >>> NES(queries=500).name
    'NES 500'
    """

    queries: int = 5000
    pairs: int = 10
    sigma: float = 0.1
    momentum: float = 0.9
    needs: ClassVar[Access] = Access.SCORES

    def __post_init__(self) -> None:
        if self.queries < 1 or self.pairs < 1:
            raise ThreatError(
                f"NES(queries={self.queries}, pairs={self.pairs})", "give whole numbers of 1 or more"
            )
        if not self.sigma > 0 or not 0 <= self.momentum < 1:
            raise ThreatError(
                f"NES(sigma={self.sigma}, momentum={self.momentum})", "give sigma > 0 and 0 ≤ momentum < 1"
            )

    @property
    def turns(self) -> int:
        return -(-self.queries // self._cost)

    @property
    def name(self) -> str:
        return f"NES {self.queries}"

    @property
    def _cost(self) -> int:
        return 2 * self.pairs + 1

    def start(self, task: Task) -> NESState:
        return self._ask_around(task.x, torch.zeros_like(task.x), task)

    def step(self, state: NESState, reply: Reply, task: Task) -> NESState:
        n, slots = state.query.shape[:2]
        scores = reply.seen_scores().flatten(0, 1)
        margin = task.goal.margin(scores, task.y.repeat_interleave(slots)).view(n, slots)
        rise = (margin[:, 1 : self.pairs + 1] - margin[:, self.pairs + 1 :]).to(task.x.dtype)
        # the last turn may be cut short, and half a pair says nothing
        rise = torch.where(torch.isfinite(rise), rise, 0.0)
        apart = state.query[:, 1 : self.pairs + 1] - state.query[:, self.pairs + 1 :]
        estimate = (apart * rise.view(n, self.pairs, *([1] * (apart.dim() - 2)))).sum(1)
        # by its largest entry, so that the scores' scale does not decide how much a step weighs
        largest = estimate.flatten(1).abs().amax(1).clamp_min(torch.finfo(estimate.dtype).tiny)
        gradient = self.momentum * state.gradient + estimate / per_row(largest, estimate)
        share = (task.turn.double() / self.turns).clamp(max=1)
        length = task.region.reach * (1 + torch.cos(math.pi * share)).to(task.x.dtype)
        iterate = state.query[:, 0]
        ahead = iterate + per_row(length, iterate) * task.region.ascent(gradient, iterate)
        return self._ask_around(task.region.project(ahead), gradient, task)

    def _ask_around(self, iterate: Tensor, gradient: Tensor, task: Task) -> NESState:
        shape = tuple(iterate.shape[1:])
        noise = task.rng.fork("around").normal(task.index, (self.pairs, *shape), task.turn, iterate.dtype)
        spread = self.sigma * task.region.reach
        if not isinstance(task.region, LinfRegion):  # there the budget is shared by all coordinates
            spread = spread / math.sqrt(math.prod(shape))
        noise = noise * per_row(spread.to(noise.dtype), noise)
        centre = iterate.unsqueeze(1)
        low, high = task.box.bounds_like(iterate)
        query = torch.cat([centre, centre + noise, centre - noise], 1)
        query = torch.maximum(torch.minimum(query, high), low)
        left = (self.queries - task.turn * self._cost).clamp(min=0)
        asked = torch.arange(self._cost, device=left.device) < left.unsqueeze(1)
        return NESState(query, asked, gradient)
