"""Certified training: each loss is what its paper says, and what is learned can be proven."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import hardpoint as hp
from hardpoint.bounds import Interval, UnknownOperator, interval_certified, intervals, traced
from hardpoint.cli.training_made import made_recipe
from hardpoint.core.errors import ConfigError, ThreatError
from hardpoint.core.rng import Rng
from hardpoint.engine.twin import TwinPlan
from hardpoint.harden import Training
from hardpoint.harden.learner import Batch, CraftMode, Learner, one_hot
from hardpoint.harden.names import recipe_named
from hardpoint.harden.recipes import Attacked, CrownIbp, Ibp, MtlIbp, Prepares, Proves, Recipe, Sabr
from hardpoint.harden.recipes.certified import grown, small_box
from hardpoint.harden.warmup import reset_for_bounds, warmup_penalty
from hardpoint.models import TorchModel
from small_models import rand, randn, seeded

RECIPES = (Ibp(), CrownIbp(), Sabr(), MtlIbp())


def small(norm: bool = True, seed: int = 0) -> nn.Sequential:
    return seeded(
        lambda: nn.Sequential(
            nn.Linear(2, 24), nn.BatchNorm1d(24) if norm else nn.Identity(), nn.ReLU(), nn.Linear(24, 2)
        ),
        seed,
    )


def halves(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points on either side of a gap, so that a margin of 0.1 can be learned."""
    x = rand(4 * n, 2, seed=seed)
    x = x[(x.sum(1) - 1).abs() > 0.3][:n]
    return x, (x.sum(1) > 1).long()


def learner_and_batch(
    net: nn.Module, eps: float = 0.1, n: int = 16, strength: float = 1.0
) -> tuple[Learner, Batch]:
    learner = Learner(TorchModel(net.train()), hp.Linf(eps), CraftMode.EVAL, TwinPlan())
    learner.strength = strength
    x, y = halves(n)
    return learner, Batch(x, y, one_hot(y, 2), torch.arange(n), Rng(0))


def taught(recipe: Recipe, learner: Learner, batch: Batch) -> tuple[float, Tensor]:
    found = recipe.taught(learner, batch, recipe.attacked(learner, batch))
    return float(found.loss), found.scores


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_recipes_keep_the_protocols(recipe):
    assert isinstance(recipe, Recipe)
    assert isinstance(recipe, Prepares)
    assert isinstance(recipe, Proves)
    assert recipe.gradients == (8 if isinstance(recipe, Sabr | MtlIbp) else 0)


def test_recipes_have_names_and_settings():
    for name, kind in (("ibp", Ibp), ("crown_ibp", CrownIbp), ("sabr", Sabr), ("mtl_ibp", MtlIbp)):
        assert recipe_named(name) == made_recipe(name) == kind()
    assert made_recipe("sabr:part=0.2:steps=3:reach=1.5:reset=false") == Sabr(0.2, 3, reach=1.5, reset=False)
    for make in (
        lambda: Ibp(clean=1.5),
        lambda: Ibp(reach=0.0),
        lambda: Ibp(warmup=-1.0),
        lambda: Sabr(part=0.0),
        lambda: Sabr(steps=0),
        lambda: MtlIbp(bound=2.0),
        lambda: CrownIbp(crown=math.nan),
    ):
        with pytest.raises(ConfigError):
            make()


# --- the losses ---------------------------------------------------------------------------------------------------


def test_the_loss_of_a_linear_network_is_that_of_its_worst_points():
    """The box's worst corner for each other class, in closed form: cross-entropy of ``-(margin - eps Σ|w_y - w_j|)``."""
    net = seeded(lambda: nn.Sequential(nn.Linear(2, 2)))
    learner, batch = learner_and_batch(net, eps=0.05)
    weight, bias = net[0].weight.detach(), net[0].bias.detach()
    low, high = (batch.x - 0.05).clamp(min=0), (batch.x + 0.05).clamp(max=1)
    rows = weight[batch.y].unsqueeze(1) - weight
    least = torch.where(rows > 0, low.unsqueeze(1), high.unsqueeze(1)).mul(rows).sum(2)
    worst = -(least + bias[batch.y].unsqueeze(1) - bias)
    value, scores = taught(Ibp(), learner, batch)
    torch.testing.assert_close(scores, worst)
    assert value == pytest.approx(float(functional.cross_entropy(worst, batch.y)), rel=1e-5)


