"""Norm balls cut by a box: where an input may lie."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hardpoint.bounds.operators.operator import DOUBLE, Interval, Rounding
from hardpoint.core.box import Box
from hardpoint.core.errors import ThreatError
from hardpoint.threats.features.balls import Norm
from hardpoint.threats.features.edits import FeatureEdits
from hardpoint.threats.l1 import L1
from hardpoint.threats.l2 import L2
from hardpoint.threats.linf import Linf
from hardpoint.threats.perturbation import Perturbation

_UP = 1 + 2**-50
"""A radius and a measured distance are themselves rounded."""


class Ball(Interval):
    """The points of a box within ``eps`` of a centre, in L2 or L1. As an interval it is the box alone.

    Args:
        low, high, outward: the box ``[n, ...]``, see ``Interval``.
        centre: ``[n, ...]``, inside the box.
        eps: in the units of the input.
        dual: the norm in which coefficients count: 2 for L2, infinity for L1.
    """

    def __init__(
        self, low: Tensor, high: Tensor, outward: Rounding | None, centre: Tensor, eps: float, dual: float
    ) -> None:
        super().__init__(low, high, outward)
        self.centre, self.eps, self.dual = centre, eps, dual

    def of(self, index: Tensor) -> Ball:
        cut = super().of(index)
        return Ball(cut.low, cut.high, self.outward, self.centre[index], self.eps, self.dual)

    def roughly(self, dtype: torch.dtype) -> Ball:
        low, high, centre = (part.to(dtype) for part in (self.low, self.high, self.centre))
        return Ball(low, high, None, centre, self.eps, self.dual)

    def misses(self) -> Tensor:
        """Bool ``[n]``: boxes that the ball does not reach."""
        gap = (self.low - self.centre).clamp(min=0) + (self.centre - self.high).clamp(min=0)
        length: Tensor = torch.linalg.vector_norm(gap.flatten(1), 2.0 if self.dual == 2 else 1.0, 1)
        missed: Tensor = length > self.eps * (1 + 1e-9)
        return missed

    def cut(self, low: Tensor, high: Tensor) -> Interval:
        """A part of the box. The ball stays whole: a centre outside the part is still a centre."""
        return Ball(low, high, self.outward, self.centre, self.eps, self.dual)


def allowed(x: Tensor, box: Box, perturbation: Perturbation) -> Interval:
    """float64: a set that holds every allowed change of ``x`` ``[n, ...]``, rounded outwards.

    ``Linf`` gives the box itself, ``L2`` and ``L1`` the ball in its box. ``FeatureEdits`` gives the box of each
    feature's own freedom and budget: relations between features and whole numbers only take points away.

    Raises:
        ThreatError: for a perturbation that linear bounds say nothing about.
    """
    low, high = (side.double() for side in box.bounds_like(x))
    centre = x.double()
    if isinstance(perturbation, Linf | L2 | L1):
        least, most = _outward(centre, torch.full_like(centre, perturbation.eps))
        least, most = torch.maximum(least, low), torch.minimum(most, high)
        if isinstance(perturbation, Linf):
            return Interval(least, most, DOUBLE)
        dual = 2.0 if isinstance(perturbation, L2) else math.inf
        # a length measured in float64 may be more by the roundings of its sum
        eps = perturbation.eps * _UP * (1 + DOUBLE.gamma(centre[:1].numel()))
        return Ball(least, most, DOUBLE, centre, eps, dual)
    if isinstance(perturbation, FeatureEdits):
        return _features(x, box, perturbation)
    raise ThreatError(
        f"linear bounds say nothing about {perturbation.name}",
        "certify against Linf, L2, L1 or FeatureEdits; patches have hardpoint.bounds.patches",
    )


def rounded_to(region: Interval, dtype: torch.dtype) -> Interval:
    """A set that holds the points of a region once they are rounded to ``dtype``."""
    low, high = beyond(region.low, -math.inf, dtype), beyond(region.high, math.inf, dtype)
    if not isinstance(region, Ball):
        return Interval(low, high, region.outward)
    kind = torch.finfo(dtype)
    strayed = torch.linalg.vector_norm(
        (region.size * kind.eps + kind.smallest_normal).flatten(1), 2.0 if region.dual == 2 else 1.0, 1
    )
    most = float(strayed.max()) if len(strayed) else 0.0
    return Ball(low, high, region.outward, region.centre, region.eps + most * (1 + 1e-9), region.dual)


def beyond(values: Tensor, towards: float, dtype: torch.dtype) -> Tensor:
    """float64: the nearest numbers of ``dtype`` that lie at ``values`` or past them ``towards`` an infinity."""
    found = values.to(dtype)
    short = found.double() < values if towards > 0 else found.double() > values
    return torch.where(short, torch.nextafter(found, torch.full_like(found, towards)), found).double()


def _features(x: Tensor, box: Box, edits: FeatureEdits) -> Interval:
    region = edits.around(x, box)
    cost = torch.tensor([feature.cost for feature in edits.schema.features], dtype=torch.float64)
    budget = 1.0 * edits.eps if edits.norm is not Norm.L0 else math.inf
    reach = torch.where(cost > 0, budget * region.width / cost, math.inf)
    for columns in edits.schema.groups.values():  # one change for the whole group, at its mean cost
        reach[:, list(columns)] = math.inf
    least, most = _outward(x.double(), reach * _UP)
    return Interval(torch.maximum(least, region.low), torch.minimum(most, region.high), DOUBLE)


def _outward(centre: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    far = torch.full_like(centre, math.inf)
    return torch.nextafter(centre - reach * _UP, -far), torch.nextafter(centre + reach * _UP, far)
