"""SimBA: one direction of a fixed basis after the other, seeing scores only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.planes import checked_share, in_random_order, single_wave, waves_of
from hardpoint.attacks.score.lengths import unit_change
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.l0 import L0Region
from hardpoint.threats.linf import LinfRegion


class Basis(Enum):
    """The directions SimBA tries; every place that takes one takes its name too."""

    PIXEL = "pixel"
    DCT = "dct"

    @classmethod
    def parse(cls, value: Basis | str) -> Basis:
        """The basis called ``value``; raises ``ThreatError`` for an unknown name."""
        try:
            return cls(value)
        except ValueError:
            known = ", ".join(basis.value for basis in cls)
            raise ThreatError(f"basis {value!r} is unknown", f"use one of: {known}") from None


@dataclass(frozen=True)
class SimBAState:
    """The best point so far and its margin, the candidate, and which direction and sense it comes from."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    best: Tensor
    value: Tensor
    number: Tensor
    backwards: Tensor


@dataclass(frozen=True)
class SimBA(StandaloneAttack):
    """SimBA (Guo, Gardner, You, Wilson and Weinberger, ICML 2019, algorithm 1).

    Takes the directions of an orthonormal basis in a random order per input, each once before any comes again. A
    step forwards is kept if the margin grows, else a step backwards is tried. The directions are single coordinates,
    or the slow cosine waves of the plane (SimBA-DCT), which need far fewer queries on images.

    Args:
        queries: queries per input.
        basis: ``"pixel"`` or ``"dct"``.
        step_size: length of a step in the perturbation's unit. By default all the way where one coordinate at a time
            moves in Linf or L0, else a fifth of the budget.
        frequencies: share of the slowest waves along each axis, for ``"dct"``; None for all in inputs of at most
            1,024 numbers, else half.

    >>> SimBA(queries=300, basis="dct").name
    'SimBA-dct 300'
    """

    queries: int = 5000
    basis: Basis | str = Basis.PIXEL
    step_size: float | None = None
    frequencies: float | None = None
    needs: ClassVar[Access] = Access.SCORES

    def __post_init__(self) -> None:
        object.__setattr__(self, "basis", Basis.parse(self.basis))
        checked_share(self.frequencies)
        if self.queries < 1 or (self.step_size is not None and not self.step_size > 0):
            raise ThreatError(
                f"SimBA(queries={self.queries}, step_size={self.step_size})",
                "give queries of 1 or more and a step above 0",
            )

    @property
    def turns(self) -> int:
        return self.queries

    @property
    def name(self) -> str:
        return f"SimBA-{Basis.parse(self.basis).value} {self.queries}"

    def start(self, task: Task) -> SimBAState:
        """The first question is the original: its margin is what steps are measured against."""
        value = torch.full((len(task),), -torch.inf, dtype=torch.float64, device=task.x.device)
        # the first reply, which always raises the margin, moves on to direction 0
        number = torch.full_like(task.index, -1)
        return SimBAState(
            task.x.unsqueeze(1), task.x, value, number, torch.zeros_like(value, dtype=torch.bool)
        )

    def step(self, state: SimBAState, reply: Reply, task: Task) -> SimBAState:
        value = task.goal.margin(reply.seen_scores()[:, 0], task.y).double()
        # a candidate that is the best point itself may seem better by a rounding, which depends on the batch
        changed = (state.query[:, 0] != state.best).flatten(1).any(1) | (state.number < 0)
        better = (value > state.value) & changed
        best = torch.where(per_row(better, state.best), state.query[:, 0], state.best)
        fresh = better | state.backwards
        number = state.number + fresh.to(state.number.dtype)
        candidate = self._moved(best, number, ~fresh, task)
        # a coordinate that cannot go forwards is tried backwards at once
        stuck = fresh & (candidate == best).flatten(1).all(1)
        if bool(stuck.any()):
            candidate = torch.where(per_row(stuck, best), self._moved(best, number, stuck, task), candidate)
        value = torch.where(better, value, state.value)
        return SimBAState(candidate.unsqueeze(1), best, value, number, ~fresh | stuck)

    def _moved(self, best: Tensor, number: Tensor, backwards: Tensor, task: Task) -> Tensor:
        """``best`` after a step along direction ``number``, projected onto the allowed inputs."""
        direction = self._direction(number, task)
        direction = torch.where(per_row(backwards, direction), -direction, direction)
        if not isinstance(
            task.region, L0Region
        ):  # where every coordinate counts as one, however far it moves
            direction = unit_change(direction, task.region)
        return task.region.project(best + per_row(self._length(task).to(best.dtype), best) * direction)

    def _direction(self, number: Tensor, task: Task) -> Tensor:
        rng, shape = task.rng.fork("order"), tuple(task.x.shape[1:])
        if Basis.parse(self.basis) is Basis.PIXEL:
            size = math.prod(shape)
            which = in_random_order(rng, task.index, number, size)
            return torch.nn.functional.one_hot(which, size).to(task.x.dtype).view_as(task.x)
        which = in_random_order(rng, task.index, number, math.prod(waves_of(shape, self.frequencies)))
        return single_wave(which, shape, self.frequencies, task.x)

    def _length(self, task: Task) -> Tensor:
        if self.step_size is not None:
            return torch.full_like(task.region.reach, self.step_size)
        one_by_one = Basis.parse(self.basis) is Basis.PIXEL and isinstance(task.region, LinfRegion | L0Region)
        return task.region.reach * (2.0 if one_by_one else 0.2)
