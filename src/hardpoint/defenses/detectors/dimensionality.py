"""How many directions benign inputs spread in, seen from an input's features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.rng import Rng
from hardpoint.defenses.detectors._neighbours import distances_to, nearest
from hardpoint.defenses.detectors._parts import checked_labels, enough, features_of, fit_features
from hardpoint.defenses.seen import Seen


@dataclass(frozen=True, eq=False)
class LocalDimensionality:
    """The local intrinsic dimensionality of the features, by maximum likelihood from the distances to the k nearest of
    a benign reference batch: ``-1 / mean_i log(r_i / r_k)`` (Ma et al., ICLR 2018).

    Known to fall to an attacker who knows it (Athalye, Carlini and Wagner, ICML 2018): a signal, not a defence.

    Attributes:
        layer: whose features it reads.
        references: ``[B, d]``.
        k: how many neighbours.
        exclude_self: whether the inputs scored are among the references, so that the nearest, itself, does not count.
    """

    layer: str
    references: Tensor
    k: int
    exclude_self: bool = False

    def __post_init__(self) -> None:
        enough(self.k + self.exclude_self, len(self.references), "references")
        enough(2, self.k, "neighbours asked for")

    @classmethod
    def fit(
        cls, seen: Seen, y: Tensor, layer: str, k: int = 20, *, references: int = 1000, seed: int = 0
    ) -> LocalDimensionality:
        """From benign inputs, of which at most ``references`` drawn by ``seed`` are kept; the labels are not used.

        >>> f = torch.linspace(0, 1, 1001).unsqueeze(1)
        >>> detector = LocalDimensionality.fit(Seen(f, f.expand(-1, 2), {"f": f}), torch.zeros(1001, dtype=int), "f")
        >>> middle = torch.tensor([[0.50001]])
        >>> round(float(detector.score(Seen(middle, middle, {"f": middle}))))
        1
        """
        checked_labels(seen, y)
        features = fit_features(seen, [layer]).to(features_of(seen, layer).dtype)
        order = (
            Rng(seed).fork("references").uniform(torch.arange(len(features)), dtype=torch.float64).argsort()
        )
        return cls(layer, features[order[:references].sort().values.to(features.device)], k)

    @property
    def name(self) -> str:
        return f"local dimensionality at {self.layer}"

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.layer,)

    def score(self, seen: Seen) -> Tensor:
        rows = features_of(seen, self.layer)
        which = nearest(rows, self.references, self.k + self.exclude_self)[:, self.exclude_self :]
        radii = distances_to(rows, self.references, which)
        # An input that equals a reference has a radius of 0, and k that are equally far a mean logarithm of 0.
        logs = radii.clamp_min(torch.finfo(rows.dtype).tiny).log()
        spread = (logs.amax(1, keepdim=True) - logs).mean(1)
        return 1.0 / spread.clamp_min(torch.finfo(rows.dtype).eps)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "local-dimensionality",
            "layer": self.layer,
            "k": self.k,
            "n": len(self.references),
            "exclude_self": self.exclude_self,
        }
