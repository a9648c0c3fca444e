"""One verdict from several detectors whose scores depend on each other, with the false-positive rate kept.

Detectors look at the same input, so their p-values are dependent and products of them promise nothing. Bonferroni and
the mean of e-values hold under any dependence; Fisher's statistic is taken as a score and calibrated once more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardpoint.core.errors import DataError
from hardpoint.defenses.calibration._checks import checked_p_values, checked_table
from hardpoint.defenses.calibration.conformal import p_values


def bonferroni(p: Tensor) -> Tensor:
    """float64 ``[n]``: ``min(1, K min_k p_k)``, a p-value whatever the dependence between the K of ``p`` ``[K, n]``.

    >>> bonferroni(torch.tensor([[0.01, 0.5], [0.2, 0.9]], dtype=torch.float64)).tolist()
    [0.02, 1.0]
    """
    values = checked_p_values(p)
    return (len(values) * values.amin(0)).clamp(max=1.0).to(p.device)


def e_values(p: Tensor) -> Tensor:
    """float64, of the shape of ``p`` ``[K, n]``: ``1 / (2 sqrt(p))``, with expectation at most 1 on benign inputs
    (Vovk and Wang, "E-values: calibration, combination and applications", Annals of Statistics 2021)."""
    return (0.5 / checked_p_values(p).sqrt()).to(p.device)


def mean_e_value(p: Tensor) -> Tensor:
    """float64 ``[n]``: the mean of the K detectors' e-values, an e-value whatever their dependence; an input is flagged
    at ``1 / alpha`` or more, which happens to at most ``alpha`` of benign inputs (Markov's inequality).

    >>> mean_e_value(torch.tensor([[0.0001], [0.25]], dtype=torch.float64)).tolist()
    [25.5]
    """
    return e_values(p).mean(0)


def e_to_p(e: Tensor) -> Tensor:
    """``min(1, 1 / e)``: the p-value that is at most ``alpha`` exactly where ``e >= 1 / alpha``."""
    return e.reciprocal().clamp(max=1.0)


def fisher_statistic(p: Tensor) -> Tensor:
    """float64 ``[n]``: ``-2 sum_k log p_k``. A score: under dependence it is not chi-squared."""
    return (-2.0 * checked_p_values(p).log().sum(0)).to(p.device)


@dataclass(frozen=True, eq=False)
class Fisher:
    """Fisher's statistic of K detectors, calibrated on a second part of the benign inputs, so that it is exact again.

    Attributes:
        first: float64 ``[K, n1]``, scores of the first part, which single scores are ranked among.
        second: float64 ``[n2]``, statistics of the second part, which statistics are ranked among.
    """

    first: Tensor
    second: Tensor

    @classmethod
    def fit(cls, first: Tensor, second: Tensor) -> Fisher:
        """From the K detectors' scores of two parts of the benign inputs, ``[K, n1]`` and ``[K, n2]``.

        >>> rows = torch.arange(20.0).expand(2, 20)
        >>> Fisher.fit(rows[:, ::2], rows[:, 1::2]).p_values(torch.tensor([[99.0], [99.0]])).tolist()
        [0.1818...]
        """
        ranked = checked_table(first, "scores")
        return cls(ranked, _statistics(ranked, second))

    def statistic(self, scores: Tensor) -> Tensor:
        """float64 ``[m]``: the statistic of the K detectors' scores ``[K, m]``."""
        return _statistics(self.first, scores)

    def p_values(self, scores: Tensor) -> Tensor:
        """float64 ``[m]``: p-values of the K detectors' scores ``[K, m]``."""
        return p_values(self.second, self.statistic(scores))


def _statistics(first: Tensor, scores: Tensor) -> Tensor:
    rows = checked_table(scores, "scores")
    if len(rows) != len(first):
        raise DataError(
            f"there are scores of {len(rows)} detectors, not {len(first)}", "give the same detectors"
        )
    return fisher_statistic(torch.stack([p_values(a, b) for a, b in zip(first, rows, strict=True)]))
