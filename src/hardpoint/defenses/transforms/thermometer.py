"""Numbers as columns of a thermometer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.core.errors import DataError
from hardpoint.defenses.stage import GradientPath
from hardpoint.defenses.transforms._shared import floats, soft_step_slope, value_range, whole_number


@dataclass(frozen=True)
class ThermometerEncoding:
    """Each number becomes ``levels`` numbers of 0 or 1: number k says if it lies above k / ``levels`` of the range.

    Buckman, Roy, Raffel, Goodfellow, "Thermometer encoding: one hot way to resist adversarial examples" (ICLR 2018).
    Tables ``[n, d]`` become ``[n, d * levels]``, those of one feature side by side; images
    ``[n, channels, height, width]`` become ``[n, channels * levels, height, width]``. The model must have been trained
    so. Gradients cross it as those of a soft thermometer, whose steps are logistic curves one level wide: so Athalye,
    Carlini, Wagner, "Obfuscated gradients give a false sense of security" (ICML 2018), section 5.1, broke it, with
    curves of another kind.

    Args:
        levels: numbers per number.
        low: the lowest value an input may have.
        high: the highest.

    Raises:
        ConfigError: for settings that make no sense.
        DataError: for inputs that are neither tables nor images with channels.

    >>> ThermometerEncoding(levels=4).apply(torch.tensor([[0.3, 0.0]]))
    tensor([[1., 1., 0., 0., 0., 0., 0., 0.]])
    """

    gradient: ClassVar[GradientPath] = GradientPath.OWN
    is_random: ClassVar[bool] = False

    levels: int = 16
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        whole_number("ThermometerEncoding", "levels", self.levels, 2)
        value_range("ThermometerEncoding", self.low, self.high)

    def apply(self, x: Tensor) -> Tensor:
        spread = self._spread(x.detach())
        lit = (spread > self._steps(x)).to(x.dtype)
        return torch.where(spread.isnan(), spread, lit).flatten(1, 2)

    def backward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """That of the soft thermometer, given the one with respect to ``apply(x)``."""
        width = (self.high - self.low) / self.levels
        slope = soft_step_slope(self._spread(x), self._steps(x), width)
        return (gradient.reshape_as(slope) * slope).sum(2)

    def _spread(self, x: Tensor) -> Tensor:
        """``x`` with an axis of length 1 for the levels after the first one of features or channels."""
        floats("ThermometerEncoding", x)
        if x.dim() not in (2, 4):
            raise DataError(
                f"ThermometerEncoding was given inputs of shape {tuple(x.shape)}",
                "give tables [n, features] or images [n, channels, height, width]",
            )
        return x.unsqueeze(2)

    def _steps(self, x: Tensor) -> Tensor:
        shares = torch.arange(self.levels, dtype=torch.float64, device=x.device) / self.levels
        steps = (self.low + (self.high - self.low) * shares).to(x.dtype)
        return steps.view(1, 1, -1, *([1] * (x.dim() - 2)))

    def describe(self) -> dict[str, Any]:
        return {"kind": "ThermometerEncoding", **asdict(self)}
