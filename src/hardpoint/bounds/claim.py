"""What is to be proven of every point of a box, as rows over the network's answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hardpoint.bounds.interval import class_differences


@dataclass(frozen=True)
class Claim:
    """That in every clause at least one row is above 0: ``rows @ f(x) + offset``.

    Each clause refutes one way to go wrong. That class ``y`` wins is one clause of one row for every other class; that
    a property's conjunction of inequalities cannot hold is one clause with a row for each of them.

    Attributes:
        rows: float64 ``[n, S, K]`` over the answer.
        offset: float64 ``[n, S]``.
        clause: int64 ``[S]``, counted from 0: which clause a row belongs to.
    """

    rows: Tensor
    offset: Tensor
    clause: Tensor

    @classmethod
    def of_classes(cls, y: Tensor, classes: int, margin: float = 0.0) -> Claim:
        """That the score of ``y`` int64 ``[n]`` is above every other by more than ``margin``.

        >>> Claim.of_classes(torch.tensor([1]), 3).rows
        tensor([[[-1.,  1.,  0.],
                 [ 0.,  1., -1.]]], dtype=torch.float64)
        """
        every = class_differences(torch.zeros(len(y), classes, dtype=torch.float64), y)
        if classes == 1:  # one score stands for both
            rows = every.sum(1, keepdim=True)
        else:
            others = torch.arange(classes, device=y.device).expand(len(y), -1)
            others = others[others != y.unsqueeze(1)].view(len(y), -1)
            rows = every.gather(1, others.unsqueeze(2).expand(-1, -1, classes))
        offset = rows.new_full(rows.shape[:2], -margin)
        return cls(rows, offset, torch.arange(rows.shape[1], device=y.device))

    @property
    def clauses(self) -> int:
        """How many there are."""
        return int(self.clause.max()) + 1 if len(self.clause) else 0

    def proven(self, bounds: Tensor) -> Tensor:
        """``[n, clauses]``: the best bound of each clause, of bounds ``[n, S]`` of the rows (offset included)."""
        found = bounds.new_full((len(bounds), self.clauses), -torch.inf)
        return found.scatter_reduce(1, self.clause.expand(len(bounds), -1), bounds, "amax")

    def margin(self, scores: Tensor) -> Tensor:
        """``[n]``: how far answers ``[n, K]`` are from breaking the claim; below or at 0 it is broken."""
        values = torch.einsum("nsk,nk->ns", self.rows, scores.to(self.rows)) + self.offset
        return self.proven(values).amin(1)

    def lowered(self, by: Tensor | float) -> Claim:
        """That the rows are above ``by`` ``[n, S]``, or more by a rounding."""
        offset = self.offset - by
        return replace(self, offset=torch.nextafter(offset, torch.full_like(offset, -torch.inf)))

    def of(self, index: Tensor) -> Claim:
        """For the inputs ``index`` int64 ``[m]``."""
        return replace(self, rows=self.rows[index], offset=self.offset[index])

    def only(self, open_clauses: Tensor) -> Claim:
        """Without the clauses that are false in ``open_clauses`` bool ``[clauses]``."""
        kept = open_clauses[self.clause]
        number = torch.cumsum(open_clauses.long(), 0) - 1
        return Claim(self.rows[:, kept], self.offset[:, kept], number[self.clause[kept]])
