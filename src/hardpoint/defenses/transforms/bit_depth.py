"""Fewer shades."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.defenses.stage import GradientPath
from hardpoint.defenses.transforms._shared import floats, value_range, whole_number


@dataclass(frozen=True)
class BitDepth:
    """Rounds every number to one of ``2**bits`` levels, evenly spaced from ``low`` to ``high``.

    Xu, Evans, Qi, "Feature squeezing: detecting adversarial examples in deep neural networks" (NDSS 2018), section 3.1.
    Takes inputs of any shape ``[n, ...]``; what lies outside the range becomes its nearest end.

    Args:
        bits: 1 to 20 per number; the paper uses 1 for digits, 4 and 5 for photographs.
        low: the lowest value an input may have.
        high: the highest.

    Raises:
        ConfigError: for settings that make no sense.
        DataError: for inputs that are not floating-point numbers.

    >>> BitDepth(bits=1).apply(torch.tensor([[0.2, 0.6, 0.9]]))
    tensor([[0., 1., 1.]])
    """

    gradient: ClassVar[GradientPath] = GradientPath.STRAIGHT_THROUGH
    is_random: ClassVar[bool] = False

    bits: int = 5
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        whole_number("BitDepth", "bits", self.bits, 1, 20)  # more would not fit into the digits of float32
        value_range("BitDepth", self.low, self.high)

    def apply(self, x: Tensor) -> Tensor:
        floats("BitDepth", x)
        steps, width = 2**self.bits - 1, self.high - self.low
        share = ((x - self.low) / width).clamp(0.0, 1.0)
        level: Tensor = torch.round(share * steps) / steps
        return (level * width + self.low).clamp(self.low, self.high)

    def describe(self) -> dict[str, Any]:
        return {"kind": "BitDepth", **asdict(self)}
