"""Median, Gaussian and non-local smoothing against scipy and against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hardpoint.defenses import GaussianSmoothing, MedianSmoothing, NonLocalMeans
from small_models import rand

SIDES = st.integers(1, 7)


@settings(max_examples=40)
@given(height=SIDES, width=SIDES, size=st.integers(1, 6), seed=st.integers(0, 99))
def test_median_is_scipys(height, width, size, seed):
    x = rand(2, 2, height, width, seed=seed)
    expected = [[ndimage.median_filter(plane.numpy(), size) for plane in image] for image in x]
    assert torch.equal(MedianSmoothing(size).apply(x), torch.tensor(np.array(expected)))


def test_median_gives_its_gradient_to_the_pixel_chosen():
    x = rand(1, 1, 5, 5, dtype=torch.float64).requires_grad_()
    made = MedianSmoothing(3).apply(x)[0, 0, 2, 2]
    made.backward()
    assert x.grad.sum() == 1
    assert x.detach()[x.grad == 1].item() == made.item()


@settings(max_examples=30)
@given(height=SIDES, width=SIDES, sigma=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_gaussian_is_scipys(height, width, sigma, seed):
    x = rand(2, 3, height, width, seed=seed, dtype=torch.float64)
    expected = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="reflect", truncate=4.0)
    torch.testing.assert_close(GaussianSmoothing(sigma).apply(x), torch.tensor(expected))


def test_constants_stay_to_the_last_bit():
    x = torch.full((2, 3, 6, 6), 0.1)
    for stage in (GaussianSmoothing(1.3), NonLocalMeans(), MedianSmoothing(4)):
        assert torch.equal(stage.apply(x), x)


def test_gaussian_keeps_its_gradient_where_rounding_is_cut_off():
    x = torch.ones(1, 1, 6, 6, requires_grad=True)
    GaussianSmoothing(1.3).apply(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))


def by_hand(x: np.ndarray, search: int, patch: int, strength: float) -> np.ndarray:
    """Non-local means of one image ``[c, h, w]``, pixel by pixel."""
    reach, rim = search // 2, patch // 2
    edge = reach + rim
    wide = np.pad(x, ((0, 0), (edge, edge), (edge, edge)), mode="symmetric")
    made = np.zeros_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            own = wide[:, i + reach : i + reach + patch, j + reach : j + reach + patch]
            total, weights = np.zeros(len(x)), 0.0
            for a in range(search):
                for b in range(search):
                    other = wide[:, i + a : i + a + patch, j + b : j + b + patch]
                    weight = math.exp(-((own - other) ** 2).mean() / strength**2)
                    total += weight * other[:, rim, rim]
                    weights += weight
            made[:, i, j] = total / weights
    return made


@pytest.mark.parametrize(
    ("search", "patch", "strength"), [(5, 3, 0.2), (3, 1, 0.5), (7, 5, 0.1), (1, 3, 0.1)]
)
def test_non_local_means_is_that_of_a_loop(search, patch, strength):
    x = rand(2, 3, 6, 5, dtype=torch.float64)
    expected = np.stack([by_hand(one.numpy(), search, patch, strength) for one in x])
    torch.testing.assert_close(NonLocalMeans(search, patch, strength).apply(x), torch.tensor(expected))


def test_a_window_of_one_changes_nothing_and_a_huge_strength_gives_the_mean_of_the_window():
    x = rand(1, 1, 6, 6, dtype=torch.float64)
    assert torch.equal(NonLocalMeans(search=1).apply(x), x)
    expected = ndimage.uniform_filter(x[0, 0].numpy(), 3, mode="reflect")
    torch.testing.assert_close(NonLocalMeans(3, 1, 1e6).apply(x)[0, 0], torch.tensor(expected))


def test_non_local_means_takes_noise_from_stripes_and_leaves_the_stripes():
    stripes = torch.arange(16).div(4, rounding_mode="floor").remainder(2).float().expand(1, 1, 16, 16)
    noisy = stripes + 0.03 * torch.randn(stripes.shape, generator=torch.Generator().manual_seed(0))
    error = (NonLocalMeans(strength=0.06).apply(noisy) - stripes).square().mean()
    assert error < 0.2 * (noisy - stripes).square().mean()
