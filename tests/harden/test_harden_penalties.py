"""Penalties: closed forms, gradients against finite differences, and that the recipe inside goes on as it was."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_lessons import batch_of, flat, learner_of, normed, pictures, same, state_of, trainer_of
from torch import nn
from torch.nn import functional

import hardpoint as hp
from hardpoint.cli.training_made import made_recipe
from hardpoint.core.errors import ConfigError
from hardpoint.core.rng import Rng
from hardpoint.harden import Training
from hardpoint.harden.cost import measured_seconds
from hardpoint.harden.learner import CraftMode
from hardpoint.harden.names import recipe_named
from hardpoint.harden.penalties import GradAlign, InputGradient, Jacobian, LocalLinearity, Penalty
from hardpoint.harden.penalties.grad_align import turned
from hardpoint.harden.recipes import (
    Atta,
    Attacked,
    Awp,
    FgsmRs,
    Free,
    Ibp,
    Mixed,
    NFgsm,
    Noise,
    Pgd,
    Plain,
    Recipe,
    Regularised,
    Trades,
    longer,
)
from hardpoint.harden.recipes.recipe import carrying, layers, preparing, proving, replaying, shifting
from hardpoint.threats import Linf
from small_models import rand, randn, seeded

ALL = (InputGradient(0.3), Jacobian(0.3), GradAlign(0.3), LocalLinearity(0.3, 0.2))


def linear(classes: int = 3, inputs: int = 4) -> nn.Linear:
    return seeded(lambda: nn.Linear(inputs, classes)).double()


def lesson(net: nn.Module, n: int = 7, classes: int = 3, inputs: int = 4):
    x = 0.3 + 0.4 * rand(n, inputs).double()
    learner = learner_of(net, Linf(0.1))
    batch = batch_of(x, torch.arange(n) % classes, classes)
    return learner, replace(batch, targets=batch.targets.double())


def value(penalty: Penalty, learner, batch) -> torch.Tensor:
    return penalty.penalty(learner, batch, Attacked(batch.x))


# ------------------------------------------------------------------ closed forms


def test_input_gradient_of_a_linear_network():
    net = linear()
    learner, batch = lesson(net)
    wrong = net(batch.x).softmax(1) - functional.one_hot(batch.y, 3)
    wanted = (wrong @ net.weight).square().sum(1).mean()
    torch.testing.assert_close(value(InputGradient(2.0), learner, batch), 2 * wanted)


@pytest.mark.parametrize("projections", [3, 50])
def test_jacobian_of_a_linear_network_is_its_weight(projections):
    net = linear()
    learner, batch = lesson(net)
    found = value(Jacobian(0.5, projections), learner, batch)
    torch.testing.assert_close(found, 0.25 * net.weight.square().sum())


@pytest.mark.parametrize("projections", [1, 2])
def test_jacobian_is_right_on_average(projections):
    net = linear()
    learner, batch = lesson(net, n=1)
    many = 3000
    wide = replace(
        batch,
        x=batch.x.expand(many, -1),
        y=batch.y.expand(many),
        targets=batch.targets.expand(many, -1),
        index=torch.arange(many),
    )
    found, wanted = value(Jacobian(2.0, projections), learner, wide), net.weight.square().sum()
    assert abs(float(found.detach() / wanted.detach()) - 1) < 0.05


def test_gradients_of_two_classes_of_a_linear_network_are_aligned():
    net = linear(classes=2)
    learner, batch = lesson(net, classes=2)
    assert abs(float(value(GradAlign(1.0), learner, batch).detach())) < 1e-12
    curved = flat(hidden=30).double()
    with torch.no_grad():
        curved[0].weight.mul_(40)
    learner, batch = lesson(curved, classes=2, inputs=2)
    assert float(value(GradAlign(1.0), learner, batch).detach()) > 1e-3


def test_turned_is_one_less_the_cosine():
    a, b = randn(5, 2, 3), randn(5, 2, 3, seed=1)
    wanted = 1 - functional.cosine_similarity(a.flatten(1), b.flatten(1))
    for scale in (1.0, 1e-18, 1e12):  # squares of which are 0 or infinite
        torch.testing.assert_close(turned(a * scale, b), wanted)
        torch.testing.assert_close(turned(b, a * scale), wanted)
    torch.testing.assert_close(turned(a, -3 * a), torch.full((5,), 2.0))
    none = torch.zeros_like(a).requires_grad_(True)
    turned(none, b).sum().backward()
    assert torch.equal(none.grad, torch.zeros_like(a))


def test_local_linearity_is_the_distance_from_the_tangent():
    learner, batch = lesson(linear(classes=2), classes=2)
    penalty = LocalLinearity(1.0, 0.5, steps=3)
    far = penalty.farthest(learner, batch)
    assert (far - batch.x).abs().amax() <= 0.1 + 1e-9

    def loss(x):
        return functional.cross_entropy(learner.module(x), batch.y, reduction="none")

    point = batch.x.clone().requires_grad_(True)
    slope = torch.autograd.grad(loss(point).sum(), point)[0]
    climb = (slope * (far - batch.x)).sum(1)
    bend = (loss(far) - loss(batch.x) - climb).abs()
    torch.testing.assert_close(value(penalty, learner, batch), (bend + 0.5 * climb.abs()).mean())
    corners = torch.cartesian_prod(*[torch.tensor([-0.1, 0.1]).double()] * 4)
    best = torch.stack([(loss(batch.x + c) - loss(batch.x) - slope @ c).abs() for c in corners]).amax(0)
    assert (bend <= best + 1e-9).all()  # convex, so farthest in a corner
    assert float((bend.sum() / best.sum()).detach()) > 0.8


def test_a_flat_loss_costs_nothing_and_gives_finite_gradients():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, -2.0]).double())

        def forward(self, x):
            p = (x @ self.w * 0.1 + 0.5).clamp(
                0.01, 0.99
            )  # the loss of class 1 is -log p; of its exponent, straight
            return torch.stack([torch.zeros_like(p), p.exp() * 0], 1)

    learner, batch = lesson(Flat(), classes=2, inputs=2)
    for penalty in ALL:
        found = value(penalty, learner, batch)
        assert float(found.detach()) == 0.0
        if found.requires_grad:
            found.backward()
    assert learner.module.w.grad is None or torch.equal(learner.module.w.grad, torch.zeros(2).double())


# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize("penalty", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize("kind", ["smooth", "normed"])
def test_gradients_are_those_of_finite_differences(penalty, kind):
    if kind == "smooth":
        net = flat(3, hidden=5).double()
        learner, batch = lesson(net, inputs=2)
    else:
        net, (x, y) = normed().double(), pictures(4)
        net[2] = nn.Softplus()
        learner = learner_of(net, Linf(0.1))
        batch = batch_of(x.double(), y, 3)
    if isinstance(penalty, LocalLinearity):  # where it looks depends on the copy, which does not move here
        net.eval()
    value(penalty, learner, batch).backward()
    for weight in net.parameters():
        way = randn(*weight.shape).double()
        kept, ends = weight.detach().clone(), []
        for sign in (1, -1):
            with torch.no_grad():
                weight.copy_(kept + sign * 1e-5 * way)
            ends.append(float(value(penalty, learner, batch).detach()))
        with torch.no_grad():
            weight.copy_(kept)
        told = 0.0 if weight.grad is None else float((weight.grad * way).sum())
        assert told == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=2e-3, abs=1e-7)


@pytest.mark.parametrize("craft_mode", list(CraftMode))
@pytest.mark.parametrize("penalty", ALL, ids=lambda p: p.name)
def test_a_penalty_leaves_the_network_as_it_was(penalty, craft_mode):
    net, (x, y) = normed(dropout=0.3), pictures(6)
    net[0].weight.requires_grad_(False)
    learner, batch = learner_of(net, Linf(0.1), craft_mode), batch_of(x, y, 3)
    before = state_of(net)
    value(penalty, learner, batch).backward()
    assert same(before, state_of(net))  # running statistics, too
    assert net[0].weight.grad is None
    assert all(layer.training for layer in net.modules())


@pytest.mark.parametrize("penalty", ALL, ids=lambda p: p.name)
def test_penalties_do_not_depend_on_order_or_batch(penalty):
    x, y = 0.3 + 0.4 * rand(6, 2).double(), torch.arange(6) % 3
    learner = learner_of(flat(3).double(), Linf(0.1))
    whole = float(value(penalty, learner, batch_of(x, y, 3)).detach())
    order = torch.tensor([4, 1, 5, 0, 2, 3])
    moved = float(value(penalty, learner, batch_of(x[order], y[order], 3, index=order)).detach())
    parts = [
        float(
            value(penalty, learner, batch_of(x[i : i + 1], y[i : i + 1], 3, index=torch.tensor([i]))).detach()
        )
        for i in range(6)
    ]
    assert moved == pytest.approx(whole)
    assert sum(parts) / 6 == pytest.approx(whole)


@pytest.mark.parametrize("penalty", ALL, ids=lambda p: p.name)
def test_attention_and_bfloat16(penalty):
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look, self.out = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.look(x, x, x, need_weights=False)[0].mean(1))

    learner = learner_of(seeded(Looking), Linf(0.1))
    batch = batch_of(rand(5, 6, 4), torch.arange(5) % 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = value(penalty, learner, batch)
    found.backward()
    assert all(p.grad.isfinite().all() for p in learner.module.parameters() if p.grad is not None)
    assert learner.module.out.weight.grad is not None


# ------------------------------------------------------------------ around recipes


def test_the_loss_is_that_of_the_recipe_and_the_penalties():
    learner, batch = lesson(flat(3).double(), inputs=2)
    recipe = Regularised(Trades(steps=2), ALL)
    attacked = recipe.attacked(learner, batch)
    assert torch.equal(attacked.x, Trades(steps=2).attacked(learner, batch).x)
    inner, whole = (r.taught(learner, batch, attacked) for r in (Trades(steps=2), recipe))
    torch.testing.assert_close(whole.loss, inner.loss + sum(value(p, learner, batch) for p in ALL))
    assert torch.equal(whole.scores, inner.scores)
    assert recipe.gradients == 2 + 1 + 1 + 2 + 4
    assert recipe.name == "trades-2 + input_gradient + jacobian + grad_align + local_linearity-2"


def test_what_is_watched_is_the_slope_of_the_recipe_alone():
    learner, batch = lesson(flat(3).double(), inputs=2)
    recipe = Regularised(FgsmRs(), ALL)
    slopes = []
    for each in (FgsmRs(), recipe):
        found = each.attacked(learner, batch)
        attacked = Attacked(found.x.detach().requires_grad_(True), found.slope)
        each.taught(learner, batch, attacked).loss.backward()
        slopes.append((attacked.x.grad, found.slope))
    assert torch.equal(slopes[0][1], slopes[1][1])
    torch.testing.assert_close(slopes[0][0], slopes[1][0])


def test_what_a_recipe_does_besides_is_found_in_any_depth():
    for recipe, kept in (
        (Free(2), replaying),
        (Atta(), carrying),
        (Awp(Pgd(1)), shifting),
        (Ibp(), preparing),
        (Ibp(), proving),
    ):
        once = Regularised(recipe, (InputGradient(),))
        twice = Regularised(once, (GradAlign(),))
        assert kept(twice) is recipe
        assert list(layers(twice))[:3] == [twice, once, recipe]
        for outer in (Awp, Mixed):
            with pytest.raises(ConfigError, match="leave out"):
                outer(twice)
    assert all(kept(Regularised(Pgd(), ALL)) is None for kept in (replaying, carrying, shifting, preparing))
    assert Awp(Regularised(Pgd(), ALL)).gradients == 18


def test_longer_reaches_inside():
    wrapped = Regularised(NFgsm(), (GradAlign(),))
    assert longer(wrapped) == Regularised(Pgd(6), (GradAlign(),))
    assert longer(longer(Awp(wrapped))) == Awp(Regularised(Pgd(12), (GradAlign(),)))
    assert longer(Mixed(NFgsm(), 0.3)) == Mixed(Pgd(6), 0.3)


AROUND: list[Recipe] = [Plain(), NFgsm(), Free(2), Atta(), Awp(Pgd(1)), Trades(steps=1), Mixed(Pgd(1))]


@pytest.mark.parametrize("recipe", AROUND, ids=lambda r: r.name)
def test_training_goes_on_to_the_same_weights(recipe, tmp_path):
    class Stop(Exception):
        pass

    training = Training(epochs=4 if replaying(recipe) else 2, batch_size=9, lr=0.02, average=0.5)
    wrapped = Regularised(recipe, (GradAlign(0.2), Jacobian(0.01)))

    def trainer(**more):
        return trainer_of(normed(dropout=0.2), wrapped, training, data=pictures(20), seed=1, **more)

    def stops(epochs, planned):
        if len(epochs) == 1:
            raise Stop

    straight = trainer()
    history = straight.run()
    assert len(history) == 2
    with pytest.raises(Stop):
        trainer(file=tmp_path / "c", told=stops).run()
    resumed = trainer(file=tmp_path / "c")
    resumed.run()
    assert same(state_of(straight.module), state_of(resumed.module))
    assert (straight.memory is not None) == (carrying(recipe) is not None)
    if recipe == NFgsm():
        assert history[-1].alignment is not None  # single steps are watched


def test_an_alarm_inside_a_wrapper_is_kept(tmp_path):
    def trainer():
        wrapped = Regularised(NFgsm(), (InputGradient(),))
        return trainer_of(flat(), wrapped, Training(epochs=1), file=tmp_path / "c")

    first = trainer()
    first.run()
    first.alarms = 1
    first._checkpoint().write(tmp_path / "c")
    second = trainer()
    second.run()
    assert second.recipe == Regularised(Pgd(6), (InputGradient(),))


def test_the_price_counts_the_penalties(monkeypatch):
    asked = []

    class Noted(InputGradient):
        def penalty(self, learner, batch, attacked):
            asked.append(len(batch))
            return super().penalty(learner, batch, attacked)

    x, y = pictures(6)
    learner = learner_of(normed(), Linf(0.1))
    both = measured_seconds(learner, [Plain(), Regularised(Free(2), (Noted(),))], Training(), x, y, 3)
    assert len(asked) > 1
    assert all(0 < seconds < math.inf for seconds in both)


def test_less_weight_on_the_input_is_learned():
    x = rand(200, 2)
    y = (x[:, 0] > 0.5).long()
    lengths = []
    for recipe in ("plain", "input_gradient", Regularised(Plain(), (Jacobian(0.1, 2),))):
        done = hp.harden(
            flat(hidden=16),
            x,
            y,
            threat=Linf(0.05),
            recipe=recipe,
            training=Training(epochs=15, lr=0.02, batch_size=32, validation=0.1),
            progress=False,
        )
        point = x.clone().requires_grad_(True)
        loss = functional.cross_entropy(done.model(point), y, reduction="sum")
        lengths.append(float(torch.autograd.grad(loss, point)[0].square().sum(1).mean()))
        assert done.best.robust is not None or recipe == "plain"
    assert lengths[1] < 0.5 * lengths[0]
    assert lengths[2] < 0.5 * lengths[0]


# ------------------------------------------------------------------ names and hostile input


def test_names_and_options():
    for text, wanted in (
        ("grad_align", Regularised(FgsmRs(), (GradAlign(),))),
        ("grad_align:weight=2:inner=n_fgsm", Regularised(NFgsm(), (GradAlign(2.0),))),
        ("jacobian:projections=3:weight=1/2", Regularised(Plain(), (Jacobian(0.5, 3),))),
        ("local_linearity:steps=5:length=0.1", Regularised(Plain(), (LocalLinearity(steps=5, length=0.1),))),
        ("input_gradient:inner=atta", Regularised(Atta(), (InputGradient(),))),
        ("awp:inner=trades:gamma=0.01", Awp(Trades(), 0.01)),
        ("awp_trades", Awp(Trades())),
        ("noise:sigma=0.5", Noise(0.5)),
    ):
        assert made_recipe(text) == wanted
    assert recipe_named("mixed", {"inner": "n_fgsm"}) == Mixed(NFgsm())
    for text in ("noise", "awp:inner=mixed", "awp:inner=noise", "grad_align:inner=awp", "pgd:inner=plain"):
        with pytest.raises(ConfigError):
            made_recipe(text)
    with pytest.raises(ConfigError, match="noise:sigma=0.25"):
        recipe_named("noise")


BAD = [
    lambda: Regularised("pgd", ALL),
    lambda: Regularised(Pgd, ALL),
    lambda: Regularised(Pgd(), ()),
    lambda: Regularised(Pgd(), GradAlign()),
    lambda: Regularised(Pgd(), (GradAlign,)),
    lambda: Regularised(Pgd(), (Pgd(),)),
    lambda: InputGradient(0.0),
    lambda: InputGradient(math.nan),
    lambda: Jacobian(projections=0),
    lambda: Jacobian(weight=-1.0),
    lambda: GradAlign(math.inf),
    lambda: LocalLinearity(steps=1.5),
    lambda: LocalLinearity(slope_weight=-1.0),
    lambda: LocalLinearity(length=0.0),
]


@pytest.mark.parametrize("make", BAD)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_draws_belong_to_inputs():
    learner, batch = lesson(flat(3).double(), inputs=2)
    for penalty in (Jacobian(), GradAlign()):
        first = value(penalty, learner, batch)
        torch.rand(3)
        assert torch.equal(first, value(penalty, learner, batch))
        other = replace(batch, rng=Rng(1).fork("update"))
        assert not torch.equal(first, value(penalty, learner, other))
