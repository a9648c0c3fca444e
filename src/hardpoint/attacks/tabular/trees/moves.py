"""Moves of one coordinate (or one-hot group) into another cell: where they lead, what they cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.attacks.tabular.regions import scale_of
from hardpoint.attacks.tabular.trees.grid import Grid
from hardpoint.attacks.tabular.trees.neighbours import Neighbours
from hardpoint.threats.features import FeatureEditsRegion, Norm


@dataclass(frozen=True)
class Moves:
    """All moves of each row: per cell the value to move to, and how long the edit is then.

    Attributes:
        value: float64 ``[n, cells]``, the value of the cell nearest to the original.
        allowed: bool ``[n, cells]``, whether bounds and mutability allow it; of one-hot columns the one cell that
            holds 1.
        size: float64 ``[n, cells]``, what the coordinate then adds to the distance.
        slot: int64 ``[cells]``, the column that holds the coordinate's size: of a group the first.
    """

    region: FeatureEditsRegion
    grid: Grid
    value: Tensor
    allowed: Tensor
    size: Tensor
    slot: Tensor

    @classmethod
    def of(cls, region: FeatureEditsRegion, grid: Grid) -> Moves:
        """The moves of every row of ``region``."""
        at, own = grid.feature, region.x.double()
        low = torch.maximum(grid.low, region.low[:, at])
        high = torch.minimum(grid.high, region.high[:, at])
        value = torch.minimum(torch.maximum(own[:, at], low), high)
        allowed = (low <= high) & (region.low < region.high)[:, at]
        scale = scale_of(region)
        size = (value - own[:, at]).abs() * scale[:, at]
        slot = at.clone()
        ones = grid.holding(1.0)
        for columns in region.schema.groups.values():
            place = torch.tensor(columns)
            mine = torch.isin(at, place)
            slot[mine], allowed[:, mine] = columns[0], False
            cells = ones[place]
            allowed[:, cells] = (region.low < region.high)[:, place]
            value[:, cells] = 1.0
            was = own[:, place].argmax(1, keepdim=True)
            paid = (scale[:, place] + scale[:, place].gather(1, was)) / 2
            size[:, cells] = torch.where(was == torch.arange(len(columns)), 0.0, paid)
        return cls(region, grid, value, allowed, size, slot)

    def after(self, z: Tensor, owner: Tensor, budget: Tensor) -> tuple[Tensor, Tensor]:
        """float64 ``[m, cells]``: the length of the edit after each move of the points ``z`` ``[m, d]`` of the rows
        ``owner``; and bool, whether the move is one and fits the budgets ``[m]``."""
        region = self.region
        held = _sizes(region, z, owner)
        here, new = held[:, self.slot], self.size[owner]
        match region.norm:
            case Norm.L2:
                rest = (held.square().sum(1, keepdim=True) - here.square()).clamp_min(0.0)
                length = (rest + new.square()).sqrt()
            case Norm.L1:
                length = (held.sum(1, keepdim=True) - here).clamp_min(0.0) + new
            case Norm.LINF:
                top = held.topk(min(2, held.shape[1]), dim=1)
                first, second = top.values[:, :1], top.values[:, -1:]
                others = torch.where(self.slot == top.indices[:, :1], second, first)
                length = torch.maximum(others if held.shape[1] > 1 else new, new)
            case Norm.L0:
                length = ((held != 0).sum(1, keepdim=True) - (here != 0).long() + (new != 0)).double()
        moved = self.value[owner] != z.double()[:, self.grid.feature]
        fits = self.allowed[owner] & moved & (length <= budget.unsqueeze(1))
        if region.max_changed is not None:
            changed = (held != 0).sum(1, keepdim=True) - (here != 0).long() + (new != 0)
            fits &= changed <= region.max_changed
        return length, fits

    def raw(self, neighbours: Neighbours, z: Tensor) -> Tensor:
        """``[m, cells, outputs]``: the sums after each move; for one-hot groups what setting one column and unsetting
        another change separately, added up."""
        raw = neighbours.raw(z)
        if not self.region.schema.groups:
            return raw
        now = neighbours.trees.raw(z)
        ones, zeros = self.grid.holding(1.0), self.grid.holding(0.0)
        for columns in self.region.schema.groups.values():
            place = torch.tensor(columns)
            unset = zeros[place[z[:, place].argmax(1)]]
            change = raw[torch.arange(len(z)), unset] - now
            raw[:, ones[place]] += change.unsqueeze(1)
        return raw

    def apply(self, z: Tensor, owner: Tensor, cell: Tensor) -> Tensor:
        """The points ``z`` ``[m, d]`` of the rows ``owner`` after the moves ``cell`` ``[m]``."""
        moved = z.clone()
        for columns in self.region.schema.groups.values():
            place = torch.tensor(columns)
            here = torch.isin(self.grid.feature[cell], place).nonzero().squeeze(1)
            moved[here.unsqueeze(1), place] = 0.0
        rows = torch.arange(len(z))
        moved[rows, self.grid.feature[cell]] = self.value[owner, cell].to(z.dtype)
        return moved


def _sizes(region: FeatureEditsRegion, z: Tensor, owner: Tensor) -> Tensor:
    """float64 ``[m, d]``: what each coordinate of ``z`` adds to its distance, a group's in its first column."""
    size = (z.double() - region.x.double()[owner]).abs() * scale_of(region)[owner]
    for columns in region.schema.groups.values():
        place = list(columns)
        total = size[:, place].sum(1) / 2
        size[:, place] = 0.0
        size[:, columns[0]] = total
    return size


def share(length: Tensor, budget: Tensor, norm: Norm) -> Tensor:
    """What part of the budget ``[m]`` the lengths ``[m, ...]`` use, as it adds up over coordinates: squares for L2.
    Without a budget, the range of a feature stands for it."""
    unit = torch.where(torch.isfinite(budget) & (budget > 0), budget, 1.0)
    part = length / unit.view(-1, *([1] * (length.dim() - 1)))
    return part.square() if norm is Norm.L2 else part
