"""What perturbations of images share: the shape check, colours as shares of the input range, a sampler."""

from __future__ import annotations

import math
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from hardpoint.core.box import Box
from hardpoint.core.errors import ThreatError


class Border(Enum):
    """What lies beyond the edge of an image that is moved."""

    BLACK = "black"
    EDGE = "edge"


def check_images(kind: str, x: Tensor, channels: tuple[int, ...] | None = None) -> None:
    """Raise ``ThreatError`` where ``x`` is not ``[n, c, h, w]`` of floats, or ``c`` is not one of ``channels``.

    >>> check_images("Patch", torch.zeros(2, 3, 8, 8))
    """
    shape = tuple(x.shape[1:])
    if len(shape) != 3 or min(shape) < 1 or not x.is_floating_point():
        raise ThreatError(
            f"{kind} is for images [n, channels, height, width], these inputs are {x.dtype} of shape {shape}",
            "give floating-point images, or use a norm ball such as hp.Linf(0.1)",
        )
    if channels is not None and shape[0] not in channels:
        known = " or ".join(str(count) for count in channels)
        raise ThreatError(
            f"{kind} is for images of {known} channels, these have {shape[0]}", "use another perturbation"
        )


def check_bounded(kind: str, box: Box) -> None:
    """Raise ``ThreatError`` where the input range has no ends."""
    if not box.is_bounded:
        raise ThreatError(
            f"{kind} needs an input range with ends",
            "declare the range, for example TorchModel(module, input_range=(0, 1))",
        )


def whole_number(kind: str, word: str, value: int, least: int) -> None:
    """Raise ``ThreatError`` where ``value`` is not a whole number of at least ``least``."""
    if not isinstance(value, int) or value < least:
        raise ThreatError(f"{kind} {word} is {value}", f"give a whole number of {least} or more")


def share_of(kind: str, word: str, value: float, most: float = math.inf) -> float:
    """``value`` as a float; raises ``ThreatError`` where it is no number, infinite, negative or above ``most``."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or not 0 <= number <= most:
        limit = "0 or more" if math.isinf(most) else f"0 to {most:g}"
        raise ThreatError(f"{kind} {word} is {value!r}", f"give a number of {limit}")
    return number


def to_unit(z: Tensor, box: Box) -> Tensor:
    """``z`` in float64 with the input range as [0, 1], per channel where the range is."""
    low, high = box.bounds_like(z.double())
    return (z.double() - low) / (high - low).clamp_min(torch.finfo(torch.float64).tiny)


def from_unit(u: Tensor, box: Box, dtype: torch.dtype) -> Tensor:
    """The inverse of ``to_unit`` in ``dtype``, clamped to the input range; differentiable."""
    low, high = box.bounds_like(u)
    return box.clamp((low + u * (high - low)).to(dtype))


def as_it_was(made: Tensor, x: Tensor) -> Tensor:
    """``made`` with the original's number wherever only rounding tells them apart; the gradient is that of ``made``.

    So a change of nothing changes nothing, and untouched pixels are seen to be untouched.
    """
    largest = made.detach().abs().flatten(1).amax(1).view(-1, *([1] * (x.dim() - 1)))
    same = (made.detach() - x).abs() <= 8 * torch.finfo(x.dtype).eps * largest
    return torch.where(same, x + (made - made.detach()), made)


def unit_tolerance(dtype: torch.dtype) -> float:
    """How far, as a share of the input range, an image recomputed in float64 may lie from one held in ``dtype``.

    >>> unit_tolerance(torch.float32) < 1e-5
    True
    """
    return max(64 * torch.finfo(dtype).eps, 1e-9)


def sample_bilinear(image: Tensor, rows: Tensor, columns: Tensor, border: Border, black: Tensor) -> Tensor:
    """``image`` ``[n, c, h, w]`` at the pixel positions ``rows``, ``columns`` ``[n, a, b]``, ``[n, c, a, b]``.

    Positions are in pixels, (0, 0) is the middle of the first pixel. Differentiable in the image and the positions.
    ``black`` broadcasts against one image and is what lies beyond the edge for ``Border.BLACK``.
    """
    height, width = image.shape[-2:]
    # grid_sample counts from -1 to 1 between the middles of the outermost pixels; one lone pixel is at 0
    across = columns * (2.0 / max(width - 1, 1)) - (1.0 if width > 1 else 0.0)
    down = rows * (2.0 / max(height - 1, 1)) - (1.0 if height > 1 else 0.0)
    grid = torch.stack([across, down], dim=-1)
    if border is Border.EDGE:
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)
    above = F.grid_sample(image - black, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return above + black


def pixel_grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every pixel, float64, each ``[1, h, w]``."""
    height, width = x.shape[-2:]
    rows = torch.arange(height, dtype=torch.float64, device=x.device)
    columns = torch.arange(width, dtype=torch.float64, device=x.device)
    return rows.view(1, -1, 1).expand(1, height, width), columns.view(1, 1, -1).expand(1, height, width)


def unit_gradient(gradient: Tensor) -> Tensor:
    """``gradient`` with Euclidean length 1 per input; zero stays zero."""
    flat = gradient.flatten(1)
    largest = flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
    scaled = flat / largest
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    unit: Tensor = scaled / length.clamp_min(1e-12)
    return unit.view_as(gradient)


def spread(x: Tensor) -> Tensor:
    """``[n]``: Euclidean distance of each image from its own mean, the length scale of changes that move pixels."""
    flat = x.flatten(1)
    length: Tensor = torch.linalg.vector_norm(flat - flat.mean(1, keepdim=True), dim=1)
    return length
