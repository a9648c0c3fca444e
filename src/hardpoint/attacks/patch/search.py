"""A patch for one input from scores or labels alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.patch.single import patched
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.patch import PatchRegion

_MOVE_EVERY = 5
_PATIENCE = 50  # queries without progress before a new start, at least


@dataclass(frozen=True)
class PatchSearchState:
    """The best patch and place of this start with their margin, the ones asked about, and for how many queries in a
    row none was better."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor  # [n, 1, ...]
    content: Tensor
    corner: Tensor
    best_content: Tensor
    best_corner: Tensor
    value: Tensor
    stale: Tensor  # int64


@dataclass(frozen=True)
class PatchSearch(StandaloneAttack):
    """Random search over a patch's content and place (Sparse-RS, Croce et al., AAAI 2022, patches).

    Every fifth candidate moves the best patch, by less and less; the others recolour a square of it, smaller and
    smaller, with each channel at an end of the input range. What raises the margin is kept; where nothing has for a
    tenth of the queries, the search starts anew elsewhere. With labels only there is nothing to climb: every candidate
    is a new random patch at a random place.

    Args:
        queries: queries per input.
        needs: what the attack sees: scores, or labels.

    >>> PatchSearch(queries=500, needs=Access.LABELS).name
    'PatchSearch 500 by labels'
    """

    queries: int = 2000
    needs: Access = Access.SCORES

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", min(Access.parse(self.needs), Access.SCORES))
        if self.queries < 1:
            raise ThreatError(f"PatchSearch queries is {self.queries}", "give 1 or more")

    @property
    def turns(self) -> int:
        return self.queries

    @property
    def name(self) -> str:
        return f"PatchSearch {self.queries}" + (" by labels" if self.needs is Access.LABELS else "")

    def start(self, task: Task) -> PatchSearchState:
        region = patched(task, "PatchSearch")
        content, corner = self._random(region, task)
        value = torch.full((len(task),), -torch.inf, dtype=torch.float64, device=task.x.device)
        stale = torch.zeros(len(task), dtype=torch.int64, device=task.x.device)
        return self._asking(region, content, corner, content, corner, value, stale)

    def step(self, state: PatchSearchState, reply: Reply, task: Task) -> PatchSearchState:
        region = patched(task, "PatchSearch")
        if reply.scores is None:
            content, corner = self._random(region, task)
            return self._asking(region, content, corner, content, corner, state.value, state.stale)
        value = task.goal.margin(reply.scores[:, 0], task.y).double()
        better = value > state.value
        best = torch.where(per_row(better, state.content), state.content, state.best_content)
        at = torch.where(better.unsqueeze(1), state.corner, state.best_corner)
        moving = task.turn % _MOVE_EVERY == 0
        if region.location is not None:
            moving = torch.zeros_like(moving)
        content = torch.where(per_row(moving, best), best, self._recoloured(region, best, task))
        corner = torch.where(moving.unsqueeze(1), self._moved(region, at, task), at)
        value = torch.maximum(value, state.value)
        stale = torch.where(better, 0, state.stale + 1)
        stuck = stale >= max(_PATIENCE, self.queries // 10)
        if bool(stuck.any()):
            fresh, place = self._random(region, task)
            content, best = (torch.where(per_row(stuck, fresh), fresh, part) for part in (content, best))
            corner, at = (torch.where(stuck.unsqueeze(1), place, part) for part in (corner, at))
            value, stale = value.masked_fill(stuck, -torch.inf), stale.masked_fill(stuck, 0)
        return self._asking(region, content, corner, best, at, value, stale)

    @staticmethod
    def _asking(
        region: PatchRegion,
        content: Tensor,
        corner: Tensor,
        best: Tensor,
        at: Tensor,
        value: Tensor,
        stale: Tensor,
    ) -> PatchSearchState:
        query = region.pasted(content, corner).unsqueeze(1)
        return PatchSearchState(query, content, corner, best, at, value, stale)

    @staticmethod
    def _random(region: PatchRegion, task: Task) -> tuple[Tensor, Tensor]:
        """Large blocks of extreme colours at a random place: a window of stripes as Square starts with."""
        channels, side, _ = region.patch_shape
        sign = task.rng.fork("stripes").sign(task.index, (channels, 1, side), task.turn, task.x.dtype)
        low, high = region.ends_of_patch()
        return torch.where(sign > 0, high, low), region.random_corner(
            task.rng.fork("first"), task.index, task.turn
        )

    def _left(self, task: Task) -> Tensor:
        """float64 ``[n]``: the share of the queries that is left."""
        return (1 - task.turn.double() / self.queries).clamp_min(0.0)

    def _recoloured(self, region: PatchRegion, best: Tensor, task: Task) -> Tensor:
        channels, side, _ = region.patch_shape
        # the share of the side falls from a half to a pixel, as the square root of Square's areas does
        width = (0.5 * side * self._left(task).square()).round().clamp(1, side)
        u = task.rng.fork("window").uniform(task.index, (2,), task.turn, torch.float64)
        start = (u * (side - width + 1).unsqueeze(1)).floor()
        at = torch.arange(side, dtype=torch.float64, device=best.device)
        down, right = (
            (at >= start[:, k : k + 1]) & (at < (start[:, k] + width).unsqueeze(1)) for k in (0, 1)
        )
        inside = (down.unsqueeze(2) & right.unsqueeze(1)).unsqueeze(1)
        low, high = region.ends_of_patch()
        sign = task.rng.fork("colour").sign(task.index, (channels, 1, 1), task.turn, best.dtype)
        return torch.where(inside, torch.where(sign > 0, high, low), best)

    def _moved(self, region: PatchRegion, corner: Tensor, task: Task) -> Tensor:
        most = torch.tensor(region.places, dtype=torch.float64, device=corner.device)
        u = 2 * task.rng.fork("move").uniform(task.index, (2,), task.turn, torch.float64) - 1
        way = u * most * self._left(task).unsqueeze(1)
        away = torch.where(way.abs() < 1, way.sign(), way.round())
        return torch.minimum((corner + away).clamp_min(0.0), most - 1).to(torch.int64)
