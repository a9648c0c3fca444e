"""Parts of a box: what is known of the network's values there."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hardpoint.bounds.linear import Choice
from hardpoint.bounds.operators.operator import Interval, Rounding, Slopes


@dataclass(frozen=True)
class Domains:
    """Parts of one input's box, in which some values are known to be on one side of 0.

    Attributes:
        bound: ``[m]``: of the claim's worst clause.
        box: ``[m, ...]``.
        known: the interval of each value before a curved step.
        signs: by value ``[m, ...]``: the side of 0 that a split put it on, 0 where none did.
        choice: the lines and prices that the bound was found with.
    """

    bound: Tensor
    box: Interval
    known: Mapping[int, Interval]
    signs: Mapping[int, Tensor]
    choice: Choice

    def __len__(self) -> int:
        return len(self.bound)

    def of(self, index: Tensor) -> Domains:
        """The parts ``index``, int64 ``[k]`` or bool ``[m]``."""
        return Domains(
            self.bound[index],
            _some(self.box, index),
            {k: _some(span, index) for k, span in self.known.items()},
            {k: sign[index] for k, sign in self.signs.items()},
            some_of(self.choice, index),
        )


def some_of(choice: Choice, index: Tensor) -> Choice:
    """The lines and prices of the parts ``index``."""
    return Choice(
        {k: Slopes(slopes.low[index], slopes.high[index]) for k, slopes in choice.slopes.items()},
        {k: price[index] for k, price in choice.prices.items()},
    )


def joined(parts: Sequence[Domains]) -> Domains:
    """All of them behind one another."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    return Domains(
        torch.cat([part.bound for part in parts]),
        _joined([part.box for part in parts]),
        {k: _joined([part.known[k] for part in parts]) for k in first.known},
        {k: torch.cat([part.signs[k] for part in parts]) for k in first.signs},
        Choice(
            {
                k: Slopes(
                    torch.cat([part.choice.slopes[k].low for part in parts]),
                    torch.cat([part.choice.slopes[k].high for part in parts]),
                )
                for k in first.choice.slopes
            },
            {k: torch.cat([part.choice.prices[k] for part in parts]) for k in first.choice.prices},
        ),
    )


@dataclass
class Queue:
    """Parts that wait, the worst first.

    Attributes:
        waiting: bound, a number that keeps the order strict, and where the part stands.
    """

    waiting: list[tuple[float, int, Domains, int]] = field(default_factory=list)
    _number: itertools.count[int] = field(default_factory=itertools.count)

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def worst(self) -> float:
        """The lowest bound of all that wait; infinite where none does."""
        return self.waiting[0][0] if self.waiting else torch.inf

    def put(self, parts: Domains) -> None:
        for row, bound in enumerate(parts.bound.tolist()):
            heapq.heappush(self.waiting, (bound, next(self._number), parts, row))

    def take(self, most: int) -> Domains:
        """Up to ``most`` of the worst."""
        taken = [heapq.heappop(self.waiting) for _ in range(min(most, len(self.waiting)))]
        rows: dict[int, tuple[Domains, list[int]]] = {}
        for _, _, parts, row in taken:
            rows.setdefault(id(parts), (parts, []))[1].append(row)
        return joined([parts.of(torch.tensor(some)) for parts, some in rows.values()])


def _some(span: Interval, index: Tensor) -> Interval:
    return Interval(span.low[index], span.high[index], span.outward)


def _joined(spans: Sequence[Interval]) -> Interval:
    outward: Rounding | None = spans[0].outward
    return Interval(torch.cat([s.low for s in spans]), torch.cat([s.high for s in spans]), outward)
