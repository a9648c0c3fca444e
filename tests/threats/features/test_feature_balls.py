"""Ball and box projections against dense search and against their definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.core.errors import ThreatError
from hardpoint.threats.features.balls import Norm, project

sizes = st.sampled_from([0.0, 1e-9, 1e-3, 0.1, 0.5, 1.0, 7.0, 1e6])
signed = st.tuples(sizes, st.sampled_from([-1.0, 1.0])).map(lambda pair: pair[0] * pair[1])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(signed, sizes, sizes), min_size=1, max_size=6),
    st.sampled_from([0.0, 1e-6, 0.05, 1.0, 3.0, math.inf]),
    st.sampled_from([Norm.LINF, Norm.L2, Norm.L1]),
)
def test_projections_are_inside_and_no_nearby_point_is_nearer(columns, radius, norm):
    d, down, up = (torch.tensor([c[i] for c in columns], dtype=torch.float64).unsqueeze(0) for i in range(3))
    v = project(norm, d, -down, up, torch.tensor([radius], dtype=torch.float64))
    assert norm.length(v).item() <= radius * (1 + 1e-12)
    assert ((v >= -down) & (v <= up)).all()
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(500, d.shape[1], generator=generator, dtype=torch.float64)
    for step in (1e-4, 1e-2, 1.0):
        other = torch.minimum(torch.maximum(v + step * directions, -down), up)
        length = norm.length(other)
        other = (
            other * (radius / length.clamp_min(1e-300)).clamp(max=1.0).unsqueeze(1)
            if math.isfinite(radius)
            else other
        )
        assert (d - v).norm() <= (d - other).norm(dim=1).min() * (1 + 1e-9) + 1e-9


def test_l2_shrinks_the_free_coordinates_when_others_are_held():
    # 0.6 is held, so 0.8 is left for the other
    v = project(
        Norm.L2,
        torch.tensor([[3.0, 3.0]], dtype=torch.float64),
        torch.tensor([[-9.0, -9.0]], dtype=torch.float64),
        torch.tensor([[0.6, 9.0]], dtype=torch.float64),
        torch.tensor([1.0], dtype=torch.float64),
    )
    torch.testing.assert_close(v, torch.tensor([[0.6, 0.8]], dtype=torch.float64))


@pytest.mark.parametrize("norm", list(Norm))
def test_rest_is_what_may_still_be_added(norm):
    moves = torch.tensor([[0.5, 0.0, 0.25, 0.0]], dtype=torch.float64)
    eps = 3.0
    rest = norm.rest(eps, norm.length(moves))
    if norm is Norm.L0:
        assert rest.item() == 1
    else:
        assert norm.length(torch.cat([moves, rest.unsqueeze(1)], 1)).item() == pytest.approx(eps)
    assert norm.rest(math.inf, norm.length(moves)).item() == math.inf


def test_unknown_norms_are_refused():
    with pytest.raises(ThreatError, match="linf, l2, l1, l0"):
        Norm.parse("euclid")
