"""Limits: values kept between constants, and the larger or smaller of two values. They rise, and nothing is rounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.bounds.operators.call import Call, Readers, Wire
from hardpoint.bounds.operators.operator import Live, Operator, Rising


@dataclass(frozen=True)
class Limited(Rising):
    """``min(max(z, low), high)`` elementwise.

    Attributes:
        low, high: constants, read anew each time; None for no limit.
    """

    low: Live | None = None
    high: Live | None = None

    def value(self, *x: Tensor) -> Tensor:
        out = x[0]
        if self.low is not None:
            out = torch.maximum(out, self.low().to(out))
        return out if self.high is None else torch.minimum(out, self.high().to(out))


@dataclass(frozen=True)
class Extreme(Rising):
    """The larger or the smaller of two values, elementwise.

    Attributes:
        function: ``torch.maximum`` or ``torch.minimum``.
    """

    function: Callable[[Tensor, Tensor], Tensor]

    def value(self, *x: Tensor) -> Tensor:
        return self.function(*x)


def _limit(call: Call, value: Any) -> Live | None:
    """A limit, as a tensor that is read; infinite ones are fine, NaN is none."""
    if value is None:
        return None
    if callable(value):
        held: Live = value
        return held
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise call.unknown(f"{value!r} is no limit")
    return lambda: torch.tensor(float(value), dtype=torch.float64)


def _clamp(call: Call) -> Limited:
    first, low, high = call.bound("input", "min", "max", min=None, max=None)
    if not isinstance(first, Wire) or isinstance(low, Wire) or isinstance(high, Wire):
        raise call.unknown("its limits depend on the input")
    return Limited(_limit(call, low), _limit(call, high))


def _clamp_min(call: Call) -> Limited:
    (low,) = call.plain("input", "min")
    return Limited(_limit(call, low))


def _clamp_max(call: Call) -> Limited:
    (high,) = call.plain("input", "max")
    return Limited(None, _limit(call, high))


def _hard_tanh(call: Call) -> Limited:
    low, high, _ = call.plain(
        "input", "min_val", "max_val", "inplace", min_val=-1.0, max_val=1.0, inplace=False
    )
    return Limited(_limit(call, low), _limit(call, high))


def _relu6(call: Call) -> Limited:
    call.plain("input", "inplace", inplace=False)
    return Limited(_limit(call, 0.0), _limit(call, 6.0))


def _hard_layer(call: Call, layer: Any) -> Limited:
    return Limited(_limit(call, layer.min_val), _limit(call, layer.max_val))


def _extreme(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Operator]:
    def read(call: Call) -> Operator:
        first, second = call.bound("input", "other")
        if isinstance(first, Wire) and isinstance(second, Wire):
            return Extreme(function)
        held = _limit(call, second if isinstance(first, Wire) else first)
        return Limited(low=held) if function is torch.maximum else Limited(high=held)

    return read


READERS = Readers(
    layers={nn.ReLU6: _hard_layer, nn.Hardtanh: _hard_layer},
    functions={
        **dict.fromkeys((torch.clamp, torch.clip, "clamp", "clip", "clamp_", "clip_"), _clamp),
        **dict.fromkeys((torch.clamp_min, "clamp_min", "clamp_min_"), _clamp_min),
        **dict.fromkeys((torch.clamp_max, "clamp_max", "clamp_max_"), _clamp_max),
        functional.hardtanh: _hard_tanh,
        functional.relu6: _relu6,
        **dict.fromkeys((torch.maximum, "maximum"), _extreme(torch.maximum)),
        **dict.fromkeys((torch.minimum, "minimum"), _extreme(torch.minimum)),
    },
)
