from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from hardpoint.core.errors import ConfigError, DataError, HardpointError, NothingToTest
from hardpoint.defenses.calibration import (
    Uncalibrated,
    marginal_threshold,
    p_values,
    pac_rank,
    pac_threshold,
    per_class,
    smallest_n,
)
from small_models import rand, randn


@given(
    st.integers(1, 400),
    st.one_of(st.floats(0.01, 0.9), st.integers(1, 99).map(lambda i: i / 100)),
    st.booleans(),
)
def test_a_marginal_threshold_flags_what_the_p_value_does(n, alpha, tied):
    scores = randn(n, seed=n, dtype=torch.float64)
    asked = randn(50, seed=n + 1, dtype=torch.float64)
    if tied:
        scores, asked = scores.round(), asked.round()
    asked = torch.cat([asked, scores])
    small = p_values(scores, asked) <= alpha
    if n < smallest_n(alpha):
        with pytest.raises(Uncalibrated):
            marginal_threshold(scores, alpha)
        assert not bool(small.any())
    else:
        assert torch.equal(marginal_threshold(scores, alpha).flags(asked), small)


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("delta", [0.01, 0.05, 0.5])
def test_the_pac_rank_is_the_largest_that_holds(alpha, delta):
    for n in (1, 5, 58, 59, 60, 298, 299, 300, 1000, 2995):
        held = [r for r in range(1, n + 1) if beta.cdf(alpha, r, n + 1 - r) >= 1 - delta]
        assert pac_rank(n, alpha, delta) == max(held, default=0)
    least = smallest_n(alpha, delta)
    assert pac_rank(least, alpha, delta) == 1
    assert least == 1 or pac_rank(least - 1, alpha, delta) == 0


def test_known_ranks():
    assert pac_rank(1000, 0.01, 0.05) == 5
    assert pac_rank(10_000, 0.01, 0.05) == 84
    assert (smallest_n(0.01), smallest_n(0.05), smallest_n(0.001, 0.05)) == (99, 19, 2995)


@pytest.mark.parametrize("tied", [False, True])
def test_pac_thresholds_break_their_promise_no_more_often_than_delta(tied):
    alpha, delta, n = 0.05, 0.1, 500
    failed = 0
    for i in range(1000):
        scores = rand(n, seed=i, dtype=torch.float64)
        if tied:
            scores = (scores * 50).floor() / 50
        value = pac_threshold(scores, alpha, delta).value
        failed += (1 - value if not tied else 1 - round(value * 50 + 1) / 50) > alpha + 1e-12
    assert failed <= binom.ppf(0.999, 1000, delta)
    if not tied:
        rank = pac_rank(n, alpha, delta)
        assert failed >= binom.ppf(0.001, 1000, beta.sf(alpha, rank, n + 1 - rank))


def test_too_few_inputs_are_refused_with_the_number_needed():
    with pytest.raises(Uncalibrated, match="needs at least n = 299") as refused:
        pac_threshold(torch.arange(298.0), 0.01, 0.05)
    assert refused.value.needed == 299
    assert isinstance(refused.value, HardpointError)
    assert pac_threshold(torch.arange(299.0), 0.01, 0.05).value == 298.0
    with pytest.raises(Uncalibrated, match="needs at least n = 99"):
        marginal_threshold(torch.arange(98.0), 0.01)
    assert not bool(marginal_threshold(torch.arange(99.0), 0.01).flags(torch.tensor([98.0])).any())
    with pytest.raises(NothingToTest):
        marginal_threshold(torch.empty(0), 0.01)


def test_hostile_input_is_refused():
    good = torch.arange(100.0)
    threshold = marginal_threshold(good, 0.05)
    with pytest.raises(DataError, match="row 1 of the scores is NaN"):
        threshold.flags(torch.tensor([0.0, torch.nan]))
    with pytest.raises(DataError, match="row 3 of the calibration scores is NaN"):
        pac_threshold(good.index_fill(0, torch.tensor([3]), torch.nan), 0.1)
    for alpha in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="alpha is"):
            marginal_threshold(good, alpha)
    with pytest.raises(ConfigError, match="delta is 0"):
        pac_threshold(good, 0.1, 0.0)
    with pytest.raises(DataError, match="predicted classes have shape"):
        per_class(good, torch.zeros(99, dtype=torch.int64), 0.1)


def test_the_guarantee_says_what_is_promised_and_what_is_not():
    scores = torch.arange(1000.0)
    assert marginal_threshold(scores, 0.01).guarantee == (
        "On average over draws of the 1000 calibration inputs, at most 1 % of benign inputs are flagged, as long as benign "
        "traffic is exchangeable with the calibration inputs. It says nothing about how many attacks are caught, and it "
        "ends when the traffic drifts: calibrate again then."
    )
    pac = pac_threshold(scores, 0.01, 0.05)
    assert pac.guarantee.startswith(
        "With 95 % confidence over draws of the 1000 calibration inputs, at most 1 % of"
    )
    assert json.loads(json.dumps(pac.describe()))["guarantee"] == pac.guarantee


@pytest.mark.parametrize("delta", [None, 0.05])
def test_each_class_has_its_own_threshold_where_there_are_enough_of_it(delta):
    predicted = torch.cat([torch.zeros(5000), torch.ones(3000), torch.full((30,), 2.0)]).long()
    scores = rand(8030, dtype=torch.float64) + 10.0 * predicted
    found = per_class(scores, predicted, 0.05, delta, classes=5)
    assert set(found.by_class) == {0, 1}
    assert [note.split(" is predicted for")[0] for note in found.notes] == ["class 2", "class 3", "class 4"]
    assert "at most 10 % are" in found.notes[0]
    alone = marginal_threshold if delta is None else (lambda s, a: pac_threshold(s, a, delta))
    assert found.by_class[1].value == alone(scores[predicted == 1], 0.05).value
    assert found.otherwise.value == alone(scores, 0.05).value
    assert "predicted as class 1" in found.by_class[1].guarantee
    asked, classes = torch.tensor([0.5, 0.99, 10.5, 10.99, 20.0, 0.5]), torch.tensor([0, 0, 1, 1, 2, 4])
    assert found.flags(asked, classes).tolist() == [False, True, False, True, True, False]
    json.dumps(found.describe())
    whole = per_class(scores, predicted.clamp(max=1), 0.05, delta)
    assert whole.notes == ()


def test_class_thresholds_keep_their_rate_within_each_class():
    alpha = 0.05
    for c, spread in enumerate((1.0, 4.0)):
        predicted = torch.arange(20_000) % 2
        scores = randn(20_000, dtype=torch.float64, seed=c) * torch.tensor([1.0, 4.0]).double()[predicted]
        found = per_class(scores, predicted, alpha)
        fresh = spread * randn(20_000, dtype=torch.float64, seed=9 + c)
        rate = found.flags(fresh, torch.full((20_000,), c)).double().mean()
        assert abs(float(rate) - alpha) < 0.012
