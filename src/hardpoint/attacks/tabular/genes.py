"""Table rows as genes: crossing, mutating, and keeping to the kinds of values features take."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hardpoint.attacks.tabular.regions import scale_of
from hardpoint.threats.features import FeatureEditsRegion, Kind, Mutability, Norm, Schema


def gene_of(schema: Schema) -> Tensor:
    """int64 ``[d]``: the number of the gene each column belongs to, -1 where it never changes; a one-hot group is one
    gene."""
    gene, count, known = torch.full((len(schema.features),), -1), 0, dict[str, int]()
    for column, feature in enumerate(schema.features):
        if feature.mutable is Mutability.NO:
            continue
        if feature.group is not None and feature.group in known:
            gene[column] = known[feature.group]
            continue
        if feature.group is not None:
            known[feature.group] = count
        gene[column], count = count, count + 1
    return gene


def window(region: FeatureEditsRegion) -> tuple[Tensor, Tensor]:
    """float64 ``(low, high)`` ``[n, d]``: how far each feature can move if no other does."""
    if region.norm is Norm.L0 or not math.isfinite(region.eps):
        return region.low, region.high
    own, reach = region.x.double(), region.eps / scale_of(region)
    return torch.maximum(region.low, own - reach), torch.minimum(region.high, own + reach)


def crossed(first: Tensor, second: Tensor, gene: Tensor, cuts: Tensor) -> Tensor:
    """Two-point crossover: ``first`` ``[n, k, d]`` with the genes between two cuts (``[n, k, 2]``, uniform in [0, 1))
    taken from ``second``."""
    count = int(gene.max()) + 1
    at = (cuts * (count + 1)).floor().long()
    low, high = at.amin(2, keepdim=True), at.amax(2, keepdim=True)
    return torch.where((gene >= low) & (gene < high), second, first)


def mutated(z: Tensor, low: Tensor, high: Tensor, u: Tensor, index: float) -> Tensor:
    """Polynomial mutation (Deb and Goyal, "A combined genetic adaptive search for engineering design", 1996): ``z``
    moved within ``low`` and ``high`` by uniform draws ``u``, mostly a little; a larger ``index`` moves less."""
    span = (high - low).clamp_min(torch.finfo(torch.float64).tiny)
    to_low, to_high = ((z - low) / span).clamp(0, 1), ((high - z) / span).clamp(0, 1)
    down = (2 * u + (1 - 2 * u) * (1 - to_low).pow(index + 1)).clamp_min(0).pow(1 / (index + 1)) - 1
    rest = (2 * (1 - u) + (2 * u - 1) * (1 - to_high).pow(index + 1)).clamp_min(0)
    up = 1 - rest.pow(1 / (index + 1))
    return z + torch.where(u < 0.5, down, up) * span


def of_kind(z: Tensor, schema: Schema, low: Tensor, high: Tensor) -> Tensor:
    """``z`` ``[m, d]`` in its bounds, with whole numbers, levels, and one 1 per one-hot group."""
    whole = schema.mask(Kind.INTEGER, Kind.BINARY).to(z.device)
    z = torch.where(whole, z.round(), z)
    for column, feature in enumerate(schema.features):
        if feature.levels:
            levels = torch.tensor(feature.levels, dtype=z.dtype, device=z.device)
            nearest = (z[:, column].unsqueeze(1) - levels).abs().argmin(1)
            z[:, column] = levels[nearest]
    z = torch.minimum(torch.maximum(z, low), high)
    for columns in schema.groups.values():
        place = torch.tensor(columns, device=z.device)
        member = z[:, place].argmax(1, keepdim=True)
        z[:, place] = torch.zeros_like(z[:, place]).scatter(1, member, 1.0)
    return z
