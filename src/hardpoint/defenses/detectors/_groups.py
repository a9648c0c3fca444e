"""A bank of rows, arranged so that one row's nearest are found without a look at most of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.core.rng import Rng
from hardpoint.core.rows import chunks

WORTHWHILE = 4096  # rows; fewer are compared at once
_ROUNDS = 5
_ROWS = 4096
_DIRECTIONS = 15  # that a sketch keeps
_SLACK = 1e-5  # of squared lengths, for rounding
_FEW = 0.125  # of the bank: more rows than that are sketched at once, not group by group
_MOST = 0.25  # of the bank: where more than that may be near, products with all of it are faster


@dataclass(frozen=True, eq=False)
class Groups:
    """Rows around centres, each with a sketch, on the CPU. They decide how long a search takes, never what it finds.

    The k-th distance among the rows of the nearest groups is an upper bound. A group whose centre is farther than that
    and its radius holds no nearer row (triangle inequality). Of the others, each row's distance is at least that of the
    sketches: the coordinates in the few directions in which the bank varies most, and the length of the rest. Only rows
    that may be nearer than the bound are looked at in full. Memory: some twenty numbers per row.

    Attributes:
        centres: ``[C, d]``.
        radii: ``[C]``, the largest distance of a group's row to its centre.
        sizes: int64 ``[C]``.
        order: int64 ``[N]``, rows of the bank, group after group.
        mean, basis: ``[d]`` and ``[d, p]``, what sketches are taken with.
        sketches: ``[p + 1, N]``, of the rows in ``order``.
        squares: ``[N]``, their squared lengths, less what rounding may add.
    """

    centres: Tensor
    radii: Tensor
    sizes: Tensor
    order: Tensor
    mean: Tensor
    basis: Tensor
    sketches: Tensor
    squares: Tensor

    @classmethod
    def of(cls, bank: Tensor) -> Groups:
        """About ``sqrt(N)`` groups of the rows of ``bank`` ``[N, d]``, by a few rounds of k-means (Lloyd 1982), and
        sketches along its principal directions."""
        count = isqrt(len(bank))
        draws = Rng(0).fork("groups").uniform(torch.arange(len(bank)), dtype=torch.float64)
        centres = bank[draws.argsort()[:count].to(bank.device)]
        for _ in range(_ROUNDS):
            member = _nearest_centre(bank, centres)
            sums = torch.zeros_like(centres).index_add_(0, member, bank)
            sizes = torch.bincount(member, minlength=count)
            centres = torch.where(sizes.unsqueeze(1) > 0, sums / sizes.clamp_min(1).unsqueeze(1), centres)
        member = _nearest_centre(bank, centres)
        sizes = torch.bincount(member, minlength=count)
        pairs = zip(chunks(bank, _ROWS), chunks(member, _ROWS), strict=True)
        apart = torch.cat([torch.linalg.vector_norm(part - centres[of], dim=1) for part, of in pairs])
        order = member.argsort(stable=True)
        radii = bank.new_zeros(count).scatter_reduce_(0, member, apart, "amax")
        mean = bank.mean(0)
        spread = sum((_centred_products(part, mean) for part in chunks(bank, _ROWS)), bank.new_zeros(()))
        basis = torch.linalg.eigh(spread).eigenvectors[:, -_DIRECTIONS:].to(bank)
        sketches = torch.cat(
            [_sketch(bank[part], mean, basis) for part in chunks(order, _ROWS)]
        ).T.contiguous()
        squares = (1.0 - _SLACK) * sketches.square().sum(0)
        return cls(centres, radii, sizes, order, mean, basis, sketches, squares)

    @cached_property
    def _held(self) -> _Held:
        ends = self.sizes.cumsum(0).tolist()
        places = [slice(end - size, end) for end, size in zip(ends, self.sizes.tolist(), strict=True)]
        numbers = (self.centres, self.radii, self.order, self.mean, self.basis, self.sketches, self.squares)
        centres, radii, order, mean, basis, sketches, squares = (part.numpy() for part in numbers)
        return _Held(centres, radii, order, mean, basis, sketches, squares, self.sizes.numpy(), places)

    def nearest(self, row: Tensor, bank: Tensor, k: int) -> Tensor | None:
        """int64 ``[k]``: the rows of ``bank`` nearest to ``row`` ``[d]``, nearest first; None where all of the bank had
        better be looked at. In numpy, whose calls cost a fifth of torch's where they do so little."""
        held, one, rows = self._held, row.detach().numpy(), bank.detach().numpy()
        to_centres = np.sqrt(_squared(held.centres - one))
        first: list[slice] = []
        for group in np.argsort(to_centres).tolist():
            first.append(held.places[group])
            if sum(place.stop - place.start for place in first) >= k:
                break
        near = np.concatenate([held.order[place] for place in first])
        kth = float(np.partition(_squared(rows[near] - one), k - 1)[k - 1])
        if not np.isfinite(kth):
            return None
        order, sketches, squares = held.order, held.sketches, held.squares
        hit = to_centres <= (held.radii + kth**0.5) * (1.0 + _SLACK)
        if int(held.sizes[hit].sum()) <= _FEW * len(rows):
            places = [held.places[group] for group in np.flatnonzero(hit).tolist()]
            order, squares = (np.concatenate([part[place] for place in places]) for part in (order, squares))
            sketches = np.concatenate([sketches[:, place] for place in places], 1)
        own = _sketch_of(one, held.mean, held.basis)
        length = float(own @ own)
        bounds = (-2.0 * own) @ sketches
        bounds += squares
        may_be = order[np.flatnonzero(bounds <= kth + _SLACK * (1.0 + length) - length)]
        if not k <= len(may_be) <= max(k, _MOST * len(rows)):
            return None
        apart = _squared(rows[may_be] - one)
        found = np.argpartition(apart, k - 1)[:k] if k < len(apart) else np.arange(len(apart))
        return torch.from_numpy(may_be[found[np.argsort(apart[found])]])


class _Held(NamedTuple):
    """The same as arrays, and where each group's rows are."""

    centres: NDArray[Any]
    radii: NDArray[Any]
    order: NDArray[Any]
    mean: NDArray[Any]
    basis: NDArray[Any]
    sketches: NDArray[Any]
    squares: NDArray[Any]
    sizes: NDArray[Any]
    places: list[slice]


def _squared(rows: NDArray[Any]) -> NDArray[Any]:
    lengths: NDArray[Any] = np.einsum("ij,ij->i", rows, rows)
    return lengths


def _sketch_of(row: NDArray[Any], mean: NDArray[Any], basis: NDArray[Any]) -> NDArray[Any]:
    """``[p + 1]``, as ``_sketch`` makes it of rows."""
    centred = row - mean
    within = centred @ basis
    rest = centred - basis @ within
    return np.append(within, np.sqrt(rest @ rest))


def _nearest_centre(bank: Tensor, centres: Tensor) -> Tensor:
    half = 0.5 * centres.square().sum(1)
    return torch.cat([(part @ centres.T - half).argmax(1) for part in chunks(bank, _ROWS)])


def _centred_products(rows: Tensor, mean: Tensor) -> Tensor:
    centred = (rows - mean).double()
    return centred.T @ centred


def _sketch(rows: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """``[n, p + 1]``: coordinates along ``basis``, and the length of what they leave."""
    centred = rows - mean
    within = centred @ basis
    rest: Tensor = torch.linalg.vector_norm(centred - within @ basis.T, dim=1, keepdim=True)
    return torch.cat([within, rest], 1)
