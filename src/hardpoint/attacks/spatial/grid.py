"""Trying every pose of a grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.spatial import SpatialRegion

_AT_ONCE = 16


@dataclass(frozen=True)
class SpatialGridState:
    """The poses asked about, and the order in which each input meets them, int64 ``[n, poses]``."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor  # [n, k, ...]
    asked: Tensor
    done: Tensor
    order: Tensor


@dataclass(frozen=True)
class SpatialGrid(StandaloneAttack):
    """The worst of a grid of rotations and translations (Engstrom et al., ICML 2019, "grid search").

    Labels are all it needs. The largest moves come first, in an order of each input's own. With ``poses=None`` all
    of the grid is tried, so an input that stands is robust to the threat, not only to this attack.

    Args:
        poses: how many poses to try; None for all (for the default threat, 775).

    >>> from hardpoint.threats.spatial import Spatial
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
    >>> x = torch.eye(4).view(1, 1, 4, 4)
    >>> SpatialGrid()(model, x, model(x).argmax(1), Spatial(rotation=90, angles=3)).queries <= 75
    tensor([True])
    """

    poses: int | None = None
    needs: ClassVar[Access] = Access.LABELS
    exhaustive: ClassVar[bool] = (
        True  # so it asks the model itself: a copy may round a pose's answer the other way
    )

    def __post_init__(self) -> None:
        if self.poses is not None and self.poses < 1:
            raise ThreatError(f"SpatialGrid poses is {self.poses}", "give 1 or more, or None for all")

    @property
    def queries(self) -> int | None:
        """Queries per input that stands, where they are known."""
        return self.poses

    @property
    def turns(self) -> int | None:
        return None  # the threat's grid says when it is over

    @property
    def name(self) -> str:
        return "SpatialGrid" if self.poses is None else f"SpatialGrid {self.poses}"

    def start(self, task: Task) -> SpatialGridState:
        region = self._region(task)
        shuffled = (
            task.rng.fork("poses").uniform(task.index, (len(region.poses),)).argsort(dim=1, stable=True)
        )
        falling = region.sizes[shuffled].argsort(dim=1, descending=True, stable=True)
        order = shuffled.gather(1, falling)
        if self.poses is not None:
            order = order[:, : self.poses]
        nothing = torch.zeros(len(task), dtype=torch.bool, device=task.x.device)
        empty = SpatialGridState(task.x.unsqueeze(1), nothing.unsqueeze(1), nothing, order)
        return self._ask(empty, task)

    def step(self, state: SpatialGridState, reply: Reply, task: Task) -> SpatialGridState:
        return self._ask(state, task)

    def _ask(self, state: SpatialGridState, task: Task) -> SpatialGridState:
        """The next poses of each input's order."""
        region, total = self._region(task), state.order.shape[1]
        place = task.turn.unsqueeze(1) * _AT_ONCE + torch.arange(_AT_ONCE, device=task.x.device)
        asked = place < total
        pose = state.order.gather(1, place.clamp(max=total - 1))
        rows = torch.arange(len(task), device=task.x.device).repeat_interleave(_AT_ONCE)
        query = region.images(rows, pose.flatten()).view(len(task), _AT_ONCE, *task.x.shape[1:])
        return replace(state, query=query, asked=asked, done=~asked[:, 0])

    @staticmethod
    def _region(task: Task) -> SpatialRegion:
        if not isinstance(task.region, SpatialRegion):
            raise ThreatError("SpatialGrid tries poses, this threat has none", "use it with hp.Spatial")
        return task.region
