"""Which decision boundary is nearest: one gradient per reply, class by class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.losses import Loss, goal_loss_to
from hardpoint.attacks.minimal.hyperplane import onto_hyperplane
from hardpoint.attacks.minimal.norms import Norm, room
from hardpoint.core.rows import per_row, put_rows, take_rows
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.goals import Untargeted


@dataclass(frozen=True)
class Nearest:
    """The classes compared at one point, in consecutive turns, and the nearest boundary among those heard.

    The first question is about the goal's margin, the next ones about the best wrong classes at the point by its own
    scores. Boundaries are linearised and compared by their distance within the input box (DeepFool,
    Moosavi-Dezfooli et al., CVPR 2016, equations 8 to 10, for all at once). A targeted goal has one boundary.

    Attributes:
        order: int64 ``[n, k]``, the classes; -1 where there are fewer.
        slot: int64 ``[n]``, which of them the next reply is about.
        complete: bool ``[n]``, all were heard.
        normal: ``[n, ...]``, gradient of the nearest boundary's margin.
        value: float64 ``[n]``, that margin; negative on the right side.
        away: float64 ``[n]``, its distance; infinite where one class is compared, as nothing is then measured.
    """

    HAS_ROWS: ClassVar[bool] = True
    order: Tensor
    slot: Tensor
    complete: Tensor
    normal: Tensor
    value: Tensor
    away: Tensor

    @classmethod
    def nothing(cls, task: Task, candidates: int) -> Nearest:
        """Before the first reply at a point."""
        n, device = len(task), task.x.device
        endless = torch.full((n,), torch.inf, dtype=torch.float64, device=device)
        return cls(
            order=torch.full((n, candidates), -1, dtype=torch.int64, device=device),
            slot=torch.zeros_like(task.y),
            complete=torch.zeros(n, dtype=torch.bool, device=device),
            normal=torch.zeros_like(task.x),
            value=-endless,
            away=endless,
        )

    def objective(self, scores: Tensor, task: Task) -> Tensor:
        """``[n]``: the margin to ask for."""
        margin = task.goal.margin(scores, task.y)
        if not isinstance(task.goal, Untargeted) or not bool((self.slot > 0).any()):
            return margin
        slot = self.slot.clamp(max=self.order.shape[1] - 1).unsqueeze(1)  # rows that are done ride along
        label = self.order.gather(1, slot).squeeze(1).clamp_min(0)
        return torch.where(
            self.slot == 0, margin, goal_loss_to(Loss.MARGIN, scores, task.y, task.goal, label)
        )

    def heard(self, point: Tensor, reply: Reply, task: Task, norm: Norm) -> Nearest:
        """With the reply about ``point``."""
        assert reply.gradient is not None and reply.value is not None  # noqa: PT018
        first = self.slot == 0
        order = torch.where(first.unsqueeze(1), self._ordered(reply, task), self.order)
        value = reply.value.double()
        away = self.away
        if order.shape[1] > 1:  # one boundary alone is the nearest, however far
            away = distance_ahead(norm, reply.gradient, value, point, task)
        nearer = first | (away < self.away)
        following = (self.slot + 1).clamp(max=order.shape[1] - 1)
        more = (self.slot + 1 < order.shape[1]) & (order.gather(1, following.unsqueeze(1)).squeeze(1) >= 0)
        return Nearest(
            order=order,
            slot=self.slot + 1,
            complete=~more,
            normal=torch.where(per_row(nearer, point), reply.gradient, self.normal),
            value=torch.where(nearer, value, self.value),
            away=torch.where(nearer, away, self.away),
        )

    def _ordered(self, reply: Reply, task: Task) -> Tensor:
        """The wrong classes by falling score, as many as there is room for."""
        order = torch.full_like(self.order, -1)
        if not isinstance(task.goal, Untargeted):
            order[:, 0] = 0
            return order
        scores = reply.seen_scores()
        count = min(order.shape[1], scores.shape[1] - 1)
        wrong = scores.scatter(1, task.y.unsqueeze(1), -torch.inf)
        order[:, :count] = wrong.topk(count, dim=1).indices
        return order

    def where(self, rows: Tensor, other: Nearest) -> Nearest:
        """These in ``rows``, ``other`` elsewhere."""
        index = (~rows).nonzero().squeeze(1)
        return put_rows(self, index, take_rows(other, index))

    def restarted(self, where: Tensor) -> Nearest:
        """With the rows ``where`` at a new point, nothing heard."""
        return replace(self, slot=torch.where(where, 0, self.slot), complete=self.complete & ~where)


def distance_ahead(norm: Norm, normal: Tensor, value: Tensor, point: Tensor, task: Task) -> Tensor:
    """float64 ``[n]``: from ``point`` to the linearised boundary within the box. Boundaries beyond the box rank
    behind all others, by what is missing."""
    change, reaches = to_boundary(norm, normal, -value, point, task)
    missing = -value - (normal.double().flatten(1) * change).sum(1)
    return torch.where(reaches, norm.length(change), 1e100 * (1 + missing.abs()))


def to_boundary(norm: Norm, normal: Tensor, gap: Tensor, point: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """``onto_hyperplane`` from ``point`` within the input box; float64 ``[n, d]`` and bool ``[n]``."""
    return onto_hyperplane(norm, normal.flatten(1), gap, *room(task, point))
