"""Constrained Auto-PGD: gradients, relations and repair together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from hardpoint.attacks.base import StandaloneAttack
from hardpoint.attacks.gradient.apgd import APGD, APGDState
from hardpoint.attacks.losses import Loss
from hardpoint.attacks.tabular.regions import scale_of, table_region
from hardpoint.core.access import Access
from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng
from hardpoint.engine.attack import Reply, Task
from hardpoint.threats.features import FeatureEditsRegion, Kind, Norm

_STEPS_FILLED = 12


@dataclass(frozen=True)
class Relaxed:
    """A table's region as gradients see it: bounds and ball, where values may be fractions and relations broken.

    Features whose smallest step overdraws the budget stay as they are. In L1 and L0, where a point between valid
    rows spreads the budget over fractions that rounding would lose, points are valid rows here too.
    """

    HAS_ROWS: ClassVar[bool] = True
    region: FeatureEditsRegion
    from_original: bool

    @classmethod
    def of(cls, region: FeatureEditsRegion, from_original: bool) -> Relaxed:
        """The relaxed form of ``region``."""
        own, whole = region.x.double(), region.schema.mask(Kind.INTEGER, Kind.BINARY).to(region.x.device)
        still = whole & (scale_of(region) > region.eps) & (region.norm is not Norm.L0)
        low, high = torch.where(still, own, region.low), torch.where(still, own, region.high)
        return cls(replace(region, low=low, high=high), from_original)

    @property
    def x(self) -> Tensor:
        return self.region.x

    @property
    def reach(self) -> Tensor:
        return self.region.reach

    def project(self, z: Tensor) -> Tensor:
        return self.region.relax(z) if self.region.relaxes else self.region.project(z)

    def sample(self, rng: Rng, index: Tensor, counter: int | Tensor = 0) -> Tensor:
        return self.x if self.from_original else self.region.sample(rng, index, counter)

    def distance(self, z: Tensor) -> Tensor:
        return self.region.distance(z)

    def contains(self, z: Tensor) -> Tensor:
        return self.region.contains(z)

    def ascent(self, gradient: Tensor, z: Tensor) -> Tensor:
        return self.region.ascent(gradient, z)


@dataclass(frozen=True)
class CAPGDState:
    """The climb between the valid rows, and the valid row next to where it is."""

    HAS_ROWS: ClassVar[bool] = True
    query: Tensor
    climb: APGDState


@dataclass(frozen=True)
class CAPGD(StandaloneAttack):
    """Constrained Auto-PGD for tables, on models with gradients.

    ``APGD`` climbs through the bounds and the ball alone, where values may be fractions; each of its points is
    repaired (kinds, one-hot groups, relations, budget) before the model is asked about it, and the gradient at the
    repaired row is taken for that at the point. What rounding leaves of the budget goes to whole steps, those that
    gain the most for what they use first. Every repaired row counts if it is misclassified. Relations that
    the point itself breaks pull it back: their hinges are taken off the loss, each measured as the distance to
    satisfying it (its value over the length of its slope), so that units do not matter.

    Args:
        loss: ``"ce"``, ``"margin"`` or ``"dlr"``.
        steps: gradient steps.
        random_start: start at a random valid row instead of the original.
        penalty: weight of the relations' pull, in units of the loss's own slope; 0 leaves them to the repair.

    Raises:
        ThreatError: for settings out of range; and, on use, for a perturbation other than ``FeatureEdits``.

    Simonetto, Ghamizi and Cordy, "Constrained adaptive attack: effective adversarial attack against deep neural
    networks for tabular data" (NeurIPS 2024), section 4.

    >>> from hardpoint.threats.features import Feature, FeatureEdits, Schema
    >>> model = torch.nn.Linear(2, 2).eval()
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]])), model.bias.copy_(torch.tensor([1.0, 0.0]))
    >>> schema = Schema([Feature("a"), Feature("b")], ["a <= b"])
    >>> result = CAPGD(steps=10)(model, torch.tensor([[0.3, 0.4]]), torch.tensor([0]), FeatureEdits(schema, 0.5))
    >>> bool(result.broken), bool(schema.check(result.adversarial))
    (True, True)
    """

    loss: Loss | str = Loss.CE
    steps: int = 20
    random_start: bool = False
    penalty: float = 1.0
    needs: ClassVar[Access] = Access.GRADIENTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", Loss.parse(self.loss))
        if not self.penalty >= 0:
            raise ThreatError(f"penalty is {self.penalty}", "give 0 or more")
        _ = self._climb  # checks the steps

    @cached_property
    def _climb(self) -> APGD:
        return APGD(self.loss, self.steps)

    @property
    def turns(self) -> int:
        return self._climb.turns

    @property
    def name(self) -> str:
        start = " from random rows" if self.random_start else ""
        return f"CAPGD-{Loss.parse(self.loss).value} {self.steps}{start}"

    def objective(self, scores: Tensor, task: Task, state: CAPGDState) -> Tensor:
        return self._climb.objective(scores, task, state.climb)

    def start(self, task: Task) -> CAPGDState:
        climb = self._climb.start(self._relaxed(task))
        return CAPGDState(task.region.project(climb.query), climb)

    def step(self, state: CAPGDState, reply: Reply, task: Task) -> CAPGDState:
        assert reply.gradient is not None
        region = table_region(task.region, "CAPGD")
        pulled = self._pulled(state.climb.query, reply, task)
        climb = self._climb.step(state.climb, pulled, self._relaxed(task))
        return CAPGDState(_filled(region, region.project(climb.query), reply.gradient), climb)

    def _relaxed(self, task: Task) -> Task:
        region = table_region(task.region, "CAPGD")
        return replace(task, region=Relaxed.of(region, not self.random_start))

    def _pulled(self, z: Tensor, reply: Reply, task: Task) -> Reply:
        """The reply for the loss less the relations' hinges at ``z``."""
        assert reply.gradient is not None and reply.value is not None  # noqa: PT018
        region = table_region(task.region, "CAPGD")
        if self.penalty == 0 or not region.schema.relations:
            return reply
        away, slope = distance_to_relations(region, z)
        steep = (reply.gradient.double() / scale_of(region)).square().sum(1).sqrt() * self.penalty
        return replace(
            reply,
            value=reply.value.double() - steep * away,
            gradient=(reply.gradient.double() - steep.unsqueeze(1) * slope).to(z.dtype),
        )


