"""Free adversarial training: the gradient of each update moves the examples too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.core.rows import per_row
from hardpoint.harden.learner import Batch, Learner
from hardpoint.harden.recipes._checks import count
from hardpoint.harden.recipes.recipe import Attacked, Taught
from hardpoint.harden.recipes.single_step import cross_entropy_on


@dataclass(frozen=True)
class Free:
    """Each batch is learned from ``replays`` times, and each update's gradient to the input moves the examples of
    the next (Shafahi et al., "Adversarial training for free!", NeurIPS 2019, algorithm 1). The number of epochs is
    divided by ``replays``, so that as many updates are made.

    Args:
        replays: updates per batch.
    """

    replays: int = 4

    def __post_init__(self) -> None:
        count(self.replays, "replays")

    @property
    def name(self) -> str:
        return f"free-{self.replays}"

    @property
    def gradients(self) -> int:
        return 0

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        region = learner.region(batch)
        known = batch.offset is not None
        start = batch.x + batch.offset if known else region.sample(batch.rng.fork("start"), batch.index)  # type: ignore[operator]
        return Attacked(region.project(start))

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        return cross_entropy_on(learner, batch, attacked)

    def moved(self, learner: Learner, batch: Batch, attacked: Attacked, slope: Tensor) -> Tensor:
        region = learner.region(batch)
        step = per_row(region.reach, slope).to(slope.dtype)
        x = attacked.x.detach()
        return region.project(torch.addcmul(x, region.ascent(slope, x), step)) - batch.x
