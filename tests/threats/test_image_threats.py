"""Moved, displaced and recoloured images: what is allowed, and what is told from it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.core.box import Box
from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng
from hardpoint.core.rows import cat_rows, take_rows
from hardpoint.threats import SNR, Colour, Flow, Patch, Perceptual, Spatial
from hardpoint.threats.ciede import ciede2000, lab_from_srgb
from hardpoint.threats.images import Border
from hardpoint.threats.parametrised import ParametrisedRegion, drawn_parameters
from hardpoint.threats.perturbation import Perturbation, Region
from small_models import rand, randn

WIDE = Box(torch.tensor([-1.0, -2.0, 0.0]).view(3, 1, 1), torch.tensor([3.0, 2.0, 0.5]).view(3, 1, 1))
ALL: list[Perturbation] = [
    Spatial(rotation=20, translation=0.2, angles=3, shifts=3),
    Spatial(rotation=40, translation=0, angles=5, border=Border.EDGE),
    Flow(1.4),
    Flow(0.6, spacing=1),
    Colour(hue=40, saturation=0.5, contrast=0.3, brightness=0.15),
    Colour(brightness=0.3),
    Perceptual(4.0),
    Patch(area=0.1),
    Patch(area=0.1, location=(5, 2)),
    Patch(area=0.1, palette=((0.1, 0.2, 0.3), (0.4, 1.0, 0.2))),
    SNR(15),
]


def images(n: int = 5, dtype=torch.float32, box: Box | None = None, seed: int = 0) -> torch.Tensor:
    """Colour images with some clipped and some flat parts."""
    u = (1.4 * rand(n, 3, 9, 7, seed=seed, dtype=dtype) - 0.2).clamp(0, 1)
    u[:, :, :3, :3] = 0.5
    if box is None:
        return u
    low, high = box.bounds_like(u)
    return box.clamp(low + u * (high - low))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("box", [Box(0, 1), WIDE], ids=["unit", "per channel"])
@pytest.mark.parametrize("perturbation", ALL, ids=lambda p: p.name)
def test_what_is_drawn_and_projected_is_allowed(perturbation, box, dtype):
    x = images(dtype=dtype, box=box)
    region = perturbation.around(x, box)
    assert isinstance(region, Region)
    index = torch.arange(len(x))
    points = [region.sample(Rng(3), index, draw) for draw in range(4)]
    hostile = torch.where(rand(*x.shape, seed=9) < 0.3, torch.inf, randn(*x.shape, seed=8).to(dtype))
    points += [region.project(x + s * randn(*x.shape, seed=7).to(dtype)) for s in (0.01, 0.3, 30.0)]
    points += [region.project(hostile), region.project(x)]
    for z in points:
        assert z.dtype == x.dtype
        assert region.contains(z).all()
        assert (region.distance(z) <= perturbation.eps * (1 + 1e-9)).all()
    assert not region.contains(torch.full_like(x, torch.nan)).any()
    assert region.contains(x).all()
    assert (region.distance(x) == 0).all()
    assert (region.reach > 0).all()


@pytest.mark.parametrize("perturbation", ALL, ids=lambda p: p.name)
def test_rows_do_not_meet(perturbation):
    x = images(6)
    region = perturbation.around(x, Box(0, 1))
    index = torch.arange(6)
    z = region.sample(Rng(1), index)
    noise = x + 0.1 * randn(*x.shape)
    keep = torch.tensor([4, 1])
    part = take_rows(region, keep)
    assert torch.equal(part.sample(Rng(1), index[keep]), z[keep])
    assert torch.equal(part.project(noise[keep]), region.project(noise)[keep])
    assert torch.allclose(part.distance(z[keep]), region.distance(z)[keep], atol=1e-6)
    both = cat_rows(part, take_rows(region, torch.tensor([0])))
    assert both.contains(z[torch.tensor([4, 1, 0])]).all()


@pytest.mark.parametrize("perturbation", ALL, ids=lambda p: p.name)
def test_a_budget_of_nothing_allows_nothing(perturbation):
    x = images(3)
    none = perturbation.scaled(0.0)
    assert none.eps == 0
    region = none.around(x, Box(0, 1))
    assert torch.equal(region.project(x + 0.1), x)
    assert torch.equal(region.sample(Rng(0), torch.arange(3)), x)
    changed = x.clone()
    changed[:, 0, 4, 4] = 1 - changed[:, 0, 4, 4].round()
    assert not region.contains(changed).any()


@pytest.mark.parametrize("perturbation", ALL, ids=lambda p: p.name)
def test_descriptions_identify(perturbation):
    text = perturbation.describe()
    assert text["eps"] == perturbation.eps
    assert perturbation.scaled(0.5) != perturbation
    assert perturbation.scaled(0.5).name != perturbation.name
    assert hash(perturbation.scaled(1.0)) == hash(perturbation)


@pytest.mark.parametrize("perturbation", [p for p in ALL if not isinstance(p, SNR)], ids=lambda p: p.name)
def test_what_is_no_image_is_refused(perturbation):
    for x in (torch.zeros(2, 8), torch.zeros(2, 3, 8), torch.zeros(2, 3, 8, 8, dtype=torch.int64)):
        with pytest.raises(ThreatError, match="images"):
            perturbation.around(x, Box(0, 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Spatial(rotation=-1),
        lambda: Spatial(rotation=math.nan),
        lambda: Spatial(angles=4),
        lambda: Spatial(shifts=0),
        lambda: Spatial(eps=math.inf),
        lambda: Flow(-1),
        lambda: Flow(math.inf),
        lambda: Flow(1, spacing=0),
        lambda: Colour(),
        lambda: Colour(hue=200),
        lambda: Colour(contrast=math.inf),
        lambda: Perceptual(-1),
        lambda: Patch(area=1.5),
        lambda: Patch(location=(-1, 0)),
        lambda: Patch(palette=()),
        lambda: SNR(math.nan),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ThreatError):
        make()


# --- poses ---------------------------------------------------------------------------------------------------


def test_a_quarter_turn_and_whole_shifts_are_exact():
    x = images(2)[:, :, :7, :7].contiguous()
    turned = Spatial(rotation=90, translation=0, angles=3).around(x, Box(0, 1))
    for quarter in (-1, 1):
        z = torch.rot90(x, quarter, dims=(2, 3)).contiguous()
        assert turned.contains(z).all()
        assert (turned.distance(z) == 1).all()
    shifted = Spatial(rotation=0, translation=2 / 7, shifts=5).around(x, Box(0, 1))
    z = torch.zeros_like(x)
    z[:, :, 2:, :-1] = x[:, :, :-2, 1:]
    assert shifted.contains(z).all()
    assert (shifted.distance(z) == 1).all()
    z[:, :, 0, 0] = 0.01
    assert not shifted.contains(z).any()


def test_the_default_grid_is_that_of_the_paper():
    poses, sizes = Spatial().grid()
    assert poses.shape == (775, 3)
    assert sizes[0] == 0
    assert (sizes.diff() >= 0).all()
    assert math.isclose(float(poses[:, 0].max()), math.radians(30))


def test_every_pose_and_no_pose_between_is_allowed():
    x = images(1)
    threat = Spatial(rotation=30, translation=0.1, angles=5, shifts=3)
    region = threat.around(x, Box(0, 1))
    count = len(region.poses)
    every = region.images(torch.zeros(count, dtype=torch.int64), torch.arange(count))
    many = take_rows(region, torch.zeros(count, dtype=torch.int64))
    assert many.contains(every).all()
    assert torch.equal(many.distance(every), region.sizes)
    assert torch.equal(many.project(every), every)
    between = Spatial(rotation=20, translation=0, angles=3).around(x, Box(0, 1))
    turned = between.images(torch.zeros(2, dtype=torch.int64), torch.tensor([1, 2]))
    assert not take_rows(region, torch.zeros(2, dtype=torch.int64)).contains(turned).any()


def test_flat_images_match_all_poses():
    x = torch.full((1, 1, 5, 5), 0.5)
    region = Spatial(border=Border.EDGE).around(x, Box(0, 1))
    assert region.distance(x) == 0
    assert not region.contains(x + 0.1).any()


# --- displacements -------------------------------------------------------------------------------------------


def test_a_whole_displacement_is_a_shift():
    x = images(2)
    region = Flow(2.0).around(x, Box(0, 1))
    both = torch.zeros(2, *region.parameter_shape, dtype=torch.float64)
    both[:, 0], both[:, 1] = 1.0, -0.5
    z = region.apply(both)
    assert torch.allclose(z[:, :, :-2, 1:], x[:, :, 2:, :-1], atol=1e-6)
    assert (region.distance(z) <= 2).all()


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([0.3, 1.0, 1.5, 2.2]), st.sampled_from([1, 2, 5]))
def test_displacements_are_bounded_smooth_and_allowed(seed, eps, spacing):
    x = rand(2, 1, 6, 8, seed=seed)
    flow = Flow(eps, spacing)
    region = flow.around(x, Box(0, 1))
    parameters = drawn_parameters(region, Rng(seed), torch.arange(2), 0).sign()
    move = region.displacement(parameters)
    assert (move.abs() <= eps + 1e-9).all()
    assert (move.diff(dim=2).abs() <= flow.smoothness + 1e-9).all()
    assert (move.diff(dim=3).abs() <= flow.smoothness + 1e-9).all()
    assert region.contains(region.apply(parameters)).all()


def test_the_reach_of_a_grey_pixel_is_exact():
    """Every value between a neighbourhood's least and largest can be had, and none beyond it."""
    x = rand(1, 1, 5, 5, seed=4, dtype=torch.float64)
    region = Flow(1.5, spacing=1).around(x, Box(0, 1))
    at = torch.linspace(-1, 1, 61, dtype=torch.float64)
    seen = []
    for down in at:
        for right in at:
            parameters = torch.zeros(1, 2, 5, 5, dtype=torch.float64)
            parameters[0, 0], parameters[0, 1] = down, right
            seen.append(region.apply(parameters))
    low, high = torch.cat(seen).amin(0), torch.cat(seen).amax(0)
    for row in range(5):
        for column in range(5):
            for end, sign in ((low, -1), (high, 1)):
                z = x.clone()
                z[0, 0, row, column] = end[0, row, column]
                assert region.contains(z).all()
                z[0, 0, row, column] += sign * 0.02
                assert (
                    not region.contains(z.clamp(0, 1)).any()
                    or z.clamp(0, 1)[0, 0, row, column] == end[0, row, column]
                )