def test_the_clean_loss_has_the_weight_that_is_asked_for():
    net = small(norm=False)
    learner, batch = learner_and_batch(net)
    easy = float(functional.cross_entropy(net(batch.x), batch.y))
    hard, _ = taught(Ibp(), learner, batch)
    assert taught(Ibp(clean=1.0), learner, batch)[0] == pytest.approx(easy, rel=1e-5)
    assert taught(Ibp(clean=0.25), learner, batch)[0] == pytest.approx(0.25 * easy + 0.75 * hard, rel=1e-5)
    learner.strength = 0.6
    share = 1 - grown(0.6)
    hard, _ = taught(Ibp(warmup=0.0), learner, batch)
    value, _ = taught(Ibp(clean_first=1.0, warmup=0.0), learner, batch)
    assert value == pytest.approx(share * easy + (1 - share) * hard, rel=1e-5)


@pytest.mark.parametrize("norm", [False, True])
def test_losses_meet_at_their_ends(norm):
    """A small box that is the whole, intervals alone, and CROWN's share gone are all interval training."""
    learner, batch = learner_and_batch(small(norm))
    wanted, scores = taught(Ibp(), learner, batch)
    for recipe in (Sabr(part=1.0), MtlIbp(bound=1.0), CrownIbp(crown=0.0)):
        value, found = taught(recipe, learner, batch)
        assert value == pytest.approx(wanted, rel=1e-4), recipe.name
        torch.testing.assert_close(found, scores, rtol=1e-4, atol=1e-5)


def test_mtl_ibp_without_intervals_is_adversarial_training():
    net = small(norm=False)
    learner, batch = learner_and_batch(net)
    recipe = MtlIbp(bound=0.0)
    attacked = recipe.attacked(learner, batch)
    assert bool(learner.region(batch).contains(attacked.x).all())
    value = float(recipe.taught(learner, batch, attacked).loss)
    assert value == pytest.approx(float(functional.cross_entropy(net(attacked.x), batch.y)), rel=1e-5)


@pytest.mark.parametrize("norm", [False, True])
def test_losses_are_ordered_as_what_they_bound(norm):
    """Clean below attacked below the small box below intervals; CROWN's lower than intervals' here."""
    learner, batch = learner_and_batch(small(norm), eps=0.05)
    wide, _ = taught(Ibp(), learner, batch)
    part, _ = taught(Sabr(part=0.3), learner, batch)
    attacked, _ = taught(MtlIbp(bound=0.0), learner, batch)
    clean, _ = taught(Ibp(clean=1.0), learner, batch)
    assert clean < attacked < part < wide
    assert taught(CrownIbp(crown=1.0), learner, batch)[0] < wide


def test_no_allowed_point_has_a_higher_loss_than_the_bound():
    learner, batch = learner_and_batch(small())
    _, worst = taught(Ibp(), learner, batch)
    bound = functional.cross_entropy(worst, batch.y, reduction="none")
    settled, _ = learner.graph(batch.x).settled(batch.x)
    region = learner.region(batch)
    for seed in range(200):
        u = rand(*batch.x.shape, seed=seed)
        z = region.low + (u if seed % 2 else u.round()) * (region.high - region.low)
        assert bool((functional.cross_entropy(settled(z), batch.y, reduction="none") <= bound + 1e-4).all())


