"""Moves rows that break a relation to nearby rows that satisfy it, as far as that is easy.

A repair may fail; whoever asks for one checks the result. What it knows:

- an affine comparison is satisfied by moving the features of one side (those whose growth makes things worse, or
  those whose growth helps), the cheaper side where both could do it; the features of a side share the move in
  proportion to the room they have, so that a sum that is too large is rescaled;
- a lone feature on one side of any other comparison is set to what the other side says;
- an alternative (so also an implication) takes the part that costs least; a conjunction takes its parts in turn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.threats.features.expression import (
    And,
    Compare,
    Condition,
    Negative,
    Op,
    Or,
    Ref,
    Sum,
    Value,
    affine,
    normal,
)
from hardpoint.threats.features.relations import TOLERANCE, Rows, evaluate, holds

_ALMOST_WHOLE = 1e-9


@dataclass(frozen=True)
class Freedom:
    """What a repair may change.

    Attributes:
        low, high: float64 ``[n, d]``, the ends between which each value may move; equal where it may not.
        weight: float64 ``[n, d]``, the cost of moving by one unit.
        whole: bool ``[d]``, the columns that move by whole units.
    """

    low: Tensor
    high: Tensor
    weight: Tensor
    whole: Tensor

    def where(self, chosen: Tensor) -> Freedom:
        """The rows that a bool ``[n]`` or an index tensor chooses."""
        return Freedom(self.low[chosen], self.high[chosen], self.weight[chosen], self.whole)

    def cost(self, before: Tensor, after: Tensor) -> Tensor:
        """``[n]``: the summed cost of a move."""
        return ((after - before).abs() * self.weight).sum(1)


def repair(condition: Condition, rows: Rows, freedom: Freedom) -> Tensor:
    """The rows ``[n, d]`` with those that break ``condition`` moved; rows that satisfy it stay as they are.

    >>> rows = Rows(torch.tensor([[5.0, 3.0], [2.0, 3.0]], dtype=torch.float64), {"a": 0, "b": 1})
    >>> zero = torch.zeros_like(rows.values)
    >>> freedom = Freedom(zero, zero + 9, zero + 1, torch.tensor([True, True]))
    >>> repair(Compare(Op.LE, Ref("a"), Ref("b")), rows, freedom)
    tensor([[3., 3.],
            [2., 3.]], dtype=torch.float64)
    """
    broken = (~holds(condition, rows)).nonzero().squeeze(1)
    if len(broken) == 0:
        return rows.values
    moved = _move(condition, rows.where(broken), freedom.where(broken))
    return rows.values.index_copy(0, broken, moved)


def _move(condition: Condition, rows: Rows, freedom: Freedom) -> Tensor:
    match condition:
        case And(parts):
            for part in parts:
                rows = Rows(repair(part, rows, freedom), rows.index)
            return rows.values
        case Or(parts):
            return _cheapest(condition, [repair(part, rows, freedom) for part in parts], rows, freedom)
        case Compare(op, left, right):
            return _cheapest(condition, _ways(op, left, right, rows, freedom), rows, freedom)
        case _:
            return _move(normal(condition), rows, freedom)


def _cheapest(condition: Condition, candidates: list[Tensor], rows: Rows, freedom: Freedom) -> Tensor:
    """Per row the cheapest candidate that satisfies the condition; the row itself where none does."""
    best = rows.values
    least = torch.full((len(best),), torch.inf, dtype=best.dtype, device=best.device)
    for candidate in candidates:
        cost = freedom.cost(rows.values, candidate)
        better = holds(condition, Rows(candidate, rows.index)) & (cost < least)
        best = torch.where(better.unsqueeze(1), candidate, best)
        least = torch.where(better, cost, least)
    return best


def _ways(op: Op, left: Value, right: Value, rows: Rows, freedom: Freedom) -> list[Tensor]:
    """Moves that could make ``left op right`` hold."""
    if op is Op.NE:
        return _ways(Op.LT, left, right, rows, freedom) + _ways(Op.GT, left, right, rows, freedom)
    if op in (Op.GE, Op.GT):
        return _ways(Op.LE if op is Op.GE else Op.LT, right, left, rows, freedom)
    form = affine(Sum((left, Negative(right))))
    if form is not None:
        return _shifts(op, form, rows, freedom)
    sides = [(left, right, -1.0), (right, left, 1.0)]
    return [
        _set(mine.name, evaluate(other, rows), toward, op, rows, freedom)
        for mine, other, toward in sides
        if isinstance(mine, Ref)
    ]


def _set(name: str, value: Tensor, toward: float, op: Op, rows: Rows, freedom: Freedom) -> Tensor:
    """The feature set to ``value``, or for an inequality just beyond it in the direction ``toward``."""
    column = rows.index[name]
    if op is not Op.EQ:
        value = value + toward * TOLERANCE * (
            value.abs() + 1.0 / freedom.weight[:, column].clamp_min(TOLERANCE)
        )
    if bool(freedom.whole[column]):
        value = value.round() if op is Op.EQ else (value.ceil() if toward > 0 else value.floor())
    value = torch.nan_to_num(value)
    result = rows.values.clone()
    result[:, column] = torch.minimum(torch.maximum(value, freedom.low[:, column]), freedom.high[:, column])
    return result


def _shifts(op: Op, form: tuple[dict[str, float], float], rows: Rows, freedom: Freedom) -> list[Tensor]:
    """Moves that bring an affine value down to 0 or below (``==``: to 0): of one side, of the other, of both."""
    factors = {name: factor for name, factor in form[0].items() if factor != 0}
    if not factors:
        return []
    columns = torch.tensor([rows.index[name] for name in factors], device=rows.values.device)
    factor = rows.values.new_tensor(list(factors.values()))
    now, whole = rows.values[:, columns], freedom.whole[columns]
    excess = (now * factor).sum(1) + form[1]
    down = torch.where(excess < 0, -1.0, 1.0) if op is Op.EQ else torch.ones_like(excess)
    need = excess.abs() + _margin(op, now, factor, whole, form[1], freedom.weight[:, columns])
    falls = down.unsqueeze(1) * factor > 0  # the features that must fall
    room = torch.where(falls, now - freedom.low[:, columns], freedom.high[:, columns] - now).clamp_min(0.0)
    room = torch.where(whole, (room + _ALMOST_WHOLE).floor(), room)
    results = []
    for side in (
        [factor > 0, factor < 0, factor != 0]
        if bool((factor > 0).any() & (factor < 0).any())
        else [factor != 0]
    ):
        size = _share(need, torch.where(side, room, 0.0), factor.abs(), whole, op is Op.EQ)
        results.append(rows.values.index_copy(1, columns, torch.where(falls, now - size, now + size)))
    return results


def _margin(
    op: Op, now: Tensor, factor: Tensor, whole: Tensor, constant: float, weight: Tensor
) -> Tensor | float:
    """How far beyond the boundary to aim, so that the result still holds once stored in float32."""
    if op is Op.EQ:
        return 0.0
    if bool(whole.all()) and all(float(c).is_integer() for c in [*factor.tolist(), constant]):
        return 1.0 if op is Op.LT else 0.0
    spread = now.abs() + 1.0 / weight.clamp_min(TOLERANCE)
    return TOLERANCE * ((spread * factor.abs()).sum(1) + abs(constant))


def _share(need: Tensor, room: Tensor, factor: Tensor, whole: Tensor, exact: bool) -> Tensor:
    """``[n, k]``: moves within ``room`` whose sum, times ``factor``, is ``need`` (at least, unless ``exact``).

    In proportion to the room; whole columns are rounded down, and what is missing then is made up one column
    after the other. An exact sum is made up by the large whole steps first, an inequality by the small ones.
    """
    capacity = (room * factor).sum(1)
    part = torch.where(capacity > 0, need / capacity.clamp_min(torch.finfo(need.dtype).tiny), 0.0).clamp(
        max=1.0
    )
    move = room * part.unsqueeze(1)
    move = torch.where(whole, (move + _ALMOST_WHOLE).floor(), move)
    left = need - (move * factor).sum(1)
    order = sorted(
        range(len(factor)), key=lambda j: (bool(whole[j]) != exact, (-1 if exact else 1) * float(factor[j]))
    )
    for j in order:
        step = left / factor[j]
        if bool(whole[j]):
            step = (step + _ALMOST_WHOLE).floor() if exact else (step - _ALMOST_WHOLE).ceil()
        step = torch.minimum(step.clamp_min(0.0), room[:, j] - move[:, j])
        move[:, j] += step
        left = left - step * factor[j]
    return move
