"""Averaging over places that look alike."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hardpoint.defenses.stage import GradientPath
from hardpoint.defenses.transforms._shared import as_images, kept_within, mirrored, odd_number, positive


@dataclass(frozen=True)
class NonLocalMeans:
    """Each pixel becomes the mean of those near it, weighted by how alike the patches around them are.

    Buades, Coll, Morel, "A non-local algorithm for image denoising" (CVPR 2005): the weight is
    ``exp(-d² / strength²)``, where ``d²`` is the mean squared difference of two patches over their pixels and
    channels. Xu, Evans, Qi, "Feature squeezing" (NDSS 2018), use ``search`` 11 and 13, ``patch`` 3 and ``strength``
    2 and 4 of 255. Edges are mirrored. Takes images ``[n, channels, height, width]`` or ``[n, height, width]``.

    Args:
        search: side of the window that is averaged over, pixels, odd.
        patch: side of the patches compared, pixels, odd.
        strength: differences much above it count no more; in the units of the inputs.

    Raises:
        ConfigError: for even sides and a strength that is not above 0.
        DataError: for inputs that are not images.

    >>> stripes = torch.arange(12).remainder(2).float().expand(1, 12, 12)
    >>> float((NonLocalMeans().apply(stripes) - stripes).abs().max()) < 1e-6  # likes of every place are near it
    True
    """

    gradient: ClassVar[GradientPath] = GradientPath.DIFFERENTIABLE
    is_random: ClassVar[bool] = False

    search: int = 11
    patch: int = 3
    strength: float = 4 / 255

    def __post_init__(self) -> None:
        odd_number("NonLocalMeans", "search", self.search)
        odd_number("NonLocalMeans", "patch", self.patch)
        object.__setattr__(self, "strength", positive("NonLocalMeans", "strength", self.strength))

    def apply(self, x: Tensor) -> Tensor:
        images = as_images("NonLocalMeans", x)
        height, width = images.shape[2:]
        reach, rim = self.search // 2, self.patch // 2
        wide = mirrored(images, reach + rim, reach + rim)
        own = wide[:, :, reach : reach + height + 2 * rim, reach : reach + width + 2 * rim]
        total, weights = torch.zeros_like(images), torch.zeros_like(images[:, :1])
        # one shift of the whole image at a time, for a table of all pairs of pixels would be huge
        for down in range(self.search):
            for right in range(self.search):
                other = wide[:, :, down : down + height + 2 * rim, right : right + width + 2 * rim]
                unlike = F.avg_pool2d((own - other).square().mean(1, keepdim=True), self.patch, stride=1)
                weight = torch.exp(-unlike / self.strength**2)
                total = total + weight * other[:, :, rim : rim + height, rim : rim + width]
                weights = weights + weight
        return kept_within(total / weights, images).reshape(x.shape)

    def describe(self) -> dict[str, Any]:
        return {"kind": "NonLocalMeans", **asdict(self)}
