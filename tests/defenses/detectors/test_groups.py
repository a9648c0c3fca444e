"""Arranging a bank changes how long a search takes, never what it finds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.defenses.detectors import NearestNeighbours
from hardpoint.defenses.detectors._groups import WORTHWHILE, Groups
from hardpoint.defenses.detectors._neighbours import distances_to, nearest, normalised
from hardpoint.defenses.seen import Seen
from small_models import rand, randn


def clustered(n: int, d: int = 12, seed: int = 0) -> torch.Tensor:
    centres = randn(10, d, seed=seed)
    return normalised(centres[torch.arange(n) % 10] + 0.1 * randn(n, d, seed=seed + 1))


def exact(rows: torch.Tensor, bank: torch.Tensor, k: int) -> torch.Tensor:
    return (rows.double().unsqueeze(1) - bank.double()).norm(dim=2).sort(dim=1).values[:, :k].float()


@pytest.mark.parametrize("k", [1, 7, 299, 300])
@pytest.mark.parametrize(
    "bank", [clustered(300), randn(300, 12), rand(3, 12).repeat(100, 1), torch.zeros(300, 12)], ids=["clusters", "noise", "doubles", "one point"]
)  # fmt: skip
def test_neighbours_are_those_that_all_distances_give(bank, k):
    groups = Groups.of(bank)
    rows = torch.cat([clustered(3, seed=5), randn(3, 12, seed=7), bank[:1]])
    found = distances_to(rows, bank, nearest(rows, bank, k, groups))
    assert torch.allclose(found, exact(rows, bank, k), atol=2e-6)


@given(st.integers(2, 60), st.integers(1, 5), st.integers(0, 10**6))
def test_any_bank_is_searched_exactly(n, d, seed):
    bank = randn(n, d, seed=seed).mul(2).round() / 2
    row = randn(1, d, seed=seed + 1)
    k = 1 + seed % n
    which = Groups.of(bank).nearest(row[0], bank, k)
    if which is not None:
        assert len(which.unique()) == k
        assert torch.allclose((bank[which] - row).norm(dim=1), exact(row, bank, k)[0])


def test_a_bank_in_clusters_need_not_be_looked_at_as_a_whole():
    bank = clustered(2000)
    groups = Groups.of(bank)
    assert all(groups.nearest(row, bank, 2) is not None for row in clustered(8))
    noise, row = randn(2000, 200), torch.zeros(200)
    found = Groups.of(noise).nearest(row, noise, 2)
    assert found is None or torch.allclose((noise[found] - row).norm(dim=1), exact(row[None], noise, 2)[0])


def test_a_large_bank_scores_one_input_as_it_scores_many():
    bank = clustered(WORTHWHILE)
    detector = NearestNeighbours("f", bank, 5)
    rows = clustered(64, seed=3)

    def score(part: torch.Tensor) -> torch.Tensor:
        return detector.score(Seen(part, torch.zeros(len(part), 2), {"f": part}))

    whole = score(rows)
    assert torch.allclose(torch.cat([score(part) for part in rows.split(1)]), whole, atol=1e-6)
    assert torch.allclose(torch.cat([score(part) for part in rows.split(7)]), whole, atol=1e-6)
    assert torch.allclose(whole, exact(normalised(rows), bank, 5)[:, -1], atol=2e-6)
    point = rows[:1].clone().requires_grad_(True)
    assert bool(torch.autograd.grad(score(point).sum(), point)[0].norm() > 0)
    assert torch.allclose(score(rows[:1].double()).float(), whole[:1], atol=1e-6)


def test_what_is_not_finite_is_not_searched_for():
    bank = clustered(100)
    assert Groups.of(bank).nearest(torch.full((12,), torch.nan), bank, 2) is None
    assert Groups.of(bank).nearest(torch.full((12,), torch.inf), bank, 2) is None
