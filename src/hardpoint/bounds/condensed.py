"""The network over boxes without the units that are decided there.

Most ReLUs of a network are on one side of 0 all over a small box. There the network is a much smaller one: sums of the
input and of the few units that are bent, with small dense matrices in the place of convolutions. Lines and splits are
searched on that one; what is found is put into the whole network, so nothing that is lost here makes a proof wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hardpoint.bounds.crown import bent_first, bent_values, elements, unstable
from hardpoint.bounds.graph import Graph, Kept, Network, Step
from hardpoint.bounds.interval import settled_intervals
from hardpoint.bounds.linear import Choice, backward
from hardpoint.bounds.operators.activation import Leaky
from hardpoint.bounds.operators.combined import Combined
from hardpoint.bounds.operators.operator import Interval, Slopes, is_affine
from hardpoint.bounds.operators.shape import Reshaped
from hardpoint.bounds.rows import Patches, Rows

_MOST = 3000
"""Bent units in all; with more there is little to leave out."""
_BYTES = 512 * 2**20
"""What the matrices of all inputs may take."""
_AT_ONCE = 128 * 2**20
"""What rows on their way to becoming a matrix may take."""


@torch.no_grad()
def condensed(network: Network, spans: Sequence[Interval]) -> Network:
    """The same network whose quick graph has, for each box, only the units that are bent over it; itself, where it has
    anything but one ReLU a value besides affine steps, no bent unit, or more than memory has room for (``together``).

    Args:
        network: both graphs of it, whole.
        spans: of the boxes ``[n, ...]``. Where an input has fewer bent units than another, decided ones fill its row.
    """
    graph, places = network.exact, bent_values(network.exact)
    if not _only_relus(graph):
        return network
    bent = {k: unstable(graph, spans, k).flatten(1) for k in places}
    most = {k: int(bent[k].sum(1).max()) if len(bent[k]) else 0 for k in places}
    total, width = sum(most.values()), spans[0].low[0].numel()
    if not 0 < total <= _MOST or len(spans[0].low) * _size(total, width) > _BYTES:
        return network
    units = {k: bent_first(bent[k], most[k]) for k in places if most[k]}
    decided = [span.roughly(span.low.dtype) for span in spans]
    for (
        k,
        chosen,
    ) in units.items():  # a bent unit gives nothing on its way to the input: what passes it is told apart
        low, high = (end.flatten(1).scatter(1, chosen, -1.0) for end in (spans[k].low, spans[k].high))
        decided[k] = Interval(low.view_as(spans[k].low), high.view_as(spans[k].high))
    steps = [Step("input", Reshaped((width,)), (0,))]
    kept: dict[int, Kept] = {}
    held: dict[int, int] = {}  # by value of the network, the one that has its units in these steps
    answers = torch.arange(spans[graph.output].low[0].numel()).expand(len(spans[0].low), -1)
    for k, wanted in (*sorted(units.items()), (graph.output, answers)):
        told = _told_apart(graph, decided, k, wanted, {j: units[j] for j in held})
        steps.append(Step(f"value {k}", told, (1, *held.values())))
        if k != graph.output:
            kept[k] = Kept(len(steps), wanted)
            steps.append(Step(f"units of value {k}", Leaky(), (len(steps),)))
            held[k] = len(steps)
    return Network(network.exact, Graph(tuple(steps), len(steps)), kept)


def together(network: Network, spans: Sequence[Interval]) -> Sequence[Tensor]:
    """The inputs, int64, in groups of about as many bent units that memory has room for when they are condensed."""
    counts = [unstable(network.exact, spans, k).flatten(1).sum(1) for k in bent_values(network.exact)]
    if not counts or not _only_relus(network.exact):  # nothing is condensed
        return [torch.arange(len(spans[0].low))]
    every, width = torch.stack(counts), spans[0].low[0].numel()
    groups, start, order = [], 0, every.sum(0).argsort()
    for end in range(1, len(order) + 1):
        beyond = every[:, order[start : end + 1]]
        most = int(beyond.amax(1).sum())
        if end == len(order) or beyond.shape[1] * _size(most, width) > _BYTES:
            groups.append(order[start:end])
            start = end
    return groups


def _size(units: int, width: int) -> int:
    """Bytes that the matrices of one input take, or more."""
    return units * (width + units) * 4


def quick_spans(network: Network, box: Interval, known: Mapping[int, Interval]) -> list[Interval]:
    """The interval of every value of the quick graph, in float32.

    Args:
        network: whole or condensed.
        box: ``[n, ...]``.
        known: the intervals of values of the exact graph, those before curved steps among them.
    """
    known = {k: span.roughly(torch.float32) for k, span in known.items()}
    if network.kept:
        known = {
            kept.place: Interval(kept.of(known[k].low), kept.of(known[k].high))
            for k, kept in network.kept.items()
        }
    return settled_intervals(network.quick, box.roughly(torch.float32), known)


def exact_choice(
    network: Network, spans: Sequence[Interval], choice: Choice, seen: Mapping[int, Rows] | None = None
) -> Choice:
    """What was chosen on the quick graph, for the exact one, in float64.

    Args:
        network: whole or condensed.
        spans: of the exact graph.
        choice: of each row.
        seen: the rows over values of the exact graph, where they are to be patches: lines are then given for those.
    """
    choice = choice.to(torch.float64)
    if not network.kept:
        return choice
    slopes, prices, patches = {}, {}, {}
    for k, kept in network.kept.items():
        if kept.place in choice.slopes:
            row, chosen = (seen or {}).get(k), choice.slopes[kept.place].low
            if isinstance(row, Patches):
                own = Leaky().slopes(row.span(spans[k]))
                patches[k] = Slopes(_shown(kept, row, chosen, own.low), own.high)
            else:
                own = Leaky().slopes(spans[k])
                slopes[k] = Slopes(kept.into(own.low, chosen), own.high)
        if kept.place in choice.prices:
            prices[k] = kept.into(torch.zeros_like(spans[k].low), choice.prices[kept.place])
    return Choice(slopes, prices, patches)


def _shown(kept: Kept, row: Patches, chosen: Tensor, own: Tensor) -> Tensor:
    """What is chosen of the kept units ``[n, S, u]`` where a patch shows them, ``own`` where it shows others."""
    n, (channels, height, width) = len(chosen), row.shape
    number = torch.arange(1, chosen.shape[2] + 1).expand(n, -1)
    numbers = torch.zeros(n, channels * height * width, dtype=torch.int64)
    numbers.scatter_(1, kept.units.expand(n, -1), number)
    seen = row.shown(numbers.view(n, *row.shape))
    found = chosen.gather(2, (seen - 1).clamp(min=0).flatten(2)).view_as(own)
    return torch.where(seen > 0, found, own)


def _told_apart(
    graph: Graph, decided: Sequence[Interval], place: int, wanted: Tensor, units: Mapping[int, Tensor]
) -> Combined:
    """Some elements of a value, int64 ``[n, m]``, as a sum of the input and of bent units."""
    widest = max(span.low[0].numel() for span in decided)
    found: list[tuple[Tensor, ...]] = []
    for some in torch.split(wanted, max(1, _AT_ONCE // (len(wanted) * widest * 8)), 1):
        seen: dict[int, Rows] = {}
        linear = backward(graph, decided, elements(some, decided[place].low), place, None, seen)
        nothing = decided[0].low.new_zeros(*some.shape, decided[0].low[0].numel())
        parts = [nothing if linear.rows is None else linear.rows.dense().values.flatten(2)]
        for k, chosen in units.items():
            if k in seen:
                row = seen[k].dense().values.flatten(2)
                parts.append(row.gather(2, chosen.unsqueeze(1).expand(-1, some.shape[1], -1)))
            else:
                parts.append(nothing.new_zeros(*some.shape, chosen.shape[1]))
        found.append((*(part.float() for part in parts), linear.shift.float()))
    *weights, shift = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    return Combined(tuple(weights), shift)


def _only_relus(graph: Graph) -> bool:
    """Whether every step is affine or the one ReLU of some step's value."""
    places = set(bent_values(graph))
    if len(places) < sum(isinstance(step.operator, Leaky) for step in graph.steps):
        return False
    for step in graph.steps:
        if isinstance(step.operator, Leaky):
            if step.operator.slope or not step.inputs[0] or step.inputs[0] not in places:
                return False
        elif not is_affine(step.operator):
            return False
    return graph.output not in places
