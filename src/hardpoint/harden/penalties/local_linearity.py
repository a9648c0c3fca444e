"""A loss that is nearly linear within the budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.engine.ascent import ascend, slope_at
from hardpoint.harden.learner import Batch, Learner, soft_cross_entropy
from hardpoint.harden.penalties.penalty import answering, loss_and_slope
from hardpoint.harden.recipes._checks import at_least, count, positive
from hardpoint.harden.recipes.recipe import Attacked


@dataclass(frozen=True)
class LocalLinearity:
    """How far the loss is from its tangent where that is farthest within the budget, and how far the tangent climbs on
    the way there (Qin et al., "Adversarial robustness through local linearization", NeurIPS 2019, equation 8).

    The paper adds it to ordinary training: ``Regularised(Plain(), (LocalLinearity(),))``.

    Args:
        weight: of the distance from the tangent.
        slope_weight: of the tangent's climb.
        steps: gradient steps of the search for the farthest point.
        length: of each, in radii of the budget; by default ``2.5 / steps``, at most 1.
    """

    weight: float = 4.0
    slope_weight: float = 3.0
    steps: int = 2
    length: float | None = None

    def __post_init__(self) -> None:
        positive(self.weight, "weight")
        at_least(0.0, self.slope_weight, "slope_weight")
        count(self.steps, "steps")
        if self.length is not None:
            positive(self.length, "length")

    @property
    def name(self) -> str:
        return f"local_linearity-{self.steps}"

    @property
    def gradients(self) -> int:
        return self.steps + 2

    def penalty(self, learner: Learner, batch: Batch, attacked: Attacked) -> Tensor:
        far = self.farthest(learner, batch)
        here, slope = loss_and_slope(learner, batch, batch.x)
        with answering(learner) as scores:
            there = soft_cross_entropy(scores(far), batch.targets)
        climb = _along(slope, far - batch.x)
        return (self.weight * (there - here - climb).abs() + self.slope_weight * climb.abs()).mean()

    def farthest(self, learner: Learner, batch: Batch) -> Tensor:
        """``[b, ...]``: the allowed inputs at which the loss was found farthest from its tangent."""
        region = learner.region(batch)
        with learner.searched() as scores:

            def loss(z: Tensor) -> Tensor:
                return soft_cross_entropy(scores(z), batch.targets)

            slope = slope_at(loss, batch.x)
            with torch.no_grad():
                here = loss(batch.x)
            return ascend(
                lambda z: (loss(z) - here - _along(slope, z - batch.x)).abs(),
                region,
                region.sample(batch.rng.fork("local_linearity"), batch.index),
                steps=self.steps,
                length=self.length or min(1.0, 2.5 / self.steps),
            )


def _along(slope: Tensor, way: Tensor) -> Tensor:
    return (slope * way).flatten(1).sum(1)
