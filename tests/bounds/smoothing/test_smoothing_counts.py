"""What counts prove: binomial truths, every small case, and how often a statement is false over many streams."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad

from hardpoint.bounds.smoothing import Anytime, Fixed
from hardpoint.bounds.smoothing.binomial import least_hits, lower_end, p_value
from hardpoint.bounds.smoothing.estimators import Goal
from hardpoint.bounds.smoothing.sequence import (
    log_wealth,
    log_wealth_above,
    lower_end_anytime,
    ruled_out,
    upper_end_anytime,
)

STREAMS = 100_000


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def floats(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def goal(alpha: float, target: float | None = None, rows: int = 1) -> Goal:
    wanted = None if target is None else torch.full((rows,), target, dtype=torch.float64)
    return Goal(alpha, wanted, lambda p: torch.special.ndtri(p.clamp(0.5, 1.0)))


@given(st.integers(1, 3000), st.floats(0, 1), st.sampled_from([1e-6, 1e-3, 0.05, 0.25]))
def test_the_lower_end_is_that_of_clopper_and_pearson_and_never_above(n, share, alpha):
    k = round(share * n)
    low = float(lower_end(ints(k), ints(n), alpha))
    theirs = stats.binomtest(k, n, alternative="greater").proportion_ci(1 - alpha, "exact").low
    assert low == pytest.approx(theirs, abs=1e-9)
    assert low == 0 or stats.binom.sf(k - 1, n, low) <= alpha * (1 + 1e-9)


def test_all_hits_prove_the_root_of_alpha():
    for n in (1, 10, 1000, 100_000, 10**7):
        assert float(lower_end(ints(n), ints(n), 0.001)) == pytest.approx(0.001 ** (1 / n), rel=1e-12)


def test_the_least_hits_are_the_first_that_prove():
    targets = floats(0.5, 0.6, 0.9, 0.999, 1.0)
    for n in (1, 7, 40):
        found = least_hits(n, 0.01, targets)
        for target, least in zip(targets.tolist(), found.tolist(), strict=True):
            proving = [k for k in range(n + 1) if float(lower_end(ints(k), ints(n), 0.01)) > target]
            assert least == (proving[0] if proving else n + 1)


def test_the_two_sided_test_is_scipys():
    for first, second in itertools.product(range(1, 15), range(15)):
        if first >= second:
            theirs = stats.binomtest(first, first + second, 0.5).pvalue
            assert float(p_value(ints(first), ints(second))) == pytest.approx(theirs, rel=1e-9)


def test_the_wealth_is_the_integral_that_it_is_said_to_be():
    for hits, n, target in ((3, 5, 0.6), (40, 45, 0.7), (0, 4, 0.5), (30, 30, 0.95)):

        def bet(theta: float, hits=hits, n=n, target=target) -> float:
            gain = (theta / target) ** hits * ((1 - theta) / (1 - target)) ** (n - hits)
            return gain * stats.beta.pdf(theta, 0.5, 0.5)

        whole = quad(bet, target, 1, limit=400)[0] / stats.beta.sf(target, 0.5, 0.5)
        assert math.exp(float(log_wealth(ints(hits), ints(n), floats(target)))) == pytest.approx(
            whole, rel=1e-6
        )


def test_the_wealth_does_not_grow_on_average_under_the_claim():
    for target, p in itertools.product((0.5, 0.8, 0.97), (1.0, 0.9, 0.4)):
        true = target * p
        for hits, n in ((0, 0), (5, 6), (30, 40)):
            now = math.exp(float(log_wealth(ints(hits), ints(n), floats(target))))
            up = math.exp(float(log_wealth(ints(hits + 1), ints(n + 1), floats(target))))
            down = math.exp(float(log_wealth(ints(hits), ints(n + 1), floats(target))))
            assert true * up + (1 - true) * down <= now * (1 + 1e-9)


@given(st.integers(1, 100_000), st.floats(0, 1), st.sampled_from([1e-4, 1e-3, 0.05, 0.25]))
def test_everything_from_one_half_to_the_lower_end_is_ruled_out(n, share, alpha):
    hits = round(share * n)
    low, high = (float(end(ints(hits), ints(n), alpha)) for end in (lower_end_anytime, upper_end_anytime))
    assert low <= hits / n <= high + 1e-9
    if low > 0:
        claims = torch.linspace(0.5, low, 200, dtype=torch.float64)
        wealth = log_wealth(ints(hits).expand(200), ints(n).expand(200), claims)
        assert bool((wealth >= math.log(1 / alpha)).all())
        assert bool((wealth.diff() <= 1e-7).all())
        assert not bool(ruled_out(ints(hits), ints(n), floats(low + 1e-6), alpha))


def test_extreme_counts_are_finite():
    n = 10**8
    for hits in (0, 1, n // 2, n - 1, n):
        for target in (0.5, 1 - 1e-9, 0.999):
            assert not math.isnan(float(log_wealth(ints(hits), ints(n), floats(target))))
            assert not math.isnan(float(log_wealth_above(ints(hits), ints(n), floats(target))))
        assert 0 <= float(lower_end_anytime(ints(hits), ints(n), 0.001)) <= max(hits / n, 1e-12)
        assert 0 <= float(lower_end(ints(hits), ints(n), 0.001)) <= hits / n
    assert not bool(ruled_out(ints(n), ints(n), floats(1.0), 0.001))


def decided(estimator: Fixed, answers: tuple[int, ...], alpha: float, target: float) -> tuple[bool, int]:
    """The decision on one stream, and after how many draws it fell."""
    taken, aim = 0, goal(alpha, target)
    while True:
        taken = estimator.next_look(taken, aim)
        look = estimator.look(ints(sum(answers[:taken])), taken, aim)
        if bool(look.done):
            return bool(look.low >= target), taken


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_stopping_early_changes_no_decision(n):
    left_early = 0
    for answers in itertools.product((0, 1), repeat=n):
        for target in (0.5, 0.55, 0.8):
            whole = float(lower_end(ints(sum(answers)), ints(n), 0.2)) > target
            ours, taken = decided(Fixed(n=n, step=1), answers, 0.2, target)
            assert ours == whole
            left_early += taken < n
    assert left_early or n == 1


def false_rate(estimator, p: float, target: float | None, alpha: float, seed: int = 0) -> float:
    """The share of streams of hits with probability ``p`` in which a bound above ``p`` was ever stated."""
    draws = np.random.default_rng(seed)
    hits, wrong = np.zeros(STREAMS, dtype=np.int64), np.zeros(STREAMS, dtype=bool)
    alive, taken = np.arange(STREAMS), 0
    while len(alive):
        stop = estimator.next_look(taken, goal(alpha, target))
        hits[alive] += draws.binomial(stop - taken, p, len(alive))
        taken = stop
        seen, place = np.unique(hits[alive], return_inverse=True)  # a look depends on the count alone
        look = estimator.look(torch.from_numpy(seen), taken, goal(alpha, target, len(seen)))
        stated = look.low.numpy() > p if target is None else look.low.numpy() >= target
        wrong[alive[stated[place]]] = True
        alive = alive[~look.done.numpy()[place]]
    return float(wrong.mean())


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize(
    ("p", "target"), [(0.5, 0.5), (0.84, 0.84), (0.83, 0.84), (0.9772, 0.9772), (0.999, 0.999), (0.4, 0.5)]
)
def test_false_decisions_are_no_more_than_alpha(p, target, alpha):
    assert false_rate(Anytime(most=3000, step=50), p, target, alpha) <= alpha
    needed = int(least_hits(1000, alpha, floats(target)))
    assert stats.binom.sf(needed - 1, 1000, p) <= alpha


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("p", [0.3, 0.5, 0.6, 0.9, 0.999])
def test_false_radii_are_no_more_than_alpha(p, alpha):
    assert false_rate(Anytime(most=2000, step=100, tolerance=0.01), p, None, alpha) <= alpha
    every = torch.arange(1001)
    stated = Fixed(n=1000).proven(every, torch.full((1001,), 1000), goal(alpha))
    assert stats.binom.pmf(every[stated > p].numpy(), 1000, p).sum() <= alpha


def test_what_is_far_from_the_target_is_settled_by_few_draws():
    estimator, aim = Anytime(), goal(0.001, 0.84)
    assert bool(estimator.look(ints(100), 100, aim).done)
    assert bool(estimator.look(ints(40), 100, aim).done)
    assert not bool(estimator.look(ints(85), 100, aim).done)


def test_what_too_few_draws_are_left_for_is_left():
    estimator, aim = Anytime(most=100_000), goal(0.001, 0.84)
    assert not bool(estimator.look(ints(8400), 10_000, aim).done)
    assert bool(estimator.look(ints(58_800), 70_000, aim).done)
    assert not bool(estimator.look(ints(59_150), 70_000, aim).done)


def test_radii_are_left_when_they_are_known():
    estimator, aim = Anytime(), goal(0.001)
    assert not bool(estimator.look(ints(900), 1000, aim).done)
    assert bool(estimator.look(ints(27_000), 30_000, aim).done)
    assert bool(estimator.look(ints(300), 1000, aim).done)  # nothing above one half is possible


@pytest.mark.parametrize("estimator", [Anytime(most=500), Fixed(n=500)])
def test_the_cap_is_what_hits_alone_prove(estimator):
    highest = estimator.proven(ints(500), ints(500), goal(0.001))
    assert float(highest) == pytest.approx(estimator.cap(0.001), rel=1e-12)
    assert estimator.cap(0.001) > estimator.cap(0.0001)
