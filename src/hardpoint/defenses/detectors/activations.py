"""Units that fire as they never did on benign inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.defenses.detectors._parts import checked_labels, features_of, fit_features, positive, scales
from hardpoint.defenses.seen import Seen


@dataclass(frozen=True, eq=False)
class ActivationAnomaly:
    """How far units are outside the range they had on benign inputs, in standard deviations, averaged over units.

    The edges are soft, ``softplus(sharpness * excess) / sharpness``, so that inputs inside differ too and a gradient
    leads back in.

    Attributes:
        layer: whose features it reads.
        low, high: ``[d]``, the range on the inputs it was fitted on.
        scale: ``[d]``, the standard deviation there.
        sharpness: how hard the edges are.
    """

    layer: str
    low: Tensor
    high: Tensor
    scale: Tensor
    sharpness: float
    n: int

    @classmethod
    def fit(cls, seen: Seen, y: Tensor, layer: str, sharpness: float = 4.0) -> ActivationAnomaly:
        """From benign inputs; the labels are checked and not used.

        >>> f = torch.tensor([[-1.0], [1.0]])
        >>> detector = ActivationAnomaly.fit(Seen(f, f.expand(-1, 2), {"f": f}), torch.tensor([0, 1]), "f")
        >>> far = torch.tensor([[0.0], [14.0]])
        >>> detector.score(Seen(far, far, {"f": far}))
        tensor([0.0287, 9.1924])
        """
        positive(sharpness, "sharpness")
        checked_labels(seen, y)
        features = fit_features(seen, [layer])
        _, scale = scales(features, layer)
        dtype = features_of(seen, layer).dtype
        low, high = features.amin(0).to(dtype), features.amax(0).to(dtype)
        return cls(layer, low, high, scale.to(dtype), sharpness, len(features))

    @property
    def name(self) -> str:
        return f"activation anomaly at {self.layer}"

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.layer,)

    def score(self, seen: Seen) -> Tensor:
        features = features_of(seen, self.layer)
        low, high, scale = (part.to(features) for part in (self.low, self.high, self.scale))
        outside = torch.stack([low - features, features - high]) / scale
        return torch.nn.functional.softplus(outside, beta=self.sharpness, threshold=40.0).sum(0).mean(1)

    def describe(self) -> dict[str, Any]:
        return {"kind": "activation-anomaly", "layer": self.layer, "sharpness": self.sharpness, "n": self.n}
