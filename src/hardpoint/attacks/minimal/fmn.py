"""FMN: projected gradient ascent in a ball whose radius closes in on the decision boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.minimal.best import check_counts
from hardpoint.attacks.minimal.descent import Descent, Seen
from hardpoint.attacks.minimal.nearest import Nearest
from hardpoint.attacks.minimal.norms import (
    FAR,
    Norm,
    cosine,
    first_order,
    first_radius,
    into_ball,
    room,
    span,
    step_unit,
    unit,
)
from hardpoint.core.errors import ThreatError
from hardpoint.engine.attack import Task


@dataclass(frozen=True)
class Ball:
    """The radius of the ball the iterate was projected into, ``[n]``."""

    HAS_ROWS: ClassVar[bool] = True
    radius: Tensor


@dataclass(frozen=True)
class FMN(Descent, StandaloneAttack):
    """Fast minimum-norm attack (Pintor et al., NeurIPS 2021, algorithm 1), in L0, L1, L2 and Linf.

    Until an adversarial point is found, the radius is the first-order distance to the boundary; from then on it
    shrinks or grows by a share that falls along a cosine. Changes are projected exactly into ball ∩ box.

    Args:
        steps: gradient steps.
        step_size: first step, in units of the ball's Euclidean radius; falls to a hundredth along a cosine.
        gamma: first share by which the radius changes; falls to a fiftieth.
        candidates: wrong classes whose boundaries are compared at the original.
        patience: stop an input whose best norm has not improved by 0.1 % for so many steps; None: never.

    >>> import math
    >>> from hardpoint import Linf
    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x = torch.full((8, 2), 0.5)
    >>> FMN(steps=20)(model, x, model(x).argmax(1), Linf(math.inf)).distance.shape
    torch.Size([8])
    """

    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05
    candidates: int = 10
    patience: int | None = 200
    norms: ClassVar[tuple[Norm, ...]] = tuple(Norm)

    def __post_init__(self) -> None:
        check_counts("FMN", steps=self.steps, candidates=self.candidates, patience=self.patience)
        if not 0 < self.gamma < 1 or not self.step_size > 0:
            raise ThreatError(
                f"FMN(step_size={self.step_size}, gamma={self.gamma})",
                "give a step size above 0 and gamma between 0 and 1",
            )

    def begin(self, change: Tensor, nearest: Nearest, task: Task, norm: Norm) -> Ball:
        return Ball(first_radius(norm, change, nearest.value, nearest.normal, task))

    def move(self, own: Ball, seen: Seen, task: Task, norm: Norm) -> tuple[Ball, Tensor]:
        width = span(task).double()
        gamma = cosine(self.gamma, self.gamma / 50, seen.taken, self.steps)
        if norm is Norm.L0:
            radius = _count(own.radius, gamma, seen)
        else:
            ahead = first_order(norm, seen.value, seen.gradient, otherwise=width)
            # a little further, or a linear model is approached for ever and never crossed
            across = (norm.length(seen.change) + ahead) * (1 + self.gamma / 50)
            outside = torch.where(seen.best.found, own.radius * (1 + gamma), across)
            inside = torch.minimum(own.radius, seen.best.norm) * (1 - gamma)
            radius = torch.minimum(torch.where(seen.reached, inside, outside), FAR * width)
        size = step_unit(norm, radius, task) * cosine(
            self.step_size, self.step_size / 100, seen.taken, self.steps
        )
        ahead_of = torch.addcmul(seen.change, size.unsqueeze(1), unit(seen.gradient, task))
        return Ball(radius), into_ball(norm, ahead_of, *room(task), radius)


def _count(count: Tensor, gamma: Tensor, seen: Seen) -> Tensor:
    """The number of coordinates to change next: one fewer or more at least."""
    count = torch.where(seen.reached, torch.minimum(count, seen.best.norm), count)
    fewer = torch.minimum(count - 1, (count * (1 - gamma)).floor())
    more = torch.maximum(count + 1, (count * (1 + gamma)).floor())
    return torch.where(seen.reached, fewer, more).clamp(1, seen.change.shape[1])
