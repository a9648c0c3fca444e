"""How steep the network may be in each of its inputs, anywhere in a box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from hardpoint.bounds.graph import Graph
from hardpoint.bounds.operators.affine import Weighted
from hardpoint.bounds.operators.arithmetic import Difference, Scaled
from hardpoint.bounds.operators.operator import Affine, Interval, Operator, is_affine, is_curved
from hardpoint.bounds.rows import Dense


def steepness(graph: Graph, spans: Sequence[Interval], rows: Tensor) -> Tensor | None:
    """``[n, S, ...]``: about the largest slope of ``rows`` over the answer in each number of the input; None where
    a step is not understood. It chooses where to cut and proves nothing.

    The interval of the derivative, carried backwards through the derivatives that each unit can have (Wang et al.,
    "Formal security analysis of neural networks using symbolic intervals", USENIX Security 2018, section 4.3).

    Args:
        spans: the interval of each value.
        rows: ``[n, S, K]``.
    """
    held: dict[int, tuple[Tensor, Tensor]] = {graph.output: (rows, rows * 0)}
    for k in range(graph.output, 0, -1):
        if k not in held:
            continue
        step, (middle, radius) = graph.steps[k - 1], held.pop(k)
        taken = [spans[i] for i in step.inputs]
        if is_curved(step.operator):
            least, most = (part.unsqueeze(1) for part in step.operator.steepness(taken[0]))
            half, centre = (most - least) / 2, (most + least) / 2
            parts = [(middle * centre, radius * centre.abs() + (middle.abs() + radius) * half)]
        elif is_affine(step.operator):
            size = _without_signs(step.operator)
            if size is None:
                return None
            centres = Dense(middle).before(step.operator, taken)
            radii = Dense(radius).before(size, taken)
            parts = [(c.values, r.values) for c, r in zip(centres, radii, strict=True)]
        else:
            return None
        for i, (centre, half) in zip(step.inputs, parts, strict=True):
            held[i] = (held[i][0] + centre, held[i][1] + half) if i in held else (centre, half)
    if 0 not in held:
        return None
    middle, radius = held[0]
    return middle.abs() + radius


def _without_signs(operator: Operator) -> Affine | None:
    """The operator with the absolute values of its linear part."""
    if isinstance(operator, Weighted):
        weight = operator.weight
        return replace(operator, weight=lambda: weight().abs(), bias=None)
    if isinstance(operator, Scaled):
        factor = operator.factor
        return replace(operator, factor=None if factor is None else lambda: factor().abs(), shift=None)
    if isinstance(operator, Difference) or not is_affine(operator):
        return None
    return operator
