"""Rounding that never moves a value further from the original, so that it leaves no ball, bound or direction."""

from __future__ import annotations

import torch
from torch import Tensor


def store(point: Tensor, x: Tensor) -> Tensor:
    """float64 ``point`` in the dtype of the originals ``x``, never further from them than before.

    >>> stored = store(torch.tensor([0.1], dtype=torch.float64), torch.zeros(1))
    >>> bool(stored.double() <= 0.1), bool(torch.tensor([0.1]).double() <= 0.1)
    (True, False)
    """
    stored = point.to(x.dtype)
    own = x.double()
    further = (stored.double() - own).abs() > (point - own).abs()
    return torch.where(further, torch.nextafter(stored, x), stored)


def whole_toward(point: Tensor, own: Tensor, slack: float) -> Tensor:
    """``point`` rounded to a whole number of units from ``own``, towards it.

    ``slack`` is how far below a whole unit, relative to the size of the move but never more than a thousandth of a
    unit, still counts as it: a ball of exactly three units should allow three.
    """
    offset = point - own
    size = offset.abs()
    return own + torch.copysign((size + (slack * size.clamp_min(1.0)).clamp_max(1e-3)).floor(), offset)


def level_toward(point: Tensor, own: Tensor, levels: Tensor, slack: float) -> Tensor:
    """The level nearest to ``point`` ``[n]`` among those between it and ``own``; ``levels`` rise.

    >>> level_toward(torch.tensor([4.0, 1.5]), torch.tensor([1.0, 5.0]), torch.tensor([1.0, 2.0, 5.0]), 0.0)
    tensor([2., 2.])
    """
    margin = slack * (levels[-1] - levels[0])
    below = (torch.searchsorted(levels, point + margin, right=True) - 1).clamp_min(0)
    above = torch.searchsorted(levels, point - margin).clamp_max(len(levels) - 1)
    reached = torch.where(point > own, levels[below], levels[above])
    # A level stored in float32 may lie beside the exact one; what does not move keeps its own value.
    moved = torch.where(point > own, reached > own, reached < own)
    return torch.where(moved, reached, own)
