"""Auto-PGD: projected gradient ascent with momentum that sets its own step size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.losses import Loss, goal_loss, goal_loss_to
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.goals import Untargeted


def checkpoints(steps: int) -> list[int]:
    """The steps after which the step size is reconsidered (paper, section 3.1).

    The first comes after 22 % of the steps; the gaps shrink by 3 % of the steps down to 6 %.

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    gap, least, shrink = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    at, marks = gap, []
    while at <= steps:
        marks.append(at)
        gap = max(gap - shrink, least)
        at += gap
    return marks


@dataclass(frozen=True)
class APGDState:
    """Per input: the iterate, the one before, the best so far with its gradient, and the step's history."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    previous: Tensor
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    last_value: Tensor
    length: Tensor
    rises: Tensor
    halved: Tensor
    value_at_check: Tensor


@dataclass(frozen=True)
class APGD(StandaloneAttack):
    """Auto-PGD (Croce and Hein, ICML 2020, algorithm 1), one start.

    Args:
        loss: ``"ce"``, ``"margin"`` or ``"dlr"``.
        steps: gradient steps.
        target_rank: None to move away from the right class; r ≥ 1 to move towards the r-th best wrong class of
            the clean input (the targeted variant). The goal of the threat stays what it is.
        momentum: weight of the new direction against the last move.

    >>> APGD(loss="dlr", steps=50).name, APGD(loss="dlr", target_rank=2).name
    ('APGD-dlr 50', 'APGD-T-dlr 100 to class 2')
    """

    loss: Loss | str = Loss.CE
    steps: int = 100
    target_rank: int | None = None
    momentum: float = 0.75
    needs: ClassVar[Access] = Access.GRADIENTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", Loss.parse(self.loss))
        if self.steps < 1:
            raise ThreatError(f"steps is {self.steps}", "give a whole number of 1 or more")
        if self.target_rank is not None and self.target_rank < 1:
            raise ThreatError(
                f"target_rank is {self.target_rank}", "give 1 for the best wrong class, or more"
            )

    @property
    def turns(self) -> int:
        return self.steps + 1

    @property
    def name(self) -> str:
        loss = Loss.parse(self.loss).value
        if self.target_rank is None:
            return f"APGD-{loss} {self.steps}"
        return f"APGD-T-{loss} {self.steps} to class {self.target_rank}"

    def objective(self, scores: Tensor, task: Task, state: APGDState) -> Tensor:
        loss = Loss.parse(self.loss)
        if self.target_rank is None or not isinstance(task.goal, Untargeted):
            return goal_loss(loss, scores, task.y, task.goal)
        return goal_loss_to(loss, scores, task.y, task.goal, target_of_rank(task, self.target_rank))

    def start(self, task: Task) -> APGDState:
        return self.start_at(task.region.sample(task.rng, task.index), task)

    def start_at(self, x: Tensor, task: Task) -> APGDState:
        """The first state of a search from the allowed points ``x`` ``[n, ...]``."""
        nothing = torch.full((len(task),), -torch.inf, dtype=torch.float64, device=x.device)
        return APGDState(
            query=x,
            previous=x,
            best=x,
            best_gradient=torch.zeros_like(x),
            best_value=nothing,
            last_value=nothing,
            length=2 * task.region.reach,
            rises=torch.zeros_like(task.y),
            halved=torch.ones_like(
                task.y, dtype=torch.bool
            ),  # so that the first checkpoint asks for rises only
            value_at_check=nothing,
        )

    def step(self, state: APGDState, reply: Reply, task: Task) -> APGDState:
        assert reply.gradient is not None and reply.value is not None  # noqa: PT018
        x, gradient, value = state.query, reply.gradient, reply.value.double()
        better = value > state.best_value
        wide = per_row(better, x)
        best, best_gradient = (
            torch.where(wide, x, state.best),
            torch.where(wide, gradient, state.best_gradient),
        )
        best_value = torch.where(better, value, state.best_value)
        rises = state.rises + (value > state.last_value)

        taken = task.turn - 1  # steps that led to x
        gap = self._gap_before(taken)
        checking = gap > 0
        slow = rises < 0.75 * gap
        stalled = ~state.halved & (best_value <= state.value_at_check)
        halve = checking & (slow | stalled)
        length = torch.where(halve, state.length / 2, state.length)
        back = per_row(halve, x)
        origin = torch.where(back, best, x)
        direction = task.region.ascent(torch.where(back, best_gradient, gradient), origin)
        ahead = task.region.project(origin + per_row(length.to(x.dtype), x) * direction)
        # the first move, and the first after going back to the best, have no last move to keep
        weight = torch.where((taken == 0) | halve, 1.0, self.momentum).to(x.dtype)
        move = origin + per_row(weight, x) * (ahead - origin) + per_row(1 - weight, x) * (x - state.previous)
        return APGDState(
            query=task.region.project(move),
            previous=origin,
            best=best,
            best_gradient=best_gradient,
            best_value=best_value,
            last_value=value,
            length=length,
            rises=torch.where(checking | (taken == 0), 0, rises),
            halved=torch.where(checking, halve, state.halved),
            value_at_check=torch.where(checking | (taken == 0), best_value, state.value_at_check),
        )

    def _gap_before(self, taken: Tensor) -> Tensor:
        """int64 ``[n]``: steps since the last checkpoint where ``taken`` is one, else 0."""
        table = torch.zeros(self.steps + 2, dtype=torch.int64, device=taken.device)
        last = 0
        for mark in checkpoints(self.steps):
            table[mark], last = mark - last, mark
        return table[taken.clamp(max=self.steps + 1)]


def target_of_rank(task: Task, rank: int | Tensor) -> Tensor:
    """int64 ``[n]``: the ``rank``-th best wrong class of each clean input, the last one where there are fewer.

    ``rank`` is 1 for the best wrong class; a number, or one per input.
    """
    wrong = task.ranked != task.y.unsqueeze(1)
    order = wrong.cumsum(1)  # 1 at the best wrong class, 2 at the next …
    wanted = torch.as_tensor(rank, device=order.device).expand(len(task)).unsqueeze(1)
    place = torch.minimum(wanted, order[:, -1:])
    position = ((order == place) & wrong).to(torch.int64).argmax(1, keepdim=True)
    return task.ranked.gather(1, position).squeeze(1)
