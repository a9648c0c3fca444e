"""Patches against brute force over windows; signal-to-noise balls against L2 balls."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.core.box import UNBOUNDED, Box
from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng
from hardpoint.threats import L2, SNR, Patch
from small_models import rand, randn


def windows(height: int, width: int, side: int, location: tuple[int, int] | None):
    """Every allowed square as a bool mask."""
    for top in range(height - side + 1):
        for left in range(width - side + 1):
            if location in (None, (top, left)):
                mask = torch.zeros(height, width, dtype=torch.bool)
                mask[top : top + side, left : left + side] = True
                yield mask


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3]), st.booleans())
def test_contains_is_exact(seed, side, fixed):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(20, 2, 5, 6, generator=g)
    location = (1, 2) if fixed else None
    region = Patch(area=side * side / 30, location=location).around(x, Box(0, 1))
    assert region.side == side
    z = x.clone()
    for row in range(len(x)):
        for _ in range(int(torch.randint(0, 4, (1,), generator=g))):
            r, c = int(torch.randint(0, 5, (1,), generator=g)), int(torch.randint(0, 6, (1,), generator=g))
            z[row, 0, r, c] = 1 - z[row, 0, r, c]
    changed = (z != x).any(1)
    every = list(windows(5, 6, side, location))
    truth = torch.stack([torch.stack([~(c & ~w).any() for w in every]).any() for c in changed])
    assert torch.equal(region.contains(z), truth)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4]), st.booleans(), st.booleans())
def test_projection_is_the_nearest_of_all_windows(seed, side, fixed, printed):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(4, 2, 5, 6, generator=g, dtype=torch.float64)
    z = x + 0.6 * torch.randn(4, 2, 5, 6, generator=g, dtype=torch.float64)
    palette = ((0.0, 0.0), (1.0, 0.2), (0.4, 0.9)) if printed else None
    location = (1, 2) if fixed else None
    region = Patch(area=side * side / 30, location=location, palette=palette).around(x, Box(0, 1))
    best = torch.full((4,), math.inf, dtype=torch.float64)
    options = (
        [z.clamp(0, 1)]
        if palette is None
        else [torch.tensor(c, dtype=x.dtype).view(1, 2, 1, 1).expand_as(x) for c in palette]
    )
    for window in windows(5, 6, side, location):
        keep = (x - z).square().sum(1)
        inside = torch.stack([(o - z).square().sum(1) for o in options] + [keep]).amin(0)
        best = torch.minimum(best, torch.where(window, inside, keep).flatten(1).sum(1))
    found = (region.project(z) - z).square().flatten(1).sum(1)
    assert torch.allclose(found, best, rtol=1e-9)


def test_pasting_and_cropping_are_inverse():
    x = rand(4, 3, 7, 6)
    region = Patch(area=9 / 42).around(x, Box(0, 1))
    corner = region.random_corner(Rng(0), torch.arange(4))
    patch = rand(4, 3, 3, 3, seed=5)
    z = region.pasted(patch, corner)
    assert torch.equal(region.cropped(z, corner), patch)
    assert region.contains(z).all()
    for row, (top, left) in enumerate(corner.tolist()):
        assert torch.equal(z[row, :, top : top + 3, left : left + 3], patch[row])
        z[row, :, top : top + 3, left : left + 3] = x[row, :, top : top + 3, left : left + 3]
    assert torch.equal(z, x)


def test_a_fixed_place_stays_fixed_and_a_large_patch_fits():
    x = rand(1, 1, 6, 6)
    region = Patch(area=4 / 36, location=(4, 1)).around(x, Box(0, 1))
    z = x.clone()
    z[:, :, 4:, 1:3] = 1
    assert region.contains(z)
    assert not region.contains(z.roll(1, 3))
    whole = Patch(area=1.0, location=(4, 1)).around(x, Box(0, 1))
    assert whole.contains(torch.zeros_like(x))
    assert Patch(area=0.5).scaled(10).area == 1


def test_only_printable_colours_pass():
    x = torch.full((1, 3, 4, 4), 0.5)
    region = Patch(area=0.25, palette=((1, 0, 0), (0, 0, 1))).around(x, Box(0, 1))
    z = x.clone()
    z[:, :, 0, 0] = torch.tensor([1.0, 0, 0])
    assert region.contains(z)
    z[:, :, 0, 1] = torch.tensor([1.0, 0.1, 0])
    assert not region.contains(z)
    assert region.contains(region.project(z))
    with pytest.raises(ThreatError, match="channels"):
        Patch(palette=((1, 0),)).around(x, Box(0, 1))
    with pytest.raises(ThreatError, match="outside the input range"):
        Patch(palette=((2, 0, 0),)).around(x, Box(0, 1))
    with pytest.raises(ThreatError, match="outside the image"):
        Patch(location=(9, 0)).around(x, Box(0, 1))
    with pytest.raises(ThreatError, match="range with ends"):
        Patch().around(x, UNBOUNDED)


def test_steepest_window_is_the_one_of_the_worst_linear_patch():
    x, weight = rand(6, 2, 6, 5, dtype=torch.float64), randn(6, 2, 6, 5, dtype=torch.float64)
    region = Patch(area=4 / 30).around(x, Box(0, 1))
    way = region.ascent(weight, x)
    reached = ((region.project(x + 2 * way) - x) * weight).flatten(1).sum(1)
    gain = torch.where(weight > 0, weight * (1 - x), -weight * x).sum(1)
    best = torch.stack([(gain * w).flatten(1).sum(1) for w in windows(6, 5, 2, None)]).amax(0)
    assert torch.allclose(reached, best)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("db", [3.0, 20.0, 60.0])
def test_an_snr_ball_is_an_l2_ball_of_each_inputs_own_radius(db, dtype):
    x = randn(6, 200, dtype=dtype) * torch.logspace(-2, 1, 6, dtype=dtype).unsqueeze(1)
    x[0] = 0
    box = Box(-60, 60)
    region = SNR(db).around(x, box)
    z = x + 0.5 * randn(6, 200, seed=2, dtype=dtype)
    projected = region.project(z)
    for row in range(6):
        radius = 10 ** (-db / 20) * float(x[row].double().norm())
        alone = L2(radius).around(x[row : row + 1], box).project(z[row : row + 1])
        assert torch.allclose(projected[row], alone[0], atol=1e-6)
    noise = (projected.double() - x.double()).norm(dim=1)
    ratio = 20 * torch.log10(x.double().norm(dim=1) / noise)
    assert (ratio[1:] >= db - 1e-9).all()
    assert torch.equal(projected[0], x[0])
    assert region.contains(projected).all()
    assert not region.contains(z)[0]
    assert torch.equal(region.project(projected), projected)


def test_snr_scales_as_amplitudes():
    assert math.isclose(SNR(20).scaled(2).eps, 0.2)
    assert SNR(20).scaled(0).db == math.inf
    assert SNR(math.inf).eps == 0
