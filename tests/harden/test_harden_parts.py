"""The parts of the training loop, one by one: averages, paces, the watch, settings, history, curves, costs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_lessons import flat, learner_of, normed, pictures, same, state_of
from torch import nn

from hardpoint.core.errors import ConfigError
from hardpoint.core.rng import Rng
from hardpoint.evidence.training import best_epoch
from hardpoint.harden import Epoch, Flip, Training, cost
from hardpoint.harden.averaging import Average
from hardpoint.harden.cost import Cost, default_recipe, measured_seconds, within_budget
from hardpoint.harden.recipes import Atta, Awp, Free, NFgsm, Pgd, Plain, Trades, WorstOf
from hardpoint.harden.settings import Optimiser, Pace
from hardpoint.harden.watch import Watch, agreement
from hardpoint.report.curves import drawn
from hardpoint.threats import L2, Linf
from small_models import rand, randn

# ------------------------------------------------------------------------------------------------ averages


def test_average_by_recurrence():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    average, wanted = Average(net, 0.7), state_of(net)
    for turn in range(1, 41):
        net(randn(4, 2, seed=turn, dtype=torch.float64))
        with torch.no_grad():
            net[0].weight += randn(3, 2, seed=turn, dtype=torch.float64)
        keep = min(0.7, turn / (turn + 9))
        for name, tensor in net.state_dict().items():
            blended = keep * wanted[name] + (1 - keep) * tensor
            wanted[name] = blended if tensor.is_floating_point() else tensor.clone()
        average.update()
    assert average.updates == 40
    for name, tensor in average.state.items():
        torch.testing.assert_close(tensor, wanted[name])
        assert tensor.dtype == net.state_dict()[name].dtype
    assert int(average.state["1.num_batches_tracked"]) == 40


def test_average_begins_at_the_weights_shares_nothing_and_goes_on():
    net = flat()
    average, kept = Average(net, 0.9), state_of(net)
    assert same(average.state, kept)
    with torch.no_grad():
        net[0].weight += 1
    assert same(average.state, kept)
    average.update()
    other = Average(net, 0.9)
    other.load({name: tensor.clone() for name, tensor in average.state.items()}, average.updates)
    for each in (average, other):
        each.update()
    assert same(average.state, other.state)
    assert other.updates == 2


# ------------------------------------------------------------------------------------------------ paces

POINTS = {
    Pace.CONSTANT: {0: 1, 0.3: 1, 1: 1},
    Pace.STEPS: {0: 1, 0.49: 1, 0.5: 0.1, 0.74: 0.1, 0.75: 0.01, 1: 0.01},
    Pace.CYCLE: {0: 0, 0.1: 0.25, 0.4: 1, 0.7: 0.5, 1: 0},
    Pace.COSINE: {0: 0, 0.025: 0.5, 0.05: 1, 0.525: 0.5, 1: 0, 0.2875: (1 + math.sqrt(0.5)) / 2},
}


@pytest.mark.parametrize("pace", Pace)
def test_paces_at_known_points(pace):
    for done, share in POINTS[pace].items():
        assert pace.at(done) == pytest.approx(share, abs=1e-12)


@given(st.sampled_from(Pace), st.floats(0, 1))
def test_paces_stay_between_nothing_and_all(pace, done):
    assert -1e-12 <= pace.at(done) <= 1 + 1e-12


# ------------------------------------------------------------------------------------------------ the watch


def noise(n: int, size: float, seed: int = 0) -> list[float]:
    return (size * Rng(seed).normal(torch.arange(n))).tolist()


@pytest.mark.parametrize("height", [0.3, 0.6, 0.9])
def test_a_fall_is_noticed_soon_and_noise_is_not(height):
    for seed in range(3):
        watch = Watch()
        assert not any(watch.saw(height + e) for e in noise(1000, 0.15 * height, seed))
        assert watch.is_sound
        seen = [watch.saw(0.05 * height + e) for e in noise(30, 0.1 * height, seed + 50)]
        assert True in seen
        assert 3 <= seen.index(True) <= 12
        assert all(seen[12:])  # what has fallen does not become usual
        assert not watch.is_sound


def test_a_fall_is_measured_from_the_height_it_once_had():
    watch = Watch()
    assert not any(watch.saw(0.5 + 0.4 * t / 1000) for t in range(1000))
    assert not any(watch.saw(0.9 - 0.4 * t / 1000) for t in range(1000))
    assert any(watch.saw(0.4) for t in range(20))


def test_nothing_is_said_before_it_has_settled():
    watch = Watch()
    assert not any(watch.saw(v) for v in [0.9] * 10 + [0.0] * 20)
    assert not watch.is_sound
    assert watch.seen == 30


@pytest.mark.parametrize(
    ("standing", "further"), [(0.5, 0.46), (0.9, 0.8), (0.05, 0.0), (0.0, 0.0), (0.4, 0.7)]
)
def test_examples_that_attack_are_left_alone(standing, further):
    for seed in range(3):
        watch = Watch()
        near = zip(noise(500, 0.05, seed), noise(500, 0.05, seed + 9), strict=True)
        assert not any(watch.met(standing + 0.3 * a, further + 0.3 * b) for a, b in near)
    assert watch.is_sound or further == 0.0


def test_examples_that_one_more_step_outdoes_are_noticed_soon():
    watch = Watch()
    assert not any(watch.met(0.4, 0.38) for _ in range(9))
    assert watch.is_sound
    seen = [watch.met(0.6, 0.2) for _ in range(12)]
    assert any(seen[:6])
    assert all(seen[6:])
    assert not watch.is_sound


def test_examples_that_always_leave_something_are_noticed_in_time():
    for seed in range(5):
        watch = Watch()
        near = zip(noise(200, 0.05, seed), noise(200, 0.05, seed + 9), strict=True)
        seen = [watch.met(0.5 + a, 0.4 + b) for a, b in near]
        assert True in seen
        assert 10 <= seen.index(True) < 60
        growing = Watch(always=None)
        assert not any(growing.met(0.5, 0.4) for _ in range(200))


def test_what_was_seen_at_a_smaller_budget_is_soon_forgotten():
    def looks_until_noticed(grows: bool) -> int:
        watch = Watch()
        assert not any(watch.met(0.6, 0.58, grows=grows) for _ in range(60))
        return next(look for look in range(200) if watch.met(0.6, 0.48, grows=grows))

    assert looks_until_noticed(grows=True) < 10 < looks_until_noticed(grows=False)


def test_the_first_looks_are_not_believed():
    watch = Watch()
    assert not any(watch.met(1.0, 0.0) for _ in range(8))
    assert watch.met(1.0, 0.0)


def test_it_can_begin_again_and_be_remembered():
    watch = Watch()
    for _ in range(50):
        watch.saw(0.8)
    again = Watch.from_json(json.loads(json.dumps(asdict(watch))))
    assert again == watch
    assert [again.saw(0.0) for _ in range(9)] == [watch.saw(0.0) for _ in range(9)]
    watch.begin_again()
    assert watch.seen == 0
    assert math.isnan(watch.level)
    assert not any(watch.saw(0.2) for _ in range(200))  # another height is usual now
    fresh = Watch.from_json(json.loads(json.dumps(asdict(Watch(always=None)))))
    assert math.isnan(fresh.usual)
    assert not fresh.saw(0.5)


def test_agreement_is_the_mean_cosine():
    a, b = randn(6, 2, 3, dtype=torch.float64), randn(6, 2, 3, seed=1, dtype=torch.float64)
    cosines = [float((p * q).sum() / p.norm() / q.norm()) for p, q in zip(a, b, strict=True)]
    assert agreement(a, b) == pytest.approx(sum(cosines) / 6)
    assert agreement(a, 3 * a) == pytest.approx(1)
    assert agreement(a, -a) == pytest.approx(-1)
    assert agreement(a, torch.zeros_like(a)) == 0


# ------------------------------------------------------------------------------------------------ settings

BAD = {
    "epochs": [0, 1.5, True],
    "batch_size": [0, -3],
    "patience": [0, 2.0],
    "lr": [0, -1, math.nan, math.inf, "fast"],
    "clip": [0, math.inf],
    "weight_decay": [-1, math.nan],
    "l1": [-0.1, math.inf],
    "momentum": [1, -0.1],
    "label_smoothing": [1, -1],
    "average": [1.0, math.nan],
    "ramp": [1, -0.5],
    "validation": [1, -0.1],
    "optimiser": ["adam", None],
    "pace": ["cosin"],
    "precision": ["float16", torch.bfloat16],
    "augment": [Flip(), ("flip",), "crop", None],
}


@pytest.mark.parametrize(("word", "value"), [(w, v) for w, values in BAD.items() for v in values])
def test_settings_that_make_no_sense_are_refused(word, value):
    with pytest.raises(ConfigError, match=word):
        Training(**{word: value})


def test_settings_are_told():
    told = Training(optimiser="sgd", augment=[Flip()], clip=1.0).describe()
    assert json.loads(json.dumps(told)) == told
    assert (told["optimiser"], told["augment"]) == ("sgd", ["Flip()"])
    with pytest.raises(ConfigError, match="'adamw', 'sgd'"):
        Training(optimiser="adam")


def test_biases_and_norms_do_not_decay():
    net = normed()
    net[0].bias.requires_grad_(False)
    for kind in Optimiser:
        optimiser = kind.over(net.parameters(), Training(weight_decay=0.1, lr=0.5))
        decayed = {id(p) for g in optimiser.param_groups if g["weight_decay"] == 0.1 for p in g["params"]}
        other = {id(p) for g in optimiser.param_groups if g["weight_decay"] == 0.0 for p in g["params"]}
        assert decayed == {id(net[0].weight), id(net[5].weight)}
        assert other == {id(net[1].weight), id(net[1].bias), id(net[5].bias)}
        assert all(g["lr"] == 0.5 for g in optimiser.param_groups)


def test_sgd_has_momentum_only_where_asked():
    (group,) = Optimiser.SGD.over([nn.Parameter(rand(2, 2))], Training(momentum=0.0)).param_groups
    assert (group["momentum"], group["nesterov"]) == (0.0, False)
    (group,) = Optimiser.SGD.over([nn.Parameter(rand(2, 2))], Training(momentum=0.8)).param_groups
    assert (group["momentum"], group["nesterov"]) == (0.8, True)


# ------------------------------------------------------------------------------------------------ history


def epochs(*pairs: tuple[float | None, float | None]) -> tuple[Epoch, ...]:
    return tuple(
        Epoch(number, "pgd-1", 0.5, 0.25, clean, robust, 0.1, 2.0)
        for number, (clean, robust) in enumerate(pairs, 1)
    )


def test_the_best_epoch():
    assert best_epoch(()) is None
    assert best_epoch(epochs((0.9, 0.2), (0.5, 0.4), (0.9, 0.3))).number == 2
    assert (
        best_epoch(epochs((0.8, 0.4), (0.9, 0.4), (0.9, 0.4))).number == 2
    )  # then by accuracy, then the first
    assert best_epoch(epochs((0.0, 0.0), (0.0, 0.0))).number == 1
    assert best_epoch(epochs((None, None), (None, None), (None, None))).number == 3
    assert best_epoch(epochs((0.8, None), (0.9, None), (0.7, None))).number == 2  # where no attack counts


def test_epochs_are_remembered():
    for epoch in (*epochs((0.1 + 0.2, None)), replace(epochs((None, 1 / 3))[0], alignment=0.7, alarms=2)):
        assert Epoch.from_json(json.loads(json.dumps(epoch.to_json()))) == epoch


@pytest.mark.parametrize(
    "history",
    [
        epochs((0.9, 0.2)),
        epochs(*[(0.5, 0.1 * n) for n in range(9)]),
        epochs((None, None), (None, None)),
        epochs((0.5, None)),
    ],
)
def test_curves_are_sound_and_inside(history):
    picture = ElementTree.fromstring(drawn(history))
    space = "{http://www.w3.org/2000/svg}"
    lines = picture.findall(f"{space}polyline")
    shown = 1 + (history[0].clean is not None) + (history[0].robust is not None)
    assert len(lines) == shown
    _, _, width, height = (float(part) for part in picture.attrib["viewBox"].split())
    for line in lines:
        places = [tuple(map(float, place.split(","))) for place in line.attrib["points"].split()]
        assert len(places) == len(history)
        assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
        assert [x for x, _ in places] == sorted(x for x, _ in places)
    titles = "".join(t.text or "" for t in picture.iter(f"{space}title"))
    best = best_epoch(history)
    assert (f"kept: epoch {best.number}" in titles) == (best.robust is not None)


# ------------------------------------------------------------------------------------------------ costs


def test_measuring_costs_leaves_everything_as_it_was():
    net, (x, y) = normed(dropout=0.3), pictures(8)
    learner, before, random = learner_of(net), state_of(net), torch.get_rng_state()
    recipes = [Plain(), NFgsm(), Free(2), Trades(steps=1), Awp(Pgd(1)), WorstOf((Linf(0.1), L2(0.1)), Pgd(1))]
    for optimiser in ("sgd", "adamw"):
        seconds = measured_seconds(learner, recipes, Training(optimiser=optimiser), x, y, 3)
        assert len(seconds) == len(recipes)
        assert all(0 < s < 60 for s in seconds)
    assert same(before, state_of(net))
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert net.training


@pytest.mark.parametrize(
    ("prices", "steps"),
    [
        ((1.0, 1.5, 2.5), 2),  # a step costs a half: one more fits
        ((1.0, 1.1, 1.3), 10),
        ((1.0, 1.2, 1.8), 3),
        ((1.0, 1.6, 2.8), 1),
        ((1.0, 3.0, 9.0), 1),
        ((1.0, 1.0, 1.0), 10),  # steps without a price
        ((1.0, 1.5, 1.4), 10),  # nor with one below zero, by noise
    ],
)
def test_what_a_budget_buys(monkeypatch, prices, steps):
    monkeypatch.setattr(cost, "measured_seconds", lambda *_: list(prices))
    learner, (x, y) = learner_of(normed()), pictures(4)
    forgets, _ = within_budget(learner, Training(), x, y, 3, remembers=False)
    assert forgets == default_recipe(steps, remembers=False) == (NFgsm() if steps == 1 else Pgd(steps))
    remembers, _ = within_budget(learner, Training(), x, y, 3, remembers=True)
    assert isinstance(remembers, Atta)
    assert default_recipe(remembers.gradients, remembers=True) == remembers  # as a folder remembers it
    assert remembers.steps == min(3, steps)


def test_costs_in_words():
    assert str(Cost(0.5, 1.0, 10)) == "2.0× ordinary training, about 10 s"
    assert str(Cost(1.0, 1.0, 600)) == "1.0× ordinary training, about 10 min"
    assert str(Cost(1.0, 2.5, 3600)) == "2.5× ordinary training, about 2.5 h"


def test_slopes_that_never_agreed_raise_the_alarm_once_there_are_enough_of_them() -> None:
    watch = Watch()
    alarms = [watch.saw(0.03) for _ in range(40)]
    assert alarms == [False] * 30 + [True] * 10
    low = Watch()
    assert not any(low.saw(0.12) for _ in range(40))
