"""Adversarial training with one gradient step: FGSM from a random start, and with noise beyond the budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.core.rows import per_row
from hardpoint.engine.ascent import Relaxable, slope_at
from hardpoint.harden.learner import Batch, Learner, soft_cross_entropy
from hardpoint.harden.recipes._checks import at_least, positive
from hardpoint.harden.recipes.recipe import Attacked, Taught
from hardpoint.threats.perturbation import Region


@dataclass(frozen=True)
class FgsmRs:
    """One step from a random allowed start (Wong, Rice and Kolter, "Fast is better than free", ICLR 2020).

    Args:
        length: of the step, in radii of the budget.
    """

    length: float = 1.25

    def __post_init__(self) -> None:
        positive(self.length, "length")

    @property
    def name(self) -> str:
        return "fgsm_rs"

    @property
    def gradients(self) -> int:
        return 1

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        region = learner.region(batch)
        start = region.sample(batch.rng.fork("start"), batch.index)
        slope = _slope(learner, batch, start)
        return Attacked(region.project(_stepped(region, start, slope, self.length)), slope)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        return cross_entropy_on(learner, batch, attacked)


@dataclass(frozen=True)
class NFgsm:
    """One step from noise that reaches beyond the budget, and nothing clipped to it (de Jorge et al., "Make some
    noise: reliable and efficient single-step adversarial training", NeurIPS 2022). Rows of a table are repaired, which
    does clip.

    Args:
        noise: the reach of the noise, in radii of the budget.
        length: of the step, in radii of the budget.
    """

    noise: float = 2.0
    length: float = 1.0

    def __post_init__(self) -> None:
        at_least(0.0, self.noise, "noise")
        positive(self.length, "length")

    @property
    def name(self) -> str:
        return "n_fgsm"

    @property
    def gradients(self) -> int:
        return 1

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        region = learner.region(batch)
        wide = learner.region(batch, learner.perturbation.scaled(self.noise)) if self.noise > 0 else None
        start = batch.x if wide is None else wide.sample(batch.rng.fork("start"), batch.index)
        slope = _slope(learner, batch, start)
        stepped = _stepped(region, start, slope, self.length)
        is_table = isinstance(region, Relaxable)  # what lies outside is no row at all
        return Attacked(region.project(stepped) if is_table else learner.model.box.clamp(stepped), slope)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        return cross_entropy_on(learner, batch, attacked)


def cross_entropy_on(learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
    """The cross-entropy of the attacked examples."""
    scores = learner.scores(attacked.x)
    return Taught(soft_cross_entropy(scores, batch.targets).mean(), scores.detach())


def _slope(learner: Learner, batch: Batch, at: Tensor) -> Tensor:
    with learner.searched() as scores:
        return slope_at(lambda z: soft_cross_entropy(scores(z), batch.targets), at)


def _stepped(region: Region, start: Tensor, slope: Tensor, length: float) -> Tensor:
    step = per_row(region.reach * length, start).to(start.dtype)
    return torch.addcmul(start, region.ascent(slope, start), step)
