"""Beginning a training by interval bounds: first weights whose bounds do not explode, and penalties that keep them so.

Shi, Wang, Zhang, Yi and Hsieh, "Fast certified robust training with short warmup", NeurIPS 2021.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.bounds.graph import Graph
from hardpoint.bounds.operators.activation import Leaky
from hardpoint.bounds.operators.operator import Interval
from hardpoint.core.rng import Rng

_TINY = 1e-12


def reset_for_bounds(module: nn.Module, rng: Rng) -> nn.Module:
    """A copy of ``module`` with first weights for training by interval bounds.

    Weights of linear layers and convolutions are drawn from a normal distribution of deviation ``√(2π) / fan-in``, with
    which the mean radius of intervals stays what it is from layer to layer (section 4.1); biases are 0, norms as new.
    Weights that do not learn stay.

    >>> net = reset_for_bounds(nn.Sequential(nn.Linear(400, 50), nn.ReLU()), Rng(0))
    >>> round(float(net[0].weight.detach().std()) * 400, 1)
    2.5
    """
    fresh = copy.deepcopy(module)
    with torch.no_grad():
        for name, layer in fresh.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
                weight = layer.weight
                draw = rng.fork(name).normal(torch.zeros(1, dtype=torch.int64), tuple(weight.shape))[0]
                if weight.requires_grad:
                    weight.copy_(draw * math.sqrt(2 * math.pi) / weight[0].numel())
                if layer.bias is not None and layer.bias.requires_grad:
                    layer.bias.zero_()
            elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and _is_learned(layer):
                layer.reset_parameters()
    return fresh


def _is_learned(layer: nn.Module) -> bool:
    return all(weight.requires_grad for weight in layer.parameters())


def warmup_penalty(graph: Graph, spans: Sequence[Interval], tolerance: float = 0.5) -> Tensor:
    """How far intervals explode, and how far active and inactive neurons are out of balance (section 4.3).

    Taken before each ReLU, and averaged: how much the mean radius exceeds that of the input by more than
    ``1 / tolerance``, and how much the neurons that are always on outweigh those that are always off, or the other way
    round, in their means and in their variances.

    Args:
        graph: the network.
        spans: what ``intervals`` found for it.
        tolerance: the ratio below which a penalty begins.
    """
    places = graph.before(Leaky)
    total, first = spans[0].low.new_zeros(()), spans[0].radius.mean()
    for place in places:
        span = spans[place]
        middle = span.middle
        total = total + _below(first / span.radius.mean().clamp_min(_TINY), tolerance)
        on, off = (span.low > 0).to(middle.dtype), (span.high < 0).to(middle.dtype)
        if bool(on.sum() * off.sum() > 0):
            total = total + _balance(_sum(middle, on), -_sum(middle, off), tolerance)
            spread = (middle - middle.mean()).square()
            total = total + _balance(_sum(spread, on), _sum(spread, off), tolerance)
    return total / max(1, len(places))


def _sum(values: Tensor, weights: Tensor) -> Tensor:
    return torch.dot(values.flatten(), weights.flatten())


def _balance(first: Tensor, second: Tensor, tolerance: float) -> Tensor:
    ratio = first.clamp_min(_TINY) / second.clamp_min(_TINY)
    return _below(torch.minimum(ratio, 1 / ratio), tolerance)


def _below(value: Tensor, tolerance: float) -> Tensor:
    return functional.relu(tolerance - value) / tolerance
