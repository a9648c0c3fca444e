"""Splitting the input box: the way for inputs of few numbers, where linear bounds become exact quickly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hardpoint.bounds.ball import Ball
from hardpoint.bounds.branch.domains import Domains
from hardpoint.bounds.claim import Claim
from hardpoint.bounds.crown import bent_values, crown_spans
from hardpoint.bounds.graph import Graph
from hardpoint.bounds.linear import Choice, backward
from hardpoint.bounds.operators.operator import Interval
from hardpoint.bounds.steepness import steepness

Losses = Callable[[Sequence[Interval], Tensor], Tensor]
"""At most what the network as it is run takes from rows ``[n, S, K]`` of the exact one's answer, ``[n, S]``, by the
intervals of all values."""


@torch.no_grad()
def bounded(
    graph: Graph,
    claim: Claim,
    box: Interval,
    known: Mapping[int, Interval] | None = None,
    losses: Losses | None = None,
) -> tuple[Domains, Tensor]:
    """Linear bounds of the claim over each box, and where each bound is least, ``[m, ...]``.

    The axis of each is the number of the input that the worst row may change most with (Wang et al., "Formal security
    analysis of neural networks using symbolic intervals", USENIX Security 2018: the largest smear).

    Args:
        graph: the network.
        claim: of one input, ``[1, S, K]``.
        box: ``[m, ...]``.
        known: intervals that hold in the boxes already, such as those of larger ones.
        losses: what the bounds are lowered by.
    """
    spans = crown_spans(graph, box, known)
    rows = claim.rows.expand(len(box.low), -1, -1)
    linear = backward(graph, spans, rows)
    offset = claim.offset if losses is None else claim.lowered(losses(spans, rows)).offset
    bounds = linear.least(box) + offset
    if isinstance(box, Ball):  # nothing is claimed of what lies outside
        bounds = torch.where(box.misses().unsqueeze(1), torch.inf, bounds)
    clauses = claim.proven(bounds)
    # the best row of the worst clause is the one that has to rise
    worst = claim.clause.unsqueeze(0) == clauses.argmin(1, keepdim=True)
    row = torch.where(worst, bounds, -torch.inf).argmax(1)
    every, width = torch.arange(len(box.low)), (box.high - box.low).flatten(1)
    smear = width
    steep = _in_input(graph, spans, rows)
    if steep is not None:
        smear = steep.flatten(2)[every, row] * width
    elif linear.rows is not None:
        smear = linear.rows.dense().values.abs().flatten(2)[every, row] * width
    found = Domains(
        clauses.amin(1), box, {k: spans[k] for k in bent_values(graph)}, {}, Choice(), smear.argmax(1)
    )
    return found, linear.corner(box)[every, row]


def _in_input(graph: Graph, spans: Sequence[Interval], rows: Tensor) -> Tensor | None:
    """``[m, S, ...]``: how steep the rows are at most in each number of the input."""
    for place, steep in steepness(graph, spans, rows) or ():
        if place == 0:
            return steep.most
    return None


def halves(parts: Domains) -> tuple[Interval, Mapping[int, Interval]]:
    """Both halves ``[2 m, ...]`` of each box, cut in the middle of its axis, and what is known in them."""
    low, high = parts.box.low.flatten(1), parts.box.high.flatten(1)
    every, shape = torch.arange(len(parts)), parts.box.low.shape[1:]
    middle = low[every, parts.axis] / 2 + high[every, parts.axis] / 2
    left, right = high.clone(), low.clone()
    left[every, parts.axis], right[every, parts.axis] = middle, middle
    twice = torch.arange(len(parts)).repeat(2)
    box = parts.box.of(twice).cut(
        torch.cat([low, right]).view(-1, *shape), torch.cat([left, high]).view(-1, *shape)
    )
    return box, {k: span.of(twice) for k, span in parts.known.items()}
