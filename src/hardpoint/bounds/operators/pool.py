"""Pooling: the largest or the mean of a window."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.bounds.operators.call import Call, Readers
from hardpoint.bounds.operators.operator import Interval, Rising


@dataclass(frozen=True)
class Largest(Rising):
    """The largest of each window.

    Attributes:
        settings: kernel, stride, padding, dilation and ceil_mode.
    """

    settings: tuple[Any, ...]

    def value(self, *x: Tensor) -> Tensor:
        out: Tensor = functional.max_pool2d(x[0], *self.settings)
        return out

    def relaxed(self, rows: Tensor, *x: Interval) -> tuple[Sequence[Tensor], Tensor]:
        """Below, the element of each window whose lower end is highest; above, the same where no other can pass it,
        else the highest end of all (Boopathy et al., "CNN-Cert", AAAI 2019, in its simplest form)."""
        (span,) = x
        (n, channels, height, width), out = span.low.shape, rows.shape[-2:]
        numbers = torch.arange(height * width, dtype=span.low.dtype, device=span.low.device).view(
            1, 1, height, width
        )
        shown = self._windows(numbers.expand(n, channels, -1, -1), out, -1.0)
        ends = self._windows(span.high, out, -math.inf)
        _, best = functional.max_pool2d(span.low, *self.settings, return_indices=True)
        is_best = shown == best.flatten(2).unsqueeze(2).to(shown.dtype)
        rival = ends.masked_fill(is_best, -math.inf).amax(2).view(n, channels, *out)
        alone = span.low.flatten(2).gather(2, best.flatten(2)).view_as(rival) >= rival
        highest = ends.amax(2).view(n, channels, *out)
        kept = torch.where((rows > 0) | alone.unsqueeze(1), rows, 0.0)
        places = best.flatten(2).unsqueeze(1).expand(-1, rows.shape[1], -1, -1)
        empty = rows.new_zeros(*rows.shape[:3], height * width)
        part = empty.scatter_add(3, places, kept.flatten(3)).view(*rows.shape[:3], height, width)
        return [part], ((rows - kept) * highest.unsqueeze(1)).flatten(2).sum(2)

    def _windows(self, values: Tensor, out: torch.Size, beyond: float) -> Tensor:
        """``[n, C, k, windows]``: what each window shows; ``beyond`` outside the image."""
        kernel, stride, padding, dilation = self._per_axis
        pads = []
        for axis in (1, 0):
            reach = (out[axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
            pads += [padding[axis], reach - padding[axis] - values.shape[2 + axis]]
        padded = functional.pad(values, pads, value=beyond)
        found = functional.unfold(padded.flatten(0, 1).unsqueeze(1), kernel, dilation, 0, stride)
        return found.view(*values.shape[:2], *found.shape[1:])

    @property
    def _per_axis(self) -> list[tuple[int, int]]:
        """Kernel, stride, padding and dilation, a number per axis."""
        kernel, stride, *rest = self.settings[:4]
        every = (kernel, stride or kernel, *rest)
        return [(each, each) if isinstance(each, int) else (each[0], each[1]) for each in every]


@dataclass(frozen=True)
class Mean(Rising):
    """The mean of each window.

    Attributes:
        average: takes it.
    """

    average: Callable[[Tensor], Tensor]
    is_affine = True

    def value(self, *x: Tensor) -> Tensor:
        return self.average(x[0])

    def interval(self, *x: Interval) -> Interval:
        (span,) = x
        out = super().interval(span)
        if span.outward is None:
            return out
        terms = span.low[0].numel()  # no window has more
        error = self.average(span.size) * span.outward.gamma(terms) * 2
        return out.widened(error + span.outward.least * terms)


@dataclass(frozen=True)
class Pooled:
    """Averages by the settings of ``avg_pool2d``."""

    settings: tuple[Any, ...]

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = functional.avg_pool2d(x, *self.settings)
        return out


@dataclass(frozen=True)
class Overall:
    """Averages over the axes ``axes``, which are kept with length 1 where ``kept``."""

    axes: tuple[int, ...]
    kept: bool

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = x.mean(self.axes, self.kept)
        return out


_LARGEST = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_MEAN = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def _largest(call: Call, settings: list[Any]) -> Largest:
    if settings[-1]:
        raise call.unknown("it returns indices")
    return Largest(tuple(settings[:-1]))


def _largest_function(call: Call) -> Largest:
    settings = call.plain(
        "input", *_LARGEST, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
    )
    return _largest(call, settings)


def _mean(call: Call, settings: list[Any]) -> Mean:
    if settings[-1] is not None and settings[-1] <= 0:
        raise call.unknown(f"it divides by {settings[-1]}")
    return Mean(Pooled(tuple(settings)))


def _mean_function(call: Call) -> Mean:
    settings = call.plain(
        "input", *_MEAN, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    )  # fmt: skip
    return _mean(call, settings)


def _whole_image(call: Call, size: Any) -> Mean:
    if size not in (1, (1, 1), [1, 1]) or len(call.shape) != 3:
        raise call.unknown(f"its output size is {size}, not 1")
    return Mean(Overall((-2, -1), True))


def _mean_method(call: Call) -> Mean:
    axes, kept = call.plain("input", "dim", "keepdim", keepdim=False)
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    lengths = len(call.shape) + 1 + (0 if kept else len(axes))
    if any(axis % lengths == 0 for axis in axes):
        raise call.unknown("it is taken over the batch")
    return Mean(Overall(axes, kept))


READERS = Readers(
    layers={
        nn.MaxPool2d: lambda call, layer: _largest(call, [getattr(layer, name) for name in _LARGEST]),
        nn.AvgPool2d: lambda call, layer: _mean(call, [getattr(layer, name) for name in _MEAN]),
        nn.AdaptiveAvgPool2d: lambda call, layer: _whole_image(call, layer.output_size),
    },
    functions={
        functional.max_pool2d: _largest_function,
        functional.avg_pool2d: _mean_function,
        functional.adaptive_avg_pool2d: lambda call: _whole_image(call, *call.plain("input", "output_size")),
        **dict.fromkeys((torch.mean, "mean"), _mean_method),
    },
)
