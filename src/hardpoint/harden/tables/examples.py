"""Rows to learn from beside the clean ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardpoint.harden.tables.fitting import fitted
from hardpoint.models.sklearn import SklearnModel


@dataclass(frozen=True, eq=False)
class Examples:
    """Checked rows that mislead a model, with their right labels.

    Attributes:
        x: ``[m, d]``.
        y: int64 ``[m]``.
        source: int64 ``[m]``, the clean row that each was made from.
        alone: bool ``[m]``, those that weigh as much as a clean row; the others share a weight.
        refused: how many the checker of constraints refused, which are left out.
    """

    x: Tensor
    y: Tensor
    source: Tensor
    alone: Tensor
    refused: int = 0

    @classmethod
    def none(cls, like: Tensor) -> Examples:
        """None yet, for rows ``like`` these."""
        nothing = torch.zeros(0, dtype=torch.int64)
        return cls(like[:0], nothing, nothing, nothing.bool())

    def __len__(self) -> int:
        return len(self.x)

    def and_those(
        self, x: Tensor, y: Tensor, source: Tensor, allowed: Tensor, *, alone: bool = False
    ) -> Examples:
        """These and the ``allowed`` ones of others."""
        return Examples(
            torch.cat([self.x, x[allowed]]),
            torch.cat([self.y, y[allowed]]),
            torch.cat([self.source, source[allowed]]),
            torch.cat([self.alone, torch.full((int(allowed.sum()),), alone)]),
            self.refused + int((~allowed).sum()),
        )

    def only(self, kept: Tensor | slice) -> Examples:
        """Some of them."""
        return Examples(self.x[kept], self.y[kept], self.source[kept], self.alone[kept], self.refused)

    def learned(self, estimator: Any, x: Tensor, y: Tensor, weight: float) -> SklearnModel:
        """A copy of ``estimator`` fitted on clean rows and these, which weigh ``weight`` times the clean ones; no class
        weighs more or less for it, so the threshold between the classes stays where it was."""
        clean, own = torch.ones(len(x)), torch.ones(len(self))
        for label in set(y.tolist()) if bool((~self.alone).any()) else ():
            those, rows = (self.y == label) & ~self.alone, y == label
            if bool(those.any()):
                own[those] = weight * float(rows.sum()) / float(those.sum())
            else:
                clean[rows] = 1 + weight
        return fitted(estimator, torch.cat([x, self.x]), torch.cat([y, self.y]), torch.cat([clean, own]))
