"""Many targets, most promising first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.gradient.apgd import target_of_rank
from hardpoint.attacks.losses import Loss, goal_loss, goal_loss_to
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.goals import Untargeted


@dataclass(frozen=True)
class MultiTargetedState:
    """The iterate, and per probed target the best gain reached and where."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    gain: Tensor
    order: Tensor


@dataclass(frozen=True)
class MultiTargeted(StandaloneAttack):
    """A short probe towards each of the best wrong classes, then a long run towards the most promising.

    The targets are ordered by the score difference z_t - z_y that the probe reached, not by the clean scores
    (after Gao et al., "Fast and reliable evaluation of adversarial robustness with minimum-margin attack",
    ICML 2022). Steps fall from twice the budget to zero along a half cosine.

    Args:
        targets: wrong classes to probe.
        probe_steps: gradient steps per probe.
        top: targets to pursue.
        steps: gradient steps per pursuit.
        restarts: pursuits of each of these targets, in the same order, from starts of their own.

    >>> MultiTargeted(targets=9, probe_steps=5, top=3, steps=25).turns
    132
    """

    targets: int = 9
    probe_steps: int = 5
    top: int = 3
    steps: int = 25
    restarts: int = 1
    needs: ClassVar[Access] = Access.GRADIENTS

    def __post_init__(self) -> None:
        least = min(self.targets, self.probe_steps, self.top, self.steps, self.restarts)
        if least < 1 or self.top > self.targets:
            raise ThreatError(
                f"MultiTargeted(targets={self.targets}, probe_steps={self.probe_steps}, top={self.top}, "
                f"steps={self.steps}, restarts={self.restarts})",
                "give whole numbers of 1 or more, and top at most targets",
            )

    @property
    def turns(self) -> int:
        return self.targets * (self.probe_steps + 1) + self.restarts * self.top * (self.steps + 1)

    @property
    def name(self) -> str:
        pursuits = f"{self.top}×{self.steps}"
        if self.restarts > 1:
            pursuits = f"{self.restarts}×({pursuits})"
        return f"MultiTargeted {self.targets}×{self.probe_steps} + {pursuits}"

    def start(self, task: Task) -> MultiTargetedState:
        gain = torch.full((len(task), self.targets), -torch.inf, dtype=torch.float64, device=task.x.device)
        order = torch.arange(1, self.targets + 1, device=task.x.device).repeat(len(task), 1)
        return MultiTargetedState(self._fresh(task), gain, order)

    def _fresh(self, task: Task) -> Tensor:
        return task.region.sample(task.rng, task.index, task.turn)

    def _place(self, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For the point asked at ``turn``: its leg (probe or pursuit number), steps taken in it, its length."""
        probing = self.targets * (self.probe_steps + 1)
        in_probe = turn < probing
        beyond = (turn - probing).clamp_min(0)
        leg = torch.where(in_probe, turn // (self.probe_steps + 1), self.targets + beyond // (self.steps + 1))
        taken = torch.where(in_probe, turn % (self.probe_steps + 1), beyond % (self.steps + 1))
        return leg, taken, torch.where(in_probe, self.probe_steps, self.steps)

    def _rank(self, leg: Tensor, order: Tensor) -> Tensor:
        """int64 ``[n]``: the rank of the target of each input's leg."""
        pursued = (leg - self.targets).clamp_min(0) % self.top
        pursuit = order.gather(1, pursued.unsqueeze(1)).squeeze(1)
        return torch.where(leg < self.targets, leg + 1, pursuit)

    def objective(self, scores: Tensor, task: Task, state: MultiTargetedState) -> Tensor:
        if not isinstance(task.goal, Untargeted):
            return goal_loss(Loss.MARGIN, scores, task.y, task.goal)
        leg, _, _ = self._place(task.turn)
        return goal_loss_to(
            Loss.MARGIN, scores, task.y, task.goal, target_of_rank(task, self._rank(leg, state.order))
        )

    def step(self, state: MultiTargetedState, reply: Reply, task: Task) -> MultiTargetedState:
        assert reply.gradient is not None and reply.value is not None  # noqa: PT018
        leg, taken, length = self._place(task.turn - 1)  # of the point just answered
        gain = self._remember(state.gain, leg, reply.value)
        first_pursuit = task.turn == self.targets * (self.probe_steps + 1)
        ordered = gain.argsort(dim=1, descending=True, stable=True) + 1
        order = torch.where(first_pursuit.unsqueeze(1), ordered, state.order)

        size = task.region.reach * (1 + torch.cos(math.pi * taken / length))
        ascent = task.region.ascent(reply.gradient, state.query)
        moved = task.region.project(state.query + per_row(size.to(state.query.dtype), ascent) * ascent)
        leg_over = taken == length
        if bool(leg_over.any()):
            moved = torch.where(per_row(leg_over, moved), self._fresh(task), moved)
        return MultiTargetedState(moved, gain, order)

    def _remember(self, gain: Tensor, leg: Tensor, value: Tensor) -> Tensor:
        """The best value each probe has reached; pursuits leave it as it is."""
        place = leg.clamp(max=self.targets - 1).unsqueeze(1)
        probing = leg < self.targets
        seen = torch.where(probing, value.double(), -torch.inf).unsqueeze(1)
        return gain.scatter_reduce(1, place, seen, "amax")
