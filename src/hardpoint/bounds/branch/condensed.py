"""The network over one box without the units that are decided there.

Most ReLUs of a network are on one side of 0 all over a small box. There the network is a much smaller one: sums of the
input and of the few units that are bent, with small dense matrices in the place of convolutions. Branch and bound
searches on that one; what it finds is put into the whole network, so nothing that is lost here makes a proof wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hardpoint.bounds.crown import bent_values, unstable
from hardpoint.bounds.graph import Graph, Kept, Network, Step
from hardpoint.bounds.linear import backward
from hardpoint.bounds.operators.activation import Leaky
from hardpoint.bounds.operators.combined import Combined
from hardpoint.bounds.operators.operator import Interval, is_affine
from hardpoint.bounds.operators.shape import Reshaped

_MOST = 3000
"""Bent units in all; with more there is little to leave out."""


@torch.no_grad()
def condensed(network: Network, spans: Sequence[Interval]) -> Network:
    """The same network whose quick graph has only the units that are bent over the box; itself, where it has anything
    but ReLUs besides affine steps.

    Args:
        network: both graphs of it.
        spans: of one box, ``[1, ...]``.
    """
    graph, places = network.exact, bent_values(network.exact)
    if not _only_relus(graph):
        return network
    units = {k: unstable(graph, spans, k).flatten().nonzero().flatten() for k in places}
    if not 0 < sum(map(len, units.values())) <= _MOST:
        return network
    decided = [span.roughly(span.low.dtype) for span in spans]
    for k in places:  # a bent unit gives nothing on its way to the input: what passes it is told apart
        low, high = spans[k].low.clone().flatten(), spans[k].high.clone().flatten()
        low[units[k]], high[units[k]] = -1.0, -1.0
        decided[k] = Interval(low.view_as(spans[k].low), high.view_as(spans[k].high))
    steps = [Step("input", Reshaped((spans[0].low[0].numel(),)), (0,))]
    kept: dict[int, Kept] = {}
    held: list[tuple[int, int]] = []  # of a value of the network, and of its units in these steps
    for k in (*sorted(k for k in places if len(units[k])), graph.output):
        wanted = units[k] if k in kept or k != graph.output else torch.arange(spans[k].low[0].numel())
        steps.append(
            Step(
                f"value {k}",
                _told_apart(graph, decided, k, wanted, units, held),
                (1, *(at for _, at in held)),
            )
        )
        if k != graph.output:
            kept[k] = Kept(len(steps), units[k])
            steps.append(Step(f"units of value {k}", Leaky(), (len(steps),)))
            held.append((k, len(steps)))
    return Network(network.exact, Graph(tuple(steps), len(steps)), kept)


def _told_apart(
    graph: Graph,
    decided: Sequence[Interval],
    place: int,
    wanted: Tensor,
    units: dict[int, Tensor],
    held: Sequence[tuple[int, int]],
) -> Combined:
    """Some elements of a value as a sum of the input and of bent units."""
    shape = decided[place].low.shape[1:]
    rows = decided[0].low.new_zeros(1, len(wanted), shape.numel())
    rows[0, torch.arange(len(wanted)), wanted] = 1.0
    seen: dict[int, Tensor] = {}
    linear = backward(graph, decided, rows.view(1, len(wanted), *shape), place, None, seen)
    width = decided[0].low[0].numel()
    first = (
        rows.new_zeros(len(wanted), width)
        if linear.rows is None
        else linear.rows.dense().values[0].flatten(1)
    )
    parts = [first]
    for k, _ in held:
        row = seen[k][0].flatten(1)[:, units[k]] if k in seen else rows.new_zeros(len(wanted), len(units[k]))
        parts.append(row)
    return Combined(tuple(part.float() for part in parts), linear.shift[0].float())


def _only_relus(graph: Graph) -> bool:
    """Whether every step is affine or a ReLU of some step's value, and ReLUs alone take what they take."""
    places = set(bent_values(graph))
    for step in graph.steps:
        if isinstance(step.operator, Leaky):
            if step.operator.slope or not step.inputs[0] or step.inputs[0] not in places:
                return False
        elif not is_affine(step.operator):
            return False
    return graph.output not in places
