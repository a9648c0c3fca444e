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
        weights: ``[m, d_i]`` for each value.
        bias: ``[m]``.
    """

    weights: tuple[Tensor, ...]
    bias: Tensor
    is_affine = True

    def value(self, *x: Tensor) -> Tensor:
        out = functional.linear(x[0], self.weights[0], self.bias)
        for part, weight in zip(x[1:], self.weights[1:], strict=True):
            out = out + functional.linear(part, weight)
        return out

    def interval(self, *x: Interval) -> Interval:
        middle = self.value(*(part.middle for part in x))
        pairs = zip(x, self.weights, strict=True)
        radii = [functional.linear(part.radius, weight.abs()) for part, weight in pairs]
        return Interval.around(middle, torch.stack(radii).sum(0))

    def each_transposed(self, rows: Tensor) -> list[Tensor]:
        """``rows`` ``[r, m]`` over the value, as rows over each of the values summed."""
        return [rows @ weight for weight in self.weights]
