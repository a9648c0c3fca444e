"""Lengths of an edit, and the balls they bound; every coordinate is one change in units of cost."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from hardpoint.core.errors import ThreatError
from hardpoint.threats.l1 import project_l1


class Norm(Enum):
    """How the changes of one row add up to its distance.

    >>> Norm.parse("l2").length(torch.tensor([[3.0, -4.0]]))
    tensor([5.])
    """

    LINF = "linf"
    L2 = "l2"
    L1 = "l1"
    L0 = "l0"

    @classmethod
    def parse(cls, value: Norm | str) -> Norm:
        """The norm called ``value``; raises ``ThreatError`` for any other word."""
        if isinstance(value, Norm):
            return value
        try:
            return cls(str(value).lower())
        except ValueError:
            raise ThreatError(f"norm {value!r} is unknown", "use one of: linf, l2, l1, l0") from None

    def length(self, moves: Tensor) -> Tensor:
        """``[n]``: the length of each row of ``moves`` ``[n, k]``."""
        match self:
            case Norm.LINF:
                return moves.abs().amax(1)
            case Norm.L2:
                return moves.square().sum(1).sqrt()
            case Norm.L1:
                return moves.abs().sum(1)
            case Norm.L0:
                return (moves != 0).sum(1).to(moves.dtype)

    def running(self, moves: Tensor) -> Tensor:
        """``[n, k]``: the length of the first, the first two, … of each row's ``moves``.

        >>> Norm.parse("l1").running(torch.tensor([[1.0, -2.0, 0.5]]))
        tensor([[1.0000, 3.0000, 3.5000]])
        """
        match self:
            case Norm.LINF:
                return moves.abs().cummax(1).values
            case Norm.L2:
                return moves.square().cumsum(1).sqrt()
            case Norm.L1:
                return moves.abs().cumsum(1)
            case Norm.L0:
                return (moves != 0).cumsum(1).to(moves.dtype)

    def rest(self, radius: float, spent: Tensor) -> Tensor:
        """What is left of ``radius`` for further coordinates when some already have the length ``spent``."""
        match self:
            case Norm.LINF:
                return torch.full_like(spent, radius)
            case Norm.L2:
                return (radius**2 - spent.square()).clamp_min(0.0).sqrt()
            case Norm.L1 | Norm.L0:
                return (radius - spent).clamp_min(0.0)


def project(norm: Norm, d: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
    """The point of {v : low ≤ v ≤ high, ‖v‖ ≤ radius} nearest to ``d`` (rows of ``[n, k]``, ``radius`` ``[n]``).

    Needs low ≤ 0 ≤ high. L0 is the box here: which coordinates may change is chosen before.
    Each row's result is the same whichever rows it is computed with.
    """
    r = radius.unsqueeze(1)
    match norm:
        case Norm.LINF:
            return torch.minimum(torch.maximum(d, torch.maximum(low, -r)), torch.minimum(high, r))
        case Norm.L2:
            return _project_l2(d, low, high, r)
        case Norm.L1:
            unit = torch.where(torch.isfinite(r) & (r > 0), r, 1.0)
            inside = project_l1(d / unit, low / unit, high / unit, 1.0 - 1e-13) * unit
            # far outside, the shrinking cancels digits: a last scaling keeps the sum inside
            inside = inside * (r / inside.abs().sum(1, keepdim=True).clamp_min(1e-300)).clamp(max=1.0)
            boxed = torch.minimum(torch.maximum(d, low), high)
            return torch.where(torch.isfinite(r), torch.where(r > 0, inside, 0.0), boxed)
        case Norm.L0:
            return torch.minimum(torch.maximum(d, low), high)


def _project_l2(d: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
    """The optimum is clip(s d, low, high) for the largest s in (0, 1] that fits the ball.

    |s d| is clipped at the room b from s = b / |d| on, so the squared length grows in pieces B + s² D between those
    kinks, with B the squared room of the clipped coordinates and D the squared size of the others: sorting the
    kinks finds the piece where the length passes the radius, and the piece gives s exactly.
    """
    clipped = torch.minimum(torch.maximum(d, low), high)
    size = d.abs()
    room = torch.where(d >= 0, high, -low)
    kinks = torch.where(size > 0, room / size.clamp_min(torch.finfo(d.dtype).tiny), torch.inf)
    kinks, order = torch.sort(kinks, dim=1)
    held = room.gather(1, order).square().cumsum(1)
    free = size.gather(1, order).square().flip(1).cumsum(1).flip(1)  # from each kink on, before it is passed
    zero = torch.zeros_like(radius)
    before, after = torch.cat([zero, held[:, :-1]], 1), torch.cat([free[:, 1:], zero], 1)
    at_kink = held + torch.where(torch.isfinite(kinks), kinks, 0.0).square() * after
    passes = (at_kink > radius.square()) & torch.isfinite(kinks)
    piece = torch.where(passes.any(1, keepdim=True), passes.int().argmax(1, keepdim=True), d.shape[1] - 1)
    # Where no kink passes the radius, every coordinate with room is clipped inside the ball: nothing to shrink.
    left = (radius.square() - before.gather(1, piece)).clamp_min(0.0)
    scale = (left / free.gather(1, piece).clamp_min(torch.finfo(d.dtype).tiny)).sqrt() * (1.0 - 1e-13)
    shrunk = torch.minimum(torch.maximum(scale * d, low), high)
    over = clipped.square().sum(1, keepdim=True) > radius.square()
    return torch.where(over & torch.isfinite(radius), torch.where(radius > 0, shrunk, 0.0), clipped)