def _filled(region: FeatureEditsRegion, row: Tensor, gradient: Tensor) -> Tensor:
    """Valid rows with what is left of a summed budget spent on single steps of whole features along the gradient."""
    if region.norm not in (Norm.L1, Norm.L2) or not math.isfinite(region.eps):
        return row
    power = 2 if region.norm is Norm.L2 else 1
    scale, uphill = scale_of(region), gradient.double().sign()
    offset, after = row.double() - region.x.double(), row.double() + uphill
    price = ((offset + uphill).abs() * scale).pow(power) - (offset.abs() * scale).pow(power)
    whole = region.schema.mask(Kind.INTEGER, Kind.BINARY).to(row.device)
    able = whole & (uphill != 0) & (price > 0) & (after >= region.low) & (after <= region.high)
    left = region.eps**power - region.distance(row).pow(power)
    worth = torch.where(able, gradient.double().abs() / price.clamp_min(1e-300), -1.0)
    best = worth.topk(min(_STEPS_FILLED, worth.shape[1]), dim=1).indices
    taken = torch.zeros_like(able)
    for column in best.unbind(1):
        cost = price.gather(1, column.unsqueeze(1)).squeeze(1)
        fits = able.gather(1, column.unsqueeze(1)).squeeze(1) & (cost <= left)
        left = torch.where(fits, left - cost, left)
        taken = taken.scatter(1, column.unsqueeze(1), fits.unsqueeze(1))
    return region.project(torch.where(taken, after, row.double()).to(row.dtype))


def distance_to_relations(region: FeatureEditsRegion, z: Tensor) -> tuple[Tensor, Tensor]:
    """float64 ``[n]``: how far each row is from satisfying the relations it breaks, to first order and summed, in
    units of cost; and its gradient ``[n, d]``."""
    scale = scale_of(region)
    away, slope = torch.zeros(len(z), dtype=torch.float64, device=z.device), torch.zeros_like(scale)
    with torch.enable_grad():
        point = z.detach().double().requires_grad_(True)
        hinges = region.schema.hinges(point)
    for hinge in hinges.unbind(1):
        if not bool((hinge > 0).any()) or not hinge.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(hinge.sum(), point, retain_graph=True)
        length = (gradient / scale).square().sum(1).sqrt()
        counts = (hinge > 0) & (length > 0) & torch.isfinite(length)
        unit = torch.where(counts, length, 1.0)
        away = away + torch.where(counts, hinge.detach() / unit, 0.0)
        slope = slope + torch.where(counts.unsqueeze(1), gradient / unit.unsqueeze(1), 0.0)
    return away, slope
