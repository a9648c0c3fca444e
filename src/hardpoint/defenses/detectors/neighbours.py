"""Distance to the k-th nearest benign input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hardpoint.defenses.detectors._neighbours import distances_to, nearest, normalised
from hardpoint.defenses.detectors._parts import checked_labels, enough, features_of, fit_features
from hardpoint.defenses.seen import Seen


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    """The distance from an input's normalised features to the k-th nearest in a bank of benign ones, in [0, 2].

    Sun, Ming, Zhu and Li, ICML 2022. They take k = 50 with a bank of 50 000; scale k with the bank.

    Attributes:
        layer: whose features it reads.
        bank: ``[N, d]``, normalised.
        k: which neighbour.
        exclude_self: whether the inputs scored are in the bank, so that the nearest one, itself, does not count.
    """

    layer: str
    bank: Tensor
    k: int
    exclude_self: bool = False

    def __post_init__(self) -> None:
        enough(self.k + self.exclude_self, len(self.bank), "inputs in the bank")

    @classmethod
    def fit(cls, seen: Seen, y: Tensor, layer: str, k: int = 50) -> NearestNeighbours:
        """From benign inputs; the labels are checked and not used.

        >>> import torch
        >>> seen = Seen(torch.eye(3), torch.eye(3), {"f": torch.eye(3)})
        >>> NearestNeighbours.fit(seen, torch.arange(3), "f", k=2).score(seen)
        tensor([1.4142, 1.4142, 1.4142])
        """
        checked_labels(seen, y)
        return cls(layer, normalised(fit_features(seen, [layer])).to(features_of(seen, layer).dtype), k)

    @property
    def name(self) -> str:
        return f"nearest neighbours at {self.layer}"

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.layer,)

    def score(self, seen: Seen) -> Tensor:
        rows = normalised(features_of(seen, self.layer))
        kth = nearest(rows, self.bank, self.k + self.exclude_self)[:, -1:]
        return distances_to(rows, self.bank, kth)[:, 0]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "nearest-neighbours",
            "layer": self.layer,
            "k": self.k,
            "n": len(self.bank),
            "exclude_self": self.exclude_self,
        }
