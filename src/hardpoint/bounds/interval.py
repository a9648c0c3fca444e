"""Interval bounds: what a network's values can be when its input lies in a box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hardpoint.bounds.graph import Graph
from hardpoint.bounds.operators.affine import Linear, Weighted
from hardpoint.bounds.operators.operator import Interval


def intervals(graph: Graph, box: Interval, known: Mapping[int, Interval] | None = None) -> list[Interval]:
    """The interval of the input, ``box``, and of the value of each step, differentiably.

    Every value of the network at any point of the box lies in its interval (Gowal et al., "On the effectiveness of
    interval bound propagation for training verifiably robust models", 2018; Mirman, Gehr and Vechev, ICML 2018).

    Args:
        graph: the network.
        box: ``[n, ...]``.
        known: intervals that hold besides, by value. One that is cut away altogether has ``low > high``: no point of
            the box fulfils what is known.

    >>> from torch import nn
    >>> from hardpoint.bounds.tracing import traced
    >>> graph = traced(nn.Sequential(nn.Flatten(), nn.ReLU()), torch.zeros(1, 2))
    >>> intervals(graph, Interval(torch.tensor([[-1.0, 0.5]]), torch.tensor([[0.5, 1.0]])))[-1].low
    tensor([[0.0000, 0.5000]])
    """
    spans = [box]
    for k, step in enumerate(graph.steps, 1):
        span = step.operator.interval(*(spans[place] for place in step.inputs))
        spans.append(met(span, known[k]) if known is not None and k in known else span)
    return spans


def settled_intervals(graph: Graph, box: Interval, known: Mapping[int, Interval]) -> list[Interval]:
    """As ``intervals``, with what is ``known`` in its place as it is: it has been cut already, and its ends are in
    order where those of a cut within rounding need not be."""
    spans = intervals(graph, box, known)
    for k, span in known.items():
        spans[k] = span
    return spans


def met(first: Interval, second: Interval) -> Interval:
    """What lies in both."""
    return Interval(
        torch.maximum(first.low, second.low), torch.minimum(first.high, second.high), first.outward
    )


def margin_bounds(graph: Graph, spans: Sequence[Interval], y: Tensor) -> Tensor:
    """``[n, K]``: the least that the score of class ``y`` can be above each other; exactly 0 for ``y`` itself.

    Where the network ends in a linear layer, the difference of two of its rows is bounded, and not the difference of
    two bounds: nothing is lost by the last layer (Gowal et al. 2018, section 3).

    Args:
        graph: returns scores ``[n, K]``, or ``[n, 1]`` for the second of two classes.
        spans: what ``intervals`` found for it.
        y: int64 ``[n]``.
    """
    last = graph.steps[graph.output - 1] if graph.output else None
    if last is not None and isinstance(last.operator, Weighted) and isinstance(last.operator.map, Linear):
        found = _merged(last.operator, spans[last.inputs[0]], y)
        if found is not None:
            return found
    return _apart(spans[graph.output], y)


def class_differences(scores: Tensor, y: Tensor) -> Tensor:
    """``[n, K, columns]``: what each margin of class ``y`` is as a combination of the columns of ``scores``."""
    own = _both_classes(torch.eye(scores.shape[1], dtype=scores.dtype, device=scores.device))
    return own[y].unsqueeze(1) - own


def _merged(layer: Weighted, span: Interval, y: Tensor) -> Tensor | None:
    """Margins through the last layer; None where each input still has several rows of features."""
    if span.low.dim() != 2:
        return None
    own, bias = layer.weight(), layer.bias() if layer.bias is not None else None
    offset = own.new_zeros(len(own)) if bias is None else bias.expand(len(own))
    weight, offset = _both_classes(own), _both_classes(offset)
    rows = weight[y].unsqueeze(1) - weight  # [n, K, features]
    shift = offset[y].unsqueeze(1) - offset
    low = torch.baddbmm(shift.unsqueeze(2), rows, span.middle.unsqueeze(2))
    low = (low - torch.bmm(rows.abs(), span.radius.unsqueeze(2))).squeeze(2)
    if span.outward is not None:
        sizes = functional.linear(span.size, weight.abs(), offset.abs())
        error = (sizes.gather(1, y.unsqueeze(1)) + sizes) * span.outward.gamma(span.low.shape[1] + 1) * 2
        low = low - error - span.outward.least * span.low.shape[1]
    return _but_own(low, y)


def _apart(scores: Interval, y: Tensor) -> Tensor:
    """Margins from bounds of the scores."""
    low, high = scores.low, scores.high
    if low.dim() == 2 and low.shape[1] == 1:
        low, high = torch.cat([-high, low], 1), torch.cat([-low, high], 1)
    out = Interval(low.gather(1, y.unsqueeze(1)) - high, high, scores.outward).rounded()
    return _but_own(out.low, y)


def _both_classes(values: Tensor) -> Tensor:
    """One score is the second class's; the first has its negative."""
    return torch.cat([-values, values]) if len(values) == 1 else values


def _but_own(margins: Tensor, y: Tensor) -> Tensor:
    return margins.scatter(1, y.unsqueeze(1), 0.0)
