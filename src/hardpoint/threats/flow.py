"""Smooth displacements of an image's pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hardpoint.core.box import Box
from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng
from hardpoint.threats.images import (
    Border,
    as_it_was,
    check_images,
    pixel_grid,
    sample_bilinear,
    spread,
    unit_gradient,
    unit_tolerance,
    whole_number,
)
from hardpoint.threats.norms import checked_radius, finite_or, radius_text
from hardpoint.threats.parametrised import drawn_parameters

_STEPS = 3


@dataclass(frozen=True)
class FlowRegion:
    """Images whose pixels are taken from at most ``eps`` pixels away, by a displacement that varies slowly."""

    HAS_ROWS: ClassVar[bool] = True
    x: Tensor
    box: Box
    eps: float
    spacing: int

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """Two displacements (down, right) per control point; control points are ``spacing`` pixels apart."""
        return (2, *(-(-(side - 1) // self.spacing) + 1 for side in self.x.shape[-2:]))

    @property
    def reach(self) -> Tensor:
        return spread(self.x).clamp_min(torch.finfo(self.x.dtype).tiny)

    def displacement(self, parameters: Tensor) -> Tensor:
        """float64 ``[n, 2, h, w]``, in pixels: the control points' displacements, interpolated bilinearly."""
        height, width = self.x.shape[-2:]
        rows, columns = pixel_grid(self.x)
        n = len(parameters)
        nothing = parameters.new_zeros(())
        at = (rows / self.spacing).expand(n, height, width), (columns / self.spacing).expand(n, height, width)
        return self.eps * sample_bilinear(parameters.double(), *at, Border.EDGE, nothing)

    def apply(self, parameters: Tensor) -> Tensor:
        move = self.displacement(parameters)
        rows, columns = pixel_grid(self.x)
        source = rows + move[:, 0], columns + move[:, 1]
        moved = sample_bilinear(self.x.double(), *source, Border.EDGE, move.new_zeros(()))
        return as_it_was(self.box.clamp(moved.to(self.x.dtype)), self.x)

    def fit(self, z: Tensor) -> Tensor:
        """Least-squares steps from no displacement, a 2 × 2 system per control point (Lucas and Kanade 1981)."""
        found = torch.zeros(len(z), *self.parameter_shape, dtype=torch.float64, device=z.device)
        for _ in range(_STEPS):
            found = (found + self._towards(z, self.apply(found))).clamp(-1, 1)
        return found

    def _towards(self, z: Tensor, now: Tensor) -> Tensor:
        """The change of the parameters that brings the image ``now`` nearer to ``z``, to first order."""
        x, change = now.double(), z.double() - now.double()
        slope = torch.stack([_slope(x, 2), _slope(x, 3)], dim=1)  # [n, 2, c, h, w]
        normal = torch.einsum("nichw,njchw->nijhw", slope, slope)
        right = torch.einsum("nichw,nchw->nihw", slope, change)
        pooled = self._gathered(torch.cat([normal.flatten(1, 2), right], dim=1))  # [n, 6, *controls]
        a = pooled[:, :4].movedim(1, -1).reshape(len(x), *pooled.shape[2:], 2, 2)
        ridge = 1e-6 * a.diagonal(dim1=-2, dim2=-1).sum(-1) + 1e-200  # flat regions say nothing: stay there
        a = a + ridge[..., None, None] * torch.eye(2, dtype=torch.float64, device=x.device)
        move: Tensor = torch.linalg.solve(a, pooled[:, 4:].permute(0, 2, 3, 1))
        return (move.permute(0, 3, 1, 2) / max(self.eps, 1e-300)).nan_to_num()

    def _gathered(self, maps: Tensor) -> Tensor:
        """Sums of ``maps`` ``[n, k, h, w]`` weighted by each control point's share of every pixel's displacement."""
        height, width = maps.shape[-2:]
        for side, axis in ((height, -2), (width, -1)):
            at = torch.arange(side, dtype=torch.float64, device=maps.device) / self.spacing
            point = torch.arange(-(-(side - 1) // self.spacing) + 1, device=maps.device)
            share = (1 - (at.unsqueeze(1) - point).abs()).clamp_min(0.0)
            maps = torch.tensordot(maps, share, dims=([axis], [0])).movedim(-1, axis)
        return maps

    def project(self, z: Tensor) -> Tensor:
        """An allowed image near ``z``: the displacement that explains it best to first order, applied."""
        return self.apply(self.fit(finite_or(z, self.x)))

    def sample(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        return self.apply(drawn_parameters(self, rng, index, counter))

    def distance(self, z: Tensor) -> Tensor:
        """float64 ``[n]``: a lower bound of the largest displacement, in pixels, 0 where nothing changed, else the
        smallest of eight equal steps up to ``eps`` whose neighbourhoods explain every pixel; infinite beyond."""
        steps = torch.linspace(0, self.eps, 9, dtype=torch.float64).tolist()
        best = torch.full((len(z),), torch.inf, dtype=torch.float64, device=z.device)
        for radius in reversed(steps):
            best = torch.where(self._explained(z, radius), radius, best)
        return best

    def contains(self, z: Tensor) -> Tensor:
        """Bool ``[n]``: whether every pixel of ``z`` could have come from at most ``eps`` pixels away.

        Checked exactly, within rounding: each channel, and each difference of two channels, lies between the least
        and the largest value that the interpolated original takes within ``eps`` along both axes. This is necessary
        for every displacement and, without the smoothness, sufficient for images of one channel. It does not prove
        that *one smooth* displacement explains all pixels; ``apply``, ``project`` and ``sample`` are smooth by
        construction, and attacks get their points from these.
        """
        return self._explained(z, self.eps) & self.box.contains(z)

    def _explained(self, z: Tensor, radius: float) -> Tensor:
        image, claimed = _with_differences(self.x.double()), _with_differences(z.double())
        low, high = image, image
        # a bilinear function is extreme at corners: whole pixels, and the ends of the neighbourhood
        whole = range(-math.floor(radius), math.floor(radius) + 1)
        steps = sorted({-radius, radius, *(float(k) for k in whole)})
        rows, columns = (part.expand(len(z), -1, -1) for part in pixel_grid(self.x))
        zero = image.new_zeros(())
        for down in steps:
            for right in steps:
                moved = sample_bilinear(image, rows + down, columns + right, Border.EDGE, zero)
                low, high = torch.minimum(low, moved), torch.maximum(high, moved)
        slack = (
            2 * unit_tolerance(self.x.dtype) * image.abs().flatten(1).amax(1).clamp_min(1.0).view(-1, 1, 1, 1)
        )
        return ((claimed >= low - slack) & (claimed <= high + slack)).flatten(1).all(1)

    def ascent(self, gradient: Tensor, z: Tensor) -> Tensor:
        return unit_gradient(gradient)


def _slope(x: Tensor, axis: int) -> Tensor:
    """Central differences along ``axis``, 0 where there is one pixel."""
    if x.shape[axis] == 1:
        return torch.zeros_like(x)
    pad = (0, 0, 1, 1) if axis == 2 else (1, 1, 0, 0)
    wide = F.pad(x, pad, mode="replicate")
    side = x.shape[axis]
    return (wide.narrow(axis, 2, side) - wide.narrow(axis, 0, side)) / 2


def _with_differences(x: Tensor) -> Tensor:
    """The channels of ``x`` and the difference of each with the next."""
    return x if x.shape[1] == 1 else torch.cat([x, x - x.roll(1, dims=1)], dim=1)


@dataclass(frozen=True)
class Flow:
    """A smooth displacement of the pixels, at most ``eps`` pixels along each axis.

    Displacements are chosen at control points and interpolated bilinearly between them, so those of neighbouring
    pixels differ by at most ``smoothness`` = 2 eps / spacing. Beyond the edge the image continues.

    After Xiao, Zhu, Li, He, Liu, Song, "Spatially transformed adversarial examples" (ICLR 2018), who penalise
    roughness; here it is bounded, so that the threat is a set.

    Args:
        eps: the largest displacement along each axis, pixels.
        spacing: pixels between control points; 1 lets every pixel move on its own.

    Raises:
        ThreatError: for a negative or infinite eps, a spacing below 1, or inputs that are not images.

    >>> region = Flow(1.0, spacing=2).around(torch.tensor([[[[0.0, 0.5, 1.0]]]]), Box(0, 1))
    >>> region.apply(torch.full((1, *region.parameter_shape), 1.0, dtype=torch.float64))
    tensor([[[[0.5000, 1.0000, 1.0000]]]])
    """

    eps: float
    spacing: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", checked_radius("Flow", self.eps))
        whole_number("Flow", "spacing", self.spacing, 1)
        if math.isinf(self.eps):
            raise ThreatError("Flow eps is infinite", "give the largest displacement in pixels")

    @property
    def smoothness(self) -> float:
        """The most that the displacements of neighbouring pixels differ by, pixels."""
        return 2 * self.eps / self.spacing

    @property
    def name(self) -> str:
        return f"flow-{radius_text(self.eps).replace('/', 'of')}px-every{self.spacing}"

    def around(self, x: Tensor, box: Box) -> FlowRegion:
        check_images("Flow", x)
        return FlowRegion(x, box, self.eps, self.spacing)

    def scaled(self, factor: float) -> Flow:
        return replace(self, eps=self.eps * factor)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "Flow",
            "eps": self.eps,
            "spacing": self.spacing,
            "smoothness": self.smoothness,
            "text": f"displacement ≤ {radius_text(self.eps)} px, neighbours within {self.smoothness:g} px",
        }
