"""The normal of a decision boundary, estimated from the labels of random points around a point on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.decision.boundary_search import BoundaryState, bisection_tolerance, distance, unit
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Task
from hardpoint.threats.linf import LinfRegion


@dataclass(frozen=True)
class Votes:
    """Per input, over the directions asked about since the votes were cleared: the sum of directions weighted by
    their ±1 answers, their plain sum, the sum of the answers and the number of them."""

    HAS_ROWS: ClassVar[bool] = True
    weighted: Tensor
    plain: Tensor
    wins: Tensor
    count: Tensor

    @classmethod
    def none(cls, x: Tensor) -> Votes:
        """No votes yet for any input of ``x``."""
        numbers = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return cls(torch.zeros_like(x), torch.zeros_like(x), numbers, numbers)

    def cleared(self, where: Tensor) -> Votes:
        """Without the votes of the inputs ``where``."""
        wide = per_row(where, self.weighted)
        return Votes(
            self.weighted.masked_fill(wide, 0.0),
            self.plain.masked_fill(wide, 0.0),
            self.wins.masked_fill(where, 0.0),
            self.count.masked_fill(where, 0.0),
        )

    def with_answers(self, state: BoundaryState, reached: Tensor) -> Votes:
        """With the answers ``reached`` to the state's questions, all of them points around ``state.near``."""
        # Directions as they were asked: clipping to the input box bends them.
        moved = (state.query - state.near.unsqueeze(1)).flatten(2)
        length = torch.linalg.vector_norm(moved, dim=2, keepdim=True).clamp_min(1e-30)
        direction = torch.where(state.asked.unsqueeze(2), moved / length, 0.0)
        answer = torch.where(reached, 1.0, -1.0).to(direction.dtype) * state.asked
        return Votes(
            self.weighted + (direction * answer.unsqueeze(2)).sum(1).view_as(self.weighted),
            self.plain + direction.sum(1).view_as(self.plain),
            self.wins + answer.double().sum(1),
            self.count + state.asked.sum(1),
        )

    def direction(self, task: Task) -> Tensor:
        """``[n, ...]``: the steepest way into the adversarial side, of unit length; signs where the threat is Linf.

        Subtracting the mean answer lowers the variance (HopSkipJump, section III.C); if all answers agree there is
        nothing to subtract.
        """
        mean = (self.wins / self.count.clamp_min(1)).to(self.weighted.dtype)
        baseline = torch.where(mean.abs() >= 1, 0.0, mean)
        normal = self.weighted - per_row(baseline, self.weighted) * self.plain
        return normal.sign() if isinstance(task.region, LinfRegion) else unit(normal)


def probe_size(state: BoundaryState, task: Task) -> Tensor:
    """float64 ``[n]``: how far from ``near`` to ask: as far as the bisection may have stopped off the boundary
    (HopSkipJump, section IV.C), farther in the first round."""
    d = math.prod(task.x.shape[1:])
    away = distance(task, state.near)
    later = (d if isinstance(task.region, LinfRegion) else math.sqrt(d)) * bisection_tolerance(task) * away
    return torch.where(state.round == 0, 0.1 * away, later)


def around_near(noise: Tensor, state: BoundaryState, task: Task) -> Tensor:
    """Points of the input box at ``probe_size`` from ``near`` in the directions ``noise`` ``[n, k, ...]``."""
    length = torch.linalg.vector_norm(noise.flatten(2), dim=2).clamp_min(1e-30)
    direction = noise / length.view(*length.shape, *([1] * (noise.dim() - 2)))
    points = state.near.unsqueeze(1) + direction * per_row(probe_size(state, task).to(noise.dtype), noise)
    low, high = task.box.bounds_like(task.x)
    return torch.maximum(torch.minimum(points, high), low)
