"""Projected ascent against the exact maxima of linear functions."""

from __future__ import annotations

import pytest
import torch

from hardpoint.core.box import Box
from hardpoint.core.rng import Rng
from hardpoint.engine.ascent import ascend, slope_at
from hardpoint.threats import L1, L2, Linf
from small_models import _best_gain, rand, randn

UNIT = Box(0.0, 1.0)
BALLS = [("linf", Linf, 0.2), ("l2", L2, 0.4), ("l1", L1, 0.7)]


def climbed(ball, x, weight, start=None, steps=60, length=0.25):
    region = ball.around(x, UNIT)
    z = ascend(
        lambda z: (z * weight).sum(1), region, x if start is None else start, steps=steps, length=length
    )
    return region, z


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("norm", "kind", "eps"), BALLS)
def test_reaches_the_exact_maximum_of_a_linear_function(norm, kind, eps, dtype):
    x, weight = rand(24, 6, dtype=dtype), randn(24, 6, seed=1, dtype=dtype)
    region, z = climbed(kind(eps), x, weight, steps=200, length=0.02)
    assert z.dtype == dtype
    assert region.contains(z).all()
    gained = ((z - x).double() * weight.double()).sum(1)
    best = torch.tensor(
        [_best_gain(w, -p, 1 - p, norm, eps) for w, p in zip(weight.double(), x.double(), strict=True)]
    )
    torch.testing.assert_close(gained, best.to(gained), rtol=0.01, atol=1e-4)  # steps of one length overshoot


@pytest.mark.parametrize(("norm", "kind", "eps"), BALLS)
def test_one_long_step_is_enough_away_from_the_box(norm, kind, eps):
    x, weight = torch.full((5, 4), 0.5), randn(5, 4, seed=2)
    _, z = climbed(kind(min(eps, 0.4)), x, weight, steps=1, length=1.0)
    best = [_best_gain(w, torch.full((4,), -0.5), torch.full((4,), 0.5), norm, min(eps, 0.4)) for w in weight]
    torch.testing.assert_close(((z - x) * weight).sum(1), torch.tensor(best).to(z), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("norm", "kind", "eps"), BALLS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_stays_inside_wherever_it_begins(norm, kind, eps, steps):
    x = rand(16, 6)
    region = kind(eps).around(x, UNIT)
    for start in (x + 3, region.sample(Rng(0), torch.arange(16)), torch.full_like(x, torch.nan)):
        _, z = climbed(kind(eps), x, randn(16, 6, seed=3), start, steps=steps, length=2.5)
        assert region.contains(z).all()
        assert UNIT.contains(z).all()


@pytest.mark.parametrize(("norm", "kind", "eps"), BALLS)
@pytest.mark.parametrize("size", [1, 7, 64])
def test_an_input_does_not_depend_on_its_batch(norm, kind, eps, size):
    x, weight = rand(20, 2, 3), randn(20, 2, 3, seed=4)
    whole, parts = None, []
    for rows in [torch.arange(20), *torch.arange(20).split(size)]:
        region = kind(eps).around(x[rows], UNIT)
        curved = lambda z, w=weight[rows]: (torch.sin(3 * z) * w).flatten(1).sum(1)  # noqa: E731
        z = ascend(curved, region, x[rows], steps=4, length=0.5)
        whole, parts = (z, parts) if whole is None else (whole, [*parts, z])
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-6)


def test_no_steps_is_where_it_began_and_start_is_left_alone():
    x = rand(3, 2)
    start = x + 0.01
    kept = start.clone()
    assert ascend(lambda z: z.sum(1), Linf(0.1).around(x, UNIT), start, steps=0, length=1.0) is start
    ascend(lambda z: z.sum(1), Linf(0.1).around(x, UNIT), start, steps=3, length=1.0)
    assert torch.equal(start, kept)
    assert not start.requires_grad


def test_slope_of_a_function_is_its_gradient_row_by_row():
    z = randn(5, 3, dtype=torch.float64)
    with torch.no_grad():  # also where the caller tracks nothing
        slope = slope_at(lambda p: (p**3).sum(1), z)
    torch.testing.assert_close(slope, 3 * z**2)
    assert not slope.requires_grad
    assert z.grad is None


def test_slope_of_a_function_that_does_not_depend_on_its_argument_is_zero():
    z, weight = randn(4, 3), torch.ones(3, requires_grad=True)
    assert torch.equal(slope_at(lambda p: torch.ones(4), z), torch.zeros(4, 3))
    assert torch.equal(slope_at(lambda p: weight.sum().expand(4), z), torch.zeros(4, 3))
    assert weight.grad is None


@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_a_flat_or_broken_objective_leaves_an_allowed_point(kind):
    x = rand(4, 3)
    region = kind(0.2).around(x, UNIT)
    still = ascend(lambda z: 0 * z.sum(1), region, x, steps=3, length=1.0)
    torch.testing.assert_close(still, x)
    assert region.contains(ascend(lambda z: z.sum(1) * torch.nan, region, x, steps=3, length=1.0)).all()
