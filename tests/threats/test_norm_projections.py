"""Projections onto norm balls cut by the input box: exact, inside, and stable, for every radius and dtype."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from hardpoint.core.box import UNBOUNDED, Box
from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng
from hardpoint.threats import L0, L1, L2, Linf

BALLS = {"linf": Linf, "l2": L2, "l1": L1, "l0": L0}
FLOATS = (torch.float32, torch.float64)
RADII = (0.0, 1 / 255 / 16, 1 / 255, 0.03, 0.3, 1.0, 7.5, 1e4)


def random_case(seed: int, n: int, d: int, dtype, wild: float = 3.0):
    """Originals, some at the ends of the box, and points to project, some far away."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, d, generator=g, dtype=dtype)
    edge = torch.rand(n, d, generator=g)
    x = torch.where(edge < 0.15, torch.zeros_like(x), torch.where(edge > 0.85, torch.ones_like(x), x))
    size = 10.0 ** (torch.rand(n, 1, generator=g, dtype=dtype) * 4 - 2) * wild
    return x, x + size * torch.randn(n, d, generator=g, dtype=dtype)


def ball_of(norm: str, eps: float):
    return L0(int(eps)) if norm == "l0" else BALLS[norm](eps)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("high", [1.0, 255.0])
@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from(RADII))
def test_what_is_nearly_around_is_allowed_and_leaves_out_next_to_nothing(dtype, high, seed, d, eps):
    x, z = random_case(seed, 8, d, dtype)
    x, z, box = high * x, high * z, Box(0, high)
    exact, near = Linf(eps).around(x, box), Linf(eps).nearly_around(x, box)
    assert exact.contains(near.project(z)).all()
    assert (near.low - exact.low).abs().max() <= 2e-3 * eps
    assert (near.high - exact.high).abs().max() <= 2e-3 * eps


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("dtype", FLOATS)
@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from(RADII))
def test_projection_lands_inside_and_stays_there(norm, dtype, seed, d, eps):
    x, z = random_case(seed, 8, d, dtype)
    region = ball_of(norm, eps).around(x, Box(0, 1))
    p = region.project(z)
    assert p.dtype == dtype
    assert region.contains(p).all()
    assert torch.equal(region.project(p), p)
    if norm != "l0":
        assert (region.distance(p) <= eps).all()
    inside = region.contains(z)
    assert torch.equal(p[inside], z[inside])


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("dtype", FLOATS)
@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from(RADII))
def test_no_allowed_point_is_closer(norm, dtype, seed, d, eps):
    x, z = random_case(seed, 6, d, dtype)
    region = ball_of(norm, eps).around(x, Box(0, 1))
    p = region.project(z).double()
    length = (z.double() - p).norm(dim=1)
    for draw in range(20):
        other = region.sample(Rng(seed), torch.arange(len(x)), draw)
        assert region.contains(other).all()
        for near in (other.double(), p + 0.05 * (other.double() - p)):  # convex for all but l0
            allowed = region.contains(near) if norm == "l0" else torch.ones(len(x), dtype=torch.bool)
            closer = (z.double() - near).norm(dim=1)[allowed]
            assert (closer >= length[allowed] * (1 - 1e-6) - 1e-7).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_tiny_budgets_spread_over_many_coordinates_stay_inside(norm, dtype):
    """An L1 budget of 1/255 over 3072 coordinates is less than a rounding of each of them."""
    x, z = random_case(1, 16, 3072, dtype)
    for eps in (1 / 255 / 64, 1 / 255, 8 / 255):
        region = BALLS[norm](eps).around(x, Box(0, 1))
        for point in (region.project(z), region.project(x + 1e-3 * torch.sign(z - x))):
            assert region.contains(point).all()
            assert torch.equal(region.project(point), point)
        if dtype == torch.float64:  # and the budget is used, where the numbers are fine enough
            assert (region.distance(region.project(z)) >= 0.999 * eps).all()


