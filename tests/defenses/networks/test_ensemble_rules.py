"""How members answer together: closed forms, invariances, ties, and the gradient of a vote."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from hardpoint.core.errors import ConfigError, DataError
from hardpoint.defenses import MajorityVote, MeanLogits, MeanProbability, WeightedMean
from hardpoint.defenses.networks import Combine
from small_models import randn

RULES = [MeanProbability(), MeanLogits(), WeightedMean((0.5, 0.3, 0.2)), MajorityVote()]


def scores(members: int = 3, n: int = 40, classes: int = 5, seed: int = 0) -> torch.Tensor:
    return 3 * randn(members, n, classes, seed=seed, dtype=torch.float64)


@pytest.mark.parametrize("rule", RULES)
def test_rows_stand_alone_and_a_shift_of_a_members_scores_changes_nothing(rule):
    given = scores()
    whole = rule.combined(given)
    assert isinstance(rule, Combine)
    assert whole.shape == (40, 5)
    for size in (1, 7):
        parts = torch.cat([rule.combined(part) for part in given.split(size, dim=1)])
        assert torch.allclose(whole, parts, atol=1e-12)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(rule.combined(given[:, order]), whole[order])
    moved = rule.combined(given + randn(3, 40, 1, seed=1, dtype=torch.float64))
    assert torch.allclose(moved.log_softmax(1), whole.log_softmax(1))


@pytest.mark.parametrize("rule", [MeanProbability(), MeanLogits(), MajorityVote()])
def test_the_order_of_members_does_not_matter(rule):
    given = scores()
    assert torch.allclose(rule.combined(given), rule.combined(given.flip(0)))


def test_mean_probability_is_the_logarithm_of_the_mean_even_where_exp_would_underflow():
    given = scores()
    assert torch.allclose(MeanProbability().combined(given).exp(), given.softmax(2).mean(0))
    far = torch.tensor([[[0.0, 1000.0]], [[0.0, 2000.0]]])
    assert torch.allclose(MeanProbability().combined(far), torch.tensor([[-1000.0 - math.log(2), 0.0]]))
    assert torch.equal(MeanLogits().combined(given), given.mean(0))


def test_equal_weights_are_the_mean_and_weight_one_is_that_member():
    given = scores()
    equal = WeightedMean((1 / 3, 1 / 3, 1 / 3)).combined(given)
    assert torch.allclose(equal, MeanProbability().combined(given))
    alone = given.clone().requires_grad_(True)
    picked = WeightedMean((0.0, 1.0, 0.0)).combined(alone)
    assert torch.allclose(picked, given[1].log_softmax(1))
    (slope,) = torch.autograd.grad(picked[:, 0].sum(), alone)
    assert torch.isfinite(slope).all()
    assert (slope[[0, 2]] == 0).all()


@pytest.mark.parametrize("weights", [(), (0.5, 0.6), (1.5, -0.5), (math.nan, 1.0), (math.inf,)])
def test_weights_must_be_a_mixture(weights):
    with pytest.raises(ConfigError, match="sum to 1"):
        WeightedMean(weights)


def test_weights_for_other_members_are_refused():
    with pytest.raises(ConfigError, match="2 weights for 3 members"):
        WeightedMean((0.5, 0.5)).combined(scores())


def test_fitted_weights_are_those_of_the_least_loss():
    given, y = scores(2, 300), torch.arange(300) % 5
    given[0, torch.arange(300), y] += 1.5
    given[1, torch.arange(300), y] += 1.0
    right = given.softmax(2)[:, torch.arange(300), y]

    def loss(weight: float) -> float:
        return -float((weight * right[0] + (1 - weight) * right[1]).log().mean())

    best = minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}).x
    fitted = WeightedMean.fit(given.float(), y).weights
    assert sum(fitted) == pytest.approx(1)
    assert fitted[0] == pytest.approx(best, abs=1e-3)
    assert 0.1 < best < 0.9


def test_a_member_that_knows_nothing_gets_almost_no_weight():
    y = torch.arange(200) % 5
    good = 4 * torch.nn.functional.one_hot(y, 5).double()
    fitted = WeightedMean.fit(torch.stack([good, -good, torch.zeros_like(good)]), y).weights
    assert fitted[0] > 0.98


@pytest.mark.parametrize(
    ("given", "y"),
    [
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64)),
        (torch.full((2, 3, 4), torch.nan), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 3, 4), torch.full((3,), 4)),
        (torch.zeros(2, 0, 4), torch.zeros(0, dtype=torch.int64)),
    ],
)
def test_weights_are_not_fitted_on_what_does_not_fit(given, y):
    with pytest.raises(DataError):
        WeightedMean.fit(given, y)


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 6), st.sampled_from([0.1, 3.0, 60.0]))
def test_a_vote_is_the_count_and_ties_go_to_the_higher_mean_probability(seed, members, classes, scale):
    given = scale * randn(members, 20, classes, seed=seed, dtype=torch.float64)
    made = MajorityVote().combined(given)
    votes = torch.nn.functional.one_hot(given.argmax(2), classes).sum(0)
    fraction = made - votes
    assert ((fraction > 0) & (fraction < 1)).all()
    mean = given.softmax(2).mean(0)
    leaders = votes == votes.amax(1, keepdim=True)
    contest = torch.where(leaders, mean, -1.0)
    first, second = contest.topk(2, dim=1).values.unbind(1)
    clear = first - second > 1e-9  # closer ones are one in floating point
    assert torch.equal(made.argmax(1)[clear], contest.argmax(1)[clear])
    assert leaders[torch.arange(20), made.argmax(1)].all()


def test_a_vote_tells_small_probabilities_apart_and_takes_certain_members():
    given = torch.tensor([[[50.0, 1.0, 0.0]]] * 3)
    made = MajorityVote().combined(given)
    assert made[0, 1] > made[0, 2]
    certain = torch.tensor([[[1e4, 0.0]], [[1e4, 0.0]], [[0.0, 1e4]]])
    assert torch.isfinite(MajorityVote().combined(certain)).all()
    assert MajorityVote().combined(certain)[0].tolist()[0] < 3


def test_the_gradient_of_a_vote_is_that_of_the_mean_log_probability():
    given = scores().requires_grad_(True)
    weight = randn(40, 5, seed=3, dtype=torch.float64)
    (through,) = torch.autograd.grad((MajorityVote().combined(given) * weight).sum(), given)
    (wanted,) = torch.autograd.grad((given.log_softmax(2).mean(0) * weight).sum(), given)
    assert torch.allclose(through, wanted)
    assert (through.abs().sum((1, 2)) > 0).all()
