"""Examples kept from one epoch to the next, as offsets from their inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hardpoint.core.rng import Rng
from hardpoint.core.rows import per_row
from hardpoint.harden.augment import Augmentation, Moves, with_draws
from hardpoint.threats.perturbation import Region


class Memory:
    """One offset per input, in units of the region's reach, so that it grows with the budget.

    Args:
        n: inputs in the data.
        shape: of one input.
        changes: how batches are augmented; offsets are kept as they lie on inputs that are not.
    """

    def __init__(self, n: int, shape: tuple[int, ...], changes: Sequence[Augmentation]) -> None:
        self.offsets = torch.zeros(n, *shape, dtype=torch.float16)
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
