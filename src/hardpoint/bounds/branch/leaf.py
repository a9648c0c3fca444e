"""A part in which the network is one linear function: what linear programming says of it.

The program only proposes: shares of the claim's rows, and prices of the splits. The bound is computed anew from them,
so nothing that the solver rounds is taken on trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from hardpoint.bounds.branch.domains import Domains
from hardpoint.bounds.claim import Claim
from hardpoint.bounds.graph import Graph
from hardpoint.bounds.interval import settled_intervals
from hardpoint.bounds.linear import Choice, backward
from hardpoint.bounds.operators.operator import Interval

_PENALTY = 1e5
"""What it costs the program to leave a split by one unit: more than any price, so that it only does so of need."""


@dataclass(frozen=True)
class Leaf:
    """What is known of a part without a bent unit.

    Attributes:
        bound: of the claim's worst clause.
        point: ``[1, ...]``: where that clause is nearest to being broken.
    """

    bound: float
    point: Tensor


@dataclass(frozen=True)
class _Side:
    """The units of one value that splits have put on a side of 0, as ``weight @ x + shift``."""

    place: int
    units: Tensor
    sign: Tensor
    weight: Tensor
    shift: Tensor


@torch.no_grad()
def solved(graph: Graph, claim: Claim, part: Domains) -> Leaf | None:
    """The least of each clause over one part, by linear programming; None where the solver gives up.

    Args:
        graph: the network, linear over the part.
        claim: of one input.
        part: a single one.
    """
    spans = settled_intervals(graph, part.box, part.known)
    answers, constant = _linear(graph, spans, graph.output, torch.arange(spans[graph.output].low[0].numel()))
    sides = []
    for k, signs in part.signs.items():
        units = signs.flatten().nonzero().flatten()
        if len(units):
            sides.append(_Side(k, units, signs.flatten()[units], *_linear(graph, spans, k, units)))
    worst: Leaf | None = None
    for clause in range(claim.clauses):
        mine = claim.clause == clause
        rows, offset = claim.rows[0, mine], claim.offset[0, mine]
        found = _program(rows @ answers, rows @ constant + offset, sides, part.box)
        if found is None:
            return None
        point, shares, prices = found
        priced = {side.place: _spread(side, price, spans) for side, price in zip(sides, prices, strict=True)}
        linear = backward(graph, spans, (shares @ rows).view(1, 1, -1), None, Choice(prices=priced))
        bound = float(linear.least(part.box)) + float(shares @ offset)
        if part.box.outward is not None:  # the shared row is itself a rounded sum
            size = rows.abs() @ spans[graph.output].size.flatten() + offset.abs()
            bound -= float(shares @ size) * part.box.outward.gamma(len(shares) + 1)
        if worst is None or not bound >= worst.bound:  # what is not a number is worst
            worst = Leaf(bound, point.view(1, *part.box.low.shape[1:]))
    return worst


def _linear(graph: Graph, spans: Sequence[Interval], place: int, units: Tensor) -> tuple[Tensor, Tensor]:
    """Some elements of a value as ``W x + b``: ``[k, d]`` and ``[k]``."""
    shape = spans[place].low.shape[1:]
    rows = spans[0].low.new_zeros(1, len(units), shape.numel())
    rows[0, torch.arange(len(units)), units] = 1.0
    plain = [span.roughly(span.low.dtype) for span in spans]
    found = backward(graph, plain, rows.view(1, len(units), *shape), place)
    if found.rows is None:
        return rows.new_zeros(len(units), spans[0].low[0].numel()), found.shift[0]
    return found.rows.dense().values[0].flatten(1), found.shift[0]


def _program(
    weight: Tensor, shift: Tensor, sides: Sequence[_Side], box: Interval
) -> tuple[Tensor, Tensor, Sequence[Tensor]] | None:
    """Where in the box the largest of ``weight x + shift`` is least on the right sides, each row's share of that, and
    the prices of the sides."""
    count, width = weight.shape
    held = torch.cat([-side.sign.unsqueeze(1) * side.weight for side in sides]) if sides else weight[:0]
    limits = torch.cat([-shift, *(side.sign * side.shift for side in sides)])
    least = torch.tensor([[-1.0, 0.0]], dtype=weight.dtype).expand(count, 2)
    strayed = torch.tensor([[0.0, -1.0]], dtype=weight.dtype).expand(len(held), 2)
    matrix = torch.cat([torch.cat([weight, least], 1), torch.cat([held, strayed], 1)])
    if not bool(matrix.isfinite().all() & limits.isfinite().all()):
        return None
    aim = np.concatenate([np.zeros(width), [1.0, _PENALTY]])
    ends = list(zip(box.low.flatten().tolist(), box.high.flatten().tolist(), strict=True))
    found = linprog(
        aim, matrix.numpy(), limits.numpy(), bounds=[*ends, (None, None), (0.0, None)], method="highs"
    )
    if found.x is None:
        return None
    prices = torch.from_numpy(-np.asarray(found.ineqlin.marginals)).clamp(min=0)
    shares = prices[:count] / prices[:count].sum().clamp_min(1e-300)
    return (
        torch.from_numpy(found.x[:width].copy()),
        shares,
        torch.split(prices[count:], [len(s.units) for s in sides]),
    )


def _spread(side: _Side, price: Tensor, spans: Sequence[Interval]) -> Tensor:
    shape = spans[side.place].low.shape[1:]
    flat = price.new_zeros(shape.numel())
    flat[side.units] = price * side.sign
    return flat.view(1, 1, *shape)
