"""Linear bounds carried backwards: one pass from the margins to the input, between lines drawn over known intervals.

Every function that is not affine is replaced by two lines that enclose it over its interval, or by its interval where
no lines are known for it. What is then a linear function of the input has its least value in a corner of the box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hardpoint.bounds.graph import Graph, Step
from hardpoint.bounds.interval import class_differences
from hardpoint.bounds.operators.operator import Affine, Interval, Relaxable, Transposes


def crown_margins(graph: Graph, spans: Sequence[Interval], y: Tensor) -> Tensor:
    """``[n, K]``: the least that the score of class ``y`` can be above each other, differentiably; 0 for ``y`` itself.

    CROWN (Zhang et al., "Efficient neural network robustness certification with general activation functions",
    NeurIPS 2018) with the intervals of interval propagation inside, as CROWN-IBP has it (Zhang et al., ICLR 2020).
    Rounding is not accounted for: what is to be proven with it needs a slack.

    Args:
        graph: returns scores ``[n, K]``, or ``[n, 1]`` for the second of two classes.
        spans: what ``intervals`` found for it.
        y: int64 ``[n]``.
    """
    rows = class_differences(spans[graph.output].low, y)
    n, count = rows.shape[:2]
    total = rows.new_zeros(n, count)
    held: dict[int, Tensor] = {graph.output: rows}
    for place in range(len(graph.steps), 0, -1):
        if place not in held:
            continue
        step, row = graph.steps[place - 1], held.pop(place)
        if isinstance(step.operator, Affine):
            parts, shift = _through(step, row, [spans[k] for k in step.inputs])
            total = total + shift
            for k, part in zip(step.inputs, parts, strict=True):
                held[k] = held[k] + part if k in held else part
        elif isinstance(step.operator, Relaxable):
            (k,) = step.inputs
            lines = step.operator.lines(spans[k])
            rising, falling = row.clamp(min=0), row.clamp(max=0)
            total = total + _sum(rising, lines.low_shift) + _sum(falling, lines.high_shift)
            part = rising * lines.low_slope.unsqueeze(1) + falling * lines.high_slope.unsqueeze(1)
            held[k] = held[k] + part if k in held else part
        else:
            total = total + _least(row, spans[place])
    return total + _least(held[0], spans[0]) if 0 in held else total


def _through(step: Step, row: Tensor, spans: Sequence[Interval]) -> tuple[Sequence[Tensor], Tensor]:
    """The rows before an affine operator, and what its constant part adds."""
    operator, (n, count) = step.operator, row.shape[:2]
    flat = row.flatten(0, 1)
    nothing = operator.value(*(span.low.new_zeros(1, *span.low.shape[1:]) for span in spans))
    shift = (row * nothing).flatten(2).sum(2)
    if isinstance(operator, Transposes):
        parts: Sequence[Tensor] = [operator.transposed(flat, spans[0].low.shape[1:])]
    else:
        with torch.enable_grad():
            zeros = [
                span.low.new_zeros(n * count, *span.low.shape[1:]).requires_grad_(True) for span in spans
            ]
            out = operator.value(*zeros)
        parts = torch.autograd.grad(out, zeros, flat, create_graph=torch.is_grad_enabled())
    return [part.view(n, count, *part.shape[1:]) for part in parts], shift


def _least(row: Tensor, span: Interval) -> Tensor:
    """``[n, S]``: the least of ``row · z`` over the interval."""
    return _sum(row, span.middle) - _sum(row.abs(), span.radius)


def _sum(row: Tensor, values: Tensor) -> Tensor:
    """``[n, S]``: products of ``[n, S, ...]`` with ``[n, ...]``, summed."""
    size = math.prod(values.shape[1:])
    return torch.bmm(row.reshape(*row.shape[:2], size), values.reshape(len(values), size, 1)).squeeze(2)
