"""The share of benign inputs flagged is what was promised: for every detector, and for every combination."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from scipy.stats import betabinom

from hardpoint.core.errors import DataError
from hardpoint.defenses.calibration import (
    Fisher,
    bonferroni,
    e_to_p,
    e_values,
    fisher_statistic,
    marginal_threshold,
    mean_e_value,
    p_values,
)
from small_models import randn
from watched import benign, detectors, scored

N = 10_000
NAMES = sorted(detectors())
ALPHAS = (0.05, 0.01, 0.001)


@cache
def scores() -> dict[str, torch.Tensor]:
    """Scores of 3 N benign inputs: two calibration parts and a holdout."""
    seen = benign(3 * N, seed=21)
    with torch.no_grad():
        return {name: scored(detector, seen) for name, detector in detectors().items()}


def interval(alpha: float) -> tuple[int, int]:
    """99 % of the counts flagged among N inputs when N others calibrate: the rate is Beta(r, n + 1 - r)."""
    rank = marginal_threshold(torch.arange(float(N)), alpha).rank
    low, high = betabinom.interval(0.99, N, rank, N + 1 - rank)
    return int(low), int(high)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", NAMES)
def test_a_detector_flags_as_many_as_it_was_told_to(name, alpha):
    mine = scores()[name]
    flagged = int(marginal_threshold(mine[:N], alpha).flags(mine[2 * N :]).sum())
    low, high = interval(alpha)
    assert flagged <= high
    if len(mine.unique()) == len(mine):  # where scores tie, fewer may be
        assert flagged >= low


def parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    table = torch.stack([scores()[name] for name in NAMES])
    return table[:, :N], table[:, N : 2 * N], table[:, 2 * N :]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_combinations_of_dependent_detectors_keep_the_rate(alpha):
    first, second, holdout = parts()
    p = torch.stack([p_values(a, b) for a, b in zip(first, holdout, strict=True)])
    low, high = interval(alpha)
    assert int((bonferroni(p) <= alpha).sum()) <= high
    assert int((mean_e_value(p) >= 1 / alpha).sum()) <= high
    exact = int((Fisher.fit(first, second).p_values(holdout) <= alpha).sum())
    assert low <= exact <= high
    chi2 = torch.distributions.Chi2(torch.tensor(2.0 * len(NAMES), dtype=torch.float64))
    believed = 1 - chi2.cdf(fisher_statistic(p))
    assert int((believed <= alpha).sum()) > high  # what independence would promise does not hold


def test_closed_forms():
    p = torch.tensor([[0.04, 1.0], [0.25, 0.01]], dtype=torch.float64)
    torch.testing.assert_close(bonferroni(p), torch.tensor([0.08, 0.02], dtype=torch.float64))
    torch.testing.assert_close(e_values(p), torch.tensor([[2.5, 0.5], [1.0, 5.0]], dtype=torch.float64))
    torch.testing.assert_close(mean_e_value(p), torch.tensor([1.75, 2.75], dtype=torch.float64))
    torch.testing.assert_close(e_to_p(mean_e_value(p)), torch.tensor([4 / 7, 4 / 11], dtype=torch.float64))
    torch.testing.assert_close(fisher_statistic(p), -2 * p.log().sum(0))
    grid = torch.arange(1, 1001, dtype=torch.float64) / 1000
    assert float(e_values(grid.unsqueeze(0)).mean()) <= 1.0


def test_what_cannot_be_combined_is_refused():
    first, second = randn(3, 40), randn(3, 40, seed=1)
    fisher = Fisher.fit(first, second)
    with pytest.raises(DataError, match="scores of 2 detectors, not 3"):
        fisher.p_values(second[:2])
    with pytest.raises(DataError, match="row 4 of the scores of detector 1 is NaN"):
        fisher.p_values(second.index_put((torch.tensor([1]), torch.tensor([4])), torch.tensor(torch.nan)))
    with pytest.raises(DataError, match="outside"):
        bonferroni(torch.tensor([[0.0]]))
    with pytest.raises(DataError, match=r"\[K, n\]"):
        mean_e_value(torch.tensor([0.5]))
    assert fisher.p_values(second[:, :0]).shape == (0,)
