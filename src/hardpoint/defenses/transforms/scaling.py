"""Features on one scale. No defence by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.defenses.fingerprint import fingerprint
from hardpoint.defenses.stage import GradientPath
from hardpoint.defenses.transforms._shared import (
    fit_data,
    floats,
    mean_and_deviation,
    of_shape,
    varying_axes,
)


@dataclass(frozen=True, eq=False)
class Standardise:
    """Subtracts the training data's mean and divides by its standard deviation.

    Per feature of tables ``[n, d]``, per channel of images ``[n, channels, height, width]`` (of ``[n, height, width]``
    there is one). What never varied is only shifted. Scaling is no defence by itself: the attacker's gradient follows
    it. It is here since models need it, and an attacker's budget counts before it.

    Attributes:
        mean: broadcasts against one input, as ``scale`` does.
        scale: the standard deviation, 1 where it would be 0.

    >>> ages = torch.tensor([[20.0], [40.0]])
    >>> Standardise.fit(ages).apply(torch.tensor([[50.0]]))
    tensor([[2.]])
    """

    gradient: ClassVar[GradientPath] = GradientPath.DIFFERENTIABLE
    is_random: ClassVar[bool] = False

    mean: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, x: Tensor) -> Standardise:
        """From training inputs ``x``, at least two; ``DataError`` where they are not finite."""
        return cls(*mean_and_deviation(fit_data("Standardise", x)))

    def apply(self, x: Tensor) -> Tensor:
        _check("Standardise", x, self.mean)
        return (x - self.mean.to(x)) / self.scale.to(x)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "Standardise",
            "of": self.mean.numel(),
            "fitted": fingerprint(self.mean, self.scale),
        }


@dataclass(frozen=True, eq=False)
class MinMaxScaling:
    """Maps the training data's lowest value to 0 and its highest to 1.

    Per feature of tables, per channel of images, as ``Standardise`` does. Later inputs may fall outside 0 to 1. No
    defence by itself.

    Attributes:
        low: broadcasts against one input, as ``scale`` does.
        scale: highest minus lowest, 1 where that would be 0.

    >>> MinMaxScaling.fit(torch.tensor([[20.0], [40.0]])).apply(torch.tensor([[25.0]]))
    tensor([[0.2500]])
    """

    gradient: ClassVar[GradientPath] = GradientPath.DIFFERENTIABLE
    is_random: ClassVar[bool] = False

    low: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, x: Tensor) -> MinMaxScaling:
        """From training inputs ``x``, at least two; ``DataError`` where they are not finite."""
        axes = varying_axes(fit_data("MinMaxScaling", x))
        low, high = x.detach().amin(axes, keepdim=True)[0], x.detach().amax(axes, keepdim=True)[0]
        return cls(low, torch.where(high > low, high - low, 1.0))

    def apply(self, x: Tensor) -> Tensor:
        _check("MinMaxScaling", x, self.low)
        return (x - self.low.to(x)) / self.scale.to(x)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "MinMaxScaling",
            "of": self.low.numel(),
            "fitted": fingerprint(self.low, self.scale),
        }


def _check(kind: str, x: Tensor, like: Tensor) -> None:
    """Images may be of another size than the fitted ones, channels and features must be as many."""
    floats(kind, x)
    without_channels = like.dim() == 2
    if x.dim() != like.dim() + 1 or not (without_channels or len(like) == x.shape[1]):
        of_shape(kind, x, tuple(like.shape))
