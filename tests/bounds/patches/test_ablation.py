"""Votes that a patch can touch are counted right, and certified answers stand against every change of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from hardpoint.bounds.patches import Ablation, Blocks, Columns, Rows
from hardpoint.bounds.patches.ablation import ablated
from hardpoint.core.errors import ConfigError, HardpointError, ModelError, ThreatError
from hardpoint.core.rng import Rng
from small_models import Noisy, rand, seeded


@pytest.mark.parametrize(
    "kept", [Columns(1), Columns(3), Columns(7), Rows(2), Rows(6), Blocks(1), Blocks(3), Blocks(6)]
)
@pytest.mark.parametrize("patch", [(1, 1), (2, 3), (6, 1), (6, 7)])
def test_touched_is_the_most_that_any_place_touches(kept, patch):
    keep = kept.keep(6, 7)
    most = 0
    for top, left in itertools.product(range(7 - patch[0]), range(8 - patch[1])):
        hit = keep[:, top : top + patch[0], left : left + patch[1]].flatten(1).any(1)
        most = max(most, int(hit.sum()))
    assert kept.touched(6, 7, patch) == most


def test_what_is_left_out_leaves_nothing():
    x, other = rand(2, 3, 5, 5), rand(2, 3, 5, 5, seed=1)
    keep = torch.zeros(5, 5, dtype=torch.bool)
    keep[:, 2] = True
    other[..., 2] = x[..., 2]
    other[0, 0, 0, 0] = torch.nan
    assert torch.equal(ablated(x, keep), ablated(other, keep))
    assert ablated(x, keep).shape == (2, 4, 5, 5)
    black = ablated(torch.zeros(1, 3, 5, 5), keep)
    assert bool((black[:, 3] == keep).all())  # black that is shown is not taken for what is left out


class Bright(nn.Module):
    """Class by the brightness of what is shown."""

    def forward(self, z):
        shown = z[:, -1].flatten(1).sum(1)
        mean = z[:, 0].flatten(1).sum(1) / shown
        return torch.stack([4 * (0.5 - mean), 4 * (mean - 0.5), torch.full_like(mean, -0.5)], 1)


def patched(x, size, contents):
    made = []
    for top, left in itertools.product(range(x.shape[2] - size[0] + 1), range(x.shape[3] - size[1] + 1)):
        z = x.expand(len(contents), *x.shape[1:]).clone()
        z[:, :, top : top + size[0], left : left + size[1]] = contents
        made.append(z)
    return torch.cat(made)


@pytest.mark.parametrize("kept", [Columns(2), Rows(1), Blocks(2)])
def test_certified_images_stand_against_every_place_and_content(kept):
    x = 0.8 * rand(8, 1, 8, 8) + torch.linspace(0.06, 0.14, 8).view(8, 1, 1, 1)
    vote = Ablation(Bright().eval(), kept, patches=[(2, 1)], batch=2000)
    found = vote.certify(x)
    assert 2 <= int(found.certified.sum()) < 8
    contents = torch.cat([rand(98, 1, 2, 1, seed=1), torch.ones(1, 1, 2, 1), torch.zeros(1, 1, 2, 1)])
    for row in found.certified.nonzero().flatten().tolist()[:2]:
        attacked = patched(x[row : row + 1], (2, 1), contents[:: 8 if isinstance(kept, Blocks) else 3])
        assert bool((vote.predict(attacked) == found.predicted[row]).all())


class Says(nn.Module):
    """Votes written into the image: each column's first pixel, times ten, is the class its band votes for."""

    def forward(self, z):
        label = (10 * z[:, 0].flatten(1).sum(1)).round().long()
        return nn.functional.one_hot(label, 3).float()


def test_ties_go_to_the_smaller_class_and_count_against_the_larger():
    x = torch.zeros(2, 1, 2, 8)
    x[0, 0, 0] = torch.tensor([1, 1, 1, 1, 1, 0, 2, 2]) / 10  # 1, 5, 2 votes
    x[1, 0, 0] = torch.tensor([2, 2, 2, 2, 2, 2, 1, 0]) / 10
    found = Ablation(Says().eval(), Columns(1), patches=[(2, 1)]).certify(x)
    assert found.votes.tolist() == [[1, 5, 2], [1, 1, 6]]
    assert found.predicted.tolist() == [1, 2]
    assert found.margin.tolist() == [3, 4]  # 5 - 2, no smaller class; 6 - (1 + 1)
    assert found.needed.tolist() == [2, 2]
    assert found.certified.tolist() == [True, True]
    even = torch.zeros(1, 1, 2, 4)
    even[0, 0, 0] = torch.tensor([2, 2, 1, 1]) / 10
    tied = Ablation(Says().eval(), Columns(1), patches=1).certify(even)
    assert (tied.predicted.item(), tied.margin.item(), tied.certified.item()) == (1, 0, False)


