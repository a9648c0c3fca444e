"""Layers that lengthen nothing: against brute force, under attack, and kept in files."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_lessons import cloud, length, pictures, plane, same, state_of, trainer_of
from torch import nn

import hardpoint as hp
from hardpoint.bounds import UnknownOperator, certified_radius, lipschitz_bound
from hardpoint.bounds.gram import phases
from hardpoint.cli.training_made import made_recipe
from hardpoint.core.errors import ConfigError, DataError, ModelError, ThreatError
from hardpoint.engine.shadow import Shadow
from hardpoint.engine.twin import TwinPlan
from hardpoint.harden import Training
from hardpoint.harden.layers import GroupSort, almost_orthogonal, spectrally_normed
from hardpoint.harden.names import recipe_named
from hardpoint.harden.recipes import LipschitzMargin, Pgd, Prepares, Proves, Recipe
from hardpoint.models import TorchModel
from hardpoint.models.loading import load_model
from small_models import rand, randn, seeded


def noisy(net: nn.Module, seed: int = 0, size: float = 1.0) -> nn.Module:
    """The network with other weights."""
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            weight.add_(size * randn(*weight.shape, seed=seed + number))
    return net


def sorting(seed: int = 0) -> nn.Sequential:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3, 2, 1),
            GroupSort(),
            nn.Flatten(),
            nn.Linear(96, 8),
            GroupSort(),
            nn.Linear(8, 3),
        ),
        seed,
    )


# ------------------------------------------------------------------ the bound


@pytest.mark.parametrize(("kernel", "stride"), list(itertools.product((1, 2, 3, 5), (1, 2, 3))))
def test_no_convolution_lengthens_anything(kernel, stride):
    for padding, side, seed in ((0, 6, 0), (1, 7, None), (2, 5, 1)):
        layer = nn.Sequential(nn.Conv2d(2, 3, kernel, stride, padding).double())
        net = noisy(almost_orthogonal(layer, seed=seed), seed or 0)
        found, told = length(net, 2, side, side), lipschitz_bound(net)
        assert 0 < found <= told <= 1 + 1e-8


@pytest.mark.parametrize("shape", [(3, 9), (9, 3), (5, 5), (1, 1)])
def test_no_linear_layer_lengthens_anything(shape):
    net = almost_orthogonal(nn.Sequential(nn.Linear(*shape)).double())
    if shape[0] <= shape[1]:  # as it begins, where columns can be orthogonal
        assert length(net, shape[0]) == pytest.approx(1.0)
    found, told = length(noisy(net), shape[0]), lipschitz_bound(net)
    assert found <= told * (1 + 1e-12) <= 1 + 1e-8
    assert found == pytest.approx(told, rel=1e-8)


def test_orthogonal_columns_are_left_alone():
    weight = torch.linalg.qr(randn(6, 4).double()).Q
    net = nn.Sequential(nn.Linear(4, 6, bias=False).double())
    with torch.no_grad():
        net[0].weight.copy_(3 * weight)
    scaled = almost_orthogonal(net, seed=None)
    torch.testing.assert_close(scaled[0].weight.detach(), weight)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(0, 99),
)
def test_the_bound_of_any_convolution_holds(kernel, wide, stride, across, padding, seed):
    layer = nn.Conv2d(2, 3, (kernel, wide), (stride, across), padding).double()
    net = noisy(nn.Sequential(layer), seed)
    assert length(net, 2, 5, 6) <= lipschitz_bound(net)


def test_phases_are_the_convolution_over_blocks():
    kernel, x = randn(3, 2, 3, 5).double(), randn(1, 2, 8, 9).double()
    plain = nn.functional.conv2d(x, kernel, stride=(2, 3))
    padded = nn.functional.pad(x, (0, 3, 0, 0))
    blocks = padded.view(1, 2, 4, 2, 4, 3).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    over = nn.functional.conv2d(blocks, phases(kernel, (2, 3)))
    torch.testing.assert_close(over[..., : plain.shape[2], : plain.shape[3]], plain)


def test_whole_networks_and_other_layers():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(2.0),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 3),
    )
    net(rand(9, 2, 8, 8))
    net.eval().double()
    told, x = lipschitz_bound(net), rand(40, 2, 8, 8).double()
    with torch.no_grad():
        for size in (1e-3, 0.1, 1.0):
            z = x + size * randn(40, 2, 8, 8).double()
            ratio = (net(z) - net(x)).norm(dim=1) / (z - x).flatten(1).norm(dim=1)
            assert float(ratio.amax()) <= told


class Own(nn.Linear):
    def forward(self, x):
        return 100 * super().forward(x)


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(3, 1),
        nn.Softmax(1),
        nn.LayerNorm(4),
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(2, 2, 3, dilation=2),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm1d(4, track_running_stats=False),
        Own(4, 4),
        nn.ModuleList([nn.Linear(4, 4)]),
    ],
    ids=repr,
)
def test_what_no_bound_is_known_for_is_refused(layer):
    with pytest.raises(UnknownOperator):
        lipschitz_bound(nn.Sequential(nn.Identity(), layer))


def test_hooks_are_refused_and_layers_may_tell_their_own_bound():
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].register_forward_hook(lambda *_: None)
    with pytest.raises(UnknownOperator, match="hooks"):
        lipschitz_bound(net)

    class Triples(nn.Module):
        lipschitz = 3.0

    assert lipschitz_bound(nn.Sequential(nn.Sequential(Triples()), Triples())) == 9.0


# ------------------------------------------------------------------ sorting


@pytest.mark.parametrize("size", [2, 3])
def test_sorting_keeps_every_group_and_every_length(size):
    x, z = randn(5, 12, 2, 2), randn(5, 12, 2, 2, seed=1)
    out = GroupSort(size)(x)
    torch.testing.assert_close(out.view(5, -1, size, 2, 2), x.view(5, -1, size, 2, 2).sort(2).values)
    assert ((GroupSort(size)(z) - out).flatten(1).norm(dim=1) <= (z - x).flatten(1).norm(dim=1) + 1e-5).all()
    point = x.clone().requires_grad_(True)
    GroupSort(size)(point).square().sum().backward()
    torch.testing.assert_close(point.grad, 2 * x)


def test_sorting_what_cannot_be_sorted():
    with pytest.raises(ModelError, match="multiple of 2"):
        GroupSort()(rand(2, 3))
    for size in (1, 2.0, True):
        with pytest.raises(ConfigError):
            GroupSort(size)


# ------------------------------------------------------------------ radii


def test_the_radius_of_a_linear_network_is_its_distance():
    net = nn.Sequential(nn.Linear(3, 2).double()).eval()
    with torch.no_grad():
        w = torch.tensor([1.0, 2.0, -2.0]).double()
        net[0].weight.copy_(torch.stack([w, -w]))
    x = randn(20, 3).double()
    y = net(x).argmax(1)
    gap = net(x)[:, 0] - net(x)[:, 1]
    found = certified_radius(TorchModel(net, input_range=(-9, 9)), x, y)
    torch.testing.assert_close(found, (gap / (2 * w.norm())).abs().detach(), rtol=1e-3, atol=1e-4)
    assert not certified_radius(TorchModel(net, input_range=(-9, 9)), x, 1 - y).any()


def test_no_attack_succeeds_within_a_certified_radius():
    x, y = cloud(300)
    threat = hp.L2(0.1)
    done = hp.harden(
        almost_orthogonal(plane()),
        x,
        y,
        threat=threat,
        recipe="lipschitz",
        training=Training(epochs=12, lr=0.05, batch_size=32, validation=0.2),
        progress=False,
    )
    model = TorchModel(done.model)
    radius = certified_radius(model, x, y)
    assert done.best.robust > 0.3  # proven on what was held back
    assert float((radius > 0.05).double().mean()) > 0.3
    safe = radius > 0
    low = float(radius[safe].amin())
    assert low < float(radius[safe].amax())
    for share in (0.25, 0.5, 0.75, 0.95):
        eps = float(radius.quantile(share))
        inside = radius >= eps
        if eps > 0:
            found = hp.attacks.APGD(steps=40)(model, x[inside], y[inside], threat=hp.L2(eps))
            assert not found.broken.any()
    nearest = hp.attacks.DDN(steps=60)(model, x[safe], y[safe], threat=hp.L2(math.inf))
    assert (nearest.distance >= radius[safe] - 1e-6)[nearest.broken].all()


def test_the_loss_asks_for_the_margin():
    learner_net = plane().eval()
    from small_lessons import batch_of, learner_of

    learner, batch = learner_of(learner_net, hp.L2(0.2)), batch_of(*cloud(8), 2)
    learner.strength = 0.5
    recipe = LipschitzMargin(reach=3.0, temperature=0.5)
    found = recipe.taught(learner, batch, recipe.attacked(learner, batch))
    scores = learner_net(batch.x)
    lowered = scores - 3 * math.sqrt(2) * 0.1 * batch.targets
    torch.testing.assert_close(found.loss, 0.5 * nn.functional.cross_entropy(2 * lowered, batch.y))
    assert isinstance(recipe, Recipe)
    assert isinstance(recipe, Prepares)
    assert isinstance(recipe, Proves)
    assert recipe_named("lipschitz") == made_recipe("lipschitz") == LipschitzMargin()
    assert made_recipe("lipschitz:reach=1.5:temperature=1") == LipschitzMargin(1.5, 1.0)


def test_what_proves_nothing_is_refused():
    x, y = cloud(40)
    short = Training(epochs=1, validation=0.2)
    with pytest.raises(ThreatError, match="hp.L2"):
        hp.harden(
            almost_orthogonal(plane()),
            x,
            y,
            threat=hp.Linf(0.1),
            recipe="lipschitz",
            training=short,
            progress=False,
        )
    strange = nn.Sequential(nn.Linear(2, 2), nn.Softmax(1))
    with pytest.raises(UnknownOperator, match="Softmax"):
        hp.harden(strange, x, y, threat=hp.L2(0.1), recipe="lipschitz", training=short, progress=False)
    with pytest.raises(ModelError, match="probabilities"):
        certified_radius(TorchModel(plane().eval(), probabilities=True), x, y)
    for make in (lambda: LipschitzMargin(reach=0), lambda: LipschitzMargin(temperature=math.nan)):
        with pytest.raises(ConfigError):
            make()


# ------------------------------------------------------------------ training and files


BUILDS = {
    "almost orthogonal": lambda: almost_orthogonal(sorting()),
    "spectral": lambda: spectrally_normed(sorting(), rand(1, 2, 8, 8), 0.8),
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_training_goes_on_to_the_same_weights(build, tmp_path):
    class Stop(Exception):
        pass

    def trainer(**more):
        training = Training(epochs=3, batch_size=7, lr=0.02, average=0.5)
        return trainer_of(build(), Pgd(2), training, data=pictures(20), seed=2, **more)

    def stops(epochs, planned):
        if len(epochs) == 1:
            raise Stop

    straight = trainer()
    straight.run()
    with pytest.raises(Stop):
        trainer(file=tmp_path / "c", told=stops).run()
    resumed = trainer(file=tmp_path / "c")
    resumed.run()
    assert same(state_of(straight.module), state_of(resumed.module))
    assert not same(state_of(straight.module), state_of(build()))


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_weights_are_kept_as_plain_tensors(build, tmp_path):
    x, y = pictures(20)
    done = hp.harden(
        build(),
        x,
        y,
        threat=hp.L2(0.1),
        recipe="pgd",
        training=Training(epochs=1),
        progress=False,
        run_dir=tmp_path / "r",
    )
    again = load_model(build().eval(), weights=tmp_path / "r" / "training" / "model.safetensors")
    assert torch.equal(again.module(x), done.model(x))
    assert same(state_of(again.module), state_of(done.model))


@pytest.mark.parametrize(
    "plan", [TwinPlan(), TwinPlan(folded=True), TwinPlan(lean=True), TwinPlan(channels_last=True)]
)
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_the_copy_for_searching_follows(build, plan):
    net = build()
    net = nn.Sequential(net[0], nn.BatchNorm2d(6), *net[1:])
    shadow = Shadow(TorchModel(net.train()), plan)
    noisy(net, size=0.1)
    net(rand(9, 2, 8, 8))
    shadow.follow()
    x = rand(5, 2, 8, 8)
    torch.testing.assert_close(shadow.raw_scores(x), net.eval()(x), rtol=1e-4, atol=1e-5)


def test_one_score_for_two_classes_proves_its_own_distance_and_no_more() -> None:
    line = nn.Sequential(nn.Linear(2, 1, bias=False)).eval()
    with torch.no_grad():
        line[0].weight.copy_(torch.tensor([[0.6, 0.8]]))
    model = TorchModel(line, input_range=(-10.0, 10.0))
    x = torch.tensor([[0.3, 0.4], [-3.0, -4.0], [0.3, 0.4]])
    radius = certified_radius(model, x, torch.tensor([1, 0, 0]))  # the line of equal scores is |w x| away
    assert radius.tolist() == pytest.approx([0.5, 5.0, 0.0], rel=1e-4)
    assert bool((radius <= torch.tensor([0.5, 5.0, 0.0])).all())
    assert certified_radius(model, x[:0], torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_a_layer_that_is_there_twice_counts_twice() -> None:
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(3 * torch.eye(2))
    assert lipschitz_bound(nn.Sequential(layer, nn.Flatten(), layer)) == pytest.approx(9)
    assert lipschitz_bound(nn.Sequential(nn.Sequential(layer, layer), layer)) == pytest.approx(27)


def test_what_is_said_of_a_layer_is_believed_of_its_own_forward_only() -> None:
    class Louder(GroupSort):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 5 * super().forward(x)

    class Told(Louder):
        lipschitz = 5.0

    assert lipschitz_bound(nn.Sequential(Told())) == 5
    hooked, replaced = GroupSort(), nn.Linear(2, 2)
    hooked.register_forward_hook(lambda *given: 100 * given[2])
    replaced.forward = lambda x: 100 * x  # type: ignore[method-assign]
    for layer in (Louder(), hooked, replaced):
        with pytest.raises(UnknownOperator):
            lipschitz_bound(nn.Sequential(layer))


def test_a_radius_of_a_network_that_learns_or_of_labels_it_lacks_is_refused() -> None:
    learning = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).eval()
    learning[0].train()
    x = torch.rand(3, 2)
    with pytest.raises(ModelError):
        certified_radius(learning, x, torch.tensor([0, 1, 1]))
    net = nn.Sequential(nn.Linear(2, 2)).eval()
    for y in ([0, 5, 1], [0, -1, 1], [0], [0.0, 1.0, 1.0]):
        with pytest.raises(DataError):
            certified_radius(net, x, torch.tensor(y))
    with pytest.raises(ModelError, match="cannot take inputs"):
        certified_radius(net, torch.rand(3, 5), torch.tensor([0, 1, 1]))
    known = certified_radius(net, x, torch.tensor([0, 1, 1]))
    assert torch.equal(known, certified_radius(TorchModel(net), x, torch.tensor([0, 1, 1]).int()))
