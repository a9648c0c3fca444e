"""Who learns from which part of a batch, where several processes train one network together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def _alone(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Share:
    """A part of a batch.

    Attributes:
        start, stop: which of its rows.
        weight: what the part's mean counts in the mean of the batch.
        counts: what each of its rows counts in a sum over all ranks; less than 1 where others have it too.
    """

    start: int = 0
    stop: int | None = None
    weight: float = 1.0
    counts: float = 1.0

    def of(self, rows: Tensor) -> Tensor:
        """This part of the batch's ``rows``."""
        return rows[self.start : self.stop]


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, seen from one of them.

    All that they ever do together is to add: a mean is a weighted sum, and what one of them tells the others is a sum
    with zeros. With one process nothing is computed and nothing copied.

    Attributes:
        rank: this process, from 0.
        world: how many there are.
        add: the sum of a tensor over all ranks, the same bits on each; may overwrite what it is given.

    >>> second = Ranks(1, 2)
    >>> second.share(5)
    Share(start=3, stop=5, weight=0.4, counts=1.0)
    >>> second.owners(5).tolist()
    [0, 0, 0, 1, 1]
    """

    rank: int = 0
    world: int = 1
    add: Callable[[Tensor], Tensor] = _alone

    @property
    def is_alone(self) -> bool:
        return self.world == 1

    @property
    def is_first(self) -> bool:
        """Whether this one keeps files and tells what happens."""
        return self.rank == 0

    def share(self, rows: int) -> Share:
        """This rank's part of a batch of ``rows``: two rows at least, as batch norms cannot learn from one. A batch
        too small for that is learned from by all of them alike."""
        if self.is_alone:
            return Share()
        if not self._is_split(rows):
            return Share(0, rows, 1 / self.world, 1 / self.world)
        size, more = divmod(rows, self.world)
        start = self.rank * size + min(self.rank, more)
        stop = start + size + (self.rank < more)
        return Share(start, stop, (stop - start) / rows)

    def owners(self, rows: int) -> Tensor:
        """int16 ``[rows]``: which rank answers for each row of a batch."""
        if not self._is_split(rows):
            return torch.zeros(rows, dtype=torch.int16)
        size, more = divmod(rows, self.world)
        sizes = torch.tensor([size + (rank < more) for rank in range(self.world)])
        return torch.arange(self.world, dtype=torch.int16).repeat_interleave(sizes)

    def _is_split(self, rows: int) -> bool:
        return rows >= 2 * self.world

    def mean(
        self, parts: Sequence[Tensor | None], like: Sequence[Tensor], weight: float
    ) -> list[Tensor | None]:
        """The mean over all ranks, which count ``weight`` each, of tensors of the shapes of ``like``.

        A part that is None counts as zeros, and stays None where all have None. One message for each type of number.
        """
        if self.is_alone:
            return list(parts)
        found: list[Tensor | None] = [None] * len(parts)
        for dtype in dict.fromkeys(tensor.dtype for tensor in like):
            places = [place for place, tensor in enumerate(like) if tensor.dtype == dtype]
            device = like[places[0]].device
            there = torch.tensor([parts[place] is not None for place in places], device=device).to(dtype)
            flat = [_weighted(parts[place], like[place], weight) for place in places]
            total = self.add(torch.cat([*flat, there]))
            *means, known = torch.split(total, [*map(len, flat), len(there)])
            for place, mean, one in zip(places, means, known.tolist(), strict=True):
                found[place] = mean.view_as(like[place]).clone() if one else None
        return found

    def sums(self, *values: float) -> tuple[float, ...]:
        """Each number's sum over all ranks."""
        if self.is_alone:
            return values
        return tuple(self.add(torch.tensor(values, dtype=torch.float64)).tolist())

    def first(self, *values: float) -> tuple[float, ...]:
        """Rank 0's numbers; those of the others do not count."""
        return self.sums(*(values if self.is_first else (0.0,) * len(values)))


def _weighted(part: Tensor | None, like: Tensor, weight: float) -> Tensor:
    if part is None:
        return torch.zeros(like.numel(), dtype=like.dtype, device=like.device)
    return part.detach().to(like.dtype).reshape(-1) * weight


ALONE = Ranks()
