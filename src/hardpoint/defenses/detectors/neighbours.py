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
from hardpoint.defenses.one import One
from hardpoint.defenses.seen import Seen

FEW = 8  # rows, looked for one by one


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
        if len(bank) >= WORTHWHILE:  # near ones then stand together in memory, where they are faster to reach
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
        return distances_to(rows, bank, self._kth(rows, bank))[:, 0]

    def score_one(self, one: One) -> float | None:
        row = one.features[self.layer]
        groups, length = self._groups, float(row @ row) ** 0.5
        if groups is None or row.dtype != groups.rows.dtype or not 1e-15 < length < 1e15:
            return None
        found = groups.kth(row / length, self._k)
        return None if found is None else found[1]

    def _kth(self, rows: Tensor, bank: Tensor) -> Tensor:
        """int64 ``[n, 1]``: which row of the bank is the k-th nearest to each."""
        if len(rows) <= FEW and rows.device.type == "cpu" and rows.dtype == self.bank.dtype and self._groups:
            found = [self._groups.kth(row, self._k) for row in rows.detach().numpy()]
            if all(found):
                return torch.tensor([[one[0]] for one in found if one])
        return nearest(rows, bank, self._k)[:, -1:]

    @property
    def _k(self) -> int:
        return self.k + self.exclude_self

    @cached_property
    def _groups(self) -> Groups | None:
        """Found at the first question of few rows; None where there is nothing to gain or numpy cannot look."""
        can = self.bank.device.type == "cpu" and self.bank.dtype in (torch.float32, torch.float64)
        return Groups.of(self.bank) if can and len(self.bank) >= WORTHWHILE else None

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "nearest-neighbours",
            "layer": self.layer,
            "k": self.k,
            "n": len(self.bank),
            "exclude_self": self.exclude_self,
        }
