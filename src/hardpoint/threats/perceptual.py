"""A bound on how different every pixel may look."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.core.box import Box
from hardpoint.core.rng import Rng
from hardpoint.threats.ciede import ciede2000, lab_from_srgb
from hardpoint.threats.images import check_bounded, check_images, to_unit
from hardpoint.threats.norms import checked_radius, describe_norm, finite_or, radius_text

_HALVINGS = 30
_INSIDE = 1 - 1e-9  # projections aim this much inside, as powers and cosines are rounded
_STEP = 0.01  # of the input range, about one unit of CIEDE2000 for a grey pixel


@dataclass(frozen=True)
class PerceptualRegion:
    """Colours within ``eps`` of each original pixel's, inside the box."""

    HAS_ROWS: ClassVar[bool] = True
    x: Tensor
    box: Box
    eps: float

    @property
    def reach(self) -> Tensor:
        low, high = self.box.bounds_like(self.x)
        width = (high - low).expand_as(self.x).flatten(1).amax(1)
        return width * min(0.5, 2 * _STEP * self.eps)

    def differences(self, z: Tensor) -> Tensor:
        """float64 ``[n, h, w]``: the CIEDE2000 difference of every pixel."""
        before, after = (lab_from_srgb(to_unit(image, self.box)) for image in (self.x, z))
        same = (z == self.x).all(1)
        return torch.where(same, 0.0, ciede2000(before, after))

    def project(self, z: Tensor) -> Tensor:
        """``z`` with each pixel drawn back towards its original, along the line between, until it is allowed.

        Not the nearest allowed image in any norm: the differences' balls are curved.
        """
        z, limit = self.box.clamp(finite_or(z, self.x)), self.eps * _INSIDE
        if math.isinf(self.eps) or bool((self.differences(z) <= limit).all()):
            return z
        low = torch.zeros_like(self.x[:, :1], dtype=torch.float64)
        high = torch.ones_like(low)
        whole = (self.differences(z) <= limit).unsqueeze(1)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            fine = (self.differences(self._between(z, middle)) <= limit).unsqueeze(1)
            low, high = torch.where(fine, middle, low), torch.where(fine, high, middle)
        return torch.where(whole, z, self._between(z, low))

    def _between(self, z: Tensor, share: Tensor) -> Tensor:
        x = self.x.double()
        return torch.where(share == 0, self.x, (x + share * (z.double() - x)).to(self.x.dtype))

    def sample(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        u = rng.uniform(index, tuple(self.x.shape[1:]), counter, self.x.dtype)
        low, high = self.box.bounds_like(self.x)
        return self.project(self.x + (2 * u - 1) * min(0.5, 2 * _STEP * self.eps) * (high - low))

    def distance(self, z: Tensor) -> Tensor:
        return self.differences(z).flatten(1).amax(1)

    def contains(self, z: Tensor) -> Tensor:
        """Bool ``[n]``: whether every pixel's difference is at most ``eps``; exact, in float64."""
        return (self.distance(z) <= self.eps) & self.box.contains(z)

    def ascent(self, gradient: Tensor, z: Tensor) -> Tensor:
        return gradient.sign()


@dataclass(frozen=True)
class Perceptual:
    """No pixel may look more than ``eps`` different, in CIEDE2000 units (about 1 is just visible side by side).

    Pixels are read as sRGB over the input range. All norm attacks work on it. The measure is that of Zhao, Liu,
    Larson, "Towards large yet imperceptible adversarial image perturbations with perceptual color distance" (CVPR
    2020), who penalise its sum; a bound per pixel can be checked exactly and leaves no pixel free.

    Raises:
        ThreatError: for a negative eps, inputs that are not images of 3 channels, or a range without ends.

    >>> region = Perceptual(2.0).around(torch.full((1, 3, 1, 1), 0.5), Box(0, 1))
    >>> region.contains(torch.full((1, 3, 1, 1), 0.51)), region.contains(torch.full((1, 3, 1, 1), 0.6))
    (tensor([True]), tensor([False]))
    """

    eps: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", checked_radius("Perceptual", self.eps))

    @property
    def name(self) -> str:
        return f"perceptual-{radius_text(self.eps).replace('/', 'of')}"

    def around(self, x: Tensor, box: Box) -> PerceptualRegion:
        check_images("Perceptual", x, (3,))
        check_bounded("Perceptual", box)
        return PerceptualRegion(x, box, self.eps)

    def scaled(self, factor: float) -> Perceptual:
        return Perceptual(self.eps * factor)

    def describe(self) -> dict[str, Any]:
        return {
            **describe_norm("Perceptual", self.eps),
            "text": f"CIEDE2000 ≤ {radius_text(self.eps)} per pixel",
        }
