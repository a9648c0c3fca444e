"""The Boundary attack: a random walk along the decision boundary, from labels alone."""

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
    bisection_tolerance,
    checked_queries,
    fresh_fields,
    hear_middle,
    hear_random,
    unit,
)
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Task

_WALK = 2
_FIND_SLOTS = 4
_SIDEWAYS_EVERY = 5


@dataclass(frozen=True)
class BoundaryWalkState(BoundaryState):
    """Also the lengths of a step sideways and towards x, as shares of the distance."""

    sideways: Tensor
    inwards: Tensor


@dataclass(frozen=True)
class BoundaryAttack(BoundarySearch[BoundaryWalkState]):
    """The Boundary attack (Brendel, Rauber and Bethge, ICLR 2018), for the smallest L2 distance.

    From an adversarial point it takes a random step on the sphere around x, then a step towards x, and stays where
    that is adversarial. Both lengths follow the success per input: steps sideways alone are to succeed every other
    time, whole steps one time in four. The first of all such attacks; HopSkipJump and SurFree need fewer queries.

    Args:
        queries: queries per input.
        candidates: steps tried at once from each point; the nearest to x that is adversarial is taken.

    >>> BoundaryAttack(queries=500).name
    'Boundary 500'
    """

    queries: int = 5000
    candidates: int = 4

    def __post_init__(self) -> None:
        checked_queries("BoundaryAttack", queries=self.queries, candidates=self.candidates)

    @property
    def _phases(self) -> tuple[Phase[BoundaryWalkState], ...]:
        return (
            Phase(ask_random, hear_random),
            Phase(ask_middle, self._hear_middle),
            Phase(self._ask_steps, self._hear_steps),
        )

    def start(self, task: Task) -> BoundaryWalkState:
        fields = fresh_fields(task, max(_FIND_SLOTS, self.candidates + 1))
        share = torch.full_like(fields["low"], 0.1)
        state = BoundaryWalkState(**fields, sideways=share, inwards=share)
        return ask_all(state, task, self._phases, self.queries)

    def _hear_middle(self, s: BoundaryWalkState, reached: Tensor, task: Task) -> BoundaryWalkState:
        s, over = hear_middle(s, reached, task, bisection_tolerance(task))
        return replace(s, phase=torch.where(over, _WALK, s.phase))

    def _ask_steps(self, s: BoundaryWalkState, task: Task) -> tuple[Tensor, Tensor]:
        """Whole steps and, every few turns, the first of them without its step towards x."""
        k, shape = self.candidates, tuple(task.x.shape[1:])
        noise = task.rng.fork("walk").normal(task.index, (k, *shape), task.turn, task.x.dtype)
        way = (s.near - task.x).unsqueeze(1)
        length = torch.linalg.vector_norm(way.flatten(2), dim=2)
        toward = unit(s.near - task.x).unsqueeze(1)
        across = (
            noise - (noise * toward).flatten(2).sum(2).view(*noise.shape[:2], *([1] * len(shape))) * toward
        )
        size = torch.linalg.vector_norm(across.flatten(2), dim=2).clamp_min(1e-30)
        step = s.sideways.to(size.dtype).unsqueeze(1) * length / size
        moved = way + step.view(*step.shape, *([1] * len(shape))) * across
        # back onto the sphere: the step was at a right angle to the way
        on_sphere = moved / per_row(torch.sqrt(1 + s.sideways**2).to(noise.dtype), moved)
        inside = on_sphere * per_row((1 - s.inwards).to(noise.dtype), on_sphere)
        points = task.x.unsqueeze(1) + torch.cat([inside, on_sphere[:, :1]], 1)
        low, high = task.box.bounds_like(task.x)
        checks = s.round % _SIDEWAYS_EVERY == 0
        return torch.maximum(torch.minimum(points, high), low), k + checks.to(torch.int64)

    def _hear_steps(self, s: BoundaryWalkState, reached: Tensor, task: Task) -> BoundaryWalkState:
        k = self.candidates
        whole, checked = reached[:, :k], s.asked[:, k]
        hit, first = whole.any(1), whole.to(torch.int64).argmax(1)
        point = s.query[torch.arange(len(first), device=first.device), first]
        # step lengths drift until successes and failures balance at the rates aimed for
        rate = whole.double().sum(1) / s.asked[:, :k].sum(1).clamp_min(1)
        sideways = s.sideways * torch.exp(torch.where(checked, reached[:, k].double() - 0.5, 0.0))
        return replace(
            s,
            near=torch.where(per_row(hit, s.near), point, s.near),
            sideways=sideways.clamp(1e-6, 1.0),
            inwards=(s.inwards * torch.exp(0.4 * (rate - 0.25))).clamp(1e-9, 0.5),
            round=s.round + 1,
        )
