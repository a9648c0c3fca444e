"""What hits among draws say of their probability at every moment, so that one may look and stop whenever one likes.

A bet on hits against the claim that their probability is at most p₀: the wealth after t draws with A hits is
M = ∫ (θ/p₀)^A ((1-θ)/(1-p₀))^(t-A) dπ(θ) with π = Beta(½, ½) cut to (p₀, 1]. Every factor has a mean of at most 1
under the claim, so M is a supermartingale that begins at 1, and the claim is false where M ever reaches 1/α, but for a
probability of α (Ville 1939; the mixture is that of Robbins, "Statistical methods related to the law of the iterated
logarithm", Annals of Mathematical Statistics 1970). Confidence sequences for smoothing: Voráček, "Treatment of
statistical estimation problems in randomized smoothing for adversarial robustness", NeurIPS 2024, whose mixture is not
cut; the cut one is larger by up to 1/π((p₀, 1]).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]

_ROUNDING = 1e-6  # of the logarithm of the wealth: more than the special functions are off for 10⁸ draws
_HALVINGS = 45
_ALMOST = 1 - 1e-12


def log_wealth(hits: Tensor, n: Tensor, target: Tensor) -> Tensor:
    """float64: the logarithm of the wealth against the claim that the probability is at most ``target``.

    Args:
        hits: int64, any shape.
        n: int64, as ``hits``: the draws so far.
        target: float64 in (0, 1), as ``hits``.

    >>> log_wealth(torch.tensor([60]), torch.tensor([60]), torch.tensor([0.8], dtype=torch.float64))
    tensor([11.9872], dtype=torch.float64)
    """
    return torch.from_numpy(_log_wealth(*_floats(hits, n), target.numpy()))


def log_wealth_above(hits: Tensor, n: Tensor, target: Tensor) -> Tensor:
    """As ``log_wealth``, against the claim that the probability is at least ``target``."""
    return log_wealth(n - hits, n, 1 - target)


def ruled_out(hits: Tensor, n: Tensor, target: Tensor, alpha: float) -> Tensor:
    """Bool: whether the wealth rules out, at level ``alpha``, that the probability is at most ``target``."""
    enough = log_wealth(hits, n, target.clamp(max=_ALMOST)) >= math.log(1 / alpha) + _ROUNDING
    return enough & (target <= _ALMOST)


def lower_end_anytime(hits: Tensor, n: Tensor, alpha: float) -> Tensor:
    """float64: below which no probability of one half or more is left; 0 where one half itself is not ruled out.

    The largest p₀ against which the wealth is 1/``alpha``. With probability 1 - ``alpha`` the truth is not below any of
    the ends that are ever computed, however often, whatever made one stop. From ½ on the wealth falls in p₀ wherever it
    is large enough to matter, so everything from ½ to this end is ruled out; and what is below ½ by the wealth
    against ½.

    Args:
        hits: int64, any shape.
        n: int64, as ``hits``: the draws so far.
        alpha: in (0, 0.25].

    >>> lower_end_anytime(torch.tensor([50, 100]), torch.tensor([100, 100]), 0.001)
    tensor([0.0000, 0.9225], dtype=torch.float64)
    """
    # d log M / d p₀ = h (1 - 1/M) - (A - t p₀) / (p₀ (1 - p₀)), where h, the density of π at p₀ over π((p₀, 1]), is at
    # most 1 / (2 (1 - p₀) √p₀). Where M is 1/α, t KL(A/t, p₀) is log(1/α) or more, hence A - t p₀ ≥ log(1/α) p₀, which
    # for p₀ from ½ and α up to ¼ is more than √p₀ / 2: there M falls, so it crosses 1/α once.
    a, count = _floats(hits, n)
    level = math.log(1 / alpha) + _ROUNDING
    low, high = np.full(a.shape, 0.5), np.clip(a / np.maximum(count, 1.0), 0.5, _ALMOST)
    possible = _log_wealth(a, count, low) >= level
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        beaten = _log_wealth(a, count, middle) >= level
        low, high = np.where(beaten, middle, low), np.where(beaten, high, middle)
    return torch.from_numpy(np.where(possible, low, 0.0))


def upper_end_anytime(hits: Tensor, n: Tensor, alpha: float) -> Tensor:
    """float64: above which a probability is ruled out in the same way. Says when to stop and proves nothing here."""
    a, count = _floats(hits, n)
    level = math.log(1 / alpha)
    low, high = np.clip(a / np.maximum(count, 1.0), 1e-12, _ALMOST), np.full(a.shape, _ALMOST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        beaten = _log_wealth(count - a, count, 1 - middle) >= level
        low, high = np.where(beaten, low, middle), np.where(beaten, middle, high)
    return torch.from_numpy(high)


def _floats(hits: Tensor, n: Tensor) -> tuple[Floats, Floats]:
    a, count = np.broadcast_arrays(hits.double().numpy(), n.double().numpy())
    return a, count


def _log_wealth(a: Floats, n: Floats, target: Floats) -> Floats:
    from scipy.special import betaincc, betaln

    misses = n - a
    with np.errstate(divide="ignore"):  # a share that underflows is a wealth of nothing
        share = np.log(betaincc(a + 0.5, misses + 0.5, target)) - np.log(betaincc(0.5, 0.5, target))
        lost = a * np.log(target) + misses * np.log1p(-target)
    total: Floats = betaln(a + 0.5, misses + 0.5) - math.log(math.pi) + share - lost
    return total
