"""Gaussian noise for images of 256 levels whose certificate holds in floating point."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from decimal import Decimal, localcontext

import torch
from torch import Tensor

from hardpoint.bounds.smoothing.additive import gaussian_probability, gaussian_radius
from hardpoint.bounds.smoothing.noise import Draws, Norm, one_of, positive
from hardpoint.core.errors import ConfigError, DataError
from hardpoint.threats.l1 import L1
from hardpoint.threats.l2 import L2
from hardpoint.threats.linf import Linf

_BITS = 60
_TAIL = 8.3  # so many deviations out lie 2 in 10^16 of the draws, which are not counted as hits
_MOST = 4000.0  # deviations of more steps than this take long to tabulate
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
_OFF = 1e-4  # of a step: what float32 rounds, and less than any other grid is off


@dataclass(frozen=True)
class IntegerGaussian:
    """Normal noise rounded to the grid of the input, drawn without rounding (Voráček and Hein, "Sound randomized
    smoothing in floating-point arithmetic", ICLR 2023).

    Noise added in float32 is neither normal nor independent of the input, and certificates of it have been shown to
    be false. Here the smoothed classifier is: add real normal noise, round to the grid of 1/``levels``, ask the
    network. From a point of the grid the noise is then a whole number of steps, so it is drawn as one: 60 random bits
    against the exact distribution function. A draw whose bits lie on a threshold, or beyond the table, counts as a
    miss. The sum is formed in whole numbers and divided once, as when a picture is read.

    Args:
        sigma: standard deviation, in the units of the model's input.
        levels: steps from 0 to 1; 255 for bytes divided by 255.
        norm: ``L2``, ``L1`` or ``Linf``.
    """

    sigma: float
    levels: int = 255
    norm: Norm = L2

    def __post_init__(self) -> None:
        positive(self.sigma, "sigma")
        if not isinstance(self.levels, int) or isinstance(self.levels, bool) or self.levels < 1:
            raise ConfigError(f"levels is {self.levels!r}", "give how many steps there are from 0 to 1")
        if self.sigma * self.levels > _MOST:
            raise ConfigError(
                f"sigma is {self.sigma * self.levels:.6g} steps of the grid",
                f"give at most {_MOST:.0f} steps",
            )
        one_of(self.norm, (L2, L1, Linf), "Gaussian noise")

    def check(self, x: Tensor) -> None:
        steps = x.double() * self.levels
        off = ((steps - steps.round()).abs() > _OFF).flatten(1).any(1).nonzero().flatten()
        if len(off):
            raise DataError(
                f"row {int(off[0])} is not on the grid of 1/{self.levels}",
                "give float32 pixels that are whole numbers divided by that, or use Gaussian",
            )

    def draw(self, count: int, shape: tuple[int, ...], source: torch.Generator, dtype: torch.dtype) -> Draws:
        table = thresholds(float(self.sigma), self.levels)
        bits = torch.randint(0, 1 << _BITS, (count, *shape), generator=source)
        place = torch.searchsorted(table, bits, right=True)
        below, above = table[(place - 1).clamp_min(0)], table[place.clamp(max=len(table) - 1)]
        inside = (place > 0) & (place < len(table))
        sure = inside & (bits - below > 1) & (above - bits > 1)
        return Draws((place - len(table) // 2).int(), sure.flatten(1).all(1))

    def put(self, x: Tensor, values: Tensor) -> Tensor:
        steps = (x.double() * self.levels).round().int()
        whole = (steps.unsqueeze(1) + values.unsqueeze(0)).flatten(0, 1)
        return whole.to(x.dtype) / self.levels

    def radius(self, p: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        return gaussian_radius(p, self.sigma, self.norm, shape)

    def probability(self, radius: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        return gaussian_probability(radius, self.sigma, self.norm, shape)


@functools.lru_cache(maxsize=8)
def thresholds(sigma: float, levels: int) -> Tensor:
    """int64 ``[2 K]``: 2⁶⁰ Φ(b/σ), rounded down, for each border b of two steps of the grid, -K + ½ to K - ½ steps.

    Computed from the series of Φ with 60 digits: off by less than one.
    """
    with localcontext() as context:
        context.prec = 60
        deviation = Decimal(sigma) * levels  # of the float itself, to its last bit
        count = max(1, math.ceil(_TAIL * sigma * levels))
        scale = Decimal(1 << _BITS)
        upper = [_below((Decimal(step) + Decimal("0.5")) / deviation) for step in range(count)]
        whole = [math.floor(scale * (1 - value)) for value in reversed(upper)]
        whole += [math.floor(scale * value) for value in upper]
    return torch.tensor(whole, dtype=torch.int64)


def _below(z: Decimal) -> Decimal:
    """Φ(z) for z of 0 or more: ½ + φ(z) (z + z³/3 + z⁵/(3·5) + …), a sum of positive terms."""
    term = total = z
    square, odd = z * z, 1
    while term > total * Decimal("1e-45"):
        odd += 2
        term = term * square / odd
        total += term
    return Decimal("0.5") + (-square / 2).exp() / (2 * _PI).sqrt() * total
