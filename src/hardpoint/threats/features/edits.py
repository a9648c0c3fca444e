"""Edits of table rows as a perturbation: what an attacker can change, and how much of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.box import Box
from hardpoint.core.errors import DataError, ThreatError
from hardpoint.threats.features.balls import Norm
from hardpoint.threats.features.feature import Kind, Mutability
from hardpoint.threats.features.region import FeatureEditsRegion
from hardpoint.threats.features.schema import Schema
from hardpoint.threats.norms import checked_radius, radius_text


@dataclass(frozen=True)
class FeatureEdits:
    """The rows that are valid under a schema and cost at most ``eps`` to reach.

    Each feature's change is measured as a share of its range (its bounds' width, for a dynamic bound that of the
    row) times its cost; changing a one-hot group is one change at its cost. ``eps`` bounds the norm of these
    numbers. Around a row that is not valid itself nothing is allowed, not even the row: see ``lint``.

    Args:
        schema: kinds, bounds, mutability, costs and relations.
        eps: the budget in the chosen norm; for ``"l0"`` how many features may change.
        norm: ``"linf"``, ``"l2"``, ``"l1"`` or ``"l0"``.
        max_changed: how many features may change besides; ``None`` for any number.

    Raises:
        ThreatError: for a negative budget, an unknown norm or a fractional number of changes.

    After Simonetto et al., "A unified framework for adversarial attack and defense in constrained feature space"
    (IJCAI 2022), and "Constrained adaptive attack" (NeurIPS 2024), with implications meaning what they say.

    >>> from hardpoint.threats.features.feature import Feature, Kind
    >>> dots, length = Feature("dots", Kind.INTEGER, 0, 10), Feature("length", Kind.INTEGER, 0, 100)
    >>> edits = FeatureEdits(Schema([dots, length], ["5 * dots <= length"]), eps=0.3, norm="linf")
    >>> region = edits.around(torch.tensor([[1.0, 20.0]]), Box(0, 100))
    >>> region.project(torch.tensor([[9.0, 10.0]]))
    tensor([[ 4., 20.]])
    """

    schema: Schema
    eps: float = math.inf
    norm: Norm = Norm.L2
    max_changed: int | None = None

    def __init__(
        self,
        schema: Schema,
        eps: float = math.inf,
        norm: Norm | str = Norm.L2,
        max_changed: int | None = None,
    ) -> None:
        radius, kind = checked_radius("FeatureEdits", eps), Norm.parse(norm)
        if kind is Norm.L0 and math.isfinite(radius) and radius != int(radius):
            raise ThreatError(f"FeatureEdits eps is {eps} in l0", "give a whole number of features")
        if max_changed is not None and max_changed < 0:
            raise ThreatError(f"max_changed is {max_changed}", "give 0 or more, or None for any number")
        object.__setattr__(self, "schema", schema)
        object.__setattr__(self, "eps", radius)
        object.__setattr__(self, "norm", kind)
        object.__setattr__(self, "max_changed", max_changed)

    @property
    def name(self) -> str:
        limit = "" if self.max_changed is None else f"-max{self.max_changed}"
        return f"features-{self.norm.value}-{radius_text(self.eps).replace('/', 'of')}{limit}"

    def around(self, x: Tensor, box: Box) -> FeatureEditsRegion:
        if not x.is_floating_point():
            raise DataError(f"the rows are {x.dtype}", "convert them: x.float()")
        valid = self.schema.check(x) & box.contains(x)
        own = x.double().nan_to_num()
        box_low, box_high = box.bounds_like(x)
        low, high = self.schema.freedom(x)
        low, high = torch.maximum(low, box_low.double()), torch.minimum(high, box_high.double())
        whole = self.schema.mask(Kind.INTEGER, Kind.BINARY).to(x.device)
        low, high = torch.where(whole, low.ceil(), low), torch.where(whole, high.floor(), high)
        ends = self.schema.limits(x)
        width = ends[1] - ends[0]
        inside = valid.unsqueeze(1)
        return FeatureEditsRegion(
            x,
            torch.where(inside, low, own),
            torch.where(inside, high, own),
            torch.where(inside & (width > 0), width, 1.0),
            valid,
            self.schema,
            self.norm,
            self.eps,
            self.max_changed,
        )

    def scaled(self, factor: float) -> FeatureEdits:
        eps = self.eps * factor
        whole = self.norm is Norm.L0 and math.isfinite(eps)
        return FeatureEdits(self.schema, math.floor(eps) if whole else eps, self.norm, self.max_changed)

    def describe(self) -> dict[str, Any]:
        limit = "" if self.max_changed is None else f", at most {self.max_changed} features"
        features = self.schema.features
        return {
            "kind": "FeatureEdits",
            "norm": self.norm.value,
            "eps": self.eps if math.isfinite(self.eps) else "inf",
            "max_changed": self.max_changed,
            "schema": {
                "sha256": self.schema.sha256,
                "features": len(features),
                "mutable": sum(feature.mutable is not Mutability.NO for feature in features),
                "relations": [relation.text for relation in self.schema.relations],
            },
            "text": f"FeatureEdits {self.norm.value.capitalize()} ≤ {radius_text(self.eps)}{limit}",
        }
