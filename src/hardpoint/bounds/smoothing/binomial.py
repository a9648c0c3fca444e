"""What a number of hits among draws says of their probability, for a number of draws that was fixed beforehand."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_STEP = 1e-13
"""How far a root is first moved to the safe side where it is not yet on it."""


def lower_end(hits: Tensor, n: Tensor, alpha: float) -> Tensor:
    """float64: the lower end of the one-sided interval of Clopper and Pearson ("The use of confidence or fiducial
    limits illustrated in the case of the binomial", Biometrika 1934).

    The largest p under which so many hits or more have a probability of at most ``alpha``: whatever the truth is, it
    lies below with probability ``alpha`` at most. 0 for no hits.

    Args:
        hits: int64, any shape.
        n: int64, as ``hits``: the draws, fixed before the first.
        alpha: in (0, 1).

    >>> lower_end(torch.tensor([0, 100]), torch.tensor([100, 100]), 0.001)
    tensor([0.0000, 0.9333], dtype=torch.float64)
    """
    from scipy.special import betainc, betaincinv

    k, count = np.broadcast_arrays(hits.numpy(), n.numpy())
    a, b = np.maximum(k, 1).astype(float), (count - k + 1).astype(float)
    low, step = betaincinv(a, b, alpha), _STEP
    for _ in range(60):  # the inverse is computed, so it is tried
        over = betainc(a, b, low) > alpha
        if not over.any():
            break
        low, step = np.where(over, np.maximum(low - step, 0.0), low), 2 * step
    return torch.from_numpy(np.where(k > 0, low, 0.0))


def least_hits(n: int, alpha: float, target: Tensor) -> Tensor:
    """int64, as ``target``: the least number of hits whose ``lower_end`` is above ``target``; ``n + 1`` for none.

    Args:
        n: the draws.
        alpha: in (0, 1).
        target: float64 probabilities.
    """
    each, place = torch.unique(target, return_inverse=True)
    low, high = torch.zeros(each.shape, dtype=torch.int64), torch.full(each.shape, n + 1)
    draws = torch.full(each.shape, n)
    for _ in range((n + 1).bit_length()):
        middle = (low + high) // 2
        proven = (lower_end(middle.clamp(max=n), draws, alpha) > each) & (middle <= n)
        between = low < high
        high = torch.where(between & proven, middle, high)
        low = torch.where(between & ~proven, middle + 1, low)
    return high[place]


def p_value(first: Tensor, second: Tensor) -> Tensor:
    """float64: the p-value of the exact two-sided test that two answers are equally frequent.

    Twice the probability that a fair coin falls on one side ``first`` times or more often of ``first + second``.

    Args:
        first: int64 ``[n]``, how often the more frequent answer came.
        second: int64 ``[n]``, how often the other did.

    >>> p_value(torch.tensor([5, 10]), torch.tensor([5, 0]))
    tensor([1.0000, 0.0020], dtype=torch.float64)
    """
    from scipy.special import betainc

    k, other = first.numpy(), second.numpy()
    tail = betainc(np.maximum(k, 1).astype(float), (other + 1).astype(float), 0.5)
    return torch.from_numpy(np.where(k > 0, np.minimum(1.0, 2 * tail), 1.0))
