"""A small gradient of the loss to the input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hardpoint.harden.learner import Batch, Learner
from hardpoint.harden.penalties.penalty import loss_and_slope
from hardpoint.harden.recipes._checks import positive
from hardpoint.harden.recipes.recipe import Attacked


@dataclass(frozen=True)
class InputGradient:
    """The squared length of the gradient of the loss at the clean input (Drucker and LeCun, "Improving generalization
    performance using double backpropagation", IEEE Transactions on Neural Networks 1992; Ross and Doshi-Velez,
    "Improving the adversarial robustness and interpretability of deep neural networks by regularizing their input
    gradients", AAAI 2018, equation 4).

    Args:
        weight: of the penalty.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        positive(self.weight, "weight")

    @property
    def name(self) -> str:
        return "input_gradient"

    @property
    def gradients(self) -> int:
        return 1

    def penalty(self, learner: Learner, batch: Batch, attacked: Attacked) -> Tensor:
        _, slope = loss_and_slope(learner, batch, batch.x)
        return self.weight * slope.flatten(1).square().sum(1).mean()
