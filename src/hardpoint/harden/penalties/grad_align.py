"""Gradients that point the same way nearby, so that single steps go on working."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hardpoint.core.rows import per_row
from hardpoint.harden.learner import Batch, Learner
from hardpoint.harden.penalties.penalty import loss_and_slope
from hardpoint.harden.recipes._checks import positive
from hardpoint.harden.recipes.recipe import Attacked

_TINY = 1e-30


@dataclass(frozen=True)
class GradAlign:
    """One less the cosine between the gradients of the loss at the clean input and at a random allowed one
    (Andriushchenko and Flammarion, "Understanding and improving fast adversarial training", NeurIPS 2020, equation 4).

    It keeps single steps from failing all at once, at several times their price; the watch over single steps notices
    the same and costs a twentieth. Inputs without a gradient count nothing.

    Args:
        weight: of the penalty.
    """

    weight: float = 0.2

    def __post_init__(self) -> None:
        positive(self.weight, "weight")

    @property
    def name(self) -> str:
        return "grad_align"

    @property
    def gradients(self) -> int:
        return 2

    def penalty(self, learner: Learner, batch: Batch, attacked: Attacked) -> Tensor:
        nearby = learner.region(batch).sample(batch.rng.fork("grad_align"), batch.index)
        _, here = loss_and_slope(learner, batch, batch.x)
        _, there = loss_and_slope(learner, batch, nearby)
        return self.weight * turned(here, there).mean()


def turned(first: Tensor, second: Tensor) -> Tensor:
    """``[b]``: one less the cosine of the angle between ``first`` and ``second`` ``[b, ...]``; 0 where one is 0.

    >>> import torch
    >>> turned(torch.tensor([[1e-25, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 3.0], [0.0, 0.0]]))
    tensor([1., 0.])
    """
    first, second = _scaled(first), _scaled(second)
    squares = first.square().sum(1) * second.square().sum(1)
    there = squares > 0
    cosine = (first * second).sum(1) * squares.where(there, squares.new_ones(())).rsqrt()
    return (1 - cosine).where(there, 0.0)


def _scaled(slope: Tensor) -> Tensor:
    """``[b, d]``: with a largest number of 1, as the squares of very short gradients are 0."""
    largest = slope.detach().flatten(1).abs().amax(1).clamp_min(_TINY)
    return (slope / per_row(largest, slope)).flatten(1)
