"""How steep the network may be between any two points of a box, in its input and in every value on the way.

The interval of the derivative, carried backwards through the derivatives that each unit can have (Wang et al., "Formal
security analysis of neural networks using symbolic intervals", USENIX Security 2018, section 4.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from hardpoint.bounds.graph import Graph
from hardpoint.bounds.operators.affine import Weighted
from hardpoint.bounds.operators.arithmetic import Difference, Scaled, Sum
from hardpoint.bounds.operators.norm import Normed
from hardpoint.bounds.operators.operator import Affine, Interval, Operator, Rising, is_affine, is_curved
from hardpoint.bounds.rows import Dense


@dataclass(frozen=True)
class Steep:
    """Intervals of what rows over the answer gain with each element of a value, ``[n, S, ...]``; their own rounding is
    not accounted for."""

    middle: Tensor
    radius: Tensor

    @property
    def most(self) -> Tensor:
        """In absolute value."""
        return self.middle.abs() + self.radius

    def plus(self, other: Steep) -> Steep:
        return Steep(self.middle + other.middle, self.radius + other.radius)


def steepness(graph: Graph, spans: Sequence[Interval], rows: Tensor) -> Iterator[tuple[int, Steep]] | None:
    """Value by value from the answer back to the input: for any two points, between whose values the ``spans`` tell,
    the rows' answers differ by a sum over the value's elements of slopes in these intervals times how they differ
    there. Where a value is disturbed besides, as by rounding, its slopes are those of the disturbance. None where a
    step is not understood.

    Args:
        graph: the network.
        spans: the interval of each value, of both points.
        rows: ``[n, S, K]``.
    """
    operators = [step.operator for step in graph.steps]
    if all(is_curved(each) or _without_signs(each, 2) is not None for each in operators):
        return _carried(graph, spans, rows)
    return None


def _carried(graph: Graph, spans: Sequence[Interval], rows: Tensor) -> Iterator[tuple[int, Steep]]:
    held = {graph.output: Steep(rows, rows * 0)}
    for k in range(graph.output, -1, -1):
        if k not in held:
            continue
        steep = held.pop(k)
        yield k, steep
        if not k:
            return
        step = graph.steps[k - 1]
        taken = [spans[i] for i in step.inputs]
        if is_curved(step.operator):
            least, most = (part.unsqueeze(1) for part in step.operator.steepness(taken[0]))
            half, centre = (most - least) / 2, (most + least) / 2
            parts = [Steep(steep.middle * centre, steep.radius * centre.abs() + steep.most * half)]
        else:
            size = _without_signs(step.operator, taken[0].low.dim())
            assert is_affine(step.operator)
            assert size is not None
            centres = Dense(steep.middle).before(step.operator, taken)
            radii = Dense(steep.radius).before(size, taken)
            parts = [Steep(c.values, r.values) for c, r in zip(centres, radii, strict=True)]
        for i, part in zip(step.inputs, parts, strict=True):
            held[i] = held[i].plus(part) if i in held else part


def _without_signs(operator: Operator, dimensions: int) -> Affine | None:
    """The operator with the absolute values of its linear part."""
    if isinstance(operator, Weighted):
        weight = operator.weight
        return replace(operator, weight=lambda: weight().abs(), bias=None)
    if isinstance(operator, Scaled):
        factor = operator.factor
        return replace(operator, factor=None if factor is None else lambda: factor().abs(), shift=None)
    if isinstance(operator, Normed):
        scale = operator.scale().abs()
        return Scaled(lambda: scale.view(-1, *[1] * (dimensions - 2)))
    if isinstance(operator, Difference):
        return Sum()
    return operator if isinstance(operator, Rising) and is_affine(operator) else None
