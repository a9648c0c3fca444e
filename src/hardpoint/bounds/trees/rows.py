"""The rows that an attacker can make, as a box around each row."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.bounds.ball import allowed
from hardpoint.core.box import Box
from hardpoint.core.errors import DataError, ThreatError
from hardpoint.threats.features import FeatureEdits, FeatureEditsRegion, Kind, Norm
from hardpoint.threats.features.rounding import store
from hardpoint.threats.linf import Linf
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

_UP = 1 + 1e-9  # a distance is itself measured with rounding


@dataclass(frozen=True, eq=False)
class RowBox:
    """All rows with every value between ``low`` and ``high``, inclusive.

    Args:
        low, high: ``[n, d]`` or ``[d]``, in the units of the features; infinite where there is no end. Whole numbers
            and one-hot columns are bounded like any other: the box holds more rows than there are.

    Raises:
        DataError: for NaN, other shapes, or a low end above the high one.

    >>> RowBox(torch.zeros(2), torch.tensor([1.0, torch.inf])).contains(torch.tensor([[0.5, 9.0], [1.5, 0.0]]))
    tensor([ True, False])
    """

    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        low, high = torch.as_tensor(self.low).double(), torch.as_tensor(self.high).double()
        if low.shape != high.shape or low.dim() not in (1, 2):
            raise DataError(
                f"the ends of the box have shapes {tuple(low.shape)} and {tuple(high.shape)}",
                "give [n, d] twice",
            )
        if not bool((low <= high).all()):  # NaN is at most nothing
            raise DataError("a low end of the box is above its high end, or NaN", "give low <= high")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def contains(self, z: Tensor) -> Tensor:
        """Bool ``[n]``: which rows lie inside, exactly."""
        exact = z.double()
        return ((exact >= self.low) & (exact <= self.high)).all(1)


Allowed = Threat | Perturbation | RowBox


@dataclass(frozen=True, eq=False)
class AllowedRows:
    """A box that holds everything the attacker can make of each row, and what exactly he can.

    Attributes:
        x: the originals ``[n, d]``.
        low, high: float64 ``[n, d]``.
        box: the model's input range.
        perturbation: what he can make; None where that is the whole box.
    """

    x: Tensor
    low: Tensor
    high: Tensor
    box: Box
    perturbation: Perturbation | None

    def made(self, row: int, point: Tensor) -> Tensor | None:
        """``point``, float64 ``[1, d]``, as a row ``[1, d]`` that the attacker can make of row ``row``, or one nearby
        that he can; None where there is none."""
        own = self.x[row : row + 1]
        stored = store(point, own)
        if self.perturbation is None:
            exact = stored.double()
            inside = (exact >= self.low[row]) & (exact <= self.high[row])
            return stored if bool(inside.all()) and bool(self.box.contains(stored)) else None
        region = self.perturbation.around(own, self.box)
        for candidate in (stored, region.project(stored)):
            if bool(region.contains(candidate)):
                return candidate
        return None


def allowed_rows(threat: Allowed, x: Tensor, box: Box) -> AllowedRows:
    """The boxes of rows ``x`` ``[n, d]``.

    Raises:
        ThreatError: for a perturbation that is neither ``Linf`` nor ``FeatureEdits``, and goals other than untargeted.
        DataError: for a ``RowBox`` of another shape, or that does not hold ``x``.
    """
    if isinstance(threat, RowBox):
        if threat.low.shape[-1] != x.shape[1] or (threat.low.dim() == 2 and len(threat.low) != len(x)):
            raise DataError(
                f"the box has shape {tuple(threat.low.shape)}, the rows {tuple(x.shape)}", "give one per row"
            )
        outside = (~threat.contains(x)).nonzero().flatten()
        if len(outside):
            raise DataError(f"row {int(outside[0])} lies outside its own box", "give a box around each row")
        return AllowedRows(x, threat.low.expand(x.shape), threat.high.expand(x.shape), box, None)
    perturbation = Threat.of(threat).perturbation
    if isinstance(perturbation, Linf):
        span = allowed(x, box, perturbation)
        return AllowedRows(x, span.low.expand(x.shape), span.high.expand(x.shape), box, perturbation)
    if isinstance(perturbation, FeatureEdits):
        low, high = _edited(perturbation.around(x, box))
        return AllowedRows(x, low, high, box, perturbation)
    raise ThreatError(
        f"trees are proven over boxes, and {perturbation.name} is none",
        "use hp.Linf, FeatureEdits, or a RowBox that holds what the attacker can do",
    )


def _edited(region: FeatureEditsRegion) -> tuple[Tensor, Tensor]:
    """A box around all allowed rows: in every norm but L0 no feature alone costs more than the budget."""
    own, low, high = region.x.double(), region.low, region.high
    cost = torch.tensor([f.cost for f in region.schema.features], dtype=torch.float64)
    reach = region.eps * _UP * region.width / cost.clamp_min(torch.finfo(torch.float64).tiny)
    free = region.schema.mask(Kind.ONE_HOT)  # a group's change is one change, whatever its columns are
    if region.norm is Norm.L0 or math.isinf(region.eps):
        free = torch.ones_like(free)
    reach = torch.where(free | reach.isnan(), torch.inf, reach)
    away = torch.full_like(own, torch.inf)
    least, most = torch.nextafter(own - reach, -away), torch.nextafter(own + reach, away)
    return torch.minimum(torch.maximum(low, least), own), torch.maximum(torch.minimum(high, most), own)
