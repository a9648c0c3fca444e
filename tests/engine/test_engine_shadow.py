"""The copy that follows a network in training: always what the network would answer, and never in its way."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from hardpoint.engine import shadow as shadows
from hardpoint.engine.ascent import slope_at
from hardpoint.engine.lean import pool_first
from hardpoint.engine.shadow import Shadow, fastest_plan, resting_norms
from hardpoint.engine.twin import TwinPlan, fold_batch_norms, folded_norms
from hardpoint.models.torch import TorchModel
from small_models import mlp, rand, randn, seeded

FOLDED = TwinPlan(folded=True)
PLANS = {
    "plain": TwinPlan(),
    "folded": FOLDED,
    "channels last": TwinPlan(channels_last=True),
    "lean": TwinPlan(lean=True),
    "all but bfloat16": TwinPlan(folded=True, channels_last=True, lean=True),
}


class Block(nn.Module):
    """Two convolutions with norms, around which the input passes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.second, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.b(self.second(torch.relu(self.a(self.first(x))))))


class Branching(nn.Module):
    """Control flow that follows the data, which cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(self.conv(x))
        return (z if float(z.detach().sum()) > -1e9 else -z).flatten(1)


class TiedWeights(nn.Module):
    """Two convolutions with one weight, of which one has a norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.norm(self.a(x)))).flatten(1)


class TiedLayers(nn.Module):
    """One convolution asked twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.conv(torch.relu(self.a(self.conv(x))))).flatten(1)


class OwnNorm(nn.Module):
    """Running statistics in plain buffers, from which the answer is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("variance", torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean((0, 2, 3)).view(3, 1, 1), 0.5)
            self.variance.lerp_(x.detach().var((0, 2, 3)).view(3, 1, 1), 0.5)
        return (x - self.mean) / (self.variance + 1e-5).sqrt()


def tail(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten())


IMAGES = {
    "convolution": lambda: tail(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
    "bare": lambda: tail(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)),
    "residual": lambda: tail(Block(), Block(), nn.AvgPool2d(4)),
    "untraceable": Branching,
    "tied weights": TiedWeights,
    "tied layers": TiedLayers,
    "group norm": lambda: tail(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()),
    "instance norm": lambda: tail(
        nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    ),
    "dropout": lambda: tail(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.BatchNorm2d(4)),
    "own norm": lambda: tail(OwnNorm(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
    "weight norm": lambda: tail(weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)),
}
ROWS = {
    "linear": lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)),
    "no bias": lambda: nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4)),
    "bare": lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, affine=False)),
    "one layer": lambda: nn.Linear(5, 3),
}


def train(module: nn.Module, x: Tensor, updates: int = 3) -> None:
    module.train()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.2, momentum=0.9)
    for turn in range(updates):
        optimiser.zero_grad()
        (module(x + turn) - randn(len(x), 1, seed=turn)).square().mean().backward()
        optimiser.step()


def follows(module: nn.Module, x: Tensor, plan: TwinPlan, tolerance: float) -> None:
    """Whether the copy answers, and bends, as the network in evaluation mode, after one update and after more."""
    shadow = Shadow(TorchModel(module), plan)
    for updates in (0, 1, 3):
        train(module, x, updates)
        shadow.follow()
        own = copy.deepcopy(module).eval()
        wanted, got = own(x).detach(), shadow.raw_scores(x)
        size = float(wanted.abs().max())
        assert float((got - wanted).abs().max()) <= tolerance * size
        if tolerance < 1e-3:
            weights = randn(*wanted.shape, seed=7)
            slopes = [
                slope_at(lambda z, f=f, w=weights: (f(z) * w).sum(1), x) for f in (own, shadow.raw_scores)
            ]
            torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-3, atol=1e-4 * size)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("net", IMAGES)
def test_follows_networks_of_images(net, plan):
    follows(seeded(IMAGES[net]), rand(6, 3, 8, 8), PLANS[plan], 2e-5)


@pytest.mark.parametrize("net", ROWS)
def test_follows_networks_of_rows(net):
    follows(seeded(ROWS[net]), rand(12, 5), FOLDED, 2e-5)


@pytest.mark.parametrize("net", ["convolution", "residual", "tied weights"])
def test_follows_in_bfloat16(net):
    plan = TwinPlan(folded=True, channels_last=True, lean=True, bfloat16=True)
    follows(seeded(IMAGES[net]), rand(6, 3, 8, 8), plan, 0.05)


def test_without_following_it_stays_what_it_was():
    net, x = seeded(ROWS["linear"]), rand(12, 5)
    shadow = Shadow(TorchModel(net), FOLDED)
    before = shadow.raw_scores(x)
    train(net, x)
    assert torch.equal(shadow.raw_scores(x), before)
    shadow.follow()
    assert not torch.allclose(shadow.raw_scores(x), before)


