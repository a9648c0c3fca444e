"""Distance to the nearest class in a layer's features, measured by how features vary within classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.core.errors import DataError
from hardpoint.defenses.detectors._parts import (
    checked_labels,
    distances,
    features_of,
    fit_features,
    present_classes,
)
from hardpoint.defenses.one import One
from hardpoint.defenses.seen import Seen


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """The smallest squared Mahalanobis distance to a class mean, with one covariance for all classes.

    Lee, Lee, Lee and Shin, NeurIPS 2018, equation 2, without the step against the gradient and the weights that are
    trained on attacked inputs. Relative: less the distance to the mean of all inputs under their own covariance, which
    takes out what is unusual for every class (Ren et al., 2021).

    Attributes:
        layer: whose features it reads.
        means: ``[C, d]``, of the classes that were present.
        factor: ``[d, d]``, lower Cholesky factor of the covariance within classes.
        shrinkage: how much of the covariance is the identity's (Ledoit and Wolf).
        overall: ``[d]`` and ``[d, d]``, mean and factor of all inputs' covariance; None if not relative.
        n: how many inputs it was fitted on.
    """

    layer: str
    means: Tensor
    factor: Tensor
    shrinkage: float
    overall: tuple[Tensor, Tensor] | None
    n: int

    @classmethod
    def fit(cls, seen: Seen, y: Tensor, layer: str, relative: bool = False) -> Mahalanobis:
        """From benign inputs with labels int64 ``[n]``.

        >>> f = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        >>> seen = Seen(f, f[:, :2], {"f": f})
        >>> detector = Mahalanobis.fit(seen, torch.zeros(500, dtype=torch.int64), "f")
        >>> abs(float(detector.score(seen).mean()) - 4.0) < 0.2  # chi-squared with as many degrees as units
        True
        """
        features = fit_features(seen, [layer])
        labels = checked_labels(seen, y).to(features.device)
        present, member = present_classes(labels)
        means = torch.stack([features[member == c].mean(0) for c in range(len(present))])
        covariance, shrinkage = ledoit_wolf(features - means[member])
        factor = _factor(covariance, layer)
        overall = None
        if relative:
            mean = features.mean(0)
            whole = _factor(ledoit_wolf(features - mean)[0], layer)
            overall = (mean.to(seen.logits.dtype), whole.to(seen.logits.dtype))
        dtype = features_of(seen, layer).dtype
        return cls(layer, means.to(dtype), factor.to(dtype), shrinkage, overall, len(features))

    @property
    def name(self) -> str:
        return f"{'relative ' if self.overall else ''}Mahalanobis at {self.layer}"

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.layer,)

    def score(self, seen: Seen) -> Tensor:
        features = features_of(seen, self.layer)
        inverse, means, whole = (part.to(features) for part in self._white)
        nearest = distances(features @ inverse.T, means).square().amin(1)
        if self.overall is None:
            return nearest
        return nearest - ((features - self.overall[0].to(features)) @ whole.T).square().sum(1)

    def score_one(self, one: One) -> float:
        row = one.features[self.layer]
        inverse, means, whole, mean = self._arrays
        apart = means - inverse @ row
        nearest = float((apart * apart).sum(1).min())
        if self.overall is None:
            return nearest
        apart = whole @ (row - mean)
        return nearest - float(apart @ apart)

    @cached_property
    def _white(self) -> tuple[Tensor, Tensor, Tensor]:
        """The factor's inverse, the means behind it, and the inverse of the factor of all: products with them round no
        worse than solving, and take less time."""
        inverse, means = _inverse(self.factor), self.means
        whole = inverse if self.overall is None else _inverse(self.overall[1])
        return inverse.to(means), (means.double() @ inverse.T).to(means), whole.to(means)

    @cached_property
    def _arrays(self) -> tuple[NDArray[Any], ...]:
        mean = self.means[0] if self.overall is None else self.overall[0]
        return tuple(part.cpu().numpy() for part in (*self._white, mean))

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "mahalanobis",
            "layer": self.layer,
            "relative": self.overall is not None,
            "classes": len(self.means),
            "shrinkage": self.shrinkage,
            "n": self.n,
        }


def _inverse(factor: Tensor) -> Tensor:
    """float64, of a lower triangle."""
    whole = torch.eye(len(factor), dtype=torch.float64, device=factor.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor.double(), whole, upper=False)
    return inverse


def ledoit_wolf(centred: Tensor) -> tuple[Tensor, float]:
    """The covariance of centred rows ``[n, d]``, shrunk towards the multiple of the identity with the same trace by
    the amount, in [0, 1], that minimises the expected squared error, and that amount (Ledoit and Wolf, Journal of
    Multivariate Analysis 2004).

    >>> covariance, amount = ledoit_wolf(torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64))
    >>> covariance.tolist(), amount
    ([[1.0, 0.0], [0.0, 0.0]], 0.0)
    """
    n, d = centred.shape
    sample = centred.T @ centred / n
    size = sample.trace() / d
    target = size * torch.eye(d, dtype=centred.dtype, device=centred.device)
    apart = (sample - target).square().sum()
    noise = (centred.square().sum(1).square().sum() / n - sample.square().sum()) / n
    amount = float(torch.minimum(noise, apart) / apart) if float(apart) > 0 and float(noise) > 0 else 0.0
    return amount * target + (1.0 - amount) * sample, amount


def _factor(covariance: Tensor, layer: str) -> Tensor:
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed):
        raise DataError(
            f"the features of layer {layer!r} do not vary within classes in every direction",
            "give more inputs to fit on, or name another layer",
        )
    return factor
