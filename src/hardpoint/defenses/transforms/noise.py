"""Noise, to drown out smaller changes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError
from hardpoint.defenses.stage import GradientPath
from hardpoint.defenses.transforms._shared import floats, positive, value_range


class NoiseKind(Enum):
    """The distribution of each number's noise."""

    GAUSSIAN = "gaussian"
    UNIFORM = "uniform"


@dataclass(frozen=True)
class AdditiveNoise:
    """Adds independent noise to every number, and keeps the sum within the value range.

    Liu, Cheng, Zhang, Hsieh, "Towards robust neural networks via random self-ensemble" (ECCV 2018). It holds little
    against attackers who average over it, unless the model was trained with it. Takes inputs of any shape
    ``[n, ...]``.

    Args:
        sigma: the noise's standard deviation; uniform noise thus reaches ``√3 · sigma`` either way.
        kind: Gaussian or uniform.
        low: the lowest value an input may have; ``-math.inf`` for none.
        high: the highest; ``math.inf`` for none.

    Raises:
        ConfigError: for settings that make no sense.
        DataError: for inputs that are not floating-point numbers.

    >>> made = AdditiveNoise(0.1).apply(torch.ones(2, 50))
    >>> float(made.max()), bool(made.min() < 1)
    (1.0, True)
    """

    gradient: ClassVar[GradientPath] = GradientPath.DIFFERENTIABLE
    is_random: ClassVar[bool] = True

    sigma: float = 0.1
    kind: NoiseKind = NoiseKind.GAUSSIAN
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", positive("AdditiveNoise", "sigma", self.sigma))
        value_range("AdditiveNoise", self.low, self.high, bounded=False)
        try:
            object.__setattr__(self, "kind", NoiseKind(self.kind))
        except ValueError:
            raise ConfigError(
                f"AdditiveNoise kind is {self.kind!r}", 'give "gaussian" or "uniform"'
            ) from None

    def apply(self, x: Tensor) -> Tensor:
        floats("AdditiveNoise", x)
        if self.kind is NoiseKind.GAUSSIAN:
            drawn = torch.randn_like(x)
        else:
            drawn = (2 * torch.rand_like(x) - 1) * math.sqrt(3)
        return (x + self.sigma * drawn).clamp(self.low, self.high)

    def describe(self) -> dict[str, Any]:
        ends = [end if math.isfinite(end) else None for end in (self.low, self.high)]
        return {
            "kind": "AdditiveNoise",
            "sigma": self.sigma,
            "noise": self.kind.value,
            "low": ends[0],
            "high": ends[1],
        }