def test_channels_must_move_together():
    x = torch.zeros(1, 3, 5, 5)
    x[:, 0, 2, 1], x[:, 1, 2, 3] = 1, 1
    z = x.clone()
    z[:, :2, 2, 2] = 0.9  # red from one side and green from the other
    region = Flow(1.0, spacing=1).around(x, Box(0, 1))
    assert region.contains(z).all()  # as documented: a necessary check
    x[:, 0, 2, 3] = 1  # now red is wherever green is, so green alone cannot be
    z = x.clone()
    z[:, 0, 2, 3] = 0
    assert not Flow(1.0, spacing=1).around(x, Box(0, 1)).contains(z).any()


def test_projecting_finds_a_small_displacement():
    rows = torch.linspace(0, 6.28, 16).view(1, 1, 16, 1)
    x = (0.5 + 0.2 * rows.sin() + 0.2 * rows.transpose(2, 3).cos()).double()
    region = Flow(0.5).around(x, Box(0, 1))
    parameters = drawn_parameters(region, Rng(0), torch.zeros(1, dtype=torch.int64), 0)
    z = region.apply(parameters)
    assert (region.project(z) - z).norm() < 0.3 * (z - x).norm()


# --- colours -------------------------------------------------------------------------------------------------


def test_a_third_of_a_turn_permutes_the_channels():
    x = 0.3 + 0.4 * rand(2, 3, 4, 4)
    region = Colour(hue=120).around(x, Box(0, 1))
    turned = region.apply(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]).double())
    assert torch.allclose(turned[0], x[0].roll(1, 0), atol=1e-6)
    assert torch.allclose(turned[1], x[1].roll(-1, 0), atol=1e-6)


