"""Parts of a box: what is known of the network's values there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hardpoint.bounds.ball import Ball
from hardpoint.bounds.linear import Choice
from hardpoint.bounds.operators.operator import Interval, Slopes


@dataclass(frozen=True)
class Domains:
    """Parts of one input's box, in which some values are known to be on one side of 0.

    Attributes:
        bound: ``[m]``: of the claim's worst clause.
        box: ``[m, ...]``.
        known: the interval of each value before a curved step.
        signs: by value ``[m, ...]``: the side of 0 that a split put it on, 0 where none did.
        choice: the lines and prices that the bound was found with.
        axis: int64 ``[m]``: the number of the input that the bound depends on most.
    """

    bound: Tensor
    box: Interval
    known: Mapping[int, Interval]
    signs: Mapping[int, Tensor]
    choice: Choice
    axis: Tensor

    def __len__(self) -> int:
        return len(self.bound)

    def of(self, index: Tensor) -> Domains:
        """The parts ``index``, int64 ``[k]`` or bool ``[m]``."""
        return Domains(
            self.bound[index],
            self.box.of(index),
            {k: span.of(index) for k, span in self.known.items()},
            {k: sign[index] for k, sign in self.signs.items()},
            some_of(self.choice, index),
            self.axis[index],
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
        torch.cat([part.axis for part in parts]),
    )


@dataclass
class Waiting:
    """Parts that are still open. Those that came last go first: every open part must be closed in the end, and so the
    fewest wait at any time.

    Attributes:
        parts: in pieces, as they came.
    """

    parts: list[Domains] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(piece) for piece in self.parts)

    @property
    def worst(self) -> float:
        """The lowest bound of all that wait; infinite where none does."""
        return min((float(piece.bound.min()) for piece in self.parts), default=torch.inf)

    def put(self, parts: Domains) -> None:
        if len(parts):
            self.parts.append(parts)

    def take(self, most: int) -> Domains:
        """Up to ``most`` of them; at least one waits."""
        taken, room = [], most
        while self.parts and room:
            piece = self.parts.pop()
            if len(piece) > room:
                order = piece.bound.argsort()
                self.parts.append(piece.of(order[room:]))
                piece = piece.of(order[:room])
            taken.append(piece)
            room -= len(piece)
        return joined(taken)


def _joined(spans: Sequence[Interval]) -> Interval:
    low, high = torch.cat([s.low for s in spans]), torch.cat([s.high for s in spans])
    first = spans[0]
    if isinstance(first, Ball):
        centre = torch.cat([s.centre for s in spans if isinstance(s, Ball)])
        return Ball(low, high, first.outward, centre, first.eps, first.dual)
    return Interval(low, high, first.outward)
