"""Random resizing against torch's own resizing; noise against its distribution."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hardpoint.defenses import AdditiveNoise, NoiseKind, RandomResizePad
from small_models import rand


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("share", [0.5, 0.75, 1.0, 1.5])
def test_what_is_put_on_the_canvas_is_torchs_resized_image(share):
    x = 0.1 + rand(6, 2, 12, 8, dtype=torch.float64)
    made = RandomResizePad(share, share).apply(x)
    size = (round(12 * share), round(8 * share))
    expected = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=False)
    assert made.shape[2:] == (max(12, size[0]), max(8, size[1]))
    places = set()
    for one, small in zip(made, expected, strict=True):
        down, right = (int(v) for v in (one[0] != 0).nonzero().amin(0))
        places.add((down, right))
        seen = one[:, down : down + size[0], right : right + size[1]]
        torch.testing.assert_close(seen, small)
        assert (one != 0).sum() == small.numel()
    assert len(places) > 1 or share >= 1


def test_sizes_and_places_are_even():
    made = RandomResizePad(0.5, 1.0).apply(torch.ones(4000, 1, 10, 20))
    heights = made[:, 0].amax(2).sum(1)
    widths = made[:, 0].amax(1).sum(1)
    assert heights.unique().tolist() == [5, 6, 7, 8, 9, 10]
    assert float(heights.mean()) == pytest.approx(7.5, abs=0.1)
    assert float(widths.mean()) == pytest.approx(15, abs=0.2)
    assert (widths - 2 * heights).abs().max() <= 1  # one share for both sides
    small = made[heights == 5, 0]
    starts = small.amax(2).argmax(1).bincount(minlength=6).double()
    assert len(starts) == 6
    assert (starts / len(small) - 1 / 6).abs().max() < 0.08


def test_the_papers_canvas_and_fill():
    made = RandomResizePad(1.0, 331 / 299, fill=0.5).apply(torch.zeros(2, 3, 299, 299))
    assert made.shape == (2, 3, 331, 331)
    assert set(made.unique().tolist()) == {0.0, 0.5}


def test_tiny_images_keep_a_pixel():
    made = RandomResizePad(0.01, 0.02).apply(torch.ones(3, 1, 1, 4))
    assert made.flatten(1).sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", list(NoiseKind))
def test_noise_has_the_spread_promised(kind):
    stage = AdditiveNoise(0.25, kind, low=-math.inf, high=math.inf)
    noise = stage.apply(torch.zeros(200, 500, dtype=torch.float64))
    assert float(noise.mean()) == pytest.approx(0, abs=0.005)
    assert float(noise.std()) == pytest.approx(0.25, rel=0.01)
    if kind is NoiseKind.UNIFORM:
        assert noise.abs().max() <= 0.25 * math.sqrt(3)
    assert stage.describe()["low"] is None


def test_noise_is_cut_off_at_the_range_by_default():
    made = AdditiveNoise(5.0).apply(rand(20, 50))
    assert made.min() == 0
    assert made.max() == 1
