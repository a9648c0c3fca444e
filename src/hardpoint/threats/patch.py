"""One square of the image may be anything."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hardpoint.core.box import Box
from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng
from hardpoint.threats.images import check_bounded, check_images
from hardpoint.threats.norms import checked_radius, finite_or


@dataclass(frozen=True)
class PatchRegion:
    """The images that differ from each original in one ``side`` × ``side`` square at most."""

    HAS_ROWS: ClassVar[bool] = True
    x: Tensor
    box: Box
    eps: float
    side: int
    location: tuple[int, int] | None
    palette: tuple[tuple[float, ...], ...] | None

    @property
    def places(self) -> tuple[int, int]:
        """How many rows and columns the square's top left corner may be in."""
        height, width = self.x.shape[-2:]
        return height - self.side + 1, width - self.side + 1

    @property
    def reach(self) -> Tensor:
        low, high = self.box.bounds_like(self.x)
        return (high - low).expand_as(self.x).flatten(1).amax(1)

    def colours(self) -> Tensor | None:
        """The printable colours, ``[k, c]`` in the dtype of the originals; None for any."""
        if self.palette is None:
            return None
        return torch.tensor(self.palette, dtype=torch.float64, device=self.x.device).to(self.x.dtype)

    def window(self, corner: Tensor) -> Tensor:
        """Bool ``[n, 1, h, w]``: the squares whose top left corners are ``corner``, int64 ``[n, 2]``."""
        lines = []
        for axis, length in enumerate(self.x.shape[-2:]):
            at = torch.arange(length, device=self.x.device)
            start = corner[:, axis : axis + 1]
            lines.append((at >= start) & (at < start + self.side))
        return (lines[0].unsqueeze(2) & lines[1].unsqueeze(1)).unsqueeze(1)

    def window_sums(self, values: Tensor) -> Tensor:
        """float64 ``[n, *places]``: the sum of ``values`` ``[n, h, w]`` in each square, -inf where none may be."""
        if self.side == 0:
            return torch.zeros(len(values), *self.places, dtype=torch.float64, device=values.device)
        sums = F.avg_pool2d(values.double().unsqueeze(1), self.side, stride=1).squeeze(1) * self.side**2
        if self.location is None:
            return sums
        only = torch.full_like(sums, -torch.inf)
        top, left = self._fixed()
        only[:, top, left] = sums[:, top, left]
        return only

    def _fixed(self) -> tuple[int, int]:
        """The fixed corner, moved into the image where the square would stick out."""
        assert self.location is not None
        top, left = (min(at, most - 1) for at, most in zip(self.location, self.places, strict=True))
        return top, left

    def best_corner(self, values: Tensor) -> Tensor:
        """int64 ``[n, 2]``: the corner of the square with the largest sum of ``values`` ``[n, h, w]``."""
        best = self.window_sums(values).flatten(1).argmax(1)
        return torch.stack([best // self.places[1], best % self.places[1]], dim=1)

    def random_corner(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        """int64 ``[n, 2]``: a random allowed corner."""
        if self.location is not None:
            return torch.tensor(self._fixed(), device=self.x.device).expand(len(index), 2)
        most = torch.tensor(self.places, device=self.x.device)
        return rng.integers(index, most, (2,), counter)

    def printable(self, z: Tensor) -> Tensor:
        """The nearest allowed value of every pixel, of images or of a square's content: inside the box, and a colour
        of the palette where there is one."""
        colours = self.colours()
        if colours is None:
            low, high = (end.expand(self.x.shape[1:]) for end in self.box.bounds_like(self.x))
            rows, columns = z.shape[-2:]
            return torch.maximum(torch.minimum(z, high[:, :rows, :columns]), low[:, :rows, :columns])
        flat = z.movedim(1, -1)
        nearest = torch.cdist(flat.reshape(-1, flat.shape[-1]).double(), colours.double()).argmin(1)
        return colours[nearest].view_as(flat).movedim(-1, 1)

    @property
    def patch_shape(self) -> tuple[int, int, int]:
        """The shape of one square's content, ``(c, side, side)``; at least a pixel, even where none may change."""
        side = max(1, self.side)
        return int(self.x.shape[1]), side, side

    def pasted(self, patch: Tensor, corner: Tensor) -> Tensor:
        """The originals with ``patch`` ``[n, *patch_shape]``, made printable, at ``corner``, int64 ``[n, 2]``."""
        wide = self.printable(patch)
        for axis, length in ((2, self.x.shape[2]), (3, self.x.shape[3])):
            start = corner[:, axis - 2 : axis - 1]
            at = (torch.arange(length, device=self.x.device) - start).clamp(0, patch.shape[axis] - 1)
            shape = [len(patch), 1, 1, 1]
            shape[axis] = length
            spread = list(wide.shape)
            spread[axis] = length
            wide = wide.gather(axis, at.view(shape).expand(spread))
        return self.box.clamp(torch.where(self.window(corner), wide, self.x))

    def cropped(self, values: Tensor, corner: Tensor) -> Tensor:
        """What ``values`` ``[n, c, h, w]`` hold in the squares at ``corner``, ``[n, *patch_shape]``."""
        for axis in (2, 3):
            side = max(1, self.side)
            at = corner[:, axis - 2 : axis - 1] + torch.arange(side, device=values.device)
            shape = [len(values), 1, 1, 1]
            shape[axis] = side
            spread = list(values.shape)
            spread[axis] = side
            values = values.gather(axis, at.clamp(max=values.shape[axis] - 1).view(shape).expand(spread))
        return values

    def project(self, z: Tensor) -> Tensor:
        z = finite_or(z, self.x)
        inside = self.printable(z)
        wanted, left = z.double() - self.x.double(), z.double() - inside.double()
        saved = (wanted.square() - left.square()).sum(1)
        # a pixel that its nearest printable colour suits less than its own stays as it was
        kept = torch.where((saved > 0).unsqueeze(1), inside, self.x)
        if self.side == 0:
            return self.x
        return torch.where(self.window(self.best_corner(saved.clamp_min(0.0))), kept, self.x)

    def sample(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        corner = self.random_corner(rng.fork("where"), index, counter)
        return self.pasted(self.random_patch(rng.fork("value"), index, counter), corner)

    def random_patch(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        """Uniform content of a square, ``[n, *patch_shape]``."""
        low, high = self.ends_of_patch()
        u = rng.uniform(index, self.patch_shape, counter, self.x.dtype)
        return low + u * (high - low)

    def ends_of_patch(self) -> tuple[Tensor, Tensor]:
        """The least and the largest value of a square's content; wherever it lies, as ranges are per channel."""
        low, high = (end.expand(self.x.shape[1:]) for end in self.box.bounds_like(self.x))
        side = max(1, self.side)
        return low[:, :side, :side], high[:, :side, :side]

    def _extent(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """First and last changed row and column, float64 ``[n, 2]`` each; first > last where nothing changed."""
        changed = (z != self.x).any(1)
        first, last = [], []
        for axis in (2, 1):
            line = changed.any(axis)
            at = torch.arange(line.shape[1], dtype=torch.float64, device=z.device)
            first.append(torch.where(line, at, torch.inf).amin(1))
            last.append(torch.where(line, at, -torch.inf).amax(1))
        return torch.stack(first, 1), torch.stack(last, 1)

    def distance(self, z: Tensor) -> Tensor:
        """float64 ``[n]``: the share of the image in the smallest square around all changed pixels."""
        first, last = self._extent(z)
        side = (last - first + 1).amax(1).clamp_min(0.0)
        return side.square() / math.prod(self.x.shape[-2:])

    def contains(self, z: Tensor) -> Tensor:
        """Bool ``[n]``: whether all changed pixels lie in one allowed square and are printable; exact."""
        first, last = self._extent(z)
        untouched = (last < first).all(1)
        fits = (last - first + 1 <= self.side).all(1)
        if self.location is not None and self.side:
            corner = torch.tensor(self._fixed(), dtype=torch.float64, device=z.device)
            fits &= ((first >= corner) & (last < corner + self.side)).all(1)
        colours = self.colours()
        if colours is not None:
            same = (z == self.x).all(1)
            known = torch.zeros_like(same)
            for colour in colours:
                known |= (z == colour.view(1, -1, 1, 1)).all(1)
            fits &= (same | known).flatten(1).all(1)
        return (untouched | fits) & self.box.contains(z)

    def ascent(self, gradient: Tensor, z: Tensor) -> Tensor:
        """The sign of the gradient in the square that gains most on the way from the original to the end of the box."""
        if self.side == 0:
            return torch.zeros_like(gradient)
        corner = self.best_corner(self.gains(gradient))
        return torch.where(self.window(corner), gradient.sign(), 0.0)

    def gains(self, gradient: Tensor) -> Tensor:
        """``[n, h, w]``: what each pixel gains to first order when it moves from the original to the end of the box."""
        low, high = self.box.bounds_like(self.x)
        room = torch.where(gradient > 0, high - self.x, self.x - low)
        return (gradient.abs() * room).sum(1)


def _whole_pair(value: object) -> tuple[int, int] | None:
    """``value`` as two whole numbers, or None."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        return None
    row, column = value
    return (row, column) if isinstance(row, int) and isinstance(column, int) else None


@dataclass(frozen=True)
class Patch:
    """A square of the image may be anything; the rest stays as it is.

    The square's side is the largest whole number of pixels whose square covers at most ``area`` of the image; it
    stands upright and inside the image. Brown, Mané, Roy, Abadi, Gilmer, "Adversarial patch" (2017); any place:
    Karmon, Zoran, Goldberg, "LaVAN" (ICML 2018).

    Args:
        area: the largest share of the image.
        location: row and column of the top left corner, in pixels; None for anywhere.
        palette: the colours that can be printed, each a tuple of one number per channel in the model's input units;
            None for any value of the input range. Pixels of the square may also stay as they were.

    Raises:
        ThreatError: for an area outside [0, 1], a negative location, an empty or unfitting palette, inputs that are
            not images, or a range without ends.

    >>> region = Patch(area=0.25).around(torch.zeros(1, 1, 4, 4), Box(0, 1))
    >>> z = torch.zeros(1, 1, 4, 4)
    >>> z[..., 1:3, 2:4] = 1
    >>> region.contains(z), region.distance(z)
    (tensor([True]), tensor([0.2500], dtype=torch.float64))
    """

    area: float = 0.02
    location: tuple[int, int] | None = None
    palette: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        value = checked_radius("Patch", self.area)
        if value > 1:
            raise ThreatError(f"Patch area is {self.area}", "give a share of the image between 0 and 1")
        object.__setattr__(self, "area", value)
        if self.location is not None:
            place = _whole_pair(self.location)
            if place is None or min(place) < 0:
                raise ThreatError(
                    f"Patch location is {self.location}", "give (row, column) in pixels, or None"
                )
            object.__setattr__(self, "location", place)
        if self.palette is not None:
            try:
                colours = tuple(tuple(float(v) for v in colour) for colour in self.palette)
            except (TypeError, ValueError):
                colours = ()
            if not colours:
                raise ThreatError(
                    f"Patch palette is {self.palette!r}", "give colours, each one number per channel, or None"
                )
            object.__setattr__(self, "palette", colours)

    @property
    def eps(self) -> float:
        return self.area

    @property
    def name(self) -> str:
        place = "" if self.location is None else f"-at{self.location[0]}x{self.location[1]}"
        return f"patch-{self.area:.6g}{place}" + (
            ""
            if self.palette is None
            else f"-{len(self.palette)}colours-{zlib.crc32(repr(self.palette).encode()):08x}"
        )

    def side(self, height: int, width: int) -> int:
        """Pixels along the side of the square in an image of ``height`` × ``width``.

        >>> Patch(area=0.02).side(224, 224)
        31
        """
        return min(math.floor(math.sqrt(self.area * height * width) + 1e-9), height, width)

    def around(self, x: Tensor, box: Box) -> PatchRegion:
        check_images("Patch", x)
        check_bounded("Patch", box)
        height, width = x.shape[-2:]
        if self.location is not None and not (self.location[0] < height and self.location[1] < width):
            raise ThreatError(
                f"Patch location {self.location} is outside the image", "give a pixel inside it"
            )
        return PatchRegion(
            x, box, self.area, self.side(height, width), self.location, self._checked_palette(x, box)
        )

    def _checked_palette(self, x: Tensor, box: Box) -> tuple[tuple[float, ...], ...] | None:
        if self.palette is None:
            return None
        channels = x.shape[1]
        for colour in self.palette:
            if len(colour) != channels:
                raise ThreatError(
                    f"Patch palette has a colour of {len(colour)} numbers, the images have {channels} channels",
                    "give one number per channel",
                )
            flat = torch.tensor(colour, dtype=x.dtype, device=x.device).view(1, -1, 1, 1).expand_as(x[:1])
            if not bool(box.contains(flat).all()):
                raise ThreatError(
                    f"Patch colour {colour} is outside the input range", "give it in the model's units"
                )
        return self.palette

    def scaled(self, factor: float) -> Patch:
        return replace(self, area=min(1.0, self.area * factor))

    def describe(self) -> dict[str, Any]:
        place = (
            "anywhere" if self.location is None else f"at row {self.location[0]}, column {self.location[1]}"
        )
        colours = "" if self.palette is None else f", {len(self.palette)} colours"
        return {
            "kind": "Patch",
            "eps": self.area,
            "location": None if self.location is None else list(self.location),
            "palette": None if self.palette is None else [list(colour) for colour in self.palette],
            "text": f"one square of ≤ {100 * self.area:g} % of the image, {place}{colours}",
        }
