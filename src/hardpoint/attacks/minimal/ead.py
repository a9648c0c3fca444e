"""EAD: the elastic net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.minimal.best import check_counts
from hardpoint.attacks.minimal.descent import Descent, Seen
from hardpoint.attacks.minimal.nearest import Nearest
from hardpoint.attacks.minimal.norms import Norm, first_radius, proximal, room
from hardpoint.attacks.minimal.penalty import Penalty
from hardpoint.core.errors import ThreatError
from hardpoint.engine.attack import Task


@dataclass(frozen=True)
class EADMemory:
    """The change before momentum, the search for c, where rounds begin, the scale of the change."""

    HAS_ROWS: ClassVar[bool] = True
    shrunk: Tensor
    penalty: Penalty
    first: Tensor
    size: Tensor


@dataclass(frozen=True)
class EAD(Descent, StandaloneAttack):
    """Elastic-net attack (Chen et al., "EAD: elastic-net attacks to deep neural networks via adversarial examples",
    AAAI 2018, algorithm 1), in L1.

    FISTA minimises |d|₁ + ``ridge`` |d|₂² + c max(distance to the boundary, 0), for several c by bisection. The
    distance is the first-order one at the iterate, and all are in units of the change's size so far, so neither
    the scale of the scores nor that of the inputs matters, and c is above 1 for any model that is nearly linear.

    Args:
        steps: gradient steps per weight.
        search_steps: weights tried.
        step_size: first step, in units of the first change; falls to a hundredth.
        ridge: weight of the squared Euclidean size.
        weight: the first c.
        candidates: wrong classes whose boundaries are compared at the original.
        patience: stop an input whose best norm has not improved by 0.1 % for so many steps; None: never.

    Raises:
        ThreatError: for a norm other than L1.

    >>> import math
    >>> from hardpoint import L1
    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x = torch.full((8, 2), 0.5)
    >>> EAD(steps=20, search_steps=2)(model, x, model(x).argmax(1), L1(math.inf)).distance.shape
    torch.Size([8])
    """

    steps: int = 100
    search_steps: int = 9
    step_size: float = 0.1
    ridge: float = 0.01
    weight: float = 2.0
    candidates: int = 10
    patience: int | None = 200
    norms: ClassVar[tuple[Norm, ...]] = (Norm.L1,)

    def __post_init__(self) -> None:
        check_counts(
            "EAD",
            steps=self.steps,
            search_steps=self.search_steps,
            candidates=self.candidates,
            patience=self.patience,
        )
        if not min(self.step_size, self.weight) > 0 or not self.ridge >= 0:
            raise ThreatError(
                f"EAD(step_size={self.step_size}, ridge={self.ridge}, weight={self.weight})",
                "give a step size and a weight above 0, and a ridge of 0 or more",
            )

    @property
    def moves(self) -> int:
        return self.steps * self.search_steps

    @property
    def name(self) -> str:
        return f"EAD {self.search_steps}×{self.steps}"

    def begin(self, change: Tensor, nearest: Nearest, task: Task, norm: Norm) -> EADMemory:
        return EADMemory(
            shrunk=change,
            penalty=Penalty.starting(self.weight, change),
            first=change,
            size=first_radius(norm, change, nearest.value, nearest.normal, task),
        )

    def move(self, own: EADMemory, seen: Seen, task: Task, norm: Norm) -> tuple[EADMemory, Tensor]:
        in_round = seen.taken % self.steps
        over = in_round == self.steps - 1
        penalty = own.penalty.after(seen.reached, over)
        settled = seen.settled(own.size)
        size = settled.unsqueeze(1)
        # in these units the steepest coordinate's slope is 1
        pull = (own.penalty.weight / seen.slope(norm) * ~seen.reached).unsqueeze(1)
        gradient = 2 * self.ridge * seen.change / size - pull * seen.gradient
        step = self.step_size * 0.01 ** (in_round.double() / self.steps)
        ahead = seen.change / size - step.unsqueeze(1) * gradient
        shrunk = proximal(norm, ahead, step, torch.ones_like(ahead)) * size
        low, high = room(task)
        shrunk = torch.minimum(torch.maximum(shrunk, low), high)
        momentum = (in_round / (in_round + 3.0)).unsqueeze(1)
        change = shrunk + momentum * (shrunk - own.shrunk)
        fresh = over.unsqueeze(1)
        return (
            EADMemory(torch.where(fresh, own.first, shrunk), penalty, own.first, settled),
            torch.where(fresh, own.first, change),
        )
