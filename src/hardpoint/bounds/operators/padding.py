"""Padding: with a number, or with what stands at the edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.bounds.operators.call import Call, Readers
from hardpoint.bounds.operators.moves import moved
from hardpoint.bounds.operators.operator import DOUBLE, Interval, Operator, Rising


@dataclass(frozen=True)
class Padded(Rising):
    """A number before and after the last axes; negative widths take elements away. Exact.

    Attributes:
        widths: before and after the last axis, then the one before it, and so on.
        number: what is put there.
    """

    widths: tuple[int, ...]
    number: float = 0.0
    is_affine = True

    def value(self, *x: Tensor) -> Tensor:
        return functional.pad(x[0], self.widths, value=self.number)

    def interval(self, *x: Interval) -> Interval:
        (span,) = x
        out = super().interval(span)
        if span.outward is None or span.outward == DOUBLE or self.number == 0:
            return out
        # a coarser arithmetic may not have this number
        edge = functional.pad(torch.zeros_like(span.low), self.widths, value=abs(self.number))
        return out.widened(edge * span.outward.gamma(1))

    def transposed(self, rows: Tensor, shape: torch.Size) -> Tensor:
        return functional.pad(rows, [-width for width in self.widths])


def _pad_function(call: Call) -> Operator:
    widths, mode, number = call.plain("input", "pad", "mode", "value", mode="constant", value=None)
    return _padding(call, widths, mode, 0.0 if number is None else number)


def _padding(call: Call, widths: Any, mode: str, number: Any) -> Operator:
    if not isinstance(widths, tuple | list) or not all(isinstance(width, int) for width in widths):
        raise call.unknown("its widths depend on the input")
    if mode != "constant":
        return moved(_mirrored, call, tuple(widths), mode)
    if len(widths) > 2 * len(call.shape):
        raise call.unknown("it pads the batch")
    number = float(number)
    if number != number or abs(number) == float("inf"):
        raise call.unknown(f"it pads with {number}")
    return Padded(tuple(widths), number)


def _mirrored(x: Tensor, widths: tuple[int, ...], mode: str) -> Tensor:
    """Padding by what is there. Torch pads no whole numbers so; float64 holds them exactly."""
    found: Tensor = functional.pad(x.double(), widths, mode=mode)
    return found.long()


def _pad_layer(call: Call, layer: Any) -> Operator:
    number = getattr(layer, "value", 0.0)
    return _padding(call, layer.padding, "constant", number)


def _mirror_layer(mode: str) -> Any:
    def read(call: Call, layer: Any) -> Operator:
        return moved(_mirrored, call, tuple(layer.padding), mode)

    return read


READERS = Readers(
    layers={
        **dict.fromkeys((nn.ConstantPad1d, nn.ConstantPad2d, nn.ZeroPad1d, nn.ZeroPad2d), _pad_layer),
        **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d), _mirror_layer("reflect")),
        **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d), _mirror_layer("replicate")),
        **dict.fromkeys((nn.CircularPad1d, nn.CircularPad2d), _mirror_layer("circular")),
    },
    functions={functional.pad: _pad_function},
)
