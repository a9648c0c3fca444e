"""FGSM and projected gradient descent."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.losses import Loss, goal_loss
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.l0 import L0Region


@dataclass(frozen=True)
class PGDState:
    """The current iterate, and the one before it to notice when the attack runs in circles.

    ``checksum`` and ``previous_checksum`` are theirs, ``[n]``: a cheap first look.
    """

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    previous: Tensor
    checksum: Tensor
    previous_checksum: Tensor
    done: Tensor


@dataclass(frozen=True)
class PGD(StandaloneAttack):
    """Projected gradient descent (Madry et al., ICLR 2018): steepest ascent steps, projected after each.

    Args:
        steps: gradient steps per start.
        step_size: length of a step in the perturbation's unit; by default 2.5 eps / steps, or 2 eps with ``decay``;
            in L0 always the whole way.
        loss: ``"ce"``, ``"margin"`` or ``"dlr"``, see ``hardpoint.attacks.losses``.
        restarts: independent starts.
        random_start: start at a random allowed input, else at the original.
        decay: let the step fall from ``step_size`` to 0 along a half cosine.

    An input whose iterate repeats (exactly, with period one or two) is retired early: with a constant step all
    further iterates repeat too, so nothing is lost. Where the model is random they need not, and none is retired.

    >>> from hardpoint import Linf
    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x = torch.full((8, 2), 0.5)
    >>> PGD(steps=10)(model, x, model(x).argmax(1), Linf(0.5)).adversarial.shape
    torch.Size([8, 2])
    """

    steps: int = 40
    step_size: float | None = None
    loss: Loss | str = Loss.CE
    restarts: int = 1
    random_start: bool = True
    decay: bool = False
    needs: ClassVar[Access] = Access.GRADIENTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", Loss.parse(self.loss))
        if self.steps < 1 or self.restarts < 1:
            raise ThreatError(
                f"steps={self.steps}, restarts={self.restarts}", "give whole numbers of 1 or more"
            )

    @property
    def turns(self) -> int:
        return self.restarts * (self.steps + 1)

    @property
    def name(self) -> str:
        restarts = f"×{self.restarts}" if self.restarts > 1 else ""
        return f"PGD-{Loss.parse(self.loss).value} {self.steps}{restarts}"

    def start(self, task: Task) -> PGDState:
        x = self._begin(task)
        checksum = _checksum(x)
        nothing = torch.full_like(checksum, -1)
        return PGDState(x, x, checksum, nothing, torch.zeros_like(task.y, dtype=torch.bool))

    def objective(self, scores: Tensor, task: Task, state: PGDState) -> Tensor:
        return goal_loss(Loss.parse(self.loss), scores, task.y, task.goal)

    def step_length(self, task: Task, taken: Tensor) -> Tensor:
        """``[n]``: the length of the next step after ``taken`` steps."""
        if self.step_size is None:
            # what changes in L0 is decided by who moves farthest, so small steps would change nothing
            whole = self.decay or isinstance(task.region, L0Region)
            length = task.region.reach * (2.0 if whole else 2.5 / self.steps)
        else:
            length = task.x.new_full((len(task),), self.step_size)
        if self.decay:
            length = length * 0.5 * (1 + torch.cos(math.pi * taken / self.steps))
        return length

    def _begin(self, task: Task) -> Tensor:
        return task.region.sample(task.rng, task.index, task.turn) if self.random_start else task.x

    def step_to(self, state: PGDState, reply: Reply, task: Task) -> Tensor:
        """The next iterate of the current start."""
        assert reply.gradient is not None
        taken = (task.turn - 1) % (self.steps + 1)
        length = per_row(self.step_length(task, taken).to(state.query.dtype), state.query)
        direction = task.region.ascent(reply.gradient, state.query)
        return task.region.project(torch.addcmul(state.query, direction, length))

    def step(self, state: PGDState, reply: Reply, task: Task) -> PGDState:
        new = self.step_to(state, reply, task)
        if self.restarts == 1:
            if self.decay or task.is_random:
                return replace(state, query=new, previous=state.query)
            checksum = _checksum(new)
            return PGDState(new, state.query, checksum, state.checksum, _repeats(new, checksum, state))
        fresh = task.turn % (self.steps + 1) == 0
        if bool(fresh.any()):
            new = torch.where(per_row(fresh, new), task.region.sample(task.rng, task.index, task.turn), new)
        return replace(state, query=new, previous=state.query)


def _checksum(x: Tensor) -> Tensor:
    """A checksum of each row's bits: exact, so that it does not depend on the row's place in the batch. Weighted, as
    steps up and down by one length leave plain sums as they are."""
    words = {8: torch.int64, 4: torch.int32, 2: torch.int16}[x.element_size()]
    bits = x.flatten(1).view(words)
    weights = torch.arange(1, 2 * bits.shape[1], 2, dtype=words, device=x.device)
    return (bits * weights).sum(1, dtype=words)


def _repeats(new: Tensor, checksum: Tensor, state: PGDState) -> Tensor:
    """Rows of ``new`` equal to the iterate before it or the one before that; only rows whose sums agree, which are
    few, are compared number by number."""
    stuck = (checksum == state.checksum) | (checksum == state.previous_checksum)
    if bool(stuck.any()):
        alike = stuck.nonzero().squeeze(1)
        point = new[alike]
        same = (point == state.query[alike]), (point == state.previous[alike])
        stuck[alike] = same[0].flatten(1).all(1) | same[1].flatten(1).all(1)
    return stuck
