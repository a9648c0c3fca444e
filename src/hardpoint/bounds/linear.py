"""Linear bounds carried backwards: one pass from rows over some value to the input, between lines drawn over known
intervals.

Every function that is not affine is replaced by two lines that enclose it over its interval. What is then a linear
function of the input has its least value in a corner of the box. Zhang et al., "Efficient neural network robustness
certification with general activation functions", NeurIPS 2018; with prices for splits: Wang et al., "Beta-CROWN",
NeurIPS 2021.

Where the intervals are ``outward``, the pass keeps account of its own rounding: at each value the rows' coefficients
are off by at most a share γ of what could have been summed, times the largest that the value can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hardpoint.bounds.ball import Ball
from hardpoint.bounds.graph import Graph
from hardpoint.bounds.operators.operator import (
    Affine,
    Curved,
    Interval,
    Rounding,
    Slopes,
    coarsest,
    is_affine,
    is_curved,
    is_relaxable,
)
from hardpoint.bounds.rows import Dense, Patches, Rows


@dataclass(frozen=True)
class Choice:
    """What a backward pass is free to choose; every choice gives a valid bound.

    Attributes:
        slopes: of the lines over the value that a curved step takes, by that value; else each operator's own.
        patches: the same for values that rows reach as patches: of each row, for the elements of its patch alone.
        prices: by value, ``[n, S, ...]`` or ``[n, 1, ...]``, subtracted from the rows over it. Where the value is known
            to be at least 0 they may be positive, where at most 0 negative (the multipliers of these constraints).
    """

    slopes: Mapping[int, Slopes] = field(default_factory=dict)
    prices: Mapping[int, Tensor] = field(default_factory=dict)
    patches: Mapping[int, Slopes] = field(default_factory=dict)

    def to(self, dtype: torch.dtype) -> Choice:
        """The same choice in ``dtype``."""
        return Choice(
            {k: Slopes(s.low.to(dtype), s.high.to(dtype)) for k, s in self.slopes.items()},
            {k: price.to(dtype) for k, price in self.prices.items()},
            {k: Slopes(s.low.to(dtype), s.high.to(dtype)) for k, s in self.patches.items()},
        )


@dataclass(frozen=True)
class Linear:
    """A linear function of the input that lies nowhere above what it bounds.

    Attributes:
        rows: over the input; None where the input does not matter.
        shift: ``[n, S]``.
        error: ``[n, S]``: what rounding may have taken from the function anywhere in the box; 0 where nobody asked.
    """

    rows: Rows | None
    shift: Tensor
    error: Tensor

    def least(self, box: Interval) -> Tensor:
        """``[n, S]``: a lower bound over the box, or the ball."""
        found = self.shift - self.error
        if self.rows is None:
            return found
        over = self.rows.dot(box.middle) - self.rows.reach(box.radius)
        if isinstance(box, Ball):
            over = torch.maximum(over, self.rows.dot(box.centre) - box.eps * self.rows.norm(box.dual))
        found = found + over
        if box.outward is not None:
            size = self.rows.reach(box.size) + self.shift.abs() + self.error
            if isinstance(box, Ball):
                size = size + self.rows.reach(box.centre.abs()) + box.eps * self.rows.norm(box.dual)
            found = found - size * box.outward.gamma(self.rows.terms + 8) * 2 - box.outward.least
        return found

    def corner(self, box: Interval) -> Tensor:
        """``[n, S, ...]``: where in the box, or about where in the ball, it is least."""
        low, high = box.low.unsqueeze(1), box.high.unsqueeze(1)
        if self.rows is None:
            return low.expand(-1, self.shift.shape[1], *low.shape[2:])
        values = self.rows.dense().values
        if isinstance(box, Ball) and box.dual == 2:
            steps = values.flatten(2)
            steps = steps / steps.norm(dim=2, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
            at = box.centre.unsqueeze(1) - box.eps * steps.view_as(values)
            return torch.minimum(torch.maximum(at, low), high)
        if isinstance(box, Ball):
            steps = values.flatten(2)
            most = steps.abs().argmax(2, keepdim=True)
            only = torch.zeros_like(steps).scatter_(2, most, steps.gather(2, most).sign())
            at = box.centre.unsqueeze(1) - box.eps * only.view_as(values)
            return torch.minimum(torch.maximum(at, low), high)
        return torch.where(values > 0, low, high)


def backward(
    graph: Graph,
    spans: Sequence[Interval],
    rows: Tensor | Rows,
    place: int | None = None,
    choice: Choice | None = None,
    seen: dict[int, Rows] | None = None,
) -> Linear:
    """A linear function of the input below ``rows · value`` over the box, differentiable in the choice.

    Args:
        graph: the network.
        spans: the interval of each value that the pass crosses; ``spans[0]`` is the box.
        rows: ``[n, S, ...]`` over the value ``place``, the network's answer where it is None.
        choice: see ``Choice``; every operator's own lines by default.
        seen: is given, by the value that each curved step takes, the rows over what it makes of it.
    """
    place = graph.output if place is None else place
    choice = choice or Choice()
    start = Dense(rows) if isinstance(rows, Tensor) else rows
    n, count = start.values.shape[:2]
    total = _Total(start.values.new_zeros(n, count), coarsest(*spans))
    held: dict[int, Rows] = {place: start}
    for k in range(place, 0, -1):
        if k in choice.prices:
            price = Dense(-choice.prices[k].expand(n, count, *choice.prices[k].shape[2:]))
            held[k] = held[k].plus(price) if k in held else price
        if k not in held:
            continue
        step, row = graph.steps[k - 1], held.pop(k)
        taken = [spans[i] for i in step.inputs]
        if is_curved(step.operator):
            if seen is not None:
                known, at = row.detached(), step.inputs[0]
                seen[at] = seen[at].plus(known) if at in seen else known
            parts: Sequence[Rows] = [_curved(step.operator, row, taken[0], step.inputs[0], choice, total)]
        elif is_affine(step.operator):
            parts = _affine(step.operator, row, taken, total)
        elif is_relaxable(step.operator):
            found, shift = step.operator.relaxed(row.dense().values, *taken)
            parts = [Dense(part) for part in found]
            total.add(shift, row.terms)
            total.lose(row, spans[k].size, row.terms)
        else:
            total.add(row.dot(spans[k].middle) - row.reach(spans[k].radius), row.terms)
            total.lose(row, spans[k].size, row.terms)
            continue
        for i, part in zip(step.inputs, parts, strict=True):
            if i in held:  # what they lose does not cancel where they do
                total.lose(part, spans[i].size, 4)
                part = held[i].plus(part)
            held[i] = part
            total.lose(part, spans[i].size, 4)
    return Linear(held.get(0), total.value, total.error)


class _Total:
    """What is constant in a bound, and what rounding may have taken from it.

    Args:
        value: ``[n, S]``.
        arithmetic: None where rounding does not matter.
    """

    def __init__(self, value: Tensor, arithmetic: Rounding | None) -> None:
        self.value, self.error, self.arithmetic = value, torch.zeros_like(value), arithmetic

    def add(self, shift: Tensor, terms: int) -> None:
        """A sum of ``terms`` products of one sign each; what others can lose is for ``lose``."""
        self.value = self.value + shift
        if self.arithmetic is not None:
            self.error = self.error + (shift.abs() + self.value.abs()) * self.arithmetic.gamma(terms)

    def lose(self, rows: Rows, size: Tensor, terms: int) -> None:
        """A share of what ``rows`` over values of that size can be."""
        if self.arithmetic is not None:
            share = self.arithmetic.gamma(terms) * rows.reach(size)
            self.error = self.error + share + self.arithmetic.least * terms


def _curved(operator: Curved, row: Rows, span: Interval, place: int, choice: Choice, total: _Total) -> Rows:
    slopes = choice.slopes.get(place)
    if place in choice.patches and isinstance(row, Patches):
        slopes, span = choice.patches[place], row.span(span)
    own = operator.slopes(span) if slopes is None else operator.within(span, slopes)
    lines = operator.between(span, own)
    if lines.low_slope.dim() > span.low.dim():
        row = row.dense()
    found, low, high = row.within(lines)
    if low is not None and lines.low_shift is not None:
        total.add(low, row.terms)
        total.lose(row, torch.maximum(lines.low_shift.abs(), lines.high_shift.abs()), row.terms)
    total.add(high, row.terms)
    return found


def _affine(operator: Affine, row: Rows, spans: Sequence[Interval], total: _Total) -> Sequence[Rows]:
    """The rows before an affine operator."""
    nothing = [span.low.new_zeros(1, *span.low.shape[1:]) for span in spans]
    if total.arithmetic is None:
        total.add(row.dot(operator.value(*nothing)), row.terms)
    else:
        constant = operator.interval(*(Interval(zero, zero, total.arithmetic) for zero in nothing))
        total.add(row.dot(constant.middle), row.terms)
        total.lose(row, constant.size, row.terms)
        total.error = total.error + row.reach(constant.radius) * 1.01
        largest = operator.interval(*(Interval(-span.size, span.size, total.arithmetic) for span in spans))
        total.lose(row, largest.size, row.terms)
    return row.before(operator, spans)
