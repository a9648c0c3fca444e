"""How the scores of several networks become one answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from hardpoint.core.errors import ConfigError, DataError
from hardpoint.core.rows import all_finite
from hardpoint.defenses.detectors._fitting import minimise

_TOLERANCE = 1e-4


@runtime_checkable
class Combine(Protocol):
    """A rule by which members answer together. Implementations are frozen dataclasses."""

    def combined(self, scores: Tensor) -> Tensor:
        """``[n, K]`` scores of the whole from those of ``m`` members ``[m, n, K]``, each row by itself."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready: ``kind`` and the parameters."""
        ...


@dataclass(frozen=True)
class MeanProbability:
    """The logarithm of the mean of the members' probabilities; a certain member weighs as much as any other.

    >>> scores = torch.tensor([[[0.0, 0.0]], [[0.0, 200.0]]])  # 1/2 and 1
    >>> MeanProbability().combined(scores).exp()
    tensor([[0.2500, 0.7500]])
    """

    def combined(self, scores: Tensor) -> Tensor:
        return scores.log_softmax(2).logsumexp(0) - math.log(len(scores))

    def describe(self) -> dict[str, Any]:
        return {"kind": "mean-probability"}


@dataclass(frozen=True)
class MeanLogits:
    """The mean of the members' scores. One whose scores are large weighs more than the others.

    >>> MeanLogits().combined(torch.tensor([[[0.0, 1.0]], [[0.0, 3.0]]]))
    tensor([[0., 2.]])
    """

    def combined(self, scores: Tensor) -> Tensor:
        return scores.mean(0)

    def describe(self) -> dict[str, Any]:
        return {"kind": "mean-logits"}


@dataclass(frozen=True)
class WeightedMean:
    """The logarithm of the weighted mean of the members' probabilities.

    Args:
        weights: one for each member, 0 or more, that sum to 1.

    Raises:
        ConfigError: for other weights, or where there are more or fewer members.

    >>> WeightedMean((0.25, 0.75)).combined(torch.tensor([[[0.0, 0.0]], [[0.0, 200.0]]])).exp()
    tensor([[0.1250, 0.8750]])
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        weights = tuple(float(weight) for weight in self.weights)
        sound = all(math.isfinite(weight) and weight >= 0 for weight in weights)
        if not weights or not sound or abs(sum(weights) - 1) > _TOLERANCE:
            raise ConfigError(
                f"the weights are {weights}", "give numbers of 0 or more, one per member, that sum to 1"
            )
        object.__setattr__(self, "weights", weights)

    @classmethod
    def fit(cls, scores: Tensor, y: Tensor, *, steps: int = 100) -> WeightedMean:
        """The weights of the most likely mixture: those at which the mean of ``-log p(y)`` is least.

        The loss is convex in the weights; they are found by L-BFGS on their logarithms, from equal ones.

        Args:
            scores: ``[m, n, K]``, as ``Ensemble.member_scores`` gives them, of inputs nothing was trained on.
            y: right labels ``[n]``.
            steps: of L-BFGS.

        Raises:
            DataError: for scores and labels that do not fit together, or are not finite.

        >>> right = torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])
        >>> fitted = WeightedMean.fit(torch.cat([right, -right]), torch.tensor([0, 1]))
        >>> fitted.weights[0] > 0.99
        True
        """
        usable = scores.dim() == 3 and scores.shape[1] > 0 and tuple(y.shape) == (scores.shape[1],)
        if not usable or not all_finite(scores):
            raise DataError(
                f"weights cannot be fitted on scores of shape {tuple(scores.shape)} and {len(y)} labels",
                "give finite scores [members, n, classes] and the n right labels",
            )
        if bool(((y < 0) | (y >= scores.shape[2])).any()):
            raise DataError(f"a label lies outside 0 to {scores.shape[2] - 1}", "give class numbers")
        logs = scores.detach().double().log_softmax(2)
        right = logs[:, torch.arange(len(y), device=y.device), y]  # [m, n]
        free = torch.zeros(len(scores), 1, dtype=torch.float64, device=scores.device, requires_grad=True)
        minimise(lambda: -(right + free.log_softmax(0)).logsumexp(0).mean(), [free], steps)
        return cls(tuple(free.detach().softmax(0).flatten().tolist()))

    def combined(self, scores: Tensor) -> Tensor:
        if len(scores) != len(self.weights):
            raise ConfigError(
                f"there are {len(self.weights)} weights for {len(scores)} members", "give one for each"
            )
        logs = torch.tensor(self.weights).log().to(scores).view(-1, 1, 1)
        return (scores.log_softmax(2) + logs).logsumexp(0)

    def describe(self) -> dict[str, Any]:
        return {"kind": "weighted-mean", "weights": list(self.weights)}


@dataclass(frozen=True)
class MajorityVote:
    """Each member has one vote; of classes with equally many, the one of the higher mean probability wins.

    A class's score is its number of votes, and a fraction that rises with its mean probability, on a scale that
    still tells small ones apart. Votes have no gradient: an attacker's goes straight through, as if each score were
    the mean of the members' log-probabilities (Athalye, Carlini and Wagner, ICML 2018, section 4.1).

    >>> scores = torch.tensor([[[2.0, 0.0, 0.0]], [[0.0, 0.1, 0.0]], [[0.0, 0.1, 0.0]]])
    >>> MajorityVote().combined(scores).argmax(1), MeanProbability().combined(scores).argmax(1)
    (tensor([1]), tensor([0]))
    """

    def combined(self, scores: Tensor) -> Tensor:
        logs = scores.log_softmax(2)
        votes = functional.one_hot(scores.argmax(2), scores.shape[2]).sum(0).to(scores.dtype)
        mean = logs.detach().logsumexp(0) - math.log(len(scores))
        fraction = 0.5 / (
            1 - mean.clamp_max(0.0)
        )  # of log-probability 0: 1/2; of any other: less, and above 0
        through = logs.mean(0)
        return votes + fraction + (through - through.detach())

    def describe(self) -> dict[str, Any]:
        return {"kind": "majority-vote"}