def test_the_certificate_is_as_good_as_the_votes_allow():
    """Every set of touched votes, changed to anything: exactly what is certified stands."""
    draws = torch.randint(0, 3, (60, 6), generator=torch.Generator().manual_seed(0))
    draws = torch.where(torch.arange(60).unsqueeze(1) % 2 == 0, draws, draws.clamp(max=1))
    x = torch.zeros(60, 1, 2, 6)
    x[:, 0, 0] = draws / 10
    found = Ablation(Says().eval(), Columns(1), patches=[(1, 2)]).certify(x)
    assert 0 < int(found.certified.sum()) < 60
    for votes, label, certified in zip(draws, found.predicted, found.certified, strict=True):
        stands = True
        for places in itertools.combinations(range(6), 2):  # the bound knows nothing of neighbours
            for values in itertools.product(range(3), repeat=2):
                changed = votes.clone()
                changed[list(places)] = torch.tensor(values)
                stands &= bool(changed.bincount(minlength=3).argmax() == label)
        assert stands or not bool(certified)
        assert bool(certified) == stands or votes.bincount(minlength=3)[label] < 4


def test_votes_too_close_for_rounding_count_as_touched():
    class Close(nn.Module):
        def forward(self, z):
            gap = torch.where(z[:, 0].flatten(1).sum(1) > 0, 1e-7, 1.0)
            return torch.stack([gap, torch.zeros_like(gap)], 1)

    x = torch.zeros(1, 1, 4, 12)
    x[..., 0] = 1.0
    vote = Ablation(Close().eval(), Columns(1), patches=1)
    assert vote.certify(x).needed.item() == 4
    assert vote.certify(torch.zeros_like(x)).needed.item() == 2


def test_thresholds_let_parts_vote_for_several_or_none():
    x = 0.5 * rand(4, 1, 8, 8)
    several = Ablation(Bright().eval(), Columns(2), patches=1, threshold=0.0).certify(x)
    none = Ablation(Bright().eval(), Columns(2), patches=1, threshold=0.9999).certify(x)
    assert bool((several.votes == 8).all())
    assert not bool(several.certified.any())
    assert int(none.votes.sum()) == 0
    assert not bool(none.certified.any())


def test_views_to_train_on_belong_to_the_images():
    x, vote = rand(6, 2, 5, 5), Ablation(Bright().eval(), Columns(2), patches=1)
    index = torch.arange(6)
    views = vote.views(x, Rng(0), index)
    assert views.shape == (6, 3, 5, 5)
    assert torch.equal(vote.views(x[3:], Rng(0), index[3:]), views[3:])
    assert bool((views[:, -1].flatten(1).sum(1) == 10).all())


def test_bad_input_is_told():
    x = rand(2, 1, 8, 8)
    vote = Ablation(Bright().eval(), Columns(2), patches=2)
    for bad in (x * 3, x.flatten(1), torch.full_like(x, torch.nan), x.long()):
        with pytest.raises(HardpointError):
            vote.certify(bad)
    for kept in (Columns(0), Columns(9), Blocks(9), Rows(-1)):
        with pytest.raises(ThreatError):
            Ablation(Bright().eval(), kept, patches=2).certify(x)
    for threshold in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError):
            Ablation(Bright().eval(), Columns(2), patches=2, threshold=threshold)
    assert vote.certify(x[:0]).certified.shape == (0,)
    noisy = seeded(lambda: Noisy(Bright(), 0.5)).eval()
    with pytest.raises(ModelError, match="again"):
        Ablation(noisy, Columns(2), patches=2).certify(x)


def test_whole_images_are_one_vote_each_and_prove_nothing():
    x = 0.3 * rand(2, 1, 8, 8)
    assert not bool(Ablation(Bright().eval(), Columns(8), patches=1).certify(x).certified.any())
