"""Thresholds with a guarantee on the share of benign inputs that are flagged."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hardpoint.core.errors import DataError
from hardpoint.defenses.calibration._checks import check_share, checked_scores

Kind = Literal["marginal", "pac"]


class Uncalibrated(DataError):
    """There are too few benign scores for the rate asked for, so no threshold is given: nothing may be enforced.

    Attributes:
        needed: the smallest number of calibration inputs that would do.
    """

    def __init__(self, n: int, needed: int, alpha: float) -> None:
        super().__init__(
            f"{n} calibration inputs cannot support a false-positive rate of {alpha:g}",
            f"it needs at least n = {needed}; flag nothing until then, or accept a larger alpha",
        )
        self.needed = needed


@dataclass(frozen=True)
class Threshold:
    """A score above which an input is flagged.

    Attributes:
        value: inputs whose score is greater are flagged.
        alpha: the false-positive rate it was made for.
        kind: ``marginal``, on average over calibration sets, or ``pac``, for all but a share delta of them.
        n: how many calibration inputs it rests on.
        rank: it is the ``rank``-th largest of their scores.
        delta: the share of calibration sets for which it may fail; None where ``marginal``.
        covers: which inputs the guarantee is about.
    """

    value: float
    alpha: float
    kind: Kind
    n: int
    rank: int
    delta: float | None = None
    covers: str = "benign inputs"

    @property
    def guarantee(self) -> str:
        """What is promised, and what is not, in words; printed wherever the threshold is."""
        rate = f"at most {100 * self.alpha:g} % of {self.covers} are flagged"
        if self.kind == "pac":
            sure = 100 * (1 - (self.delta or 0.0))
            promise = f"With {sure:g} % confidence over draws of the {self.n} calibration inputs, {rate}"
        else:
            promise = f"On average over draws of the {self.n} calibration inputs, {rate}"
        return f"{promise}, {_LIMITS}"

    def flags(self, scores: Tensor) -> Tensor:
        """bool ``[n]``: which inputs are flagged; raises ``DataError`` for NaN."""
        return (checked_scores(scores, "scores", least=0) > self.value).to(scores.device)

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "value": self.value,
            "alpha": self.alpha,
            "kind": self.kind,
            "n": self.n,
            "rank": self.rank,
            "delta": self.delta,
            "guarantee": self.guarantee,
        }


_LIMITS = (
    "as long as benign traffic is exchangeable with the calibration inputs. It says nothing about how many attacks are "
    "caught, and it ends when the traffic drifts: calibrate again then."
)


def marginal_threshold(scores: Tensor, alpha: float) -> Threshold:
    """The threshold that flags what a conformal p-value of at most ``alpha`` would.

    Args:
        scores: ``[n]``, of benign inputs that nothing was fitted on.
        alpha: the false-positive rate on average; that of this calibration set is Beta(r, n + 1 - r), r the rank.

    Raises:
        Uncalibrated: where ``alpha (n + 1) < 1``.

    >>> marginal_threshold(torch.arange(100.0), 0.05).value
    95.0
    """
    check_share(alpha, "alpha")
    values = checked_scores(scores, "calibration scores")
    return _at_rank(values, _marginal_rank(len(values), alpha), alpha, None)


def pac_threshold(scores: Tensor, alpha: float, delta: float = 0.05) -> Threshold:
    """The lowest threshold whose false-positive rate is at most ``alpha`` for all but ``delta`` of calibration sets.

    The rate at the r-th largest of n scores is Beta(r, n + 1 - r), or smaller where scores tie; r is the largest rank
    at which that stays below ``alpha`` with probability ``1 - delta`` (Vovk, ACML 2012).

    Raises:
        Uncalibrated: where no rank does, with the number of inputs that would.

    >>> pac_threshold(torch.arange(1000.0), 0.01, 0.05).rank
    5
    """
    check_share(alpha, "alpha")
    check_share(delta, "delta")
    values = checked_scores(scores, "calibration scores")
    return _at_rank(values, pac_rank(len(values), alpha, delta), alpha, delta)


def pac_rank(n: int, alpha: float, delta: float) -> int:
    """The largest r with P(Beta(r, n + 1 - r) <= alpha) >= 1 - delta, 0 where there is none."""
    from scipy.special import betainc

    def too_low(rank: int) -> bool:
        return float(betainc(rank, n + 1 - rank, alpha)) < 1.0 - delta

    return bisect_left(range(1, n + 1), True, key=too_low)


def smallest_n(alpha: float, delta: float | None = None) -> int:
    """How many calibration inputs a threshold for ``alpha`` needs: marginal, or PAC where ``delta`` is given.

    >>> smallest_n(0.01), smallest_n(0.01, 0.05)
    (99, 299)
    """
    check_share(alpha, "alpha")
    if delta is None:
        return _first(math.ceil(1.0 / alpha) - 1, lambda n: _marginal_rank(n, alpha) > 0)
    check_share(delta, "delta")
    return _first(math.ceil(math.log(delta) / math.log1p(-alpha)), lambda n: pac_rank(n, alpha, delta) > 0)


def _first(near: int, enough: Callable[[int], bool]) -> int:
    """The first number from just below ``near`` that is ``enough``: logarithms and quotients round."""
    n = max(1, near - 1)
    while not enough(n):
        n += 1
    return n


def _marginal_rank(n: int, alpha: float) -> int:
    """The largest r whose p-value ``r / (n + 1)``, rounded as ``p_values`` rounds it, is at most ``alpha``."""
    rank = math.floor(alpha * (n + 1)) + 1
    while rank > 0 and rank / (n + 1) > alpha:
        rank -= 1
    return rank


def _at_rank(values: Tensor, rank: int, alpha: float, delta: float | None) -> Threshold:
    n = len(values)
    if rank < 1:
        raise Uncalibrated(n, smallest_n(alpha, delta), alpha)
    value = float(torch.topk(values, rank).values[-1])
    return Threshold(value, alpha, "marginal" if delta is None else "pac", n, rank, delta)
