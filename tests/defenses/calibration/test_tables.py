from __future__ import annotations

import json

import pytest
import torch
from scipy.stats import binomtest

from hardpoint.core.errors import DataError, NothingToTest
from hardpoint.defenses.calibration import (
    auroc,
    exact_rate,
    marginal_threshold,
    pac_threshold,
    threshold_table,
)
from small_models import randn


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_exact_intervals_are_clopper_and_pearsons(n):
    for count in {0, 1, n // 3, n - 1, n}:
        theirs = binomtest(count, n).proportion_ci(0.95, "exact")
        rate = exact_rate(count, n)
        assert (rate.low, rate.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
        assert rate.count == count
    with pytest.raises(NothingToTest):
        exact_rate(0, 0)


def test_the_area_under_the_curve_is_that_of_all_pairs():
    benign, attacked = randn(60).mul(2).round(), randn(40, seed=1).mul(2).round() + 1
    pairs = [1.0 if a > b else 0.5 * (a == b) for a in attacked.tolist() for b in benign.tolist()]
    found = auroc(benign, attacked, benign)
    assert found.naive == sum(pairs) / len(pairs)
    assert found.adaptive == 0.5
    assert auroc(-attacked, -benign).naive == found.naive


def test_an_adaptive_attacker_who_was_not_measured_is_never_left_out():
    benign, attacked = randn(50), randn(50, seed=1)
    found = auroc(benign, attacked)
    assert found.describe()["adaptive"] == "not measured"
    assert "adaptive: not measured" in str(found)
    (row,) = threshold_table("energy", [marginal_threshold(benign, 0.1)], benign, attacked)
    told = json.loads(json.dumps(row.describe()))
    assert told["caught_adaptive"] is None
    assert told["added_ms"] is None


def test_rows_count_what_their_threshold_flags():
    scores, holdout = torch.arange(1000.0), torch.arange(0.0, 1000.0, 10.0)
    naive, adaptive = torch.full((10,), 2000.0), torch.full((20,), -1.0)
    thresholds = [marginal_threshold(scores, 0.2), pac_threshold(scores, 0.2, 0.05)]
    rows = threshold_table("margin", thresholds, holdout, naive, adaptive, added_ms=0.25)
    assert [(row.threshold, row.alpha) for row in rows] == [(t.value, t.alpha) for t in thresholds]
    for row in rows:
        told = row.describe()
        assert told["false_positives"]["count"] == int((holdout > row.threshold).sum())
        assert told["caught_naive"]["value"] == 1.0
        assert told["caught_adaptive"]["value"] == 0.0
        assert told["added_ms"] == 0.25
        assert "says nothing about how many attacks are caught" in told["guarantee"]
    with pytest.raises(DataError, match="scores of attacked inputs is NaN"):
        threshold_table("margin", thresholds, holdout, naive * torch.nan)
    with pytest.raises(NothingToTest, match="there are no holdout scores"):
        threshold_table("margin", thresholds, holdout[:0], naive)
