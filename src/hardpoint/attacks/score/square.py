"""Square: random search over windows, seeing scores only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol, TypeGuard

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.planes import plane_of
from hardpoint.attacks.score.draws import Draws, each_turn_ahead, turns_ahead
from hardpoint.attacks.score.lengths import unit_change
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.l0 import L0Region
from hardpoint.threats.perturbation import Region

# After these queries, out of 10,000, the window's share of the input halves (paper, section 5.1).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class _Spendable(Region, Protocol):
    """A norm ball whose budget can be moved from one window to another."""

    def spare(self, z: Tensor) -> Tensor: ...


def _is_spendable(region: Region) -> TypeGuard[_Spendable]:
    return hasattr(region, "spare")  # at every turn: isinstance of a protocol takes as long as the rest of it


@dataclass(frozen=True)
class SquareState:
    """The best point so far, its value, the candidate asked about, ``[n, 1, ...]``, and what the next turns draw."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    best: Tensor
    value: Tensor
    draws: Draws


@dataclass(frozen=True)
class Square(StandaloneAttack):
    """Square attack (Andriushchenko et al., ECCV 2020), with windows and signs drawn per input.

    A candidate changes one window of the best point: to the extremes of an Linf ball, or, for L2, L1 and L0,
    by moving the budget that another window holds. It is kept if the margin grows. Windows span all channels
    (the leading axes) and a rectangle of the last two axes; on vectors they are stretches.

    Args:
        queries: queries per input.
        p_init: share of the input that the first windows cover.
        rescale: fit the shrinking schedule to ``queries``; AutoAttack does not, which keeps windows large.

    >>> Square(queries=5000).name
    'Square 5000'
    """

    queries: int = 5000
    p_init: float = 0.8
    rescale: bool = True
    needs: ClassVar[Access] = Access.SCORES

    def __post_init__(self) -> None:
        if self.queries < 1 or not 0 < self.p_init <= 1:
            raise ThreatError(
                f"Square(queries={self.queries}, p_init={self.p_init})", "give queries ≥ 1 and 0 < p_init ≤ 1"
            )

    @property
    def turns(self) -> int:
        return self.queries

    @property
    def name(self) -> str:
        return f"Square {self.queries}"

    def start(self, task: Task) -> SquareState:
        first = self._stripes(task)
        value = torch.full((len(task),), -torch.inf, dtype=torch.float64, device=task.x.device)
        return SquareState(first.unsqueeze(1), first, value, self._draws(task))

    def step(self, state: SquareState, reply: Reply, task: Task) -> SquareState:
        value = task.goal.margin(reply.seen_scores()[:, 0], task.y).double()
        better = value > state.value
        best = torch.where(per_row(better, state.best), state.query[:, 0], state.best)
        draws = state.draws if state.draws.cover(task.turn) else self._draws(task)
        return self._asking(best, torch.where(better, value, state.value), draws, task)

    def go_on(self, best: Tensor, value: Tensor, task: Task) -> SquareState:
        """The state of a search whose best points ``[n, ...]`` have the margins ``value`` ``[n]``."""
        return self._asking(best, value, self._draws(task), task)

    def _asking(self, best: Tensor, value: Tensor, draws: Draws, task: Task) -> SquareState:
        return SquareState(self._candidate(best, draws, task).unsqueeze(1), best, value, draws)

    def _stripes(self, task: Task) -> Tensor:
        """The start: for Linf, stripes across the plane at the extremes; for other balls, a random point."""
        region = task.region
        if _is_spendable(region):
            return region.sample(task.rng, task.index)
        channels, _, width = plane_of(tuple(task.x.shape[1:]))
        sign = task.rng.fork("stripes").sign(task.index, (channels, 1, width), dtype=task.x.dtype)
        return region.project(self._move(task.x, sign * per_row(2 * region.reach, sign)))

    def _candidate(self, best: Tensor, draws: Draws, task: Task) -> Tensor:
        (window, *sources), sign = draws.at(task.turn)
        region = task.region
        if not _is_spendable(region):
            pushed = self._move(task.x, sign * per_row(2 * region.reach, sign))
            return region.project(torch.where(self._like(window, best), pushed, best))
        cleared = window | sources[0]
        base = torch.where(self._like(cleared, best), task.x, best)
        # a bump that falls off from the window's middle, as the paper's L2 windows do
        bump = self._like(sign * self._bump(window.to(best.dtype)), best)
        if isinstance(region, L0Region):
            return region.project(base + region.ascent(bump, base) * per_row(region.reach, best))

        # what the window holds already weighs as much as the bump (paper, algorithm 3)
        held = torch.where(self._like(window, best), best - task.x, 0.0)
        change = unit_change(unit_change(bump, region) + unit_change(held, region), region)
        return region.project(base + change * per_row(region.spare(base).to(best.dtype), best))

    @staticmethod
    def _move(x: Tensor, by: Tensor) -> Tensor:
        channels, height, width = plane_of(tuple(x.shape[1:]))
        return (x.reshape(len(x), channels, height, width) + by).reshape(x.shape)

    @staticmethod
    def _like(values: Tensor, x: Tensor) -> Tensor:
        channels, height, width = plane_of(tuple(x.shape[1:]))
        return values.expand(len(x), channels, height, width).reshape(x.shape)

    def _draws(self, task: Task) -> Draws:
        """What is drawn for the turns from ``task.turn`` on."""
        channels, height, width = plane_of(tuple(task.x.shape[1:]))
        index, turn = each_turn_ahead(task.index, task.turn, turns_ahead((height, width)))
        marks, by_halvings = self._sizes(height, width, task.x.device)
        position = turn.double() * (10_000 / self.queries if self.rescale else 1.0)
        sizes = by_halvings[torch.bucketize(position, marks)]
        uses = ("window", "source") if _is_spendable(task.region) else ("window",)
        begins = torch.stack(
            [task.rng.fork(use).uniform(index, (2,), turn, torch.float64) for use in uses], 1
        )
        sign = task.rng.fork("sign").sign(index, (channels, 1, 1), turn, task.x.dtype)
        return Draws.of(begins, sizes.unsqueeze(1), sign, (height, width), task.turn)

    @staticmethod
    def _bump(window: Tensor) -> Tensor:
        """Each window filled with the product of two tents, highest in its middle."""
        rows, columns = window.amax(3), window.amax(2)  # [n, 1, height], [n, 1, width]
        tents = []
        for line in (rows, columns):
            from_start = line.cumsum(2) * line
            from_end = line.flip(2).cumsum(2).flip(2) * line
            tents.append(torch.minimum(from_start, from_end))
        return tents[0].unsqueeze(3) * tents[1].unsqueeze(2)

    @lru_cache(maxsize=8)  # noqa: B019 - the attack is frozen and small
    def _sizes(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The queries, of 10,000, after which windows shrink, float64 ``[h]``, and rows and columns of a window after
        so many halvings, float64 ``[h + 1, 2]``."""
        marks = torch.tensor(_HALVINGS, dtype=torch.float64, device=device)
        area = self.p_init * 0.5 ** torch.arange(len(marks) + 1, dtype=torch.float64, device=device)
        area = area * height * width
        rows = area.sqrt().round().clamp(1, height)
        columns = (area / rows).round().clamp(1, width)
        return marks, torch.stack([rows, columns], dim=1)
