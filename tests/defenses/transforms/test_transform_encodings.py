"""Thermometers and ranks: known examples, and backward passes against the smooth functions that they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.core.errors import DataError
from hardpoint.defenses import QuantileEncoding, ThermometerEncoding
from small_models import rand, randn


def test_known_thermometer():
    made = ThermometerEncoding(levels=10).apply(torch.tensor([[0.13], [0.66], [1.0], [0.0]]))
    assert made.sum(1).tolist() == [2, 7, 10, 0]
    assert made[1].tolist() == [1.0] * 7 + [0.0] * 3


@given(levels=st.integers(2, 20), value=st.floats(-1, 3, width=32))
def test_the_number_of_lit_levels_is_the_level(levels, value):
    lit = ThermometerEncoding(levels, low=-1, high=3).apply(torch.tensor([[value]]).double())[0]
    expected = sum(value > -1 + 4 * k / levels for k in range(levels))
    assert lit.sum() == expected
    assert (lit.diff() <= 0).all()


def test_thermometers_of_images_are_channels():
    x = rand(2, 3, 4, 5)
    made = ThermometerEncoding(6).apply(x)
    assert made.shape == (2, 18, 4, 5)
    flat = ThermometerEncoding(6).apply(x[0, :, 2, 3].unsqueeze(0))
    assert torch.equal(made[0, :, 2, 3], flat[0])
    with pytest.raises(DataError, match="tables"):
        ThermometerEncoding().apply(rand(2, 4, 5))


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 2)])
def test_its_backward_is_that_of_the_soft_thermometer(shape):
    x = rand(*shape, dtype=torch.float64).requires_grad_()
    levels = 5
    steps = (torch.arange(levels, dtype=torch.float64) / levels).view(1, 1, -1, *([1] * (len(shape) - 2)))
    soft = torch.sigmoid((x.unsqueeze(2) - steps) * levels).flatten(1, 2)
    gradient = randn(*soft.shape, dtype=torch.float64)
    (expected,) = torch.autograd.grad(soft, x, gradient)
    stage = ThermometerEncoding(levels)
    torch.testing.assert_close(stage.backward(x.detach(), gradient), expected)


@pytest.mark.parametrize("levels", [2, 5, 10])
def test_training_rows_fill_the_ranks_evenly(levels):
    x = randn(50, 3).exp()
    stage = QuantileEncoding.fit(x, levels)
    made = stage.apply(x)
    for feature in made.T:
        ranks, counts = feature.unique(return_counts=True)
        torch.testing.assert_close(ranks, torch.arange(levels) / (levels - 1))
        assert (counts == 50 // levels).all()
    assert stage.levels == levels
    order = x[:, 0].argsort()
    assert (made[order, 0].diff() >= 0).all()
    assert torch.equal(stage.apply(torch.full((1, 3), -1e9)), torch.zeros(1, 3))
    assert torch.equal(stage.apply(torch.full((1, 3), 1e9)), torch.ones(1, 3))


def test_ranks_do_not_mind_a_scale_and_their_slopes_do():
    x = randn(60, 2, dtype=torch.float64)
    one, thousand = QuantileEncoding.fit(x), QuantileEncoding.fit(1000 * x)
    assert torch.equal(one.apply(x), thousand.apply(1000 * x))
    ones = torch.ones_like(x)
    torch.testing.assert_close(one.backward(x, ones), 1000 * thousand.backward(1000 * x, ones))


def test_the_slope_adds_up_to_the_whole_rise_and_follows_the_rank():
    stage = QuantileEncoding.fit(rand(500, 1, dtype=torch.float64), 10)
    grid = torch.linspace(-10, 11, 40001, dtype=torch.float64).unsqueeze(1)
    slope = stage.backward(grid, torch.ones_like(grid))
    assert float(torch.trapezoid(slope[:, 0], grid[:, 0])) == pytest.approx(1.0, abs=1e-6)
    inside = (grid > 0.3) & (grid < 0.7)
    assert float(slope[inside].mean()) == pytest.approx(1.0, abs=0.15)  # of uniform data
    assert (slope[(grid > -0.2) & (grid < 1.2)] > 0.05).all()


def test_ties_and_constants_leave_finite_slopes():
    x = torch.tensor([[0.0, 5.0]] * 9 + [[1.0, 5.0]])
    stage = QuantileEncoding.fit(x, 4)
    assert (stage.widths > 0).all()
    back = stage.backward(x, torch.ones_like(x))
    assert torch.isfinite(back).all()
    assert (back > 0).all()


def test_ranks_are_of_tables():
    with pytest.raises(DataError, match="tables"):
        QuantileEncoding.fit(rand(4, 3, 2, 2))
