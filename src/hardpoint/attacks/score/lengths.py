"""The length of a change in a perturbation's own distance."""

from __future__ import annotations

from torch import Tensor

from hardpoint.core.rows import per_row
from hardpoint.threats.perturbation import Region


def unit_change(change: Tensor, region: Region) -> Tensor:
    """``change`` ``[n, ...]`` scaled so that it leads to distance one from the originals; nothing where it is nothing.

    >>> import torch
    >>> from hardpoint import L1
    >>> from hardpoint.core.box import Box
    >>> unit_change(torch.tensor([[2.0, -2.0]]), L1(9.0).around(torch.zeros(1, 2), Box(-9, 9)))
    tensor([[ 0.5000, -0.5000]])
    """
    size = region.distance(region.x + change).clamp_min(1e-12)
    return change / per_row(size.to(change.dtype), change)
