"""Examples that grow over the epochs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hardpoint.core.rows import per_row
from hardpoint.engine.ascent import slope_at
from hardpoint.harden.learner import Batch, Learner, soft_cross_entropy
from hardpoint.harden.recipes._checks import count, positive
from hardpoint.harden.recipes.recipe import Attacked, Taught
from hardpoint.harden.recipes.single_step import cross_entropy_on


@dataclass(frozen=True)
class Atta:
    """Each input's example is kept, and the next epoch goes on from it: a step per epoch amounts to many (Zheng et al.,
    "Efficient adversarial training with transferable adversarial examples", CVPR 2020, algorithm 2).

    The examples take two bytes per number of the training data.

    Args:
        steps: gradient steps per epoch.
        length: of each, in radii of the budget.
        renew: epochs after which examples begin anew at random; None for never.
    """

    steps: int = 1
    length: float = 0.5
    renew: int | None = None

    def __post_init__(self) -> None:
        count(self.steps, "steps")
        positive(self.length, "length")
        if self.renew is not None:
            count(self.renew, "renew")

    @property
    def name(self) -> str:
        return f"atta-{self.steps}"

    @property
    def gradients(self) -> int:
        return self.steps

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        region = learner.region(batch)
        if batch.offset is None:
            z = region.sample(batch.rng.fork("start"), batch.index)
        else:
            z = region.project(batch.x + batch.offset)
        length, slope = per_row(region.reach * self.length, z).to(z.dtype), None
        with learner.searched() as scores:

            def loss(point: Tensor) -> Tensor:
                return soft_cross_entropy(scores(point), batch.targets)

            for _ in range(self.steps):
                slope = slope_at(loss, z)
                z = region.project(z + length * region.ascent(slope, z))
        return Attacked(z, slope)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        return cross_entropy_on(learner, batch, attacked)
