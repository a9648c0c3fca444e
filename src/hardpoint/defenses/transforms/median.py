"""Each pixel becomes the middle one of its neighbourhood."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.defenses.stage import GradientPath
from hardpoint.defenses.transforms._shared import as_images, mirrored, whole_number


@dataclass(frozen=True)
class MedianSmoothing:
    """The median of the square window around each pixel, channel by channel; edges are mirrored.

    Xu, Evans, Qi, "Feature squeezing: detecting adversarial examples in deep neural networks" (NDSS 2018), section
    3.2. Windows of even size reach one further up and left than down and right, and take the upper of their two middle
    values, as the paper's do. Takes images ``[n, channels, height, width]`` or ``[n, height, width]``. The gradient
    goes to the pixel that was chosen.

    Args:
        size: side of the window in pixels; the paper uses 2 and 3.

    Raises:
        ConfigError: for a size that is no whole number of 1 or more.
        DataError: for inputs that are not images.

    >>> spot = torch.zeros(1, 5, 5)
    >>> spot[0, 2, 2] = 1.0
    >>> float(MedianSmoothing(3).apply(spot).max())
    0.0
    """

    gradient: ClassVar[GradientPath] = GradientPath.DIFFERENTIABLE
    is_random: ClassVar[bool] = False

    size: int = 3

    def __post_init__(self) -> None:
        whole_number("MedianSmoothing", "size", self.size, 1)

    def apply(self, x: Tensor) -> Tensor:
        images = as_images("MedianSmoothing", x)
        before = self.size // 2
        wide = mirrored(images, before, self.size - 1 - before)
        windows = wide.unfold(2, self.size, 1).unfold(3, self.size, 1).flatten(4)
        place = self.size**2 // 2 + 1  # counted from 1, from the smallest
        return torch.kthvalue(windows, place, dim=4).values.reshape(x.shape)

    def describe(self) -> dict[str, Any]:
        return {"kind": "MedianSmoothing", **asdict(self)}
