"""Arranging a bank changes how long a search takes, never what it finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.defenses.detectors import NearestNeighbours, _groups
from hardpoint.defenses.detectors._groups import WORTHWHILE, Groups
from hardpoint.defenses.detectors._neighbours import normalised
from hardpoint.defenses.one import one_of
from hardpoint.defenses.seen import Seen
from small_models import rand, randn

TYPES = [torch.float32, torch.float64]


def clustered(n: int, d: int = 12, seed: int = 0) -> torch.Tensor:
    centres = randn(10, d, seed=seed)
    return normalised(centres[torch.arange(n) % 10] + 0.1 * randn(n, d, seed=seed + 1))


def exact(row: torch.Tensor, bank: torch.Tensor, k: int) -> float:
    return float((row.double() - bank.double()).norm(dim=1).sort().values[k - 1])


def seen_of(features: torch.Tensor) -> Seen:
    return Seen(features, torch.zeros(len(features), 2), {"f": features})


BANKS = {
    "clusters": clustered(1000),
    "noise": randn(1000, 12),
    "doubles": rand(3, 12).repeat(300, 1),
    "one point": torch.zeros(700, 12),
    "many directions": clustered(600, 200),
    "one direction": rand(600, 1),
    "far from zero": clustered(900) + 3.0,
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("k", [1, 7, 130, 599, 600])
@pytest.mark.parametrize("bank", BANKS.values(), ids=BANKS)
def test_the_kth_is_the_one_that_all_distances_give(bank, k, dtype, monkeypatch):
    monkeypatch.setattr(_groups, "_MOST", 1.0)  # never give up
    bank = bank.to(dtype)
    groups = Groups.of(bank)
    assert torch.equal(groups.order.sort().values, torch.arange(len(bank)))
    d, slack = bank.shape[1], (4e-6 if dtype is torch.float32 else 1e-12)
    for row in torch.cat([clustered(2, d, seed=5), randn(2, d, seed=7), bank[:1].float()]).to(dtype):
        place, distance = groups.kth(row.numpy(), k)
        assert distance == pytest.approx(exact(row, bank, k), abs=slack)
        assert float((bank[place] - row).norm()) == pytest.approx(distance, abs=slack)


@given(st.integers(1, 400), st.integers(1, 5), st.integers(0, 10**6))
def test_any_bank_is_searched_exactly(n, d, seed):
    bank = randn(n, d, seed=seed).mul(2).round() / 2  # ties and doubles
    row = randn(1, d, seed=seed + 1)[0].mul(2).round() / 2
    k = 1 + seed % n
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_groups, "_GROUP", 1 + seed % 30)
        patch.setattr(_groups, "_FIRST", 1 + seed % 3)
        patch.setattr(_groups, "_MOST", 1.0)
        place, distance = Groups.of(bank).kth(row.numpy(), k)
    assert distance == pytest.approx(exact(row, bank, k), abs=1e-6)
    assert float((bank[place] - row).norm()) == pytest.approx(distance, abs=1e-6)


def test_a_bank_in_clusters_need_not_be_looked_at_as_a_whole():
    bank = clustered(4000)
    groups = Groups.of(bank)
    assert all(groups.kth(row.numpy(), 5) is not None for row in clustered(8))
    held = [groups.members, groups.sketches, groups.low, groups.high]
    assert sum(part.nbytes for part in held) < 100 * len(bank)


def test_what_is_not_finite_is_not_searched_for():
    groups = Groups.of(clustered(500))
    for value in (np.nan, np.inf, 3e38):
        with np.errstate(all="ignore"):
            assert groups.kth(np.full(12, value, np.float32), 2) is None


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("k", [1, 5, WORTHWHILE])
def test_a_large_bank_scores_one_input_as_it_scores_many(k, dtype):
    bank = clustered(WORTHWHILE).to(dtype)
    detector, rows = NearestNeighbours("f", bank, k), clustered(64, seed=3).to(dtype)
    slack = 2e-6 if dtype is torch.float32 else 1e-12
    whole = detector.score(seen_of(rows))
    for size in (1, 7):
        parts = torch.cat([detector.score(seen_of(part)) for part in rows.split(size)])
        assert torch.allclose(parts, whole, rtol=0, atol=slack)
    for row, score in zip(rows[:20], whole.tolist(), strict=False):
        assert score == pytest.approx(exact(normalised(row[None])[0], bank, k), abs=slack)
        alone = detector.score_one(one_of(seen_of(row[None])))
        assert alone == pytest.approx(score, abs=slack)


def test_the_gradient_of_one_input_is_that_of_many():
    detector, rows = NearestNeighbours("f", clustered(WORTHWHILE), 5), clustered(16, seed=3) * 2.0
    point = rows.clone().requires_grad_(True)
    (whole,) = torch.autograd.grad(detector.score(seen_of(point)).sum(), point)
    for row, wanted in zip(rows.split(1), whole, strict=True):
        one = row.clone().requires_grad_(True)
        alone = torch.autograd.grad(detector.score(seen_of(one)).sum(), one)[0][0]
        assert torch.allclose(alone, wanted, atol=1e-5)
        assert bool(alone.norm() > 0)


def test_what_numpy_does_not_compute_in_is_looked_for_as_before():
    bank = clustered(WORTHWHILE)
    detector, rows = NearestNeighbours("f", bank, 5), clustered(1, seed=3)
    score = float(detector.score(seen_of(rows)))
    assert detector.score_one(one_of(seen_of(rows.double()))) is None
    assert float(detector.score(seen_of(rows.double()))) == pytest.approx(score, abs=1e-6)
    assert NearestNeighbours("f", bank[:100], 5).score_one(one_of(seen_of(rows))) is None
    zeros = seen_of(torch.zeros(1, 12))  # as far from all
    assert detector.score_one(one_of(zeros)) is None
    assert float(detector.score(zeros)) == pytest.approx(1.0, abs=1e-6)


def test_fitting_puts_near_rows_together_and_changes_no_score():
    rows = clustered(WORTHWHILE + 77)
    fitted = NearestNeighbours.fit(seen_of(rows), torch.zeros(len(rows), dtype=torch.int64), "f", 5)
    plain = NearestNeighbours("f", normalised(rows), 5)
    asked = seen_of(clustered(20, seed=9))
    assert torch.allclose(fitted.score(asked), plain.score(asked), atol=1e-6)
    steps = [bank.diff(dim=0).norm(dim=1).mean() for bank in (fitted.bank, plain.bank)]
    assert steps[0] < 0.6 * steps[1]
