"""Sums and differences of values, and products with constants."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.bounds.operators.call import Call, Readers, Wire
from hardpoint.bounds.operators.operator import Interval, Live, Operator, Rising, coarsest


@dataclass(frozen=True)
class Sum(Rising):
    """Of two values, as residual connections take it."""

    is_affine = True
    roundings = 1

    def value(self, *x: Tensor) -> Tensor:
        return x[0] + x[1]


@dataclass(frozen=True)
class Difference:
    """Of two values."""

    is_affine = True

    def value(self, *x: Tensor) -> Tensor:
        return x[0] - x[1]

    def interval(self, *x: Interval) -> Interval:
        first, second = x
        return Interval(first.low - second.high, first.high - second.low, coarsest(*x)).rounded()


@dataclass(frozen=True)
class Scaled:
    """``factor * z + shift`` elementwise, neither of which depends on the input.

    Attributes:
        factor, shift: broadcast against the value; read anew each time.
        divides: whether the factor is a divisor.
    """

    factor: Live | None = None
    shift: Live | None = None
    divides: bool = False
    is_affine = True

    def value(self, *x: Tensor) -> Tensor:
        out = x[0]
        if self.factor is not None:
            out = out / self.factor() if self.divides else out * self.factor()
        return out if self.shift is None else out + self.shift()

    def interval(self, *x: Interval) -> Interval:
        (span,) = x
        low, high = span.low, span.high
        if self.factor is not None:
            factor = self.factor()
            ends = (low / factor, high / factor) if self.divides else (low * factor, high * factor)
            low, high = torch.minimum(*ends), torch.maximum(*ends)
        out = Interval(low, high, span.outward).rounded()
        if self.shift is None:
            return out
        shift = self.shift()
        moved = Interval(out.low + shift, out.high + shift, span.outward)
        if span.outward is None:
            return moved
        # a shift that is no number of the arithmetic is itself rounded, whatever is left of the sum
        return moved.widened((out.size + shift.abs()) * span.outward.gamma(2) + span.outward.least)


def _plus(call: Call) -> Operator:
    first, second, alpha = call.bound("input", "other", "alpha", alpha=1)
    if alpha != 1:
        raise call.unknown(f"alpha is {alpha}")
    if isinstance(first, Wire) and isinstance(second, Wire):
        return Sum()
    return Scaled(shift=_constant(call, second if isinstance(first, Wire) else first))


def _minus(call: Call) -> Operator:
    first, second, alpha = call.bound("input", "other", "alpha", alpha=1)
    if alpha != 1:
        raise call.unknown(f"alpha is {alpha}")
    if isinstance(first, Wire) and isinstance(second, Wire):
        return Difference()
    if isinstance(first, Wire):
        held = _constant(call, second)
        return Scaled(shift=lambda: -held())
    return Scaled(factor=_constant(call, -1.0), shift=_constant(call, first))


def _times(call: Call) -> Operator:
    first, second = call.bound("input", "other")
    if isinstance(first, Wire) and isinstance(second, Wire):
        raise call.unknown("both factors depend on the input")
    return Scaled(factor=_constant(call, second if isinstance(first, Wire) else first))


def _over(call: Call) -> Operator:
    _, second, mode = call.bound("input", "other", "rounding_mode", rounding_mode=None)
    if isinstance(second, Wire) or mode is not None:
        raise call.unknown("the divisor depends on the input" if mode is None else f"it rounds by {mode}")
    return Scaled(factor=_constant(call, second), divides=True)


def _negated(call: Call) -> Operator:
    call.plain("input")
    return Scaled(factor=_constant(call, -1.0))


def _constant(call: Call, value: Any) -> Live:
    if isinstance(value, bool) or not (isinstance(value, int | float) or callable(value)):
        raise call.unknown(f"{value!r} is no number")
    if callable(value):
        held: Live = value
        return held
    return lambda: torch.tensor(float(value), dtype=torch.float64)


_Named = dict[Callable[..., Any] | str, Callable[[Call], Operator]]
_SUMS: _Named = dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _plus)
_DIFFERENCES: _Named = dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub", "sub_"), _minus)
_PRODUCTS: _Named = dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), _times)
_QUOTIENTS: _Named = dict.fromkeys((operator.truediv, operator.itruediv, torch.div, "div", "div_"), _over)
_NEGATIONS: _Named = dict.fromkeys((operator.neg, torch.neg, "neg"), _negated)
READERS = Readers(functions={**_SUMS, **_DIFFERENCES, **_PRODUCTS, **_QUOTIENTS, **_NEGATIONS})
