"""A bound on the noise that is added to a signal, relative to the signal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.core.box import Box
from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng
from hardpoint.core.rows import per_row
from hardpoint.threats.l2 import L2Region, project_l2
from hardpoint.threats.norms import finite_or, inner_radius, offsets64, placed

_MOST = 1000


@dataclass(frozen=True)
class SNRRegion:
    """An L2 ball of radius ``eps`` times the length of each original ∩ box; distances are in that unit."""

    HAS_ROWS: ClassVar[bool] = True
    x: Tensor
    box: Box
    eps: float
    length: Tensor  # float64 [n], of each original

    @property
    def reach(self) -> Tensor:
        unit = L2Region(self.x, self.box, math.inf).reach.double()
        return torch.minimum(unit, self.eps * self.length).to(self.x.dtype)

    def project(self, z: Tensor) -> Tensor:
        z = finite_or(z, self.x)
        low, high = self.box.bounds_like(self.x)
        wanted = offsets64(z, self.x)
        # in units of each original's length all balls are alike
        unit = self.length.clamp_min(torch.finfo(torch.float64).tiny).unsqueeze(1)
        ends = offsets64(low, self.x) / unit, offsets64(high, self.x) / unit
        allowed = project_l2(wanted / unit, *ends, inner_radius(self.eps)) * unit
        # dividing and multiplying rounds: what was inside stays what it was
        inside = (torch.linalg.vector_norm(wanted, dim=1) <= self.eps * self.length) & self.box.contains(z)
        allowed = torch.where(inside.unsqueeze(1), wanted, allowed)
        return self.box.clamp(placed(z, self.x, wanted, allowed))

    def sample(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        point = L2Region(self.x, self.box, math.inf)
        shape = tuple(self.x.shape[1:])
        direction = point.ascent(rng.fork("direction").normal(index, shape, counter, self.x.dtype), self.x)
        u = rng.fork("radius").uniform(index, (), counter, self.x.dtype)
        radius = self.reach * u ** (1.0 / max(1, math.prod(shape)))
        return self.project(self.x + direction * per_row(radius, direction))

    def distance(self, z: Tensor) -> Tensor:
        noise = torch.linalg.vector_norm(offsets64(z, self.x), dim=1)
        return torch.where(noise > 0, noise / self.length, 0.0)

    def contains(self, z: Tensor) -> Tensor:
        return (self.distance(z) <= self.eps) & self.box.contains(z)

    def spare(self, z: Tensor) -> Tensor:
        """``[n]``: the length that may still be added on coordinates that ``z`` leaves unchanged, in the unit of
        ``distance``."""
        return torch.sqrt((self.eps**2 - self.distance(z).square()).clamp_min(0.0)).to(z.dtype)

    def ascent(self, gradient: Tensor, z: Tensor) -> Tensor:
        return L2Region(self.x, self.box, self.eps).ascent(gradient, z)


@dataclass(frozen=True)
class SNR:
    """The noise added to a signal is at least ``db`` decibels below the signal, each input by its own energy.

    10 log₁₀ (Σ x² / Σ (z - x)²) ≥ db. An L2 ball whose radius is the signal's length times ``eps`` = 10^(-db / 20);
    distances are noise-to-signal ratios of amplitudes. Silence allows nothing. For any shape of input.

    Raises:
        ThreatError: where ``db`` is not a number; ``inf`` allows nothing.

    >>> SNR(20).eps
    0.1
    >>> region = SNR(20).around(torch.tensor([[3.0, 4.0]]), Box(-10, 10))
    >>> region.project(torch.tensor([[13.0, 4.0]])).round(decimals=4)
    tensor([[3.5000, 4.0000]])
    """

    db: float

    def __post_init__(self) -> None:
        value = float(self.db)
        if math.isnan(value) or value == -math.inf:
            raise ThreatError(f"SNR is {self.db} dB", "give a number of decibels, for example 30")
        if math.isfinite(value) and abs(value) > _MOST:
            raise ThreatError(
                f"SNR is {self.db} dB", f"give a number of decibels between -{_MOST} and {_MOST}"
            )
        object.__setattr__(self, "db", value)

    @property
    def eps(self) -> float:
        return math.pow(10.0, -self.db / 20)

    @property
    def name(self) -> str:
        return f"snr-{self.db:g}db"

    def around(self, x: Tensor, box: Box) -> SNRRegion:
        length = torch.linalg.vector_norm(x.double().flatten(1), dim=1)
        return SNRRegion(x, box, self.eps, length)

    def scaled(self, factor: float) -> SNR:
        return SNR(self.db - 20 * math.log10(factor) if factor > 0 else math.inf)

    def describe(self) -> dict[str, Any]:
        db = self.db if math.isfinite(self.db) else "inf"
        return {"kind": "SNR", "eps": self.eps, "db": db, "text": f"SNR ≥ {self.db:g} dB"}
