"""Whether the layers' neighbourhoods agree on a class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hardpoint.core.errors import ConfigError
from hardpoint.core.rng import Rng, split_rows
from hardpoint.defenses.detectors._neighbours import nearest, normalised
from hardpoint.defenses.detectors._parts import (
    checked_labels,
    enough,
    features_of,
    fit_features,
    present_classes,
)
from hardpoint.defenses.seen import Seen


@dataclass(frozen=True, eq=False)
class DeepNearestNeighbours:
    """One minus the credibility of deep k-nearest neighbours (Papernot and McDaniel, 2018, algorithm 1).

    In each layer the k nearest benign inputs vote; the nonconformity of a class is how many votes of all layers go to
    others; its p-value ranks that among inputs kept apart; credibility is the largest p-value. The score counts, so
    it has steps: the gradient that it passes on is that of soft votes, by distance to each class's mean in each layer.

    Attributes:
        layers: whose features it reads.
        banks: ``[N, d]`` per layer, normalised.
        labels: int64 ``[N]``, of the bank.
        classes: how many the model has.
        k: how many neighbours vote in each layer.
        calibration: float32 ``[m]``, sorted: the nonconformity of inputs kept apart, with their labels.
    """

    layers: tuple[str, ...]
    banks: tuple[Tensor, ...]
    labels: Tensor
    classes: int
    k: int
    calibration: Tensor

    @classmethod
    def fit(
        cls, seen: Seen, y: Tensor, layers: tuple[str, ...], k: int = 50, *, share: float = 0.2, seed: int = 0
    ) -> DeepNearestNeighbours:
        """From benign inputs with labels int64 ``[n]``, of which a ``share`` drawn by ``seed`` is kept out of the bank
        to rank nonconformity among.

        >>> f = torch.eye(2).repeat(20, 1)
        >>> seen = Seen(f, f, {"f": f})
        >>> DeepNearestNeighbours.fit(seen, torch.arange(40) % 2, ("f",), k=5).score(seen)[:2]
        tensor([0., 0.])
        """
        if not 0.0 < share < 1.0:
            raise ConfigError(f"share is {share}", "give a number between 0 and 1")
        labels = checked_labels(seen, y)
        kept, apart = (
            part.to(labels.device) for part in split_rows(len(seen), share, Rng(seed).fork("split"))
        )
        enough(k, len(kept), "inputs in the bank")
        whole = [
            normalised(fit_features(seen, [layer])).to(features_of(seen, layer).dtype) for layer in layers
        ]
        if not whole:
            raise ConfigError("no layer is named", "name at least one")
        banks = tuple(rows[kept] for rows in whole)
        detector = cls(tuple(layers), banks, labels[kept], seen.logits.shape[1], k, torch.empty(0))
        others = detector._others([rows[apart] for rows in whole])
        own = others.gather(1, labels[apart].unsqueeze(1))[:, 0]
        return replace(detector, calibration=own.sort().values)

    @property
    def name(self) -> str:
        return f"deep nearest neighbours at {', '.join(self.layers)}"

    def score(self, seen: Seen) -> Tensor:
        rows = [normalised(features_of(seen, layer)) for layer in self.layers]
        exact, agreed = self._p_values(rows).max(1)
        hard = 1.0 - exact
        if not any(r.requires_grad for r in rows):
            return hard
        soft = torch.stack(
            [self._doubt(r, bank, agreed) for r, bank in zip(rows, self.banks, strict=True)]
        ).mean(0)
        return hard + (soft - soft.detach())

    def _p_values(self, rows: list[Tensor]) -> Tensor:
        """``[n, K]``: per class, the rank of its nonconformity among the inputs kept apart."""
        order = self.calibration.to(rows[0])
        others = self._others([r.detach() for r in rows])
        m = len(order)
        return (1 + m - torch.searchsorted(order, others)).to(others.dtype) / (m + 1)

    def _others(self, rows: list[Tensor]) -> Tensor:
        """``[n, K]``: per class, how many neighbours of all layers are of another."""
        votes = rows[0].new_zeros(len(rows[0]), self.classes)
        for r, bank in zip(rows, self.banks, strict=True):
            voters = self.labels.to(r.device)[nearest(r, bank, self.k)]
            votes.scatter_add_(1, voters, torch.ones_like(voters, dtype=votes.dtype))
        return len(rows) * self.k - votes

    def _doubt(self, rows: Tensor, bank: Tensor, agreed: Tensor) -> Tensor:
        """``[n]``: the share of soft votes, by distance to class means, that does not go to the class ``agreed``."""
        labels = self.labels.to(rows.device)
        present, member = present_classes(labels)
        bank = bank.to(rows)
        sums = rows.new_zeros(len(present), bank.shape[1]).index_add(0, member, bank)
        means = sums / torch.bincount(member).to(rows).unsqueeze(1)
        width = (bank - means[member]).square().sum(1).mean().clamp_min(1e-6)
        votes: Tensor = (-(rows.unsqueeze(1) - means).square().sum(2) / width).softmax(1)
        agreeing: Tensor = (votes * (present == agreed.unsqueeze(1))).sum(1)
        return 1.0 - agreeing

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "deep-nearest-neighbours",
            "layers": list(self.layers),
            "k": self.k,
            "n": len(self.labels),
            "calibration": len(self.calibration),
        }
