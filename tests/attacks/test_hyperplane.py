"""The shortest way to a hyperplane inside a box in Linf and L2, against trying all pieces."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hardpoint as hp
from hardpoint.attacks import FAB
from hardpoint.attacks.minimal import nearest
from hardpoint.attacks.minimal.hyperplane import onto_hyperplane
from hardpoint.attacks.minimal.norms import Norm
from hardpoint.models.torch import TorchModel
from small_models import labelled, mlp, rand

PACED = [Norm.LINF, Norm.L2]
NUMBERS = st.floats(-4, 4).map(lambda v: round(v, 3))


def pieces(steep: list[float], room: list[float], gap: float, norm: Norm) -> float | None:
    """The length that closes the gap, by trying which coordinates are at their ends."""
    best = None
    for held in itertools.product([False, True], repeat=len(steep)):
        pace = [1.0 if norm is Norm.LINF else s for s in steep]
        slope = sum(s * p for s, p, h in zip(steep, pace, held, strict=True) if not h)
        fixed = sum(s * r for s, r, h in zip(steep, room, held, strict=True) if h)
        if slope <= 0:
            continue
        t = (gap - fixed) / slope
        fits = all(
            (t * p >= r - 1e-9) if h else (t * p <= r + 1e-9)
            for p, r, h in zip(pace, room, held, strict=True)
        )
        if t >= 0 and fits:
            best = t if best is None else min(best, t)
    return best


@given(
    st.lists(st.tuples(NUMBERS, st.floats(0, 2), st.floats(0, 2)), min_size=1, max_size=6),
    st.floats(-8, 8),
    st.sampled_from(PACED),
)
@settings(max_examples=300, deadline=None)
def test_it_is_what_trying_all_pieces_finds(coordinates, gap, norm):
    normal, low, high = (torch.tensor([part], dtype=torch.float64) for part in zip(*coordinates, strict=True))
    d, reaches = onto_hyperplane(norm, normal, torch.tensor([gap], dtype=torch.float64), -low, high)
    assert bool((d <= high + 1e-12).all())
    assert bool((d >= -low - 1e-12).all())
    most = float((torch.where((normal > 0) == (gap > 0), high, low) * normal.abs()).sum())
    if most < abs(gap) * (1 - 1e-6):
        assert not reaches.item()
    if most > abs(gap) * (1 + 1e-6) and abs(gap) > 1e-6:
        assert reaches.item()
        assert float((normal * d).sum()) == pytest.approx(gap, rel=1e-9)
        room = torch.where((normal > 0) == (gap > 0), high, low)[0]
        steep = normal[0].abs()
        seen = [(float(s), float(r)) for s, r in zip(steep, room, strict=True) if s > 0]
        t = pieces([s for s, _ in seen], [r for _, r in seen], abs(gap), norm)
        assert t is not None
        if norm is Norm.LINF:
            assert float(d.abs().amax()) == pytest.approx(min(t, max(r for _, r in seen)), rel=1e-6, abs=1e-9)
        else:
            best = torch.minimum(t * steep, room)
            torch.testing.assert_close(d[0].abs(), torch.where(steep > 0, best, 0.0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("norm", PACED)
def test_a_row_is_the_same_alone_and_among_others(norm):
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(40, 300, generator=generator, dtype=torch.float64) ** 5
    x = torch.rand(40, 300, generator=generator, dtype=torch.float64)
    gap = normal.abs().sum(1) * torch.linspace(0, 0.6, 40, dtype=torch.float64)
    together, reaches = onto_hyperplane(norm, normal, gap, -x, 1 - x)
    assert bool(reaches[1:10].all())
    assert not bool(reaches[-1])
    for row in range(0, 40, 7):
        one = slice(row, row + 1)
        alone, _ = onto_hyperplane(norm, normal[one], gap[one], -x[one], 1 - x[one])
        torch.testing.assert_close(alone, together[one], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("norm", PACED)
def test_kinks_of_very_different_sizes_end(norm):
    """Each piece is a millionth of the one before: Newton's steps pass them one by one, and end."""
    steep = torch.logspace(0, -60, 11, dtype=torch.float64).unsqueeze(0)
    room = torch.logspace(-60, 0, 11, dtype=torch.float64).unsqueeze(0)
    gap = (steep * room).sum(1) * 0.5
    d, reaches = onto_hyperplane(norm, steep, gap, -room, room)
    assert reaches.item()
    assert float((steep * d).sum()) == pytest.approx(float(gap), rel=1e-9)


@pytest.mark.parametrize("norm", PACED)
@pytest.mark.parametrize("gap", [torch.nan, torch.inf, 0.0])
def test_it_ends_whatever_the_gap(norm, gap):
    d, _ = onto_hyperplane(norm, torch.ones(1, 3), torch.tensor([gap]), -torch.ones(1, 3), torch.ones(1, 3))
    assert d.shape == (1, 3)


def test_a_boundary_that_is_pursued_alone_is_not_measured(monkeypatch):
    """Its distance decides nothing, and took most of FAB's time on pictures."""

    def measured(*_: object) -> torch.Tensor:
        raise AssertionError

    monkeypatch.setattr(nearest, "distance_ahead", measured)
    net, x = mlp(), rand(8, 8)
    y, ball = labelled(net, x), hp.Linf(0.3)
    assert FAB(steps=10, targets=3)(TorchModel(net), x, y, ball).broken.any()
    with pytest.raises(AssertionError):
        FAB(steps=10)(TorchModel(net), x, y, ball)
