"""The rows an attacker can turn each original row into."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.core.rng import Rng
from hardpoint.core.rows import take_rows
from hardpoint.threats.features.balls import Norm, project
from hardpoint.threats.features.feature import Kind
from hardpoint.threats.features.relations import Rows
from hardpoint.threats.features.repair import Freedom, repair
from hardpoint.threats.features.rounding import level_toward, store, whole_toward
from hardpoint.threats.features.schema import Schema
from hardpoint.threats.norms import finite_or, inner_radius

_SNAP = 1e-6
_REPAIR_PASSES = 3


def _largest(score: Tensor, count: Tensor) -> Tensor:
    """Bool ``[n, k]``: the ``count`` ``[n]`` largest entries of each row, the first of equal ones."""
    order = torch.sort(score, dim=1, descending=True, stable=True).indices
    places = torch.arange(score.shape[1], device=score.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order, places) < count.unsqueeze(1)


@dataclass(frozen=True)
class FeatureEditsRegion:
    """Valid rows within the budget of each original; nothing at all around an original that is not valid.

    Attributes:
        x: the originals ``[n, d]``.
        low, high: float64 ``[n, d]``: where each value can move (bounds, mutability, input box).
        width: float64 ``[n, d]``: the range that one unit of scaled distance stands for.
        valid: bool ``[n]``: whether the original itself is valid.
    """

    HAS_ROWS: ClassVar[bool] = True
    x: Tensor
    low: Tensor
    high: Tensor
    width: Tensor
    valid: Tensor
    schema: Schema
    norm: Norm
    eps: float
    max_changed: int | None

    # -- the scaled space

    @property
    def _scale(self) -> Tensor:
        """float64 ``[n, d]``: the cost of one unit."""
        cost = torch.tensor([f.cost for f in self.schema.features], dtype=torch.float64, device=self.x.device)
        return cost / self.width

    @property
    def _limit(self) -> int | None:
        """How many coordinates may change."""
        counts = [] if self.max_changed is None else [self.max_changed]
        if self.norm is Norm.L0 and math.isfinite(self.eps):
            counts.append(int(self.eps))
        return min(counts) if counts else None

    def moves(self, z: Tensor) -> Tensor:
        """``[n, d]``: the change of each coordinate in units of cost. A one-hot group is one coordinate, held by its
        first column: the mean cost of what is unset and what is set."""
        offset = z.double() - self.x.double()
        cost = torch.tensor([f.cost for f in self.schema.features], dtype=torch.float64, device=z.device)
        moves = offset / self.width * cost
        for columns in self.schema.groups.values():
            part = moves[:, list(columns)].abs().sum(1) / 2
            moves[:, list(columns)] = 0.0
            moves[:, columns[0]] = part
        return moves

    def distance(self, z: Tensor) -> Tensor:
        return self.norm.length(self.moves(z))

    @property
    def reach(self) -> Tensor:
        span = (self.high - self.low) * self._scale
        half = span.amax(1) if self.norm is Norm.L0 else self.norm.length(span) / 2
        return (half if self.norm is Norm.L0 else half.clamp(max=self.eps)).to(self.x.dtype)

    def spare(self, z: Tensor) -> Tensor:
        """``[n]``: the length that may still be added on coordinates that ``z`` leaves unchanged."""
        return self.norm.rest(self.eps, self.distance(z)).to(z.dtype)

    # -- membership

    def contains(self, z: Tensor) -> Tensor:
        exact = z.double()
        moves = self.moves(z)
        allowed = self.valid & ((exact >= self.low) & (exact <= self.high)).all(1)
        allowed &= self.norm.length(moves) <= self.eps
        if self.max_changed is not None:
            allowed &= (moves != 0).sum(1) <= self.max_changed
        return allowed & self.schema.check(z)

    # -- projection

    @property
    def relaxes(self) -> bool:
        """Whether a search by gradients does better between valid rows. In L1 and L0 it would spread the budget over
        fractions that rounding loses."""
        return self.norm not in (Norm.L1, Norm.L0)

    def relax(self, z: Tensor) -> Tensor:
        """``z`` moved into the bounds and the ball alone: values may be fractions and relations broken, as suits a
        search that steps by gradients and projects in the end. One-hot columns are held to their bounds only."""
        wanted = finite_or(z, self.x).double()
        everything = torch.ones_like(wanted, dtype=torch.bool)
        budget = inner_radius(self.eps, torch.float64)
        radius = torch.full((len(z),), budget, dtype=torch.float64, device=z.device)
        inside = torch.minimum(torch.maximum(wanted, self.low), self.high)
        hot = self.schema.mask(Kind.ONE_HOT).to(z.device)
        return store(torch.where(hot, inside, self._in_ball(wanted, radius, everything)), self.x)

    def project(self, z: Tensor) -> Tensor:
        """Near to ``z`` rather than nearest: the coordinates that matter most if only so many may change; then the
        one-hot groups that want to and fit the budget; then the ball, rounding towards the original, repair of
        broken relations, and where that leads outside, the original values of what they involve."""
        z = finite_or(z, self.x).to(self.x.dtype)
        outside = (~self.contains(z) & self.valid).nonzero().squeeze(1)
        result = torch.where(self.valid.unsqueeze(1), z, self.x)
        if len(outside) == 0:
            return result
        part = take_rows(self, outside)
        return result.index_copy(0, outside, part._settle(part._rounded(z[outside].double())))

    def _in_ball(self, wanted: Tensor, radius: Tensor, free: Tensor) -> Tensor:
        """The ordinary columns of ``wanted`` in bounds and ball; those not ``free`` and one-hot ones as they were."""
        own, scale = self.x.double(), self._scale
        free = free & ~self.schema.mask(Kind.ONE_HOT).to(own.device)
        d, low, high = (torch.where(free, (end - own) * scale, 0.0) for end in (wanted, self.low, self.high))
        moves = project(self.norm, d, low, high, radius)
        point = torch.nextafter(own + moves / scale, own)
        for end, move in ((wanted, d), (self.low, low), (self.high, high)):
            point = torch.where(moves == move, end, point)
        return torch.where(free, torch.minimum(torch.maximum(point, self.low), self.high), own)

    def _snapped(self, point: Tensor, slack: float) -> Tensor:
        """Whole and ordinal columns rounded towards the original."""
        own = self.x.double()
        whole = self.schema.mask(Kind.INTEGER, Kind.BINARY).to(own.device)
        point = torch.where(whole, whole_toward(point, own, slack), point)
        for column, feature in enumerate(self.schema.features):
            if feature.levels:
                levels = torch.tensor(feature.levels, dtype=torch.float64, device=own.device)
                point[:, column] = level_toward(point[:, column], own[:, column], levels, slack)
        return point

    def _switches(self, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For each one-hot group ``[n, groups]``: the member column wanted, how much more than the present one
        (0: no change wanted), and the cost of the change."""
        own, targets, wishes, costs = self.x.double(), [], [], []
        scale = self._scale
        wanted = torch.where(self.high > self.low, wanted, own)
        for columns in self.schema.groups.values():
            place = torch.tensor(columns, device=own.device)
            now, then = place[own[:, place].argmax(1)], place[wanted[:, place].argmax(1)]
            pick = torch.stack([now, then], dim=1)
            before, after = wanted.gather(1, pick).unbind(1)
            targets.append(then)
            wishes.append(torch.where(now == then, 0.0, after - before))
            costs.append(scale.gather(1, pick).mean(1))
        return torch.stack(targets, 1), torch.stack(wishes, 1), torch.stack(costs, 1)

    def _rounded(self, wanted: Tensor) -> Tensor:
        """In the input dtype: ``wanted`` within bounds, kinds and budget; relations are not looked at."""
        point = self._within(wanted, self.eps, _SNAP)
        over = (self.distance(point) > self.eps).nonzero().squeeze(1)
        if len(over) == 0:
            return point
        # A budget used up to the last bit can be overdrawn by a rounding.
        inner = take_rows(self, over)._within(wanted[over], inner_radius(self.eps, torch.float64), 0.0)
        return point.index_copy(0, over, inner)

    def _within(self, wanted: Tensor, budget: float, slack: float) -> Tensor:
        own = self.x.double()
        free = torch.ones_like(own, dtype=torch.bool)
        radius = torch.full((len(own),), budget, dtype=torch.float64, device=own.device)
        switched = own
        firsts = [columns[0] for columns in self.schema.groups.values()]
        hot = self.schema.mask(Kind.ONE_HOT).to(own.device)
        if firsts:
            targets, wishes, costs = self._switches(wanted)
        if self._limit is not None:
            # Changing a coordinate to the allowed value v saves d² - (d - v)² of squared distance.
            d = (wanted - own) * self._scale
            boxed = self._in_ball(wanted, torch.full_like(radius, torch.inf), free)
            left = d - (self._snapped(boxed, slack) - own) * self._scale
            saved = torch.where(hot, 0.0, (d.square() - left.square()).nan_to_num(0.0))
            if firsts:
                saved[:, firsts] = wishes * costs.square()
            free = _largest(saved, torch.full((len(own),), self._limit, device=own.device)) & (saved > 0)
        if firsts:
            fits = self._affordable((wishes > 0) & free[:, firsts], wishes, costs, budget)
            switched = self._switched(targets, fits)
            radius = self.norm.rest(budget, self.norm.length(torch.where(fits, costs, 0.0)))
        point = self._snapped(self._in_ball(wanted, radius, free), slack)
        return store(torch.where(hot, switched, point), self.x)

    def _affordable(self, asked: Tensor, wishes: Tensor, costs: Tensor, budget: float) -> Tensor:
        """Bool ``[n, groups]``: the changes that fit the budget together, the most wanted first."""
        order = torch.sort(torch.where(asked, wishes, -1.0), dim=1, descending=True, stable=True).indices
        paid = torch.where(asked, costs, 0.0).gather(1, order)
        # in L0 the most wanted were picked before
        fits = (self.norm.running(paid) <= budget) | (self.norm is Norm.L0)
        return torch.zeros_like(asked).scatter(1, order, fits) & asked

    def _switched(self, targets: Tensor, fits: Tensor) -> Tensor:
        """The originals with the one-hot groups that ``fits`` names set to their target columns."""
        result = self.x.double().clone()
        for number, columns in enumerate(self.schema.groups.values()):
            place = torch.tensor(columns, device=targets.device)
            hot = (place == targets[:, number : number + 1]).double()
            result[:, place] = torch.where(fits[:, number : number + 1], hot, result[:, place])
        return result

    def _settle(self, point: Tensor) -> Tensor:
        """``point`` where it is allowed; else repaired freely; else repaired between it and the original; else with
        the original values of whatever the broken relations involve; else the original."""
        result = self.x.clone()
        where = torch.arange(len(point), device=point.device)
        region = self
        for attempt in _ATTEMPTS:
            tried = attempt(region, point)
            fine = region.contains(tried)
            result = result.index_copy(0, where[fine], tried[fine])
            rest = (~fine).nonzero().squeeze(1)
            if len(rest) == 0:
                break
            where, point, region = where[rest], point[rest], take_rows(region, rest)
        return result

    def _repaired_freely(self, point: Tensor) -> Tensor:
        return self._repaired(point, self.low, self.high)

    def _repaired_between(self, point: Tensor) -> Tensor:
        return self._repaired(
            point, torch.minimum(point, self.x).double(), torch.maximum(point, self.x).double()
        )

    def _repaired(self, point: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """``point`` with its broken relations repaired in turn, in a few passes, between ``low`` and ``high``."""
        rows = self.schema.rows(point)
        fixed = self.schema.mask(Kind.ONE_HOT, Kind.ORDINAL).to(point.device)
        freedom = Freedom(
            torch.where(fixed, rows.values, low),
            torch.where(fixed, rows.values, high),
            self._scale,
            self.schema.mask(Kind.INTEGER, Kind.BINARY).to(point.device),
        )
        for _ in range(_REPAIR_PASSES):
            before = rows
            for relation in self.schema.relations:
                rows = Rows(repair(relation.root, rows, freedom), rows.index)
            if torch.equal(before.values, rows.values):
                break
        return rows.values.to(self.x.dtype)

    def _reverted(self, point: Tensor) -> Tensor:
        """``point`` with the original values wherever a broken relation, or one broken by that, looks. The original
        satisfies all relations, so each round frees at least one more for good."""
        uses = self.schema.uses.to(point.device)
        for _ in self.schema.relations:
            rows = self.schema.rows(point)
            broken = torch.stack([~relation.check(rows) for relation in self.schema.relations], dim=1)
            if not bool(broken.any()):
                break
            point = torch.where(broken.double() @ uses > 0, self.x, point)
        return point

    # -- search

    def sample(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        """A random number of changed coordinates (few as likely as many), half of them to an end of their range, the
        others anywhere in it; then ``project``."""
        own, d = self.x.double(), self.x.shape[1]
        hot = self.schema.mask(Kind.ONE_HOT).to(own.device)
        candidates = (self.high > self.low) & ~hot
        for columns in self.schema.groups.values():
            candidates[:, columns[0]] = self.high[:, columns[0]] > self.low[:, columns[0]]
        most = candidates.sum(1).clamp(max=d if self._limit is None else self._limit)
        u = rng.fork("count").uniform(index, (), counter, torch.float64)
        count = torch.minimum(((most + 1).double() ** u).floor().long(), most)
        key = rng.fork("which").uniform(index, (d,), counter, torch.float64)
        chosen = _largest(torch.where(candidates, key, -1.0), count) & candidates
        value = rng.fork("value").uniform(index, (d,), counter, torch.float64)
        end = rng.fork("end").uniform(index, (d,), counter, torch.float64)
        whole = self.schema.mask(Kind.INTEGER, Kind.BINARY).to(own.device)
        span = self.high - self.low
        anywhere = self.low + torch.where(whole, (value * (span + 1)).floor(), value * span)
        drawn = torch.where(end < 0.25, self.low, torch.where(end < 0.5, self.high, anywhere))
        z = torch.where(chosen & ~hot, drawn, own)
        for columns in self.schema.groups.values():
            place = torch.tensor(columns, device=own.device)
            other = torch.where(own[:, place] == 1, -1.0, value[:, place]).argmax(1, keepdim=True)
            switched = torch.zeros_like(own[:, place]).scatter(1, other, 1.0)
            z[:, place] = torch.where(chosen[:, columns[0] : columns[0] + 1], switched, z[:, place])
        return self.project(store(z, self.x))

    def ascent(self, gradient: Tensor, z: Tensor) -> Tensor:
        """The steepest direction in scaled distance, over the features that can still move that way."""
        exact, scale = z.double(), self._scale
        movable = torch.where(gradient > 0, exact < self.high, exact > self.low) & (self.high > self.low)
        steep = torch.where(movable, gradient.double() / scale, 0.0)
        match self.norm:
            case Norm.LINF:
                step = steep.sign()
            case Norm.L2:
                step = steep / steep.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
                step = step / step.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
            case Norm.L1 | Norm.L0:
                # one coordinate is the exact maximiser; its bound makes that a poor step, so a twentieth share it
                share = (
                    max(1, steep.shape[1] // 20) if self.norm is Norm.L1 else (self._limit or steep.shape[1])
                )
                count = torch.full((len(steep),), share, device=steep.device)
                chosen = _largest(steep.abs(), count) & (steep != 0)
                step = torch.where(chosen, steep.sign(), 0.0)
                if self.norm is Norm.L1:
                    step = step / chosen.sum(1, keepdim=True).clamp_min(1)
        return (step / scale).to(z.dtype)


_ATTEMPTS: tuple[Callable[[FeatureEditsRegion, Tensor], Tensor], ...] = (
    lambda region, point: point,
    FeatureEditsRegion._repaired_freely,
    FeatureEditsRegion._repaired_between,
    FeatureEditsRegion._reverted,
)
