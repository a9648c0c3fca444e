"""Cosine waves against SciPy's transform, and orders and systems that must be complete."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.attacks.planes import (
    blend,
    checked_share,
    from_waves,
    in_random_order,
    plane_of,
    single_wave,
    smooth_noise,
    spread_direction,
    wave,
    waves_of,
)
from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng
from small_models import randn

EXACT = torch.zeros(1, dtype=torch.float64)
SHAPES = [(1,), (7,), (2, 9), (3, 4, 5), (2, 2, 3, 4), (5, 1, 6), (4, 1, 1)]


@given(st.integers(1, 70), st.integers(0, 3))
@settings(max_examples=40)
def test_the_inverse_transform_is_scipys(size, seed):
    amplitudes = randn(3, 2, size, seed=seed, dtype=torch.float64)
    known = scipy.fft.idct(amplitudes.numpy(), norm="ortho")
    assert np.allclose(from_waves(amplitudes).numpy(), known, rtol=0, atol=1e-12)
    rows = wave(size, torch.arange(size), torch.float64)
    assert np.allclose(rows.numpy(), scipy.fft.idct(np.eye(size), norm="ortho"), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [1.0, 0.5, None])
def test_blends_are_scipys_inverse_of_zero_padded_amplitudes(shape, share):
    waves, full = waves_of(shape, share), plane_of(shape)
    amplitudes = randn(2, 3, *waves, dtype=torch.float64)
    padded = np.zeros((2, 3, *full))
    padded[..., : waves[1], : waves[2]] = amplitudes.numpy()
    known = scipy.fft.idctn(padded, axes=(-2, -1), norm="ortho").reshape(2, 3, *shape)
    assert np.allclose(blend(amplitudes, shape).numpy(), known, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_single_waves_and_spread_directions_are_orthonormal_systems_of_the_same_space(shape, share):
    size = math.prod(waves_of(shape, share))
    every = torch.arange(size)
    single = single_wave(every, shape, share, EXACT).flatten(1)
    space = single.T @ single  # the projection onto what the kept waves span
    assert torch.allclose(single @ single.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    for first in (0, size):
        index = torch.full((size,), 5)
        spread = spread_direction(Rng(1), index, every + first, shape, share, EXACT).flatten(1)
        assert torch.allclose(spread @ spread.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
        assert torch.allclose(spread @ space, spread, atol=1e-12)


def test_successive_systems_and_inputs_differ():
    index = torch.tensor([0, 1, 0])
    number = torch.tensor([3, 3, 3 + 24])
    one, other, later = spread_direction(Rng(0), index, number, (24,), None, EXACT)
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, later)


@given(st.integers(1, 300), st.integers(0, 5))
@settings(max_examples=30)
def test_a_random_order_visits_every_place_once_a_round(size, index):
    number = torch.arange(2 * size)
    places = in_random_order(Rng(2), torch.full_like(number, index), number, size)
    for part in places.split(size):
        assert part.sort().values.tolist() == list(range(size))


def test_orders_of_large_inputs_are_complete_too():
    number = torch.arange(30_030)
    places = in_random_order(Rng(2), torch.zeros_like(number), number, 30_030)
    assert len(places.unique()) == 30_030


def test_smooth_noise_is_normal_on_the_kept_waves_only():
    index, turn = torch.arange(400), torch.zeros(400, dtype=torch.int64)
    noise = smooth_noise(Rng(0), index, 2, (1, 8, 8), 0.5, turn, EXACT)
    amplitudes = torch.from_numpy(scipy.fft.dctn(noise.numpy(), axes=(-2, -1), norm="ortho"))
    kept = amplitudes[..., :4, :4]
    assert abs(float(kept.square().mean()) - 1) < 0.05
    assert float(amplitudes.square().sum() - kept.square().sum()) < 1e-18
    plain = smooth_noise(Rng(0), index, 2, (1, 8, 8), None, turn, EXACT)
    assert torch.equal(plain, Rng(0).normal(index, (2, 1, 8, 8), turn, torch.float64))


def test_draws_belong_to_the_input_not_to_the_batch():
    index, number = torch.arange(9), torch.arange(9) * 3
    like = torch.zeros(1)
    for shape, share in (((3, 40, 30), None), ((2000,), 0.3), ((5, 4), 1.0)):
        whole = spread_direction(Rng(0), index, number, shape, share, like)
        noise = smooth_noise(Rng(0), index, 3, shape, share, number, like)
        for i in range(9):
            one = slice(i, i + 1)
            assert torch.equal(
                whole[one], spread_direction(Rng(0), index[one], number[one], shape, share, like)
            )
            assert torch.equal(
                noise[one], smooth_noise(Rng(0), index[one], 3, shape, share, number[one], like)
            )


@pytest.mark.parametrize("share", [0.0, -1.0, 1.01, math.nan])
def test_shares_that_make_no_sense_are_refused(share):
    with pytest.raises(ThreatError, match="frequencies"):
        checked_share(share)
