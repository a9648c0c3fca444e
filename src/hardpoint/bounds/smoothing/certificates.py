"""What randomised smoothing proved, with all that is needed to prove it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from hardpoint.bounds.smoothing.estimators import Estimator, Fixed, Goal
from hardpoint.bounds.smoothing.noise import Noise
from hardpoint.core.errors import ConfigError, DataError
from hardpoint.evidence.rate import Rate

ABSTAINED = -1
"""The class of an input of which nothing is proven."""


@dataclass(frozen=True)
class SmoothedCertificates:
    """For each input, with probability 1 - ``alpha`` over the draws: the smoothed classifier answers ``predicted`` at
    every point within ``radius``, the points at that distance included.

    The smoothed classifier is the one that answers the class which the network gives most often under the noise. It is
    that classifier which is certified, for exact probabilities; neither the network without noise nor one vote over a
    few draws is. Each statement may be false with probability ``alpha``, so about that share of many is expected to be.

    Attributes:
        predicted: int64 ``[n]``; -1 where nothing is proven.
        radius: float64 ``[n]``, in the noise's norm and the units of the model's input; 0 where nothing is proven.
        certified: bool ``[n]``: proven for the radius that was asked for; for any, where none was.
        samples: int64 ``[n]``: draws taken for the statement, those to choose the class not counted.
        guess: int64 ``[n]``: the class that was tried: the label, where labels were given.
        hits: int64 ``[n]``, and ``at``: the statement rests on ``hits`` answers of ``guess`` among ``at`` draws.
        at: int64 ``[n]``.
        asked: float64 ``[n]``, or None where no radius was asked for.
        alpha: as asked for.
        seed: of the draws.
        noise: what was put on inputs.
        estimator: how many draws were taken, and what counts prove.
        shape: of one input.
    """

    predicted: Tensor
    radius: Tensor
    certified: Tensor
    samples: Tensor
    guess: Tensor
    hits: Tensor
    at: Tensor
    asked: Tensor | None
    alpha: float
    seed: int
    noise: Noise
    estimator: Estimator
    shape: tuple[int, ...]

    @property
    def cap(self) -> float:
        """The largest radius that so many draws could prove, were each a hit."""
        highest = torch.tensor([self.estimator.cap(self.alpha)], dtype=torch.float64)
        return float(self.noise.radius(highest, self.shape))

    @property
    def rate(self) -> Rate:
        """The share certified. Raises ``NothingToTest`` for no inputs."""
        return Rate.of(int(self.certified.sum()), len(self.certified))

    def certified_accuracy(self, radii: Sequence[float] | Tensor, y: Tensor) -> tuple[Rate, ...]:
        """For each of ``radii``, the share of inputs proven to be answered ``y`` within it, with its interval.

        The interval is for the share among inputs like these, as of any ``Rate``. Where a radius was asked for, draws
        ended when that was settled, so the curve beyond it is lower than it could be.

        Args:
            radii: in the units of the model's input; 0 asks for the prediction alone.
            y: int64 ``[n]``, the true labels.

        Raises:
            DataError: for labels of another number, or a radius that is negative or no number.
        """
        labels = torch.as_tensor(y).cpu()
        if labels.shape != self.predicted.shape or labels.is_floating_point():
            raise DataError(
                f"labels are {labels.dtype} {tuple(labels.shape)}", "give one class number per input"
            )
        asked = torch.as_tensor(radii, dtype=torch.float64).flatten()
        if not bool((asked >= 0).all()):
            raise DataError("a radius is negative or NaN", "give radii of 0 or more")
        right = (self.predicted.cpu() == labels) & (self.predicted.cpu() != ABSTAINED)
        return tuple(
            Rate.of(int((right & (self.radius.cpu() >= at)).sum()), len(right)) for at in asked.tolist()
        )

    def recheck(self) -> Tensor:
        """float64 ``[n]``: the radii that the logged counts prove, computed anew from them and nothing else."""
        goal = goal_of(self.noise, self.shape, self.alpha, self.asked)
        low = self.estimator.proven(self.hits.cpu(), self.at.cpu(), goal)
        return proven_radius(low, goal, self.asked).to(self.radius.device)

    def describe(self) -> dict[str, Any]:
        """JSON-ready: everything but the model."""
        tensors = {
            name: None if value is None else value.tolist()
            for name, value in vars(self).items()
            if isinstance(value, Tensor) or name == "asked"
        }
        return {
            **tensors,
            "alpha": self.alpha,
            "seed": self.seed,
            "noise": _plain(self.noise),
            "estimator": _plain(self.estimator),
            "shape": list(self.shape),
        }


def fixed_radius(
    hits: Tensor, n: int | Tensor, alpha: float, noise: Noise, shape: tuple[int, ...] = ()
) -> Tensor:
    """float64, as ``hits``: the radii that a table of counts proves, each with probability 1 - ``alpha``; 0 for none.

    Args:
        hits: whole numbers, any shape: how often the class came that had been chosen by other draws.
        n: how many draws there were, fixed before the first; a number, or one for each.
        alpha: in (0, 0.25].
        noise: what was drawn.
        shape: of one input, for noises whose radius depends on how many numbers it has.

    Raises:
        DataError: for counts that are not whole or not from 0 to ``n``.
        ConfigError: for another alpha, or no shape where one is needed.

    >>> from hardpoint.bounds.smoothing import Gaussian
    >>> fixed_radius(torch.tensor([100_000, 99_000, 40_000]), 100_000, 0.001, Gaussian(0.25))
    tensor([0.9529, 0.5725, 0.0000], dtype=torch.float64)
    """
    check_alpha(alpha)
    k, count = torch.as_tensor(hits).cpu(), torch.as_tensor(n).cpu()
    if (
        k.is_floating_point()
        or count.is_floating_point()
        or k.dtype is torch.bool
        or count.dtype is torch.bool
    ):
        raise DataError(f"counts are {k.dtype} and {count.dtype}", "give whole numbers")
    try:
        count = count.long().expand(k.shape)
    except RuntimeError:
        raise DataError(
            f"there are {tuple(k.shape)} counts of {tuple(count.shape)} numbers of draws", "give one n"
        ) from None
    k = k.long()
    if bool(((k < 0) | (k > count) | (count < 1)).any()):
        raise DataError("there are fewer than no hits, or more than draws", "give 0 to n hits of n draws")
    low = torch.zeros(k.shape, dtype=torch.float64)
    for each in sorted(set(count.flatten().tolist())):
        mine = count == each
        goal = Goal(alpha, None, lambda p: noise.radius(p, shape))
        low[mine] = Fixed(n=each).proven(k[mine], count[mine], goal)
    return noise.radius(low, shape)


def goal_of(noise: Noise, shape: tuple[int, ...], alpha: float, asked: Tensor | None) -> Goal:
    """The goal of proving ``asked``, or as much as possible."""
    target = None if asked is None else noise.probability(asked.cpu(), shape)
    return Goal(alpha, target, lambda p: noise.radius(p, shape))


def proven_radius(low: Tensor, goal: Goal, asked: Tensor | None) -> Tensor:
    """float64 ``[n]``: the radius that probabilities prove; at least the one asked for where its own is beaten."""
    radius = torch.where(low > 0.5, goal.radius(low), 0.0)
    if asked is None or goal.target is None:
        return radius
    return torch.where(_beats(low, goal.target), torch.maximum(radius, asked.cpu()), radius)


def _beats(low: Tensor, target: Tensor) -> Tensor:
    return (low >= target) & (low > 0.5)


def check_alpha(alpha: float) -> None:
    """Raises ``ConfigError`` for anything but a number in (0, 0.25]."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= 0.25:
        raise ConfigError(
            f"alpha is {alpha!r}", "give the risk that a statement is false, from above 0 to 0.25"
        )


def _plain(setting: Noise | Estimator) -> dict[str, Any]:
    """The settings of a frozen dataclass, JSON-ready."""
    told: dict[str, Any] = {"kind": type(setting).__name__}
    for name, value in asdict(setting).items():  # type: ignore[call-overload]
        told[name] = (
            value.__name__ if isinstance(value, type) else value.value if isinstance(value, Enum) else value
        )
    return told
