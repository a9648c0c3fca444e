"""Steepest steps, random points and reach of the norm balls."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.core.box import Box
from hardpoint.core.rng import Rng
from hardpoint.threats import L0, L1, L2, Linf

BALLS = {"linf": Linf(0.2), "l2": L2(0.7), "l1": L1(1.5), "l0": L0(2)}
LENGTHS = {
    "linf": lambda v: v.abs().amax(1),
    "l2": lambda v: v.norm(dim=1),
    "l1": lambda v: v.abs().sum(1),
}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@settings(max_examples=40)
@given(st.integers(0, 10**6), st.floats(-30, 10))
def test_ascent_is_the_steepest_unit_direction(norm, seed, magnitude):
    g = torch.Generator().manual_seed(seed)
    gradient = torch.randn(4, 6, generator=g) * 10.0**magnitude
    region = BALLS[norm].around(torch.full((4, 6), 0.5), Box(0, 1))
    step = region.ascent(gradient, region.x)
    assert torch.allclose(LENGTHS[norm](step), torch.ones(4), atol=1e-5)
    gain = (step.double() * gradient.double()).sum(1)
    for _ in range(20):
        other = torch.randn(4, 6, generator=g)
        other = other / LENGTHS[norm](other).unsqueeze(1)
        assert ((other.double() * gradient.double()).sum(1) <= gain * (1 + 1e-5)).all()


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.3, 1.5, 4.0]))
def test_l1_ascent_leads_to_the_best_allowed_point(seed, eps):
    """Its full step from the original is the maximiser of the linear model over ball ∩ box."""
    g = torch.Generator().manual_seed(seed)
    x, gradient = (
        torch.rand(4, 9, generator=g, dtype=torch.float64),
        torch.randn(4, 9, generator=g, dtype=torch.float64),
    )
    region = L1(eps).around(x, Box(0, 1))
    step = region.ascent(gradient, x)
    assert torch.allclose(LENGTHS["l1"](step), torch.ones(4, dtype=torch.float64), atol=1e-6)
    best = region.project(x + eps * step)
    gain = ((best - x) * gradient).sum(1)
    for draw in range(30):
        other = region.project(x + 3 * eps * (region.sample(Rng(seed), torch.arange(4), draw) - x))
        assert (((other - x) * gradient).sum(1) <= gain + 1e-6).all()


def test_l0_ascent_moves_the_steepest_coordinates_that_can_move():
    x = torch.tensor([[1.0, 0.5, 0.5, 0.5]])
    gradient = torch.tensor([[9.0, -3.0, 2.0, 1.0]])  # the first is at its end already
    assert L0(2).around(x, Box(0, 1)).ascent(gradient, x).tolist() == [[0.0, -1.0, 1.0, 0.0]]


@pytest.mark.parametrize("norm", BALLS)
def test_no_gradient_no_step(norm):
    region = BALLS[norm].around(torch.full((3, 6), 0.5), Box(0, 1))
    step = region.ascent(torch.zeros(3, 6), region.x)
    assert torch.isfinite(step).all()
    assert not step.any()


@pytest.mark.parametrize("norm", BALLS)
def test_samples_fill_the_region(norm):
    x = torch.full((2000, 4), 0.5, dtype=torch.float64)
    ball = BALLS[norm] if norm == "l0" else BALLS[norm].scaled(0.3)
    region = ball.around(x, Box(0, 1))
    z = region.sample(Rng(1), torch.arange(2000))
    assert region.contains(z).all()
    offset = z - x
    assert offset.mean(0).abs().max() < 0.02
    distance = region.distance(z)
    if norm == "l0":
        assert (distance == 2).all()
        return
    if norm == "linf":  # each coordinate by itself is uniform
        distance, power = (z - x)[:, 0].abs(), 1
    else:  # P(distance ≤ r) is r⁴ in a ball of four dimensions
        power = 4
    share = (distance / region.eps).sort().values
    at = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    assert (share**power - at).abs().max() < 0.05


@pytest.mark.parametrize("norm", BALLS)
def test_samples_belong_to_the_input(norm):
    x = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    index = torch.arange(10, 16)
    together = BALLS[norm].around(x, Box(0, 1)).sample(Rng(2), index, 5)
    alone = BALLS[norm].around(x[4:5], Box(0, 1)).sample(Rng(2), index[4:5], 5)
    assert torch.equal(together[4:5], alone)


@pytest.mark.parametrize(
    ("ball", "expected"),
    [
        (Linf(0.1), 0.1),
        (Linf(0.9), 0.9),
        (Linf(50.0), 1.0),
        (Linf(math.inf), 0.5),
        (L2(0.3), 0.3),
        (L2(50.0), 1.0),
        (L1(0.3), 0.3),
        (L1(50.0), 2.0),
        (L0(1), 1.0),
    ],
)
def test_reach_never_exceeds_the_box(ball, expected):
    """A step that crosses the box several times over only throws the iterate from corner to corner."""
    x = torch.full((2, 4), 0.5)
    x[:, 0] = 0.0
    assert ball.around(x, Box(0, 1)).reach.tolist() == pytest.approx([expected] * 2)


@pytest.mark.parametrize("norm", ["l2", "l1", "l0"])
def test_what_is_spare_may_be_spent(norm):
    x = torch.full((8, 6), 0.5, dtype=torch.float64)
    region = BALLS[norm].around(x, Box(0, 1))
    z = region.sample(Rng(0), torch.arange(8))
    z[:, 5] = x[:, 5]
    if norm == "l0":
        z[:, 2:] = x[:, 2:]
        assert (region.spare(z) == 2 - region.distance(z)).all()
        return
    moved = z.clone()
    spare = region.spare(z).clamp(max=0.5)
    moved[:, 5] += spare * (1 - 1e-12)
    assert region.contains(moved).all()
    further = z.clone()
    further[:, 5] += spare * 1.001
    assert not region.contains(further)[spare < 0.49].any()
