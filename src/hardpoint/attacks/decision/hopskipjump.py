"""HopSkipJump: the nearest adversarial input, seeing labels only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hardpoint.attacks.decision.boundary_search import (
    BoundarySearch,
    BoundaryState,
    Phase,
    ask_all,
    ask_middle,
    ask_random,
    bisect_from,
    bisection_tolerance,
    checked_queries,
    distance,
    fresh_fields,
    hear_middle,
    hear_random,
)
from hardpoint.attacks.decision.normals import Votes, around_near
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Task
from hardpoint.threats.linf import LinfRegion

_ESTIMATE, _ADVANCE = 2, 3
_SLOTS = 16  # questions per input and turn while estimating
_HALVINGS = 30


@dataclass(frozen=True)
class HopSkipJumpState(BoundaryState):
    """Also the votes on the normal, and the step being tried along it."""

    votes: Votes
    stride: Tensor
    direction: Tensor


@dataclass(frozen=True)
class HopSkipJump(BoundarySearch[HopSkipJumpState]):
    """HopSkipJump (Chen, Jordan and Wainwright, IEEE S&P 2020), every quantity kept per input.

    Bisects to the decision boundary, estimates its normal from the labels of random points nearby, steps along
    it, repeats. With a finite budget an input stops once an example inside the budget is found; with an infinite
    one the whole query budget goes into the smallest distance. Distances are Linf for Linf threats, else L2.

    Args:
        queries: queries per input.
        initial_estimate: label queries of the first normal estimate; later ones take √round times as many.

    >>> HopSkipJump(queries=500).name
    'HopSkipJump 500'
    """

    queries: int = 5000
    initial_estimate: int = 100

    def __post_init__(self) -> None:
        checked_queries("HopSkipJump", queries=self.queries, initial_estimate=self.initial_estimate)

    @property
    def _phases(self) -> tuple[Phase[HopSkipJumpState], ...]:
        return (
            Phase(ask_random, hear_random),
            Phase(ask_middle, self._hear_middle),
            Phase(self._ask_around, self._hear_around),
            Phase(self._ask_ahead, self._hear_ahead),
        )

    def start(self, task: Task) -> HopSkipJumpState:
        fields = fresh_fields(task, _SLOTS)
        nothing = torch.zeros_like(task.x)
        state = HopSkipJumpState(**fields, votes=Votes.none(task.x), stride=fields["low"], direction=nothing)
        return ask_all(state, task, self._phases, self.queries)

    def _hear_middle(self, s: HopSkipJumpState, reached: Tensor, task: Task) -> HopSkipJumpState:
        s, over = hear_middle(s, reached, task, bisection_tolerance(task))
        return replace(
            s,
            votes=s.votes.cleared(over),
            phase=torch.where(over, _ESTIMATE, s.phase),
            asked_so_far=torch.where(over, 0, s.asked_so_far),
        )

    def _ask_around(self, s: HopSkipJumpState, task: Task) -> tuple[Tensor, Tensor]:
        shape, rng = (_SLOTS, *task.x.shape[1:]), task.rng.fork("probe")
        if isinstance(task.region, LinfRegion):
            noise = rng.uniform(task.index, shape, task.turn, task.x.dtype) * 2 - 1
        else:
            noise = rng.normal(task.index, shape, task.turn, task.x.dtype)
        left = self._estimate_size(s.round) - s.asked_so_far
        return around_near(noise, s, task), left.clamp(1, _SLOTS)

    def _hear_around(self, s: HopSkipJumpState, reached: Tensor, task: Task) -> HopSkipJumpState:
        votes = s.votes.with_answers(s, reached)
        over = s.asked_so_far >= self._estimate_size(s.round)
        stride = distance(task, s.near) / torch.sqrt(s.round.double() + 1)
        return replace(
            s,
            votes=votes,
            direction=torch.where(per_row(over, s.near), votes.direction(task), s.direction),
            stride=torch.where(over, stride, s.stride),
            phase=torch.where(over, _ADVANCE, s.phase),
            asked_so_far=torch.where(over, 0, s.asked_so_far),
        )

    def _ask_ahead(self, s: HopSkipJumpState, task: Task) -> tuple[Tensor, Tensor]:
        point = s.near + per_row(s.stride.to(task.x.dtype), s.near) * s.direction
        return task.box.clamp(point).unsqueeze(1), torch.ones_like(task.index)

    def _hear_ahead(self, s: HopSkipJumpState, reached: Tensor, task: Task) -> HopSkipJumpState:
        hit = reached[:, 0]
        over = hit | (s.asked_so_far >= _HALVINGS)
        s = replace(
            s,
            stride=torch.where(hit, s.stride, s.stride / 2),
            round=s.round + over.to(s.round.dtype),
        )
        target = torch.where(per_row(hit, s.near), s.query[:, 0], s.near)
        return bisect_from(s, target, over)

    def _estimate_size(self, rounds: Tensor) -> Tensor:
        return (self.initial_estimate * torch.sqrt(rounds.double() + 1)).to(torch.int64).clamp(max=10_000)
