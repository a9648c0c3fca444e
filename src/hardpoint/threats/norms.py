"""What the four norm balls share: the radius check, the reading of a radius, rounding margins."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.errors import ThreatError

# A projection computed in float32 can end a few roundings outside the ball. Aiming this much inside keeps
# the result inside when it is measured in float64, at a cost far below any reported digit.
_MARGIN = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def checked_radius(norm: str, eps: float) -> float:
    """``eps`` as a float; raises ``ThreatError`` for a negative or NaN radius."""
    value = float(eps)
    if math.isnan(value) or value < 0:
        raise ThreatError(f"{norm} eps is {eps}", "give a radius of 0 or more, for example 8/255")
    return value


def inner_radius(eps: float, dtype: torch.dtype) -> float:
    """The radius to aim at so that a point computed in ``dtype`` lies inside ``eps``."""
    return eps * (1.0 - _MARGIN.get(dtype, 2e-2))


def radius_text(eps: float) -> str:
    """A radius as people write it.

    >>> radius_text(8 / 255), radius_text(0.3), radius_text(12.0)
    ('8/255', '0.3', '12')
    """
    in_255 = Fraction(eps * 255).limit_denominator(4) if math.isfinite(eps) else Fraction(0)
    if 0 < eps < 1 and abs(float(in_255) / 255 - eps) < 1e-9 and len(f"{eps:.12g}") > 6:
        return f"{in_255.numerator}/255" if in_255.denominator == 1 else f"{float(in_255):g}/255"
    return f"{eps:.6g}"


def describe_norm(norm: str, eps: float) -> dict[str, Any]:
    """JSON-ready description of a norm ball."""
    return {"kind": norm, "eps": eps if math.isfinite(eps) else "inf", "text": f"{norm} ≤ {radius_text(eps)}"}


def offsets64(z: Tensor, x: Tensor) -> Tensor:
    """``z - x`` in float64, flattened to ``[n, d]``."""
    return (z.double() - x.double()).flatten(1)


def finite_or(z: Tensor, x: Tensor) -> Tensor:
    """``z`` where every coordinate of a row is finite, the original row elsewhere."""
    ok = torch.isfinite(z).flatten(1).all(1)
    return z if bool(ok.all()) else torch.where(ok.view(-1, *([1] * (z.dim() - 1))), z, x)
