"""Radii against closed forms, their inverse, and brute force over small classifiers; what is drawn is what is said."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hardpoint.bounds.smoothing import Ablation, Encoding, Gaussian, IntegerGaussian, Laplace, Uniform
from hardpoint.bounds.smoothing.grid import thresholds
from hardpoint.core.errors import ConfigError, DataError
from hardpoint.threats.l0 import L0
from hardpoint.threats.l1 import L1
from hardpoint.threats.l2 import L2
from hardpoint.threats.linf import Linf
from small_models import rand

SHAPE = (3, 5, 4)
ALL = [
    Gaussian(0.5),
    Gaussian(0.5, norm=Linf),
    Gaussian(2.0, norm=L1),
    IntegerGaussian(0.25),
    Uniform(0.7),
    Uniform(0.7, norm=Linf),
    Laplace(0.3),
]


def one(p: float) -> torch.Tensor:
    return torch.tensor([p], dtype=torch.float64)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_closed_forms():
    p = 0.93
    z = stats.norm.ppf(p)
    for noise, radius in [
        (Gaussian(0.5), 0.5 * z),
        (Gaussian(0.5, norm=L1), 0.5 * z),
        (Gaussian(0.5, norm=Linf), 0.5 * z / math.sqrt(60)),
        (IntegerGaussian(0.25), 0.25 * z),
        (Uniform(0.7), 1.4 * (p - 0.5)),
        (Uniform(0.7, norm=Linf), 1.4 * (1 - (1.5 - p) ** (1 / 60))),
        (Laplace(0.3), -0.3 * math.log(2 * (1 - p))),
    ]:
        assert float(noise.radius(one(p), SHAPE)) == pytest.approx(radius, rel=1e-9)
    assert [noise.norm for noise in ALL] == [L2, Linf, L1, L2, L1, Linf, L1]


@pytest.mark.parametrize("noise", ALL, ids=str)
def test_the_inverse_is_the_inverse_and_errs_on_the_safe_side(noise):
    p = torch.linspace(0.5001, 0.99999, 500, dtype=torch.float64)
    radius = noise.radius(p, SHAPE)
    assert bool((radius.diff() > 0).all())
    assert torch.allclose(noise.probability(radius, SHAPE), p, atol=1e-9)
    exact = noise.radius(noise.probability(radius, SHAPE), SHAPE)
    assert torch.allclose(exact, radius, rtol=1e-6)
    assert bool((noise.radius(torch.tensor([0.0, 0.2, 0.5], dtype=torch.float64), SHAPE) == 0).all())
    assert float(noise.probability(one(0.0), SHAPE)) > 0.5
    assert float(noise.probability(one(1e9), SHAPE)) >= 1.0


@given(st.floats(0.5, 1 - 1e-9))
def test_laplace_and_gauss_are_tight_for_a_half_line(p):
    """Right below a border at the distance that is proven, the answer is even there and no farther."""
    laplace, gauss = Laplace(0.4), Gaussian(0.4)
    for noise, cdf in [(laplace, stats.laplace(scale=0.4).cdf), (gauss, stats.norm(scale=0.4).cdf)]:
        distance = float(noise.radius(one(p)))
        assert cdf(distance) <= p + 1e-12
        assert cdf(distance - distance) == 0.5


@pytest.mark.parametrize("noise", [Uniform(0.5), Uniform(0.5, norm=Linf)], ids=str)
def test_uniform_noise_keeps_its_word_for_any_classifier_of_the_plane(noise):
    """Regions of squares of side 0.1, so that probabilities are means over windows of 10 by 10."""
    ever = 0
    for seed, share in itertools.product(range(4), (0.7, 0.85, 0.95)):
        field = (rand(40, 40, seed=seed) < share).double()
        field[:, 12 : 17 + seed] = 0.0  # a wall, along which the radius is spent
        p = torch.nn.functional.avg_pool2d(field[None, None], 10, 1)[0, 0]
        radius = noise.radius(p, (2,))
        for i, j in itertools.product(range(-4, 5), repeat=2):
            size = (abs(i) + abs(j)) * 0.1 if noise.norm is L1 else max(abs(i), abs(j)) * 0.1
            inner = radius[4:-4, 4:-4]
            moved = p[4 + i : p.shape[0] - 4 + i, 4 + j : p.shape[1] - 4 + j]
            proven = (inner > 0) & (inner >= size)
            assert bool((moved[proven] >= 0.5).all())
            ever += int(proven.sum())
    assert ever > 10_000


def test_uniform_noise_is_tight_in_one_dimension():
    """On an interval that ends where the noise ends, the classifier is even after the radius."""
    p = 0.8  # the border is at 0.3 of a noise of half width 0.5
    assert float(Uniform(0.5).radius(one(p))) == pytest.approx(0.3)
    assert float(Uniform(0.5, norm=Linf).radius(one(p), (1,))) == pytest.approx(0.3)


@pytest.mark.parametrize("keep", [1, 2])
def test_ablation_keeps_its_word_for_any_classifier_of_six_bits(keep):
    noise, masks = Ablation(keep), list(itertools.combinations(range(6), keep))
    proven = 0
    for seed, share in itertools.product(range(8), (0.75, 0.95, 1.0)):
        draws = rand(len(masks), 2**keep, seed=seed) < share

        def p(x: tuple[int, ...], draws=draws) -> float:
            seen = [sum(x[at] << place for place, at in enumerate(mask)) for mask in masks]
            return sum(bool(draws[row, code]) for row, code in enumerate(seen)) / len(masks)

        every = {x: p(x) for x in itertools.product((0, 1), repeat=6)}
        for x, mine in every.items():
            radius = int(noise.radius(one(mine), (6,)))
            proven += radius
            for other, theirs in every.items():
                if mine > 0.5 and sum(a != b for a, b in zip(x, other, strict=True)) <= radius:
                    assert theirs > 0.5
    assert proven


def test_ablation_counts_what_can_be_seen():
    noise = Ablation(2)
    for r in range(7):
        seen = 1 - math.comb(6 - r, 2) / math.comb(6, 2) if r <= 4 else 1.0
        needed = float(noise.probability(one(float(r)), (6,)))
        assert needed == pytest.approx(0.5 + seen, abs=1e-9)
        if needed < 1:
            assert float(noise.radius(one(needed + 1e-9), (6,))) == r
            assert float(noise.radius(one(needed - 1e-9), (6,))) == max(0, r - 1)


def test_ablation_keeps_as_many_as_it_says_each_alike():
    mask = Ablation(5).draw(6000, (2, 4, 3), source(), torch.float32).values
    assert mask.shape == (6000, 4, 3)
    assert bool((mask.flatten(1).sum(1) == 5).all())
    assert float((mask.float().mean(0) - 5 / 12).abs().max()) < 4 * math.sqrt(5 / 12 * 7 / 12 / 6000)


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("shape", [(2, 4, 3), (12,), (3, 4)])
def test_what_is_not_seen_is_told_apart_from_every_value(encoding, shape):
    noise, x = Ablation(3, encoding), rand(5, *shape)
    x[0] = 0.0
    drawn = noise.draw(7, shape, source(), x.dtype)
    told = noise.put(x, drawn.values)
    extra = 1 if encoding is Encoding.MASK and len(shape) == 3 else shape[0]
    assert told.shape == (35, shape[0] + extra, *shape[1:])
    mask = drawn.values.unsqueeze(1) if len(shape) == 3 else drawn.values
    own, rest = told.view(5, 7, *told.shape[1:])[0].split([shape[0], extra], 1)
    assert bool(((own + rest > 0) == mask.expand_as(own + rest)).all())
    assert noise.norm is L0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_the_distribution_that_is_said(dtype):
    for noise, truth in [
        (Gaussian(0.3), stats.norm(scale=0.3)),
        (Uniform(0.6), stats.uniform(-0.6, 1.2)),
        (Laplace(0.2), stats.laplace(scale=0.2)),
    ]:
        values = noise.draw(2000, (10,), source(3), dtype).values
        assert values.dtype == dtype
        assert bool(torch.isfinite(values).all())
        assert stats.kstest(values.flatten().numpy(), truth.cdf).pvalue > 1e-3


def test_a_uniform_draw_of_nothing_is_a_laplace_draw_of_some_length(monkeypatch):
    ends = torch.tensor([0.0, 0.5, 1 - 2**-53, 0.5 - 2**-54], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: ends.clone().view(1, 4))
    values = Laplace(1.0).draw(1, (4,), source(), torch.float32).values
    assert bool(torch.isfinite(values).all())
    assert values[0, 2] < -30
    assert values[0, 3] > 30


def test_thresholds_are_the_distribution_function():
    for sigma, levels in ((0.25, 255), (0.5, 7), (1.0, 1)):
        table = thresholds(sigma, levels)
        count = len(table) // 2
        borders = (torch.arange(-count, count, dtype=torch.float64) + 0.5) / levels
        truth = torch.special.ndtr(borders / sigma) * 2.0**60
        assert bool(((table.double() - truth).abs() <= 2.0**60 * 4e-15).all())
        assert set((table + table.flip(0) - 2**60).tolist()) <= {-1, 0}
        assert bool((table.diff() > 0).all())


def test_small_thresholds_are_exact():
    """Φ(1/2) and Φ(3/2) to 25 digits, from tables."""
    table = thresholds(1.0, 1)
    half, more = 0.6914624612740131036377046, 0.9331927987311419339954059
    assert table[len(table) // 2].item() == pytest.approx(half * 2**60, abs=300)
    assert table[len(table) // 2 + 1].item() == pytest.approx(more * 2**60, abs=300)


def test_whole_noise_is_the_rounded_normal():
    noise, count = IntegerGaussian(0.01), 200_000
    drawn = noise.draw(count // 10, (10,), source(1), torch.float32)
    steps = drawn.values.flatten()
    found = torch.bincount((steps + 40).long(), minlength=81)[:81].double()
    borders = (torch.arange(-40, 42, dtype=torch.float64) - 0.5) / 255
    expected = torch.special.ndtr(borders / 0.01).diff() * count
    likely = expected > 20
    chi = float(((found - expected) ** 2 / expected)[likely].sum())
    assert stats.chi2.sf(chi, int(likely.sum()) - 1) > 1e-3
    assert drawn.sure is not None
    assert bool(drawn.sure.all())


def test_draws_on_a_threshold_or_beyond_the_table_are_not_sure(monkeypatch):
    table = thresholds(0.25, 255)
    bits = torch.cat(
        [table[:3], table[-3:], table[700:701] + 1, table[700:701] + 5, torch.tensor([0, 2**60 - 1])]
    )
    monkeypatch.setattr(torch, "randint", lambda *_, **__: bits.view(-1, 1))
    drawn = IntegerGaussian(0.25).draw(len(bits), (1,), source(), torch.float32)
    assert drawn.sure is not None
    assert drawn.sure.tolist() == [False] * 7 + [True, False, False]


def test_whole_noise_gives_points_of_the_grid_and_no_rounding():
    x = torch.arange(256).view(1, -1).float() / 255
    noise = IntegerGaussian(0.25)
    values = noise.draw(3, (256,), source(), x.dtype).values
    given_ = noise.put(x, values)
    assert torch.equal(given_, (torch.arange(256) + values).float() / 255)
    noise.check(x)


@pytest.mark.parametrize("value", [0.5, 1e-5 * 3, 0.1])
def test_inputs_off_the_grid_are_refused(value):
    with pytest.raises(DataError, match="row 1 is not on the grid"):
        IntegerGaussian(0.25).check(torch.tensor([[1.0], [value]]))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, "a", None, True])
def test_a_size_that_is_none_is_refused(bad):
    for kind in (Gaussian, Uniform, Laplace, IntegerGaussian):
        with pytest.raises(ConfigError):
            kind(bad)


def test_what_no_noise_proves_is_refused():
    for made in (
        lambda: Gaussian(0.5, norm=L0),
        lambda: Uniform(0.5, norm=L2),
        lambda: IntegerGaussian(0.5, norm="L2"),
        lambda: IntegerGaussian(100.0),
        lambda: IntegerGaussian(0.5, levels=0),
        lambda: Ablation(0),
        lambda: Ablation(2.5),
        lambda: Ablation(2, "mask"),
        lambda: Gaussian(0.5, norm=Linf).radius(one(0.9)),
        lambda: Ablation(2).radius(one(0.9)),
        lambda: Ablation(2).probability(one(1.5), (6,)),
        lambda: Ablation(7).radius(one(0.9), (6,)),
    ):
        with pytest.raises(ConfigError):
            made()
    with pytest.raises(DataError):
        Ablation(7).check(rand(2, 6))
