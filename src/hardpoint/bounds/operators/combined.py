"""A weighted sum of several values: what a network without its decided units consists of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hardpoint.bounds.operators.operator import Interval


@dataclass(frozen=True, eq=False)
class Combined:
    """``sum of x_i W_i^T, + b`` over flat values ``x_i``. It is searched on and proves nothing: no rounding is counted.

    Attributes:
        weights: ``[n, m, d_i]`` for each value, of each input; ``[1, m, d_i]`` where all have the same.
        bias: ``[n, m]`` or ``[1, m]``.
    """

    weights: tuple[Tensor, ...]
    bias: Tensor
    is_affine = True

    def value(self, *x: Tensor) -> Tensor:
        parts = zip(x, self.weights, strict=True)
        return torch.stack([_times(part, weight) for part, weight in parts]).sum(0) + self.bias

    def interval(self, *x: Interval) -> Interval:
        middle = self.value(*(part.middle for part in x))
        pairs = zip(x, self.weights, strict=True)
        radii = [_times(part.radius, weight.abs()) for part, weight in pairs]
        return Interval.around(middle, torch.stack(radii).sum(0))

    def each_transposed(self, rows: Tensor) -> list[Tensor]:
        """``rows`` ``[n, S, m]`` over the value, as rows over each of the values summed."""
        return [rows @ (weight[0] if len(weight) == 1 else weight) for weight in self.weights]


def _times(x: Tensor, weight: Tensor) -> Tensor:
    """``[n, m]``"""
    if len(weight) == 1:
        return functional.linear(x, weight[0])
    return (weight @ x.unsqueeze(2)).squeeze(2)
