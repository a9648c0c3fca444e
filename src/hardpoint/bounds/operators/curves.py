"""Smooth elementwise functions: sigmoid, tanh, GELU, SiLU, softplus, ELU."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.bounds.operators.call import Call, Readers
from hardpoint.bounds.operators.operator import DOUBLE, Interval, Lines, Slopes

_HALVINGS = 60
_FLAT = 1e-9
"""Slopes below this are taken as 0: where a curve is that steep can no longer be computed well."""

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Smooth:
    """A function with a derivative.

    A line below (above) it with a given slope is tightest where it touches: at an end of the interval or where the
    function is as steep as the line. So every slope gives a valid line, and which slope is only a matter of tightness.

    Attributes:
        function, derivative: elementwise.
        inflections: where the derivative turns, in rising order.
        steep: the points that are as steep as given slopes, where they are known in closed form.
        roundings: how many roundings of ``|z| + |f(z)|`` a vector library's value is at most away.
        slip: how far the value is from a function with this derivative, besides.
    """

    function: Function
    derivative: Function
    inflections: tuple[float, ...] = ()
    steep: Callable[[Tensor], tuple[Tensor, ...]] | None = None
    roundings: int = field(default=8)
    slip: float = 0.0

    def value(self, *x: Tensor) -> Tensor:
        return self.function(x[0])

    def interval(self, *x: Interval) -> Interval:
        (span,) = x
        ends = self._candidates(span, torch.zeros((), dtype=span.low.dtype, device=span.low.device))
        values = [self.function(end) for end in ends]
        least, most = values[0], values[0]
        for value in values[1:]:
            least, most = torch.minimum(least, value), torch.maximum(most, value)
        out = Interval(least, most, span.outward)
        if span.outward is None:
            return out
        error = (out.size + span.size) * span.outward.gamma(self.roundings) + span.outward.least
        return out.widened(error + self.slip)

    def steepness(self, x: Interval) -> tuple[Tensor, Tensor]:
        low, high = x.low, x.high
        turns = [low.new_tensor(turn).clamp(low, high) for turn in self.inflections]
        found = torch.stack([self.derivative(end) for end in (low, high, *turns)])
        return found.amin(0) - 1e-12, found.amax(0) * (1 + 1e-9) + 1e-12

    def slopes(self, x: Interval) -> Slopes:
        """Of the tangents from the ends where the curve bends both ways, else of chord and middle tangent (Zhang et
        al., "Efficient neural network robustness certification with general activation functions", NeurIPS 2018)."""
        low, high = x.low, x.high
        width = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
        chord = torch.where(
            high - low > 1e-9, (self.function(high) - self.function(low)) / width, self.derivative(low)
        )
        middle = self.derivative((low + high) / 2)
        below, above = middle.clone(), middle.clone()
        turns = [-math.inf, *self.inflections, math.inf]
        inside = torch.zeros_like(low, dtype=torch.bool)
        for start, stop in pairwise(turns):
            within = (low >= start) & (high <= stop)
            inside |= within
            probe = low.new_tensor(max(start, -30.0) / 2 + min(stop, 30.0) / 2)
            step = 1e-3
            convex = bool(self.derivative(probe + step) > self.derivative(probe - step))
            below = torch.where(within & (not convex), chord, below)
            above = torch.where(within & convex, chord, above)
        if len(self.inflections) == 1:  # convex, then concave
            turn = self.inflections[0]
            above = torch.where(inside, above, self._tangent(low, high, chord, turn, far=high))
            below = torch.where(inside, below, self._tangent(high, low, chord, turn, far=low))
        else:
            above, below = torch.where(inside, above, chord), torch.where(inside, below, chord)
        return Slopes(below, above)

    def between(self, x: Interval, slopes: Slopes) -> Lines:
        low_slope, high_slope = self._slope(slopes.low), self._slope(slopes.high)
        if low_slope.dim() > x.low.dim():  # a line of its own for each row
            x = Interval(x.low.unsqueeze(1), x.high.unsqueeze(1), x.outward)
        least, most = self._least(x, low_slope, -1.0), self._least(x, high_slope, 1.0)
        error = (1 + x.size) * (1 + slopes.low.abs() + slopes.high.abs()) * DOUBLE.gamma(self.roundings)
        error = error + self.slip
        return Lines(low_slope, least - error, high_slope, most + error)

    @property
    def freedom(self) -> tuple[bool, bool]:
        """Whether the lower and the upper slope are worth choosing."""
        return True, True

    def within(self, x: Interval, slopes: Slopes) -> Slopes:
        """No line is tighter than one as steep as the curve is somewhere."""
        least, most = self.steepness(x)
        if slopes.low.dim() > least.dim():
            least, most = least.unsqueeze(1), most.unsqueeze(1)
        return Slopes(
            *(torch.minimum(torch.maximum(part, least), most) for part in (slopes.low, slopes.high))
        )

    def _slope(self, slope: Tensor) -> Tensor:
        return torch.where(slope.abs() < _FLAT, 0.0, slope)

    def _least(self, x: Interval, slope: Tensor, sign: float) -> Tensor:
        """The least (sign -1) or greatest (1) of ``f(z) - slope z`` over the interval."""
        with torch.no_grad():
            ends = self._candidates(x, slope.detach())
            gaps = torch.stack([sign * (self.function(end) - slope * end) for end in ends])
            at = torch.stack([end.expand_as(gaps[0]) for end in ends]).gather(
                0, gaps.argmax(0, keepdim=True)
            )[0]
        return self.function(at) - slope * at

    def _candidates(self, x: Interval, slope: Tensor) -> list[Tensor]:
        """Points of the interval among which ``f(z) - slope z`` is least and greatest."""
        low, high = x.low, x.high
        if self.steep is not None:
            return [low, high, *(torch.minimum(torch.maximum(at, low), high) for at in self.steep(slope))]
        turns = [torch.full_like(low, -math.inf)]
        turns += [torch.full_like(low, turn) for turn in self.inflections]
        turns += [torch.full_like(low, math.inf)]
        found = [low, high]
        for start, stop in pairwise(turns):
            least = torch.minimum(torch.maximum(start, low), high)
            most = torch.minimum(torch.maximum(stop, low), high)
            rises = self.derivative(most) > self.derivative(least)
            shape = (most + slope).shape
            least, most, rises = least.expand(shape), most.expand(shape), rises.expand(shape)
            for _ in range(_HALVINGS):
                centre = (least + most) / 2
                beyond = (self.derivative(centre) > slope) == rises
                least, most = torch.where(beyond, least, centre), torch.where(beyond, centre, most)
            found += [least, most]
        return found

    def _tangent(self, end: Tensor, other: Tensor, chord: Tensor, turn: float, far: Tensor) -> Tensor:
        """The slope of the line from the point at ``end`` that touches the curve beyond the inflection; the chord's
        where it would touch beyond ``other``."""
        near = torch.full_like(end, turn)
        touch = far
        for _ in range(40):
            centre = (near + touch) / 2
            gap = self.derivative(centre) * (centre - end) - (self.function(centre) - self.function(end))
            beyond = gap * torch.sign(other - end) < 0
            near, touch = torch.where(beyond, near, centre), torch.where(beyond, centre, touch)
        steep = self.derivative(near)
        full = (self.derivative(far) * (far - end) - (self.function(far) - self.function(end))) * torch.sign(
            other - end
        )
        return torch.where(full >= 0, chord, steep)


def _logistic_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s)


def _logistic_steep(slope: Tensor) -> tuple[Tensor, ...]:
    root = (1 - 4 * slope.clamp(0, 0.25)).sqrt()
    at = 2 * torch.atanh(root)
    return at, -at


def _tanh_slope(z: Tensor) -> Tensor:
    return 1 - torch.tanh(z) ** 2


def _tanh_steep(slope: Tensor) -> tuple[Tensor, ...]:
    at = torch.atanh((1 - slope.clamp(0, 1)).sqrt())
    return at, -at


def _gelu_slope(z: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-z / math.sqrt(2)) + z * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _silu_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


SIGMOID = Smooth(torch.sigmoid, _logistic_slope, (0.0,), _logistic_steep)
TANH = Smooth(torch.tanh, _tanh_slope, (0.0,), _tanh_steep)
GELU = Smooth(functional.gelu, _gelu_slope, (-math.sqrt(2), math.sqrt(2)))
SILU = Smooth(functional.silu, _silu_slope, (-2.399357280515468, 2.399357280515468))
SOFTPLUS = Smooth(
    functional.softplus, torch.sigmoid, slip=2.1e-9
)  # beyond 20 torch takes z for it: a step down
ELU = Smooth(functional.elu, lambda z: torch.exp(z.clamp(max=0)))


def _layer(curve: Smooth, **settings: Any) -> Callable[[Call, Any], Smooth]:
    def read(call: Call, layer: Any) -> Smooth:
        for name, usual in settings.items():
            if getattr(layer, name) != usual:
                raise call.unknown(f"its {name} is {getattr(layer, name)!r}, not {usual!r}")
        return curve

    return read


def _function(curve: Smooth, **settings: Any) -> Callable[[Call], Smooth]:
    def read(call: Call) -> Smooth:
        given = call.plain("input", *settings, "inplace", **settings, inplace=False)
        for (name, usual), found in zip(settings.items(), given, strict=False):
            if found != usual:
                raise call.unknown(f"its {name} is {found!r}, not {usual!r}")
        return curve

    return read


READERS = Readers(
    layers={
        nn.Sigmoid: _layer(SIGMOID),
        nn.Tanh: _layer(TANH),
        nn.GELU: _layer(GELU, approximate="none"),
        nn.SiLU: _layer(SILU),
        nn.Softplus: _layer(SOFTPLUS, beta=1.0, threshold=20.0),
        nn.ELU: _layer(ELU, alpha=1.0),
    },
    functions={
        **dict.fromkeys((torch.sigmoid, functional.sigmoid, "sigmoid"), _function(SIGMOID)),
        **dict.fromkeys((torch.tanh, functional.tanh, "tanh"), _function(TANH)),
        functional.gelu: _function(GELU, approximate="none"),
        functional.silu: _function(SILU),
        functional.softplus: _function(SOFTPLUS, beta=1.0, threshold=20.0),
        functional.elu: _function(ELU, alpha=1.0),
    },
)
