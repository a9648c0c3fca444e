"""GeoDA: the nearest adversarial input from labels alone, along normals of the boundary from x."""

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
    first_reached,
    fresh_fields,
    hear_middle,
    hear_random,
)
from hardpoint.attacks.decision.normals import Votes, around_near
from hardpoint.attacks.planes import checked_share, smooth_noise
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Task

_ESTIMATE, _JUMP = 2, 3
_SLOTS = 16  # questions per input and turn while estimating
_GROWTH = 0.6 ** (-2 / 3)  # of the queries from one estimate to the next (paper, section 3.4, λ = 0.6)
_REACHES = (1.0, 1.25, 1.6, 2.0)  # how far to look along a normal, in units of the distance so far
_RESERVE = 24  # queries that a jump and the bisection after it may take
_SAME = 0.98  # a point nearer by less than this share is taken for the same one, and votes around it are kept


@dataclass(frozen=True)
class GeoDAState(BoundaryState):
    """Also the votes on the normal, and the distance from x at which the first of them were taken."""

    votes: Votes
    voted_at: Tensor


@dataclass(frozen=True)
class GeoDA(BoundarySearch[GeoDAState]):
    """GeoDA (Rahmati, Moosavi-Dezfooli, Frossard and Dai, CVPR 2020), for the smallest L2 or Linf distance.

    At a point on the boundary it estimates the normal from the labels of random points nearby, made of slow cosine
    waves, and looks for the boundary again from x along that normal (along its signs for Linf threats, which is the
    shortest way through a flat boundary in that norm). Each estimate takes 1.4 times as many queries as the last;
    where it leads nowhere, or to nearly the same place, the next one adds to its votes.

    Args:
        queries: queries per input.
        initial_estimate: label queries of the first estimate.
        frequencies: share of the slowest waves along each axis; None for all in inputs of at most 1,024 numbers,
            else half.

    >>> GeoDA(queries=500).name
    'GeoDA 500'
    """

    queries: int = 5000
    initial_estimate: int = 50
    frequencies: float | None = None

    def __post_init__(self) -> None:
        checked_queries("GeoDA", queries=self.queries, initial_estimate=self.initial_estimate)
        checked_share(self.frequencies)

    @property
    def _phases(self) -> tuple[Phase[GeoDAState], ...]:
        return (
            Phase(ask_random, hear_random),
            Phase(ask_middle, self._hear_middle),
            Phase(self._ask_around, self._hear_around),
            Phase(self._ask_ahead, self._hear_ahead),
        )

    def start(self, task: Task) -> GeoDAState:
        fields = fresh_fields(task, _SLOTS)
        voted_at = torch.full_like(fields["low"], torch.inf)
        state = GeoDAState(**fields, votes=Votes.none(task.x), voted_at=voted_at)
        return ask_all(state, task, self._phases, self.queries)

    def _hear_middle(self, s: GeoDAState, reached: Tensor, task: Task) -> GeoDAState:
        s, over = hear_middle(s, reached, task, bisection_tolerance(task))
        away = distance(task, s.near)
        same = (away < s.voted_at) & (away >= _SAME * s.voted_at)
        return replace(
            s,
            votes=s.votes.cleared(over & ~same),
            voted_at=torch.where(over & ~same, away, s.voted_at),
            round=s.round + over.to(s.round.dtype),
            phase=torch.where(over, _ESTIMATE, s.phase),
            asked_so_far=torch.where(over, 0, s.asked_so_far),
        )

    def _ask_around(self, s: GeoDAState, task: Task) -> tuple[Tensor, Tensor]:
        shape, rng = tuple(task.x.shape[1:]), task.rng.fork("probe")
        noise = smooth_noise(rng, task.index, _SLOTS, shape, self.frequencies, task.turn, task.x)
        left = self._estimate_size(s) - s.asked_so_far
        return around_near(noise, s, task), left.clamp(1, _SLOTS)

    def _hear_around(self, s: GeoDAState, reached: Tensor, task: Task) -> GeoDAState:
        over = s.asked_so_far >= self._estimate_size(s)
        return replace(
            s,
            votes=s.votes.with_answers(s, reached),
            phase=torch.where(over, _JUMP, s.phase),
            asked_so_far=torch.where(over, 0, s.asked_so_far),
        )

    def _ask_ahead(self, s: GeoDAState, task: Task) -> tuple[Tensor, Tensor]:
        away = per_row(distance(task, s.near).to(task.x.dtype), task.x)
        normal = s.votes.direction(task)
        points = torch.stack([task.box.clamp(task.x + reach * away * normal) for reach in _REACHES], 1)
        return points, torch.full_like(task.index, len(_REACHES))

    def _hear_ahead(self, s: GeoDAState, reached: Tensor, task: Task) -> GeoDAState:
        """Bisect from the nearest reach that is adversarial; where none is, ask for more votes."""
        found, far = first_reached(s, reached)
        s = replace(
            s,
            round=s.round + (~found).to(s.round.dtype),
            phase=torch.where(found, s.phase, _ESTIMATE),
            asked_so_far=torch.where(found, s.asked_so_far, 0),
        )
        return bisect_from(s, far, found)

    def _estimate_size(self, s: GeoDAState) -> Tensor:
        """Queries of this round's estimate: all that are left where a further round would not fit in after it."""
        planned = self.initial_estimate * _GROWTH ** (s.round.double() - 1).clamp(max=40)
        left = self.queries - (s.asked_in_all - s.asked_so_far) - _RESERVE
        next_fits = left - planned - _RESERVE >= planned * _GROWTH
        size = torch.where(next_fits, planned, torch.maximum(planned, left.double()))
        return size.to(torch.int64).clamp(min=1)
