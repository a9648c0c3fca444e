"""Finite aggregation: each training point teaches several members, and each member learns from several buckets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.bounds.poisoning.ensemble import Progress, VotingEnsemble, fit_votes
from hardpoint.bounds.poisoning.training import Train
from hardpoint.core.errors import ConfigError
from hardpoint.core.rng import Rng


@dataclass(frozen=True)
class FiniteAggregation:
    """``parts * spread`` members, each point teaching ``spread`` of them; each learns from as many points as one of
    ``parts`` without overlap would.

    Poison in one bucket reaches members that may vote differently, or for the rival already, so it does less than
    its number of members suggests (Wang, Levine and Feizi, "Improved certified defenses against data poisoning with
    (deterministic) finite aggregation", ICML 2022). With ``spread=1`` this is ``DeepPartition``.

    Args:
        train: how one member learns from its points; see ``Train`` and ``OfEstimator``.
        parts: the share of the data that a member learns from is one of this many.
        spread: how many members learn from each point.
        seed: of the members' seeds, and of which members share buckets.

    Raises:
        ConfigError: for less than one part or member.

    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from hardpoint.bounds.poisoning.training import OfEstimator
    >>> x = torch.linspace(-1, 1, 60).view(60, 1)
    >>> vote = FiniteAggregation(OfEstimator(KNeighborsClassifier(1)), parts=6, spread=2).fit(x, (x[:, 0] > 0).long())
    >>> vote.certify(torch.tensor([[-0.9], [0.9]])).radius.tolist()
    [3, 2]
    """

    train: Train
    parts: int = 50
    spread: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.parts < 1 or self.spread < 1:
            raise ConfigError(f"parts is {self.parts} and spread {self.spread}", "give at least 1 of each")

    def members(self) -> Tensor:
        buckets = self.parts * self.spread
        drawn = (
            Rng(self.seed)
            .fork("spread")
            .uniform(torch.zeros(1, dtype=torch.int64), (buckets,), 0, torch.float64)
        )
        shifts = drawn[0].argsort(stable=True)[: self.spread]
        return (torch.arange(buckets).unsqueeze(1) + shifts) % buckets

    def fit(
        self, x: Tensor, y: Tensor, *, classes: int | None = None, progress: Progress | None = None
    ) -> VotingEnsemble:
        """Train the members on inputs ``x`` ``[n, ...]`` with labels ``y`` ``[n]``; see ``fit_votes``."""
        return fit_votes(self.train, self, x, y, classes=classes, seed=self.seed, progress=progress)
