"""Whether what earlier layers would answer is what the model answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.defenses.detectors._fitting import minimise
from hardpoint.defenses.detectors._parts import checked_labels, features_of, fit_features, positive, scales
from hardpoint.defenses.seen import Seen


@dataclass(frozen=True, eq=False)
class LayerDisagreement:
    """The mean Jensen–Shannon divergence, in nats, between the model's class probabilities and those of a linear probe
    on each layer's features: in [0, log 2].

    A probe is a multinomial logistic regression on standardised features (Alain and Bengio, 2016). One matrix product
    per layer.

    Attributes:
        layers: whose features it reads.
        weights: ``[d + 1, K]`` per layer, the last row the bias, for features as they come.
    """

    layers: tuple[str, ...]
    weights: tuple[Tensor, ...]
    ridge: float

    @classmethod
    def fit(cls, seen: Seen, y: Tensor, layers: tuple[str, ...], ridge: float = 1e-3) -> LayerDisagreement:
        """From benign inputs with labels int64 ``[n]``.

        Args:
            seen: the inputs.
            y: their labels.
            layers: whose features to read, a probe each.
            ridge: the weight of the squared coefficients beside the mean log-loss.

        >>> f = torch.tensor([[-1.0], [1.0]]).repeat(20, 1)
        >>> seen = Seen(f, torch.cat([-9 * f, 9 * f], 1), {"f": f})
        >>> detector = LayerDisagreement.fit(seen, torch.arange(40) % 2, ("f",))
        >>> swapped = Seen(f, -seen.logits, seen.features)
        >>> bool(detector.score(seen).max() < 0.05 < 0.6 < detector.score(swapped).min())
        True
        """
        positive(ridge, "ridge")
        labels = checked_labels(seen, y)
        fit_features(seen, layers)
        weights = tuple(
            _probe(fit_features(seen, [layer]), labels, seen.logits.shape[1], ridge, layer).to(
                features_of(seen, layer).dtype
            )
            for layer in layers
        )
        return cls(tuple(layers), weights, ridge)

    @property
    def name(self) -> str:
        return f"layer disagreement at {', '.join(self.layers)}"

    def score(self, seen: Seen) -> Tensor:
        head = seen.logits.log_softmax(1)
        parts = []
        for layer, weight in zip(self.layers, self.weights, strict=True):
            w, features = weight.to(head), features_of(seen, layer).to(head)
            parts.append(jensen_shannon(head, (features @ w[:-1] + w[-1]).log_softmax(1)))
        return torch.stack(parts).mean(0)

    def describe(self) -> dict[str, Any]:
        return {"kind": "layer-disagreement", "layers": list(self.layers), "ridge": self.ridge}


def jensen_shannon(a: Tensor, b: Tensor) -> Tensor:
    """``[n]``, in nats, between distributions given by their logarithms ``[n, K]``."""
    middle = torch.logaddexp(a, b) - math.log(2.0)
    return 0.5 * ((a.exp() * (a - middle)).sum(1) + (b.exp() * (b - middle)).sum(1))


def _probe(features: Tensor, y: Tensor, classes: int, ridge: float, layer: str) -> Tensor:
    """``[d + 1, K]``: the logistic regression, from zeros by L-BFGS: the problem is convex, so nothing is drawn."""
    mean, scale = scales(features, layer)
    rows = torch.cat([(features - mean) / scale, features.new_ones(len(features), 1)], 1)
    weight = rows.new_zeros(rows.shape[1], classes).requires_grad_(True)

    def loss() -> Tensor:
        return torch.nn.functional.cross_entropy(rows @ weight, y) + ridge * weight[:-1].square().sum()

    minimise(loss, [weight], steps=200)
    fitted = weight.detach()
    slope = fitted[:-1] / scale.unsqueeze(1)
    return torch.cat([slope, (fitted[-1] - mean @ slope).unsqueeze(0)])
