"""From comparisons to cases: the boxes that the inputs' bounds leave, and the rows over the outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from hardpoint.bounds.vnnlib.property import Case
from hardpoint.bounds.vnnlib.terms import Malformed, above, below, nearest


@dataclass(frozen=True)
class Bound:
    """An input that is not above, or not below, a number.

    Attributes:
        place: which input.
        end: the number.
        is_upper: whether it is not above it.
    """

    place: int
    end: Fraction
    is_upper: bool


@dataclass(frozen=True, eq=False)
class Row:
    """A linear term of the outputs that is not above 0.

    Attributes:
        factors: by output; each is a float64.
        constant: what is added.
        strict: whether it is below 0.
    """

    factors: Mapping[int, Fraction]
    constant: Fraction
    strict: bool


Conjunction = tuple[Bound | Row, ...]
Disjunction = tuple[Conjunction, ...]


def cases(inputs: int, outputs: int, fixed: Sequence[Bound | Row], choices: Disjunction) -> tuple[Case, ...]:
    """The cases whose comparisons are ``fixed`` and one of ``choices``; those that no input is in are left out.

    Raises:
        Malformed: naming an input without bounds.
    """
    common, made = _Box(inputs), []
    common.bound(part for part in fixed if isinstance(part, Bound))
    rows = [part for part in fixed if isinstance(part, Row)]
    boxes: dict[tuple[Bound, ...], _Box] = {(): common}
    for choice in choices:
        bounds = tuple(part for part in choice if isinstance(part, Bound))
        if bounds not in boxes:
            boxes[bounds] = common.copy()
            boxes[bounds].bound(bounds)
        box = boxes[bounds]
        if not box.is_empty:
            made.append(_case(box, [*rows, *(part for part in choice if isinstance(part, Row))], outputs))
    return tuple(made)


class _Box:
    """The ends of each input, exactly. Cases with the same bounds share one, and its tensors."""

    def __init__(self, inputs: int) -> None:
        self.low: list[Fraction | None] = [None] * inputs
        self.high: list[Fraction | None] = [None] * inputs
        self.is_empty = False
        self._made: tuple[Tensor, Tensor, tuple[Tensor, Tensor]] | None = None

    def copy(self) -> _Box:
        made = _Box(0)
        made.low, made.high, made.is_empty = list(self.low), list(self.high), self.is_empty
        return made

    def bound(self, bounds: Iterable[Bound]) -> None:
        for bound in bounds:
            ends, place = (self.high if bound.is_upper else self.low), bound.place
            held = ends[place]
            if held is None or (bound.end < held if bound.is_upper else bound.end > held):
                ends[place] = bound.end
            low, high = self.low[place], self.high[place]
            self.is_empty = self.is_empty or (low is not None and high is not None and low > high)

    def tensors(self) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Low and high rounded outwards, and both rounded to nearest."""
        if self._made is None:
            lows, highs = (
                self._ends(ends, what) for ends, what in ((self.low, "lower"), (self.high, "upper"))
            )
            closest = tuple(_tensor([nearest(end) for end in ends]) for ends in (lows, highs))
            self._made = (
                _tensor([below(end) for end in lows]),
                _tensor([above(end) for end in highs]),
                (closest[0], closest[1]),
            )
        return self._made

    @staticmethod
    def _ends(ends: Sequence[Fraction | None], what: str) -> list[Fraction]:
        found = [end for end in ends if end is not None]
        if len(found) < len(ends):
            raise Malformed(f"X_{list(ends).index(None)} has no {what} bound")
        return found


def _case(box: _Box, rows: Sequence[Row], outputs: int) -> Case:
    low, high, closest = box.tensors()
    weights = torch.zeros(len(rows), outputs, dtype=torch.float64)
    for i, row in enumerate(rows):
        for place, factor in row.factors.items():
            weights[i, place] = float(factor)
    offset = _tensor([below(row.constant) for row in rows])
    strict = torch.tensor([row.strict for row in rows], dtype=torch.bool)
    return Case(low, high, weights, offset, strict, closest, tuple(row.constant for row in rows))


def _tensor(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
