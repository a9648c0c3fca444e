"""Random search and climbs by turns: what it spends, what it finds that neither half finds alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hardpoint as hp
from hardpoint.attacks import APGD, Memetic, Square
from hardpoint.core.box import Box
from hardpoint.core.errors import ThreatError
from small_models import labelled, linear, mlp, rand, randn

EPS = 0.1


class Hills(nn.Module):
    """Two classes; the second wins only at the top of a hill, and the slopes around lead away from it.

    ``a`` is how far the first half of the pixels was raised on average, in units of the budget; ``b`` the second half. The
    slope climbs towards a = -1. Beyond a = 0.4 a hill in ``b`` begins, whose top alone is high enough.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.centre = x.mean(0)

    def forward(self, x: Tensor) -> Tensor:
        away = ((x - self.centre) / EPS).flatten(1)
        half = away.shape[1] // 2
        a, b = away[:, :half].mean(1), away[:, half:].mean(1)
        hill = 4 * torch.relu(a - 0.4) * torch.relu(b + 1)
        rest = -2.0 - 0.5 * a + hill
        return torch.stack([torch.zeros_like(rest), rest], 1)


def test_it_spends_what_its_name_says():
    net = linear(torch.tensor([[0.0, 0.0], [0.1, 0.1]]), torch.tensor([5.0, 0.0]))
    x = rand(3, 2, seed=1)
    found = Memetic(rounds=3, queries=7, steps=4)(net, x, torch.zeros(3, dtype=torch.int64), hp.Linf(EPS))
    assert not found.broken.any()
    assert found.passes.forward == 3 * (7 + 4 + 1)
    assert found.passes.backward == 3 * 4


def test_it_reaches_a_hill_from_which_gradients_lead_away():
    x = torch.full((40, 1, 6, 6), 0.5)
    net, y = Hills(x).eval(), torch.zeros(40, dtype=torch.int64)
    threat = hp.Linf(EPS)
    climbs = APGD(loss="margin", steps=100)(net, x, y, threat)
    both = Memetic(rounds=2, queries=600, steps=10)(net, x, y, threat)
    assert both.broken.sum() >= 2 * climbs.broken.sum()
    assert both.broken.double().mean() > 0.4


def test_climbs_save_queries():
    net = mlp(d=36, dtype=torch.float64)
    x = rand(120, 1, 6, 6, seed=4, dtype=torch.float64)
    y = labelled(net, x)
    both = Memetic(rounds=2, queries=20, steps=5)(net, x, y, hp.Linf(0.08))
    alone = Square(queries=2 * (20 + 2 * 5 + 1))(net, x, y, hp.Linf(0.08))
    assert both.broken.sum() > alone.broken.sum()


@pytest.mark.parametrize("threat", [hp.Linf(0.05), hp.L2(0.3), hp.L1(0.8), hp.L0(3)])
def test_an_input_does_not_depend_on_its_batch_mates(threat):
    net, x = mlp(d=16), rand(30, 1, 4, 4, seed=2)
    y = labelled(net, x)
    attack = Memetic(rounds=2, queries=9, steps=3)
    whole, single, some = (attack(net, x, y, threat, batch_size=size) for size in (64, 1, 7))
    for other in (single, some):
        assert torch.equal(whole.broken, other.broken)
        assert torch.allclose(whole.adversarial, other.adversarial, atol=1e-6)
    moved = whole.adversarial - x
    assert bool(whole.broken.any())
    assert (threat.around(x, Box.of((0.0, 1.0))).contains(whole.adversarial)).all()
    assert moved.isfinite().all()


def test_scores_that_are_shifted_or_scaled_change_nothing():
    weight, bias = randn(4, 12, seed=3, dtype=torch.float64), randn(4, seed=5, dtype=torch.float64)
    x = rand(40, 12, seed=6, dtype=torch.float64)
    y = labelled(linear(weight, bias), x)
    found = [
        Memetic(rounds=1, queries=10, steps=3)(
            linear(weight * by, bias * by + shift), x, y, hp.Linf(0.1)
        ).broken
        for by, shift in ((1.0, 0.0), (1e3, 0.0), (1e-3, 0.0), (1.0, 100.0))
    ]
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("bad", [{"rounds": 0}, {"queries": 0}, {"steps": 0}])
def test_nothing_to_do_is_refused(bad):
    with pytest.raises(ThreatError, match="1 or more"):
        Memetic(**bad)
