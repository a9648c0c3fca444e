"""Elementwise functions of two straight pieces: ReLU and LeakyReLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.bounds.operators.call import Call, Readers
from hardpoint.bounds.operators.operator import DOUBLE, Interval, Lines, Rising, Slopes


@dataclass(frozen=True)
class Leaky(Rising):
    """``max(z, slope z)`` with a slope between 0 and 1; ReLU for 0.

    Attributes:
        slope: where ``z`` is below 0.
    """

    slope: float = 0.0
    roundings = 1

    def value(self, *x: Tensor) -> Tensor:
        return functional.relu(x[0]) if self.slope == 0 else functional.leaky_relu(x[0], self.slope)

    def interval(self, *x: Interval) -> Interval:
        out = Interval(self.value(x[0].low), self.value(x[0].high), x[0].outward)
        return out if self.slope == 0 else out.rounded(self.roundings)

    def slopes(self, x: Interval) -> Slopes:
        """Above, the chord; below, whichever of the two pieces leaves less room (Zhang et al., "Efficient neural
        network robustness certification with general activation functions", NeurIPS 2018, section 3.3)."""
        low, high = x.low, x.high
        crossing = (low < 0) & (high > 0)
        # two numbers alone would be chosen between in float32, where a slope of 0.01 is another
        one = torch.ones_like(low)
        alone = torch.where(low >= 0, one, self.slope)
        width = torch.where(crossing, high - low, one)
        above = torch.where(crossing, (high - self.slope * low) / width, alone)
        below = torch.where(crossing, torch.where(high > -low, one, self.slope), alone)
        return Slopes(below, above)

    def between(self, x: Interval, slopes: Slopes) -> Lines:
        """The function is convex: a line is above it where it is so at both ends, and one through 0 below it where
        it is no steeper than the pieces."""
        low, high = x.low, x.high
        shift = torch.maximum(self.value(low) - slopes.high * low, self.value(high) - slopes.high * high)
        exact = torch.where(low >= 0, slopes.high == 1.0, (high <= 0) & (slopes.high == self.slope))
        if x.outward is not None:
            size = (low.abs() + high.abs()) * (1 + slopes.high.abs())
            shift = shift + size * DOUBLE.gamma(2) + DOUBLE.least
        return Lines(slopes.low, None, slopes.high, torch.where(exact, torch.zeros_like(low), shift))

    @property
    def freedom(self) -> tuple[bool, bool]:
        """Only the lower line is worth choosing: no line above is better than the chord."""
        return True, False

    def within(self, x: Interval, slopes: Slopes) -> Slopes:
        """Below, between the pieces' own, and the only right one where a single piece is left; above, any."""
        low, high = (
            (x.low, x.high) if slopes.low.dim() == x.low.dim() else (x.low.unsqueeze(1), x.high.unsqueeze(1))
        )
        chosen = torch.where(high <= 0, self.slope, slopes.low.clamp(self.slope, 1.0))
        return Slopes(torch.where(low >= 0, 1.0, chosen), slopes.high)

    def steepness(self, x: Interval) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(x.low)
        return torch.where(x.low >= 0, one, self.slope), torch.where(x.high <= 0, self.slope, one)


def _relu(call: Call, *_: Any) -> Leaky:
    return Leaky()


def _relu_function(call: Call) -> Leaky:
    call.plain("input", "inplace", inplace=False)
    return Leaky()


def _leaky_layer(call: Call, layer: Any) -> Leaky:
    return _leaky(call, layer.negative_slope)


def _leaky_function(call: Call) -> Leaky:
    slope, _ = call.plain("input", "negative_slope", "inplace", negative_slope=0.01, inplace=False)
    return _leaky(call, slope)


def _leaky(call: Call, slope: float) -> Leaky:
    if not 0 <= slope <= 1:
        raise call.unknown(f"its slope is {slope}")
    return Leaky(float(slope))


READERS = Readers(
    layers={
        nn.ReLU: _relu,
        nn.LeakyReLU: _leaky_layer,
    },
    functions={
        **dict.fromkeys((functional.relu, torch.relu, torch.relu_, "relu", "relu_"), _relu_function),
        functional.leaky_relu: _leaky_function,
    },
)
