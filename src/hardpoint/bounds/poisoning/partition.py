"""Deep partition aggregation: each training point teaches one member."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.bounds.poisoning.ensemble import Progress, VotingEnsemble, fit_votes
from hardpoint.bounds.poisoning.training import Train
from hardpoint.core.errors import ConfigError


@dataclass(frozen=True)
class DeepPartition:
    """Members that share no training point, and vote.

    A point that is added, removed or relabelled changes one member, so the winner stands as many of them as half its
    distance (Levine and Feizi, "Deep partition aggregation: provable defense against general poisoning attacks", ICLR
    2021). As points are placed by their input alone, a changed label counts once and not as a removal and an addition,
    as in SS-DPA of the same paper.

    What is learned from all the data before, such as a scaler or features, is not covered: put it into ``train``, or
    take it from data that nobody can poison.

    Args:
        train: how one member learns from its points; see ``Train`` and ``OfEstimator``.
        parts: how many members. More stand more poison, and each learns from fewer points.
        seed: what the members' seeds are made from.

    Raises:
        ConfigError: for less than one part.

    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from hardpoint.bounds.poisoning.training import OfEstimator
    >>> x = torch.linspace(-1, 1, 60).view(60, 1)
    >>> vote = DeepPartition(OfEstimator(KNeighborsClassifier(1)), parts=6).fit(x, (x[:, 0] > 0).long())
    >>> found = vote.certify(torch.tensor([[-0.9], [0.9]]))
    >>> found.predicted.tolist(), found.radius.tolist()
    ([0, 1], [3, 2])
    """

    train: Train
    parts: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.parts < 1:
            raise ConfigError(f"parts is {self.parts}", "give at least 1")

    def members(self) -> Tensor:
        return torch.arange(self.parts).unsqueeze(1)

    def fit(
        self, x: Tensor, y: Tensor, *, classes: int | None = None, progress: Progress | None = None
    ) -> VotingEnsemble:
        """Train the members on inputs ``x`` ``[n, ...]`` with labels ``y`` ``[n]``; see ``fit_votes``."""
        return fit_votes(self.train, self, x, y, classes=classes, seed=self.seed, progress=progress)