def test_saturation_contrast_and_brightness_are_what_they_say():
    x = 0.3 + 0.4 * rand(1, 3, 4, 4)
    region = Colour(saturation=1, contrast=0.5, brightness=0.1).around(x, Box(0, 1))

    def made(*parameters: float) -> torch.Tensor:
        return region.apply(torch.tensor([parameters]).double())

    grey = x.mean(1, keepdim=True)
    assert torch.allclose(made(0, -1, 0, 0), grey.expand_as(x), atol=1e-6)
    assert torch.allclose(made(0, 1, 0, 0), (grey + 2 * (x - grey)).clamp(0, 1), atol=1e-6)
    assert torch.allclose(made(0, 0, 1, 0), x - grey + 1.5 * (grey - 0.5) + 0.5, atol=1e-6)
    assert torch.allclose(made(0, 0, 0, -1), x - 0.1, atol=1e-6)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.floats(0, 1), st.booleans())
def test_colour_parameters_are_found_again(seed, clipped, corner):
    """Whatever is clipped, however the limits are used up."""
    x = (rand(3, 3, 6, 6, seed=seed) * (1 + clipped) - clipped / 2).clamp(0, 1)
    region = Colour(hue=60, saturation=0.5, contrast=0.4, brightness=0.2).around(x, Box(0, 1))
    parameters = drawn_parameters(region, Rng(seed), torch.arange(3), 0)
    parameters = parameters.sign() if corner else parameters
    z = region.apply(parameters)
    _, explained = region.explanation(z)
    assert explained.all()
    assert region.contains(z).all()
    one = z.clone()
    one[:, 0, 0, 0] = (one[:, 0, 0, 0] + 0.5) % 1
    assert not region.contains(one).any()


