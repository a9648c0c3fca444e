"""Batch norms: affine, once it is said which statistics they normalise by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.bounds.operators.call import Call, Readers, Wire
from hardpoint.bounds.operators.operator import Interval, Live, Operator, UnknownOperator


@dataclass(frozen=True)
class Normed:
    """Normalisation by given statistics.

    Attributes:
        layer: the batch norm, or ``Given``, whose weights are read anew each time.
        mean, variance: per channel; None for the layer's running statistics.
    """

    layer: Any
    mean: Tensor | None = None
    variance: Tensor | None = None
    is_affine = True

    def value(self, *x: Tensor) -> Tensor:
        mean, variance = self._statistics()
        if self.mean is None:
            return functional.batch_norm(
                x[0], mean, variance, self.layer.weight, self.layer.bias, False, 0.0, self.layer.eps
            )
        scale, shift = self._scale(mean, variance)
        return torch.addcmul(_across(shift, x[0]), x[0], _across(scale, x[0]))

    def interval(self, *x: Interval) -> Interval:
        (span,) = x
        mean, variance = self._statistics()
        scale, shift = self._scale(mean, variance)
        middle = torch.addcmul(_across(shift, span.middle), span.middle, _across(scale, span.middle))
        out = Interval.around(middle, span.radius * _across(scale.abs(), middle), span.outward)
        if span.outward is None:
            return out
        sizes = (span.size + _across(mean.abs(), span.low)) * _across(scale.abs(), span.low)
        if self.layer.bias is not None:
            sizes = sizes + _across(self.layer.bias.abs(), span.low)
        return out.widened(sizes * span.outward.gamma(8) + span.outward.least)

    def scale(self) -> Tensor:
        """``[channels]``: what a value is multiplied with."""
        return self._scale(*self._statistics())[0]

    def _statistics(self) -> tuple[Tensor, Tensor]:
        if self.mean is not None and self.variance is not None:
            return self.mean, self.variance
        return self.layer.running_mean, self.layer.running_var

    def _scale(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.rsqrt(variance + self.layer.eps)
        if self.layer.weight is not None:
            scale = scale * self.layer.weight
        shift = -mean * scale
        return scale, shift if self.layer.bias is None else shift + self.layer.bias


@dataclass(frozen=True)
class Learning:
    """A batch norm in training mode: what it is depends on the batch that it is settled with (Shi et al., "Fast
    certified robust training with short warmup", NeurIPS 2021, section 4.2: by the statistics of the clean batch).

    Attributes:
        layer: the batch norm.
    """

    layer: Any

    def value(self, *x: Tensor) -> Tensor:
        out: Tensor = self.layer(x[0])
        return out

    def interval(self, *x: Interval) -> Interval:
        raise UnknownOperator(
            "a batch norm in training mode has no statistics yet", "settle the graph with a clean batch first"
        )

    def settled(self, x: Tensor) -> tuple[Operator, Tensor]:
        axes = [0, *range(2, x.dim())]
        variance, mean = torch.var_mean(x, axes, correction=0)
        return Normed(self.layer, mean, variance), self.value(x)


def _across(values: Tensor, like: Tensor) -> Tensor:
    """Per channel, as it broadcasts against ``like`` ``[n, channels, ...]``."""
    return values.view(-1, *([1] * (like.dim() - 2)))


def _norm(call: Call, layer: Any) -> Normed | Learning:
    if layer.training:
        return Learning(layer)
    if layer.running_mean is None or layer.running_var is None:
        raise UnknownOperator(
            f"{call.what} normalises by the batch at hand, {call.place}",
            "give it running statistics (track_running_stats=True)",
        )
    return Normed(layer)


@dataclass(frozen=True)
class Given:
    """The weights of a batch norm that is no layer.

    Attributes:
        eps: added to the variance.
        parts: mean, variance, and weight and bias or None.
    """

    eps: float
    parts: tuple[Live, Live, Live | None, Live | None]

    @property
    def running_mean(self) -> Tensor:
        return self.parts[0]()

    @property
    def running_var(self) -> Tensor:
        return self.parts[1]()

    @property
    def weight(self) -> Tensor | None:
        return None if self.parts[2] is None else self.parts[2]()

    @property
    def bias(self) -> Tensor | None:
        return None if self.parts[3] is None else self.parts[3]()


def _norm_function(call: Call) -> Normed:
    x, mean, variance, weight, bias, training, _, eps = call.bound(
        "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
        weight=None, bias=None, training=False, momentum=0.1, eps=1e-5,
    )  # fmt: skip
    if training is not False or not callable(mean) or not callable(variance):
        raise call.unknown("it normalises by the batch at hand")
    if not isinstance(x, Wire) or any(part is not None and not callable(part) for part in (weight, bias)):
        raise call.unknown("its weights depend on the input")
    return Normed(Given(eps, (mean, variance, weight, bias)))


READERS = Readers(
    layers={nn.BatchNorm1d: _norm, nn.BatchNorm2d: _norm},
    functions={functional.batch_norm: _norm_function},
)
