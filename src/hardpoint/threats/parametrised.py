"""Perturbations that a few numbers describe: a turn of the colour wheel, a displacement of every pixel."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hardpoint.core.rng import Rng
from hardpoint.threats.perturbation import Region


@runtime_checkable
class ParametrisedRegion(Region, Protocol):
    """A region that is the image of a cube of parameters under a differentiable map.

    Parameters are counted so that -1 to 1 is all that is allowed and 0 leaves the input as it is. Attacks on the
    parameters need nothing else: the model's gradient at ``apply(parameters)`` pulls back through ``apply``.
    """

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of one input's parameters."""
        ...

    def apply(self, parameters: Tensor) -> Tensor:
        """The inputs ``[n, ...]`` that the ``parameters`` ``[n, *parameter_shape]``, float64 in [-1, 1], lead to.

        Inside the box, in the dtype of the originals, differentiable almost everywhere.
        """
        ...

    def fit(self, z: Tensor) -> Tensor:
        """Allowed parameters whose image is near ``z``, ``[n, *parameter_shape]``."""
        ...


def drawn_parameters(region: ParametrisedRegion, rng: Rng, index: Tensor, counter: int | Tensor) -> Tensor:
    """Uniform allowed parameters of each input, float64."""
    return 2 * rng.uniform(index, region.parameter_shape, counter, torch.float64) - 1
