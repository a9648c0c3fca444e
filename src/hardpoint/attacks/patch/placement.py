"""A patch in a scene: where it is, how large, how turned, in what light."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.core.box import Box
from hardpoint.core.rng import Rng
from hardpoint.threats.images import Border, from_unit, pixel_grid, sample_bilinear, to_unit


@dataclass(frozen=True)
class Pose:
    """One patch per image, float64 ``[n]`` each.

    Attributes:
        row, column: the middle of the patch, in pixels; (0, 0) is the middle of the first pixel.
        side: its side in pixels.
        angle: its turn in radians.
        gain, offset: its light: contrast about the middle of the input range, and brightness.
    """

    HAS_ROWS: ClassVar[bool] = True
    row: Tensor
    column: Tensor
    side: Tensor
    angle: Tensor
    gain: Tensor
    offset: Tensor

    def bound(self) -> Tensor:
        """float64 ``[n]``: the side of an upright square of whole pixels that holds the turned patch."""
        return (self.side * (self.angle.cos().abs() + self.angle.sin().abs())).ceil() + 1


@dataclass(frozen=True)
class Poses:
    """How a patch varies from picture to picture.

    Args:
        rotation: the largest turn, degrees either way.
        contrast, brightness: the largest change of its light: a gain of 1 ± contrast, an offset of ± brightness as a
            share of the input range.
        sizes: its sides as shares of the side that the threat's area gives, at most 1; training draws between the
            smallest and the largest, the report has a line for each.
    """

    rotation: float = 15.0
    contrast: float = 0.2
    brightness: float = 0.1
    sizes: tuple[float, ...] = (0.6, 0.8, 1.0)

    def draw(self, rng: Rng, index: Tensor, counter: int | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Size (share of the side), angle, gain and offset of each input's pose."""
        u = 2 * rng.uniform(index, (3,), counter, torch.float64) - 1
        size = rng.fork("size").uniform(index, (), counter, torch.float64)
        least, most = min(self.sizes), max(self.sizes)
        angle = u[:, 0] * math.radians(self.rotation)
        return least + size * (most - least), angle, 1 + u[:, 1] * self.contrast, u[:, 2] * self.brightness


def placed(x: Tensor, patch: Tensor, pose: Pose, box: Box) -> Tensor:
    """The images ``x`` ``[n, c, h, w]`` with ``patch`` ``[c, s, s]`` in its pose; differentiable in the patch.

    A pixel whose middle lies on the patch shows the patch, interpolated bilinearly; every other pixel is untouched.

    >>> one = torch.ones(1, dtype=torch.float64)
    >>> pose = Pose(one * 0.5, one * 1.5, one * 2, one * 0, one, one * 0)
    >>> placed(torch.zeros(1, 1, 2, 3), torch.tensor([[[0.1, 0.2], [0.3, 0.4]]]), pose, Box(0, 1))
    tensor([[[[0.0000, 0.1000, 0.2000],
              [0.0000, 0.3000, 0.4000]]]])
    """
    rows, columns = pixel_grid(x)
    down, right = rows - pose.row.view(-1, 1, 1), columns - pose.column.view(-1, 1, 1)
    cosine, sine = (f(pose.angle).view(-1, 1, 1) for f in (torch.cos, torch.sin))
    # back along the turn, in sides of the patch from its middle
    down, right = cosine * down + sine * right, -sine * down + cosine * right
    side = pose.side.view(-1, 1, 1)
    inside = ((down / side).abs() <= 0.5) & ((right / side).abs() <= 0.5)
    points = patch.shape[-1]
    at = (points - 1) / 2 + down * (points / side), (points - 1) / 2 + right * (points / side)
    flat = patch.unsqueeze(0)
    colours = to_unit(flat, box).expand(len(x), *patch.shape)
    seen = sample_bilinear(colours, *at, Border.EDGE, colours.new_zeros(()))
    lit = (seen - 0.5) * pose.gain.view(-1, 1, 1, 1) + 0.5 + pose.offset.view(-1, 1, 1, 1)
    shown = from_unit(lit.clamp(0, 1), box, x.dtype)
    return torch.where(inside.unsqueeze(1), shown, x)
