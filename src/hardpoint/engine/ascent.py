"""Projected gradient ascent on one batch, as training uses it: a fixed number of steps, and no verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hardpoint.core.rows import per_row
from hardpoint.threats.perturbation import Region


@runtime_checkable
class Relaxable(Protocol):
    """A region with points between those that are allowed."""

    @property
    def relaxes(self) -> bool:
        """Whether a search does better among them."""
        ...

    def project(self, z: Tensor) -> Tensor:
        """The allowed input near ``z``."""
        ...

    def relax(self, z: Tensor) -> Tensor:
        """``z`` within bounds and budget alone."""
        ...


def slope_at(objective: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """The gradient of ``objective(z) -> [n]``, summed, at ``z`` ``[n, ...]``; 0 where it does not depend on it."""
    with torch.enable_grad():
        point = z.detach().requires_grad_(True)
        value = objective(point).sum()
        if not value.requires_grad:
            return torch.zeros_like(point)
        slope = torch.autograd.grad(value, point, allow_unused=True)[0]
    return torch.zeros_like(point) if slope is None else slope.detach()


def ascend(
    objective: Callable[[Tensor], Tensor], region: Region, start: Tensor, *, steps: int, length: float
) -> Tensor:
    """The point reached from ``start`` ``[n, ...]`` by projected steps up ``objective(z) -> [n]``.

    In a region that can be relaxed (rows of a table, whose whole numbers would swallow steps shorter than one) the
    steps are taken between the allowed points, with the gradient at the allowed point nearby.

    Args:
        objective: differentiable; each row by itself.
        region: the allowed inputs.
        start: where to begin; need not be allowed.
        steps: how many.
        length: of each step, in units of the region's ``reach`` (the radius of a ball).

    >>> from hardpoint.core.box import Box
    >>> from hardpoint.threats import Linf
    >>> x = torch.tensor([[0.5, 0.5]])
    >>> ascend(lambda z: z[:, 0] - z[:, 1], Linf(0.25).around(x, Box.of((0, 1))), x, steps=3, length=0.5)
    tensor([[0.7500, 0.2500]])
    """
    z, step = start, per_row(region.reach * length, start).to(start.dtype)
    if isinstance(region, Relaxable) and region.relaxes:
        for _ in range(steps):
            slope = slope_at(objective, region.project(z))
            z = region.relax(torch.addcmul(z, region.ascent(slope, z), step))
        return region.project(z)
    for _ in range(steps):
        z = region.project(torch.addcmul(z, region.ascent(slope_at(objective, z), z), step))
    return z
