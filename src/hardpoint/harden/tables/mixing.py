"""Rows that a model finds hard, made of other rows: cheap enough to search around every training row."""

from __future__ import annotations

import torch
from torch import Tensor

from hardpoint.core.access import Access
from hardpoint.core.rng import Rng
from hardpoint.core.rows import chunks
from hardpoint.models.base import Model
from hardpoint.threats.features import FeatureEdits, FeatureEditsRegion, Kind, Norm
from hardpoint.threats.goals import margin_over

_AT_ONCE = 4096
_ENDS = 0.15  # of the values drawn, the share that are an end of what is allowed
_BACK = 0.1  # of the changes already made, the share that is undone
_LOOSE = 0.4  # which changes come first is shuffled by so much of the budget


def worst_rows(
    model: Model, x: Tensor, y: Tensor, edits: FeatureEdits, donors: Tensor, *, asks: int, rng: Rng
) -> tuple[Tensor, Tensor]:
    """For each row, the allowed one that ``model`` answers worst of those asked about.

    Each question changes the worst row so far: a random share of its features, few as likely as many, take the value
    that another row of ``donors`` has there, or an end of what is allowed, and some earlier changes are undone. What
    the budget does not pay for is left as it was, dearest first, and the result is repaired. Values that occur are
    where a model has learnt what they mean, so that what it learns from such rows holds beyond them.

    Args:
        model: scores are climbed; one that offers labels only is asked until it errs.
        x, y: rows ``[n, d]`` and their labels; a row that is not valid itself stays as it is.
        edits: what the attacker may change.
        donors: rows ``[m, d]`` to take values from.
        asks: questions per row.
        rng: of all draws.

    Returns:
        the rows ``[n, d]``, and by how much another class leads on them ``[n]`` (with labels only, 1 for an error
        and 0 for none).
    """
    found = [
        _worst(model, x[rows], y[rows], edits, donors, asks, rng, rows)
        for rows in chunks(torch.arange(len(x)), _AT_ONCE)
    ]
    parts, leads = zip(*found, strict=True)
    return torch.cat(parts), torch.cat(leads)


def _worst(
    model: Model,
    x: Tensor,
    y: Tensor,
    edits: FeatureEdits,
    donors: Tensor,
    asks: int,
    rng: Rng,
    index: Tensor,
) -> tuple[Tensor, Tensor]:
    region = edits.around(x, model.box)
    worst, lead = x, _lead(model, x, y)
    for turn in range(asks):
        z = _changed(region, worst, donors, rng, index, turn)
        now = _lead(model, z, y)
        better = now > lead
        worst, lead = torch.where(better.unsqueeze(1), z, worst), torch.where(better, now, lead)
    return worst, lead


def _lead(model: Model, z: Tensor, y: Tensor) -> Tensor:
    if model.access < Access.SCORES:
        return (model.predict(z) != y).double()
    return margin_over(model.scores(z), y).double()


def _changed(
    region: FeatureEditsRegion, worst: Tensor, donors: Tensor, rng: Rng, index: Tensor, turn: int
) -> Tensor:
    """An allowed row beside each of ``worst``."""
    own, d = region.x, region.x.shape[1]

    def draw(use: str, width: int = d) -> Tensor:
        """Uniform draws ``[n, width]``; a one-hot group has one."""
        drawn = rng.fork(use).uniform(index, (width,), turn)
        return _shared(region, drawn) if width == d else drawn

    donor = (draw("donor") * len(donors)).long()
    value = donors.gather(0, donor).double()
    end = torch.where(region.schema.mask(Kind.ONE_HOT), 1.0, draw("end"))
    value = torch.where(end < _ENDS / 2, region.low, torch.where(end < _ENDS, region.high, value))
    value = torch.minimum(torch.maximum(value, region.low), region.high).to(own.dtype)
    kept = torch.where(draw("back") < _BACK, own, worst)
    z = torch.where(draw("pick") < draw("share", 1).square(), value, kept)
    return region.project(_paid(region, z, draw("order")))


def _paid(region: FeatureEditsRegion, z: Tensor, order: Tensor) -> Tensor:
    """``z`` with the changes that the budget pays for, the cheapest first but for the shuffling ``order`` in [0, 1);
    in L0, where each costs the same, in that order."""
    moves = region.moves(z).abs()
    if region.norm is Norm.L0:
        key = torch.where(moves > 0, order.double(), 0.0)
    elif region.eps == torch.inf:
        key = order.double()
    else:
        key = torch.where(moves > region.eps, torch.inf, moves + _LOOSE * region.eps * order)
    ranked = torch.sort(key, dim=1, stable=True).indices
    paid = moves.gather(1, ranked)
    fits = region.norm.running(paid) <= region.eps
    if region.max_changed is not None:
        fits &= Norm.L0.running(paid) <= region.max_changed
    stays = _shared(region, torch.zeros_like(fits).scatter(1, ranked, fits))
    return torch.where(stays, z, region.x)


def _shared(region: FeatureEditsRegion, values: Tensor) -> Tensor:
    """``values`` ``[n, d]`` where each one-hot group has those of its first column."""
    for columns in region.schema.groups.values():
        values[:, list(columns)] = values[:, columns[:1]].clone()
    return values
