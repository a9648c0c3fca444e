"""Numbers as their ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.defenses.fingerprint import fingerprint
from hardpoint.defenses.stage import GradientPath
from hardpoint.defenses.transforms._shared import (
    as_vectors,
    fit_data,
    of_shape,
    soft_step_slope,
    whole_number,
)


@dataclass(frozen=True, eq=False)
class QuantileEncoding:
    """Each feature becomes its rank among the training data, in ``levels`` equal steps from 0 to 1.

    In the spirit of the one-hot encoding of Buckman, Roy, Raffel, Goodfellow, "Thermometer encoding" (ICLR 2018), whose
    steps lie evenly in the values; here they lie evenly in the training data, for features on uneven scales. Takes
    tables ``[n, d]``, gives ``[n, d]``. The model must have been trained so. Gradients cross it with the slope of the
    smoothed rank, where each step is a logistic curve about as wide as the distance to the next steps.

    Attributes:
        steps: ``[d, levels - 1]``, rising: where each feature's rank goes up.
        widths: likewise, of the smoothed steps.

    >>> rank = QuantileEncoding.fit(torch.tensor([[1.0], [2.0], [3.0], [1000.0]]), levels=4)
    >>> rank.apply(torch.tensor([[2.5], [900.0], [5000.0]])).flatten()
    tensor([0.3333, 0.6667, 1.0000])
    """

    gradient: ClassVar[GradientPath] = GradientPath.OWN
    is_random: ClassVar[bool] = False

    steps: Tensor
    widths: Tensor

    @classmethod
    def fit(cls, x: Tensor, levels: int = 10) -> QuantileEncoding:
        """From training rows ``x`` ``[n, d]``, at least two.

        Raises:
            ConfigError: for fewer than two ``levels``.
            DataError: where the rows are no table or not finite.
        """
        whole_number("QuantileEncoding", "levels", levels, 2)
        as_vectors("QuantileEncoding", x)
        ordered = fit_data("QuantileEncoding", x).sort(0).values.T  # [d, n]
        n = len(x)
        places = [-(-k * n // levels) for k in range(1, levels)]  # rounded up
        steps = ordered[:, places].contiguous()
        ends = torch.cat([ordered[:, :1], steps, ordered[:, -1:]], dim=1)
        widths = (ends[:, 2:] - ends[:, :-2]) / 2
        # ties leave no distance to the next step: then as wide as the others are on average, 1 for constants
        usual = widths.mean(1, keepdim=True)
        usual = torch.where(usual > 0, usual, 1.0)
        return cls(steps, torch.where(widths > 0, widths, usual))

    @property
    def levels(self) -> int:
        return self.steps.shape[1] + 1

    def apply(self, x: Tensor) -> Tensor:
        of_shape("QuantileEncoding", x, (len(self.steps),))
        rank = (x.detach().unsqueeze(2) >= self.steps.to(x)).sum(2).to(x.dtype) / (self.levels - 1)
        return torch.where(x.isnan(), x.detach(), rank)

    def backward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """That of the smoothed rank, given the one with respect to ``apply(x)``."""
        slopes = soft_step_slope(x.unsqueeze(2), self.steps.to(x), self.widths.to(x))
        return gradient * slopes.mean(2)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "QuantileEncoding",
            "levels": self.levels,
            "of": len(self.steps),
            "fitted": fingerprint(self.steps, self.widths),
        }
