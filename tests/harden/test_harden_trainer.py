"""The training loop: its draws, its stops, and what it returns."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import pytest
import torch
from small_lessons import ONE, cloud, doubled, flat, normed, pictures, same, state_of, trainer_of
from torch import Tensor, nn
from torch.nn import functional

from hardpoint.assess.progress import Silent
from hardpoint.core.box import Box
from hardpoint.core.errors import ModelError
from hardpoint.core.rng import Rng
from hardpoint.harden import Crop, Flip, Mixup, Training
from hardpoint.harden import trainer as trainers
from hardpoint.harden.augment import with_draws
from hardpoint.harden.memory import Memory
from hardpoint.harden.recipes import Awp, Free, NFgsm, Pgd, Plain, Trades
from hardpoint.threats import Linf
from small_models import Noisy, rand, seeded

# ------------------------------------------------------------------------------------------------ draws


RECIPES = [Plain(), NFgsm(), Trades(steps=1)]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_a_seed_is_a_training(recipe):
    def trained(seed: int, dropout: float = 0.0):
        trainer = trainer_of(flat(dropout=dropout), recipe, Training(epochs=2, batch_size=16), seed=seed)
        trainer.run()
        return state_of(trainer.module)

    for dropout in (0.0, 0.4):
        torch.rand(3)  # global draws do not matter
        assert same(trained(0, dropout), trained(0, dropout))
        assert not same(trained(0, dropout), trained(1, dropout))


def test_batches_are_other_ones_for_each_seed_and_epoch():
    seen: dict[int, list[list[int]]] = {}
    orders: list[tuple[int, ...]] = []

    @dataclass(frozen=True)
    class Spy(Plain):
        seed: int = 0

        def attacked(self, learner, batch):
            seen.setdefault(self.seed, []).append(batch.index.tolist())
            return super().attacked(learner, batch)

    for seed in (0, 1):
        trainer_of(flat(), Spy(seed), replace(ONE, epochs=2, batch_size=40), seed=seed).run()
        for epoch in (seen[seed][:3], seen[seed][3:]):
            orders.append(tuple(chain(*epoch)))
            assert sorted(orders[-1]) == list(range(96))
    assert len(set(orders)) == 4


def test_global_random_states_are_left_alone():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    def draws(network):
        torch.rand(3)
        return random.random(), 0.5

    net = seeded(lambda: Noisy(flat(dropout=0.5), 0.1))
    before = states()
    trainer_of(net, NFgsm(), Training(epochs=2, batch_size=16), validate=draws).run()
    assert states() == before


def test_validation_of_random_networks_follows_from_the_seed():
    def draws(network):
        return 0.5, float(torch.rand(())) * random.random()

    shown = []
    for turn in range(2):
        torch.rand(3 + turn)
        random.random()
        shown.append(
            [e.robust for e in trainer_of(flat(), Plain(), replace(ONE, epochs=3), validate=draws).run()]
        )
    assert shown[0] == shown[1]
    assert len(set(shown[0])) == 3


@dataclass(frozen=True)
class Draws:
    """Changes nothing, and remembers what it would have drawn."""

    seen: list[Tensor] = field(default_factory=list, compare=False)

    def __call__(self, x, targets, rng, index):
        self.seen.append(rng.uniform(index)[index.argsort()])
        return x, targets


def test_changes_of_one_kind_draw_each_for_itself():
    first, second = Draws(), Draws()
    trainer_of(
        normed(), Plain(), replace(ONE, epochs=2, augment=(first, Flip(), second)), data=pictures(6)
    ).run()
    draws = [*first.seen, *second.seen]
    assert len(draws) == 4
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])


def test_two_shifts_are_not_the_same_and_offsets_follow_both():
    x, index, rng = rand(20, 1, 8, 8), torch.arange(20), Rng(0)
    changes = (Crop(1), Flip(), Crop(1), Flip())
    moved, shares = x, torch.ones(20, 1)
    for change, draws in with_draws(changes, rng):
        moved, shares = change(moved, shares, draws, index)
    (_, a), (_, b), (_, c), (_, d) = with_draws(changes, rng)
    assert not torch.equal(Crop(1).moved(x, a, index), Crop(1).moved(x, c, index))
    assert not torch.equal(Flip().moved(x, b, index), Flip().moved(x, d, index))
    memory, region = Memory(20, (1, 8, 8), changes), Linf(0.1).around(moved, Box(0.0, 1.0))
    examples = region.sample(Rng(1), index)
    memory.keep(index, examples, region, rng)
    again = memory.take(index, region, rng)
    inside = again != 0
    assert inside.double().mean() > 0.3
    torch.testing.assert_close(again[inside], (examples - moved)[inside], atol=1e-4, rtol=0)


def test_changed_inputs_stay_in_the_box_and_are_attacked_there():
    seen = []

    @dataclass(frozen=True)
    class Bright:
        def __call__(self, x, targets, rng, index):
            return x + 0.7, targets

    @dataclass(frozen=True)
    class Spy(Pgd):
        def attacked(self, learner, batch):
            found = super().attacked(learner, batch)
            seen.append((batch.x, found.x))
            return found

    trainer_of(flat(), Spy(2), replace(ONE, augment=(Bright(),))).run()
    ((x, found),) = seen
    assert float(x.max()) == 1.0
    assert float((found - x).abs().max()) <= 0.05 + 1e-6
    assert float(found.max()) <= 1.0


def test_mixed_inputs_are_learned_by_their_shares():
    net, (x, y) = flat().double(), doubled()
    other = copy.deepcopy(net)
    (epoch,) = trainer_of(
        net, Plain(), replace(ONE, augment=(Mixup(0.5),), label_smoothing=0.1), data=(x, y)
    ).run()
    assert epoch.loss != pytest.approx(
        float(functional.cross_entropy(other(x), y, label_smoothing=0.1).detach())
    )
    assert np.isfinite(epoch.loss)


# ------------------------------------------------------------------------------------------------ odd sizes


class Counts(Silent):
    def __init__(self):
        self.totals = []

    def begin(self, what, total):
        self.totals.append(total)


@pytest.mark.parametrize(
    ("n", "size", "used"), [(9, 4, 8), (9, 8, 8), (8, 4, 8), (10, 4, 10), (2, 128, 2), (5, 2, 4)]
)
def test_a_last_batch_of_one_is_left_out(n, size, used):
    trainer = trainer_of(normed(), Pgd(1), Training(epochs=2, batch_size=size), data=pictures(n))
    trainer.display = Counts()
    trainer.run()
    assert trainer.display.totals == [used, used]


def test_batches_of_one_are_all_used():
    trainer = trainer_of(flat(), Pgd(1), Training(epochs=1, batch_size=1), data=cloud(5))
    trainer.display = Counts()
    trainer.run()
    assert trainer.display.totals == [5]
    assert len(trainer_of(flat(), Pgd(1), Training(epochs=1), data=cloud(1)).run()) == 1


def test_replays_make_fewer_passes():
    for epochs, replays, passes in ((4, 2, 2), (5, 2, 3), (1, 4, 1), (8, 4, 2)):
        trainer = trainer_of(flat(), Free(replays), Training(epochs=epochs, batch_size=96))
        assert trainer.epochs == len(trainer.run()) == passes


# ------------------------------------------------------------------------------------------------ the end


def scripted(*robust: float, clean: float | None = None):
    """Validation that answers as told, and remembers the weights that it saw."""
    seen, left = [], list(robust)

    def measure(network):
        assert not any(layer.training for layer in network.modules())
        seen.append(state_of(network))
        value = left.pop(0)
        return (value, None) if clean is None else (clean, value)

    return measure, seen


@pytest.mark.parametrize("average", [0.0, 0.6])
def test_the_best_epochs_weights_are_returned(average):
    validate, seen = scripted(0.2, 0.8, 0.5, 0.8, clean=0.5)
    net = normed()
    training = Training(epochs=4, batch_size=8, lr=0.05, average=average)
    trainer = trainer_of(net, Pgd(1), training, data=pictures(), validate=validate)
    history = trainer.run()
    assert [e.robust for e in history] == [0.2, 0.8, 0.5, 0.8]
    assert same(state_of(net), seen[1])
    assert not same(seen[1], seen[3])
    if average:
        assert same(seen[3], trainer.average.state)


def test_where_no_attack_counts_the_most_accurate_is_returned():
    validate, seen = scripted(0.7, 0.9, 0.8)
    net = flat()
    trainer_of(net, Plain(), replace(ONE, epochs=3), validate=validate).run()
    assert same(state_of(net), seen[1])


@pytest.mark.parametrize("average", [0.0, 0.6])
def test_without_validation_the_last_weights_are_returned(average):
    trainer = trainer_of(flat(), Pgd(1), Training(epochs=3, batch_size=32, average=average))
    history = trainer.run()
    assert [e.robust for e in history] == [None] * 3
    assert all(p.grad is None for p in trainer.module.parameters())
    if average:
        assert same(state_of(trainer.module), trainer.average.state)


def test_patience():
    for patience, expected in ((1, 3), (2, 4), (3, 5), (None, 6)):
        validate, seen = scripted(0.2, 0.5, 0.5, 0.4, 0.3, 0.2, clean=0.5)
        net = flat()
        training = replace(ONE, epochs=6, patience=patience)
        assert len(trainer_of(net, Pgd(1), training, validate=validate).run()) == expected
        assert same(state_of(net), seen[1])


def test_patience_where_no_attack_counts():
    validate, _ = scripted(0.5, 0.9, 0.8, 0.7, 0.6, 0.5)
    assert len(trainer_of(flat(), Plain(), replace(ONE, epochs=6, patience=2), validate=validate).run()) == 4


class Breaks(nn.Module):
    def forward(self, x):
        return x * torch.where(torch.tensor(self.training), torch.nan, 1.0)


def test_a_loss_that_is_no_number_is_an_error_with_a_cure():
    net = nn.Sequential(flat(), Breaks())
    with pytest.raises(ModelError, match="loss is nan after 0 updates.*smaller lr"):
        trainer_of(net, Pgd(1), ONE).run()
    with pytest.raises(ModelError, match="smaller lr, or with clip"):
        trainer_of(flat(), Plain(), replace(ONE, lr=3e38, epochs=9, batch_size=16)).run()


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_weights_that_are_no_numbers_are_an_error_too(average):
    def inputs_as_given(network):
        return 1.0, 1.0

    for validate in (None, inputs_as_given):  # the only update breaks them: no loss tells
        trainer = trainer_of(
            flat(), Plain(), replace(ONE, lr=3e38, l1=1e3, average=average), validate=validate
        )
        with pytest.raises(ModelError, match="weights are not finite.*smaller lr"):
            trainer.run()


def test_bfloat16_keeps_weights_and_updates_in_float32():
    training = Training(epochs=3, batch_size=16, lr=0.05, precision="bfloat16")
    for recipe in (Pgd(2), NFgsm(), Free(2), Trades(steps=1), Awp(Pgd(1))):
        trainer = trainer_of(normed(), recipe, training, data=pictures())
        history = trainer.run()
        assert all(t.dtype != torch.bfloat16 for t in trainer.module.state_dict().values())
        assert all(np.isfinite(e.loss) for e in history)
    exact, rounded = (
        trainer_of(flat(), Plain(), replace(ONE, precision=p)).run()[0].loss for p in ("float32", "bfloat16")
    )
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.02)


def test_it_learns():
    x, y = cloud(128)
    for recipe in (Plain(), Pgd(2), NFgsm(), Free(2)):
        net = flat()
        trainer_of(net, recipe, Training(epochs=24, batch_size=32, lr=0.05), data=(x, y), eps=0.02).run()
        with torch.no_grad():
            assert float((net.eval()(x).argmax(1) == y).double().mean()) > 0.85


# ------------------------------------------------------------------------------------------------ the watch


def test_examples_that_attack_no_more_are_noticed_while_the_budget_grows_and_longer_searches_are_looked_at_too(
    monkeypatch,
):
    looks = []

    def scripted(watch, standing, further, *, grows):
        assert 0 <= further <= 1
        assert 0 <= standing <= 1
        looks.append(grows)
        return len(looks) in (10, 20)

    monkeypatch.setattr(trainers.Watch, "met", scripted)
    training = Training(epochs=2, batch_size=2, lr=1e-3, ramp=0.9)
    trainer = trainer_of(flat(), NFgsm(), training, data=cloud(96))
    history = trainer.run()
    assert trainer.alarms == 2
    assert [epoch.recipe for epoch in history] == ["pgd-12", "pgd-12"]
    assert looks == [True] * 86 + [False] * 5  # every update while the budget grows, then every second one


def test_single_steps_that_stop_working_are_given_up_and_gone_back_from(monkeypatch):
    looks, loaded = [], []

    def scripted_agreement(before, after):
        looks.append(len(looks))
        return 0.9 if len(looks) <= 45 else 0.0

    monkeypatch.setattr(trainers, "agreement", scripted_agreement)
    trainer = trainer_of(
        flat(),
        NFgsm(),
        Training(epochs=5, batch_size=2, lr=1e-3, average=0.9, ramp=0.0),
        data=cloud(96),
        file=None,
    )
    monkeypatch.setattr(
        trainer, "_load_weights", lambda held: loaded.append((dict(held), state_of(trainer.module)))
    )
    history = trainer.run()
    assert 46 <= len(looks) <= 60  # searches of more steps are not looked at
    assert trainer.alarms == history[-1].alarms == 1
    assert history[0].recipe == "n_fgsm"
    assert history[-1].recipe == "pgd-6"
    assert history[0].alignment == pytest.approx(0.9)
    ((safe, fallen),) = loaded  # there was a moment to go back to
    assert safe.keys() == trainer._weights().keys()
    assert not torch.equal(safe["module/0.weight"], fallen["0.weight"])


def test_going_back_is_to_the_weights_and_to_what_the_optimiser_knew():
    trainer = trainer_of(flat(), Pgd(1), Training(epochs=1, batch_size=32, average=0.5))
    trainer.run()
    safe = {name: tensor.clone() for name, tensor in trainer._weights().items()}
    trainer._epoch(2)
    assert not same(trainer._weights(), safe)
    trainer._load_weights(safe)
    assert same(trainer._weights(), safe)
    x = rand(4, 2, seed=8)
    with trainer.learner.searched() as scores:
        torch.testing.assert_close(scores(x), trainer.module.eval()(x))


@pytest.mark.parametrize("recipe", [Pgd(2), Trades(steps=1), Free(2), Plain()], ids=lambda r: r.name)
def test_longer_searches_are_not_watched(recipe, monkeypatch):
    monkeypatch.setattr(trainers, "agreement", lambda *_: pytest.fail("looked"))
    trainer_of(flat(), recipe, Training(epochs=2, batch_size=8)).run()


def test_looking_changes_no_weight(monkeypatch):
    trained = []
    for every in (1, 4, 10**9):
        monkeypatch.setattr(trainers, "_LOOK_EVERY", every)
        net = normed(dropout=0.2)
        trainer_of(net, NFgsm(), Training(epochs=2, batch_size=8, lr=0.02), data=pictures()).run()
        trained.append(state_of(net))
    assert same(trained[0], trained[1])
    assert same(trained[0], trained[2])
