"""What a model of trees would answer to every row that differs in one coordinate, all at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.attacks.tabular.trees.grid import Grid
from hardpoint.core.rows import chunks
from hardpoint.models.trees import TreeEnsemble

_NUMBERS_AT_ONCE = 2**20


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The sums of an ensemble after any one coordinate moves to any cell of the grid.

    Moving one coordinate into a cell makes a leaf count exactly if all its other sides hold and the cell lies
    between its ends. So one look at every side of every leaf tells, for all features and cells: each side whose
    leaf is otherwise satisfied adds the leaf's value from its first cell to its last. That is the work of scoring
    the row itself, where asking about the moves one by one would be that of scoring thousands.
    """

    trees: TreeEnsemble
    grid: Grid

    def raw(self, z: Tensor) -> Tensor:
        """float64 ``[n, cells, outputs]``: the sums of ``z`` ``[n, d]`` with one coordinate in each cell."""
        size = max(1, _NUMBERS_AT_ONCE // max(1, len(self.trees.leaves.leaf)))
        none = z.new_zeros(0, len(self.grid.feature), len(self.trees.base), dtype=torch.float64)
        return torch.cat([none, *(self._raw(part) for part in chunks(z, size))])

    def missed(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Bool ``[sides, n]``, the sides that do not hold, and int ``[leaves, n]``, how many of each leaf."""
        leaves = self.trees.leaves
        value = self.trees.rounded(z).T.contiguous()[leaves.feature]
        out = ~((value > leaves.low.unsqueeze(1)) & (value <= leaves.high.unsqueeze(1)))
        count = torch.zeros(len(leaves.tree), len(z), dtype=torch.int32)
        return out, count.index_add_(0, leaves.leaf, out.int())

    def _raw(self, z: Tensor) -> Tensor:
        leaves, grid = self.trees.leaves, self.grid
        out, missed = self.missed(z)
        side, row = (missed[leaves.leaf] == out.int()).nonzero(as_tuple=True)
        value = leaves.value[leaves.leaf[side]]  # of leaves whose other sides hold
        n, cells = len(z), len(grid.feature)
        steps = torch.zeros(n * (cells + 1), value.shape[1], dtype=torch.float64)
        steps.index_add_(0, row * (cells + 1) + grid.first[side], value)
        steps.index_add_(0, row * (cells + 1) + grid.last[side] + 1, value, alpha=-1.0)
        with_side = steps.view(n, cells + 1, -1).cumsum(1)[:, :-1]
        inside = ~out[side, row]
        present = torch.zeros(n * z.shape[1], value.shape[1], dtype=torch.float64)
        present.index_add_(0, row[inside] * z.shape[1] + leaves.feature[side[inside]], value[inside])
        without = self.trees.raw(z).unsqueeze(1) - present.view(n, z.shape[1], -1)
        return without[:, grid.feature] + with_side
