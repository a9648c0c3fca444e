"""Each recipe against the textbook, written out in a few lines, with the same draws."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small_lessons import UNIT, batch_of, flat, learner_of, normed, pictures, same, state_of
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.core.errors import ConfigError
from hardpoint.core.rng import Rng
from hardpoint.engine.twin import TwinPlan
from hardpoint.harden.learner import CraftMode, divergence, one_hot, soft_cross_entropy
from hardpoint.harden.names import NAMED, recipe_named
from hardpoint.harden.recipes import (
    Atta,
    Awp,
    Carries,
    FgsmRs,
    Free,
    Mart,
    Mixed,
    NFgsm,
    Noise,
    Pgd,
    Plain,
    Recipe,
    Replays,
    ShiftsWeights,
    Trades,
    WorstOf,
)
from hardpoint.threats import L1, L2, Linf
from small_models import Counted, rand, randn

EPS = 0.1
RECIPES: list[Recipe] = [
    Plain(),
    FgsmRs(),
    NFgsm(),
    Free(3),
    Atta(),
    Pgd(3),
    Trades(steps=3),
    Mart(search=Pgd(3)),
    Awp(Pgd(2)),
    Mixed(NFgsm()),
    WorstOf((Linf(0.05), L2(0.3), L1(1.0)), Pgd(2)),
    Noise(0.1),
]
MODES = [CraftMode.EVAL, CraftMode.TRAIN]


@pytest.fixture(params=MODES, ids=["eval", "train"])
def lesson(request):
    """A network with batch norm that has learned something, a batch, and how the network is searched."""
    net, (x, y) = normed(seed=3).double(), pictures(12)
    x = x.double()
    for turn in range(3):
        net.train()(x + turn / 10)
    searched = copy.deepcopy(net)
    searched.train(request.param is CraftMode.TRAIN)
    return learner_of(net, Linf(EPS), request.param), batch_of(x, y, 3), searched


def climb(objective, x: Tensor, z: Tensor, steps: int, alpha: float, eps: float = EPS) -> Tensor:
    for _ in range(steps):
        z = z.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(objective(z), z)
        z = (z + alpha * slope.sign()).clamp(x - eps, x + eps).clamp(0, 1).detach()
    return z


def kl(scores: Tensor, reference: Tensor, reduction: str = "sum") -> Tensor:
    return functional.kl_div(
        functional.log_softmax(scores, 1), functional.softmax(reference, 1), reduction=reduction
    )


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters())))


def test_pgd_is_madrys_loop(lesson):
    learner, batch, searched = lesson
    found = Pgd(5).attacked(learner, batch)
    start = learner.region(batch).sample(batch.rng.fork("start"), batch.index)
    wanted = climb(
        lambda z: functional.cross_entropy(searched(z), batch.y, reduction="sum"), batch.x, start, 5, EPS / 2
    )
    torch.testing.assert_close(found.x, wanted, rtol=0, atol=1e-12)
    assert found.slope is None
    assert not found.x.requires_grad
    taught = Pgd(5).taught(learner, batch, found)
    own = learner.module(wanted)
    torch.testing.assert_close(taught.loss, functional.cross_entropy(own, batch.y))
    torch.testing.assert_close(taught.scores, own)
    assert not taught.scores.requires_grad


@pytest.mark.parametrize("folded", [False, True])
def test_pgd_on_a_folded_copy_searches_the_same_network(folded):
    net, (x, y) = normed().double(), pictures(8)
    net.train()(x.double())
    learner = learner_of(net, Linf(EPS), plan=TwinPlan(folded=folded, lean=folded))
    batch = batch_of(x.double(), y, 3)
    net.train()(3 * x.double())  # the copy is older than this
    learner.weights_changed()
    searched = copy.deepcopy(net).eval()
    start = learner.region(batch).sample(batch.rng.fork("start"), batch.index)
    wanted = climb(
        lambda z: functional.cross_entropy(searched(z), y, reduction="sum"), batch.x, start, 2, EPS
    )
    torch.testing.assert_close(Pgd(2).attacked(learner, batch).x, wanted, rtol=0, atol=1e-9)


def test_pgd_in_l2_takes_normalised_steps_and_scales_back():
    net, x, y = flat(3).double(), 0.4 + 0.2 * rand(9, 2).double(), torch.arange(9) % 3
    learner, batch, eps = learner_of(net, L2(0.2)), batch_of(x, y, 3), 0.2
    z = learner.region(batch).sample(batch.rng.fork("start"), batch.index)
    for _ in range(4):
        z = z.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(functional.cross_entropy(net(z), y, reduction="sum"), z)
        way = (z + 0.5 * eps * slope / slope.norm(dim=1, keepdim=True) - x).detach()
        z = x + way * (eps / way.norm(dim=1, keepdim=True)).clamp(max=1)
    torch.testing.assert_close(Pgd(4, length=0.5).attacked(learner, batch).x, z, rtol=0, atol=1e-7)


def test_default_length_of_a_step():
    net, x = flat().double(), torch.full((1, 2), 0.5).double()
    learner, batch = learner_of(net, Linf(EPS)), batch_of(x, torch.tensor([0]), 2)
    for steps, length in ((1, 1.0), (2, 1.0), (10, 0.25)):
        first, second = Pgd(steps), Pgd(steps, length=length)
        assert torch.equal(first.attacked(learner, batch).x, second.attacked(learner, batch).x)


def test_trades_is_the_textbook_that_answers_anew_at_each_step(lesson):
    learner, batch, searched = lesson
    found = Trades(steps=4, beta=3.0).attacked(learner, batch)
    noise = batch.rng.fork("start").normal(batch.index, (2, 8, 8), dtype=torch.float64)
    wanted = climb(lambda z: kl(searched(z), searched(batch.x)), batch.x, batch.x + 0.001 * noise, 4, EPS / 4)
    torch.testing.assert_close(found.x, wanted, rtol=0, atol=1e-12)
    taught = Trades(steps=4, beta=3.0).taught(learner, batch, found)
    net = copy.deepcopy(learner.module)
    clean = functional.cross_entropy(net(batch.x), batch.y)
    loss = clean + 3.0 * kl(net(wanted), net(batch.x), "batchmean")
    torch.testing.assert_close(taught.loss, loss, rtol=0, atol=1e-6)
    for got, own in zip(gradients(taught.loss, learner.module), gradients(loss, net), strict=True):
        torch.testing.assert_close(got, own, rtol=0, atol=1e-6)


def test_mart_by_formula(lesson):
    learner, batch, _ = lesson
    recipe = Mart(weight=4.0, search=Pgd(2))
    found = recipe.attacked(learner, batch)
    assert torch.equal(found.x, Pgd(2).attacked(learner, batch).x)
    taught = recipe.taught(learner, batch, found)
    net = copy.deepcopy(learner.module)
    p, q = net(batch.x).softmax(1), net(found.x).softmax(1)
    loss = torch.zeros((), dtype=torch.float64)
    for i, y in enumerate(batch.y.tolist()):
        others = torch.cat([q[i, :y], q[i, y + 1 :]])
        boosted = -q[i, y].log() - (1.0001 - others.max()).log()
        loss = loss + boosted + 4.0 * (p[i] * (p[i] / q[i]).log()).sum() * (1 - p[i, y])
    torch.testing.assert_close(taught.loss, loss / len(batch), rtol=0, atol=1e-6)
    for got, own in zip(
        gradients(taught.loss, learner.module), gradients(loss / len(batch), net), strict=True
    ):
        torch.testing.assert_close(got, own, rtol=0, atol=1e-6)


def test_mart_of_a_certain_and_wrong_network_is_finite():
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1e4, 0.0], [-1e4, 0.0]]))
    learner, batch = learner_of(net, Linf(EPS)), batch_of(torch.full((2, 2), 0.5), torch.tensor([0, 1]), 2)
    taught = Mart(search=Pgd(1)).taught(learner, batch, Pgd(1).attacked(learner, batch))
    assert taught.loss.isfinite()
    assert all(g.isfinite().all() for g in gradients(taught.loss, net))


def test_fgsm_from_a_random_start(lesson):
    learner, batch, searched = lesson
    found = FgsmRs().attacked(learner, batch)
    start = learner.region(batch).sample(batch.rng.fork("start"), batch.index)
    wanted = climb(
        lambda z: functional.cross_entropy(searched(z), batch.y, reduction="sum"),
        batch.x,
        start,
        1,
        1.25 * EPS,
    )
    torch.testing.assert_close(found.x, wanted, rtol=0, atol=1e-12)


def test_n_fgsm_steps_from_wide_noise_and_is_clipped_to_the_box_alone(lesson):
    learner, batch, searched = lesson
    found = NFgsm(noise=2.0).attacked(learner, batch)
    wide = Linf(2 * EPS).around(batch.x, UNIT)
    start = wide.sample(batch.rng.fork("start"), batch.index).requires_grad_(True)
    loss = functional.cross_entropy(searched(start), batch.y, reduction="sum")
    (slope,) = torch.autograd.grad(loss, start)
    torch.testing.assert_close(found.slope, slope, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.x, (start + EPS * slope.sign()).clamp(0, 1).detach(), rtol=0, atol=1e-12)
    assert UNIT.contains(found.x).all()
    reach = (found.x - batch.x).abs().amax((1, 2, 3))
    assert (reach > EPS).any()
    assert (reach <= 3 * EPS + 1e-9).all()


def test_n_fgsm_without_noise_is_fgsm(lesson):
    learner, batch, searched = lesson
    z = batch.x.clone().requires_grad_(True)
    loss = functional.cross_entropy(searched(z), batch.y, reduction="sum")
    (slope,) = torch.autograd.grad(loss, z)
    found = NFgsm(noise=0.0).attacked(learner, batch)
    torch.testing.assert_close(found.x, (batch.x + EPS * slope.sign()).clamp(0, 1))


def test_free_goes_on_from_the_offset_and_moves_along_the_slope():
    net, (x, y) = flat(3), (rand(6, 2), torch.arange(6) % 3)
    learner, batch = learner_of(net, Linf(EPS)), batch_of(x, y, 3)
    recipe = Free(4)
    start = learner.region(batch).sample(batch.rng.fork("start"), batch.index)
    first = recipe.attacked(learner, batch)
    torch.testing.assert_close(first.x, start)
    slope = randn(6, 2, seed=1)
    offset = recipe.moved(learner, batch, first, slope)
    wanted = (start + EPS * slope.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    torch.testing.assert_close(x + offset, wanted)
    torch.testing.assert_close(recipe.attacked(learner, replace(batch, offset=offset)).x, wanted)
    other = replace(batch, x=rand(6, 2, seed=9), offset=offset)
    moved = recipe.attacked(learner, other).x
    torch.testing.assert_close(moved, (other.x + offset).clamp(0, 1))
    assert learner.region(other).contains(moved).all()


@pytest.mark.parametrize("clean", [0.0, 0.3, 1.0])
def test_mixed_is_the_weighted_sum(lesson, clean):
    learner, batch, _ = lesson
    recipe = Mixed(Trades(steps=2), clean=clean)
    found = recipe.attacked(learner, batch)
    assert torch.equal(found.x, Trades(steps=2).attacked(learner, batch).x)
    easy = functional.cross_entropy(learner.scores(batch.x), batch.y)
    hard = Trades(steps=2).taught(learner, batch, found).loss
    torch.testing.assert_close(recipe.taught(learner, batch, found).loss, clean * easy + (1 - clean) * hard)


def test_worst_of_learns_from_the_highest_loss_of_each_input(lesson):
    learner, batch, searched = lesson
    threats = (Linf(0.06), L2(0.5), L1(3.0))
    found = WorstOf(threats, Pgd(2)).attacked(learner, batch).x
    each = []
    for number, threat in enumerate(threats):
        part = replace(batch, rng=batch.rng.fork(number))
        each.append(Pgd(2).attacked(learner_of(learner.module, threat, learner.craft_mode), part).x)
    losses = torch.stack([functional.cross_entropy(searched(z), batch.y, reduction="none") for z in each])
    best = losses.argmax(0)
    assert len(best.unique()) > 1  # else the choice is not tested
    torch.testing.assert_close(found, torch.stack(each)[best, torch.arange(len(batch))])
    assert learner.perturbation == Linf(EPS)


def test_noise_has_its_mean_and_deviation():
    learner, x = learner_of(flat()), torch.full((4000, 2), 0.5)
    batch = batch_of(x, torch.zeros(4000, dtype=torch.int64), 2)
    noise = Noise(0.25).attacked(learner, batch).x - x
    assert abs(float(noise.mean())) < 4 * 0.25 / 8000**0.5
    assert abs(float(noise.std()) - 0.25) < 4 * 0.25 / 16000**0.5
    again = Noise(0.25).attacked(learner, replace(batch, rng=Rng(0).fork("other"))).x - x
    assert abs(float((again * noise).mean())) < 4 * 0.25**2 / 8000**0.5


def test_plain_learns_from_the_inputs():
    learner, batch = learner_of(flat()), batch_of(rand(5, 2), torch.arange(5) % 2, 2)
    found = Plain().attacked(learner, batch)
    assert found.x is batch.x
    loss = functional.cross_entropy(learner.module(batch.x), batch.y)
    torch.testing.assert_close(Plain().taught(learner, batch, found).loss, loss)


@pytest.mark.parametrize("craft_mode", MODES)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_searching_leaves_the_network_as_it_was(recipe, craft_mode):
    net, (x, y) = normed(dropout=0.3), pictures(6)
    net[0].weight.requires_grad_(False)
    learner, batch = learner_of(net, Linf(EPS), craft_mode), batch_of(x, y, 3)
    before, wanted = state_of(net), [p.requires_grad for p in net.parameters()]
    recipe.attacked(learner, batch)
    assert same(before, state_of(net))
    assert [p.requires_grad for p in net.parameters()] == wanted
    assert all(p.grad is None for p in net.parameters())
    assert all(layer.training for layer in net.modules())
    assert net[1].track_running_stats


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_examples_do_not_depend_on_the_batch(recipe, size):
    net, (x, y) = normed().double(), pictures(16)
    net.train()(x.double())
    learner, order = (
        learner_of(net, Linf(EPS)),
        torch.randperm(16, generator=torch.Generator().manual_seed(1)),
    )
    whole = recipe.attacked(learner, batch_of(x.double(), y, 3)).x
    for rows in order.split(size):
        part = recipe.attacked(learner, batch_of(x[rows].double(), y[rows], 3, index=rows)).x
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-9)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_the_budget_is_kept_and_so_is_its_growth(recipe):
    if isinstance(recipe, WorstOf | Noise | Plain):
        return
    learner, (x, y) = learner_of(normed(), Linf(EPS)), pictures(6)
    batch = batch_of(x, y, 3)
    wide = 3 if isinstance(recipe, NFgsm) or getattr(recipe, "inner", None) == NFgsm() else 1
    for strength in (1.0, 0.5, 0.01):
        learner.strength = strength
        found = recipe.attacked(learner, batch).x
        reach = float((found - x).abs().max())
        assert 0.5 * EPS * strength < reach <= wide * EPS * strength + 1e-6
        assert UNIT.contains(found).all()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_gradients_are_counted_as_they_are(recipe):
    x, y = pictures(5)
    learner = learner_of(Counted(normed()), Linf(EPS))
    Counted.reset()
    recipe.attacked(learner, batch_of(x, y, 3))
    assert Counted.backward_rows == 5 * recipe.gradients


def test_the_copy_follows_only_after_an_update():
    net, (x, y) = flat(), (rand(6, 2), torch.arange(6) % 2)
    learner, batch = learner_of(net), batch_of(x, y, 2)
    old = Pgd(2).attacked(learner, batch).x
    with torch.no_grad():
        net[0].weight.neg_()
        net[0].bias.neg_()
    assert torch.equal(Pgd(2).attacked(learner, batch).x, old)
    learner.weights_changed()
    assert not torch.equal(Pgd(2).attacked(learner, batch).x, old)


@pytest.mark.parametrize("name", [name for name in NAMED if name != "noise"])
def test_recipes_have_names(name):
    recipe = recipe_named(name)
    assert isinstance(recipe, Recipe)
    assert recipe == recipe_named(name)
    assert isinstance(recipe, ShiftsWeights) == name.startswith("awp")
    assert isinstance(recipe, Replays) == (name == "free")
    assert isinstance(recipe, Carries) == (name == "atta")
    assert recipe.name


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'trades'"):
        recipe_named("trade")


BAD = [
    lambda: Pgd(0),
    lambda: Pgd(2.5),
    lambda: Pgd(True),
    lambda: Pgd(2, length=0),
    lambda: Pgd(2, length=float("inf")),
    lambda: FgsmRs(0),
    lambda: FgsmRs("long"),
    lambda: NFgsm(noise=-1),
    lambda: NFgsm(length=float("nan")),
    lambda: Trades(beta=0),
    lambda: Trades(steps=0),
    lambda: Trades(length=-1),
    lambda: Mart(weight=-1),
    lambda: Free(0),
    lambda: Awp(Pgd(), gamma=0),
    lambda: Mixed(Pgd(), clean=1.5),
    lambda: Noise(0),
    lambda: Noise(float("inf")),
    lambda: WorstOf((Linf(0.1),)),
    lambda: WorstOf([Linf(0.1), L2(0.1)]),
    lambda: Awp(Free()),  # its examples would never move
    lambda: Mixed(Free()),
    lambda: Awp(Atta()),  # its examples would begin anew each time
    lambda: Mixed(Atta()),
    lambda: Mixed(Awp(Pgd())),  # the weights would never move
    lambda: Awp(Awp(Pgd())),
]


@pytest.mark.parametrize("build", BAD)
def test_settings_that_make_no_sense_are_refused(build):
    with pytest.raises(ConfigError):
        build()


def test_soft_losses_are_the_usual_ones():
    scores, y = randn(20, 5, dtype=torch.float64), torch.arange(20) % 5
    targets = functional.one_hot(y, 5).double()
    usual = functional.cross_entropy(scores, y, reduction="none")
    torch.testing.assert_close(soft_cross_entropy(scores, targets), usual)
    torch.testing.assert_close(soft_cross_entropy(scores + 7, targets), usual)
    other = randn(20, 5, seed=1, dtype=torch.float64)
    apart = functional.kl_div(other.log_softmax(1), scores.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(divergence(other, scores), apart)
    torch.testing.assert_close(divergence(scores, scores), torch.zeros(20).double())
    for smoothing in (0.0, 0.1, 0.9):
        shares = one_hot(y, 5, smoothing)
        torch.testing.assert_close(shares.sum(1), torch.ones(20))
        wanted = functional.cross_entropy(scores.float(), y, reduction="none", label_smoothing=smoothing)
        torch.testing.assert_close(soft_cross_entropy(scores.float(), shares), wanted)


def test_craft_modes_by_name():
    assert CraftMode.parse("train") is CraftMode.parse(CraftMode.TRAIN) is CraftMode.TRAIN
    with pytest.raises(ConfigError, match="'tarin' is unknown"):
        CraftMode.parse("tarin")
