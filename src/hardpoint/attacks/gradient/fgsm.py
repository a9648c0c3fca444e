"""The fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.gradient.pgd import PGD, PGDState
from hardpoint.attacks.losses import Loss
from hardpoint.core.access import Access
from hardpoint.engine.attack import Reply, Task


@dataclass(frozen=True)
class FGSM(StandaloneAttack):
    """One steepest step over the whole budget (Goodfellow et al., ICLR 2015): fast, weak, never the last word.

    Args:
        loss: ``"ce"``, ``"margin"`` or ``"dlr"``.
        random_start: begin at a random allowed input instead of the original.

    >>> FGSM().turns
    2
    """

    loss: Loss | str = Loss.CE
    random_start: bool = False
    needs: ClassVar[Access] = Access.GRADIENTS
    turns: ClassVar[int] = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", Loss.parse(self.loss))

    @property
    def name(self) -> str:
        return f"FGSM-{Loss.parse(self.loss).value}"

    def _as_pgd(self, task: Task) -> PGD:
        return PGD(steps=1, loss=self.loss, random_start=self.random_start)

    def start(self, task: Task) -> PGDState:
        return self._as_pgd(task).start(task)

    def objective(self, scores: Tensor, task: Task, state: PGDState) -> Tensor:
        return self._as_pgd(task).objective(scores, task, state)

    def step(self, state: PGDState, reply: Reply, task: Task) -> PGDState:
        # PGD's default step is 2.5 times the budget for one step; the projection cuts it to the budget
        return self._as_pgd(task).step(state, reply, task)
