"""Networks that draw: where, how much, and that an assessment sees it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import hardpoint as hp
from hardpoint.core.errors import ModelError, ThreatError
from hardpoint.defenses import DropoutAtTest, Ensemble, NoisyLayers, WeightNoise, noisy
from hardpoint.models import TorchModel
from hardpoint.models.torch import weights_sha256
from small_models import conv, labelled, linear, mlp, rand, randn, seeded


def dropping() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 4)).eval()
    )


CASES = [
    (conv(), NoisyLayers(0.3), rand(32, 2, 6, 5, seed=1)),
    (mlp(), WeightNoise(0.3), rand(32, 8, seed=1)),
    (dropping(), DropoutAtTest(), rand(32, 8, seed=1)),
]


@pytest.mark.parametrize(("net", "kind", "x"), CASES)
def test_a_copy_draws_and_the_network_does_not(net, kind, x):
    before, answers = weights_sha256(net), net(x)
    made = noisy(net, kind)
    assert not torch.equal(made(x), made(x))
    torch.manual_seed(3)
    first = made(x)
    torch.manual_seed(3)
    assert torch.equal(made(x), first)
    assert torch.equal(net(x), answers)
    assert weights_sha256(net) == before
    assert "HP105" in {f.id for f in hp.doctor(made, x, labelled(net, x))}
    assert not {"HP101", "HP107", "HP113"} & {f.id for f in hp.doctor(made, x, labelled(net, x))}


@pytest.mark.usefixtures("no_panel", "few_queries")
@pytest.mark.parametrize(("net", "kind", "x"), CASES)
def test_an_assessment_averages_and_breaks_it(net, kind, x):
    y = labelled(net, x)
    result = hp.assess(
        noisy(net, kind), x, y, threat=hp.Linf(0.3), budget=hp.Budget(passes=200), progress=False
    )
    assert "HP105" in {f.id for f in result.findings}
    assert result.robust_accuracy.value < 0.5 < result.clean_accuracy.value


def test_noise_before_a_convolution_has_the_size_that_was_asked_for():
    net = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.Conv1d(1, 1, 1, bias=False), nn.Flatten())
    with torch.no_grad():
        net[0].weight.fill_(2.0)
        net[1].weight.fill_(3.0)
    x = torch.zeros(20_000, 1, 1)
    torch.manual_seed(0)
    made = noisy(net, NoisyLayers(0.1, first=0.2))(x).detach()
    assert float(made.std()) == pytest.approx(math.hypot(0.2 * 6, 0.1 * 3), rel=0.03)
    assert abs(float(made.mean())) < 0.03
    equal = noisy(net, NoisyLayers(0.1))(x).detach()
    assert float(equal.std()) == pytest.approx(math.hypot(0.1 * 6, 0.1 * 3), rel=0.03)


def test_noise_on_weights_is_a_share_of_their_own_spread():
    net, x = linear(5 * randn(3, 200, seed=1)), torch.eye(200)
    torch.manual_seed(0)
    change = (noisy(net, WeightNoise(0.1))(x) - net(x)).detach()
    assert float(change.std()) == pytest.approx(0.1 * float(net[1].weight.std()), rel=0.1)


def test_gradients_reach_the_weights_so_that_it_can_be_trained():
    for net, kind, x in CASES:
        made = noisy(net, kind).requires_grad_(True)
        made(x).sum().backward()
        assert all(p.grad is not None for p in made.parameters())
        for p in made.parameters():
            p.grad = None


def test_a_layer_under_two_names_stays_one():
    shared = nn.Linear(8, 8)
    net = nn.Sequential(shared, nn.ReLU(), shared).eval()
    made = noisy(net, WeightNoise(0.1)).network
    assert made[0] is made[2]
    assert noisy(nn.Linear(2, 2), WeightNoise(0.1))(rand(3, 2)).shape == (3, 2)


def test_two_amounts_of_noise_are_two_models():
    told = {TorchModel(noisy(conv(), NoisyLayers(s))).describe()["sha256"] for s in (0.1, 0.2, 0.2)}
    assert len(told) == 2


def test_attention_is_left_alone():
    """It reads its inner layers' weights and would pass by what is put before them."""
    net = seeded(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)).eval()
    with pytest.raises(ModelError, match="no layer that WeightNoise acts on"):
        noisy(net, WeightNoise(0.1))
    both = nn.Sequential(net, nn.Linear(8, 2)).eval()
    assert noisy(both, WeightNoise(0.1))(rand(3, 4, 8)).shape == (3, 4, 2)


def test_it_can_be_a_member():
    x = rand(8, 8)
    model = Ensemble([mlp(), noisy(mlp(seed=1), WeightNoise(0.2))])
    assert not torch.equal(model.scores(x), model.scores(x))


def test_what_makes_no_sense_is_refused():
    for bad in (0.0, -0.1, math.nan, math.inf, "0.1"):
        for make in (NoisyLayers, WeightNoise):
            with pytest.raises(ThreatError, match="std"):
                make(bad)
    with pytest.raises(ThreatError, match="first"):
        NoisyLayers(0.1, first=0.0)
    with pytest.raises(ModelError, match="no layer that NoisyLayers"):
        noisy(mlp(), NoisyLayers())
    with pytest.raises(ModelError, match="no layer that DropoutAtTest"):
        noisy(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)), DropoutAtTest())
    with pytest.raises(ModelError, match="traced"):
        torch.fx.symbolic_trace(noisy(mlp(), WeightNoise(0.1)))
