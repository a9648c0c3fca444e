"""Changes of colour that are the same for every pixel."""

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
    as_it_was,
    check_bounded,
    check_images,
    from_unit,
    share_of,
    spread,
    to_unit,
    unit_gradient,
    unit_tolerance,
)
from hardpoint.threats.norms import checked_radius, finite_or
from hardpoint.threats.parametrised import drawn_parameters

# rounds of completing clipped values; each lowers the misfit, and images that are not clipped everywhere need none
_ROUNDS = 40


def _plane(u: Tensor) -> Tensor:
    """``[n, c, h, w]`` colours as intensity and position in the colour plane, ``[n, 3, h, w]``; inverse below."""
    if u.shape[1] == 1:
        return torch.cat([u, torch.zeros_like(u), torch.zeros_like(u)], dim=1)
    red, green, blue = u.unbind(1)
    return torch.stack(
        [
            (red + green + blue) / 3,
            (2 * red - green - blue) / math.sqrt(6),
            (green - blue) / math.sqrt(2),
        ],
        dim=1,
    )


def _colours(p: Tensor, channels: int) -> Tensor:
    grey, a, b = p.unbind(1)
    if channels == 1:
        return grey.unsqueeze(1)
    return torch.stack(
        [
            grey + 2 * a / math.sqrt(6),
            grey - a / math.sqrt(6) + b / math.sqrt(2),
            grey - a / math.sqrt(6) - b / math.sqrt(2),
        ],
        dim=1,
    )


