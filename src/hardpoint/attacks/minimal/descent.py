"""What minimal-norm attacks share but for their own step.

An attack is a dataclass of hyper-parameters with two functions: ``begin``, its memory at the first iterate, and
``move``, the next change given the reply. The rest is here: the first iterate, the best norm so far, freezing, the
input box. The loop itself is the engine's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.minimal.best import Best, reaches_goal
from hardpoint.attacks.minimal.nearest import Nearest, to_boundary
from hardpoint.attacks.minimal.norms import Norm, moved, norm_of
from hardpoint.core.access import Access
from hardpoint.core.rows import per_row, put_rows, take_rows
from hardpoint.engine.attack import Reply, Task


@dataclass(frozen=True)
class Walk:
    """The state of every such attack: the iterate, the attack's own memory, and what is shared.

    Attributes:
        taken: int64 ``[n]``, the attack's own moves so far; -1 while boundaries are compared at the original.
        nearest: the boundaries compared there.
    """

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    own: Any
    taken: Tensor
    nearest: Nearest
    best: Best
    done: Tensor


@dataclass(frozen=True)
class Seen:
    """What an attack learns about its iterate.

    Attributes:
        change: float64 ``[n, d]``, the iterate minus the original.
        gradient: float64 ``[n, d]``, of the objective at the iterate.
        value: float64 ``[n]``, the objective.
        reached: bool ``[n]``, the iterate is adversarial.
        taken: int64 ``[n]``, moves that led to it.
        best: the best norm, this iterate included.
    """

    HAS_ROWS: ClassVar[bool] = True
    change: Tensor
    gradient: Tensor
    value: Tensor
    reached: Tensor
    taken: Tensor
    best: Best

    def settled(self, size: Tensor) -> Tensor:
        """``[n]``: the scale of changes, given the last one: what is known to suffice, or a little more than before
        where nothing does yet. Linear estimates at the original may be far too small."""
        return torch.where(self.best.found, torch.minimum(size, self.best.norm), size * 1.05)

    def slope(self, norm: Norm) -> Tensor:
        """``[n]``: how fast the objective can change per unit of ``norm`` here; divided by it, the objective is the
        first-order distance to the boundary, whatever the scale of the scores."""
        return norm.dual_length(self.gradient).clamp_min(1e-300)


class Descent(ABC):
    """Mixed into attacks: everything but ``norms``, ``begin`` and ``move``.

    The first iterate lies on the linearised boundary nearest to the original, of ``candidates`` wrong classes: an
    attack that follows the margin of the best wrong class alone stays with the first face it meets, on linear
    models too, and comparing costs one gradient per class, once. Where the box ends before each of these boundaries
    the first iterate is the original.
    """

    steps: int
    candidates: int
    patience: int | None
    norms: ClassVar[tuple[Norm, ...]]
    needs: ClassVar[Access] = Access.GRADIENTS
    minimises: ClassVar[bool] = True

    @property
    def moves(self) -> int:
        """Moves in all."""
        return self.steps

    @property
    def turns(self) -> int:
        return self.candidates + self.moves

    @property
    def name(self) -> str:
        return f"{type(self).__name__} {self.steps}"

    @abstractmethod
    def begin(self, change: Tensor, nearest: Nearest, task: Task, norm: Norm) -> Any:
        """The attack's memory when its first iterate is ``change``."""

    @abstractmethod
    def move(self, own: Any, seen: Seen, task: Task, norm: Norm) -> tuple[Any, Tensor]:
        """The attack's memory and the next change, ``[n, d]``."""

    def ascends(self, scores: Tensor, task: Task) -> Tensor:
        """What the attack maximises: positive where the goal is reached."""
        return task.goal.margin(scores, task.y)

    def objective(self, scores: Tensor, task: Task, state: Walk) -> Tensor:
        comparing = state.taken < 0
        if bool(comparing.all()):
            return state.nearest.objective(scores, task)
        value = self.ascends(scores, task)
        if bool(comparing.any()):
            value = torch.where(comparing, state.nearest.objective(scores, task), value)
        return value

    def start(self, task: Task) -> Walk:
        norm = norm_of(task, type(self).__name__, *self.norms)
        nearest = Nearest.nothing(task, self.candidates)
        still = torch.zeros_like(task.x, dtype=torch.float64).flatten(1)
        return Walk(
            query=task.x,
            own=self.begin(still, nearest, task, norm),
            taken=torch.full_like(task.y, -1),
            nearest=nearest,
            best=Best.nothing(task),
            done=torch.zeros_like(task.y, dtype=torch.bool),
        )

    def step(self, state: Walk, reply: Reply, task: Task) -> Walk:
        comparing = state.taken < 0
        if not bool(comparing.any()):
            return self._move(state, reply, task)
        here, there = comparing.nonzero().squeeze(1), (~comparing).nonzero().squeeze(1)
        compared = self._compare(take_rows(state, here), take_rows(reply, here), take_rows(task, here))
        if not len(there):
            return compared
        walked = self._move(take_rows(state, there), take_rows(reply, there), take_rows(task, there))
        return put_rows(put_rows(state, here, compared), there, walked)

    def _compare(self, state: Walk, reply: Reply, task: Task) -> Walk:
        """Compare one more boundary at the original; go to the nearest after the last."""
        norm = norm_of(task, type(self).__name__, *self.norms)
        nearest = state.nearest.heard(task.x, reply, task, norm)
        change, reaches = to_boundary(norm, nearest.normal, -nearest.value, task.x, task)
        change = torch.where(reaches.unsqueeze(1), change * (1 + 1e-3), 0.0)  # a hair across
        first = moved(task, change)
        query = torch.where(per_row(nearest.complete, first), first, task.x)
        own = self.begin(change, nearest, task, norm)
        taken = torch.where(nearest.complete, 0, state.taken)
        return Walk(query, own, taken, nearest, state.best, state.done)

    def _move(self, state: Walk, reply: Reply, task: Task) -> Walk:
        assert reply.gradient is not None and reply.value is not None  # noqa: PT018
        norm = norm_of(task, type(self).__name__, *self.norms)
        reached = reaches_goal(reply, task)
        best = state.best.seen(state.query, reached, task)
        seen = Seen(
            change=(state.query.double() - task.x.double()).flatten(1),
            gradient=reply.gradient.double().flatten(1),
            value=reply.value.double(),
            reached=reached,
            taken=state.taken,
            best=best,
        )
        own, change = self.move(state.own, seen, task, norm)
        taken = state.taken + 1
        done = (taken >= self.moves) | best.stuck(self.patience)
        return Walk(moved(task, change), own, taken, state.nearest, best, done)