def test_small_boxes_lie_in_the_region_and_hold_the_example_where_they_can():
    x = rand(50, 3, seed=1)
    region = hp.Linf(0.2).around(x, hp.models.TorchModel(nn.Linear(3, 2)).box)
    for part in (0.1, 0.4, 1.0):
        example = region.project(x + 0.2 * randn(50, 3, seed=2).sign())
        box = small_box(region, example, part)
        assert bool((box.low >= region.low).all())
        assert bool((box.high <= region.high).all())
        assert bool((box.low <= box.high).all())
        assert float((box.high - box.low).max()) <= 2 * part * 0.2 + 1e-6
        assert bool(((example >= box.low - 1e-6) & (example <= box.high + 1e-6)).all())
    torch.testing.assert_close(small_box(region, example, 1.0).low, region.low)


def test_batch_norms_learn_from_the_clean_batch_once_per_update():
    for recipe in RECIPES:
        net, twin = small(), small()
        learner, batch = learner_and_batch(net)
        learner.graph(batch.x)
        recipe.taught(learner, batch, recipe.attacked(learner, batch)).loss.backward()
        twin.train()(batch.x)
        torch.testing.assert_close(net[1].running_mean, twin[1].running_mean)
        torch.testing.assert_close(net[1].running_var, twin[1].running_var)
        assert int(net[1].num_batches_tracked) == 1
        assert all(float(weight.grad.abs().sum()) > 0 for weight in net.parameters() if weight.dim() > 1)


def test_the_budget_grows_smoothly_from_nothing():
    steps = [grown(k / 1000) for k in range(1001)]
    assert steps[0] == 0
    assert steps[-1] == pytest.approx(1)
    rises = [b - a for a, b in itertools.pairwise(steps)]
    assert min(rises) >= 0
    assert max(b - a for a, b in itertools.pairwise(rises)) < 5e-5  # no kink
    learner, batch = learner_and_batch(small(norm=False), eps=0.1, strength=0.5)
    region = Ibp(reach=1.5).region(learner, batch)
    assert region.eps == pytest.approx(0.1 * 1.5 * grown(0.5))


# --- the beginning ------------------------------------------------------------------------------------------------


def test_first_weights_keep_intervals_as_wide_as_they_are():
    deep = nn.Sequential(
        *[part for _ in range(6) for part in (nn.Linear(300, 300), nn.ReLU())], nn.Linear(300, 2)
    )
    x = rand(8, 300)

    def growth(net: nn.Module) -> float:
        spans = intervals(traced(net, x), Interval(x - 0.01, x + 0.01))
        return float(spans[-2].radius.mean() / spans[0].radius.mean())

    fresh = reset_for_bounds(deep, Rng(0))
    assert 0.2 < growth(fresh) < 5
    assert growth(deep) > 1000