@dataclass(frozen=True)
class ColourRegion:
    """One turn of the hue, gain of the saturation, and line through the intensities per image, clipped to the box.

    ``limits`` are hue (radians), saturation, contrast and brightness, as shares.
    """

    HAS_ROWS: ClassVar[bool] = True
    x: Tensor
    box: Box
    eps: float
    limits: tuple[float, float, float, float]

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        return (4,)

    @property
    def reach(self) -> Tensor:
        low, high = self.box.bounds_like(self.x)
        step: Tensor = torch.linalg.vector_norm((high - low).expand_as(self.x).flatten(1), dim=1)
        return spread(self.x) * min(1.0, max(self.limits[:3])) + step * self.limits[3]

    def apply(self, parameters: Tensor) -> Tensor:
        return as_it_was(from_unit(self._unclipped(parameters), self.box, self.x.dtype), self.x)

    def _unclipped(self, parameters: Tensor) -> Tensor:
        """The changed colours as shares of the input range, before they are clipped to it."""
        hue, saturation, contrast, brightness = (
            (parameters[:, k].double() * self.limits[k]).view(-1, 1, 1) for k in range(4)
        )
        grey, a, b = _plane(to_unit(self.x, self.box)).unbind(1)
        gain = (1 + saturation).clamp_min(0.0)
        grey = (grey - 0.5) * (1 + contrast).clamp_min(0.0) + 0.5 + brightness
        turned = torch.cos(hue) * a - torch.sin(hue) * b, torch.sin(hue) * a + torch.cos(hue) * b
        return _colours(torch.stack([grey, gain * turned[0], gain * turned[1]], dim=1), self.x.shape[1])

    def fit(self, z: Tensor) -> Tensor:
        wanted = to_unit(z, self.box)
        return self._fitted(wanted, torch.ones_like(wanted[:, :1]))

    def _fitted(self, wanted: Tensor, weight: Tensor) -> Tensor:
        """The allowed parameters nearest to ``wanted`` in squared distance over the pixels of ``weight``, exactly.

        Intensity and colour plane separate: a line with bounded slope and offset for one, a bounded complex factor
        for the other. ``weight`` is ``[n, 1, h, w]``.
        """
        before, after = _plane(to_unit(self.x, self.box)), _plane(wanted)
        slope, offset = self._line(before[:, 0] - 0.5, after[:, 0] - 0.5, weight[:, 0])
        hue, gain = self._factor(before[:, 1:], after[:, 1:], weight)
        return self._shares(hue, gain - 1, slope - 1, offset)

    def _from_values(self, wanted: Tensor, known: Tensor) -> Tensor:
        """Parameters by least squares over the values ``known``, then moved inside their limits.

        Every value is linear in the slope, the offset and the two parts of the complex factor. What the values leave
        open stays as it was.
        """
        n, channels = wanted.shape[:2]
        grey, a, b = _plane(to_unit(self.x, self.box)).unbind(1)
        nothing = torch.zeros_like(grey)
        moves = [(grey - 0.5, nothing, nothing), (torch.ones_like(grey), nothing, nothing)]
        moves += [(nothing, a, b), (nothing, -b, a)]
        effect = torch.stack([_colours(torch.stack(move, dim=1), channels) for move in moves], dim=1)
        rows = (effect * known.unsqueeze(1)).flatten(2)
        change = wanted - to_unit(self.x, self.box)
        normal = rows @ rows.transpose(1, 2)
        ridge = 1e-13 * normal.diagonal(dim1=1, dim2=2).sum(1) + 1e-200
        normal = normal + ridge.view(-1, 1, 1) * torch.eye(4, dtype=normal.dtype, device=normal.device)
        slope, offset, real, imaginary = (
            torch.linalg.solve(normal, (rows @ change.reshape(n, -1, 1))).squeeze(2).unbind(1)
        )
        real = real + 1
        angle, gain = torch.atan2(imaginary, real), torch.hypot(real, imaginary)
        return self._shares(angle, gain - 1, slope, offset)

    def _shares(self, hue: Tensor, saturation: Tensor, contrast: Tensor, brightness: Tensor) -> Tensor:
        """Changes as shares of their limits, ``[n, 4]``, moved inside them."""
        found = torch.stack([hue, saturation, contrast, brightness], dim=1)
        limits = found.new_tensor(self.limits)
        return torch.where(limits > 0, found / limits.clamp_min(1e-300), 0.0).nan_to_num().clamp(-1, 1)

    def _line(self, u: Tensor, v: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and offset of the line from ``u`` to ``v`` with least squares inside their limits, ``[n]`` each.

        A convex quadratic on a rectangle has its least value where it has none outside, or on one of the sides.
        """

        def total(values: Tensor) -> Tensor:
            return (values * weight).flatten(1).sum(1)

        count, su, sv = total(torch.ones_like(u)), total(u), total(v)
        suu, suv = total(u * u), total(u * v)
        steep, far = self.limits[2], self.limits[3]
        low, high = torch.full_like(su, max(0.0, 1 - steep)), torch.full_like(su, 1 + steep)
        down, up = torch.full_like(su, -far), torch.full_like(su, far)

        def offset_at(slope: Tensor) -> Tensor:
            return ((sv - slope * su) / count.clamp_min(1e-300)).clamp(-far, far)

        def slope_at(offset: Tensor) -> Tensor:
            best = (suv - offset * su) / suu.clamp_min(1e-300)
            return torch.where(suu > 0, best, 1.0).clamp(max(0.0, 1 - steep), 1 + steep)

        variance = count * suu - su * su
        free = torch.where(variance > 1e-12 * count * suu, (count * suv - su * sv) / variance, 1.0)
        free = torch.maximum(torch.minimum(free, high), low)
        lines = [(free, offset_at(free)), (low, offset_at(low)), (high, offset_at(high))]
        lines += [(slope_at(down), down), (slope_at(up), up)]
        cost = torch.stack(
            [c * c * suu + 2 * c * b * su + b * b * count - 2 * c * suv - 2 * b * sv for c, b in lines]
        )
        # the first is the unconstrained line where that is allowed: rounding must not prefer another to it
        best = (
            cost - 1e-15 * (suu + count) * (torch.arange(len(lines), device=u.device) == 0).view(-1, 1)
        ).argmin(0)
        rows = torch.arange(len(u), device=u.device)
        return torch.stack([c for c, _ in lines])[best, rows], torch.stack([b for _, b in lines])[best, rows]

    def _factor(self, w: Tensor, v: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Angle and length of the allowed complex factor nearest to the least-squares one from ``w`` to ``v``."""
        size = (w.square() * weight).flatten(1).sum(1)
        real = ((w * v).sum(1) * weight[:, 0]).flatten(1).sum(1)
        imaginary = ((w[:, 0] * v[:, 1] - w[:, 1] * v[:, 0]) * weight[:, 0]).flatten(1).sum(1)
        known = size > 1e-24
        real = torch.where(known, real / size.clamp_min(1e-300), 1.0)
        imaginary = torch.where(known, imaginary / size.clamp_min(1e-300), 0.0)
        turn, least, most = self.limits[0], max(0.0, 1 - self.limits[1]), 1 + self.limits[1]
        own = torch.atan2(imaginary, real).clamp(-turn, turn)
        angles = torch.stack([own, torch.full_like(own, turn), torch.full_like(own, -turn)])
        lengths = (real * torch.cos(angles) + imaginary * torch.sin(angles)).clamp(least, most)
        gap = (lengths * torch.cos(angles) - real).square() + (
            lengths * torch.sin(angles) - imaginary
        ).square()
        best = gap.argmin(0)
        rows = torch.arange(len(own), device=own.device)
        return angles[best, rows], lengths[best, rows]

    def project(self, z: Tensor) -> Tensor:
        """The allowed image nearest to ``z`` were nothing clipped to the box."""
        return self.apply(self.fit(finite_or(z, self.x)))

    def sample(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        return self.apply(drawn_parameters(self, rng, index, counter))

    def explanation(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Allowed parameters, float64 ``[n, 4]``, and whether ``z`` is their image within rounding, bool ``[n]``.

        Values at the ends of the box may have been clipped. The first fit uses all others, and is exact where they
        determine the parameters; further ones complete clipped values by what the last fit makes of them, which
        never raises the misfit.
        """
        wanted = to_unit(z, self.box).nan_to_num()
        tolerance = unit_tolerance(self.x.dtype)
        at_low, at_high = wanted <= tolerance, wanted >= 1 - tolerance
        everywhere = torch.ones_like(wanted[:, :1])
        found = self._from_values(wanted, ~(at_low | at_high))
        for _ in range(_ROUNDS):
            made = self._unclipped(found)
            explained = ((made.clamp(0, 1) - wanted).abs() <= tolerance).flatten(1).all(1)
            if bool(explained.all()):
                break
            complete = torch.where(
                at_low, made.clamp(max=0.0), torch.where(at_high, made.clamp_min(1.0), wanted)
            )
            again = self._fitted(complete, everywhere)
            found = torch.where(explained.unsqueeze(1), found, again)
        else:
            made = self._unclipped(found)
            explained = ((made.clamp(0, 1) - wanted).abs() <= tolerance).flatten(1).all(1)
        return found, explained & torch.isfinite(z).flatten(1).all(1)

    def distance(self, z: Tensor) -> Tensor:
        """float64 ``[n]``: the largest share of a limit that the parameters found use, times ``eps``."""
        found, explained = self.explanation(z)
        used = found.abs().amax(1) * self.eps
        unchanged = (z == self.x).flatten(1).all(1)
        return torch.where(unchanged, 0.0, torch.where(explained, used, torch.inf))

    def contains(self, z: Tensor) -> Tensor:
        """Bool ``[n]``: whether allowed parameters were found whose image is ``z``, within rounding.

        Never wrongly true: the parameters found are inside their limits and their image is compared with ``z``.
        Wrongly false only where so much is clipped that forty rounds do not find them.
        """
        return self.explanation(z)[1] & self.box.contains(z)

    def ascent(self, gradient: Tensor, z: Tensor) -> Tensor:
        return unit_gradient(gradient)


@dataclass(frozen=True)
class Colour:
    """Hue, saturation, contrast and brightness of the whole image, each within a limit.

    A colour is an intensity (the mean of its channels) and a point in the plane across the grey axis. The hue turns
    that plane, the saturation scales it; contrast and brightness map intensities by a line through the middle of the
    input range. The result is clipped to the range. Images of one channel have contrast and brightness only.

    Hosseini and Poovendran, "Semantic adversarial examples" (CVPR Workshops 2018), bound nothing; the plane is that
    of Haeberli, "Matrix operations for image processing" (1993), without his weights.

    Args:
        hue: the largest turn, degrees either way, up to 180.
        saturation: the gain is between 1 - saturation and 1 + saturation.
        contrast: the slope is between 1 - contrast and 1 + contrast.
        brightness: the largest offset, as a share of the input range.
        eps: scales all limits; distances are the largest share of a limit that is used, so 1 is all of it.

    Raises:
        ThreatError: for negative limits, inputs that are not images of 1 or 3 channels, or a range without ends.

    >>> region = Colour(brightness=0.25).around(torch.full((1, 1, 1, 2), 0.5), Box(0, 1))
    >>> region.contains(torch.full((1, 1, 1, 2), 0.75)), region.contains(torch.full((1, 1, 1, 2), 0.8))
    (tensor([True]), tensor([False]))
    """

    hue: float = 0.0
    saturation: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    eps: float = 1.0

    def __post_init__(self) -> None:
        for word, most in (("hue", 180.0), ("saturation", math.inf), ("contrast", 1.0), ("brightness", 1.0)):
            object.__setattr__(self, word, share_of("Colour", word, getattr(self, word), most))
        object.__setattr__(self, "eps", checked_radius("Colour", self.eps))
        if math.isinf(self.eps):
            raise ThreatError("Colour eps is infinite", "give finite limits and scale them by a number")
        if max(self.hue, self.saturation, self.contrast, self.brightness) == 0:
            raise ThreatError("Colour allows nothing", "give at least one limit, for example brightness=0.2")

    @property
    def name(self) -> str:
        words = (
            ("hue", self.hue),
            ("sat", self.saturation),
            ("con", self.contrast),
            ("bri", self.brightness),
        )
        scale = "" if self.eps == 1 else f"-x{self.eps:g}"
        return "colour-" + "-".join(f"{word}{limit:g}" for word, limit in words if limit > 0) + scale

    def around(self, x: Tensor, box: Box) -> ColourRegion:
        check_images("Colour", x, (1, 3))
        check_bounded("Colour", box)
        turn = min(math.pi, math.radians(self.hue) * self.eps)
        e = self.eps
        return ColourRegion(x, box, e, (turn, self.saturation * e, self.contrast * e, self.brightness * e))

    def scaled(self, factor: float) -> Colour:
        return replace(self, eps=self.eps * factor)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "Colour",
            "eps": self.eps,
            "hue": self.hue,
            "saturation": self.saturation,
            "contrast": self.contrast,
            "brightness": self.brightness,
            "text": f"hue ±{self.hue * self.eps:g}°, saturation ±{self.saturation * self.eps:g}, "
            f"contrast ±{self.contrast * self.eps:g}, brightness ±{self.brightness * self.eps:g}",
        }
