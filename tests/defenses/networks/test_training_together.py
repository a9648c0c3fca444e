"""Members trained together: they learn, they differ, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hardpoint as hp
from hardpoint.core.errors import ConfigError, DataError, ModelError, ThreatError
from hardpoint.core.rng import Rng
from hardpoint.defenses import (
    AdaptiveDiversity,
    AttackedInputs,
    GradientAlignment,
    Schedule,
    TransferReduction,
    train_members,
)
from hardpoint.models.torch import weights_sha256
from small_models import linear, rand, randn, seeded


def network(seed: int, d: int = 6, classes: int = 4) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(nn.Linear(d, 24), nn.GELU(), nn.Dropout(0.1), nn.Linear(24, classes)), seed
    )


def task(n: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    x = rand(n, 6, seed=1)
    return x, ((x - 0.5) @ randn(6, 4, seed=2)).argmax(1)


def test_the_same_seed_gives_the_same_networks_and_leaves_all_else_alone():
    (x, y), members = task(), [network(0), network(1)]
    for member in members:
        member[0].weight.requires_grad_(False)
    before = [weights_sha256(member) for member in members]
    state = torch.get_rng_state()
    told: list[tuple[int, float]] = []
    schedule = Schedule(epochs=3, seed=5)
    settings = {"schedule": schedule, "attacked": AttackedInputs(hp.Linf(0.02), steps=2)}
    first = train_members(members, x, y, progress=lambda *said: told.append(said), **settings)
    second = train_members(members, x, y, **settings)
    other = train_members(members, x, y, **{**settings, "schedule": Schedule(epochs=3, seed=6)})
    assert torch.equal(torch.get_rng_state(), state)
    assert [weights_sha256(member) for member in members] == before
    assert members[0].training
    assert not members[0][0].weight.requires_grad
    assert [weights_sha256(m) for m in first] == [weights_sha256(m) for m in second]
    assert weights_sha256(first[0]) != weights_sha256(other[0])
    assert not any(m.training or m[0].weight.requires_grad for m in first)
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert told[-1][1] < told[0][1]


@pytest.mark.parametrize(
    "term", [AdaptiveDiversity(0.5, 0.1), GradientAlignment(0.2), TransferReduction(0.2, 0.05)]
)
def test_a_term_falls_further_than_without_it_and_members_still_learn(term):
    x, y = task()
    members, schedule = [network(0), network(1)], Schedule(epochs=40, lr=2e-2)

    def reached(trained) -> float:
        point = x.clone().requires_grad_(True)
        return float(term.loss(torch.stack([m(point) for m in trained]), point, y).detach())

    plain, diverse = (train_members(members, x, y, d, schedule=schedule) for d in (None, term))
    assert reached(diverse) < reached(plain)
    for member in (*plain, *diverse):
        assert (member(x).argmax(1) == y).double().mean() > 0.75


def test_attacked_inputs_are_the_worst_of_a_linear_model_and_within_the_budget():
    weight, x = randn(2, 6, seed=3), 0.2 + 0.6 * rand(30, 6, seed=4)
    net, y = linear(weight), torch.zeros(30, dtype=torch.int64)
    made = AttackedInputs(hp.Linf(0.1)).of([net], x, y, Rng(0), torch.arange(30))
    assert torch.allclose(made, x + 0.1 * (weight[1] - weight[0]).sign(), atol=1e-6)
    part = AttackedInputs(hp.Linf(0.1), steps=1).of([net], x[5:9], y[5:9], Rng(0), torch.arange(5, 9))
    whole = AttackedInputs(hp.Linf(0.1), steps=1).of([net], x, y, Rng(0), torch.arange(30))
    assert torch.equal(part, whole[5:9])
    small = AttackedInputs(hp.L2(0.1)).of([net], x, y, Rng(0), torch.arange(30))
    assert ((small - x).norm(dim=1) <= 0.1 + 1e-6).all()


def test_training_on_attacked_inputs_makes_members_harder_to_break():
    """One number tells the classes apart always and by little, another mostly and by much."""
    y = torch.arange(300) % 2
    way, mostly = 2.0 * y - 1, torch.where(torch.arange(300) % 10 < 8, 1.0, -1.0)
    x = torch.stack([0.5 + 0.05 * way, 0.5 + 0.3 * way * mostly], 1)
    members, schedule = [network(s, d=2, classes=2) for s in (0, 1)], Schedule(epochs=60, lr=2e-2)
    attack = AttackedInputs(hp.Linf(0.1), steps=5)
    plain = train_members(members, x, y, schedule=schedule)
    hard = train_members(members, x, y, schedule=schedule, attacked=attack)

    def standing(trained) -> float:
        moved = AttackedInputs(hp.Linf(0.1), steps=20).of(trained, x, y, Rng(1), torch.arange(len(x)))
        return float((sum(m(moved).softmax(1) for m in trained).argmax(1) == y).double().mean())

    assert standing(plain) < 0.6
    assert standing(hard) == pytest.approx(0.8)


def test_what_cannot_be_trained_is_refused():
    (x, y), members = task(), [network(0), network(1)]
    with pytest.raises(ModelError, match="0 and 1 have the same weights"):
        train_members([network(0), network(0)], x, y)
    with pytest.raises(ModelError, match="two or more"):
        train_members(members[:1], x, y)
    with pytest.raises(ModelError, match="two or more"):
        train_members(members[0], x, y)
    with pytest.raises(ModelError, match="member 1 is"):
        train_members([members[0], lambda z: z], x, y)
    with pytest.raises(ModelError, match="smaller lr"):
        train_members(members, x, y, schedule=Schedule(epochs=3, lr=1e30))
    with pytest.raises(DataError, match="shape"):
        train_members(members, x, y[:-1])
    with pytest.raises(DataError, match="row 3"):
        train_members(members, x.index_fill(0, torch.tensor([3]), torch.nan), y)
    with pytest.raises(DataError, match="batch"):
        train_members(members, x[:0], y[:0])


@pytest.mark.parametrize(
    "bad", [{"epochs": 0}, {"epochs": 1.5}, {"batch_size": 0}, {"seed": -1}, {"lr": 0}, {"lr": float("nan")}]
)
def test_schedules_must_make_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Schedule(**bad)


def test_attacks_to_train_on_must_make_sense():
    for bad in ({"steps": 0}, {"perturbation": hp.Linf(0.0)}, {"perturbation": hp.Linf(float("inf"))}):
        with pytest.raises(ThreatError):
            AttackedInputs(**{"perturbation": hp.Linf(0.1), **bad})