def test_first_weights_are_drawn_anew_and_leave_the_network_alone():
    net = small()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net[1].running_mean.fill_(3.0)
    first, again, other = (reset_for_bounds(net, Rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(net[0].weight, before["0.weight"])
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    assert not torch.equal(first[0].weight[:2], first[3].weight[:, :2])
    assert float(first[1].running_mean.abs().max()) == 0
    assert float(first[0].bias.abs().max()) == 0
    assert Ibp(reset=False).prepared(net, Rng(0), rand(4, 2)) is net


def test_the_penalty_is_nothing_for_what_is_in_balance_and_counts_what_explodes():
    even = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        even[0].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    x = torch.full((1, 2), 0.5)
    graph, box = traced(even, x), Interval(x - 0.1, x + 0.1)
    assert float(warmup_penalty(graph, intervals(graph, box))) == 0
    with torch.no_grad():
        even[0].weight.mul_(8)  # radius 8 times the input's: (0.5 - 1/8) / 0.5
    assert float(warmup_penalty(graph, intervals(graph, box))) == pytest.approx(0.75, rel=1e-5)
    with torch.no_grad():
        even[0].weight.copy_(torch.tensor([[1.0, 0.0], [-0.25, 0.0], [0.0, 1.0], [0.0, -0.25]]))
    # means 1/4 apart: 0.5; variances (5/16)² either side of the mean 0.1875: equal
    assert float(warmup_penalty(graph, intervals(graph, box))) == pytest.approx(0.5, rel=1e-5)


def test_the_penalty_ends_with_the_warm_up():
    learner, batch = learner_and_batch(small(norm=False))
    assert taught(Ibp(warmup=5.0), learner, batch)[0] == taught(Ibp(warmup=0.0), learner, batch)[0]
    learner.strength = 0.3
    assert taught(Ibp(warmup=5.0), learner, batch)[0] >= taught(Ibp(warmup=0.0), learner, batch)[0]


# --- training -----------------------------------------------------------------------------------------------------


def test_what_is_learned_from_bounds_can_be_proven():
    x, y = halves(600)
    xt, yt = halves(200, seed=9)
    settings = Training(epochs=12, lr=5e-3, weight_decay=0.0, ramp=0.5, batch_size=32)
    shares = {}
    for recipe in ("plain", *RECIPES):
        done = hp.harden(small(), x, y, threat=hp.Linf(0.1), recipe=recipe, training=settings, progress=False)
        name = recipe if isinstance(recipe, str) else recipe.name.split("-")[0]
        shares[name] = float(interval_certified(done.model, xt, yt, hp.Linf(0.1)).double().mean())
    assert min(shares[name] for name in ("ibp", "crown_ibp", "sabr", "mtl_ibp")) > shares["plain"]
    assert shares["ibp"] > 0.95
    assert shares["crown_ibp"] > 0.95


def test_epochs_are_told_apart_by_what_can_be_proven():
    x, y = halves(400)
    settings = Training(epochs=4, lr=5e-3, validation=0.25, batch_size=32)
    done = hp.harden(small(), x, y, threat=hp.Linf(0.1), recipe=Ibp(), training=settings, progress=False)
    from hardpoint.core.rng import split_rows

    _, held = split_rows(400, 0.25, Rng(0).fork("validation"))
    proven = interval_certified(done.model, x[held], y[held], hp.Linf(0.1))
    assert done.best.robust == pytest.approx(float(proven.double().mean()))


def test_training_begins_from_its_own_weights_and_gives_the_same_again():
    x, y = halves(64)
    settings = Training(epochs=1, validation=0.0, batch_size=32)
    net = small()
    start = {name: value.clone() for name, value in net.state_dict().items()}
    one, two = (
        hp.harden(net, x, y, threat=hp.Linf(0.1), recipe=Ibp(), training=settings, progress=False).model
        for _ in range(2)
    )
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )
    assert all(torch.equal(start[name], value) for name, value in net.state_dict().items())
    kept = hp.harden(
        net,
        x,
        y,
        threat=hp.Linf(0.1),
        recipe=Ibp(reset=False),
        training=replace(settings, lr=1e-9),
        progress=False,
    ).model
    torch.testing.assert_close(kept[0].weight, net[0].weight, rtol=0, atol=1e-6)


def test_what_cannot_be_bounded_is_refused():
    x, y = halves(64)
    short = Training(epochs=1, validation=0.0)
    with pytest.raises(ThreatError, match="Linf"):
        hp.harden(small(), x, y, threat=hp.L2(0.1), recipe=Ibp(), training=short, progress=False)
    dropping = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    with pytest.raises(UnknownOperator, match="Dropout"):
        hp.harden(dropping, x, y, threat=hp.Linf(0.1), recipe=Ibp(), training=short, progress=False)


def test_one_score_can_be_learned_from():
    x, y = halves(64)
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    learner, batch = learner_and_batch(net)
    for recipe in RECIPES:
        value, scores = taught(recipe, learner, batch)
        assert math.isfinite(value)
        assert scores.shape == (16, 2)
    assert isinstance(Ibp().attacked(learner, batch), Attacked)
    del x, y
