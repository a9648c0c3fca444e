"""SuperDeepFool: DeepFool, drawn back onto the normal of the boundary it met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.minimal.best import Best, check_counts, reaches_goal
from hardpoint.attacks.minimal.line import Line
from hardpoint.attacks.minimal.nearest import Nearest, to_boundary
from hardpoint.attacks.minimal.norms import Norm, moved, norm_of
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Reply, Task


@dataclass(frozen=True)
class SuperDeepFoolState:
    """The point asked about, the boundaries compared at the original, the best norm, the final bisection, whose end
    is the nearest adversarial point so far."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    nearest: Nearest
    best: Best
    line: Line
    done: Tensor


@dataclass(frozen=True)
class SuperDeepFool(StandaloneAttack):
    """SuperDeepFool (Abdollahpour et al., "Revisiting DeepFool: generalization and improvement", 2023, SDF(∞, 1)),
    in L2.

    DeepFool steps lead across the boundary; there the change is replaced by its projection on the boundary's normal,
    inside the input box; if that is no longer adversarial, DeepFool goes on from it. The nearest adversarial point
    is drawn towards the original by bisection in the end. Several classes are compared at the original only: later
    points lie near the boundary of their best wrong class, which is asked about alone, one gradient per step.

    Args:
        steps: gradient steps, of both kinds.
        overshoot: the share by which DeepFool's steps are lengthened.
        candidates: wrong classes whose boundaries are compared at the original.
        search_steps: bisection steps.
        patience: bisect once the best norm has not improved by 0.1 % for so many steps; None: never before the end.

    Raises:
        ThreatError: for a norm other than L2.

    >>> import math
    >>> from hardpoint import L2
    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x = torch.full((8, 2), 0.5)
    >>> SuperDeepFool(steps=20)(model, x, model(x).argmax(1), L2(math.inf)).distance.shape
    torch.Size([8])
    """

    steps: int = 100
    overshoot: float = 0.02
    candidates: int = 10
    search_steps: int = 10
    patience: int | None = 10
    needs: ClassVar[Access] = Access.GRADIENTS
    minimises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_counts(
            "SuperDeepFool",
            steps=self.steps,
            candidates=self.candidates,
            search_steps=self.search_steps,
            patience=self.patience,
        )
        if not self.overshoot > 0:
            raise ThreatError(f"SuperDeepFool(overshoot={self.overshoot})", "give a number above 0")

    @property
    def turns(self) -> int:
        return self.candidates + self.steps + self.search_steps + 1

    @property
    def name(self) -> str:
        return f"SuperDeepFool {self.steps}"

    def objective(self, scores: Tensor, task: Task, state: SuperDeepFoolState) -> Tensor:
        margin = task.goal.margin(scores, task.y)
        if bool(state.nearest.complete.all()):
            return margin
        return torch.where(state.nearest.complete, margin, state.nearest.objective(scores, task))

    def start(self, task: Task) -> SuperDeepFoolState:
        norm_of(task, "SuperDeepFool", Norm.L2)
        return SuperDeepFoolState(
            query=task.x,
            nearest=Nearest.nothing(task, self.candidates),
            best=Best.nothing(task),
            line=Line.nothing(task, self.search_steps),
            done=torch.zeros_like(task.y, dtype=torch.bool),
        )

    def step(self, state: SuperDeepFoolState, reply: Reply, task: Task) -> SuperDeepFoolState:
        assert reply.gradient is not None and reply.value is not None  # noqa: PT018
        reached = reaches_goal(reply, task)
        best = state.best.seen(state.query, reached, task)
        comparing = ~state.nearest.complete
        nearest, normal, value = state.nearest, reply.gradient, reply.value.double()
        if bool(comparing.any()):
            nearest = nearest.heard(state.query, reply, task, Norm.L2).where(comparing, nearest)
            normal = torch.where(per_row(comparing, normal), nearest.normal, normal)
            value = torch.where(comparing, nearest.value, value)
        line = state.line.answered(reached)
        nearer = reached & ~line.on & (best.norm < state.best.norm)
        line = line.ending(state.query, nearer)
        walked = task.turn - (nearest.order >= 0).sum(1)  # one turn per class compared
        over = (walked >= self.steps) | best.stuck(self.patience)
        line = line.begun(over & best.found)

        query = self._next(state.query, reached, normal, value, task)
        query = torch.where(per_row(nearest.complete, query), query, task.x)
        if bool(line.on.any()):
            query = torch.where(per_row(line.on, query), line.middle(task), query)
        return SuperDeepFoolState(query, nearest, best, line, line.over | (over & ~line.on))

    def _next(self, at: Tensor, reached: Tensor, normal: Tensor, value: Tensor, task: Task) -> Tensor:
        """A step across the boundary where it is still ahead, else the nearest point to the original with the same
        linearised margin."""
        change = (at.double() - task.x.double()).flatten(1)
        along = (normal.double().flatten(1) * change).sum(1)
        step, _ = to_boundary(Norm.L2, normal, -value, at, task)
        drawn, _ = to_boundary(Norm.L2, normal, along, task.x, task)
        walk = change + step * (1 + self.overshoot)
        return moved(task, torch.where(reached.unsqueeze(1), drawn, walk))
