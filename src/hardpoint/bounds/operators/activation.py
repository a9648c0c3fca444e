"""Elementwise functions that rise: ReLU, LeakyReLU, sigmoid, tanh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.bounds.operators.call import Call, Readers
from hardpoint.bounds.operators.operator import Interval, Lines, Rising


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

    def lines(self, x: Interval) -> Lines:
        """Above, the chord; below, whichever of the two pieces leaves less room (Zhang et al., "Efficient neural
        network robustness certification with general activation functions", NeurIPS 2018, section 3.3)."""
        low, high = x.low, x.high
        crossing = (low < 0) & (high > 0)
        width = torch.where(crossing, high - low, torch.ones_like(high))
        alone = torch.where(low >= 0, 1.0, self.slope).to(low.dtype)
        chord = (high - self.slope * low) / width
        above = torch.where(crossing, chord, alone)
        shift = torch.where(crossing, (self.slope - chord) * low, torch.zeros_like(low))
        below = torch.where(crossing, torch.where(high > -low, 1.0, self.slope).to(low.dtype), alone)
        return Lines(below, torch.zeros_like(low), above, shift)


@dataclass(frozen=True)
class Smooth(Rising):
    """A sigmoid or tanh.

    Attributes:
        function: which.
    """

    function: Callable[[Tensor], Tensor]
    roundings = 8  # the functions of vector libraries err by a few units in the last place

    def value(self, *x: Tensor) -> Tensor:
        return self.function(x[0])


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


def _smooth_layer(function: Callable[[Tensor], Tensor]) -> Callable[[Call, Any], Smooth]:
    return lambda call, layer: Smooth(function)


def _smooth_function(function: Callable[[Tensor], Tensor]) -> Callable[[Call], Smooth]:
    def read(call: Call) -> Smooth:
        call.plain("input")
        return Smooth(function)

    return read


READERS = Readers(
    layers={
        nn.ReLU: _relu,
        nn.LeakyReLU: _leaky_layer,
        nn.Sigmoid: _smooth_layer(torch.sigmoid),
        nn.Tanh: _smooth_layer(torch.tanh),
    },
    functions={
        **dict.fromkeys((functional.relu, torch.relu, torch.relu_, "relu", "relu_"), _relu_function),
        functional.leaky_relu: _leaky_function,
        **dict.fromkeys((torch.sigmoid, functional.sigmoid, "sigmoid"), _smooth_function(torch.sigmoid)),
        **dict.fromkeys((torch.tanh, functional.tanh, "tanh"), _smooth_function(torch.tanh)),
    },
)
