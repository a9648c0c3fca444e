from __future__ import annotations

import pytest
import torch

from hardpoint.core.errors import DataError, NothingToTest
from hardpoint.core.rng import Rng
from hardpoint.defenses.calibration import p_values
from small_models import rand, randn


def test_p_values_are_those_of_counting():
    calibration = (5 * rand(40)).round()
    scores = torch.cat([(5 * rand(200, seed=1)).round(), torch.tensor([-9.0, 9.0, torch.inf, -torch.inf])])
    brute = [(1 + sum(c >= s for c in calibration.tolist())) / 41 for s in scores.tolist()]
    p = p_values(calibration, scores)
    assert p.tolist() == brute
    drawn = p_values(calibration, scores, Rng(0))
    above = torch.tensor([sum(c > s for c in calibration.tolist()) / 41 for s in scores.tolist()]).double()
    assert bool(((drawn > above) & (drawn <= p)).all())


@pytest.mark.parametrize("tied", [False, True])
def test_p_values_of_exchangeable_scores_are_uniform(tied):
    from scipy.stats import chisquare

    rows = randn(4000, 20, dtype=torch.float64)
    if tied:
        rows = rows.round()
    rng = Rng(3) if tied else None
    p = torch.cat([p_values(r[1:], r[:1], rng, index=torch.tensor([i])) for i, r in enumerate(rows)])
    cells = ((p * 20).ceil() - 1).long().bincount(minlength=20)
    assert chisquare(cells.numpy()).pvalue > 0.01
    plain = torch.cat([p_values(r[1:], r[:1]) for r in rows])
    for alpha in (0.05, 0.1, 0.5):  # never too small, tied or not: four standard errors of 4000 draws
        assert float((plain <= alpha).double().mean()) <= alpha + 4 * (alpha * (1 - alpha) / 4000) ** 0.5


def test_ties_are_broken_by_input_and_not_by_batch():
    calibration, scores = torch.zeros(50), torch.zeros(6)
    index = torch.arange(6)
    whole = p_values(calibration, scores, Rng(1), index=index)
    alone = torch.cat([p_values(calibration, scores[:1], Rng(1), index=index[i : i + 1]) for i in range(6)])
    assert torch.equal(whole, alone)
    assert len(set(whole.tolist())) == 6
    assert not torch.equal(whole, p_values(calibration, scores, Rng(1).fork("energy"), index=index))


def test_what_cannot_be_ranked_is_refused():
    good = torch.arange(5.0)
    with pytest.raises(DataError, match="row 2 of the calibration scores is NaN"):
        p_values(good.index_fill(0, torch.tensor([2]), torch.nan), good)
    with pytest.raises(DataError, match="row 0 of the scores is NaN"):
        p_values(good, torch.tensor([torch.nan]))
    with pytest.raises(NothingToTest, match="no calibration scores"):
        p_values(good[:0], good)
    with pytest.raises(DataError, match=r"shape \(1, 5\)"):
        p_values(good.unsqueeze(0), good)
    assert p_values(good, good[:0]).shape == (0,)
