"""Certified training: learning from bounds of what the network can answer, so that they prove much afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hardpoint.bounds import Graph, Interval, interval_certified, intervals, margin_bounds
from hardpoint.bounds.crown import crown_margins
from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng
from hardpoint.harden.learner import Batch, Learner, soft_cross_entropy
from hardpoint.harden.recipes._checks import at_least, count, positive, share
from hardpoint.harden.recipes.pgd import Pgd
from hardpoint.harden.recipes.recipe import Attacked, Taught
from hardpoint.harden.warmup import reset_for_bounds, warmup_penalty
from hardpoint.models.torch import TorchModel
from hardpoint.threats.linf import LinfRegion
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

_BEND = 0.25
"""Up to this share of the growth the budget is of the fourth order."""


@dataclass(frozen=True, kw_only=True)
class _Bounded:
    """What certified recipes share.

    Args:
        reach: the radius that is learned, in radii of the budget; a little more than 1 proves more at 1.
        warmup: the weight of the penalties that keep intervals from exploding while the budget grows; 0 for none.
        reset: begin from first weights of their own; networks that were trained otherwise seldom learn bounds.
    """

    reach: float = 1.0
    warmup: float = 0.5
    reset: bool = True

    def __post_init__(self) -> None:
        positive(self.reach, "reach")
        at_least(0.0, self.warmup, "warmup")

    @property
    def gradients(self) -> int:
        return 0

    def prepared(self, module: nn.Module, rng: Rng, like: Tensor) -> nn.Module:
        return reset_for_bounds(module, rng) if self.reset else module

    def proven(self, model: TorchModel, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        return interval_certified(model, x, y, threat)

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        return Attacked(batch.x)

    def region(self, learner: Learner, batch: Batch) -> LinfRegion:
        """The box that is learned; raises ``ThreatError`` for a threat that is none."""
        region = learner.region(batch, self.learned(learner))
        if not isinstance(region, LinfRegion):
            raise ThreatError(
                f"intervals do not bound {learner.perturbation.name}", "use a certified recipe against Linf"
            )
        return region

    def learned(self, learner: Learner, reach: float = 1.0) -> Perturbation:
        """What the learner's budget must be so that what is learned grows from nothing as smoothly as it should."""
        return learner.perturbation.scaled(reach * self.reach * grown(learner.strength) / learner.strength)

    def penalty(self, learner: Learner, graph: Graph, spans: list[Interval]) -> Tensor | float:
        """What is added to the loss while the budget grows."""
        left = self.warmup * (1 - grown(learner.strength))
        return left * warmup_penalty(graph, spans) if left > 0 else 0.0


@dataclass(frozen=True)
class Ibp(_Bounded):
    """Cross-entropy of the worst margins that intervals allow (Gowal et al., "Scalable verified training for provably
    robust image classification", ICCV 2019), from the first weights and with the warm-up of Shi et al. (NeurIPS 2021).

    Args:
        clean_first: weight of the clean loss while there is no budget yet.
        clean: weight of the clean loss under the whole budget.
    """

    clean_first: float = 0.0
    clean: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self.clean_first, "clean_first")
        share(self.clean, "clean")

    @property
    def name(self) -> str:
        return "ibp"

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        region = self.region(learner, batch)
        easy = self.clean_first + (self.clean - self.clean_first) * grown(learner.strength)
        graph, clean = _settled(learner, batch, wanted=easy > 0)
        spans = intervals(graph, Interval(region.low, region.high))
        worst = -margin_bounds(graph, spans, batch.y)
        loss = (1 - easy) * _loss(worst, batch) + self.penalty(learner, graph, spans)
        return Taught(
            loss if clean is None or easy == 0 else loss + easy * _loss(clean, batch), worst.detach()
        )


@dataclass(frozen=True)
class CrownIbp(_Bounded):
    """Margins between those of CROWN and those of intervals (Zhang et al., "Towards stable and efficient training of
    verifiably robust neural networks", ICLR 2020): from CROWN's alone to as little of them as ``crown`` says.

    Args:
        crown: their share under the whole budget; with 0, training costs what ``Ibp`` costs from there on.
    """

    crown: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self.crown, "crown")

    @property
    def name(self) -> str:
        return "crown_ibp"

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        region = self.region(learner, batch)
        graph, _ = _settled(learner, batch)
        spans = intervals(graph, Interval(region.low, region.high))
        margins = margin_bounds(graph, spans, batch.y)
        part = 1 - (1 - self.crown) * grown(learner.strength)
        if part > 0:
            margins = torch.lerp(margins, crown_margins(graph, spans, batch.y), part)
        loss = _loss(-margins, batch) + self.penalty(learner, graph, spans)
        return Taught(loss, -margins.detach())


