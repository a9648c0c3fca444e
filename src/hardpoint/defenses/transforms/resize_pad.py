"""Random size, random place."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError
from hardpoint.defenses.stage import GradientPath
from hardpoint.defenses.transforms._shared import as_images, kept_within, positive
from hardpoint.threats.images import Border, sample_bilinear


@dataclass(frozen=True)
class RandomResizePad:
    """Draws a size for each image, resizes it, and puts it at a random place of a canvas of fixed size.

    Xie, Wang, Zhang, Ren, Yuille, "Mitigating adversarial effects through randomization" (ICLR 2018). Each row draws
    for itself. All rows are sampled at once, bilinearly, as ``torch.nn.functional.interpolate`` does without corners
    aligned. The canvas has the size of the input, or of the largest image where ``high`` is above 1: with ``low=1`` and
    ``high=331/299`` this is the paper's, and the model must take the larger images. Takes images
    ``[n, channels, height, width]`` or ``[n, height, width]``.

    Args:
        low: the smallest size, as a share of each side.
        high: the largest.
        fill: what surrounds the image.

    Raises:
        ConfigError: unless ``0 < low <= high`` and ``fill`` is finite.
        DataError: for inputs that are not images.

    >>> half = RandomResizePad(low=0.5, high=0.5).apply(torch.ones(1, 1, 8, 8))
    >>> float(half.sum()), half.shape
    (16.0, torch.Size([1, 1, 8, 8]))
    """

    gradient: ClassVar[GradientPath] = GradientPath.DIFFERENTIABLE
    is_random: ClassVar[bool] = True

    low: float = 0.8
    high: float = 1.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        for word in ("low", "high"):
            object.__setattr__(self, word, positive("RandomResizePad", word, getattr(self, word), most=100))
        if self.low > self.high:
            raise ConfigError(f"RandomResizePad low is {self.low}, high is {self.high}", "give low <= high")
        if not math.isfinite(self.fill):
            raise ConfigError(f"RandomResizePad fill is {self.fill}", "give a number, such as 0")

    def apply(self, x: Tensor) -> Tensor:
        images = as_images("RandomResizePad", x)
        n, (height, width) = len(images), images.shape[2:]
        share, place_down, place_right = torch.rand(3, n, 1, dtype=torch.float64, device=x.device)
        share = self.low + (self.high - self.low) * share
        down, in_rows = self._sources(height, share, place_down)
        right, in_columns = self._sources(width, share, place_right)
        made = sample_bilinear(
            images,
            down.to(x.dtype).unsqueeze(2).expand(-1, -1, right.shape[1]),
            right.to(x.dtype).unsqueeze(1).expand(-1, down.shape[1], -1),
            Border.EDGE,
            images.new_zeros(()),
        )
        inside = (in_rows.unsqueeze(2) & in_columns.unsqueeze(1)).unsqueeze(1)
        canvas = torch.where(inside, kept_within(made, images), self.fill)
        return canvas if x.dim() == 4 else canvas.squeeze(1)

    def _sources(self, side: int, share: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """For each pixel along a canvas: where in the image it comes from, and whether from there at all."""
        canvas = max(side, round(side * self.high))
        size = torch.round(share * side).clamp(1, canvas)
        start = torch.floor(place * (canvas - size + 1)).clamp_max(canvas - size)  # every place alike
        offset = torch.arange(canvas, dtype=torch.float64, device=share.device) - start
        return (offset + 0.5) * side / size - 0.5, (offset >= 0) & (offset < size)

    def describe(self) -> dict[str, Any]:
        return {"kind": "RandomResizePad", **asdict(self)}
