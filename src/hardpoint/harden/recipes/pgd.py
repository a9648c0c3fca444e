"""Adversarial training with several gradient steps."""

from __future__ import annotations

from dataclasses import dataclass

from hardpoint.engine.ascent import ascend
from hardpoint.harden.learner import Batch, Learner, soft_cross_entropy
from hardpoint.harden.recipes._checks import count, positive
from hardpoint.harden.recipes.recipe import Attacked, Taught
from hardpoint.harden.recipes.single_step import cross_entropy_on


@dataclass(frozen=True)
class Pgd:
    """Learning from projected gradient descent (Madry et al., "Towards deep learning models resistant to adversarial
    attacks", ICLR 2018), equation 2.1.

    Args:
        steps: gradient steps from a random start.
        length: of each, in radii of the budget; by default ``2.5 / steps``, at most 1.
    """

    steps: int = 10
    length: float | None = None

    def __post_init__(self) -> None:
        count(self.steps, "steps")
        if self.length is not None:
            positive(self.length, "length")

    @property
    def name(self) -> str:
        return f"pgd-{self.steps}"

    @property
    def gradients(self) -> int:
        return self.steps

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        region = learner.region(batch)
        with learner.searched() as scores:
            return Attacked(
                ascend(
                    lambda z: soft_cross_entropy(scores(z), batch.targets),
                    region,
                    region.sample(batch.rng.fork("start"), batch.index),
                    steps=self.steps,
                    length=self.length or min(1.0, 2.5 / self.steps),
                )
            )

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        return cross_entropy_on(learner, batch, attacked)
