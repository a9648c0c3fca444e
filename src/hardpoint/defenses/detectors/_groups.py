"""A bank of rows, arranged so that one row's nearest are found without a look at most of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.core.rows import chunks

WORTHWHILE = 4096  # rows; fewer are compared at once
_GROUP = 64  # rows
_DIRECTIONS = 20  # that a sketch keeps
_BOXED = 8  # of them, those in which the bank varies most
_FIRST = 8  # groups, for an upper bound
_ROWS = 4096
_SLACK = 1e-5  # of squared lengths, for rounding
_MOST = 0.125  # of the bank: where more than that may be near, products with all of it are faster


@dataclass(frozen=True, eq=False)
class Groups:
    """Rows in boxes, each with a sketch, on the CPU. They decide how long a search takes, never what it finds.

    Sketches are coordinates along the directions in which the bank varies most: their distance is a lower bound. A box
    holds the sketches of a group, made by halving the bank along its widest direction again and again (Bentley,
    "Multidimensional binary search trees", CACM 1975). The best sketches in the nearest boxes give an upper bound; only
    sketches in boxes that are not beyond it are compared, and only rows whose sketches are not beyond it are looked at.
    Memory: some twenty numbers per row. In numpy, whose calls cost a fifth of torch's where they do so little.

    Attributes:
        rows: ``[N, d]``, the bank, shared with it.
        members: int64 ``[C, m]``, which rows are in a group; a shorter one repeats one of its rows.
        sketches: ``[C, p + 1, m]``, of the members: minus twice the coordinates, and their squared length, infinite for
            a repetition.
        low, high: ``[_BOXED, C]``, corners of the boxes.
        basis: ``[d, p + 1]``, the directions, and a column of zeros.
        reach: the largest squared length of a sketch.
    """

    rows: NDArray[Any]
    members: NDArray[np.int64]
    sketches: NDArray[Any]
    low: NDArray[Any]
    high: NDArray[Any]
    basis: NDArray[Any]
    reach: float

    @classmethod
    def of(cls, bank: Tensor) -> Groups:
        """Those of the rows of ``bank`` ``[N, d]``."""
        mean = bank.mean(0)
        spread = sum((_centred_products(part, mean) for part in chunks(bank, _ROWS)), bank.new_zeros(()))
        basis = torch.linalg.eigh(spread).eigenvectors.flip(1)[:, :_DIRECTIONS]
        sketches = torch.cat([(part.double() @ basis).to(bank) for part in chunks(bank, _ROWS)])
        parts = _halved(sketches, torch.arange(len(bank)), max(1, len(bank) // _GROUP))
        most = max(map(len, parts))
        members = torch.stack([torch.cat([part, part[:1].expand(most - len(part))]) for part in parts])
        squares = sketches.square().sum(1)
        held = torch.cat([-2.0 * sketches, squares.unsqueeze(1)], 1)[members]
        for group, part in zip(held, parts, strict=True):
            group[len(part) :, -1] = torch.inf
        boxed = sketches[:, :_BOXED][members]
        return cls(
            bank.numpy(),
            members.numpy(),
            held.transpose(1, 2).contiguous().numpy(),
            boxed.amin(1).T.contiguous().numpy(),
            boxed.amax(1).T.contiguous().numpy(),
            torch.cat([basis, basis.new_zeros(len(basis), 1)], 1).to(bank).contiguous().numpy(),
            float(squares.max()),
        )

    @property
    def order(self) -> Tensor:
        """int64 ``[N]``: the rows of the bank, group after group."""
        return torch.from_numpy(self.members[self.sketches[:, -1] < np.inf])

    def kth(self, row: NDArray[Any], k: int) -> tuple[int, float] | None:
        """Which row is the ``k``-th nearest to ``row`` ``[d]``, and its distance; None where all of the bank had better
        be looked at."""
        sketch = row @ self.basis
        own = sketch[: len(self.low), None]
        beyond = np.maximum(own, self.low)
        np.minimum(beyond, self.high, out=beyond)
        beyond -= own
        beyond *= beyond
        to_boxes = beyond.sum(0)
        length = float(sketch @ sketch)
        sketch[-1] = 1.0
        slack = _SLACK * (length + self.reach)
        groups, most = self.members.shape
        count = min(groups, max(_FIRST, 4 * k // max(1, most - 1) + 1))
        first = to_boxes.argpartition(count - 1)[:count]
        best = (sketch @ self.sketches.take(first, 0)).ravel().argpartition(k - 1)[:k]
        bound = float(self._squares(self.members.take(first, 0).ravel().take(best), row).max()) + slack
        if not isfinite(bound):
            return None
        hit = (to_boxes <= bound).nonzero()[0]
        near = (sketch @ self.sketches.take(hit, 0) <= bound + slack - length).ravel().nonzero()[0]
        if not k <= len(near) <= max(k, _MOST * len(self.rows)):
            return None
        candidates = self.members.take(hit, 0).ravel().take(near)
        squares = self._squares(candidates, row)
        found = squares.argpartition(k - 1)[k - 1]
        return int(candidates[found]), float(squares[found]) ** 0.5

    def _squares(self, which: NDArray[np.int64], row: NDArray[Any]) -> NDArray[Any]:
        apart = self.rows.take(which, 0)
        apart -= row
        apart *= apart
        squares: NDArray[Any] = apart.sum(1)
        return squares


def _halved(sketches: Tensor, rows: Tensor, count: int) -> list[Tensor]:
    """``rows`` in ``count`` parts whose sizes differ by at most one."""
    if count == 1:
        return [rows]
    own = sketches[rows]
    rows = rows[own[:, int(own.var(0).argmax())].argsort(stable=True)]
    left = count // 2
    cut = len(rows) * left // count
    return _halved(sketches, rows[:cut], left) + _halved(sketches, rows[cut:], count - left)


def _centred_products(rows: Tensor, mean: Tensor) -> Tensor:
    centred = (rows - mean).double()
    return centred.T @ centred
