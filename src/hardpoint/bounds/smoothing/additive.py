"""Noises that are added to an input, and the radii that they prove."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.bounds.smoothing.noise import (
    DOWN,
    UP,
    Draws,
    Norm,
    added,
    dimensions,
    drawn_as,
    one_of,
    positive,
)
from hardpoint.threats.l1 import L1
from hardpoint.threats.l2 import L2
from hardpoint.threats.linf import Linf


@dataclass(frozen=True)
class Gaussian:
    """Independent normal noise: radius σ Φ⁻¹(p) under L2 (Cohen, Rosenfeld and Kolter, "Certified adversarial
    robustness via randomized smoothing", ICML 2019, theorem 1). A ball of L1 lies in that of L2; one of Linf of
    radius r in that of radius r √d.

    Args:
        sigma: standard deviation, in the units of the model's input.
        norm: ``L2``, ``L1`` or ``Linf``.

    >>> noise = Gaussian(0.5)
    >>> noise.radius(torch.tensor([0.4, 0.9], dtype=torch.float64))
    tensor([0.0000, 0.6408], dtype=torch.float64)
    """

    sigma: float
    norm: Norm = L2

    def __post_init__(self) -> None:
        positive(self.sigma, "sigma")
        one_of(self.norm, (L2, L1, Linf), "Gaussian noise")

    def check(self, x: Tensor) -> None:
        """Any input will do."""

    def draw(self, count: int, shape: tuple[int, ...], source: torch.Generator, dtype: torch.dtype) -> Draws:
        return Draws(torch.randn(count, *shape, generator=source, dtype=drawn_as(dtype)).mul_(self.sigma))

    def put(self, x: Tensor, values: Tensor) -> Tensor:
        return added(x, values)

    def radius(self, p: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        return gaussian_radius(p, self.sigma, self.norm, shape)

    def probability(self, radius: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        return gaussian_probability(radius, self.sigma, self.norm, shape)


def gaussian_radius(p: Tensor, sigma: float, norm: Norm, shape: tuple[int, ...]) -> Tensor:
    """As ``Noise.radius`` for normal noise of deviation ``sigma``."""
    deviations: Tensor = torch.special.ndtri(p.clamp(0.5, 1.0))
    return deviations.clamp_min(0.0) * (sigma / _stretch(norm, shape) * DOWN)


def gaussian_probability(radius: Tensor, sigma: float, norm: Norm, shape: tuple[int, ...]) -> Tensor:
    """As ``Noise.probability`` for normal noise of deviation ``sigma``."""
    below: Tensor = torch.special.ndtr(radius.double() * (_stretch(norm, shape) / sigma))
    return below + UP


def _stretch(norm: Norm, shape: tuple[int, ...]) -> float:
    """How many times longer than its own norm a change can be in L2."""
    return math.sqrt(dimensions(shape)) if norm is Linf else 1.0


@dataclass(frozen=True)
class Uniform:
    """Noise uniform between ``-width`` and ``width`` in each number: radius 2 λ (p - ½) under L1 (Lee, Yuan, Chang and
    Jaakkola, "Tight certificates of adversarial robustness for randomly smoothed classifiers", NeurIPS 2019; Yang et
    al., "Randomized smoothing of all shapes and sizes", ICML 2020), and 2 λ (1 - (3/2 - p)^(1/d)) under Linf.

    Both follow from how much of its cube, which has the side 2 λ, is left when it is shifted.

    Args:
        width: λ, in the units of the model's input; the standard deviation is λ/√3.
        norm: ``L1`` or ``Linf``.

    >>> Uniform(0.5).radius(torch.tensor([0.9], dtype=torch.float64))
    tensor([0.4000], dtype=torch.float64)
    """

    width: float
    norm: Norm = L1

    def __post_init__(self) -> None:
        positive(self.width, "width")
        one_of(self.norm, (L1, Linf), "uniform noise")

    def check(self, x: Tensor) -> None:
        """Any input will do."""

    def draw(self, count: int, shape: tuple[int, ...], source: torch.Generator, dtype: torch.dtype) -> Draws:
        values = torch.rand(count, *shape, generator=source, dtype=drawn_as(dtype))
        return Draws(values.mul_(2 * self.width).sub_(self.width))

    def put(self, x: Tensor, values: Tensor) -> Tensor:
        return added(x, values)

    def radius(self, p: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        above = p.clamp(0.5, 1.0)
        if self.norm is L1:
            share = above - 0.5
        else:
            share = -torch.expm1(torch.log(1.5 - above) / dimensions(shape))
        return 2 * self.width * share.clamp_min(0.0) * DOWN

    def probability(self, radius: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        share = (radius.double() / (2 * self.width)).clamp(max=1.0)
        if self.norm is L1:
            return 0.5 + share + UP
        return 1.5 - torch.exp(dimensions(shape) * torch.log1p(-share)) + UP


@dataclass(frozen=True)
class Laplace:
    """Independent noise with a density that falls as exp(-abs(z) / b): radius -b ln(2 (1 - p)) under L1 (Teng, Lee and
    Yuan, "ℓ1 adversarial robustness certificates: a randomized smoothing approach", 2019).

    Args:
        scale: b, in the units of the model's input; the standard deviation is b √2.

    >>> Laplace(1.0).radius(torch.tensor([0.5, 0.75], dtype=torch.float64))
    tensor([0.0000, 0.6931], dtype=torch.float64)
    """

    scale: float

    def __post_init__(self) -> None:
        positive(self.scale, "scale")

    @property
    def norm(self) -> Norm:
        return L1

    def check(self, x: Tensor) -> None:
        """Any input will do."""

    def draw(self, count: int, shape: tuple[int, ...], source: torch.Generator, dtype: torch.dtype) -> Draws:
        halves = torch.rand(count, *shape, generator=source, dtype=torch.float64).mul_(2)
        left = halves >= 1  # one draw gives a side and a length, which is below 37 b
        length = torch.log1p(halves.sub_(left.double()).neg_()).mul_(-self.scale)
        return Draws(torch.where(left, -length, length).to(drawn_as(dtype)))

    def put(self, x: Tensor, values: Tensor) -> Tensor:
        return added(x, values)

    def radius(self, p: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        return (-torch.log(2 * (1 - p.clamp(0.5, 1.0)))).abs() * self.scale * DOWN

    def probability(self, radius: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        return 1 - 0.5 * torch.exp(-radius.double() / self.scale) + UP
