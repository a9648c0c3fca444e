"""CROWN: linear bounds between intervals that are linear bounds themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hardpoint.bounds.graph import Graph
from hardpoint.bounds.interval import class_differences, met
from hardpoint.bounds.linear import backward
from hardpoint.bounds.operators.operator import Interval, is_curved, is_relaxable
from hardpoint.bounds.rows import Dense, Patches, Rows

_AT_ONCE = 64 * 2**20
"""Bytes that the rows over one value may take."""
_GROUPS = 6


def crown_margins(graph: Graph, spans: Sequence[Interval], y: Tensor) -> Tensor:
    """``[n, K]``: the least that the score of class ``y`` can be above each other, differentiably; 0 for ``y`` itself.

    CROWN (Zhang et al., "Efficient neural network robustness certification with general activation functions",
    NeurIPS 2018) with the intervals of interval propagation inside, as CROWN-IBP has it (Zhang et al., ICLR 2020).

    Args:
        graph: returns scores ``[n, K]``, or ``[n, 1]`` for the second of two classes.
        spans: what ``intervals`` found for it.
        y: int64 ``[n]``.
    """
    rows = class_differences(spans[graph.output].low, y)
    return backward(graph, spans, rows).least(spans[0])


def crown_spans(graph: Graph, box: Interval, known: Mapping[int, Interval] | None = None) -> list[Interval]:
    """The interval of every value, those that curved steps take by linear bounds where intervals leave them bent.

    Args:
        graph: the network.
        box: ``[n, ...]``.
        known: intervals that hold besides, by value.
    """
    spans = [box]
    bent = bent_values(graph)
    for k, step in enumerate(graph.steps, 1):
        span = step.operator.interval(*(spans[i] for i in step.inputs))
        if known is not None and k in known:
            span = met(span, known[k])
        spans.append(span)
        if k in bent and _has_curves(graph, k):
            spans[k] = _refined(graph, spans, k)
    return spans


def bent_values(graph: Graph) -> Sequence[int]:
    """The values that anything but an affine operator takes, which is all that linear bounds need intervals of."""
    return tuple(
        dict.fromkeys(
            place
            for step in graph.steps
            if (is_curved(step.operator) or is_relaxable(step.operator))
            for place in step.inputs
            if place
        )
    )


def unstable(graph: Graph, spans: Sequence[Interval], place: int) -> Tensor:
    """Bool ``[n, ...]``: elements of a value over which a step that takes it is not linear."""
    span = spans[place]
    wide = span.high > span.low
    bent = torch.zeros_like(wide)
    for step in graph.steps:
        if place in step.inputs and (is_curved(step.operator) or is_relaxable(step.operator)):
            kinked = is_curved(step.operator) and step.operator.freedom[1] is False
            bent |= (span.low < 0) & (span.high > 0) if kinked else wide
    return bent


def _has_curves(graph: Graph, place: int) -> bool:
    """Whether linear bounds can be tighter than intervals before ``place``: they always are after an affine step."""
    before = graph.steps[place - 1].operator
    return not (is_curved(before) or is_relaxable(before))


def _refined(graph: Graph, spans: list[Interval], place: int) -> Interval:
    """The interval of a value by linear bounds, for the elements that intervals leave bent."""
    span = spans[place]
    bent = unstable(graph, spans, place).flatten(1)
    counts = bent.sum(1)
    low, high = span.low.flatten(1).clone(), span.high.flatten(1).clone()
    # inputs with about as many bent elements go together: each costs as much as the one that has most
    for some in counts.argsort().chunk(_GROUPS if len(bent) >= 8 * _GROUPS else 1):
        most = int(counts[some].max()) if len(some) else 0
        if most:
            _refine(
                graph, [each.of(some) for each in spans], place, bent_first(bent[some], most), some, low, high
            )
    return Interval(low.view_as(span.low), high.view_as(span.high), span.outward)


def _refine(
    graph: Graph,
    spans: list[Interval],
    place: int,
    order: Tensor,
    inputs: Tensor,
    low: Tensor,
    high: Tensor,
) -> None:
    """Narrow ``low`` and ``high`` of the ``inputs`` at the elements ``order`` int64 ``[n, most]``."""
    widest = max(each.low[0].numel() for each in spans)
    step = max(1, _AT_ONCE // (len(inputs) * widest * 8 * 2))
    row = inputs.unsqueeze(1)
    for part in torch.split(order, step, dim=1):
        found = backward(graph, spans, both_ways(part, spans[place].low), place).least(spans[0])
        below, above = found.chunk(2, 1)
        low[row, part] = torch.maximum(low[row, part], below)
        high[row, part] = torch.minimum(high[row, part], -above)


def bent_first(bent: Tensor, most: int) -> Tensor:
    """int64 ``[n, most]``: places of the true elements of ``bent`` ``[n, m]`` first; where an input has fewer than
    another, elements that need nothing follow."""
    return torch.sort(bent.to(torch.uint8), dim=1, descending=True, stable=True).indices[:, :most]


def elements(places: Tensor, like: Tensor) -> Rows:
    """Rows that are one element each: int64 ``[n, S]`` in the flattened values ``like`` ``[n, ...]``."""
    shape = like.shape[1:]
    if len(shape) == 3:
        return Patches.single(places, (shape[0], shape[1], shape[2]), like)
    rows = like.new_zeros(*places.shape, shape.numel()).scatter_(2, places.unsqueeze(2), 1.0)
    return Dense(rows.view(*places.shape, *shape))


def both_ways(places: Tensor, like: Tensor) -> Rows:
    """Rows that are one element each, and then their negatives."""
    single = elements(places, like)
    values = torch.cat([single.values, -single.values], 1)
    if isinstance(single, Dense):
        return Dense(values)
    return Patches(values, single.top.repeat(1, 2), single.left.repeat(1, 2), single.shape)
