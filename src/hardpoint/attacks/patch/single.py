"""A patch made for one input."""

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
from hardpoint.threats.patch import PatchRegion


def patched(task: Task, attack: str) -> PatchRegion:
    """The task's region, if it is one of patches; raises ``ThreatError`` otherwise."""
    if not isinstance(task.region, PatchRegion):
        raise ThreatError(f"{attack} places patches, this threat allows none", "use it with hp.Patch")
    return task.region


@dataclass(frozen=True)
class PatchState:
    """The image asked about, the content of its patch before printing, where it is, and where it will go."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    content: Tensor  # [n, c, side, side]
    corner: Tensor  # int64 [n, 2]
    corners: Tensor  # int64 [n, locations, 2]


@dataclass(frozen=True)
class PatchAttack(StandaloneAttack):
    """Gradient ascent on the content of a patch at several places, one after the other, until one works.

    Half of the places are those that gain most to first order at the original, kept half a side apart (one
    gradient); the others are random. Sign steps fall from the width of the input range to 0 along a half cosine.
    With a palette, what is asked about is the content in its nearest printable colours, and the gradient there moves
    the content itself (straight-through).

    After LaVAN (Karmon et al., ICML 2018) and location-optimised patches (Rao, Stutz, Schiele, ECCV Workshops 2020).

    Args:
        locations: places to try; 1 start is made at each. A fixed place is tried as often, from new random contents.
        steps: gradient steps per place.
        loss: ``"ce"``, ``"margin"`` or ``"dlr"``.

    >>> PatchAttack(locations=8, steps=20).turns
    169
    """

    locations: int = 8
    steps: int = 25
    loss: Loss | str = Loss.MARGIN
    needs: ClassVar[Access] = Access.GRADIENTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", Loss.parse(self.loss))
        if self.locations < 1 or self.steps < 1:
            raise ThreatError(
                f"PatchAttack(locations={self.locations}, steps={self.steps})",
                "give whole numbers of 1 or more",
            )

    @property
    def turns(self) -> int:
        return 1 + self.locations * (self.steps + 1)

    @property
    def name(self) -> str:
        return f"PatchAttack-{Loss.parse(self.loss).value} {self.locations}×{self.steps}"

    def objective(self, scores: Tensor, task: Task, state: PatchState) -> Tensor:
        return goal_loss(Loss.parse(self.loss), scores, task.y, task.goal)

    def start(self, task: Task) -> PatchState:
        region = patched(task, "PatchAttack")
        corners = torch.zeros(len(task), self.locations, 2, dtype=torch.int64, device=task.x.device)
        return PatchState(task.x, self._content(region, task), corners[:, 0], corners)

    def step(self, state: PatchState, reply: Reply, task: Task) -> PatchState:
        assert reply.gradient is not None
        region = patched(task, "PatchAttack")
        first = task.turn == 1
        if bool(first.any()):
            chosen = self._corners(region, reply.gradient, task)
            state = replace(state, corners=torch.where(per_row(first, chosen), chosen, state.corners))
        taken = (task.turn - 2) % (self.steps + 1)  # of the place that was asked about, where there was one
        length = region.reach * 0.5 * (1 + torch.cos(math.pi * taken / self.steps)).to(region.reach.dtype)
        slope = region.cropped(reply.gradient, state.corner)
        low, high = region.ends_of_patch()
        moved = state.content + per_row(length, slope) * slope.sign()
        moved = torch.maximum(torch.minimum(moved, high), low)
        fresh = (task.turn - 1) % (self.steps + 1) == 0
        leg = ((task.turn - 1) // (self.steps + 1)).clamp(max=self.locations - 1)
        corner = state.corners.gather(1, leg.view(-1, 1, 1).expand(-1, 1, 2)).squeeze(1)
        if bool(fresh.any()):
            moved = torch.where(per_row(fresh, moved), self._content(region, task), moved)
        return PatchState(region.pasted(moved, corner), moved, corner, state.corners)

    @staticmethod
    def _content(region: PatchRegion, task: Task) -> Tensor:
        return region.random_patch(task.rng.fork("content"), task.index, task.turn)

    def _corners(self, region: PatchRegion, gradient: Tensor, task: Task) -> Tensor:
        """int64 ``[n, locations, 2]``: the places that gain most, apart from one another, and random ones between."""
        gains = region.window_sums(region.gains(gradient))
        rows, columns = (torch.arange(most, device=gains.device) for most in gains.shape[1:])
        apart = max(1, region.side // 2)
        chosen = []
        for place in range(self.locations):
            if place % 2:
                chosen.append(region.random_corner(task.rng.fork("place"), task.index, place))
                continue
            best = gains.flatten(1).argmax(1)
            top, left = best // gains.shape[2], best % gains.shape[2]
            near = (rows - top.unsqueeze(1)).abs() < apart
            beside = (columns - left.unsqueeze(1)).abs() < apart
            taken = near.unsqueeze(2) & beside.unsqueeze(1)
            # where all places are taken the best ones come again
            gains = torch.where(taken, torch.where(torch.isfinite(gains), -1.0, gains), gains)
            chosen.append(torch.stack([top, left], dim=1))
        return torch.stack(chosen, dim=1)
