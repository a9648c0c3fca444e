"""TRADES and MART: a clean loss, and a price for answering otherwise nearby."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from hardpoint.engine.ascent import ascend
from hardpoint.harden.learner import Batch, Learner, divergence, soft_cross_entropy
from hardpoint.harden.recipes._checks import at_least, count, positive
from hardpoint.harden.recipes.pgd import Pgd
from hardpoint.harden.recipes.recipe import Attacked, Taught

_NEAR = 0.001


@dataclass(frozen=True)
class Trades:
    """Clean cross-entropy, and ``beta`` times how far answers nearby diverge from the clean one (Zhang et al.,
    "Theoretically principled trade-off between robustness and accuracy", ICML 2019, equation 5).

    The clean answers that the search moves away from are computed once per batch, not at every step.

    Args:
        beta: the price; more is more robust and less accurate.
        steps: gradient steps of the search.
        length: of each, in radii of the budget.
    """

    beta: float = 6.0
    steps: int = 10
    length: float = 0.25

    def __post_init__(self) -> None:
        positive(self.beta, "beta")
        positive(self.length, "length")
        count(self.steps, "steps")

    @property
    def name(self) -> str:
        return f"trades-{self.steps}"

    @property
    def gradients(self) -> int:
        return self.steps

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        region = learner.region(batch)
        noise = batch.rng.fork("start").normal(batch.index, tuple(batch.x.shape[1:]), dtype=batch.x.dtype)
        with learner.searched() as scores:
            with torch.no_grad():
                clean = scores(batch.x)
            return Attacked(
                ascend(
                    lambda z: divergence(scores(z), clean),
                    region,
                    batch.x + _NEAR * noise,
                    steps=self.steps,
                    length=self.length,
                )
            )

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        clean, moved = learner.scores(batch.x), learner.scores(attacked.x)
        loss = soft_cross_entropy(clean, batch.targets) + self.beta * divergence(moved, clean)
        return Taught(loss.mean(), moved.detach())


@dataclass(frozen=True)
class Mart:
    """Boosted cross-entropy of attacked examples, and a divergence weighted by how wrong the clean answer is (Wang
    et al., "Improving adversarial robustness requires revisiting misclassified examples", ICLR 2020, equation 11).

    Args:
        weight: of the divergence.
        search: how examples are found.
    """

    weight: float = 5.0
    search: Pgd = field(default_factory=lambda: Pgd(steps=10, length=0.25))

    def __post_init__(self) -> None:
        at_least(0.0, self.weight, "weight")

    @property
    def name(self) -> str:
        return f"mart-{self.search.steps}"

    @property
    def gradients(self) -> int:
        return self.search.steps

    def attacked(self, learner: Learner, batch: Batch) -> Attacked:
        return self.search.attacked(learner, batch)

    def taught(self, learner: Learner, batch: Batch, attacked: Attacked) -> Taught:
        clean, moved = learner.scores(batch.x), learner.scores(attacked.x)
        wrong = 1 - (functional.softmax(clean, 1) * batch.targets).sum(1)
        loss = _boosted(moved, batch) + self.weight * divergence(moved, clean) * wrong
        return Taught(loss.mean(), moved.detach())


def _boosted(scores: Tensor, batch: Batch) -> Tensor:
    """``[b]``: cross-entropy, and the logarithm of one less the likeliest wrong class's share (equation 8)."""
    shares = functional.softmax(scores, 1)
    wrong = shares.masked_fill(functional.one_hot(batch.y, shares.shape[1]).bool(), 0.0).amax(1)
    return soft_cross_entropy(scores, batch.targets) - torch.log1p(-wrong + 1e-4)