def slsqp(d: np.ndarray, low: np.ndarray, high: np.ndarray, norm: str, eps: float) -> float:
    """Squared distance of ``d`` from ball ∩ box by a general solver; for L1, v = p - q with p, q ≥ 0."""
    k = len(d)
    if norm == "l1":
        matrix = np.hstack([np.eye(k), -np.eye(k)])
        bounds = [(0, h) for h in high] + [(0, -lo) for lo in low]
        rule = {"type": "ineq", "fun": lambda v: eps - v.sum(), "jac": lambda v: -np.ones(2 * k)}
    else:
        matrix, bounds = np.eye(k), list(zip(low, high, strict=True))
        rule = {"type": "ineq", "fun": lambda v: eps**2 - v @ v, "jac": lambda v: -2 * v}
    best = math.inf
    for size in (0.0, 0.05, 0.5):
        start = (
            np.array([lo + (hi - lo) * size for lo, hi in bounds])
            if norm == "l1"
            else np.sign(d) * 0.01 * size
        )
        found = minimize(
            lambda v: ((matrix @ v - d) ** 2).sum(),
            start,
            jac=lambda v: 2 * matrix.T @ (matrix @ v - d),
            bounds=bounds,
            constraints=[rule],
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-13},
        )
        if rule["fun"](found.x) >= -1e-9:
            best = min(best, float(found.fun))
    return best


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("eps", [0.1, 0.6, 1.5])
@pytest.mark.parametrize("seed", range(4))
def test_a_general_solver_finds_nothing_closer(norm, eps, seed):
    x, z = random_case(seed, 3, 4, torch.float64, wild=0.5)
    p = BALLS[norm](eps).around(x, Box(0, 1)).project(z)
    for row in range(len(x)):
        d, low, high = (z - x)[row].numpy(), -x[row].numpy(), (1 - x)[row].numpy()
        ours = float((z[row] - p[row]).square().sum())
        assert ours == pytest.approx(slsqp(d, low, high, norm, eps), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_l0_is_the_best_of_all_choices_of_coordinates(count, seed):
    x, z = random_case(seed, 5, 5, torch.float64)
    p = L0(count).around(x, Box(0, 1)).project(z)
    for row in range(len(x)):
        best = min(
            float(
                (
                    z[row]
                    - torch.where(torch.tensor([i in chosen for i in range(5)]), z[row].clamp(0, 1), x[row])
                ).norm()
            )
            for chosen in itertools.combinations(range(5), count)
        )
        assert float((z[row] - p[row]).norm()) == pytest.approx(best, rel=1e-12)


def test_l0_tells_far_points_apart():
    """Squares of distances to far points agree in all digits of float32."""
    x = torch.zeros(1, 3)
    z = torch.tensor([[3e4, 3.1e4, 2e4]])
    assert L0(1).around(x, Box(0, 1)).project(z).tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("norm", BALLS)
def test_nothing_that_is_not_finite_is_allowed_or_returned(norm):
    x = torch.full((4, 3), 0.5)
    z = x.clone()
    z[0, 0], z[1, 1], z[2, 2] = torch.nan, torch.inf, -torch.inf
    region = ball_of(norm, 1.0).around(x, Box(0, 1))
    assert region.contains(z).tolist() == [False, False, False, True]
    p = region.project(z)
    assert torch.isfinite(p).all()
    assert region.contains(p).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_boundary_is_exact(norm):
    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    region = BALLS[norm](0.25).around(x, Box(0, 1))
    on, beyond = x.clone(), x.clone()
    on[0, 0] += 0.25
    beyond[0, 0] += 0.25 + 1e-9
    assert region.contains(on).all()
    assert not region.contains(beyond).any()
    assert not region.contains(torch.full_like(x, 1.0000001)).any()


def test_float32_points_are_judged_by_their_exact_distance():
    x = torch.rand(64, 10, generator=torch.Generator().manual_seed(0))
    for eps in (1 / 255, 8 / 255, 0.3):
        region = Linf(eps).around(x, UNBOUNDED)
        for moved in (x + eps, x - eps):
            exact = (moved.double() - x.double()).abs().amax(1) <= eps
            assert torch.equal(region.contains(moved), exact)
        assert (region.distance(region.project(x + 1)) <= eps).all()


@pytest.mark.parametrize("norm", BALLS)
def test_a_budget_of_nothing_allows_the_original_only(norm):
    x, z = random_case(0, 5, 6, torch.float32)
    region = ball_of(norm, 0).around(x, Box(0, 1))
    assert torch.equal(region.project(z), x)
    assert torch.equal(region.sample(Rng(0), torch.arange(5)), x)
    assert region.contains(x).all()


@pytest.mark.parametrize("norm", BALLS)
def test_an_unlimited_budget_allows_the_box(norm):
    x, z = random_case(0, 5, 6, torch.float32)
    region = BALLS[norm](math.inf).around(x, Box(0, 1))
    assert torch.equal(region.project(z), z.clamp(0, 1))
    assert region.contains(region.sample(Rng(0), torch.arange(5))).all()
    assert torch.isfinite(region.reach).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_an_input_range_without_ends(norm):
    x, z = random_case(0, 5, 6, torch.float32)
    region = BALLS[norm](0.5).around(x, UNBOUNDED)
    p = region.project(z)
    assert region.contains(p).all()
    assert region.contains(region.sample(Rng(0), torch.arange(5))).all()
    assert (region.distance(p)[region.distance(z) > 1] >= 0.4999).all()


def test_l0_needs_a_range_with_ends():
    with pytest.raises(ThreatError, match="input_range"):
        L0(3).around(torch.zeros(1, 2), UNBOUNDED)


@pytest.mark.parametrize("norm", BALLS)
def test_boxes_that_differ_by_coordinate(norm):
    x, z = random_case(2, 6, 4, torch.float32)
    box = Box(torch.tensor([0.0, -1.0, 0.0, 0.2]), torch.tensor([1.0, 1.0, 2.0, 0.2 + 1e-6]))
    x = box.clamp(x)
    region = ball_of(norm, 1.0).around(x, box)
    assert box.contains(region.project(z)).all()
    assert region.contains(region.project(z)).all()
    assert region.contains(region.sample(Rng(1), torch.arange(6))).all()


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("shape", [(5,), (2, 3), (3, 4, 2), (2, 2, 3, 2)])
def test_any_shape_is_the_flat_problem(norm, shape):
    d = math.prod(shape)
    x, z = random_case(5, 4, d, torch.float32)
    ball = ball_of(norm, 1.0)
    flat = ball.around(x, Box(0, 1))
    shaped = ball.around(x.view(4, *shape), Box(0, 1))
    assert torch.equal(shaped.project(z.view(4, *shape)).flatten(1), flat.project(z))
    assert torch.equal(shaped.distance(z.view(4, *shape)), flat.distance(z))
    index = torch.arange(4)
    assert torch.equal(shaped.sample(Rng(0), index).flatten(1), flat.sample(Rng(0), index))


@pytest.mark.parametrize("norm", BALLS)
def test_a_row_is_projected_the_same_in_any_company(norm):
    x, z = random_case(9, 32, 20, torch.float64)
    ball = ball_of(norm, 1.0)
    together = ball.around(x, Box(0, 1)).project(z)
    alone = torch.cat([ball.around(x[i : i + 1], Box(0, 1)).project(z[i : i + 1]) for i in range(32)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-15)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("eps", [-1, -1e-9, math.nan])
def test_radii_that_are_none_are_refused(norm, eps):
    with pytest.raises(ThreatError, match="0 or more"):
        BALLS[norm](eps)


def test_l0_counts_whole_coordinates():
    with pytest.raises(ThreatError, match="whole number"):
        L0(2.5)
