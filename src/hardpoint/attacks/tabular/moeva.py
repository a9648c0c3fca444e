"""Evolution towards rows that are misclassified, near and valid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.tabular.genes import crossed, gene_of, mutated, of_kind, window
from hardpoint.attacks.tabular.pareto import fronts
from hardpoint.attacks.tabular.regions import table_region
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import take_rows
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.features import FeatureEditsRegion

_SPREAD = 10.0  # index of the polynomial mutation
_UNKNOWN = 1e30


@dataclass(frozen=True)
class MOEVAState:
    """The children asked about, and the population with what each of its rows is worth."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor  # [n, offspring, d]
    asked: Tensor
    rows: Tensor  # [n, population, d]
    worth: Tensor  # float64 [n, population, 3]: minus margin, distance, violation; all to be small


@dataclass(frozen=True)
class MOEVA(StandaloneAttack):
    """Multi-objective evolutionary search for tables, on models that show scores.

    Each generation crosses parents at two points of their mutable genes, mutates some genes (numbers by polynomial
    mutation within what the budget lets a feature move, one-hot groups by another member) and repairs half of the
    children. The other half may break relations or the budget on the way to rows that do not. Survivors are chosen
    by non-dominated sorting of margin, distance and violation, the larger margin first within a front; a quarter of
    the places goes to the best margins among valid rows, which is what success needs.

    Args:
        generations: how many.
        population: rows kept per input.
        offspring: children per generation; each is one query.

    Raises:
        ThreatError: for settings out of range; and, on use, for a perturbation other than ``FeatureEdits``.

    After Simonetto, Dyrmishi, Ghamizi, Cordy and Le Traon, "A unified framework for adversarial attack and defense in
    constrained feature space" (IJCAI 2022), section 4.2, with simpler survival and with repair.

    >>> MOEVA(generations=30).name
    'MOEVA 30×32'
    """

    generations: int = 60
    population: int = 40
    offspring: int = 32
    needs: ClassVar[Access] = Access.SCORES

    def __post_init__(self) -> None:
        if self.generations < 1 or self.population < 4 or self.offspring < 2:
            raise ThreatError(
                f"MOEVA(generations={self.generations}, population={self.population}, "
                f"offspring={self.offspring})",
                "give generations ≥ 1, population ≥ 4 and offspring ≥ 2",
            )

    @property
    def turns(self) -> int:
        return self.generations

    @property
    def name(self) -> str:
        return f"MOEVA {self.generations}×{self.offspring}"

    def start(self, task: Task) -> MOEVAState:
        n, region = len(task), self._many(task)
        owner = task.index.repeat_interleave(self.offspring)
        slot = torch.arange(self.offspring, device=task.x.device).repeat(n)
        first = region.sample(task.rng.fork("first"), owner, slot).view(n, self.offspring, -1)
        rows = task.x.unsqueeze(1).expand(-1, self.population, -1).contiguous()
        worth = torch.full((n, self.population, 3), _UNKNOWN, dtype=torch.float64, device=task.x.device)
        return MOEVAState(first, torch.ones(n, self.offspring, dtype=torch.bool), rows, worth)

    def step(self, state: MOEVAState, reply: Reply, task: Task) -> MOEVAState:
        pool = torch.cat([state.rows, state.query], 1)
        worth = torch.cat([state.worth, self._worth(state, reply, task)], 1)
        kept = self._survivors(worth)
        rows = pool.gather(1, kept.unsqueeze(2).expand(-1, -1, pool.shape[2]))
        worth = worth.gather(1, kept.unsqueeze(2).expand(-1, -1, 3))
        return MOEVAState(self._children(rows, task), state.asked, rows, worth)

    def _worth(self, state: MOEVAState, reply: Reply, task: Task) -> Tensor:
        """float64 ``[n, offspring, 3]``: the objectives of the children just asked about."""
        n, k = state.asked.shape
        if reply.scores is None:
            return torch.full((n, k, 3), _UNKNOWN, dtype=torch.float64, device=task.x.device)
        margin = _rounded(task.goal.margin(reply.scores.flatten(0, 1), task.y.repeat_interleave(k)))
        region, rows = self._many(task), state.query.flatten(0, 1)
        distance, hinges = region.distance(rows), region.schema.hinges(rows)
        violation = (hinges / (1 + hinges)).sum(1)
        if math.isfinite(region.eps):
            violation = violation + (distance - region.eps).clamp_min(0.0) / max(region.eps, 1e-12)
        # what is not valid for a reason that neither measures, must not pass for valid
        violation = torch.where(region.contains(rows), 0.0, violation.clamp_min(1e-9))
        worth = torch.stack([-margin, distance, violation], 1).view(n, k, 3)
        return torch.where(state.asked.unsqueeze(2), worth, _UNKNOWN)

    def _survivors(self, worth: Tensor) -> Tensor:
        """int64 ``[n, population]``: places in the pool, the best first."""
        m = worth.shape[1]
        loss, violation = worth[:, :, 0], worth[:, :, 2]
        twin = ((worth.unsqueeze(2) == worth.unsqueeze(1)).all(3)).tril(-1).any(2)
        front = fronts(worth) + m * twin.long()
        by_loss = torch.sort(loss, dim=1, stable=True).indices
        ordered = torch.sort(front.gather(1, by_loss), dim=1, stable=True).indices
        rank = _ranks(by_loss.gather(1, ordered))
        succeeds = torch.where(twin, torch.inf, torch.where(violation == 0, loss, _UNKNOWN + violation))
        elite = _ranks(torch.sort(succeeds, dim=1, stable=True).indices) < self.population // 4
        return torch.sort(torch.where(elite, rank - m, rank), dim=1).indices[:, : self.population]

    def _children(self, rows: Tensor, task: Task) -> Tensor:
        n, k, d = len(task), self.offspring, rows.shape[2]
        region, rng = table_region(task.region, self.name), task.rng
        gene = gene_of(region.schema).to(rows.device)
        u = rng.fork("parents").uniform(task.index, (k, 2), task.turn, torch.float64)
        pick = (u.square() * self.population).long()  # the better ones more often
        first, second = (rows.gather(1, pick[:, :, i : i + 1].expand(-1, -1, d)).double() for i in (0, 1))
        child = crossed(
            first, second, gene, rng.fork("cuts").uniform(task.index, (k, 2), task.turn, torch.float64)
        )
        draw = rng.fork("which").uniform(task.index, (k, d), task.turn, torch.float64)
        rate = rng.fork("rate").uniform(task.index, (k, 1), task.turn, torch.float64)
        often = (1 + 4 * rate.square()) / max(1, int(gene.max()) + 1)
        low, high = (end.unsqueeze(1) for end in window(region))
        move = rng.fork("move").uniform(task.index, (k, d), task.turn, torch.float64)
        back = rng.fork("back").uniform(task.index, (k, d), task.turn) < 0.25
        fresh = torch.where(back, task.x.double().unsqueeze(1), mutated(child, low, high, move, _SPREAD))
        for columns in region.schema.groups.values():
            place = torch.tensor(columns, device=rows.device)
            draw[:, :, place] = draw[:, :, place[:1]]
            fresh[:, :, place] = move[:, :, place]  # the largest of equal draws: any member
        child = torch.where((draw < often) & (gene >= 0), fresh, child)
        low, high = (end.repeat_interleave(k, 0) for end in (region.low, region.high))
        whole = of_kind(child.flatten(0, 1), region.schema, low, high).to(rows.dtype)
        repair = torch.arange(k, device=rows.device).repeat(n) % 2 == 0
        return torch.where(repair.unsqueeze(1), self._many(task).project(whole), whole).view(n, k, d)

    def _many(self, task: Task) -> FeatureEditsRegion:
        owner = torch.arange(len(task), device=task.x.device).repeat_interleave(self.offspring)
        return take_rows(table_region(task.region, self.name), owner)


def _rounded(margin: Tensor) -> Tensor:
    """float64, without its last third of digits: a row asked in another place of a batch is almost always worth the
    same then."""
    digits = torch.finfo(margin.dtype).eps ** (-2 / 3)
    part, power = torch.frexp(margin.double())
    return torch.ldexp((part * digits).round() / digits, power)


def _ranks(order: Tensor) -> Tensor:
    """int64 ``[n, m]``: the place of each entry in a sorted order."""
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order, places)
