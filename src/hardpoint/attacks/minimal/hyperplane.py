"""The shortest way to a hyperplane inside a box."""

from __future__ import annotations

import torch
from torch import Tensor

from hardpoint.attacks.minimal.norms import Norm


def onto_hyperplane(
    norm: Norm, normal: Tensor, gap: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """The smallest d with normal · d = gap (L0: ≥ gap) and low ≤ d ≤ high, exactly.

    Every norm moves each coordinate in the direction that closes the gap, up to the room the box leaves there.
    Linf moves all by one length t and L2 in proportion t to the normal, as far as there is room. L1 spends the
    whole room of the steepest coordinates first. L0 moves the coordinates that gain most, each as far as it may.
    (Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020,
    section 3 and appendix; a fractional knapsack for L1.)

    Args:
        norm: any; L0 goes beyond the hyperplane.
        normal, low, high: ``[n, d]``; low ≤ 0 ≤ high, may be infinite.
        gap: ``[n]``.

    Returns:
        float64 ``[n, d]``, and bool ``[n]``: whether the hyperplane is reached. Where the box ends before it, d
        is the way there without the box, cut to the box; for L1 and L0 the way to the nearest corner.

    >>> flat = torch.tensor([[2.0, 1.0]])
    >>> ends = torch.full((1, 2), 0.5)
    >>> onto_hyperplane(Norm.L1, flat, torch.tensor([1.2]), -ends, ends)[0]
    tensor([[0.5000, 0.2000]], dtype=torch.float64)
    >>> onto_hyperplane(Norm.LINF, flat, torch.tensor([1.2]), -ends, ends)[0]
    tensor([[0.4000, 0.4000]], dtype=torch.float64)
    """
    normal, gap = normal.double(), gap.double().unsqueeze(1)
    normal, gap = torch.where(gap < 0, -normal, normal), gap.abs()
    steep = normal.abs()
    free = torch.where(normal > 0, high.double(), -low.double()).clamp_min(0.0)
    # no coordinate ever goes further than would close the gap alone, which also makes the room finite
    free = torch.where(steep > 0, torch.minimum(free, gap / steep.clamp_min(1e-300)), 0.0)
    worth = steep * free
    reaches = (worth.sum(1) >= gap.squeeze(1) * (1 - 1e-9)) & (worth.amax(1) > 0)
    if norm is Norm.L0:
        order = worth.argsort(dim=1, descending=True, stable=True)
        ordered = worth.gather(1, order)
        needed = ordered.cumsum(1) - ordered < gap
        size = torch.where(torch.zeros_like(needed).scatter(1, order, needed), free, 0.0)
    elif norm is Norm.L1:
        order = steep.argsort(dim=1, descending=True, stable=True)
        gained = worth.gather(1, order).cumsum(1).clamp(max=gap)
        part = torch.diff(gained, dim=1, prepend=torch.zeros_like(gap))
        share = torch.zeros_like(worth).scatter(1, order, part)
        size = torch.minimum(share / steep.clamp_min(1e-300), free)
    else:
        pace = torch.ones_like(steep) if norm is Norm.LINF else steep
        rise = steep * pace
        alone = gap / rise.sum(1, keepdim=True).clamp_min(1e-300)
        t = torch.where(reaches.unsqueeze(1), _closing(gap, rise, worth, alone), alone)
        size = torch.minimum(torch.where(steep > 0, t * pace, 0.0), free)
    return torch.copysign(size, normal), reaches


def _closing(gap: Tensor, rise: Tensor, worth: Tensor, start: Tensor) -> Tensor:
    """float64 ``[n, 1]``: the t at which the sum of min(t · rise, worth) is ``gap``, where it gets there.

    The sum is concave and made of lines, so Newton's steps from a ``start`` that is not beyond (the solution without
    the box is not) come from below and end at the solution itself. Each step that goes on fills the room of a
    coordinate, so there are at most d + 1; in practice three or four, where sorting takes ten times as long. A row that
    has ended stays as it is while others go on.
    """
    t = start
    while True:
        is_free = t * rise < worth
        slope = torch.where(is_free, rise, 0.0).sum(1, keepdim=True)
        held = torch.where(is_free, 0.0, worth).sum(1, keepdim=True)
        ahead = torch.where(slope > 0, torch.maximum((gap - held) / slope.clamp_min(1e-300), t), t)
        if not bool((ahead > t).any()):
            return t
        t = ahead