def test_colours_beyond_a_limit_are_told():
    x = 0.35 + 0.3 * rand(2, 3, 6, 6)
    small = Colour(hue=20, saturation=0.2, contrast=0.2, brightness=0.05)
    region, wide = small.around(x, Box(0, 1)), small.scaled(1.02).around(x, Box(0, 1))
    for k in range(4):
        for sign in (-1.0, 1.0):
            parameters = torch.zeros(2, 4, dtype=torch.float64)
            parameters[:, k] = sign
            assert region.contains(region.apply(parameters)).all()
            z = wide.apply(parameters)
            assert not region.contains(z).any()
            assert torch.allclose(wide.distance(z), torch.full((2,), 1.02).double(), rtol=1e-4)


def test_projecting_onto_colours_is_least_squares():
    """No parameters drawn at random come nearer."""
    x = 0.35 + 0.3 * rand(3, 3, 5, 5, dtype=torch.float64)
    region = Colour(hue=30, saturation=0.3, contrast=0.3, brightness=0.05).around(x, Box(0, 1))
    assert isinstance(region, ParametrisedRegion)
    z = x + 0.1 * randn(*x.shape, dtype=torch.float64)
    best = (region.project(z) - z).square().flatten(1).sum(1)
    for draw in range(300):
        other = region.sample(Rng(draw), torch.arange(3))
        assert ((other - z).square().flatten(1).sum(1) >= best - 1e-9).all()


def test_grey_images_have_two_of_the_four():
    x = 0.3 + 0.4 * rand(2, 1, 4, 4)
    region = Colour(hue=90, saturation=1, contrast=0.2, brightness=0.1).around(x, Box(0, 1))
    z = region.sample(Rng(0), torch.arange(2))
    assert region.contains(z).all()
    with pytest.raises(ThreatError, match="channels"):
        Colour(hue=90).around(torch.zeros(1, 2, 4, 4), Box(0, 1))


# --- how colours look ----------------------------------------------------------------------------------------

# the published pairs of Sharma, Wu and Dalal (2005), table 1
SHARMA = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 3.1571, -77.2803), (50, 0, -82.7485), 2.8615),
    ((50, 2.8361, -74.0200), (50, 0, -82.7485), 3.4412),
    ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
    ((50, -1.1848, -84.8006), (50, 0, -82.7485), 1.0000),
    ((50, -0.9009, -85.5211), (50, 0, -82.7485), 1.0000),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, -1, 2), (50, 0, 0), 2.3669),
    ((50, 2.4900, -0.0010), (50, -2.4900, 0.0009), 7.1792),
    ((50, 2.4900, -0.0010), (50, -2.4900, 0.0010), 7.1792),
    ((50, 2.4900, -0.0010), (50, -2.4900, 0.0011), 7.2195),
    ((50, 2.4900, -0.0010), (50, -2.4900, 0.0012), 7.2195),
    ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((50, 2.5, 0), (61, -5, 29), 22.8977),
    ((50, 2.5, 0), (56, -27, -3), 31.9030),
    ((50, 2.5, 0), (58, 24, 15), 19.4535),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((63.0109, -31.0961, -5.8663), (62.8187, -29.7946, -4.0864), 1.2630),
    ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


def test_ciede2000_gives_the_published_differences():
    first, second, known = (torch.tensor(part, dtype=torch.float64) for part in zip(*SHARMA, strict=True))
    assert torch.allclose(ciede2000(first, second), known, atol=5e-5, rtol=0)
    swapped = ciede2000(second, first)
    assert torch.allclose(swapped, ciede2000(first, second), atol=1e-9)


def test_lab_of_known_colours():
    rgb = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.float64)
    known = torch.tensor([[53.24, 80.09, 67.20], [87.74, -86.18, 83.18], [32.30, 79.19, -107.86], [0, 0, 0]])
    assert torch.allclose(lab_from_srgb(rgb), known.double(), atol=0.02)


def test_one_pixel_that_looks_too_different_is_told():
    x = images(1, dtype=torch.float64)
    region = Perceptual(3.0).around(x, Box(0, 1))
    z = x.clone()
    z[:, :, 4, 4] = 1 - z[:, :, 4, 4].round()
    assert not region.contains(z).any()
    drawn = region.project(z)
    assert region.contains(drawn).all()
    assert 2.99 < float(region.distance(drawn)) <= 3.0
    assert (drawn != x).any(1).sum() == 1
