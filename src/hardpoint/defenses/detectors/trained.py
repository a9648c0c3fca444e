"""A small network that was shown attacked inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.errors import DataError
from hardpoint.core.rng import Rng
from hardpoint.defenses.detectors._fitting import minimise
from hardpoint.defenses.detectors._parts import fit_features, joined, positive, scales
from hardpoint.defenses.seen import Seen


@dataclass(frozen=True, eq=False)
class TrainedDetector:
    """The log-odds that an input is attacked, by a network with one hidden layer on features of one or more layers.

    It knows only the attacks it was trained on: others, and one aimed at it, may pass as benign (Metzen, Genewein,
    Fischer and Bischoff, ICLR 2017; Carlini and Wagner, AISec 2017). Its score on those attacks says nothing more.

    Attributes:
        layers: whose features it reads, side by side.
        hidden: ``[d + 1, h]``, the last row the bias, for features as they come.
        output: ``[h + 1]``.
        n: how many benign and how many attacked inputs it was trained on.
    """

    layers: tuple[str, ...]
    hidden: Tensor
    output: Tensor
    n: tuple[int, int]

    @classmethod
    def fit(
        cls,
        seen: Seen,
        suspicious: Seen,
        layers: tuple[str, ...],
        *,
        width: int = 32,
        ridge: float = 1e-3,
        steps: int = 200,
        seed: int = 0,
    ) -> TrainedDetector:
        """From benign and attacked inputs, which weigh the same whatever their numbers.

        Args:
            seen: benign inputs.
            suspicious: attacked inputs.
            layers: whose features to read.
            width: hidden units.
            ridge: the weight of the squared coefficients beside the mean log-loss.
            steps: of L-BFGS, over all inputs each.
            seed: draws the first weights.

        >>> f = torch.linspace(-1, 1, 50).unsqueeze(1)
        >>> benign, attacked = (Seen(f + s, f.expand(-1, 2), {"f": f + s}) for s in (-2, 2))
        >>> detector = TrainedDetector.fit(benign, attacked, ("f",))
        >>> bool(detector.score(benign).max() < 0 < detector.score(attacked).min())
        True
        """
        positive(width, "width")
        positive(steps, "steps")
        positive(ridge, "ridge")
        layers = tuple(layers)
        benign, attacked = fit_features(seen, layers), fit_features(suspicious, layers)
        if benign.shape[1] != attacked.shape[1]:
            raise DataError(
                "benign and attacked inputs have features of different widths", "look at the same layers"
            )
        both = torch.cat([benign, attacked])
        mean, scale = scales(both, ", ".join(layers))
        target = torch.cat([benign.new_zeros(len(benign)), benign.new_ones(len(attacked))])
        share = torch.cat([benign.new_full((len(part),), 0.5 / len(part)) for part in (benign, attacked)])
        hidden, output = _trained((both - mean) / scale, target, share, width, ridge, steps, seed)
        slope = hidden[:-1] / scale.unsqueeze(1)
        folded = torch.cat([slope, (hidden[-1] - mean @ slope).unsqueeze(0)])
        dtype = seen.features[layers[0]].dtype
        return cls(layers, folded.to(dtype), output.to(dtype), (len(benign), len(attacked)))

    @property
    def name(self) -> str:
        return f"trained detector at {', '.join(self.layers)}"

    def score(self, seen: Seen) -> Tensor:
        features = joined(seen, self.layers)
        return _network(features, self.hidden.to(features), self.output.to(features))

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "trained",
            "layers": list(self.layers),
            "width": self.hidden.shape[1],
            "n_benign": self.n[0],
            "n_attacked": self.n[1],
        }


def _network(features: Tensor, hidden: Tensor, output: Tensor) -> Tensor:
    return torch.tanh(features @ hidden[:-1] + hidden[-1]) @ output[:-1] + output[-1]


def _trained(
    rows: Tensor, target: Tensor, share: Tensor, width: int, ridge: float, steps: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Weights of both layers, from draws of ``seed``, by L-BFGS on all rows at once."""
    draws = Rng(seed).fork("detector")
    d = rows.shape[1]
    first = draws.normal(torch.arange(d + 1), (width,), dtype=torch.float64).to(rows) / math.sqrt(d)
    last = draws.normal(torch.arange(d + 1, d + width + 2), (), dtype=torch.float64).to(rows) / math.sqrt(
        width
    )
    weights = [first.requires_grad_(True), last.requires_grad_(True)]

    def loss() -> Tensor:
        odds = _network(rows, *weights)
        wrong = torch.nn.functional.binary_cross_entropy_with_logits(
            odds, target, weight=share, reduction="sum"
        )
        return wrong + ridge * (weights[0][:-1].square().sum() + weights[1][:-1].square().sum())

    minimise(loss, weights, steps)
    return weights[0].detach(), weights[1].detach()
