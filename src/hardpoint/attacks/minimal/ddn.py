"""DDN: the direction and the norm of the change, decoupled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.losses import Loss, goal_loss
from hardpoint.attacks.minimal.best import check_counts
from hardpoint.attacks.minimal.descent import Descent, Seen
from hardpoint.attacks.minimal.nearest import Nearest
from hardpoint.attacks.minimal.norms import FAR, Norm, cosine, first_radius, span, unit
from hardpoint.core.errors import ThreatError
from hardpoint.engine.attack import Task


@dataclass(frozen=True)
class Sphere:
    """The radius of the sphere the iterate was put on, ``[n]``."""

    HAS_ROWS: ClassVar[bool] = True
    radius: Tensor


@dataclass(frozen=True)
class DDN(Descent, StandaloneAttack):
    """Decoupled direction and norm (Rony et al., CVPR 2019, algorithm 1), in L2.

    A gradient step turns the change; then its length is set to a radius that shrinks by ``gamma`` after an
    adversarial point and grows by it after any other. The first radius is the first-order distance to the boundary,
    or the width of the input box if that is less, and steps are in units of the radius, so that inputs may have any
    scale.

    Args:
        steps: gradient steps.
        gamma: the share by which the radius changes.
        levels: round the change to so many levels of the input box, as images are stored; None: do not.
        candidates: wrong classes whose boundaries are compared at the original.
        patience: stop an input whose best norm has not improved by 0.1 % for so many steps; None: never.

    Raises:
        ThreatError: for a norm other than L2.

    >>> import math
    >>> from hardpoint import L2
    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x = torch.full((8, 2), 0.5)
    >>> DDN(steps=20)(model, x, model(x).argmax(1), L2(math.inf)).distance.shape
    torch.Size([8])
    """

    steps: int = 100
    gamma: float = 0.05
    levels: int | None = None
    candidates: int = 10
    patience: int | None = 200
    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2,)

    def __post_init__(self) -> None:
        check_counts("DDN", steps=self.steps, candidates=self.candidates, patience=self.patience)
        if not 0 < self.gamma < 1 or (self.levels is not None and self.levels < 2):
            raise ThreatError(
                f"DDN(gamma={self.gamma}, levels={self.levels})",
                "give gamma between 0 and 1, and 2 levels or more",
            )

    def ascends(self, scores: Tensor, task: Task) -> Tensor:
        return goal_loss(Loss.CE, scores, task.y, task.goal)

    def begin(self, change: Tensor, nearest: Nearest, task: Task, norm: Norm) -> Sphere:
        # where gradients are hidden the first-order distance is far too long: the paper starts at one box width
        first = first_radius(norm, change, nearest.value, nearest.normal, task)
        return Sphere(torch.minimum(first, span(task).double()))

    def move(self, own: Sphere, seen: Seen, task: Task, norm: Norm) -> tuple[Sphere, Tensor]:
        radius = own.radius * torch.where(seen.reached, 1 - self.gamma, 1 + self.gamma)
        radius = torch.minimum(radius, FAR * span(task).double())
        size = radius * cosine(1.0, 0.01, seen.taken, self.steps)
        change = torch.addcmul(seen.change, size.unsqueeze(1), unit(seen.gradient, task))
        change = change * (radius / norm.length(change).clamp_min(1e-30)).unsqueeze(1)
        return Sphere(radius), self._stored(change, task)

    def _stored(self, change: Tensor, task: Task) -> Tensor:
        """``change`` rounded to the nearest level."""
        if self.levels is None:
            return change
        low, high = task.box.bounds_like(task.x)
        level = ((high - low).double() / (self.levels - 1)).expand_as(task.x).flatten(1)
        return torch.where(torch.isfinite(level), torch.round(change / level) * level, change)
