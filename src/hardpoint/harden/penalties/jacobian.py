"""A small Jacobian of the scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.harden.learner import Batch, Learner
from hardpoint.harden.penalties.penalty import answering, gradient_of
from hardpoint.harden.recipes._checks import count, positive
from hardpoint.harden.recipes.recipe import Attacked


@dataclass(frozen=True)
class Jacobian:
    """Half the squared Frobenius norm of the Jacobian of the scores at the clean input, along random directions
    (Hoffman, Roberts and Yaida, "Robust learning with Jacobian regularization", 2019, equations 5 and 8).

    The directions of one input are drawn at right angles, which the paper does not do: the mean is the same, the spread
    smaller, and with as many directions as classes nothing is left to chance.

    Args:
        weight: of the penalty.
        projections: directions per input, each for one gradient; more than there are classes count as that many.
    """

    weight: float = 0.01
    projections: int = 1

    def __post_init__(self) -> None:
        positive(self.weight, "weight")
        count(self.projections, "projections")

    @property
    def name(self) -> str:
        return "jacobian"

    @property
    def gradients(self) -> int:
        return self.projections

    def penalty(self, learner: Learner, batch: Batch, attacked: Attacked) -> Tensor:
        point = batch.x.detach().requires_grad_(True)
        with answering(learner) as answer:
            scores = answer(point)
        classes = scores.shape[1]
        number = min(self.projections, classes)
        draws = batch.rng.fork("jacobian").normal(batch.index, (classes, number), dtype=torch.float64)
        directions = torch.linalg.qr(draws).Q.to(scores.dtype)
        total = scores.new_zeros(())
        for turn in range(number):
            slope = gradient_of((scores * directions[:, :, turn]).sum(), point)
            total = total + slope.flatten(1).square().sum(1).mean()
        return 0.5 * self.weight * classes / number * total
