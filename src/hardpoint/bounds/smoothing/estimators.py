"""How many draws are taken of an input, when they suffice, and what they prove."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from hardpoint.bounds.smoothing.binomial import least_hits, lower_end
from hardpoint.bounds.smoothing.sequence import (
    log_wealth_above,
    lower_end_anytime,
    ruled_out,
    upper_end_anytime,
)
from hardpoint.core.errors import ConfigError

_MOST = 10**8  # up to which the special functions are known to be exact enough
_PATIENCE = 0.02  # looks are so far apart, as a share of the draws so far
_GIVE_UP = math.log(100)  # one input in a hundred whose class is frequent enough is given up
_HOPE = 2.5  # standard errors by which draws to come may be better than those seen


@dataclass(frozen=True)
class Goal:
    """What is to be shown of some inputs.

    Attributes:
        alpha: the probability with which the statement about one input may be false.
        target: float64 ``[m]``, the probabilities to show that the class is above; None to show as much as possible.
        radius: the radius that probabilities prove.
    """

    alpha: float
    target: Tensor | None
    radius: Callable[[Tensor], Tensor]

    def of(self, rows: Tensor) -> Goal:
        """The same of the inputs ``rows``."""
        return Goal(self.alpha, None if self.target is None else self.target[rows], self.radius)


class Look(NamedTuple):
    """What draws show at one moment.

    Attributes:
        low: float64 ``[m]``: the probability is proven to be this or more; 0 where nothing is, or where it is not what
            was asked for.
        done: bool ``[m]``: more draws are not needed, or would not help.
    """

    low: Tensor
    done: Tensor


@runtime_checkable
class Estimator(Protocol):
    """How many draws are taken, and what they prove.

    Attributes of every estimator: ``n0``, the draws by which the class is chosen; ``step``, how many are drawn at a
    time; ``most``, the largest number of draws for the statement.
    """

    @property
    def n0(self) -> int: ...

    @property
    def step(self) -> int: ...

    @property
    def most(self) -> int: ...

    def next_look(self, taken: int, goal: Goal) -> int:
        """After how many draws to look again, at most ``most``."""
        ...

    def look(self, hits: Tensor, taken: int, goal: Goal) -> Look:
        """What ``hits`` ``[m]`` among ``taken`` draws show."""
        ...

    def proven(self, hits: Tensor, taken: Tensor, goal: Goal) -> Tensor:
        """float64 ``[m]``: what logged counts, both ``[m]``, prove the probability to be at least; 0 for nothing."""
        ...

    def cap(self, alpha: float) -> float:
        """The highest probability that can be proven: what hits and nothing else would."""
        ...


@dataclass(frozen=True)
class Fixed:
    """So many draws for every input, and the interval of Clopper and Pearson (Cohen et al. 2019, algorithm CERTIFY).

    Where a radius is asked for, an input is left as soon as the draws to come cannot change the answer: the answer is
    that of all draws, to the bit.

    Args:
        n: draws for the statement.
        n0: draws by which the class is chosen where no label is given.
        step: how many are drawn at a time.
    """

    n: int = 100_000
    n0: int = 100
    step: int = 100

    def __post_init__(self) -> None:
        _check_counts(n=self.n, n0=self.n0, step=self.step)

    @property
    def most(self) -> int:
        return self.n

    def next_look(self, taken: int, goal: Goal) -> int:
        return self.n if goal.target is None else _later(taken, self.step, self.n)

    def look(self, hits: Tensor, taken: int, goal: Goal) -> Look:
        at = torch.full_like(hits, taken)
        low = self.proven(hits, at, goal)
        if goal.target is None:
            return Look(low, at >= self.n)
        needed = least_hits(self.n, goal.alpha, goal.target)
        return Look(low, (hits >= needed) | (hits + self.n - taken < needed))

    def proven(self, hits: Tensor, taken: Tensor, goal: Goal) -> Tensor:
        if goal.target is None:
            return torch.where(taken == self.n, lower_end(hits, taken, goal.alpha), 0.0)
        enough = (hits >= least_hits(self.n, goal.alpha, goal.target)) & (taken <= self.n)
        return torch.where(enough, goal.target, 0.0)

    def cap(self, alpha: float) -> float:
        every = torch.tensor([self.n])
        return float(lower_end(every, every, alpha))


@dataclass(frozen=True)
class Anytime:
    """As many draws as an input needs, by a bound that holds at every moment (see ``sequence``).

    Where a radius is asked for, an input is left when the radius is proven, when a mirrored bet of 100 to 1 says
    that it is not there, or when the draws that are left are too few to hope for it. Otherwise when its radius is
    known: when what is proven is within ``tolerance`` of what is still possible with all draws, as a share of that or
    of the radius that a probability of 0.84 proves (σ, for Gaussian noise under L2), whichever is more.

    Args:
        most: draws at most.
        step: how many are drawn at a time.
        n0: draws by which the class is chosen where no label is given.
        tolerance: in (0, 1); only where no radius is asked for.
    """

    most: int = 100_000
    step: int = 100
    n0: int = 100
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        _check_counts(most=self.most, step=self.step, n0=self.n0)
        if not 0 < self.tolerance < 1:
            raise ConfigError(f"tolerance is {self.tolerance!r}", "give a share in (0, 1)")

    def next_look(self, taken: int, goal: Goal) -> int:
        return _later(taken, self.step, self.most)

    def look(self, hits: Tensor, taken: int, goal: Goal) -> Look:
        at = torch.full_like(hits, taken)
        last = torch.full(hits.shape, taken >= self.most)
        if goal.target is None:
            low = self.proven(hits, at, goal)
            return Look(low, last | self._is_known(hits, at, low, goal))
        won = ruled_out(hits, at, goal.target, goal.alpha)
        given_up = log_wealth_above(hits, at, goal.target) >= _GIVE_UP
        too_late = ~ruled_out(self._hoped(hits, at), torch.full_like(at, self.most), goal.target, goal.alpha)
        return Look(torch.where(won, goal.target, 0.0), won | last | given_up | too_late)

    def _hoped(self, hits: Tensor, at: Tensor) -> Tensor:
        """int64 ``[m]``: the hits among all draws, were those to come as frequent as can be hoped for."""
        share = hits.double() / at
        error = ((share * (1 - share) + 1 / at) / at).sqrt()
        return hits + ((self.most - at) * (share + _HOPE * error).clamp(max=1.0)).ceil().long()

    def _is_known(self, hits: Tensor, at: Tensor, low: Tensor, goal: Goal) -> Tensor:
        """Whether the radius is known to the tolerance."""
        high = upper_end_anytime(hits, at, goal.alpha).clamp(max=self.cap(goal.alpha))
        possible, proven = goal.radius(high), goal.radius(low)
        unit = goal.radius(torch.tensor([0.84], dtype=torch.float64))
        return (possible - proven <= self.tolerance * torch.maximum(possible, unit)) | (high <= 0.5)

    def proven(self, hits: Tensor, taken: Tensor, goal: Goal) -> Tensor:
        low = lower_end_anytime(hits, taken, goal.alpha)
        if goal.target is not None:
            beaten = ruled_out(hits, taken, goal.target, goal.alpha)
            low = torch.where(beaten, torch.maximum(low, goal.target), low)
        return torch.where(taken <= self.most, low, 0.0)

    def cap(self, alpha: float) -> float:
        return _highest(self.most, alpha)


@functools.lru_cache(maxsize=64)
def _highest(most: int, alpha: float) -> float:
    every = torch.tensor([most])
    return float(lower_end_anytime(every, every, alpha))


def _later(taken: int, step: int, most: int) -> int:
    return min(most, taken + step * max(1, int(_PATIENCE * taken) // step))


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
            raise ConfigError(f"{name} is {value!r}", f"give a whole number from 1 to {_MOST}")
