"""The values that matter to an ensemble of trees: between two thresholds nothing changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from hardpoint.models.trees import TreeEnsemble
from hardpoint.threats.features import Kind, Schema


@dataclass(frozen=True)
class Grid:
    """For each feature, the cells between neighbouring thresholds, with the first and last allowed value of each.

    Attributes:
        feature: int64 ``[cells]``, rising; a feature without thresholds is one cell.
        low, high: float64 ``[cells]``, the ends of a cell, inclusive, as values of the rows' type and the
            feature's kind; low above high where no such value lies in the cell.
        first, last: int64 ``[sides]``, the cells that each side of a leaf (see ``LeafTable``) spans.
    """

    feature: Tensor
    low: Tensor
    high: Tensor
    first: Tensor
    last: Tensor

    def cells_of(self, values: Tensor) -> Tensor:
        """int64 ``[n, d]``: the cell in which each value of ``[n, d]`` lies."""
        size = values.new_zeros(values.shape[1], dtype=torch.int64).index_add_(
            0, self.feature, torch.ones_like(self.feature)
        )
        passed = (self.high < values.double()[:, self.feature]).long()
        count = torch.zeros(values.shape, dtype=torch.int64).index_add_(1, self.feature, passed)
        return size.cumsum(0) - size + count

    def holding(self, value: float) -> Tensor:
        """int64 ``[d]``: the cell of each feature in which ``value`` lies."""
        return self.cells_of(torch.full((1, int(self.feature[-1]) + 1), value))[0]


@lru_cache(maxsize=4)
def make_grid(trees: TreeEnsemble, schema: Schema, dtype: torch.dtype) -> Grid:
    """The grid of ``trees`` for rows of type ``dtype``."""
    leaves = trees.leaves
    cuts = torch.stack([leaves.feature.double(), leaves.high], 1)[torch.isfinite(leaves.high)]
    cuts = torch.unique(
        cuts, dim=0
    )  # sorted by feature, then by threshold; every cut is some side's upper end
    owner = cuts[:, 0].long()
    below, above = beside(cuts[:, 1], trees.precision, dtype)
    below, above = _of_kind(schema, owner, below, above, dtype)
    counts = torch.bincount(owner, minlength=trees.features)
    start = torch.cat([torch.zeros(1, dtype=torch.int64), (counts + 1).cumsum(0)])
    feature = torch.arange(trees.features).repeat_interleave(counts + 1)
    low = torch.full((len(feature),), -torch.inf, dtype=torch.float64)
    high = torch.full_like(low, torch.inf)
    cut_place = torch.arange(len(cuts)) + owner  # of the cell that ends at the cut
    high[cut_place], low[cut_place + 1] = below, above
    first, last = start[leaves.feature], start[leaves.feature + 1] - 1
    for column in range(trees.features):
        mine = (leaves.feature == column).nonzero().squeeze(1)
        marks = cuts[owner == column, 1].contiguous()
        opened, closed = torch.isfinite(leaves.low[mine]), torch.isfinite(leaves.high[mine])
        after = start[column] + torch.searchsorted(marks, leaves.low[mine].contiguous()) + 1
        until = start[column] + torch.searchsorted(marks, leaves.high[mine].contiguous())
        first[mine] = torch.where(opened, after, first[mine])
        last[mine] = torch.where(closed, until, last[mine])
    return Grid(feature, low, high, first, last)


def beside(cut: Tensor, precision: torch.dtype, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The last value of type ``dtype`` that goes left at each threshold, and the first that goes right.

    ``precision`` is the type to which the trees round a value before they compare it: a float64 value goes right
    of a float32 tree's threshold from the middle between two float32 numbers on.

    >>> below, above = beside(torch.tensor([0.1], dtype=torch.float64), torch.float64, torch.float32)
    >>> bool(below <= 0.1), bool(above > 0.1), bool(torch.nextafter(below.float(), above.float()) == above)
    (True, True, True)
    """
    cut = cut.double()
    infinity = torch.tensor(torch.inf)
    if precision == dtype == torch.float64:
        return cut, torch.nextafter(cut, infinity.double())
    rounded = cut.float()
    left = torch.where(rounded.double() > cut, torch.nextafter(rounded, -infinity), rounded)
    right = torch.nextafter(left, infinity)
    if dtype == torch.float32:
        return left.double(), right.double()
    middle = left.double() + (right.double() - left.double()) / 2
    goes_left = middle.float().double() <= cut
    return (
        torch.where(goes_left, middle, torch.nextafter(middle, -infinity.double())),
        torch.where(goes_left, torch.nextafter(middle, infinity.double()), middle),
    )


def _of_kind(
    schema: Schema, owner: Tensor, below: Tensor, above: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The ends moved to the nearest values that the features can take."""
    whole = schema.mask(Kind.INTEGER, Kind.BINARY, Kind.ONE_HOT)[owner]
    below, above = torch.where(whole, below.floor(), below), torch.where(whole, above.ceil(), above)
    for column, feature in enumerate(schema.features):
        mine = owner == column
        if feature.levels and bool(mine.any()):
            levels = torch.tensor(feature.levels, dtype=torch.float64).to(dtype).double()
            ends = torch.cat([levels.new_tensor([-torch.inf]), levels, levels.new_tensor([torch.inf])])
            below[mine] = ends[torch.searchsorted(levels, below[mine], right=True)]
            above[mine] = ends[torch.searchsorted(levels, above[mine]) + 1]
    return below, above
