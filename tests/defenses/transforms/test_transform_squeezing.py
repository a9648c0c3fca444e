"""Fewer shades and JPEG, against arithmetic and against pillow itself."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.core.errors import DataError, MissingExtra
from hardpoint.defenses import BitDepth, GradientMasking, JpegCompression
from hardpoint.defenses.stage import GradientPath
from small_models import rand


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (-2.1, 2.64), (0, 255)])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_levels_are_evenly_spaced_and_nearest(bits, low, high, dtype):
    x = low + (high - low) * rand(3, 400, dtype=dtype)
    made = BitDepth(bits, low, high).apply(x)
    levels = torch.linspace(low, high, 2**bits, dtype=torch.float64)
    gap = (x.double().unsqueeze(2) - levels).abs().amin(2)
    torch.testing.assert_close((made.double() - x.double()).abs(), gap, atol=1e-5 * (high - low), rtol=0)
    assert len(made.unique()) <= 2**bits
    assert torch.equal(BitDepth(bits, low, high).apply(made), made)


def test_ends_stay_and_what_lies_beyond_becomes_them():
    made = BitDepth(5).apply(torch.tensor([[0.0, 1.0, -3.0, 7.0, torch.inf]]))
    assert made.tolist() == [[0.0, 1.0, 0.0, 1.0, 1.0]]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_masking_moves_by_half_a_millionth_at_most(values):
    x = torch.tensor([values])
    made = GradientMasking().apply(x)
    assert (made - x).abs().max() <= 2.0**-21


def test_masking_says_what_it_is():
    stage = GradientMasking()
    assert stage.hides_only
    assert stage.describe()["hides_only"]
    assert stage.gradient is GradientPath.STRAIGHT_THROUGH
    assert not stage.apply(torch.rand(2, 2, requires_grad=True)).requires_grad
    assert float(stage.apply(torch.tensor([[7.3]]))) == pytest.approx(7.3, abs=1e-6)  # nothing is cut off


@pytest.mark.parametrize("quality", [1, 40, 75, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels, quality):
    image = pytest.importorskip("PIL.Image")
    pixels = (rand(2, channels, 17, 9) * 255).round()
    for one, made in zip(pixels, JpegCompression(quality).apply(pixels / 255), strict=True):
        as_array = one.permute(1, 2, 0).to(torch.uint8).numpy()
        file = io.BytesIO()
        image.fromarray(as_array[..., 0] if channels == 1 else as_array).save(file, "JPEG", quality=quality)
        expected = torch.tensor(np.asarray(image.open(file))).view(17, 9, channels).permute(2, 0, 1)
        assert torch.equal((made * 255).round(), expected.float())
        torch.testing.assert_close(made, expected / 255)


def test_jpeg_of_better_quality_is_nearer_and_ranges_are_only_scales():
    x = rand(2, 3, 16, 16)
    gaps = [float((JpegCompression(q).apply(x) - x).abs().mean()) for q in (10, 50, 90)]
    assert gaps == sorted(gaps, reverse=True)
    wide = JpegCompression(50, low=-2, high=6).apply(8 * x - 2)
    torch.testing.assert_close((wide + 2) / 8, JpegCompression(50).apply(x))
    black = JpegCompression(50).apply(torch.full((1, 3, 8, 8), -5.0))
    assert black.abs().max() == 0


def test_jpeg_refuses_two_channels_and_names_the_extra(monkeypatch):
    with pytest.raises(DataError, match="2 channels"):
        JpegCompression().apply(rand(1, 2, 8, 8))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"hardpoint\[images\]"):
        JpegCompression()
