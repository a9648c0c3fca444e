"""Blurring."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor

from hardpoint.defenses.stage import GradientPath
from hardpoint.defenses.transforms._shared import as_images, kept_within, mirrored, positive


@dataclass(frozen=True)
class GaussianSmoothing:
    """Averages around each pixel with Gaussian weights, channel by channel; edges are mirrored.

    Cut off four ``sigma`` away. Xu, Evans, Qi, "Feature squeezing: detecting adversarial examples in deep neural
    networks" (NDSS 2018), section 3.2, discuss it beside the median.
    Takes images ``[n, channels, height, width]`` or ``[n, height, width]``.

    Args:
        sigma: width of the bell, pixels.

    Raises:
        ConfigError: for a ``sigma`` that is not above 0.
        DataError: for inputs that are not images.

    >>> import torch
    >>> spot = torch.zeros(1, 9, 9)
    >>> spot[0, 4, 4] = 1.0
    >>> round(float(GaussianSmoothing(1.0).apply(spot)[0, 4, 4]), 4)  # 1 / (2 pi) where it is not cut off
    0.1592
    """

    gradient: ClassVar[GradientPath] = GradientPath.DIFFERENTIABLE
    is_random: ClassVar[bool] = False

    sigma: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", positive("GaussianSmoothing", "sigma", self.sigma, most=1000))

    def apply(self, x: Tensor) -> Tensor:
        images = as_images("GaussianSmoothing", x)
        weights = self._weights()
        reach = len(weights) // 2
        blurred = mirrored(images, reach, reach)
        for axis in (2, 3):
            # a sum of shifted images: a convolution may round differently in another batch
            wide, side = blurred, images.shape[axis]
            blurred = weights[0] * wide.narrow(axis, 0, side)
            for k in range(1, len(weights)):
                blurred = blurred + weights[k] * wide.narrow(axis, k, side)
        return kept_within(blurred, images).reshape(x.shape)

    def _weights(self) -> list[float]:
        """The bell from one end to the other, of sum 1."""
        reach = int(4 * self.sigma + 0.5)
        bell = [math.exp(-0.5 * (k / self.sigma) ** 2) for k in range(-reach, reach + 1)]
        return [value / math.fsum(bell) for value in bell]

    def describe(self) -> dict[str, Any]:
        return {"kind": "GaussianSmoothing", **asdict(self)}
