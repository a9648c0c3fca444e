"""Everything that a walk over leaf tuples looks at from where it stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.attacks.tabular.regions import table_region
from hardpoint.attacks.tabular.trees.beam import margin_of
from hardpoint.attacks.tabular.trees.grid import make_grid
from hardpoint.attacks.tabular.trees.moves import Moves
from hardpoint.attacks.tabular.trees.neighbours import Neighbours
from hardpoint.core.rows import take_rows
from hardpoint.engine.attack import Task
from hardpoint.models.trees import TreeEnsemble
from hardpoint.threats.features import Kind, Norm


@dataclass(frozen=True)
class Surroundings:
    """One point per row, with what trees answer around it.

    Attributes:
        z: ``[n, d]``, the points.
        raw, margin: ``[n, cells, outputs]`` and ``[n, cells]``, after each move of one coordinate.
        out: bool ``[sides, n]``, the sides of leaves (see ``LeafTable``) that do not hold.
        missed: int ``[leaves, n]``, how many of each leaf.
    """

    trees: TreeEnsemble
    task: Task
    moves: Moves
    z: Tensor
    raw: Tensor
    margin: Tensor
    out: Tensor
    missed: Tensor

    @classmethod
    def of(cls, trees: TreeEnsemble, task: Task, z: Tensor) -> Surroundings:
        """The surroundings of ``z``."""
        region = table_region(task.region, "a search over trees")
        moves = Moves.of(region, make_grid(trees, region.schema, task.x.dtype))
        neighbours = Neighbours(trees, moves.grid)
        raw = moves.raw(neighbours, z)
        margin = margin_of(trees, raw, task, torch.arange(len(z)))
        return cls(trees, task, moves, z, raw, margin, *neighbours.missed(z))

    def leaf_moves(self) -> tuple[Tensor, Tensor, Tensor]:
        """For each leaf that two or more coordinates must move for, ``[n, leaves]``: the length of the edit then
        (infinite for other leaves and where it is not allowed), and the larger of two estimates of the margin. And
        int64 ``[n, sides]``, the cell in which each side holds nearest to the original."""
        leaves, moves, out = self.trees.leaves, self.moves, self.out.T
        grid, region, n = moves.grid, moves.region, len(self.z)
        own = grid.cells_of(region.x)[:, leaves.feature]
        target = torch.minimum(torch.maximum(own, grid.first), grid.last)
        hot = region.schema.mask(Kind.ONE_HOT)[leaves.feature]
        closed = out & (~moves.allowed.gather(1, target) | hot)
        zero = torch.zeros(n, len(leaves.tree), dtype=torch.float64)
        blocked = zero.index_add(1, leaves.leaf, closed.double()) > 0
        after = self._lengths(out, target)
        good = (self.missed.T >= 2) & ~blocked
        return torch.where(good, after, torch.inf), self._estimates(out, target), target

    def _lengths(self, out: Tensor, target: Tensor) -> Tensor:
        leaves, moves = self.trees.leaves, self.moves
        new = moves.size.gather(1, target)
        if moves.region.norm is Norm.LINF:  # of the coordinates that move; the others may be longer
            longest = torch.zeros(len(out), len(leaves.tree), dtype=torch.float64)
            where = leaves.leaf.expand_as(new)
            return longest.scatter_reduce(1, where, torch.where(out, new, 0.0), "amax")
        held = moves.size.gather(1, moves.grid.cells_of(self.z))[:, leaves.feature]
        if moves.region.norm is Norm.L0:
            new, held = (new != 0).double(), (held != 0).double()
        power = 2 if moves.region.norm is Norm.L2 else 1
        total = moves.region.distance(self.z).pow(power).unsqueeze(1).expand(-1, len(leaves.tree))
        change = torch.where(out, new.pow(power) - held.pow(power), 0.0)
        return total.index_add(1, leaves.leaf, change).clamp_min(0.0).pow(1 / power)

    def _estimates(self, out: Tensor, target: Tensor) -> Tensor:
        leaves = self.trees.leaves
        now = self.trees.raw(self.z).unsqueeze(1)
        inside = (self.missed.T == 0).double()
        n, trees = len(self.z), len(self.trees.trees)
        held = torch.zeros(n, trees, now.shape[2], dtype=torch.float64)
        held.index_add_(1, leaves.tree, inside.unsqueeze(2) * leaves.value)
        swapped = now + leaves.value - held[:, leaves.tree]
        added = now.expand(-1, len(leaves.tree), -1).clone()
        for output in range(now.shape[2]):
            step = self.raw[:, :, output].gather(1, target) - now[:, :, output]
            added[:, :, output].index_add_(1, leaves.leaf, torch.where(out, step, 0.0))
        owner = torch.arange(n)
        one, other = (margin_of(self.trees, raw, self.task, owner) for raw in (added, swapped))
        return torch.maximum(one, other)

    def settled(self, points: Tensor, asked: Tensor, limit: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """``points`` ``[n, k, d]`` with every coordinate at the value of its cell nearest to the original, which
        leaves them in the same leaves and never further away; then repaired, and filled up to ``count``."""
        n, k, _ = points.shape
        owner = torch.arange(n).repeat_interleave(k)
        flat, moves = points.flatten(0, 1), self.moves
        cell = moves.grid.cells_of(flat)
        hot = moves.region.schema.mask(Kind.ONE_HOT)
        value = moves.value[owner].gather(1, cell).to(flat.dtype)
        flat = torch.where(moves.allowed[owner].gather(1, cell) & ~hot, value, flat)
        region = take_rows(moves.region, owner)
        fixed = region.project(flat)
        asked = asked & (region.distance(fixed) < limit[owner]).view(n, k)
        spare = count - k
        query = torch.cat([fixed.view(n, k, -1), self.z.unsqueeze(1).expand(-1, spare, -1)], 1)
        return query, torch.cat([asked, asked.new_zeros(n, spare)], 1)
