"""Rotations and translations of images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
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
    share_of,
    spread,
    unit_gradient,
    unit_tolerance,
    whole_number,
)
from hardpoint.threats.norms import checked_radius, finite_or

_PROBES = 64  # pixels that tell most poses apart, so that few images need to be compared whole
_AT_ONCE = 2**21  # numbers computed at a time


@dataclass(frozen=True)
class SpatialRegion:
    """The poses of a grid applied to each original: a finite set of images."""

    HAS_ROWS: ClassVar[bool] = True
    x: Tensor
    box: Box
    setting: Spatial

    @property
    def eps(self) -> float:
        return self.setting.eps

    @property
    def poses(self) -> Tensor:
        """float64 ``[g, 3]``: the angle in radians, the shifts down and right as shares of the height and width."""
        return self.setting.grid()[0].to(self.x.device)

    @property
    def sizes(self) -> Tensor:
        """float64 ``[g]``: each pose's distance, in rising order."""
        return self.setting.grid()[1].to(self.x.device)

    @property
    def reach(self) -> Tensor:
        return spread(self.x)

    def images(self, rows: Tensor, poses: Tensor) -> Tensor:
        """The originals ``rows`` (index tensor ``[m]``) in the poses ``poses`` (likewise), ``[m, c, h, w]``."""
        parts, known = [], self.poses
        size = max(1, _AT_ONCE // max(1, self.x[0].numel()))
        down, right = pixel_grid(self.x)
        for start in range(0, len(rows), size):
            row, pose = rows[start : start + size], known[poses[start : start + size]]
            count = len(row)
            made = self._sampled(row, pose, down.expand(count, -1, -1), right.expand(count, -1, -1))
            parts.append(as_it_was(made, self.x[row]))
        return torch.cat(parts) if parts else self.x[:0]

    def _sampled(self, rows: Tensor, pose: Tensor, down: Tensor, right: Tensor) -> Tensor:
        """Originals ``rows`` in the poses ``[m, 3]``, at the output pixels ``down``, ``right`` ``[m, a, b]``."""
        height, width = self.x.shape[-2:]
        angle = pose[:, 0].view(-1, 1, 1)
        moved_down = down - (height - 1) / 2 - pose[:, 1].view(-1, 1, 1) * height
        moved_right = right - (width - 1) / 2 - pose[:, 2].view(-1, 1, 1) * width
        # where each output pixel comes from: back along the shift, then back along the turn
        source_down = (height - 1) / 2 + torch.cos(angle) * moved_down + torch.sin(angle) * moved_right
        source_right = (width - 1) / 2 - torch.sin(angle) * moved_down + torch.cos(angle) * moved_right
        low, _ = self.box.bounds_like(self.x.double())
        black = torch.where(torch.isfinite(low), low, 0.0)
        found = sample_bilinear(self.x[rows].double(), source_down, source_right, self.setting.border, black)
        return self._clamped(found, (down, right))

    def _clamped(self, found: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
        low, high = (end.expand(self.x.shape[1:]) for end in self.box.bounds_like(self.x))
        down, right = at[0][0].long(), at[1][0].long()
        value = found.to(self.x.dtype)
        return torch.maximum(torch.minimum(value, high[:, down, right]), low[:, down, right])

    def _probes(self) -> tuple[Tensor, Tensor]:
        """Row and column of pixels spread over the image, int64 ``[p]`` each (a low-discrepancy sequence)."""
        height, width = self.x.shape[-2:]
        k = torch.arange(1, _PROBES + 1, dtype=torch.float64, device=self.x.device)
        # the plastic number's powers: Roberts 2018
        return ((k * 0.7548776662466927) % 1 * height).long(), ((k * 0.5698402909980532) % 1 * width).long()

    def _gaps(self, z: Tensor) -> Tensor:
        """float64 ``[n, g, c, p]``: each pose's image minus ``z`` at the probes."""
        down, right = self._probes()
        poses, n = self.poses, len(z)
        gaps = []
        size = max(1, _AT_ONCE // (len(poses) * len(down) * self.x.shape[1]))
        for start in range(0, n, size):
            rows = torch.arange(start, min(start + size, n), device=z.device)
            owner = rows.repeat_interleave(len(poses))
            many = len(owner)
            seen = self._sampled(
                owner,
                poses.repeat(len(rows), 1),
                down.double().view(1, 1, -1).expand(many, 1, -1),
                right.double().view(1, 1, -1).expand(many, 1, -1),
            )
            seen = seen.squeeze(2).view(len(rows), len(poses), *seen.shape[1:2], len(down))
            gaps.append(seen.double() - z[rows][:, :, down, right].double().unsqueeze(1))
        return torch.cat(gaps) if gaps else torch.empty(0, len(poses), 1, 1, dtype=torch.float64)

    def _matches(self, z: Tensor) -> Tensor:
        """Bool ``[n, g]``: which poses' images equal ``z``, up to rounding."""
        low, high = self.box.bounds_like(self.x.double())
        width = high - low
        largest = self.x.double().flatten(1).abs().amax(1).clamp_min(1.0)
        own = float(width.max()) if bool(torch.isfinite(width).all()) else largest
        tolerance = unit_tolerance(self.x.dtype) * (torch.zeros_like(largest) + own).view(-1, 1, 1, 1)
        equal = (self._gaps(z).abs() <= tolerance).flatten(2).all(2)
        rows, poses = equal.nonzero(as_tuple=True)
        size = max(1, _AT_ONCE // max(1, self.x[0].numel()))
        for start in range(0, len(rows), size):
            row, pose = rows[start : start + size], poses[start : start + size]
            gap = (self.images(row, pose).double() - z[row].double()).abs()
            equal[row, pose] = (gap <= tolerance[row]).flatten(1).all(1)
        return equal

    def project(self, z: Tensor) -> Tensor:
        """The image of the grid nearest to ``z`` as 64 pixels judge it."""
        z = finite_or(z, self.x)
        nearest = self._gaps(z).square().flatten(2).sum(2).argmin(1)
        return self.images(torch.arange(len(z), device=z.device), nearest)

    def sample(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        pose = rng.integers(index, len(self.poses), (), counter)
        return self.images(torch.arange(len(index), device=index.device), pose)

    def distance(self, z: Tensor) -> Tensor:
        """float64 ``[n]``: the size of the smallest pose whose image is ``z``; infinite for any other image."""
        return torch.where(self._matches(z), self.sizes, torch.inf).amin(1)

    def contains(self, z: Tensor) -> Tensor:
        """Bool ``[n]``: whether ``z`` is, within rounding, the original in a pose of the grid; exact both ways."""
        return self._matches(z).any(1) & self.box.contains(z)

    def ascent(self, gradient: Tensor, z: Tensor) -> Tensor:
        return unit_gradient(gradient)


@dataclass(frozen=True)
class Spatial:
    """Rotations about the middle and translations, on a grid of poses.

    The allowed images are those of the grid and no others, so that trying them all is a complete search: an input
    that survives ``SpatialGrid`` is proven robust to this threat. Poses in between are another threat (use a finer
    grid). Bilinear interpolation.

    Engstrom, Tran, Tsipras, Schmidt, Madry, "Exploring the landscape of spatial robustness" (ICML 2019): first-order
    attacks on these few parameters do badly, the grid does best. Their grid is the default one.

    Args:
        rotation: the largest angle, degrees, either way.
        translation: the largest shift along each axis, as a share of the image's side.
        angles: angles in the grid, an odd number.
        shifts: shifts along each axis in the grid, an odd number.
        border: what comes into view: black (the low end of the input range), or the edge continued.
        eps: scales both limits; distances are the largest share of a limit that is used, so 1 is all of it.

    Raises:
        ThreatError: for negative limits or even counts, and for inputs that are not images.

    >>> region = Spatial(rotation=0, translation=0.5, shifts=3).around(torch.tensor([[[[0.2, 0.6]]]]), Box(0, 1))
    >>> region.contains(torch.tensor([[[[0.0, 0.2]]]])), region.contains(torch.tensor([[[[0.1, 0.2]]]]))
    (tensor([True]), tensor([False]))
    """

    rotation: float = 30.0
    translation: float = 0.1
    angles: int = 31
    shifts: int = 5
    border: Border = Border.BLACK
    eps: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rotation", share_of("Spatial", "rotation", self.rotation, 180))
        object.__setattr__(self, "translation", share_of("Spatial", "translation", self.translation, 1))
        object.__setattr__(self, "eps", checked_radius("Spatial", self.eps))
        try:
            object.__setattr__(self, "border", Border(self.border))
        except ValueError:
            raise ThreatError(f"Spatial border is {self.border!r}", 'give "black" or "edge"') from None
        for word, count in (("angles", self.angles), ("shifts", self.shifts)):
            whole_number("Spatial", word, count, 1)
            if count % 2 == 0:
                raise ThreatError(
                    f"Spatial {word} is {count}", "give an odd number, so that 0 is one of them"
                )
        if math.isinf(self.eps):
            raise ThreatError(
                "Spatial eps is infinite", "poses have no smallest one that works; give a number"
            )

    @property
    def name(self) -> str:
        scale = "" if self.eps == 1 else f"-x{self.eps:g}"
        grid = "" if (self.angles, self.shifts) == (31, 5) else f"-{self.angles}x{self.shifts}"
        border = "" if self.border is Border.BLACK else f"-{self.border.value}"
        return f"spatial-{self.rotation:g}deg-{self.translation:g}{grid}{border}{scale}"

    def grid(self) -> tuple[Tensor, Tensor]:
        """The poses, float64 ``[g, 3]``, by rising size, and their sizes, float64 ``[g]``."""
        axes = []
        for limit, count in ((self.rotation, self.angles), (self.translation, self.shifts)):
            many = limit * self.eps > 0 and count > 1
            half = count // 2 if many else 0
            axes.append(torch.arange(-half, half + 1, dtype=torch.float64) / max(1, half))
        shares = torch.cartesian_prod(axes[0], axes[1], axes[1])
        size, order = shares.abs().amax(1).sort(stable=True)
        limits = [math.radians(self.rotation), self.translation, self.translation]
        return shares[order] * shares.new_tensor(limits) * self.eps, size * self.eps

    def around(self, x: Tensor, box: Box) -> SpatialRegion:
        check_images("Spatial", x)
        return SpatialRegion(x, box, self)

    def scaled(self, factor: float) -> Spatial:
        return replace(self, eps=self.eps * factor)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "Spatial",
            "eps": self.eps,
            "rotation": self.rotation,
            "translation": self.translation,
            "angles": self.angles,
            "shifts": self.shifts,
            "border": self.border.value,
            "text": f"rotation ≤ {self.rotation * self.eps:g}°, translation ≤ {self.translation * self.eps:g}, "
            f"{len(self.grid()[0])} poses",
        }
