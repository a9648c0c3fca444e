"""SurFree: the nearest adversarial input from labels alone, without estimating any gradient."""

from __future__ import annotations

import math
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
from hardpoint.attacks.planes import checked_share, spread_direction
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Task

_TRY, _NARROW = 2, 3
_WIDEST = 0.45 * math.pi  # at a right angle the circle is back at x
_FINENESS = (
    1 / 12
)  # an angle this much too small, as a share, costs about a sixth of what the direction can gain


@dataclass(frozen=True)
class SurFreeState(BoundaryState):
    """Also the direction being tried, its number, the angle to try, and the largest to try in the next direction.

    ``low`` holds the largest angle known to be adversarial, ``high`` the smallest known not to be; ``far`` the point
    on the boundary that the circle starts from.
    """

    direction: Tensor
    number: Tensor
    angle: Tensor
    widest: Tensor


@dataclass(frozen=True)
class SurFree(BoundarySearch[SurFreeState]):
    """SurFree (Maho, Furon and Le Merrer, CVPR 2021), for the smallest L2 distance.

    From a point on the boundary it tries random directions: in the plane of the direction and of the way to x it
    moves along the circle whose diameter is that way. If the boundary is flat, one of the two senses stays
    adversarial down to the nearest point of the boundary in that plane (proposition 1); its angle is found by
    bisection. Directions come from a random orthonormal system of slow cosine waves, so none is tried twice.

    Args:
        queries: queries per input.
        widest_angle: the first angle to try, in degrees, above 0 and below 80; it adapts to what works.
        tries: how often the angle is halved before a direction is given up.
        frequencies: share of the slowest waves along each axis that directions are made of; None for all in inputs
            of at most 1,024 numbers, else half.

    >>> SurFree(queries=500).name
    'SurFree 500'
    """

    queries: int = 5000
    widest_angle: float = 30.0
    tries: int = 3
    frequencies: float | None = None

    def __post_init__(self) -> None:
        checked_queries("SurFree", queries=self.queries, tries=self.tries)
        checked_share(self.frequencies)
        if not 0 < self.widest_angle < 80:
            raise ThreatError(f"widest_angle is {self.widest_angle}", "give degrees above 0 and below 80")

    @property
    def _phases(self) -> tuple[Phase[SurFreeState], ...]:
        return (
            Phase(ask_random, hear_random),
            Phase(ask_middle, self._hear_middle),
            Phase(self._ask_both, self._hear_both),
            Phase(self._ask_between, self._hear_between),
        )

    def start(self, task: Task) -> SurFreeState:
        fields = fresh_fields(task, 2)
        numbers = fields["low"]
        state = SurFreeState(
            **fields,
            direction=torch.zeros_like(task.x),
            number=torch.zeros_like(task.index),
            angle=numbers,
            widest=torch.full_like(numbers, math.radians(self.widest_angle)),
        )
        return ask_all(state, task, self._phases, self.queries)

    def _hear_middle(self, s: SurFreeState, reached: Tensor, task: Task) -> SurFreeState:
        s, over = hear_middle(s, reached, task, bisection_tolerance(task))
        return self._next_direction(s, task, over)

    def _next_direction(self, s: SurFreeState, task: Task, where: Tensor) -> SurFreeState:
        """Begin the next direction from ``near`` for the inputs ``where``."""
        if not bool(where.any()):
            return s
        rng, shape = task.rng.fork("directions"), tuple(task.x.shape[1:])
        fresh = spread_direction(rng, task.index, s.number, shape, self.frequencies, task.x)
        toward = unit(s.near - task.x)
        fresh = unit(fresh - per_row((fresh * toward).flatten(1).sum(1), fresh) * toward)
        wide = per_row(where, fresh)
        return replace(
            s,
            direction=torch.where(wide, fresh, s.direction),
            far=torch.where(wide, s.near, s.far),
            number=s.number + where.to(s.number.dtype),
            angle=torch.where(where, s.widest, s.angle),
            phase=torch.where(where, _TRY, s.phase),
            asked_so_far=torch.where(where, 0, s.asked_so_far),
        )

    @staticmethod
    def _on_circle(s: SurFreeState, task: Task, angle: Tensor) -> Tensor:
        """The circle through x and ``far``, turned towards ``direction``: ``angle`` 0 is ``far`` (equation 12)."""
        way = s.far - task.x
        length = per_row(torch.linalg.vector_norm(way.flatten(1), dim=1), way)
        cosine, sine = (per_row(f(angle).to(way.dtype), way) for f in (torch.cos, torch.sin))
        return task.box.clamp(task.x + cosine * (cosine * way + sine * length * s.direction))

    def _ask_both(self, s: SurFreeState, task: Task) -> tuple[Tensor, Tensor]:
        points = [self._on_circle(s, task, angle) for angle in (s.angle, -s.angle)]
        return torch.stack(points, 1), torch.full_like(task.index, 2)

    def _hear_both(self, s: SurFreeState, reached: Tensor, task: Task) -> SurFreeState:
        hit, first_try = reached.any(1), s.asked_so_far <= 2
        gave_up = ~hit & (s.asked_so_far >= 2 * self.tries)
        backwards = per_row(hit & ~reached[:, 0], s.near)
        # aim at a first try that works every other time
        widest = torch.where(hit, s.widest / 0.9, s.widest * 0.9).clamp(max=_WIDEST)
        point = torch.where(backwards, s.query[:, 1], s.query[:, 0])
        s = replace(
            s,
            near=torch.where(per_row(hit, s.near), point, s.near),
            direction=torch.where(backwards, -s.direction, s.direction),
            low=torch.where(hit, s.angle, s.low),
            high=torch.where(hit, torch.where(first_try, torch.inf, 2 * s.angle), s.high),
            angle=torch.where(hit, s.angle, s.angle / 2),
            widest=torch.where(first_try, widest, s.widest),
            phase=torch.where(hit, _NARROW, s.phase),
        )
        return self._next_direction(s, task, gave_up)

    @staticmethod
    def _between(s: SurFreeState) -> Tensor:
        """Twice the angle until one is too large, then half way between."""
        return torch.where(torch.isinf(s.high), (2 * s.low).clamp(max=_WIDEST), (s.low + s.high) / 2)

    def _ask_between(self, s: SurFreeState, task: Task) -> tuple[Tensor, Tensor]:
        return self._on_circle(s, task, self._between(s)).unsqueeze(1), torch.ones_like(task.index)

    def _hear_between(self, s: SurFreeState, reached: Tensor, task: Task) -> SurFreeState:
        hit, angle = reached[:, 0], self._between(s)
        s = replace(
            s,
            near=torch.where(per_row(hit, s.near), s.query[:, 0], s.near),
            low=torch.where(hit, angle, s.low),
            high=torch.where(hit, s.high, angle),
        )
        over = ((s.high - s.low) <= _FINENESS * s.low) | (s.low >= _WIDEST)
        return self._next_direction(s, task, over)
