"""Linear layers and convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.bounds.operators.call import Call, Readers, Wire
from hardpoint.bounds.operators.operator import Interval, Live, UnknownOperator


@dataclass(frozen=True)
class Weighted:
    """``map(x, W) + b``, linear in ``x`` and in ``W``: a linear layer or a convolution.

    Attributes:
        map: which of them.
        weight, bias: read anew each time.
    """

    map: Product
    weight: Live
    bias: Live | None
    is_affine = True

    def value(self, *x: Tensor) -> Tensor:
        return self.map(x[0], self.weight(), self.bias() if self.bias is not None else None)

    def interval(self, *x: Interval) -> Interval:
        """``W c + b ± |W| r`` (Gowal et al., "On the effectiveness of interval bound propagation", 2018, eq. 6)."""
        (span,) = x
        weight, bias = self.weight(), self.bias() if self.bias is not None else None
        if span.outward is None:
            if span.is_centred:
                middle, radius = span.middle, span.radius
            else:  # sums and differences of the ends, halved where there is less to halve
                middle, radius, weight = span.low + span.high, span.high - span.low, weight / 2
            return Interval.around(self.map(middle, weight, bias), self.map(radius, weight.abs(), None))
        out = Interval.around(
            self.map(span.middle, weight, bias), self.map(span.radius, weight.abs(), None), span.outward
        )
        terms = weight[0].numel()
        sizes = self.map(span.size, weight.abs(), bias.abs() if bias is not None else None)
        return out.widened(sizes * span.outward.gamma(terms) * 2 + span.outward.least * terms)

    def transposed(self, rows: Tensor, shape: torch.Size) -> Tensor:
        return self.map.transposed(rows, self.weight(), shape)


class Product(Protocol):
    """A product of inputs and weights."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The product, and the bias."""
        ...

    def transposed(self, rows: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """Rows over the values as rows over inputs of ``shape``."""
        ...


@dataclass(frozen=True)
class Linear:
    """``x W^T + b``."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, weight, bias)

    def transposed(self, rows: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return rows @ weight


@dataclass(frozen=True)
class Convolved:
    """A convolution by its settings.

    Attributes:
        axes: 1 or 2.
        settings: stride, padding, dilation and groups.
    """

    axes: int
    settings: tuple[Any, ...]

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve = functional.conv1d if self.axes == 1 else functional.conv2d
        return convolve(x, weight, bias, *self.settings)

    def transposed(self, rows: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """By a transposed convolution, padded to the size that the input had."""
        if self.per_axis is None:
            with torch.enable_grad():
                nothing = rows.new_zeros(len(rows), *shape).requires_grad_(True)
                out = self(nothing, weight, None)
            return torch.autograd.grad(out, nothing, rows, create_graph=torch.is_grad_enabled())[0]
        stride, padding, dilation, groups = self.per_axis
        sizes = zip(
            shape[-self.axes :], weight.shape[2:], rows.shape[2:], stride, padding, dilation, strict=True
        )
        missing = [
            size - ((out - 1) * s - 2 * p + d * (kernel - 1) + 1) for size, kernel, out, s, p, d in sizes
        ]
        transpose = functional.conv_transpose1d if self.axes == 1 else functional.conv_transpose2d
        return transpose(rows, weight, None, stride, padding, missing, groups[0], dilation)

    @property
    def per_axis(self) -> list[list[int]] | None:
        """Stride, padding, dilation and groups, a number per axis; None where the padding is a word."""
        if isinstance(self.settings[1], str):
            return None
        return [[each] * self.axes if isinstance(each, int) else list(each) for each in self.settings]


def _linear_layer(call: Call, layer: Any) -> Weighted:
    return Weighted(Linear(), lambda: layer.weight, _or_none(layer, "bias"))


def _convolution_layer(axes: int) -> Callable[[Call, Any], Weighted]:
    def read(call: Call, layer: Any) -> Weighted:
        if layer.padding_mode != "zeros":
            raise UnknownOperator(f"{call.place} pads by {layer.padding_mode!r}", "pad with zeros")
        settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
        return Weighted(Convolved(axes, settings), lambda: layer.weight, _or_none(layer, "bias"))

    return read


def _or_none(layer: Any, name: str) -> Live | None:
    return None if getattr(layer, name) is None else lambda: getattr(layer, name)


def _linear_function(call: Call) -> Weighted:
    x, weight, bias = call.bound("input", "weight", "bias", bias=None)
    return Weighted(Linear(), *_weights(call, x, weight, bias))


def _convolution_function(axes: int) -> Callable[[Call], Weighted]:
    def read(call: Call) -> Weighted:
        x, weight, bias, *settings = call.bound(
            "input", "weight", "bias", "stride", "padding", "dilation", "groups",
            bias=None, stride=1, padding=0, dilation=1, groups=1,
        )  # fmt: skip
        return Weighted(Convolved(axes, tuple(settings)), *_weights(call, x, weight, bias))

    return read


def _weights(call: Call, x: Any, weight: Any, bias: Any) -> tuple[Live, Live | None]:
    if not isinstance(x, Wire) or not callable(weight) or not (bias is None or callable(bias)):
        raise call.unknown("its weights depend on the input")
    return weight, bias


READERS = Readers(
    layers={
        nn.Linear: _linear_layer,
        nn.Conv1d: _convolution_layer(1),
        nn.Conv2d: _convolution_layer(2),
    },
    functions={
        functional.linear: _linear_function,
        functional.conv1d: _convolution_function(1),
        functional.conv2d: _convolution_function(2),
    },
)
