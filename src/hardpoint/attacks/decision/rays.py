"""RayS: the nearest adversarial input in Linf, from labels alone, by a search over signs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.decision.boundary_search import checked_queries
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Reply, Task


@dataclass(frozen=True)
class RaySState:
    """Per input: the best signs and their radius, the signs being tried, and the bracket of their radius."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    signs: Tensor
    radius: Tensor  # float64, infinite until signs are found that are adversarial at all
    tried: Tensor
    bisecting: Tensor
    low: Tensor
    high: Tensor
    number: Tensor  # flips tried


@dataclass(frozen=True)
class RayS(StandaloneAttack):
    """RayS (Chen and Gu, KDD 2020, algorithms 1 to 3).

    The shortest way to the boundary in Linf leads along signs ±1. Starting from all +1, it flips the signs of all
    coordinates, then of halves, quarters … down to single ones, over and over. One query at the best radius so far
    shows whether the flipped signs are better; only then their own radius is found by bisection. Made for Linf
    threats; for others the same rays are searched.

    Args:
        queries: queries per input.
        tolerance: where the bisection of a radius stops, as a share of the radius before it.

    >>> RayS(queries=500).name
    'RayS 500'
    """

    queries: int = 5000
    tolerance: float = 1e-3
    needs: ClassVar[Access] = Access.LABELS
    minimises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checked_queries("RayS", queries=self.queries)
        if not 0 < self.tolerance < 1:
            raise ThreatError(f"tolerance is {self.tolerance}", "give a share above 0 and below 1")

    @property
    def turns(self) -> int:
        return self.queries

    @property
    def name(self) -> str:
        return f"RayS {self.queries}"

    def start(self, task: Task) -> RaySState:
        low = torch.zeros(len(task), dtype=torch.float64, device=task.x.device)
        radius, signs = torch.full_like(low, torch.inf), torch.ones_like(task.x)
        number, bisecting = torch.zeros_like(task.index), torch.zeros_like(low, dtype=torch.bool)
        high = self._reach(radius, number, task)
        return RaySState(self._on_ray(signs, high, task), signs, radius, signs, bisecting, low, high, number)

    def step(self, state: RaySState, reply: Reply, task: Task) -> RaySState:
        hit = task.goal.reached(reply.labels[:, 0], task.y)
        middle = (state.low + state.high) / 2
        low = torch.where(state.bisecting & ~hit, middle, state.low)
        high = torch.where(state.bisecting & hit, middle, state.high)
        # a check that succeeds makes its signs the best, and opens a bracket between x and the radius of the check
        better = hit & ~state.bisecting
        signs = torch.where(per_row(better, state.signs), state.tried, state.signs)
        low = torch.where(better, 0.0, low)
        radius = torch.where(better, high, state.radius)
        wide = high - low > self.tolerance * radius
        bisecting = (state.bisecting | better) & wide
        radius = torch.where(state.bisecting & ~bisecting, high, radius)

        fresh = ~bisecting
        number = state.number + fresh.to(state.number.dtype)
        tried = torch.where(per_row(fresh, signs), self._next_signs(signs, radius, number, task), state.tried)
        high = torch.where(fresh, self._reach(radius, number, task), high)
        at = torch.where(fresh, high, (low + high) / 2)
        return RaySState(self._on_ray(tried, at, task), signs, radius, tried, bisecting, low, high, number)

    @staticmethod
    def _on_ray(signs: Tensor, radius: Tensor, task: Task) -> Tensor:
        return task.box.clamp(task.x + per_row(radius.to(signs.dtype), signs) * signs).unsqueeze(1)

    @staticmethod
    def _reach(radius: Tensor, number: Tensor, task: Task) -> Tensor:
        """The radius so far; without one, to the end of the box, or wider and wider where it has no ends."""
        if task.box.is_bounded:
            low, high = task.box.bounds_like(task.x)
            widest = (high.double() - low.double()).expand_as(task.x).flatten(1).amax(1)
        else:
            size = task.x.abs().flatten(1).amax(1).clamp_min(1.0).double()
            widest = size * 2.0 ** (number.double() / 2).clamp(max=60)
        return torch.where(torch.isinf(radius), widest, radius)

    def _next_signs(self, signs: Tensor, radius: Tensor, number: Tensor, task: Task) -> Tensor:
        """One block flipped; random signs as long as neither all +1, all -1 nor any signs since were adversarial."""
        random = task.rng.fork("signs").sign(task.index, tuple(signs.shape[1:]), number, signs.dtype)
        lost = torch.isinf(radius) & (number > 1)
        return torch.where(per_row(lost, signs), random, self._flipped(signs, number))

    @staticmethod
    def _flipped(signs: Tensor, number: Tensor) -> Tensor:
        """``signs`` with block ``number`` turned round: 1 is all, 2 and 3 are the halves, 4 to 7 the quarters, …;
        after the single coordinates these come again."""
        size = math.prod(signs.shape[1:])
        levels = (size - 1).bit_length()
        ends = torch.tensor([2 ** (k + 1) if k < levels else 2**levels + size for k in range(levels + 1)])
        ends = ends.to(number.device)
        last = int(ends[-1]) - 1  # flips before single coordinates begin again
        singles = last - size
        number = torch.where(number > last, singles + 1 + (number - last - 1) % size, number)
        level = torch.searchsorted(ends, number, right=True)
        count = torch.where(level < levels, 2**level, size)
        block = number - 2**level
        start, stop = block * size // count, (block + 1) * size // count
        place = torch.arange(size, device=number.device)
        inside = (place >= start.unsqueeze(1)) & (place < stop.unsqueeze(1))
        return torch.where(inside.view_as(signs), -signs, signs)
