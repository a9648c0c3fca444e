"""Which leaves of each tree a box of rows reaches, and what part of the box each is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.bounds.trees.cliques import Cliques, Numbers
from hardpoint.core.errors import ModelError
from hardpoint.models.trees import TreeEnsemble


@dataclass(frozen=True, eq=False)
class Sides:
    """The leaves of an ensemble as closed intervals of values that the ensemble can tell apart.

    A value is rounded to the ensemble's precision before it is compared, so ``low < x <= high`` is the same as lying
    between the next value above ``low`` and the last not above ``high``, both of that precision: with these, whether
    boxes meet is exact.

    Attributes:
        tree: int64 ``[leaves]``, rising.
        logits: float64 ``[leaves, K]``.
        leaf, feature: int64 ``[sides]``.
        low, high: float64 ``[sides]``, closed.
    """

    tree: NDArray[np.int64]
    logits: Numbers
    leaf: NDArray[np.int64]
    feature: NDArray[np.int64]
    low: Numbers
    high: Numbers


def sides_of(trees: TreeEnsemble) -> Sides:
    """The leaves of ``trees``.

    Raises:
        ModelError: for a threshold of minus infinity.
    """
    if any(bool((tree.threshold == -torch.inf).any()) for tree in trees.trees):
        raise ModelError(f"{trees.name} has a threshold of minus infinity", "fit it again on finite values")
    leaves, precision = trees.leaves, trees.precision
    high = _rounded(leaves.high, precision, up=False)
    # above an open end there is everything
    low = torch.where(leaves.low == -torch.inf, leaves.low, _above(leaves.low, precision))
    return Sides(
        leaves.tree.numpy(),
        trees.logits(leaves.value).numpy(),
        leaves.leaf.numpy(),
        leaves.feature.numpy(),
        low.numpy(),
        high.numpy(),
    )


def _rounded(values: Tensor, precision: torch.dtype, *, up: bool) -> Tensor:
    """float64: the nearest values of ``precision`` not below (``up``) or not above ``values``."""
    near = values.to(precision)
    beyond = near.double() < values if up else near.double() > values
    end = torch.full_like(near, torch.inf if up else -torch.inf)
    return torch.where(beyond, torch.nextafter(near, end), near).double()


def _above(values: Tensor, precision: torch.dtype) -> Tensor:
    """float64: the smallest values of ``precision`` above ``values``."""
    near = _rounded(values, precision, up=True)
    next_one = torch.nextafter(near.to(precision), torch.full_like(near.to(precision), torch.inf)).double()
    return torch.where(near > values, near, next_one)


@dataclass(frozen=True, eq=False)
class Reach:
    """What of an ensemble one box of rows reaches.

    Attributes:
        columns: int64 ``[c]``, the features that decide between leaves inside the box.
        leaves: for each tree the places of its leaves in reach.
        low, high: for each tree float64 ``[leaves, c]``, the part of the box in which each leaf is reached.
    """

    columns: NDArray[np.int64]
    leaves: tuple[NDArray[np.int64], ...]
    low: tuple[Numbers, ...]
    high: tuple[Numbers, ...]

    def groups(self, values: Numbers) -> tuple[list[Cliques], float]:
        """One group per tree, leaf values from ``values`` ``[all leaves]``; trees that say the same everywhere are
        left out, and what they add is the second answer."""
        made, constant = [], 0.0
        for leaves, low, high in zip(self.leaves, self.low, self.high, strict=True):
            value = values[leaves]
            if (value == value[0]).all():
                constant += float(value[0])
            else:
                made.append(Cliques(low, high, value))
        return made, constant


def reach(sides: Sides, low: Numbers, high: Numbers) -> Reach:
    """The leaves that rows between ``low`` and ``high`` (``[d]``, rounded to the ensemble's precision) end in.

    Raises:
        ModelError: where a tree has no leaf for the box, which cannot be.
    """
    missed = (sides.low > high[sides.feature]) | (sides.high < low[sides.feature])
    met = np.bincount(sides.leaf[missed], minlength=len(sides.tree)) == 0
    cuts = (sides.low > low[sides.feature]) | (sides.high < high[sides.feature])
    use = met[sides.leaf] & cuts
    columns = np.unique(sides.feature[use])
    place = np.flatnonzero(met)
    rank = np.cumsum(met) - 1
    own_low, own_high = np.tile(low[columns], (len(place), 1)), np.tile(high[columns], (len(place), 1))
    at = (rank[sides.leaf[use]], np.searchsorted(columns, sides.feature[use]))
    own_low[at] = np.maximum(own_low[at], sides.low[use])
    own_high[at] = np.minimum(own_high[at], sides.high[use])
    count = int(sides.tree[-1]) + 1
    ends = np.searchsorted(sides.tree[place], np.arange(1, count))
    leaves = np.split(place, ends)
    if any(len(part) == 0 for part in leaves):
        raise ModelError("a tree has no leaf for a row of the box", "give rows of finite values")
    return Reach(columns, tuple(leaves), tuple(np.split(own_low, ends)), tuple(np.split(own_high, ends)))
