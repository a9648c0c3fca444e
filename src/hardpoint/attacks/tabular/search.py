"""Black-box search inside a table's constraints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import per_row, take_rows
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.perturbation import Region

_CHILDREN = 16


@dataclass(frozen=True)
class TableSearchState:
    """A population of allowed rows per input with their margins, and the children asked about."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor  # [n, children, ...]
    asked: Tensor
    parents: Tensor  # [n, parents, ...]
    fitness: Tensor  # float64 [n, parents]


@dataclass(frozen=True)
class TableSearch(StandaloneAttack):
    """Evolutionary search over rows that satisfy every constraint.

    Children come from two parents by uniform crossover, then some coordinates are redrawn from a random move of
    the original, and the result is projected back onto the constraints; the best of parents and children
    survive. With scores, fitness is the margin. With labels only there is no fitness to climb: the search then
    draws allowed rows of every size of change, crossing them with one another.

    The region does all the geometry, so what a constraint is does not matter here.

    Args:
        queries: queries per input.
        parents: rows kept per input.
        mutation: chance that a coordinate of a child is redrawn, at the start; it adapts per child.
        needs: what the attack sees: scores, or labels.

    >>> TableSearch(queries=200).name
    'TableSearch 200'
    """

    queries: int = 1000
    parents: int = 24
    mutation: float = 0.2
    needs: Access = Access.SCORES

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", min(Access.parse(self.needs), Access.SCORES))
        if self.queries < 1 or self.parents < 2 or not 0 < self.mutation <= 1:
            raise ThreatError(
                f"TableSearch(queries={self.queries}, parents={self.parents}, mutation={self.mutation})",
                "give queries ≥ 1, parents ≥ 2 and 0 < mutation ≤ 1",
            )

    @property
    def turns(self) -> int:
        return -(-self.queries // _CHILDREN)

    @property
    def name(self) -> str:
        return f"TableSearch {self.queries}" + (" by labels" if self.needs is Access.LABELS else "")

    def start(self, task: Task) -> TableSearchState:
        n = len(task)
        parents = task.x.unsqueeze(1).expand(n, self.parents, *task.x.shape[1:]).contiguous()
        fitness = torch.full((n, self.parents), -torch.inf, dtype=torch.float64, device=task.x.device)
        return TableSearchState(self._random(task, "first"), self._may_ask(task), parents, fitness)

    def step(self, state: TableSearchState, reply: Reply, task: Task) -> TableSearchState:
        shape = task.x.shape[1:]
        fitness = self._fitness(reply, state.asked, task)
        pool = torch.cat([state.parents, state.query], dim=1)
        value = torch.cat([state.fitness, fitness], dim=1)
        kept, order = value.sort(dim=1, descending=True, stable=True)
        order = order[:, : self.parents].view(-1, self.parents, *([1] * len(shape)))
        parents = pool.gather(1, order.expand(-1, -1, *shape))
        return TableSearchState(
            self._children(parents, task), self._may_ask(task), parents, kept[:, : self.parents]
        )

    def _fitness(self, reply: Reply, asked: Tensor, task: Task) -> Tensor:
        n, k = asked.shape
        if reply.scores is None:
            # no slope to follow: new rows push out old ones, which keeps the population moving
            value = task.turn.double().unsqueeze(1).expand(n, k)
        else:
            flat = reply.scores.flatten(0, 1)
            value = task.goal.margin(flat, task.y.repeat_interleave(k)).double().view(n, k)
        return torch.where(asked, value, -torch.inf)

    def _may_ask(self, task: Task) -> Tensor:
        left = self.queries - task.turn * _CHILDREN
        slots = torch.arange(_CHILDREN, device=task.x.device)
        return slots < left.unsqueeze(1)

    def _random(self, task: Task, use: str) -> Tensor:
        """Random allowed rows to start from, ``[n, children, ...]``; draw j of an input belongs to it alone."""
        rng, many = task.rng.fork(use), self._repeated(task)
        counter = task.turn.repeat_interleave(_CHILDREN) * _CHILDREN + _slot(task)
        drawn: Tensor = many.sample(rng, task.index.repeat_interleave(_CHILDREN), counter)
        return drawn.view(len(task), _CHILDREN, *task.x.shape[1:])

    def _children(self, parents: Tensor, task: Task) -> Tensor:
        n, shape = len(task), tuple(task.x.shape[1:])
        rng = task.rng
        # rank selection: the square of a uniform number prefers the better parents
        u = rng.fork("parents").uniform(task.index, (_CHILDREN, 2), task.turn, torch.float64)
        pair = (u.square() * self.parents).long()
        first, second = (_pick(parents, pair[:, :, side]) for side in (0, 1))
        mask = rng.fork("cross").uniform(task.index, (_CHILDREN, *shape), task.turn) < 0.5
        child = torch.where(mask, first, second)
        rate = rng.fork("rate").uniform(task.index, (_CHILDREN,), task.turn) * 2 * self.mutation
        draw = rng.fork("mutate").uniform(task.index, (_CHILDREN, *shape), task.turn)
        mutate = draw < rate.view(n, _CHILDREN, *([1] * len(shape)))
        many = self._repeated(task)
        child = torch.where(mutate, self._moves(many, task).view_as(child), child)
        return many.project(child.flatten(0, 1)).view(n, _CHILDREN, *shape)

    def _moves(self, many: Region, task: Task) -> Tensor:
        """Originals moved in random directions, up to across the region; not yet allowed, ``project`` follows."""
        shape = tuple(task.x.shape[1:])
        noise = (
            task.rng.fork("way")
            .normal(task.index, (_CHILDREN, *shape), task.turn, task.x.dtype)
            .flatten(0, 1)
        )
        far = task.rng.fork("far").uniform(task.index, (_CHILDREN,), task.turn, task.x.dtype).flatten()
        length = 2 * far * many.reach.to(noise.dtype)
        return many.x + per_row(length, noise) * many.ascent(noise, many.x)

    @staticmethod
    def _repeated(task: Task) -> Region:
        owner = torch.arange(len(task), device=task.x.device).repeat_interleave(_CHILDREN)
        return take_rows(task.region, owner)


def _slot(task: Task) -> Tensor:
    return torch.arange(_CHILDREN, device=task.x.device).repeat(len(task))


def _pick(parents: Tensor, which: Tensor) -> Tensor:
    shape = parents.shape[2:]
    return parents.gather(1, which.view(*which.shape, *([1] * len(shape))).expand(-1, -1, *shape))
