"""How far the scores that a library computes can be from the sums that are bounded here."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from hardpoint.bounds.operators.operator import DOUBLE, SINGLE, Rounding
from hardpoint.models.trees import Link, TreeEnsemble

Allowance = Callable[[int, int], float]
"""By two classes: more than what rounding can change of the margin between them."""


def allowances(trees: TreeEnsemble) -> Allowance:
    """What rounding can change of margins, in whatever order scores are summed.

    It covers the library's sums, in float32 where it compares in float32, the sums made here, the start of the sums,
    which XGBoost takes the logarithm of odds of, and the probabilities that are compared in the place of sums. A margin
    that is proven to be larger stays above 0 in the library.
    """
    unit = torch.float64 if trees.link is Link.PROBABILITY else trees.precision
    share = Rounding.of(unit).gamma(len(trees.trees) + 8) + DOUBLE.gamma(4 * len(trees.trees) + 16)
    leaves = trees.leaves
    logits = trees.logits(leaves.value).abs().numpy()
    largest = np.zeros((len(trees.trees), trees.classes))
    np.maximum.at(largest, leaves.tree.numpy(), logits)
    start = trees.logits(trees.base).abs()
    size = torch.from_numpy(largest.sum(0)) + start
    final = 0.0
    if trees.link is not Link.PROBABILITY:
        base = float(start.max())
        odds = 4 + math.exp(base) + math.exp(-base) if base < 700 else math.inf
        final = 8 * torch.finfo(unit).eps * (odds if trees.link is Link.LOGISTIC else 1.0)

    @cache
    def between(first: int, second: int) -> float:
        return float(size[first] + size[second]) * share + final + SINGLE.least

    return between