@dataclass(frozen=True)
class Sabr(_Bounded):
    """Intervals of a small box around an attacked example (Müller, Eckert, Fischer and Vechev, "Certified training:
    small boxes are all you need", ICLR 2023): less is asked of the network than by ``Ibp``, and it stays more accurate.

    Args:
        part: the radius of the small box, in radii of the learned one.
        steps: of the search for the example.
    """

    part: float = 0.4
    steps: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self.part, "part")
        positive(self.part, "part")
        count(self.steps, "steps")

    @property
    def name(self) -> str:
        return f"sabr-{self.part:g}"

    @property
    def gradients(self) -> int:
        return self.steps

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        return Pgd(steps=self.steps).attacked(learner.under(self.learned(learner)), batch)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        graph, _ = _settled(learner, batch)
        spans = intervals(graph, small_box(self.region(learner, batch), attacked.x, self.part))
        worst = -margin_bounds(graph, spans, batch.y)
        return Taught(_loss(worst, batch) + self.penalty(learner, graph, spans), worst.detach())


@dataclass(frozen=True)
class MtlIbp(_Bounded):
    """The loss of attacked examples and that of intervals, weighed (De Palma et al., "Expressive losses for verified
    robustness via convex combinations", ICLR 2024, section 4.3).

    Args:
        bound: the weight of the intervals' loss.
        steps: of the search for examples.
        attack_reach: how far the search goes, in radii of the learned one.
    """

    bound: float = 0.01
    steps: int = 8
    attack_reach: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self.bound, "bound")
        count(self.steps, "steps")
        positive(self.attack_reach, "attack_reach")

    @property
    def name(self) -> str:
        return f"mtl_ibp-{self.bound:g}"

    @property
    def gradients(self) -> int:
        return self.steps

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        return Pgd(steps=self.steps).attacked(learner.under(self.learned(learner, self.attack_reach)), batch)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        region = self.region(learner, batch)
        graph, _ = _settled(learner, batch)
        spans = intervals(graph, Interval(region.low, region.high))
        worst = -margin_bounds(graph, spans, batch.y)
        found = learner.model.module_scores(graph(attacked.x))
        loss = (1 - self.bound) * _loss(found, batch) + self.bound * _loss(worst, batch)
        return Taught(loss + self.penalty(learner, graph, spans), worst.detach())


def grown(done: float) -> float:
    """The share of the budget after the share ``done`` of its growth: next to nothing while the network first learns to
    tell classes apart, then straight up. Under a budget from the first update, weights shrink to 0 and stay there.

    >>> [round(grown(done), 3) for done in (0.0, 0.1, 0.25, 0.5, 1.0)]
    [0.0, 0.002, 0.077, 0.385, 1.0]
    """
    steep = 1 / (_BEND**3 * (4 - 3 * _BEND))
    return steep * (done**4 if done < _BEND else _BEND**3 * (4 * done - 3 * _BEND))


def small_box(region: LinfRegion, x: Tensor, part: float) -> Interval:
    """The box of ``part`` of the region's radius around the point nearest to ``x`` at which it lies in the region."""
    radius = part * region.eps
    low, high = region.x - (1 - part) * region.eps, region.x + (1 - part) * region.eps
    centre = torch.maximum(torch.minimum(x, high), low)
    return Interval(torch.maximum(centre - radius, region.low), torch.minimum(centre + radius, region.high))


def _settled(learner: Learner, batch: Batch, wanted: bool = False) -> tuple[Graph, Tensor | None]:
    """The network by the statistics of the clean batch; and its clean scores, where they are ``wanted``."""
    graph = learner.graph(batch.x)
    if graph.is_settled and not wanted:
        return graph, None
    settled, output = graph.settled(batch.x)
    return settled, learner.model.module_scores(output)


def _loss(scores: Tensor, batch: Batch) -> Tensor:
    return soft_cross_entropy(scores, batch.targets).mean()