@pytest.mark.parametrize("plan", [*PLANS.values(), TwinPlan(bfloat16=True, folded=True)])
@pytest.mark.parametrize("net", IMAGES)
def test_shares_no_memory_with_the_network(net, plan):
    module = seeded(IMAGES[net])
    shadow = Shadow(TorchModel(module), plan)
    own = {t.untyped_storage().data_ptr() for t in module.state_dict().values()}
    copied = {t.untyped_storage().data_ptr() for t in shadow._twin.module.state_dict().values()}
    assert not own & copied


def test_the_network_is_left_as_it_was():
    module, x = seeded(IMAGES["residual"]).train(), rand(6, 3, 8, 8)
    flags = [(p.requires_grad, p.grad) for p in module.parameters()]
    before = copy.deepcopy(module.state_dict())
    shadow = Shadow(TorchModel(module), PLANS["all but bfloat16"])
    shadow.follow()
    slope_at(lambda z: shadow.raw_scores(z).sum(1), x)
    assert all(torch.equal(before[name], held) for name, held in module.state_dict().items())
    assert [(p.requires_grad, p.grad) for p in module.parameters()] == flags
    assert all(layer.training for layer in module.modules())


def test_layers_that_cannot_be_folded_are_left():
    assert folded_norms(seeded(IMAGES["convolution"]).eval()) == {"0": "1"}
    for net in (IMAGES["weight norm"], ROWS["bare"], IMAGES["tied layers"], IMAGES["untraceable"]):
        assert folded_norms(seeded(net).eval()) == {}
    hooked = seeded(IMAGES["convolution"]).eval()
    hooked[1].register_forward_hook(lambda layer, given, answer: answer + 1)
    assert folded_norms(hooked) == {}


@pytest.mark.parametrize("rewrite", [fold_batch_norms, pool_first])
def test_what_is_computed_from_buffers_stays_computed(rewrite):
    net, x = seeded(IMAGES["own norm"]).eval(), rand(4, 3, 8, 8)
    traced = rewrite(net)
    assert traced is not net
    with torch.no_grad():
        for module in (net, traced):
            module.get_buffer("0.variance").fill_(4.0)
    torch.testing.assert_close(traced(x), net(x))


def test_fastest_plan_can_be_followed_whatever_it_is():
    for build, x in (
        (IMAGES["residual"], rand(8, 3, 8, 8)),
        (IMAGES["untraceable"], rand(8, 3, 8, 8)),
        (ROWS["linear"], rand(8, 5)),
    ):
        net = seeded(build)
        state = torch.get_rng_state()
        plan = fastest_plan(TorchModel(net.train()), x)
        assert torch.equal(torch.get_rng_state(), state)
        assert plan.copied
        follows(net, x, plan, 0.1)


STATEFUL = {
    "batch norm": lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)),
    "cumulative": lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, momentum=None)),
    "instance norm": lambda: nn.Sequential(
        nn.Conv2d(3, 3, 3), nn.InstanceNorm2d(3, track_running_stats=True)
    ),
}


@pytest.mark.parametrize("net", STATEFUL)
def test_resting_norms_answer_as_in_training_and_learn_nothing(net):
    module, x = seeded(STATEFUL[net]).train(), rand(6, 3, 8, 8)
    wanted = copy.deepcopy(module)(x)
    norm, before = module[1], copy.deepcopy(module.state_dict())
    buffers = [id(b) for b in module.buffers()]
    with resting_norms(module):
        torch.testing.assert_close(module(x), wanted)
    assert all(torch.equal(before[name], held) for name, held in module.state_dict().items())
    assert [id(b) for b in module.buffers()] == buffers
    assert norm.track_running_stats
    module(x)
    assert not torch.equal(before["1.running_mean"], norm.running_mean)


def test_resting_norms_are_awake_again_after_an_error():
    norm = nn.BatchNorm1d(2).train()
    mean = norm.running_mean
    with pytest.raises(ZeroDivisionError), resting_norms(norm):
        1 / 0  # noqa: B018
    assert norm.track_running_stats
    assert norm.running_mean is mean


def test_norms_in_evaluation_mode_rest_with_their_statistics():
    norm, x = nn.BatchNorm1d(2), randn(8, 2)
    norm(3 * x + 1)
    wanted = norm.eval()(x)
    with resting_norms(norm):
        torch.testing.assert_close(norm(x), wanted)


@pytest.mark.parametrize(
    ("dtype", "wanted"), [(torch.float32, True), (torch.float64, False)], ids=["float32", "float64"]
)
def test_training_may_look_ahead_in_bfloat16(monkeypatch, dtype, wanted):
    monkeypatch.setattr(shadows, "times_of", lambda copies, x, **_: [1.0, 0.1])
    assert fastest_plan(TorchModel(mlp(dtype=dtype)), rand(16, 8, dtype=dtype)).bfloat16 is wanted
