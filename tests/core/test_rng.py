"""Random numbers: fair, independent, and a property of the input alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hardpoint.core.rng import Rng

INDEX = torch.arange(400)


def draws(rng: Rng, kind: str, dtype=torch.float32, counter=0, index=INDEX) -> np.ndarray:
    return getattr(rng, kind)(index, (50,), counter, dtype).double().numpy()


@pytest.mark.parametrize("kind", ["uniform", "normal", "sign"])
@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=20, unique=True),
    st.integers(-(2**63), 2**63 - 1),
    st.data(),
)
def test_a_draw_belongs_to_its_input_whatever_the_batch(kind, index, seed, data):
    rng = Rng(seed).fork("x")
    shape = tuple(data.draw(st.lists(st.integers(1, 4), max_size=3)))
    counter = data.draw(st.integers(0, 1000))
    together = getattr(rng, kind)(torch.tensor(index), shape, counter)
    assert together.shape == (len(index), *shape)
    order = data.draw(st.permutations(range(len(index))))
    again = getattr(rng, kind)(
        torch.tensor(index)[torch.tensor(order)], shape, torch.tensor([counter] * len(index))
    )
    assert torch.equal(again, together[torch.tensor(order)])
    pick = data.draw(st.integers(0, len(index) - 1))
    assert torch.equal(
        getattr(rng, kind)(torch.tensor(index[pick : pick + 1]), shape, counter)[0], together[pick]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_is_uniform(dtype):
    values = draws(Rng(3).fork("u"), "uniform", dtype)
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values.ravel(), "uniform").pvalue > 1e-3
    for axis in (0, 1):  # each input and each position by itself, too
        means = values.mean(axis=axis)
        spread = math.sqrt(1 / 12 / values.shape[axis])
        assert np.abs(means - 0.5).max() < 5 * spread


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_is_normal(dtype):
    values = draws(Rng(4).fork("n"), "normal", dtype).ravel()
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert abs(values.mean()) < 5 / math.sqrt(len(values))
    assert abs(values.var() - 1) < 5 * math.sqrt(2 / len(values))
    assert abs((values**4).mean() - 3) < 0.2
    assert np.isfinite(values).all()


def test_normal_pairs_are_uncorrelated():
    values = draws(Rng(4).fork("n"), "normal")
    first, second = values[:, :25].ravel(), values[:, 25:].ravel()  # both halves of Box and Muller's pairs
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    assert abs(np.corrcoef(first**2, second**2)[0, 1]) < 0.05


def test_signs_are_balanced_and_are_signs():
    values = draws(Rng(5).fork("s"), "sign")
    assert set(np.unique(values)) == {-1.0, 1.0}
    assert abs(values.mean()) < 5 / math.sqrt(values.size)
    assert np.abs(values.mean(axis=0)).max() < 5 / math.sqrt(400)


@given(st.integers(1, 50), st.integers(0, 2**32))
def test_integers_stay_in_range(high, seed):
    values = Rng(seed).integers(torch.arange(200), high, (3,))
    assert values.dtype == torch.int64
    assert int(values.min()) >= 0
    assert int(values.max()) < high


def test_integers_are_fair_for_each_ceiling():
    highs = torch.tensor([2, 3, 7])
    values = Rng(9).integers(torch.arange(6000), highs, (3,)).numpy()
    for column, high in enumerate(highs.tolist()):
        assert stats.chisquare(np.bincount(values[:, column], minlength=high)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Rng(0), Rng(1)),
        (Rng(0).fork("a"), Rng(0).fork("b")),
        (Rng(0).fork("a").fork("b"), Rng(0).fork("b").fork("a")),
        (Rng(0).fork(0), Rng(0).fork(1)),
        (Rng(0).fork("a"), Rng(0)),
        (Rng(7).fork("a"), Rng(8).fork("a")),
    ],
)
def test_streams_and_seeds_are_independent(one, other):
    first, second = draws(one, "uniform").ravel(), draws(other, "uniform").ravel()
    assert not np.isin(first[:1000], second).mean() > 0.05
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04


def test_counters_and_neighbouring_inputs_are_independent():
    rng = Rng(11).fork("start")
    first, second = draws(rng, "uniform", counter=0), draws(rng, "uniform", counter=1)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.04
    assert abs(np.corrcoef(first[:-1].ravel(), first[1:].ravel())[0, 1]) < 0.04
    assert abs(np.corrcoef(first[:, :-1].ravel(), first[:, 1:].ravel())[0, 1]) < 0.04
    # input i + 1 at draw c must not repeat input i at draw c + 1
    assert not np.isin(first[1:, 0], second[:-1, 0]).any()


def test_forks_are_reproducible_and_differ_by_name():
    names = [f"stage {i}" for i in range(2000)]
    streams = {Rng(0).fork(name).stream for name in names}
    assert len(streams) == len(names)
    assert Rng(0).fork("stage 7") == Rng(0).fork("stage 7")
    assert Rng(0).fork(7) == Rng(0).fork("7")


def test_float64_draws_use_more_than_24_bits():
    values = draws(Rng(0), "uniform", torch.float64).ravel() * 2**24
    assert (values != np.floor(values)).mean() > 0.99


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    Rng(0).normal(INDEX, (3,))
    assert torch.equal(before, torch.get_rng_state())
