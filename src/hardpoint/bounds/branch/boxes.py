"""Splitting the input box: the way for inputs of few numbers, where linear bounds become exact quickly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.bounds.claim import Claim
from hardpoint.bounds.crown import crown_spans
from hardpoint.bounds.graph import Graph
from hardpoint.bounds.linear import backward
from hardpoint.bounds.operators.operator import Interval


@dataclass(frozen=True)
class Bounded:
    """Boxes and what linear bounds say of them.

    Attributes:
        box: ``[m, ...]``.
        bound: ``[m]``: of the claim's worst clause.
        axis: int64 ``[m]``: the number of the input to split at.
        corner: ``[m, ...]``: where the bound is least.
        is_linear: bool ``[m]``: whether the network is one linear function there.
    """

    box: Interval
    bound: Tensor
    axis: Tensor
    corner: Tensor
    is_linear: Tensor

    def __len__(self) -> int:
        return len(self.bound)

    def of(self, index: Tensor) -> Bounded:
        """The boxes ``index``."""
        box = Interval(self.box.low[index], self.box.high[index], self.box.outward)
        return Bounded(box, self.bound[index], self.axis[index], self.corner[index], self.is_linear[index])


@torch.no_grad()
def bounded(graph: Graph, claim: Claim, box: Interval) -> Bounded:
    """Linear bounds of the claim over each box, and where each is best split: at the number of the input that its worst
    row depends on most (Wang et al., "Formal security analysis of neural networks using symbolic intervals", USENIX
    Security 2018, section 5: the largest smear).

    Args:
        graph: the network.
        claim: of one input, ``[1, S, K]``.
        box: ``[m, ...]``.
    """
    spans = crown_spans(graph, box)
    rows = claim.rows.expand(len(box.low), -1, -1)
    linear = backward(graph, spans, rows)
    bounds = linear.least(box) + claim.offset
    clauses = claim.proven(bounds)
    worst = clauses.argmin(1)
    mine = torch.where(claim.clause.unsqueeze(0) == worst.unsqueeze(1), bounds, -torch.inf).argmax(1)
    every = torch.arange(len(box.low))
    width = (box.high - box.low).flatten(1)
    if linear.rows is None:
        smear = width
    else:
        smear = linear.rows.dense().values.flatten(2).abs().sum(1) * width
    corner = linear.corner(box)[every, mine]
    bent = torch.stack([((s.low < 0) & (s.high > 0)).flatten(1).any(1) for s in spans[1:]]).any(0)
    return Bounded(box, clauses.amin(1), smear.argmax(1), corner, ~bent)


def halves(found: Bounded) -> Interval:
    """Both halves of each box, cut in the middle of its axis: ``[2 m, ...]``."""
    low, high = found.box.low.flatten(1), found.box.high.flatten(1)
    every = torch.arange(len(found))
    middle = low[every, found.axis] / 2 + high[every, found.axis] / 2
    left, right = high.clone(), low.clone()
    left[every, found.axis], right[every, found.axis] = middle, middle
    shape = found.box.low.shape[1:]
    return Interval(
        torch.cat([low, right]).view(-1, *shape),
        torch.cat([left, high]).view(-1, *shape),
        found.box.outward,
    )
