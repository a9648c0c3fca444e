"""FAB: the fast adaptive boundary attack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.gradient.apgd import target_of_rank
from hardpoint.attacks.losses import Loss, goal_loss_to
from hardpoint.attacks.minimal.best import Best, check_counts, reaches_goal
from hardpoint.attacks.minimal.nearest import Nearest, to_boundary
from hardpoint.attacks.minimal.norms import Norm, moved, norm_of
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.goals import Untargeted

_NORMS = (Norm.LINF, Norm.L2, Norm.L1)


@dataclass(frozen=True)
class FABState:
    """The iterate, the boundaries compared at it, steps taken towards the present target, the target's place."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    nearest: Nearest
    taken: Tensor
    leg: Tensor
    best: Best
    done: Tensor


@dataclass(frozen=True)
class FAB(StandaloneAttack):
    """Fast adaptive boundary attack (Croce and Hein, ICML 2020, algorithm 1), one start, in Linf, L2 and L1.

    Each step linearises the margin and goes to a point between the projections of the iterate and of the original on
    the boundary, inside the input box; an adversarial iterate is drawn back towards the original before the next
    step. The step after an adversarial iterate uses the linearisation there, not at the point drawn back to: it is
    nearer to the boundary, and costs no further pass.

    With ``targets``, the boundaries to the best wrong classes of the clean input are pursued one after the other
    (FAB-T, as in AutoAttack); without, each step compares the boundaries of ``candidates`` wrong classes at the
    iterate, one gradient each.

    Args:
        steps: steps, per target.
        targets: wrong classes to pursue; None for the untargeted attack.
        candidates: wrong classes compared at each iterate by the untargeted attack.
        bias: largest weight of the original's projection (α_max of the paper).
        extrapolation: lengthens both projections (η).
        pull: share of the way from the original that an adversarial iterate keeps (β).
        patience: leave a target when the best norm has not improved by 0.1 % for so many steps; None: never.

    >>> FAB(steps=100, targets=9).name, FAB(steps=100, targets=9).turns
    ('FAB-T 9×100', 909)
    """

    steps: int = 100
    targets: int | None = None
    candidates: int = 10
    bias: float = 0.1
    extrapolation: float = 1.05
    pull: float = 0.9
    patience: int | None = None
    needs: ClassVar[Access] = Access.GRADIENTS
    minimises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_counts(
            "FAB",
            steps=self.steps,
            targets=self.targets,
            candidates=self.candidates,
            patience=self.patience,
        )
        if not (0 <= self.bias <= 1 and self.extrapolation >= 1 and 0 < self.pull < 1):
            raise ThreatError(
                f"FAB(bias={self.bias}, extrapolation={self.extrapolation}, pull={self.pull})",
                "give bias within 0 and 1, extrapolation of 1 or more, and pull between 0 and 1",
            )

    @property
    def turns(self) -> int:
        legs, asked = (self.targets, 1) if self.targets is not None else (1, self.candidates)
        return legs * (self.steps * asked + 1)

    @property
    def name(self) -> str:
        return f"FAB {self.steps}" if self.targets is None else f"FAB-T {self.targets}×{self.steps}"

    def objective(self, scores: Tensor, task: Task, state: FABState) -> Tensor:
        if self.targets is None or not isinstance(task.goal, Untargeted):
            return state.nearest.objective(scores, task)
        return goal_loss_to(Loss.MARGIN, scores, task.y, task.goal, target_of_rank(task, state.leg + 1))

    def start(self, task: Task) -> FABState:
        norm_of(task, "FAB", *_NORMS)
        return FABState(
            query=task.x,
            nearest=Nearest.nothing(task, self.candidates if self.targets is None else 1),
            taken=torch.zeros_like(task.y),
            leg=torch.zeros_like(task.y),
            best=Best.nothing(task),
            done=torch.zeros_like(task.y, dtype=torch.bool),
        )

    def step(self, state: FABState, reply: Reply, task: Task) -> FABState:
        norm = norm_of(task, "FAB", *_NORMS)
        reached = reaches_goal(reply, task)
        fresh = state.nearest.slot == 0  # else the same point again
        best = state.best.seen(state.query, reached & fresh, task)
        nearest = state.nearest.heard(state.query, reply, task, norm)
        stepping = nearest.complete
        query = state.query
        if bool(stepping.any()):
            ahead = self._ahead(state.query, reached, nearest, task, norm)
            query = torch.where(per_row(stepping, query), ahead, query)
        leg_over = fresh & ((state.taken >= self.steps) | best.stuck(self.patience))
        leg = state.leg + leg_over
        return FABState(
            query=torch.where(per_row(leg_over, query), task.x, query),
            nearest=nearest.restarted(stepping | leg_over),
            taken=torch.where(leg_over, 0, state.taken + stepping),
            leg=leg,
            best=replace(best, stale=torch.where(leg_over, 0, best.stale)),
            done=leg >= self._legs(task),
        )

    def _legs(self, task: Task) -> int:
        if self.targets is None or not isinstance(task.goal, Untargeted):
            return 1
        return min(self.targets, max(1, task.ranked.shape[1] - 1))

    def _ahead(self, at: Tensor, reached: Tensor, nearest: Nearest, task: Task, norm: Norm) -> Tensor:
        """The next iterate."""
        normal = nearest.normal.double().flatten(1)
        from_x = (at.double() - task.x.double()).flatten(1)
        level = (normal * from_x).sum(1) - nearest.value  # of the boundary, seen from the original
        kept = torch.where(reached, self.pull, 1.0).unsqueeze(1) * from_x
        base = moved(task, kept)
        left = level - (normal * kept).sum(1)
        near, _ = to_boundary(norm, nearest.normal, left, base, task)
        far, _ = to_boundary(norm, nearest.normal, level, task.x, task)
        near_size, far_size = norm.length(near), norm.length(far)
        share = (near_size / (near_size + far_size).clamp_min(1e-300)).clamp(max=self.bias).unsqueeze(1)
        change = (1 - share) * (kept + self.extrapolation * near) + share * self.extrapolation * far
        return moved(task, change)
