"""How large a network may be, and the widest that is no larger."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hardpoint.core.errors import ConfigError
from hardpoint.harden.search.architecture import Architecture

_WIDEST = 4096
_COUNTED = 2
"""Inputs that operations are counted on; some norms refuse one alone."""


@dataclass(frozen=True)
class Size:
    """What a network holds and computes.

    Attributes:
        weights: how many numbers it learns.
        operations: multiplications and additions, counted together once, for one input.
    """

    weights: int
    operations: int

    @classmethod
    def of(cls, network: nn.Module, shape: tuple[int, ...]) -> Size:
        """Counted without computing anything, on inputs of ``shape``.

        >>> Size.of(nn.Linear(3, 4), (3,))
        Size(weights=16, operations=12)
        """
        try:
            bare = copy.deepcopy(network).to("meta").eval()
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                bare(torch.zeros(_COUNTED, *shape, device="meta"))
        except (NotImplementedError, RuntimeError):  # some layers cannot be run on nothing
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                copy.deepcopy(network).eval()(torch.zeros(_COUNTED, *shape))
        return cls(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // (2 * _COUNTED))


@dataclass(frozen=True)
class Limits:
    """The most that a network may hold and compute.

    Args:
        weights: numbers that it learns.
        operations: multiplications with an addition, for one input.
    """

    weights: int
    operations: int

    def __post_init__(self) -> None:
        if not all(isinstance(most, int) and most >= 1 for most in (self.weights, self.operations)):
            raise ConfigError(
                f"limits of {self.weights} weights and {self.operations} operations",
                "give whole numbers of 1 or more",
            )

    @classmethod
    def like(cls, network: nn.Module, shape: tuple[int, ...], operations: float = 2.0) -> Limits:
        """As many weights as ``network`` has, and ``operations`` times its operations."""
        size = Size.of(network, shape)
        return cls(size.weights, max(1, int(operations * size.operations)))

    def allows(self, size: Size) -> bool:
        """Whether a network of this size is no larger."""
        return size.weights <= self.weights and size.operations <= self.operations

    def scaled(self, share: float) -> Limits:
        """A ``share`` of them."""
        return Limits(max(1, int(self.weights * share)), max(1, int(self.operations * share)))

    def widest(self, architecture: Architecture) -> Architecture | None:
        """The architecture at the largest width that the limits allow; None where they allow none."""
        return widest(lambda width: replace(architecture, width=width), self.allows)


def widest(of_width: Callable[[int], Architecture], allowed: Callable[[Size], bool]) -> Architecture | None:
    """The last of the architectures by width that is ``allowed``; sizes grow with the width."""

    def fits(width: int) -> bool:
        made = of_width(width)
        with torch.device("meta"):
            network = made.build()
        return allowed(Size.of(network, made.shape))

    low, high = 0, 1
    while high <= _WIDEST and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return of_width(low) if low else None
