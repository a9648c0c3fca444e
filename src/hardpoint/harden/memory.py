"""Examples kept from one epoch to the next, as offsets from their inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hardpoint.core.rng import Rng
from hardpoint.core.rows import per_row
from hardpoint.harden.augment import Augmentation, Moves, with_draws
from hardpoint.harden.ranks import Ranks
from hardpoint.threats.perturbation import Region

_AT_ONCE = 1 << 22
"""Most numbers that are exchanged at a time."""


class Memory:
    """One offset per input, in units of the region's reach, so that it grows with the budget.

    Args:
        n: inputs in the data.
        shape: of one input.
        changes: how batches are augmented; offsets are kept as they lie on inputs that are not.
    """

    def __init__(self, n: int, shape: tuple[int, ...], changes: Sequence[Augmentation]) -> None:
        self.offsets = torch.zeros(n, *shape, dtype=torch.float16)
        self.owners = torch.zeros(n, dtype=torch.int16)
        """Which rank has seen each input last."""
        self._changes = tuple(changes)

    def take(self, rows: Tensor, region: Region, rng: Rng) -> Tensor:
        """The offsets of the inputs ``rows``, moved as these were with draws of ``rng`` into the originals."""
        like = region.x
        offsets = self.offsets[rows.cpu()].to(like) * per_row(region.reach, like).to(like.dtype)
        for change, draws in with_draws(self._changes, rng):
            if isinstance(change, Moves):
                offsets = change.moved(offsets, draws, rows)
        return offsets

    def keep(self, rows: Tensor, examples: Tensor, region: Region, rng: Rng) -> None:
        """Keep the ``examples`` ``[b, ...]`` found for the inputs ``rows``."""
        offsets = (examples.detach() - region.x) / per_row(region.reach, examples).clamp_min(1e-12)
        for change, draws in reversed(with_draws(self._changes, rng)):
            if isinstance(change, Moves):
                offsets = change.moved_back(offsets, draws, rows)
        self.offsets[rows.cpu()] = offsets.to("cpu", torch.float16)

    def exchange(self, ranks: Ranks) -> None:
        """Give every rank the offsets that the others have found, bit for bit."""
        if ranks.is_alone:
            return
        step = max(1, _AT_ONCE // max(1, self.offsets[0].numel()))
        for start in range(0, len(self.offsets), step):
            part, owners = self.offsets[start : start + step], self.owners[start : start + step]
            own = torch.zeros(part.numel() + part.numel() % 2, dtype=torch.float16)
            mine = per_row(owners == ranks.rank, part)
            own[: part.numel()] = torch.where(mine, part, torch.zeros_like(part)).flatten()
            # a sum with zeros, of pairs as whole numbers: not every backend adds float16
            found = ranks.add(own.view(torch.int32)).view(torch.float16)
            part.copy_(found[: part.numel()].view_as(part))
