"""Total-variation denoising: closed forms on edges, and its objective against a much longer run."""

from __future__ import annotations

import pytest
import torch

from hardpoint.defenses import TotalVariation
from small_models import rand, randn


def variation(u: torch.Tensor) -> torch.Tensor:
    down = torch.nn.functional.pad(u.diff(dim=2), (0, 0, 0, 1))
    right = torch.nn.functional.pad(u.diff(dim=3), (0, 1))
    return (down.square() + right.square()).sqrt().sum()


def objective(u: torch.Tensor, x: torch.Tensor, weight: float) -> float:
    return float(0.5 * (u - x).square().sum() + weight * variation(u))


def test_constants_stay_to_the_last_bit():
    x = torch.full((2, 3, 6, 5), 0.3)
    assert torch.equal(TotalVariation(0.5).apply(x), x)


def test_an_edge_keeps_its_place_and_loses_its_share():
    x = torch.zeros(1, 1, 5, 10, dtype=torch.float64)
    x[..., 4:] = 1.0
    made = TotalVariation(0.2, steps=3000).apply(x)
    # each side moves by the weight over its width
    expected = torch.cat([torch.full((4,), 0.2 / 4), torch.full((6,), 1 - 0.2 / 6)]).double().expand_as(x)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)


def test_a_huge_weight_leaves_the_mean_of_each_channel():
    x = rand(2, 3, 6, 5, dtype=torch.float64)
    made = TotalVariation(50.0, steps=8000).apply(x)
    torch.testing.assert_close(made, x.mean((2, 3), keepdim=True).expand_as(x), atol=2e-3, rtol=0)


@pytest.mark.parametrize("weight", [0.03, 0.1, 0.3])
def test_variation_falls_and_the_objective_nears_that_of_a_long_run(weight):
    smooth = torch.linspace(0, 1, 16, dtype=torch.float64).expand(1, 1, 16, 16)
    x = smooth + 0.05 * randn(1, 1, 16, 16, dtype=torch.float64)
    best = objective(TotalVariation(weight, steps=3000).apply(x), x, weight)
    start = objective(x, x, weight)
    left = []
    for steps in (10, 50, 200):
        made = TotalVariation(weight, steps=steps).apply(x)
        assert variation(made) < variation(x)
        left.append((objective(made, x, weight) - best) / (start - best))
    assert left == sorted(left, reverse=True)
    assert left[1] < 0.02
    assert left[2] < 0.005


def test_dropped_pixels_are_filled_in_from_their_neighbours():
    ramp = torch.linspace(0, 1, 20).expand(4, 1, 20, 20)
    stage = TotalVariation(0.01, steps=200, keep=0.5)
    assert stage.is_random
    assert not TotalVariation().is_random
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = stage.apply(ramp)
    assert (made - ramp).abs().mean() < 0.05
    assert not torch.equal(made[0], made[1])  # each row drops others


def test_an_image_whose_every_pixel_is_dropped_is_still_finite():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = TotalVariation(keep=1e-9).apply(rand(2, 1, 4, 4))
    assert torch.isfinite(made).all()
