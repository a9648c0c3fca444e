"""One round of a beam search over trees: from the best points to the moves worth asking about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.tabular.regions import table_region
from hardpoint.attacks.tabular.trees.grid import make_grid
from hardpoint.attacks.tabular.trees.moves import Moves, share
from hardpoint.attacks.tabular.trees.neighbours import Neighbours
from hardpoint.core.rows import take_rows
from hardpoint.engine.attack import Reply, Task
from hardpoint.models.trees import TreeEnsemble

# A move's gain is weighed against this share of the budget plus what it uses: moves that cost next to nothing
# should not all come before one that costs little and gains much.
_FREE_SHARE = 0.05


@dataclass(frozen=True)
class Round:
    """The points asked about in a round, and the budget within which they are looked for."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor  # [n, candidates, d]
    asked: Tensor  # bool [n, candidates]
    done: Tensor  # where there is nothing to ask about
    budget: Tensor  # float64 [n]


def first_round(trees: TreeEnsemble, task: Task, budget: Tensor, candidates: int) -> Round:
    """The best moves from the originals."""
    alive = torch.ones(len(task), 1, dtype=torch.bool)
    return promising(trees, task.x.unsqueeze(1), alive, task, budget, candidates)


def next_round(trees: TreeEnsemble, state: Round, reply: Reply, task: Task, beam: int) -> Round:
    """The best moves from the ``beam`` best points of the last round."""
    n, k = state.asked.shape
    margin = torch.full((n, k), -torch.inf, dtype=torch.float64)
    if reply.scores is not None:  # there are none where nothing was asked
        flat = reply.scores.flatten(0, 1)
        seen = task.goal.margin(flat, task.y.repeat_interleave(k)).double().view(n, k)
        margin = torch.where(state.asked, seen, margin)
    order, alive = distinct_best(margin, min(beam, k))
    points = state.query.gather(1, order.unsqueeze(2).expand(-1, -1, state.query.shape[2]))
    return promising(trees, points, alive, task, state.budget, k)


def distinct_best(value: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """int64 ``[n, count]``: where the largest values of each row are; and bool, which of them are finite and not
    there twice. Points that trees give the very same answer are the same to them.

    >>> distinct_best(torch.tensor([[1.0, 3.0, 3.0, -torch.inf]]), 3)
    (tensor([[1, 0, 2]]), tensor([[ True,  True, False]]))
    """
    ranked, order = torch.sort(value, dim=1, descending=True, stable=True)
    good = torch.isfinite(ranked)
    good[:, 1:] &= ranked[:, 1:] != ranked[:, :-1]
    first = torch.sort((~good).int(), dim=1, stable=True).indices[:, :count]
    return order.gather(1, first), good.gather(1, first)


def promising(
    trees: TreeEnsemble, points: Tensor, alive: Tensor, task: Task, budget: Tensor, count: int
) -> Round:
    """The ``count`` most promising moves from the ``points`` ``[n, beam, d]`` that are ``alive``, repaired: half are
    those that gain the most, half those that gain the most for what they use of the budget."""
    n, width = alive.shape
    region = table_region(task.region, "a search over trees")
    grid = make_grid(trees, region.schema, task.x.dtype)
    moves = Moves.of(region, grid)
    owner, z = torch.arange(n).repeat_interleave(width), points.flatten(0, 1)
    now = task.goal.margin(trees.logits(trees.raw(z)), task.y[owner]).unsqueeze(1)
    then = margin_of(trees, moves.raw(Neighbours(trees, grid), z), task, owner)
    limit = budget[owner]
    length, fits = moves.after(z, owner, limit)
    before = take_rows(region, owner).distance(z).unsqueeze(1)
    used = share(length, limit, region.norm) - share(before, limit, region.norm)
    gain = then - now
    worth = torch.where(gain > 0, gain / (used.clamp_min(0.0) + _FREE_SHARE), gain)
    fits &= alive.view(-1, 1)
    halves = [
        _top(torch.where(fits, key, -torch.inf).view(n, -1), many)
        for key, many in ((then, count - count // 2), (worth, count // 2))
    ]
    choice, asked = (torch.cat(parts, 1) for parts in zip(*halves, strict=True))
    again = (choice.unsqueeze(2) == choice.unsqueeze(1)).tril(-1) & asked.unsqueeze(1)
    asked &= ~again.any(2)  # picked for both reasons
    cells = len(grid.feature)
    who = torch.arange(n).repeat_interleave(count)
    parent = points[who, (choice // cells).flatten()]
    query, wanted = moves.apply(parent, who, (choice % cells).flatten()), asked.flatten().nonzero().squeeze(1)
    many_region = take_rows(region, who[wanted])
    query[wanted] = many_region.project(query[wanted])
    fits_repaired = many_region.distance(query[wanted]) <= budget[who[wanted]]  # repairs cost too
    asked = torch.zeros_like(asked).view(-1).index_put((wanted,), fits_repaired).view(n, count)
    return Round(query.view(n, count, -1), asked, ~asked.any(1), budget)


def margin_of(trees: TreeEnsemble, raw: Tensor, task: Task, owner: Tensor) -> Tensor:
    """``[m, k]``: the goal's margin for the sums ``raw`` ``[m, k, outputs]`` of the rows ``owner``."""
    m, k = raw.shape[:2]
    flat = trees.logits(raw).flatten(0, 1)
    return task.goal.margin(flat, task.y[owner].repeat_interleave(k)).view(m, k)


def _top(key: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where the ``count`` largest keys of each row are, ``[n, count]``, and which of them are finite."""
    best = key.topk(min(count, key.shape[1]), dim=1)
    short = count - best.values.shape[1]
    index = torch.cat([best.indices, best.indices.new_zeros(len(key), short)], 1)
    return index, torch.cat([torch.isfinite(best.values), torch.zeros(len(key), short, dtype=torch.bool)], 1)
