"""Leaves of several trees that one row can reach together: boxes that meet, and what they add to a margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cliques:
    """Boxes that do not overlap, of which every row of the region lies in one, and a value for each.

    Boxes of intervals that meet pair by pair have a point in common, so leaves of several trees can be reached together
    exactly if each two of them can (Chen et al., "Robustness verification of tree-based models", NeurIPS 2019,
    lemma 1).

    Attributes:
        low, high: float64 ``[k, d]``, closed.
        value: float64 ``[k]``.
    """

    low: Numbers
    high: Numbers
    value: Numbers

    def __len__(self) -> int:
        return len(self.value)

    def only(self, keep: NDArray[np.bool_]) -> Cliques:
        """Those that are kept."""
        return Cliques(self.low[keep], self.high[keep], self.value[keep])


def merged(first: Cliques, second: Cliques) -> Cliques:
    """The boxes in which those of two groups meet, with the sum of their values."""
    low = np.maximum(first.low[:, None], second.low[None])
    high = np.minimum(first.high[:, None], second.high[None])
    meet = (low <= high).all(2)
    value = first.value[:, None] + second.value[None]
    return Cliques(low[meet], high[meet], value[meet])


def numbers_to_merge(first: Cliques, second: Cliques) -> int:
    """How many numbers ``merged`` has to look at."""
    return len(first) * len(second) * max(1, int(first.low.shape[1]))


def smallest(groups: Sequence[Cliques]) -> float:
    """The sum of the groups' smallest values: no row has less."""
    return float(sum(group.value.min() for group in groups))


def levelled(groups: Sequence[Cliques], size: int, most: int) -> list[Cliques]:
    """Each ``size`` groups in a row merged to one, where that takes no more than ``most`` numbers at a time."""
    made: list[Cliques] = []
    count = 0
    for group in groups:
        if made and 0 < count < size and numbers_to_merge(made[-1], group) <= most:
            made[-1] = merged(made[-1], group)
            count += 1
        else:
            made.append(group)
            count = 1
    return made
