"""What the four norm balls share: the radius check, the reading of a radius, rounding margins."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.errors import ThreatError
from hardpoint.core.rows import all_finite

# Projections are computed in float64. Aiming this much inside keeps the sum of many squares or sizes, which is
# itself rounded, inside when it is measured again, at a cost far below any reported digit.
_MARGIN = 1e-13


def checked_radius(norm: str, eps: float) -> float:
    """``eps`` as a float; raises ``ThreatError`` for what is no number, and for a negative or NaN radius."""
    try:
        value = float(eps)
    except (TypeError, ValueError):
        raise ThreatError(f"{norm} eps is {eps!r}", "give a number, for example 8/255") from None
    if math.isnan(value) or value < 0:
        raise ThreatError(f"{norm} eps is {eps}", "give a radius of 0 or more, for example 8/255")
    return value


def inner_radius(eps: float, dtype: torch.dtype = torch.float64) -> float:
    """The radius to aim at so that a point computed in ``dtype`` lies inside ``eps``."""
    return eps * (1.0 - (_MARGIN if dtype == torch.float64 else 64 * torch.finfo(dtype).eps))


def placed(z: Tensor, x: Tensor, wanted: Tensor, allowed: Tensor) -> Tensor:
    """``x + allowed`` in the dtype of ``x``, rounded towards ``x``; ``z`` itself where ``allowed`` is ``wanted``.

    ``wanted`` is ``z - x`` and ``allowed`` its projection, float64 ``[n, d]``. Rounded to nearest instead, a small
    budget spread over many coordinates ends far outside the ball (by more than half of an L1 budget of 1/255).
    """
    wanted, allowed = wanted.view_as(z), allowed.view_as(z)
    moved = (x.double() + allowed).to(x.dtype)
    beyond = (moved.double() - x.double()).abs() > allowed.abs()
    moved = torch.where(beyond, torch.nextafter(moved, x), moved)
    return torch.where(wanted == allowed, z.to(x.dtype), moved)


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
    if all_finite(z):
        return z
    ok = torch.isfinite(z).flatten(1).all(1)
    return torch.where(ok.view(-1, *([1] * (z.dim() - 1))), z, x)
