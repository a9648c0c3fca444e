"""Carlini and Wagner's attack."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.minimal.best import check_counts
from hardpoint.attacks.minimal.descent import Descent, Seen
from hardpoint.attacks.minimal.moments import Moments
from hardpoint.attacks.minimal.nearest import Nearest
from hardpoint.attacks.minimal.norms import Norm, first_radius
from hardpoint.attacks.minimal.penalty import Penalty
from hardpoint.core.errors import ThreatError
from hardpoint.engine.attack import Task


@dataclass(frozen=True)
class CarliniWagnerMemory:
    """Adam's moments, the search for c, where rounds begin, the scale of the change."""

    HAS_ROWS: ClassVar[bool] = True
    moments: Moments
    penalty: Penalty
    first: Tensor
    size: Tensor


@dataclass(frozen=True)
class CarliniWagner(Descent, StandaloneAttack):
    """Carlini and Wagner's attack (IEEE S&P 2017, section VI), in L2.

    Adam minimises |d|² + c max(distance to the boundary, 0), for several c by bisection. The distance is the
    first-order one at the iterate, and both are in units of the change's size so far, so neither the scale of the
    scores nor that of the inputs matters, and c is near 2 for any model that is nearly linear. The box is kept by
    projection (section V.B of the paper, first variant): in the tangent's variable pixels at the ends of the box
    hardly move.

    Args:
        steps: gradient steps per weight.
        search_steps: weights tried.
        step_size: Adam's first step, in units of the change's root mean square; falls to a hundredth.
        weight: the first c.
        candidates: wrong classes whose boundaries are compared at the original.
        patience: stop an input whose best norm has not improved by 0.1 % for so many steps; None: never.

    Raises:
        ThreatError: for a norm other than L2.

    >>> import math
    >>> from hardpoint import L2
    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x = torch.full((8, 2), 0.5)
    >>> CarliniWagner(steps=20, search_steps=2)(model, x, model(x).argmax(1), L2(math.inf)).distance.shape
    torch.Size([8])
    """

    steps: int = 100
    search_steps: int = 9
    step_size: float = 1.0
    weight: float = 4.0
    candidates: int = 10
    patience: int | None = 200
    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2,)

    def __post_init__(self) -> None:
        check_counts(
            "CarliniWagner",
            steps=self.steps,
            search_steps=self.search_steps,
            candidates=self.candidates,
            patience=self.patience,
        )
        if not min(self.step_size, self.weight) > 0:
            raise ThreatError(
                f"CarliniWagner(step_size={self.step_size}, weight={self.weight})", "give numbers above 0"
            )

    @property
    def moves(self) -> int:
        return self.steps * self.search_steps

    @property
    def name(self) -> str:
        return f"CarliniWagner {self.search_steps}×{self.steps}"

    def begin(self, change: Tensor, nearest: Nearest, task: Task, norm: Norm) -> CarliniWagnerMemory:
        return CarliniWagnerMemory(
            moments=Moments.nothing(change),
            penalty=Penalty.starting(self.weight, change),
            first=change,
            size=first_radius(norm, change, nearest.value, nearest.normal, task),
        )

    def move(
        self, own: CarliniWagnerMemory, seen: Seen, task: Task, norm: Norm
    ) -> tuple[CarliniWagnerMemory, Tensor]:
        in_round = seen.taken % self.steps
        over = in_round == self.steps - 1
        penalty = own.penalty.after(seen.reached, over)
        size = seen.settled(own.size)
        pull = own.penalty.weight / (seen.slope(norm) * size) * ~seen.reached
        gradient = 2 * seen.change / size.square().unsqueeze(1) - pull.unsqueeze(1) * seen.gradient
        moments = own.moments.seen(gradient)
        step = self.step_size * size / math.sqrt(seen.change.shape[1])
        step = step * 0.01 ** (in_round.double() / self.steps)
        change = seen.change - step.unsqueeze(1) * moments.step()
        fresh = over.unsqueeze(1)
        return (
            CarliniWagnerMemory(moments.forgotten(over), penalty, own.first, size),
            torch.where(fresh, own.first, change),
        )
