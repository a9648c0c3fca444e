"""Distance to the k-th nearest benign input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hardpoint.defenses.detectors._groups import WORTHWHILE, Groups
from hardpoint.defenses.detectors._neighbours import distances_to, nearest, normalised
from hardpoint.defenses.detectors._parts import checked_labels, enough, features_of, fit_features
from hardpoint.defenses.seen import Seen


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    """The distance from an input's normalised features to the k-th nearest in a bank of benign ones, in [0, 2].

    Sun, Ming, Zhu and Li, ICML 2022. They take k = 50 with a bank of 50 000; scale k with the bank. The neighbours are
    exact; of a large bank only the part near an input is looked at, where its features are like the bank's.

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
        bank = normalised(fit_features(seen, [layer])).to(features_of(seen, layer).dtype)
        if (
            len(bank) >= WORTHWHILE
        ):  # near ones stand together in memory, which is much of what a search costs
            bank = bank[Groups.of(bank).order]
        return cls(layer, bank, k)

    @property
    def name(self) -> str:
        return f"nearest neighbours at {self.layer}"

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.layer,)

    def score(self, seen: Seen) -> Tensor:
        rows = normalised(features_of(seen, self.layer))
        bank = self.bank.to(rows)
        k = self.k + self.exclude_self
        kth = nearest(rows, bank, k, self._groups if self._can_group(rows) else None)[:, -1:]
        return distances_to(rows, bank, kth)[:, 0]

    def _can_group(self, rows: Tensor) -> bool:
        return (
            len(self.bank) >= WORTHWHILE
            and rows.device == self.bank.device == torch.device("cpu")
            and (rows.dtype == self.bank.dtype in (torch.float32, torch.float64))
        )

    @cached_property
    def _groups(self) -> Groups:
        """Found at the first question of few rows."""
        return Groups.of(self.bank)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "nearest-neighbours",
            "layer": self.layer,
            "k": self.k,
            "n": len(self.bank),
            "exclude_self": self.exclude_self,
        }
