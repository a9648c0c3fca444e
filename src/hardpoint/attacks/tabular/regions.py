"""What attacks on tables need of a region beyond its protocol."""

from __future__ import annotations

import torch
from torch import Tensor

from hardpoint.core.errors import ThreatError
from hardpoint.threats.features import FeatureEditsRegion
from hardpoint.threats.perturbation import Region


def table_region(region: Region, who: str) -> FeatureEditsRegion:
    """``region``, known to be edits of table rows; raises ``ThreatError`` for another kind."""
    if not isinstance(region, FeatureEditsRegion):
        raise ThreatError(f"{who} attacks rows of a table", "use it with FeatureEdits(schema, eps)")
    return region


def scale_of(region: FeatureEditsRegion) -> Tensor:
    """float64 ``[n, d]``: what changing each feature by one unit costs."""
    cost = torch.tensor([f.cost for f in region.schema.features], dtype=torch.float64, device=region.x.device)
    return cost / region.width
